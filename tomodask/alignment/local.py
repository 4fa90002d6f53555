"""Local search: poses in the neighbourhood of one that is given for each particle.

The given rotation times a grid of small turns, and a lattice of shifts about the given shift.  As
every particle has rotations of its own, no matrix of turned references can be made beforehand; but
the neighbourhood holds some tens of rotations only, and the band of a search some hundred Fourier
voxels, so that turning the reference for each particle costs less than reading its box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from tomodask.alignment.search import hills, real_products, shift_grid, shift_phases, turned_models
from tomodask.arrays.sampling import Spectrum

__all__ = [
    "LOCAL_BAND",
    "MOST",
    "Neighbourhood",
    "local_candidates",
    "neighbourhood",
    "small_turns",
]

#: No more candidates are refined: the given pose has told which hill is meant.
MOST = 3
# Grid rotations within a step are neighbours on one hill; those across the middle are not.
_SEPARATION = 1.5
#: A local search looks at no finer detail than one at this step, radians, does: poses that are
#: nearer lie on one hill, and to tell them apart is the refinement's work.
LOCAL_BAND = np.deg2rad(15.0)


@dataclass(frozen=True)
class Neighbourhood:
    """What a local search looks at, the same for every particle of one measurement.

    Attributes
    ----------
    turns : array of float64, shape (turns, 3, 3)
        About the particle's axes (x, y, z); the first is none.
    frequencies : array of float32, shape (count, 3)
        (z, y, x).
    index : array of intp, shape (count,)
        Where these stand in the subtomogram's list.
    weights : array of float32, shape (count,), or None
    shifts_xyz : array of float64, shape (shifts, 3)
        About the given shift, voxels.
    phases : array of complex64, shape (shifts, count)
    separation : float
        Radians.
    group : array, shape (order, 3, 3)
    """

    turns: np.ndarray
    frequencies: np.ndarray
    index: np.ndarray
    weights: np.ndarray | None
    shifts_xyz: np.ndarray
    phases: np.ndarray
    separation: float
    group: np.ndarray


def small_turns(local: float, step: float) -> Rotation:
    """Turns of at most `local`, about `step` apart (radians), the one by nothing first.

    The rotation vectors are a cubic lattice: near the identity they keep their distances.

    Examples
    --------
    >>> len(small_turns(0.0, 0.1)), len(small_turns(0.1, 0.1)), len(small_turns(0.2, 0.1))
    (1, 7, 33)
    """
    m = int(np.floor(local / step + 1e-9))
    axis = np.arange(-m, m + 1)
    vectors = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    length = np.linalg.norm(vectors, axis=1)
    order = np.argsort(length, kind="stable")
    return Rotation.from_rotvec(step * vectors[order[length[order] <= local / step + 1e-9]])


def neighbourhood(
    frequencies: np.ndarray,
    index: np.ndarray,
    *,
    box: int,
    local: float,
    step: float,
    shift_range: float,
    shift_step: float,
    weights: np.ndarray | None,
    group: np.ndarray,
) -> Neighbourhood:
    """Prepare a local search.

    Parameters
    ----------
    frequencies : array, shape (count, 3)
    index : array, shape (count,)
    box : int
        Edge of the boxes, voxels.
    local, step : float
        Radians.
    shift_range, shift_step : float
        Voxels; where `local` is 0 the given shift alone is looked at.
    weights : array, shape (count,), optional
    group : array, shape (order, 3, 3)
    """
    shifts = shift_grid(shift_range if local > 0 else 0.0, shift_step, middle=True)
    return Neighbourhood(
        small_turns(local, step).as_matrix(),
        frequencies,
        index,
        weights,
        shifts,
        shift_phases(shifts, frequencies, box),
        max(_SEPARATION * step, LOCAL_BAND),
        group,
    )


def local_candidates(
    around: Neighbourhood,
    spectrum: Spectrum,
    data: np.ndarray,
    matrix: np.ndarray,
    shift_xyz: np.ndarray,
    *,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The best poses of one subtomogram near a given one.

    Parameters
    ----------
    around : Neighbourhood
    spectrum : Spectrum
        Of the reference.
    data : array of complex64
        The subtomogram at its list of frequencies.
    matrix : array, shape (3, 3)
        The given rotation, reference → particle, acting on (x, y, z) columns.
    shift_xyz : array, shape (3,)
        The given shift, voxels.
    count : int
        At most so many.

    Returns
    -------
    matrices : array of float64, shape (n, 3, 3)
        Highest score first.
    shifts_xyz : array of float64, shape (n, 3)
    """
    rotations = around.turns @ matrix
    if len(rotations) == len(around.shifts_xyz) == 1:
        return rotations, shift_xyz[None] + around.shifts_xyz
    there = shift_phases(shift_xyz[None], around.frequencies, spectrum.box)[0]
    there = there * data[around.index]
    model = turned_models(
        spectrum, around.frequencies, Rotation.from_matrix(rotations), around.weights
    )
    scores = real_products(around.phases * there, model)
    best_shift = scores.argmax(0)
    best = np.take_along_axis(scores, best_shift[None], 0)[0]
    chosen = hills(
        rotations,
        best,
        count=min(count, MOST),
        separation=around.separation,
        group=around.group,
    )
    return rotations[chosen], shift_xyz + around.shifts_xyz[best_shift[chosen]]
