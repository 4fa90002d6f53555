"""Weak labels: a simple body drawn about the centre of each particle, in one crop at a time.

Of a particle only its centre is known.  A body that is smaller than the particle and the same for
all kinds trains as well as the true outline, or better [1]_; the truncated ball of diameter 7 is
the best of them.  A body is given by continuous distances from its real-valued centre, so labels
are as crisp and as symmetric after the centre was moved, turned or mirrored as before.

.. [1] Liu et al., "DeepETPicker", Nat. Commun. 15, 2090 (2024), doi:10.1038/s41467-024-46041-0;
   radii as in the authors' program.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from tomodask.errors import InputError
from tomodask.nets.segmentation.architecture import IGNORED

__all__ = ["LabelKind", "draw_labels", "label_diameters", "paint_bodies", "paint_near"]

LabelKind = Literal["truncated_ball", "ball", "cube"]

_SMALLEST = 3


def draw_labels(
    shape: tuple[int, int, int],
    centers: np.ndarray,
    classes: np.ndarray,
    *,
    kind: LabelKind = "truncated_ball",
    diameter: int | Sequence[int] = 7,
) -> np.ndarray:
    """Draw the label of each particle into one crop.

    With diameter d and a voxel at distance r from a centre, and at most m along any axis:

    - ``"cube"``: the voxels with m < d/2: d of them along an axis, for an odd and for an even d.
      (For an even d about the middle of a voxel it is one less, since both faces then go through
      middles of voxels, and a cube that kept one of them would not be symmetric.)
    - ``"ball"``: a Gaussian of sigma (d − 1)/2 cut at exp(−1/2): r ≤ (d − 1)/2, so that it is d
      voxels wide about the middle of a voxel if d is odd; elsewhere its tips may fall between them.
    - ``"truncated_ball"``: that Gaussian cut at exp(−1), so r ≤ (d − 1)/√2, clipped by the cube.

    A voxel in the bodies of several particles is of the one whose centre is nearest, and of equally
    near ones of the first in order.

    Parameters
    ----------
    shape : (int, int, int)
        Of the crop, (z, y, x).
    centers : array, shape (n, 3)
        (z, y, x) in voxels of the crop, real-valued; the middle of voxel (0, 0, 0) is the origin.
        They may lie outside: what of the body is inside is drawn.
    classes : array of int, shape (n,)
        Class of each particle, 1 to 254.
    kind : {"truncated_ball", "ball", "cube"}
    diameter : int or sequence of int
        d in voxels, at least 3; one for all, or one for each class from class 1 on.

    Returns
    -------
    array of uint8, shape `shape`
        0 in the background, else the class.

    Raises
    ------
    InputError
        If an argument is not as above.

    Examples
    --------
    >>> label = draw_labels((9, 9, 9), np.array([[4.0, 4.0, 4.0]]), np.array([2]))
    >>> label[4, 1].tolist(), label[1, 1].tolist(), int((label == 2).sum())
    ([0, 2, 2, 2, 2, 2, 2, 2, 0], [0, 0, 0, 0, 2, 0, 0, 0, 0], 287)
    """
    centers = np.asarray(centers, np.float64).reshape(-1, 3)
    classes = np.asarray(classes).reshape(-1)
    if len(centers) != len(classes):
        raise InputError(f"centers and classes must go together, got {len(centers)} and "
                         f"{len(classes)}")  # fmt: skip
    if not np.isfinite(centers).all():
        raise InputError("centers must be finite numbers, in voxels")
    diameters = label_diameters(classes, kind=kind, diameter=diameter)
    return paint_bodies(shape, centers, classes.astype(np.uint8), diameters, kind=kind)


def label_diameters(classes: np.ndarray, *, kind: str, diameter: int | Sequence[int]) -> np.ndarray:
    """Check the arguments of `draw_labels`, and give each particle its diameter.

    Returns
    -------
    array of int64, shape (n,)

    Raises
    ------
    InputError
    """
    if kind not in get_args(LabelKind):
        raise InputError(f"kind must be one of {', '.join(get_args(LabelKind))}, got {kind!r}")
    if len(classes) and not (np.min(classes) >= 1 and np.max(classes) < IGNORED):
        raise InputError(
            f"classes must be from 1 to {IGNORED - 1} (0 is background, {IGNORED} is ignored), got "
            f"{np.min(classes)} to {np.max(classes)}"
        )
    one_for_all = np.ndim(diameter) == 0
    known = np.atleast_1d(np.asarray(diameter))
    if known.dtype.kind not in "iu" or known.ndim != 1 or not len(known):
        raise InputError(f"diameter must be whole voxels, one or one per class, got {diameter!r}")
    if known.min() < _SMALLEST:
        raise InputError(f"diameter must be at least {_SMALLEST} voxels, got {diameter!r}")
    if one_for_all:
        return np.full(len(classes), int(known[0]), np.int64)
    if len(classes) and np.max(classes) > len(known):
        raise InputError(
            f"diameter must be one number, or one for each of the {np.max(classes)} classes, got "
            f"{len(known)}: {diameter!r}"
        )
    return np.asarray(known, np.int64)[np.asarray(classes, np.int64) - 1]


def paint_bodies(
    shape: tuple[int, ...],
    centers: np.ndarray,
    values: np.ndarray,
    diameters: np.ndarray,
    *,
    kind: str,
) -> np.ndarray:
    """`draw_labels` with any value, and a diameter for each particle; checks nothing.

    Returns
    -------
    array of uint8, shape `shape`
    """
    out = np.zeros(shape, np.uint8)
    nearest = np.full(shape, np.inf)
    edge = diameters / 2
    sigma2 = (diameters - 1) ** 2 / 4
    reach2 = {"cube": np.full(len(edge), np.inf), "ball": sigma2}.get(kind, 2 * sigma2)
    touching = np.all((centers + edge[:, None] >= 0) & (centers - edge[:, None] < shape), axis=1)
    for i in np.flatnonzero(touching):
        # A ball of radius (d − 1)/2 lies inside its cube, so that the cube bounds every kind.
        place, steps = _around(shape, centers[i], edge[i])
        inside = [np.abs(step) < edge[i] for step in steps]
        distance2 = _outer_sum([step**2 for step in steps])
        taken = (
            (distance2 <= reach2[i])
            & (distance2 < nearest[place])
            & np.logical_and.outer(np.logical_and.outer(*inside[:2]), inside[2])
        )
        out[place][taken] = values[i]
        nearest[place][taken] = distance2[taken]
    return out


def paint_near(shape: tuple[int, ...], centers: np.ndarray, distance: float) -> np.ndarray:
    """Where a centre is at most `distance` voxels away: array of bool, shape `shape`."""
    out = np.zeros(shape, bool)
    for center in centers:
        place, steps = _around(shape, center, distance)
        out[place] |= _outer_sum([step**2 for step in steps]) <= distance**2
    return out


def _around(
    shape: tuple[int, ...], center: np.ndarray, edge: float
) -> tuple[tuple[slice, ...], list[np.ndarray]]:
    """The voxels within `edge` of a centre along each axis, and how far each is along it."""
    ranges = [
        (max(0, math.ceil(c - edge)), min(n, math.floor(c + edge) + 1))
        for c, n in zip(center, shape, strict=True)
    ]
    place = tuple(slice(a, max(a, b)) for a, b in ranges)
    return place, [np.arange(s.start, s.stop) - c for s, c in zip(place, center, strict=True)]


def _outer_sum(parts: list[np.ndarray]) -> np.ndarray:
    z, y, x = parts
    return np.asarray(z[:, None, None] + y[:, None] + x)
