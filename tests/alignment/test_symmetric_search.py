"""Symmetry: what of all rotations is searched, and in which order."""

import logging
from dataclasses import replace

import dask
import numpy as np
import pytest
from alignment.phantom_boxes import SHIFT, N, symmetric_boxes
from alignment.scenes import VOXEL, boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tomodask.alignment import search
from tomodask.alignment.particle import (
    best_poses,
    find_candidates,
    refine_candidates,
)
from tomodask.alignment.plan import masked_reference, plan_alignment
from tomodask.alignment.poses import align_subtomograms
from tomodask.alignment.references import symmetry_score
from tomodask.arrays.geometry import angular_distance, rotation_grid
from tomodask.arrays.symmetry import in_asymmetric_unit, reduced, symmetry_group
from tomodask.data.particles import orientations
from tomodask.simulation.phantom import phantom_particle


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="sync"):
        yield


@pytest.mark.parametrize("name", ["C4", "D7", "O"])
def test_a_symmetric_reference_is_searched_in_the_asymmetric_unit(name):
    dataset, truth, reference = symmetric_boxes(name, 6)
    group = symmetry_group(name)
    job = {"symmetry": name, "shift_range": 24.0, "diameter": 260.0}
    table = align_subtomograms(dataset, reference, **job).compute()
    found = orientations(table)
    off = reduced(orientations(truth).inv() * found, group)
    assert np.rad2deg(off.magnitude()).max() < 3
    np.testing.assert_allclose(table[SHIFT], truth[SHIFT], atol=0.5 * VOXEL)
    assert angular_distance(found, reduced(found, group)).max() < 1e-6  # of equivalents, the least


def test_the_grid_of_a_group_is_a_part_of_the_whole():
    volume = phantom_particle().density(box=N, voxel_size=VOXEL)
    job = {"tilt_range": (-60.0, 60.0), "angular_step": 20.0, "shift_range": 2.0}
    whole = plan_alignment(volume, **job).grid
    for name in ("C2", "D3", "I"):
        part = plan_alignment(volume, symmetry=name, **job).grid
        order = len(symmetry_group(name))
        assert len(part.rotations) == pytest.approx(len(whole.rotations) / order, rel=0.15)
        assert len(part.group) == order


@given(st.integers(0, 2**32 - 1), st.sampled_from(["C1", "C3", "D2", "T"]))
@settings(deadline=None, max_examples=15)
def test_hills_against_a_loop(seed, name):
    """Best first; one that is closer to a better one than the separation, by any turn, is left."""
    rng = np.random.default_rng(seed)
    group, separation = symmetry_group(name), np.deg2rad(25)
    rotations = Rotation.random(60, rng=rng)
    scores = rng.integers(0, 30, 60).astype(np.float32)  # ties
    want = []
    for j in sorted(range(60), key=lambda j: (-scores[j], j)):
        near = [
            (rotations[j].inv() * rotations[i] * group).magnitude().min() <= separation
            for i in want[:5]
        ]
        if not any(near):
            want.append(j)
    got = search.hills(
        rotations.as_matrix(), scores, count=5, separation=separation, group=group.as_matrix()
    )
    assert got.tolist() == want[:5]


