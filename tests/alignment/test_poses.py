"""Poses of many particles: right, the same whatever runs them, and kept when killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
from alignment.scenes import VOXEL, boxes, dataset_of
from dask.utils import key_split
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_info

from tomodask.alignment import candidate_bag as module
from tomodask.alignment.plan import plan_alignment
from tomodask.alignment.poses import align_subtomograms
from tomodask.alignment.refinement import Stage, refine_pose
from tomodask.arrays.geometry import angular_distance
from tomodask.arrays.sampling import spectrum_at
from tomodask.arrays.threads import one_thread_each
from tomodask.data.particles import orientations
from tomodask.data.subtomograms import open_subtomograms, save_subtomograms
from tomodask.errors import InputError

SHIFT = ["shift_z", "shift_y", "shift_x"]
FAST = {"angular_step": 30.0, "shift_range": 20.0}


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="sync"):
        yield


def never_compute(*args, **kwargs):
    raise AssertionError("the graph was computed while it was being built")


@pytest.mark.parametrize("box", [32, 33])
@pytest.mark.parametrize("tilt_range", [(-60.0, 60.0), (-65.0, 40.0), (-90.0, 90.0)])
def test_finds_the_poses(box, tilt_range):
    dataset, truth, reference = boxes(8, box=box, tilt_range=tilt_range)
    table = align_subtomograms(dataset, reference, shift_range=24.0).compute()
    assert angular_distance(orientations(table), orientations(truth)).max() < 2.5
    np.testing.assert_allclose(table[SHIFT], truth[SHIFT], atol=0.5 * VOXEL)
    assert table["score"].between(0.2, 1).all()


def test_accuracy_is_that_of_the_maximum_likelihood():
    """Within 15 % of poses refined from the truth over the same voxels, which noise alone moves."""
    dataset, truth, reference = boxes(24, snr=0.05, seed=3)
    volume = np.asarray(reference)
    plan = plan_alignment(volume, tilt_range=(-60.0, 60.0), angular_step=20.0, shift_range=3.2)
    last = plan.stages[-1]
    whole = Stage(last.frequencies, last.index, 1, 30)
    floor = []
    for i, box in enumerate(dataset["subtomogram"].to_numpy()):
        start = orientations(truth)[i]
        matrix, _ = refine_pose(
            plan.spectrum,
            whole,
            spectrum_at(box, last.frequencies),
            start.as_matrix(),
            truth.loc[i, ["shift_x", "shift_y", "shift_z"]].to_numpy(float) / VOXEL,
            rng=np.random.default_rng(0),
            turn_limit=0.1,
            shift_limit=1.0,
        )
        floor.append(angular_distance(Rotation.from_matrix(matrix), start))
    table = align_subtomograms(dataset, reference).compute()
    error = angular_distance(orientations(table), orientations(truth))
    assert np.median(error) <= 1.15 * np.median(floor)
    assert error.max() < 10


def test_builds_a_graph_and_computes_nothing():
    dataset, _, reference = boxes(3)
    with dask.config.set(scheduler=never_compute):
        reference = reference.compute(scheduler="sync")
        align_subtomograms(dataset, reference, **FAST)


def interleaved(count, chunks=1):
    """Boxes of three measurements in turn and out of step with all chunks, and the reference."""
    dataset, _, reference = boxes(count, chunks=chunks)
    tilts = np.array([-60.0, -50.0, -55.0])[np.arange(count) * 2 % 3]
    return dataset.assign_coords(tilt_min=("particle", tilts)), reference


@pytest.mark.parametrize("chunks", [1, 3, 7, (2, 0, 4, 1)], ids=str)
@pytest.mark.parametrize(("batch", "split_every"), [(2, 2), (3, 8), (32, 8), (None, 2)])
@pytest.mark.parametrize("whiten", [False, True])
def test_chunks_batches_and_tree_change_nothing(chunks, batch, split_every, whiten):
    dataset, reference = interleaved(7)
    want = align_subtomograms(dataset, reference, whiten=whiten, batch=1, **FAST).compute()
    data = dataset["subtomogram"].data.rechunk({0: chunks})
    got = align_subtomograms(
        dataset.assign(subtomogram=dataset["subtomogram"].copy(data=data)),
        reference,
        batch=batch,
        split_every=split_every,
        whiten=whiten,
        **FAST,
    ).compute()
    pd.testing.assert_frame_equal(got, want, check_exact=True)  # equal, not close


def test_boxes_in_one_array_and_stored_ones_tell_the_same(tmp_path):
    dataset, reference = interleaved(20)
    want = align_subtomograms(dataset, reference, **FAST).compute()
    save_subtomograms(dataset, tmp_path / "boxes.zarr")
    for same in (open_subtomograms(tmp_path / "boxes.zarr"), dataset.compute()):
        got = align_subtomograms(same, reference, **FAST).compute()
        pd.testing.assert_frame_equal(
            got.drop(columns="image"), want.drop(columns="image"), check_exact=True
        )


def test_measurements_side_by_side_are_as_by_themselves():
    dataset, reference = interleaved(9)
    together = align_subtomograms(dataset, reference, **FAST).compute()
    for tilt in (-60.0, -55.0, -50.0):
        mine = np.flatnonzero(dataset["tilt_min"] == tilt)
        alone = align_subtomograms(dataset.isel(particle=mine), reference, **FAST).compute()
        pd.testing.assert_frame_equal(together.iloc[mine], alone, check_exact=True)


@pytest.mark.parametrize("whiten", [False, True])
def test_what_the_graph_holds(tmp_path, whiten):
    """Two tasks a partition and a plan a measurement, whatever the measurements' order."""
    dataset, reference = interleaved(100)
    save_subtomograms(dataset, tmp_path / "boxes.zarr")
    stored = open_subtomograms(tmp_path / "boxes.zarr")
    (ready,) = dask.optimize(align_subtomograms(stored, reference, whiten=whiten, **FAST))
    graph = dict(ready.__dask_graph__())
    tasks = {}
    for key in graph:
        tasks.setdefault(key_split(key), []).append(key)
    parts = 7  # of 16 particles
    counts = {name: len(keys) for name, keys in tasks.items()}
    noise = {"noise": parts, "noise_frequencies": 3, "noise_of": 3} if whiten else {}
    assert counts == {
        "plan": 3, "search": parts, "refine": parts, "best": 1, "settings": 1, "pose_table": 1,
        **noise,
    }  # fmt: skip
    # boxes are read by the task that searches them, which candidates do not leave but for refine
    for key in tasks["search"]:
        assert {key_split(one) for one in graph[key].dependencies} == {"plan"}
    for key in tasks["refine"]:
        assert {key_split(one) for one in graph[key].dependencies} == {"plan", "search"}


