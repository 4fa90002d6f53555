"""From scores to particles: places between voxels, thresholds, and the whole way on a phantom."""

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import irregular_chunks
from hypothesis import given, settings
from hypothesis import strategies as st
from picking.blobs import template, volume
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import angular_distance, rotation_grid
from tomodask.errors import InputError
from tomodask.picking.nms.selection import split_scores
from tomodask.picking.templates.matching import (
    match_template,
    open_scores,
    pick_particles,
    save_scores,
)
from tomodask.simulation.phantom import phantom_map, phantom_tomogram

QUATERNION = ["quat_x", "quat_y", "quat_z", "quat_w"]


def scores(score, rotation=None, *, chunks=None, diameter=80.0, resolution=40.0):
    score = np.asarray(score, np.float32)
    if rotation is None:
        rotation = np.zeros(score.shape, np.int32)
    if chunks is not None:
        score, rotation = da.from_array(score, chunks), da.from_array(rotation, chunks)
    turns = Rotation.random(7, rng=0).as_quat()
    return xr.Dataset(
        {
            "score": (("z", "y", "x"), score),
            "rotation": (("z", "y", "x"), rotation),
            "quaternion": (("orientation", "quaternion_part"), turns),
        },
        attrs={
            "voxel_size": 10.0,
            "diameter": diameter,
            "resolution": resolution,
            "tomogram": "grid_7",
            "tilt_range": (-60.0, 60.0),
        },
    )


def hills(shape, tops, *, width=1.5):
    grid = np.stack(np.indices(shape), -1)
    return sum(
        h * np.exp(-0.5 * np.sum((grid - np.array(p)) ** 2, -1) / width**2) for h, *p in tops
    )


def test_place_score_and_orientation_are_those_of_the_peak():
    score = hills((24, 30, 36), [(0.9, 8.3, 9.2, 10.4), (0.6, 15, 20.5, 25)])
    rotation = np.arange(score.size, dtype=np.int32).reshape(score.shape) % 7
    table = pick_particles(scores(score, rotation), threshold=0.3)
    assert list(table) == ["tomogram", "z", "y", "x", "score", *QUATERNION]
    np.testing.assert_allclose(table[["z", "y", "x"]], [[83, 92, 104], [150, 205, 250]], atol=1.0)
    assert table["score"].tolist() == [score[8, 9, 10].astype("f4"), score[15, 20, 25].astype("f4")]
    turns = Rotation.random(7, rng=0).as_quat()
    np.testing.assert_array_equal(table[QUATERNION].iloc[0], turns[rotation[8, 9, 10]])
    assert table["tomogram"].tolist() == ["grid_7"] * 2
    assert table.attrs["threshold"] == 0.3


def test_of_close_particles_the_higher_is_kept():
    near = hills((24, 24, 40), [(0.8, 12, 12, 10), (0.7, 12, 12, 13.5)], width=0.8)
    table = pick_particles(scores(near), threshold=0.3)  # half of 8 voxels is 4
    assert table[["z", "y", "x"]].to_numpy().round(-1).tolist() == [[120, 120, 100]]
    apart = hills((24, 24, 40), [(0.8, 12, 12, 10), (0.7, 12, 12, 16)])
    assert len(pick_particles(scores(apart), threshold=0.3)) == 2


def test_border_of_the_tomogram_is_no_obstacle():
    score = hills((20, 20, 20), [(0.8, 0, 0, 0), (0.9, 19, 19, 10)])
    table = pick_particles(scores(score), threshold=0.3)
    np.testing.assert_allclose(table[["z", "y", "x"]], [[190, 190, 100], [0, 0, 0]], atol=1e-6)


def test_max_particles_keeps_the_highest():
    score = hills((16, 16, 60), [(0.4 + 0.1 * i, 8, 8, 8 + 11 * i) for i in range(5)])
    table = pick_particles(scores(score), threshold=0.3, max_particles=2)
    np.testing.assert_allclose(table["score"], [0.8, 0.7], atol=0.02)


