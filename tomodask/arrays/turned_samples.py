"""Samples of a turned spectrum, a block of frequencies at a time: the pieces of fast kernels.

A block of Fourier voxels goes through loops that the compiler turns into vector code, which is what
makes them three times as fast as one loop that does all: places and phases; the eight samples
around each place, a complex number fetched as one word; interpolation.  Callers inline them.
"""

from __future__ import annotations

import numba
import numpy as np

from tomodask.arrays.sampling import Spectrum

__all__ = ["BLOCK", "ZERO", "between_samples", "fetch", "places", "sample_words"]

#: Frequencies of a block.
BLOCK = 128

# cos and sin of 2 π v for |v| ≤ 1/4 as polynomials in v², least squares, right to 3e-8: the
# library's functions take one number at a time and as long as all the rest.
_C0, _C1, _C2 = np.float32(1.0), np.float32(-19.73920855), np.float32(64.93934655)
_C3, _C4, _C5 = np.float32(-85.45356819), np.float32(60.14395233), np.float32(-24.98183609)
_S0, _S1, _S2 = np.float32(6.28318528), np.float32(-41.34168067), np.float32(81.60248074)
_S3, _S4 = np.float32(-76.58128456), np.float32(39.76072208)
ZERO, _HALF, _ONE, _TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)


def sample_words(spectrum: Spectrum) -> tuple[np.ndarray, int, np.float32]:
    """What the kernels take of a spectrum: a word for each complex sample, its rim and padding.

    Made here, not in the kernels, whose loops the compiler then leaves scalar.
    """
    words = np.ascontiguousarray(spectrum.values).reshape(-1).view(np.float64)
    return words, spectrum.values.shape[2] - 1, np.float32(spectrum.padding)


@numba.njit(cache=True, fastmath=True, inline="always")
def _phasor(turns):  # type: ignore[no-untyped-def]
    """exp(-2 π i turns)."""
    half = _HALF * (turns - np.rint(turns))
    w = half * half
    c = _C0 + w * (_C1 + w * (_C2 + w * (_C3 + w * (_C4 + w * _C5))))
    s = half * (_S0 + w * (_S1 + w * (_S2 + w * (_S3 + w * _S4))))
    return c * c - s * s, -_TWO * s * c


@numba.njit(cache=True, fastmath=True, inline="always")
def places(rim, padding, frequencies, begin, count, matrix, shift, box, place, between):  # type: ignore[no-untyped-def]
    """Where the turned reference is sampled, and the phases of its shift.

    `place` gets the sample below; rows of `between` the way from there to the next along z, y and
    x, whether the conjugate half is meant (1 or -1), the phase, real and imaginary part, and the
    frequency.
    """
    per = _ONE / np.float32(box)
    sx, sy, sz = per * shift[0], per * shift[1], per * shift[2]
    line, plane = rim + 1, (rim + 1) * (2 * rim + 1)
    for j in range(count):  # on its own: threes in memory would keep the next from vector code
        between[6, j] = frequencies[begin + j, 0]
        between[7, j] = frequencies[begin + j, 1]
        between[8, j] = frequencies[begin + j, 2]
    for j in range(count):
        kz, ky, kx = between[6, j], between[7, j], between[8, j]
        # The turned reference at k is the reference at transpose(R) k.
        qx = padding * (matrix[0, 0] * kx + matrix[1, 0] * ky + matrix[2, 0] * kz)
        qy = padding * (matrix[0, 1] * kx + matrix[1, 1] * ky + matrix[2, 1] * kz)
        qz = padding * (matrix[0, 2] * kx + matrix[1, 2] * ky + matrix[2, 2] * kz)
        sign = _ONE if qx >= ZERO else -_ONE
        qz, qy, qx = sign * qz, sign * qy, sign * qx
        fz, fy, fx = np.floor(qz), np.floor(qy), np.floor(qx)
        place[j] = (np.int32(fz) + rim) * plane + (np.int32(fy) + rim) * line + np.int32(fx)
        between[0, j], between[1, j], between[2, j] = qz - fz, qy - fy, qx - fx
        between[3, j] = sign
        between[4, j], between[5, j] = _phasor(sx * kx + sy * ky + sz * kz)


@numba.njit(cache=True, fastmath=True, inline="always")
def fetch(words, rim, count, place, around):  # type: ignore[no-untyped-def]
    """The eight samples around each place, a word each: a row of `around` a corner (z, y, x)."""
    line, plane = rim + 1, (rim + 1) * (2 * rim + 1)
    for j in range(count):
        i = place[j]
        around[0, j], around[1, j] = words[i], words[i + 1]
        around[2, j], around[3, j] = words[i + line], words[i + line + 1]
        around[4, j], around[5, j] = words[i + plane], words[i + plane + 1]
        around[6, j] = words[i + plane + line]
        around[7, j] = words[i + plane + line + 1]


@numba.njit(cache=True, fastmath=True, inline="always")
def between_samples(corners, i, az, ay, ax):  # type: ignore[no-untyped-def]
    """Trilinear value and slopes along z, y, x of one part (real or imaginary) at column `i`."""
    c000, c010, c100, c110 = corners[0, i], corners[2, i], corners[4, i], corners[6, i]
    d00, d01 = corners[1, i] - c000, corners[3, i] - c010
    d10, d11 = corners[5, i] - c100, corners[7, i] - c110
    e00, e01, e10, e11 = c000 + ax * d00, c010 + ax * d01, c100 + ax * d10, c110 + ax * d11
    y0, y1 = e01 - e00, e11 - e10
    x0, x1 = d00 + ay * (d01 - d00), d10 + ay * (d11 - d10)
    g0, g1 = e00 + ay * y0, e10 + ay * y1
    return g0 + az * (g1 - g0), g1 - g0, y0 + az * (y1 - y0), x0 + az * (x1 - x0)
