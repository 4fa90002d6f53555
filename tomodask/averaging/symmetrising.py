"""A point group applied to sums over the frequencies of a box, without interpolation.

Turns by quarters and the turns about the diagonals of a cube take whole frequencies to whole
frequencies: sums are symmetrised by such a turn exactly, in one pass at the end.  The group G falls
into left cosets ``c H`` of its part H that does so, and each particle is added once for each coset:

    F_G(k) = Σ_g F(R g k) = Σ_h S(h k),   S(k) = Σ_c F(R c k)

So a particle costs as many passes as there are cosets (C7 and D7: 7, C4 and O: 1, I: 5), not as
many as there are turns, and the result is that of the poses written out.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

__all__ = ["grid_cosets", "symmetrised"]


def grid_cosets(group: Rotation) -> tuple[Rotation, np.ndarray]:
    """Split a group by its turns that map whole frequencies to whole frequencies.

    Parameters
    ----------
    group : Rotation
        As of `tomodask.arrays.symmetry.symmetry_group`.

    Returns
    -------
    cosets : Rotation
        One turn c of each left coset ``c H``.
    grid : array of intp, shape (order of H, 3, 3)
        The turns of H, on (z, y, x) columns.

    Examples
    --------
    >>> from tomodask.arrays.symmetry import symmetry_group
    >>> [len(part) for part in grid_cosets(symmetry_group("D7"))]
    [7, 2]
    """
    matrices = group.as_matrix()
    whole = np.abs(matrices - np.rint(matrices)).max((1, 2)) < 1e-9
    grid = matrices[whole]
    covered, chosen = np.zeros(len(matrices), bool), []
    for i, matrix in enumerate(matrices):
        if not covered[i]:
            chosen.append(i)
            for turn in matrix @ grid:
                covered |= np.abs(matrices - turn).max((1, 2)) < 1e-6
    return group[chosen], np.rint(grid[:, ::-1, ::-1]).astype(np.intp)


def symmetrised(values: np.ndarray, frequencies: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The sum of ``values(h k)`` over the turns h of a grid.

    Parameters
    ----------
    values : array of float64 or complex128, shape (..., count)
        At `frequencies`; at −k the conjugate.
    frequencies : array, shape (count, 3)
        Of `tomodask.arrays.sampling.half_sphere`.
    grid : array of intp, shape (order, 3, 3)
        From `grid_cosets`.

    Returns
    -------
    array of the same shape
    """
    if len(grid) == 1:
        return values
    k = np.rint(frequencies).astype(np.intp)
    m = int(np.abs(k).max())
    place = np.full((2 * m + 1,) * 3, -1, np.intp)
    place[tuple((k + m).T)] = np.arange(len(k))
    out = np.zeros_like(values)
    for turn in grid:
        q = k @ turn.T
        at = place[tuple((q + m).T)]
        mirrored = at < 0
        at[mirrored] = place[tuple((m - q[mirrored]).T)]
        turned = values[..., at]
        if np.iscomplexobj(values):
            turned[..., mirrored] = turned[..., mirrored].conj()
        out += turned
    return out
