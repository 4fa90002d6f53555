"""Partitions of boxes: whole blocks, read where they are worked on, and never twice."""

from itertools import pairwise

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask._task_spec import DataNode, Task, execute_graph

from tomodask.data.box_blocks import BoxBlocks, join, partition_edges
from tomodask.data.subtomograms import chosen_boxes, lazy_boxes

N = 4


def arrays(count):
    return np.random.default_rng(0).random((count, N, N, N), np.float32)


def named(data):
    return xr.DataArray(data, dims=("particle", "z", "y", "x"))


def values_of(blocks, edges):
    """What the task of each partition gets, run by Dask's own rules."""
    taken, graph = blocks.taken_by(edges)
    tasks = {("task", i): Task(("task", i), join, node) for i, node in enumerate(taken)}
    found = execute_graph({**graph, **tasks}, keys=list(tasks))
    return [found[key] for key in tasks]


@pytest.mark.parametrize("seed", range(40))
def test_partitions_are_whole_blocks_of_no_more_than_was_asked(seed):
    rng = np.random.default_rng(seed)
    chunks = rng.integers(0, 30, rng.integers(1, 40)).tolist()
    size = int(rng.integers(1, 20))
    edges = partition_edges(chunks, size)
    ends = np.concatenate([[0], np.cumsum(chunks)])
    assert edges[0] == 0
    assert edges[-1] == ends[-1]
    assert (np.diff(edges) > 0).all() or ends[-1] == 0
    for low, high in pairwise(edges):
        inside = [
            c for c, e in zip(chunks, ends[1:], strict=True) if c and low < e and e - c < high
        ]
        if low in ends and high in ends:
            assert high - low <= size or len(inside) == 1  # a block that is large by itself
            assert high - low <= 2 * size
        else:  # a part of one that is very large
            (chunk,) = inside
            assert chunk > 2 * size
            assert high - low <= size
    # the next block would be too much
    for low, high in pairwise(edges[:-1]):
        if {low, high} <= set(ends) and high - low <= size:
            assert next(end for end in ends if end > high) - low > size


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_a_batch_that_is_asked_for_is_taken(batch):
    edges = partition_edges([5, 0, 9, 2], 4, batch)
    assert edges.tolist() == [*range(0, 16, batch), 16]


@pytest.mark.parametrize(
    "chunks", [(11,), (1,) * 11, (5, 6), (3, 0, 7, 1), (2, 9)], ids=lambda c: "-".join(map(str, c))
)
@pytest.mark.parametrize("batch", [None, 1, 2, 4, 11])
def test_every_partition_gets_its_boxes(chunks, batch):
    data = arrays(11)
    whole = da.from_array(data, ((11,), N, N, N) if len(chunks) == 1 else (chunks, N, N, N))
    cut_in_space = da.from_array(data, (chunks, 2, 3, N))
    for boxes, want in (
        (named(data), data),
        (named(whole), data),
        (named(cut_in_space), data),
        (named(whole + 1), data + 1),
        (named(whole)[[7, 2, 9, 4, 0]], data[[7, 2, 9, 4, 0]]),
        (named(whole)[1::2], data[1::2]),
        (named(whole.persist(scheduler="sync")), data),
    ):
        blocks = BoxBlocks(boxes, 3)
        edges = partition_edges(blocks.chunks, 3, batch)
        got = values_of(blocks, edges)
        assert [len(one) for one in got] == np.diff(edges).tolist()
        np.testing.assert_array_equal(np.concatenate(got), want)
        joined = dask.compute(*blocks.joined(edges), scheduler="sync")
        np.testing.assert_array_equal(np.concatenate(joined), want)


class Counted:
    """A box in a file, which says when it is read."""

    shape, dtype, ndim = (N,) * 3, np.dtype(np.float32), 3

    def __init__(self, number, read):
        self.number, self.read = number, read

    def __dask_tokenize__(self):
        return self.number

    def __getitem__(self, index):
        self.read.append(self.number)
        return np.full(self.shape, self.number, np.float32)[index]


@pytest.mark.parametrize("batch", [None, 1, 5, 48, 100])
def test_no_box_is_read_twice(batch):
    read = []
    boxes = named(lazy_boxes([Counted(i, read) for i in range(100)], (N,) * 3))
    blocks = BoxBlocks(boxes, 16)
    assert blocks.chunks == (16,) * 6 + (4,)
    got = np.concatenate(values_of(blocks, partition_edges(blocks.chunks, 16, batch)))
    assert got[:, 0, 0, 0].tolist() == list(range(100))
    assert sorted(read) == list(range(100))


def test_stored_blocks_are_read_by_the_tasks_that_take_them():
    blocks = BoxBlocks(named(lazy_boxes([Counted(i, []) for i in range(100)], (N,) * 3)), 16)
    taken, graph = blocks.taken_by(partition_edges(blocks.chunks, 40))
    assert len(taken) == 3
    assert not graph
    assert not any(node.dependencies for node in taken)
    # blocks that are made of what others share, or that are there, keep their keys
    shared = da.from_array(arrays(6), (3, N, N, 2)).rechunk((3, N, N, N))
    for data in (shared, da.from_array(arrays(6), (3, N, N, N))):
        taken, graph = BoxBlocks(named(data), 3).taken_by(np.array([0, 3, 6]))
        assert all(node.dependencies <= graph.keys() for node in taken)
        assert any(isinstance(node, DataNode) for node in graph.values())


@pytest.mark.parametrize("rows", [[3, 90, 41, 7], list(range(1, 100, 2)), [5, 5]], ids=len)
def test_of_chosen_boxes_those_alone_are_read(rows):
    read = []
    rows = np.asarray(rows, np.int64)
    whole = xr.Dataset(
        {"subtomogram": named(lazy_boxes([Counted(i, read) for i in range(100)], (N,) * 3))},
        coords={"particle": np.arange(100), "image": ("particle", [f"b{i}" for i in range(100)])},
        attrs={"voxel_size": 2.0},
    )
    some = chosen_boxes(whole, rows)
    assert not read
    some.compute(scheduler="sync")
    assert sorted(read) == sorted(rows.tolist())
    assert some.subtomogram.data.name == chosen_boxes(whole, rows).subtomogram.data.name
    # of what has been worked on, or is there, it is Dask's own choice
    worked = whole.assign(subtomogram=whole["subtomogram"] + 1)
    for boxes in (whole, worked, whole.compute(), whole.persist(scheduler="sync")):
        got, want = chosen_boxes(boxes, rows), boxes.isel(particle=rows)
        xr.testing.assert_identical(got.compute(scheduler="sync"), want.compute(scheduler="sync"))