@pytest.mark.parametrize("voxel", [VOXEL, 1.6 * VOXEL])  # small in its box: a wider band
@pytest.mark.parametrize("seed", range(4))
def test_sorting_rotations_out_ends_where_a_flat_search_does(seed, voxel):
    phantom = phantom_particle()
    volume = phantom.density(box=N, voxel_size=voxel)
    job = {"tilt_range": (-60.0, 60.0), "angular_step": 20.0, "shift_range": 3.2}
    plan = plan_alignment(volume, **job)
    levels = plan.grid.levels
    assert [level.passing for level in levels] == [464, 160, 96]  # of 1,857
    widths = [level.phases.shape[1] for level in levels]
    assert (np.diff([*widths, len(plan.grid.index)]) > 0).all()
    rng = np.random.default_rng(seed)
    turn, shift = Rotation.random(rng=rng), rng.uniform(-2, 2, 3)
    clean = phantom.density(box=N, voxel_size=voxel, rotation=turn, shift_zyx=shift * voxel)
    noisy = clean + rng.normal(size=clean.shape) * np.sqrt(clean.var() / 0.03)
    data = plan.data(noisy.astype(np.float32))
    flat = search.candidate_poses(replace(plan.grid, levels=()), data, count=6)
    found = search.candidate_poses(plan.grid, data, count=6)
    for a, b in zip(found, flat, strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
    assert len(found[0]) == 6


def test_of_few_rotations_most_pass():
    """With symmetry few rotations are left: at low signal none of the best is sorted out."""
    phantom = phantom_particle()
    rng = np.random.default_rng(4)
    job = {"tilt_range": (-40.0, 40.0), "angular_step": 20.0, "shift_range": 3.2}
    group = symmetry_group("C7")

    def density(turn, shift_zyx):
        turned = {"box": N, "voxel_size": VOXEL, "shift_zyx": shift_zyx * VOXEL}
        return sum(phantom.density(rotation=turn * g, **turned) for g in group)

    volume = density(Rotation.identity(), np.zeros(3))
    plan = plan_alignment(volume, symmetry="C7", **job)
    assert [level.passing for level in plan.grid.levels] == [256, 160, 96]  # of 265
    assert not plan_alignment(volume, symmetry="D7", **job).grid.levels  # of 132
    flat = replace(plan, grids=(replace(plan.grid, levels=()),))
    right = np.zeros((60, 2), bool)
    for number in range(len(right)):
        turn = Rotation.random(rng=rng)
        clean = density(turn, rng.uniform(-2, 2, 3))
        box = clean + rng.normal(size=clean.shape) * np.sqrt(clean.var() / 0.03)
        for way, one in enumerate((plan, flat)):
            candidates = find_candidates(box, 0, number, plan=one, count=6)
            found = best_poses([refine_candidates(candidates, one, seed=0)])["matrix"][0]
            off = reduced(turn.inv() * Rotation.from_matrix(found), group).magnitude()
            right[number, way] = np.rad2deg(off) < 15
    levels, whole = right.sum(0)
    assert whole > 55
    assert levels >= whole - 1


@pytest.mark.parametrize("rows", [None, [0, 3, 4, 9]])  # more than shifts, and fewer
def test_scores_of_a_level_are_the_moved_datas(rows):
    rng = np.random.default_rng(3)
    phases, model, data = (
        (rng.normal(size=(*n, 2)) @ [1, 1j]).astype(np.complex64)
        for n in ((7, 30), (12, 40), (40,))
    )
    want = np.real((phases * data[:30]) @ model[rows or slice(None), :30].conj().T)
    got = search._scores(phases, model, None if rows is None else np.array(rows), data)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def test_equivalent_grid_points_are_one_candidate():
    rotations = Rotation.concatenate(
        [Rotation.identity(), Rotation.from_euler("z", 91, degrees=True)]
    )
    job = {"count": 2, "separation": np.deg2rad(10)}
    scores = np.array([0.5, 0.4])
    matrices = rotations.as_matrix()
    assert len(search.hills(matrices, scores, group=np.eye(3)[None], **job)) == 2
    four = symmetry_group("C4").as_matrix()
    assert search.hills(matrices, scores, group=four, **job).tolist() == [0]


def test_a_symmetry_axis_off_z_is_told_of(caplog):
    dataset, _, reference = symmetric_boxes("C4", 1)
    with caplog.at_level(logging.WARNING):
        align_subtomograms(dataset, reference, symmetry="C4")
        align_subtomograms(dataset, reference, symmetry="C2")
    assert not caplog.records
    lying = reference.copy(data=np.moveaxis(reference.to_numpy(), 0, 2).copy())
    score = symmetry_score(masked_reference(lying.to_numpy()), "C4", radius=6.0)
    assert score < 0.5
    align_subtomograms(dataset, lying, symmetry="C4")
    assert "about z it correlates with itself to 0." in caplog.text
    assert "turn the map so that its main axis lies along z" in caplog.text
    caplog.clear()
    align_subtomograms(dataset, boxes(1)[2], symmetry="C4")  # of the phantom, which has none
    assert "is this its symmetry?" in caplog.text


def test_unit_of_the_spiral_is_its_share():
    grid = rotation_grid(15.0)
    for name in ("C7", "D7", "T", "O"):
        group = symmetry_group(name)
        assert in_asymmetric_unit(grid, group).mean() == pytest.approx(1 / len(group), rel=0.1)
