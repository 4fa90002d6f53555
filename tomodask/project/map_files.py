"""The files of maps that jobs leave in their folders, alike for each of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from tomodask.data.tomograms import save_tomogram

__all__ = ["map_file", "write_map"]


def map_file(classes: bool, number: int, name: str) -> str:
    """The file of a class's map or curve."""
    return f"class{number}_{name}" if classes else name


def write_map(path: Path, values: np.ndarray, voxel_size: float) -> None:
    """A map as MRC, whole or not at all."""
    volume = xr.DataArray(
        np.asarray(values, np.float32),
        dims=("z", "y", "x"),
        name=path.stem,
        attrs={"voxel_size": voxel_size},
    )
    save_tomogram(volume, path, overwrite=True)
