"""Tiles for a network: cores fill the volume once, each with its halo, on one pooling grid."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomodask.arrays.overlap import plan_overlap


@given(
    shape=st.tuples(*[st.integers(1, 300)] * 3),
    halo=st.integers(0, 40),
    multiple=st.sampled_from([1, 2, 4, 8]),
    limit=st.sampled_from([10**4, 10**5, 10**6]),
    tile=st.none() | st.integers(96, 160),
)
def test_cores_fill_the_volume_once_each_with_its_halo(shape, halo, multiple, limit, tile):
    plan = plan_overlap(shape, halo=halo, multiple=multiple, limit=limit, tile=tile)
    assert plan.halo >= halo
    for axis, size in enumerate(shape):
        index = [0, 0, 0]
        edge = 0
        for i in range(plan.counts[axis]):
            index[axis] = i
            one = plan.at(tuple(index))
            start, low, high = one.start[axis], one.core_start[axis], one.core_stop[axis]
            assert low == edge  # cores follow one another, …
            assert high > low
            edge = high
            assert start % multiple == 0
            assert start == 0 or low - start >= halo
            end = start + plan.tile[axis]
            assert high <= end
            assert end >= size or end - high >= halo
            assert low % plan.core[axis] == 0  # … and chunks of a store hold them
            if i == 0:
                assert start == 0
        assert edge == size
        assert end == -(-size // multiple) * multiple  # the same end whatever the tiles
        assert sum(plan.cores[axis]) == size
        assert plan.tile[axis] % multiple == 0


def test_tiles_keep_the_limit_and_cost_least():
    shape, halo, limit = (200, 512, 512), 16, 2_500_000
    plan = plan_overlap(shape, halo=halo, multiple=8, limit=limit)
    assert np.prod(plan.tile) <= limit

    def cost(tile):
        return np.prod([n * t for n, t in zip(tile.counts, tile.tile, strict=True)])

    for edge in range(56, 137, 8):  # all cubic tiles within the limit
        other = plan_overlap(shape, halo=halo, multiple=8, limit=limit, tile=edge)
        assert cost(plan) <= cost(other)
    assert plan.share > 0.45


def test_chunks_of_one_core_do_not_cross_into_another():
    plan = plan_overlap((100, 333, 64), halo=8, multiple=8, limit=10**5)
    owner = np.full(plan.shape, -1)
    for number, index in enumerate(itertools.product(*map(range, plan.counts))):
        one = plan.at(index)
        core = tuple(slice(a, b) for a, b in zip(one.core_start, one.core_stop, strict=True))
        assert (owner[core] == -1).all()
        owner[core] = number
    assert (owner >= 0).all()
    steps = [range(0, s, c) for s, c in zip(plan.shape, plan.core, strict=True)]
    for corner in itertools.product(*steps):
        chunk = tuple(slice(a, a + c) for a, c in zip(corner, plan.core, strict=True))
        assert len(np.unique(owner[chunk])) == 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"halo": -1}, "halo must be at least 0 voxels, got -1"),
        ({"halo": 16, "tile": 32}, "tile must be at least 40 voxels with a halo of 16, got 32"),
    ],
)
def test_refuses_what_leaves_no_core(kwargs, message):
    with pytest.raises(ValueError, match=message):
        plan_overlap((100, 100, 100), multiple=8, limit=10**6, **kwargs)
