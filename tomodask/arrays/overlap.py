"""How a volume is cut into overlapping tiles of one shape, for a network.

The plan follows from the shape, the halo and the network alone, never from the chunks of a store
or the number of workers, so that the same numbers come out wherever and however it runs.

Along an axis the first tile begins at the volume's first voxel and the last ends at its end
(rounded up to the network's multiple): no halo is spent outside.  Tiles begin at multiples of the
network's multiple, so that the grids of its poolings coincide in all of them.  Cores have one
length, but for the last, so that a regular grid of chunks holds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

import numpy as np

__all__ = ["OverlapPlan", "OverlapTile", "plan_overlap"]

Triple = tuple[int, int, int]
Slices = tuple[slice, slice, slice]

_MOST_TILES = 64  # along an axis, where the plan chooses


@dataclass(frozen=True)
class OverlapTile:
    """One tile, in voxels of the volume: where it begins, and the core it owns, half-open."""

    start: Triple
    core_start: Triple
    core_stop: Triple

    @property
    def core(self) -> Triple:
        """Edges of the core."""
        a, b = self.core_start, self.core_stop
        return b[0] - a[0], b[1] - a[1], b[2] - a[2]

    @property
    def kept(self) -> Slices:
        """The core within the tile."""
        z, y, x = (
            slice(a - s, b - s)
            for s, a, b in zip(self.start, self.core_start, self.core_stop, strict=True)
        )
        return z, y, x


@dataclass(frozen=True)
class OverlapPlan:
    """All tiles of a volume.

    Attributes
    ----------
    shape : the volume, voxels
    tile : edges of all tiles; may reach beyond the volume's end
    core : edges of a core; the last along an axis may have more or less
    counts : tiles along each axis
    halo : least distance, in voxels, of a core from those faces of its tile that lie inside
    multiple : what a tile's edges and starts are multiples of
    """

    shape: Triple
    tile: Triple
    core: Triple
    counts: Triple
    halo: int
    multiple: int

    @property
    def cores(self) -> tuple[tuple[int, ...], ...]:
        """Edges of the cores along each axis, as a Dask array's chunks."""
        return tuple(
            (*(c,) * (n - 1), s - (n - 1) * c)
            for s, c, n in zip(self.shape, self.core, self.counts, strict=True)
        )

    @property
    def share(self) -> float:
        """Voxels of the volume over voxels that the network computes."""
        return prod(self.shape) / (prod(self.counts) * prod(self.tile))

    def at(self, index: tuple[int, ...]) -> OverlapTile:
        """The tile at a place (z, y, x) in the order of tiles."""
        parts = zip(index, self.shape, self.tile, self.core, self.counts, strict=True)
        ends = [self._axis(*part) for part in parts]
        (z, za, zb), (y, ya, yb), (x, xa, xb) = ends
        return OverlapTile((z, y, x), (za, ya, xa), (zb, yb, xb))

    def _axis(self, i: int, size: int, tile: int, core: int, count: int) -> tuple[int, int, int]:
        last = i == count - 1
        start = _up(size, self.multiple) - tile if last else max(0, i * core - self.halo)
        return start, i * core, size if last else (i + 1) * core


def plan_overlap(
    shape: Triple, *, halo: int, multiple: int, limit: int, tile: int | None = None
) -> OverlapPlan:
    """Cut a volume into tiles so that the network computes the fewest voxels.

    Parameters
    ----------
    shape : (int, int, int)
        The volume, voxels.
    halo : int
        Voxels of a tile next to its inner faces that are thrown away, at least; rounded up to a
        multiple of `multiple`.
    multiple : int
        What edges and starts of tiles must be multiples of.
    limit : int
        Voxels of a tile, at most, where that is possible.
    tile : int, optional
        Edge of a tile, voxels, rounded up to a multiple of `multiple`; the plan chooses edges
        where it is None.

    Raises
    ------
    ValueError
        If `halo` is negative, or `tile` leaves no core.

    Examples
    --------
    >>> plan = plan_overlap((64, 200, 200), halo=8, multiple=8, limit=10**6)
    >>> plan.tile, plan.counts, plan.cores[1]
    ((64, 112, 112), (1, 2, 2), (104, 96))
    >>> plan.at((0, 1, 0)).start, plan.at((0, 1, 0)).kept[1]
    ((0, 88, 0), slice(16, 112, None))
    """
    if halo < 0:
        raise ValueError(f"halo must be at least 0 voxels, got {halo}")
    halo = _up(halo, multiple)
    if tile is not None:
        least = 2 * halo + multiple
        if tile < least and any(tile < size for size in shape):
            raise ValueError(
                f"tile must be at least {least} voxels with a halo of {halo}, got {tile}"
            )
        axes = [[_fixed(size, halo, multiple, _up(tile, multiple))] for size in shape]
    else:
        axes = [_choices(size, halo, multiple) for size in shape]
    edges, cores, counts = zip(*(_columns(choices) for choices in axes), strict=True)
    tiles = _outer(*edges)
    cost = _outer(*(e * n for e, n in zip(edges, counts, strict=True)))
    cost = cost * np.maximum(tiles / limit, 1.0) ** 8  # beyond the limit only where none keeps it
    cost = cost * (1 + 1e-9 * _outer(*counts))  # of equals, the one of fewer tiles
    best = np.unravel_index(int(np.argmin(cost)), cost.shape)
    edge, core, count = (
        _triple([int(column[i]) for column, i in zip(columns, best, strict=True)])
        for columns in (edges, cores, counts)
    )
    return OverlapPlan(_triple(list(shape)), edge, core, count, halo, multiple)


def _fixed(size: int, halo: int, multiple: int, tile: int) -> Triple:
    """(tile, core, count) of one axis for a given tile."""
    whole = _up(size, multiple)
    if tile >= whole:
        return whole, size, 1
    if 2 * (tile - halo) >= whole:  # two tiles have one inner face each
        return tile, tile - halo, 2
    core = tile - 2 * halo
    return tile, core, ceil((whole - halo) / core)


def _choices(size: int, halo: int, multiple: int) -> list[Triple]:
    """(tile, core, count) of one axis for one, two, three … tiles, each with the least tile."""
    whole = _up(size, multiple)
    out = [(whole, size, 1)]
    for count in range(2, _MOST_TILES + 1):
        if count == 2:
            tile = _up(ceil(whole / 2) + halo, multiple)
        else:
            tile = _up(ceil((whole - halo) / count), multiple) + 2 * halo
        if tile >= out[-1][0] or tile - 2 * halo < multiple:
            continue
        out.append(_fixed(size, halo, multiple, tile))
    return out


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _columns(choices: list[Triple]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tile, core, count = np.asarray(choices, np.int64).T
    return tile, core, count


def _outer(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.asarray(z[:, None, None] * y[:, None] * x, np.float64)


def _triple(values: list[int]) -> Triple:
    z, y, x = values
    return z, y, x
