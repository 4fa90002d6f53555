"""What features are worth, by some labels: a linear and a nearest-neighbour classifier of them.

Both learn from one half of the labelled boxes and are judged on the other; the network learns
nothing from either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tomodask.errors import InputError

__all__ = ["Probe", "halves", "probe_features"]

_NEIGHBOURS = 5
_RIDGE = 0.1  # of the mean squared feature, which is 1
_FEWEST = 2  # boxes of a class: one in each half


@dataclass(frozen=True)
class Probe:
    """Accuracy on the boxes that a probe did not learn from."""

    linear: float
    neighbours: float


def halves(numbers: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Places to learn from and to judge by: of each class a half each, drawn.

    Parameters
    ----------
    numbers : array of int, shape (n,)
        Classes.

    Raises
    ------
    InputError
        If fewer than two classes have two boxes.
    """
    learned, judged = [], []
    for number in np.unique(numbers):
        members = np.flatnonzero(numbers == number)
        if len(members) < _FEWEST:
            continue
        drawn = np.random.default_rng([seed, int(number)]).permutation(members)
        learned.append(drawn[: len(drawn) // 2])
        judged.append(drawn[len(drawn) // 2 :])
    if len(learned) < 2:
        raise InputError(
            f"labels must have two classes of at least {_FEWEST} boxes each, or features cannot be "
            "probed; label more, or leave labels away"
        )
    return np.sort(np.concatenate(learned)), np.sort(np.concatenate(judged))


def probe_features(features: np.ndarray, numbers: np.ndarray, *, seed: int = 0) -> Probe:
    """Judge features by labels.

    Parameters
    ----------
    features : array, shape (n, feature)
    numbers : array of int, shape (n,)
    seed : int

    Returns
    -------
    Probe
        ``linear``: least squares to the classes, with a ridge; ``neighbours``: most of the five
        nearest by the cosine, of equals the class of the nearest.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> numbers = np.repeat([0, 1], 20)
    >>> probe_features(rng.normal(size=(40, 3)) + 9 * numbers[:, None], numbers)
    Probe(linear=1.0, neighbours=1.0)
    """
    learned, judged = halves(numbers, seed=seed)
    values = np.asarray(features, np.float64)
    mean, spread = values[learned].mean(0), values[learned].std(0)
    values = (values - mean) / np.where(spread > 0, spread, 1.0)
    known, wanted = numbers[learned], numbers[judged]
    return Probe(
        float((_linear(values[learned], known, values[judged]) == wanted).mean()),
        float((_nearest(values[learned], known, values[judged]) == wanted).mean()),
    )


def _linear(values: np.ndarray, known: np.ndarray, others: np.ndarray) -> np.ndarray:
    kinds, places = np.unique(known, return_inverse=True)
    targets = np.eye(len(kinds))[places]
    middle = targets.mean(0)
    ridge = _RIDGE * len(values)
    if values.shape[1] <= len(values):
        normal = values.T @ values + ridge * np.eye(values.shape[1])
        weights = np.linalg.solve(normal, values.T @ (targets - middle))
    else:  # the same weights, by fewer equations
        normal = values @ values.T + ridge * np.eye(len(values))
        weights = values.T @ np.linalg.solve(normal, targets - middle)
    return np.asarray(kinds[(others @ weights + middle).argmax(1)])


def _nearest(values: np.ndarray, known: np.ndarray, others: np.ndarray) -> np.ndarray:
    unit, theirs = (
        one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12)
        for one in (values, others)
    )
    nearest = np.argsort(-(theirs @ unit.T), axis=1, kind="stable")[:, :_NEIGHBOURS]
    votes = known[nearest]
    counts = (votes[:, :, None] == votes[:, None, :]).sum(2)
    return np.asarray(votes[np.arange(len(votes)), counts.argmax(1)])  # of equals the nearest
