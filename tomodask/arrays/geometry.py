"""Orientations: Euler conventions of the field, distances, and grids that cover all rotations.

An orientation is a SciPy `Rotation` that takes the reference to the particle and acts on xyz
column vectors.  Euler angles exist at the border of a file only.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

__all__ = [
    "angular_distance",
    "dynamo_from_rotation",
    "matrices_zyx",
    "relion_from_rotation",
    "rotation_from_dynamo",
    "rotation_from_relion",
    "rotation_grid",
]

_PSI = 1.533751168755204288118041  # the root of psi**4 = psi + 4 [1]_


def rotation_from_relion(angles: np.ndarray) -> Rotation:
    """Orientation from RELION's ``rlnAngleRot, rlnAngleTilt, rlnAnglePsi``.

    Parameters
    ----------
    angles : array, shape (3,) or (n, 3)
        rot, tilt, psi in degrees (intrinsic ZYZ, particle → reference).

    Examples
    --------
    >>> rotation_from_relion([90.0, 0.0, 0.0]).apply([1.0, 0.0, 0.0]).round(6).tolist()
    [0.0, -1.0, 0.0]
    """
    return Rotation.from_euler("ZYZ", angles, degrees=True).inv()


def relion_from_rotation(rotation: Rotation) -> np.ndarray:
    """RELION's rot, tilt, psi in degrees of an orientation; shape (3,) or (n, 3).

    Where tilt is 0 or 180, rot and psi turn about one axis: psi is set to 0 and rot takes all.
    """
    return _euler(rotation.inv(), "ZYZ")


def rotation_from_dynamo(angles: np.ndarray) -> Rotation:
    """Orientation from Dynamo's ``tdrot, tilt, narot`` (extrinsic zxz), in degrees."""
    return Rotation.from_euler("zxz", angles, degrees=True).inv()


def dynamo_from_rotation(rotation: Rotation) -> np.ndarray:
    """Dynamo's tdrot, tilt, narot in degrees of an orientation; shape (3,) or (n, 3)."""
    return _euler(rotation.inv(), "zxz")


def _euler(rotation: Rotation, axes: str) -> np.ndarray:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Gimbal lock")  # the third angle is then 0
        return np.asarray(rotation.as_euler(axes, degrees=True))


def matrices_zyx(rotation: Rotation) -> np.ndarray:
    """Rotation matrices that act on (z, y, x) column vectors, float64, shape (..., 3, 3)."""
    return np.ascontiguousarray(rotation.as_matrix()[..., ::-1, ::-1])


def angular_distance(a: Rotation, b: Rotation) -> np.ndarray:
    """Angle in degrees of the rotation between two orientations, shape (n,) or ().

    Examples
    --------
    >>> float(angular_distance(Rotation.identity(), Rotation.from_euler("z", 30, degrees=True)))
    30.0
    """
    return np.asarray(np.rad2deg((b * a.inv()).magnitude())).round(9)


def rotation_grid(angular_step: float | None = None, *, count: int | None = None) -> Rotation:
    """Rotations that cover all orientations evenly: a super-Fibonacci spiral [1]_.

    Parameters
    ----------
    angular_step : float
        Edge, in degrees, of the cube of rotation space that each rotation stands for.  A random
        orientation is then half of `angular_step` from the grid in the mean, 0.9 of it at most.
    count : int
        The number of rotations, in place of `angular_step`.

    Returns
    -------
    Rotation, length ceil(8 pi² / angular_step³) with `angular_step` in radians

    Raises
    ------
    ValueError
        If not exactly one of the two is given, or it is not positive.

    References
    ----------
    .. [1] Alexa, "Super-Fibonacci Spirals: Fast, Low-Discrepancy Sampling of SO(3)", CVPR 2022.

    Examples
    --------
    >>> len(rotation_grid(15.0))
    4401
    """
    if (angular_step is None) == (count is None):
        raise ValueError(f"give angular_step or count, one of them, got {angular_step=}, {count=}")
    if angular_step is not None:
        if not 0 < angular_step <= 180:
            raise ValueError(f"angular_step must be above 0 and at most 180°, got {angular_step}")
        count = int(np.ceil(8 * np.pi**2 / np.deg2rad(angular_step) ** 3))
    assert count is not None
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    s = np.arange(count) + 0.5
    near, far = np.sqrt(s / count), np.sqrt(1 - s / count)
    alpha, beta = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / _PSI
    return Rotation.from_quat(
        np.stack(
            [near * np.sin(alpha), near * np.cos(alpha), far * np.sin(beta), far * np.cos(beta)], 1
        )
    )
