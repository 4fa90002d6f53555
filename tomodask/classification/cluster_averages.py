"""The average of a cluster, without a reference and without files: a short refinement in memory.

The first map is made of the cluster's own particles, then a few rounds of alignment and averaging
follow, the halves apart (`tomodask.rounds`).  A cluster of a subdivision has some hundred
particles, so that all of it fits where a whole refinement would want its files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.averaging.averages import Average, average_subtomograms
from tomodask.averaging.corrected_fsc import corrected_fsc
from tomodask.averaging.fsc import resolution_at
from tomodask.averaging.map_filters import half_map_weights
from tomodask.data.columns import QUATERNION, SHIFT
from tomodask.data.subtomogram_table import particle_table
from tomodask.errors import InputError
from tomodask.rounds.half_sets import half_sets
from tomodask.rounds.iterations import (
    Finished,
    RefinementPlan,
    Search,
    align_halves,
    best_round,
    next_reference,
    next_search,
    pose_changes,
    start_reference,
)
from tomodask.rounds.start import first_map
from tomodask.rounds.superposition import superpose, with_motion

__all__ = ["ClusterAverage", "average_cluster"]

_DRIFT = 0.05  # of the band: halves that have moved apart by less lie on each other
_LEAST = 8  # particles: a start and two halves


@dataclass(frozen=True)
class ClusterAverage:
    """What became of a cluster.

    Attributes
    ----------
    average : Average
        Of the best round.
    curve : DataFrame
        FSC of its halves under the particle's sphere, corrected (`tomodask.corrected_fsc`).
    resolution : float
        Å, where the curve falls below 0.143; infinite if at once.
    poses : DataFrame
        Of the particles, in the frame of the average.
    rounds : tuple of Finished
        All rounds, the best and those after it.
    """

    average: Average
    curve: pd.DataFrame = field(repr=False)
    resolution: float
    poses: pd.DataFrame = field(repr=False)
    rounds: tuple[Finished, ...] = field(repr=False)


def average_cluster(
    subtomograms: xr.Dataset,
    *,
    diameter: float,
    start_resolution: float = 60.0,
    finest: float | None = None,
    angular_step: float = 20.0,
    iterations: int = 5,
    tilt_range: tuple[float, float] | None = None,
    particles: int = 100,
    seed: int = 0,
    compute: Callable[..., Any],
) -> ClusterAverage:
    """Align and average the particles of a cluster without a reference.  Computes.

    Parameters
    ----------
    subtomograms : Dataset
        The cluster's boxes alone, cubic.
    diameter : float
        Of the soft sphere about the particle, Å.
    start_resolution : float
        Of the first map, Å.
    finest : float, optional
        No round aligns by finer detail, Å; by default two voxels.
    angular_step : float
        Degrees.
    iterations : int
        Rounds at most.
    tilt_range : (float, float), optional
        As of `align_subtomograms`.
    particles : int
        That the first map is made of.
    seed : int
    compute : callable
        ``compute(delayed, label=…)``, e.g. `tomodask.compute`.

    Raises
    ------
    InputError
        If there are fewer than eight particles, or a parameter makes no sense.
    """
    table = particle_table(subtomograms)
    if len(table) < _LEAST:
        raise InputError(
            f"a cluster needs at least {_LEAST} particles to be averaged without a reference, got "
            f"{len(table)}; ask for fewer clusters"
        )
    if isinstance(iterations, bool) or iterations < 1:
        raise InputError(f"iterations must be at least 1, got {iterations}")
    boxes = subtomograms.drop_vars(["image", "half"], errors="ignore")
    voxel_size = float(subtomograms.attrs["voxel_size"])
    plan = RefinementPlan(
        box=int(subtomograms.sizes["x"]),
        voxel_size=voxel_size,
        diameter=diameter,
        start_resolution=max(start_resolution, 2 * voxel_size),
        finest=max(finest or 0.0, 2 * voxel_size),
        angular_step=angular_step,
        symmetry="C1",
        iterations=iterations,
        alignment=(("seed", seed), ("tilt_range", tilt_range)),
    )
    half = half_sets(table, seed=seed)
    begun = first_map(
        boxes,
        resolution=plan.start_resolution,
        diameter=diameter,
        tilt_range=tilt_range,
        particles=particles,
        seed=seed,
        compute=compute,
    )
    first = start_reference(begun.volume, plan)
    references, poses = [first, first], None
    history: list[Finished] = []
    results: list[tuple[Average, pd.DataFrame, pd.DataFrame]] = []
    while (search := next_search(history, plan)) is not None:
        graph = align_halves(boxes, half, references, search, plan, poses=poses)
        found = compute(graph, label=f"cluster, iteration {search.iteration}, align")
        average, found = _averaged(boxes, found, search, plan, tilt_range, compute)
        curve = corrected_fsc(
            average.half_1, average.half_2, voxel_size=voxel_size, diameter=diameter
        )
        history.append(_finished(search, curve, poses, found))
        results.append((average, curve, found))
        weights = half_map_weights(curve)
        references = [next_reference(one, weights) for one in (average.half_1, average.half_2)]
        poses = found
    average, curve, poses = results[best_round(history)]
    return ClusterAverage(average, curve, resolution_at(curve, 0.143), poses, tuple(history))


def _averaged(
    boxes: xr.Dataset,
    poses: pd.DataFrame,
    search: Search,
    plan: RefinementPlan,
    tilt_range: tuple[float, float] | None,
    compute: Callable[..., Any],
) -> tuple[Average, pd.DataFrame]:
    """The average, and the poses; where half 2 has drifted, it is brought back to half 1 first."""
    label = f"cluster, iteration {search.iteration}, average"
    rows = poses.drop(columns="image", errors="ignore")
    average: Average = compute(
        average_subtomograms(boxes, poses=rows, tilt_range=tilt_range), label=label
    )
    motion = superpose(
        average.half_1,
        average.half_2,
        voxel_size=plan.voxel_size,
        resolution=search.resolution,
        diameter=plan.diameter,
    )
    way = motion.length + np.deg2rad(motion.angle) * plan.diameter / 2
    if way <= _DRIFT * search.resolution:
        return average, rows
    names, second = [*QUATERNION, *SHIFT], (rows["half"] == 2).to_numpy()
    values = rows[names].to_numpy(float).copy()
    values[second] = with_motion(rows[second], motion)[names].to_numpy(float)
    rows = rows.assign(**dict(zip(names, values.T, strict=True)))
    average = compute(average_subtomograms(boxes, poses=rows, tilt_range=tilt_range), label=label)
    return average, rows


def _finished(
    search: Search, curve: pd.DataFrame, before: pd.DataFrame | None, after: pd.DataFrame
) -> Finished:
    turned = moved = settled = float("nan")
    if before is not None:
        angle, way = pose_changes(before, after)
        known = ~np.isnan(angle)
        turned, moved = float(np.median(angle[known])), float(np.median(way[known]))
        settled = float(np.mean(angle[known] < search.angular_step / 2))
    return Finished(
        search=search,
        resolution_143=resolution_at(curve, 0.143),
        resolution_5=resolution_at(curve, 0.5),
        turned=turned,
        moved=moved,
        settled=settled,
        reassigned=float("nan"),
        score=float(after["score"].mean()),
    )
