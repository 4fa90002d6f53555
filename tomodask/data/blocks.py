"""The blocks of a volume one by one, each with its place: what writers and reductions walk over."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
from dask import config
from dask.base import compute as compute_silently
from dask.system import CPU_COUNT

from tomodask.cluster.computing import compute

__all__ = ["block_corners", "compute_blocks"]

_THREADS = 4
_LONG = 64 << 20  # bytes; what is smaller is done before a progress bar could be read


def block_corners(array: Any) -> Iterator[tuple[Any, tuple[int, ...]]]:
    """Each block of an array, in C order, with the index of its first voxel.

    A NumPy array is one block.  Blocks of a Dask array are `Delayed`; not optimised one by one, so
    that what several writers need is read once.

    Examples
    --------
    >>> [corner for _, corner in block_corners(da.zeros((4, 2), chunks=2))]
    [(0, 0), (2, 0)]
    """
    if not isinstance(array, da.Array):
        yield np.asarray(array), (0,) * np.ndim(array)
        return
    starts = [np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist() for sizes in array.chunks]
    yield from zip(array.to_delayed(optimize_graph=False).flat, product(*starts), strict=True)


def compute_blocks(tasks: list[Any], *, label: str, nbytes: int) -> list[Any]:
    """Compute a task per block, with a progress bar where the volume is large."""
    with _few_threads():
        if nbytes < _LONG:
            return list(compute_silently(*tasks))
        return list(compute(tasks, label=label))


def _few_threads() -> Any:
    """Bound the memory on machines of many cores, unless the user chose the number of threads.

    A thread holds a few blocks; more than four of them wait for the disk anyway.
    """
    chosen = config.get("num_workers", None) or config.get("pool", None)
    return config.set({} if chosen else {"num_workers": min(CPU_COUNT, _THREADS)})
