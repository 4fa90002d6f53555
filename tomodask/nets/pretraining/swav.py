"""The prototypes of SwAV (Caron et al., NeurIPS 2020, arXiv:2006.09882)."""

from __future__ import annotations

import torch
from torch.nn import functional

from tomodask.nets.pretraining.contrastive import unit

__all__ = ["Prototypes"]


class Prototypes(torch.nn.Module):
    """Directions that embeddings are compared with; learned, and of length 1.

    Parameters
    ----------
    count, dimension : int
    seed : int

    Attributes
    ----------
    weight : parameter of float32, shape (count, dimension)
    """

    def __init__(self, count: int, dimension: int, *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(unit(torch.randn(count, dimension, generator=generator)))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Cosines with the prototypes, (n, count), of embeddings (n, dimension).

        Embeddings are first centred and scaled over the batch.  The paper's networks normalise so
        behind each layer, those of `tomodask.nets.boxes.networks` nowhere: embeddings of an
        untrained one lie so close together that all codes are nearly even, and learning them makes
        all prototypes one (a loss of log(count), from which no gradient leads away).
        """
        spread = functional.batch_norm(embeddings.float(), None, None, training=True)
        return unit(spread) @ self.weight.T

    def normalise(self) -> None:
        """Back to length 1; after each step, as a step takes them off it."""
        with torch.no_grad():
            self.weight.copy_(unit(self.weight))
