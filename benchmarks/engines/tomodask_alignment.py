"""tomodask as an engine of `alignment_peers.py`: the public call, as a user makes it."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import xarray as xr

from tomodask import align_subtomograms
from tomodask.data.particles import orientations

VOXEL = 6.0  # Å; voxels are what goes in and comes out


def prepare(reference, tilt_range, shift_range):
    dask.config.set(scheduler="synchronous")
    volume = xr.DataArray(reference, dims=("z", "y", "x"), attrs={"voxel_size": VOXEL})

    def align(boxes, near):
        dataset = xr.Dataset(
            {"subtomogram": (("particle", "z", "y", "x"), da.from_array(boxes, (32, -1, -1, -1)))},
            coords={"particle": np.arange(len(boxes))},
            attrs={"voxel_size": VOXEL},
        )
        table = align_subtomograms(
            dataset, volume, tilt_range=tilt_range, shift_range=shift_range * VOXEL
        ).compute()
        return orientations(table), table[["shift_z", "shift_y", "shift_x"]].to_numpy() / VOXEL

    # Kernels are compiled, or read from their cache, when they are first called.
    noise = np.random.default_rng(0).standard_normal((1, *reference.shape), dtype=np.float32)
    align(noise, None)
    return align


ENGINES = {"tomodask, global": prepare}
