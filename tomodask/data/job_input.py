"""Tomogram and template of a run: opened, brought to one voxel size, and told apart from others."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import xarray as xr
from dask.base import tokenize

from tomodask.arrays.resampling import resampled
from tomodask.data.sources import file_state, is_of_file
from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError

__all__ = ["job_template", "job_tomogram", "map_digest", "tomogram_state"]

_SIZES = 0.01  # relative: voxel sizes that differ by less are one


def job_tomogram(
    tomogram: str | os.PathLike[str] | xr.DataArray, voxel_size: float | None
) -> tuple[xr.DataArray, bool]:
    """The tomogram, and whether it is what its file holds."""
    if not isinstance(tomogram, xr.DataArray):
        return open_tomogram(tomogram, voxel_size=voxel_size), True
    if voxel_size is not None:
        tomogram = tomogram.assign_attrs(voxel_size=float(voxel_size))
    return tomogram, is_of_file(tomogram)


def job_template(
    template: str | os.PathLike[str] | xr.DataArray, voxel_size: float, resample: bool
) -> xr.DataArray:
    """Return the template at the tomogram's voxel size, in memory."""
    if not isinstance(template, xr.DataArray):
        template = open_tomogram(template)
    theirs = float(template.attrs.get("voxel_size", 0.0))
    where = str(template.attrs.get("source") or template.name or "template")
    if not theirs > 0:
        raise InputError(f"{where}: the template has no voxel size; set attrs['voxel_size'] in Å")
    attrs = {"voxel_size": voxel_size, "source": where}
    values = np.asarray(template.values, np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{where}: the template has NaN or infinite voxels; replace them")
    if abs(theirs - voxel_size) > _SIZES * voxel_size:
        if not resample:
            raise InputError(
                f"{where}: the template's voxels are {theirs:g} Å, the tomogram's {voxel_size:g} "
                "Å; have it resampled (resample_template=True, --resample)"
            )
        values = resampled(values, voxel_size / theirs)
    return xr.DataArray(values, dims=("z", "y", "x"), name=template.name, attrs=attrs)


def tomogram_state(volume: xr.DataArray, source: str | None) -> str:
    """Tell one tomogram from another: by its file's name, size and time, or by its content."""
    if source is not None:
        return f"{Path(source).name}: {file_state(Path(source))}"
    return f"in memory: {tokenize(volume.data)}"


def map_digest(volume: xr.DataArray) -> str:
    """Name and content of a map that is in memory."""
    content = hashlib.sha256(np.ascontiguousarray(volume.values).tobytes())
    content.update(repr((volume.shape, volume.attrs["voxel_size"])).encode())
    return f"{Path(str(volume.attrs['source'])).name}: {content.hexdigest()[:16]}"
