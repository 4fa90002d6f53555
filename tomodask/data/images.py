"""Stacks of images: opened lazily from MRC, STAR, HDF5 or Zarr, saved as a stream.

A stack is an ``xarray.DataArray`` with dims ``("image", "y", "x")``, float32; along ``image`` the
columns of its table (`tomodask.data.image_table`) as coordinates, ``image_name`` for the table's
``image`` and ``position_y`` for ``y``, as the axes own the short names; ``image`` itself is the
number of the row.  ``attrs``: ``pixel_size`` (Å), ``source`` and what is known of the microscope.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from dask.base import tokenize
from dask.delayed import delayed
from dask.highlevelgraph import HighLevelGraph
from zarr.codecs import Crc32cCodec

from tomodask.data.blocks import block_corners, compute_blocks
from tomodask.data.image_files import (
    STACK_SUFFIXES,
    ImageReader,
    is_image_file,
    open_image_file,
)
from tomodask.data.image_table import MICROSCOPE, read_image_table
from tomodask.data.mrc_writer import write_mrc
from tomodask.data.subtomogram_store import write_column
from tomodask.data.writing import full_disk, no_space, replacing
from tomodask.errors import InputError

__all__ = ["image_table", "images_array", "images_per_block", "open_images", "save_images"]

#: What columns are called as coordinates and in stores, where the short names are of the stack.
_LONG_NAMES = {
    "image": "image_name", "images": "image_count",
    "y": "position_y", "x": "position_x", "z": "position_z",
}  # fmt: skip
_SHORT_NAMES = {long: short for short, long in _LONG_NAMES.items()}
_BLOCK_BYTES = 16 << 20
_STORE_MARK = "images"


def open_images(
    path: str | os.PathLike[str], *, pixel_size: float | None = None, dataset: str | None = None
) -> xr.DataArray:
    """Open a stack of images lazily, in blocks of many images.

    Parameters
    ----------
    path : path
        An MRC stack (``.mrcs .mrc .st``, also ``.gz``, ``.bz2``); a STAR (RELION) or CSV whose
        images are ``000001@stack.mrcs``, counted from 1, or files of one image, looked for from
        the table's folder, then from the working directory, of any of these kinds; HDF5, a dataset
        (image, y, x) or EMAN2's one dataset an image; a Zarr store with an array (image, y, x), as
        `save_images` and xarray write it.
    pixel_size : float, optional
        Å, in place of what the files say.
    dataset : str, optional
        Which array of an HDF5 file or Zarr store, where there are several.

    Returns
    -------
    DataArray, dims (image, y, x)
        float32, lazy, with the columns of the table; see above.

    Raises
    ------
    InputError
        If files are missing or damaged, images differ in size or are none, or nobody says the size
        of a pixel.
    """
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise InputError(f"pixel_size must be above 0 Å, got {pixel_size}")
    path = Path(path).absolute()  # for workers, which may be in other folders
    if not path.exists():
        raise InputError(f"{path}: no such file")
    attrs: dict[str, Any] = {"source": str(path)}
    if path.suffix.lower() in (".star", ".csv"):
        table = read_image_table(path, pixel_size=pixel_size)
        readers, which, rows, size = _of_table(path, table, dataset)
        size = table.attrs.get("pixel_size", size)
        attrs |= {n: table.attrs[n] for n in (*MICROSCOPE, "optics") if n in table.attrs}
    else:
        reader, size = open_image_file(path, dataset=dataset, pixel_size=pixel_size)
        readers, rows = [reader], np.arange(reader.count)
        which = np.zeros(reader.count, np.int64)
        table, more = _stored_table(path, reader)
        attrs |= more
    size = size if pixel_size is None else float(pixel_size)
    if not size or not np.isfinite(size) or size < 0:
        raise InputError(
            f"{path}: does not say the size of its pixels; pass pixel_size=… (--pixel-size on the "
            "command line) in Å"
        )
    array = _lazy(readers, which, rows)
    return images_array(array, table, pixel_size=float(size), attrs=attrs)


def images_array(
    array: Any, table: pd.DataFrame, *, pixel_size: float, attrs: Mapping[str, Any] | None = None
) -> xr.DataArray:
    """Join images with the rows of their table.

    Parameters
    ----------
    array : array of float32, shape (image, y, x)
        Of NumPy, Dask or CuPy; not copied.
    table : DataFrame
        One row an image, in the same order.
    pixel_size : float
        Å.
    attrs : mapping, optional
        What else is known of all images.
    """
    coords: dict[str, Any] = {"image": np.arange(array.shape[0])}
    for name in table.columns:
        values = table[name].to_numpy()
        if np.dtype(getattr(values, "dtype", object)).kind not in "biuf":
            values = np.array([None if pd.isna(v) else str(v) for v in values], dtype=object)
        coords[_LONG_NAMES.get(str(name), str(name))] = ("image", values)
    attributes = {"pixel_size": float(pixel_size), **(attrs or {})}
    return xr.DataArray(
        array, dims=("image", "y", "x"), coords=coords, name="images", attrs=attributes
    )


def image_table(images: xr.DataArray) -> pd.DataFrame:
    """The table of a stack, one row an image, in their order.

    Parameters
    ----------
    images : DataArray, dims (image, y, x)

    Returns
    -------
    DataFrame
        Columns of `tomodask.data.image_table`; its attrs are those of the stack.

    Raises
    ------
    InputError
        If it is no stack of images.
    """
    if not isinstance(images, xr.DataArray) or images.dims != ("image", "y", "x"):
        dims = getattr(images, "dims", type(images).__name__)
        raise InputError(f"images must be a DataArray with the dims (image, y, x), got {dims}")
    table = pd.DataFrame(
        {
            _SHORT_NAMES.get(str(name), str(name)): coord.to_numpy()
            for name, coord in images.coords.items()
            if coord.dims == ("image",) and name != "image"
        },
        index=range(images.sizes["image"]),
    )
    kept = ("pixel_size", "source", "optics", *MICROSCOPE)
    table.attrs = {name: images.attrs[name] for name in kept if name in images.attrs}
    return table


def images_per_block(count: int, pixels: int) -> int:
    """Images that a block holds, where nothing else is asked for.

    64 to 1,024, the more the more there are, and never more than 16 MB.  It follows from the
    number and size (pixels in all) of the images alone.
    """
    return max(1, min(max(count // 32, 64), 1024, _BLOCK_BYTES // (4 * pixels)))


def save_images(
    images: xr.DataArray, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write a stack, block by block: an MRC stack or a Zarr store by the suffix.  Computes.

    It is written beside `path` and renamed at the end.  A Zarr store keeps the table beside the
    images and is read by xarray's `open_zarr`, too; an MRC stack keeps the pixels and their size
    alone: `write_image_table` writes the rest.

    Parameters
    ----------
    images : DataArray, dims (image, y, x)
        With ``attrs["pixel_size"]``.
    path : path
        ``.mrcs``, ``.mrc``, ``.st`` or ``.zarr``.
    overwrite : bool

    Raises
    ------
    InputError
        If `path` exists and may not be overwritten, the disk is full, or it is no stack.
    """
    path = Path(path).absolute()
    table = image_table(images)
    size = images.attrs.get("pixel_size")
    if size is None or not (np.isfinite(size) and size > 0):
        raise InputError(f"images must have a pixel_size above 0 Å in their attrs, got {size}")
    if 0 in images.shape:
        raise InputError(f"images must hold pixels, got shape {images.shape}")
    suffix = path.suffix.lower()
    if suffix not in (*STACK_SUFFIXES, ".zarr"):
        raise InputError(f"{path}: images are written as .mrcs, .mrc, .st or .zarr; choose one")
    data = images.data
    if not isinstance(data, da.Array):
        data = da.from_array(np.asarray(data), chunks=(_per_block(images.shape), -1, -1))
    data = data.astype(np.float32)
    needed = 4 * int(np.prod(images.shape))
    with replacing(path, overwrite=overwrite, needed=needed) as part:
        if suffix == ".zarr":
            _write_zarr(data, table, images.attrs, part, path)
        else:
            write_mrc(data, part, path=path, voxel_size=float(size), labels=[], stack=True)


