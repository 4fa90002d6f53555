"""Several references, bands, masks and methods: what is searched, and what comes."""

import logging

import dask
import numpy as np
import pandas as pd
import pytest
from alignment.phantom_boxes import FAST, N, moved
from alignment.scenes import VOXEL, boxes, dataset_of
from scipy.spatial.transform import Rotation

from tomodask.alignment.particle import (
    POSE,
    _distinct,
)
from tomodask.alignment.plan import masked_reference, plan_alignment
from tomodask.alignment.poses import align_subtomograms
from tomodask.alignment.references import off_center
from tomodask.arrays.geometry import angular_distance
from tomodask.data.particles import orientations
from tomodask.errors import InputError
from tomodask.simulation.phantom import phantom_particle


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="sync"):
        yield


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
