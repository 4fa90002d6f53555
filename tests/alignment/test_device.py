"""What runs on a GPU, run on NumPy and on the strict array API: against the compiled kernels."""

import logging

import dask
import numpy as np
import pandas as pd
import pytest
from alignment import scenes
from alignment.test_weights import record
from scipy.spatial.transform import Rotation

from tomodask.alignment import (
    device_sampling,
    particle_batches,
    refinement,
    refinement_device,
    search,
    search_device,
    steps,
)
from tomodask.alignment.particle import best_poses
from tomodask.alignment.particle_batches import find_candidates_of, refine_candidates_of
from tomodask.alignment.plan import plan_alignment
from tomodask.alignment.poses import align_subtomograms
from tomodask.arrays.backend import DEVICE
from tomodask.arrays.geometry import angular_distance, matrices_zyx, rotation_grid
from tomodask.arrays.sampling import half_sphere, padded_spectrum, sample, spectrum_at
from tomodask.arrays.symmetry import symmetry_group
from tomodask.data.particles import orientations
from tomodask.simulation.phantom import phantom_map, phantom_particle, phantom_subtomograms

N, VOXEL = 32, 10.0
RANGE = {"tilt_range": (-60.0, 60.0)}
REFERENCE = phantom_map(voxel_size=VOXEL, box=N).to_numpy()


@pytest.fixture(params=["numpy", "array_api_strict"])
def xp(request):
    return pytest.importorskip(request.param, reason=f"{request.param} is not installed")


def job(volumes=REFERENCE, **more):
    settings = {**RANGE, "angular_step": 30.0, "shift_range": 3.0, **more}
    return plan_alignment(volumes, **settings)


def phantoms(count, snr, seed=1):
    boxes, truth = phantom_subtomograms(
        count, box=N, voxel_size=VOXEL, snr=snr, shift_range=20.0, seed=seed
    )
    return boxes, truth


def both(xp, boxes, plans, place=None, given=None, count=6):
    """Candidates and poses by the compiled kernels and by `xp`."""
    out = []
    for library in (None, xp):
        ids = 100 + np.arange(len(boxes))
        found = find_candidates_of(boxes, 7, ids, plans, place, given, count=count, xp=library)
        poses = refine_candidates_of(found, plans, place, seed=3, xp=library)
        out.append((found, best_poses(poses)))
    return out


def assert_alike(xp, *args, **more):
    """The same candidates; poses within 0.01° and 0.001 voxel."""
    (found, poses), (theirs, others) = both(xp, *args, **more)
    for a, b in zip(found, theirs, strict=True):
        assert (a.particle, a.identity, a.fault) == (b.particle, b.identity, b.fault)
        assert a.data.dtype == b.data.dtype
        np.testing.assert_allclose(b.data, a.data, atol=1e-5 * np.abs(a.data).max(initial=1e-9))
        for (m, t), (n, u) in zip(a.starts, b.starts, strict=True):
            np.testing.assert_allclose(n, m, atol=1e-12)
            np.testing.assert_allclose(u, t, atol=1e-12)
    for name in ("particle", "reference", "fault"):
        np.testing.assert_array_equal(others[name], poses[name])
    good = poses["fault"] == 0
    a, b = (Rotation.from_matrix(rows["matrix"][good]) for rows in (poses, others))
    assert angular_distance(a, b).max(initial=0) < 0.01
    np.testing.assert_allclose(others["shift_xyz"], poses["shift_xyz"], atol=1e-3)
    np.testing.assert_allclose(others["score"], poses["score"], atol=1e-5)
    return others


@pytest.mark.parametrize("snr", [0.3, 0.1, 0.03, 0.01])
def test_poses_of_the_global_search(xp, snr):
    boxes, _ = phantoms(5, snr)
    assert_alike(xp, boxes, [job(angular_step=20.0)])


def test_poses_of_a_symmetric_reference(xp):
    group, phantom, rng = symmetry_group("C4"), phantom_particle(), np.random.default_rng(2)

    def symmetric(turn):
        return sum(phantom.density(box=N, voxel_size=VOXEL, rotation=turn * g) for g in group)

    boxes = [symmetric(Rotation.random(rng=rng)) for _ in range(4)]
    boxes = [box + rng.normal(size=box.shape) * box.std() * 5 for box in boxes]
    assert_alike(xp, boxes, [job(symmetric(Rotation.identity()), symmetry="C4")])


@pytest.mark.parametrize(("local", "reach"), [(0.0, 2.0), (25.0, 1.0)])
def test_poses_of_a_local_search(xp, local, reach):
    """From poses that are wrong too, so that the bounds hold some."""
    boxes, truth = phantoms(4, 0.1)
    quaternions = truth[[f"quat_{axis}" for axis in "xyzw"]].to_numpy()
    off = Rotation.from_rotvec(np.deg2rad([[8, 0, 0], [0, 20, 0], [0, 0, 70], [3, 3, 3]]))
    start = (off * Rotation.from_quat(quaternions)).as_matrix().reshape(4, 9)
    moves = truth[["shift_x", "shift_y", "shift_z"]].to_numpy() / VOXEL
    given = np.concatenate([start, moves + np.array([1.5, 0, -0.5])], axis=1)
    given[3, 2] = np.nan
    plan = job(angular_step=10.0, local=local, shift_range=reach)
    poses = assert_alike(xp, boxes, [plan], given=given)
    assert poses["fault"].tolist() == [0, 0, 0, 3]
    known = Rotation.from_matrix(start[:3].reshape(3, 3, 3))
    turned = angular_distance(Rotation.from_matrix(poses["matrix"][:3]), known)
    assert turned.max() <= local + 5 + 1e-6
    assert turned.max() > local / 2
    assert np.abs(poses["shift_xyz"][:3] - given[:3, 9:]).max() <= reach + 1e-9


