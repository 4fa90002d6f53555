"""Search near poses that are given: what is searched, and no pose leaves it."""

import dask
import numpy as np
import pandas as pd
import pytest
from alignment.phantom_boxes import SHIFT, N, moved, quaternion
from alignment.scenes import VOXEL, boxes
from scipy.spatial.transform import Rotation

from tomodask.alignment import search
from tomodask.alignment.local import local_candidates, neighbourhood, small_turns
from tomodask.alignment.poses import align_subtomograms
from tomodask.alignment.steps import turn_within
from tomodask.arrays.geometry import angular_distance
from tomodask.arrays.sampling import half_sphere, padded_spectrum, spectrum_at
from tomodask.data.particles import orientations
from tomodask.errors import InputError
from tomodask.simulation.phantom import phantom_particle


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="sync"):
        yield


@pytest.mark.parametrize("count", [1, 7, 33])
def test_small_turns(count):
    step = 0.1
    turns = small_turns({1: 0.0, 7: step, 33: 2 * step}[count], step)
    assert len(turns) == count
    assert turns[0].magnitude() == 0
    assert turns.magnitude().max() <= 2 * step + 1e-9
    apart = [(turns[i].inv() * turns[j]).magnitude() for i in range(count) for j in range(i)]
    assert min(apart, default=step) == pytest.approx(step, rel=0.02)


def test_local_candidates_against_a_loop():
    volume = phantom_particle().density(box=N, voxel_size=VOXEL)
    k = half_sphere(6.0)
    weights = np.random.default_rng(0).uniform(0.2, 1, len(k)).astype(np.float32)
    spectrum = padded_spectrum(volume, radius=6.0)
    around = neighbourhood(
        k, np.arange(len(k)), box=N, local=np.deg2rad(30), step=np.deg2rad(15), shift_range=1.5,
        shift_step=1.0, weights=weights, group=np.eye(3)[None],
    )  # fmt: skip
    rng = np.random.default_rng(1)
    pose, shift = Rotation.random(rng=rng), rng.uniform(-2, 2, 3)
    data = spectrum_at(rng.normal(size=(N,) * 3) + 5 * volume, k)
    best = (-np.inf,)
    for turn in around.turns:
        model = search.turned_models(
            spectrum, k, Rotation.from_matrix((turn @ pose.as_matrix())[None]), weights
        )[0]
        for move in around.shifts_xyz:
            there = model * np.exp(-2j * np.pi / N * (k[:, ::-1] @ (shift + move)))
            best = max(best, (np.vdot(there, data).real, *turn.ravel(), *(shift + move)))
    matrices, shifts = local_candidates(around, spectrum, data, pose.as_matrix(), shift, count=6)
    np.testing.assert_allclose(matrices[0], np.reshape(best[1:10], (3, 3)) @ pose.as_matrix())
    np.testing.assert_allclose(shifts[0], best[10:])
    assert len(matrices) <= 3


@pytest.mark.parametrize(("local", "off", "angstrom"), [(0.0, 5.0, 3.0), (30.0, 25.0, 12.0)])
def test_local_search_finds_what_is_near(local, off, angstrom):
    dataset, truth, reference = boxes(8, seed=2)
    start = moved(truth, off, angstrom)
    table = align_subtomograms(dataset, reference, poses=start, local=local).compute()
    whole = align_subtomograms(dataset, reference).compute()
    assert angular_distance(orientations(table), orientations(truth)).max() < 2.5
    assert angular_distance(orientations(table), orientations(whole)).max() < 0.1
    # boxes that carry their poses, and other chunks: the same
    columns = {c: ("particle", start[c]) for c in (*SHIFT, *quaternion(start))}
    carrying = dataset.assign_coords(columns).chunk(particle=3)
    again = align_subtomograms(carrying, reference, local=local, batch=3).compute()
    pd.testing.assert_frame_equal(again[table.columns], table, check_exact=True)


@pytest.mark.parametrize(("local", "reach"), [(0.0, 4.0), (5.0, 2.0), (25.0, 15.0)])
def test_no_pose_leaves_the_neighbourhood(local, reach):
    """From poses that are wrong, refinement would go far."""
    dataset, truth, reference = boxes(6, seed=3)
    start = moved(truth, 70.0, 20.0)
    table = align_subtomograms(
        dataset, reference, poses=start, local=local, angular_step=10.0, shift_range=reach
    ).compute()
    assert angular_distance(orientations(table), orientations(start)).max() <= local + 5 + 1e-6
    assert (table[SHIFT] - start[SHIFT]).abs().max().max() <= reach + 1e-9


def test_turn_within_is_the_way_back():
    rng = np.random.default_rng(4)
    for angle in (0.3, 1.0, 3.0):
        origin = Rotation.random(rng=rng)
        axis = rng.normal(size=3)
        axis /= np.linalg.norm(axis)
        matrix = (Rotation.from_rotvec(angle * axis) * origin).as_matrix()
        before = matrix.copy()
        turn_within(matrix, origin.as_matrix(), 0.5)
        want = Rotation.from_rotvec(min(angle, 0.5) * axis) * origin
        np.testing.assert_allclose(matrix, want.as_matrix(), atol=1e-9)
        assert np.array_equal(matrix, before) == (angle < 0.5)


def test_a_particle_without_a_given_pose_is_set_aside():
    dataset, truth, reference = boxes(3)
    start = truth.copy()
    start.loc[1, quaternion(start)] = np.nan
    start.loc[2, quaternion(start)] = 0.0  # turns nothing
    table = align_subtomograms(dataset, reference, poses=start, local=0.0).compute()
    assert table["reason"].tolist() == ["", *["the given poses have none for it"] * 2]
    assert table["score"].notna().tolist() == [True, False, False]


def test_poses_are_of_a_local_search_only():
    dataset, truth, reference = boxes(2)
    with pytest.raises(InputError, match=r"say how far it may turn, local=10 or --local 10"):
        align_subtomograms(dataset, reference, poses=truth)
    with pytest.raises(InputError, match="poses lack orientations"):
        align_subtomograms(dataset, reference, local=5.0)
