"""Confidence that is what it says: temperature scaling (Guo et al., ICML 2017, arXiv:1706.04599).

Plain arrays; needs no PyTorch.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from tomodask.errors import InputError

__all__ = ["calibration_error", "fit_temperature", "probabilities"]

_LOG_RANGE = 3.0  # temperatures from 1/20 to 20
_FEWEST = 2  # labelled boxes


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax of logits / temperature, float64, shape (n, classes).

    Examples
    --------
    >>> probabilities(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    return np.asarray(np.exp(_log_softmax(np.asarray(logits, np.float64) / temperature)))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of the least mean negative log-likelihood, within 1/20 to 20.

    It changes no decision, only the confidence in it.

    Parameters
    ----------
    logits : array, shape (n, classes)
        Of boxes that training did not see.
    labels : array of int, shape (n,)

    Raises
    ------
    InputError
        If there are fewer than two labelled boxes.
    """
    given = np.asarray(logits, np.float64)
    if len(given) < _FEWEST or len(given) != len(labels):
        raise InputError(
            f"a temperature needs at least {_FEWEST} boxes with a label each, got {len(given)} "
            f"boxes and {len(labels)} labels"
        )
    rows = np.arange(len(given))

    def cost(log_temperature: float) -> float:
        told = _log_softmax(given * np.exp(-log_temperature))
        return float(-told[rows, labels].mean())

    # Convex in 1 / temperature, so it has one minimum in its logarithm, too.
    found = minimize_scalar(
        cost, bounds=(-_LOG_RANGE, _LOG_RANGE), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def calibration_error(chances: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error: confidence against accuracy, in the mean (Guo et al., eq. 3).

    Parameters
    ----------
    chances : array, shape (n, classes)
    labels : array of int, shape (n,)
    bins : int
        Of confidence, of equal width.
    """
    confidence = chances.max(1)
    right = chances.argmax(1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    off = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(off).sum() / len(chances))


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(1, keepdims=True)))
