"""Poses in the plane: by hand, in RELION's notation, round trips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import relion_from_rotation, rotation_from_relion
from tomodask.planar.poses2d import (
    Poses2D,
    composed,
    inverse,
    looked_up,
    orientations2d,
    poses2d,
    relion_angles,
    rendered,
    shift_in_image,
    shift_in_reference,
    wrapped,
)

ANGLE = st.floats(-180, 179.999)
LENGTH = st.floats(-20, 20)
POSE = st.builds(Poses2D, ANGLE, LENGTH, LENGTH, st.booleans())


def points(pose, y, x):
    """Where points of the reference, (y, x), lie in the image."""
    at_y, at_x = shift_in_image(pose.psi, pose.mirror, y, x)
    return at_y + pose.shift_y, at_x + pose.shift_x


def blob(size, y, x, width=1.6):
    """A Gaussian at (y, x) pixels from the centre."""
    at = np.arange(size) - size // 2
    return np.exp(-((at[:, None] - y) ** 2 + (at - x) ** 2) / (2 * width**2))


@pytest.mark.parametrize("size", [32, 33])
def test_by_hand(size):
    """A blob right of the centre: psi = 90 turns it up (to smaller y), mirrored it goes down."""
    reference = blob(size, 0, 6)
    for mirror, y in ((False, -6), (True, 6)):
        image = rendered(reference, psi=90.0, mirror=mirror)
        np.testing.assert_allclose(image, blob(size, y, 0), atol=2e-4)
    image = rendered(reference, psi=0.0, shift_y=2.0, shift_x=-3.5)
    np.testing.assert_allclose(image, blob(size, 2, 2.5), atol=2e-4)
    np.testing.assert_allclose(
        rendered(blob(size, 3, 6), psi=0.0, mirror=True), blob(size, 3, -6), atol=2e-4
    )


@given(pose=POSE, y=st.floats(-5, 5), x=st.floats(-5, 5))
@settings(deadline=None, max_examples=20)
def test_a_point_lies_where_the_rendered_one_is(pose, y, x):
    pose = Poses2D(pose.psi, pose.shift_y / 5, pose.shift_x / 5, pose.mirror)
    image = rendered(
        blob(41, y, x), psi=pose.psi, shift_y=pose.shift_y, shift_x=pose.shift_x, mirror=pose.mirror
    )
    np.testing.assert_allclose(image, blob(41, *points(pose, y, x)), atol=1e-3)


@given(pose=POSE, y=LENGTH, x=LENGTH)
def test_the_plane_of_the_convention_in_3d(pose, y, x):
    """The orientation, applied to (x, y, 0), is the turn of the plane."""
    to_xyz = orientations2d(pose).apply([x, y, 0.0])[0]
    at_y, at_x = shift_in_image(pose.psi, pose.mirror, y, x)
    np.testing.assert_allclose(to_xyz, [at_x, at_y, 0], atol=1e-9)


@given(pose=POSE)
def test_relion_matrix_of_psi(pose):
    """RELION's Euler matrix of (0, 0, psi), as its source has it, takes reference to image."""
    a = np.deg2rad(pose.psi)
    matrix = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    y, x = shift_in_image(pose.psi, False, -2.0, 3.0)
    np.testing.assert_allclose([x, y], matrix @ [3.0, -2.0], atol=1e-12)


@given(pose=POSE)
def test_relion_angles_round_trip(pose):
    angles = relion_angles(pose)
    assert angles[0, 0] == 0
    assert angles[0, 1] == (180 if pose.mirror else 0)
    back, out = poses2d(rotation_from_relion(angles), pose.shift_y, pose.shift_x)
    assert abs(wrapped(back.psi[0] - pose.psi)) < 1e-9
    assert back.mirror[0] == pose.mirror
    assert out[0] < 1e-5
    # rot and psi turn about one axis: whatever a program made of them is the same pose
    again, _ = poses2d(
        rotation_from_relion(relion_from_rotation(orientations2d(pose))), pose.shift_y, pose.shift_x
    )
    assert abs(wrapped(again.psi[0] - pose.psi)) < 1e-6
    assert again.mirror[0] == pose.mirror


def test_out_of_plane_is_told():
    _, out = poses2d(Rotation.from_euler("ZYZ", [[10, 30, 5], [0, 170, 0]], degrees=True), 0, 0)
    np.testing.assert_allclose(out, [30, 10])


@given(pose=POSE, y=LENGTH, x=LENGTH)
def test_inverse_and_shift_round_trip(pose, y, x):
    back = points(inverse(pose), *points(pose, y, x))
    np.testing.assert_allclose(back, (y, x), atol=1e-9)
    there = shift_in_image(pose.psi, pose.mirror, y, x)
    np.testing.assert_allclose(shift_in_reference(pose.psi, pose.mirror, *there), (y, x), atol=1e-9)


@given(outer=POSE, inner=POSE, y=LENGTH, x=LENGTH)
def test_composed_is_one_after_the_other(outer, inner, y, x):
    both = points(composed(outer, inner), y, x)
    np.testing.assert_allclose(both, points(outer, *points(inner, y, x)), atol=1e-9)


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (8, 5)])
def test_looked_up_at_the_pixels_is_the_image(shape):
    image = np.random.default_rng(0).normal(size=shape)
    y, x = np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij")
    np.testing.assert_allclose(looked_up(image, y, x), image, atol=1e-12)
    assert (looked_up(image, y + shape[0], x) == 0).all()
