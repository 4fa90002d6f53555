"""Sums over Fourier voxels of a turned, moved reference, its derivatives and a box: the kernels.

Blocks of voxels, in vector code: see `tomodask.arrays.turned_samples`.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from tomodask.arrays.turned_samples import (
    BLOCK,
    ZERO,
    between_samples,
    fetch,
    places,
    sample_words,
)

__all__ = ["derivative_sums", "product_sums", "sample_words"]


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
    columns = np.empty((8, 2 * BLOCK), np.float32)
    between = np.empty((9, BLOCK), np.float32)
    place = np.empty(BLOCK, np.int32)
    around = np.empty((8, BLOCK), np.float64)
    corners = around.view(np.float32)
    step = np.float32(2 * math.pi / box)
    r00, r01, r02 = matrix[0, 0], matrix[0, 1], matrix[0, 2]
    r10, r11, r12 = matrix[1, 0], matrix[1, 1], matrix[1, 2]
    r20, r21, r22 = matrix[2, 0], matrix[2, 1], matrix[2, 2]
    out[:] = 0.0
    for begin in range(start, stop, BLOCK):
        count = min(BLOCK, stop - begin)
        places(rim, padding, frequencies, begin, count, matrix, shift, box, place, between)
        fetch(words, rim, count, place, around)
        for j in range(count):
            kz, ky, kx = between[6, j], between[7, j], between[8, j]
            az, ay, ax, sign = between[0, j], between[1, j], between[2, j], between[3, j]
            c, s = between[4, j], between[5, j]
            # f(q) = conj(f(-q)): on the other half the imaginary part turns over, and the slopes
            # of the real one.
            re, az_, ay_, ax_ = between_samples(corners, 2 * j, az, ay, ax)
            im, bz, by, bx = between_samples(corners, 2 * j + 1, az, ay, ax)
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
            columns[0, j], columns[0, BLOCK + j] = c * txr - s * txi, c * txi + s * txr
            columns[1, j], columns[1, BLOCK + j] = c * tyr - s * tyi, c * tyi + s * tyr
            columns[2, j], columns[2, BLOCK + j] = c * tzr - s * tzi, c * tzi + s * tzr
            # d exp(-i k t) / dt = -i k exp(-i k t)
            ire, iim = step * mim, -step * mre
            columns[3, j], columns[3, BLOCK + j] = kx * ire, kx * iim
            columns[4, j], columns[4, BLOCK + j] = ky * ire, ky * iim
            columns[5, j], columns[5, BLOCK + j] = kz * ire, kz * iim
            columns[6, j], columns[6, BLOCK + j] = mre, mim
        for j in range(count):
            columns[7, j], columns[7, BLOCK + j] = data[begin + j].real, data[begin + j].imag
        if weights.size:
            for a in range(7):
                for j in range(count):
                    columns[a, j] *= weights[begin + j]
                    columns[a, BLOCK + j] *= weights[begin + j]
        if count < BLOCK:
            columns[:, count:BLOCK] = ZERO
            columns[:, BLOCK + count :] = ZERO
        for a in range(8):
            for b in range(a + 1):
                total = ZERO
                for i in range(2 * BLOCK):
                    total += columns[a, i] * columns[b, i]
                out[a, b] += total
    for a in range(8):
        for b in range(a):
            out[b, a] = out[a, b]


@numba.njit(cache=True, fastmath=True, nogil=True, boundscheck=False, error_model="numpy")
def product_sums(words, rim, padding, frequencies, weights, data, matrix, shift, box):  # type: ignore[no-untyped-def]
    """<model, data>, <model, model>, <data, data>; parameters as of `derivative_sums`."""
    between = np.empty((9, BLOCK), np.float32)
    place = np.empty(BLOCK, np.int32)
    around = np.empty((8, BLOCK), np.float64)
    corners = around.view(np.float32)
    ones = np.ones(BLOCK, np.float32)
    cross, model, power = 0.0, 0.0, 0.0
    total = frequencies.shape[0]
    for begin in range(0, total, BLOCK):
        count = min(BLOCK, total - begin)
        places(rim, padding, frequencies, begin, count, matrix, shift, box, place, between)
        fetch(words, rim, count, place, around)
        w = weights[begin : begin + count] if weights.size else ones
        of_cross, of_model, of_power = ZERO, ZERO, ZERO  # summed in single precision
        for j in range(count):
            az, ay, ax = between[0, j], between[1, j], between[2, j]
            c, s = between[4, j], between[5, j]
            re, _, _, _ = between_samples(corners, 2 * j, az, ay, ax)
            im, _, _, _ = between_samples(corners, 2 * j + 1, az, ay, ax)
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
