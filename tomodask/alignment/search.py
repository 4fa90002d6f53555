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

__all__ = [
    "SearchGrid",
    "candidate_poses",
    "hills",
    "search_grid",
    "shift_grid",
    "shift_phases",
    "turned_models",
]


@dataclass(frozen=True)
class SearchGrid:
    """All that the search needs of one reference, for one measurement.

    Attributes
    ----------
    rotations : array of float64, shape (rotations, 3, 3)
        Reference → particle, acting on (x, y, z) columns.
    model : array of complex64, shape (rotations, count)
        The turned, weighted references at the measured frequencies, each of unit norm.
    index : array of intp, shape (count,)
        Where these frequencies stand in the subtomogram's list.
    shifts_xyz : array of float64, shape (shifts, 3)
        Voxels.
    phases : array of complex64, shape (shifts, count)
        Moves the subtomogram back by each shift.
    separation : float
        Candidates closer than this, in radians, lie on one hill and are one.
    group : array of float64, shape (order, 3, 3)
        The reference's symmetry: R and R g are one pose.
    """

    rotations: np.ndarray
    model: np.ndarray
    index: np.ndarray
    shifts_xyz: np.ndarray
    phases: np.ndarray
    separation: float
    group: np.ndarray


def shift_grid(reach: float, step: float, *, middle: bool = False) -> np.ndarray:
    """Shifts (x, y, z) on a cubic lattice that covers ± `reach`, about `step` apart, voxels.

    With `middle` no shift at all is one of them.
    """
    count = max(int(np.ceil(2 * reach / step)), 1) if reach > 0 else 1
    count += middle and count % 2 == 0
    # The middles of `count` equal intervals: every shift within reach is half a step off at most.
    axis = (np.arange(count) + 0.5) * (2 * reach / count) - reach
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1)


def shift_phases(shifts_xyz: np.ndarray, frequencies: np.ndarray, box: int) -> np.ndarray:
    """What moves a spectrum back by each shift: complex64, shape (shifts, count)."""
    turns = 2j * np.pi / box * (shifts_xyz @ frequencies[:, ::-1].T)
    return np.asarray(np.exp(turns), np.complex64)


def turned_models(
    spectrum: Spectrum,
    frequencies: np.ndarray,
    rotations: Rotation,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """The reference turned by each rotation and weighted, each of unit norm.

    Parameters
    ----------
    spectrum : Spectrum
    frequencies : array, shape (count, 3)
        (z, y, x).
    rotations : Rotation
    weights : array of float32, shape (count,), optional
        What the boxes hold of a particle at each frequency; by default all of it.

    Returns
    -------
    array of complex64, shape (rotations, count)
    """
    model = np.empty((len(rotations), len(frequencies)), np.complex64)
    for j, matrix in enumerate(matrices_zyx(rotations)):
        turned = sample(spectrum, frequencies, matrix.T)
        turned = turned if weights is None else turned * weights
        norm = np.sqrt(np.vdot(turned, turned).real)
        model[j] = turned / norm if norm > 0 else turned
    return model


def search_grid(
    spectrum: Spectrum,
    frequencies: np.ndarray,
    index: np.ndarray,
    rotations: Rotation,
    shifts_xyz: np.ndarray,
    *,
    separation: float,
    weights: np.ndarray | None = None,
    group: np.ndarray | None = None,
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
    group : array, shape (order, 3, 3), optional
        The reference's symmetry; by default it has none.
    """
    return SearchGrid(
        rotations.as_matrix(),
        turned_models(spectrum, frequencies, rotations, weights),
        index,
        shifts_xyz,
        shift_phases(shifts_xyz, frequencies, spectrum.box),
        separation,
        np.eye(3)[None] if group is None else group,
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
    scores = real_products(moved, grid.model)
    best_shift = scores.argmax(0)
    best = np.take_along_axis(scores, best_shift[None], 0)[0]
    chosen = hills(grid.rotations, best, count=count, separation=grid.separation, group=grid.group)
    norm = np.sqrt(np.vdot(there, there).real)
    return (
        grid.rotations[chosen],
        grid.shifts_xyz[best_shift[chosen]],
        best[chosen] / norm if norm > 0 else best[chosen] * 0,
    )


def real_products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Re <a_i, b_j> of complex64 rows, float32: one real matrix product of twice the length."""
    return np.asarray(a.view(np.float32) @ b.view(np.float32).T)


def hills(
    rotations: np.ndarray,
    scores: np.ndarray,
    *,
    count: int,
    separation: float,
    group: np.ndarray,
) -> np.ndarray:
    """Places of the best rotations, no two of them on one hill; equal scores in their order.

    Parameters
    ----------
    rotations : array, shape (n, 3, 3)
    scores : array, shape (n,)
    count : int
        At most so many.
    separation : float
        In radians: two that are closer, or whose equivalents by symmetry are, lie on one hill.
    group : array, shape (order, 3, 3)
    """
    most = min(64 * count, len(scores))
    pool = np.argpartition(-scores, most - 1)[:most]
    pool = pool[np.lexsort((pool, -scores[pool]))]
    limit = 1 + 2 * np.cos(separation)  # the trace of a rotation by the separation
    kept: list[int] = []
    taken = np.empty((0, 9))  # all equivalents of what is kept
    for j in pool:
        if len(taken) and (taken @ rotations[j].ravel()).max() >= limit:
            continue
        kept.append(int(j))
        if len(kept) == count:
            break
        taken = np.concatenate([taken, (rotations[j] @ group).reshape(-1, 9)])
    return np.asarray(kept, np.intp)
