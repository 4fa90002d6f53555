"""Picking: by hand, against the poolings done one by one, and whatever the chunks."""

import dask
import dask.array as da
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import scipy.ndimage as ndi
from helpers import irregular_chunks
from hypothesis import given, settings

from tomodask.picking.centers import (
    _halo,
    _mean_pool_weights,
    collect_centers,
    find_centers,
)


def balls(shape, centers, radius):
    zyx = np.stack(np.indices(shape), axis=-1)
    return np.any([np.linalg.norm(zyx - c, axis=-1) <= radius for c in centers], axis=0)


def never_compute(*args, **kwargs):
    raise AssertionError("the graph was computed while it was being built")


@st.composite
def masks(draw):
    """Random blobs; few levels, so that flat hilltops and ties are common."""
    shape = draw(st.tuples(*[st.integers(1, 24)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    noise = ndi.gaussian_filter(rng.normal(size=shape), draw(st.sampled_from([0.0, 1.0, 2.0])))
    share = draw(st.sampled_from([0.0, 0.3, 0.6, 0.95, 1.0]))
    return noise > np.quantile(noise, 1 - share)


@given(data=st.data(), mask=masks())
@settings(deadline=None, max_examples=150)
def test_result_does_not_depend_on_chunks(data, mask):
    kwargs = {
        "diameter": data.draw(st.integers(1, 6)),
        "kernel": data.draw(st.sampled_from([3, 5])),
        "min_distance": data.draw(st.integers(1, 3)),
    }
    eager = find_centers(mask, **kwargs)
    lazy = find_centers(
        da.from_array(mask, chunks=data.draw(irregular_chunks(mask.shape))), **kwargs
    )
    with dask.config.set(scheduler="sync"):
        np.testing.assert_array_equal(lazy.compute(), eager)  # equal, not close
        pd.testing.assert_frame_equal(
            collect_centers(lazy, voxel_size=10.0), collect_centers(eager, voxel_size=10.0)
        )


@given(mask=masks(), min_distance=st.integers(1, 3))
@settings(deadline=None)
def test_centers_are_apart(mask, min_distance):
    zyx = np.argwhere(find_centers(mask, diameter=3, min_distance=min_distance))
    gap = np.abs(zyx[:, None] - zyx[None]).max(-1)
    np.fill_diagonal(gap, 99)
    assert (gap > min_distance).all()


def test_finds_balls_across_a_chunk_border():
    centers = [(10, 20, 25), (12, 38, 15), (11, 23, 40)]
    mask = balls((24, 48, 48), centers, radius=4)
    table = collect_centers(
        find_centers(da.from_array(mask, chunks=(24, 24, 24)), diameter=9), voxel_size=13.48
    )
    found = {tuple(p) for p in np.rint(table[["z", "y", "x"]].to_numpy() / 13.48).astype(int)}
    assert found == set(centers)


@pytest.mark.parametrize(("diameter", "kernel"), [(5, 3), (9, 3), (9, 5), (12, 7)])
def test_one_convolution_equals_the_poolings_one_by_one(diameter, kernel):
    """Reference: average pooling `diameter // (kernel - 1) + 1` times, as in the paper."""
    mask = balls((40, 40, 40), [(20, 19, 21)], radius=diameter / 2)
    want = mask.astype(np.float64)
    for _ in range(diameter // (kernel - 1) + 1):
        want = ndi.uniform_filter(want, kernel, mode="constant")
    centers = find_centers(mask, diameter=diameter, kernel=kernel, min_height=1e-6)
    (top,) = np.argwhere(centers)
    assert tuple(top) == np.unravel_index(want.argmax(), want.shape)
    assert centers.max() == pytest.approx(want.max(), rel=1e-5)


def test_flat_hilltop_gives_one_center():
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4:6] = True  # two equal tops side by side
    assert np.argwhere(find_centers(mask, diameter=3, min_height=0.01)).tolist() == [[4, 4, 4]]


def test_wants_a_mask():
    with pytest.raises(TypeError, match=r"boolean, e.g. probability > 0.5, got float32"):
        find_centers(np.zeros((8, 8, 8), np.float32), diameter=3)


def test_halo_is_what_a_voxel_sees():
    assert _halo(_mean_pool_weights(diameter=4, kernel=3), min_distance=2) == 3 + 4


def test_builds_a_graph_and_computes_nothing():
    with dask.config.set(scheduler=never_compute):
        lazy = find_centers(da.zeros((64, 64, 64), chunks=32, dtype=bool), diameter=9)
    assert isinstance(lazy, da.Array)
    assert lazy.dtype == np.float32


def test_empty_table_keeps_its_columns():
    table = collect_centers(np.zeros((4, 4, 4)), voxel_size=1.0)
    assert list(table) == ["z", "y", "x", "score"]
    assert table.empty


@pytest.mark.parametrize(
    ("shape", "kwargs", "message"),
    [
        ((8, 8), {"diameter": 3}, r"axes \(z, y, x\), got shape \(8, 8\)"),
        ((8, 8, 8), {"diameter": 3, "kernel": 4}, "odd and above 1 voxel, got 4"),
        ((8, 8, 8), {"diameter": 0}, "got diameter=0, min_distance=1"),
        ((8, 8, 8), {"diameter": 3, "min_distance": 0}, "min_distance=0"),
    ],
)
def test_says_what_is_wrong(shape, kwargs, message):
    with pytest.raises(ValueError, match=message):
        find_centers(np.zeros(shape, bool), **kwargs)


def test_nothing_lies_beyond_the_tomogram():
    """A particle cut by the border is as high as the part that is there."""
    cut = balls((24, 24, 24), [(12, 12, 12)], radius=5)[12:]
    padded = np.pad(cut, 12)
    np.testing.assert_array_equal(
        find_centers(cut, diameter=9), find_centers(padded, diameter=9)[12:24, 12:36, 12:36]
    )
