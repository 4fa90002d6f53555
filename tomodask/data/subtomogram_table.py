"""Boxes and their particle table as one Dataset, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from tomodask.arrays.tilt_weights import check_record
from tomodask.errors import InputError

__all__ = [
    "BOX_NAMES",
    "TABLE_NAMES",
    "batch_size",
    "particle_table",
    "subtomogram_dataset",
    "tilt_series_of",
]

BOX_NAMES = {"z": "position_z", "y": "position_y", "x": "position_x"}
TABLE_NAMES = {long: short for short, long in BOX_NAMES.items()}
_BATCH_BYTES = 64 << 20


def subtomogram_dataset(
    boxes: da.Array, table: pd.DataFrame, *, voxel_size: float, attrs: Mapping[str, Any]
) -> xr.Dataset:
    """Join boxes with the rows of their table.

    Parameters
    ----------
    boxes : array of float32, shape (particle, z, y, x)
    table : DataFrame
        One row a box, in the same order; its index becomes the coordinate ``particle``.
    voxel_size : float
        Å.
    attrs : mapping
        What else is known of all boxes.
    """
    coords: dict[str, Any] = {"particle": np.asarray(table.index, np.int64)}
    for name in table.columns:
        values = table[name].to_numpy()
        # Text of any kind (object, Arrow, fixed width) becomes plain Python strings.
        if not np.issubdtype(getattr(values, "dtype", object), np.number):
            values = np.array([None if pd.isna(v) else str(v) for v in values], dtype=object)
        coords[BOX_NAMES.get(str(name), str(name))] = ("particle", values)
    return xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), boxes)},
        coords=coords,
        attrs={"voxel_size": float(voxel_size), **attrs},
    )


def batch_size(count: int, box: int) -> int:
    """Particles that a task takes, where nothing else is asked for: 16 to 128.

    The more the more there are.  A partition costs Dask less than 10 ms, an alignment takes 5 to 8
    ms a particle of 64³ voxels (docs/scaling.md):

    * 128 at most, and no more than 64 MB of boxes, 64 of 64³ voxels: a third of a second or more,
      of which Dask is 2 %; so much a worker holds of boxes, and so much is lost when it is killed;
    * a thirty-second of all, so that there are 32 partitions to be shared out, and to go on from;
    * of few, 16 at least: a tenth of a second; Dask may be 8 % of it then, less than what an idle
      worker would cost.

    It follows from the number and edge (voxels) of the boxes alone, so that blocks as they are read
    and partitions of alignment fall together.
    """
    return max(1, min(max(count // 32, 16), 128, _BATCH_BYTES // (4 * box**3)))


def particle_table(subtomograms: xr.Dataset) -> pd.DataFrame:
    """The particle table of subtomograms, one row a box, in the order of the boxes.

    Parameters
    ----------
    subtomograms : Dataset
        As `extract_subtomograms` and `open_subtomograms` make it.

    Returns
    -------
    DataFrame
        The columns of a particle table (see docs/design.md); ``z``, ``y``, ``x`` are the centre of
        the box in Å.  The index, named ``particle``, is the row of the table that was extracted.

    Raises
    ------
    InputError
        If the Dataset is not one of subtomograms.
    """
    if not isinstance(subtomograms, xr.Dataset) or "particle" not in subtomograms.coords:
        raise InputError(
            "subtomograms must be a Dataset from extract_subtomograms or open_subtomograms, "
            f"got {type(subtomograms).__name__}"
        )
    columns = {
        TABLE_NAMES.get(str(name), str(name)): coord.to_numpy()
        for name, coord in subtomograms.coords.items()
        if coord.dims == ("particle",) and name != "particle"
    }
    index = pd.Index(subtomograms["particle"].to_numpy(), name="particle")
    return pd.DataFrame(columns, index=index)


def tilt_series_of(attrs: Mapping[Any, Any], where: str) -> dict[str, dict[str, Any]]:
    """Records of the tilt series that boxes are of: tomogram → record; empty where none is known.

    Parameters
    ----------
    attrs : mapping
        Attributes of subtomograms.
    where : str
        What the message calls them.

    Raises
    ------
    InputError
        If a record is damaged.
    """
    series = attrs.get("tilt_series")
    if series is None:
        return {}
    if not isinstance(series, Mapping):
        raise InputError(
            f"{where}: tilt_series must be a table of tomograms and their records, got "
            f"{type(series).__name__}; extract again, or take it out of the attributes"
        )
    return {
        str(name): check_record(record, f"{where}, tomogram {name}")
        for name, record in series.items()
    }
