"""Pairs of maps, and the masks that they are looked at through."""

from __future__ import annotations

import numpy as np
import xarray as xr

from tomodask.arrays.sampling import soft_sphere
from tomodask.errors import InputError

__all__ = ["check_mask", "check_pair", "mask_of", "masked"]


def check_pair(
    a: np.ndarray | xr.DataArray, b: np.ndarray | xr.DataArray, voxel_size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Two maps in double precision.

    Raises
    ------
    InputError
        If they are not two cubic boxes of one size and finite, or the voxel size is not above 0.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 3 or len(set(a.shape)) != 1:
        raise InputError(
            f"FSC needs two cubic maps of one size, got {a.shape} and {b.shape}; cut or pad one"
        )
    for volume in (a, b):
        if not np.isfinite(volume.sum()):
            raise InputError("maps must hold finite voxels, got NaN or infinity; cut these away")
    if not voxel_size > 0:
        raise InputError(f"voxel_size must be above 0 Å, got {voxel_size}")
    return a, b


def check_mask(mask: np.ndarray | xr.DataArray, box: int, voxel_size: float) -> np.ndarray:
    """A mask for boxes of an edge, as numbers.

    Raises
    ------
    InputError
        If it is of another size or voxel size, not within 0 to 1, or 0 everywhere.
    """
    values = np.asarray(mask, np.float64)
    if values.shape != (box, box, box):
        raise InputError(
            f"mask has {values.shape} voxels, the maps have {(box, box, box)}; cut or pad it about "
            "its centre"
        )
    theirs = getattr(mask, "attrs", {}).get("voxel_size")
    if theirs is not None and abs(float(theirs) - voxel_size) > 0.01 * voxel_size:
        raise InputError(
            f"mask has voxels of {float(theirs):g} Å, the maps {voxel_size:g} Å; resample it: "
            f"tomodask convert MASK OUT.mrc --resample-to {voxel_size:g}"
        )
    if not (np.isfinite(values).all() and values.min() >= -1e-6 and values.max() <= 1 + 1e-6):
        raise InputError(
            f"mask must be within 0 to 1, got {np.nanmin(values):g} to {np.nanmax(values):g}"
        )
    if values.max() <= 0:
        raise InputError("mask is 0 everywhere; give one that is 1 where the particle is")
    return np.clip(values, 0.0, 1.0)


def mask_of(
    box: int,
    voxel_size: float,
    *,
    diameter: float | None = None,
    mask: np.ndarray | xr.DataArray | None = None,
) -> np.ndarray | None:
    """The mask that a diameter or a map stands for; None for neither.

    Parameters
    ----------
    box : int
        Edge, voxels.
    voxel_size : float
        Å.
    diameter : float, optional
        Of a soft sphere about the box's centre, Å; it falls off over three voxels more.
    mask : array or DataArray, shape (box, box, box), optional
        0 to 1.

    Raises
    ------
    InputError
        If both are given, or one is out of range.
    """
    if mask is not None and diameter is not None:
        raise InputError("give a mask or the diameter of a soft sphere, not both")
    if mask is not None:
        return check_mask(mask, box, voxel_size)
    if diameter is None:
        return None
    if not diameter > 0:
        raise InputError(f"diameter must be above 0 Å, got {diameter:g}")
    return np.asarray(soft_sphere(box, diameter / 2 / voxel_size), np.float64)


def masked(volume: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """A map under a mask, its mean taken out before; without a mask the map."""
    return volume if mask is None else np.asarray((volume - volume.mean()) * mask)
