"""The loss of training."""

from __future__ import annotations

import torch
from torch.nn import functional

from tomodask.nets.architecture import IGNORED

__all__ = ["dice_loss"]

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
