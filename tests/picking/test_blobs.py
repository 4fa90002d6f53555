"""Difference of Gaussians: equal for any chunks, equal to a slow reference, and what it finds."""

import itertools

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import irregular_chunks
from hypothesis import given, settings
from hypothesis import strategies as st

from tomodask.errors import InputError
from tomodask.picking.blobs.finding import _BLOCK, _filtered, _Filters, find_blobs
from tomodask.simulation.phantom import phantom_tomogram


def volume(values, *, voxel_size=10.0, chunks=None):
    data = values if chunks is None else da.from_array(values, chunks)
    return xr.DataArray(data, dims=("z", "y", "x"), name="test", attrs={"voxel_size": voxel_size})


def balls(shape, centers, radius, *, soft=1.0):
    grid = np.stack(np.indices(shape), -1)
    out = np.zeros(shape)
    for center in centers:
        far = np.linalg.norm(grid - np.array(center), axis=-1)
        out += np.clip((radius - far) / soft + 0.5, 0, 1)
    return out.astype(np.float32)


def noise(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


BALLS = {width: balls((61,) * 3, [(30, 30, 30)], width / 2) for width in (12, 14, 16, 18, 20)}


def reference(values, width, ratio, threshold, distance):
    """The filter as two full matrices along each axis, every voxel asked, every pair compared."""
    narrow = width / 2 / ratio * np.sqrt((ratio**2 - 1) / (6 * np.log(ratio)))
    smooth, matrices = [], []
    reach = [int(np.ceil(4 * s)) for s in (narrow, ratio * narrow)]
    for sigma, most in zip((narrow, ratio * narrow), reach, strict=True):
        lines = []
        for n in values.shape:
            far = np.subtract.outer(np.arange(n), np.arange(n))
            line = np.exp(-0.5 * (far / sigma) ** 2) * (np.abs(far) <= most)
            lines.append(line / line.sum(1, keepdims=True))
        smooth.append(np.einsum("ia,jb,kc,abc->ijk", *lines, values.astype(float), optimize=True))
        matrices.append(lines)
    first, second, both = (
        np.einsum("i,j,k->ijk", *(np.sum(a * b, axis=1) for a, b in zip(p, q, strict=True)))
        for p, q in ((matrices[0],) * 2, (matrices[1],) * 2, matrices)
    )
    spread = np.sqrt(first + second - 2 * both)
    middle = tuple(n // 2 for n in values.shape)
    dog = smooth[0] - smooth[1]
    score = dog / (spread / spread[middle])
    low, median, high = np.quantile(score, [0.15865525393, 0.5, 0.84134474607])
    score = (score - median) / max(median - low, high - median)
    found = []
    for at in itertools.product(*map(range, values.shape)):
        window = dog[tuple(slice(max(0, i - 1), i + 2) for i in at)]
        if dog[at] > 0 and dog[at] == window.max() and score[at] > threshold:
            found.append((score[at], at))
    kept = []
    for one, at in sorted(found, reverse=True):
        if all(np.linalg.norm(np.subtract(at, other)) > distance for _, other in kept):
            kept.append((one, at))
    return kept


def test_the_result_is_that_of_the_slow_reference():
    values = noise((30, 34, 38)) + 2 * balls((30, 34, 38), [(8, 9, 10), (20, 22, 30)], 3)
    got = find_blobs(volume(values), diameter=65.0, threshold=2.0, ratio=1.5, min_distance=1.0)
    want = reference(values, 6.5, 1.5, 2.0, 0.1)
    assert len(got) == len(want) > 10
    np.testing.assert_allclose(got["score"], [score for score, _ in want], rtol=2e-4)
    places = got[["z", "y", "x"]].to_numpy() / 10
    assert np.abs(places - [at for _, at in want]).max() <= 0.5  # the parabola's step


SCENE = noise((37, 50, 61), 1) + 1.5 * balls(
    (37, 50, 61), [(9, 12, 14), (25, 30, 21), (20, 12, 45), (28, 40, 50)], 5
)


@settings(max_examples=15, deadline=None)
@given(st.data(), st.sampled_from([45.0, 100.0, 160.0]))
def test_the_chunks_change_nothing(data, diameter):
    chunks = data.draw(irregular_chunks(SCENE.shape))
    want = find_blobs(volume(SCENE), diameter=diameter, threshold=1.0)
    with dask.config.set(scheduler="synchronous"):
        got = find_blobs(volume(SCENE, chunks=chunks), diameter=diameter, threshold=1.0)
    pd.testing.assert_frame_equal(got, want, check_exact=True)
    assert len(want) > 2


@pytest.mark.parametrize("edge", [11, 16, 29])
def test_the_blocks_change_nothing(monkeypatch, edge):
    want = [find_blobs(volume(SCENE), diameter=d) for d in (45.0, 100.0)]
    monkeypatch.setattr("tomodask.picking.blobs.finding._BLOCK", edge)
    for d, table in zip((45.0, 100.0), want, strict=True):
        got = find_blobs(volume(SCENE), diameter=d)
        pd.testing.assert_frame_equal(got, table, check_exact=True)
        assert got.attrs == table.attrs
    assert edge < _BLOCK


@pytest.mark.parametrize("width", [5.0, 9.0, 10.0, 23.0])
def test_the_centre_of_a_ball_between_voxels(width):
    shape, center = (60, 64, 68), (29.3, 32.6, 30.1)
    values = balls(shape, [center], width / 2) + 0.001 * noise(shape)
    table = find_blobs(volume(values), diameter=10 * width, max_particles=1)
    off = table[["z", "y", "x"]].to_numpy() / 10 - center
    assert np.linalg.norm(off) < max(0.12, 0.02 * width)


@pytest.mark.parametrize("ratio", [1.05, 1.2, 2.0])
def test_filter_and_ball_of_one_diameter_answer_each_other_most(ratio):
    """Of all balls for a filter, as its positive part is that ball; of all filters for a ball."""

    def answer(width, ball):
        narrow = width / 2 / ratio * np.sqrt((ratio**2 - 1) / (6 * np.log(ratio)))
        filters = _Filters.of(narrow, ratio * narrow, [np.ones(61)] * 3, sign=1.0)
        return _filtered(BALLS[ball], filters, [0, 0, 0])[30, 30, 30]

    widths = (12, 14, 16, 18, 20)
    assert max(widths, key=lambda ball: answer(16, ball)) == 16
    assert max(widths, key=lambda width: answer(width, 16)) == 16


def test_dark_particles_are_found_in_the_negative():
    want = find_blobs(volume(SCENE), diameter=100.0)
    dark = find_blobs(volume(-SCENE), diameter=100.0, invert=True)
    pd.testing.assert_frame_equal(dark, want, check_exact=True)
    assert len(want) == 4


def test_levels_and_contrast_are_of_no_matter():
    want = find_blobs(volume(SCENE), diameter=100.0)
    other = find_blobs(volume(np.float32(8) * SCENE), diameter=100.0)
    pd.testing.assert_frame_equal(other, want, check_exact=True)  # a power of two
    shifted = find_blobs(volume(SCENE + np.float32(30)), diameter=100.0)
    pd.testing.assert_frame_equal(shifted, want, rtol=1e-3)
    whole = np.round(100 * SCENE).astype(np.int16)
    pd.testing.assert_frame_equal(find_blobs(volume(whole), diameter=100.0), want, rtol=0.02)


def test_noise_near_the_faces_counts_as_elsewhere():
    """A filter that is cut lets more noise through; uncorrected, the faces fill with hills."""
    shape, hits = (60, 60, 60), np.zeros(2)
    for seed in range(4):
        table = find_blobs(volume(noise(shape, seed)), diameter=80.0, threshold=2.5)
        places = table[["z", "y", "x"]].to_numpy() / 10
        inner = ((places > 8) & (places < 51)).all(axis=1)
        hits += inner.sum(), (~inner).sum()
    inside = 43**3 / 60**3
    assert hits.sum() > 60
    assert abs(hits[0] / hits.sum() - inside) < 0.2


def test_noise_alone_gives_hardly_a_pick():
    counts = [len(find_blobs(volume(noise((80, 90, 100), s)), diameter=100.0)) for s in range(5)]
    assert np.mean(counts) <= 3, counts


def test_phantoms_are_found():
    tomogram, truth = phantom_tomogram((80, 128, 128), particles=15, decoys=0, seed=2, snr=0.01)
    table = find_blobs(tomogram, diameter=270.0)
    far = np.linalg.norm(
        table[["z", "y", "x"]].to_numpy()[:, None] - truth[["z", "y", "x"]].to_numpy(), axis=-1
    )
    assert (far.min(axis=0) < 60).mean() >= 0.9
    assert (far.min(axis=1) < 60).mean() >= 0.9


def test_the_table():
    table = find_blobs(volume(SCENE), diameter=100.0, threshold=1.0)
    assert list(table) == ["tomogram", "z", "y", "x", "score"]
    assert set(table["tomogram"]) == {"test"}
    assert (np.diff(table["score"]) <= 0).all()
    assert table.attrs["threshold"] == 1.0
    assert table["score"].min() > 1
    best = find_blobs(volume(SCENE), diameter=100.0, threshold=1.0, max_particles=3)
    pd.testing.assert_frame_equal(best, table[:3], check_exact=True)
    for a, b in itertools.combinations(table[["z", "y", "x"]].to_numpy(), 2):
        assert np.linalg.norm(a - b) > 50
    apart = find_blobs(volume(SCENE), diameter=100.0, threshold=1.0, min_distance=200.0)
    assert 1 <= len(apart) < len(table)


@pytest.mark.parametrize("shape", [(41, 63, 77), (40, 61, 81)])
def test_no_place_is_beyond_the_tomogram(shape):
    """Also where the last bin along an axis holds one voxel of many."""
    table = find_blobs(volume(noise(shape)), diameter=200.0, threshold=0.5)
    places = table[["z", "y", "x"]].to_numpy() / 10.0
    assert len(table) > 5
    assert (places >= 0).all()
    assert (places <= np.subtract(shape, 1)).all()


def test_nothing_in_nothing():
    for values in (0, 7, 0.1, 31000):
        table = find_blobs(volume(np.full((20, 20, 20), values, "f4")), diameter=60.0)
        assert table.empty
        assert list(table) == ["tomogram", "z", "y", "x", "score"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"diameter": 25.0}, r"at least 3 voxels \(30 Å\), got 25 Å"),
        ({"diameter": float("nan")}, "at least 3 voxels"),
        ({"diameter": 2600.0}, r"at most 61 voxels \(610 Å\), got 2600 Å; is it in Å"),
        ({"threshold": float("inf")}, "threshold must be a number"),
        ({"max_particles": 0}, "max_particles must be at least 1"),
        ({"ratio": 1.0}, "ratio must be 1.01 to 4"),
        ({"min_distance": -1.0}, "min_distance must be at least 0 Å"),
    ],
)
def test_bad_input_is_told(options, message):
    with pytest.raises(InputError, match=message):
        find_blobs(volume(SCENE), **{"diameter": 100.0, **options})


def test_bad_tomograms_are_told():
    with pytest.raises(InputError, match="must be a volume"):
        find_blobs(volume(SCENE)[0], diameter=100.0)
    with pytest.raises(InputError, match="voxel size"):
        find_blobs(volume(SCENE).drop_attrs(), diameter=100.0)
    broken = SCENE.copy()
    broken[3, 4, 5] = np.nan
    with pytest.raises(InputError, match="test: voxels are NaN"):
        find_blobs(volume(broken, chunks=20), diameter=100.0)
