"""The loss of training."""

from __future__ import annotations

import torch
from torch.nn import functional

from tomodask.nets.segmentation.architecture import IGNORED

__all__ = ["dice_loss"]

_SMOOTH = 1e-5  # keeps the quotient of an empty class finite


def dice_loss(
    logits: torch.Tensor, label: torch.Tensor, *, together: bool = False, entropy: float = 0.0
) -> torch.Tensor:
    """1 − Dice, and cross-entropy; voxels of label 255 have no say.

    Dice of a class is ``2 Σ p t / (Σ p² + Σ t²)``, sums over all voxels of the batch [1]_; the mean
    over the classes that a label of the batch shows, or Dice of all classes taken for one.

    Parameters
    ----------
    logits : tensor of float, shape (batch, outputs, z, y, x)
        One output: of the particle (a sigmoid); more: background first (a softmax).
    label : tensor of uint8, shape (batch, z, y, x)
        0 background, else the number of the class.
    together : bool
        Dice of all classes taken for one: where particles are.  What they are is then learned by
        the cross-entropy alone.
    entropy : float
        This times the cross-entropy is added: its mean over the particles' voxels and its mean over
        the background's, so that few voxels have their say.  0 is the paper's loss.

    Returns
    -------
    tensor of float32, shape ()

    References
    ----------
    .. [1] Milletari, Navab & Ahmadi, "V-Net", 3DV 2016, doi:10.1109/3DV.2016.79.
    """
    logits = logits.float()
    outputs = logits.shape[1]
    counted = label != IGNORED
    target = torch.where(counted, label, 0).long()
    if outputs == 1:
        share = torch.sigmoid(logits)
        cross = functional.binary_cross_entropy_with_logits(
            logits[:, 0], (target == 1).to(logits.dtype), reduction="none"
        )
    else:
        share = torch.softmax(logits, 1)[:, 1:]
        cross = functional.cross_entropy(logits, target, reduction="none")
    hot = torch.stack([target == n + 1 for n in range(share.shape[1])], 1).to(share.dtype)
    if together:
        share, hot = share.sum(1, keepdim=True), hot.sum(1, keepdim=True)
    share = share * counted.unsqueeze(1)
    over = (0, 2, 3, 4)
    both, total = (share * hot).sum(over), (share**2).sum(over) + hot.sum(over)
    shown = hot.sum(over) > 0
    dice = 1 - (2 * both + _SMOOTH) / (total + _SMOOTH)
    loss = dice[shown].mean() if bool(shown.any()) else 0.0 * logits.sum()
    if entropy:
        for part in (counted & (target > 0), counted & (target == 0)):
            loss = loss + entropy * (cross * part).sum() / part.sum().clamp(min=1)
    return torch.as_tensor(loss)