def test_weights_shells_several_references_and_plans(xp):
    """A tilt series with a lens, and one without; boxes of both by turns."""
    boxes, _ = phantoms(5, 0.1)
    maps = np.stack([REFERENCE, REFERENCE[::-1]])
    known = np.clip(1.5 - np.arange(N // 2 + 1) / 10, 0, 1)
    records = [record(30000.0), record(low=-40.0)]
    plans = [
        job(maps, known=known, record=one, voxel_size=VOXEL, coarsest=1.5, angular_step=40.0)
        for one in records
    ]
    poses = assert_alike(xp, boxes, plans, place=np.array([0, 1, 1, 0, 1]), count=3)
    assert poses["reference"].tolist() == [0, 1] * 5


def test_boxes_that_cannot_be_aligned_and_scales(xp):
    boxes, _ = phantoms(4, 0.3)
    boxes[1, 3, 4, 5] = np.nan
    boxes[2] = 4.0
    boxes[3] *= 1e30
    poses = assert_alike(xp, boxes, [job()])
    assert poses["fault"].tolist() == [0, 1, 2, 0]
    assert np.isnan(poses["score"][1:3]).all()
    assert_alike(xp, boxes[1:3], [job()])  # none is left


def test_runs_of_few_boxes_are_the_same(xp, monkeypatch):
    """What does not fit the memory at once goes one after another."""
    boxes, _ = phantoms(3, 0.1)
    plan = job()
    _, (_, whole) = both(xp, boxes, [plan])
    monkeypatch.setattr(search_device, "_BYTES", 1)
    monkeypatch.setattr(refinement_device, "_BYTES", 1)
    _, (_, apart) = both(xp, boxes, [plan])
    np.testing.assert_allclose(apart["matrix"], whole["matrix"], atol=1e-5)
    np.testing.assert_allclose(apart["shift_xyz"], whole["shift_xyz"], atol=1e-4)


def test_real_space_is_refined_on_the_processor_and_says_so(xp, caplog):
    boxes, _ = phantoms(1, 0.3)
    particle_batches._say_processor.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert_alike(xp, boxes, [job(method="lm")], count=1)
    assert "method='lm' refines on the processor" in caplog.text


def test_a_worker_without_a_gpu_uses_the_compiled_kernels(monkeypatch):
    boxes, _ = phantoms(1, 0.3)
    plan = job()
    monkeypatch.delenv(DEVICE, raising=False)
    found = find_candidates_of(boxes, 0, np.arange(1), [plan], None, None, count=2)
    (poses,) = refine_candidates_of(found, [plan], None, seed=0)
    assert len(poses)
    # and one that is told to use it asks for CuPy
    monkeypatch.setattr(particle_batches, "of_worker", lambda: np)
    there = find_candidates_of(boxes, 0, np.arange(1), [plan], None, None, count=2)
    np.testing.assert_array_equal(there[0].starts[0][0], found[0].starts[0][0])


@pytest.mark.parametrize("batch", [2, 5])
def test_tables_of_whole_jobs(monkeypatch, batch):
    """As the tasks of a GPU's worker would make them, whatever the partitions."""
    dataset, _, reference = scenes.boxes(5, chunks=2)
    with dask.config.set(scheduler="synchronous"):
        want = align_subtomograms(dataset, reference, angular_step=30.0).compute()
        monkeypatch.setattr(particle_batches, "of_worker", lambda: np)
        got = align_subtomograms(dataset, reference, angular_step=30.0, batch=batch).compute()
    assert angular_distance(orientations(got), orientations(want)).max() < 0.01
    pd.testing.assert_frame_equal(got, want, check_exact=False, rtol=0, atol=1e-2)


def test_a_plan_is_copied_once_and_let_go_of(xp):
    plan = job()
    held = particle_batches._held_plan(xp, plan)
    assert particle_batches._held_plan(xp, plan) is held
    key = (id(plan), xp.__name__)
    assert key in particle_batches._held
    del plan, held
    assert key not in particle_batches._held


# The parts, against those of the compiled kernels.


def host(array):
    return np.asarray(array)


def test_turned_spectra_against_the_sampling_of_one(xp):
    rotations, k = Rotation.random(5, rng=np.random.default_rng(0)), half_sphere(9.0)
    spectrum = padded_spectrum(REFERENCE, radius=9.0)
    there = device_sampling.DeviceSpectrum.of(xp, spectrum)
    matrices = xp.asarray(rotations.as_matrix().astype(np.float32))
    got, _ = device_sampling.turned(xp, there, xp.asarray(k)[None, :, :], matrices)
    for values, matrix in zip(host(got), matrices_zyx(rotations), strict=True):
        want = sample(spectrum, k, matrix.T)
        np.testing.assert_allclose(values, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("n", [32, 9])
def test_spectra_of_boxes(xp, n):
    boxes = np.random.default_rng(1).normal(size=(3, n, n, n)).astype(np.float32)
    k = half_sphere(n / 2 - 1)
    got = host(device_sampling.spectra_at(xp, xp.asarray(boxes), k))
    want = np.stack([spectrum_at(box, k) for box in boxes])
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_products_against_the_normal_equations_of_one(xp):
    plan, rng = job(), np.random.default_rng(2)
    stage = plan.stages[-1]
    boxes, _ = phantoms(2, 0.3)
    data = np.stack([plan.data(box) for box in boxes])
    matrices, shifts = Rotation.random(2, rng=rng).as_matrix(), rng.uniform(-2, 2, (2, 3))
    limits = refinement_device.Limits(0.1, 1.0, 3.0, np.inf)
    held = refinement_device.DeviceStage.of(xp, stage)
    here = xp.reshape(xp.take(xp.asarray(data), held.index, axis=1), (2, 1, -1))
    spectrum = device_sampling.DeviceSpectrum.of(xp, plan.spectrum)
    work = refinement_device._Job(xp, spectrum, held, here, np.arange(2), limits, None)
    frequencies, weights, seen = work._part(np.zeros(2, int))
    columns = work._columns(frequencies, weights, xp.asarray(matrices), xp.asarray(shifts))
    got = host(refinement_device._products(xp, [*columns, seen]))
    for i in range(2):
        want = refinement.normal_equations(
            plan.spectrum, stage.frequencies, data[i, stage.index], matrices[i], shifts[i]
        )
        scale = np.sqrt(np.outer(np.diag(want), np.diag(want)))
        inside = np.s_[:7, :8]  # what fills up has data that count for nothing
        np.testing.assert_allclose((got[i] / scale)[inside], (want / scale)[inside], atol=1e-5)


def test_steps_against_those_of_one(xp):
    rng = np.random.default_rng(3)
    systems = []
    for scale in (2.0, 0.05, -1.0, 1.0):
        columns = rng.normal(size=(50, 8))
        columns[:, 7] = columns[:, :7] @ [0.1, -0.2, 0.1, 0.3, 0.1, -0.1, scale]
        systems.append(columns.T @ columns)
    systems[3][2] = systems[3][:, 2] = 0.0  # singular
    limits = refinement_device.Limits(0.09, 0.4, 3.0, np.inf)
    got, good = refinement_device._solve(xp, xp.asarray(np.stack(systems)), limits)
    for system, step, fine in zip(systems, host(got), host(good), strict=True):
        want = np.zeros(6)
        assert refinement._solve(system, limits.turn, limits.shift, want) == fine
        if fine:
            np.testing.assert_allclose(step, want, rtol=1e-9)
    assert host(good).tolist() == [True, True, False, False]


def test_turns_and_bounds_against_those_of_one(xp):
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(20, 3)) * rng.choice([0.0, 0.1, 1.0], (20, 1))
    np.testing.assert_allclose(
        host(refinement_device._turns(xp, xp.asarray(vectors))),
        Rotation.from_rotvec(vectors).as_matrix(),
        atol=1e-12,
    )
    origin = Rotation.random(20, rng=rng).as_matrix()
    matrices = Rotation.from_rotvec(vectors).as_matrix() @ origin
    for reach in (0.05, 0.5, 2.0):
        got = refinement_device._turned_within(xp, xp.asarray(matrices), xp.asarray(origin), reach)
        want = matrices.copy()
        for one, start in zip(want, origin, strict=True):
            steps.turn_within(one, start, reach)
        np.testing.assert_allclose(host(got), want, atol=1e-9)


@pytest.mark.parametrize(("name", "pool"), [("C1", 64), ("D2", 64), ("C1", 3)])
def test_hills_against_those_of_one(xp, monkeypatch, name, pool):
    monkeypatch.setattr(search, "POOL", pool)
    monkeypatch.setattr(search_device, "POOL", pool)
    rotations = rotation_grid(count=120).as_matrix()
    group = symmetry_group(name).as_matrix()
    scores = np.random.default_rng(5).permutation(360).reshape(3, 120).astype(np.float32)
    scores[0, :60] = 500.0  # equal ones
    settings = {"count": 5, "separation": 0.9}
    places, valid = search_device._hills(
        xp,
        xp.asarray(np.broadcast_to(rotations.reshape(-1, 9), (3, 120, 9)).copy()),
        xp.asarray(scores),
        group=xp.asarray(group),
        **settings,
    )
    for i in range(3):
        if i == 0 and pool == 3:
            continue  # which of equals is in the pool is open
        want = search.hills(rotations, scores[i], group=group, **settings)
        assert host(places)[i, host(valid)[i]].tolist() == want.tolist()
