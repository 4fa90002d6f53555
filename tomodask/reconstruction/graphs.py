"""Graphs of a reconstruction: each block of back projection, each slab of SIRT, from its rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from tomodask.arrays.projection import window
from tomodask.reconstruction.job import Job
from tomodask.reconstruction.row_store import RowStore
from tomodask.reconstruction.sirt import sirt, slab_rows
from tomodask.reconstruction.wbp import centered, voxels

__all__ = ["back_projected", "residuals_of", "sirt_slabs"]


def back_projected(
    job: Job, rows: da.Array | RowStore, blocks: tuple[tuple[int, ...], ...]
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


def sirt_slabs(job: Job, rows: da.Array | RowStore) -> da.Array:
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


def residuals_of(store: RowStore) -> list[float]:
    """What is not explained of the images, as a share of their own, of all slabs together.

    Root mean square, before the first step and after each; the slabs left theirs in the store.
    """
    parts = [np.load(path) for path in sorted(Path(store.path).glob("residuals_*.npy"))]
    total = np.concatenate(parts, axis=1).sum(axis=1)
    share = np.sqrt(total / total[0] if total[0] > 0 else total)
    return [float(value) for value in share]


def _token(rows: da.Array | RowStore) -> Any:
    return rows.name if isinstance(rows, da.Array) else (rows.path, rows.shape)
