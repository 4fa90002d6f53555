"""Orientations against hand-made rotation matrices, and how well a grid covers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tomodask.arrays import geometry

angles = st.tuples(st.floats(-179, 179), st.floats(1, 179), st.floats(-179, 179))


def turn(axis, degrees):
    """Right-handed rotation matrix about an axis of (x, y, z), acting on columns."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    out = np.eye(3)
    out[i, i], out[i, j], out[j, i], out[j, j] = c, -s, s, c
    return out


@given(angles)
def test_relion_is_intrinsic_zyz_of_the_inverse(zyz):
    rot, tilt, psi = zyz
    want = (turn("z", rot) @ turn("y", tilt) @ turn("z", psi)).T
    np.testing.assert_allclose(geometry.rotation_from_relion(zyz).as_matrix(), want, atol=1e-12)


@given(angles)
def test_dynamo_is_extrinsic_zxz_of_the_inverse(zxz):
    tdrot, tilt, narot = zxz
    want = (turn("z", narot) @ turn("x", tilt) @ turn("z", tdrot)).T
    np.testing.assert_allclose(geometry.rotation_from_dynamo(zxz).as_matrix(), want, atol=1e-12)


@given(angles)
def test_angles_go_there_and_back(zyz):
    rotation = geometry.rotation_from_relion(zyz)
    np.testing.assert_allclose(geometry.relion_from_rotation(rotation), zyz, atol=1e-9)
    dynamo = geometry.rotation_from_dynamo(zyz)
    np.testing.assert_allclose(geometry.dynamo_from_rotation(dynamo), zyz, atol=1e-9)


def test_gimbal_lock_loses_no_orientation():
    rotation = Rotation.from_euler("z", [[10.0], [200.0]], degrees=True)
    back = geometry.rotation_from_relion(geometry.relion_from_rotation(rotation))
    np.testing.assert_allclose(geometry.angular_distance(rotation, back), 0, atol=1e-6)


def test_matrices_act_on_zyx_columns():
    rotation = Rotation.random(5, rng=np.random.default_rng(0))
    xyz = np.array([1.0, 2.0, 3.0])
    zyx = geometry.matrices_zyx(rotation) @ xyz[::-1]
    np.testing.assert_allclose(zyx[:, ::-1], rotation.apply(xyz))


@pytest.mark.parametrize("step", [30.0, 20.0, 15.0])
def test_grid_covers_as_its_docstring_says(step):
    grid = geometry.rotation_grid(step).as_quat()
    some = Rotation.random(2000, rng=np.random.default_rng(1)).as_quat()
    nearest = 2 * np.rad2deg(np.arccos(np.clip(np.abs(some @ grid.T).max(1), 0, 1)))
    assert nearest.mean() == pytest.approx(0.5 * step, rel=0.06)
    assert nearest.max() < 0.9 * step


@pytest.mark.parametrize("kwargs", [{}, {"angular_step": 10.0, "count": 5}])
def test_grid_wants_one_of_step_and_count(kwargs):
    with pytest.raises(ValueError, match="one of them"):
        geometry.rotation_grid(**kwargs)


def test_grid_wants_a_positive_step():
    with pytest.raises(ValueError, match="angular_step must be above 0"):
        geometry.rotation_grid(0.0)
