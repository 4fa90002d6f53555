"""Partitions of boxes, and the blocks that each of them takes, as nodes of a Dask graph.

A partition is a run of consecutive particles.  Its task reads its own blocks: no block lies in
memory before, and none moves.  Only blocks that are made of others (boxes that are still to be cut
out, say) or that are there already keep a key of their own.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask._task_spec import Alias, DataNode, GraphNode, List, Task, TaskRef, convert_legacy_graph
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

__all__ = ["BoxBlocks", "partition_edges"]


def partition_edges(chunks: Sequence[int], size: int, batch: int | None = None) -> np.ndarray:
    """Where partitions begin, and where the last one ends.

    Parameters
    ----------
    chunks : sequence of int
        Particles in each block, in order.
    size : int
        Most particles of a partition, where nothing else is asked for: as many whole blocks as fit.
        A larger block is a partition of its own, one of more than two `size` is cut evenly.
    batch : int, optional
        So many in each, wherever blocks end.

    Returns
    -------
    array of int64, shape (partitions + 1,)
        Rising, from 0 to the number of particles.
    """
    count = int(sum(chunks))
    if batch is not None:
        return np.append(np.arange(0, count, batch), count)
    edges, end = [0], 0
    for chunk in chunks:
        if end + chunk - edges[-1] > size and end > edges[-1]:
            edges.append(end)
        if chunk > 2 * size:
            parts = -(-chunk // size)
            edges += [end + chunk * part // parts for part in range(1, parts)]
        end += chunk
        if chunk > size:
            edges.append(end)
    return np.asarray(edges if edges[-1] == end else [*edges, end], np.int64)


class BoxBlocks:
    """The blocks that boxes come in, whole along z, y, x.

    Parameters
    ----------
    boxes : DataArray
        Dimensions (particle, z, y, x).
    size : int
        Particles in a block, where they lie in memory as one array.
    """

    def __init__(self, boxes: xr.DataArray, size: int) -> None:
        data = boxes.data
        lazy = data if isinstance(data, da.Array) else da.from_array(data, (size, -1, -1, -1))
        (lazy,) = dask.optimize(lazy.rechunk({1: -1, 2: -1, 3: -1}))
        self.chunks: tuple[int, ...] = lazy.chunks[0]
        self._name = lazy.name
        self._graph: dict[Any, GraphNode] = convert_legacy_graph(dict(lazy.__dask_graph__()))

    def taken_by(self, edges: np.ndarray) -> tuple[list[List], dict[Any, GraphNode]]:
        """What the task of each partition takes, and what the graph must hold for it.

        Parameters
        ----------
        edges : array of int
            Of `partition_edges`.

        Returns
        -------
        blocks : list of List
            An argument for a task: it becomes a list of arrays, shape (count, n, n, n) each.
        graph : dict
            Blocks and parts of blocks with keys of their own.
        """
        starts = np.concatenate([[0], np.cumsum(self.chunks)]).tolist()
        cut = f"boxes-{tokenize(self._name, edges)}"
        parts: dict[Any, GraphNode] = {}
        taken = []
        chunk = 0
        for number, (start, stop) in enumerate(pairwise(edges.tolist())):
            pieces: list[Any] = []
            while starts[chunk + 1] <= start:
                chunk += 1
            here = chunk
            while here < len(self.chunks) and starts[here] < stop:
                low, high = max(start, starts[here]), min(stop, starts[here + 1])
                if high - low == self.chunks[here]:
                    if high > low:
                        pieces.append(self._whole(here))
                else:  # read once; what another worker needs of it is all that moves
                    key, inside = (
                        (cut, number, here),
                        slice(low - starts[here], high - starts[here]),
                    )
                    parts[key] = Task(key, operator.getitem, TaskRef(self._key(here)), inside)
                    pieces.append(TaskRef(key))
                here += 1
            taken.append(List(*pieces))
        wanted = {key for node in (*taken, *parts.values()) for key in node.dependencies}
        return taken, {**parts, **self._reached(wanted - parts.keys())}

    def joined(self, edges: np.ndarray) -> list[Delayed]:
        """The boxes of each partition as one array, shape (count, n, n, n)."""
        taken, graph = self.taken_by(edges)
        name = f"boxes_of-{tokenize(self._name, edges)}"
        for number, blocks in enumerate(taken):
            graph[name, number] = Task((name, number), join, blocks)
        layers = HighLevelGraph.from_collections(name, graph, dependencies=())
        return [Delayed((name, number), layers, layer=name) for number in range(len(taken))]

    def _key(self, chunk: int) -> tuple[Any, ...]:
        return (self._name, chunk, 0, 0, 0)

    def _whole(self, chunk: int) -> GraphNode | TaskRef:
        """The task that makes a block, if it starts from nothing; else a reference to it."""
        node = self._graph[self._key(chunk)]
        while isinstance(node, Alias) and node.target in self._graph:
            node = self._graph[node.target]
        if isinstance(node, Task) and all(
            isinstance(self._graph.get(key), DataNode) for key in node.dependencies
        ):
            return node
        return TaskRef(self._key(chunk))

    def _reached(self, keys: set[Any]) -> dict[Any, GraphNode]:
        found: dict[Any, GraphNode] = {}
        left = list(keys)
        while left:
            key = left.pop()
            if key in found or key not in self._graph:
                continue
            found[key] = self._graph[key]
            left += found[key].dependencies
        return found


def join(blocks: list[np.ndarray]) -> np.ndarray:
    """Blocks one after another (the task ``boxes_of``)."""
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
