"""Two classes of one view, and how far poses changed from one round to the next.

Rounds of assignment and averaging end where no image gains by another class.  That can be a place
where one view has two classes and two views share a third.  Two such twins are told by their
references: brought onto each other, they agree as well as their own halves say that they can,

    r_ab / √(q_a q_b) ≥ 0.975,   q = 2 h / (1 + h)  (Spearman and Brown),

with h the correlation of a class's filtered halves; references of different views of a ribosome at
10 Å stay below 0.96.  Their images come together, and the class that is free takes over half of
another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tomodask.planar.alignment2d import align_batch
from tomodask.planar.frc import frc_weights, ring_correlation, ring_weighted
from tomodask.planar.plan2d import Plan2D
from tomodask.planar.poses2d import Poses2D, composed, inverse, wrapped
from tomodask.planar.transforming import disc, soft_disc

__all__ = ["Twins", "find_twins", "half_reliability", "pose_changes2d"]

_ALIKE = 0.975


@dataclass(frozen=True)
class Twins:
    """Two references of one view.

    Attributes
    ----------
    kept, given_up : int
        Classes, from 0.
    pose : Poses2D
        Of the reference given up, as an image of the one kept; shifts in Å.
    """

    kept: int
    given_up: int
    pose: Poses2D


def half_reliability(halves: np.ndarray, radius: float) -> np.ndarray:
    """What an average would correlate with another of the same images' view, by its halves.

    Parameters
    ----------
    halves : array, shape (2, classes, n, n)
    radius : float
        Pixels.

    Returns
    -------
    array of float64, shape (classes,)
        0 to 1.
    """
    n = halves.shape[-1]
    window, inside = soft_disc(n, min(radius, n / 2 - 1)), disc(n, radius)
    out = np.zeros(halves.shape[1])
    for c in range(halves.shape[1]):
        weights = frc_weights(ring_correlation(halves[0, c] * window, halves[1, c] * window))
        one, two = (ring_weighted(half, weights)[inside].astype(float) for half in halves[:, c])
        one, two = one - one.mean(), two - two.mean()
        power = np.sqrt((one @ one) * (two @ two))
        h = max(float(one @ two / power), 0.0) if power > 0 else 0.0
        out[c] = 2 * h / (1 + h)
    return out


def find_twins(
    references: np.ndarray, plan: Plan2D, reliability: np.ndarray, counts: np.ndarray
) -> list[Twins]:
    """Pairs of references that show one view; none is in two pairs.

    Parameters
    ----------
    references : array, shape (classes, n, n)
    plan : Plan2D
        Of the same references.
    reliability : array, shape (classes,)
        `half_reliability`.
    counts : array, shape (classes,)
        Of two equal ones the larger class is kept.
    """
    found = align_batch(references, plan, every_class=True)  # (image, reference)
    alike = found["score"] / np.sqrt(np.maximum(np.outer(reliability, reliability), 1e-6))
    order = np.argsort(-alike, axis=None, kind="stable")
    out: list[Twins] = []
    gone: set[int] = set()
    for one in order.tolist():
        image, reference = divmod(one, len(references))
        if not alike[image, reference] >= _ALIKE:
            break
        if image == reference or {image, reference} & gone:
            continue
        if (counts[image], -image) > (counts[reference], -reference):
            image, reference = reference, image
        gone |= {image, reference}
        out.append(Twins(reference, image, Poses2D.of(found[image, reference])))
    return out


def pose_changes2d(
    before: Poses2D, after: Poses2D, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far poses turned (degrees) and moved, less what is common to all images of a class.

    A class whose average turns as a whole turns all its poses, and nothing has changed.

    Parameters
    ----------
    before, after : Poses2D
        Of the same images.
    label : array of int, shape (images,)
        The class that an image is of, both times.

    Returns
    -------
    turned : array of float64, shape (images,)
        180 where the mirror changed.
    moved : array of float64
        In the unit of the shifts.
    """
    change = composed(inverse(before), after)
    psi, y, x = (np.array(one, np.float64) for one in (change.psi, change.shift_y, change.shift_x))
    for c in np.unique(label):
        mine = (label == c) & ~change.mirror
        if not mine.any():
            continue
        # The median about the circular mean: neither a jump at 180° nor a few wild poses count.
        mean = np.rad2deg(np.angle(np.exp(1j * np.deg2rad(psi[mine])).sum()))
        common = mean + np.median(wrapped(psi[mine] - mean))
        psi[label == c] -= common
        y[label == c] -= np.median(y[mine])
        x[label == c] -= np.median(x[mine])
    return np.where(change.mirror, 180.0, np.abs(wrapped(psi))), np.hypot(y, x)
