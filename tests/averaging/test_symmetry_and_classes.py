"""Averages with a symmetry, by class, and their signal-to-noise ratio."""

import dask
import numpy as np
import pandas as pd
import pytest
from alignment.scenes import VOXEL, boxes, dataset_of
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import matrices_zyx
from tomodask.arrays.sampling import half_sphere, padded_spectrum, sample, soft_sphere
from tomodask.arrays.symmetry import symmetry_group
from tomodask.averaging.averages import average_classes, average_subtomograms
from tomodask.averaging.fsc import fsc
from tomodask.averaging.signal_to_noise import snr_of_fsc
from tomodask.averaging.symmetrising import grid_cosets, symmetrised
from tomodask.data.particles import orientations, with_orientations
from tomodask.errors import InputError
from tomodask.simulation.phantom import Phantom, phantom_particle


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="sync"):
        yield


def expanded(dataset, truth, group, half):
    """Each particle once at each equivalent pose R g, as boxes of their own."""
    volumes = dataset["subtomogram"].to_numpy()
    order = len(group)
    rows = np.repeat(np.arange(len(truth)), order)
    turns = orientations(truth.iloc[rows]) * Rotation.concatenate([group] * len(truth))
    table = with_orientations(truth.iloc[rows].reset_index(drop=True), turns)
    return dataset_of(volumes[rows], table), table.assign(half=half[rows])


@pytest.mark.parametrize("name", ["C2", "C7", "D3", "O", "I"])
def test_symmetrised_average_is_that_of_the_poses_written_out(name):
    dataset, truth, _ = boxes(4, box=16)
    half, group = np.array([1, 2, 2, 1]), symmetry_group(name)
    got = average_subtomograms(dataset, poses=truth.assign(half=half), symmetry=name).compute()
    more, poses = expanded(dataset, truth, group, half)
    want = average_subtomograms(more, poses=poses, batch=30).compute()
    # Not equal, close: half of the turns are exact on the grid here, and single precision there.
    for part in ("average", "half_1", "half_2"):
        a, b = getattr(got, part), getattr(want, part)
        assert np.abs(a - b).max() < 2e-3 * np.abs(b).max()
        assert np.linalg.norm(a - b) < 2e-4 * np.linalg.norm(b)
    assert got.particles == (2, 2)
    assert got.symmetry == name
    assert got.coverage == pytest.approx(want.coverage, abs=1e-3)
    np.testing.assert_allclose(got.ssnr["noise"][1:8], want.ssnr["noise"][1:8], rtol=1e-2)


@pytest.mark.parametrize("name", ["C1", "C4", "C6", "C7", "D2", "D7", "T", "O", "I"])
def test_cosets_make_up_the_group(name):
    group = symmetry_group(name)
    cosets, grid = grid_cosets(group)
    assert len(cosets) * len(grid) == len(group)
    turns = [matrices_zyx(coset) @ h for coset in cosets for h in grid]
    found = [np.abs(matrices_zyx(g) - turns).max((1, 2)).min() for g in group]
    assert max(found) < 1e-9


def test_sums_turned_by_the_grid_against_a_loop():
    rng, k = np.random.default_rng(0), half_sphere(3.5)
    values = rng.normal(size=(2, len(k))) + 1j * rng.normal(size=(2, len(k)))
    _, grid = grid_cosets(symmetry_group("O"))
    at = {tuple(q): v for q, v in zip(k.astype(int), values.T, strict=True)}
    at |= {tuple(-q): v.conj() for q, v in zip(k.astype(int), values.T, strict=True)}
    want = np.transpose([sum(at[tuple(h @ q)] for h in grid) for q in k.astype(int)])
    np.testing.assert_allclose(symmetrised(values, k, grid), want)


def seven_fold():
    """A phantom of seven equal parts about z."""
    part, centers = phantom_particle(), []
    for turn in symmetry_group("C7"):
        centers.append(part.centers_zyx[::6] @ matrices_zyx(turn).T)
    centers = np.concatenate(centers)
    return Phantom(centers, np.full(len(centers), 1.0), sigma=12.0)


def noisy(particle, count, *, noise, box=24, seed=0):
    rng = np.random.default_rng(seed)
    turns = Rotation.random(count, random_state=seed)
    volumes = np.stack(
        [particle.density(box=box, voxel_size=VOXEL, rotation=turn) for turn in turns]
    )
    volumes += noise * volumes.std() * rng.normal(size=volumes.shape).astype(np.float32)
    table = with_orientations(
        pd.DataFrame({"tilt_min": np.full(count, -90.0), "tilt_max": 90.0}), turns
    )
    return dataset_of(volumes, table), table


def test_symmetry_makes_the_average_better_as_more_particles_would():
    particle = seven_fold()
    dataset, poses = noisy(particle, 8, noise=3.0)
    clean, _ = noisy(particle, 8, noise=0.0)
    error = {}
    for symmetry in ("C1", "C7"):
        seven, still = (
            average_subtomograms(one, poses=poses, symmetry=symmetry).compute()
            for one in (dataset, clean)
        )
        error[symmetry] = np.linalg.norm(seven.average - still.average)
    assert error["C7"] < 0.45 * error["C1"]  # 1 / √7 = 0.38, more next to the axis
    # The symmetrised map is the same after a seventh of a turn.
    k = half_sphere(8.0)
    spectrum = padded_spectrum(seven.average * soft_sphere(24, 7), radius=10.0)
    turned = sample(spectrum, k, matrices_zyx(symmetry_group("C7")[1]))
    still = sample(spectrum, k, np.eye(3))
    assert np.linalg.norm(turned - still) < 0.05 * np.linalg.norm(still)


