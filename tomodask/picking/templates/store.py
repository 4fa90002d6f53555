"""Scores of template matching in a Zarr store, tile by tile, so that a killed run goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from dask.base import tokenize
from dask.delayed import delayed

from tomodask.cluster import compute
from tomodask.picking.tile_store import (
    StoreKind,
    codecs,
    missing_tiles,
    room_on_disk,
    write_tile,
)

__all__ = ["open_scores", "save_scores"]

_KIND = StoreKind(
    format="tomodask-scores-1",
    what="scores",
    command="tomodask match",
    run="match",
    inputs="other tomogram, template or parameters",
)
_DIMS = ("z", "y", "x")


def save_scores(match: xr.Dataset, path: str | Path, *, resume: bool = True) -> None:
    """Compute the scores of `match_template` into a Zarr store.

    Each tile is written by the task that computed it and marked as finished after that; after a
    crash or an interruption the same call computes the missing tiles only, and the store ends
    bit-identical to that of a run without one.

    Parameters
    ----------
    match : Dataset
        From `match_template`.
    path : path
        The store, a folder ``….zarr`` (Zarr v3: ``score``, ``rotation``, a chunk a tile;
        ``quaternion``; ``finished``, one element a tile).
    resume : bool
        Go on with a store of the same run.  False: begin anew, and drop what is there.

    Raises
    ------
    InputError
        If the store is of another run (other tomogram, template or parameters), or no store of
        scores, or the disk is full.
    """
    path = Path(path)
    with room_on_disk(path):
        group = _KIND.open_or_create(
            path, match.attrs["fingerprint"], lambda new: _lay_out(match, new), resume=resume
        )
        compute(_writes(match, path, missing_tiles(group)), label="match")


def open_scores(path: str | Path) -> xr.Dataset:
    """Open a store of `save_scores`; lazy, as `match_template` returned it.

    Raises
    ------
    InputError
        If there is no such store, or not all of its tiles are finished.
    """
    path = Path(path)
    group = _KIND.open_whole(path)
    attrs = _attrs(group)
    score = group["score"]
    coords = {
        d: np.arange(n) * attrs["voxel_size"] for d, n in zip(_DIMS, score.shape, strict=True)
    }
    variables = {name: (_DIMS, _KIND.lazy(path, group, name)) for name in ("score", "rotation")}
    quaternion = (("orientation", "quaternion_part"), np.asarray(group["quaternion"]))
    return xr.Dataset({**variables, "quaternion": quaternion}, coords=coords, attrs=attrs)


def _attrs(group: zarr.Group) -> dict[str, Any]:
    attrs = {k: v for k, v in group.attrs.asdict().items() if k != "format"}
    attrs["tilt_range"] = tuple(attrs["tilt_range"])
    return attrs


def _lay_out(match: xr.Dataset, group: zarr.Group) -> None:
    score = match["score"].data
    chunk = tuple(sizes[0] for sizes in score.chunks)
    # Filled with what no voxel gets: Zarr leaves chunks out that hold nothing else, whatever config
    # they were laid out with, and a missing one is damage here.
    for name, dtype, fill in (("score", "float32", float("nan")), ("rotation", "int32", -1)):
        group.create_array(
            name,
            shape=score.shape,
            chunks=chunk,
            dtype=dtype,
            dimension_names=_DIMS,
            fill_value=fill,
            compressors=codecs(),
        )
    quaternion = np.asarray(match["quaternion"], np.float64)
    group.create_array("quaternion", data=quaternion, chunks=quaternion.shape)
    group.create_array(
        "finished", shape=score.numblocks, chunks=(1, 1, 1), dtype="uint8", compressors=None
    )
    group.attrs.update(
        {**match.attrs, "tilt_range": list(match.attrs["tilt_range"]), "format": _KIND.format}
    )


def _writes(match: xr.Dataset, path: Path, tiles: list[tuple[int, ...]]) -> list[Any]:
    score, rotation = match["score"].data, match["rotation"].data
    chunk = tuple(sizes[0] for sizes in score.chunks)
    scores, turns = score.to_delayed(), rotation.to_delayed()
    write = delayed(_write_tile)
    # A running scheduler may serve other matches too: keys tell them apart.
    key = f"match-write-{tokenize(match.attrs['fingerprint'], str(path.absolute()), os.getpid())}"
    return [write(scores[t], turns[t], str(path), t, chunk, dask_key_name=(key, *t)) for t in tiles]


def _write_tile(
    score: np.ndarray,
    rotation: np.ndarray,
    path: str,
    tile: tuple[int, ...],
    chunk: tuple[int, ...],
) -> None:
    """Store one tile, and mark it as finished once it is."""
    write_tile(path, tile, chunk, {"score": score, "rotation": rotation})
