"""Range, mean and spread of a volume, gathered block by block; and what is not a number in it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import xarray as xr
from dask.delayed import delayed

from tomodask.data.blocks import block_corners, compute_blocks
from tomodask.errors import InputError

_PIECE = 1 << 16  # voxels; what is made in double precision fits into a cache

__all__ = ["Statistics", "check_finite", "volume_statistics"]


@dataclass(frozen=True)
class Statistics:
    """What one block, or a whole volume, holds; ``merge`` is associative.

    `total` is the sum of squared deviations from `mean` (double precision); voxels that are not
    finite are counted in `nonfinite` and left out of the rest; `first` is the (z, y, x) of the
    first of them.
    """

    count: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf
    mean: float = 0.0
    total: float = 0.0
    nonfinite: int = 0
    first: tuple[int, ...] | None = None

    @property
    def std(self) -> float:
        """Standard deviation of the finite voxels."""
        return math.sqrt(self.total / self.count) if self.count else 0.0

    @classmethod
    def of_block(cls, block: np.ndarray, corner: tuple[int, ...] = (0, 0, 0)) -> Statistics:
        """Of one block in memory; `corner` is its place in the volume."""
        flat = np.ascontiguousarray(block).reshape(-1)
        pieces = (
            _of_piece(flat[start : start + _PIECE], start, block.shape, corner)
            for start in range(0, flat.size, _PIECE)
        )
        return cls.of_all(pieces)

    def merge(self, other: Statistics) -> Statistics:
        """Both together (Chan, Golub & LeVeque 1979)."""
        count = self.count + other.count
        places = [place for place in (self.first, other.first) if place is not None]
        step = other.mean - self.mean
        share = other.count / count if count else 0.0
        return Statistics(
            count=count,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            mean=self.mean + step * share,
            total=self.total + other.total + step**2 * self.count * share,
            nonfinite=self.nonfinite + other.nonfinite,
            first=min(places) if places else None,
        )

    @classmethod
    def of_all(cls, parts: Iterable[Statistics]) -> Statistics:
        """Of a volume, from its blocks."""
        return reduce(cls.merge, parts, cls())

    def require_finite(self, name: str) -> None:
        """Raise the error of `check_finite`."""
        if self.nonfinite:
            raise InputError(
                f"{name}: {self.nonfinite} voxels are NaN or infinite, the first at voxel "
                f"(z, y, x) = {self.first}; replace them, e.g. by the mean "
                "(save_tomogram(…, fill=0.0))"
            )


def _of_piece(
    values: np.ndarray, start: int, shape: tuple[int, ...], corner: tuple[int, ...]
) -> Statistics:
    """Of some voxels of a block in C order, the first of which is number `start`."""
    nonfinite, first = 0, None
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        nonfinite = values.size - int(np.count_nonzero(finite))
        if nonfinite:
            at = np.unravel_index(start + int(np.argmin(finite)), shape)
            first = tuple(int(i) + c for i, c in zip(at, corner, strict=True))
            values = values[finite]
    if values.size == 0:
        return Statistics(nonfinite=nonfinite, first=first)
    double = values.astype(np.float64)
    mean = float(double.mean())
    double -= mean  # two passes: no cancellation
    return Statistics(
        count=values.size,
        minimum=float(values.min()),
        maximum=float(values.max()),
        mean=mean,
        total=float(double @ double),
        nonfinite=nonfinite,
        first=first,
    )


def volume_statistics(tomogram: xr.DataArray) -> Statistics:
    """Statistics of a tomogram, block by block.  Computes.

    Parameters
    ----------
    tomogram : DataArray, dims (z, y, x)

    Examples
    --------
    >>> volume = xr.DataArray(np.arange(8.0).reshape(2, 2, 2), dims=("z", "y", "x"))
    >>> volume_statistics(volume).mean
    3.5
    """
    blocks = block_corners(tomogram.data)
    measure = delayed(Statistics.of_block, pure=True)
    return Statistics.of_all(
        compute_blocks(
            [measure(block, corner) for block, corner in blocks],
            label="range",
            nbytes=tomogram.nbytes,
        )
    )


def check_finite(tomogram: xr.DataArray, *, name: str | None = None) -> None:
    """Raise where a tomogram holds NaN or infinite voxels.  Computes, block by block.

    A job that computes on every voxel calls this once before its own graph runs; `save_tomogram`
    finds the same while it writes.

    Parameters
    ----------
    tomogram : DataArray, dims (z, y, x)
    name : str, optional
        How the message calls it; by default its file.

    Raises
    ------
    InputError
        With the number of such voxels and the first position.
    """
    if tomogram.dtype.kind == "f":
        named = name or tomogram.attrs.get("source") or str(tomogram.name or "tomogram")
        volume_statistics(tomogram).require_finite(str(named))
