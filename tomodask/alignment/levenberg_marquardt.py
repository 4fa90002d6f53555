"""Levenberg-Marquardt on the whole volume: the baseline after Xu & Alber [1]_.

Every iteration looks at all voxels under the mask: it solves the damped normal equations of the
six parameters, ``(JᵀJ + λ diag JᵀJ) step = Jᵀ residual``, takes the step if the constrained
correlation rises, and then trusts the model more (λ / 10), else less (10 λ).  Iterations end when a
step that was taken is shorter than `tolerance`, or none helps any more.  The scale between
reference and data is solved for in every step; the derivatives are those of the mini-batches.

No public code of [1]_ is known; this is built from its description.

.. [1] Xu and Alber, "High precision alignment of cryo-electron subtomograms through gradient-based
   parallel optimization", BMC Syst. Biol. 6, S18 (2012), doi:10.1186/1752-0509-6-S1-S18.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from tomodask.alignment.real_space_problem import RealSpaceProblem
from tomodask.alignment.slabs import Level, kernel_of, linearise, scratch
from tomodask.alignment.steps import best_scale, cholesky_solve, step_from

__all__ = ["DampedSettings", "levenberg_marquardt"]


@dataclass(frozen=True)
class DampedSettings:
    """When iterations end and how they are damped.

    Attributes
    ----------
    iterations : int
        At most so many looks at the volume.
    damping : float
        λ in the beginning.
    tolerance : float
        The longest step, in radians and particle radii, that counts as none.
    rough : float
        The same, where a candidate is refined roughly, to be compared with others.
    """

    iterations: int = 30
    damping: float = 1e-3
    tolerance: float = 2e-3
    rough: float = 2e-2


@numba.njit(cache=True, nogil=True)
def _climb(  # type: ignore[no-untyped-def]
    spectrum,
    level,
    cubes,
    data,
    matrix,
    shift,
    radius,
    limits,
    bounds,
    iterations,
    damping,
    tolerance,
    losses,
):
    """Iterate on one candidate, pose in place; returns how often the volume was looked at."""
    system, tried = np.empty((9, 9)), np.empty((9, 9))
    damped, step, full = np.empty((7, 7)), np.zeros(6), np.zeros(7)
    turned, moved = np.empty((3, 3)), np.empty(3)
    side = data.shape[0]
    linearise(spectrum, level, cubes, data, matrix, shift, radius, 0, side, system)
    losses[0] = _loss(system)
    looks = 1
    best = losses[0]
    while looks < iterations:
        scale = best_scale(system)
        if scale <= 0.0:
            break
        damped[:] = system[:7, :7]
        for i in range(6):
            damped[i, i] *= 1.0 + damping
        if not cholesky_solve(damped, system[:7, 7] - scale * system[:7, 6], full):
            break
        for i in range(6):
            step[i] = full[i] / scale
        longest = step_from(matrix, shift, step, radius, limits, bounds, turned, moved)
        if longest < tolerance:  # taken without another look
            matrix[:], shift[:] = turned, moved
            break
        linearise(spectrum, level, cubes, data, turned, moved, radius, 0, side, tried)
        losses[looks] = _loss(tried)
        looks += 1
        if losses[looks - 1] < best:
            best = losses[looks - 1]
            matrix[:], shift[:], system[:] = turned, moved, tried
            damping = max(damping * 0.1, 1e-7)
        else:
            damping = max(damping, 1e-4) * 10.0
    return looks


@numba.njit(cache=True, nogil=True)
def _loss(system):  # type: ignore[no-untyped-def]
    power = system[6, 6] * system[7, 7]
    return 2 - 2 * system[6, 7] / math.sqrt(power) if power > 0.0 else 2.0


def levenberg_marquardt(
    problem: RealSpaceProblem,
    level: Level,
    data: np.ndarray,
    matrix: np.ndarray,
    shift_xyz: np.ndarray,
    *,
    settings: DampedSettings | None = None,
    rough: bool = False,
    about: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Climb from one candidate pose in one band.

    Parameters
    ----------
    problem, level, data, matrix, shift_xyz
        As of `tomodask.alignment.slab_descent.slab_descent`.
    settings : DampedSettings, optional
    rough : bool
        Take `DampedSettings.rough` for the tolerance.
    about : (array, array), optional
        As of `tomodask.alignment.slab_descent.slab_descent`.

    Returns
    -------
    matrix : array of float64, shape (3, 3)
    shift_xyz : array of float64, shape (3,)
    losses : array of float64, shape (looks,)
        Of every pose that was looked at.
    """
    how = settings or DampedSettings()
    matrix, shift = np.array(matrix, np.float64), np.array(shift_xyz, np.float64)
    losses = np.empty(how.iterations)
    tolerance = how.rough if rough else how.tolerance
    looks = _climb(
        kernel_of(problem.spectrum), level.kernel, scratch(level), data, matrix, shift,
        problem.particle_radius, problem.limits, problem.bounds(matrix, about), how.iterations,
        how.damping, tolerance, losses,
    )  # fmt: skip
    return matrix, shift, losses[:looks]
