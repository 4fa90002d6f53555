"""Refinement of candidate poses in real space: what it needs, prepared once, and the way through.

Two methods share everything but the descent itself: the bands and their grids (`slabs`), the
derivatives, the pruning of candidates and the score that ranks them.

* ``"mbgd"``: random slabs of the box, `tomodask.alignment.slab_descent`;
* ``"lm"``: the whole volume in every iteration, `tomodask.alignment.levenberg_marquardt`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tomodask.alignment.levenberg_marquardt import DampedSettings, levenberg_marquardt
from tomodask.alignment.refinement import correlation
from tomodask.alignment.slab_descent import SlabSettings, slab_descent
from tomodask.alignment.slabs import Level, volume_of
from tomodask.arrays.sampling import Spectrum

__all__ = ["CLOSE", "GROWTH", "SAME", "RealSpaceProblem", "refine_real_space"]

#: Poses have met that differ by less than this phase at the band's edge, radians: one hill.
SAME = 1.0
#: Bands nearer to the last than this factor are left out.
GROWTH = 1.25
#: Share of the best score by which a candidate may lag before its last steps.
CLOSE = 0.01


@dataclass(frozen=True)
class RealSpaceProblem:
    """All that a refinement in real space needs of the reference, for one measurement.

    Attributes
    ----------
    spectrum : Spectrum
        Of the masked reference.
    levels : tuple of Level
        Bands, the coarsest first.
    particle_radius : float
        Translations are measured in units of it, so that they are of one size with turns; voxels.
    turn_limit, shift_limit : float
        No step is longer; radians, voxels.
    reach, turn_reach : float
        No pose is farther than this from the one given: voxels along an axis, radians.
    group : array of float64, shape (order, 3, 3)
        Turns that leave the reference as it is: of equivalent candidates one goes on.
    """

    spectrum: Spectrum
    levels: tuple[Level, ...]
    particle_radius: float
    turn_limit: float
    shift_limit: float
    reach: float
    turn_reach: float
    group: np.ndarray

    @property
    def limits(self) -> tuple[float, float]:
        """Of a step: radians, voxels."""
        return float(self.turn_limit), float(self.shift_limit)

    def bounds(
        self, matrix: np.ndarray, about: tuple[np.ndarray, np.ndarray] | None
    ) -> tuple[np.ndarray, float, np.ndarray, float]:
        """What holds a pose, for the compiled functions."""
        origin, center = (matrix, np.zeros(3)) if about is None else about
        return (
            np.array(origin, np.float64), float(self.turn_reach),
            np.array(center, np.float64), float(self.reach),
        )  # fmt: skip

    @classmethod
    def of(
        cls,
        spectrum: Spectrum,
        frequencies: np.ndarray,
        weights: np.ndarray | None = None,
        *,
        radii: Sequence[float] | None = None,
        mask_radius: float | None = None,
        particle_radius: float | None = None,
        turn_limit: float = 0.2,
        shift_limit: float = 2.0,
        reach: float = math.inf,
        turn_reach: float = math.inf,
        group: np.ndarray | None = None,
    ) -> RealSpaceProblem:
        """Prepare the refinement, once for all particles of one measurement.

        Parameters
        ----------
        spectrum : Spectrum
            Of the masked reference, of boxes of ``spectrum.box`` voxels.
        frequencies : array of float32, shape (count, 3)
            The Fourier voxels (z, y, x) that a particle's list holds: one of each conjugate pair.
        weights : array of float32, shape (count,), optional
            What the boxes hold of a particle there; by default all of it.
        radii : sequence of float, optional
            Of the bands, rising, Fourier voxels; by default half and all of what there is.  A
            band that is not `GROWTH` times narrower than the last is left out: it costs nearly as
            much and tells the same.
        mask_radius : float, optional
            Of the binary mask under which volumes are compared, voxels; by default the whole box.
            It does not move: a particle at the farthest shift should be under it.
        particle_radius : float, optional
            Voxels; by default a quarter of the box's edge.
        turn_limit, shift_limit, reach, turn_reach : float
            As the attributes.
        group : array, shape (order, 3, 3), optional
            As the attribute; by default the identity alone.
        """
        length = np.linalg.norm(frequencies, axis=1)
        wanted = list(radii or (length.max() / 2, length.max()))
        levels = []
        for radius in [one for one in wanted[:-1] if one * GROWTH <= wanted[-1]] + wanted[-1:]:
            index = np.flatnonzero(length <= radius)
            if len(index) < 8:
                continue
            held = None if weights is None else weights[index]
            levels.append(
                Level.of(frequencies[index], held, index, box=spectrum.box, mask_radius=mask_radius)
            )
        return cls(
            spectrum,
            tuple(levels),
            spectrum.box / 4 if particle_radius is None else particle_radius,
            turn_limit,
            shift_limit,
            reach,
            turn_reach,
            np.eye(3)[None] if group is None else np.asarray(group, np.float64),
        )


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
