"""The Zarr store of features: written block by block, opened lazily.

::

    features.zarr/
      zarr.json                    attributes: tomodask = "features", version, voxel_size, …
      features/                    float32, (particle, feature), a block of particles a chunk
      fault/                       int8, (particle,)
      particle/, position_z/, …    one array a column, as in a store of subtomograms

Until it is whole it is ``features.zarr.part``, with a folder ``done`` of an empty file for each
block that is there.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import logging
import operator
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from dask._task_spec import GraphNode, List, Task, TaskRef, convert_legacy_graph
from dask.base import tokenize
from dask.delayed import Delayed

from tomodask.classification.features.embedding import aside_told, feature_array
from tomodask.cluster import compute
from tomodask.data.subtomogram_store import read_column, write_column
from tomodask.data.writing import check_target, no_space, put_in_place
from tomodask.errors import InputError

__all__ = ["open_features", "reopened_features", "save_features"]

_log = logging.getLogger(__name__)
_VERSION = 1
_MADE = ("features", "fault")


def save_features(features: xr.Dataset, path: str | Path, *, overwrite: bool = False) -> None:
    """Write features to a Zarr store, block by block.  Computes.

    Until it is whole, the store bears the name ``<path>.part``.  Where that is there already, from
    a call that was stopped or killed, the blocks it holds are kept if they are of the same
    features: of the same boxes, table and model.  Particles without features are named in a
    warning.

    Parameters
    ----------
    features : Dataset
        From `embed_subtomograms`.
    path : str or Path
        The store, a folder, by custom ``….zarr``.
    overwrite : bool
        Whether a store of that name may be replaced; it stays until the new one is whole.

    Raises
    ------
    InputError
        If `features` is something else, `path` exists and may not be replaced, its folder does not
        exist, or the disk is full.
    """
    values = feature_array(features)
    if "fault" not in features or "particle" not in features.coords:
        raise InputError("features must be a Dataset from embed_subtomograms or open_features")
    path = Path(path).absolute()  # for workers, which may be in other folders
    token = _token(features)
    if _unfinished(path) == token:  # killed after all but the last touch
        _finish(path)
        return
    check_target(path, overwrite=overwrite)
    part = path.with_name(path.name + ".part")
    block = max(values.chunks[0])  # chunks and blocks must fall together: two never share a file
    try:
        _begin(features, part, block, token)
        pending = _pending(features, part, block, token)
        if pending is not None:
            compute(pending, label="features")
        put_in_place(part, path)
        _finish(path)
        for former in path.parent.glob(f".{glob.escape(path.name)}.*.old"):  # of one killed in it
            shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        if no_space(error, path) is None:
            raise
        free = shutil.disk_usage(path.parent).free / 1e6
        raise InputError(
            f"{path}: the disk is full (up to {4e-6 * values.size:.0f} MB needed, {free:.0f} MB "
            "free); free some space and call again: it goes on with the blocks that are there"
        ) from None
    if told := aside_told(open_features(path)):
        _log.warning("%s", told)


def _token(features: xr.Dataset) -> str:
    """Tells features from those of other boxes, of another state of them, or of another model."""
    columns = {str(k): v.to_numpy() for k, v in features.coords.items() if v.dims == ("particle",)}
    made = [getattr(features[name].data, "name", features[name].data) for name in _MADE]
    return str(tokenize(made, columns, _plain(features), _VERSION))


def _unfinished(path: Path) -> str | None:
    """The token of a store that was begun and not finished."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(zarr.open_group(path, mode="r").attrs["unfinished"])
    return None


def _finish(path: Path) -> None:
    """Take the marks off: last, so that a kill before it leaves a store to go on with."""
    shutil.rmtree(path / "done", ignore_errors=True)
    group = zarr.open_group(path, mode="r+")
    group.attrs.put({k: v for k, v in group.attrs.asdict().items() if k != "unfinished"})


def _begin(features: xr.Dataset, part: Path, block: int, token: str) -> None:
    """Make the unfinished store, or go on with that of the same features."""
    if _unfinished(part) == token:
        return
    if part.exists():
        shutil.rmtree(part)
    group = zarr.open_group(part, mode="w", zarr_format=3)
    fills = (float(np.finfo(np.float32).min), -1)
    for name, kind, fill in zip(_MADE, ("float32", "int8"), fills, strict=True):
        shape = features[name].shape
        zarr.create_array(
            part,
            name=name,
            shape=shape,
            chunks=(block, *shape[1:]),
            dtype=kind,
            dimension_names=("particle", "feature")[: len(shape)],
            fill_value=fill,  # what no block holds: Zarr leaves such out, and one would be missing
        )
    names = [str(name) for name, one in features.coords.items() if one.dims == ("particle",)]
    for name in names:
        write_column(part, name, features[name].to_numpy())
    (part / "done").mkdir()
    # Last: a store without this attribute was not even begun.
    told = {"tomodask": "features", "version": _VERSION, "columns": names, "unfinished": token}
    group.attrs.update({**_plain(features), **told})


