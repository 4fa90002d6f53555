"""Many particles on their way through alignment: one after another, or together on a GPU.

A worker that is told to use its GPU (``TOMODASK_DEVICE``, `--scheduler cuda`) searches and refines
a batch at a time there.  Both ways give the poses of the other to 0.01° and 0.001 voxel; the
refinement in real space knows the processor only.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tomodask.alignment.checks import at_scale, box_fault
from tomodask.alignment.device_sampling import DeviceSpectrum, spectra_at
from tomodask.alignment.particle import (
    Candidates,
    find_candidates,
    refine_candidates,
    set_aside,
    start_rows,
    that_go_on,
)
from tomodask.alignment.plan import Plan
from tomodask.alignment.refinement import batch_order
from tomodask.alignment.refinement_device import DeviceStage, Limits, refine_poses
from tomodask.alignment.search_device import (
    DeviceGrid,
    DeviceNeighbourhood,
    candidates_of,
    local_candidates_of,
)
from tomodask.arrays.backend import Array, of_worker, to_numpy
from tomodask.arrays.threads import one_thread_each

__all__ = ["find_candidates_of", "refine_candidates_of"]

_log = logging.getLogger(__name__)

_NO_DATA = np.empty(0, np.complex64)


@dataclass(frozen=True)
class _DevicePlan:
    """What a device holds of a plan, for all batches that use it."""

    spectra: tuple[DeviceSpectrum, ...]
    shells: Array | None
    grids: tuple[DeviceGrid, ...]
    around: DeviceNeighbourhood | None
    stages: tuple[DeviceStage, ...]
    limits: Limits

    @classmethod
    def of(cls, xp: Any, plan: Plan) -> _DevicePlan:
        return cls(
            tuple(DeviceSpectrum.of(xp, one) for one in plan.spectra),
            None if plan.shells is None else xp.asarray(plan.shells),
            tuple(DeviceGrid.of(xp, one) for one in plan.grids),
            None if plan.around is None else DeviceNeighbourhood.of(xp, plan.around),
            tuple(DeviceStage.of(xp, one) for one in plan.stages),
            Limits(*map(float, (plan.turn_limit, plan.shift_limit, plan.reach, plan.turn_reach))),
        )


_lock = threading.Lock()
_held: dict[tuple[int, str], _DevicePlan] = {}


def _held_plan(xp: Any, plan: Plan) -> _DevicePlan:
    """The plan on the device, copied there once and let go of with the plan."""
    key = (id(plan), xp.__name__)
    with _lock:
        if key not in _held:
            _held[key] = _DevicePlan.of(xp, plan)
            weakref.finalize(plan, _held.pop, key, None).atexit = False
        return _held[key]


def find_candidates_of(
    boxes: Sequence[np.ndarray],
    start: int,
    identities: np.ndarray,
    plans: Sequence[Plan],
    place: np.ndarray | None,
    given: np.ndarray | None,
    *,
    count: int,
    xp: Any = None,
) -> list[Candidates]:
    """Search a batch of boxes.

    Parameters
    ----------
    boxes : sequence of array, shape (n, n, n)
    start : int
        Row of the first of them.
    identities : array of int64, shape (boxes,)
    plans : sequence of Plan
    place : array of int, shape (boxes,), optional
        The plan of each box among these; by default the first.
    given : array, shape (boxes, 12), optional
        As of `find_candidates`.
    count : int
    xp : module, optional
        Arrays of this library are computed with; by default CuPy where the worker is to use its
        GPU, and the compiled kernels, which are for one box, where not.

    Returns
    -------
    list of Candidates
        In the order of the boxes, in the memory of the processor.
    """
    xp = of_worker() if xp is None else xp
    where = np.zeros(len(identities), np.intp) if place is None else np.asarray(place, np.intp)
    if xp is None:
        with one_thread_each():
            return [
                find_candidates(
                    box,
                    start + i,
                    int(identities[i]),
                    plan=plans[where[i]],
                    count=count,
                    given=None if given is None else given[i],
                )
                for i, box in enumerate(boxes)
            ]
    out: dict[int, Candidates] = {}
    scaled: dict[int, np.ndarray] = {}
    for i, voxels in enumerate(boxes):
        box = np.asarray(voxels, np.float32)
        fault = box_fault(box)
        if not fault and given is not None and not np.isfinite(given[i]).all():
            fault = 3
        if fault:
            identity = int(identities[i])
            out[i] = Candidates(start + i, identity, _NO_DATA, (), None, fault)
        else:
            scaled[i] = at_scale(box)
    for number, plan in enumerate(plans):
        mine = [i for i in scaled if where[i] == number]
        if not mine:
            continue
        held = _held_plan(xp, plan)
        data = spectra_at(xp, xp.asarray(np.stack([scaled[i] for i in mine])), plan.frequencies)
        if held.shells is not None:
            data = data * held.shells
        near = None if plan.around is None or given is None else given[mine]
        if near is None:
            found = [candidates_of(xp, grid, data, count=count) for grid in held.grids]
        else:
            assert held.around is not None
            found = [
                local_candidates_of(xp, held.around, one, data, near, count=count)
                for one in held.spectra
            ]
        kept = to_numpy(data)
        for j, i in enumerate(mine):
            about = None if near is None else (near[j, :9].reshape(3, 3), near[j, 9:])
            starts = tuple(of_reference[j] for of_reference in found)
            out[i] = Candidates(start + i, int(identities[i]), kept[j], starts, about)
    return [out[i] for i in range(len(identities))]


def refine_candidates_of(
    candidates: Sequence[Candidates],
    plans: Sequence[Plan],
    place: np.ndarray | None,
    *,
    seed: int,
    xp: Any = None,
) -> list[np.ndarray]:
    """Refine the candidates of a batch of particles.

    Parameters
    ----------
    candidates : sequence of Candidates
    plans, place, xp
        As of `find_candidates_of`.
    seed : int

    Returns
    -------
    list of array of `tomodask.alignment.particle.POSE`
        All candidates that reached the end, in no order.
    """
    xp = of_worker() if xp is None else xp
    where = np.zeros(len(candidates), np.intp) if place is None else np.asarray(place, np.intp)
    out: list[np.ndarray] = []
    for number, plan in enumerate(plans):
        mine = [one for one, its in zip(candidates, where, strict=True) if its == number]
        if xp is not None and plan.problems:
            _say_processor(plan.method)
        if xp is None or plan.problems:
            with one_thread_each():
                out += [refine_candidates(one, plan, seed=seed) for one in mine]
            continue
        out += [set_aside(one, len(plan.spectra)) for one in mine if one.fault]
        mine = [one for one in mine if not one.fault]
        for reference in range(len(plan.spectra)) if mine else ():
            out += _descend(xp, mine, plan, reference, seed)
    return out


@lru_cache(maxsize=2)
def _say_processor(method: str) -> None:
    """Once for each method and process."""
    _log.warning(
        "method=%r refines on the processor, one thread for this GPU's worker; method='fourier' "
        "runs on the GPU",
        method,
    )


def _descend(
    xp: Any, particles: Sequence[Candidates], plan: Plan, reference: int, seed: int
) -> list[np.ndarray]:
    """All candidates of all particles, stage by stage; see `tomodask.alignment.particle`."""
    held = _held_plan(xp, plan)
    data = xp.asarray(np.stack([one.data for one in particles]))
    draws = [np.random.default_rng([seed, one.identity]) for one in particles]
    poses = [start_rows(one, reference) for one in particles]
    about = None
    if particles[0].about is not None:
        given = [one.about for one in particles if one.about is not None]
        about = np.stack([m for m, _ in given]), np.stack([t for _, t in given])
    for stage in held.stages:
        order = np.stack([batch_order(stage.passes, stage.batches, rng) for rng in draws])
        owner = np.repeat(np.arange(len(poses)), [len(rows) for rows in poses])
        rows = np.concatenate(poses)
        rows["matrix"], rows["shift_xyz"], rows["score"] = refine_poses(
            xp,
            held.spectra[reference],
            stage,
            data,
            owner,
            rows["matrix"],
            rows["shift_xyz"],
            order[owner],
            held.limits,
            about,
        )
        ends = np.cumsum([len(one) for one in poses])[:-1]
        poses = [that_go_on(one, plan) for one in np.split(rows, ends)]
    return poses
