"""From scores to particles: MP-NMS on a mask, each centre moved to its peak, a threshold.

The score map is visited block by block; what is gathered is a row per candidate.
"""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize
from dask.delayed import delayed
from scipy.stats import norm

from tomodask.cluster import compute
from tomodask.errors import InputError
from tomodask.picking.nms.centers import find_centers
from tomodask.picking.nms.selection import apart, split_scores

__all__ = ["pick_particles"]

_LARGE = 256**3  # voxels from which progress is shown: below, picking takes a few seconds
_EDGES = np.linspace(-2.0, 2.0, 8001)  # of the histogram of scores
_CANDIDATE = 3.0  # standard deviations above the background from which a voxel may be a particle
_COLUMNS = ["tomogram", "z", "y", "x", "score", "quat_x", "quat_y", "quat_z", "quat_w"]


def pick_particles(
    match: xr.Dataset,
    *,
    diameter: float | None = None,
    threshold: float | None = None,
    max_particles: int | None = None,
) -> pd.DataFrame:
    """Pick particles from the scores of template matching.  Computes.

    1. Mean-pool non-maximum suppression (`find_centers`) on the mask ``score > threshold``.
    2. Each centre moves to the highest score within a quarter of the diameter along each axis,
       twice; a parabola along each axis gives the place between voxels; score and orientation are
       those of the highest voxel.
    3. Of particles closer than half the diameter the one of the higher score is kept.

    Without a threshold, candidates are taken from 3 standard deviations above the background, and
    the threshold is put where fewer than one voxel of background is expected above it, or, where
    the scores of the candidates fall into clearly separate groups, below the highest group; then
    particles are picked with it as if it had been given
    (`docs/algorithms/picking.md` has the rule).

    Parameters
    ----------
    match : Dataset
        From `match_template` or `open_scores`.  Its blocks are computed once with a threshold and
        three times without; store a long match with `save_scores` first.
    diameter : float, optional
        Diameter of the particle, Å.  None takes that of the match.
    threshold : float, optional
        Least score of a particle.
    max_particles : int, optional
        Keep so many at most, those of the highest scores.

    Returns
    -------
    DataFrame
        ``tomogram``, ``z``, ``y``, ``x`` (Å; the middle of voxel (0, 0, 0) is the origin),
        ``score``, ``quat_x`` … ``quat_w`` (reference → particle), highest score first.
        ``attrs["threshold"]`` is the threshold used.

    Raises
    ------
    InputError
        If a parameter is out of its range.
    """
    voxel_size = float(match.attrs["voxel_size"])
    diameter = float(match.attrs["diameter"] if diameter is None else diameter)
    if not diameter >= 2 * voxel_size:
        raise InputError(
            f"diameter must be at least 2 voxels ({2 * voxel_size:g} Å), got {diameter:g} Å"
        )
    if max_particles is not None and max_particles < 1:
        raise InputError(f"max_particles must be at least 1, got {max_particles}")
    if threshold is not None and not np.isfinite(threshold):
        raise InputError(f"threshold must be a number, got {threshold}")
    score = _blocks(match["score"])
    rotation = _blocks(match["rotation"]).rechunk(score.chunks)
    width = diameter / voxel_size
    level = background = threshold
    if level is None:
        level, background = _background(score, float(match.attrs.get("resolution", 0)) / voxel_size)
    rows = _candidates(score, rotation, level=level, width=width)
    rows = apart(rows, width / 2)
    if threshold is None:
        assert background is not None
        threshold = split_scores(rows[:, 3], background)
        # Above the threshold neighbours part that were one blob of the mask at the lower level.
        rows = _candidates(score, rotation, level=threshold, width=width)
        rows = apart(rows, width / 2)
    rows = rows[rows[:, 3] > threshold][:max_particles]
    return _table(rows, match, threshold)


def _table(rows: np.ndarray, match: xr.Dataset, threshold: float) -> pd.DataFrame:
    table = pd.DataFrame({"tomogram": [str(match.attrs.get("tomogram", ""))] * len(rows)})
    table[["z", "y", "x"]] = rows[:, :3] * float(match.attrs["voxel_size"])
    table["score"] = rows[:, 3]
    quaternion = np.asarray(match["quaternion"])[rows[:, 4].astype(np.intp)]
    table[["quat_x", "quat_y", "quat_z", "quat_w"]] = quaternion.reshape(-1, 4)
    table = table[_COLUMNS]
    table.attrs["threshold"] = float(threshold)
    return table


