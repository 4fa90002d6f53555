"""Refinement of candidate poses in real space: the way through its bands.

Two methods share everything but the descent itself: the bands and their grids (`slabs`), the
derivatives, the pruning of candidates and the score that ranks them.

* ``"mbgd"``: random slabs of the box, `tomodask.alignment.slab_descent`;
* ``"lm"``: the whole volume in every iteration, `tomodask.alignment.levenberg_marquardt`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tomodask.alignment.levenberg_marquardt import DampedSettings, levenberg_marquardt
from tomodask.alignment.real_space_problem import RealSpaceProblem
from tomodask.alignment.refinement import correlation
from tomodask.alignment.slab_descent import SlabSettings, slab_descent
from tomodask.alignment.slabs import Level, volume_of

__all__ = ["CLOSE", "SAME", "refine_real_space"]

#: Poses have met that differ by less than this phase at the band's edge, radians: one hill.
SAME = 1.0
#: Share of the best score by which a candidate may lag before its last steps.
CLOSE = 0.01


def refine_real_space(
    problem: RealSpaceProblem,
    data: np.ndarray,
    matrices: np.ndarray,
    shifts_xyz: np.ndarray,
    *,
    method: str = "mbgd",
    rng: np.random.Generator,
    about: tuple[np.ndarray, np.ndarray] | None = None,
    mbgd: SlabSettings | None = None,
    lm: DampedSettings | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Refine the candidate poses of one particle, band by band.

    Both methods go the same way.  In each band all candidates that are left are refined roughly;
    of those that have met (within the phase `SAME`) one stays, and the better two thirds go on,
    two at least.  After the last band, those whose score is within `CLOSE` of the
    best are refined to the end.

    Parameters
    ----------
    problem : RealSpaceProblem
    data : array of complex64, shape (count,)
        The particle at the problem's frequencies, as of `tomodask.arrays.sampling.spectrum_at`.
    matrices : array, shape (candidates, 3, 3)
        Reference → particle, acting on (x, y, z) columns.
    shifts_xyz : array, shape (candidates, 3)
        Of the particle from the box's centre, voxels.
    method : {"mbgd", "lm"}
    rng : numpy.random.Generator
        Draws the slabs; the particle's own.
    about : (array, array), optional
        A matrix and a shift that the problem's `reach` and `turn_reach` count from, as of
        `tomodask.alignment.refinement.refine_pose`.
    mbgd, lm : optional
        Settings of either method.

    Returns
    -------
    matrices : array of float64, shape (left, 3, 3)
        Of the candidates that reached the last band, the highest score first.
    shifts_xyz : array of float64, shape (left, 3)
    scores : array of float64, shape (left,)
        Constrained correlation in the last band, as of `tomodask.alignment.refinement.correlation`.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    if method not in ("mbgd", "lm"):
        raise ValueError(f'method must be "mbgd" or "lm", got {method!r}')
    slab, damped = mbgd or SlabSettings(), lm or DampedSettings()
    matrices = np.array(matrices, np.float64)
    shifts = np.array(shifts_xyz, np.float64)
    scores = np.zeros(len(matrices))
    last = len(problem.levels) - 1
    for number, level in enumerate((*problem.levels, problem.levels[-1])):
        ends = number > last
        if ends and slab.stopping == "literal" and method == "mbgd":
            break  # nothing follows the paper's rule
        listed = data[level.index]
        volume = volume_of(level, listed)
        weights = level.weights if level.weights.size else None
        for i in range(len(matrices)):
            if method == "mbgd":
                how = replace(slab, passes=0) if ends else _in_band(slab, number, last)
                matrices[i], shifts[i], _ = slab_descent(
                    problem, level, volume, matrices[i], shifts[i],
                    rng=rng, settings=how, about=about,
                )  # fmt: skip
            else:
                matrices[i], shifts[i], _ = levenberg_marquardt(
                    problem, level, volume, matrices[i], shifts[i],
                    settings=damped, rough=not ends, about=about,
                )  # fmt: skip
            scores[i] = correlation(
                problem.spectrum, level.frequencies, listed, matrices[i], shifts[i], weights
            )
        order = np.argsort(-scores, kind="stable")
        order = order[_apart(problem, level, matrices[order], shifts[order])]
        if number < last:
            order = order[: max(2, (2 * len(order) + 2) // 3)]
        elif number == last:
            order = order[scores[order] >= scores[order[0]] - CLOSE * abs(scores[order[0]])]
        matrices, shifts, scores = matrices[order], shifts[order], scores[order]
    return matrices, shifts, scores


def _in_band(settings: SlabSettings, number: int, last: int) -> SlabSettings:
    """Half the passes of half the slabs from band to band: less is left to be found there.

    Two steps on all slices end the coarse bands, where they cost little and the ranking gains.
    """
    if settings.stopping == "literal":
        return settings
    return replace(
        settings,
        slabs=max(1, settings.slabs >> number),
        passes=max(1, settings.passes >> number),
        finish=min(settings.finish, 2) if number < last else 0,
    )


def _apart(
    problem: RealSpaceProblem, level: Level, matrices: np.ndarray, shifts_xyz: np.ndarray
) -> list[int]:
    """Of poses, the best first, those that are not on the hill of a better one."""
    move = SAME / (2 * np.pi * level.radius / problem.spectrum.box)  # voxels
    limit = 1 + 2 * math.cos(min(move / problem.particle_radius, np.pi))  # the trace of that turn
    kept: list[int] = []
    for i in range(len(matrices)):
        if not any(
            np.tensordot(matrices[j] @ problem.group, matrices[i]).max() > limit
            and np.linalg.norm(shifts_xyz[i] - shifts_xyz[j]) < move
            for j in kept
        ):
            kept.append(i)
    return kept
