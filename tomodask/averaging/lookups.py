"""Where averages look up what was measured of each particle.

The weights of a tilt series take a quarter of a second and 5 MB in a box of 64 voxels, and rounds
of refinement average the same particles again and again: a process keeps what it has made, the
last used of it.
"""

from __future__ import annotations

import numpy as np
from dask.delayed import Delayed, delayed

from tomodask.alignment.measurement import Measurement
from tomodask.arrays.kept import KeptArrays
from tomodask.averaging.half_sums import wedge_plane

__all__ = ["lookup_of", "series_volume"]

_kept = KeptArrays(2**28)  # 56 tilt series in boxes of 64 voxels, 7 in boxes of 128


def lookup_of(measurement: Measurement, *, box: int, voxel_size: float) -> np.ndarray | Delayed:
    """What `half_sums.average` looks weights up in; of a tilt series lazy: a task makes it.

    Parameters
    ----------
    measurement : Measurement
    box : int
        Edge of the boxes, voxels.
    voxel_size : float
        Å.
    """
    if measurement.record is None:
        return wedge_plane(box, measurement.tilt_range)
    return delayed(series_volume, pure=True)(measurement, box=box, voxel_size=voxel_size)


def series_volume(measurement: Measurement, *, box: int, voxel_size: float) -> np.ndarray:
    """`Measurement.volume`, made once in a process (the task ``series_volume``).

    Returns
    -------
    array of float32, shape (2 m + 1, 2 m + 1, m + 1)
        Not to be written to: others hold the same.
    """
    key = measurement.digest, box, voxel_size
    return _kept.get(key, lambda: measurement.volume(box=box, voxel_size=voxel_size))
