"""Which state of its file a tomogram is of: what stored results are told apart by."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import dask.array as da
import xarray as xr
from dask.base import tokenize

from tomodask.data.ome_zarr import is_zarr, open_ome_zarr
from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError

__all__ = ["file_state", "is_of_file", "source_state"]


def file_state(path: Path) -> str:
    """Tells two states of a file or Zarr store apart, without reading it: sizes and times.

    Of an OME-Zarr image, the files of its finest level count; of any other folder, all of them.
    """
    if not path.is_dir():
        state = path.stat()
        return f"{state.st_size} bytes, {state.st_mtime_ns}"
    home = path
    if is_zarr(path):
        try:
            reader = open_ome_zarr(path).reader
            home = Path(reader.store, reader.level)
        except InputError:
            pass  # another kind of store: all of it counts
    count, size, digest = 0, 0, hashlib.sha256()
    for folder, folders, names in os.walk(home):
        folders.sort()
        for name in sorted(names):
            file = os.path.join(folder, name)
            state = os.stat(file)
            entry = (os.path.relpath(file, home), state.st_size, state.st_mtime_ns)
            digest.update(repr(entry).encode())
            count, size = count + 1, size + state.st_size
    return f"{count} files, {size} bytes, {digest.hexdigest()[:16]}"


def is_of_file(tomogram: xr.DataArray) -> bool:
    """Whether a tomogram is what its file holds: nothing was done to it since it was opened."""
    source = tomogram.attrs.get("source")
    if not source or not isinstance(tomogram.data, da.Array) or not Path(source).exists():
        return False
    try:  # the graphs bear one name then
        fresh = open_tomogram(source, chunks=tomogram.data.chunks, voxel_size=1.0)
    except InputError:
        return False
    return bool(fresh.data.name == tomogram.data.name)


def source_state(tomogram: xr.DataArray) -> str:
    """Tell one tomogram, and one state of its file, from another.  Reads no voxels of a file.

    Parameters
    ----------
    tomogram : DataArray, dims (z, y, x)
        As `open_tomogram` gives it, anything computed from that, or one in memory.

    Returns
    -------
    str
        Name, size and times of the file, where the tomogram is what its file holds; else a digest
        of the voxels, or of the graph that computes them.  The same in all processes, and wherever
        the file lies.
    """
    if is_of_file(tomogram):
        path = Path(tomogram.attrs["source"])
        return f"{path.name}: {file_state(path)}"
    state = f"in memory: {tokenize(tomogram.data)}"
    source = tomogram.attrs.get("source")
    if source and isinstance(tomogram.data, da.Array) and Path(source).exists():
        # The names in a graph do not tell whether a chunk of a Zarr store was changed.
        return f"{state}, from {Path(source).name}: {file_state(Path(source))}"
    return state
