"""Positions that are plainly in other units than they are taken for."""

from __future__ import annotations

import logging

import numpy as np
import xarray as xr

__all__ = ["warn_of_voxels"]

_log = logging.getLogger(__name__)


def warn_of_voxels(zyx: np.ndarray, tomogram: xr.DataArray, name: str) -> None:
    """Warn where all particles crowd in the corner that voxels taken for Å would leave them.

    Parameters
    ----------
    zyx : array, shape (particles, 3)
        Positions, voxels of the tomogram.
    tomogram : DataArray, dims (z, y, x)
        ``attrs["voxel_size"]`` in Å.
    name : str
        What the positions are of, for the message.
    """
    size = float(tomogram.attrs["voxel_size"])
    if size >= 2 and len(zyx) and (zyx * size < np.array(tomogram.shape)).all():
        _log.warning(
            "%s: all %d particles lie in the first %.2g %% of tomogram %s along each axis; "
            "positions are in Å: if these are voxels, multiply them by %g",
            *(name, len(zyx), 100 / size, tomogram.name, size),
        )
