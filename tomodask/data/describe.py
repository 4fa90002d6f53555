"""What a file is: the figures that ``tomodask info`` prints."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from tomodask.arrays.tilt_weights import record_range
from tomodask.data.describe_models import describe_model
from tomodask.data.ome_zarr import is_zarr, level_paths
from tomodask.data.particles import PARTICLE_SUFFIXES, read_particles
from tomodask.data.statistics import Statistics, volume_statistics
from tomodask.data.subtomogram_table import tilt_series_of
from tomodask.data.subtomograms import is_box
from tomodask.data.tilt_series import STACK_SUFFIXES, files_beside, is_own_stack, open_tilt_series
from tomodask.data.tilt_series_array import transforms
from tomodask.data.tomograms import (
    MRC_SUFFIXES,
    TOMOGRAM_SUFFIXES,
    open_tomogram,
    tomogram_format,
)
from tomodask.data.volumes import UnknownVoxelSizeError
from tomodask.errors import InputError

__all__ = ["describe"]

_log = logging.getLogger(__name__)

_TILE_STORES = {  # format: kind, first array
    "tomodask-scores-1": ("scores", "score"),
    "tomodask-segmentation-1": ("probabilities", "0"),
}


def describe(path: str | os.PathLike[str], *, voxel_size: float | None = None) -> dict[str, Any]:
    """Describe a tomogram, tilt series, particle table, subtomograms, scores or a model.

    The range of a tomogram or a stack is computed block by block.

    Parameters
    ----------
    path : path
    voxel_size : float, optional
        Å; in place of what the file says, where it says nothing.

    Returns
    -------
    dict
        Always `path` and `kind` ("tomogram", "tilt series", "particle table", "subtomograms",
        "folder of boxes", "scores", "probabilities", "picking model", "classifier" or "encoder").
        Lengths are in Å, shapes (z, y, x), of a tilt series (tilt, y, x).  A voxel or pixel size
        that the file does not say is "unknown".

    Raises
    ------
    InputError
        If it is none of these, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if (opened := _tilt_series(path, voxel_size)) is not None:
        return _of_tilt_series(path, *opened)
    if path.suffix.lower() in PARTICLE_SUFFIXES:
        return _of_table(path, voxel_size)
    if path.suffix.lower() == ".safetensors":
        return describe_model(path)
    if path.is_dir() and is_zarr(path) and (store := _subtomograms(path)) is not None:
        return _of_subtomograms(path, store)
    if path.is_dir() and (tiles := _tile_store(path)) is not None:
        return _of_tiles(path, *tiles)
    if tomogram_format(path) is not None:
        return _of_tomogram(path, voxel_size)
    if path.is_dir():
        return _of_folder(path, voxel_size)
    raise InputError(
        f"{path}: neither a tomogram ({', '.join(TOMOGRAM_SUFFIXES)}) nor a particle table "
        f"({', '.join(PARTICLE_SUFFIXES)}), by its name"
    )


def _of_tomogram(path: Path, voxel_size: float | None) -> dict[str, Any]:
    tomogram, size = _opened(path, voxel_size)
    told: dict[str, Any] = {
        "path": str(path),
        "kind": "tomogram",
        "format": tomogram_format(path),
        "name": tomogram.name,
        "shape": tomogram.shape,
        "voxel_size": size,
    }
    if not isinstance(size, str):
        told["extent"] = tuple(round(count * size, 3) for count in tomogram.shape)
    told |= {
        "dtype": str(tomogram.dtype),
        "megabytes": round(tomogram.nbytes / 1e6, 3),
        "chunks": tomogram.data.chunksize,
    }
    if "tilt_range" in tomogram.attrs:
        told["tilt_range"] = tomogram.attrs["tilt_range"]
    if "tilt_series" in tomogram.attrs:
        told["tilt_series"] = _series(tomogram.attrs["tilt_series"])
    if path.is_dir():
        told |= _of_zarr(path)
    return told | _range(volume_statistics(tomogram))


def _tilt_series(
    path: Path, pixel_size: float | None
) -> tuple[xr.DataArray, dict[str, Any]] | None:
    """The tilt series, if it is one, and the files beside it that tell of it.

    A STAR of images with tilt angles; a stack that tomodask wrote as images; an MRC file of another
    program with as many images as a file of its name has angles, or that is called .st or .ali.
    """
    if path.suffix.lower() == ".star" and path.is_file():
        with path.open("rb") as file:
            if b"_rlnTomoNominalStageTiltAngle" not in file.read(1 << 20):
                return None
        return open_tilt_series(path, pixel_size=pixel_size), {}
    suffix = path.suffix.lower()
    if suffix not in (*STACK_SUFFIXES, ".ali") or not path.is_file():
        return None
    ours, images = is_own_stack(path)
    if ours is False or (not ours and images < 2):
        return None
    beside: dict[str, Any] = dict(files_beside(path))
    if beside.keys() & {"tilts", "mdoc", "aln"}:
        try:
            return _with_angles(path, beside, pixel_size), beside
        except InputError as error:  # then they may be of the tomogram's series, or damaged
            if not ours and suffix not in (".st", ".ali"):
                return None
            _log.warning("%s", error)
    elif not ours and suffix not in (".st", ".ali"):
        return None
    stack, size = _opened(path, pixel_size)
    series = xr.DataArray(stack.data, dims=("tilt", "y", "x"), name=stack.name)
    return series.assign_attrs(pixel_size=size), {}


