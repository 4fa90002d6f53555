"""What an electron microscope does to the spectrum of an image: contrast transfer and dose.

Frequencies are in 1/Å, defocus in Å (positive = underfocus), angles in degrees, voltages in kV,
spherical aberration in mm.  Functions take NumPy or CuPy arrays and return the same kind.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, pi, sqrt

import numpy as np
import scipy.fft

from tomodask.arrays.backend import Array, fft, namespace

__all__ = [
    "critical_exposure",
    "ctf",
    "ctf_radial",
    "defocus_step",
    "delocalisation",
    "dose_attenuation",
    "filter_across",
    "image_frequencies",
    "interaction_constant",
    "phase_coefficients",
    "wavelength",
]

_REST_ENERGY = 510.99895  # keV, of the electron
_HC = 12.398419843  # keV Å
#: Radians of phase, at Nyquist's frequency, between a place and the nearest plane of defocus.
PHASE_ERROR = 0.3

Response = Callable[[Array, Array, float], Array]


def wavelength(voltage: float) -> float:
    """Wavelength of the electron in Å at `voltage` kV, relativistic.

    Examples
    --------
    >>> round(wavelength(300.0), 5)
    0.01969
    """
    return _HC / sqrt(voltage * (2 * _REST_ENERGY + voltage))


def interaction_constant(voltage: float) -> float:
    """Phase, in rad, that one Å of one volt adds to the electron's wave (Kirkland 2010, eq. 5.6).

    Examples
    --------
    >>> f"{interaction_constant(300.0):.3e}"
    '6.526e-04'
    """
    mass = (_REST_ENERGY + voltage) / (2 * _REST_ENERGY + voltage)
    return 2 * pi / (wavelength(voltage) * voltage * 1e3) * mass


def image_frequencies(
    shape: tuple[int, int], pixel_size: float, *, like: Array | None = None
) -> tuple[Array, Array]:
    """Frequencies along y and x, in 1/Å, of ``rfft2`` of an image, ready to broadcast.

    Parameters
    ----------
    shape : (int, int)
        The image, (y, x) pixels.
    pixel_size : float
        Å.
    like : array, optional
        Where the frequencies are to live: on its GPU, or in the memory of the CPU.

    Returns
    -------
    ky, kx : arrays of float64, shapes (y, 1) and (1, x // 2 + 1)
    """
    xp = namespace(like)
    y, x = shape
    return xp.fft.fftfreq(y, pixel_size)[:, None], xp.fft.rfftfreq(x, pixel_size)[None, :]


def ctf(
    ky: Array,
    kx: Array,
    *,
    voltage: float,
    spherical_aberration: float,
    amplitude_contrast: float,
    defocus_u: Array,
    defocus_v: Array | None = None,
    defocus_angle: Array = 0.0,
    phase_shift: float = 0.0,
) -> Array:
    """Contrast transfer function, positive at low frequencies of an underfocused image.

    ``sin(π λ Δf k² − ½ π Cs λ³ k⁴ + phase_shift + asin(amplitude_contrast))`` with the defocus of
    each azimuth φ, ``Δf = ½ (U + V) + ½ (U − V) cos 2(φ − angle)`` (Rohou & Grigorieff 2015).

    Parameters
    ----------
    ky, kx : arrays
        1/Å, broadcastable.
    voltage : float
        kV.
    spherical_aberration : float
        mm.
    amplitude_contrast : float
        0 to 1.
    defocus_u, defocus_v : float, or arrays that broadcast with the frequencies
        Å; `defocus_v` is `defocus_u` where it is None.
    defocus_angle : float or array
        Degrees from x towards y to the direction whose defocus is `defocus_u`.
    phase_shift : float
        Degrees, of a phase plate.

    Returns
    -------
    array of float64

    References
    ----------
    Rohou and Grigorieff, J. Struct. Biol. 192, 216 (2015), doi:10.1016/j.jsb.2015.08.008.
    """
    xp = namespace(ky)
    squared = kx * kx + ky * ky
    defocused = defocus_u * squared
    if defocus_v is not None:
        twice = np.deg2rad(defocus_angle) * 2
        # k² cos 2(φ − angle) without the azimuth, which has no value at k = 0
        across = (kx * kx - ky * ky) * np.cos(twice) + 2 * kx * ky * np.sin(twice)
        defocused = 0.5 * ((defocus_u + defocus_v) * squared + (defocus_u - defocus_v) * across)
    return xp.sin(
        _phase(squared, defocused, voltage, spherical_aberration)
        + (np.deg2rad(phase_shift) + np.arcsin(amplitude_contrast))
    )


def ctf_radial(
    k: Array,
    *,
    voltage: float,
    spherical_aberration: float,
    amplitude_contrast: float,
    defocus: Array,
    phase_shift: float = 0.0,
) -> Array:
    """`ctf` without astigmatism at the frequencies `k`, 1/Å."""
    xp = namespace(k)
    squared = k * k
    return xp.sin(
        _phase(squared, defocus * squared, voltage, spherical_aberration)
        + (np.deg2rad(phase_shift) + np.arcsin(amplitude_contrast))
    )


def phase_coefficients(voltage: float, spherical_aberration: float) -> tuple[float, float]:
    """Phase of the lens, rad, per defocus × k² and per k⁴ (Å, 1/Å): ``π λ`` and ``−½ π Cs λ³``.

    Examples
    --------
    >>> round(phase_coefficients(300.0, 2.7)[0], 5)
    0.06185
    """
    length = wavelength(voltage)
    return pi * length, -0.5 * pi * spherical_aberration * 1e7 * length**3


def _phase(squared: Array, defocused: Array, voltage: float, aberration: float) -> Array:
    """Phase of the lens: `squared` is k², `defocused` is defocus times k²."""
    per_defocus, per_fourth = phase_coefficients(voltage, aberration)
    return per_defocus * defocused + per_fourth * squared * squared


def critical_exposure(k: Array, *, voltage: float = 300.0) -> Array:
    """Exposure, e/Å², after which the signal at `k` (1/Å) has fallen to 1/√e of its amplitude.

    ``0.245 k^−1.665 + 2.81`` at 300 kV (Grant & Grigorieff 2015).  At other voltages it goes with
    the square of the electron's speed, which is the factor 0.80 that they give for 200 kV.

    References
    ----------
    Grant and Grigorieff, eLife 4, e06980 (2015), doi:10.7554/eLife.06980.
    """
    xp = namespace(k)
    k = xp.asarray(k, dtype=np.float64)
    with np.errstate(divide="ignore"):  # infinite at k = 0: the mean of an image never fades
        return (0.245 * xp.power(k, -1.665) + 2.81) * (_speed(voltage) / _speed(300.0))


def _speed(voltage: float) -> float:
    """Square of the electron's speed as a share of light's."""
    return 1 - (_REST_ENERGY / (_REST_ENERGY + voltage)) ** 2


def dose_attenuation(
    k: Array, *, pre_exposure: Array, exposure: Array = 0.0, voltage: float = 300.0
) -> Array:
    """Share of the amplitude that radiation damage leaves at `k`, averaged over an exposure.

    ``exp(−N / (2 Nc))`` at the accumulated exposure N, averaged from `pre_exposure` to
    `pre_exposure` + `exposure`; Nc is `critical_exposure`.

    Parameters
    ----------
    k : array
        1/Å, ≥ 0.
    pre_exposure, exposure : float, or arrays that broadcast with `k`
        e/Å² before the image was taken and while it was.
    voltage : float
        kV.

    Returns
    -------
    array of float64, 1 at k = 0

    Examples
    --------
    >>> dose_attenuation(np.array([0.0, 0.05, 0.1]), pre_exposure=60.0).round(3)
    array([1.   , 0.461, 0.12 ])
    """
    xp = namespace(k)
    twice = 2 * critical_exposure(k, voltage=voltage)
    during = exposure / twice
    small = during < 1e-6
    mean = xp.where(small, 1 - 0.5 * during, -xp.expm1(-during) / xp.where(small, 1.0, during))
    return xp.exp(-pre_exposure / twice) * mean


def defocus_step(pixel_size: float, voltage: float, *, error: float = PHASE_ERROR) -> float:
    """Å between planes of defocus, so that no place is further than `error` rad from a plane.

    The phase is that at Nyquist's frequency; at lower ones it is less.  What `filter_across` then
    makes of white noise up to that frequency is off by about 2 % of its deviation.
    """
    return 2 * error / (pi * wavelength(voltage) * (0.5 / pixel_size) ** 2)


def delocalisation(
    pixel_size: float, *, voltage: float, spherical_aberration: float, defocus: float
) -> float:
    """How far, in Å, the lens carries signal of any frequency up to Nyquist's from its place."""
    length = wavelength(voltage)
    k = np.linspace(0, 0.5 / pixel_size, 257)
    return float(np.abs(length * defocus * k - spherical_aberration * 1e7 * length**3 * k**3).max())


def filter_across(
    image: Array,
    respond: Response,
    *,
    pixel_size: float,
    slope: float = 0.0,
    step: float,
    reach: float,
    gather: bool = False,
) -> Array:
    """Filter an image with a response whose defocus changes linearly along x.

    On the image of a slab that is tilted by θ the height is ``−x' tan θ``, so `slope` is
    ``−handedness · tan θ``.  The response is exact at planes of defocus and blended linearly
    between them.  Each plane is filtered on the strip of the image it takes part in alone.  The
    image is continued by its mirror image, so that its borders do not wrap round.

    Parameters
    ----------
    image : array of float32, shape (y, x)
    respond : callable
        ``respond(ky, kx, change)`` gives the response, real or complex, at the frequencies (1/Å,
        broadcastable: shapes (p, 1) and (1, q // 2 + 1) of an ``rfft2`` grid of p × q pixels)
        where the defocus differs by `change` Å from that at the centre, pixel ``x // 2``.
    pixel_size : float
        Å.
    slope : float
        Å of defocus per Å along x.
    step : float
        Å of defocus between two planes, at most; see `defocus_step`.
    reach : float
        Å that the response carries signal; see `delocalisation`.
    gather : bool
        False, as a lens does it: what lies at x is spread with the response of x.  True, as a
        correction does it: what arrives at x is gathered with the response of x.

    Returns
    -------
    array of float32, shape (y, x), the same kind as `image`
    """
    xp, transforms = namespace(image), fft(image)
    ny, nx = image.shape
    places, changes = _planes(nx, slope * pixel_size, step)
    pad = ceil(reach / pixel_size) + 8  # the tails of the response reach a little further
    high = scipy.fft.next_fast_len(ny + 2 * pad, real=True)
    wide = scipy.fft.next_fast_len(nx + 2 * pad, real=True)
    pads = (pad, high - ny - pad), (pad, wide - nx - pad)
    padded = xp.pad(image.astype(np.float32, copy=False), pads, mode="symmetric")
    # A strip reaches from the plane before to the plane after, and `pad` beyond.  That of the first
    # or last plane holds the mirrored border, which must not wrap round into the image.
    apart = places[1] - places[0] if len(places) > 1 else float(nx)
    strip = scipy.fft.next_fast_len(ceil(max(2 * apart + 2 * pad, apart + 3 * pad)) + 2, real=True)
    whole = strip >= wide or len(places) <= 2
    width = wide if whole else strip
    ky, kx = image_frequencies((high, width), pixel_size, like=image)
    out = xp.zeros((ny, wide), np.float32)
    spectrum = transforms.rfft2(padded) if whole and gather else None
    total = None
    for i, (place, change) in enumerate(zip(places, changes, strict=True)):
        start = 0 if whole else _strip_start(place, width, wide, pad)
        at = np.arange(start, start + width) - pad
        share = xp.asarray(_shares(at, places, i) * (at < nx + pad), dtype=np.float32)
        response = respond(ky, kx, float(change))
        response = response.astype(np.complex64 if response.dtype.kind == "c" else np.float32)
        if spectrum is None:
            part = padded[:, start : start + width]
            filtered = transforms.rfft2(part if gather else part * share) * response
        else:
            filtered = spectrum * response
        if whole and not gather:
            total = filtered if total is None else total + filtered
            continue
        back = transforms.irfft2(filtered, s=(high, width))[pad : pad + ny]
        if not gather:
            share = xp.asarray(abs(at - place) <= apart + pad, dtype=np.float32)
        out[:, start : start + width] += back * share
    if total is not None:
        out = transforms.irfft2(total, s=(high, wide))[pad : pad + ny]
    return xp.ascontiguousarray(out[:, pad : pad + nx])


def _planes(width: int, slope: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Places (pixels along x) of the planes of defocus, and their defocus from the centre's."""
    center = width // 2
    count = ceil(abs(slope) * (width - 1) / step)
    if count == 0:
        return np.array([float(center)]), np.zeros(1)
    places = np.linspace(0.0, width - 1.0, count + 1)
    return places, slope * (places - center)


def _strip_start(place: float, width: int, wide: int, pad: int) -> int:
    """First column of the padded image of the strip around a plane."""
    return min(max(round(place + pad - (width - 1) / 2), 0), wide - width)


def _shares(at: np.ndarray, places: np.ndarray, plane: int) -> np.ndarray:
    """Share of a plane at pixels: linear to its neighbours, level beyond the first and last."""
    if len(places) == 1:
        return np.ones(len(at))
    one = np.zeros(len(places))
    one[plane] = 1.0
    return np.asarray(np.interp(at, places, one))
