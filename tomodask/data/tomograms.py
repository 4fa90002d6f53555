"""Tomograms and maps: opened lazily from any of the formats of the field, saved as a stream."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from tomodask.arrays.tilt_weights import check_record, record_range
from tomodask.data.em import open_em
from tomodask.data.mrc import open_mrc
from tomodask.data.mrc_writer import write_mrc
from tomodask.data.ome_zarr import is_zarr, open_ome_zarr, warn_of_absent_chunks
from tomodask.data.ome_zarr_writer import require_options, write_ome_zarr
from tomodask.data.statistics import Statistics
from tomodask.data.tiff import open_tiff
from tomodask.data.volumes import as_tomogram, cubic_voxel_size, lay_chunks
from tomodask.data.writing import check_target, replacing
from tomodask.errors import InputError

__all__ = [
    "MRC_SUFFIXES",
    "TOMOGRAM_SUFFIXES",
    "check_save",
    "open_tomogram",
    "save_tomogram",
    "tomogram_format",
]

MRC_SUFFIXES = (".mrc", ".map", ".rec", ".st", ".ali", ".mrcs", ".ccp4")
_FORMATS = {**dict.fromkeys(MRC_SUFFIXES, "MRC"), ".tif": "TIFF", ".tiff": "TIFF", ".em": "EM"}
_PACKED = (".gz", ".bz2")
TOMOGRAM_SUFFIXES = (*_FORMATS, ".zarr")
_MRC_TYPES = ("float32", "float16", "int8", "int16", "uint16")
_ZARR_TYPES = (
    "float32",
    "float16",
    "float64",
    "int8",
    "int16",
    "int32",
    "uint8",
    "uint16",
    "uint32",
)


def tomogram_format(path: str | os.PathLike[str]) -> str | None:
    """``"MRC"``, ``"TIFF"``, ``"EM"`` or ``"OME-Zarr"`` by the name; None for any other file.

    Examples
    --------
    >>> tomogram_format("TS_01.rec.gz"), tomogram_format("TS_01.star")
    ('MRC', None)
    """
    path = Path(path)
    if path.suffix.lower() == ".zarr" or (path.is_dir() and is_zarr(path)):
        return "OME-Zarr"
    suffix = path.suffix.lower()
    if suffix in _PACKED:
        inner = path.with_suffix("").suffix.lower()
        return _FORMATS.get(inner) if _FORMATS.get(inner) in ("MRC", "EM") else None
    return _FORMATS.get(suffix)


def open_tomogram(
    path: str | os.PathLike[str],
    *,
    chunks: int | tuple[Any, ...] | None = None,
    voxel_size: float | None = None,
) -> xr.DataArray:
    """Open a tomogram or map lazily: the header is read, the voxels when they are computed.

    Parameters
    ----------
    path : path
        MRC (``.mrc .map .rec .st .ali``, also ``.gz`` and ``.bz2``), TIFF, EM (also packed), or
        an OME-Zarr store, 0.4 or 0.5; ``store.zarr/1`` is its second level.
    chunks : int or tuple, optional
        Blocks of the Dask array, in voxels; by default about 128³, whole shards or chunks of Zarr.
    voxel_size : float, optional
        Å; in place of what the file says.

    Returns
    -------
    DataArray, dims (z, y, x)
        Lazy; coords in Å, ``attrs`` `voxel_size` (Å), `source` and, where known, `tilt_range`
        (degrees) and `tilt_series`, the record of what was measured (see
        `tomodask.arrays.tilt_weights.check_record`; OME-Zarr only).  Voxels keep their type.  Each
        task opens the file itself, so the array works on any worker that sees the same file system.

    Raises
    ------
    InputError
        If the file is missing, empty, truncated, or not of the size that its header says; if its
        voxel size is unknown, 0 or anisotropic and `voxel_size` is not given; if its voxels are
        no real numbers; if the record of its tilt series is damaged.  While computing: if a chunk
        is missing or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    path = path.absolute()  # for workers, which may be in other folders
    kind = tomogram_format(path)
    name, tilt_range, tilt_series = None, None, None
    unit: tuple[int, ...] = (1, 1, 1)
    reader: Any
    if kind == "MRC":
        reader, sizes, name, tilt_range = open_mrc(path)
    elif kind == "TIFF":
        reader, sizes = open_tiff(path)
        if reader.offset is None:  # planes are decoded whole: read few, and all of each
            unit = (1, *reader.shape[1:])
            planes = max(1, 2**21 // int(np.prod(reader.shape[1:])))
            chunks = (planes, -1, -1) if chunks is None else chunks
    elif kind == "EM":
        reader, sizes = open_em(path)
    elif kind == "OME-Zarr":
        level = open_ome_zarr(path)
        warn_of_absent_chunks(level.reader)
        reader, sizes, unit = level.reader, level.voxel_sizes, level.unit
        name, tilt_range, tilt_series = level.name, level.tilt_range, level.tilt_series
    else:
        raise InputError(
            f"{path}: a tomogram is one of {', '.join(TOMOGRAM_SUFFIXES)} "
            "(MRC and EM also .gz, .bz2), by its name; rename or convert it"
        )
    size = cubic_voxel_size(path, sizes, reader.shape, voxel_size)
    array = lay_chunks(reader, chunks=chunks, unit=unit)
    return as_tomogram(
        array,
        path=path,
        voxel_size=size,
        name=name,
        tilt_range=tilt_range,
        tilt_series=tilt_series,
    )


def save_tomogram(
    tomogram: xr.DataArray,
    path: str | os.PathLike[str],
    *,
    chunk: int = 64,
    shard: int | None = None,
    levels: int | None = None,
    compression: str = "zstd",
    dtype: str | None = None,
    fill: float | None = None,
    overwrite: bool = False,
) -> None:
    """Write a tomogram or map, block by block: MRC or OME-Zarr 0.5 by the suffix.  Computes.

    It is written beside `path` under a hidden name and renamed at the end: no half file ever bears
    the final name.  Name and `tilt_range` are kept and read back by `open_tomogram`; so is the
    record of the `tilt_series` in OME-Zarr, while MRC has room for its range only.

    Parameters
    ----------
    tomogram : DataArray, dims (z, y, x)
        With ``attrs["voxel_size"]``, as `open_tomogram` gives it.
    path : path
        ``.mrc .map .rec .st .ali`` or ``.zarr``.
    chunk, shard : int
        Zarr: edge of a chunk and of a shard (a file of several chunks), in voxels; `shard` is a
        multiple of `chunk`, by default the largest up to 128.
    levels : int, optional
        Zarr: how many scales, each half as fine as the one before; by default down to 64 voxels.
    compression : {"zstd", "lz4", "none"}
        Zarr; with a checksum in any case.
    dtype : str, optional
        Type of the voxels written; by default float32 for MRC, the tomogram's own for Zarr.
        MRC: float32, float16 (mode 12), int8, int16, uint16.  To integers, values are rounded.
    fill : float, optional
        What to write for NaN and infinite voxels; by default they are an error.
    overwrite : bool
        Replace what is there, a file or a Zarr store.

    Raises
    ------
    InputError
        If `path` exists and may not be overwritten, the disk is full, an option or the voxel size
        is wrong, the record of the tilt series is damaged, voxels are NaN or infinite, or a value
        does not fit `dtype`.
    """
    path = Path(path).absolute()
    kind = _written_format(path)
    if tomogram.dims != ("z", "y", "x"):
        raise InputError(f"tomogram must have the dims ('z', 'y', 'x'), got {tomogram.dims}")
    if 0 in tomogram.shape:
        raise InputError(f"tomogram has no voxels: shape {tomogram.shape}")
    voxel_size = tomogram.attrs.get("voxel_size")
    if voxel_size is None or not (np.isfinite(voxel_size) and voxel_size > 0):
        raise InputError(
            f"tomogram must have a voxel_size above 0 Å in its attrs, got {voxel_size}; set it, or "
            "open it with open_tomogram(…, voxel_size=…)"
        )
    edge = require_options(chunk, shard, levels, compression)
    wanted = _wanted_type(tomogram.dtype, dtype, kind)
    attributes = _attributes(tomogram)
    array = tomogram.data if isinstance(tomogram.data, da.Array) else da.from_array(
        np.asarray(tomogram.data), chunks=128
    )  # fmt: skip
    source = str(tomogram.attrs.get("source") or tomogram.name or path)
    array = array.map_blocks(
        partial(_convert, fill=fill, source=source, dtype=wanted),
        dtype=wanted,
        meta=np.empty((0,) * 3, wanted),
    )
    needed = int(np.prod(array.shape)) * wanted.itemsize
    with replacing(path, overwrite=overwrite, needed=needed) as part:
        if kind == "MRC":
            statistics = write_mrc(
                array, part, path=path, voxel_size=voxel_size, labels=_labels(attributes)
            )
            statistics.require_finite(source)
            return
        write_ome_zarr(
            array.rechunk(_whole_shards(array, edge)),
            part,
            path=path,
            voxel_size=voxel_size,
            chunk=chunk,
            shard=edge,
            levels=levels,
            compression=compression,
            source=source,
            attributes=attributes,
        )


def check_save(
    path: Path,
    *,
    chunk: int = 64,
    shard: int | None = None,
    levels: int | None = None,
    compression: str = "zstd",
    dtype: str | None = None,
    fill: float | None = None,
    overwrite: bool = False,
) -> None:
    """Refuse what `save_tomogram` would refuse of these options, before hours of work.

    Raises
    ------
    InputError
    """
    _wanted_type(np.dtype(np.float32), dtype, _written_format(path))
    require_options(chunk, shard, levels, compression)
    check_target(path, overwrite=overwrite)


def _written_format(path: Path) -> str:
    kind = tomogram_format(path)
    if kind not in ("MRC", "OME-Zarr") or path.suffix.lower() in _PACKED:
        raise InputError(f"{path}: written are {', '.join(MRC_SUFFIXES)} and .zarr; choose one")
    return kind


def _wanted_type(have: np.dtype, dtype: str | None, kind: str) -> np.dtype:
    allowed = _MRC_TYPES if kind == "MRC" else _ZARR_TYPES
    if dtype is None:
        own = "uint8" if have.kind == "b" else have.name
        wanted = "float32" if kind == "MRC" or own not in allowed else own
    else:
        wanted = dtype
    if wanted not in allowed:
        raise InputError(f"dtype must be one of {', '.join(allowed)} for {kind}, got {dtype!r}")
    return np.dtype(wanted)


def _whole_shards(array: da.Array, shard: int) -> tuple[int, ...]:
    """Blocks of whole shards, as near to those of the array as can be, of 128 voxels or so."""
    return tuple(min(size, shard * max(1, 128 // shard)) for size in array.shape)


def _convert(block: np.ndarray, *, fill: float | None, source: str, dtype: np.dtype) -> np.ndarray:
    """Replace what is no number, and change the type; what does not fit is an error."""
    if fill is not None and block.dtype.kind == "f":
        block = np.where(np.isfinite(block), block, np.asarray(fill, block.dtype))
    if block.dtype == dtype:
        return block
    if dtype.kind in "iu" and block.dtype != bool:
        if block.dtype.kind == "f":
            Statistics.of_block(block).require_finite(source)
            block = np.rint(block)
        limits: Any = np.iinfo(dtype)
    elif dtype.kind == "f" and dtype.itemsize < 4:
        limits = np.finfo(dtype)
    else:
        return block.astype(dtype)
    finite = block[np.isfinite(block)] if block.dtype.kind == "f" else block
    if finite.size and (finite.min() < limits.min or finite.max() > limits.max):
        raise InputError(
            f"{source}: values from {finite.min():g} to {finite.max():g} do not fit {dtype.name} "
            f"({limits.min:g} to {limits.max:g}); choose another dtype, or scale the volume first"
        )
    return block.astype(dtype)


def _attributes(tomogram: xr.DataArray) -> dict[str, Any]:
    kept: dict[str, Any] = {"kind": "tomogram"}
    if tomogram.name:
        kept["name"] = str(tomogram.name)
    if (tilt_range := tomogram.attrs.get("tilt_range")) is not None:
        kept["tilt_range"] = [float(angle) for angle in tilt_range]
    if (series := tomogram.attrs.get("tilt_series")) is not None:
        kept["tilt_series"] = check_record(series, str(tomogram.name or "tomogram"))
        kept.setdefault("tilt_range", list(record_range(kept["tilt_series"])))
    return kept


def _labels(kept: dict[str, Any]) -> list[str]:
    """Labels of the MRC header; 80 ASCII characters each, so a longer name is not kept."""
    labels = ["Written by tomodask"]
    name = f"tomodask name {kept.get('name', '')}"
    if "name" in kept and name.isascii() and len(name) <= 80:
        labels.append(name)
    if "tilt_range" in kept:
        low, high = kept["tilt_range"]
        labels.append(f"tomodask tilt_range {low:.6g} {high:.6g}")
    return labels
