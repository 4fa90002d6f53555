"""Losses that need no labels: NT-Xent of SimCLR, InfoNCE of MoCo, swapped codes of SwAV.

Plain functions of tensors; queue, momentum encoder and prototypes belong to whoever calls them.
Sums are in float32, whatever the type of the embeddings.

.. [1] Chen et al., "A simple framework for contrastive learning of visual representations",
   ICML 2020, arXiv:2002.05709.
.. [2] He et al., "Momentum contrast for unsupervised visual representation learning", CVPR 2020,
   arXiv:1911.05722.
.. [3] Caron et al., "Unsupervised learning of visual features by contrasting cluster assignments",
   NeurIPS 2020, arXiv:2006.09882.
"""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["info_nce", "nt_xent", "sinkhorn", "swav_loss", "unit"]


def unit(x: torch.Tensor) -> torch.Tensor:
    """Rows of length 1, float32."""
    return functional.normalize(x.float(), dim=1)


def nt_xent(first: torch.Tensor, second: torch.Tensor, *, temperature: float = 0.5) -> torch.Tensor:
    """Normalised, temperature-scaled cross-entropy: equation 1 of SimCLR [1]_.

    Each view shall be more like its fellow than like the other 2 n − 2: the mean over all 2 n of
    ``−log( exp(s_ij / τ) / Σ_{k≠i} exp(s_ik / τ) )``, s the cosine.

    Parameters
    ----------
    first, second : tensor, shape (n, d)
        Embeddings of two views of the same n particles.
    temperature : float
        τ.

    Returns
    -------
    tensor of float32, shape ()
    """
    n = len(first)
    both = unit(torch.cat([first, second]))
    likeness = both @ both.T / temperature
    itself = torch.eye(2 * n, dtype=torch.bool, device=both.device)
    likeness = likeness.masked_fill(itself, -torch.inf)
    fellow = torch.arange(2 * n, device=both.device).roll(n)
    return functional.cross_entropy(likeness, fellow)


def info_nce(
    query: torch.Tensor, key: torch.Tensor, queue: torch.Tensor, *, temperature: float = 0.2
) -> torch.Tensor:
    """InfoNCE against a queue of former keys: equation 1 of MoCo [2]_.

    The mean of ``−log( exp(q·k₊ / τ) / (exp(q·k₊ / τ) + Σ_queue exp(q·k / τ)) )``.

    Parameters
    ----------
    query, key : tensor, shape (n, d)
        Embeddings of two views; no gradient goes through `key`.
    queue : tensor, shape (k, d)
        Former keys.
    temperature : float

    Returns
    -------
    tensor of float32, shape ()
    """
    q, k = unit(query), unit(key.detach())
    right = (q * k).sum(1, keepdim=True)
    others = q @ unit(queue.detach()).T
    logits = torch.cat([right, others], 1) / temperature
    return functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


def sinkhorn(scores: torch.Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> torch.Tensor:
    """Codes that use all prototypes alike: Sinkhorn and Knopp's iteration, SwAV [3]_, §3.1.

    ``exp(scores / ε)``, its columns (prototypes) scaled to one sum and its rows (particles) to 1,
    so many times in turn; the rows last.  No gradient goes through.

    Parameters
    ----------
    scores : tensor, shape (n, prototypes)
    epsilon : float
        Small: sharp codes.
    iterations : int

    Returns
    -------
    tensor of float32, shape (n, prototypes)
        Rows sum to 1.
    """
    logs = scores.detach().float() / epsilon
    # In logarithms: exp(1 / ε) is near what float32 holds, and a column may have nothing but zeros.
    for _ in range(iterations):
        logs = functional.log_softmax(logs, 0)
        logs = functional.log_softmax(logs, 1)
    return logs.exp()


def swav_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    *,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> torch.Tensor:
    """Each view predicts the code of the other: equations 1 and 2 of SwAV [3]_.

    Parameters
    ----------
    first, second : tensor, shape (n, prototypes)
        Cosines of the embeddings of two views with the prototypes.
    temperature : float
        Of the prediction.
    epsilon, iterations
        See `sinkhorn`.

    Returns
    -------
    tensor of float32, shape ()
        Mean over particles and over the two directions.
    """
    total = torch.zeros((), device=first.device)
    for seen, other in ((first, second), (second, first)):
        code = sinkhorn(other, epsilon=epsilon, iterations=iterations)
        told = functional.log_softmax(seen.float() / temperature, 1)
        total = total - (code * told).sum(1).mean() / 2
    return total
