"""Rounds of alignment and averaging: what the next round looks for, and when the last one was.

Nothing here reads or writes a file, and nothing computes: the state of a refinement is its table of
poses, the references of the two halves, and the history of its rounds; `next_search` says from the
history alone what comes next, `align_halves` and `average_subtomograms` are the graphs of a round,
`next_reference` makes of a half map what its half is aligned to in the next.

The two halves never see each other's maps.  What they share is the start, low-passed, and with
each round six numbers: the motion that keeps half 2 in the frame of half 1
(`tomodask.rounds.superposition`).  The band that is aligned by follows from the correlation of
the halves, a shell beyond where it falls below 0.143, so that no half is aligned by detail that
only it believes in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from dask.delayed import Delayed, delayed

from tomodask.alignment.poses import align_subtomograms
from tomodask.arrays.symmetry import reduced, symmetry_group
from tomodask.averaging.map_filters import low_pass_weights, shell_weighted
from tomodask.data.columns import QUATERNION, SHIFT
from tomodask.data.particles import orientations
from tomodask.data.subtomogram_table import particle_table
from tomodask.data.subtomograms import chosen_boxes

__all__ = [
    "Finished",
    "RefinementPlan",
    "Search",
    "align_halves",
    "best_round",
    "next_reference",
    "next_search",
    "next_search_of_classes",
    "pose_changes",
    "start_reference",
]

_GAIN = 0.01  # relative; a resolution that is finer by less is the same
_SETTLED = 0.9  # share of the particles that keep their pose: from here the search is local
_PATIENCE = 2  # rounds without a gain
_RESTLESS = 0.02  # share of the particles that change their class
_STILL = 0.1  # of the angle that the resolution tells at the particle's rim


@dataclass(frozen=True)
class RefinementPlan:
    """What holds for all rounds.

    Attributes
    ----------
    box : int
        Edge of the boxes, voxels.
    voxel_size, diameter : float
        Å.
    start_resolution : float
        Finest detail of the first references and of the first round, Å.
    finest : float
        No round aligns by finer detail, Å; two voxels at least.
    angular_step : float
        Of the search over all rotations, degrees.
    symmetry : str
    iterations : int
        At most.
    alignment : tuple of (name, value)
        What else `align_subtomograms` is given: ``method``, ``candidates``, ``shift_range``, ….
    """

    box: int
    voxel_size: float
    diameter: float
    start_resolution: float
    finest: float
    angular_step: float
    symmetry: str
    iterations: int
    alignment: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Search:
    """What a round looks for.

    Attributes
    ----------
    iteration : int
        From 1.
    resolution : float
        Finest detail aligned by, Å.
    angular_step : float
        Degrees.
    local : float, optional
        Degrees around the last round's poses; None searches all rotations.
    """

    iteration: int
    resolution: float
    angular_step: float
    local: float | None


@dataclass(frozen=True)
class Finished:
    """What a round came to.

    Attributes
    ----------
    search : Search
    resolution_143, resolution_5 : float
        Where the corrected FSC of the halves falls below 0.143 and 0.5, Å; infinite if at once.
    turned, moved : float
        Median change of the poses since the round before, degrees modulo symmetry and Å; NaN in
        the first.
    settled : float
        Share of the particles that turned by less than half the angular step of that round.
    reassigned : float
        Share of the particles that changed their class; NaN with one class or in the first round.
    score : float
        Mean over the particles.
    """

    search: Search
    resolution_143: float
    resolution_5: float
    turned: float
    moved: float
    settled: float
    reassigned: float
    score: float


def start_reference(volume: np.ndarray, plan: RefinementPlan) -> np.ndarray:
    """A map low-passed to the plan's start: all that the halves ever share of it."""
    weights = low_pass_weights(
        plan.box, voxel_size=plan.voxel_size, resolution=plan.start_resolution
    )
    return shell_weighted(volume, weights)


