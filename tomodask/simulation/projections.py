"""Noise-free projections in a Zarr store: what the images of a series are made of.

Chunks hold rows of one image each: projections come by slabs of rows of many tilts, and go by whole
images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr

from tomodask.cluster import compute
from tomodask.data.writing import replacing
from tomodask.errors import InputError

__all__ = ["open_projections", "save_projections"]

_KIND = "projections"


def save_projections(projections: xr.DataArray, path: Path) -> None:
    """Compute projections (slab, tilt, y, x) or (tilt, y, x) into a store.

    Raises
    ------
    InputError
        If the disk is full.
    """
    data = projections.data
    if not isinstance(data, da.Array):
        data = da.from_array(data)
    # Zarr's chunks lie whole inside Dask's blocks, so that no two tasks write one: a block's rows,
    # one image deep.
    rows = data.chunks[-2][0]
    chunks = (*(1,) * (data.ndim - 2), rows, data.shape[-1])
    with replacing(path, overwrite=True, needed=4 * data.size) as part:
        group = zarr.open_group(part, mode="w")
        array = group.create_array(
            "projections", shape=data.shape, chunks=chunks, dtype=np.float32, compressors=None
        )
        kept: dict[str, Any] = {
            "tomodask": _KIND,
            "dims": list(projections.dims),
            "name": None if projections.name is None else str(projections.name),
            "attrs": dict(projections.attrs),
            "coords": {
                str(name): {"dims": list(coord.dims), "values": np.asarray(coord).tolist()}
                for name, coord in projections.coords.items()
            },
        }
        group.attrs.update(kept)
        compute(da.store(data, array, lock=False, compute=False), label="project")


def open_projections(path: Path) -> xr.DataArray:
    """Projections as they were saved; lazy, a block an image.

    Raises
    ------
    InputError
        If there is no such store.
    """
    try:
        group = zarr.open_group(path, mode="r")
    except (FileNotFoundError, ValueError, KeyError):
        raise InputError(f"{path}: no store of projections there; project again") from None
    kept = dict(group.attrs)
    if kept.get("tomodask") != _KIND:
        raise InputError(f"{path}: the store holds no projections; project again")
    array = group["projections"]
    blocks = (*(1,) * (array.ndim - 2), *array.shape[-2:])
    coords = {
        name: (tuple(one["dims"]), np.asarray(one["values"]))
        for name, one in kept["coords"].items()
    }
    return xr.DataArray(
        da.from_zarr(array, chunks=blocks),
        dims=kept["dims"],
        coords=coords,
        attrs=kept["attrs"],
        name=kept["name"],
    )
