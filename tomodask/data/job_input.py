"""Tomogram and template of a run: opened, brought to one voxel size, and told apart from others."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import xarray as xr
from dask.base import tokenize

from tomodask.arrays.resampling import fitted
from tomodask.data.resample import resample_map
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
    template: str | os.PathLike[str] | xr.DataArray,
    voxel_size: float,
    resample: bool,
    *,
    edge: int | None = None,
    role: str = "template",
) -> xr.DataArray:
    """A template or reference at the voxel size, and in the box, that the job has; in memory.

    Voxel sizes that differ by 1 % or less count as one.

    Parameters
    ----------
    template : path or DataArray
    voxel_size : float
        Of the tomogram or the subtomograms, Å.
    resample : bool
        Bring the map to `voxel_size` and `edge`; without it, one that differs is refused.
    edge : int, optional
        Of the subtomograms, voxels; a template of a tomogram may have any.
    role : {"template", "reference"}
        What messages call it.

    Raises
    ------
    InputError
    """
    if not isinstance(template, xr.DataArray):
        template = _open_map(Path(template), role)
    theirs = float(template.attrs.get("voxel_size", 0.0))
    where = str(template.attrs.get("source") or template.name or role)
    whose = "tomogram" if edge is None else "subtomograms"
    if not theirs > 0:
        raise InputError(f"{where}: the {role} has no voxel size; set attrs['voxel_size'] in Å")
    other_size = abs(theirs - voxel_size) > _SIZES * voxel_size
    if other_size and not resample:
        raise InputError(
            f"{where}: the {role}'s voxels are {theirs:g} Å, those of the {whose} {voxel_size:g} "
            f"Å; have it resampled (resample_{role}=True, --resample)"
        )
    if edge is not None and template.shape != (edge,) * 3 and not resample:
        raise InputError(
            f"{where}: the {role} has {'×'.join(map(str, template.shape))} voxels, the {whose} "
            f"have {edge}×{edge}×{edge}; have it cut or padded (resample_{role}=True, --resample)"
        )
    if other_size:
        template = resample_map(template, voxel_size=voxel_size)
    values = np.asarray(template.values, np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{where}: the {role} has NaN or infinite voxels; replace them")
    if edge is not None and values.shape != (edge,) * 3:
        values = fitted(values, edge)
    attrs = {"voxel_size": voxel_size, "source": where}
    return xr.DataArray(values, dims=("z", "y", "x"), name=template.name, attrs=attrs)


def _open_map(path: Path, role: str) -> xr.DataArray:
    """A map; its header is mended by converting it: --voxel-size would be the tomogram's."""
    try:
        return open_tomogram(path)
    except InputError as error:
        try:
            open_tomogram(path, voxel_size=1.0)
        except InputError:
            raise error from None
    raise InputError(
        f"{path}: the {role} does not say its voxel size, or not one for all axes; state it by "
        f"`tomodask convert {path} OUT.mrc --voxel-size V` (Å), and take that"
    )


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
