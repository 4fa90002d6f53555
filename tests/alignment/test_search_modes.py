"""Symmetry, local search, several references, bands and masks: what is searched, and what comes."""

import logging
from dataclasses import replace

import dask
import numpy as np
import pandas as pd
import pytest
from alignment.scenes import VOXEL, boxes, dataset_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tomodask.alignment import search
from tomodask.alignment.local import local_candidates, neighbourhood, small_turns
from tomodask.alignment.particle import (
    POSE,
    _distinct,
    best_poses,
    find_candidates,
    refine_candidates,
)
from tomodask.alignment.plan import masked_reference, plan_alignment
from tomodask.alignment.poses import align_subtomograms
from tomodask.alignment.references import off_center, symmetry_score
from tomodask.alignment.steps import turn_within
from tomodask.arrays.geometry import angular_distance, rotation_grid
from tomodask.arrays.sampling import half_sphere, padded_spectrum, spectrum_at
from tomodask.arrays.symmetry import in_asymmetric_unit, reduced, symmetry_group
from tomodask.data.particles import orientations, with_orientations
from tomodask.errors import InputError
from tomodask.simulation.phantom import phantom_particle

SHIFT = ["shift_z", "shift_y", "shift_x"]
FAST = {"angular_step": 30.0, "shift_range": 20.0}
N = 32


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="sync"):
        yield


def symmetric_boxes(name, count, *, snr=0.3, seed=0):
    """Boxes of the phantom, symmetrised exactly, their truth and the reference."""
    phantom, group = phantom_particle(), symmetry_group(name)

    def density(pose=None, shift=(0.0, 0.0, 0.0)):
        pose = Rotation.identity() if pose is None else pose
        total = np.zeros((N,) * 3)
        for turn in group:
            total += phantom.density(
                box=N, voxel_size=VOXEL, rotation=pose * turn, shift_zyx=np.asarray(shift)
            )
        return (total / len(group)).astype(np.float32)

    _, truth, reference = boxes(count, seed=seed)
    rng = np.random.default_rng(seed)
    volumes = np.empty((count, N, N, N), np.float32)
    for i, turn in enumerate(orientations(truth)):
        clean = density(turn, truth.loc[i, SHIFT].to_numpy(float))
        volumes[i] = clean + rng.normal(size=clean.shape) * np.sqrt(clean.var() / snr)
    truth = truth.assign(tilt_min=-90.0, tilt_max=90.0)
    return dataset_of(volumes, truth), truth, reference.copy(data=density())


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


def moved(truth, degrees, angstrom, seed=0):
    """Poses that are so far off the truth."""
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(len(truth), 3))
    axes *= np.deg2rad(degrees) / np.linalg.norm(axes, axis=1, keepdims=True)
    out = with_orientations(truth, Rotation.from_rotvec(axes) * orientations(truth))
    out[SHIFT] += rng.choice([-1, 1], (len(truth), 3)) * angstrom
    return out


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


def quaternion(table):
    return [c for c in table if c.startswith("quat_")]


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


def two_kinds(count):
    """Boxes of the phantom and of its mirror image, in turns."""
    dataset, truth, reference = boxes(count, snr=0.5, tilt_range=(-90.0, 90.0))
    volumes = dataset["subtomogram"].to_numpy().copy()
    volumes[1::2, :, :, 1:] = volumes[1::2, :, :, :0:-1]
    other = reference.to_numpy().copy()
    other[:, :, 1:] = other[:, :, :0:-1]
    return dataset_of(volumes, truth), truth, [reference, reference.copy(data=other)]


