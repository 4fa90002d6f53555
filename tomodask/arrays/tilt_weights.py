"""What a tilt series measured of a box in Fourier space: one weight for each frequency.

A tilt measures a plane through the origin.  Weighted back-projection adds the planes with their
share of the turn Δθ and the ramp |k|, each filtered by what the microscope did to that image.  A
tilt's part of the tomogram is constant along the beam; cut out by a box of n voxels, it ends, and
the plane becomes a slab.  A particle half as wide as the box is all there at distances up to n / 4
and gone from 3 n / 4 on: a trapezoid, whose transform is ``slab(u) = sinc(u) sinc(u / 2)``, u in
Fourier voxels from the plane.  So the box holds ``w(k)`` times the particle's spectrum, with

``w(k) = Σ_t n Δθ_t |k_t| slab(n d_t) H_t(k_t, k_y) / N(n |k|)``

where ``d_t`` is the distance from the plane and ``k_t`` the frequency along x' in it.  ``N(u)`` is
what tilts all the way round would add up to, ``2 ∫₀ᵘ slab``, which is 1 but for the lowest
frequencies: there slabs overlap, and so does the ramp of a back-projection.  H_t is the contrast
transfer function (its magnitude where phases were flipped) times what radiation damage left
(squared where the images were weighted by it), and times the window on the ramp, where there was
one.

The lens carries signal off its place, and what it carries out of the box is lost to it.  Where the
phase of the lens turns so fast that it carries by δ, the oscillating part of H_t is multiplied by
the same trapezoid at δ.

The tests hold this against boxes that were projected and back-projected.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numba
import numpy as np

from tomodask.arrays.optics import dose_attenuation, phase_coefficients, wavelength
from tomodask.errors import InputError

__all__ = [
    "check_record",
    "hamming",
    "record_digest",
    "record_range",
    "tilt_weights",
    "weights_at",
]

_LISTS = ("defocus_u", "defocus_v", "defocus_angle", "pre_exposure", "exposure")
_SCALARS = ("voltage", "spherical_aberration", "amplitude_contrast", "phase_shift", "handedness")
_METHODS = ("wbp", "sirt")
_STEPS = 16384  # of a radial table: some hundredths of a radian each, whatever the defocus
_REACH = 8.0  # Fourier voxels from a plane: beyond, a slab has less than 0.004 of its height


def check_record(record: Any, where: str) -> dict[str, Any]:
    """The record of a tilt series, if it is one; its numbers as plain floats.

    Parameters
    ----------
    record : mapping
        ``angle`` (degrees) and ``weight`` (radians of the turn) of each tilt, ``pixel_size`` (Å),
        ``phase_flipped``, ``dose_weighted``, ``method``, and where known ``defocus_u``,
        ``defocus_v`` (Å), ``defocus_angle`` (degrees), ``pre_exposure``, ``exposure`` (e/Å²) of
        each tilt and ``voltage`` (kV), ``spherical_aberration`` (mm), ``amplitude_contrast``,
        ``phase_shift`` (degrees), ``handedness``; ``filter``, ``"ramp"`` or ``"hamming"``, with
        the ``voxel_size`` (Å) at which it was applied.  Other keys are kept as they are.
    where : str
        What the message calls it: a file, a tomogram.

    Raises
    ------
    InputError
        If something is missing, no number, out of range, or not of one length.
    """
    out = (
        "make the tomogram again (tomodask reconstruct), or take tilt_series out of its attributes"
    )

    def refuse(what: str) -> InputError:
        return InputError(f"{where}: the record of the tilt series is damaged: {what}; {out}")

    if not isinstance(record, Mapping):
        raise refuse(f"it is no table of names and values but {type(record).__name__}")
    kept: dict[str, Any] = {str(key): _plain(value) for key, value in record.items()}
    kept = {key: value for key, value in kept.items() if value is not None}
    missing = [name for name in ("angle", "weight", "pixel_size", "method") if name not in kept]
    if missing:
        raise refuse(f"{', '.join(missing)} not there")
    for name in ("angle", "weight", *_LISTS):
        if name not in kept:
            continue
        kept[name] = _numbers(kept[name])
        if not kept[name]:
            raise refuse(f"{name} is no list of numbers")
        if len(kept[name]) != len(kept["angle"]):
            raise refuse(f"{len(kept['angle'])} tilts, but {len(kept[name])} of {name}")
    for name in ("pixel_size", "voxel_size", *_SCALARS):
        if name not in kept:
            continue
        one = _numbers([kept[name]])
        if one is None:
            raise refuse(f"{name} is no number: {kept[name]!r}")
        kept[name] = one[0]
    if max(map(abs, kept["angle"])) > 90:
        raise refuse("angle must be within -90 to 90°")
    if min(kept["weight"]) < 0 or not max(kept["weight"]) > 0:
        raise refuse("weight must not be negative, nor 0 for all tilts")
    for name in ("pixel_size", "voxel_size"):
        if name in kept and not kept[name] > 0:
            raise refuse(f"{name} must be above 0 Å")
    if kept["method"] not in _METHODS:
        raise refuse(f"method must be one of {', '.join(_METHODS)}, got {kept['method']!r}")
    for name in ("phase_flipped", "dose_weighted"):
        kept.setdefault(name, False)
        if not isinstance(kept[name], bool):
            raise refuse(f"{name} must be true or false, got {kept[name]!r}")
    if "defocus_u" in kept:
        need = [name for name in _SCALARS[:3] if name not in kept]
        if need:
            raise refuse(f"it has defocus_u, but no {', '.join(need)}")
        if not kept["voltage"] > 0 or not -1 <= kept["amplitude_contrast"] <= 1:
            raise refuse("voltage must be above 0 kV and amplitude_contrast within 0 to 1")
    return kept


def _plain(value: Any) -> Any:
    """As JSON takes it, and gives it back."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def _numbers(values: Any) -> list[float] | None:
    """As a list of finite floats, or None."""
    try:
        listed = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        return None
    return listed.tolist() if listed.ndim == 1 and np.isfinite(listed).all() else None


