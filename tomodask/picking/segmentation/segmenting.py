"""Segmentation: for each voxel the probability that it belongs to a particle, by a trained network.

`segment_tomogram` builds the graph; engines are in `tomodask.nets.segmentation.inference`, the plan
of tiles in `tomodask.arrays.overlap`, the storing of long runs in `store`.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed, delayed

from tomodask.arrays.overlap import OverlapPlan, OverlapTile, plan_overlap
from tomodask.data.parts import TomogramParts
from tomodask.data.sources import source_state
from tomodask.data.statistics import Statistics
from tomodask.errors import InputError
from tomodask.nets.engines import (
    EngineName,
    check_options,
    require_engine,
)
from tomodask.nets.precision import Precision
from tomodask.nets.segmentation.inference import Engine, open_engine, tile_limit
from tomodask.nets.segmentation.model_file import PickingModel
from tomodask.picking.segmentation.store import open_segmentation, save_segmentation

__all__ = ["open_segmentation", "save_segmentation", "segment_tomogram"]

_log = logging.getLogger(__name__)
_STEPS = 256  # of a probability: finer ones are rounding of engines, and do not compress
_WORTH = 1_000_000  # voxels of a task's tiles, at least: some 3 s, beside which Dask's 5 ms vanish
_FLIPS = tuple(product((False, True), repeat=3))


def segment_tomogram(
    tomogram: xr.DataArray,
    model: PickingModel,
    *,
    tile: int | None = None,
    halo: int | None = None,
    batch: int | None = None,
    mirror: bool = False,
    engine: EngineName = "auto",
    precision: Precision = "float32",
) -> xr.DataArray:
    """Probability of each class at each voxel.  Builds a graph, computes nothing.

    The tomogram is brought to the model's voxel size on the fly (a windowed sinc), to mean 0 and
    standard deviation 1, cut into overlapping tiles of one shape, and what a tile's faces may have
    changed is thrown away (overlap tiling [1]_).  Chunks, workers and batches have no part in the
    result.

    Parameters
    ----------
    tomogram : DataArray, shape (z, y, x)
        As from `open_tomogram`; lazy values of any chunks.  ``attrs["voxel_size"]`` in Å.
    model : PickingModel
        From `read_model` or `train_picker`.
    tile : int, optional
        Edge of a tile, voxels of the model; None takes the edges that cost least within the memory
        of about 1.5 GB a worker.
    halo : int, optional
        Voxels next to a tile's inner faces that are thrown away, rounded up to what the network's
        poolings need (a multiple of 8 for 4 levels); None takes the model's.  From
        `receptive_radius` on, and the border of coordinates, the result does not depend on where
        tiles lie.
    batch : int, optional
        Tiles at once, at most those of a task, which are a million voxels or one tile; None for
        one, since tiles are large.
    mirror : bool
        Mean over the 8 mirrors of each tile: 8 times the work.
    engine, precision : see `open_engine`

    Returns
    -------
    DataArray of float32, dims (class, z, y, x)
        Probabilities in steps of 1/256, at the model's voxel size; coords ``class`` (names) and
        ``z y x`` (Å; the middle of voxel (0, 0, 0) is the tomogram's).  attrs ``voxel_size``,
        ``diameters`` (Å, one a class), ``label_diameter`` (voxels), ``threshold`` (the model's),
        ``model`` (digest), ``tomogram`` (name), ``source``, ``tomogram_voxel_size`` (Å) and
        ``tomogram_shape``, which tables of picks count in, ``fingerprint``, and the tomogram's
        ``tilt_range`` and ``tilt_series`` where it has them.

    Raises
    ------
    InputError
        A tomogram without a voxel size, or of voxels over 8 times larger or smaller than the
        model's; an option out of its range; an engine that is not installed.  From the graph:
        voxels that are not finite, a tomogram of one value, memory that runs out on one tile.

    References
    ----------
    .. [1] Liu et al., Nat. Commun. 15, 2090 (2024).
    """
    if not isinstance(model, PickingModel):
        raise InputError(f"model must be a PickingModel, as read_model gives it, got {type(model)}")
    check_options(engine=engine, precision=precision, threads=1, batch=batch)
    require_engine(engine)
    parts = TomogramParts(tomogram, model.voxel_size)
    ratio = model.voxel_size / float(tomogram.attrs["voxel_size"])
    if not 0.5 <= ratio <= 2:
        _log.warning(
            "%s has voxels of %g Å, the model learned at %g Å: resampled %.1f times, it may hold "
            "detail, or lack it, that the model has not seen; check a slice of the probabilities",
            tomogram.name or "the tomogram",
            float(tomogram.attrs["voxel_size"]),
            model.voxel_size,
            max(ratio, 1 / ratio),
        )
    plan = _plan(parts.shape, model, tile, halo)
    attrs = _attributes(tomogram, model, parts)
    told = (source_state(tomogram), parts.voxel_size, plan, mirror, engine, precision, model.digest)
    attrs["fingerprint"] = hashlib.sha256(repr(told).encode()).hexdigest()[:32]
    # Equal results, told apart all the same: tasks of another batch are other tasks.
    token = tokenize(parts.token, attrs["fingerprint"], batch)
    shared = _Shared(model, plan, mirror, engine, precision, batch)
    dims = ("z", "y", "x")
    return xr.DataArray(
        _graph(parts, shared, token),
        dims=("class", *dims),
        coords={
            "class": list(model.classes),
            **{d: np.arange(n) * parts.voxel_size for d, n in zip(dims, plan.shape, strict=True)},
        },
        name=str(tomogram.name or "tomogram"),
        attrs=attrs,
    )


@dataclass(frozen=True)
class _Shared:
    """What every task needs; goes to a worker once."""

    model: PickingModel
    plan: OverlapPlan
    mirror: bool
    engine: EngineName
    precision: Precision
    batch: int | None


def _plan(
    shape: tuple[int, int, int], model: PickingModel, tile: int | None, halo: int | None
) -> OverlapPlan:
    for name, value, least in (("tile", tile, 1), ("halo", halo, 0)):
        if value is not None and (not isinstance(value, int) or value < least):
            raise InputError(
                f"{name} must be a whole number of at least {least} voxels, got {value!r}"
            )
    architecture = model.architecture
    try:
        return plan_overlap(
            shape,
            halo=model.halo if halo is None else halo,
            multiple=architecture.multiple,
            limit=tile_limit(architecture),
            tile=tile,
        )
    except ValueError as error:
        raise InputError(f"{error}; give a larger tile or a smaller halo") from None


def _attributes(
    tomogram: xr.DataArray, model: PickingModel, parts: TomogramParts
) -> dict[str, Any]:
    attrs: dict[str, Any] = {
        "voxel_size": parts.voxel_size,
        "diameters": tuple(float(d) for d in model.diameters),
        "label_diameter": model.label_diameter,
        "threshold": model.threshold,
        "model": model.digest,
        "tomogram": str(tomogram.name or "tomogram"),
        "source": str(tomogram.attrs.get("source", "")),
        "tomogram_voxel_size": float(tomogram.attrs["voxel_size"]),
        "tomogram_shape": tuple(map(int, tomogram.shape)),
    }
    for name in ("tilt_range", "tilt_series"):
        if tomogram.attrs.get(name) is not None:
            attrs[name] = tomogram.attrs[name]
    return attrs


def _graph(parts: TomogramParts, what: _Shared, token: str) -> da.Array:
    """The cores as one array, a chunk for the tiles of a task."""
    plan = what.plan
    # traverse: Dask would look into every weight for something to compute.
    shared = delayed(what, name=f"segment-model-{token}", traverse=False)
    scale = delayed(_scale)(
        parts.statistics(), parts.name, what.model.invert, dask_key_name=f"segment-scale-{token}"
    )
    # Of the plan alone, so that the store of a run goes on with another batch.
    row = ceil(_WORTH / prod(plan.tile))
    rows = range(0, plan.counts[2], row)
    blocks = np.empty((*plan.counts[:2], len(rows)), object)
    for iz, iy, ix in np.ndindex(*blocks.shape):
        count = min(row, plan.counts[2] - rows[ix])
        tiles = [plan.at((iz, iy, rows[ix] + i)) for i in range(count)]
        stop = tuple(
            min(a + t, n) for a, t, n in zip(tiles[-1].start, plan.tile, plan.shape, strict=True)
        )
        key = f"segment-{token}-{iz}-{iy}-{ix}"
        block: Delayed = delayed(_segment)(
            parts.part(tiles[0].start, stop), shared, scale, tiles, dask_key_name=key
        )
        z, y, _ = tiles[0].core
        shape = (len(what.model.classes), z, y, sum(one.core[2] for one in tiles))
        blocks[iz, iy, ix] = da.from_delayed(block, shape, np.float32, name=f"{key}-block")
    return da.block(blocks.tolist())


def _scale(statistics: Statistics, name: str, invert: bool) -> tuple[float, float]:
    """Mean, and what to multiply by."""
    statistics.require_finite(name)
    if not statistics.std > 0:
        raise InputError(
            f"{name}: all voxels are {statistics.mean:g}; there is nothing to segment; is it the "
            "right file?"
        )
    return statistics.mean, (-1.0 if invert else 1.0) / statistics.std


def _segment(
    part: np.ndarray, shared: _Shared, scale: tuple[float, float], tiles: list[OverlapTile]
) -> np.ndarray:
    """Probabilities in the cores of a row of tiles; `part` begins where the first of them does."""
    plan = shared.plan
    normalised = (part.astype(np.float32) - np.float32(scale[0])) * np.float32(scale[1])
    batch = np.zeros((len(tiles), 1, *plan.tile), np.float32)  # the mean beyond the tomogram
    for one, target in zip(tiles, batch[:, 0], strict=True):
        low = one.start[2] - tiles[0].start[2]
        data = normalised[:, :, low : low + plan.tile[2]]
        target[tuple(slice(0, n) for n in data.shape)] = data
    engine = open_engine(
        shared.model,
        engine=shared.engine,
        precision=shared.precision,
        batch=shared.batch,
    )
    probabilities = _mirrored(engine, batch) if shared.mirror else engine.infer(batch)
    cores = [p[(slice(None), *one.kept)] for p, one in zip(probabilities, tiles, strict=True)]
    whole = np.concatenate(cores, axis=3)
    return np.asarray(np.rint(whole * np.float32(_STEPS)) / np.float32(_STEPS))


def _mirrored(engine: Engine, batch: np.ndarray) -> np.ndarray:
    """Mean over the 8 mirrors."""
    total: np.ndarray | None = None
    for flips in _FLIPS:
        axes = tuple(2 + axis for axis, flip in enumerate(flips) if flip)
        one = np.flip(engine.infer(np.flip(batch, axes)), axes)
        total = one if total is None else total + one
    assert total is not None
    return np.asarray(total / np.float32(len(_FLIPS)))
