"""Spectra of centred boxes, sampled at turned frequencies.

Turning a box is sampling its spectrum at turned frequencies.  Trilinear interpolation there
multiplies the box by ``sinc²``, which is divided out beforehand, and repeats it at the edge of the
padded box, which padding by two keeps off [1]_.

.. [1] Scheres, "RELION", J. Struct. Biol. 180, 519 (2012), doi:10.1016/j.jsb.2012.09.006, on
   gridding with padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft

__all__ = [
    "Spectrum",
    "cut_out",
    "half_sphere",
    "padded_spectrum",
    "sample",
    "soft_sphere",
    "spectrum_at",
    "trilinear",
]


@dataclass(frozen=True)
class Spectrum:
    """Part of the spectrum of a padded, centred, real box, ready to be sampled.

    Attributes
    ----------
    values : array of complex64, shape (2 m + 1, 2 m + 1, m + 1)
        Centred on frequency 0 along z and y, from 0 on along x, with a rim for interpolation.
    box : int
        Edge of the box before padding, voxels.
    padding : int
        How many times finer than the box's own the sampling is.
    radius : float
        Largest radius that may be sampled, in Fourier voxels of the box.
    """

    values: np.ndarray
    box: int
    padding: int
    radius: float


def soft_sphere(box: int, radius: float, *, edge: float = 3.0) -> np.ndarray:
    """1 within `radius` voxels of voxel ``box // 2``, a cosine down to 0 over `edge` more."""
    axis = np.arange(box, dtype=np.float32) - box // 2
    r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    ramp = np.clip((r - radius) / max(edge, 1e-6), 0, 1)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * ramp), np.float32)


def cut_out(volume: np.ndarray, sphere: np.ndarray) -> np.ndarray:
    """A box under a soft sphere, whose edge is made the density's zero.

    With another zero the sphere itself, a step of the background, would be a feature.
    """
    edge = (sphere > 0) & (sphere < 1)
    background = volume[edge].mean(dtype=np.float64) if edge.any() else 0.0
    return np.asarray((volume - np.float32(background)) * sphere)


def half_sphere(radius: float) -> np.ndarray:
    """Integer frequencies with ``0 < |k| <= radius``, one of each conjugate pair.

    Returns
    -------
    array of float32, shape (count, 3)
        (z, y, x), in (z, y, x) order.
    """
    m = int(radius)
    z, y, x = np.meshgrid(
        np.arange(-m, m + 1), np.arange(-m, m + 1), np.arange(m + 1), indexing="ij"
    )
    first = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    keep = first & (x**2 + y**2 + z**2 <= radius**2)
    return np.stack([z[keep], y[keep], x[keep]], axis=1).astype(np.float32)


