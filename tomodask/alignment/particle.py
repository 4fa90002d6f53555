"""One particle on its way through alignment: candidates by the search, each refined, the best kept.

Plain arrays and no Dask: `tomodask.alignment.poses` builds the graph over many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tomodask.alignment.checks import at_scale, box_fault
from tomodask.alignment.local import local_candidates
from tomodask.alignment.plan import Plan
from tomodask.alignment.real_space import refine_real_space
from tomodask.alignment.refinement import batch_order, correlation, refine_pose
from tomodask.alignment.search import candidate_poses

__all__ = [
    "POSE",
    "Candidates",
    "best_poses",
    "find_candidates",
    "refine_candidates",
    "set_aside",
    "start_rows",
    "that_go_on",
]

#: One row a refined candidate; `fault` is a place in `tomodask.alignment.checks.FAULTS`.
POSE = np.dtype(
    [
        ("particle", np.int64),
        ("reference", np.int64),
        ("start", np.int64),
        ("fault", np.int64),
        ("score", np.float64),
        ("matrix", np.float64, (3, 3)),
        ("shift_xyz", np.float64, (3,)),
    ]
)
#: Candidates have met when they are nearer than this part of a step's limit: 2° and 0.3 voxels of
#: 64, for a grid of 20°.
_MET = 1 / 6


@dataclass(frozen=True)
class Candidates:
    """A particle on its way from search to refinement.

    Attributes
    ----------
    particle : int
        Its row among the boxes.
    identity : int
        Its number wherever it goes, which seeds it.
    data : array of complex64
        Its box at the plan's frequencies.
    starts : tuple of (matrices, shifts_xyz)
        One a reference: float64, shapes (n, 3, 3) and (n, 3).
    about : (matrix, shift_xyz) or None
        The given pose of a local search.
    fault : int
        Not 0: the particle is set aside, see `tomodask.alignment.checks.FAULTS`.
    """

    particle: int
    identity: int
    data: np.ndarray
    starts: tuple[tuple[np.ndarray, np.ndarray], ...]
    about: tuple[np.ndarray, np.ndarray] | None = None
    fault: int = 0


def find_candidates(
    box: np.ndarray,
    particle: int,
    identity: int,
    *,
    plan: Plan,
    count: int,
    given: np.ndarray | None = None,
) -> Candidates:
    """Search one box.

    Parameters
    ----------
    box : array, shape (n, n, n)
    particle, identity, count : int
    plan : Plan
    given : array, shape (12,), optional
        Where the plan's search is a local one: a matrix, row by row, and a shift (x, y, z) in
        voxels; NaN where there is none.
    """
    box = np.asarray(box, np.float32)
    fault = box_fault(box)
    if not fault and given is not None and not np.isfinite(given).all():
        fault = 3
    if fault:
        return Candidates(particle, identity, np.empty(0, np.complex64), (), None, fault)
    data = plan.data(at_scale(box))
    if plan.around is None or given is None:
        found = tuple(candidate_poses(grid, data, count=count)[:2] for grid in plan.grids)
        return Candidates(particle, identity, data, found)
    about = given[:9].reshape(3, 3), given[9:]
    found = tuple(
        local_candidates(plan.around, spectrum, data, *about, count=count)
        for spectrum in plan.spectra
    )
    return Candidates(particle, identity, data, found, about)


def set_aside(one: Candidates, references: int) -> np.ndarray:
    """The rows of a particle that has no pose, shape (references,)."""
    rows = np.zeros(references, POSE)
    rows["particle"], rows["reference"], rows["fault"] = (
        one.particle,
        np.arange(references),
        one.fault,
    )
    rows["score"] = rows["matrix"] = rows["shift_xyz"] = np.nan
    return rows


def refine_candidates(one: Candidates, plan: Plan, *, seed: int) -> np.ndarray:
    """Rows of `POSE`: of each reference the candidates that reached the end."""
    if one.fault:
        return set_aside(one, len(plan.spectra))
    descend = _descend_real if plan.problems else _descend
    return np.concatenate(
        [descend(one, plan, reference, seed=seed) for reference in range(len(plan.spectra))]
    )


def _descend_real(one: Candidates, plan: Plan, reference: int, *, seed: int) -> np.ndarray:
    matrices, shifts, scores = refine_real_space(
        plan.problems[reference],
        one.data,
        *one.starts[reference],
        method=plan.method,
        rng=np.random.default_rng([seed, one.identity]),
        about=one.about,
    )
    poses = np.zeros(len(scores), POSE)
    poses["particle"], poses["reference"] = one.particle, reference
    poses["start"], poses["score"] = np.arange(len(poses)), scores
    poses["matrix"], poses["shift_xyz"] = matrices, shifts
    return poses


def _descend(one: Candidates, plan: Plan, reference: int, *, seed: int) -> np.ndarray:
    """Stage by stage, the better two thirds of the candidates go on, and two to the end.

    Those that meet go on as one.
    """
    rng = np.random.default_rng([seed, one.identity])
    spectrum = plan.spectra[reference]
    poses = start_rows(one, reference)
    for stage in plan.stages:
        data = one.data[stage.index]
        # One order for all candidates: which of two equals comes first is then of no matter.
        order = batch_order(stage.passes, stage.batches, rng)
        for pose in poses:
            pose["matrix"], pose["shift_xyz"] = refine_pose(
                spectrum,
                stage,
                data,
                pose["matrix"],
                pose["shift_xyz"],
                rng=order,
                turn_limit=plan.turn_limit,
                shift_limit=plan.shift_limit,
                reach=plan.reach,
                turn_reach=plan.turn_reach,
                about=one.about,
            )
            pose["score"] = correlation(
                spectrum,
                stage.frequencies,
                data,
                pose["matrix"],
                pose["shift_xyz"],
                stage.weights,
            )
        poses = that_go_on(poses, plan)
    return poses


def start_rows(one: Candidates, reference: int) -> np.ndarray:
    """Rows of `POSE`: a particle's candidates on a reference, as the search found them."""
    matrices, shifts = one.starts[reference]
    poses = np.zeros(len(matrices), POSE)
    poses["particle"], poses["reference"] = one.particle, reference
    poses["start"] = np.arange(len(poses))
    poses["matrix"], poses["shift_xyz"] = matrices, shifts
    return poses