def _with_angles(path: Path, beside: dict[str, Any], pixel_size: float | None) -> xr.DataArray:
    try:
        return open_tilt_series(path, **beside, pixel_size=pixel_size)
    except UnknownVoxelSizeError as error:
        _log.warning("%s", error)
        series = open_tilt_series(path, **beside, pixel_size=1.0)
        return series.assign_attrs(pixel_size="unknown")


def _of_tilt_series(path: Path, series: xr.DataArray, beside: dict[str, Any]) -> dict[str, Any]:
    """Images, and what their files tell of them."""
    attrs = series.attrs
    told: dict[str, Any] = {
        "path": str(path),
        "kind": "tilt series",
        "name": series.name,
        "images": series.shape[0],
        "image_size": series.shape[1:],
        "pixel_size": attrs["pixel_size"],
    }
    if beside:
        told["told_by"] = [file.name for file in beside.values()]
    if "angle" not in series.coords:
        told["angles"] = "unknown"
        return told | _range(volume_statistics(series))
    angle = np.sort(np.asarray(series["angle"]))
    told["tilt_range"] = (float(angle[0]), float(angle[-1]))
    if len(angle) > 1:
        told["tilt_increment"] = round(float(np.median(np.diff(angle))), 3)
    if "exposure" in series.coords:
        told["exposure"] = round(float(series["exposure"].sum()), 3)
    elif "pre_exposure" in series.coords:
        told["exposure_before_the_last"] = round(float(series["pre_exposure"].max()), 3)
    if "defocus_u" in series.coords:
        u = np.asarray(series["defocus_u"])
        mean = (u + np.asarray(series.coords.get("defocus_v", u))) / 2
        told["defocus_range"] = (round(float(mean.min()), 1), round(float(mean.max()), 1))
    for key in ("voltage", "spherical_aberration", "amplitude_contrast", "phase_shift"):
        if attrs.get(key) is not None:
            told[key] = attrs[key]
    if attrs.get("tilt_axis") is not None:
        told["tilt_axis"] = attrs["tilt_axis"]
    told["aligned"] = "by its transforms" if transforms(series) is not None else "taken as it is"
    return told | _range(volume_statistics(series))


def _opened(path: Path, voxel_size: float | None) -> tuple[xr.DataArray, float | str]:
    """The tomogram and its voxel size, which may be unknown: what else there is can be told."""
    try:
        tomogram = open_tomogram(path, voxel_size=voxel_size)
    except UnknownVoxelSizeError as error:
        _log.warning("%s", error)
        return open_tomogram(path, voxel_size=1.0), "unknown"
    return tomogram, float(tomogram.attrs["voxel_size"])


def _range(statistics: Statistics) -> dict[str, Any]:
    told: dict[str, Any] = {"nonfinite": statistics.nonfinite}
    if statistics.count:
        told |= {
            "minimum": statistics.minimum,
            "maximum": statistics.maximum,
            "mean": statistics.mean,
            "std": statistics.std,
        }
    return told


def _of_zarr(path: Path) -> dict[str, Any]:
    """What only a Zarr store has: levels, shards, the version of OME-Zarr."""
    node = zarr.open(zarr.storage.LocalStore(str(path), read_only=True), mode="r")
    if isinstance(node, zarr.Array):
        return {"zarr_format": node.metadata.zarr_format}
    arrays = [node[level] for level in level_paths(node)]
    told: dict[str, Any] = {
        "zarr_format": node.metadata.zarr_format,
        "levels": [tuple(array.shape) for array in arrays],
        "zarr_chunks": tuple(arrays[0].chunks),
    }
    if arrays[0].shards:
        told["zarr_shards"] = tuple(arrays[0].shards)
    return told


def _of_table(path: Path, voxel_size: float | None) -> dict[str, Any]:
    table = read_particles(path, voxel_size=voxel_size)
    return {"path": str(path), "kind": "particle table", **_columns(table)}


