"""Fourier shell correlation, and the resolution read off it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tomodask.arrays.fourier import shell_correlation
from tomodask.arrays.sampling import soft_sphere
from tomodask.errors import InputError

__all__ = ["fsc", "resolution_at"]


def fsc(
    a: np.ndarray, b: np.ndarray, *, voxel_size: float, diameter: float | None = None
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

    Returns
    -------
    DataFrame
        One row a shell, one Fourier voxel thick: ``frequency`` (1/Å), ``resolution`` (Å, infinite
        in the first row) and ``correlation``; from 0 to Nyquist.

    Raises
    ------
    InputError
        If the maps are not two cubic boxes of one size.

    Examples
    --------
    >>> volume = np.random.default_rng(0).normal(size=(16, 16, 16))
    >>> curve = fsc(volume, volume, voxel_size=5.0)
    >>> bool(curve["correlation"].round(6).eq(1).all()), float(curve["resolution"].iloc[-1])
    (True, 10.0)
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 3 or len(set(a.shape)) != 1:
        raise InputError(
            f"FSC needs two cubic maps of one size, got {a.shape} and {b.shape}; cut or pad one"
        )
    if not voxel_size > 0:
        raise InputError(f"voxel_size must be above 0 Å, got {voxel_size}")
    n = a.shape[0]
    if diameter is not None:
        sphere = soft_sphere(n, diameter / 2 / voxel_size)
        a, b = (a - a.mean()) * sphere, (b - b.mean()) * sphere
    correlation = shell_correlation(a, b)
    frequency = np.arange(len(correlation)) / (n * voxel_size)
    with np.errstate(divide="ignore"):
        resolution = 1 / frequency
    return pd.DataFrame(
        {"frequency": frequency, "resolution": resolution, "correlation": correlation}
    )


def resolution_at(curve: pd.DataFrame, threshold: float = 0.143) -> float:
    """The resolution, in Å, where a curve of `fsc` first falls below `threshold`.

    Linear between shells.  A curve that never falls below gives Nyquist's resolution, one that is
    below from the first shell on gives infinity.

    Examples
    --------
    >>> curve = pd.DataFrame({"frequency": [0, 0.01, 0.02], "correlation": [1, 0.8, 0.2]})
    >>> round(resolution_at(curve, 0.5), 2)
    66.67
    """
    frequency = curve["frequency"].to_numpy(float)[1:]
    correlation = curve["correlation"].to_numpy(float)[1:]
    below = np.flatnonzero(correlation < threshold)
    if not len(below):
        return float(1 / frequency[-1])
    i = int(below[0])
    if i == 0:
        return float("inf")
    high, low = correlation[i - 1], correlation[i]
    share = (high - threshold) / (high - low)
    return float(1 / (frequency[i - 1] + share * (frequency[i] - frequency[i - 1])))
