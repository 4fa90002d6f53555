"""What a round of alignment and averaging is of, what it hands to the next, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.averaging.average import Average
from tomodask.averaging.map_filters import half_map_weights
from tomodask.rounds.iterations import Finished, RefinementPlan, next_reference

__all__ = [
    "Round",
    "RoundClass",
    "RoundPlan",
    "RoundResult",
    "next_references",
    "next_round",
    "start_round",
]


@dataclass(frozen=True)
class RoundPlan:
    """The particles of all rounds, and how classes are dealt with.

    Attributes
    ----------
    boxes : Dataset
    table : DataFrame
        Of the boxes, row by row.
    half : array of int, shape (particles,)
        1 or 2.
    plan : RefinementPlan
    assignment : {"hard", "soft"}
        Of particles to classes.
    reseeds : int
        How often classes that fall empty are filled again; after that they are given up.
    merge : float, optional
        Correlation from which classes are one; None keeps them.
    tilt_range : (float, float), optional
        As of `align_subtomograms`.
    method : {"simplex", "gradient"}
        Of superposition, see `superpose`.
    """

    boxes: xr.Dataset
    table: pd.DataFrame
    half: np.ndarray
    plan: RefinementPlan
    assignment: str = "hard"
    reseeds: int = 2
    merge: float | None = 0.97
    tilt_range: tuple[float, float] | None = None
    method: Literal["simplex", "gradient"] = "simplex"


@dataclass(frozen=True)
class Round:
    """What a round hands to the next.

    Attributes
    ----------
    poses : DataFrame, optional
        Row by row those of the boxes; NaN where one was set aside.  None before the first.
    references : dict of int to (array, array)
        By class: of half 1 and half 2.
    shares : dict of int to float
        Of the classes.
    filled : int
        How many empty classes were filled so far.
    """

    poses: pd.DataFrame | None
    references: dict[int, tuple[np.ndarray, np.ndarray]]
    shares: dict[int, float]
    filled: int = 0


@dataclass(frozen=True)
class RoundClass:
    """A class's average and the correlation of its halves."""

    average: Average
    curve: pd.DataFrame
    weights_share: float


@dataclass(frozen=True)
class RoundResult:
    """What a round came to.

    Attributes
    ----------
    finished : Finished
    table : DataFrame
        Of all particles, row by row those of the boxes: pose, score, ``half`` and, of several
        classes, ``class`` and ``share`` (how much of the particle is of that class); without a
        pose, with its ``reason``, where one was set aside.
    classes : dict of int to RoundClass
    several : bool
        Whether classes were told apart.
    events : dict
        ``filled`` (how often empty classes were filled so far); ``refilled``, ``given_up`` (lists
        of classes, where several were told apart), ``merged`` (pairs: kept, gone) and ``drift``
        (by class: degrees and Å that its half 2 was brought back by).
    """

    finished: Finished
    table: pd.DataFrame = field(repr=False)
    classes: dict[int, RoundClass] = field(repr=False)
    several: bool
    events: dict[str, Any]


def start_round(maps: list[np.ndarray], poses: pd.DataFrame | None) -> Round:
    """Before the first round of a start: the same maps for both halves."""
    references = {number: (one, one) for number, one in enumerate(maps, 1)}
    shares = dict.fromkeys(references, 1 / len(maps))
    return Round(poses, references, shares)


def next_references(
    classes: Mapping[int, RoundClass], *, several: bool
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """What the halves of each class are aligned to in the next round, by class.

    Several classes share one filter, that of each weighed by its share: see `next_reference`.
    """
    filters = {c: half_map_weights(one.curve) for c, one in classes.items()}
    if several:
        total = sum(one.weights_share for one in classes.values())
        common = sum(classes[c].weights_share / total * one for c, one in filters.items())
        filters = dict.fromkeys(filters, np.asarray(common))
    return {
        c: (
            next_reference(one.average.half_1, filters[c]),
            next_reference(one.average.half_2, filters[c]),
        )
        for c, one in classes.items()
    }


def next_round(result: RoundResult) -> Round:
    """What the next round begins with, where no file lies between the two."""
    return Round(
        result.table,
        next_references(result.classes, several=result.several),
        {c: one.weights_share for c, one in result.classes.items()},
        int(result.events["filled"]),
    )
