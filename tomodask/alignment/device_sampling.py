"""Spectra of references on a device, sampled for many poses at once.

What runs on a GPU is written in the functions that CuPy, NumPy and the array API standard share, so
that it can be run, and held against the compiled kernels, where there is no GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomodask.arrays.backend import Array
from tomodask.arrays.sampling import Spectrum

__all__ = [
    "DeviceSpectrum",
    "as_type",
    "parts_of",
    "phases_of",
    "real_rows",
    "spectra_at",
    "transposed",
    "turned",
]


def as_type(xp: Any, array: Array, dtype: Any) -> Array:
    """The array in another type: the standard has a function for it, CuPy a method."""
    return array.astype(dtype) if hasattr(array, "astype") else xp.astype(array, dtype)


def transposed(array: Array) -> Array:
    """Last two axes exchanged."""
    return array.mT if hasattr(array, "mT") else array.swapaxes(-1, -2)


def real_rows(xp: Any, array: Array) -> Array:
    """Complex rows as real ones: shape (…, n) to (…, 2 n), real parts first."""
    parts = xp.stack([xp.real(array), xp.imag(array)], axis=-2)
    return xp.reshape(parts, (*array.shape[:-1], 2 * array.shape[-1]))


def parts_of(count: int, bytes_each: int, most: int) -> list[slice]:
    """Runs of so many things that they take no more than `most` bytes, but one at least."""
    size = max(1, most // max(bytes_each, 1))
    return [slice(at, min(at + size, count)) for at in range(0, count, size)]


@dataclass(frozen=True)
class DeviceSpectrum:
    """A `Spectrum` on a device.

    Attributes
    ----------
    values : array of complex64, shape (samples,)
    rim : int
    padding, box : int
    """

    values: Array
    rim: int
    padding: int
    box: int

    @classmethod
    def of(cls, xp: Any, spectrum: Spectrum) -> DeviceSpectrum:
        """Copy one."""
        flat = np.ascontiguousarray(spectrum.values).reshape(-1)
        rim = spectrum.values.shape[2] - 1
        return cls(xp.asarray(flat), rim, spectrum.padding, spectrum.box)


def spectra_at(xp: Any, boxes: Array, frequencies: np.ndarray) -> Array:
    """Spectra of boxes about their centre, see `tomodask.arrays.sampling.spectrum_at`.

    Parameters
    ----------
    xp : module
        Whose arrays they are.
    boxes : array of float32, shape (boxes, n, n, n)
    frequencies : numpy.ndarray, shape (count, 3)

    Returns
    -------
    array of complex64, shape (boxes, count)
    """
    n = boxes.shape[-1]
    k = np.rint(frequencies).astype(np.int64)
    places = ((k[:, 0] % n) * n + k[:, 1] % n) * (n // 2 + 1) + k[:, 2]
    turns = np.exp(2j * np.pi * (n // 2) / n * np.arange(n)).astype(np.complex64)
    spectra = xp.reshape(xp.fft.rfftn(boxes, axes=(1, 2, 3)), (boxes.shape[0], -1))
    return xp.take(spectra, xp.asarray(places), axis=1) * xp.asarray(turns[k.sum(1) % n])


def phases_of(xp: Any, frequencies: Array, shifts_xyz: Array, box: int) -> Array:
    """``exp(-2 π i k t / n)``, complex64, shape (poses, count).

    Parameters
    ----------
    frequencies : array of float32, shape (1 or poses, count, 3)
        (z, y, x).
    shifts_xyz : array of float32, shape (poses, 3)
        Voxels.
    """
    per = shifts_xyz / box
    turns = per[:, 0][:, None] * frequencies[:, :, 2]
    turns = turns + per[:, 1][:, None] * frequencies[:, :, 1]
    turns = turns + per[:, 2][:, None] * frequencies[:, :, 0]
    angle = 2 * math.pi * (turns - xp.floor(turns + 0.5))
    return xp.cos(angle) - 1j * xp.sin(angle)


def turned(
    xp: Any,
    spectrum: DeviceSpectrum,
    frequencies: Array,
    matrices: Array,
    *,
    with_slopes: bool = False,
) -> tuple[Array, tuple[Array, ...]]:
    """The reference turned by each rotation, trilinearly, and its slopes before the turn.

    Parameters
    ----------
    xp : module
    spectrum : DeviceSpectrum
    frequencies : array of float32, shape (1 or poses, count, 3)
        (z, y, x).
    matrices : array of float32, shape (poses, 3, 3)
        Reference → particle, acting on (x, y, z) columns.

    Returns
    -------
    values : array of complex64, shape (poses, count)
    slopes : three arrays of complex64, shape (poses, count)
        Along x, y and z of the reference, by sample of its spectrum; none if not asked for.
    """
    kz, ky, kx = (frequencies[:, :, i] for i in range(3))
    # The turned reference at k is the reference at transpose(R) k.
    qx, qy, qz = (
        spectrum.padding
        * (
            matrices[:, 0, i][:, None] * kx
            + matrices[:, 1, i][:, None] * ky
            + matrices[:, 2, i][:, None] * kz
        )
        for i in range(3)
    )
    other = qx < 0  # that half is the conjugate
    qx, qy, qz = (xp.where(other, -q, q) for q in (qx, qy, qz))
    fx, fy, fz = (xp.floor(q) for q in (qx, qy, qz))
    ax, ay, az = qx - fx, qy - fy, qz - fz
    line, plane = spectrum.rim + 1, (spectrum.rim + 1) * (2 * spectrum.rim + 1)
    ix, iy, iz = (as_type(xp, f, xp.int64) for f in (fx, fy, fz))
    place = xp.reshape((iz + spectrum.rim) * plane + (iy + spectrum.rim) * line + ix, (-1,))

    def corner(step: int) -> Array:
        return xp.reshape(xp.take(spectrum.values, place + step, axis=0), qx.shape)

    c00, c01, c10, c11 = (corner(step) for step in (0, line, plane, plane + line))
    d00, d01 = corner(1) - c00, corner(line + 1) - c01
    d10, d11 = corner(plane + 1) - c10, corner(plane + line + 1) - c11
    e00, e01, e10, e11 = c00 + ax * d00, c01 + ax * d01, c10 + ax * d10, c11 + ax * d11
    y0, y1 = e01 - e00, e11 - e10
    x0, x1 = d00 + ay * (d01 - d00), d10 + ay * (d11 - d10)
    g0, g1 = e00 + ay * y0, e10 + ay * y1
    value = g0 + az * (g1 - g0)
    value = xp.where(other, xp.conj(value), value)
    if not with_slopes:
        return value, ()
    # f(q) = conj(f(-q)), and its slopes are -conj of those there.
    slopes = x0 + az * (x1 - x0), y0 + az * (y1 - y0), g1 - g0
    return value, tuple(xp.where(other, -xp.conj(one), one) for one in slopes)
