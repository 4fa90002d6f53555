"""Probabilities of a segmentation in a Zarr store, tile by tile, so that a killed run goes on.

The store is an OME-Zarr 0.5 image with the axes c, z, y, x: viewers open it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from dask.base import tokenize
from dask.delayed import delayed

from tomodask.cluster import compute
from tomodask.errors import InputError
from tomodask.picking.tile_store import (
    StoreKind,
    codecs,
    missing_tiles,
    room_on_disk,
    write_tile,
)

__all__ = ["open_segmentation", "save_segmentation"]

_KIND = StoreKind(
    format="tomodask-segmentation-1",
    what="probabilities",
    command="tomodask segment",
    run="segment",
    inputs="other tomogram, model or parameters",
)
_LEVEL = "0"  # name of the array, as OME-Zarr has it
_DIMS = ("class", "z", "y", "x")
_COLORS = ("FFFF00", "00FFFF", "FF00FF", "00FF00", "FF8000", "0080FF", "FF0000", "8080FF")


def save_segmentation(probability: xr.DataArray, path: str | Path, *, resume: bool = True) -> None:
    """Compute the probabilities of `segment_tomogram` into a Zarr store.

    Each tile is written by the task after its own and marked as finished after that; after a
    crash or an interruption the same call computes the missing tiles only, and the store ends
    bit-identical to that of a run without one.

    Parameters
    ----------
    probability : DataArray, dims (class, z, y, x)
        From `segment_tomogram`.
    path : path
        The store, a folder ``….zarr`` (OME-Zarr 0.5, axes c, z, y, x; a chunk a tile and class;
        ``finished``, one element a tile).
    resume : bool
        Go on with a store of the same run.  False: begin anew, and drop what is there.

    Raises
    ------
    InputError
        If the store is of another run (other tomogram, model or parameters), or no store of
        probabilities, or the disk is full.
    """
    path = Path(path)
    if "fingerprint" not in probability.attrs or not _in_tiles(probability.data):
        raise InputError(
            "probability must be as segment_tomogram gives it, in the same blocks; got "
            f"{type(probability.data).__name__} of shape {probability.shape}"
        )
    with room_on_disk(path):
        group = _KIND.open_or_create(
            path,
            probability.attrs["fingerprint"],
            lambda new: _lay_out(probability, new),
            resume=resume,
        )
        compute(_writes(probability, path, missing_tiles(group)), label="segment")


def open_segmentation(path: str | Path) -> xr.DataArray:
    """Open a store of `save_segmentation`; lazy, as `segment_tomogram` returned it.

    Raises
    ------
    InputError
        If there is no such store, or not all of its tiles are finished.
    """
    path = Path(path)
    group = _KIND.open_whole(path)
    attrs = _attrs(group)
    array = group[_LEVEL]
    places = {
        d: np.arange(n) * attrs["voxel_size"]
        for d, n in zip(_DIMS[1:], array.shape[1:], strict=True)
    }
    return xr.DataArray(
        _KIND.lazy(path, group, _LEVEL, called="probability"),
        dims=_DIMS,
        coords={"class": group.attrs["classes"], **places},
        name=attrs["tomogram"],
        attrs=attrs,
    )


def _attrs(group: zarr.Group) -> dict[str, Any]:
    own = ("format", "ome", "classes")
    attrs = {k: v for k, v in group.attrs.asdict().items() if k not in own}
    for name in ("tilt_range", "diameters", "tomogram_shape"):
        if name in attrs:
            attrs[name] = tuple(attrs[name])
    return attrs


def _in_tiles(data: Any) -> bool:
    """Whether blocks are whole chunks of the store: two writers in one would lose data."""
    if not isinstance(data, da.Array) or data.ndim != 4 or data.numblocks[0] != 1:
        return False
    return all(
        start % sizes[0] == 0 for sizes in data.chunks[1:] for start in np.cumsum(sizes)[:-1]
    )


def _chunk(data: da.Array) -> tuple[int, ...]:
    return tuple(sizes[0] for sizes in data.chunks[1:])


def _lay_out(probability: xr.DataArray, group: zarr.Group) -> None:
    data = probability.data
    group.create_array(
        _LEVEL,
        shape=data.shape,
        chunks=(1, *_chunk(data)),
        dtype="float32",
        dimension_names=("c", "z", "y", "x"),
        # No probability: Zarr leaves chunks out that hold nothing else, whatever config they were
        # laid out with, and a missing one is damage here.
        fill_value=float("nan"),
        compressors=codecs(),
    )
    group.create_array(
        "finished", shape=data.numblocks[1:], chunks=(1, 1, 1), dtype="uint8", compressors=None
    )
    classes = [str(name) for name in probability["class"].values]
    group.attrs.update(
        {
            **{k: _plain(v) for k, v in probability.attrs.items()},
            "classes": classes,
            "ome": _ome(classes, probability),
            "format": _KIND.format,
        }
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _ome(classes: list[str], probability: xr.DataArray) -> dict[str, Any]:
    scale = {"type": "scale", "scale": [1.0, *[float(probability.attrs["voxel_size"])] * 3]}
    space = [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"]
    image = {
        "name": str(probability.name),
        "axes": [{"name": "c", "type": "channel"}, *space],
        "datasets": [{"path": _LEVEL, "coordinateTransformations": [scale]}],
    }
    window = {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0}
    channels = [
        {"label": name, "color": _COLORS[i % len(_COLORS)], "window": window, "active": True}
        for i, name in enumerate(classes)
    ]
    return {"version": "0.5", "multiscales": [image], "omero": {"channels": channels}}


def _writes(probability: xr.DataArray, path: Path, tiles: list[tuple[int, ...]]) -> list[Any]:
    data = probability.data
    chunk, blocks = _chunk(data), data.to_delayed()[0]
    write = delayed(_write_tile)
    # A running scheduler may serve other segmentations too: keys tell them apart.
    told = (probability.attrs["fingerprint"], str(path.absolute()), os.getpid())
    key = f"segment-write-{tokenize(*told)}"
    return [write(blocks[t], str(path), t, chunk, dask_key_name=(key, *t)) for t in tiles]


def _write_tile(
    block: np.ndarray, path: str, tile: tuple[int, ...], chunk: tuple[int, ...]
) -> None:
    """Store one tile, and mark it as finished once it is."""
    write_tile(path, tile, chunk, {_LEVEL: block})
