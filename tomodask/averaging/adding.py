"""One turned subtomogram added to whole-number sums: the kernel.

Blocks of Fourier voxels, in vector code where the compiler can: see
`tomodask.arrays.turned_samples`.  What is looked up of the weights goes voxel by voxel.
"""

from __future__ import annotations

import numba
import numpy as np

from tomodask.alignment.measurement import FINER, LEAST_WEIGHT
from tomodask.arrays.turned_samples import BLOCK, between_samples, fetch, places

__all__ = ["add_turned"]

_LEAST_WEIGHT = 0.2  # below, a Fourier voxel at a wedge's edge holds more leakage than particle


@numba.njit(cache=True, fastmath=True, nogil=True, inline="always")
def _in_box(matrix, between, j):  # type: ignore[no-untyped-def]
    """Where a frequency of the reference lies in the particle's box, (z, y, x)."""
    kz, ky, kx = between[6, j], between[7, j], between[8, j]
    x = matrix[0, 0] * kx + matrix[1, 0] * ky + matrix[2, 0] * kz
    y = matrix[0, 1] * kx + matrix[1, 1] * ky + matrix[2, 1] * kz
    z = matrix[0, 2] * kx + matrix[1, 2] * ky + matrix[2, 2] * kz
    return z, y, x


@numba.njit(cache=True, fastmath=True, nogil=True, inline="always")
def _of_wedge(matrix, between, count, wedge, weights):  # type: ignore[no-untyped-def]
    """Weights of a block of frequencies: 0, 1 or the edge between, the same along the tilt axis."""
    rim = wedge.shape[1] - 1
    for j in range(count):
        z, _, x = _in_box(matrix, between, j)
        beam, across = (z, x) if x >= 0 else (-z, -x)
        floor = np.floor(beam)
        iz, ix = int(floor) + rim, int(across)
        az, ax = beam - floor, across - ix
        w = (1 - az) * ((1 - ax) * wedge[iz, ix] + ax * wedge[iz, ix + 1]) + az * (
            (1 - ax) * wedge[iz + 1, ix] + ax * wedge[iz + 1, ix + 1]
        )
        weights[j] = w if w >= _LEAST_WEIGHT else 0.0


@numba.njit(cache=True, fastmath=True, nogil=True, inline="always")
def _of_series(matrix, between, count, volume, weights):  # type: ignore[no-untyped-def]
    """Weights of a block of frequencies: those of a tilt series, looked up trilinearly."""
    rim = volume.shape[2] - 1
    for j in range(count):
        z, y, x = _in_box(matrix, between, j)
        sign = FINER if x >= 0 else -FINER
        beam, axis, across = sign * z, sign * y, sign * x
        floor, level = np.floor(beam), np.floor(axis)
        iz, iy, ix = int(floor) + rim, int(level) + rim, int(across)
        az, ay, ax = beam - floor, axis - level, across - ix
        near = (1 - ay) * ((1 - ax) * volume[iz, iy, ix] + ax * volume[iz, iy, ix + 1]) + ay * (
            (1 - ax) * volume[iz, iy + 1, ix] + ax * volume[iz, iy + 1, ix + 1]
        )
        far = (1 - ay) * (
            (1 - ax) * volume[iz + 1, iy, ix] + ax * volume[iz + 1, iy, ix + 1]
        ) + ay * ((1 - ax) * volume[iz + 1, iy + 1, ix] + ax * volume[iz + 1, iy + 1, ix + 1])
        w = (1 - az) * near + az * far
        weights[j] = w if abs(w) >= LEAST_WEIGHT else 0.0


@numba.njit(cache=True, fastmath=True, nogil=True, inline="always")
def _add_block(  # type: ignore[no-untyped-def]
    corners, between, weights, begin, count, shells, scale, weight_scale, parts,
    data, weight, radial,
):  # fmt: skip
    """Whole multiples of the units to `data` and `weight`, bare sums of a shell to `radial`."""
    for j in range(count):
        az, ay, ax = between[0, j], between[1, j], between[2, j]
        c, s = between[4, j], between[5, j]
        re, _, _, _ = between_samples(corners, 2 * j, az, ay, ax)
        im, _, _, _ = between_samples(corners, 2 * j + 1, az, ay, ax)
        im *= between[3, j]
        parts[0, j], parts[1, j] = c * re - s * im, c * im + s * re
        parts[2, j] = re * re + im * im
    for j in range(count):
        w = weights[j]
        if w == 0:
            continue
        wide = np.float64(w) * scale
        data[begin + j, 0] += np.int64(np.rint(wide * parts[0, j]))
        data[begin + j, 1] += np.int64(np.rint(wide * parts[1, j]))
        weight[begin + j] += np.int64(np.rint(np.float64(w) * w * weight_scale))
        shell = shells[begin + j]
        radial[0, shell] += np.float64(parts[2, j])
        radial[1, shell] += np.float64(w) * w
        radial[2, shell] += 1.0


@numba.njit(cache=True, fastmath=True, nogil=True, boundscheck=False, error_model="numpy")
def add_turned(  # type: ignore[no-untyped-def]
    words, rim, padding, frequencies, shells, matrix, shift, box, lookup, scale, weight_scale,
    data, weight, radial,
):  # fmt: skip
    """Add one particle where it was measured, turned back and moved back.

    Parameters
    ----------
    words : array of float64, shape (samples,)
    rim : int
    padding : float32
        Of `sample_words`, of the particle's box.
    frequencies : array of float32, shape (count, 3)
        Of the reference, (z, y, x).
    shells : array of intp, shape (count,)
    matrix : array of float32, shape (3, 3)
        Takes particle to reference in xyz.
    shift : array of float32, shape (3,)
        Of the reference against the particle, in the reference's frame, xyz, voxels.
    box : int
    lookup : array of float32, shape (z, x) or (z, y, x)
        What was measured: a wedge, or the weights of a tilt series.
    scale, weight_scale : float
        One over the units of data and of weights.
    data : array of int64, shape (count, 2)
    weight : array of int64, shape (count,)
        Are added to.
    radial : array of float64, shape (3, shells)
        Sums over each shell of power, squared weight and 1: is added to.
    """
    between, weights = np.empty((9, BLOCK), np.float32), np.empty(BLOCK, np.float32)
    place, parts = np.empty(BLOCK, np.int32), np.empty((3, BLOCK), np.float32)
    around = np.empty((8, BLOCK), np.float64)
    corners = around.view(np.float32)
    for begin in range(0, frequencies.shape[0], BLOCK):
        count = min(BLOCK, frequencies.shape[0] - begin)
        places(rim, padding, frequencies, begin, count, matrix, shift, box, place, between)
        fetch(words, rim, count, place, around)
        if lookup.ndim == 2:  # which it is the compiler knows
            _of_wedge(matrix, between, count, lookup, weights)
        else:
            _of_series(matrix, between, count, lookup, weights)
        _add_block(
            corners, between, weights, begin, count, shells, scale, weight_scale, parts,
            data, weight, radial,
        )  # fmt: skip
