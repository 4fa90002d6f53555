"""Tiles: each voxel has one owner, sees its halo, and comes back from a coarser grid."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomodask.arrays.tiles import fill_box, plan_tiles, upsample


@given(
    shape=st.tuples(*[st.integers(8, 400)] * 3),
    radius=st.floats(2, 30),
    band=st.floats(0.05, 0.5),
    tile=st.sampled_from([None, 16, 100]),
)
@settings(deadline=None, max_examples=60)
def test_plan_covers_each_voxel_once_and_fits(shape, radius, band, tile):
    plan = plan_tiles(shape, radius=radius, band=band, tile=tile)
    owned = [np.zeros(n, int) for n in shape]
    for axis in range(3):
        for i in range(plan.counts[axis]):
            index = [0, 0, 0]
            index[axis] = i
            here = plan.tile(tuple(index))
            owned[axis][here.start[axis] : here.stop[axis]] += 1
            low, high = here.read_start[axis], here.read_stop[axis]
            assert low == max(0, here.start[axis] - plan.halo[axis])
            assert high == min(shape[axis], here.stop[axis] + plan.halo[axis])
            margins = 1 if plan.counts[axis] == 1 else 2
            assert plan.box[axis] >= here.core[axis] + margins * plan.halo[axis]
    assert all((x == 1).all() for x in owned)
    assert plan.halo[0] >= radius
    assert all(g >= min(b, 2 * band * b) for g, b in zip(plan.grid, plan.box, strict=True))
    assert tuple(sum(c) for c in plan.chunks) == shape


def test_plan_keeps_to_memory():
    plan = plan_tiles((512, 2048, 2048), radius=20)
    assert np.prod(plan.grid) <= 3_600_000
    plan = plan_tiles((512, 2048, 2048), radius=20, band=0.1)
    assert np.prod(plan.box) <= 36_000_000


@pytest.mark.parametrize("tile", [None, 16])
def test_box_holds_the_tile_around_index_zero(tile):
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(40, 33, 28)).astype(np.float32) + 100
    plan = plan_tiles(volume.shape, radius=4.0, tile=tile)
    padded = np.pad(volume.astype(float), 10, constant_values=np.nan)
    for index in np.ndindex(*plan.counts):
        here = plan.tile(index)
        data = volume[here.read]
        box = fill_box(data, here, plan.box)
        for offset in product((-4, 0, 5), repeat=3):
            want = padded[tuple(s + o + 10 for s, o in zip(here.start, offset, strict=True))]
            got = box[offset]
            assert got == pytest.approx(0 if np.isnan(want) else want - data.mean(), abs=1e-4)


def test_upsampling_gives_a_band_limited_function_back():
    box, grid, core = (60, 48, 50), (40, 32, 40), (44, 40, 33)

    def wave(n, size):
        at = np.arange(n) * (size / n)
        return 1 + np.cos(2 * np.pi * (at * 7 / size + 0.13))

    coarse = np.einsum("i,j,k->ijk", *[wave(g, b) for g, b in zip(grid, box, strict=True)])
    fine = np.einsum("i,j,k->ijk", *[wave(b, b) for b in box])[:44, :40, :33]
    number = np.arange(coarse.size).reshape(grid)
    values, nearest = upsample(coarse.astype(np.float32), number, box=box, core=core)
    np.testing.assert_allclose(values, fine, atol=0.03 * 8)  # the window's own error
    assert values.shape == core
    # voxel 30 of 60 is point 20 of 40 exactly, and so along the other axes
    assert nearest[30, 24, 25] == number[20, 16, 20]
    assert values[30, 24, 25] == pytest.approx(coarse[20, 16, 20], rel=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"band": 0.6}, "got 0.6"), ({"band": 0.0}, "got 0"), ({"tile": 0}, "got 0")],
)
def test_says_what_is_wrong(kwargs, message):
    with pytest.raises(ValueError, match=message):
        plan_tiles((32, 32, 32), radius=4, **kwargs)
