"""Global search for candidate poses: every rotation × shift scored by one matrix product.

The measured Fourier voxels inside a small radius make a vector of some hundreds of numbers.  Row j
of a matrix is the reference turned by grid rotation j; row i of another is the subtomogram moved
back by grid shift i.  The real part of their product holds the correlation of every pair, and
costs what a matrix product costs: the machine's peak rate.  Where the weights of the tilt series
are known (wedge, contrast transfer, damage), the turned reference is multiplied by them.

Most rotations are told off by few of these numbers.  So all are scored in a narrower band first,
where a coarser lattice of shifts will do, and its better part in wider ones: of the products of a
flat search less than a tenth is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import matrices_zyx
from tomodask.arrays.sampling import Spectrum, sample

__all__ = [
    "POOL",
    "SHIFTS",
    "Level",
    "SearchGrid",
    "candidate_poses",
    "hills",
    "real_products",
    "search_grid",
    "shift_grid",
    "shift_phases",
    "turned_models",
]


#: Of a level: the share of the band's information on the rotation that it looks at, the share of
#: all rotations that pass it, and how many pass at least.  So few rotations that all would pass the
#: first are searched flat.  Of few, as with symmetry, little time would be saved by letting
#: fewer pass, and at low signal some of the best lost.
_LEVELS = ((0.25, 0.25, 256), (0.45, 0.08, 160), (0.7, 0.025, 96))
#: Spacing of shifts, in parts of the box over a band's radius: half of it along an axis, the most a
#: particle is off, is a phase of 1.4 rad at the rim of the band for a level, 1.3 rad in the end.
_LEVEL_SHIFTS, SHIFTS = 0.45, 0.40
#: For each candidate that is asked for, so many of the best rotations are looked through for hills.
POOL = 64


@dataclass(frozen=True)
class Level:
    """A narrower band that sorts rotations out.

    Attributes
    ----------
    phases : array of complex64, shape (shifts, count)
        Of the first `count` frequencies of the grid.
    scale : array of float32, shape (rotations,)
        One over the norm of the turned references there.
    passing : int
        So many rotations go on.
    """

    phases: np.ndarray
    scale: np.ndarray
    passing: int


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
        Where these frequencies stand in the subtomogram's list; lowest frequency first.
    levels : tuple of Level
        Narrowest band first.
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
    levels: tuple[Level, ...]
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
    shift_range: float,
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
    shift_range : float
        Voxels along each axis.
    separation : float
        Candidates closer than this, in radians, are one.
    weights : array of float32, shape (count,), optional
        What the boxes hold of a particle at each frequency; by default all of it.
    group : array, shape (order, 3, 3), optional
        The reference's symmetry; by default it has none.
    """
    radius = np.linalg.norm(frequencies, axis=1)
    order = np.argsort(radius, kind="stable")
    frequencies, index, radius = frequencies[order], index[order], radius[order]
    weights = None if weights is None else weights[order]
    model = turned_models(spectrum, frequencies, rotations, weights)
    shifts = shift_grid(shift_range, SHIFTS * spectrum.box / radius[-1])
    return SearchGrid(
        rotations=rotations.as_matrix(),
        model=model,
        index=index,
        levels=_levels(model, frequencies, radius, spectrum.box, shift_range),
        shifts_xyz=shifts,
        phases=shift_phases(shifts, frequencies, spectrum.box),
        separation=separation,
        group=np.eye(3)[None] if group is None else group,
    )


def _levels(
    model: np.ndarray, frequencies: np.ndarray, radius: np.ndarray, box: int, shift_range: float
) -> tuple[Level, ...]:
    """Bands by the information on the rotation that the boxes hold, as weights leave it."""
    power = np.zeros(len(radius))
    for one in model:
        power += one.real**2 + one.imag**2
    information = np.cumsum(power * radius.astype(np.float64) ** 2)
    out = []
    left = len(model)
    if left <= _LEVELS[0][2]:
        return ()
    for share, part, fewest in _LEVELS:
        passing = max(round(part * len(model)), fewest)
        least = np.searchsorted(information, share * information[-1])
        count = int(np.searchsorted(radius, radius[min(least, len(radius) - 1)], side="right"))
        if passing >= left or count == len(radius):
            continue
        band = model[:, :count]
        norm = np.sqrt((band.real**2 + band.imag**2).sum(1))
        shifts = shift_grid(shift_range, _LEVEL_SHIFTS * box / radius[count - 1])
        out.append(
            Level(
                shift_phases(shifts, frequencies[:count], box),
                np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0),
                passing,
            )
        )
        left = passing
    return tuple(out)


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
    passing: np.ndarray | None = None
    for level in grid.levels:
        scores = _scores(level.phases, grid.model, passing, there)
        scale = level.scale if passing is None else level.scale[passing]
        best = scores.max(0) * scale
        first = np.sort(np.argpartition(-best, level.passing - 1)[: level.passing])
        passing = first if passing is None else passing[first]
    scores = _scores(grid.phases, grid.model, passing, there)
    rotations = grid.rotations if passing is None else grid.rotations[passing]
    best_shift = scores.argmax(0)
    best = np.take_along_axis(scores, best_shift[None], 0)[0]
    chosen = hills(rotations, best, count=count, separation=grid.separation, group=grid.group)
    norm = np.sqrt(np.vdot(there, there).real)
    return (
        rotations[chosen],
        grid.shifts_xyz[best_shift[chosen]],
        best[chosen] / norm if norm > 0 else best[chosen] * 0,
    )


def _scores(
    phases: np.ndarray, model: np.ndarray, rows: np.ndarray | None, there: np.ndarray
) -> np.ndarray:
    """Real products of the moved data and the turned references, shape (shifts, rotations).

    ``Re <p d, m> = Re <p, d* m>``: the data are multiplied into the smaller of the two, and the
    larger comes first, which BLAS takes to its blocks at less cost.
    """
    width = phases.shape[1]
    turned = model[:, :width] if rows is None else model[rows, :width]
    if len(turned) < len(phases):
        return real_products(phases, turned * there[:width].conj())
    return real_products(turned, phases * there[:width]).T


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
    most = min(POOL * count, len(scores))
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