def next_reference(half_map: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What a half is aligned to in the next round: its own map under Wiener's filter.

    Parameters
    ----------
    half_map : array, shape (n, n, n)
    weights : array, shape (n // 2 + 1,)
        Of shells, from `half_map_weights`.  Several classes share those that their sizes weigh
        together: under filters of their own, a class would win particles by its filter.
    """
    return shell_weighted(half_map, weights)


def next_search(
    history: Sequence[Finished], plan: RefinementPlan, *, before: int = 0
) -> Search | None:
    """What the next round looks for, or None if the last round was the last.

    The band ends a shell beyond where the correlation of the halves falls below 0.143.  All
    rotations are searched until nine tenths of the particles keep their poses to half the angular
    step, or the resolution has stood for two rounds; after that only those within a step of the
    last pose.  It ends when the resolution has not improved for two rounds of local search with the
    particles still (median turn below a tenth of the angle that the band's finest detail takes up
    at the particle's rim, fewer than two of a hundred changing their class), or for four in any
    case.

    Parameters
    ----------
    history : sequence of Finished
        All rounds so far, of this start.
    plan : RefinementPlan
    before : int
        Rounds before this start.
    """
    iteration = before + len(history) + 1
    if iteration > plan.iterations:
        return None
    if not history:
        return Search(iteration, plan.start_resolution, plan.angular_step, None)
    last = history[-1]
    band = _band(last.resolution_143, plan)
    rim = math.degrees(2 * band / plan.diameter)  # a shell's period over the particle's radius
    idle = _rounds_without_gain(history)
    was_local = last.search.local is not None
    if was_local:
        idle_here = min(idle, sum(one.search.local is not None for one in history))
        still = last.turned <= _STILL * rim and not last.reassigned > _RESTLESS
        if idle_here >= _PATIENCE and (still or idle_here >= 2 * _PATIENCE):
            return None
    settled = last.settled >= _SETTLED and not last.reassigned > 1 - _SETTLED
    if was_local or (len(history) > 1 and (settled or idle >= _PATIENCE)):
        # The grid stays as it is: the refinement after it climbs the bands from what the grid
        # resolves to the finest, and a finer one would cost more than it and find the same.
        return Search(iteration, band, plan.angular_step, plan.angular_step)
    return Search(iteration, band, plan.angular_step, None)


def next_search_of_classes(
    alone: Sequence[Finished],
    history: Sequence[Finished],
    plan: RefinementPlan,
    *,
    consensus: int | None,
) -> tuple[Search | None, bool]:
    """What the next round looks for, and whether it tells classes apart.

    Parameters
    ----------
    alone : sequence of Finished
        Rounds with one class.
    history : sequence of Finished
        Rounds with several.
    plan : RefinementPlan
    consensus : int, optional
        Rounds with one class, before there are several; fewer, where one class has settled.  None
        where there is but one.
    """
    if consensus is None:
        return next_search(alone, plan), False
    if len(alone) < consensus:
        search = next_search(alone, plan)
        if search is not None:
            return search, False
    return next_search(history, plan, before=len(alone)), True


def _band(resolution: float, plan: RefinementPlan) -> float:
    """A shell beyond a resolution, within what the plan allows, Å."""
    if not math.isfinite(resolution):
        return plan.start_resolution
    beyond = 1 / (1 / resolution + 1 / (plan.box * plan.voxel_size))
    return max(min(beyond, plan.start_resolution), plan.finest)


def _rounds_without_gain(history: Sequence[Finished]) -> int:
    """How many rounds ago the resolution was last improved."""
    best, at = math.inf, 0
    for number, one in enumerate(history):
        if one.resolution_143 < best * (1 - _GAIN):
            best, at = one.resolution_143, number
    return len(history) - 1 - at


def best_round(history: Sequence[Finished]) -> int:
    """The round whose maps are the result: the last of those as fine as the finest, from 0."""
    finest = min(one.resolution_143 for one in history)
    return max(
        number
        for number, one in enumerate(history)
        if one.resolution_143 <= finest * (1 + _GAIN) or one.resolution_143 == finest
    )


def align_halves(
    subtomograms: xr.Dataset,
    half: np.ndarray,
    references: Sequence[np.ndarray | Sequence[np.ndarray]],
    search: Search,
    plan: RefinementPlan,
    *,
    poses: pd.DataFrame | None = None,
    keep: Literal["best", "all"] = "best",
    checkpoint: str | Path | None = None,
) -> Delayed:
    """Align each half to its own reference, or to its own references of all classes.

    Parameters
    ----------
    subtomograms : Dataset
    half : array of int, shape (particles,)
        1 or 2.
    references : two arrays, or two sequences of arrays
        Of half 1 and half 2, shape (n, n, n) each.
    search : Search
    plan : RefinementPlan
    poses : DataFrame, optional
        Of the round before, row by row; a local search needs them.
    keep : {"best", "all"}
        As of `align_subtomograms`; with several references.
    checkpoint : path, optional
        Finished batches are kept below it, a folder for each half.

    Returns
    -------
    Delayed of DataFrame
        As of `align_subtomograms`, in the order of the boxes, with the column ``half``.
    """
    parts = []
    for number in (1, 2):
        rows = np.flatnonzero(half == number)
        options: dict[str, Any] = dict(plan.alignment)
        if search.local is not None:
            assert poses is not None
            # By place: the index names the particle, whatever the boxes are called.
            index = pd.Index(subtomograms["particle"].to_numpy()[rows], name="particle")
            given = poses[[*QUATERNION, *SHIFT]].iloc[rows].set_axis(index)
            options |= {"local": search.local, "poses": given, "shift_range": None}
        own = references[number - 1]
        if not isinstance(own, np.ndarray):
            options["keep"] = keep
        parts.append(
            align_subtomograms(
                chosen_boxes(subtomograms, rows),
                _as_maps(own, plan.voxel_size),
                angular_step=search.angular_step,
                resolution=search.resolution,
                diameter=plan.diameter,
                symmetry=plan.symmetry,
                checkpoint=None if checkpoint is None else Path(checkpoint, f"half{number}"),
                quiet=True,  # of all rounds alike: the caller tells it once
                **options,
            )
        )
    return delayed(_together)(parts, half, particle_table(subtomograms).index)


def _as_maps(reference: Any, voxel_size: float) -> Any:
    if isinstance(reference, np.ndarray):
        return xr.DataArray(
            np.asarray(reference, np.float32),
            dims=("z", "y", "x"),
            attrs={"voxel_size": voxel_size},
        )
    return [_as_maps(one, voxel_size) for one in reference]


def _together(parts: list[pd.DataFrame], half: np.ndarray, index: pd.Index) -> pd.DataFrame:
    """The rows of both halves in the order of the boxes; several rows of one box stay together."""
    table = pd.concat(
        [part.assign(half=number) for number, part in enumerate(parts, 1)], ignore_index=True
    )
    place = np.concatenate(
        [
            np.repeat(np.flatnonzero(half == number), len(part) // max((half == number).sum(), 1))
            for number, part in enumerate(parts, 1)
        ]
    )
    order = np.argsort(place, kind="stable")
    return table.iloc[order].set_axis(pd.Index(index[place[order]], name="particle"))


def pose_changes(
    before: pd.DataFrame, after: pd.DataFrame, symmetry: str = "C1"
) -> tuple[np.ndarray, np.ndarray]:
    """How far poses turned (degrees, modulo symmetry) and moved (Å), row by row.

    NaN where one of the two has no pose.
    """
    names = [*QUATERNION, *SHIFT]
    known = (before[names].notna() & after[names].notna()).all(axis=1).to_numpy()
    angle, way = np.full(len(after), np.nan), np.full(len(after), np.nan)
    if known.any():
        turn = orientations(before[known]).inv() * orientations(after[known])
        angle[known] = np.rad2deg(reduced(turn, symmetry_group(symmetry)).magnitude())
        columns = list(SHIFT)
        moves = after.loc[known, columns].to_numpy(float) - before.loc[known, columns].to_numpy(
            float
        )
        way[known] = np.linalg.norm(moves, axis=1)
    return angle, way
