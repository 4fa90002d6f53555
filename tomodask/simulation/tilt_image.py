"""The image of one tilt: lens, radiation damage, motion, detector and noise, on arrays in memory.

NumPy or CuPy by what is given.  Random numbers are drawn by NumPy in either case and belong to the
tilt's place in the order of acquisition: an image is the same bytes wherever it is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from tomodask.arrays.backend import Array, fft, namespace, to_numpy
from tomodask.arrays.fourier import half_counts
from tomodask.arrays.optics import (
    ctf,
    defocus_step,
    delocalisation,
    dose_attenuation,
    filter_across,
    image_frequencies,
    interaction_constant,
)
from tomodask.simulation.detector import Detector
from tomodask.simulation.microscope import Microscope

__all__ = [
    "MOTION_STREAM",
    "NOISE_STREAM",
    "Tilt",
    "clean_image",
    "clear_of",
    "counted_image",
    "noisy_image",
    "undone",
]

#: Of the seed: 0 to 3 place what is in the specimen, and noise must know nothing of it.
NOISE_STREAM, MOTION_STREAM = 4, 5


@dataclass(frozen=True)
class Tilt:
    """All that the image of one tilt depends on, beside its projection."""

    angle: float
    order: int
    exposure: float | None
    pre_exposure: float | None
    defocus_u: float
    defocus_v: float
    defocus_angle: float
    heights: tuple[float, ...]  # Å, of the slabs' middles above the volume's centre
    shift: tuple[float, float]  # pixels, (x, y)
    rotation: float  # degrees
    pixel_size: float
    seed: int
    microscope: Microscope
    detector: Detector

    @property
    def affine(self) -> np.ndarray:
        """(2, 3): where the specimen's motion takes a point (x, y), pixels from the centre."""
        c, s = math.cos(math.radians(self.rotation)), math.sin(math.radians(self.rotation))
        return np.array([[c, -s, self.shift[0]], [s, c, self.shift[1]]])


def clean_image(projections: Array, tilt: Tilt) -> Array:
    """The image without noise, of mean 0, from the projections of the slabs (slab, y, x)."""
    return _centred(_blurred(_contrast(projections, tilt), tilt))


def noisy_image(projections: Array, tilt: Tilt, *, sigma: float) -> Array:
    """The image with normally distributed noise of deviation `sigma`."""
    image = clean_image(projections, tilt)
    return image + _gaussian_noise(image, tilt) * np.float32(sigma)


def counted_image(projections: Array, tilt: Tilt) -> Array:
    """Electrons counted: their number over its mean, less 1."""
    assert tilt.exposure is not None
    contrast = _contrast(projections, tilt)
    xp = namespace(contrast)
    mean = tilt.exposure * tilt.pixel_size**2
    # Where gold scatters more than weakly there are no fewer electrons than none.
    expected = xp.maximum(mean * (1 + _centred(contrast).astype(np.float64)), 0.0)
    rng = np.random.default_rng([tilt.seed, NOISE_STREAM, tilt.order])
    counts = xp.asarray(rng.poisson(to_numpy(expected)))
    noise = ((counts - expected) / mean).astype(np.float32)
    if tilt.detector.white:
        noise = noise * np.float32(tilt.detector.ntf[0])
    else:
        noise = _coloured(noise, _noise_transfer(noise, tilt))
    return _blurred((expected / mean - 1).astype(np.float32), tilt) + noise


def _contrast(projections: Array, tilt: Tilt) -> Array:
    """What arrives at the detector: the contrast of one tilt, from its slabs (slab, y, x)."""
    scope, pixel = tilt.microscope, tilt.pixel_size
    turn = math.radians(tilt.angle)
    slope = -scope.handedness * math.tan(turn) if scope.ctf else 0.0
    total = None
    for projection, height in zip(projections, tilt.heights, strict=True):
        offset = scope.handedness * height / math.cos(turn)
        if tilt.rotation or any(tilt.shift):  # it is the specimen that moves, not the lens
            projection = _moved(projection, tilt.shift, tilt.rotation)
        image = filter_across(
            projection,
            partial(_response, tilt=tilt, offset=offset),
            pixel_size=pixel,
            slope=slope,
            step=defocus_step(pixel, scope.voltage),
            reach=_reach(tilt, projections.shape[-1]),
        )
        total = image if total is None else total + image
    assert total is not None
    # Volts times voxels times Å a voxel times rad per V Å: the phase.
    return total * np.float32(-2 * pixel * interaction_constant(scope.voltage))


def _reach(tilt: Tilt, width: int) -> float:
    """How far, in Å, the lens carries signal anywhere on an image of `width` pixels."""
    scope, turn = tilt.microscope, math.radians(tilt.angle)
    if not scope.ctf:
        return 0.0
    most = max(abs(tilt.defocus_u), abs(tilt.defocus_v))
    most += math.tan(abs(turn)) * tilt.pixel_size * width / 2
    most += max(map(abs, tilt.heights)) / math.cos(turn)
    return delocalisation(
        tilt.pixel_size,
        voltage=scope.voltage,
        spherical_aberration=scope.spherical_aberration,
        defocus=most,
    )


def _response(ky: Array, kx: Array, change: float, *, tilt: Tilt, offset: float) -> Array:
    """What the lens and the specimen's decay leave of each frequency."""
    scope = tilt.microscope
    squared = ky * ky + kx * kx
    xp = namespace(squared)
    out = xp.ones_like(squared)
    if scope.ctf:
        out = ctf(
            ky,
            kx,
            defocus_u=tilt.defocus_u + offset + change,
            defocus_v=tilt.defocus_v + offset + change,
            defocus_angle=tilt.defocus_angle,
            **scope.lens,
        )
    if tilt.pre_exposure is not None:
        out = out * dose_attenuation(
            xp.sqrt(squared),
            pre_exposure=tilt.pre_exposure,
            exposure=tilt.exposure or 0.0,
            voltage=scope.voltage,
        )
    if scope.b_factor:
        out = out * xp.exp(-0.25 * scope.b_factor * squared)
    return out