def test_ssnr_from_the_sums_is_that_of_the_halves():
    """2 FSC / (1 − FSC) of simulated halves; and the noise is what was put in."""
    dataset, poses = noisy(phantom_particle(), 60, noise=4.0, seed=3)
    result = average_subtomograms(dataset, poses=poses).compute()
    halves = snr_of_fsc(result.fsc())
    sums = result.ssnr["ssnr"].to_numpy()
    used = slice(3, 11)
    np.testing.assert_allclose(
        np.log(sums[used] + 1), np.log(halves[used] + 1), atol=0.35
    )  # FSC of some hundred voxels has errors of its own
    added = (4.0 * dataset["subtomogram"].to_numpy().std() / np.sqrt(1 + 4.0**2)) ** 2
    sphere = 4 / 3 * np.pi * 11**3  # voxels that the soft sphere leaves
    np.testing.assert_allclose(result.ssnr["noise"][3:11] / (added * sphere), 1, atol=0.15)


def test_ssnr_of_noise_is_nothing():
    rng = np.random.default_rng(0)
    _, truth, _ = boxes(20, box=24)
    volumes = rng.normal(size=(20, 24, 24, 24)).astype(np.float32)
    result = average_subtomograms(dataset_of(volumes, truth), poses=truth).compute()
    assert result.ssnr["ssnr"][2:11].mean() < 0.1
    assert snr_of_fsc(pd.DataFrame({"correlation": [-0.1, 0.5, 1.0]})).tolist() == [0, 2, np.inf]


def test_each_class_is_the_average_of_its_particles():
    dataset, truth, _ = boxes(12, box=16)
    label = np.array([1, 3, 1, 3, 1, 3, 3, 1, 1, 3, 1, 3])
    half = np.array([1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2])
    poses = truth.assign(**{"class": label}, half=half)
    got = average_classes(dataset, poses=poses, batch=5).compute()
    assert sorted(got) == [1, 3]
    for one in (1, 3):
        rows = np.flatnonzero(label == one)
        want = average_subtomograms(dataset.isel(particle=rows), poses=poses.iloc[rows]).compute()
        np.testing.assert_array_equal(got[one].average, want.average)
        np.testing.assert_array_equal(got[one].half_2, want.half_2)
        assert got[one].particles == want.particles
        # One or both of the sums may have fewer bits: of more particles.
        pd.testing.assert_frame_equal(got[one].ssnr, want.ssnr, rtol=1e-9)


def test_soft_classes():
    """A weight of one half twice is one whole; rows in any order, matched by particle or image."""
    dataset, truth, _ = boxes(8, box=16)
    index = np.repeat(np.arange(8), 2)
    soft = truth.iloc[index].assign(**{"class": np.tile([1, 2], 8)})
    soft["weight"] = np.repeat([1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0], 2)
    soft["weight"] = np.where(soft["class"] == 2, 1 - soft["weight"], soft["weight"])
    by_particle = soft.rename_axis("particle")
    shuffled = by_particle.sample(frac=1, random_state=0)
    by_image = soft.assign(image=[f"{i}@boxes" for i in index]).reset_index(drop=True)
    both = [average_classes(dataset, poses=one).compute() for one in (by_particle, shuffled)]
    both.append(average_classes(dataset, poses=by_image).compute())
    given = average_classes(
        dataset, poses=by_particle.drop(columns="weight"), weights=soft["weight"].to_numpy()
    ).compute()
    for other in (*both[1:], given):
        for one in (1, 2):
            np.testing.assert_array_equal(both[0][one].average, other[one].average)
    assert both[0][1].weights == (2.0, 2.0)
    assert both[0][1].particles == (3, 3)
    everything = average_classes(dataset, poses=by_particle.assign(**{"class": 1}))
    plain = average_subtomograms(dataset, poses=truth).compute()
    np.testing.assert_allclose(everything.compute()[1].average, plain.average, atol=1e-5)
    # The noise of a box is the same, whatever its weights.
    noise = both[0][1].ssnr["noise"][3:8] / plain.ssnr["noise"][3:8]
    assert noise.mean() == pytest.approx(1, abs=0.25)


def test_a_class_of_too_few_is_left_out_and_named(caplog):
    dataset, truth, _ = boxes(8, box=16)
    poses = truth.assign(**{"class": [1, 1, 1, 1, 1, 1, 2, 2]})
    assert sorted(average_classes(dataset, poses=poses).compute()) == [1]
    assert "fewer than 2 particles in a half: class 2" in caplog.text
    with pytest.raises(InputError, match="none of 4 classes has 2 particles in each half"):
        average_classes(
            dataset, poses=truth.assign(**{"class": [1, 1, 2, 2, 3, 3, 4, 4]})
        ).compute()
    with pytest.raises(InputError, match="no column class"):
        average_classes(dataset, poses=truth)
    with pytest.raises(InputError, match="weights must be within 0 to 1"):
        average_classes(dataset, poses=poses, weights=np.full(8, 1.5))
    with pytest.raises(InputError, match="weights must be 8 numbers"):
        average_classes(dataset, poses=poses, weights=np.ones(7))
    with pytest.raises(InputError, match="no row for particle 3"):
        average_classes(dataset, poses=poses.iloc[:3].rename_axis("particle"))


def test_fsc_of_the_halves_falls_where_the_ratio_says():
    dataset, poses = noisy(phantom_particle(), 40, noise=4.0, seed=5)
    result = average_subtomograms(dataset, poses=poses).compute()
    curve = fsc(result.half_1, result.half_2, voxel_size=VOXEL)
    pd.testing.assert_frame_equal(curve, result.fsc())