def that_go_on(poses: np.ndarray, plan: Plan) -> np.ndarray:
    """The better two thirds of one particle's candidates, those that met as one, best first."""
    order = np.lexsort((poses["start"], -poses["score"]))
    most = max(2, (2 * len(poses) + 2) // 3)
    return _distinct(poses[order[:most]], plan)


def _distinct(poses: np.ndarray, plan: Plan) -> np.ndarray:
    """Without those that have come to where a better one is, or to its equivalent by symmetry."""
    kept = [0]
    near = 1 + 2 * np.cos(_MET * plan.turn_limit)  # the trace of a rotation by so much
    for i in range(1, len(poses)):
        for j in kept:
            equivalents = (poses["matrix"][j] @ plan.group).reshape(-1, 9)
            off = np.abs(poses["shift_xyz"][i] - poses["shift_xyz"][j]).max()
            turned = (equivalents @ poses["matrix"][i].ravel()).max()
            if turned > near and off < _MET * plan.shift_limit:
                break
        else:
            kept.append(i)
    return poses[kept]


def best_poses(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The best pose of each particle on each reference: the associative step of the tree."""
    poses = np.concatenate([np.asarray(part, POSE) for part in parts])
    keys = poses["start"], -poses["score"], poses["reference"], poses["particle"]
    poses = poses[np.lexsort(keys)]
    _, first = np.unique(poses[["particle", "reference"]], return_index=True)
    return np.asarray(poses[np.sort(first)])
