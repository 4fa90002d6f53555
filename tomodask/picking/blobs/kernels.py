"""What the blob picker does with each voxel of a block: a symmetric filter, hills and hollows."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["extrema", "smoothed"]


def smoothed(values: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Correlate with one symmetric kernel along each axis; beyond the array there is nothing.

    Every element adds up the same products in the same order, wherever the array begins.

    Parameters
    ----------
    values : array of float32, shape (z, y, x)
    half : array of float32, shape (n,)
        The kernel from its middle on.

    Returns
    -------
    array of float32, shape (z, y, x)
    """
    values = np.ascontiguousarray(values, np.float32)
    first, second = np.empty_like(values), np.empty_like(values)
    z, y, x = values.shape
    # Along z a plane is one row; along y the rows of one plane are.
    _along_rows(values.reshape(1, z, y * x), half, first.reshape(1, z, y * x))
    _along_rows(first, half, second)
    _within_rows(second.reshape(z * y, x), half, first.reshape(z * y, x))
    return first


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _along_rows(values, half, out):  # type: ignore[no-untyped-def]
    reach = len(half) - 1
    planes, rows, width = values.shape
    piece = 4096  # floats; what is added to stays in the cache
    for p in range(planes):
        for j in range(rows):
            for start in range(0, width, piece):
                stop = min(start + piece, width)
                sums = out[p, j, start:stop]
                line = values[p, j, start:stop]
                for i in range(stop - start):
                    sums[i] = half[0] * line[i]
                for k in range(1, reach + 1):
                    weight = half[k]
                    before, after = j - k >= 0, j + k < rows
                    if before and after:
                        a = values[p, j - k, start:stop]
                        b = values[p, j + k, start:stop]
                        for i in range(stop - start):
                            sums[i] += weight * (a[i] + b[i])
                    elif before or after:
                        a = values[p, j - k if before else j + k, start:stop]
                        for i in range(stop - start):
                            sums[i] += weight * a[i]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _within_rows(values, half, out):  # type: ignore[no-untyped-def]
    reach = len(half) - 1
    rows, width = values.shape
    line = np.zeros(width + 2 * reach, np.float32)
    for j in range(rows):
        sums = out[j]
        line[reach : reach + width] = values[j]
        for i in range(width):
            sums[i] = half[0] * line[reach + i]
        for k in range(1, reach + 1):
            weight = half[k]
            a, b = line[reach - k : reach - k + width], line[reach + k : reach + k + width]
            for i in range(width):
                sums[i] += weight * (a[i] + b[i])


def extrema(values: np.ndarray, low: list[int], high: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Hills above 0 and hollows below 0 among the 26 neighbours.

    Of equal neighbours the first in (z, y, x) order is the hill.

    Parameters
    ----------
    values : array of float32, shape (z, y, x)
    low, high : 3 int
        The part that is searched; its neighbours may lie outside.

    Returns
    -------
    hills, hollows : array of int, shape (n, 3)
    """
    found = _extrema(values, *low, *high)
    rows = np.array(found, np.int64).reshape(-1, 4)
    return rows[rows[:, 3] > 0, :3], rows[rows[:, 3] < 0, :3]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _extrema(values, z0, y0, x0, z1, y1, x1):  # type: ignore[no-untyped-def]
    out = [(0, 0, 0, 0) for _ in range(0)]
    nz, ny, nx = values.shape
    for k in range(z0, z1):
        for j in range(y0, y1):
            for i in range(x0, x1):
                here = values[k, j, i]
                sign = 1 if here > 0 else -1
                height = here * sign
                # Along x first: most voxels are done there.
                top = height > 0
                if top and i > 0:
                    top = values[k, j, i - 1] * sign < height
                if top and i < nx - 1:
                    top = values[k, j, i + 1] * sign <= height
                for dk in range(-1, 2):
                    if not top:
                        break
                    if k + dk < 0 or k + dk >= nz:
                        continue
                    for dj in range(-1, 2):
                        if not top:
                            break
                        if j + dj < 0 or j + dj >= ny or (dk == 0 and dj == 0):
                            continue
                        earlier = dk < 0 or (dk == 0 and dj < 0)
                        for di in range(-1, 2):
                            if i + di < 0 or i + di >= nx:
                                continue
                            other = values[k + dk, j + dj, i + di] * sign
                            if other > height or (earlier and other == height):
                                top = False
                                break
                if top:
                    out.append((k, j, i, sign))
    return out
