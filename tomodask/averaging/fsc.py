"""Fourier shell correlation, and the resolution read off it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.arrays.fourier import shell_correlation
from tomodask.averaging.half_maps import check_pair, mask_of, masked

__all__ = ["fsc", "resolution_at", "shell_table"]


def fsc(
    a: np.ndarray | xr.DataArray,
    b: np.ndarray | xr.DataArray,
    *,
    voxel_size: float,
    diameter: float | None = None,
    mask: np.ndarray | xr.DataArray | None = None,
) -> pd.DataFrame:
    """Fourier shell correlation of two maps.

    Parameters
    ----------
    a, b : array, shape (n, n, n)
        Two half maps, or a map and the truth.
    voxel_size : float
        Å.
    diameter : float, optional
        Of a soft sphere about the box's centre that both are cut to, Å.  A mask that is tight
        correlates by itself: this one is round and soft.
    mask : array or DataArray, shape (n, n, n), optional
        0 to 1, in place of the sphere; `corrected_fsc` tells what it adds by itself.

    Returns
    -------
    DataFrame
        One row a shell, one Fourier voxel thick: ``frequency`` (1/Å), ``resolution`` (Å, infinite
        in the first row) and ``correlation``; from 0 to Nyquist.

    Raises
    ------
    InputError
        If the maps are not two cubic boxes of one size, or the mask does not fit them.

    Examples
    --------
    >>> volume = np.random.default_rng(0).normal(size=(16, 16, 16))
    >>> curve = fsc(volume, volume, voxel_size=5.0)
    >>> bool(curve["correlation"].round(6).eq(1).all()), float(curve["resolution"].iloc[-1])
    (True, 10.0)
    """
    a, b = check_pair(a, b, voxel_size)
    window = mask_of(len(a), voxel_size, diameter=diameter, mask=mask)
    correlation = shell_correlation(masked(a, window), masked(b, window))
    return shell_table(len(a), voxel_size).assign(correlation=correlation)


def shell_table(n: int, voxel_size: float) -> pd.DataFrame:
    """``frequency`` (1/Å) and ``resolution`` (Å) of the shells of a box, 0 to Nyquist."""
    frequency = np.arange(n // 2 + 1) / (n * voxel_size)
    with np.errstate(divide="ignore"):
        return pd.DataFrame({"frequency": frequency, "resolution": 1 / frequency})


def resolution_at(curve: pd.DataFrame, threshold: float = 0.143) -> float:
    """The resolution, in Å, where a curve of `fsc` first falls below `threshold`.

    Linear between shells.  A curve that never falls below gives Nyquist's resolution, one that is
    below from the first shell on gives infinity.  Shells that are NaN are passed over.

    Examples
    --------
    >>> curve = pd.DataFrame({"frequency": [0, 0.01, 0.02], "correlation": [1, 0.8, 0.2]})
    >>> round(resolution_at(curve, 0.5), 2)
    66.67
    """
    known = curve["frequency"].gt(0) & curve["correlation"].notna()
    frequency = curve["frequency"][known].to_numpy(float)
    correlation = curve["correlation"][known].to_numpy(float)
    below = np.flatnonzero(correlation < threshold)
    if not len(frequency):
        return float("inf")
    if not len(below):
        return float(1 / frequency[-1])
    i = int(below[0])
    if i == 0:
        return float("inf")
    high, low = correlation[i - 1], correlation[i]
    share = (high - threshold) / (high - low)
    return float(1 / (frequency[i - 1] + share * (frequency[i] - frequency[i - 1])))
