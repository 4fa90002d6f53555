"""Refinement of candidate poses in real space: what it needs, prepared once, and the way through.

Two methods share everything but the descent itself: the bands and their grids (`slabs`), the
derivatives, the pruning of candidates and the score that ranks them.

* ``"mbgd"``: random slabs of the box, `tomodask.alignment.slab_descent`;
* ``"lm"``: the whole volume in every iteration, `tomodask.alignment.levenberg_marquardt`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tomodask.alignment.levenberg_marquardt import DampedSettings, levenberg_marquardt
from tomodask.alignment.refinement import correlation
from tomodask.alignment.slab_descent import SlabSettings, slab_descent
from tomodask.alignment.slabs import Level, volume_of
from tomodask.arrays.sampling import Spectrum

__all__ = ["RealSpaceProblem", "refine_real_space"]


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
    reach : float
        No pose is shifted farther along an axis, voxels.
    """

    spectrum: Spectrum
    levels: tuple[Level, ...]
    particle_radius: float
    turn_limit: float
    shift_limit: float
    reach: float

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
            Of the bands, rising, Fourier voxels; by default half and all of what there is.
        mask_radius : float, optional
            Of the binary mask under which volumes are compared, voxels; by default the whole box.
            It does not move: a particle at the farthest shift should be under it.
        particle_radius : float, optional
            Voxels; by default a quarter of the box's edge.
        turn_limit, shift_limit, reach : float
            As the attributes.
        """
        length = np.linalg.norm(frequencies, axis=1)
        levels = []
        for radius in radii or (length.max() / 2, length.max()):
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
        )


def refine_real_space(
    problem: RealSpaceProblem,
    data: np.ndarray,
    matrices: np.ndarray,
    shifts_xyz: np.ndarray,
    *,
    method: str = "mbgd",
    rng: np.random.Generator,
    mbgd: SlabSettings | None = None,
    lm: DampedSettings | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Refine the candidate poses of one particle, band by band.

    After each band the better two thirds of the candidates go on, two at least.

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
    matrices = np.array(matrices, np.float64)
    shifts = np.array(shifts_xyz, np.float64)
    scores = np.zeros(len(matrices))
    for number, level in enumerate(problem.levels):
        listed = data[level.index]
        volume = volume_of(level, listed)
        weights = level.weights if level.weights.size else None
        for i in range(len(matrices)):
            if method == "mbgd":
                matrices[i], shifts[i], _ = slab_descent(
                    problem, level, volume, matrices[i], shifts[i], rng=rng, settings=mbgd
                )
            else:
                matrices[i], shifts[i], _ = levenberg_marquardt(
                    problem, level, volume, matrices[i], shifts[i], settings=lm
                )
            scores[i] = correlation(
                problem.spectrum, level.frequencies, listed, matrices[i], shifts[i], weights
            )
        order = np.argsort(-scores, kind="stable")
        if number + 1 < len(problem.levels):
            order = order[: max(2, (2 * len(order) + 2) // 3)]
        matrices, shifts, scores = matrices[order], shifts[order], scores[order]
    return matrices, shifts, scores