@pytest.mark.parametrize("batch", [1, 4])
def test_several_references(batch):
    dataset, _, maps = two_kinds(6)
    table = align_subtomograms(dataset, maps, batch=batch, **FAST).compute()
    assert table["class"].tolist() == [1, 2] * 3
    scores = table[["score_1", "score_2"]].to_numpy()
    np.testing.assert_array_equal(table["score"], scores.max(1))
    every = align_subtomograms(dataset, maps, keep="all", **FAST).compute()
    assert every.index.tolist() == [i for i in range(6) for _ in range(2)]
    assert every["class"].tolist() == [1, 2] * 6
    np.testing.assert_array_equal(every["score"], scores.ravel())
    for number, one in enumerate(maps):  # of equal bands: as if alone
        alone = align_subtomograms(dataset, one, **FAST).compute()
        mine = every[every["class"] == number + 1]
        pd.testing.assert_frame_equal(mine[alone.columns], alone, check_exact=True)
    best = every.iloc[np.arange(6) * 2 + table["class"].to_numpy() - 1]
    pd.testing.assert_frame_equal(best[table.columns], table, check_exact=True)
    single = align_subtomograms(dataset, maps[:1], **FAST).compute()
    assert single["class"].eq(1).all()
    np.testing.assert_array_equal(single["score_1"], scores[:, 0])


def test_a_particle_set_aside_has_no_class():
    dataset, truth, maps = two_kinds(3)
    volumes = dataset["subtomogram"].to_numpy().copy()
    volumes[1] = np.nan
    job = {"batch": 2, **FAST}
    table = align_subtomograms(dataset_of(volumes, truth), maps, **job).compute()
    assert table["class"].tolist() == [1, 0, 1]
    assert table.loc[1, ["score", "score_1", "score_2"]].isna().all()
    every = align_subtomograms(dataset_of(volumes, truth), maps, keep="all", **job).compute()
    assert every["class"].tolist() == [1, 2, 0, 0, 1, 2]
    assert every["reason"].ne("").tolist() == [False, False, True, True, False, False]


def test_the_coarsest_detail_is_left_out():
    volume = phantom_particle().density(box=N, voxel_size=VOXEL)
    job = {"tilt_range": (-60.0, 60.0), "angular_step": 20.0, "shift_range": 2.0}
    plan = plan_alignment(volume, coarsest=3.0, **job)
    assert np.linalg.norm(plan.frequencies, axis=1).min() == 3.0
    assert np.linalg.norm(plan_alignment(volume, **job).frequencies, axis=1).min() == 1.0
    dataset, truth, reference = boxes(4)
    table = align_subtomograms(dataset, reference, coarsest=N * VOXEL / 2).compute()
    assert angular_distance(orientations(table), orientations(truth)).max() < 3
    # A background that waves slowly is not seen.
    wave = 5 * np.cos(2 * np.pi * np.arange(N) / N) * dataset["subtomogram"].to_numpy().std()
    with_wave = dataset.assign(subtomogram=dataset["subtomogram"] + wave.astype(np.float32))
    again = align_subtomograms(with_wave, reference, coarsest=N * VOXEL / 2).compute()
    assert angular_distance(orientations(again), orientations(table)).max() < 0.01


def test_a_mask_in_place_of_the_sphere():
    dataset, _, reference = boxes(4)
    axis = np.arange(N) - N // 2
    r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    ramp = np.clip((r - 11.0) / 3.0, 0, 1)
    mask = reference.copy(data=(0.5 + 0.5 * np.cos(np.pi * ramp)).astype(np.float32))
    by_mask = align_subtomograms(dataset, reference, mask=mask, **FAST).compute()
    by_diameter = align_subtomograms(dataset, reference, diameter=220.0, **FAST).compute()
    assert angular_distance(orientations(by_mask), orientations(by_diameter)).max() < 0.05
    for wrong, message in (
        (mask[:-1], r"mask has \(31, 32, 32\) voxels"),
        (mask * 2, "mask must lie within 0 to 1, got 0 to 2"),
        (mask * 0, "mask leaves nothing of reference 1"),
    ):
        with pytest.raises(InputError, match=message):
            align_subtomograms(dataset, reference, mask=wrong)
    with pytest.raises(InputError, match="mask or diameter, one of them"):
        align_subtomograms(dataset, reference, mask=mask, diameter=220.0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"coarsest": 15.0}, "coarsest must be above the finest detail, 20 Å, got 15"),
        ({"resolution": 60.0, "coarsest": 50.0}, "above the finest detail, 60 Å, got 50"),
        ({"local": -1.0}, "local must be within 0 to 180°, got -1"),
        ({"keep": "some"}, "keep must be one of best, all, got 'some'"),
        ({"method": "newton"}, "method must be one of fourier, mbgd, lm, got 'newton'"),
        ({"symmetry": "C0"}, "symmetry must be C1"),
    ],
)
def test_says_what_is_wrong(kwargs, message):
    dataset, _, reference = boxes(2)
    with pytest.raises(InputError, match=message):
        align_subtomograms(dataset, reference, **kwargs)


