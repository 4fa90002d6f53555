"""Refinement of candidate poses by mini-batch gradient descent in Fourier space.

Algorithm 1 of [1]_ descends the misfit of subtomogram and reference on a random slab of the box at
each step, so that a step costs a part of a pass.  Here the mini-batch is a random part of the
*Fourier* voxels instead: there the missing wedge is exact (a voxel was measured or it was not), the
misfit of white noise has equal weight everywhere, and of 64³ voxels some thousands hold all the
information.  Three things turn the descent into one that ends at the maximum of the likelihood:

* a step is preconditioned by the batch's own 6 × 6 Fisher matrix (Gauss-Newton), so that no step
  size has to be tuned between degrees and voxels;
* the band grows: low frequencies first, whose phases turn slowly, so that a pose from a coarse grid
  lies within the basin of the optimum;
* the batch grows to the whole band in the last steps, so that the noise of the batches dies out.

What the boxes hold of a particle is ``w(k)`` times its spectrum, with the weights w of the tilt
series where they are known and 1 otherwise: the model and its derivatives are multiplied by them.

The scale between reference and subtomogram is solved for in every step, which makes the misfit
equivalent to the constrained correlation (d = 2 − 2 CCC at the best scale).

.. [1] Lü et al., "Subtomogram refined alignment based on mini-batch gradient descent and Spark
   distribution" (2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from tomodask.alignment.model_sums import derivative_sums, product_sums, sample_words
from tomodask.alignment.steps import cholesky_solve, turn_within, turned_by
from tomodask.arrays.sampling import Spectrum

__all__ = ["TOLERANCE", "Stage", "batch_order", "correlation", "normal_equations", "refine_pose"]

#: A pass whose steps all stay below this, in radians, ends a stage.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Stage:
    """One band of the refinement.

    Attributes
    ----------
    frequencies : array of float32, shape (count, 3)
        The measured Fourier voxels of the band, (z, y, x); mini-batches are contiguous parts.
    index : array of intp, shape (count,)
        Where they stand in the subtomogram's list of Fourier voxels.
    batches : int
        The band is cut into so many mini-batches; 1 is the whole.
    passes : int
        How often all of them are seen.
    weights : array of float32, shape (count,), optional
        What the subtomograms hold of a particle there; by default all of it.
    """

    frequencies: np.ndarray
    index: np.ndarray
    batches: int
    passes: int
    weights: np.ndarray | None = None


_NONE = np.empty(0, np.float32)


def correlation(
    spectrum: Spectrum,
    frequencies: np.ndarray,
    data: np.ndarray,
    matrix: np.ndarray,
    shift_xyz: np.ndarray,
    weights: np.ndarray | None = None,
) -> float:
    """The constrained correlation of a subtomogram and the turned, moved reference.

    Parameters
    ----------
    spectrum : Spectrum
        Of the reference.
    frequencies : array of float32, shape (count, 3)
        The measured Fourier voxels, (z, y, x).
    data : array of complex64, shape (count,)
        The subtomogram there.
    matrix : array, shape (3, 3)
        Reference → particle, acts on (x, y, z) columns.
    shift_xyz : array, shape (3,)
        Of the particle from the box's centre, voxels.
    weights : array of float32, shape (count,), optional
        What the subtomogram holds of a particle there; by default all of it.

    Returns
    -------
    float in [-1, 1]
    """
    cross, model, power = product_sums(
        *sample_words(spectrum),
        frequencies,
        _NONE if weights is None else weights,
        data,
        np.asarray(matrix, np.float32),
        np.asarray(shift_xyz, np.float32),
        spectrum.box,
    )
    return float(cross / math.sqrt(model * power)) if model > 0 and power > 0 else 0.0


def normal_equations(
    spectrum: Spectrum,
    frequencies: np.ndarray,
    data: np.ndarray,
    matrix: np.ndarray,
    shift_xyz: np.ndarray,
    part: slice | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Products of model, its six derivatives and the data, summed over Fourier voxels.

    Returns
    -------
    array of float64, shape (8, 8)
        Of the columns: turn about x, y, z (radians, particle frame), shift along x, y, z (voxels),
        the model, the data.  Other arguments as in `correlation`.
    """
    start, stop, _ = (part or slice(None)).indices(len(frequencies))
    out = np.empty((8, 8))
    derivative_sums(
        *sample_words(spectrum),
        frequencies,
        _NONE if weights is None else weights,
        data,
        start,
        stop,
        np.asarray(matrix, np.float32),
        np.asarray(shift_xyz, np.float32),
        spectrum.box,
        out,
    )
    return out