def _pending(features: xr.Dataset, part: Path, block: int, token: str) -> Delayed | None:
    """A task that waits for those that write the blocks that are not there; None if all are.

    One layer for all of them: `dask.delayed` would make one of each, and take minutes over a
    million particles.
    """
    arrays = []
    for name, kind in zip(_MADE, (np.float32, np.int8), strict=True):
        data = features[name].data
        lazy = data if isinstance(data, da.Array) else da.from_array(np.asarray(data), block)
        lazy = lazy.rechunk({axis: -1 if axis else block for axis in range(lazy.ndim)})
        arrays.append(lazy if lazy.dtype == kind else lazy.astype(kind))
    values, fault = arrays
    done = {one.name for one in (part / "done").iterdir()}
    left = [number for number in range(values.numblocks[0]) if str(number) not in done]
    if done:
        _log.info("%s: %d of %d blocks are there already", part, len(done), values.numblocks[0])
    if not left:
        return None
    write, end = f"features-write-{token}", f"features-{token}"
    known = convert_legacy_graph({**values.__dask_graph__(), **fault.__dask_graph__()})
    graph: dict[Any, GraphNode] = {}
    for number in left:
        made = _made_at_once(known, (values.name, number, 0), (fault.name, number))
        graph[write, number] = Task(
            (write, number), _write_block, made, str(part), token, number, block
        )
    graph[end] = Task(end, sum, List(*(TaskRef((write, number)) for number in left)))
    wanted = {key for node in graph.values() for key in node.dependencies} - graph.keys()
    while wanted:
        graph |= {key: known[key] for key in wanted}
        wanted = {key for one in wanted for key in known[one].dependencies} - graph.keys()
    return Delayed(end, graph)


def _made_at_once(known: Mapping[Any, GraphNode], values: Any, fault: Any) -> GraphNode:
    """Features and faults of a block, as an argument of the task that writes them.

    Where both are parts of what one task makes, it is that task itself: then a block has one key,
    and not four that a worker hears of one after the other.
    """
    makers = []
    for place, key in enumerate((values, fault)):
        node = known[key]
        if isinstance(node, Task) and node.func is operator.getitem and node.args[1] == place:
            makers.append(node.args[0])
    if len(makers) == 2 and all(isinstance(one, TaskRef) for one in makers):
        first, second = (one.key for one in makers)
        if first == second:
            return known[first]
    return List(TaskRef(values), TaskRef(fault))


def _write_block(made: Sequence[np.ndarray], part: str, token: str, number: int, block: int) -> int:
    """Write features and faults of a block, and then that they are there."""
    count = len(made[0])
    here = slice(number * block, number * block + count)
    for name, values in zip(_MADE, made, strict=True):
        _unfinished_array(part, name, token)[here] = values
    Path(part, "done", str(number)).touch()
    return count


@functools.lru_cache(maxsize=8)
def _unfinished_array(part: str, name: str, token: str) -> Any:
    """Opened once a process: opening costs as much as writing a block.

    `token` tells stores apart that bear the same name one after the other.
    """
    return zarr.open_array(Path(part, name), mode="r+", config={"write_empty_chunks": True})


def _plain(features: xr.Dataset) -> dict[str, object]:
    return {
        str(k): v.item() if isinstance(v, np.generic) else v
        for k, v in features.attrs.items()
        if isinstance(v, str | int | float | np.generic)
    }


def reopened_features(path: str | Path) -> xr.Dataset:
    """Open a store that a job made, as it was left: by a kill at its very end, too.

    Under its final name a store is whole, but marks of what was unfinished may still be on it.

    Raises
    ------
    InputError
        As of `open_features`.
    """
    if _unfinished(Path(path)) is not None:
        with contextlib.suppress(OSError):  # where nothing may be written, they do no harm
            _finish(Path(path))
    return open_features(path)


def open_features(path: str | Path) -> xr.Dataset:
    """Open a store of features lazily.

    Returns
    -------
    Dataset
        As `embed_subtomograms` makes it.

    Raises
    ------
    InputError
        If there is no such store, or it is damaged or of another version.
    """
    path = Path(path)
    if not path.is_dir():
        if path.with_name(path.name + ".part").is_dir():
            raise InputError(f"{path} is not whole yet; call save_features again, which goes on")
        raise InputError(f"{path} does not exist; make it by save_features")
    try:
        group = zarr.open_group(path, mode="r")
        attrs = dict(group.attrs)
    except (FileNotFoundError, ValueError, OSError) as error:
        raise InputError(f"{path} is not a store of features ({error})") from None
    if attrs.pop("tomodask", None) != "features":
        raise InputError(f"{path} is not a store of features; make one by save_features")
    attrs.pop("unfinished", None)  # under its final name it is whole
    if (version := attrs.pop("version", None)) != _VERSION:
        raise InputError(
            f"{path}: version {version} of the store is not known to this tomodask (it reads "
            f"version {_VERSION}); make the features again, or update tomodask"
        )
    try:
        made = {name: group[name] for name in _MADE}
        for name, array in made.items():
            if array.nchunks_initialized < array.nchunks:
                raise ValueError(f"blocks of {name} are missing")
        columns = {name: read_column(group[name]) for name in attrs.pop("columns")}
        data = {name: da.from_zarr(array, chunks=array.chunks) for name, array in made.items()}
        return xr.Dataset(
            {
                "features": (("particle", "feature"), data["features"]),
                "fault": ("particle", data["fault"]),
            },
            coords={name: ("particle", values) for name, values in columns.items()},
            attrs=attrs,
        )
    except (KeyError, ValueError, OSError, RuntimeError) as error:  # codecs raise the last
        raise InputError(f"{path}: the store is damaged ({error}); make it again") from None
