"""Boxes that a training is given: opened, measured, and those that hold nothing set aside."""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from tomodask.alignment.checks import FAULTS, box_fault
from tomodask.cluster import compute
from tomodask.data.subtomograms import box_readers, chosen_boxes, open_subtomograms, particle_table
from tomodask.errors import InputError

__all__ = ["cubic_edge", "looked_at", "opened", "told_of_boxes"]

_log = logging.getLogger(__name__)
_NAMED = 5
_SUM_BITS = 32


def opened(subtomograms: xr.Dataset | str | os.PathLike[str]) -> xr.Dataset:
    """Boxes as they are given, or of a path."""
    if isinstance(subtomograms, str | os.PathLike):
        return open_subtomograms(subtomograms)
    particle_table(subtomograms)  # refuses what is none
    data: Any = subtomograms["subtomogram"].data
    if isinstance(data, da.Array) and box_readers(data) is None:
        _log.info(
            "the boxes are computed anew in every epoch; saved first (save_subtomograms) they are "
            "only read"
        )
    return subtomograms


def cubic_edge(subtomograms: xr.Dataset) -> int:
    """Voxels along the edge of the boxes."""
    shape = subtomograms["subtomogram"].shape[1:]
    if len(set(shape)) != 1:
        raise InputError(
            f"subtomograms must be cubes, got {'×'.join(map(str, shape))} voxels; extract them anew"
        )
    return int(shape[0])


def looked_at(subtomograms: xr.Dataset, rows: np.ndarray) -> tuple[np.ndarray, str]:
    """Which boxes hold neither NaN nor one value only; those that do are named in a warning.

    Reads them all, once.

    Parameters
    ----------
    subtomograms : Dataset
    rows : array of int

    Returns
    -------
    sound : array of bool, one a row
    digest : str
        Of all voxels: it tells, where a training goes on, whether the boxes are still the same.
    """
    seen = _seen(subtomograms, rows)
    faults = seen >> _SUM_BITS
    bad = np.flatnonzero(faults)
    if len(bad):
        table = particle_table(subtomograms)
        names = table["image"].astype(str) if "image" in table else table.index.astype(str)
        named = [f"{np.asarray(names)[rows[i]]} ({FAULTS[faults[i]]})" for i in bad[:_NAMED]]
        _log.warning(
            "%d of %d boxes are set aside: %s%s",
            len(bad),
            len(rows),
            ", ".join(named),
            f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else "",
        )
    return np.asarray(faults == 0), hashlib.sha256(seen.tobytes()).hexdigest()[:32]


def _seen(subtomograms: xr.Dataset, rows: np.ndarray) -> np.ndarray:
    boxes = chosen_boxes(subtomograms, rows)["subtomogram"].data
    if not isinstance(boxes, da.Array):
        return _look(boxes)
    boxes = boxes.rechunk({1: -1, 2: -1, 3: -1})
    found = boxes.map_blocks(_look, drop_axis=[1, 2, 3], dtype=np.int64)
    return np.asarray(compute(found, label="look at the boxes"), np.int64)


def _look(boxes: np.ndarray) -> np.ndarray:
    """The place in `FAULTS` of what is wrong with each box, and in the low bits a sum of voxels."""
    sums = (zlib.crc32(np.ascontiguousarray(box, np.float32).data) for box in boxes)
    return np.array(
        [(box_fault(box) << _SUM_BITS) | one for box, one in zip(boxes, sums, strict=True)],
        np.int64,
    )


def told_of_boxes(subtomograms: xr.Dataset, more: Mapping[str, Any]) -> dict[str, Any]:
    """What a model file tells of the boxes it was trained on."""
    where = subtomograms.attrs.get("store") or subtomograms.attrs.get("source") or ""
    voxel_size = float(subtomograms.attrs["voxel_size"])
    return {"subtomograms": Path(str(where)).name, "voxel_size": voxel_size, **more}
