"""Tomograms, picks and boxes to try extraction and stores on."""

import itertools

import dask.array as da
import mrcfile
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize

from tomodask.data.subtomograms import (
    extract_subtomograms,
    open_subtomograms,
)

VOXEL = 10.0


def tomogram(values, chunks=None):
    data = values if chunks is None else da.from_array(values, chunks=chunks)
    return xr.DataArray(
        data,
        dims=("z", "y", "x"),
        name="ts",
        attrs={"voxel_size": VOXEL, "tilt_range": (-60.0, 60.0)},
    )


def tilt_series(**changed):
    """The record of a tilt series, as reconstruction leaves it."""
    return {
        "angle": [-51.0, 0.1, 48.0], "weight": [0.3, 0.4, 0.5], "pixel_size": 5.0,
        "phase_flipped": True, "dose_weighted": False, "method": "wbp",
        "defocus_u": [31000.0, 30000.0, 29000.0], "voltage": 300.0,
        "spherical_aberration": 2.7, "amplitude_contrast": 0.07, **changed,
    }  # fmt: skip


def picks_at(zyx):
    return pd.DataFrame(np.asarray(zyx, float) * VOXEL, columns=["z", "y", "x"])


def noise(shape=(40, 44, 48), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_picks(shape, count, seed=1):
    zyx = np.random.default_rng(seed).uniform(0, 1, (count, 3)) * (np.array(shape) - 1)
    return picks_at(zyx)


def one_box(values, zyx, box):
    """Reference: voxel by voxel, None beyond the tomogram, then the mean."""
    out = np.full((box,) * 3, np.nan)
    for place in itertools.product(range(box), repeat=3):
        at = [c - box // 2 + i for c, i in zip(zyx, place, strict=True)]
        if all(0 <= a < n for a, n in zip(at, values.shape, strict=True)):
            out[place] = values[tuple(at)]
    return np.where(np.isnan(out), np.nanmean(out), out)


def never_compute(*args, **kwargs):
    raise AssertionError("the graph was computed while it was being built")


def recorded(name="ts", **changed):
    """A tomogram that has the record of its tilt series."""
    volume = tomogram(noise()).rename(name)
    del volume.attrs["tilt_range"]
    return volume.assign_attrs(tilt_series=tilt_series(**changed))


# The store


def some_boxes(count=30, box=8):
    values = noise()
    picks = random_picks(values.shape, count).assign(note=[f"n {i % 3}" for i in range(count)])
    return extract_subtomograms(tomogram(values, 16), picks, box=box)


def token(path, **options):
    return tokenize(open_subtomograms(path, **options).subtomogram.data)


# The files of others


def write_mrc(path, values, voxel_size=VOXEL, **options):
    with mrcfile.new(path, **options) as mrc:
        mrc.set_data(values)
        mrc.voxel_size = voxel_size
