"""The graph of an alignment: candidates in a Dask bag, refined where they lie, the best kept.

A partition is a run of consecutive particles, of whatever measurements they are: its tasks take the
plans of these, and of each particle the place of its own among them.

    blocks ─► search ─► refine ─┐
                ▲         ▲     ├─► best ─┐
              plans     plans   │         ├─► best ─► …
    blocks ─► search ─► refine ─┘         │

``search`` reads boxes and finds candidates: an element of the bag is those of one particle.
``refine`` descends from each of them, and a tree of ``best`` keeps the optima.  What a partition
passes on is small: of a box only the few thousand Fourier voxels that the refinement looks at.

The layers are dictionaries of tasks: a million particles are tens of thousands of partitions, and
one Delayed after another would take the client longer than they take the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import dask.bag as db
import numpy as np
from dask._task_spec import DataNode, GraphNode, List, Task, TaskRef
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from tomodask.alignment.batches import BatchFolder
from tomodask.alignment.measurement import Measurement
from tomodask.alignment.noise import ShellPower, merge_power, noise_frequencies, noise_power
from tomodask.alignment.particle import Candidates, best_poses
from tomodask.alignment.particle_batches import find_candidates_of, refine_candidates_of
from tomodask.alignment.plan import Plan, plan_alignment
from tomodask.data.box_blocks import BoxBlocks

__all__ = ["Particles", "batch_name", "best_of", "candidate_bag", "noise_layer", "plan_layer"]

Layer = dict[Any, GraphNode]


def batch_name(number: int) -> str:
    """What a partition is called among the finished ones."""
    return f"batch{number:06d}"


@dataclass(frozen=True)
class Particles:
    """What is known of the particles beside their boxes, in the order of these.

    Attributes
    ----------
    identities : array of int64, shape (particles,)
        Their numbers wherever they go, which seed them.
    kind : array of int, shape (particles,)
        Which of `kinds` each is of.
    kinds : sequence of Measurement
    given : array of float64, shape (particles, 12), or None
        Of a local search, see `tomodask.alignment.particle.find_candidates`.
    """

    identities: np.ndarray
    kind: np.ndarray
    kinds: Sequence[Measurement]
    given: np.ndarray | None

    def measured(self, rows: slice) -> tuple[list[int], np.ndarray | None]:
        """Which measurements some particles are of, and the place of each among these.

        No places where all are of one.
        """
        kind = self.kind[rows]
        if (kind == kind[0]).all():
            return [int(kind[0])], None
        mine, place = np.unique(kind, return_inverse=True)
        return mine.tolist(), place.ravel().astype(np.min_scalar_type(len(mine)))


def _runs(edges: np.ndarray) -> list[slice]:
    return [slice(*edge) for edge in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]


def noise_layer(
    particles: Particles,
    blocks: BoxBlocks,
    edges: np.ndarray,
    *,
    box: int,
    voxel_size: float,
    radius: float,
    split_every: int,
    token: str,
) -> tuple[Layer, list[Any]]:
    """The power of the noise in the boxes of each measurement: tasks, and the keys of the sums.

    Boxes are read for this by themselves.  Kept until they are searched, all of them would lie in
    memory: no plan is made before the last was looked at.
    """
    taken, layer = blocks.taken_by(edges)
    looked, name = f"noise_frequencies-{token}", f"noise-{token}"
    for number, measurement in enumerate(particles.kinds):
        key = (looked, number)
        layer[key] = Task(key, noise_frequencies, measurement, box=box, voxel_size=voxel_size)
    parts: list[list[Any]] = [[] for _ in particles.kinds]
    for number, (rows, boxes) in enumerate(zip(_runs(edges), taken, strict=True)):
        mine, place = particles.measured(rows)
        key = (name, number)
        frequencies = List(*(TaskRef((looked, one)) for one in mine))
        layer[key] = Task(key, noise, boxes, frequencies, place, mine, radius=radius)
        for one in mine:
            parts[one].append(key)
    sums = []
    for number, found in enumerate(parts):
        tree, root = _tree(found, noise_of, f"noise_of-{token}-{number}", split_every, number)
        layer.update(tree)
        sums.append(root)
    return layer, sums


def plan_layer(
    particles: Particles,
    settings: dict[str, Any],
    noise: tuple[Layer, list[Any]] | None,
    *,
    token: str,
) -> tuple[Layer, list[TaskRef]]:
    """A plan for each measurement; what all of them take is sent once.

    Parameters
    ----------
    settings : dict
        Arguments of `plan_alignment`.
    noise : (layer, keys), optional
        Of `noise_layer`.
    """
    shared, name = f"settings-{token}", f"plan-{token}"
    layer: Layer = {shared: DataNode(shared, settings)}
    if noise is not None:
        layer.update(noise[0])
    for number, measurement in enumerate(particles.kinds):
        key = (name, number)
        power = None if noise is None else TaskRef(noise[1][number])
        layer[key] = Task(key, plan, TaskRef(shared), measurement, power, number)
    return layer, [TaskRef((name, number)) for number in range(len(particles.kinds))]


def candidate_bag(
    particles: Particles,
    blocks: BoxBlocks,
    edges: np.ndarray,
    partitions: Sequence[int],
    plans: tuple[Layer, list[TaskRef]],
    *,
    count: int,
    token: str,
) -> db.Bag:
    """A bag of candidates, an element a particle.

    Parameters
    ----------
    edges : array of int
        Of all partitions, see `tomodask.data.box_blocks.partition_edges`.
    partitions : sequence of int
        Those that are to be searched.
    plans : (layer, references)
        Of `plan_layer`.
    count : int
        Candidates of a particle on each reference.
    """
    taken, layer = blocks.taken_by(edges)
    layer.update(plans[0])
    name, runs = f"search-{token}", _runs(edges)
    for at, number in enumerate(partitions):
        rows = runs[number]
        mine, place = particles.measured(rows)
        key = (name, at)
        layer[key] = Task(
            key,
            search,
            taken[number],
            List(*(plans[1][one] for one in mine)),
            place,
            rows.start,
            particles.identities[rows],
            None if particles.given is None else particles.given[rows],
            count=count,
        )
    return db.Bag(_graph(name, layer), name, len(partitions))


def best_of(
    candidates: db.Bag,
    particles: Particles,
    edges: np.ndarray,
    partitions: Sequence[int],
    plans: list[TaskRef],
    *,
    seed: int,
    folder: BatchFolder,
    split_every: int,
    token: str,
) -> Delayed:
    """Candidates refined where they lie, and the best of each particle through a tree.

    Parameters
    ----------
    candidates : Bag
        Of `candidate_bag`, with the same `particles`, `edges` and `partitions`.
    folder : BatchFolder
        Keeps each partition that is finished.
    """
    name, runs = f"refine-{token}", _runs(edges)
    layer: Layer = {}
    for at, number in enumerate(partitions):
        mine, place = particles.measured(runs[number])
        key = (name, at)
        layer[key] = Task(
            key,
            refine,
            TaskRef((candidates.name, at)),
            List(*(plans[one] for one in mine)),
            place,
            name=batch_name(number),
            seed=seed,
            folder=folder,
        )
    refined = db.Bag(_graph(name, layer, candidates), name, len(layer))
    name = f"best-{token}"
    tree, root = _tree(list(layer), best, name, split_every)
    return Delayed(root, _graph(name, tree, refined), layer=name)


def _graph(name: str, layer: Layer, *dependencies: Any) -> HighLevelGraph:
    return HighLevelGraph.from_collections(name, layer, dependencies=dependencies)


def _tree(
    keys: list[Any], work: Callable[..., Any], name: str, split_every: int, *more: Any
) -> tuple[Layer, Any]:
    """A tree reduction, and the key of its root."""
    layer: Layer = {}
    level = 0
    while len(keys) > 1 or not level:
        groups = [keys[at : at + split_every] for at in range(0, len(keys), split_every)]
        keys = [(name, level, number) for number in range(len(groups))]
        for key, group in zip(keys, groups, strict=True):
            layer[key] = Task(key, work, List(*map(TaskRef, group)), *more)
        level += 1
    return layer, keys[0]


# The tasks.  Blocks are lists of arrays, shape (count, n, n, n): what is not joined is not copied.


def plan(
    settings: dict[str, Any], measurement: Measurement, noise: dict[int, ShellPower] | None, at: int
) -> Plan:
    """The plan of one measurement."""
    return plan_alignment(
        tilt_range=measurement.tilt_range,
        record=measurement.record,
        noise=None if noise is None else noise[at],
        **settings,
    )


def noise(
    blocks: list[np.ndarray],
    frequencies: list[np.ndarray],
    place: np.ndarray | None,
    kinds: list[int],
    *,
    radius: float,
) -> dict[int, ShellPower]:
    """The power of the noise in a partition, by measurement."""
    boxes = list(chain.from_iterable(blocks))
    where = np.zeros(len(boxes), np.intp) if place is None else place
    return {
        kind: merge_power(
            noise_power(
                np.stack([boxes[i] for i in np.flatnonzero(where == at)]),
                frequencies=frequencies[at],
                radius=radius,
            )
        )
        for at, kind in enumerate(kinds)
    }


def noise_of(parts: list[dict[int, ShellPower]], kind: int) -> dict[int, ShellPower]:
    """The sum for one measurement: a step of a tree."""
    return {kind: merge_power([part[kind] for part in parts])}


def search(
    blocks: list[np.ndarray],
    plans: list[Plan],
    place: np.ndarray | None,
    start: int,
    identities: np.ndarray,
    given: np.ndarray | None,
    *,
    count: int,
) -> list[Candidates]:
    """Candidate poses of a partition of boxes, the first of which is the row `start`."""
    boxes = list(chain.from_iterable(blocks))
    return find_candidates_of(boxes, start, identities, plans, place, given, count=count)


def refine(
    candidates: list[Candidates],
    plans: list[Plan],
    place: np.ndarray | None,
    *,
    name: str,
    seed: int,
    folder: BatchFolder,
) -> np.ndarray:
    """Best poses of a partition of particles, kept in `folder`."""
    found = best_poses(refine_candidates_of(candidates, plans, place, seed=seed))
    folder.write(name, found)
    return found


def best(parts: list[np.ndarray]) -> np.ndarray:
    """A step of the tree."""
    return best_poses(parts)
