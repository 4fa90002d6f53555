"""Write an MRC file block by block, in any order and from any worker."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import delayed

from tomodask.data.blocks import block_corners, compute_blocks
from tomodask.data.mrc import HEADER_BYTES, MODES, header_dtype
from tomodask.data.statistics import Statistics
from tomodask.data.writing import full_disk, no_space
from tomodask.errors import InputError

__all__ = ["write_mrc"]

_BLOCK_BYTES = 16 << 20
_MODE_OF = {dtype: mode for mode, dtype in MODES.items()}


def write_mrc(
    array: da.Array,
    part: Path,
    *,
    path: Path,
    voxel_size: float,
    labels: list[str],
    stack: bool = False,
    origin_zyx: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Statistics:
    """Write a lazy volume to `part`; `path` is what messages call it.  Computes.

    Parameters
    ----------
    array : dask array, shape (z, y, x)
        Of one of the types that MRC has a mode for.
    voxel_size : float
        Å.
    labels : list of str
        At most 10 of at most 80 ASCII characters.
    stack : bool
        The sections are images of their own, and not a volume's; the header says so.
    origin_zyx : (float, float, float)
        Where the middle of voxel (0, 0, 0) lies, Å.
    """
    array = array.rechunk(_full_rows(array))
    itemsize = array.dtype.itemsize
    needed = HEADER_BYTES + int(np.prod(array.shape)) * itemsize
    _reserve(part, path, needed)
    write = delayed(
        partial(_convert_block, part=str(part), shape=array.shape, path=str(path), needed=needed),
        pure=False,
    )
    parts = compute_blocks(
        [write(block, corner) for block, corner in block_corners(array)],
        label="convert",
        nbytes=array.nbytes,
    )
    statistics = Statistics.of_all(parts)
    header = _header(array.shape, array.dtype, voxel_size, labels, statistics)
    header["origin_xyz"] = origin_zyx[::-1]
    if stack:
        header["space_group"] = 0
        header["sampling_xyz"][2], header["cell_xyz"][2] = 1, voxel_size
    with part.open("r+b") as file:
        file.write(header.tobytes())
        file.flush()
        os.fsync(file.fileno())
    return statistics


def _full_rows(array: da.Array) -> tuple[int, int, int]:
    """Blocks that are as wide as the volume: written by the plane, not by the row."""
    depth, height, _ = array.chunksize
    width = array.shape[2]
    planes = max(1, _BLOCK_BYTES // (height * width * array.dtype.itemsize))
    return min(depth, planes), height, width


def _reserve(part: Path, path: Path, needed: int) -> None:
    """Claim the space at once: a disk that is too small is known before hours of work."""
    if shutil.disk_usage(part.parent).free < needed:
        raise full_disk(path, needed)
    with part.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, needed)
        except OSError as error:
            if (full := no_space(error, path, needed)) is not None:
                raise full from None
            file.truncate(needed)  # a file system that cannot reserve
        except AttributeError:  # not on macOS
            file.truncate(needed)


def _convert_block(
    block: np.ndarray,
    corner: tuple[int, int, int],
    *,
    part: str,
    shape: tuple[int, int, int],
    path: str,
    needed: int,
) -> Statistics:
    """Write one block in its place, in runs as long as the file's order allows.

    `pwrite` and not a memory map: a page on the border of two blocks belongs to both, and workers
    on two machines would overwrite each other's share of it.
    """
    block = np.ascontiguousarray(block)
    depth, height, width = block.shape
    z, y, x = corner
    _, rows, columns = shape
    if width < columns:
        runs: Any = ((((z + i) * rows + y + j) * columns + x, block[i, j])
                     for i in range(depth) for j in range(height))  # fmt: skip
    elif height < rows:
        runs = (((z + i) * rows + y) * columns for i in range(depth))
        runs = zip(runs, block, strict=True)
    else:
        runs = [(z * rows * columns, block)]
    try:
        handle = os.open(part, os.O_WRONLY)
        try:
            for start, run in runs:
                _write_all(
                    handle,
                    memoryview(run.reshape(-1).view(np.uint8)),
                    HEADER_BYTES + start * block.itemsize,
                )
        finally:
            os.close(handle)
    except OSError as error:
        if (full := no_space(error, Path(path), needed)) is not None:
            raise full from None
        raise
    return Statistics.of_block(block, corner)


def _write_all(handle: int, data: memoryview, offset: int) -> None:
    while len(data):
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


def _header(
    shape: tuple[int, ...],
    dtype: np.dtype,
    voxel_size: float,
    labels: list[str],
    statistics: Statistics,
) -> np.ndarray:
    header = np.zeros((), header_dtype("<"))
    header["shape_xyz"] = header["sampling_xyz"] = shape[::-1]
    header["mode"] = _MODE_OF[dtype.name]
    header["cell_xyz"] = np.array(shape[::-1]) * voxel_size
    header["angles"] = 90
    header["map_crs"] = (1, 2, 3)
    header["minimum"], header["maximum"] = statistics.minimum, statistics.maximum
    header["mean"], header["rms"] = statistics.mean, statistics.std
    header["space_group"] = 1  # a volume, not a stack of images
    header["version"] = 20141
    if dtype.name == "int8":
        header["imod_stamp"], header["imod_flags"] = 1146047817, 1  # tells IMOD: signed
    header["map"] = b"MAP "
    header["machine"] = (0x44, 0x44, 0, 0)
    header["label_count"] = len(labels)
    for row, label in enumerate(labels):
        if len(label) > 80 or not label.isascii():
            raise InputError(f"an MRC label holds 80 ASCII characters, got {label!r}")
        header["labels"][row] = label.ljust(80).encode("ascii")
    return header
