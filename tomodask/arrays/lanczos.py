"""Resample a part of a large volume to another voxel size, the same bits wherever the part lies.

Voxel i of the new grid lies at place ``i × factor`` of the old: the middle of voxel 0 is the origin
of both.  Each axis in turn is a windowed sinc of three lobes (Lanczos); where the new voxels are
larger it is widened by the factor, so that detail finer than they hold is faded out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

import numpy as np

__all__ = ["new_size", "resample_part", "source_range"]

_LOBES = 3


def new_size(size: int, factor: float) -> int:
    """New voxels along an axis: those whose middles lie between the first and the last old one's.

    Examples
    --------
    >>> new_size(100, 2.0), new_size(100, 0.5)
    (50, 199)
    """
    return floor((size - 1) / factor + 1e-6) + 1


def source_range(start: int, stop: int, factor: float, size: int) -> tuple[int, int]:
    """Old voxels, half-open, that new voxels `start` to `stop` (half-open) of an axis need."""
    reach = _LOBES * max(1.0, factor)
    low = ceil(start * factor - reach - 1e-9)
    high = floor((stop - 1) * factor + reach + 1e-9)
    return max(0, low), min(size, high + 1)


def resample_part(
    source: np.ndarray,
    *,
    start: Sequence[int],
    stop: Sequence[int],
    factor: float,
    size: Sequence[int],
) -> np.ndarray:
    """New voxels from those old ones that they need.

    Parameters
    ----------
    source : array, shape (z, y, x)
        Old voxels `source_range` of each axis.
    start, stop : (int, int, int)
        New voxels, half-open.
    factor : float
        New voxel size over the old one.
    size : (int, int, int)
        The whole old volume, voxels; beyond it lies nothing, and weights are of sum one without it.

    Returns
    -------
    array of float32, shape ``stop - start``
        Each voxel is the same sum in the same order whatever part it is worked out in.
    """
    out = np.asarray(source, np.float32)
    for axis in range(3):
        low, high = source_range(start[axis], stop[axis], factor, size[axis])
        if out.shape[axis] != high - low:
            raise ValueError(f"source must have {high - low} voxels on axis {axis}: {out.shape}")
        taps, weights = _taps(start[axis], stop[axis], factor, size[axis])
        form = [1, 1, 1]
        form[axis] = -1
        total: np.ndarray | None = None
        for tap, weight in zip(taps, weights, strict=True):
            # Beyond the volume a weight is 0 and any voxel serves.
            part = out.take(np.clip(tap - low, 0, high - low - 1), axis=axis)
            part *= weight.reshape(form)
            total = part if total is None else np.add(total, part, out=total)
        assert total is not None
        out = total
    return out


def _taps(start: int, stop: int, factor: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Old voxels, and their weights, of each new one: shape (taps, new voxels)."""
    wide = max(1.0, factor)
    place = np.arange(start, stop) * factor
    base = np.floor(place).astype(np.intp)
    reach = ceil(_LOBES * wide)
    taps = base + np.arange(-reach, reach + 2)[:, None]
    t = (taps - place) / wide
    weights = np.where(np.abs(t) < _LOBES, np.sinc(t) * np.sinc(t / _LOBES), 0.0)
    weights[(taps < 0) | (taps >= size)] = 0.0
    return taps, (weights / weights.sum(axis=0)).astype(np.float32)