def _per_block(shape: Sequence[int]) -> int:
    return images_per_block(shape[0], shape[1] * shape[2])


def _of_table(
    path: Path, table: pd.DataFrame, dataset: str | None
) -> tuple[list[ImageReader], np.ndarray, np.ndarray, float | None]:
    """Readers of the stacks that a table names; of each image which, and its number there."""
    if table.empty or "image" not in table:
        raise InputError(
            f"{path}: lists no images (a column image, in a STAR rlnImageName); name them as "
            "000001@stack.mrcs"
        )
    readers: list[ImageReader] = []
    opened: dict[str, int] = {}
    which, rows = np.empty(len(table), np.int64), np.empty(len(table), np.int64)
    size: float | None = None
    first: tuple[str, tuple[int, int]] | None = None
    for row, image in enumerate(table["image"].astype(str)):
        number, at, name = image.rpartition("@")
        if at and not (number.isdecimal() and int(number) > 0):
            raise InputError(
                f"{path}: {image} in row {row + 1} is not NUMBER@STACK, with the number from 1"
            )
        if name not in opened:
            file = next((f for f in (path.parent / name, Path(name)) if f.exists()), None)
            if file is None:
                raise InputError(
                    f"{path}: {image} of row {row + 1} is neither in {path.parent} nor in the "
                    "working directory; give the command from the folder of the project, or move "
                    "the table to its stacks"
                )
            reader, found = open_image_file(
                file.absolute(), dataset=dataset, pixel_size=table.attrs.get("pixel_size")
            )
            size = found if size is None else size
            if first is None:
                first = name, reader.shape
            if reader.shape != first[1]:
                raise InputError(
                    f"{path}: images of unequal size: {name} has {_edges(reader.shape)} pixels, "
                    f"{first[0]} {_edges(first[1])}; cut or pad them to one"
                )
            opened[name] = len(readers)
            readers.append(reader)
        which[row] = opened[name]
        rows[row] = int(number) - 1 if at else 0
        count = readers[which[row]].count
        if rows[row] >= count:
            raise InputError(
                f"{path}: {image} of row {row + 1}: the stack has {count} images only; is it "
                "whole, and the one that the table was made for?"
            )
        if not at and count != 1:
            raise InputError(
                f"{path}: {image} of row {row + 1} holds {count} images; say which (000001@{name})"
            )
    return readers, which, rows, size


