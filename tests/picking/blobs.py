"""Small cases of template matching: particles of a few Gaussians, turned without interpolation."""

from __future__ import annotations

import dask.array as da
import numpy as np
import scipy.fft
import xarray as xr
from scipy.spatial.transform import Rotation

from tomodask.arrays.fourier import wedge

# x, y, z in voxels from the centre, and mass: no symmetry, mass centred
PLACES = np.array([[5, 0, 0], [-3, 4, 0], [-2, -4, 1], [0, 1, 5], [0, -1, -6.0], [3, -3, 3]])
PLACES -= PLACES.mean(0)
MASSES = np.array([1.0, 1.3, 0.8, 1.0, 1.2, 0.7])


def blobs(shape, center, turn=None, *, sigma=1.5, places=PLACES, masses=MASSES):
    """Gaussians around `center` (z, y, x), turned by a `Rotation` on xyz vectors."""
    if turn is None:
        turn = Rotation.identity()
    out = np.zeros(shape)
    for (x, y, z), mass in zip(turn.apply(places), masses, strict=True):
        axes = [
            np.exp(-0.5 * ((np.arange(n) - c - d) / sigma) ** 2)
            for n, c, d in zip(shape, center, (z, y, x), strict=True)
        ]
        out += mass * np.einsum("i,j,k->ijk", *axes)
    return out


def template(size=20, **kwargs):
    return volume(blobs((size,) * 3, (size // 2,) * 3, **kwargs), name="template")


def volume(values, *, voxel_size=10.0, chunks=None, name="test", tilt_range=(-90.0, 90.0), **attrs):
    if tilt_range is not None:
        attrs["tilt_range"] = tilt_range
    values = np.asarray(values, np.float32)
    data = values if chunks is None else da.from_array(values, chunks=chunks)
    return xr.DataArray(
        data, dims=("z", "y", "x"), name=name, attrs={"voxel_size": voxel_size, **attrs}
    )


def seen(values, tilt_range):
    """What a tilt series sees of a volume."""
    return scipy.fft.irfftn(scipy.fft.rfftn(values) * wedge(values.shape, tilt_range), values.shape)