@given(data=st.data())
@settings(deadline=None, max_examples=10)
def test_picks_do_not_depend_on_chunks(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    shape = (20, 26, 23)
    score = np.round(rng.normal(size=shape) * 0.2, 1)  # few levels: ties
    rotation = rng.integers(0, 7, shape).astype(np.int32)
    threshold = data.draw(st.sampled_from([None, 0.2, 0.5]))
    kwargs = {"threshold": threshold, "diameter": data.draw(st.sampled_from([30.0, 80.0]))}
    chunks = data.draw(irregular_chunks(shape))
    with dask.config.set(scheduler="sync"):
        want = pick_particles(scores(score, rotation), **kwargs)
        got = pick_particles(scores(score, rotation, chunks=chunks), **kwargs)
    pd.testing.assert_frame_equal(got, want, check_exact=True)
    assert got.attrs == want.attrs


def test_a_large_match_shows_its_progress(monkeypatch, capsys):
    from tomodask.picking.templates import picks as peaks

    match = scores(hills((24, 30, 36), [(0.9, 8, 9, 10)]), chunks=12)
    quiet = pick_particles(match)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(peaks, "_LARGE", 24 * 30 * 36)
    told = pick_particles(match)
    said = capsys.readouterr().err
    assert "pick, background: done" in said
    assert "pick: done" in said
    pd.testing.assert_frame_equal(told, quiet, check_exact=True)


def test_nothing_above_the_threshold_is_an_empty_table():
    table = pick_particles(scores(np.zeros((16,) * 3)), threshold=0.5)
    assert list(table) == ["tomogram", "z", "y", "x", "score", *QUATERNION]
    assert table.empty
    assert pick_particles(scores(np.zeros((16,) * 3))).empty


@pytest.mark.parametrize("few", [5, 40, 400])
@pytest.mark.parametrize("noise", [20, 300])
def test_split_parts_groups_of_any_size(few, noise):
    rng = np.random.default_rng(few)
    low = 0.55 + rng.exponential(0.02, noise).clip(max=0.1)
    high = rng.normal(0.9, 0.025, few)
    threshold = split_scores(np.r_[low, high], background=0.7)
    assert low.max() < threshold < high.min()


def test_split_falls_back_to_the_background():
    rng = np.random.default_rng(0)
    assert split_scores(0.5 + rng.exponential(0.05, 300), background=0.77) == 0.77
    assert split_scores(np.array([0.5, 0.9]), background=0.77) == 0.77


def test_finds_the_particles_and_not_the_decoys(tmp_path):
    """The demo's scene, an eighth of it: 15 particles, 6 rings of the same size, SNR 0.05."""
    tomogram, truth = phantom_tomogram((80, 128, 128), particles=15, decoys=6, seed=3)
    match = match_template(tomogram, phantom_map(), angular_step=18.0)
    save_scores(match, tmp_path / "scores.zarr")
    table = pick_particles(open_scores(tmp_path / "scores.zarr"))
    truth = truth[truth["kind"] == "particle"]
    gap, row = cKDTree(table[["z", "y", "x"]]).query(truth[["z", "y", "x"]])
    assert (gap < 30).all()
    assert len(table) == 15
    assert np.median(gap) < 7.5  # Å: less than a voxel
    picked = Rotation.from_quat(table[QUATERNION].to_numpy()[row])
    away = angular_distance(picked, Rotation.from_quat(truth[QUATERNION].to_numpy()))
    assert np.median(away) < 18.0
    assert (np.diff(table["score"]) <= 0).all()


def test_noise_alone_gives_no_particles():
    tomogram = np.random.default_rng(0).normal(size=(64, 64, 64))
    match = match_template(
        volume(tomogram), template(20, sigma=2.0), rotations=rotation_grid(count=500)
    ).compute()
    assert len(pick_particles(match)) <= 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"diameter": 10.0}, r"at least 2 voxels \(20 Å\), got 10 Å"),
        ({"max_particles": 0}, "max_particles must be at least 1, got 0"),
        ({"threshold": float("nan")}, "threshold must be a number, got nan"),
    ],
)
def test_says_what_is_wrong(kwargs, message):
    with pytest.raises(InputError, match=message):
        pick_particles(scores(np.zeros((16,) * 3)), **kwargs)


def test_the_automatic_threshold_picks_what_the_same_threshold_given_picks():
    """Neighbours whose hills touch at the candidates' level are not lost."""
    rng = np.random.default_rng(4)
    tops = [(0.8, 20, 20 + 9 * i, 20 + 9 * j) for i in range(5) for j in range(5)]
    score = 0.05 * rng.normal(size=(40, 76, 76)) + hills((40, 76, 76), tops, width=3.0)
    match = scores(score, chunks=32)
    auto = pick_particles(match)
    given = pick_particles(match, threshold=auto.attrs["threshold"])
    pd.testing.assert_frame_equal(auto, given)
    assert len(auto) == len(tops)
