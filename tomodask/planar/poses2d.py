"""Poses in the plane: what turn, mirror and shift mean, and how they go over to other notations.

Image axes are (y, x), y counts rows, the centre is pixel ``size // 2``, for odd sizes too, and
points are (x, y) columns from there.  A pose takes the reference to the particle in the image::

    point of the image = turn · (mirrored) point of the reference + shift
    turn = [[cos psi, sin psi], [-sin psi, cos psi]]
    mirrored: (x, y) -> (-x, y), before the turn

so that the image is ``image(q) = reference(M · Rz(psi) · (q - shift))``, with ``Rz`` the
counter-clockwise turn of mathematics in (x, y) and M the mirror or nothing.  That is RELION's
meaning of ``rlnAnglePsi`` (its matrix of psi alone takes the reference to the image), the plane's
part of the 3D convention of this library: the orientation with rot = 0, psi, and tilt = 0, or
180 where mirrored, which turns the reference about y and shows its back.  ``shift`` is where the
particle's centre lies, from the image's: RELION's ``rlnOriginXAngst`` negated.

Angles are in degrees, classes count from 1, shifts are in Å in tables and wherever a function
names no unit; functions here do not mind, as long as all lengths of a call are of one unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import rotation_from_relion

__all__ = [
    "FAULTS",
    "POSE2D",
    "Poses2D",
    "composed",
    "inverse",
    "looked_up",
    "orientations2d",
    "poses2d",
    "relion_angles",
    "rendered",
    "shift_in_image",
    "shift_in_reference",
    "wrapped",
]

#: One aligned image; what `align_batch` returns.  ``fault`` is an index of FAULTS.
POSE2D = np.dtype(
    [
        ("class", np.int32),
        ("psi", np.float64),
        ("shift_y", np.float64),
        ("shift_x", np.float64),
        ("mirror", np.bool_),
        ("score", np.float64),
        ("fault", np.uint8),
    ]
)

#: Why an image is set aside: class 0, no pose, no score.
FAULTS = ("", "not finite", "constant")


@dataclass(frozen=True)
class Poses2D:
    """Poses of many images, or of one; the four broadcast against each other.

    Attributes
    ----------
    psi : array of float64, degrees
    shift_y, shift_x : array of float64
        Of the particle from the image's centre.
    mirror : array of bool
    """

    psi: np.ndarray
    shift_y: np.ndarray
    shift_x: np.ndarray
    mirror: np.ndarray

    @classmethod
    def of(cls, table: Any) -> Poses2D:
        """From a table, or a structured array, with columns of these names."""
        return cls(
            np.asarray(table["psi"], np.float64),
            np.asarray(table["shift_y"], np.float64),
            np.asarray(table["shift_x"], np.float64),
            np.asarray(table["mirror"], bool),
        )


def shift_in_image(
    psi: Any, mirror: Any, reference_y: Any, reference_x: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Where a point of the reference lies in the image of an unshifted particle: (y, x).

    A reference moved by s before it is mirrored and turned looks like the particle moved by this.

    Examples
    --------
    >>> y, x = shift_in_image(90.0, False, 0.0, 1.0)  # RELION turns x to -y
    >>> [round(float(v), 6) for v in (y, x)]
    [-1.0, 0.0]
    """
    c, s = _turn(psi)
    x = np.where(mirror, -1.0, 1.0) * np.asarray(reference_x, np.float64)
    y = np.asarray(reference_y, np.float64)
    return c * y - s * x, c * x + s * y


