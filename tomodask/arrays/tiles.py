"""How a volume is cut into tiles for correlation: cores, halos and the grids of their transforms.

The plan follows from the shape, what a voxel sees and the band alone, never from the chunks of a
store or the number of workers, so that the same numbers come out wherever and however it runs.

A tile's core begins at index 0 of its box; what lies before the core is at the end of the box,
where the discrete Fourier transform, which is periodic, looks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil, prod

import numpy as np
import scipy.fft

__all__ = ["Tile", "TilePlan", "fill_box", "plan_tiles", "upsample"]

Triple = tuple[int, int, int]

_CROPPED_LIMIT = 3_600_000  # voxels of a grid that is transformed for every rotation: 29 MB
_BOX_LIMIT = 36_000_000  # voxels of a tile as it is read: 144 MB


@dataclass(frozen=True)
class Tile:
    """One tile: the core it owns and the part of the volume it reads, both half-open, in voxels."""

    start: Triple
    stop: Triple
    read_start: Triple
    read_stop: Triple

    @property
    def core(self) -> Triple:
        """Edges of the core, in voxels."""
        return _minus(self.stop, self.start)

    @property
    def read(self) -> tuple[slice, slice, slice]:
        """The part of the volume to read."""
        z, y, x = (slice(a, b) for a, b in zip(self.read_start, self.read_stop, strict=True))
        return z, y, x


@dataclass(frozen=True)
class TilePlan:
    """All tiles of a volume.

    Attributes
    ----------
    shape : the volume, voxels
    core : edges of a tile's core; the last tile along an axis may have less
    box : edges of the volume that is transformed once per tile
    grid : edges of the grid of correlations: `box`, or less where the band is cut
    halo : margin that a tile reads around its core
    """

    shape: Triple
    core: Triple
    box: Triple
    grid: Triple
    halo: Triple

    @property
    def counts(self) -> Triple:
        """Number of tiles along each axis."""
        z, y, x = (ceil(s / c) for s, c in zip(self.shape, self.core, strict=True))
        return z, y, x

    @property
    def scale(self) -> tuple[float, float, float]:
        """Voxels per step of the grid, along each axis."""
        z, y, x = (b / g for b, g in zip(self.box, self.grid, strict=True))
        return z, y, x

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Lengths of the cores along each axis: the chunks of the result."""
        return tuple(
            tuple(min(c, s - i) for i in range(0, s, c))
            for s, c in zip(self.shape, self.core, strict=True)
        )

    def tile(self, index: Triple) -> Tile:
        """The tile at a place (z, y, x) in the order of tiles."""
        start = tuple(i * c for i, c in zip(index, self.core, strict=True))
        stop = tuple(min(a + c, s) for a, c, s in zip(start, self.core, self.shape, strict=True))
        low = tuple(max(0, a - h) for a, h in zip(start, self.halo, strict=True))
        high = tuple(min(s, b + h) for b, h, s in zip(stop, self.halo, self.shape, strict=True))
        return Tile(start, stop, low, high)  # type: ignore[arg-type]


def plan_tiles(
    shape: Triple,
    *,
    radius: float,
    band: float = 0.5,
    oversampling: float = 1.5,
    tile: int | None = None,
) -> TilePlan:
    """Cut a volume into tiles at the least cost of transforms per rotation.

    Parameters
    ----------
    shape : (int, int, int)
        The volume, voxels.
    radius : float
        How far a voxel sees, in voxels: the radius of the template.
    band : float
        Highest frequency that is correlated, cycles per voxel, at most 0.5.
    oversampling : float
        Steps of the grid per shortest half wave, along an axis, where the band is cut.
    tile : int, optional
        Edge of a core, voxels; the plan chooses where it is None.

    Examples
    --------
    >>> plan = plan_tiles((128, 128, 128), radius=16.0)
    >>> plan.counts, plan.box, plan.halo
    ((1, 1, 1), (144, 144, 144), (16, 16, 16))
    >>> plan_tiles((128, 128, 128), radius=16.0, band=0.1).grid
    (49, 49, 49)
    """
    if not 0 < band <= 0.5:
        raise ValueError(f"band must be above 0 and at most 0.5 cycles per voxel, got {band}")
    if tile is not None and tile < 1:
        raise ValueError(f"tile must be at least 1 voxel, got {tile}")
    cut = band * oversampling < 0.5
    # The interpolation back to voxels looks three steps of the grid beyond the core.
    halo = ceil(radius) + (ceil(1.5 / (band * oversampling)) if cut else 0)
    choices = [_axis_choices(s, halo, band * oversampling if cut else None, tile) for s in shape]
    best: tuple[float, list[tuple[int, int, int]]] | None = None
    for combination in product(*choices):
        boxes = prod(c[1] for c in combination)
        grids = prod(c[2] for c in combination)
        over = max(boxes / _BOX_LIMIT, grids / _CROPPED_LIMIT, 1.0)
        tiles = prod(ceil(s / c[0]) for s, c in zip(shape, combination, strict=True))
        cost = tiles * grids * over**8  # a plan over the limits only where none keeps them
        if best is None or cost < best[0]:
            best = cost, list(combination)
    assert best is not None
    cores, boxes_, grids_ = zip(*best[1], strict=True)
    return TilePlan(_triple(shape), _triple(cores), _triple(boxes_), _triple(grids_), (halo,) * 3)


