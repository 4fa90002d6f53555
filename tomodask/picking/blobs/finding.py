"""Picking without a model: a difference of Gaussians as wide as the particle [1]_.

The tomogram is visited block by block; what is gathered is a row per hill and a sample of the
filtered voxels.  Each block is binned first, as far as the particle's diameter allows, and direct
convolutions see the same voxels whatever the block: the chunks do not change the result.

.. [1] Voss et al., "DoG Picker and TiltPicker", J. Struct. Biol. 166, 205 (2009),
   doi:10.1016/j.jsb.2009.01.004.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize
from dask.delayed import delayed
from scipy import ndimage
from scipy.stats import norm

from tomodask.cluster import compute
from tomodask.errors import InputError
from tomodask.picking.blobs.kernels import extrema, smoothed
from tomodask.picking.nms.selection import apart

__all__ = ["find_blobs"]

_LARGE = 256**3  # voxels from which progress is shown
_FEWEST = 5  # bins that a diameter has at least: at 5 the narrower Gaussian has a width of 1.2
_LEAST, _MOST = 3, 256  # voxels of a diameter
_REACH = 4.0  # widths at which a Gaussian is cut
_BLOCK = 144  # bins along an edge of a block, about
_SAMPLES = 2e6  # filtered bins that tell the background, about
_LOWEST = 2.0  # standard deviations; hills below it are no candidates
_FALSE = 0.2  # of the picks, by the hills of the negative
_ROUNDING = 1e-6  # of the largest bin: what float32 leaves of a constant


def find_blobs(
    tomogram: xr.DataArray,
    *,
    diameter: float,
    threshold: float | None = None,
    max_particles: int | None = None,
    invert: bool = False,
    ratio: float = 1.2,
    min_distance: float | None = None,
) -> pd.DataFrame:
    """Pick round particles of a known diameter by a difference of Gaussians.  Computes.

    1. Voxels are averaged in bins, as large as leaves 5 to 10 bins in a diameter.
    2. The difference of two Gaussians with mean 0, whose positive part is a ball of `diameter`:
       of all such filters it answers a ball of this diameter most.  The narrower has
       ``σ = diameter / 2k · √((k² − 1) / (6 ln k))``, the wider ``k σ``, with k = `ratio`.
       Beyond the tomogram there is nothing: Gaussians are cut at its faces and normalised.
    3. Hills of the filtered tomogram; a parabola along each axis gives the place between bins.
       Scores are in standard deviations of the filtered tomogram above its median; near a face they
       are divided by how much more white noise the cut filter lets through.
    4. Of hills closer than `min_distance` the higher is kept.

    Without a threshold it is put where fewer than one hill of normal noise is expected above it,
    or lower, where the hills of the tomogram's negative are a fifth as many
    (`docs/algorithms/blobs.md`).

    Parameters
    ----------
    tomogram : DataArray, dims (z, y, x)
        Particles bright, or see `invert`; ``attrs["voxel_size"]`` (Å).
    diameter : float
        Of the particle, Å; 3 to 256 voxels.
    threshold : float, optional
        Least score of a particle.
    max_particles : int, optional
        Keep so many at most, those of the highest scores.
    invert : bool
        Pick in the tomogram's negative: particles are dark.
    ratio : float
        Of the widths of the two Gaussians, above 1 and at most 4.
    min_distance : float, optional
        Å, between particles.  None: half the diameter.

    Returns
    -------
    DataFrame
        ``tomogram``, ``z``, ``y``, ``x`` (Å; the middle of voxel (0, 0, 0) is the origin),
        ``score``, highest score first.  ``attrs["threshold"]`` is the threshold used.

    Raises
    ------
    InputError
        If a parameter is out of its range, the tomogram is no volume or smaller than the particle,
        or has voxels that are not finite.
    """
    width = _checked(tomogram, diameter, threshold, max_particles, ratio, min_distance)
    voxel_size = float(tomogram.attrs["voxel_size"])
    factor = max(1, int(width / _FEWEST))
    bins = _binned(_blocks(tomogram), factor, str(tomogram.attrs.get("source", tomogram.name)))
    narrow = width / factor / 2 / ratio * math.sqrt((ratio**2 - 1) / (6 * math.log(ratio)))
    counts = [_counts(n, factor) for n in tomogram.shape]
    filters = _Filters.of(narrow, ratio * narrow, counts, sign=-1.0 if invert else 1.0)
    rows, samples, largest = _hills(bins, filters)
    # The last bin along an axis may be more than half empty, its middle beyond the tomogram.
    rows[:, :3] = np.minimum(
        rows[:, :3] * factor + (factor - 1) / 2, np.subtract(tomogram.shape, 1)
    )
    middle, deviation = _background(samples)
    if deviation <= _ROUNDING * largest:
        rows = rows[:0]  # a constant tomogram has no hills but those of rounding
    rows[:, 3] = (rows[:, 3] - middle) / (deviation or 1.0)
    distance = width / 2 if min_distance is None else min_distance / voxel_size
    if threshold is None:
        both = (apart(r[(r[:, 3] > _LOWEST) & (r[:, 4] > 0)], distance) for r in (rows, -rows))
        hills, negative = (r[:, 3] for r in both)
        limit = float(norm.isf(1 / max(2.0, tomogram.size / (narrow * factor) ** 3)))
        threshold = min(limit, _lowest(hills, negative))
    rows = apart(rows[(rows[:, 3] > threshold) & (rows[:, 4] > 0)], distance)[:max_particles]
    table = pd.DataFrame({"tomogram": [str(tomogram.name or "")] * len(rows)})
    table[["z", "y", "x"]] = rows[:, :3] * voxel_size
    table["score"] = rows[:, 3]
    table.attrs["threshold"] = float(threshold)
    return table


def _checked(
    tomogram: xr.DataArray,
    diameter: float,
    threshold: float | None,
    max_particles: int | None,
    ratio: float,
    min_distance: float | None,
) -> float:
    """The diameter in voxels."""
    if tomogram.ndim != 3 or "voxel_size" not in tomogram.attrs:
        raise InputError(
            f"tomogram must be a volume (z, y, x) with a voxel size, got dims {tomogram.dims}; "
            "open it with open_tomogram"
        )
    size = float(tomogram.attrs["voxel_size"])
    width = float(diameter) / size
    if not width >= _LEAST:
        raise InputError(
            f"diameter must be at least {_LEAST} voxels ({_LEAST * size:g} Å), got {diameter:g} Å; "
            "take a tomogram of finer voxels"
        )
    if width > _MOST or width > max(tomogram.shape):
        most = min(_MOST, max(tomogram.shape))
        raise InputError(
            f"diameter must be at most {most} voxels ({most * size:g} Å), got {diameter:g} Å; "
            "is it in Å?"
        )
    if max_particles is not None and max_particles < 1:
        raise InputError(f"max_particles must be at least 1, got {max_particles}")
    if threshold is not None and not np.isfinite(threshold):
        raise InputError(f"threshold must be a number, got {threshold}")
    if not 1.01 <= ratio <= 4:
        raise InputError(f"ratio must be 1.01 to 4, got {ratio:g}")
    if min_distance is not None and not min_distance >= 0:
        raise InputError(f"min_distance must be at least 0 Å, got {min_distance}")
    return width


def _blocks(tomogram: xr.DataArray) -> da.Array:
    data = tomogram.data
    return data if isinstance(data, da.Array) else da.from_array(data, chunks=256)


def _binned(data: da.Array, factor: int, source: str) -> da.Array:
    """Sums of voxels over `factor`³, float32; bins begin at voxel 0, the last may hold fewer."""
    edges = []
    for sizes, total in zip(data.chunks, data.shape, strict=True):
        cuts = {int(end) // factor * factor for end in np.cumsum(sizes)[:-1]}
        edges.append([0, *sorted(cuts - {0}), total])
    chunks = tuple(tuple(int(n) for n in np.diff(e)) for e in edges)
    bins: da.Array = data.rechunk(chunks).map_blocks(
        partial(_bin_block, factor=factor, source=source),
        chunks=tuple(tuple(-(-n // factor) for n in sizes) for sizes in chunks),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )
    return bins.rechunk(tuple(_even(n) for n in bins.shape))


def _even(size: int) -> tuple[int, ...]:
    """Blocks of nearly equal size."""
    count = -(-size // _BLOCK)
    ends = [size * (i + 1) // count for i in range(count)]
    return tuple(b - a for a, b in zip([0, *ends], ends, strict=False))


def _bin_block(block: np.ndarray, *, factor: int, source: str) -> np.ndarray:
    """Sums in a fixed order, so that they do not depend on the block."""
    for axis in range(3):
        line = np.moveaxis(block, axis, 0)
        total = line[::factor].astype(np.float32)
        for start in range(1, factor):
            part = line[start::factor]
            total[: len(part)] += part
        total *= np.float32(1 / factor)
        block = np.moveaxis(total, 0, axis)
    if not np.isfinite(block).all():
        raise InputError(
            f"{source}: voxels are NaN, infinite or too large for float32; replace them, e.g. by "
            "the mean"
        )
    return block


def _counts(size: int, factor: int) -> np.ndarray:
    """Share of each bin along an axis that lies in the tomogram."""
    return np.minimum(factor, size - factor * np.arange(-(-size // factor))) / factor


def _gaussian(sigma: float) -> np.ndarray:
    reach = math.ceil(_REACH * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum())


@dataclass(frozen=True)
class _Filters:
    """Two Gaussians that are cut at the tomogram's faces; all along one axis, as all is separable.

    `sums` are what a kernel covers of the tomogram, along each axis for each of both; `noise` is
    what white noise leaves: products along the axes of the three are the variances of both and
    their covariance.
    """

    kernels: tuple[np.ndarray, np.ndarray]
    sums: list[list[np.ndarray]]
    noise: list[list[np.ndarray]]
    inner: float
    sign: float

    @classmethod
    def of(cls, narrow: float, wide: float, counts: list[np.ndarray], *, sign: float) -> _Filters:
        kernels = _gaussian(narrow), _gaussian(wide)
        inset = len(kernels[1]) // 2 - len(kernels[0]) // 2
        both = np.pad(kernels[0], inset) * kernels[1]
        squares = kernels[0] ** 2, kernels[1] ** 2, both

        def seen(count: np.ndarray, kernel: np.ndarray) -> np.ndarray:
            return np.asarray(ndimage.correlate1d(count, kernel, mode="constant"))

        sums = [[seen(count, kernel) for kernel in kernels] for count in counts]
        noise = [
            [
                seen(count, square) / (one[a] * one[b])
                for square, (a, b) in zip(squares, ((0, 0), (1, 1), (0, 1)), strict=True)
            ]
            for count, one in zip(counts, sums, strict=True)
        ]
        whole = [float(square.sum()) ** 3 for square in squares]
        inner = math.sqrt(whole[0] + whole[1] - 2 * whole[2])
        return cls(kernels, sums, noise, inner, sign)

    def noise_at(self, zyx: np.ndarray) -> np.ndarray:
        """Noise at bins, shape (n, 3), in that far from the faces."""
        first, second, both = (
            np.prod([line[i][at] for line, at in zip(self.noise, zyx.T, strict=True)], axis=0)
            for i in range(3)
        )
        return np.asarray(np.sqrt(np.maximum(first + second - 2 * both, 0)) / self.inner)


def _hills(bins: da.Array, filters: _Filters) -> tuple[np.ndarray, np.ndarray, float]:
    """Rows (z, y, x, height, sign) of hills and hollows; every n-th bin; the largest unfiltered."""
    halo = len(filters.kernels[1]) // 2 + 1  # a hill is told by its neighbours
    step = max(1, round((bins.size / _SAMPLES) ** (1 / 3)))
    token = tokenize(bins, filters)
    shared = delayed(filters, name=f"blobs-filters-{token}", traverse=False)
    starts = [np.cumsum((0, *sizes)) for sizes in bins.chunks]
    tasks: list[Any] = []
    for index in itertools.product(*(range(len(sizes)) for sizes in bins.chunks)):
        core = [(int(s[i]), int(s[i + 1])) for s, i in zip(starts, index, strict=True)]
        low = [max(0, a - halo) for a, _ in core]
        around = tuple(slice(lo, b + halo) for lo, (_, b) in zip(low, core, strict=True))
        part = bins[around].rechunk(-1).to_delayed().item()
        name = f"blobs-{token}-" + "-".join(map(str, index))
        tasks.append(
            delayed(_hills_block)(part, shared, core=core, low=low, step=step, dask_key_name=name)
        )
    large = bins.size >= _LARGE / 8
    parts = compute(tasks, label="pick") if large else dask.compute(*tasks)
    rows, samples, largest = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(samples), max(largest)


def _hills_block(
    part: np.ndarray, filters: _Filters, *, core: list[tuple[int, int]], low: list[int], step: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Of one block: `core` are its own bins, `low` is where `part` begins."""
    dog = _filtered(part, filters, low)
    own = tuple(slice(a - lo, b - lo) for (a, b), lo in zip(core, low, strict=True))
    lattice = np.stack(
        np.meshgrid(*(np.arange(a + (-a) % step, b, step) for a, b in core), indexing="ij"), -1
    ).reshape(-1, 3)
    samples = dog[tuple((lattice - low).T)] / filters.noise_at(lattice)
    rows = []
    found = extrema(dog, [o.start for o in own], [o.stop for o in own])
    for sign, at in zip((1.0, -1.0), found, strict=True):
        places = at + low
        score = dog[tuple(at.T)] / filters.noise_at(places)
        rows.append(np.column_stack([places + _vertices(dog, at), score, np.full(len(at), sign)]))
    return np.concatenate(rows), samples[samples != 0], float(np.abs(part).max())


