"""Scores of template matching in a Zarr store, tile by tile, so that a killed run goes on."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from dask.base import tokenize
from dask.delayed import delayed
from zarr.codecs import BloscCodec, Crc32cCodec

from tomodask.cluster import compute
from tomodask.errors import InputError

__all__ = ["open_scores", "save_scores"]

_FORMAT = "tomodask-scores-1"
_DIMS = ("z", "y", "x")
_UNFINISHED = ".unfinished-layout"  # file in a store whose arrays are not all laid out


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
    try:
        group = _open_or_create(match, path, resume=resume)
        compute(_writes(match, path, _missing_tiles(group)), label="match")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"no space left on the disk of {path}, or in its quota: free some and run the "
                "same again; finished tiles are kept"
            ) from error
        raise


def open_scores(path: str | Path) -> xr.Dataset:
    """Open a store of `save_scores`; lazy, as `match_template` returned it.

    Raises
    ------
    InputError
        If there is no such store, or not all of its tiles are finished.
    """
    path = Path(path)
    group = _open(path)
    missing, tiles = len(_missing_tiles(group)), group["finished"].size
    if missing:
        raise InputError(
            f"{path} holds {tiles - missing} of {tiles} tiles: its run was interrupted; "
            "run the same match again to finish it"
        )
    attrs = _attrs(group)
    score = group["score"]
    coords = {
        d: np.arange(n) * attrs["voxel_size"] for d, n in zip(_DIMS, score.shape, strict=True)
    }
    variables = {name: (_DIMS, _lazy(path, group, name)) for name in ("score", "rotation")}
    quaternion = (("orientation", "quaternion_part"), np.asarray(group["quaternion"]))
    return xr.Dataset({**variables, "quaternion": quaternion}, coords=coords, attrs=attrs)


@dataclass(frozen=True)
class _Stored:
    """An array of the store; what cannot be read is told of as the input's fault."""

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    ndim: int = 3

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Read a part."""
        try:
            return np.asarray(zarr.open_group(self.path, mode="r")[self.name][index])
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            where = ", ".join(f"{one.start}:{one.stop}" for one in index)
            raise InputError(
                f"{self.path}: the {self.name} of voxels {where} is damaged ({error}); make the "
                "scores again, with --overwrite"
            ) from error


def _lazy(path: Path, group: zarr.Group, name: str) -> da.Array:
    array = group[name]
    if (missing := array.nchunks - array.nchunks_initialized) > 0:
        raise InputError(
            f"{path}: {missing} of {array.nchunks} chunks of its {name} are missing; make the "
            "scores again, with --overwrite"
        )
    stored = _Stored(str(path), name, tuple(array.shape), array.dtype)
    key = f"open-{name}-{tokenize(stored, group.attrs['fingerprint'])}"
    return da.from_array(
        stored, chunks=array.chunks, name=key, meta=np.empty((0,) * 3, array.dtype)
    )


def _attrs(group: zarr.Group) -> dict[str, Any]:
    attrs = {k: v for k, v in group.attrs.asdict().items() if k != "format"}
    attrs["tilt_range"] = tuple(attrs["tilt_range"])
    return attrs


def _open(path: Path) -> zarr.Group:
    try:
        group = zarr.open_group(path, mode="r+")
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise InputError(f"{path} is no store of scores: make one with `tomodask match`") from error
    if group.attrs.get("format") != _FORMAT or "finished" not in group:
        raise InputError(
            f"{path} is a Zarr store but not one of scores: make one with `tomodask match`"
        )
    return group


def _open_or_create(match: xr.Dataset, path: Path, *, resume: bool) -> zarr.Group:
    if path.exists() and resume and any(path.iterdir()):
        # A run killed before its store was laid out left this mark: only then begin anew.
        if not (path / _UNFINISHED).exists():
            group = _open(path)
            if group.attrs["fingerprint"] != match.attrs["fingerprint"]:
                raise InputError(
                    f"{path} holds the scores of another run (other tomogram, template or "
                    "parameters): give another path, or remove it"
                )
            return group
    elif path.exists() and any(path.iterdir()) and not (path / _UNFINISHED).exists():
        _open(path)  # drops nothing but a store of scores
    return _create(match, path)


def _create(match: xr.Dataset, path: Path) -> zarr.Group:
    path = path.resolve()  # a link stays one
    # Moved aside first: what a kill leaves of the old store is then not in the new one's place.
    aside = path.with_name(f".{path.name}.dropped")
    if aside.exists():
        shutil.rmtree(aside)
    if path.exists() and any(path.iterdir()):
        path.rename(aside)
        shutil.rmtree(aside)
    path.mkdir(parents=True, exist_ok=True)
    mark = path / _UNFINISHED
    mark.touch()
    group = zarr.open_group(path, mode="a", zarr_format=3)
    score = match["score"].data
    chunk = tuple(sizes[0] for sizes in score.chunks)
    for name, dtype in (("score", "float32"), ("rotation", "int32")):
        group.create_array(
            name,
            shape=score.shape,
            chunks=chunk,
            dtype=dtype,
            dimension_names=_DIMS,
            fill_value=0,
            compressors=[BloscCodec(cname="zstd", clevel=1), Crc32cCodec()],
            config={"write_empty_chunks": True},  # so that a missing one is damage, and seen
        )
    quaternion = np.asarray(match["quaternion"], np.float64)
    group.create_array("quaternion", data=quaternion, chunks=quaternion.shape)
    group.create_array(
        "finished", shape=score.numblocks, chunks=(1, 1, 1), dtype="uint8", compressors=None
    )
    group.attrs.update(
        {**match.attrs, "tilt_range": list(match.attrs["tilt_range"]), "format": _FORMAT}
    )
    mark.unlink()
    return group


def _missing_tiles(group: zarr.Group) -> list[tuple[int, ...]]:
    """Places of the tiles that are not marked as finished."""
    finished = group["finished"]
    missing = []
    for tile in np.ndindex(*finished.shape):
        try:
            done = bool(finished[tile])
        except Exception:  # a mark that a crash cut short
            done = False
        if not done:
            missing.append(tile)
    return missing


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
    group = zarr.open_group(path, mode="r+")
    place = tuple(slice(t * c, t * c + n) for t, c, n in zip(tile, chunk, score.shape, strict=True))
    group["score"][place] = score
    group["rotation"][place] = rotation
    group["finished"][tile] = 1