def _axis_choices(
    size: int, halo: int, sampling: float | None, tile: int | None
) -> list[tuple[int, int, int]]:
    """(core, box, grid) of one axis for one, two, three … tiles."""
    out = []
    cores = [min(tile, size)] if tile else sorted({ceil(size / m) for m in range(1, 25)})
    for core in cores:
        # One tile alone has nothing on either side: one margin of zeros serves both its ends.
        need = core + (halo if core == size else 2 * halo)
        box = scipy.fft.next_fast_len(need, real=True)
        grid = box
        if sampling is not None:
            grid = min(box, scipy.fft.next_fast_len(max(8, ceil(2 * sampling * box)), real=False))
        out.append((core, box, grid))
    return out


def fill_box(data: np.ndarray, tile: Tile, box: Triple, *, beyond: float = 0.0) -> np.ndarray:
    """Data of a tile in its box, mean-free; `beyond` where the volume has ended.

    Parameters
    ----------
    data : array, shape ``read_stop - read_start``
    tile : Tile
    box : (int, int, int)

    Returns
    -------
    array of float32, shape `box`; the core begins at index (0, 0, 0)
    """
    mean = np.mean(data, dtype=np.float64)
    out = np.full(box, beyond, np.float32)
    parts = []
    for a, low, high, n in zip(tile.start, tile.read_start, tile.read_stop, box, strict=True):
        before = a - low
        pairs = [(slice(before, high - low), slice(0, high - a))]
        if before:
            pairs.append((slice(0, before), slice(n - before, n)))
        parts.append(pairs)
    for places in product(*parts):
        source, target = zip(*places, strict=True)
        out[target] = data[source] - mean
    return out


def upsample(
    values: np.ndarray, nearest: np.ndarray, *, box: Triple, core: Triple
) -> tuple[np.ndarray, np.ndarray]:
    """Bring values from a periodic, coarser grid of a box to the voxels of the tile's core.

    Lanczos' windowed sinc, six points along each axis, of sum one; at points of the grid it gives
    the grid's values.

    Parameters
    ----------
    values : array of float32, shape (z, y, x)
        Interpolated.
    nearest : array, shape (z, y, x)
        Taken from the nearest point of the grid.
    box, core : (int, int, int)
        Voxels the grid stands for, and how many of them are wanted.
    """
    for axis in range(3):
        n = values.shape[axis]
        place = np.arange(core[axis]) * (n / box[axis])
        base = np.floor(place).astype(np.intp)
        t = place - base
        offsets = range(-2, 4)
        weights = np.stack([np.sinc(t - o) * np.sinc((t - o) / 3) for o in offsets])
        weights = (weights / weights.sum(axis=0)).astype(np.float32)
        form = [1, 1, 1]
        form[axis] = -1
        out: np.ndarray | None = None
        for offset, weight in zip(offsets, weights, strict=True):
            part = values.take((base + offset) % n, axis=axis)
            part *= weight.reshape(form)
            out = part if out is None else np.add(out, part, out=out)
        assert out is not None
        values = out
        nearest = nearest.take(np.floor(place + 0.5).astype(np.intp) % n, axis=axis)
    return values, nearest


def _minus(a: Triple, b: Triple) -> Triple:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _triple(values: tuple[int, ...]) -> Triple:
    z, y, x = values
    return int(z), int(y), int(x)
