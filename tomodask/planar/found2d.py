"""From what a search found in the references' frame to poses in the image."""

from __future__ import annotations

from typing import Any

import numpy as np

from tomodask.planar.plan2d import Plan2D
from tomodask.planar.poses2d import POSE2D, shift_in_image, wrapped

__all__ = ["poses_of", "with_faults"]


def poses_of(
    plan: Plan2D, reference: np.ndarray, shifts: np.ndarray, mirror: np.ndarray, pose: np.ndarray
) -> np.ndarray:
    """Poses in the image, degrees and Å, of what was found in the references' frame.

    Parameters
    ----------
    plan : Plan2D
    reference : array of int, shape (...)
        From 0.
    shifts : array, shape (..., 2)
        The best of the grid.
    mirror : array of bool, shape (...)
    pose : array of float64, shape (..., 4)
        Of `refine_lanes`.
    """
    out = np.zeros(reference.shape, POSE2D)
    psi = wrapped(np.rad2deg(pose[..., 0]))
    moved = shifts + plan.step * pose[..., 1:3]
    y, x = shift_in_image(psi, mirror, moved[..., 0], moved[..., 1])
    columns: dict[str, Any] = {
        "class": reference + 1,
        "psi": psi,
        "shift_y": y * plan.pixel_size,
        "shift_x": x * plan.pixel_size,
        "mirror": mirror,
        # The polynomial through the grid's points may be a little above what a coefficient can be.
        "score": np.clip(pose[..., 3], -1.0, 1.0),
    }
    for name, values in columns.items():
        out[name] = values
    return out


def with_faults(poses: np.ndarray, faults: np.ndarray) -> np.ndarray:
    """The same with the poses of those set aside taken away; in place."""
    aside = faults > 0
    poses[aside] = np.zeros((), POSE2D)
    poses["score"][aside] = np.nan
    poses["fault"] = faults.reshape(-1, *[1] * (poses.ndim - 1))
    return poses
