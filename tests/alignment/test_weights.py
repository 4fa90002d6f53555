"""Alignment and averaging by the record of the tilt series, not by its range alone."""

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from alignment.scenes import VOXEL, dataset_of

from tomodask.alignment import refinement
from tomodask.alignment.measurement import LEAST_WEIGHT, Measurement, measurements
from tomodask.alignment.plan import plan_alignment
from tomodask.alignment.poses import align_subtomograms
from tomodask.arrays.geometry import angular_distance
from tomodask.arrays.sampling import half_sphere, spectrum_at
from tomodask.arrays.tilt_weights import tilt_weights
from tomodask.averaging.averages import average_subtomograms
from tomodask.averaging.fsc import fsc
from tomodask.data.particles import orientations
from tomodask.errors import InputError
from tomodask.simulation.phantom import phantom_map, phantom_subtomograms

N = 32
FAST = {"angular_step": 30.0, "shift_range": 20.0}


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="sync"):
        yield


def record(defocus=None, *, low=-60.0, high=60.0, **more):
    angle = np.arange(low, high + 1, 2.0)
    lens = {} if defocus is None else {
        "defocus_u": [defocus] * len(angle), "voltage": 300.0, "spherical_aberration": 2.7,
        "amplitude_contrast": 0.07,
    }  # fmt: skip
    return {
        "angle": angle.tolist(), "weight": [float(np.deg2rad(2.0))] * len(angle),
        "pixel_size": VOXEL, "phase_flipped": False, "dose_weighted": False, "method": "wbp",
        **lens, **more,
    }  # fmt: skip


def scene(count, records, *, snr=1e9, seed=0, chunks=1):
    """Boxes of several tomograms in turn: w(k) times the particle, and white noise of a variance.

    SNR: variance of the particle in its box, before the weights, by that of the noise.
    """
    clean, truth = phantom_subtomograms(
        count, box=N, voxel_size=VOXEL, snr=1e9, tilt_range=(-90.0, 90.0), shift_range=15.0,
        seed=seed,
    )  # fmt: skip
    rng, names = np.random.default_rng(seed + 100), list(records)
    weights = {name: tilt_weights(N, VOXEL, records[name]) for name in names}
    volumes = np.empty_like(clean)
    for i, box in enumerate(clean):
        spectrum = np.fft.rfftn(np.fft.ifftshift(box)) * weights[names[i % len(names)]]
        noise = rng.normal(size=box.shape) * box.std() / np.sqrt(snr)
        seen = np.fft.fftshift(np.fft.irfftn(spectrum, s=box.shape, axes=(0, 1, 2)))
        volumes[i] = (seen + noise).astype(np.float32)
    truth = truth.assign(tilt_min=-60.0, tilt_max=60.0)
    dataset = dataset_of(volumes, truth, chunks=chunks)
    dataset = dataset.assign_coords(
        tomogram=("particle", np.array([names[i % len(names)] for i in range(count)], object))
    )
    return dataset, truth, phantom_map(voxel_size=VOXEL, box=N)


def with_records(dataset, records):
    return dataset.assign_attrs(tilt_series=records)


def errors(poses, truth):
    return angular_distance(orientations(poses), orientations(truth))


def test_poses_of_boxes_seen_through_a_lens():
    """At 6 µm the contrast turns over three times within the band: a range alone misleads."""
    records = {"a": record(60000.0)}
    dataset, truth, reference = scene(16, records, snr=0.1)
    blind = errors(align_subtomograms(dataset, reference).compute(), truth)
    seeing = errors(align_subtomograms(with_records(dataset, records), reference).compute(), truth)
    assert np.median(blind) > 2.5 * np.median(seeing)
    assert seeing.max() < 2