def record_range(record: Mapping[str, Any]) -> tuple[float, float]:
    """Least and largest tilt of a record, degrees."""
    return float(min(record["angle"])), float(max(record["angle"]))


def record_digest(record: Mapping[str, Any]) -> str:
    """Tells one record, as `check_record` gives it, from others."""
    text = json.dumps(record, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tilt_weights(box: int, voxel_size: float, record: Mapping[str, Any]) -> np.ndarray:
    """What a box holds of each frequency of a particle in it.

    Parameters
    ----------
    box : int
        Edge n of the box, voxels.
    voxel_size : float
        Å.
    record : mapping
        Of the tilt series, as `check_record` takes it.

    Returns
    -------
    array of float32, shape (n, n, n // 2 + 1), laid out as by ``rfftn``
        1 within a densely measured wedge and 0 outside it, times the contrast transfer function
        where the defocus is known and what radiation damage left where exposures are.  Negative
        where the contrast is turned over.

    Raises
    ------
    InputError
        If the record is damaged.

    Examples
    --------
    >>> series = {"angle": [-40.0, 0.0, 40.0], "weight": [0.7] * 3, "pixel_size": 10.0,
    ...           "method": "wbp"}
    >>> w = tilt_weights(16, 10.0, series)
    >>> bool(abs(w[0, 0, 5]) > 1), bool(abs(w[5, 0, 0]) < 0.1)
    (True, True)
    """
    if not (box >= 2 and voxel_size > 0):
        raise InputError(f"need box ≥ 2 and voxel_size > 0 Å, got {box} and {voxel_size}")
    around, ahead = np.fft.fftfreq(box), np.fft.rfftfreq(box)
    out = weights_at(around, around, ahead, box=box, voxel_size=voxel_size, record=record)
    # Both of a conjugate pair lie in these planes.  Nyquist's frequency of an even box is its own
    # opposite, whose weight is another where the tilts are not symmetric: they share.
    opposite = -np.arange(box) % box
    for plane in {0, box // 2} if box % 2 == 0 else {0}:
        half = out[:, :, plane]
        out[:, :, plane] = 0.5 * (half + half[opposite][:, opposite])
    return out


def weights_at(
    kz: np.ndarray,
    ky: np.ndarray,
    kx: np.ndarray,
    *,
    box: int,
    voxel_size: float,
    record: Mapping[str, Any],
) -> np.ndarray:
    """`tilt_weights` on any grid of frequencies.

    Parameters
    ----------
    kz, ky, kx : array, one axis each
        Cycles per voxel.
    box, voxel_size, record
        As of `tilt_weights`.

    Returns
    -------
    array of float32, shape (len(kz), len(ky), len(kx))
    """
    series = check_record(record, "tilt_series")
    z, x = (np.ravel(part) for part in np.broadcast_arrays(kz[:, None], kx[None, :]))
    length = box * np.hypot(z, x)
    norm = _overlap(length)
    plain = "defocus_u" not in series and "pre_exposure" not in series
    out = np.zeros((len(z), 1 if plain else len(ky)))
    farthest = float(np.hypot(np.hypot(z, x).max(), np.abs(ky).max()))
    radii = np.linspace(0.0, max(farthest, 1e-3), _STEPS)
    # Of voxels of the tomogram that was filtered; a box of a coarser level has larger ones.
    filtered = series.get("voxel_size", voxel_size) / voxel_size
    for tilt, (angle, turn) in enumerate(zip(series["angle"], series["weight"], strict=True)):
        c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        off, along = box * (z * c - x * s), x * c + z * s
        near = np.flatnonzero(np.abs(off) <= _REACH)
        off, along = off[near], along[near]
        # At the very middle, tilts all the way round, π of them, add up to one.
        ramp = np.where(norm[near] > 0, box * np.abs(along), 1 / np.pi)
        ramp = ramp / np.where(norm[near] > 0, norm[near], 1.0)
        share = turn * ramp * np.sinc(off) * np.sinc(off / 2)
        if series.get("filter") == "hamming":
            share *= hamming(filtered * along)
        if plain:
            out[near, 0] += share
            continue
        steady, swing = _radial(series, tilt, radii / voxel_size, box, voxel_size)
        lens = _lens(series, tilt, voxel_size)
        flipped = series["phase_flipped"]
        _add_image(near, along, share, ky, steady, swing, 1 / radii[1], lens, flipped, out)
    volume = out.reshape(len(kz), len(kx), -1).transpose(0, 2, 1).astype(np.float32)
    return np.array(np.broadcast_to(volume, (len(kz), len(ky), len(kx))), order="C")


def hamming(frequency: np.ndarray) -> np.ndarray:
    """The window ``0.54 + 0.46 cos 2πk`` on the ramp, k in cycles per voxel: 0.08 at Nyquist."""
    return np.asarray(0.54 + 0.46 * np.cos(2 * np.pi * frequency))


@numba.njit(cache=True, nogil=True)
def _add_image(near, along, share, ky, steady, swing, scale, lens, flipped, out):  # type: ignore[no-untyped-def]
    """Add share × (steady + swing · sin χ), or |sin χ|, at (ky, along), in cycles per voxel.

    `steady` and `swing` are looked up at the radius, linearly between their samples.
    """
    last = len(steady) - 2
    squares, cosine, sine, fourth, constant = lens
    for i in range(len(near)):
        line, x = out[near[i]], along[i]
        for j in range(len(ky)):
            y = ky[j]
            squared = x * x + y * y
            at = scale * math.sqrt(squared)
            k = min(int(at), last)
            at -= k
            value = steady[k] + at * (steady[k + 1] - steady[k])
            factor = swing[k] + at * (swing[k + 1] - swing[k])
            if factor != 0:
                phase = squares * squared + cosine * (x * x - y * y) + sine * (2 * x * y)
                contrast = math.sin(phase + fourth * squared * squared + constant)
                value += factor * (abs(contrast) if flipped else contrast)
            line[j] += share[i] * value


def _overlap(u: np.ndarray) -> np.ndarray:
    """``2 ∫₀ᵘ sinc(s) sinc(s / 2) ds``."""
    steps = np.arange(int(100 * u.max()) + 2) / 100  # the same wherever they end
    slab = np.sinc(steps) * np.sinc(steps / 2)
    total = np.concatenate([[0.0], np.cumsum((slab[1:] + slab[:-1]) * steps[1])])
    return np.asarray(np.interp(u, steps, total))


def _astigmatism(series: Mapping[str, Any], tilt: int) -> tuple[float, float, float]:
    """Defocus U and V (Å) and the angle of U (degrees) of an image."""
    u = series["defocus_u"][tilt]
    v = series["defocus_v"][tilt] if "defocus_v" in series else u
    return u, v, series["defocus_angle"][tilt] if "defocus_angle" in series else 0.0


def _lens(
    series: Mapping[str, Any], tilt: int, voxel_size: float
) -> tuple[float, float, float, float, float]:
    """Coefficients of the phase χ at (ky, kx), cycles per voxel (see `optics.ctf`).

    Of k², of kx² − ky² and of 2 kx ky, of k⁴, and the constant.
    """
    if "defocus_u" not in series:
        return 0.0, 0.0, 0.0, 0.0, 0.0
    per_defocus, fourth = phase_coefficients(series["voltage"], series["spherical_aberration"])
    u, v, angle = _astigmatism(series, tilt)
    scale = per_defocus / voxel_size**2
    twice = 2 * math.radians(angle)
    apart = 0.5 * scale * (u - v)
    return (
        0.5 * scale * (u + v),
        apart * math.cos(twice),
        apart * math.sin(twice),
        fourth / voxel_size**4,
        math.radians(series.get("phase_shift", 0.0)) + math.asin(series["amplitude_contrast"]),
    )


def _radial(
    series: Mapping[str, Any], tilt: int, k: np.ndarray, box: int, voxel_size: float
) -> tuple[np.ndarray, np.ndarray]:
    """What the microscope did to an image, as the box holds it: ``steady + swing · sin χ``.

    At radii k (1/Å); where phases were flipped, it is |sin χ|.
    """
    steady, swing = np.ones_like(k), np.zeros_like(k)
    if "defocus_u" in series:
        u, v, _ = _astigmatism(series, tilt)
        wave = wavelength(series["voltage"])
        carried = (
            np.abs(wave * 0.5 * (u + v) * k - series["spherical_aberration"] * 1e7 * wave**3 * k**3)
            / voxel_size
        )
        if series["phase_flipped"]:
            # |sin χ| = 2/π − (4/π) Σ cos(2jχ) / (4j² − 1): its mean stays, cos 2χ is carried twice.
            swing = _fits(2 * carried / box)
            steady = 2 / np.pi * (1 - swing)
        else:
            swing = _fits(carried / box)
            steady = np.zeros_like(k)
    if "pre_exposure" in series:
        left = dose_attenuation(
            k,
            pre_exposure=series["pre_exposure"][tilt],
            exposure=series["exposure"][tilt] if "exposure" in series else 0.0,
            voltage=series.get("voltage", 300.0),
        )
        # The specimen fades by it; images that were weighted are multiplied by it once more.
        left = left * left if series["dose_weighted"] else left
        steady, swing = left * steady, left * swing
    return steady, swing


def _fits(distance: np.ndarray) -> np.ndarray:
    """How much of a particle half as wide as the box stays in it, moved by a share of its edge."""
    return np.clip((0.75 - distance) / 0.5, 0.0, 1.0)