def shift_in_reference(
    psi: Any, mirror: Any, image_y: Any, image_x: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The point of the reference, (y, x), that an image of an unshifted particle shows there.

    The inverse of `shift_in_image`.
    """
    c, s = _turn(psi)
    y, x = np.asarray(image_y, np.float64), np.asarray(image_x, np.float64)
    return s * x + c * y, np.where(mirror, -1.0, 1.0) * (c * x - s * y)


def composed(outer: Poses2D, inner: Poses2D) -> Poses2D:
    """The pose that does `inner` first, then `outer` to what came of it.

    Where a reference B is the reference A at the pose g, an image whose pose is h for A has the
    pose ``composed(h, inverse(g))`` for B: so averages are centred without aligning again.
    """
    y, x = shift_in_image(outer.psi, outer.mirror, inner.shift_y, inner.shift_x)
    return Poses2D(
        wrapped(outer.psi + np.where(outer.mirror, -1.0, 1.0) * inner.psi),
        outer.shift_y + y,
        outer.shift_x + x,
        np.asarray(outer.mirror) ^ np.asarray(inner.mirror),
    )


def inverse(poses: Poses2D) -> Poses2D:
    """The poses that take the image back to the reference."""
    y, x = shift_in_reference(poses.psi, poses.mirror, poses.shift_y, poses.shift_x)
    psi = wrapped(np.where(poses.mirror, 1.0, -1.0) * poses.psi)
    return Poses2D(psi, -y, -x, np.asarray(poses.mirror, bool))


def wrapped(psi: Any) -> np.ndarray:
    """The same angle in [-180, 180) degrees."""
    return np.asarray((np.asarray(psi, np.float64) + 180.0) % 360.0 - 180.0)


def relion_angles(poses: Poses2D) -> np.ndarray:
    """RELION's rot, tilt, psi in degrees, shape (n, 3): rot 0, tilt 0 or 180 (mirrored), psi.

    RELION's 2D programs look at psi alone: a table for them goes by this, not by quaternions,
    from which psi and rot cannot be told apart.
    """
    psi, mirror = np.broadcast_arrays(np.atleast_1d(poses.psi), np.atleast_1d(poses.mirror))
    return np.stack([np.zeros(psi.shape), np.where(mirror, 180.0, 0.0), psi], axis=-1)


def orientations2d(poses: Poses2D) -> Rotation:
    """The same in 3D: reference → particle, about z, or of its back."""
    return rotation_from_relion(relion_angles(poses))


def poses2d(orientations: Rotation, shift_y: Any, shift_x: Any) -> tuple[Poses2D, np.ndarray]:
    """Poses in the plane of 3D orientations, and how far each leaves the plane.

    Returns
    -------
    poses : Poses2D
        ``psi`` of the turn about z nearest to the orientation, with the back shown or not.
    out_of_plane : array of float64, degrees
        0 where the orientation is one of the plane; what a caller refuses or forgives.
    """
    matrix = orientations.as_matrix().reshape(-1, 3, 3)
    mirror = matrix[:, 2, 2] < 0
    tilt = np.rad2deg(np.arccos(np.clip(np.abs(matrix[:, 2, 2]), 0, 1)))
    psi = np.rad2deg(np.arctan2(matrix[:, 0, 1], matrix[:, 1, 1]))
    poses = Poses2D(
        wrapped(psi), np.asarray(shift_y, np.float64), np.asarray(shift_x, np.float64), mirror
    )
    return poses, tilt


def rendered(
    reference: np.ndarray,
    *,
    psi: float,
    shift_y: float = 0.0,
    shift_x: float = 0.0,
    mirror: bool = False,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """The image of a reference at a pose, slow and exact: the definition of a pose, in code.

    The reference is the trigonometric polynomial through its pixels, looked up at the place that
    each pixel of the image shows; nothing lies beyond its border.

    Parameters
    ----------
    reference : array, shape (y, x)
    psi : float
        Degrees.
    shift_y, shift_x : float
        Pixels.
    mirror : bool
    shape : (int, int), optional
        Of the image, by default of the reference.

    Returns
    -------
    array of float64, shape `shape`
    """
    ny, nx = shape or reference.shape
    y, x = np.meshgrid(np.arange(ny) - ny // 2, np.arange(nx) - nx // 2, indexing="ij")
    at_y, at_x = shift_in_reference(psi, mirror, y - shift_y, x - shift_x)
    return looked_up(reference, at_y, at_x)


def looked_up(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The trigonometric polynomial through an image's pixels, at places from its centre, pixels.

    0 beyond the border, where it would repeat.  Slow and exact.
    """
    ny, nx = image.shape
    spectrum = np.fft.fft2(np.asarray(image, np.float64))
    at_y, at_x = np.ravel(y) + ny // 2, np.ravel(x) + nx // 2
    wave_y, wave_x = _waves(at_y, ny), _waves(at_x, nx)
    value = np.einsum("px,px->p", wave_y @ spectrum, wave_x).real / (ny * nx)
    edge = 1e-9
    within = (at_y >= -edge) & (at_y <= ny - 1 + edge) & (at_x >= -edge) & (at_x <= nx - 1 + edge)
    return np.asarray(np.where(within, value, 0.0).reshape(np.shape(y)))


def _waves(at: np.ndarray, size: int) -> np.ndarray:
    k = np.fft.fftfreq(size, 1 / size)
    waves = np.exp(2j * np.pi / size * np.multiply.outer(at, k))
    if size % 2 == 0:  # the highest wave stands for both signs
        waves[:, size // 2] = np.cos(np.pi * at)
    return np.asarray(waves)


def _turn(psi: Any) -> tuple[np.ndarray, np.ndarray]:
    angle = np.deg2rad(np.asarray(psi, np.float64))
    return np.cos(angle), np.sin(angle)
