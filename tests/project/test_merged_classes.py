"""Classes that were found to be one: weights and poses of their particles."""

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from tomodask.data.particles import orientations, with_orientations
from tomodask.rounds.one_round import _merged
from tomodask.rounds.superposition import Motion


def test_weights_of_equal_classes_add_up_to_one_at_most():
    shares = np.random.default_rng(0).random((2000, 3))
    weights = shares / shares.sum(1, keepdims=True)
    weights[:, 2] = 0
    weights[:, :2] /= weights[:, :2].sum(1, keepdims=True)
    assert (weights.sum(1) > 1).any()  # rounded
    poses = with_orientations(
        pd.DataFrame(np.zeros((6000, 4)), columns=["shift_z", "shift_y", "shift_x", "score"]),
        Rotation.identity(6000),
    )
    still = Motion(Rotation.identity(), np.zeros(3), 1.0)
    poses["half"] = np.repeat([1, 2] * 1000, 3)
    _, merged = _merged(poses, weights.copy(), {1: 0, 2: 1, 3: 2}, 1, 2, (still, still))
    assert merged[:, 0].max() == 1.0
    assert not merged[:, 1].any()


def test_particles_of_an_equal_class_follow_the_motion_of_their_half():
    poses = with_orientations(
        pd.DataFrame(np.zeros((8, 4)), columns=["shift_z", "shift_y", "shift_x", "score"]),
        Rotation.identity(8),
    )
    poses["half"], poses["class"] = np.repeat([1, 2, 1, 2], 2), [1, 2] * 4
    weights = np.array([[0.0, 1], [0, 1], [1, 0], [1, 0]])
    motions = tuple(
        Motion(Rotation.from_euler("z", angle, degrees=True), np.array([angle, 0, 0]), 1.0)
        for angle in (10.0, 20.0)
    )
    moved, merged = _merged(poses, weights, {1: 0, 2: 1}, 1, 2, motions)
    assert merged.tolist() == [[1, 0]] * 4
    angles = np.rad2deg(orientations(moved).magnitude())
    np.testing.assert_allclose(angles, [10, 0, 20, 0, 0, 0, 0, 0], atol=1e-9)
    assert moved["shift_x"].tolist() == [10.0, 0, 20, 0, 0, 0, 0, 0]
