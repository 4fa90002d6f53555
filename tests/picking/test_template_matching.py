"""Template matching against a slow, obvious reference, planted particles, and any chunks."""

import pickle

import dask
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage as ndi
from helpers import irregular_chunks
from hypothesis import given, settings
from hypothesis import strategies as st
from picking.blobs import blobs, seen, template, volume
from scipy.spatial.transform import Rotation

from tomodask.arrays.fourier import frequency_grid, wedge
from tomodask.arrays.geometry import angular_distance, matrices_zyx, rotation_grid
from tomodask.errors import InputError
from tomodask.picking.templates.matching import match_template, template_diameter

TURNS = Rotation.random(5, rng=3)


def reference_scores(tomogram, volume_zyx, turns, places, *, radius, tilt_range, box, band=0.5):
    """Obvious: turn by splines in real space, filter, slide, divide; at some places only."""
    size = volume_zyx.shape[0]
    distance = np.sqrt(
        sum(g.astype(float) ** 2 for g in np.ogrid[(slice(-(size // 2), size - size // 2),) * 3])
    )
    mask = np.clip(0.5 + radius - distance, 0, 1)
    masked = mask * (volume_zyx - (mask * volume_zyx).sum() / mask.sum())

    kz, ky, kx = frequency_grid(box)
    keep = wedge(box, tilt_range) * (kz**2 + ky**2 + kx**2 <= band**2)
    keep[0, 0, 0] = 0

    def filtered(values):
        return scipy.fft.irfftn(scipy.fft.rfftn(values) * keep, box)

    def at_origin(values):
        out = np.zeros(box)
        out[:size, :size, :size] = values
        return np.roll(out, (-(size // 2),) * 3, (0, 1, 2))

    data = np.zeros(box)
    data[tuple(slice(n) for n in tomogram.shape)] = tomogram - tomogram.mean()
    data = filtered(data)
    ball = at_origin(mask)
    scores = np.zeros((len(turns), len(places)))
    for i, matrix in enumerate(matrices_zyx(turns)):
        center = np.full(3, size // 2)
        turned = ndi.affine_transform(masked, matrix.T, center - matrix.T @ center, order=5)
        turned = filtered(at_origin(turned))
        for j, place in enumerate(places):
            here = np.roll(data, -np.asarray(place), (0, 1, 2))
            mean = (ball * here).sum() / ball.sum()
            deviation = np.sqrt((ball * (here - mean) ** 2).sum())
            scores[i, j] = (here * turned).sum() / deviation / np.linalg.norm(turned)
    return scores


@pytest.mark.parametrize("size", [20, 21])
@pytest.mark.parametrize("tilt_range", [(-60.0, 60.0), (-40.0, 65.0)])
def test_equals_the_reference(size, tilt_range):
    rng = np.random.default_rng(0)
    shape = (40, 44, 42)
    tomogram = rng.normal(size=shape) + 3 * blobs(shape, (18, 23, 20), TURNS[1]) + 50
    model = template(size)
    match = match_template(
        volume(tomogram),
        model,
        rotations=TURNS,
        tilt_range=tilt_range,
        diameter=180.0,
        resolution=0.0,
    ).compute()
    places = [(18, 23, 20), *rng.integers(0, shape, size=(12, 3)).tolist(), (0, 0, 0), (39, 43, 41)]
    want = reference_scores(
        tomogram, model.values, TURNS, places, radius=9.0, tilt_range=tilt_range, box=(50, 54, 54)
    )
    got = match["score"].values[tuple(np.transpose(places))]
    # One factor is left out of the reference: the share of the template inside its mask.
    factor = got[0] / want.max(0)[0]
    assert 0.9 < factor < 1.0
    np.testing.assert_allclose(got, factor * want.max(0), atol=0.02)
    top = match["rotation"].values[tuple(np.transpose(places))]
    chosen = want[top, range(len(places))]
    np.testing.assert_allclose(chosen, want.max(0), atol=0.02)
    assert top[0] == 1


@pytest.mark.parametrize("size", [19, 20])
@pytest.mark.parametrize("shape", [(40, 40, 40), (41, 37, 46)])
@pytest.mark.parametrize("resolution", [0.0, 40.0])
def test_planted_particle_is_found_where_it_is(size, shape, resolution):
    """At its voxel, not half a voxel beside; with the nearest orientation; with a score of 1."""
    grid = rotation_grid(count=300)
    center = (17, 20, 22)
    tomogram = seen(blobs(shape, center, grid[123]), (-60, 60))
    match = match_template(
        volume(tomogram, tilt_range=(-60, 60)),
        template(size),
        rotations=grid,
        resolution=resolution,
    ).compute()
    score = match["score"].values
    assert np.unravel_index(score.argmax(), shape) == center
    assert match["rotation"].values[center] == 123
    assert score[center] == pytest.approx(1.0, abs=0.06)
    assert np.abs(score).max() < 1.1


def test_between_grid_rotations_the_nearest_is_taken():
    grid = rotation_grid(30.0)
    rng = np.random.default_rng(1)
    for turn in Rotation.random(4, rng=rng):
        tomogram = blobs((32,) * 3, (16, 15, 16), turn)
        match = match_template(
            volume(tomogram), template(), rotations=grid, resolution=0.0
        ).compute()
        best = match["rotation"].values[16, 15, 16]
        gaps = angular_distance(grid, turn)
        assert (
            gaps[best] <= np.sort(gaps)[2] + 1e-6
        )  # correlation's own nearest, of the first three


def test_wedge_has_the_tilt_ranges_direction():
    """The wedge of (-20, 70) is not that of (-70, 20): the right one scores 1, its mirror less."""
    shape, center = (40, 40, 40), (20, 19, 21)
    tomogram = seen(blobs(shape, center, TURNS[0]), (-20, 70))

    def score(tilt_range):
        match = match_template(
            volume(tomogram), template(), rotations=TURNS[:1], tilt_range=tilt_range, resolution=0.0
        )
        return float(match["score"].values[center])

    assert score((-20.0, 70.0)) == pytest.approx(1.0, abs=0.06)
    assert score((-70.0, 20.0)) < score((-20.0, 70.0)) - 0.15
    assert score((-90.0, 90.0)) < score((-20.0, 70.0)) - 0.05


def test_cut_band_agrees_with_the_full_grid_at_the_peak():
    """Cropped Fourier space and cubic interpolation lose next to nothing of a peak off the grid."""
    rng = np.random.default_rng(2)
    shape, center = (44, 44, 44), (21.4, 22.6, 20.5)
    tomogram = blobs(shape, center, TURNS[2]) + 0.2 * rng.normal(size=shape)
    low = match_template(volume(tomogram), template(), rotations=TURNS, resolution=55.0).compute()
    place = np.unravel_index(low["score"].values.argmax(), shape)
    assert np.abs(np.subtract(place, center)).max() <= 1
    assert low["rotation"].values[place] == 2
    want = reference_scores(
        tomogram, template().values, TURNS[[2]], [place], radius=low.attrs["diameter"] / 20,
        tilt_range=(-90, 90), box=(60, 60, 60), band=10 / 55,
    )  # fmt: skip
    assert low["score"].values[place] == pytest.approx(want[0, 0], abs=0.08)


def test_contrast_is_the_callers_to_say():
    tomogram = -blobs((32,) * 3, (16, 16, 16), TURNS[0])
    plain = match_template(volume(tomogram), template(), rotations=TURNS[:1], resolution=0.0)
    inverted = match_template(
        volume(tomogram), template(), rotations=TURNS[:1], resolution=0.0, invert=True
    )
    assert float(plain["score"].values[16, 16, 16]) == pytest.approx(-1, abs=0.06)
    assert float(inverted["score"].values[16, 16, 16]) == pytest.approx(1, abs=0.06)


@given(data=st.data())
@settings(deadline=None, max_examples=10)
def test_result_does_not_depend_on_chunks(data):
    rng = np.random.default_rng(0)
    shape = (30, 36, 33)
    tomogram = rng.normal(size=shape)
    resolution = data.draw(st.sampled_from([0.0, 60.0]))
    tile = data.draw(st.sampled_from([None, 16]))
    kwargs = {"rotations": TURNS[:3], "resolution": resolution, "tile": tile, "diameter": 100.0}
    chunks = data.draw(irregular_chunks(shape))
    with dask.config.set(scheduler="sync"):
        want = match_template(volume(tomogram), template(12), **kwargs).compute()
        got = match_template(volume(tomogram, chunks=chunks), template(12), **kwargs).compute()
    np.testing.assert_array_equal(got["score"].values, want["score"].values)  # equal, not close
    np.testing.assert_array_equal(got["rotation"].values, want["rotation"].values)


def test_result_does_not_depend_on_workers_and_batches(monkeypatch):
    from tomodask.picking.templates import matching as module

    tomogram = volume(np.random.default_rng(0).normal(size=(32,) * 3))
    grid = rotation_grid(count=150)
    runs = []
    for tasks, workers in [(1, 1), (32, 1), (32, 3)]:
        monkeypatch.setattr(module, "_TASKS", tasks)
        monkeypatch.setattr(module, "_FEWEST", 16)
        with dask.config.set(scheduler="threads", num_workers=workers):
            runs.append(match_template(tomogram, template(), rotations=grid).compute())
    for run in runs[1:]:
        np.testing.assert_array_equal(run["score"].values, runs[0]["score"].values)
        np.testing.assert_array_equal(run["rotation"].values, runs[0]["rotation"].values)


def test_no_task_gathers_the_results_of_all_batches(monkeypatch):
    from tomodask.picking.templates import matching as module

    monkeypatch.setattr(module, "_FEWEST", 2)
    match = match_template(
        volume(np.random.default_rng(0).normal(size=(32,) * 3)),
        template(),
        rotations=rotation_grid(count=150),
    )
    others = ("prepare", "plan", "turns")
    gathered = {
        str(key_of(key)): sum(
            str(one).startswith("match-") and str(one).split("-")[1] not in others
            for one in task.dependencies
        )
        for key, task in match["score"].data.dask.items()
    }
    assert sum(name.startswith("match-turns") for name in gathered) == 25
    gathering = {name.split("-")[1]: n for name, n in gathered.items() if n > 1}
    assert set(gathering) == {"merge"}
    assert max(gathering.values()) <= 4


def test_tiles_join_without_a_seam():
    """Tiles differ from one whole by what the wedge's filter smears over their border, no more."""
    shape = (64, 40, 40)
    tomogram = np.random.default_rng(0).normal(size=shape)
    center = (32, 20, 20)  # on the border of two cores
    tomogram = tomogram + 6 * blobs(shape, center, TURNS[0])
    kwargs = {"rotations": TURNS, "resolution": 0.0}
    whole = match_template(volume(tomogram), template(), **kwargs).compute()
    tiled = match_template(volume(tomogram), template(), tile=32, **kwargs).compute()
    assert np.unravel_index(tiled["score"].values.argmax(), shape) == center
    np.testing.assert_allclose(tiled["score"].values, whole["score"].values, atol=0.05)


def test_flat_regions_score_zero():
    tomogram = np.random.default_rng(0).normal(size=(48, 32, 32))
    tomogram[:28] = 7.0
    match = match_template(
        volume(tomogram), template(), rotations=TURNS, tilt_range=(-60.0, 60.0), resolution=0.0
    ).compute()
    assert (match["score"].values[:8] == 0).all()
    assert (match["score"].values[32:] != 0).all()
    flat = match_template(volume(np.full((32,) * 3, 3.0)), template(), rotations=TURNS).compute()
    assert (flat["score"].values == 0).all()


def test_large_offset_does_no_harm():
    tomogram = np.random.default_rng(0).normal(size=(32,) * 3).astype(np.float32)
    kwargs = {"rotations": TURNS, "resolution": 0.0}
    # 2^10 and whole sixteenths: the offset itself rounds nothing in float32
    tomogram = np.round(tomogram * 16) / 16
    plain = match_template(volume(tomogram), template(), **kwargs)["score"].values
    moved = match_template(volume(tomogram + 1024), template(), **kwargs)["score"].values
    np.testing.assert_allclose(moved, plain, atol=1e-4)


def test_builds_a_graph_and_computes_nothing():
    def never(*args, **kwargs):
        raise AssertionError("the graph was computed while it was being built")

    with dask.config.set(scheduler=never):
        match = match_template(volume(np.ones((64,) * 3), chunks=16), template(), angular_step=30.0)
    assert match["score"].dtype == np.float32
    assert match["rotation"].dtype == np.int32
    assert match["quaternion"].shape == (551, 4)
    assert {name.split("-")[0] for name in map(key_of, match.__dask_graph__())} >= {"match"}


def key_of(key):
    return key[0] if isinstance(key, tuple) else key


def test_template_diameter_is_the_particles():
    ball = (np.sum(np.square(np.indices((40,) * 3) - 20), axis=0) <= 9**2).astype(float)
    assert template_diameter(volume(ball, voxel_size=5.0)) == pytest.approx(5 * 19, abs=10)
    assert template_diameter(volume(ball + 100, voxel_size=5.0)) == pytest.approx(5 * 19, abs=10)


def test_voxels_that_are_no_number_are_named():
    tomogram = np.random.default_rng(0).normal(size=(40, 32, 32))
    tomogram[30, 4, 5] = np.nan
    match = match_template(
        volume(tomogram, source="grid1/tomo_7.mrc"), template(), rotations=TURNS, tile=20
    )
    with pytest.raises(
        InputError, match=r"grid1/tomo_7.mrc .* \(300, 40, 50\) Å, voxel \(30, 4, 5\)"
    ) as error:
        match.compute()
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


@pytest.mark.parametrize(
    ("tomogram", "model", "kwargs", "message"),
    [
        (np.ones((16,) * 3), template(20), {}, r"larger than the tomogram of \(16, 16, 16\)"),
        (np.ones((32,) * 3), volume(np.zeros((20,) * 3)), {}, "template is flat"),
        (np.ones((32,) * 3), volume(np.full((20,) * 3, 4.0)), {}, "template is flat"),
        (np.ones((32,) * 3), volume(np.full((20,) * 3, np.nan)), {}, "not finite"),
        (
            np.ones((32,) * 3),
            volume(template(20).values, voxel_size=5.0),
            {},
            "5 Å, is not the tomogram's, 10 Å: resample it, `tomodask convert .* --resample-to 10`",
        ),
        (np.ones((32,) * 3), template(20), {"angular_step": 0.0}, "angular_step must be above 0"),
        (np.ones((32,) * 3), template(20), {"tilt_range": (60.0, -60.0)}, r"got \(60, -60\)"),
        (np.ones((32,) * 3), template(20), {"diameter": 500.0}, "got 500 Å"),
        (np.ones((32,) * 3), template(20), {"resolution": -3.0}, "got -3 Å"),
        (np.ones((32,) * 3), template(20), {"tile": 2}, "at least 8 voxels, got 2"),
        (np.ones((32, 32)), template(20), {}, r"axes \(z, y, x\), got shape \(32, 32\)"),
    ],
)
def test_says_what_is_wrong_before_any_graph(tomogram, model, kwargs, message):
    if tomogram.ndim == 3:
        data = volume(tomogram, chunks=16)
    else:
        import xarray as xr

        data = xr.DataArray(tomogram, dims=("y", "x"), attrs={"voxel_size": 10.0})
    with pytest.raises(InputError, match=message):
        match_template(data, model, **kwargs)


def test_an_unknown_tilt_range_is_asked_for():
    tomogram = volume(np.random.default_rng(0).normal(size=(32,) * 3), tilt_range=None)
    with pytest.raises(
        InputError,
        match=r"not say its tilt range; give it: tilt_range=\(-60, 60\) or --tilt-range -60 60",
    ):
        match_template(tomogram, template(), rotations=TURNS)
    match = match_template(tomogram, template(), rotations=TURNS, tilt_range=(-90.0, 90.0))
    assert match.attrs["tilt_range"] == (-90.0, 90.0)