def test_accuracy_is_what_the_information_allows():
    """Errors without a lens, scaled by the root of the share of information that the lens left."""
    lens, plain = {"a": record(30000.0)}, {"a": record()}
    dataset, truth, reference = scene(24, lens, snr=0.1, seed=1)
    clear, _, _ = scene(24, plain, snr=0.1, seed=1)
    seen = errors(align_subtomograms(with_records(dataset, lens), reference).compute(), truth)
    floor = errors(align_subtomograms(with_records(clear, plain), reference).compute(), truth)
    k = half_sphere(N / 2 - 1)
    power = np.abs(spectrum_at(reference.to_numpy(), k)) ** 2 * (k**2).sum(1)
    z, y, x = k.astype(int).T
    left, all_ = (
        (power * tilt_weights(N, VOXEL, one["a"])[z, y, x] ** 2).sum() for one in (lens, plain)
    )
    assert np.median(seen) < 1.5 * np.median(floor) * np.sqrt(all_ / left)


def test_without_a_record_nothing_changes():
    """Neither a record of other tomograms nor one that a tilt range takes the place of."""
    dataset, truth, reference = scene(4, {"a": record()}, snr=0.3)
    want = align_subtomograms(dataset, reference, **FAST).compute()
    others = with_records(dataset, {"b": record(50000.0)})
    pd.testing.assert_frame_equal(
        align_subtomograms(others, reference, **FAST).compute(), want, check_exact=True
    )
    mine = with_records(dataset, {"a": record(50000.0)})
    got = align_subtomograms(mine, reference, tilt_range=(-60, 60), **FAST).compute()
    pd.testing.assert_frame_equal(got, want, check_exact=True)
    one = average_subtomograms(dataset, poses=truth).compute()
    two = average_subtomograms(mine, poses=truth, tilt_range=(-60, 60)).compute()
    np.testing.assert_array_equal(one.average, two.average)
    three = average_subtomograms(mine, poses=truth).compute()
    assert not np.array_equal(one.average, three.average)


def test_weights_of_one_are_no_weights():
    rng = np.random.default_rng(2)
    plan = plan_alignment(
        phantom_map(voxel_size=VOXEL, box=N).to_numpy(),
        tilt_range=(-60.0, 60.0), angular_step=30.0, shift_range=2.0,
    )  # fmt: skip
    assert plan.weights is None
    k, ones = plan.frequencies, np.ones(len(plan.frequencies), np.float32)
    data = spectrum_at(rng.normal(size=(N, N, N)), k)
    args = (plan.spectrum, k, data, np.eye(3), np.array([1.0, 0.5, -1.0]))
    assert refinement.correlation(*args, ones) == pytest.approx(refinement.correlation(*args))
    np.testing.assert_array_equal(
        refinement.normal_equations(*args, weights=ones), refinement.normal_equations(*args)
    )


def test_weights_multiply_the_model_and_its_derivatives():
    """Reference: the same sums by hand, from single Fourier voxels without weights."""
    rng = np.random.default_rng(3)
    plan = plan_alignment(
        phantom_map(voxel_size=VOXEL, box=N).to_numpy(),
        tilt_range=(-60.0, 60.0), angular_step=30.0, shift_range=2.0,
    )  # fmt: skip
    k = np.ascontiguousarray(plan.frequencies[::40])
    w = rng.uniform(-1, 1, len(k)).astype(np.float32)
    data = spectrum_at(rng.normal(size=(N, N, N)), k)
    args = (plan.spectrum, k, data, np.eye(3), np.array([1.0, 0.5, -1.0]))
    want = np.zeros((8, 8))
    for j in range(len(k)):
        scale = np.append(np.full(7, w[j], float), 1.0)
        want += refinement.normal_equations(*args, part=slice(j, j + 1)) * np.outer(scale, scale)
    got = refinement.normal_equations(*args, weights=w)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
    correlation = want[6, 7] / np.sqrt(want[6, 6] * want[7, 7])
    assert refinement.correlation(*args, w) == pytest.approx(correlation, abs=1e-4)


