"""Volumes to write and to read back."""

import os

import dask.array as da
import numpy as np
import xarray as xr
from hypothesis import HealthCheck, settings

ONE_FOLDER = settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def tomogram(values, *, voxel_size=10.0, chunks=None, **attrs):
    data = da.from_array(values, chunks=chunks or values.shape)
    return xr.DataArray(data, dims=("z", "y", "x"), attrs={"voxel_size": voxel_size, **attrs})


def noise(shape, dtype=np.float32, seed=0):
    values = np.random.default_rng(seed).normal(size=shape) * 20
    return values.astype(dtype)


def tilt_series(**changed):
    """The record of a tilt series, as reconstruction leaves it."""
    return {
        "angle": [-51.0, 0.1, 48.0], "weight": [0.3, 0.4, 0.5], "pixel_size": 5.0,
        "phase_flipped": True, "dose_weighted": False, "method": "wbp",
        "defocus_u": [31000.0, 30000.0, 29000.0], "voltage": 300.0,
        "spherical_aberration": 2.7, "amplitude_contrast": 0.07, **changed,
    }  # fmt: skip


def never_compute(*args, **kwargs):
    raise AssertionError("the graph was computed while it was being built")


# Nothing half


def listing(folder):
    return sorted(os.listdir(folder))


def with_holes():
    values = noise((6, 7, 8))
    values[2, 3, 4] = np.nan
    values[5, 6, 7] = np.inf
    return values
