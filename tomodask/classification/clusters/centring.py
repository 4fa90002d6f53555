"""Particles brought to the middle of what their average shows.

A pick lies where its finder saw most, two or three voxels from the particle's centre, and the frame
of an average without a reference lies where its first map happened to.  Features of a box depend on
where the particle lies in it, more than on anything else that differs within a structure.  An
alignment knows where each particle of a cluster lies in the frame of its average; of the average
itself the centre of its density is taken, so that clusters of one structure agree.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.ndimage

from tomodask.arrays.sampling import soft_sphere
from tomodask.data.columns import POSITION, SHIFT, require_columns
from tomodask.data.particles import orientations
from tomodask.errors import InputError

__all__ = ["centred_poses", "density_centre"]

_SMOOTH = 1.0  # voxels: standard deviation of the Gaussian that takes noise away
_ABOVE = 2.0  # standard deviations of the background: what is less is taken for background


def density_centre(volume: np.ndarray, *, voxel_size: float, diameter: float) -> np.ndarray:
    """Where the middle of an average's density lies.

    The centre of mass, under a soft sphere, of what differs from the background about the sphere:
    bright or dark, whichever is more.  The sphere stays about the middle of the box: in a crowded
    specimen one that followed the centre would run away to a neighbour.

    Parameters
    ----------
    volume : array, shape (n, n, n)
    voxel_size : float
        Å.
    diameter : float
        Of the sphere about the particle, Å.

    Returns
    -------
    array, shape (3,)
        z, y, x from voxel ``n // 2``, Å; zeros where nothing differs from the background.

    Raises
    ------
    InputError
        If the volume is not cubic or holds NaN, or a size is not above 0.

    Examples
    --------
    >>> volume = np.zeros((16, 16, 16))
    >>> volume[8:11, 7:10, 7:10] = 1.0
    >>> np.abs(density_centre(volume, voxel_size=10.0, diameter=80.0)).round().tolist()
    [10.0, 0.0, 0.0]
    """
    values = np.asarray(volume, np.float64)
    if values.ndim != 3 or len(set(values.shape)) != 1 or not np.isfinite(values).all():
        raise InputError(f"volume must be a cube of finite values, got shape {values.shape}")
    for name, size in (("voxel_size", voxel_size), ("diameter", diameter)):
        if not size > 0:
            raise InputError(f"{name} must be above 0 Å, got {size!r}")
    n, radius = values.shape[0], diameter / 2 / voxel_size
    values = scipy.ndimage.gaussian_filter(values, _SMOOTH, mode="nearest")
    axes = np.indices(values.shape) - n // 2
    sphere = soft_sphere(n, radius)
    about = sphere == 0
    outside = values[about] if about.any() else values.ravel()
    # Median and its deviation: neighbours that show through are no background.
    level = float(np.median(outside))
    spread = 1.4826 * float(np.median(np.abs(outside - level)))
    differs = values - level
    sign = 1.0 if (differs[~about] ** 3).sum() >= 0 else -1.0
    mass = np.maximum(sign * differs - _ABOVE * spread, 0.0)
    mass *= sphere
    total = mass.sum()
    if not total > 0:
        return np.zeros(3)
    centre = (axes * mass).sum((1, 2, 3)) / total
    return np.asarray(centre * voxel_size)


def centred_poses(poses: pd.DataFrame, centre_zyx: np.ndarray) -> pd.DataFrame:
    """Poses whose shifts lead to a point of the reference, instead of its voxel ``n // 2``.

    Parameters
    ----------
    poses : DataFrame
        With ``quat_*`` and ``shift_*`` (Å), of each row.
    centre_zyx : array, shape (3,)
        In the frame of the reference, Å; from `density_centre`.

    Returns
    -------
    DataFrame
        A copy with other ``shift_*``: shift + R · centre.  Orientations stay.

    Raises
    ------
    InputError
        If columns are missing, or a row has no orientation.

    Examples
    --------
    >>> quarter = {"quat_x": 0.0, "quat_y": 0.0, "quat_z": 0.5**0.5, "quat_w": 0.5**0.5}
    >>> pose = pd.DataFrame([{**quarter, "shift_z": 1.0, "shift_y": 0.0, "shift_x": 0.0}])
    >>> centred_poses(pose, np.array([0.0, 0.0, 5.0]))[["shift_z", "shift_y", "shift_x"]].round(
    ...     6).to_numpy().tolist()
    [[1.0, 5.0, 0.0]]
    """
    require_columns(poses, ("shift",), "poses", rows=False)
    moved = orientations(poses).apply(np.asarray(centre_zyx, float)[::-1])
    out = poses.copy()
    out[list(SHIFT)] = poses[list(SHIFT)].to_numpy(float) + moved.reshape(-1, 3)[:, ::-1]
    return out


def with_centres(table: pd.DataFrame, rows: np.ndarray, poses: pd.DataFrame) -> pd.DataFrame:
    """A table of particles, those at `rows` with the shifts of `poses`; the rest stays.

    What names a box goes: boxes that are cut out again are other boxes.
    """
    require_columns(table, ("position",), "the particle table", rows=False)
    out = table.drop(columns="image", errors="ignore").copy()
    shifts = np.zeros((len(out), 3))
    for axis, name in enumerate(SHIFT):
        if name in out:
            shifts[:, axis] = out[name].to_numpy(float)
    shifts[rows] = poses[list(SHIFT)].to_numpy(float)
    out[list(SHIFT)] = shifts
    return out[[*POSITION, *(name for name in out if name not in POSITION)]]