def _blocks(values: xr.DataArray) -> da.Array:
    data = values.data
    return data if isinstance(data, da.Array) else da.from_array(data, chunks=128)


def _background(score: da.Array, resolution: float) -> tuple[float, float]:
    """(level of a candidate, score above which less than one voxel of background is expected).

    Most of a tomogram is no particle: the median and the distance from it to the quantiles of one
    standard deviation on either side are the background's.  Scores of voxels closer than half the
    resolution are not independent.
    """
    token = tokenize(score)
    parts = [
        delayed(_histogram)(block, dask_key_name=f"pick-histogram-{token}-{i}")
        for i, block in enumerate(score.to_delayed().flat)
    ]
    counts = np.sum(_computed(parts, score.size, label="pick, background"), axis=0)
    if counts.sum() == 0:
        return 1.0, 1.0
    share = np.cumsum(counts) / counts.sum()
    low, middle, high = np.interp(norm.cdf([-1, 0, 1]), share, _EDGES[1:])
    deviation = max(middle - low, high - middle)
    independent = max(2.0, counts.sum() / max(1.0, resolution / 2) ** 3)
    return (
        float(middle + _CANDIDATE * deviation),
        float(middle + norm.isf(1 / independent) * deviation),
    )


def _histogram(block: np.ndarray) -> np.ndarray:
    """Counts of the scores; 0 is where nothing was measured.  Whole numbers: any order adds up."""
    return np.histogram(block[block != 0], bins=_EDGES)[0]


def _candidates(score: da.Array, rotation: da.Array, *, level: float, width: float) -> np.ndarray:
    """Rows (z, y, x, score, rotation) of all candidates, voxels."""
    reach = max(1, int(width / 4))
    centers = find_centers(
        score > level,
        diameter=max(3, round(width)),
        min_distance=reach,
        min_height=float(np.finfo(np.float32).tiny),  # the mask is as small as a peak is sharp
    )
    margin = 2 * reach + 1
    token = tokenize(centers, rotation)
    starts = [np.cumsum((0, *sizes[:-1])) for sizes in centers.chunks]
    tasks: list[Any] = []
    for index, block in np.ndenumerate(centers.to_delayed()):
        start = [int(s[i]) for s, i in zip(starts, index, strict=True)]
        stop = [a + sizes[i] for a, sizes, i in zip(start, centers.chunks, index, strict=True)]
        low = [max(0, a - margin) for a in start]
        around = tuple(slice(a, b + margin) for a, b in zip(low, stop, strict=True))
        parts = [x[around].rechunk(-1).to_delayed().item() for x in (score, rotation)]
        name = f"pick-{token}-" + "-".join(map(str, index))
        tasks.append(
            delayed(_peaks_block)(
                block, *parts, start=tuple(start), low=tuple(low), reach=reach, dask_key_name=name
            )
        )
    return np.concatenate(_computed(tasks, score.size, label="pick"))


def _computed(tasks: list[Any], voxels: int, *, label: str) -> list[Any]:
    if voxels < _LARGE:
        return list(dask.compute(*tasks))
    return list(compute(tasks, label=label))


def _peaks_block(
    centers: np.ndarray,
    score: np.ndarray,
    rotation: np.ndarray,
    *,
    start: tuple[int, ...],
    low: tuple[int, ...],
    reach: int,
) -> np.ndarray:
    """Move the centres of one block, which begins at `start`, to the peaks of `score`, at `low`."""
    out = []
    for center in np.argwhere(centers):
        top = center + np.subtract(start, low)
        for _ in range(2):
            corner = np.maximum(top - reach, 0)
            window = score[tuple(slice(a, b + reach + 1) for a, b in zip(corner, top, strict=True))]
            top = np.array(np.unravel_index(window.argmax(), window.shape)) + corner
        at = tuple(top)
        out.append([*(top + low + _vertex(score, at)), score[at], rotation[at]])
    return np.array(out, np.float64).reshape(-1, 5)


def _vertex(score: np.ndarray, top: tuple[int, ...]) -> np.ndarray:
    """From a highest voxel to the top of the parabola through it and its neighbours, per axis."""
    shift = np.zeros(3)
    for axis in range(3):
        if 0 < top[axis] < score.shape[axis] - 1:
            line = score[tuple(slice(t - 1, t + 2) if a == axis else t for a, t in enumerate(top))]
            left, middle, right = line.astype(np.float64)
            bend = left - 2 * middle + right
            if bend < 0:
                shift[axis] = np.clip(0.5 * (left - right) / bend, -0.5, 0.5)
    return shift