def padded_spectrum(volume: np.ndarray, *, radius: float, padding: int = 2) -> Spectrum:
    """The spectrum of a cubic box about its voxel ``box // 2``, for `sample`.

    Parameters
    ----------
    volume : array, shape (n, n, n)
        Real; zero, or nearly so, towards its faces (see `soft_sphere`).
    radius : float
        Largest radius that will be sampled, Fourier voxels of the box, at most ``n / 2``.
    padding : int
        Times the box is padded by zeros.
    """
    n = volume.shape[0]
    size = padding * n
    rim = min(math.ceil(radius * padding) + 2, size // 2)
    axis = np.sinc((np.arange(n) - n // 2) / size).astype(np.float32) ** 2
    corrected = np.asarray(volume, np.float32) / (axis[:, None, None] * axis[:, None] * axis)
    # One axis at a time: most of the padded box is zero, most of its spectrum is not asked for.
    keep = np.arange(-rim, rim + 1)
    turn = np.exp(2j * np.pi * np.arange(-rim, rim + 1) * (n // 2) / size).astype(np.complex64)
    out = scipy.fft.rfft(corrected, size, axis=2)[:, :, : rim + 1] * turn[rim:]
    out = scipy.fft.fft(out, size, axis=1)[:, keep, :] * turn[:, None]
    out = scipy.fft.fft(out, size, axis=0)[keep] * turn[:, None, None]
    return Spectrum(np.ascontiguousarray(out, np.complex64), n, padding, float(radius))


def spectrum_at(volume: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """The spectrum of a cubic box about its centre at whole frequencies: no interpolation.

    Parameters
    ----------
    volume : array, shape (n, n, n)
    frequencies : array, shape (count, 3)
        As of `half_sphere`.

    Returns
    -------
    array of complex64, shape (count,)
    """
    n = volume.shape[0]
    k = np.rint(frequencies).astype(np.intp)
    m = int(np.abs(k).max())
    keep = np.arange(-m, m + 1)
    out = scipy.fft.rfft(np.asarray(volume, np.float32), axis=2)[:, :, : m + 1]
    out = scipy.fft.fft(out, axis=1)[:, keep, :]
    out = scipy.fft.fft(out, axis=0)[keep]
    values = out[k[:, 0] + m, k[:, 1] + m, k[:, 2]]
    turns = np.exp(2j * np.pi * (n // 2) / n * np.arange(n))  # not of each of thousands
    return np.asarray(values * turns[k.sum(1) % n], np.complex64)


@numba.njit(cache=True, fastmath=True, inline="always")
def trilinear(values, z, y, x):  # type: ignore[no-untyped-def]
    """Real and imaginary part of a spectrum at (z, y, x) in samples of it, and their gradients.

    Returns re, im, d re / dz, dy, dx, d im / dz, dy, dx.
    """
    rim = values.shape[2] - 1
    sign = np.float32(1.0)
    if x < 0:  # the other half is the conjugate
        sign = np.float32(-1.0)
        z, y, x = -z, -y, -x
    fz, fy, fx = math.floor(z), math.floor(y), math.floor(x)
    iz, iy, ix = int(fz) + rim, int(fy) + rim, int(fx)
    az, ay, ax = np.float32(z - fz), np.float32(y - fy), np.float32(x - fx)
    one = np.float32(1.0)
    c000, c001 = values[iz, iy, ix], values[iz, iy, ix + 1]
    c010, c011 = values[iz, iy + 1, ix], values[iz, iy + 1, ix + 1]
    c100, c101 = values[iz + 1, iy, ix], values[iz + 1, iy, ix + 1]
    c110, c111 = values[iz + 1, iy + 1, ix], values[iz + 1, iy + 1, ix + 1]
    d00, d01, d10, d11 = c001 - c000, c011 - c010, c101 - c100, c111 - c110
    e00, e01, e10, e11 = c000 + ax * d00, c010 + ax * d01, c100 + ax * d10, c110 + ax * d11
    g0, g1 = e00 + ay * (e01 - e00), e10 + ay * (e11 - e10)
    h = g0 + az * (g1 - g0)
    dz = g1 - g0
    dy = (one - az) * (e01 - e00) + az * (e11 - e10)
    dx = (one - az) * (d00 + ay * (d01 - d00)) + az * (d10 + ay * (d11 - d10))
    # f(q) = conj(g(-q)) on the other half: the real gradient and the value's sign turn over.
    return (
        h.real,
        sign * h.imag,
        sign * dz.real,
        sign * dy.real,
        sign * dx.real,
        dz.imag,
        dy.imag,
        dx.imag,
    )


@numba.njit(cache=True, fastmath=True, nogil=True)
def _sample(values, padding, frequencies, matrix, out):  # type: ignore[no-untyped-def]
    for i in range(frequencies.shape[0]):
        kz, ky, kx = frequencies[i, 0], frequencies[i, 1], frequencies[i, 2]
        z = padding * (matrix[0, 0] * kz + matrix[0, 1] * ky + matrix[0, 2] * kx)
        y = padding * (matrix[1, 0] * kz + matrix[1, 1] * ky + matrix[1, 2] * kx)
        x = padding * (matrix[2, 0] * kz + matrix[2, 1] * ky + matrix[2, 2] * kx)
        re, im, _, _, _, _, _, _ = trilinear(values, z, y, x)
        out[i] = complex(re, im)


def sample(spectrum: Spectrum, frequencies: np.ndarray, matrix_zyx: np.ndarray) -> np.ndarray:
    """The spectrum at ``matrix_zyx @ k`` for each frequency k, trilinearly.

    To turn a box by a rotation matrix M, sample at ``M.T @ k``.

    Parameters
    ----------
    spectrum : Spectrum
    frequencies : array, shape (count, 3)
        (z, y, x) in Fourier voxels of the box, none longer than ``spectrum.radius``.
    matrix_zyx : array, shape (3, 3)
        Acts on (z, y, x) column vectors.

    Returns
    -------
    array of complex64, shape (count,)
    """
    out = np.empty(len(frequencies), np.complex64)
    _sample(
        spectrum.values,
        np.float32(spectrum.padding),
        np.ascontiguousarray(frequencies, np.float32),
        np.ascontiguousarray(matrix_zyx, np.float32),
        out,
    )
    return out