def _edges(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _stored_table(path: Path, reader: ImageReader) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Names of the images of one stack, and what a store of ours keeps beside them."""
    names = [f"{number:06d}@{path}" for number in range(1, reader.count + 1)]
    table, attrs = pd.DataFrame({"image": names}), {}
    if path.is_dir():
        group = zarr.open(str(path), mode="r")
        if isinstance(group, zarr.Group) and group.attrs.get("tomodask") == _STORE_MARK:
            _check_whole(path, group)
            columns = group.attrs["columns"]
            assert isinstance(columns, list)
            for name in columns:
                column: Any = group[str(name)]
                values = np.asarray(column[:])
                if "categories" in column.attrs:
                    known = np.array([*column.attrs["categories"], None], dtype=object)
                    values = known[values]
                table[_SHORT_NAMES.get(str(name), str(name))] = values
            known_attrs: Any = group.attrs.get("known", {})
            attrs = dict(known_attrs)
    return table, attrs


def _check_whole(path: Path, group: Any) -> None:
    """Refuse a store of ours that lacks chunks: Zarr reads zeros there, without a word."""
    array = group["images"]
    chunks = range(-(-array.shape[0] // array.chunks[0]))
    missing = [i for i in chunks if not Path(path, "images", "c", str(i), "0", "0").exists()]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of {len(chunks)} chunks are missing, the first is "
            f"images/c/{missing[0]}/0/0; copy or make the store again"
        )


def _lazy(readers: Sequence[ImageReader], which: np.ndarray, rows: np.ndarray) -> da.Array:
    """One array over images of one or many stacks, many a task."""
    count, (high, wide) = len(rows), readers[0].shape
    most = images_per_block(count, high * wide)
    name = f"open-images-{tokenize(readers, which, rows)}"
    graph = {}
    sizes = []
    for block, start in enumerate(range(0, count, most)):
        part = slice(start, min(start + most, count))
        numbers, local = np.unique(which[part], return_inverse=True)
        used = tuple(readers[number] for number in numbers)
        graph[(name, block, 0, 0)] = (_read_images, used, local, rows[part])
        sizes.append(len(rows[part]))
    return da.Array(
        HighLevelGraph.from_collections(name, graph, dependencies=[]),
        name,
        chunks=(tuple(sizes), (high,), (wide,)),
        dtype=np.float32,
    )


def _read_images(readers: Sequence[ImageReader], which: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if len(readers) == 1:
        return readers[0].read(rows)
    out = np.empty((len(rows), *readers[0].shape), np.float32)
    for number, reader in enumerate(readers):
        mine = which == number
        out[mine] = reader.read(rows[mine])
    return out


def _write_zarr(
    data: da.Array, table: pd.DataFrame, attrs: Mapping[Any, Any], part: Path, path: Path
) -> None:
    most = _per_block(data.shape)
    data = data.rechunk((most, -1, -1))  # a block a chunk: no two tasks write one
    group = zarr.open_group(part, mode="w", zarr_format=3)
    names = {name: _LONG_NAMES.get(str(name), str(name)) for name in table}
    target = zarr.create_array(
        part,
        name="images",
        shape=data.shape,
        chunks=data.chunksize,
        dtype="float32",
        compressors=[Crc32cCodec()],  # noise does not compress, but damage is to be seen
        fill_value=0,
        config={"write_empty_chunks": True},  # so that a missing one is damage, too
        dimension_names=("image", "y", "x"),
        attributes={"coordinates": " ".join(names.values())},
    )
    for short, long in names.items():
        values = table[short].to_numpy()
        if values.dtype.kind not in "biuf":
            values = np.array([None if pd.isna(v) else str(v) for v in values], dtype=object)
        write_column(part, long, values, dimension="image")
    known = {name: attrs[name] for name in ("source", "optics", *MICROSCOPE) if name in attrs}
    group.attrs.update(
        {
            "tomodask": _STORE_MARK,
            "version": 1,
            "pixel_size": float(attrs["pixel_size"]),
            "columns": list(names.values()),
            "known": known,
        }
    )
    write = delayed(partial(_write_block, target=target, path=str(path)), pure=False)
    compute_blocks(
        [write(block, corner) for block, corner in block_corners(data)],
        label="images",
        nbytes=data.nbytes,
    )


def _write_block(block: np.ndarray, corner: tuple[int, ...], *, target: Any, path: str) -> None:
    try:
        target[corner[0] : corner[0] + len(block)] = block
    except OSError as error:
        if no_space(error, Path(path)) is not None:
            raise full_disk(Path(path)) from None
        raise


def is_images(path: Path) -> bool:
    """Whether a name is one that `open_images` takes."""
    return path.suffix.lower() in (".star", ".csv") or is_image_file(path)
