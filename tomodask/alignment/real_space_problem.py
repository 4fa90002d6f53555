"""What a refinement in real space needs of the reference, prepared once for one measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tomodask.alignment.slabs import Level
from tomodask.arrays.sampling import Spectrum

__all__ = ["GROWTH", "RealSpaceProblem"]

#: Bands nearer to the last than this factor are left out.
GROWTH = 1.25


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
