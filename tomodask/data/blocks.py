"""The blocks of a volume one by one, each with its place: what writers and reductions walk over."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
from dask.base import compute as compute_silently

from tomodask.cluster.computing import compute

__all__ = ["block_corners", "compute_blocks"]

_LONG = 64 << 20  # bytes; what is smaller is done before a progress bar could be read


def block_corners(array: Any) -> Iterator[tuple[Any, tuple[int, ...]]]:
    """Each block of an array, in C order, with the index of its first voxel.

    A NumPy array is one block.  Blocks of a Dask array are `Delayed`.

    Examples
    --------
    >>> [corner for _, corner in block_corners(da.zeros((4, 2), chunks=2))]
    [(0, 0), (2, 0)]
    """
    if not isinstance(array, da.Array):
        yield np.asarray(array), (0,) * np.ndim(array)
        return
    starts = [np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist() for sizes in array.chunks]
    yield from zip(array.to_delayed().flat, product(*starts), strict=True)


def compute_blocks(tasks: list[Any], *, label: str, nbytes: int) -> list[Any]:
    """Compute a task per block, with a progress bar where the volume is large."""
    if nbytes < _LONG:
        return list(compute_silently(*tasks))
    return list(compute(tasks, label=label))
