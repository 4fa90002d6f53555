"""A cluster sorted into classes and averaged, without a reference and without files.

The first map is made of the cluster's own particles; a few rounds of alignment and averaging
follow, the halves apart, and after the first of them its particles are told apart: the rounds of a
refinement (`tomodask.rounds`), in memory.  A cluster of a subdivision has some hundred particles.
There are many clusters, so that a cluster is one task: it holds its boxes and reads none twice,
what Dask adds is nothing beside it, and workers share the clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from dask.delayed import Delayed, delayed

from tomodask.alignment.checks import check_alignment
from tomodask.alignment.measurement import measurements
from tomodask.arrays.threads import one_thread_each
from tomodask.averaging.average import Average
from tomodask.averaging.fsc import resolution_at
from tomodask.data.box_blocks import BoxBlocks
from tomodask.data.columns import QUATERNION
from tomodask.data.subtomogram_table import particle_table
from tomodask.errors import InputError
from tomodask.rounds.class_start import class_maps
from tomodask.rounds.half_sets import half_sets
from tomodask.rounds.iterations import (
    Finished,
    RefinementPlan,
    best_round,
    next_search_of_classes,
    start_reference,
)
from tomodask.rounds.one_round import compute_round
from tomodask.rounds.round_state import RoundPlan, RoundResult, next_round, start_round
from tomodask.rounds.start import first_map

__all__ = ["LEAST_PARTICLES", "ClusterAverage", "SortedCluster", "average_cluster"]

#: Particles that a class needs: a start and two halves.
LEAST_PARTICLES = 8

_CANDIDATES = 3  # as of the first map: rounds that follow mend what one of them missed


@dataclass(frozen=True)
class ClusterAverage:
    """What became of a class of a cluster.

    Attributes
    ----------
    number : int
        From 1, the largest class first.
    average : Average
    curve : DataFrame
        FSC of its halves under the particle's sphere, corrected (`tomodask.corrected_fsc`).
    resolution : float
        Å, where the curve falls below 0.143; infinite if at once.
    share : float
        Of the cluster's particles with a pose.
    poses : DataFrame
        Of its particles, in the frame of the average; the index holds their names.
    """

    number: int
    average: Average
    curve: pd.DataFrame = field(repr=False)
    resolution: float
    share: float
    poses: pd.DataFrame = field(repr=False)


@dataclass(frozen=True)
class SortedCluster:
    """What became of a cluster.

    Attributes
    ----------
    classes : tuple of ClusterAverage
        The largest first.  Empty where no average could be made; `notes` say why.
    poses : DataFrame
        Of all particles, in their order: ``quat_*``, ``shift_*``, ``score``, ``half``, ``class``
        (from 1; 0 without a pose) and, of some without a pose, ``reason``.
    rounds : tuple of Finished
        All rounds, those before the classes first.
    notes : tuple of str
        What else is to be said: fewer classes than asked for, classes that fell empty, were given
        up or made one, particles that were set aside.
    """

    classes: tuple[ClusterAverage, ...]
    poses: pd.DataFrame = field(repr=False)
    rounds: tuple[Finished, ...] = field(repr=False)
    notes: tuple[str, ...]


def average_cluster(
    subtomograms: xr.Dataset,
    *,
    diameter: float,
    classes: int = 1,
    start_resolution: float = 60.0,
    finest: float | None = None,
    angular_step: float = 20.0,
    iterations: int = 5,
    consensus: int = 2,
    merge: float | None = 0.97,
    tilt_range: tuple[float, float] | None = None,
    particles: int = 50,
    seed: int = 0,
) -> Delayed:
    """Sort the particles of a cluster into classes without a reference, and average each.

    Parameters
    ----------
    subtomograms : Dataset
        The cluster's boxes alone, cubic.
    diameter : float
        Of the soft sphere about the particle, Å.
    classes : int
        Told apart, at most: fewer where a class would have fewer than eight particles.
    start_resolution : float
        Of the first map, Å.
    finest : float, optional
        No round aligns by finer detail, Å; by default two voxels.
    angular_step : float
        Degrees.
    iterations : int
        Rounds at most, those of one class and those of several together.
    consensus : int
        Of them with one class, before there are several.
    merge : float, optional
        Classes whose averages correlate so well, noise aside, become one
        (`tomodask.rounds.classes`); None keeps them.
    tilt_range : (float, float), optional
        As of `align_subtomograms`.
    particles : int
        That the first map is made of.
    seed : int

    Returns
    -------
    Delayed of SortedCluster
        One task; of one class the best round, of several the last.

    Raises
    ------
    InputError
        If there are fewer than eight particles, or a parameter makes no sense.  Where hardly a box
        holds something, the task gives no classes and a note: other clusters go on.
    """
    table = particle_table(subtomograms)
    if len(table) < LEAST_PARTICLES:
        raise InputError(
            f"a cluster needs at least {LEAST_PARTICLES} particles to be averaged without a "
            f"reference, got {len(table)}; ask for fewer clusters"
        )
    for name, value, least in (
        ("classes", classes, 1), ("iterations", iterations, 1), ("consensus", consensus, 1),
        ("particles", particles, 4),
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} must be a whole number, at least {least}, got {value!r}")
    if classes > 1 and iterations <= consensus:
        raise InputError(
            f"iterations must be more than consensus, {consensus}, where there are several "
            f"classes, got {iterations}"
        )
    if merge is not None and not 0 < merge <= 1:
        raise InputError(f"merge must be a correlation above 0, at most 1, got {merge:g}")
    boxes, voxel_size = subtomograms["subtomogram"], float(subtomograms.attrs["voxel_size"])
    n = int(boxes.sizes["x"])
    check_alignment(
        box=n,
        voxel_size=voxel_size,
        angular_step=angular_step,
        resolution=start_resolution,
        diameter=diameter,
        seed=seed,
    )
    measurements(table, subtomograms.attrs, tilt_range)  # refuses boxes that do not say
    plan = RefinementPlan(
        box=n,
        voxel_size=voxel_size,
        diameter=float(diameter),
        start_resolution=max(float(start_resolution), 2 * voxel_size),
        finest=max(finest or 0.0, 2 * voxel_size),
        angular_step=float(angular_step),
        symmetry="C1",
        iterations=int(iterations),
        alignment=(
            ("seed", int(seed)),
            ("tilt_range", tilt_range),
            ("candidates", _CANDIDATES),
        ),
    )
    task = _Task(
        # Of other averages: here they would be taken for this one's.
        subtomograms.drop_vars(
            ["subtomogram", "image", "half", "score", "class", "kind", "reason"], errors="ignore"
        ),
        plan, int(classes), int(consensus), merge, tilt_range, int(particles), int(seed),
    )  # fmt: skip
    (joined,) = BoxBlocks(boxes, len(table)).joined(np.array([0, len(table)]))
    made: Delayed = delayed(_sort, pure=False)(task, joined)
    return made


@dataclass(frozen=True)
class _Task:
    """What is asked for; `particles` has all of the Dataset but the boxes."""

    particles: xr.Dataset
    plan: RefinementPlan
    classes: int
    consensus: int
    merge: float | None
    tilt_range: tuple[float, float] | None
    first: int
    seed: int


def _here(graph: Any, *, label: str) -> Any:
    """Compute in this very thread, whatever runs the task."""
    del label
    import dask

    several = isinstance(graph, list)
    found = dask.compute(*(graph if several else [graph]), scheduler="synchronous")
    return list(found) if several else found[0]


def _sort(task: _Task, values: np.ndarray, compute: Callable[..., Any] = _here) -> SortedCluster:
    boxes = task.particles.assign(subtomogram=(("particle", "z", "y", "x"), values))
    names = boxes["particle"].to_numpy()
    if not pd.Index(names).is_unique:
        boxes = boxes.assign_coords(particle=np.arange(len(names)))
    notes: list[str] = []
    try:
        with one_thread_each():  # once: each of a hundred small graphs would look for libraries
            rounds = _rounds(task, boxes, notes, compute)
    except InputError as error:
        aside = pd.DataFrame({"class": 0}, index=pd.Index(names, name="particle"))
        return SortedCluster((), aside, (), (*notes, str(error)))
    finished = [one.finished for one in rounds]
    # Classes are what the last round made of them.
    chosen = rounds[-1] if rounds[-1].several else rounds[best_round(finished)]
    return _result(chosen, names, tuple(finished), notes)


def _rounds(
    task: _Task, boxes: xr.Dataset, notes: list[str], compute: Callable[..., Any]
) -> list[RoundResult]:
    """All rounds, those of one class first."""
    table, plan = particle_table(boxes), task.plan
    classes = min(task.classes, len(table) // LEAST_PARTICLES)
    if classes < task.classes:
        notes.append(
            f"{len(table)} particles are too few for {task.classes} classes, {LEAST_PARTICLES} "
            f"each: sorted into {classes}"
        )
    job = RoundPlan(
        boxes=boxes,
        table=table,
        half=half_sets(table, seed=task.seed),
        plan=plan,
        merge=task.merge,
        tilt_range=task.tilt_range,
        method="gradient",
    )
    begun = first_map(
        boxes,
        resolution=plan.start_resolution,
        diameter=plan.diameter,
        tilt_range=task.tilt_range,
        particles=task.first,
        seed=task.seed,
        compute=compute,
    )
    state = start_round([start_reference(begun.volume, plan)], None)
    done: dict[bool, list[RoundResult]] = {False: [], True: []}
    while True:
        search, several = next_search_of_classes(
            [one.finished for one in done[False]],
            [one.finished for one in done[True]],
            plan,
            consensus=task.consensus if classes > 1 else None,
        )
        if search is None:
            break
        if several and not done[True]:
            alone = done[False][-1].table
            maps, _ = class_maps(
                boxes,
                alone,
                classes,
                resolution=plan.start_resolution,
                tilt_range=task.tilt_range,
                seed=task.seed,
                compute=compute,
            )
            state = start_round(list(maps), alone)
        result = compute_round(job, state, search, several=several, compute=compute)
        done[several].append(result)
        notes += _events(result)
        state = next_round(result)
    return done[False] + done[True]


def _events(result: RoundResult) -> list[str]:
    said = []
    for event, what in (
        ("refilled", "fell empty and {} filled again"),
        ("given_up", "fell empty and {} given up"),
        ("merged", "{} another's equal and became one with it"),
    ):
        count = len(result.events.get(event, ()))
        if count:
            words = what.format("was" if count == 1 else "were")
            named = f"{count} class{'' if count == 1 else 'es'}"
            said.append(f"iteration {result.finished.search.iteration}: {named} {words}")
    return said


def _result(
    chosen: RoundResult, names: np.ndarray, rounds: tuple[Finished, ...], notes: list[str]
) -> SortedCluster:
    table = chosen.table.set_axis(pd.Index(names, name="particle"))
    known = table[QUATERNION[0]].notna().to_numpy()
    if not known.all():
        why = table["reason"][~known].value_counts()
        said = ", ".join(f"{count} {reason}" for reason, count in why.items())
        notes.append(f"{(~known).sum()} of {len(table)} particles are set aside: {said}")
    of = table["class"].to_numpy(int) if "class" in table else np.ones(len(table), int)
    sizes = {c: int((known & (of == c)).sum()) for c in chosen.classes}
    order = sorted(sizes, key=lambda c: (-sizes[c], c))
    place = np.zeros(max(order) + 1, int)
    place[order] = np.arange(1, len(order) + 1)
    table = table.assign(**{"class": np.where(known, place[of], 0)})
    table = table.drop(columns="share", errors="ignore")
    made = []
    for number, c in enumerate(order, 1):
        one = chosen.classes[c]
        mine = table[(table["class"] == number).to_numpy()].drop(columns="reason", errors="ignore")
        resolution, share = resolution_at(one.curve, 0.143), sizes[c] / int(known.sum())
        made.append(ClusterAverage(number, one.average, one.curve, resolution, share, mine))
    return SortedCluster(tuple(made), table, rounds, tuple(notes))
