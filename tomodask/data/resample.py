"""Bring a map to another voxel size."""

from __future__ import annotations

import numpy as np
import xarray as xr

from tomodask.arrays.resampling import resampled
from tomodask.errors import InputError

__all__ = ["resample_map"]

_MOST = 2048  # voxels along an edge of the result


def resample_map(volume: xr.DataArray, *, voxel_size: float) -> xr.DataArray:
    """Resample a map, such as a template, by its Fourier series; computes, in memory.

    The centre, voxel ``size // 2``, stays the centre; edges of the result are even.  See
    `tomodask.arrays.resampling.resampled` for what happens to detail that is too fine.

    Parameters
    ----------
    volume : DataArray, dims (z, y, x)
        A map that fits in memory, in a box with a margin.
    voxel_size : float
        Of the result, Å.

    Returns
    -------
    DataArray of float32, dims (z, y, x)

    Raises
    ------
    InputError
        If `voxel_size` is not a positive number, leaves less than 2 voxels along an edge, or more
        than can be held.

    Examples
    --------
    >>> box = xr.DataArray(
    ...     np.ones((8, 8, 8)), dims=("z", "y", "x"), name="box", attrs={"voxel_size": 5.0}
    ... )
    >>> coarse = resample_map(box, voxel_size=10.0)
    >>> coarse.shape, coarse.voxel_size, float(coarse.x[1])
    ((4, 4, 4), 10.0, 10.0)
    """
    if not (np.isfinite(voxel_size) and voxel_size > 0):
        raise InputError(f"voxel_size must be above 0 Å, got {voxel_size}")
    factor = voxel_size / float(volume.attrs["voxel_size"])
    where = str(volume.attrs.get("source") or volume.name or "the map")
    if min(volume.shape) < 2 * factor or max(volume.shape) > _MOST * factor:
        sizes = "×".join(str(int(size / factor)) for size in volume.shape)
        raise InputError(
            f"{where}: at a voxel size of {voxel_size:g} Å it would have {sizes} voxels, not 2 to "
            f"{_MOST} along each edge; choose another voxel size"
        )
    values = np.asarray(volume.values, np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{where}: NaN or infinite voxels cannot be resampled; replace them")
    out = resampled(values, factor)
    return xr.DataArray(
        out,
        dims=("z", "y", "x"),
        coords={
            axis: np.arange(size) * voxel_size
            for axis, size in zip(("z", "y", "x"), out.shape, strict=True)
        },
        name=volume.name,
        attrs={**volume.attrs, "voxel_size": float(voxel_size)},
    )
