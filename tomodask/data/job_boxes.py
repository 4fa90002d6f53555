"""Subtomograms of a job: opened, their particles numbered, and told apart from others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize

from tomodask.arrays.tilt_weights import record_digest
from tomodask.data.columns import TILT_RANGE
from tomodask.data.sources import file_state
from tomodask.data.subtomogram_table import particle_table, tilt_series_of
from tomodask.data.subtomograms import open_subtomograms

__all__ = [
    "LATER",
    "boxes_state",
    "job_boxes",
    "lasting_images",
    "table_state",
    "tilts_state",
]

#: Parameters of a job that earlier versions did not note: `table_state` and `tilts_state`.
LATER = ("particle_table", "tilts")
_OF_BEFORE = ("score", "class", "kind", "reason")


def job_boxes(
    subtomograms: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | xr.Dataset,
    *,
    voxel_size: float | None = None,
    tilt_range: tuple[float, float] | None = None,
    keep: Sequence[str] = (),
) -> tuple[xr.Dataset, str]:
    """The boxes, with particle numbers that are unique, and what they are called.

    Parameters
    ----------
    subtomograms : path, list of paths or Dataset
        What `open_subtomograms` takes or gives.
    voxel_size : float, optional
        Å; in place of what is stored.
    tilt_range : (float, float), optional
        Degrees; in place of what files say.
    keep : sequence of str
        Of scores and classes, those that are wanted.

    Returns
    -------
    boxes : Dataset
        Without scores and classes of an earlier alignment, which would be taken for the job's.
    source : str
        Path, or ``in memory``.

    Raises
    ------
    InputError
        If they are no subtomograms.
    """
    if isinstance(subtomograms, xr.Dataset):
        boxes = subtomograms
        if voxel_size is not None:
            boxes = boxes.assign_attrs(voxel_size=float(voxel_size))
        source = str(boxes.attrs.get("store") or boxes.attrs.get("source") or "in memory")
    else:
        boxes = open_subtomograms(subtomograms, voxel_size=voxel_size, tilt_range=tilt_range)
        source = str(boxes.attrs.get("store") or boxes.attrs.get("source") or subtomograms)
    particle_table(boxes)  # refuses what is no Dataset of subtomograms
    boxes = boxes.drop_vars([name for name in _OF_BEFORE if name not in keep], errors="ignore")
    if not pd.Index(boxes["particle"].to_numpy()).is_unique:
        boxes = boxes.assign_coords(particle=np.arange(boxes.sizes["particle"]))
    return boxes, source


def lasting_images(table: pd.DataFrame, boxes: xr.Dataset) -> pd.DataFrame:
    """The table with names of the boxes that hold wherever the table is put.

    Files that lie beside the boxes' STAR, or in the working directory, are named in full.
    """
    if "image" not in table:
        return table
    images = table["image"].astype(str)
    store, source = boxes.attrs.get("store"), boxes.attrs.get("source")
    if store is not None:
        numbers = images.str.rpartition("@")[0]
        return table.assign(image=[f"{one}@{store}" for one in numbers])
    beside = Path(source).parent if source and str(source).endswith(".star") else Path()
    known: dict[str, str] = {}
    names = []
    for image in images:
        number, at, file = image.rpartition("@")
        if file not in known:
            found = next((f for f in (beside / file, Path(file)) if f.exists()), Path(file))
            known[file] = str(found.absolute()) if found.exists() else file
        names.append(f"{number}{at}{known[file]}")
    return table.assign(image=names)


def boxes_state(boxes: xr.Dataset, source: str) -> str:
    """Tell boxes from others: by the states of their files, or by their content."""
    data = boxes["subtomogram"].data
    name = data.name if isinstance(data, da.Array) else tokenize(np.asarray(data))
    path = Path(source)
    state = file_state(path) if source != "in memory" and path.is_file() else ""
    return f"{path.name}: {tokenize(name, state, boxes['particle'].to_numpy())[:16]}"


def table_state(boxes: xr.Dataset) -> str:
    """Tell what is known of the boxes beside their voxels: where they lie, how they are turned ….

    The states of files tell it, too, but of boxes in memory, or that were changed after they were
    opened, nothing else does.  Without scores and classes of before, names of boxes, which may be
    another way to the same file, and tilts (`tilts_state`).
    """
    table = particle_table(boxes)
    return _digest(table.drop(columns=["image", *_OF_BEFORE, *TILT_RANGE], errors="ignore"))


def tilts_state(boxes: xr.Dataset) -> str:
    """Tell what was measured of the boxes: their tilts, or the records of their tilt series."""
    table = particle_table(boxes)
    there = [name for name in TILT_RANGE if name in table]
    tilts = [table[there[0]].min(), table[there[-1]].max()] if there else []
    records = tilt_series_of(boxes.attrs, "subtomograms")
    series = "".join(f"{name}{record_digest(records[name])}" for name in sorted(records))
    told = hashlib.sha256((_digest(table[there]) + series).encode()).hexdigest()[:16]
    return f"{' to '.join(f'{one:g}' for one in tilts)} ({told})".lstrip()


def _digest(table: pd.DataFrame) -> str:
    """Of the columns' names and values, whatever their order and type."""
    text = hashlib.sha256()
    for name in sorted(map(str, table.columns)):
        column = table[name]
        if pd.api.types.is_numeric_dtype(column):
            values = column.to_numpy(float)
        else:
            values = column.astype(str).to_numpy(object)
        text.update(name.encode())
        text.update(pd.util.hash_array(values).tobytes())
    return text.hexdigest()[:16]
