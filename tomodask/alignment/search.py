"""Global search for candidate poses: every rotation × shift scored by one matrix product.

The measured Fourier voxels inside a small radius make a vector of some hundreds of numbers.  Row j
of a matrix is the reference turned by grid rotation j; row i of another is the subtomogram moved
back by grid shift i.  The real part of their product holds the correlation of every pair, and
costs what a matrix product costs: the machine's peak rate.  Where the weights of the tilt series
are known (wedge, contrast transfer, damage), the turned reference is multiplied by them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import matrices_zyx
from tomodask.arrays.sampling import Spectrum, sample

__all__ = ["SearchGrid", "candidate_poses", "search_grid", "shift_grid"]


@dataclass(frozen=True)
class SearchGrid:
    """All that the search needs of the reference, for one measurement.

    Attributes
    ----------
    rotations : array of float64, shape (rotations, 3, 3)
        Reference → particle, acting on (x, y, z) columns.
    model : array of float32, shape (2 × count, rotations)
        The turned, weighted references at the measured frequencies, real parts above imaginary
        ones, each of unit norm.
    index : array of intp, shape (count,)
        Where these frequencies stand in the subtomogram's list.
    shifts_xyz : array of float64, shape (shifts, 3)
        Voxels.
    phases : array of complex64, shape (shifts, count)
        Moves the subtomogram back by each shift.
    separation : float
        Candidates closer than this, in radians, lie on one hill and are one.
    """

    rotations: np.ndarray
    model: np.ndarray
    index: np.ndarray
    shifts_xyz: np.ndarray
    phases: np.ndarray
    separation: float


def shift_grid(reach: float, step: float) -> np.ndarray:
    """Shifts (x, y, z) on a cubic lattice that covers ± `reach`, about `step` apart, voxels."""
    count = max(int(np.ceil(2 * reach / step)), 1) if reach > 0 else 1
    # The middles of `count` equal intervals: every shift within reach is half a step off at most.
    axis = (np.arange(count) + 0.5) * (2 * reach / count) - reach
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1)


def search_grid(
    spectrum: Spectrum,
    frequencies: np.ndarray,
    index: np.ndarray,
    rotations: Rotation,
    shifts_xyz: np.ndarray,
    *,
    separation: float,
    weights: np.ndarray | None = None,
) -> SearchGrid:
    """Turn the reference by every rotation of the grid, once for all particles of one measurement.

    Parameters
    ----------
    spectrum : Spectrum
        Of the reference.
    frequencies : array, shape (count, 3)
        The measured frequencies to search with, (z, y, x).
    index : array, shape (count,)
    rotations : Rotation
    shifts_xyz : array, shape (shifts, 3)
        Voxels.
    separation : float
        Candidates closer than this, in radians, are one.
    weights : array of float32, shape (count,), optional
        What the boxes hold of a particle at each frequency; by default all of it.
    """
    model = np.empty((2 * len(frequencies), len(rotations)), np.float32)
    for j, matrix in enumerate(matrices_zyx(rotations)):
        turned = sample(spectrum, frequencies, matrix.T)
        turned = turned if weights is None else turned * weights
        norm = np.sqrt(np.vdot(turned, turned).real)
        turned = turned / norm if norm > 0 else turned
        model[: len(frequencies), j], model[len(frequencies) :, j] = turned.real, turned.imag
    phases = np.exp(2j * np.pi / spectrum.box * (shifts_xyz @ frequencies[:, ::-1].T))
    return SearchGrid(
        rotations.as_matrix(), model, index, shifts_xyz, phases.astype(np.complex64), separation
    )


def candidate_poses(
    grid: SearchGrid, data: np.ndarray, *, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best poses of one subtomogram on the grid, one a hill of the score.

    Parameters
    ----------
    grid : SearchGrid
    data : array of complex64
        The subtomogram at its list of frequencies.
    count : int
        At most so many.

    Returns
    -------
    matrices : array of float64, shape (n, 3, 3)
        Highest score first.
    shifts_xyz : array of float64, shape (n, 3)
        Voxels.
    scores : array of float32, shape (n,)
        Constrained correlation in the search's band.
    """
    there = data[grid.index]
    moved = grid.phases * there
    scores = np.concatenate([moved.real, moved.imag], axis=1) @ grid.model  # (shifts, rotations)
    best_shift = scores.argmax(0)
    best = np.take_along_axis(scores, best_shift[None], 0)[0]
    pool = np.argpartition(-best, min(64 * count, len(best) - 1))[: 64 * count]
    pool = pool[np.lexsort((pool, -best[pool]))]
    kept: list[int] = []
    limit = 1 + 2 * np.cos(grid.separation)  # the trace of a rotation by the separation
    for j in pool:
        rotation = grid.rotations[j]
        if all(np.tensordot(rotation, grid.rotations[i]) < limit for i in kept):
            kept.append(int(j))
            if len(kept) == count:
                break
    chosen = np.asarray(kept)
    norm = np.sqrt(np.vdot(there, there).real)
    return (
        grid.rotations[chosen],
        grid.shifts_xyz[best_shift[chosen]],
        best[chosen] / norm if norm > 0 else best[chosen] * 0,
    )
