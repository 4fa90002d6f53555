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

from tomodask.picking.nms.centers import collect_centers, find_centers, halo
from tomodask.picking.nms.hills import (
    find_tops,
    least_count,
    mark_tops,
    measure_tops,
    pooling_weights,
)
from tomodask.picking.nms.occupied import blocks_within, merged_chunks, pack, unpack


def pooled(mask, diameter, kernel):
    """The mask, which goes on with zeros for ever, pooled naively: whole numbers, and their sum."""
    poolings = diameter // (kernel - 1) + 1
    margin = poolings * (kernel // 2)
    hill = np.pad(mask, margin).astype(np.int64)
    for _ in range(poolings):
        for axis in range(3):
            around = np.pad(hill, [(kernel // 2,) * 2 if a == axis else (0, 0) for a in range(3)])
            hill = np.lib.stride_tricks.sliding_window_view(around, kernel, axis).sum(-1)
    return hill[(slice(margin, -margin),) * 3], kernel ** (3 * poolings)


def naive(mask, diameter, kernel, min_distance, min_height):
    """Tops in (z, y, x) order, voxel by voxel."""
    hill, full = pooled(mask, diameter, kernel)
    around = np.pad(hill, min_distance)
    window = np.lib.stride_tricks.sliding_window_view(around, (2 * min_distance + 1,) * 3)
    tops = np.argwhere((hill / full >= min_height) & (hill == window.max((-3, -2, -1))))
    out = np.zeros(mask.shape, np.float32)
    for n, top in enumerate(tops):
        if not (np.abs(tops[:n] - top).max(1, initial=0) <= min_distance).any():
            out[tuple(top)] = hill[tuple(top)] / full
    return out


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


@given(
    mask=masks(),
    sizes=st.sampled_from([(3, 3), (6, 3), (3, 5), (9, 5), (18, 5), (8, 7)]),
    min_distance=st.integers(1, 3),
    min_height=st.sampled_from([1e-6, 0.1, 0.3, 1.0]),
)
@settings(deadline=None, max_examples=150)
def test_equals_the_naive_pooling(mask, sizes, min_distance, min_height):
    """Sparse and dense masks, flat hills, particles at the border: equal, not close."""
    diameter, kernel = sizes
    want = naive(mask, diameter, kernel, min_distance, min_height)
    options = {"kernel": kernel, "min_distance": min_distance, "min_height": min_height}
    np.testing.assert_array_equal(find_centers(mask, diameter=diameter, **options), want)


@given(mask=masks(), diameter=st.sampled_from([3, 9, 30]), reach=st.integers(1, 3))
@settings(deadline=None, max_examples=50)
def test_what_runs_on_a_gpu_finds_the_same(mask, diameter, reach):
    """`mark_tops` knows its arrays by their namespace alone; here it is NumPy's."""
    weights = pooling_weights(diameter, 5)
    level = least_count(weights, 0.05)
    places, counts = find_tops(mask, weights, level=level, reach=reach)
    marked = mark_tops(mask, weights, level=level, reach=reach)
    np.testing.assert_array_equal(places, np.argwhere(marked))
    heights = (counts / weights.sum() ** 3).astype(np.float32)
    np.testing.assert_array_equal(heights, marked[tuple(places.T)])


def test_the_same_on_a_gpu():
    cupy = pytest.importorskip("cupy", reason="needs CuPy, which is not installed")
    if not cupy.cuda.is_available():
        pytest.skip("needs a GPU: none is there")
    mask = balls((40, 50, 60), [(10, 20, 25), (12, 38, 15), (30, 23, 40)], radius=6)
    want = find_centers(mask, diameter=12, kernel=5, min_distance=2)
    found = find_centers(cupy.asarray(mask), diameter=12, kernel=5, min_distance=2)
    np.testing.assert_array_equal(found.get(), want)
    lazy = da.from_array(cupy.asarray(mask), chunks=(20, 30, 17), asarray=False)
    found = find_centers(lazy, diameter=12, kernel=5, min_distance=2).compute(scheduler="sync")
    np.testing.assert_array_equal(found.get(), want)


def test_balls_of_the_benchmark_in_small():
    """Five poolings of 5³, ragged sizes, rows that are no multiple of the kernel's runs."""
    rng = np.random.default_rng(4)
    mask = balls((50, 61, 83), rng.uniform(0, [50, 61, 83], (12, 3)), radius=9)
    options = {"diameter": 18, "kernel": 5, "min_distance": 2}
    want = naive(mask, 18, 5, 2, 0.1)
    assert np.count_nonzero(want) >= 8
    np.testing.assert_array_equal(find_centers(mask, **options), want)
    np.testing.assert_array_equal(find_centers(mask[::-1, :, ::-1], **options)[::-1, :, ::-1], want)
    lazy = da.from_array(mask, chunks=((7, 43), (1, 60), (40, 3, 40)))
    np.testing.assert_array_equal(find_centers(lazy, **options).compute(scheduler="sync"), want)


@pytest.mark.parametrize("diameter", [4, 27])
def test_weights_are_the_poolings_as_long_as_float64_holds_them(diameter):
    exact = pooling_weights(diameter, 5)
    assert exact.sum() == 5 ** (diameter // 4 + 1)
    np.testing.assert_array_equal(exact, np.rint(exact))


def test_many_poolings_are_rounded_to_whole_numbers():
    weights = pooling_weights(100, 5)
    np.testing.assert_array_equal(weights, np.rint(weights))
    np.testing.assert_array_equal(weights, weights[::-1])
    assert weights.sum() ** 3 < 2**53
    want = np.ones(1)
    for _ in range(26):
        want = np.convolve(want, np.full(5, 0.2))
    cut = (len(want) - len(weights)) // 2
    np.testing.assert_allclose(weights / weights.sum(), want[cut : len(want) - cut], atol=5e-6)


@given(st.floats(1e-9, 1.0), st.sampled_from([3, 9, 18, 27]))
def test_least_count_is_the_least(height, diameter):
    weights = pooling_weights(diameter, 5)
    count = least_count(weights, height)
    full = weights.sum() ** 3
    assert count == int(count)
    assert count / full >= height
    assert count == 1 or (count - 1) / full < height


@given(data=st.data(), mask=masks())
@settings(deadline=None, max_examples=100)
def test_blocks_that_are_packed_come_back(data, mask):
    lazy = da.from_array(mask, chunks=data.draw(irregular_chunks(mask.shape)))
    low = [data.draw(st.integers(-3, n - 1)) for n in mask.shape]
    high = [
        data.draw(st.integers(max(a + 1, 1), n + 3)) for a, n in zip(low, mask.shape, strict=True)
    ]
    around = blocks_within(lazy.chunks, low, high)
    parts = [pack(np.asarray(lazy.blocks[index])) for index, _ in around]
    got = unpack(parts, [corner for _, corner in around], low, high)
    want = np.pad(mask, 3)[tuple(slice(a + 3, b + 3) for a, b in zip(low, high, strict=True))]
    if got is None:
        assert not want.any()
    else:
        np.testing.assert_array_equal(got.view(bool), want)


def test_packing_keeps_what_is_above_the_threshold():
    values = np.zeros((2, 2, 20), np.float32)
    values[1, 0, 3:6] = 0.5, 0.50390625, 1.5
    packed = pack(values, 0.5)
    assert packed.index.tolist() == [4]
    assert packed.runs[0].tolist() == [0, 0, 0, 0, 0.50390625 * 2**15, 2**15] + [0] * 10
    assert len(pack(np.full((2, 2, 20), np.nan, np.float32), 0.5).index) == 0


@given(st.lists(st.integers(1, 9), min_size=1), st.integers(1, 20))
def test_merged_chunks_hold_the_same_voxels(sizes, least):
    merged = merged_chunks(sizes, least)
    assert set(np.cumsum(merged)) <= set(np.cumsum(sizes))
    assert sum(merged) == sum(sizes)
    assert min(merged) >= min(least, sum(sizes))


def test_place_between_voxels():
    """A ball at any place between voxels: within a twentieth of a voxel, the voxel is not."""
    rng = np.random.default_rng(7)
    weights = pooling_weights(18, 5)
    errors, voxels = [], []
    for center in rng.uniform(19.5, 20.5, (30, 3)):
        mask = balls((41, 41, 41), [center], radius=9)
        places, _ = find_tops(mask, weights, level=least_count(weights, 0.1), reach=2)
        shifts, heights = measure_tops(mask.astype(np.uint8), weights, places)
        errors.append(np.linalg.norm(places[0] + shifts[0] - center))
        voxels.append(np.linalg.norm(places[0] - center))
        hill, full = pooled(mask, 18, 5)
        assert heights[0] == hill.max() / full
    assert max(errors) < 0.05
    assert np.mean(voxels) > 0.3


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
def test_one_convolution_is_the_poolings_one_by_one(diameter, kernel):
    """Reference in floating point: as many mean poolings as in the paper."""
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
    assert halo(pooling_weights(diameter=4, kernel=3), min_distance=2) == 3 + 4


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
