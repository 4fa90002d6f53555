"""Sums over Fourier voxels of a turned, moved reference, its derivatives and a box: the kernels.

A block of voxels goes through three loops that the compiler turns into vector code, which is what
makes them three times as fast as one loop that does all: places and phases; the eight samples
around each place, a complex number fetched as one word; interpolation, derivatives and products.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from tomodask.arrays.sampling import Spectrum

__all__ = ["derivative_sums", "product_sums", "sample_words"]

_BLOCK = 128

# cos and sin of 2 π v for |v| ≤ 1/4 as polynomials in v², least squares, right to 3e-8: the
# library's functions take one number at a time and as long as all the rest.
_C0, _C1, _C2 = np.float32(1.0), np.float32(-19.73920855), np.float32(64.93934655)
_C3, _C4, _C5 = np.float32(-85.45356819), np.float32(60.14395233), np.float32(-24.98183609)
_S0, _S1, _S2 = np.float32(6.28318528), np.float32(-41.34168067), np.float32(81.60248074)
_S3, _S4 = np.float32(-76.58128456), np.float32(39.76072208)
_ZERO, _HALF, _ONE, _TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)


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
def _places(rim, padding, frequencies, begin, count, matrix, shift, box, place, between):  # type: ignore[no-untyped-def]
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
        sign = _ONE if qx >= _ZERO else -_ONE
        qz, qy, qx = sign * qz, sign * qy, sign * qx
        fz, fy, fx = np.floor(qz), np.floor(qy), np.floor(qx)
        place[j] = (np.int32(fz) + rim) * plane + (np.int32(fy) + rim) * line + np.int32(fx)
        between[0, j], between[1, j], between[2, j] = qz - fz, qy - fy, qx - fx
        between[3, j] = sign
        between[4, j], between[5, j] = _phasor(sx * kx + sy * ky + sz * kz)


@numba.njit(cache=True, fastmath=True, inline="always")
def _fetch(words, rim, count, place, around):  # type: ignore[no-untyped-def]
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
def _between(corners, i, az, ay, ax):  # type: ignore[no-untyped-def]
    """Trilinear value and slopes along z, y, x of one part (real or imaginary) at column `i`."""
    c000, c010, c100, c110 = corners[0, i], corners[2, i], corners[4, i], corners[6, i]
    d00, d01 = corners[1, i] - c000, corners[3, i] - c010
    d10, d11 = corners[5, i] - c100, corners[7, i] - c110
    e00, e01, e10, e11 = c000 + ax * d00, c010 + ax * d01, c100 + ax * d10, c110 + ax * d11
    y0, y1 = e01 - e00, e11 - e10
    x0, x1 = d00 + ay * (d01 - d00), d10 + ay * (d11 - d10)
    g0, g1 = e00 + ay * y0, e10 + ay * y1
    return g0 + az * (g1 - g0), g1 - g0, y0 + az * (y1 - y0), x0 + az * (x1 - x0)


# Inlined: called, it would be compiled twice, for itself and within its caller, and which of the
# two runs, whose sums differ in their last bits, would depend on what the process loaded first.
@numba.njit(
    cache=True, fastmath=True, nogil=True, boundscheck=False, error_model="numpy", inline="always"
)
def derivative_sums(  # type: ignore[no-untyped-def]
    words, rim, padding, frequencies, weights, data, start, stop, matrix, shift, box, out
):
    """Sums of products of the columns [turn x, y, z, move x, y, z, model, data], both parts.

    Parameters
    ----------
    words : array of float64, shape (samples,)
    rim : int
    padding : float32
        Of `sample_words`.
    frequencies : array of float32, shape (count, 3)
    weights : array of float32, shape (count,) or (0,)
        None: all are 1.
    data : array of complex64, shape (count,)
    start, stop : int
        Of the voxels that are summed over.
    matrix : array of float32, shape (3, 3)
        Takes reference to particle in xyz.
    shift : array of float32, shape (3,)
        xyz, voxels.
    box : int
    out : array of float64, shape (8, 8)
        Is filled.
    """
    columns = np.empty((8, 2 * _BLOCK), np.float32)
    between = np.empty((9, _BLOCK), np.float32)
    place = np.empty(_BLOCK, np.int32)
    around = np.empty((8, _BLOCK), np.float64)
    corners = around.view(np.float32)
    step = np.float32(2 * math.pi / box)
    r00, r01, r02 = matrix[0, 0], matrix[0, 1], matrix[0, 2]
    r10, r11, r12 = matrix[1, 0], matrix[1, 1], matrix[1, 2]
    r20, r21, r22 = matrix[2, 0], matrix[2, 1], matrix[2, 2]
    out[:] = 0.0
    for begin in range(start, stop, _BLOCK):
        count = min(_BLOCK, stop - begin)
        _places(rim, padding, frequencies, begin, count, matrix, shift, box, place, between)
        _fetch(words, rim, count, place, around)
        for j in range(count):
            kz, ky, kx = between[6, j], between[7, j], between[8, j]
            az, ay, ax, sign = between[0, j], between[1, j], between[2, j], between[3, j]
            c, s = between[4, j], between[5, j]
            # f(q) = conj(f(-q)): on the other half the imaginary part turns over, and the slopes
            # of the real one.
            re, az_, ay_, ax_ = _between(corners, 2 * j, az, ay, ax)
            im, bz, by, bx = _between(corners, 2 * j + 1, az, ay, ax)
            im, az_, ay_, ax_ = sign * im, sign * az_, sign * ay_, sign * ax_
            mre, mim = c * re - s * im, c * im + s * re
            # Gradients turned back into the particle's frame, times the phase of the shift.
            gxr = r00 * ax_ + r01 * ay_ + r02 * az_
            gyr = r10 * ax_ + r11 * ay_ + r12 * az_
            gzr = r20 * ax_ + r21 * ay_ + r22 * az_
            gxi = r00 * bx + r01 * by + r02 * bz
            gyi = r10 * bx + r11 * by + r12 * bz
            gzi = r20 * bx + r21 * by + r22 * bz
            # A turn by w (particle frame) changes the model by w . (g x k).
            txr, txi = gyr * kz - gzr * ky, gyi * kz - gzi * ky
            tyr, tyi = gzr * kx - gxr * kz, gzi * kx - gxi * kz
            tzr, tzi = gxr * ky - gyr * kx, gxi * ky - gyi * kx
            c, s = padding * c, padding * s
            columns[0, j], columns[0, _BLOCK + j] = c * txr - s * txi, c * txi + s * txr
            columns[1, j], columns[1, _BLOCK + j] = c * tyr - s * tyi, c * tyi + s * tyr
            columns[2, j], columns[2, _BLOCK + j] = c * tzr - s * tzi, c * tzi + s * tzr
            # d exp(-i k t) / dt = -i k exp(-i k t)
            ire, iim = step * mim, -step * mre
            columns[3, j], columns[3, _BLOCK + j] = kx * ire, kx * iim
            columns[4, j], columns[4, _BLOCK + j] = ky * ire, ky * iim
            columns[5, j], columns[5, _BLOCK + j] = kz * ire, kz * iim
            columns[6, j], columns[6, _BLOCK + j] = mre, mim
        for j in range(count):
            columns[7, j], columns[7, _BLOCK + j] = data[begin + j].real, data[begin + j].imag
        if weights.size:
            for a in range(7):
                for j in range(count):
                    columns[a, j] *= weights[begin + j]
                    columns[a, _BLOCK + j] *= weights[begin + j]
        if count < _BLOCK:
            columns[:, count:_BLOCK] = _ZERO
            columns[:, _BLOCK + count :] = _ZERO
        for a in range(8):
            for b in range(a + 1):
                total = _ZERO
                for i in range(2 * _BLOCK):
                    total += columns[a, i] * columns[b, i]
                out[a, b] += total
    for a in range(8):
        for b in range(a):
            out[b, a] = out[a, b]


@numba.njit(cache=True, fastmath=True, nogil=True, boundscheck=False, error_model="numpy")
def product_sums(words, rim, padding, frequencies, weights, data, matrix, shift, box):  # type: ignore[no-untyped-def]
    """<model, data>, <model, model>, <data, data>; parameters as of `derivative_sums`."""
    between = np.empty((9, _BLOCK), np.float32)
    place = np.empty(_BLOCK, np.int32)
    around = np.empty((8, _BLOCK), np.float64)
    corners = around.view(np.float32)
    ones = np.ones(_BLOCK, np.float32)
    cross, model, power = 0.0, 0.0, 0.0
    total = frequencies.shape[0]
    for begin in range(0, total, _BLOCK):
        count = min(_BLOCK, total - begin)
        _places(rim, padding, frequencies, begin, count, matrix, shift, box, place, between)
        _fetch(words, rim, count, place, around)
        w = weights[begin : begin + count] if weights.size else ones
        of_cross, of_model, of_power = _ZERO, _ZERO, _ZERO  # summed in single precision
        for j in range(count):
            az, ay, ax = between[0, j], between[1, j], between[2, j]
            c, s = between[4, j], between[5, j]
            re, _, _, _ = _between(corners, 2 * j, az, ay, ax)
            im, _, _, _ = _between(corners, 2 * j + 1, az, ay, ax)
            im *= between[3, j]
            mre, mim = w[j] * (c * re - s * im), w[j] * (c * im + s * re)
            fre, fim = data[begin + j].real, data[begin + j].imag
            of_cross += mre * fre + mim * fim
            of_model += mre * mre + mim * mim
            of_power += fre * fre + fim * fim
        cross += float(of_cross)
        model += float(of_model)
        power += float(of_power)
    return cross, model, power
