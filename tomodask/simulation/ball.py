"""The voxels of a block that lie in a ball: what every shape that is drawn goes through."""

from __future__ import annotations

import math

import numba

__all__ = ["ball_row", "put_profile"]


@numba.njit(cache=True, nogil=True)
def ball_row(dz, dy, radius, center_x, corner_x, width, voxel_size):  # type: ignore[no-untyped-def]
    """First and last voxel along x of a row of a block within a ball; first > last for none.

    Parameters
    ----------
    dz, dy : float
        Of the row from the ball's centre, Å.
    radius, center_x : float
        Å, in the volume.
    corner_x, width : int
        The row is voxels `corner_x` … `corner_x` + `width` − 1 of the volume.
    voxel_size : float
        Å.

    Examples
    --------
    >>> ball_row(0.0, 0.0, 15.0, 50.0, 2, 10, 10.0), ball_row(0.0, 16.0, 15.0, 50.0, 2, 10, 10.0)
    ((2, 4), (0, -1))
    """
    chord = radius * radius - dz * dz - dy * dy
    if chord < 0:
        return 0, -1
    chord = math.sqrt(chord)
    first = max(math.ceil((center_x - chord) / voxel_size) - corner_x, 0)
    last = min(math.floor((center_x + chord) / voxel_size) - corner_x, width - 1)
    return first, last


@numba.njit(cache=True, nogil=True)
def put_profile(row, i, far, profile, mode, value):  # type: ignore[no-untyped-def]
    """Write voxel `i` of a row by its distance `far`, in steps of `profile`, 0 beyond its end.

    `mode` 0: add the profile; 1: set `value` where the profile is at least ½; 2: the larger of what
    is there and the profile.
    """
    at = int(far)
    if at >= len(profile) - 1:
        return
    here = profile[at] + (far - at) * (profile[at + 1] - profile[at])
    if mode == 0:
        row[i] += here
    elif mode == 1:
        if here >= 0.5:
            row[i] = value
    else:
        row[i] = max(row[i], here)
