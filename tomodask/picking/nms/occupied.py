"""A block that is mostly empty, as those of its runs along x that are not; and parts of many.

So blocks pass their neighbourhood on: a voxel's surroundings are put together from what is kept of
the blocks around, each of which was computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from tomodask.arrays.backend import Array, to_numpy

__all__ = ["FULL", "Occupied", "blocks_within", "merged_chunks", "pack", "unpack"]

_RUN = 16
FULL = 1 << 15  # stands for 1: every multiple of 1/256 is exact, and 16 bits hold it


@dataclass(frozen=True)
class Occupied:
    """What is above 0 in a block.

    Attributes
    ----------
    shape : tuple of int
        Of the block, (z, y, x).
    index : array of int64, shape (n,)
        Number of each kept run in the block, counted in (z, y, x) order; rising.
    runs : array of uint8 or uint16, shape (n, 16)
        Their voxels.
    """

    shape: tuple[int, int, int]
    index: np.ndarray
    runs: np.ndarray


def pack(block: Array, threshold: float | None = None) -> Occupied:
    """Keep the runs of a block in which there is anything.

    Parameters
    ----------
    block : array, shape (z, y, x)
        Bool; or probabilities, of which those above `threshold` are kept, as multiples of 2⁻¹⁵
        from 2⁻¹⁵ to 1.  NumPy or CuPy.
    threshold : float, optional

    Examples
    --------
    >>> mask = np.zeros((2, 3, 40), bool)
    >>> mask[1, 2, 17] = True
    >>> pack(mask).index
    array([16])
    """
    values = to_numpy(block)
    depth, height, width = shape = values.shape
    # A view where the width allows it: rows of whole runs lie one after the other.
    padded = -(-width // _RUN) * _RUN
    if padded != width:
        wide = np.zeros((depth, height, padded), values.dtype)
        wide[..., :width] = values
        values = wide
    lines = np.ascontiguousarray(values).reshape(-1, _RUN)
    if threshold is None:
        index = np.flatnonzero(lines.view(np.uint64).any(axis=1))
        return Occupied(shape, index, lines[index].view(np.uint8))
    index = np.flatnonzero((lines > threshold).any(axis=1))
    chosen = lines[index]
    inside = chosen > threshold
    levels = np.rint(np.clip(np.where(inside, chosen, 0), 0, 1) * FULL).astype(np.uint16)
    return Occupied(shape, index, np.where(inside, np.maximum(levels, 1), 0).astype(np.uint16))


def unpack(
    parts: Sequence[Occupied],
    corners: Sequence[tuple[int, ...]],
    low: tuple[int, ...],
    high: tuple[int, ...],
) -> np.ndarray | None:
    """The voxels from `low` to below `high` out of packed blocks; None if no kept run meets them.

    Parameters
    ----------
    parts : sequence of Occupied
    corners : sequence of tuple of int
        Place of each block's first voxel.
    low, high : tuple of int
        In the same frame; what no block covers is 0.
    """
    out: np.ndarray | None = None
    for part, corner in zip(parts, corners, strict=True):
        if len(part.index) == 0:
            continue
        begin = [max(0, a - c) for a, c in zip(low, corner, strict=True)]
        end = [min(n, b - c) for n, b, c in zip(part.shape, high, corner, strict=True)]
        if any(b <= a for a, b in zip(begin, end, strict=True)):
            continue
        per_row = -(-part.shape[2] // _RUN)
        per_plane = per_row * part.shape[1]
        first, last = np.searchsorted(part.index, [begin[0] * per_plane, end[0] * per_plane])
        index = part.index[first:last] - begin[0] * per_plane
        y, x = index // per_row % part.shape[1], index % per_row
        wanted = (y >= begin[1]) & (y < end[1]) & (x * _RUN < end[2]) & ((x + 1) * _RUN > begin[2])
        if not wanted.any():
            continue
        box = [b - a for a, b in zip(begin, end, strict=True)]
        local = np.zeros((box[0], box[1], per_row, _RUN), part.runs.dtype)
        local[index[wanted] // per_plane, y[wanted] - begin[1], x[wanted]] = part.runs[first:last][
            wanted
        ]
        if out is None:
            size = [b - a for a, b in zip(low, high, strict=True)]
            out = np.zeros(size, part.runs.dtype)
        place = tuple(
            slice(c + a - lo, c + b - lo)
            for c, a, b, lo in zip(corner, begin, end, low, strict=True)
        )
        out[place] = local.reshape(box[0], box[1], -1)[..., begin[2] : end[2]]
    return out


def merged_chunks(sizes: Sequence[int], least: int) -> tuple[int, ...]:
    """Merge chunks along an axis until each has `least` voxels; the last may pass twice that.

    Examples
    --------
    >>> merged_chunks((3, 3, 3, 3), 5)
    (6, 6)
    >>> merged_chunks((8, 8, 1), 5)
    (8, 9)
    """
    out = [0]
    for size in sizes:
        if out[-1] >= least:
            out.append(0)
        out[-1] += int(size)
    if len(out) > 1 and out[-1] < least:
        out[-2:] = [out[-2] + out[-1]]
    return tuple(out)


def blocks_within(
    chunks: Sequence[Sequence[int]], low: Sequence[int], high: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(index, place of the first voxel) of each block with a voxel from `low` to below `high`."""
    sides = []
    for sizes, a, b in zip(chunks, low, high, strict=True):
        edges = np.concatenate([[0], np.cumsum(sizes)])
        first = max(0, int(np.searchsorted(edges, a, side="right")) - 1)
        last = min(len(sizes), int(np.searchsorted(edges, b, side="left")))
        sides.append([(i, int(edges[i])) for i in range(first, last)])
    return [(tuple(i for i, _ in one), tuple(c for _, c in one)) for one in product(*sides)]
