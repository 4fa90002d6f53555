"""Who belongs to which class: equal sizes, classes fallen empty, and what keeps its class.

Classes count from 0 here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from scipy.optimize import linear_sum_assignment

from tomodask.errors import InputError

__all__ = ["Stability", "class_stability", "equal_classes2d", "fill_empty2d"]


@numba.njit(cache=True, nogil=True)
def _deal(order, classes, room, label):  # type: ignore[no-untyped-def]
    for pair in order:
        image, c = pair // classes, pair % classes
        if label[image] < 0 and room[c] > 0:
            label[image] = c
            room[c] -= 1


def equal_classes2d(scores: np.ndarray) -> np.ndarray:
    """Classes of equal size, the best pairs of image and class first.

    The assignment of EQK-means [1]_: of all pairs of an image that has no class yet and a class
    that has room, that of the highest score is taken, again and again.  Sizes differ by one at
    most: the classes that come first have more.

    Parameters
    ----------
    scores : array, shape (images, classes)
        An image whose row holds NaN gets none.

    Returns
    -------
    array of int64, shape (images,)
        -1 where there is none.

    References
    ----------
    .. [1] Yang, Fang, Chittuluru, Asturias & Penczek, Structure 20, 237 (2012),
       doi:10.1016/j.str.2011.12.007.

    Examples
    --------
    >>> equal_classes2d(np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.6], [0.6, 0.0]])).tolist()
    [0, 0, 1, 1]
    """
    count, classes = scores.shape
    label = np.full(count, -1, np.int64)
    known = np.flatnonzero(np.isfinite(scores).all(1))
    mine = np.full(len(known), -1, np.int64)
    room = np.full(classes, len(known) // classes, np.int64)
    room[: len(known) % classes] += 1
    # Of equal scores the image, then the class, that comes first: stable, whatever the batches.
    order = np.argsort(-scores[known], axis=None, kind="stable")
    _deal(order, classes, room, mine)
    label[known] = mine
    return label


def fill_empty2d(
    label: np.ndarray,
    score: np.ndarray,
    half: np.ndarray,
    classes: int,
    *,
    least: int = 2,
    by_score: bool = False,
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Give classes with too few images the worst fitting half of another.

    Parameters
    ----------
    label : array of int, shape (images,)
        -1 where an image has none; not changed.
    score : array, shape (images,)
        Of each image in its class.
    half : array of int, shape (images,)
        1 or 2; each half of the images is split by itself.
    classes : int
    least : int
        Half of the images that a class needs.
    by_score : bool
        What class gives its images: that of the lowest mean score, as one that two views share has;
        by default the largest.

    Returns
    -------
    label : array of int
    filled : list of (int, int)
        Each class that took images over, and that which gave them.
    """
    label = label.copy()
    filled: list[tuple[int, int]] = []
    for c in range(classes):
        # All of them: of a stack in which views alternate, a view's images are of one half.
        if np.count_nonzero(label == c) >= 2 * least:
            continue
        size = np.bincount(label[label >= 0], minlength=classes)
        giver = int(np.argmax(size))
        if by_score:
            rich = [k for k in range(classes) if k != c and size[k] >= 8 * least]
            giver = min(rich, key=lambda k: float(score[label == k].mean()), default=giver)
        if giver == c or size[giver] < 4 * least:
            continue
        for h in (1, 2):
            members = np.flatnonzero((label == giver) & (half == h))
            worst = members[np.argsort(score[members], kind="stable")]
            label[worst[: len(worst) // 2]] = c
        filled.append((c, giver))
    return label, filled


@dataclass(frozen=True)
class Stability:
    """What several runs agree on.

    Attributes
    ----------
    label : array of int64, shape (images,)
        Class of each image, as the first run numbers them, that most runs give; -1 if none.
    share : array of float64, shape (images,)
        Of the runs that give it.
    reproducibility : array of float64, shape (classes,)
        Of each class: images that all runs put into it, over the mean size of the classes matched.
    matches : array of int64, shape (runs, classes)
        The class of each run that is class c of the first.
    """

    label: np.ndarray
    share: np.ndarray
    reproducibility: np.ndarray
    matches: np.ndarray

    @property
    def stable(self) -> np.ndarray:
        """True for images that all runs give one class."""
        return np.asarray((self.share == 1) & (self.label >= 0))


def class_stability(labels: Sequence[np.ndarray], classes: int) -> Stability:
    """Which images keep their class from run to run, up to the classes' numbering.

    The idea of ISAC [1]_: the classes of runs that differ in their seed alone are matched one to
    one so that they share as many images as can be (the assignment problem), and what all runs put
    together is trusted.  All runs are matched to the first.

    Parameters
    ----------
    labels : sequence of array of int, shape (images,)
        Of two runs or more, from 0; -1 where an image has no class.
    classes : int

    Raises
    ------
    InputError
        If there are fewer than two runs, or they differ in their number of images.

    References
    ----------
    .. [1] Yang, Fang, Chittuluru, Asturias & Penczek, Structure 20, 237 (2012),
       doi:10.1016/j.str.2011.12.007.

    Examples
    --------
    >>> runs = np.array([0, 0, 1, 1, 1]), np.array([1, 1, 0, 0, 1])
    >>> class_stability(runs, 2).stable.tolist()
    [True, True, True, True, False]
    """
    if len(labels) < 2 or len({len(one) for one in labels}) > 1:
        raise InputError(
            f"stability needs two runs or more of the same images, got {len(labels)} of "
            f"{sorted({len(one) for one in labels})} images"
        )
    first = np.asarray(labels[0])
    common, matches = [first], [np.arange(classes)]
    for one in labels[1:]:
        one = np.asarray(one)
        known = (first >= 0) & (one >= 0)
        shared = np.bincount(first[known] * classes + one[known], minlength=classes**2)
        rows, columns = linear_sum_assignment(-shared.reshape(classes, classes))
        back = np.empty(classes, np.int64)
        back[columns] = rows
        common.append(np.where(one >= 0, back[np.maximum(one, 0)], -1))
        matches.append(columns.astype(np.int64))
    runs = np.stack(common)
    votes = np.stack([(runs == c).sum(0) for c in range(classes)])
    label, share = votes.argmax(0), votes.max(0) / len(runs)
    label = np.where(share > 0, label, -1)
    size = np.array([(runs == c).sum() / len(runs) for c in range(classes)])
    kept = np.array([((share == 1) & (label == c)).sum() for c in range(classes)])
    worth = np.divide(kept, size, out=np.zeros(classes), where=size > 0)
    return Stability(label, share, worth, np.stack(matches))
