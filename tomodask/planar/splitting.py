"""A class of two views is divided along the first principal component of its aligned images.

The images that fit a mixed class worst are not those of its second view: both fit it badly.  What
its aligned images differ in most is what the two views differ in.
"""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import scipy.fft
import xarray as xr

from tomodask.arrays.threads import one_thread_each
from tomodask.cluster import compute
from tomodask.planar.aligned import transform_images
from tomodask.planar.transforming import soft_disc

__all__ = ["first_component", "split_class"]


def split_class(
    images: xr.DataArray,
    rows: np.ndarray,
    table: pd.DataFrame,
    *,
    radius: float,
    resolution: float,
) -> np.ndarray:
    """Divide the images of a class in two; computes.

    Parameters
    ----------
    images : DataArray, dims (image, y, x)
        Corrected for the contrast transfer, if that is known.
    rows : array of int
        Of the class, ascending.
    table : DataFrame
        A row each: ``psi``, ``shift_y``, ``shift_x``, ``mirror``.
    radius, resolution : float
        Å; what is compared, and how finely.

    Returns
    -------
    array of bool, shape (rows,)
        True for half of them.
    """
    n, pixel_size = images.sizes["x"], float(images.attrs["pixel_size"])
    edge = min(n, 2 * max(4, int(np.ceil(n * pixel_size / resolution))))
    chosen = transform_images(images.isel(image=rows), table, radius=radius)
    lazy = chosen.data if isinstance(chosen.data, da.Array) else da.from_array(chosen.data)
    window = soft_disc(n, min(radius / pixel_size, n / 2 - 1))
    small = lazy.map_blocks(
        _reduced,
        window=window,
        edge=edge,
        dtype=np.float32,
        chunks=(lazy.chunks[0], (edge,), (edge,)),
        meta=np.empty((0, 0, 0), np.float32),
    )
    values = compute(small, label="divide a class", passing=True).reshape(len(rows), -1)
    along = first_component(values)
    half = np.zeros(len(rows), bool)
    half[np.argsort(along, kind="stable")[: len(rows) // 2]] = True
    return half


def _reduced(images: np.ndarray, *, window: np.ndarray, edge: int) -> np.ndarray:
    """Images under a window, their low frequencies alone, on so many pixels."""
    out = np.empty((len(images), edge, edge), np.float32)
    low = edge // 2
    for i, image in enumerate(images):
        spectrum = scipy.fft.rfft2(image * window)[:, :low]
        kept = np.zeros((edge, edge // 2 + 1), np.complex64)
        kept[:low, :low], kept[edge - low + 1 :, :low] = spectrum[:low], spectrum[1 - low :]
        out[i] = scipy.fft.irfft2(kept, s=(edge, edge))
    return out


def first_component(values: np.ndarray) -> np.ndarray:
    """How far each row lies along the first principal component of all.

    Parameters
    ----------
    values : array, shape (count, size)

    Returns
    -------
    array of float64, shape (count,)
        Its sign is such that the component's largest entry is above 0.
    """
    wide = np.asarray(values, np.float64)
    wide = wide - wide.mean(0)
    with one_thread_each():  # products of several threads have other bits
        _, vectors = np.linalg.eigh(wide.T @ wide)
        first = vectors[:, -1]
        return np.asarray(wide @ first * np.sign(first[np.abs(first).argmax()]))
