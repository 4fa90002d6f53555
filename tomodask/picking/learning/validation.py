"""How training is judged: by the particles that are picked in held-out crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tomodask.nets.segmentation.architecture import IGNORED
from tomodask.picking.nms.centers import find_centers
from tomodask.picking.scoring.pairing import matched_pairs

__all__ = ["Counts", "judge"]

_KERNEL, _REACH = 5, 2  # of MP-NMS, as in `pick_segmentation`


@dataclass(frozen=True)
class Counts:
    """Particles that were found (TP), claimed wrongly (FP) and missed (FN); ``merge`` adds."""

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0

    def merge(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
        )

    @property
    def precision(self) -> float:
        """Share of the claimed that are true; 0 where none was claimed."""
        claimed = self.true_positive + self.false_positive
        return self.true_positive / claimed if claimed else 0.0

    @property
    def recall(self) -> float:
        """Share of the true that were found; 0 where there are none."""
        true = self.true_positive + self.false_negative
        return self.true_positive / true if true else 0.0

    def f_score(self, alpha: float = 0.5) -> float:
        """Generalised F1: the harmonic mean in which recall has the weight `alpha`.

        ``1 / (α / recall + (1 − α) / precision)``; 0.5 is F1, 1 is recall.

        Examples
        --------
        >>> counts = Counts(true_positive=8, false_positive=8, false_negative=2)
        >>> counts.precision, counts.recall, round(counts.f_score(), 3)
        (0.5, 0.8, 0.615)
        >>> round(counts.f_score(0.75), 3)
        0.696
        """
        p, r = self.precision, self.recall
        return p * r / (alpha * p + (1 - alpha) * r) if p * r else 0.0


def judge(
    probability: np.ndarray, label: np.ndarray, *, widths: tuple[int, ...], threshold: float = 0.5
) -> Counts:
    """Pick the particles in a crop as MP-NMS does, and hold them against the labels in it.

    What is picked of the labels themselves is the truth, so that labels that touch are two as far
    as picking can tell.  A pick takes the nearest of these within half a width, one to one; where
    the classes differ it is wrong, and the label missed.  What the crop cuts has no say: labels
    next to a face or to voxels without a say, and picks closer to them than a width that take no
    label.

    Parameters
    ----------
    probability : array of float, shape (classes, z, y, x)
    label : array of uint8, shape (z, y, x)
    widths : tuple of int
        Of the labels of each class, voxels.  Where they differ, each class is picked by itself.
    threshold : float
        Probability above which a voxel is taken for a particle's.
    """
    silent = np.pad(label == IGNORED, 1, constant_values=True)
    room = ndimage.distance_transform_edt(~silent)[1:-1, 1:-1, 1:-1]
    heard, width = label != IGNORED, max(widths)
    if len(set(widths)) == 1:
        mask = (probability.sum(0) > threshold) & heard
        picks = _tops(mask, width)
        around = [ndimage.uniform_filter(np.where(mask, p, 0), _KERNEL) for p in probability]
        claimed = 1 + np.argmax([one[tuple(picks.T)] for one in around], axis=0)
    else:
        picks, claimed = _of_each([(p > threshold) & heard for p in probability], widths)
    true, of_class = _of_each([label == n + 1 for n in range(len(widths))], widths)
    counted = room[tuple(true.T)] > width / 2
    mine, theirs, _ = matched_pairs(picks.astype(float), true.astype(float), width / 2)
    right = claimed[mine] == of_class[theirs]
    found = int((right & counted[theirs]).sum())
    free = np.setdiff1d(np.arange(len(picks)), mine)
    wrong = int((room[tuple(picks[free].T)] > width).sum() + (~right & counted[theirs]).sum())
    return Counts(found, wrong, int(counted.sum()) - found)


def _of_each(masks: list[np.ndarray], widths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Centres in the mask of each class, and their classes, from 1."""
    each = [_tops(mask, width) for mask, width in zip(masks, widths, strict=True)]
    return np.concatenate(each), np.repeat(np.arange(1, len(each) + 1), [len(one) for one in each])


def _tops(mask: np.ndarray, width: int) -> np.ndarray:
    """Centres in a mask, shape (n, 3), voxels."""
    return np.argwhere(find_centers(mask, diameter=width, kernel=_KERNEL, min_distance=_REACH))