def test_workers_change_nothing():
    dataset, _, reference = boxes(6)
    want = align_subtomograms(dataset, reference, **FAST).compute()
    got = align_subtomograms(dataset, reference, batch=1, **FAST).compute(
        scheduler="threads", num_workers=3
    )
    pd.testing.assert_frame_equal(got, want, check_exact=True)


def blas_threads():
    return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]


def test_tasks_side_by_side_hold_blas_to_one_thread_until_the_last_ends():
    before = blas_threads()
    seen, first, second = [], threading.Event(), threading.Event()

    def short():
        with one_thread_each():
            first.wait(10)

    def long():
        with one_thread_each():
            first.set()
            second.wait(10)
            seen.append(blas_threads())

    one, two = threading.Thread(target=short), threading.Thread(target=long)
    one.start()
    two.start()
    one.join()
    second.set()
    two.join()
    assert seen == [[1] * len(before)]
    assert blas_threads() == before


def test_a_particle_is_the_same_in_any_company():
    dataset, _, reference = boxes(6)
    want = align_subtomograms(dataset, reference, **FAST).compute().loc[[4, 1, 5]]
    got = align_subtomograms(dataset.isel(particle=[4, 1, 5]), reference, **FAST).compute()
    pd.testing.assert_frame_equal(got, want, check_exact=True)


def test_two_wedges_in_one_set():
    first, truth_1, reference = boxes(3, tilt_range=(-60.0, 60.0))
    second, truth_2, _ = boxes(3, tilt_range=(-40.0, 65.0), seed=1)
    mixed = [0, 3, 1, 4, 2, 5]
    volumes = np.concatenate([first["subtomogram"], second["subtomogram"]])[mixed]
    truth = pd.concat([truth_1, truth_2], ignore_index=True).loc[mixed].reset_index(drop=True)
    table = align_subtomograms(dataset_of(volumes, truth), reference, batch=2).compute()
    assert angular_distance(orientations(table), orientations(truth)).max() < 3


