"""A tomogram as a network sees it: parts, resampled on the fly, with mean and spread.

No part depends on how the tomogram is cut into chunks, nor on where other parts lie, to the bit.
"""

from __future__ import annotations

from itertools import product
from math import ceil
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed, delayed
from dask.graph_manipulation import clone

from tomodask.arrays.lanczos import new_size, resample_part, source_range
from tomodask.data.statistics import Statistics
from tomodask.errors import InputError

__all__ = ["TomogramParts"]

_SAME = 0.01  # voxel sizes that differ by less are taken for one
_MOST = 8.0  # factor of resampling
_LATTICE = 128  # voxels, edge of the blocks of the statistics and of what is resampled at once


class TomogramParts:
    """Parts of a tomogram at a wanted voxel size, as delayed arrays.

    Parameters
    ----------
    tomogram : DataArray, dims (z, y, x)
        Lazy or not; ``attrs["voxel_size"]`` in Å.
    voxel_size : float
        Wanted, Å.  Within 1 % of the tomogram's, its voxels are taken as they are.

    Attributes
    ----------
    name : str
        What messages call the tomogram.
    shape : (int, int, int)
        Voxels at the wanted size.
    voxel_size : float
        Of the parts, Å.

    Raises
    ------
    InputError
        If it has other axes, no voxels, or no voxel size, or one more than 8 times larger or
        smaller than wanted.
    """

    def __init__(self, tomogram: xr.DataArray, voxel_size: float) -> None:
        if tomogram.ndim != 3 or 0 in tomogram.shape:
            raise InputError(f"tomogram must have the axes (z, y, x), got shape {tomogram.shape}")
        self.name = str(tomogram.attrs.get("source") or tomogram.name or "tomogram")
        if tomogram.dtype.kind not in "iuf":
            raise InputError(f"{self.name}: voxels must be real numbers, got {tomogram.dtype}")
        own = tomogram.attrs.get("voxel_size")
        if own is None or not own > 0:
            raise InputError(
                f"{self.name} has no voxel size: give it in Å, e.g. "
                "open_tomogram(path, voxel_size=10.0) or --voxel-size 10"
            )
        factor = voxel_size / float(own)
        if not 1 / _MOST <= factor <= _MOST:
            raise InputError(
                f"the voxel size of {self.name}, {own:g} Å, must be within a factor of {_MOST:g} "
                f"of the model's, {voxel_size:g} Å; bin the tomogram, or use a model of such voxels"
            )
        self.factor = 1.0 if abs(factor - 1) < _SAME else factor
        self.voxel_size = float(own) if self.factor == 1 else float(voxel_size)
        data = tomogram.data
        self.data = data if isinstance(data, da.Array) else da.from_array(data, chunks=_LATTICE)
        z, y, x = (new_size(n, self.factor) for n in self.data.shape)
        self.shape = (z, y, x)
        self.token = tokenize(self.data, self.factor)

    def part(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Delayed:
        """Voxels from `start` to `stop` (half-open, at the wanted voxel size) as one array."""
        return self._part(self.data, start, stop, "part")

    def statistics(self) -> Delayed:
        """`Statistics` of all voxels at the wanted voxel size, gathered in an order of its own."""
        # Under other names: Dask would keep every chunk that it has read for them until a tile far
        # away needs it too.
        data = clone(self.data, seed=self.token)
        measure = delayed(Statistics.of_block)
        parts = []
        for corner in product(*(range(0, n, _LATTICE) for n in self.shape)):
            stop = tuple(min(a + _LATTICE, n) for a, n in zip(corner, self.shape, strict=True))
            key = f"statistics-{self.token}-" + "-".join(map(str, corner))
            part = self._part(data, corner, stop, "measured")
            parts.append(measure(part, corner, dask_key_name=key))
        return delayed(Statistics.of_all)(parts, dask_key_name=f"statistics-{self.token}")

    def _part(
        self, data: da.Array, start: tuple[int, ...], stop: tuple[int, ...], label: str
    ) -> Delayed:
        if self.factor == 1:
            return _whole(data[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))])
        # In pieces: where voxels get larger, a tile stands for many more of the tomogram's.
        edge = max(16, int(_LATTICE / max(1.0, self.factor)))
        counts = [ceil((b - a) / edge) for a, b in zip(start, stop, strict=True)]
        pieces = np.empty(counts, object)
        for index in np.ndindex(*counts):
            low, high = zip(
                *(
                    (a + (b - a) * i // n, a + (b - a) * (i + 1) // n)
                    for a, b, i, n in zip(start, stop, index, counts, strict=True)
                ),
                strict=True,
            )
            pieces[index] = self._resampled(data, low, high, label)
        key = f"{label}-{tokenize(self.token, start, stop)}"
        return delayed(np.block)(pieces.tolist(), dask_key_name=f"assemble-{key}")

    def _resampled(
        self, data: da.Array, start: tuple[int, ...], stop: tuple[int, ...], label: str
    ) -> Delayed:
        ranges = [
            source_range(a, b, self.factor, n)
            for a, b, n in zip(start, stop, data.shape, strict=True)
        ]
        source = _whole(data[tuple(slice(a, b) for a, b in ranges)])
        key = f"resample-{label}-{tokenize(self.token, start, stop)}"
        corner = tuple(a for a, _ in ranges)
        place: dict[str, Any] = {"start": start, "stop": stop, "size": data.shape}
        return delayed(_resample)(source, corner, self.name, self.factor, place, dask_key_name=key)


def _whole(part: da.Array) -> Delayed:
    one: Delayed = part.rechunk(-1).to_delayed().item()
    return one


def _resample(
    source: np.ndarray,
    corner: tuple[int, ...],
    name: str,
    factor: float,
    place: dict[str, Any],
) -> np.ndarray:
    if not np.isfinite(source).all():
        Statistics.of_block(source, corner).require_finite(name)
    return resample_part(source, factor=factor, **place)