def _filtered(part: np.ndarray, filters: _Filters, low: list[int]) -> np.ndarray:
    """The difference of both Gaussians, each over what it sees of the tomogram."""
    smooth = []
    for i, kernel in enumerate(filters.kernels):
        values = smoothed(part, kernel[len(kernel) // 2 :].astype(np.float32))
        for axis, sums in enumerate(filters.sums):
            share = sums[i][low[axis] : low[axis] + part.shape[axis]]
            shape = [-1 if a == axis else 1 for a in range(3)]
            if not (share == 1).all():
                values *= (1 / share).astype(np.float32).reshape(shape)
        smooth.append(values)
    dog = smooth[0]
    dog -= smooth[1]
    dog *= np.float32(filters.sign)
    return np.asarray(dog)


def _vertices(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """From extremal bins to those of the parabolas through them and their neighbours."""
    shift = np.zeros(at.shape)
    for axis in range(3):
        inner = (at[:, axis] > 0) & (at[:, axis] < values.shape[axis] - 1)
        left, right = at[inner].copy(), at[inner].copy()
        left[:, axis] -= 1
        right[:, axis] += 1
        a, b, c = (values[tuple(p.T)].astype(np.float64) for p in (left, at[inner], right))
        bend = a - 2 * b + c
        bend[bend == 0] = np.inf
        shift[inner, axis] = np.clip(0.5 * (a - c) / bend, -0.5, 0.5)
    return shift


def _background(samples: np.ndarray) -> tuple[float, float]:
    """Median and deviation of the filtered tomogram: most of it is no particle."""
    if not len(samples):
        return 0.0, 0.0
    low, middle, high = np.quantile(samples.astype(np.float64), norm.cdf([-1, 0, 1]))
    return float(middle), float(max(middle - low, high - middle))


def _lowest(hills: np.ndarray, negative: np.ndarray) -> float:
    """The lowest score above which the negative's hills are a fifth of the hills at most."""
    hills, negative = np.sort(hills), np.sort(negative)
    above = len(hills) - np.arange(len(hills))  # at or above each
    false = len(negative) - np.searchsorted(negative, hills)
    fine = np.flatnonzero(false <= _FALSE * above)
    return float(np.nextafter(hills[fine[0]], -np.inf)) if len(fine) else math.inf