def _columns(table: pd.DataFrame) -> dict[str, Any]:
    """Count, columns, tomograms and ranges of a table."""
    told: dict[str, Any] = {"particles": len(table), "columns": list(map(str, table))}
    if "voxel_size" in table.attrs:
        told["voxel_size"] = table.attrs["voxel_size"]
    if "tomogram" in table:
        counts = table["tomogram"].value_counts(sort=False)
        told["tomograms"] = {str(name): int(count) for name, count in counts.items()}
    for column in ("z", "y", "x", "score", "tilt_min", "tilt_max"):
        if column in table and table[column].notna().any():
            told[f"{column}_range"] = (float(table[column].min()), float(table[column].max()))
    for column in ("half", "class", "kind"):
        if column in table:
            values, numbers = np.unique(table[column].dropna(), return_counts=True)
            told[f"{column}_counts"] = dict(zip(values.tolist(), numbers.tolist(), strict=True))
    return told


def _subtomograms(path: Path) -> Any:
    """The group, if it is a store of subtomograms."""
    try:
        node = zarr.open(zarr.storage.LocalStore(str(path), read_only=True), mode="r")
    except Exception:
        return None  # then the reader of tomograms says what is wrong
    return node if node.attrs.get("tomodask") == "subtomograms" else None


def _tile_store(path: Path) -> tuple[Any, str, str] | None:
    """The group, its kind and its first array, if `match` or `segment` wrote it."""
    try:
        node = zarr.open_group(zarr.storage.LocalStore(str(path), read_only=True), mode="r")
    except Exception:
        return None
    known = _TILE_STORES.get(str(node.attrs.get("format")))
    return None if known is None else (node, *known)


def _of_tiles(path: Path, group: Any, kind: str, name: str) -> dict[str, Any]:
    finished = np.asarray(group["finished"][:])
    told: dict[str, Any] = {
        "path": str(path),
        "kind": kind,
        "shape": tuple(group[name].shape[-3:]),
        **{
            key: group.attrs[key]
            for key in ("voxel_size", "tomogram", "classes", "diameters", "threshold")
            if group.attrs.get(key) is not None
        },
    }
    return told | {"finished": f"{np.count_nonzero(finished)} of {finished.size} tiles"}


def _of_subtomograms(path: Path, group: Any) -> dict[str, Any]:
    boxes = group["subtomogram"]
    told: dict[str, Any] = {
        "path": str(path),
        "kind": "subtomograms",
        "particles": int(boxes.shape[0]),
        "shape": tuple(boxes.shape[1:]),
        "voxel_size": group.attrs.get("voxel_size"),
        "dtype": str(boxes.dtype),
        "megabytes": round(boxes.nbytes / 1e6, 3),
        "chunks": tuple(boxes.chunks),
    }
    if boxes.shards:
        told["zarr_shards"] = tuple(boxes.shards)
    if series := tilt_series_of(dict(group.attrs), str(path)):
        told["tilt_series"] = {name: _series(record) for name, record in series.items()}
    return told


def _series(record: Mapping[str, Any]) -> str:
    """The record of a tilt series in one line."""
    low, high = record_range(record)
    told = [f"{len(record['angle'])} tilts", f"{low:g} to {high:g}°", record["method"].upper()]
    if "defocus_u" in record:
        told.append("phases flipped" if record["phase_flipped"] else "phases not flipped")
        u = np.array(record["defocus_u"])
        mean = (u + record.get("defocus_v", u)) / 2e4
        ends = np.unique(np.round([mean.min(), mean.max()], 2))
        told.append(f"defocus {' to '.join(f'{one:g}' for one in ends)} µm")
    else:
        told.append("defocus unknown")
    if "pre_exposure" in record:
        last = np.add(record["pre_exposure"], record.get("exposure", 0.0)).max()
        weighted = ", weighted" if record["dose_weighted"] else ""
        told.append(f"{last:g} e/Å²{weighted}")
    return ", ".join(told)


def _of_folder(path: Path, voxel_size: float | None) -> dict[str, Any]:
    """A folder of boxes, as `open_subtomograms` takes it: in the order of the names."""
    files = sorted(file for file in path.iterdir() if is_box(file))
    if not files:
        raise InputError(
            f"{path}: a folder without MRC files ({', '.join(MRC_SUFFIXES)}) or EM files"
        )
    shapes: dict[tuple[int, ...], int] = {}
    sizes: dict[float | str, int] = {}
    for file in files:
        box, size = _opened(file, voxel_size)
        shapes[box.shape] = shapes.get(box.shape, 0) + 1
        sizes[size] = sizes.get(size, 0) + 1
    told: dict[str, Any] = {
        "path": str(path),
        "kind": "folder of boxes",
        "particles": len(files),
        "first": files[0].name,
        "last": files[-1].name,
        "shape": next(iter(shapes)),
        "voxel_size": next(iter(sizes)),
    }
    if len(shapes) > 1:
        told["shapes"] = shapes
    if len(sizes) > 1:
        told["voxel_sizes"] = sizes
    return told
