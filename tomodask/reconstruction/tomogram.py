"""Tomograms from tilt series: a graph, or a stream through the disk."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import delayed

from tomodask.cluster import compute
from tomodask.data.tomograms import check_save, save_tomogram
from tomodask.errors import InputError
from tomodask.reconstruction.graphs import back_projected, residuals_of, sirt_slabs
from tomodask.reconstruction.images import Normalize
from tomodask.reconstruction.job import Method, checked_reconstruction
from tomodask.reconstruction.row_store import RowStore
from tomodask.reconstruction.weighting import Filter

__all__ = ["reconstruct", "save_reconstruction"]

_EDGE = 128  # voxels, of a block


def reconstruct(
    series: xr.DataArray,
    *,
    thickness: float,
    bin: float | None = None,
    voxel_size: float | None = None,
    method: Method = "wbp",
    filter: Filter = "ramp",
    iterations: int = 20,
    relaxation: float = 1.0,
    ctf: Literal["none", "flip"] = "none",
    dose_weight: bool = False,
    normalize: Normalize = "mean",
    invert: bool = False,
    chunks: int | tuple[Any, ...] | None = None,
) -> xr.DataArray:
    """Reconstruct a tomogram, lazily.

    A block of the result needs a window of the rows of all images.  Where it is computed as a
    whole, all images are held, at the voxel size, on the workers; `save_reconstruction` holds them
    on disk.  The result is equal for any chunks and workers.

    Parameters
    ----------
    series : DataArray, dims (tilt, y, x)
        As `open_tilt_series` gives it.
    thickness : float
        Of the tomogram along the beam, Å; x and y are those of the aligned images.
    bin, voxel_size : float, optional
        Pixels per voxel, or Å; by default the voxels are as large as the pixels.
    method : {"wbp", "sirt"}
        Weighted back-projection, or simultaneous iterative reconstruction.
    filter : {"ramp", "hamming"}
        Of weighted back-projection: `hamming` damps what is finest, and its noise.
    iterations, relaxation
        Of SIRT: how many steps, and how large (above 0, below 2).
    ctf, dose_weight, normalize, invert
        As of `align_images`.
    chunks : int or tuple, optional
        Of the tomogram, (z, y, x); by default 128.

    Returns
    -------
    DataArray, dims (z, y, x)
        float32.  Summed along the beam over all voxels, times the bin, it gives the images where
        the series is dense and complete.  attrs: `voxel_size`, `tilt_range`, `source`, and
        `tilt_series`, the record of what was measured (see docs/design.md).

    Raises
    ------
    InputError
        If the series lacks what an option needs, or a number is out of range.
    """
    job = checked_reconstruction(
        series,
        thickness=thickness,
        bin=bin,
        voxel_size=voxel_size,
        method=method,
        filter=filter,
        iterations=iterations,
        relaxation=relaxation,
        ctf=ctf,
        dose_weight=dose_weight,
        normalize=normalize,
        invert=invert,
    )
    blocks = _blocks(chunks, job.shape)
    if method == "sirt":
        return job.tomogram(sirt_slabs(job, job.fine).rechunk(blocks))
    return job.tomogram(back_projected(job, job.fine, blocks))


def save_reconstruction(
    series: xr.DataArray,
    path: str | os.PathLike[str],
    *,
    thickness: float,
    bin: float | None = None,
    voxel_size: float | None = None,
    method: Method = "wbp",
    filter: Filter = "ramp",
    iterations: int = 20,
    relaxation: float = 1.0,
    ctf: Literal["none", "flip"] = "none",
    dose_weight: bool = False,
    normalize: Normalize = "mean",
    invert: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Reconstruct a tomogram and write it: MRC or OME-Zarr by the suffix.  Computes.

    First each image is made ready and its rows go to a hidden folder beside `path`; then each block
    of the tomogram reads the rows it needs.  A worker holds one image, or one block with its rows,
    whatever the size of the series.  After an interruption the same call goes on with the images
    that are missing.  The folder goes when the tomogram is there.

    Parameters
    ----------
    series, thickness, …
        As of `reconstruct`.
    path : path
        ``.zarr``, or ``.mrc .map .rec``.
    overwrite : bool
        Replace what is there.
    **options
        Of `save_tomogram`: `chunk`, `shard`, `levels`, `compression`, `dtype`.

    Returns
    -------
    dict
        `shape`, `voxel_size`, `tilts`, and of SIRT `residuals`: root mean square of what is not
        explained of the images, as a share of their own, before the first step and after each.
    """
    job = checked_reconstruction(
        series,
        thickness=thickness,
        bin=bin,
        voxel_size=voxel_size,
        method=method,
        filter=filter,
        iterations=iterations,
        relaxation=relaxation,
        ctf=ctf,
        dose_weight=dose_weight,
        normalize=normalize,
        invert=invert,
    )
    path = Path(path).absolute()
    check_save(path, overwrite=overwrite, **options)
    for file in map(Path, series.attrs.get("files", ())):
        if path.exists() and file.exists() and path.samefile(file):
            raise InputError(f"{path} holds images of the tilt series; choose another name")
    fine = job.fine
    tilts, rows, samples = fine.shape
    store = RowStore.open_or_create(
        path.with_name(f".{path.name}.rows"),
        (rows, tilts, samples),
        fingerprint=tokenize(version("tomodask"), fine.name, job.filter, job.method),
    )
    write = delayed(_write_image, pure=False)
    blocks = fine.to_delayed(optimize_graph=False).ravel()
    told: dict[str, Any] = {
        "shape": job.shape,
        "voxel_size": float(job.images.attrs["pixel_size"]),
        "tilts": tilts,
    }
    try:
        # A running scheduler may serve other reconstructions too: keys tell them apart.
        key = f"write-rows-{tokenize(fine.name, store.path, os.getpid())}"
        writes = [
            write(blocks[tilt], store, tilt, dask_key_name=(key, tilt)) for tilt in store.missing()
        ]
        compute(writes, label="images")
        if method == "sirt":
            for stale in Path(store.path).glob("residuals_*.npy"):
                stale.unlink()  # of a run that was stopped, and had other slabs or iterations
            array = sirt_slabs(job, store)
        else:
            array = back_projected(job, store, _blocks(None, job.shape))
        save_tomogram(job.tomogram(array), path, overwrite=overwrite, **options)
    except InputError:
        store.remove()  # the same call would not go on with it
        raise
    if method == "sirt":
        told["residuals"] = residuals_of(store)
    store.remove()
    return told


def _blocks(chunks: Any, shape: tuple[int, int, int]) -> tuple[tuple[int, ...], ...]:
    try:
        wanted = _EDGE if chunks is None else chunks
        return tuple(da.core.normalize_chunks(wanted, shape, dtype=np.float32))
    except ValueError as error:
        raise InputError(f"chunks={chunks} do not fit the shape {shape}: {error}") from None


def _write_image(block: np.ndarray, store: RowStore, tilt: int) -> None:
    store.write(tilt, block[0])
