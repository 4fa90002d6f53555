"""Mini-batch gradient descent on random slabs of the box: Algorithm 1 of [1]_.

A step sees B slices along x and goes ``β ← β - (α_k / B) Σ H'_β``.  What the paper leaves open is
settled so:

* **Directions.** Turns are steps in the tangent space at the current rotation, shifts are in units
  of the particle's radius.
* **α_k** is a matrix: the inverse of the slabs' own curvature (Gauss-Newton), summed over the slabs
  seen so far.  So nothing has to be tuned between degrees and voxels, between reference and noise,
  or between strong and weak slabs.  With T the sum of the slabs' normal equations and S those of
  the slab at hand, of m slices in all::

      T ← S + (1 - B/m) T,      step = T⁻¹ · (gradient of S)

  In the beginning T stands for one slab, and is taken ``caution`` times the whole box, so that one
  slab cannot throw the pose away; then it fills up until it remembers about one pass, and α_k has
  fallen to B/m of a whole step.  A slab of all slices (B = m) forgets everything: it is one
  Gauss-Newton step of the whole volume.
* **Slabs** are drawn without replacement within a pass: a pass sees every slice once, in slabs
  whose borders and order are drawn anew.
* **The end.** With ``stopping="patience"`` the descent of a band ends after its passes, or when the
  loss, averaged over a pass of slabs, has not fallen for `patience` steps; then a few steps
  look at all slices, so that the noise of the slabs dies out.  ``"literal"`` is the paper's rule:
  keep the least slab loss min_d, and leave as soon as a step changes it by no more than
  `tolerance`; nothing follows.

.. [1] Lü et al., "Subtomogram refined alignment based on mini-batch gradient descent and Spark
   distribution" (2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from tomodask.alignment.real_space_problem import RealSpaceProblem
from tomodask.alignment.slabs import Level, kernel_of, linearise, scratch
from tomodask.alignment.steps import best_scale, cholesky_solve, step_from

__all__ = ["SlabSettings", "draw_slabs", "slab_descent"]


@dataclass(frozen=True)
class SlabSettings:
    """How the descent goes; see the module for what each means.

    Attributes
    ----------
    slabs : int
        A pass is cut into so many slabs: B is the slices under the mask divided by it.
    passes : int
        At most so many in a band: maxIter is ``slabs × passes``.
        `tomodask.alignment.real_space.refine_real_space` halves both from band to band.
    finish : int
        At most so many steps on all slices at the end.
    shortest : float
        A step on all slices below this, in radians and particle radii, is the last.
    caution : float
        How much of the whole box the first slab's curvature is taken for.
    stopping : {"patience", "literal"}
    patience : int
        Steps.
    tolerance : float
        Of the loss: the paper's eps.
    """

    slabs: int = 4
    passes: int = 3
    finish: int = 6
    shortest: float = 2e-3
    caution: float = 0.5
    stopping: str = "patience"
    patience: int = 6
    tolerance: float = 1e-4


def draw_slabs(rng: np.random.Generator, side: int, count: int, passes: int) -> np.ndarray:
    """Slabs that cover all slices once a pass: first slice and the one after the last.

    Returns
    -------
    array of int64, shape (steps, 2)
    """
    width = max(side / count, 1.0)
    out = [np.empty((0, 2), np.int64)]
    for _ in range(passes):
        # Borders a random part of a slab off; what is cut off at one end joins the other slabs.
        inner = np.rint((np.arange(1, count + 1) - rng.random()) * width).astype(np.int64)
        inner = inner[(inner >= width / 2) & (inner <= side - width / 2)]
        edges = np.unique(np.concatenate([[0], inner, [side]]))
        slabs = np.stack([edges[:-1], edges[1:]], axis=1)
        out.append(rng.permutation(slabs))
    return np.concatenate(out)


@numba.njit(cache=True, nogil=True)
def _descend(  # type: ignore[no-untyped-def]
    spectrum,
    level,
    cubes,
    data,
    slabs,
    drawn,
    window,
    matrix,
    shift,
    radius,
    limits,
    bounds,
    caution,
    literal,
    patience,
    tolerance,
    shortest,
    losses,
):
    """All steps of a band on one candidate, pose in place; returns how many were taken.

    The first `drawn` of the slabs are subject to the stopping rule, those after it are not.
    """
    system, total = np.empty((9, 9)), np.zeros((9, 9))
    gradient, step, full = np.empty(7), np.zeros(6), np.zeros(7)
    turned, moved = np.empty((3, 3)), np.empty(3)
    side = data.shape[0]
    least, lowest, waited, taken, at = math.inf, math.inf, 0, 0, 0
    while at < slabs.shape[0]:
        first, last = slabs[at, 0], slabs[at, 1]
        linearise(spectrum, level, cubes, data, matrix, shift, radius, first, last, system)
        share = (last - first) / side
        if taken == 0:
            total[:] = system * max(caution / share, 1.0)
        else:
            total[:] = system + (1.0 - share) * total
        power = system[6, 6] * system[7, 7]
        losses[taken] = 2 - 2 * system[6, 7] / math.sqrt(power) if power > 0.0 else 2.0
        taken += 1
        scale, length = best_scale(total), math.inf
        if scale > 0.0:
            for i in range(7):
                gradient[i] = system[i, 7] - scale * system[i, 6]
            if cholesky_solve(total[:7, :7], gradient, full):
                for i in range(6):
                    step[i] = full[i] / scale
                length = step_from(matrix, shift, step, radius, limits, bounds, turned, moved)
                matrix[:], shift[:] = turned, moved
        at += 1
        if at > drawn:
            if length < shortest:
                break
            continue
        stop = False
        if literal:
            before = least
            least = min(least, losses[taken - 1])
            stop = taken > 1 and before - least <= tolerance
        elif taken >= window:
            mean = losses[taken - window : taken].mean()
            if mean < lowest - tolerance:
                lowest, waited = mean, 0
            else:
                waited += 1
            stop = waited >= patience
        if stop:
            at = drawn
    return taken


def slab_descent(
    problem: RealSpaceProblem,
    level: Level,
    data: np.ndarray,
    matrix: np.ndarray,
    shift_xyz: np.ndarray,
    *,
    rng: np.random.Generator,
    settings: SlabSettings | None = None,
    about: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Descend from one candidate pose in one band.

    Parameters
    ----------
    problem : RealSpaceProblem
    level : Level
        One of the problem's.
    data : array of float32, shape (side, side, side)
        The particle, from `tomodask.alignment.slabs.volume_of`.
    matrix, shift_xyz
        The candidate: reference → particle, acting on (x, y, z) columns; voxels.
    rng : numpy.random.Generator
        Draws the slabs; the particle's own.
    settings : SlabSettings, optional
    about : (array, array), optional
        The pose that the problem's `reach` and `turn_reach` count from; by default no shift, and
        the candidate's own matrix.

    Returns
    -------
    matrix : array of float64, shape (3, 3)
    shift_xyz : array of float64, shape (3,)
    losses : array of float64, shape (steps,)
        Of each step's slab, before the step.
    """
    how = settings or SlabSettings()
    matrix, shift = np.array(matrix, np.float64), np.array(shift_xyz, np.float64)
    side = len(level.grid)
    slabs = draw_slabs(rng, side, how.slabs, how.passes)
    drawn = len(slabs)
    literal = how.stopping == "literal"
    if not literal:
        slabs = np.concatenate([slabs, np.tile([[0, side]], (how.finish, 1))])
    losses = np.empty(len(slabs))
    taken = _descend(
        kernel_of(problem.spectrum), level.kernel, scratch(level), data, slabs, drawn, how.slabs,
        matrix, shift, problem.particle_radius, problem.limits, problem.bounds(matrix, about),
        how.caution, literal, how.patience, how.tolerance,
        how.shortest, losses,
    )  # fmt: skip
    return matrix, shift, losses[:taken]
