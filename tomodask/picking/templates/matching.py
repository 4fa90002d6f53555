"""Template matching: how well a template fits at each voxel, over all of its orientations.

`match_template` builds the graph; the arithmetic is in `correlation`, the storing of long runs in
`store`, and the way from scores to particles in `picks`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed, delayed
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import matrices_zyx, rotation_grid
from tomodask.arrays.spectrum_slices import Rows, TemplateSpectrum, band_rows, template_spectrum
from tomodask.arrays.tiles import Tile, TilePlan, plan_tiles
from tomodask.arrays.tilt_weights import check_record, record_digest, record_range
from tomodask.data.sources import source_state
from tomodask.errors import InputError
from tomodask.picking.templates.correlation import (
    TileSpectrum,
    best_rotations,
    finish_scores,
    mask_share,
    merge_best,
    prepare_tile,
    row_weights,
    spherical_mask,
)
from tomodask.picking.templates.picks import pick_particles
from tomodask.picking.templates.store import open_scores, save_scores

__all__ = ["match_template", "open_scores", "pick_particles", "save_scores", "template_diameter"]

_TASKS = (
    32  # where a tomogram has fewer tiles, their rotations are shared out to about so many tasks
)
_WEIGHTED = 5  # the record weighs in where finer detail than such a part of the diameter counts
_FEWEST = 64  # rotations in such a task, at least
_MERGED = 4  # results of such tasks that one task merges


@dataclass(frozen=True)
class _Shared:
    """What every task of a match needs."""

    plan: TilePlan
    rows: Rows
    weights: np.ndarray  # of the rows' frequencies, by the record of the tilt series
    spectrum: TemplateSpectrum
    radius: float  # of the mask, voxels
    share: float  # of a turned template's norm that its mask holds


_BLOCK = np.dtype([("score", np.float32), ("rotation", np.int32)])


def match_template(
    tomogram: xr.DataArray,
    template: xr.DataArray,
    *,
    angular_step: float = 15.0,
    rotations: Rotation | None = None,
    tilt_range: tuple[float, float] | None = None,
    diameter: float | None = None,
    resolution: float | None = None,
    invert: bool = False,
    tile: int | None = None,
) -> xr.Dataset:
    """Correlate a tomogram with a template in every orientation.  Builds a graph, computes nothing.

    Constrained, locally normalised cross-correlation [1]_, [2]_: the turned template is compared
    inside what the tilt series measured, and the correlation is divided by the local standard
    deviation of the tomogram under the template's spherical mask.

    Parameters
    ----------
    tomogram : DataArray, shape (z, y, x)
        As from `open_tomogram`; lazy values of any chunks.  ``attrs["voxel_size"]`` in Å.
    template : DataArray, shape (z, y, x)
        A density map of the same voxel size and the **same contrast** as the tomogram; its centre
        is voxel ``size // 2``.  Read at once.
    angular_step : float
        Step of the grid of rotations, degrees (`rotation_grid`).
    rotations : Rotation, optional
        These orientations in place of the grid; `angular_step` then only says how fine they are.
    tilt_range : (float, float), optional
        Least and largest tilt, degrees; tilt axis along y, beam along z.  None takes
        ``tomogram.attrs["tilt_range"]``; (-90, 90) where nothing is missing.  Where the tomogram
        has the record of its tilt series, and detail finer than a fifth of the diameter is
        compared, the template is weighted by what the series left of it, the contrast transfer
        included, unless a range is given here.  At coarser bands weights would stress the very
        detail that the angular step turns away.
    diameter : float, optional
        Diameter of the particle, Å: of the mask in which it is compared.  None measures it on the
        template (`template_diameter`).
    resolution : float, optional
        Finest detail to compare, Å.  None: what the angular step resolves, ``diameter ×
        angular_step`` in radians (Crowther); detail finer than that is turned away by the step
        itself, and without it the same particles are found many times faster; at most
        a third of the diameter.  0: all up to Nyquist's frequency.
    invert : bool
        Take the template's negative: for a template of bright protein (a density map) on a
        tomogram in which protein is dark.
    tile : int, optional
        Edge of the tiles' cores, voxels; chosen by cost where None.  The result depends on it by
        rounding and by what a filter sees beyond the tile; on chunks and workers not at all.

    Returns
    -------
    Dataset
        ``score`` (z, y, x) float32, about −1 to 1, 1 for the template itself; 0 where the
        tomogram is flat.  ``rotation`` (z, y, x) int32: row of ``quaternion`` (orientation, 4;
        SciPy's order, scalar last) that gave it, reference → particle.  attrs ``voxel_size``,
        ``diameter``, ``resolution`` (Å), ``tilt_range``, ``tomogram`` (name), ``fingerprint``.

    Raises
    ------
    InputError
        A tilt range that nobody said, voxel sizes that differ, a template that is larger than the
        tomogram, flat, or not finite, a parameter out of its range; and, from the graph, voxels
        that are not finite.

    References
    ----------
    .. [1] Roseman, Ultramicroscopy 94, 225 (2003).
    .. [2] Förster et al., PNAS 102, 4729 (2005).
    """
    voxel_size = _check_volumes(tomogram, template)
    record = tomogram.attrs.get("tilt_series") if tilt_range is None else None
    if record is not None:
        record = check_record(record, str(tomogram.attrs.get("source") or tomogram.name))
    known = tomogram.attrs.get("tilt_range", record and record_range(record))
    limits = _check_tilt_range(tilt_range if tilt_range is not None else known)
    if not 0 < angular_step <= 180:
        raise InputError(f"angular_step must be above 0 and at most 180°, got {angular_step:g}")
    if tile is not None and tile < 8:
        raise InputError(f"tile must be at least 8 voxels, got {tile}")
    turns = rotation_grid(angular_step) if rotations is None else rotations
    if turns.single:
        turns = Rotation.from_quat(turns.as_quat()[None])
    if len(turns) == 0:
        raise InputError("rotations is empty: give at least one orientation")
    volume = np.asarray(template.values, np.float64) * (-1.0 if invert else 1.0)
    if diameter is None:
        diameter = template_diameter(template)
    box_diameter = voxel_size * min(template.shape)
    if not 2 * voxel_size <= diameter <= box_diameter + voxel_size:
        raise InputError(
            f"diameter must be between 2 voxels ({2 * voxel_size:g} Å) and the template's box "
            f"({box_diameter:g} Å), got {diameter:g} Å"
        )
    if resolution is None:
        resolution = diameter * min(float(np.deg2rad(angular_step)), 1 / 3)
    if resolution < 0 or resolution > diameter:
        raise InputError(
            f"resolution must be between 0 (all) and the diameter ({diameter:g} Å), got "
            f"{resolution:g} Å (a finer angular_step, now {angular_step:g}°, lowers it)"
        )
    resolution = max(float(resolution), 2 * voxel_size)
    if resolution > diameter / _WEIGHTED:
        record = None
    band = voxel_size / resolution
    radius = diameter / voxel_size / 2

    masked = _masked(volume, radius)
    plan = plan_tiles(tomogram.shape, radius=radius + 1, band=band, tile=tile)  # type: ignore[arg-type]
    rows = band_rows(plan.box, band=band, tilt_range=limits)
    if rows.size == 0:
        raise InputError(
            f"tilt_range {limits} and resolution {resolution:g} Å leave no frequency to compare: "
            "widen the range or lower the resolution's value"
        )
    spectrum = template_spectrum(masked, band=band, padding=2.0 if band > 0.25 else 3.0)
    attrs = {
        "voxel_size": voxel_size,
        "diameter": float(diameter),
        "resolution": resolution,
        "tilt_range": limits,
        "tomogram": str(tomogram.name or "tomogram"),
        "source": str(tomogram.attrs.get("source", "")),
    }
    quaternion = turns.as_quat()
    told = attrs if record is None else {**attrs, "tilt_series": record_digest(record)}
    attrs["fingerprint"] = _fingerprint(tomogram, masked, quaternion, plan, told)
    matrices = matrices_zyx(turns)
    # A few rotations, spread over the list: their shares differ by little.
    some = matrices[np.linspace(0, len(matrices) - 1, min(6, len(matrices))).astype(np.intp)]
    seen: dict[str, Any] = {"radius": radius, "voxel_size": voxel_size, "record": record}
    share = mask_share(spectrum, some, band=band, tilt_range=limits, **seen)
    weights = row_weights(rows, **seen)
    shared = _Shared(plan, rows, weights, spectrum, radius, share)
    both = _graph(tomogram, shared, matrices, attrs)
    dims = ("z", "y", "x")
    return xr.Dataset(
        {
            "score": (dims, both["score"]),
            "rotation": (dims, both["rotation"]),
            "quaternion": (("orientation", "quaternion_part"), quaternion),
        },
        coords={d: np.arange(n) * voxel_size for d, n in zip(dims, plan.shape, strict=True)},
        attrs=attrs,
    )


def template_diameter(template: xr.DataArray) -> float:
    """Diameter of the particle in a map, Å: of the ball about the box's centre that holds it.

    The ball holds 99 % of the squared contrast against the map's surroundings (the mean of the
    voxels beyond the largest ball of the box), and a voxel around it.
    """
    volume = np.asarray(template.values, np.float64)
    distance = _distance(volume.shape)
    edge = min(volume.shape)
    beyond = distance >= edge / 2
    power = (volume - volume[beyond].mean()) ** 2
    shell = np.rint(distance).astype(np.intp).ravel()
    within = np.cumsum(np.bincount(shell, power.ravel())[: edge // 2 + 1])
    if not within[-1] > 0:
        return float(edge) * float(template.attrs["voxel_size"])
    radius = int(np.searchsorted(within, 0.99 * within[-1])) + 1
    return float(min(2 * radius + 1, edge)) * float(template.attrs["voxel_size"])


def _distance(shape: Sequence[int]) -> np.ndarray:
    """Distance of each voxel from the centre, ``size // 2``, voxels."""
    z, y, x = np.ogrid[tuple(slice(-(n // 2), n - n // 2) for n in shape)]
    return np.asarray(np.sqrt(z**2 + y**2 + x**2))


def _masked(volume: np.ndarray, radius: float) -> np.ndarray:
    """The template mean-free inside its spherical mask and 0 outside, cut to the mask's box."""
    # A ball is the same in all orientations: the mask is applied once, before the template turns.
    centre = [n // 2 for n in volume.shape]
    reach = int(np.ceil(radius)) + 1
    shape = (2 * reach + 1,) * 3
    cut = np.zeros(shape)
    part = np.zeros(shape)
    here, there = [], []
    for c, n in zip(centre, volume.shape, strict=True):
        low, high = max(0, c - reach), min(n, c + reach + 1)
        here.append(slice(low - c + reach, high - c + reach))
        there.append(slice(low, high))
    cut[tuple(here)] = volume[tuple(there)]
    part[tuple(here)] = 1.0
    mask = np.fft.fftshift(spherical_mask(shape, radius=radius, scale=(1, 1, 1), edge=1.0)) * part
    cut = mask * (cut - (mask * cut).sum() / mask.sum())
    if not np.abs(cut).max() > 1e-6 * np.abs(volume).max():
        raise InputError(
            "template is flat (all zeros, or one value) inside its mask of diameter "
            f"{2 * radius:g} voxels: nothing to match; give a map of the particle"
        )
    return np.asarray(cut)


def _check_volumes(tomogram: xr.DataArray, template: xr.DataArray) -> float:
    """The common voxel size, Å."""
    sizes = []
    for name, volume in (("tomogram", tomogram), ("template", template)):
        if volume.ndim != 3:
            raise InputError(f"{name} must have the axes (z, y, x), got shape {volume.shape}")
        size = volume.attrs.get("voxel_size")
        if size is None or not size > 0:
            raise InputError(
                f"{name} has no voxel size: give it in Å, e.g. open_tomogram(path, voxel_size=10.0)"
            )
        sizes.append(float(size))
    if abs(sizes[0] - sizes[1]) > 0.01 * sizes[0]:
        raise InputError(
            f"the template's voxel size, {sizes[1]:g} Å, is not the tomogram's, {sizes[0]:g} Å: "
            f"resample it, `tomodask convert TEMPLATE RESAMPLED.mrc --resample-to {sizes[0]:g}`, "
            "or add --resample"
        )
    if any(a > b for a, b in zip(template.shape, tomogram.shape, strict=True)):
        raise InputError(
            f"template of {template.shape} voxels (z, y, x) is larger than the tomogram of "
            f"{tomogram.shape}: cut its box to the particle"
        )
    if not np.isfinite(template.values).all():
        raise InputError("template has voxels that are not finite numbers: replace them")
    return sizes[0]


def _check_tilt_range(tilt_range: Sequence[float] | None) -> tuple[float, float]:
    if tilt_range is None:
        raise InputError(
            "the tomogram does not say its tilt range; give it: tilt_range=(-60, 60) or "
            "--tilt-range -60 60 (degrees; -90 90 where nothing is missing)"
        )
    low, high = (float(t) for t in tilt_range)
    if not -90 <= low < high <= 90:
        raise InputError(
            "tilt_range must be the least and the largest tilt, degrees within ±90, got "
            f"({low:g}, {high:g})"
        )
    return low, high


def _fingerprint(
    tomogram: xr.DataArray,
    template: np.ndarray,
    quaternion: np.ndarray,
    plan: TilePlan,
    attrs: dict[str, Any],
) -> str:
    """What a stored result depends on, as a short text."""
    digest = hashlib.sha256()
    for part in (template, quaternion):
        digest.update(np.ascontiguousarray(part, "<f8").tobytes())
    rest = {k: v for k, v in attrs.items() if k != "source"}
    digest.update(repr((source_state(tomogram), plan, sorted(rest.items()))).encode())
    return digest.hexdigest()[:32]


def _graph(
    tomogram: xr.DataArray,
    what: _Shared,
    matrices: np.ndarray,
    attrs: dict[str, Any],
) -> da.Array:
    """The tiles' results as one array of records (score, rotation), a chunk a tile."""
    plan = what.plan
    data = tomogram.data if isinstance(tomogram.data, da.Array) else da.asarray(tomogram.data)
    token = tokenize(data, attrs["fingerprint"])
    shared = delayed(what, name=f"match-plan-{token}", traverse=False)
    tiles = int(np.prod(plan.counts))
    batches = max(1, min(_TASKS // tiles, len(matrices) // _FEWEST))
    # Batches of even length: rotations are paired, and so paired alike in every batch.
    length = 2 * int(np.ceil(len(matrices) / batches / 2))
    matrices = np.asarray(matrices, np.float32)  # as the kernel takes them: half to send
    turns = [
        (first, delayed(matrices[first : first + length], name=f"match-turns-{token}-{first}"))
        for first in range(0, len(matrices), length)
    ]
    blocks = np.empty(plan.counts, object)
    for index in np.ndindex(*plan.counts):
        tile = plan.tile(index)
        part = data[tile.read].rechunk(-1).to_delayed().item()
        key = f"{token}-" + "-".join(map(str, index))
        prepared = delayed(_prepare)(
            part, shared, tile, attrs, dask_key_name=f"match-prepare-{key}"
        )
        results = [
            delayed(_match)(prepared, shared, turn, first, dask_key_name=f"match-{key}-{first}")
            for first, turn in turns
        ]
        # A tree: no worker needs the memory for the results of all batches of a tile.
        level = 0
        while len(results) > 1:
            results = [
                delayed(_merge)(
                    *results[i : i + _MERGED], dask_key_name=f"match-merge-{key}-{level}-{i}"
                )
                for i in range(0, len(results), _MERGED)
            ]
            level += 1
        block: Delayed = delayed(_finish)(
            results[0], prepared, shared, tile, dask_key_name=f"match-finish-{key}"
        )
        blocks[index] = da.from_delayed(block, tile.core, _BLOCK, name=f"match-tile-{key}")
    return da.block(blocks.tolist())


def _prepare(
    data: np.ndarray,
    shared: _Shared,
    tile: Tile,
    attrs: dict[str, Any],
) -> TileSpectrum:
    bad = ~np.isfinite(data)
    if bad.any():
        zyx = np.argwhere(bad)[0] + tile.read_start
        where = ", ".join(f"{v:g}" for v in zyx * attrs["voxel_size"])
        raise InputError(
            f"tomogram {attrs['source'] or attrs['tomogram']} has voxels that are not finite "
            f"numbers, the first at (z, y, x) = ({where}) Å, voxel {tuple(map(int, zyx))}: "
            "replace them, e.g. by the mean"
        )
    return prepare_tile(
        data,
        tile=tile,
        plan=shared.plan,
        rows=shared.rows,
        weights=shared.weights,
        radius=shared.radius,
        share=shared.share,
    )


def _match(
    prepared: TileSpectrum,
    shared: _Shared,
    matrices: np.ndarray,
    first: int,
) -> tuple[np.ndarray, np.ndarray]:
    return best_rotations(
        prepared,
        shared.spectrum,
        matrices,
        rows=shared.rows,
        power=shared.weights**2,
        plan=shared.plan,
        first=first,
    )


def _merge(*results: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return reduce(merge_best, results)


def _finish(
    best: tuple[np.ndarray, np.ndarray],
    prepared: TileSpectrum,
    shared: _Shared,
    tile: Tile,
) -> np.ndarray:
    out = np.empty(tile.core, _BLOCK)
    scores = finish_scores(best, prepared.scale, tile=tile, plan=shared.plan)
    out["score"], out["rotation"] = scores
    return out
