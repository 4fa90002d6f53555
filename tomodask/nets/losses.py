"""The loss of training, and the figures of validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

__all__ = ["IGNORED", "Counts", "count_particles", "dice_loss"]

IGNORED = 255  # label of voxels that have no say
_SMOOTH = 1e-5  # keeps the quotient of an empty class finite


def dice_loss(logits: torch.Tensor, label: torch.Tensor, *, entropy: float = 0.0) -> torch.Tensor:
    """1 − Dice, averaged over the classes; voxels of label 255 have no say.

    Dice of a class is ``2 Σ p t / (Σ p² + Σ t²)``, sums over all voxels of the batch [1]_.  Classes
    that no label of the batch shows are held down by the others' share of the softmax, and by the
    cross-entropy.

    Parameters
    ----------
    logits : tensor of float, shape (batch, outputs, z, y, x)
        One output: of the particle (a sigmoid); more: background first (a softmax).
    label : tensor of uint8, shape (batch, z, y, x)
        0 background, else the number of the class.
    entropy : float
        This times the mean cross-entropy is added; 0 is the paper's loss.

    Returns
    -------
    tensor of float32, shape ()

    References
    ----------
    .. [1] Milletari, Navab & Ahmadi, "V-Net", 3DV 2016, doi:10.1109/3DV.2016.79.
    """
    logits = logits.float()
    outputs = logits.shape[1]
    counted = (label != IGNORED).unsqueeze(1)
    target = torch.where(label == IGNORED, 0, label).long()
    if outputs == 1:
        share = torch.sigmoid(logits)
        hot = (target == 1).unsqueeze(1).to(share.dtype)
        cross = functional.binary_cross_entropy_with_logits(logits, hot, reduction="none")
    else:
        share = torch.softmax(logits, 1)[:, 1:]
        hot = torch.stack([target == n for n in range(1, outputs)], 1).to(share.dtype)
        cross = functional.cross_entropy(logits, target, reduction="none").unsqueeze(1)
    over = (0, 2, 3, 4)
    both = (share * hot * counted).sum(over)
    total = (share**2 * counted).sum(over) + (hot * counted).sum(over)
    shown = (hot * counted).sum(over) > 0
    dice = 1 - (2 * both + _SMOOTH) / (total + _SMOOTH)
    loss = dice[shown].mean() if bool(shown.any()) else 0.0 * logits.sum()
    if entropy:
        loss = loss + entropy * (cross * counted).sum() / counted.sum().clamp(min=1)
    return torch.as_tensor(loss)


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


def count_particles(probability: np.ndarray, label: np.ndarray) -> Counts:
    """Hold the blobs of a probability against those of a label, within one crop.

    A blob of the label counts as found where the probability of its class is above 0.5 in more
    than half of its voxels; a connected blob of ``probability > 0.5`` that meets no voxel of the
    label of its class is claimed wrongly.  Blobs that touch a face of the crop, or voxels without a
    say, are cut and count for nothing.

    Parameters
    ----------
    probability : array of float, shape (classes, z, y, x)
    label : array of uint8, shape (z, y, x)
    """
    found = wrong = missed = 0
    inner = np.zeros(label.shape, bool)
    inner[1:-1, 1:-1, 1:-1] = label[1:-1, 1:-1, 1:-1] != IGNORED
    for number, p in enumerate(probability, start=1):
        mask, true = p > 0.5, label == number
        blobs, count = ndimage.label(true)
        whole = _whole(blobs, count, inner)
        share = np.asarray(ndimage.mean(mask, blobs, np.arange(1, count + 1))).reshape(-1)
        hit = share > 0.5
        found += int((hit & whole).sum())
        missed += int((~hit & whole).sum())
        claims, count = ndimage.label(mask)
        meets = np.bincount(claims[true], minlength=count + 1)[1:] > 0
        wrong += int((~meets & _whole(claims, count, inner)).sum())
    return Counts(found, wrong, missed)


def _whole(blobs: np.ndarray, count: int, inner: np.ndarray) -> np.ndarray:
    """Of each blob whether all of it lies inside."""
    return np.asarray(np.bincount(blobs[~inner], minlength=count + 1)[1:] == 0)