def test_the_plan_leaves_out_what_was_not_measured():
    reference, series = phantom_map(voxel_size=VOXEL, box=N).to_numpy(), record(60000.0)
    plan = plan_alignment(
        reference, tilt_range=(np.nan, np.nan), angular_step=20.0, shift_range=2.0,
        record=series, voxel_size=VOXEL,
    )  # fmt: skip
    z, y, x = plan.frequencies.astype(int).T
    np.testing.assert_array_equal(plan.weights, tilt_weights(N, VOXEL, series)[z, y, x])
    assert np.abs(plan.weights).min() >= LEAST_WEIGHT
    assert (plan.weights < -0.3).any()
    for stage in plan.stages:
        np.testing.assert_array_equal(stage.weights, plan.weights[stage.index])
    model = plan.grid.model
    np.testing.assert_allclose(np.linalg.norm(model, axis=1), 1, rtol=1e-5)
    nothing = record(pre_exposure=[1e5] * 61)
    with pytest.raises(InputError, match=r"holds nothing of detail coarser than .* Å"):
        plan_alignment(
            reference, tilt_range=(np.nan, np.nan), angular_step=20.0, shift_range=2.0,
            record=nothing, voxel_size=VOXEL,
        )  # fmt: skip


@pytest.mark.parametrize("chunks", [1, 3, 7])
@pytest.mark.parametrize("batch", [1, 2, 32])
def test_two_tomograms_in_one_set_whatever_the_batches(chunks, batch):
    records = {"a": record(40000.0), "b": record(60000.0, low=-40.0, high=40.0)}
    dataset, _, reference = scene(7, records, snr=0.5)
    dataset = with_records(dataset, records)
    want = align_subtomograms(dataset, reference, **FAST).compute()
    again = with_records(scene(7, records, snr=0.5, chunks=chunks)[0], records)
    got = align_subtomograms(again, reference, batch=batch, **FAST).compute()
    pd.testing.assert_frame_equal(got, want, check_exact=True)
    alone = again.isel(particle=[1, 3, 5])  # those of b
    got = align_subtomograms(alone, reference, batch=batch, **FAST).compute()
    pd.testing.assert_frame_equal(got, want.iloc[[1, 3, 5]], check_exact=True)


@pytest.mark.parametrize("chunks", [1, 5])
def test_averages_of_two_tomograms_do_not_depend_on_chunks(chunks):
    records = {"a": record(40000.0), "b": record(60000.0, low=-40.0, high=40.0)}
    dataset, truth, _ = scene(6, records)
    want = average_subtomograms(with_records(dataset, records), poses=truth, batch=2).compute()
    again = with_records(scene(6, records, chunks=chunks)[0], records)
    got = average_subtomograms(again, poses=truth, batch=2).compute(scheduler="threads")
    np.testing.assert_array_equal(got.average, want.average)


def test_checkpoints_tell_records_apart(tmp_path):
    dataset, _, reference = scene(3, {"a": record(40000.0)}, snr=0.5)
    one, two = (with_records(dataset, {"a": record(d)}) for d in (40000.0, 41000.0))
    job = {"checkpoint": tmp_path / "batches", "batch": 1, **FAST}
    want = align_subtomograms(one, reference, **job).compute()
    pd.testing.assert_frame_equal(
        align_subtomograms(one, reference, **job).compute(), want, check_exact=True
    )
    with pytest.raises(InputError, match="holds batches of another job"):
        align_subtomograms(two, reference, **job)
    with pytest.raises(InputError, match="holds batches of another job"):
        align_subtomograms(dataset, reference, **job)


def shells(result, reference):
    return fsc(result.average, reference.to_numpy(), voxel_size=VOXEL)["correlation"].to_numpy()


