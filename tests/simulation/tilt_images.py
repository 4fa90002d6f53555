"""Volumes, and images of them, to try a simulated microscope on."""

import dask
import dask.array as da
import numpy as np
import scipy.ndimage as ndi
import xarray as xr

from tomodask.simulation.imaging import simulate_tilt_series
from tomodask.simulation.microscope import Microscope
from tomodask.simulation.tilt_schemes import tilt_scheme

PERFECT = Microscope(ctf=False)


def never_compute(*args, **kwargs):
    raise AssertionError("the graph was computed while it was being built")


def as_volume(array, *, chunks="auto", voxel_size=10.0, name="volume"):
    return xr.DataArray(
        da.from_array(np.asarray(array, np.float32), chunks=chunks),
        dims=("z", "y", "x"),
        attrs={"voxel_size": voxel_size},
        name=name,
    )


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def smooth(shape, seed=0, sigma=1.5):
    """Smooth noise in the middle of a volume, zero around it."""
    margin = [n // 5 for n in shape]
    inside = [n - 2 * m for n, m in zip(shape, margin, strict=True)]
    padded = np.pad(noise(inside, seed), [(m, m) for m in margin])
    return ndi.gaussian_filter(padded, sigma, mode="constant")


def one_tilt(angle, **columns):
    scheme = tilt_scheme((angle, angle), 1.0, order="continuous")
    return scheme.assign(**columns)


def images(projections, scheme, microscope=PERFECT, **keywords):
    with dask.config.set(scheduler="synchronous"):
        return simulate_tilt_series(
            projections, scheme=scheme, microscope=microscope, **keywords
        ).to_numpy()