def test_finished_batches_are_not_done_again(tmp_path, monkeypatch):
    dataset, _, reference = boxes(6)
    job = {"batch": 2, "checkpoint": tmp_path / "batches", **FAST}
    want = align_subtomograms(dataset, reference, **job).compute()
    files = sorted((tmp_path / "batches").glob("*.npy"))
    assert len(files) == 3
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:40])  # damaged: done again as well
    done = []
    search = module.search
    monkeypatch.setattr(module, "search", lambda *a, **k: done.append(1) or search(*a, **k))
    got = align_subtomograms(dataset, reference, **job).compute()
    assert len(done) == 2
    pd.testing.assert_frame_equal(got, want, check_exact=True)
    got = align_subtomograms(dataset, reference, **job).compute()
    assert len(done) == 2
    pd.testing.assert_frame_equal(got, want, check_exact=True)
    files[1].write_bytes(files[0].read_bytes())  # of other particles: done again
    got = align_subtomograms(dataset, reference, **job).compute()
    assert len(done) == 3
    pd.testing.assert_frame_equal(got, want, check_exact=True)


def test_checkpoint_of_another_job_is_refused(tmp_path):
    dataset, _, reference = boxes(3)
    align_subtomograms(dataset, reference, checkpoint=tmp_path, **FAST).compute()
    with pytest.raises(InputError, match=r"holds batches of another job.*give another folder"):
        align_subtomograms(dataset, reference, checkpoint=tmp_path, angular_step=25.0)


_JOB = """
import sys; sys.path.insert(0, {tests!r})
import dask; dask.config.set(scheduler="sync")
from alignment.scenes import boxes
from tomodask.alignment.poses import align_subtomograms
from tomodask.alignment.refinement import Stage
dataset, _, reference = boxes(12)
align_subtomograms(dataset, reference, angular_step=30.0, shift_range=20.0, batch=1,
                   checkpoint={folder!r}).compute()
"""


def test_killed_job_goes_on_and_ends_the_same(tmp_path):
    dataset, _, reference = boxes(12)
    want = align_subtomograms(dataset, reference, batch=1, **FAST).compute()
    folder = tmp_path / "batches"
    code = _JOB.format(tests=str(Path(__file__).parents[1]), folder=str(folder))
    child = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.npy"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert 2 <= len(list(folder.glob("*.npy"))) <= 12
    got = align_subtomograms(dataset, reference, batch=1, checkpoint=folder, **FAST).compute()
    pd.testing.assert_frame_equal(got, want, check_exact=True)


def test_checkpoint_sees_that_boxes_changed_under_their_names(tmp_path):
    dataset, truth, reference = boxes(3)
    align_subtomograms(dataset, reference, checkpoint=tmp_path, **FAST).compute()
    other = dataset_of(dataset["subtomogram"].to_numpy()[::-1].copy(), truth)
    with pytest.raises(InputError, match="holds batches of another job"):
        align_subtomograms(other, reference, checkpoint=tmp_path, **FAST)


@pytest.mark.parametrize("reach", [0.0, 8.0])
def test_no_pose_leaves_the_shift_range(reach):
    dataset, _, reference = boxes(6)
    table = align_subtomograms(dataset, reference, angular_step=30.0, shift_range=reach).compute()
    assert table[SHIFT].abs().max().max() <= reach + 1e-9


def test_two_wedges_that_print_alike(tmp_path):
    dataset, _, reference = boxes(4)
    tilts = [-60.00001, -60.00002, -60.00001, -60.00002]
    dataset = dataset.assign_coords(tilt_min=("particle", tilts))
    job = {"batch": 1, **FAST}
    want = align_subtomograms(dataset, reference, **job).compute()
    for _ in range(2):
        got = align_subtomograms(dataset, reference, checkpoint=tmp_path, **job).compute()
        pd.testing.assert_frame_equal(got, want, check_exact=True)


