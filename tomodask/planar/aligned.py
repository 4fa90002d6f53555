"""Images laid into the frame of their class: what is compared by pixels, embedded and shown."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from tomodask.errors import InputError
from tomodask.planar.class_sums import matrices2d, normalised
from tomodask.planar.transforming import disc, transform

__all__ = ["transform_images"]


def transform_images(
    images: xr.DataArray, poses: pd.DataFrame, *, radius: float | None = None
) -> xr.DataArray:
    """Turn and move each image into its reference's frame, lazily.

    Parameters
    ----------
    images : DataArray, dims (image, y, x)
        Square, with ``attrs["pixel_size"]``.
    poses : DataFrame
        A row an image in their order: ``psi``, ``shift_y``, ``shift_x`` (Å), ``mirror``.
    radius : float, optional
        Of the particle, Å: the mean of what is beyond becomes 0; by default the inscribed disc's.

    Returns
    -------
    DataArray, dims (image, y, x)
        float32, of root mean square 1 before the turn, 0 outside of the inscribed disc.  An image
        without a pose, or one that is constant or not finite, is 0 everywhere.

    Raises
    ------
    InputError
        If images are not square, or there is not one row for each.
    """
    n = images.sizes["x"]
    if images.dims != ("image", "y", "x") or images.sizes["y"] != n:
        raise InputError(f"images must be square, with dims (image, y, x), got {images.shape}")
    if len(poses) != images.sizes["image"]:
        raise InputError(
            f"poses have {len(poses)} rows for {images.sizes['image']} images; give one for each"
        )
    size = float(images.attrs["pixel_size"])
    shifts = poses[["shift_y", "shift_x"]].to_numpy(float) / size
    psi = poses["psi"].to_numpy(float)
    mirror = np.zeros(len(poses), bool)
    if "mirror" in poses:
        mirror = poses["mirror"].fillna(False).to_numpy().astype(bool)
    known = np.isfinite(psi) & np.isfinite(shifts).all(1)
    matrices = matrices2d(np.where(known, psi, 0.0), mirror)
    settings: dict[str, Any] = {"radius": n / 2 - 1 if radius is None else radius / size}
    if not isinstance(images.data, da.Array):
        data: Any = _transform(np.asarray(images.data), matrices, shifts, known, **settings)
        return images.copy(data=data)
    lazy = images.data.rechunk({1: -1, 2: -1})
    rows = lazy.chunks[0]
    others = [
        da.from_array(values, chunks=(rows, *values.shape[1:]))
        for values in (matrices, shifts[:, :, None], known[:, None, None])
    ]
    data = da.map_blocks(
        _transform_blocks, lazy, *others, dtype=np.float32, chunks=lazy.chunks, **settings,
        meta=np.empty((0, 0, 0), np.float32),
    )  # fmt: skip
    return images.copy(data=data)


def _transform_blocks(
    images: np.ndarray,
    matrices: np.ndarray,
    shifts: np.ndarray,
    known: np.ndarray,
    *,
    radius: float,
) -> np.ndarray:
    return _transform(images, matrices, shifts[:, :, 0], known[:, 0, 0], radius=radius)


def _transform(
    images: np.ndarray,
    matrices: np.ndarray,
    shifts: np.ndarray,
    known: np.ndarray,
    *,
    radius: float,
) -> np.ndarray:
    n = images.shape[-1]
    outside = ~disc(n, radius)
    if not outside.any():
        outside = ~disc(n, n / 2 - 1)
    out = np.zeros(images.shape, np.float32)
    for i in np.flatnonzero(known).tolist():
        image, _ = normalised(images[i], outside)
        if image is not None:
            out[i] = transform(image, matrices[i], shifts[i])
    return out