def _moved(image: Array, shift: tuple[float, float], rotation: float) -> Array:
    """Turn an image about its centre, pixel ``size // 2``, and shift it.

    Three shears (Unser et al. 1995, doi:10.1109/83.469963), each a shift of whole rows or columns
    by Fourier interpolation, which loses nothing up to Nyquist's frequency.  Beyond its borders the
    image goes on as its mirror image.
    """
    xp = namespace(image)
    ny, nx = image.shape
    turn = math.radians(rotation)
    a, b = -math.tan(turn / 2), math.sin(turn)
    far = max(abs(a) * ny, abs(b) * nx, 1.0) + max(map(abs, shift))
    pad = math.ceil(far) + 8
    padded = xp.pad(image, pad, mode="symmetric")
    y = xp.arange(ny + 2 * pad) - (ny // 2 + pad)
    x = xp.arange(nx + 2 * pad) - (nx // 2 + pad)
    padded = _sheared(padded, a * y)
    padded = _sheared(padded.T, b * x + shift[1]).T
    padded = _sheared(padded, a * (y - shift[1]) + shift[0])
    return xp.ascontiguousarray(padded[pad : pad + ny, pad : pad + nx])


def _sheared(image: Array, by: Array) -> Array:
    """Shift each row by its own number of pixels."""
    xp = namespace(image)
    rows = xp.ascontiguousarray(image)
    n = rows.shape[1]
    wave = xp.exp(-2j * np.pi * by[:, None] * xp.fft.rfftfreq(n)[None, :])
    return fft(rows).irfft(fft(rows).rfft(rows, axis=1) * wave.astype(np.complex64), n, axis=1)


def _blurred(contrast: Array, tilt: Tilt) -> Array:
    """The contrast as the detector hands it on, without noise."""
    detector = tilt.detector
    if set(detector.mtf) == {1.0}:
        return contrast

    def respond(ky: Array, kx: Array, _change: float) -> Array:
        k = namespace(ky).sqrt(ky * ky + kx * kx)
        return detector.signal(k, tilt.pixel_size)

    return filter_across(contrast, respond, pixel_size=tilt.pixel_size, step=1.0, reach=0.0)


def _centred(image: Array) -> Array:
    return image - image.mean(dtype=np.float64).astype(np.float32)


def _gaussian_noise(image: Array, tilt: Tilt) -> Array:
    """Noise of variance 1, coloured by the detector; drawn by the CPU, so that bytes are equal."""
    rng = np.random.default_rng([tilt.seed, NOISE_STREAM, tilt.order])
    noise = namespace(image).asarray(rng.standard_normal(image.shape, dtype=np.float32))
    if tilt.detector.white:
        return noise
    transfer = _noise_transfer(image, tilt)
    counts = namespace(image).asarray(half_counts(image.shape[1]))
    power = (transfer**2 * counts).sum() / image.size
    return _coloured(noise, transfer / namespace(image).sqrt(power))


def _noise_transfer(image: Array, tilt: Tilt) -> Array:
    ky, kx = image_frequencies(image.shape, tilt.pixel_size, like=image)
    return tilt.detector.noise(namespace(image).sqrt(ky * ky + kx * kx), tilt.pixel_size)


def _coloured(noise: Array, transfer: Array) -> Array:
    spectrum = fft(noise).rfft2(noise) * transfer.astype(np.float32)
    return fft(noise).irfft2(spectrum, s=noise.shape)


def clear_of(
    beads: tuple[np.ndarray, float] | None, tilt: Tilt, shape: tuple[int, int]
) -> np.ndarray:
    """True at the pixels of a tilt to which the lens carries nothing of any bead."""
    keep = np.ones(shape, bool)
    if beads is None:
        return keep
    ny, nx = shape
    offsets, radius = beads  # pixels
    radius += _reach(tilt, nx) / tilt.pixel_size
    turn = math.radians(tilt.angle)
    place = np.stack(
        [offsets[:, 2] * math.cos(turn) + offsets[:, 0] * math.sin(turn), offsets[:, 1]], axis=1
    )
    place = place @ tilt.affine[:, :2].T + tilt.affine[:, 2] + np.array([nx // 2, ny // 2])
    for px, py in place:
        y0, y1 = max(math.floor(py - radius), 0), min(math.ceil(py + radius) + 1, ny)
        x0, x1 = max(math.floor(px - radius), 0), min(math.ceil(px + radius) + 1, nx)
        if y0 >= y1 or x0 >= x1:
            continue
        y, x = np.arange(y0, y1)[:, None], np.arange(x0, x1)[None, :]
        keep[y0:y1, x0:x1] &= (y - py) ** 2 + (x - px) ** 2 > radius**2
    return keep


def undone(affine: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The inverse of a motion about pixel ``size // 2``, as IMOD's .xf, about ``(size − 1) / 2``.

    new = A · (old − c) + d + c with c = (size − 1) / 2, in pixels (x, y).
    """
    away = (np.array(size) - 1) / 2 - np.array(size) // 2  # c from our centre
    inverse = np.linalg.inv(affine[:, :2])
    return np.column_stack([inverse, inverse @ (away - affine[:, 2]) - away])