def spoiled(dataset, truth):
    """Boxes of which the second holds NaN, the fourth infinity and the fifth one value only."""
    volumes = dataset["subtomogram"].to_numpy().copy()
    volumes[1, 4, 5, 6] = np.nan
    volumes[3, 4, 5, 6] = np.inf
    volumes[4] = 4.0
    return dataset_of(volumes, truth)


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_boxes_that_hold_nothing_are_set_aside_and_the_rest_goes_on(batch, caplog, tmp_path):
    dataset, truth, reference = boxes(6)
    want = align_subtomograms(dataset, reference, **FAST).compute()
    bad = spoiled(dataset, truth)
    job = {"batch": batch, "checkpoint": tmp_path, **FAST}
    got = align_subtomograms(bad, reference, **job).compute()
    assert "3 of 6 particles are set aside, without a pose: 1@boxes (the box holds" in caplog.text
    again = align_subtomograms(bad, reference, **job).compute()  # from the checkpoint
    pd.testing.assert_frame_equal(again, got, check_exact=True)
    aside = [1, 3, 4]
    assert got.loc[aside, "reason"].tolist() == [
        "the box holds NaN or infinite voxels",
        "the box holds NaN or infinite voxels",
        "the box holds one value only",
    ]
    pose = ["quat_x", "quat_y", "quat_z", "quat_w", *SHIFT, "score"]
    assert got.loc[aside, pose].isna().all(axis=None)
    rest = got.drop(index=aside)
    assert rest["reason"].eq("").all()
    pd.testing.assert_frame_equal(
        rest.drop(columns="reason"), want.drop(index=aside), check_exact=True
    )
    assert "reason" not in want


@pytest.mark.parametrize("exponent", [120, 40, -80])
@pytest.mark.parametrize("method", ["fourier", "lm"])
def test_no_scale_overflows(exponent, method):
    """Squares of such values do not fit single precision; a power of two loses no bit."""
    dataset, truth, reference = boxes(2)
    job = {"method": method, **FAST}
    want = align_subtomograms(dataset, reference, **job).compute()
    scale = np.float32(2.0**exponent)
    scaled = dataset_of(dataset["subtomogram"].to_numpy() * scale, truth)
    got = align_subtomograms(scaled, reference * scale, **job).compute()
    # Levenberg-Marquardt adds a little of a product to another: equal but for rounding
    pd.testing.assert_frame_equal(got, want, check_exact=method == "fourier")


def test_scores_of_other_references_do_not_stay():
    dataset, _, reference = boxes(2)
    old = {name: ("particle", [0.9, 0.8]) for name in ("score", "score_1", "score_2")}
    table = align_subtomograms(dataset.assign_coords(old), reference, **FAST).compute()
    assert not {"score_1", "score_2"} & set(table)
    assert (table["score"] < 0.7).all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"angular_step": 0.5}, "angular_step must be within 1 to 90°, got 0.5"),
        ({"shift_range": 900.0}, "within 0 to 160 Å, half the box, got 900"),
        ({"resolution": 12.0}, "at least two voxels, 20 Å, got 12"),
        ({"diameter": 900.0}, "40 to 320 Å, got 900$"),
        ({"tilt_range": (60, -60)}, "tilt_range must rise within -90 to 90°, got 60 to -60"),
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"split_every": 1}, "split_every must be at least 2, got 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_says_what_is_wrong(kwargs, message):
    dataset, _, reference = boxes(2)
    with pytest.raises(InputError, match=message):
        align_subtomograms(dataset, reference, **kwargs)


def test_reference_must_fit_the_boxes():
    dataset, _, reference = boxes(2)
    with pytest.raises(InputError, match=r"reference has \(30, 32, 32\) voxels, the boxes have"):
        align_subtomograms(dataset, reference[1:-1])
    with pytest.raises(InputError, match=r"voxels of 8 Å, the boxes 10 Å.*--resample-to 10"):
        align_subtomograms(dataset, reference.assign_attrs(voxel_size=8.0))
    with pytest.raises(InputError, match="unequal values, got zeros only; give the map"):
        align_subtomograms(dataset, reference * 0)
    with pytest.raises(InputError, match=r"reference 2 must hold finite.*a constant or NaN map"):
        align_subtomograms(dataset, [reference, reference * np.nan])
    with pytest.raises(InputError, match="a map or several, got an empty list"):
        align_subtomograms(dataset, [])


def test_missing_tilt_range_says_how_to_give_it():
    dataset, _, reference = boxes(2)
    with pytest.raises(InputError, match=r"tilt_range=\(-60, 60\), --tilt-range -60 60"):
        align_subtomograms(dataset.drop_vars(["tilt_min", "tilt_max"]), reference)