@pytest.mark.parametrize(
    "other",
    [
        {"symmetry": "C2"},
        {"coarsest": 150.0},
        {"keep": "all", "candidates": 5},
        {"local": 20.0},
        {"diameter": 250.0},
    ],
)
def test_checkpoints_tell_settings_apart(other, tmp_path):
    dataset, truth, reference = boxes(2)
    if "local" in other:
        other = {**other, "poses": truth}
    job = {"checkpoint": tmp_path, **FAST}
    align_subtomograms(dataset, reference, **job).compute()
    with pytest.raises(InputError, match="holds batches of another job"):
        align_subtomograms(dataset, reference, **job, **other)


def test_a_reference_off_the_centre_is_told_of(caplog):
    dataset, _, reference = boxes(2)
    with caplog.at_level(logging.WARNING):
        align_subtomograms(dataset, reference)
    assert not caplog.records
    off = reference.copy(data=np.roll(reference.to_numpy(), (0, 5, 0), (0, 1, 2)))
    middle, before = (off_center(masked_reference(one.to_numpy())) for one in (off, reference))
    assert middle[1] - before[1] == pytest.approx(5, abs=2)  # the sphere cuts some of it
    align_subtomograms(dataset, off)
    assert f"its density is {np.linalg.norm(middle) * VOXEL:.0f} Å from the centre" in caplog.text


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


@pytest.mark.parametrize("method", ["mbgd", "lm"])
@pytest.mark.parametrize("batch", [1, 4])
def test_refinement_in_real_space(method, batch):
    dataset, truth, reference = boxes(4)
    job = {"method": method, "diameter": 260.0, "shift_range": 20.0}
    table = align_subtomograms(dataset, reference, batch=batch, **job).compute()
    assert angular_distance(orientations(table), orientations(truth)).max() < 3
    again = align_subtomograms(dataset.chunk(particle=3), reference, batch=3, **job)
    pd.testing.assert_frame_equal(again.compute(), table, check_exact=True)
    start = moved(truth, 4.0, 3.0)
    near = align_subtomograms(dataset, reference, poses=start, local=0.0, **job).compute()
    assert angular_distance(orientations(near), orientations(table)).max() < 1.0


@pytest.mark.parametrize("method", ["mbgd", "lm"])
def test_real_space_knows_symmetry_and_given_shifts(method):
    volume = phantom_particle().density(box=N, voxel_size=VOXEL)
    job = {"tilt_range": (-60.0, 60.0), "angular_step": 20.0, "shift_range": 1.0, "mask_radius": 8}
    (one,) = plan_alignment(volume, method=method, symmetry="D2", **job).problems
    assert len(one.group) == 4
    assert max(len(level.grid) / (2 * level.radius + 1) for level in one.levels) < 1
    # the mask does not move, but a given shift may be of any length
    (near,) = plan_alignment(volume, method=method, local=5.0, **job).problems
    assert all(len(level.grid) == 2 * level.radius + 1 for level in near.levels)
    assert all((level.reach == level.radius).all() for level in near.levels)


def test_candidates_that_met_are_one():
    volume = phantom_particle().density(box=N, voxel_size=VOXEL)
    plan = plan_alignment(
        volume, tilt_range=(-60.0, 60.0), angular_step=20.0, shift_range=2.0, symmetry="C2"
    )
    poses = np.zeros(5, POSE)
    turns = Rotation.from_rotvec(np.outer([0, 1, 181, 30, 0], [0, 0, 1]), degrees=True)
    poses["matrix"], poses["start"] = turns.as_matrix(), np.arange(5)
    poses["shift_xyz"][4] = 1.0  # as the first, but elsewhere
    assert _distinct(poses, plan)["start"].tolist() == [0, 3, 4]