def test_the_average_of_two_defoci_is_the_particle():
    records = {"a": record(40000.0), "b": record(55000.0)}
    dataset, truth, reference = scene(60, records, snr=1.0, seed=4)
    seeing = average_subtomograms(with_records(dataset, records), poses=truth).compute()
    blind = average_subtomograms(dataset, poses=truth).compute()
    good, bad = shells(seeing, reference), shells(blind, reference)
    assert good[2:13].min() > 0.9
    assert good[2:13].mean() > bad[2:13].mean() + 0.25
    halves = seeing.fsc()["correlation"].to_numpy()
    assert halves[2:9].min() > 0.9


def test_a_clean_average_keeps_its_height_where_the_contrast_was_seen():
    records = {"a": record(20000.0), "b": record(30000.0), "c": record(38000.0)}
    dataset, truth, reference = scene(60, records, seed=5)
    result = average_subtomograms(with_records(dataset, records), poses=truth).compute()
    assert shells(result, reference)[2:14].min() > 0.95
    k = half_sphere(13.0)
    k = k[np.linalg.norm(k, axis=1) > 3]
    got, want = (spectrum_at(v, k) for v in (result.average, reference.to_numpy()))
    slope = np.vdot(want, got).real / np.vdot(want, want).real
    assert slope == pytest.approx(1, abs=0.08)


def test_what_was_measured_of_each_particle(caplog):
    a, b = record(4e4), record(5e4)
    table = pd.DataFrame(
        {"tomogram": ["u", "v", "w", "u", "x"], "tilt_min": -50.0, "tilt_max": 50.0}
    )
    kind, kinds = measurements(table, {"tilt_series": {"u": a, "v": b, "w": dict(a)}}, None)
    assert len(kinds) == 3
    assert kinds[kind[4]].tilt_range == (-50.0, 50.0)
    assert kinds[kind[4]].record is None
    assert kind[0] == kind[2] == kind[3] != kind[1]  # equal records are one
    assert kinds[kind[0]].record["defocus_u"][0] == 4e4
    assert "1 of 5 particles are of tomograms without a record" in caplog.text
    bare = pd.DataFrame(index=range(2))  # boxes of one tomogram need not name it
    kind, kinds = measurements(bare, {"tilt_series": {"u": a}}, None)
    assert [one.record is not None for one in kinds] == [True]
    with pytest.raises(InputError, match="carry no tilt range"):
        measurements(bare, {"tilt_series": {"u": a, "v": b}}, None)
    with pytest.raises(InputError, match="subtomograms, tomogram u: the record"):
        measurements(table, {"tilt_series": {"u": {"angle": [1.0]}}}, None)
    with pytest.raises(InputError, match="tilt_series must be a table of tomograms"):
        measurements(table, {"tilt_series": [a]}, None)


def test_weights_between_fourier_voxels():
    series = record(30000.0)
    one = Measurement((np.nan, np.nan), series)
    volume = one.volume(box=N, voxel_size=VOXEL)
    m = volume.shape[2] - 1
    assert volume.shape == (2 * m + 1, 2 * m + 1, m + 1)
    k = half_sphere(N / 2 - 1)
    z, y, x = 2 * k.astype(int).T
    w = one.weights(k, box=N, voxel_size=VOXEL)
    whole = volume[z + m, y + m, x]
    np.testing.assert_allclose(np.where(np.abs(whole) < LEAST_WEIGHT, 0, whole), w, atol=1e-5)
    wedge = Measurement((-60.0, 60.0)).weights(k, box=N, voxel_size=VOXEL)
    assert set(wedge) == {0.0, 1.0}


def test_boxes_in_memory_will_do():
    records = {"a": record(40000.0)}
    dataset, truth, reference = scene(3, records, snr=0.5)
    lazy = with_records(dataset, records)
    assert isinstance(lazy, xr.Dataset)
    want = align_subtomograms(lazy, reference, **FAST).compute()
    pd.testing.assert_frame_equal(
        align_subtomograms(lazy.load(), reference, **FAST).compute(), want, check_exact=True
    )
    assert truth is not None
