"""Point groups: the rotations that leave a particle as it is, and what of rotation space is left.

A reference r of symmetry G is the same after each turn ``g`` of G: ``r(g⁻¹ x) = r(x)``.  The
orientations R and ``R g`` then show one and the same particle, and only one of them, that of the
asymmetric unit, needs to be searched.
"""

from __future__ import annotations

import re

import numpy as np
from scipy.spatial.transform import Rotation

from tomodask.errors import InputError

__all__ = ["in_asymmetric_unit", "reduced", "symmetry_group"]

_NAME = re.compile(r"C[1-9]\d?|D[2-9]|D[1-9]\d|T|O|I")


def symmetry_group(name: str) -> Rotation:
    """The rotations of a point group, the identity first.

    Parameters
    ----------
    name : str
        ``C1`` … ``C99``, ``D2`` … ``D99``, ``T``, ``O`` or ``I``, in any case.  The main axis is z;
        of D, a twofold axis lies along x; of T, O and I, twofold axes (T, I) or fourfold ones (O)
        lie along z, y and x, and of I a fivefold one in the plane of x and z (SciPy's setting).

    Returns
    -------
    Rotation, length of the group's order

    Raises
    ------
    InputError
        If there is no such group.

    Examples
    --------
    >>> len(symmetry_group("D7")), len(symmetry_group("I"))
    (14, 60)
    """
    upper = str(name).strip().upper()
    if not _NAME.fullmatch(upper):
        raise InputError(
            f"symmetry must be C1 … C99, D2 … D99, T, O or I, got {name!r}; helices and mirrors "
            "are none of them"
        )
    group = Rotation.create_group(upper, axis="Z")
    order = np.argsort(group.magnitude(), kind="stable")
    return group[order]


def reduced(rotations: Rotation, group: Rotation) -> Rotation:
    """Of each orientation's equivalents, ``R g`` for g of the group, the least turn.

    Examples
    --------
    >>> turned = Rotation.from_euler("z", 100, degrees=True)
    >>> angle = reduced(turned, symmetry_group("C4")).magnitude()
    >>> round(float(np.rad2deg(angle)), 6)
    10.0
    """
    return rotations.reduce(right=group) if len(group) > 1 else rotations


def in_asymmetric_unit(rotations: Rotation, group: Rotation) -> np.ndarray:
    """Which of the orientations are their own `reduced`: one part in the group's order of them.

    Returns
    -------
    array of bool, shape (n,)
    """
    if len(group) == 1:
        return np.ones(len(rotations), bool)
    _, left, right = rotations.reduce(right=group, return_indices=True)
    del left
    identity = int(np.argmin(group.magnitude()))
    return np.asarray(right == identity)
