"""Two maps at any motion: the slope is that of small steps, the optimum that of the simplex."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tomodask.rounds.map_pair import MapPair, _turning
from tomodask.rounds.superposition import superpose
from tomodask.simulation.phantom import phantom_particle

TURN, SHIFT = Rotation.from_rotvec([0.05, -0.08, 0.03]), np.array([2.0, -5.0, 3.0])


def maps(noise, seed=0):
    rng = np.random.default_rng(seed)
    particle = phantom_particle("particle")
    options = {"box": 32, "voxel_size": 10.0}
    still = particle.density(rotation=Rotation.identity(), shift_zyx=np.zeros(3), **options)
    moved = particle.density(rotation=TURN, shift_zyx=SHIFT[::-1], **options)
    return [one + noise * still.std() * rng.normal(size=one.shape) for one in (still, moved)]


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_the_slope_is_that_of_small_steps(noise):
    pair = MapPair.of(*maps(noise), 10.0, 30.0, 260.0)
    start, turn = Rotation.from_rotvec([0.02, 0.01, -0.03]), np.array([0.05, -0.1, 0.02])
    shift = np.array([0.2, -0.4, 0.3])
    value, slope = pair.slope(start, turn, shift)
    half = Rotation.from_rotvec(turn / 2)
    assert value == pytest.approx(pair.correlation(half * start * half, shift), abs=2e-5)
    for axis in range(6):
        step = np.zeros(6)
        step[axis] = 2e-3
        high, low = (pair.slope(start, turn + s[:3], shift + s[3:])[0] for s in (step, -step))
        assert slope[axis] == pytest.approx((high - low) / 4e-3, abs=3e-3)


def test_the_left_jacobian_is_that_of_small_steps():
    for v in (np.array([0.4, -0.9, 0.2]), np.array([1e-6, 2e-6, 0.0])):
        for axis in range(3):
            step = np.zeros(3)
            step[axis] = 1e-6
            told = (Rotation.from_rotvec(v + step) * Rotation.from_rotvec(v).inv()).as_rotvec()
            np.testing.assert_allclose(_turning(v)[:, axis], told / 1e-6, atol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 2.0, 4.0])
def test_both_ways_come_to_the_same_place(noise):
    fixed, moving = maps(noise, seed=3)
    own = {"voxel_size": 10.0, "resolution": 30.0, "diameter": 260.0}
    one = superpose(fixed, moving, **own)
    other = superpose(fixed, moving, method="gradient", **own)
    assert other.score == pytest.approx(one.score, abs=1e-6)
    assert np.rad2deg((other.rotation * one.rotation.inv()).magnitude()) < 0.02
    np.testing.assert_allclose(other.shift_xyz, one.shift_xyz, atol=0.05)
    if noise == 0:
        assert np.rad2deg((other.rotation * TURN.inv()).magnitude()) < 0.05
        np.testing.assert_allclose(other.shift_xyz, SHIFT, atol=0.1)


def test_empty_maps_correlate_with_nothing():
    pair = MapPair.of(np.zeros((16, 16, 16)), np.zeros((16, 16, 16)), 10.0, 40.0, None)
    assert pair.slope(Rotation.identity(), np.zeros(3), np.zeros(3))[0] == 0.0
    assert pair.nearest_optimum(Rotation.identity(), np.zeros(3))[2] == 0.0
