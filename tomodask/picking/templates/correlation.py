"""Locally normalised correlation of one tile with a turned template, rotation by rotation.

The score of a voxel x and a rotation R is

    S_R(x) = Σ_y f(x + y) t_R(y) / ( ‖t_R‖ · sqrt(N) · σ(x) )

with f the tile and t_R the turned template, both inside the measured wedge and the band, t_R also
weighted by what the tilt series left of each frequency where its record is known, σ(x) the standard
deviation of f under the template's spherical mask around x and N the mask's volume [1]_, [2]_.
σ is the same for every rotation: the kernel keeps the largest Σ f t_R / ‖t_R‖ and divides by σ
once, at the end.

.. [1] Roseman, "Particle finding in electron micrographs using a fast local correlation
   algorithm", Ultramicroscopy 94, 225 (2003).
.. [2] Förster et al., "Retrovirus envelope protein complex structure in situ studied by
   cryo-electron tomography", PNAS 102, 4729 (2005).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import scipy.fft
import scipy.ndimage

from tomodask.arrays.spectrum_slices import Rows, TemplateSpectrum, band_rows, sample_pair, spread
from tomodask.arrays.tiles import Tile, TilePlan, fill_box, upsample
from tomodask.arrays.tilt_weights import weights_at

__all__ = [
    "TileSpectrum",
    "best_rotations",
    "finish_scores",
    "mask_share",
    "merge_best",
    "prepare_tile",
    "row_weights",
]

_EDGE = 1.0  # width of the mask's soft edge, in steps of the grid
_CACHE = 1 << 15  # points of the planes that are transformed together: 256 KB
_FLAT = 1e-6  # a local variance below this share of the tile's mean one is rounding


@dataclass(frozen=True)
class TileSpectrum:
    """What all rotations need of a tile.

    Attributes
    ----------
    data : array of complex64
        The tile's spectrum at the measured frequencies of the band, times their weights.
    scale : array of float32, shape of the plan's grid
        1 / (sqrt(N) σ), and 0 where the tile is flat.
    """

    data: np.ndarray
    scale: np.ndarray


def row_weights(
    rows: Rows, *, radius: float, voxel_size: float, record: Mapping[str, Any] | None
) -> np.ndarray:
    """What the tilt series left of a template at each frequency; 1 where nobody knows.

    Parameters
    ----------
    radius : float
        Of the template's mask, voxels: a tilt's plane is as thick as a box around it sees it.
    voxel_size : float
        Å.
    record : mapping or None
        Of the tilt series, see `tomodask.arrays.tilt_weights`.

    Returns
    -------
    array of float32, shape (rows.size,)
    """
    if record is None or rows.size == 0:
        return np.ones(rows.size, np.float32)
    z0, y0, x0 = int(rows.z.min()), int(rows.y.min()), int(rows.low.min())
    nz, ny, nx = rows.box
    grid = weights_at(
        np.arange(z0, rows.z.max() + 1) / nz,
        np.arange(y0, rows.y.max() + 1) / ny,
        np.arange(x0, rows.high.max()) / nx,
        box=2 * math.ceil(2 * radius),  # the weights are those of a particle half as wide
        voxel_size=voxel_size,
        record=record,
    )
    out = np.empty(rows.size, np.float32)
    for i, (z, y, low, high) in enumerate(zip(rows.z, rows.y, rows.low, rows.high, strict=True)):
        out[rows.start[i] : rows.start[i + 1]] = grid[z - z0, y - y0, low - x0 : high - x0]
    return out


def prepare_tile(
    data: np.ndarray,
    *,
    tile: Tile,
    plan: TilePlan,
    rows: Rows,
    weights: np.ndarray,
    radius: float,
    share: float,
) -> TileSpectrum:
    """Transform a tile once and measure its standard deviation under the mask around each voxel.

    Parameters
    ----------
    data : array, shape of ``tile.read``
    weights : array of float32, shape (rows.size,)
        `row_weights`.
    radius : float
        Radius of the spherical mask, voxels.
    share : float
        `mask_share`, so that the template itself scores 1.
    """
    box = fill_box(data, tile, plan.box)
    flat = _flat(data, tile, plan.box, radius)
    spectrum = scipy.fft.rfftn(box, workers=1, overwrite_x=True)
    shrink = np.float32(np.prod(plan.grid) / np.prod(plan.box))
    values = rows.gather(spectrum) * shrink
    del spectrum, box
    filtered = _filtered(values, rows, plan.grid)
    power = _local_power(filtered, radius=radius, scale=plan.scale)
    seen = power > _FLAT * power.mean()
    scale = np.zeros(plan.grid, np.float32)
    scale[seen] = share / np.sqrt(power[seen])
    if flat is not None:
        index = [
            np.floor(np.arange(g) * (b / g) + 0.5).astype(np.intp) % b
            for g, b in zip(plan.grid, plan.box, strict=True)
        ]
        scale[flat[np.ix_(*index)]] = 0.0
    return TileSpectrum(values * weights, scale)


def best_rotations(
    tile: TileSpectrum,
    template: TemplateSpectrum,
    matrices: np.ndarray,
    *,
    rows: Rows,
    power: np.ndarray,
    plan: TilePlan,
    first: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The largest correlation at each point of the grid over some rotations, and which one it is.

    Parameters
    ----------
    matrices : array, shape (rotations, 3, 3)
        Orientations on (z, y, x) vectors.
    power : array of float32, shape (rows.size,)
        Squares of `row_weights`.
    first : int
        Number of the first of them among all rotations.

    Returns
    -------
    best : array of float32, shape (y, z, x)
        The plan's core, or, where the band is cut, its grid; axes y first.
    rotation : array of int32
        Of equals the lowest number.
    """
    turns = np.ascontiguousarray(matrices, np.float32)
    nz, ny, nx = plan.grid
    kept = _kept(plan)
    shape = kept[1], kept[0], kept[2]  # plane after plane of y
    best = np.full(shape, -np.inf, np.float32)
    rotation = np.full(shape, first, np.int32)
    columns = np.empty((ny, rows.columns), np.complex64)
    planes = np.empty((max(1, _CACHE // (nz * nx)), nz, nx), np.complex64)
    root = np.sqrt(float(np.prod(plan.grid)))
    for i in range(0, len(turns), 2):
        j = min(i + 1, len(turns) - 1)
        columns[...] = 0
        powers = sample_pair(template, rows, turns[i], turns[j], tile.data, power, columns)
        sa, sb = (np.float32(root / np.sqrt(p) if p > 0 else 0.0) for p in powers)
        # Axis by axis: along y only measured lines, along z and x only planes of the core, a few
        # planes at a time, which then stay in the cache until they are compared.
        lines = scipy.fft.ifft(columns, axis=0, workers=1, overwrite_x=True)
        for y in range(0, kept[1], len(planes)):
            some = planes[: min(len(planes), kept[1] - y)]
            spread(lines[y : y + len(some)], rows.runs, some)
            both = scipy.fft.ifft(some, axis=1, workers=1, overwrite_x=True)[:, : kept[0]]
            both = scipy.fft.ifft(both, axis=2, workers=1, overwrite_x=True)
            _keep_best(both, sa, sb, np.int32(first + i), np.int32(first + j), best, rotation, y)
    return best, rotation


def _kept(plan: TilePlan) -> tuple[int, int, int]:
    """How much of the grid is of use: the core, or all of it where it is interpolated."""
    return plan.core if plan.grid == plan.box else plan.grid


def merge_best(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Of two sets of rotations the better at each point; of equals the lower number."""
    better = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
    return np.where(better, b[0], a[0]), np.where(better, b[1], a[1])


def finish_scores(
    best: tuple[np.ndarray, np.ndarray], scale: np.ndarray, *, tile: Tile, plan: TilePlan
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (float32) and rotations (int32) at the voxels of a tile's core."""
    z, y, x = _kept(plan)
    score = best[0].transpose(1, 0, 2) * scale[:z, :y, :x]
    rotation = best[1].transpose(1, 0, 2)
    if plan.grid == plan.box:
        z, y, x = tile.core
        return score[:z, :y, :x], rotation[:z, :y, :x]
    return upsample(score, rotation, box=plan.box, core=tile.core)


def _filtered(values: np.ndarray, rows: Rows, shape: tuple[int, int, int]) -> np.ndarray:
    """The tile inside the wedge and the band, on the grid, float64."""
    nz, ny, nx = shape
    half = np.zeros((nz, ny, nx // 2 + 1), np.complex128)
    for i, (z, y, low, high) in enumerate(zip(rows.z, rows.y, rows.low, rows.high, strict=True)):
        part = values[rows.start[i] : rows.start[i + 1]]
        half[z, y, low:high] = part
        if low == 0:  # the plane x = 0 holds both of a conjugate pair
            half[-z, -y, 0] = np.conj(part[0])
    return np.asarray(scipy.fft.irfftn(half, s=shape, workers=1, overwrite_x=True))


def spherical_mask(
    shape: tuple[int, int, int], *, radius: float, scale: tuple[float, float, float], edge: float
) -> np.ndarray:
    """A ball about index (0, 0, 0) of a periodic grid, with a linear edge.

    Parameters
    ----------
    radius, edge : float
        Where the mask is one half, and the width from 1 to 0, voxels.
    scale : (float, float, float)
        Voxels per step of the grid.
    """
    z, y, x = (
        np.minimum(np.arange(n), n - np.arange(n)) * s for n, s in zip(shape, scale, strict=True)
    )
    distance = np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2)
    return np.clip(0.5 + (radius - distance) / edge, 0.0, 1.0)


def _local_power(
    filtered: np.ndarray, *, radius: float, scale: tuple[float, float, float]
) -> np.ndarray:
    """N σ²: squared deviations from the mean under the mask, summed, around each point."""
    mask = spherical_mask(filtered.shape, radius=radius, scale=scale, edge=_EDGE * max(scale))
    volume = mask.sum()
    spectrum = scipy.fft.rfftn(mask, workers=1)

    def local_sum(x: np.ndarray) -> np.ndarray:
        product = scipy.fft.rfftn(x, workers=1) * spectrum
        return np.asarray(scipy.fft.irfftn(product, s=x.shape, workers=1))

    # N σ² = Σ f² − (Σ f)² / N: in double precision, and f has no mean over the tile.
    power = local_sum(filtered**2) - local_sum(filtered) ** 2 / volume
    return np.asarray(np.maximum(power, 0.0))


def mask_share(
    template: TemplateSpectrum,
    matrices: np.ndarray,
    *,
    radius: float,
    band: float,
    tilt_range: tuple[float, float],
    voxel_size: float,
    record: Mapping[str, Any] | None,
) -> float:
    """Share of a filtered, turned template's norm that lies inside the mask, in the mean.

    The wedge and the band smear a template beyond its mask, where the tomogram's deviation does
    not look: without this share the template itself would score more than 1.
    """
    edge = scipy.fft.next_fast_len(int(np.ceil(4 * radius)) + 4, real=True)
    rows = band_rows((edge,) * 3, band=band, tilt_range=tilt_range)
    weights = row_weights(rows, radius=radius, voxel_size=voxel_size, record=record)
    shares = []
    for turn in np.ascontiguousarray(matrices, np.float32):
        columns = np.zeros((edge, rows.columns), np.complex64)
        grid = np.empty((edge,) * 3, np.complex64)
        sample_pair(template, rows, turn, turn, weights.astype(np.complex64), weights**2, columns)
        spread(columns, rows.runs, grid)
        turned = scipy.fft.ifftn(grid, workers=1).real.astype(np.float64)
        power = _local_power(turned, radius=radius, scale=(1.0, 1.0, 1.0))[0, 0, 0]
        if power > 0:
            shares.append(np.sqrt(power / np.sum(turned**2)))
    return float(np.mean(shares)) if shares else 1.0


def _flat(data: np.ndarray, tile: Tile, box: tuple[int, int, int], radius: float) -> Any:
    """True where all voxels of the cube inside the mask are equal; None where hardly any are.

    Filtering rings into regions without data (masked, or beyond the reconstruction); divided by
    its own small deviation the ringing would score.
    """
    if np.mean(data[..., 1:] == data[..., :-1]) < 1e-3:
        return None
    size = max(3, 2 * int(radius / np.sqrt(3)) + 1)
    # What lies beyond the volume is neither highest nor lowest.
    high = fill_box(data, tile, box, beyond=-np.inf)
    low = fill_box(data, tile, box, beyond=np.inf)
    return scipy.ndimage.maximum_filter(high, size, mode="wrap") <= scipy.ndimage.minimum_filter(
        low, size, mode="wrap"
    )


@numba.njit(cache=True, fastmath=True, nogil=True)
def _keep_best(both, scale_a, scale_b, a, b, best, rotation, first):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Hold two rotations, packed as real and imaginary part of planes, against the best so far."""
    for y in range(both.shape[0]):
        for z in range(both.shape[1]):
            top, number = best[first + y, z], rotation[first + y, z]
            for x in range(top.size):
                one, other = both[y, z, x].real * scale_a, both[y, z, x].imag * scale_b
                better = b if other > one else a
                value = max(one, other)
                number[x] = better if value > top[x] else number[x]
                top[x] = max(top[x], value)