@numba.njit(cache=True, nogil=True, fastmath=False)
def _solve(system, turn_limit, shift_limit, step):  # type: ignore[no-untyped-def]
    """The Gauss-Newton step of pose and scale; False where the data contradict the model."""
    x = np.empty(7)
    if not cholesky_solve(system[:7, :7], system[:7, 7], x):
        return False
    # The last unknown is the scale; a tiny or negative one would throw the pose far away.
    floor = 0.3 * system[6, 7] / system[6, 6]
    scale = max(x[6], floor)
    if scale <= 0.0:
        return False
    turn = math.sqrt(x[0] ** 2 + x[1] ** 2 + x[2] ** 2) / scale
    move = math.sqrt(x[3] ** 2 + x[4] ** 2 + x[5] ** 2) / scale
    shrink = 1.0 / scale
    if turn > turn_limit:
        shrink = min(shrink, turn_limit / turn / scale)
    if move > shift_limit:
        shrink = min(shrink, shift_limit / move / scale)
    for i in range(6):
        step[i] = x[i] * shrink
    return True


@numba.njit(cache=True, fastmath=True, nogil=True, boundscheck=False, error_model="numpy")
def _descend(  # type: ignore[no-untyped-def]
    words,
    rim,
    padding,
    box,
    frequencies,
    weights,
    data,
    batches,
    passes,
    order,
    matrix,
    shift,
    turn_limit,
    shift_limit,
    center,
    reach,
    origin,
    turn_reach,
    tolerance,
):
    """All steps of one stage on one candidate; matrix and shift are changed in place."""
    system = np.empty((8, 8))
    step = np.zeros(6)
    turned = np.empty((3, 3))
    m32, s32 = np.empty((3, 3), np.float32), np.empty(3, np.float32)
    total = frequencies.shape[0]
    for p in range(passes):
        longest = 0.0
        for b in range(batches):
            part = order[p * batches + b]
            m32[:], s32[:] = matrix, shift
            derivative_sums(
                words,
                rim,
                padding,
                frequencies,
                weights,
                data,
                total * part // batches,
                total * (part + 1) // batches,
                m32,
                s32,
                box,
                system,
            )
            if not _solve(system, turn_limit, shift_limit, step):
                continue
            turned_by(step, matrix, turned)
            matrix[:] = turned
            if turn_reach < math.pi:
                turn_within(matrix, origin, turn_reach)
            for i in range(3):
                moved = shift[i] + step[3 + i]
                shift[i] = min(max(moved, center[i] - reach), center[i] + reach)
                longest = max(longest, abs(step[i]), abs(step[3 + i]) * 6.0 / box)
        if longest < tolerance:
            break


def batch_order(passes: int, batches: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of a stage's mini-batches in the order of its steps, shape (passes * batches,)."""
    return np.concatenate([rng.permutation(batches) for _ in range(passes)])


def refine_pose(
    spectrum: Spectrum,
    stage: Stage,
    data: np.ndarray,
    matrix: np.ndarray,
    shift_xyz: np.ndarray,
    *,
    rng: np.random.Generator | np.ndarray,
    turn_limit: float,
    shift_limit: float,
    reach: float = math.inf,
    turn_reach: float = math.inf,
    about: tuple[np.ndarray, np.ndarray] | None = None,
    tolerance: float = TOLERANCE,
) -> tuple[np.ndarray, np.ndarray]:
    """Descend from one candidate pose through one stage.

    Parameters
    ----------
    spectrum : Spectrum
        Of the reference.
    stage : Stage
    data : array of complex64, shape (count,)
        The subtomogram at the stage's frequencies.
    matrix, shift_xyz
        The candidate, as in `correlation`.
    rng : numpy.random.Generator or array of int
        Draws the order of the mini-batches, or this order, see `batch_order`.
    turn_limit, shift_limit : float
        No step turns or moves by more: radians, voxels.
    reach, turn_reach : float
        The pose stays within ± `reach` (voxels) along each axis and `turn_reach` (radians) of
        `about`.
    about : (array, array), optional
        A matrix and a shift; by default no shift, and the candidate's own matrix.
    tolerance : float
        A pass whose steps all stay below this, in radians, ends the stage.

    Returns
    -------
    matrix : array of float64, shape (3, 3)
    shift_xyz : array of float64, shape (3,)
    """
    matrix, shift = np.array(matrix, np.float64), np.array(shift_xyz, np.float64)
    origin, center = (matrix.copy(), np.zeros(3)) if about is None else about
    order = rng
    if isinstance(order, np.random.Generator):
        order = batch_order(stage.passes, stage.batches, order)
    _descend(
        *sample_words(spectrum), spectrum.box, stage.frequencies,
        _NONE if stage.weights is None else stage.weights, data, stage.batches, stage.passes, order,
        matrix, shift, turn_limit, shift_limit, np.asarray(center, np.float64), reach,
        np.ascontiguousarray(origin, np.float64), turn_reach, tolerance,
    )  # fmt: skip
    return matrix, shift
