"""Tomograms from tilt series: a graph, or a stream through the disk."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import delayed

from tomodask.arrays.projection import window
from tomodask.cluster import compute
from tomodask.data.tomograms import check_save, save_tomogram
from tomodask.data.volumes import as_tomogram
from tomodask.errors import InputError
from tomodask.reconstruction.images import Normalize, align_images
from tomodask.reconstruction.row_store import RowStore
from tomodask.reconstruction.sirt import sirt, slab_rows
from tomodask.reconstruction.wbp import centered, filtered_rows, voxels
from tomodask.reconstruction.weighting import Filter, angular_weights

__all__ = ["reconstruct", "save_reconstruction"]

Method = Literal["wbp", "sirt"]

_log = logging.getLogger(__name__)

_EDGE = 128  # voxels, of a block
_MOST_PLANES = 16384
_THIN = 400.0  # Å
#: What the record of the series takes from its coords and attrs.
_LISTS = ("exposure", "pre_exposure")
_DEFOCUS = ("defocus_u", "defocus_v", "defocus_angle")
_OPTICS = ("spherical_aberration", "amplitude_contrast")
_SCALARS = ("voltage", "phase_shift", "handedness")


@dataclass(frozen=True)
class _Job:
    """A checked reconstruction, before any graph."""

    images: xr.DataArray
    shape: tuple[int, int, int]
    angles: tuple[float, ...]
    weights: tuple[float, ...]
    method: Method
    iterations: int
    relaxation: float
    filter: Filter
    record: dict[str, Any]

    @property
    def fine(self) -> da.Array:
        """What is stored between the halves, one block an image: filtered or plain rows."""
        images = self.images.data
        if self.method == "sirt":
            return images
        tilts, ny, nx = images.shape
        return images.map_blocks(
            _filter_block,
            filter=self.filter,
            dtype=np.float32,
            token="filter",
            chunks=((1,) * tilts, (ny,), (2 * nx,)),
            meta=np.empty((0, 0, 0), np.float32),
        )

    def tomogram(self, array: da.Array) -> xr.DataArray:
        """The array as a tomogram, with what is known of it."""
        volume = as_tomogram(
            array,
            path=Path(str(self.images.attrs.get("source", ""))),
            voxel_size=float(self.images.attrs["pixel_size"]),
            name=str(self.images.name),
            tilt_range=(min(self.angles), max(self.angles)),
            tilt_series=self.record,
        )
        volume.attrs["source"] = str(self.images.attrs.get("source", ""))
        return volume


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
    job = _checked(
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
        return job.tomogram(_sirt_slabs(job, job.fine).rechunk(blocks))
    return job.tomogram(_back_projected(job, job.fine, blocks))


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
    job = _checked(
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
            array = _sirt_slabs(job, store)
        else:
            array = _back_projected(job, store, _blocks(None, job.shape))
        save_tomogram(job.tomogram(array), path, overwrite=overwrite, **options)
    except InputError:
        store.remove()  # the same call would not go on with it
        raise
    if method == "sirt":
        told["residuals"] = _residuals(store)
    store.remove()
    return told


def _checked(
    series: xr.DataArray,
    *,
    thickness: float,
    method: Method,
    filter: Filter,
    iterations: int,
    relaxation: float,
    ctf: Literal["none", "flip"],
    dose_weight: bool,
    invert: bool,
    **options: Any,
) -> _Job:
    """Check everything, and lay out the images; the graph of the rest comes later."""
    if method not in ("wbp", "sirt"):
        raise InputError(f"method must be wbp or sirt, got {method!r}")
    if filter not in ("ramp", "hamming"):
        raise InputError(f"filter must be ramp or hamming, got {filter!r}")
    if method == "sirt" and not (iterations >= 1 and int(iterations) == iterations):
        raise InputError(f"iterations must be a whole number of at least 1, got {iterations}")
    if not 0 < relaxation < 2:
        raise InputError(f"relaxation must be above 0 and below 2, got {relaxation}")
    images = align_images(series, ctf=ctf, dose_weight=dose_weight, invert=invert, **options)
    size = float(images.attrs["pixel_size"])
    if not (np.isfinite(thickness) and thickness >= size):
        raise InputError(f"thickness must be at least a voxel, {size:g} Å, got {thickness:g}")
    depth = round(thickness / size)
    if depth > _MOST_PLANES:
        raise InputError(
            f"thickness makes at most {_MOST_PLANES} planes of {size:g} Å, got {thickness:g} Å; it "
            "counts in Å, not in nm or voxels"
        )
    if thickness < _THIN:
        _log.warning(
            "thickness %g Å makes %d planes of %g Å; most specimens have 1000 to 3000 Å, and it "
            "counts in Å, not in nm or voxels",
            thickness,
            depth,
            size,
        )
    angles = np.asarray(images["angle"], float)
    weights = angular_weights(angles)
    record: dict[str, Any] = {
        "angle": angles.tolist(),
        "weight": weights.tolist(),
        "pixel_size": float(series.attrs["pixel_size"]),
        "voxel_size": size,
        "phase_flipped": bool(images.attrs["phase_flipped"]),
        "dose_weighted": bool(images.attrs["dose_weighted"]),
        "method": method,
        "inverted": bool(invert),
    }
    record |= {"filter": filter} if method == "wbp" else {"iterations": int(iterations)}
    for key in _SCALARS:
        if images.attrs.get(key) is not None:
            record[key] = float(images.attrs[key])
    for key in _LISTS:
        if key in images.coords:
            record[key] = np.asarray(images.coords[key], float).tolist()
    if "defocus_u" in images.coords:
        lacking = [k for k in ("voltage", *_OPTICS) if images.attrs.get(k) is None]
        if lacking:
            _log.warning(
                "%s: the defocus is not kept with the tomogram, as %s is unknown",
                images.attrs.get("source"),
                ", ".join(lacking),
            )
        else:
            record |= {key: float(images.attrs[key]) for key in _OPTICS}
            record |= {
                key: np.asarray(images.coords[key], float).tolist()
                for key in _DEFOCUS
                if key in images.coords
            }
    return _Job(
        images=images,
        shape=(depth, images.shape[1], images.shape[2]),
        angles=tuple(angles.tolist()),
        weights=tuple(weights.tolist()),
        method=method,
        iterations=int(iterations),
        relaxation=float(relaxation),
        filter=filter,
        record=record,
    )


def _blocks(chunks: Any, shape: tuple[int, int, int]) -> tuple[tuple[int, ...], ...]:
    try:
        wanted = _EDGE if chunks is None else chunks
        return tuple(da.core.normalize_chunks(wanted, shape, dtype=np.float32))
    except ValueError as error:
        raise InputError(f"chunks={chunks} do not fit the shape {shape}: {error}") from None


def _filter_block(block: np.ndarray, *, filter: Filter) -> np.ndarray:
    return filtered_rows(block[0], filter=filter)[None]


def _write_image(block: np.ndarray, store: RowStore, tilt: int) -> None:
    store.write(tilt, block[0])


def _back_projected(
    job: _Job, rows: da.Array | RowStore, blocks: tuple[tuple[int, ...], ...]
) -> da.Array:
    """Each block of the tomogram, from the window of the rows that it needs."""
    width = job.shape[2]
    name = f"back-project-{tokenize(job.angles, job.weights, job.shape, blocks, _token(rows))}"
    graph: dict[Any, Any] = {}
    sources: list[da.Array] = []
    starts = [np.concatenate([[0], np.cumsum(sizes)]) for sizes in blocks]
    places = [centered(size) for size in job.shape]
    for j, ny in enumerate(blocks[1]):
        y = slice(int(starts[1][j]), int(starts[1][j]) + ny)
        for i, nz in enumerate(blocks[0]):
            zs = places[0][starts[0][i] : starts[0][i] + nz]
            for k, nx in enumerate(blocks[2]):
                xs = places[2][starts[2][k] : starts[2][k] + nx]
                first, stop = window(np.array(job.angles), zs, xs, width)
                task = partial(
                    _block,
                    rows=y,
                    samples=slice(first, stop),
                    angles=job.angles,
                    weights=job.weights,
                    zs=(float(zs[0]), nz),
                    xs=(float(xs[0]), nx),
                    width=width,
                )
                if isinstance(rows, RowStore):
                    graph[(name, i, j, k)] = (task, rows)
                    continue
                part = rows[:, y, first:stop]
                sources.append(part)
                graph[(name, i, j, k)] = (
                    _joined,
                    task,
                    [(part.name, t, 0, 0) for t in range(len(rows))],
                )
    layers = da.core.HighLevelGraph.from_collections(name, graph, dependencies=sources)
    return da.Array(layers, name, blocks, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))


def _joined(task: Any, parts: list[np.ndarray]) -> np.ndarray:
    return np.asarray(task(np.concatenate(parts)))


def _block(
    fine: np.ndarray | RowStore,
    *,
    rows: slice,
    samples: slice,
    angles: tuple[float, ...],
    weights: tuple[float, ...],
    zs: tuple[float, int],
    xs: tuple[float, int],
    width: int,
) -> np.ndarray:
    if isinstance(fine, RowStore):
        fine = fine.read(rows, samples)
    return voxels(
        fine,
        angles,
        weights,
        zs[0] + np.arange(zs[1]),
        xs[0] + np.arange(xs[1]),
        width=width,
        first=samples.start,
    )


def _sirt_slabs(job: _Job, rows: da.Array | RowStore) -> da.Array:
    """Slabs of a few rows, all planes and columns each."""
    depth, height, width = job.shape
    count = slab_rows(depth, width, len(job.angles), height)
    sizes = da.core.normalize_chunks((count,), (height,))[0]
    token = tokenize(job.angles, job.shape, job.iterations, job.relaxation, _token(rows))
    name = f"sirt-{token}"
    graph: dict[Any, Any] = {}
    sources = []
    start = 0
    for j, ny in enumerate(sizes):
        task = partial(
            _slab,
            rows=slice(start, start + ny),
            angles=job.angles,
            depth=depth,
            iterations=job.iterations,
            relaxation=job.relaxation,
        )
        if isinstance(rows, RowStore):
            graph[(name, 0, j, 0)] = (task, rows)
        else:
            part = rows[:, start : start + ny]
            sources.append(part)
            graph[(name, 0, j, 0)] = (
                _joined,
                task,
                [(part.name, t, 0, 0) for t in range(len(rows))],
            )
        start += ny
    layers = da.core.HighLevelGraph.from_collections(name, graph, dependencies=sources)
    return da.Array(
        layers,
        name,
        ((depth,), sizes, (width,)),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )


def _slab(
    images: np.ndarray | RowStore,
    *,
    rows: slice,
    angles: tuple[float, ...],
    depth: int,
    iterations: int,
    relaxation: float,
) -> np.ndarray:
    store = images if isinstance(images, RowStore) else None
    if isinstance(images, RowStore):
        images = images.read(rows, slice(None))
    volume, residuals = sirt(
        images, np.array(angles), depth, iterations=iterations, relaxation=relaxation
    )
    if store is not None:  # told when all are done
        np.save(Path(store.path, f"residuals_{rows.start:06d}.npy"), residuals)
    return volume


def _residuals(store: RowStore) -> list[float]:
    parts = [np.load(path) for path in sorted(Path(store.path).glob("residuals_*.npy"))]
    total = np.concatenate(parts, axis=1).sum(axis=1)
    share = np.sqrt(total / total[0] if total[0] > 0 else total)
    return [float(value) for value in share]


def _token(rows: da.Array | RowStore) -> Any:
    return rows.name if isinstance(rows, da.Array) else (rows.path, rows.shape)
