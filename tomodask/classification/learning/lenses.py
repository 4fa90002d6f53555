"""The lens that each box was seen by, for views that change the defocus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from tomodask.data.subtomogram_table import tilt_series_of
from tomodask.errors import InputError
from tomodask.nets.boxes.views import Lens, Views

__all__ = ["lenses_for"]

_KNOWN = ("voltage", "spherical_aberration", "amplitude_contrast")


def lenses_for(
    subtomograms: xr.Dataset, rows: np.ndarray, views: Views | None
) -> Callable[[int], Lens | None] | None:
    """What gives the lens of a row; None where views do not change the defocus.

    The defocus is the mean over the tilts and both axes; a box's height above the middle of its
    tomogram, some hundred Å against some ten thousand, is not counted.

    Raises
    ------
    InputError
        If the defocus of a box is not known.
    """
    if views is None or not views.defocus:
        return None
    series = tilt_series_of(subtomograms.attrs, "subtomograms")
    voxel_size = float(subtomograms.attrs["voxel_size"])
    lenses = {name: _lens(record, voxel_size) for name, record in series.items()}
    names = (
        subtomograms["tomogram"].to_numpy().astype(str)
        if "tomogram" in subtomograms.coords
        else np.full(subtomograms.sizes["particle"], "")
    )
    for name in np.unique(names[rows]):
        if lenses.get(str(name)) is None:
            raise InputError(
                f"defocus: that of the boxes of tomogram {str(name)!r} is not known; extract them "
                "from a tomogram with the record of its tilt series, or leave it at 0"
            )
    return lambda row: lenses[str(names[row])]


def _lens(record: dict[str, Any], voxel_size: float) -> Lens | None:
    if not {"defocus_u", "voltage"} <= set(record):
        return None
    along = np.asarray(record["defocus_u"], float)
    across = np.asarray(record.get("defocus_v", along), float)
    told = {name: float(record[name]) for name in _KNOWN if record.get(name) is not None}
    return Lens(voxel_size, float((along + across).mean() / 2), **told)
