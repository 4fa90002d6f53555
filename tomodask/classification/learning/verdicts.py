"""How right a classifier is, and how far its confidence can be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tomodask.nets.boxes.calibration import calibration_error, fit_temperature, probabilities

__all__ = ["Verdict", "assessed", "confusion", "judged_at", "recalls"]


@dataclass(frozen=True)
class Verdict:
    """What held-out boxes said of a network, and what was taken from it.

    Attributes
    ----------
    epoch : int
        The network's, from 1.
    temperature, least_confidence : float
        Of the model.
    accuracy, class_accuracy : float
        Of all boxes, and the mean of the classes'.
    calibration_error : float
        Expected calibration error, after the temperature; of the boxes that it was fitted to.
    confusion : list of list of int
        Boxes by their class (rows) and the class that is said (columns).
    """

    epoch: int
    temperature: float
    least_confidence: float
    accuracy: float
    class_accuracy: float
    calibration_error: float
    confusion: list[list[int]]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def judged_at(logits: np.ndarray, labels: np.ndarray, *, epoch: int, known: float) -> Verdict:
    """The verdict on an epoch.

    Parameters
    ----------
    logits : array, shape (n, classes)
    labels : array of int, shape (n,)
    epoch : int
    known : float
        Share of the boxes whose confidence shall reach the least confidence.
    """
    temperature = fit_temperature(logits, labels)
    confidence = np.sort(probabilities(logits, temperature).max(1))
    # The boxes of least confidence that may be refused; 1: none.
    refused = math.floor((1 - known) * len(confidence) + 1e-9)
    least = 0.0 if known >= 1 else min(float(confidence[refused]), 1 - 1e-9)
    chances = probabilities(logits, temperature)
    told = assessed(chances, labels, chances.max(1) < least)
    names = ("accuracy", "class_accuracy", "calibration_error", "confusion")
    return Verdict(epoch, temperature, least, **{name: told[name] for name in names})


def assessed(chances: np.ndarray, labels: np.ndarray, none: np.ndarray) -> dict[str, Any]:
    """What labelled boxes say of a model.

    Parameters
    ----------
    chances : array, shape (n, classes)
        Calibrated probabilities.
    labels : array of int, shape (n,)
    none : array of bool, shape (n,)
        Boxes that are said to be none of the classes.

    Returns
    -------
    dict
        ``boxes``, ``accuracy``, ``class_accuracy`` (the mean of the classes'), ``none`` (share
        that is said to be none of them), ``accuracy_of_said`` (of the others; None where there
        are none), ``recall`` (of each class the share of its boxes that is said to be of it; None
        where it has none), ``calibration_error``, ``confusion``.
    """
    said, sure = chances.argmax(1), ~none
    right = said == labels
    table = confusion(said, labels, chances.shape[1])
    members = table.sum(1)
    there = members > 0
    return {
        "boxes": len(labels),
        "accuracy": float(right.mean()),
        "class_accuracy": float((table.diagonal()[there] / members[there]).mean()),
        "none": float(1 - sure.mean()),
        "accuracy_of_said": float(right[sure].mean()) if sure.any() else None,
        "recall": recalls(table),
        "calibration_error": calibration_error(chances, labels),
        "confusion": table.tolist(),
    }


def confusion(said: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Boxes by their class (rows) and the class that is said (columns).

    Examples
    --------
    >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    out = np.zeros((classes, classes), np.int64)
    np.add.at(out, (labels, said), 1)
    return out


def recalls(table: np.ndarray | Sequence[Sequence[int]]) -> list[float | None]:
    """Of each class the share of its boxes that is said to be of it; None where it has none.

    Examples
    --------
    >>> recalls([[1, 1, 0], [0, 2, 0], [0, 0, 0]])
    [0.5, 1.0, None]
    """
    return [
        row[n] / sum(row) if sum(row) else None for n, row in enumerate(np.asarray(table).tolist())
    ]
