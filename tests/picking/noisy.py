"""Noise to segment, and how to make tiles and steps visible."""

import dask.array as da
import numpy as np
import xarray as xr

from tomodask.nets.segmentation.inference import open_engine
from tomodask.picking.segmentation import segmenting as segmentation

SHAPE = (28, 40, 52)


def noise(shape=SHAPE, seed=0, mean=5.0, std=3.0):
    rng = np.random.default_rng(seed)
    return (mean + std * rng.normal(size=shape)).astype(np.float32)


def tomogram(values, chunks=None, voxel_size=10.0, **attrs):
    data = values if chunks is None else da.from_array(values, chunks=chunks)
    attrs = {"voxel_size": voxel_size, **attrs}
    return xr.DataArray(data, dims=("z", "y", "x"), name="ice", attrs=attrs)


def slow(values, model):
    """The whole tomogram as one tile, padded at its end with its mean."""
    sign = -1 if model.invert else 1
    normal = (values - values.mean(dtype=np.float64)) * (sign / values.std(dtype=np.float64))
    multiple = model.architecture.multiple
    padded = np.pad(normal, [(0, -n % multiple) for n in values.shape]).astype(np.float32)
    out = open_engine(model).infer(padded[None, None])[0]
    return out[(slice(None), *(slice(0, n) for n in values.shape))]


def unrounded(monkeypatch):
    monkeypatch.setattr(segmentation, "_STEPS", 1 << 22)


def one_tile_a_task(monkeypatch):
    monkeypatch.setattr(segmentation, "_WORTH", 1)
