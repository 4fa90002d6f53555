"""A last linear layer that begins where logistic regression of its features ends.

Fine-tuning from a last layer drawn at random first drags the features towards it; from one that is
fitted to them they move little and for the better (Kumar et al., "Fine-tuning can distort
pretrained features and underperform out-of-distribution", ICLR 2022, arXiv:2202.10054, §3.4).
"""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["fit_logistic"]

_RIDGE = 1.0  # times half the squared weights, on features of deviation 1
_LOSS = 0.01  # times the summed losses: as scikit-learn's C
_RIDGE_BIAS = 1e-3  # else that of a class without boxes has no end
_ITERATIONS = 200


def fit_logistic(
    features: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    *,
    class_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multinomial logistic regression with a ridge.

    Parameters
    ----------
    features : tensor, shape (n, feature)
        They are centred, and divided by the root of their mean variance; what is returned is of
        the features as they are.
    labels : tensor of int, shape (n,)
    classes : int
    class_weights : tensor, shape (classes,), optional
        What the loss of a box of each class counts.

    Returns
    -------
    weight, bias : tensor of float32, shapes (classes, feature), (classes,)

    Examples
    --------
    >>> x = torch.tensor([[0.0, 5.0], [1.0, 5.0], [0.0, 5.0], [1.0, 5.0]])
    >>> weight, bias = fit_logistic(x, torch.tensor([0, 1, 0, 1]), 2)
    >>> (x @ weight.T + bias).argmax(1)
    tensor([0, 1, 0, 1])
    """
    x = features.double()
    middle = x.mean(0)
    spread = (x - middle).square().mean().sqrt()
    spread = torch.where(spread > 0, spread, 1.0)
    x = (x - middle) / spread
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, device=x.device, requires_grad=True)
    each = None if class_weights is None else class_weights.to(x)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=_ITERATIONS, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = _LOSS * functional.cross_entropy(x @ weight.T + bias, labels, each, reduction="sum")
        value = value + 0.5 * _RIDGE * weight.square().sum()
        value = value + 0.5 * _RIDGE_BIAS * bias.square().sum()
        value.backward()
        return value

    solver.step(loss)  # type: ignore[arg-type]
    own = weight.detach() / spread
    return own.float(), (bias.detach() - own @ middle).float()
