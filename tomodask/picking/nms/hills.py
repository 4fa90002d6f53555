"""Mean pooling of a mask in whole numbers, and the tops of its hills, where there is any mask.

A box of ones pooled n times has whole-number weights, so a pooled mask times their sum is a whole
number, which float64 holds exactly below 2⁵³: no order of adding, no block and no device changes a
bit of it, and equal hills are equal.  Where there are too many poolings for that, the weights are
rounded to whole numbers of that size (`pooling_weights`), and all the same holds for those.

The kernel goes through the mask plane by plane and works in runs of 16 voxels along x; a run that
sees no mask, or can reach no hill of the least height, is passed over.
"""

from __future__ import annotations

import math
from functools import reduce

import numba
import numpy as np

from tomodask.arrays.backend import Array, namespace, ndimage

__all__ = ["find_tops", "least_count", "mark_tops", "measure_tops", "pooling_weights"]

_RUN = 16  # voxels along x that are worked on together: a vector of the processor or two
_COLUMN = 240  # voxels along y and x that are worked on together, without what is around
_MOST = 2**53  # below it, float64 holds every whole number


def pooling_weights(diameter: int, kernel: int) -> np.ndarray:
    """Weights along one axis of ``diameter // (kernel - 1) + 1`` poolings: whole numbers.

    They are a box of ones convolved with itself.  If the cube of their sum passes 2⁵³ (kernel 5:
    from 8 poolings, 28 voxels of diameter; kernel 3: from 12, 22 voxels), they are scaled and
    rounded to a sum of about 2¹⁷: within 4e-6 of their sum, and still exact to add up.

    Examples
    --------
    >>> pooling_weights(diameter=4, kernel=3).astype(int).tolist()
    [1, 3, 6, 7, 6, 3, 1]
    """
    poolings = diameter // (kernel - 1) + 1
    if kernel ** (3 * poolings) < _MOST:
        return np.asarray(reduce(np.convolve, [np.ones(kernel)] * poolings))
    share = reduce(np.convolve, [np.full(kernel, 1 / kernel)] * poolings)
    weights = np.rint(share * 2**17)
    ends = np.flatnonzero(weights)[0]  # the far ends of many poolings weigh nothing
    return np.asarray(weights[ends : len(weights) - ends])


def least_count(weights: np.ndarray, min_height: float) -> float:
    """The least whole number that is `min_height` of the full weight, or more."""
    full = float(weights.sum()) ** 3
    count = float(max(1, math.ceil(min_height * full)))
    while count > 1 and (count - 1) / full >= min_height:
        count -= 1
    while count / full < min_height:
        count += 1
    return count


def mark_tops(mask: Array, weights: np.ndarray, *, level: float, reach: int) -> Array:
    """Height at the tops, 0 elsewhere; on any device, all of the volume: what `find_tops` finds.

    Parameters
    ----------
    mask : array of bool, shape (z, y, x)
        NumPy or CuPy; nothing lies beyond it.
    weights : array
        From `pooling_weights`.
    level : float
        From `least_count`.
    reach : int
        Tops this close along every axis are rivals.

    Returns
    -------
    array of float32, shape (z, y, x)
    """
    xp, ndi = namespace(mask), ndimage(mask)
    window = 2 * reach + 1
    hill = mask.astype(np.float64)
    for axis in range(3):
        hill = ndi.correlate1d(hill, xp.asarray(weights), axis=axis, mode="constant")
    top = (hill >= level) & (hill == ndi.maximum_filter(hill, window, mode="constant"))
    # Equal tops tie (a flat hill has many): the first in (z, y, x) order wins.  A block keeps
    # that order although its indices start elsewhere, so all blocks break a tie alike.
    rank = xp.where(top, xp.arange(hill.size, 0, -1).reshape(hill.shape), 0)
    kept = top & (rank == ndi.maximum_filter(rank, window, mode="constant"))
    return xp.where(kept, hill / float(weights.sum()) ** 3, 0).astype(np.float32)


