"""Centres of averages: found whatever the contrast, and the same place in every particle."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from tomodask.classification.clusters.centring import centred_poses, density_centre, with_centres
from tomodask.data.columns import SHIFT
from tomodask.data.particles import with_orientations
from tomodask.errors import InputError
from tomodask.simulation.phantom import phantom_particle

SIZE = {"voxel_size": 10.0, "diameter": 280.0}


def phantom(shift, turn=None):
    return phantom_particle("particle").density(
        box=32, voxel_size=10.0, rotation=turn or Rotation.identity(), shift_zyx=np.array(shift)
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_the_centre_moves_with_the_density(sign):
    still = density_centre(sign * phantom([0.0, 0, 0]), **SIZE)
    moved = density_centre(5 + sign * phantom([20.0, -15, 8]), **SIZE)
    np.testing.assert_allclose(moved - still, [20, -15, 8], atol=2.0)


def test_it_is_the_centre_of_mass_where_there_is_no_background():
    volume = phantom([10.0, 0, -5])
    axes = (np.indices(volume.shape) - 16) * 10.0
    slow = (axes * volume).sum((1, 2, 3)) / volume.sum()
    found = density_centre(volume, voxel_size=10.0, diameter=320.0)  # that holds all of it
    np.testing.assert_allclose(found, slow, atol=1.0)


def test_noise_and_a_neighbour_at_the_rim_hardly_pull():
    rng = np.random.default_rng(0)
    volume = phantom([15.0, 0, 0])
    still = density_centre(volume, **SIZE)
    noisy = volume + rng.normal(size=volume.shape) * 0.15 * volume.max()
    noisy[30:, 10:20, 10:20] += 0.3 * volume.max()
    assert np.linalg.norm(density_centre(noisy, **SIZE) - still) < 8.0


def test_nothing_has_its_centre_in_the_middle():
    assert density_centre(np.ones((12, 12, 12)), **SIZE).tolist() == [0, 0, 0]


def test_centred_poses_lead_to_one_place_of_each_particle():
    """The centre of a turned and moved particle is where its pose leads the average's centre."""
    rng = np.random.default_rng(1)
    turns, shifts = Rotation.random(5, rng=rng), rng.uniform(-15, 15, (5, 3))
    frame = np.array([12.0, -8.0, 15.0])  # the average's particle is off its voxel n // 2
    centre = density_centre(phantom(frame), **SIZE)
    poses = pd.DataFrame(shifts - turns.apply(frame[::-1])[:, ::-1], columns=list(SHIFT))
    found = centred_poses(with_orientations(poses, turns), centre)
    for row, turn, shift in zip(found[list(SHIFT)].to_numpy(), turns, shifts, strict=True):
        seen = density_centre(phantom(shift, turn), **SIZE)
        np.testing.assert_allclose(row, seen, atol=3.0)


def test_rows_without_an_average_stay():
    table = pd.DataFrame({"image": list("abc"), "z": 1.0, "y": 2.0, "x": 3.0, "shift_x": 4.0})
    poses = pd.DataFrame([[7.0, 8.0, 9.0]], columns=list(SHIFT))
    found = with_centres(table, np.array([1]), poses)
    assert "image" not in found
    assert found[list(SHIFT)].to_numpy().tolist() == [[0, 0, 4], [7, 8, 9], [0, 0, 4]]
    assert table["shift_x"].tolist() == [4, 4, 4]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="volume must be a cube"):
        density_centre(np.ones((3, 4, 4)), **SIZE)
    with pytest.raises(InputError, match="volume must be a cube of finite"):
        density_centre(np.full((4, 4, 4), np.nan), **SIZE)
    with pytest.raises(InputError, match="diameter must be above 0"):
        density_centre(np.ones((4, 4, 4)), voxel_size=10.0, diameter=0.0)
    with pytest.raises(InputError, match="shift"):
        centred_poses(
            with_orientations(pd.DataFrame({"z": [1.0]}), Rotation.identity(1)), [0, 0, 0]
        )
    with pytest.raises(InputError, match="position"):
        with_centres(
            pd.DataFrame({"z": [1.0]}), np.zeros(0, int), pd.DataFrame(columns=list(SHIFT))
        )