def find_tops(
    mask: np.ndarray,
    weights: np.ndarray,
    *,
    level: float,
    reach: int,
    low: tuple[int, ...] = (0, 0, 0),
    high: tuple[int, ...] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Tops of the hills in a part of a mask in memory.

    Parameters
    ----------
    mask, weights, level, reach
        As for `mark_tops`; NumPy.
    low, high : tuple of int
        Only tops from `low` to below `high`, in voxels of `mask`.

    Returns
    -------
    places : array of int64, shape (n, 3)
        In (z, y, x) order.
    counts : array of float64, shape (n,)
        Heights times the cube of the sum of the weights; whole numbers.
    """
    high = mask.shape if high is None else high
    data = mask.view(np.uint8)
    margin = len(weights) // 2 + 2 * reach
    small = float(weights.sum()) ** 2 <= 2**24  # what float32 holds exactly
    found = [(np.empty((0, 3), np.int64), np.empty(0))]
    # Columns of a part of the plane: what one voxel sees of the planes around stays in the cache.
    for y in range(low[1], high[1], _COLUMN):
        for x in range(low[2], high[2], _COLUMN):
            begin = np.array([low[0], y, x])
            end = np.minimum([high[0], y + _COLUMN, x + _COLUMN], high)
            first = np.maximum(begin - margin, 0)
            first[2] -= first[2] % _RUN
            part = data[tuple(map(slice, first, end + margin))]
            if not part.any():
                continue
            part = np.ascontiguousarray(part)
            side = -(-max(len(weights) // 2, reach) // _RUN)
            runs = -(-part.shape[2] // _RUN) + 2 * side
            planes = np.empty(
                (part.shape[1], len(weights), runs * _RUN), np.float32 if small else np.float64
            )
            bounds = np.array([begin - first, end - first])
            places, counts = _tops(part, weights, float(level), reach, bounds, side, planes)
            found.append((places + first, counts))
    places, counts = (np.concatenate(one) for one in zip(*found, strict=True))
    order = np.lexsort(places.T[::-1])
    return places[order], counts[order]


@numba.njit(cache=True, nogil=True)
def _tops(  # type: ignore[no-untyped-def]
    mask, weights, level, reach, bounds, side, planes
):
    """`find_tops`; `planes` is room for the planes pooled along x and y that one voxel sees."""
    depth, height, width = mask.shape
    taps, padded = len(weights), planes.shape[2]
    half, runs, start = taps // 2, padded // _RUN, side * _RUN
    full = weights.sum()
    light = weights.astype(np.float32)
    deep = 2 * reach + 1

    line = np.zeros(padded, np.float32)
    seen = np.zeros(runs, np.bool_)
    rows = np.empty((height, padded), np.float32)  # pooled along x, one plane
    row_set = np.zeros((height, runs), np.bool_)
    until_row = np.empty(runs, np.int64)
    plane_set = np.zeros((height, taps, runs), np.bool_)
    until_plane = np.full((height, runs), -1, np.int64)
    hills = np.zeros((deep, height, padded))
    hill_set = np.zeros((deep, height, runs), np.bool_)
    tops = np.zeros((reach + 1, height, padded), np.bool_)
    top_set = np.zeros(reach + 1, np.bool_)
    acc = np.empty(_RUN, planes.dtype)
    total = np.empty(_RUN)
    slots = np.empty(deep, np.int64)
    places = np.empty((64, 3), np.int64)
    counts = np.empty(64)
    found = 0

    for z in range(depth + half + reach):
        if z < depth:
            slot = z % taps
            plane_set[:, slot] = False
            occupied = _pool_rows(mask[z], light, side, line, seen, rows, row_set)
            until_row[:] = -1
            for y in range(-half if occupied else height, height):
                if y + half < height:
                    for s in range(runs):
                        if row_set[y + half, s]:
                            until_row[s] = y + taps - 1
                if y < 0:
                    continue
                for s in range(runs):
                    if until_row[s] < y:
                        continue
                    acc[:] = 0
                    for t in range(max(0, half - y), min(taps, height + half - y)):
                        if row_set[y + t - half, s]:
                            w = planes.dtype.type(weights[t])
                            for i in range(_RUN):
                                acc[i] += w * rows[y + t - half, s * _RUN + i]
                    best = acc[0]
                    for i in range(_RUN):
                        planes[y, slot, s * _RUN + i] = acc[i]
                        best = max(best, acc[i])
                    plane_set[y, slot, s] = True
                    if best * full >= level:  # a mean is not above the highest that goes into it
                        until_plane[y, s] = z + half
        c = z - half
        if c < 0:
            continue
        slot = c % deep
        for y in range(height):
            for s in range(runs):
                if hill_set[slot, y, s]:
                    hills[slot, y, s * _RUN : (s + 1) * _RUN] = 0
                    hill_set[slot, y, s] = False
                if c >= depth or until_plane[y, s] < c:
                    continue
                total[:] = 0
                for t in range(max(0, half - c), min(taps, depth + half - c)):
                    at = (c + t - half) % taps
                    if plane_set[y, at, s]:
                        w = weights[t]
                        for i in range(_RUN):
                            total[i] += w * planes[y, at, s * _RUN + i]
                best = 0.0
                for i in range(_RUN):
                    best = max(best, total[i])
                if best >= level:
                    hill_set[slot, y, s] = True
                    for i in range(_RUN):
                        hills[slot, y, s * _RUN + i] = total[i]
        c -= reach
        if c < 0:
            continue
        if top_set[c % (reach + 1)]:
            tops[c % (reach + 1)] = False
            top_set[c % (reach + 1)] = False
        for i in range(deep):  # of planes before the first and after the last: they hold zeros
            slots[i] = (c + i - reach) % deep
        here = slots[reach]
        for y in range(height):
            for s in range(runs):
                if not hill_set[here, y, s]:
                    continue
                for x in range(max(s * _RUN, start), min((s + 1) * _RUN, start + width)):
                    if hills[here, y, x] < level:
                        continue
                    # Nothing is higher than all of the weight: inside a dense mask all are tops.
                    if hills[here, y, x] < full**3 and not _is_top(
                        hills, slots, tops[c % (reach + 1)], y, x, reach
                    ):
                        continue
                    first = _is_first(tops, c, y, x, reach)
                    tops[c % (reach + 1), y, x] = True
                    top_set[c % (reach + 1)] = True
                    inside = (
                        bounds[0, 0] <= c < bounds[1, 0]
                        and bounds[0, 1] <= y < bounds[1, 1]
                        and bounds[0, 2] <= x - start < bounds[1, 2]
                    )
                    if first and inside:
                        if found == len(counts):
                            places = np.concatenate((places, np.empty_like(places)))
                            counts = np.concatenate((counts, np.empty_like(counts)))
                        places[found] = c, y, x - start
                        counts[found] = hills[here, y, x]
                        found += 1
    return places[:found].copy(), counts[:found].copy()


@numba.njit(cache=True, nogil=True)
def _pool_rows(  # type: ignore[no-untyped-def]
    mask, weights, side, line, seen, rows, row_set
):
    """Pool a plane along x; True if there is any mask in it."""
    height, width = mask.shape
    half, runs, start = len(weights) // 2, len(seen), side * _RUN
    occupied = False
    for y in range(height):
        some = np.uint8(0)
        for x in range(width):
            some |= mask[y, x]
        row_set[y] = False
        if not some:
            continue
        occupied = True
        seen[:] = False
        for base in range(0, width, _RUN):
            some = np.uint8(0)
            if base + _RUN <= width:
                for i in range(_RUN):
                    some |= mask[y, base + i]
            else:
                for x in range(base, width):
                    some |= mask[y, x]
            if some:
                first, last = width, 0
                for x in range(base, min(base + _RUN, width)):
                    line[start + x] = mask[y, x]
                    if mask[y, x]:
                        first, last = min(first, x), max(last, x)
                seen[(first - half + start) // _RUN : (last + half + start) // _RUN + 1] = True
        for s in range(side, runs - side):
            if not seen[s]:
                continue
            row_set[y, s] = True
            for i in range(_RUN):
                rows[y, s * _RUN + i] = 0
            for t in range(len(weights)):
                w, at = weights[t], s * _RUN + t - half
                for i in range(_RUN):
                    rows[y, s * _RUN + i] += w * line[at + i]
        line[:] = 0
    return occupied


@numba.njit(cache=True, nogil=True)
def _is_top(  # type: ignore[no-untyped-def]
    hills, slots, top, y, x, reach
):
    """True if no voxel within reach is higher.

    `slots` are those of the planes around, `top` marks the tops found before in this plane.
    """
    here = slots[reach]
    h = hills[here, y, x]
    height = hills.shape[1]
    # On a slope one of the next voxels is higher: nearly all voxels end here.
    if hills[here, y, x - 1] > h or hills[here, y, x + 1] > h:
        return False
    if hills[slots[reach - 1], y, x] > h or hills[slots[reach + 1], y, x] > h:
        return False
    if (y > 0 and hills[here, y - 1, x] > h) or (y + 1 < height and hills[here, y + 1, x] > h):
        return False
    # Next to an equal top only one face of the window is new: a flat top costs little.
    begin = reach if top[y, x - 1] and hills[here, y, x - 1] == h else -reach
    for at in slots:
        for b in range(max(0, y - reach), min(height, y + reach + 1)):
            for a in range(x + begin, x + reach + 1):
                if hills[at, b, a] > h:
                    return False
    return True


@numba.njit(cache=True, nogil=True)
def _is_first(  # type: ignore[no-untyped-def]
    tops, z, y, x, reach
):
    """True if no top within reach comes before, in (z, y, x) order: tops so close are equal."""
    deep = len(tops)
    for a in range(x - 1, x - reach - 1, -1):
        if tops[z % deep, y, a]:
            return False
    for b in range(max(0, y - reach), y):
        for a in range(x - reach, x + reach + 1):
            if tops[z % deep, b, a]:
                return False
    for dz in range(1, min(reach, z) + 1):
        for b in range(max(0, y - reach), min(tops.shape[1], y + reach + 1)):
            for a in range(x - reach, x + reach + 1):
                if tops[(z - dz) % deep, b, a]:
                    return False
    return True


def measure_tops(
    values: np.ndarray, weights: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where the tops lie between voxels, and what is pooled there.

    Parameters
    ----------
    values : array, shape (z, y, x)
        Above 0 in the mask; nothing lies beyond it.
    weights : array
        From `pooling_weights`.
    places : array of int64, shape (n, 3)
        From `find_tops`.

    Returns
    -------
    shifts : array of float64, shape (n, 3)
        From each voxel to the top of the parabola through the hill there and beside it along each
        axis; half a voxel at most.
    pooled : array of float64, shape (n,)
        Mean of the values, by the weights.
    """
    out = np.zeros((len(places), 4))
    _measure(values, np.pad(weights, 1), places, out)
    return out[:, :3], out[:, 3] / float(weights.sum()) ** 3


@numba.njit(cache=True, nogil=True)
def _measure(  # type: ignore[no-untyped-def]
    values, w, places, out
):
    """`measure_tops`; `w` has a zero more at either end."""
    taps, half = len(w), len(w) // 2
    depth, height, width = values.shape
    # The mask summed with the weights of two axes: the third's give the hill and its neighbours.
    lines = np.empty((3, taps))
    for n in range(len(places)):
        z, y, x = places[n]
        lines[:] = 0
        pooled = 0.0
        for c in range(max(0, half - z), min(taps, depth + half - z)):
            for b in range(max(0, half - y), min(taps, height + half - y)):
                for a in range(max(0, half - x), min(taps, width + half - x)):
                    value = values[z + c - half, y + b - half, x + a - half]
                    if value > 0:
                        lines[0, c] += w[b] * w[a]
                        lines[1, b] += w[c] * w[a]
                        lines[2, a] += w[c] * w[b]
                        pooled += w[c] * w[b] * w[a] * value
        out[n, 3] = pooled
        for axis in range(3):
            left, here, right = 0.0, 0.0, 0.0
            for t in range(1, taps - 1):
                left += w[t] * lines[axis, t - 1]
                here += w[t] * lines[axis, t]
                right += w[t] * lines[axis, t + 1]
            bend = left - 2 * here + right
            if bend < 0:
                out[n, axis] = min(0.5, max(-0.5, 0.5 * (left - right) / bend))
