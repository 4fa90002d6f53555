"""Picks held against the truth: the figures of SHREC 2021 [1]_, by radius or by a label map.

.. [1] Gubins et al., "SHREC 2021: Classification in cryo-electron tomograms", 3DOR (2021),
   doi:10.2312/3dor.20211307.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.errors import InputError
from tomodask.picking.scoring.input import ScoredTable, check_units, scored_tables
from tomodask.picking.scoring.pairing import Pairs, pairs_by_label, pairs_by_radius

__all__ = ["Scores", "score_picks"]

_log = logging.getLogger(__name__)

LOCALISATION = "all (localisation)"
CLASSIFICATION = "all (classification)"
MEAN = "mean of classes"
MISSED, NOTHING = "(missed)", "(nothing)"
_THRESHOLDS = 256  # of the curve, at most
_COUNTS = ["particles", "picks", "TP", "FP", "FN", "double", "multiple"]


@dataclass(frozen=True)
class Scores:
    """What picks are worth.

    Attributes
    ----------
    table : DataFrame
        A row for localisation (any class), one for each class, their sum and their mean.  Columns:
        ``particles``, ``picks``; ``TP`` particles found, ``FP`` picks on nothing (of a class: on
        nothing or on another class), ``FN`` particles not found, ``double`` picks beyond the first
        on a particle (TP + FP + double = picks), ``multiple`` particles with such; ``distance`` (Å)
        and ``distance_voxels``, the mean over TP; ``precision`` = TP / picks, ``recall`` = TP /
        particles, ``f1``; ``shrec_precision`` and ``shrec_f1``, which count of a class's picks
        only those that were matched; ``area`` under the curve; with `beta`, ``f_beta``.
    confusion : DataFrame or None
        Particles by class (rows) and the class of their pick (columns); the last column is
        "(missed)", the last row, "(nothing)", picks that are false.  None without classes.
    picks : DataFrame
        Each pick's ``verdict`` (true, double, false, ignored), the row of its ``particle`` in the
        truth (-1: none), ``distance`` (Å) and ``true_class``.
    particles : DataFrame
        The truth with the row of the pick that found it, ``pick`` (-1: missed).
    curve : DataFrame or None
        ``class``, ``threshold``, ``picks``, ``TP``, ``precision``, ``recall``, ``f1`` of the picks
        at or above each threshold, the highest first.  None without scores.
    outside : int or None
        Picks outside the label map; None without one.
    """

    table: pd.DataFrame
    confusion: pd.DataFrame | None
    picks: pd.DataFrame
    particles: pd.DataFrame
    curve: pd.DataFrame | None
    outside: int | None

    @property
    def precision(self) -> float:
        """Of localisation."""
        return self._whole("precision")

    @property
    def recall(self) -> float:
        """Of localisation."""
        return self._whole("recall")

    @property
    def f1(self) -> float:
        """Of localisation."""
        return self._whole("f1")

    def _whole(self, column: str) -> float:
        return float(self.table[column].to_numpy(float)[0])

    def __str__(self) -> str:
        shown = self.table.rename(columns={"distance": "AD (Å)", "distance_voxels": "AD (voxels)"})
        # What is not known at all is not shown; a precision of no picks is.
        spare = ["AD (voxels)", "shrec_f1", "f_beta", "area"]
        none = [name for name in spare if name in shown and shown[name].isna().all()]
        shown = shown.drop(columns=["shrec_precision", *none])
        digits = {"AD (Å)": 1, "AD (voxels)": 2} | dict.fromkeys(_COUNTS, 0)
        cells = {
            name: [_cell(value, digits.get(str(name), 3)) for value in shown[name]]
            for name in shown
        }
        lines = [pd.DataFrame(cells, index=shown.index).to_string()]
        if self.outside:
            lines.append(f"{self.outside} picks lie outside the tomogram")
        if ignored := int((self.picks["verdict"] == "ignored").sum()):
            lines.append(f"{ignored} picks were left out")
        return "\n".join(lines)


def _cell(value: float, digits: int) -> str:
    return "–" if pd.isna(value) else f"{value:.{digits}f}"


def score_picks(
    picks: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    radius: float | Mapping[str, float] | None = None,
    occupancy: xr.DataArray | Mapping[str, xr.DataArray] | None = None,
    classes: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    voxel_size: float | None = None,
    beta: float | None = None,
) -> Scores:
    """Hold picks against the truth.

    A pick finds at most one particle and a particle is found by one pick: pairs are settled from
    the nearest on, whatever the classes (localisation).  A pick that comes near found particles
    only is a double hit: neither true nor false, but it counts in the precision.  Classes are then
    compared within the pairs.

    Parameters
    ----------
    picks, truth : DataFrame
        ``z``, ``y``, ``x`` (Å; shifts are added); optionally ``tomogram``, ``score``, and the class
        as ``kind`` (name) or ``class`` (name or number).  Each tomogram is scored on its own; picks
        in tomograms without any truth are left out.
    radius : float or mapping, optional
        Å, the farthest that a pick may lie from a particle; also by class.  None: half the
        particle's diameter, from the columns ``radius`` or ``diameter`` (Å) of `truth`.
    occupancy : DataArray of int or mapping, optional
        In place of a radius: the number of the particle that each voxel belongs to, from 1 in the
        order of the tomogram's rows in `truth` or as its column ``label`` says; also by tomogram.
        Matching is as in [1]_ (`tomodask.picking.scoring.pairing.pairs_by_label`).
    classes : sequence of str, optional
        Score these alone: picks of other classes are left out, picks on other particles are false.
    ignore : sequence of str
        Particles that need not be found; a pick on one is left out.
    voxel_size : float, optional
        Å, for distances in voxels; by default what occupancy, truth or picks say.
    beta : float, optional
        Adds a column ``f_beta``, in which recall weighs `beta` times as much as precision.

    Returns
    -------
    Scores

    Raises
    ------
    InputError
        If columns are missing, a position is not finite, no radius is known, a class is not in the
        truth, the tables have no tomogram in common, the map holds no whole numbers, or the picks
        are plainly in other units than the truth.

    Examples
    --------
    >>> truth = pd.DataFrame({"z": [0.0, 0], "y": [0.0, 0], "x": [0.0, 200], "kind": ["a", "b"]})
    >>> picks = pd.DataFrame({"z": [0.0] * 4, "y": [0.0] * 4, "x": [10.0, 30, 190, 400]})
    >>> scores = score_picks(picks, truth, radius=50.0)
    >>> scores.picks["verdict"].tolist()
    ['true', 'double', 'true', 'false']
    >>> scores.precision, scores.recall
    (0.5, 1.0)
    """
    if beta is not None and not beta > 0:
        raise InputError(f"beta must be above 0, got {beta}")
    if radius is not None and occupancy is not None:
        raise InputError("radius and occupancy are two rules; give one of them")
    found, true, left_out = scored_tables(
        picks,
        truth,
        radius=radius,
        needs_radius=occupancy is None,
        classes=classes,
        ignore=ignore,
        occupancy=occupancy,
        voxel_size=voxel_size,
    )
    pairs, outside = _pairs(found, true, occupancy)
    check_units(found, true, pairs)
    verdict = _Verdict.of(pairs, found, true)
    names = true.names
    table = _table(verdict, found, true, names, beta)
    curve = _curve(pairs, found, true, names)
    if curve is not None:
        areas = {name: _area(part) for name, part in curve.groupby("class", sort=False)}
        table["area"] = [areas.get(str(name), math.nan) for name in table.index]
        if names:
            table.loc[MEAN, "area"] = table.loc[names, "area"].mean()
    return Scores(
        table=table,
        confusion=_confusion(verdict, found, true, names) if names else None,
        picks=_picks_table(picks, found, true, verdict, left_out),
        particles=_particles_table(truth, true, found, verdict),
        curve=curve,
        outside=outside,
    )


def _pairs(
    found: ScoredTable, true: ScoredTable, occupancy: xr.DataArray | Mapping | None
) -> tuple[Pairs, int | None]:
    parts, outside, hollow = [], 0, 0
    for tomogram in sorted(set(true.tomogram)):
        here = np.flatnonzero(found.tomogram == tomogram)
        there = np.flatnonzero(true.tomogram == tomogram)
        positions = found.position[here], true.position[there]
        if occupancy is None:
            part = pairs_by_radius(*positions, true.radius[there])
        else:
            labels = occupancy[tomogram] if isinstance(occupancy, Mapping) else occupancy
            part, beyond = pairs_by_label(*positions, labels=labels, numbers=true.label[there])
            outside += beyond
            own, _ = pairs_by_label(
                positions[1], positions[1], labels=labels, numbers=true.label[there]
            )
            hollow += len(there) - int((own.pick == own.particle).sum())
        parts.append(Pairs.of(here[part.pick], there[part.particle], part.distance))
    if hollow:
        _log.warning(
            "%d of %d particles have their centre in no voxel of their own in the map (hollow "
            "ones?): picks there count as false; to count them as true, give a radius in place of "
            "occupancy (--radius)",
            *(hollow, len(true.position)),
        )
    return Pairs.joined(parts), None if occupancy is None else outside


@dataclass(frozen=True)
class _Verdict:
    """What became of each pick; rows are those of the scored tables."""

    verdict: np.ndarray  # of each pick
    particle: np.ndarray  # of each pick, -1: none
    distance: np.ndarray
    pick: np.ndarray  # of each particle, -1: missed
    hits: np.ndarray  # of each particle

    @classmethod
    def of(cls, pairs: Pairs, found: ScoredTable, true: ScoredTable) -> _Verdict:
        verdict = np.full(len(found), "false", dtype=object)
        particle, distance = np.full(len(found), -1), np.full(len(found), np.nan)
        nearest, matched = pairs[pairs.nearest()], pairs[pairs.one_to_one()]
        for name, some in (("double", nearest), ("true", matched)):
            verdict[some.pick] = name
            particle[some.pick], distance[some.pick] = some.particle, some.distance
        pick = np.full(len(true), -1)
        pick[matched.particle] = matched.pick
        near = particle >= 0
        verdict[near] = np.where(true.ignored[particle[near]], "ignored", verdict[near])
        hits = np.bincount(particle[near], minlength=len(true))
        return cls(verdict, particle, distance, pick, hits)


def _table(
    result: _Verdict, found: ScoredTable, true: ScoredTable, names: list[str], beta: float | None
) -> pd.DataFrame:
    """The table but for the areas."""
    verdict, wanted = result.verdict, ~true.ignored
    hit = verdict == "true"
    rows = {
        LOCALISATION: {
            "particles": wanted.sum(),
            "picks": (verdict != "ignored").sum(),
            "TP": hit.sum(),
            "FP": (verdict == "false").sum(),
            "double": (verdict == "double").sum(),
            "multiple": (wanted & (result.hits > 1)).sum(),
            "matched": hit.sum(),
            "way": result.distance[hit].sum(),
        }
    }
    there = np.where(result.particle >= 0, true.kind[result.particle], "") if len(true) else ""
    for name in names:
        mine = (found.kind == name) & (verdict != "ignored")
        of_it = there == name
        right = mine & hit & of_it
        double = mine & (verdict == "double") & of_it
        rows[name] = {
            "particles": (wanted & (true.kind == name)).sum(),
            "picks": mine.sum(),
            "TP": right.sum(),
            "FP": (mine & ~right & ~double).sum(),
            "double": double.sum(),
            "multiple": (wanted & (true.kind == name) & (result.hits > 1)).sum(),
            "matched": (mine & hit).sum(),
            "way": result.distance[right].sum(),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").astype(float)
    if names:
        table.loc[CLASSIFICATION] = table.loc[names].sum()
    table["FN"] = table["particles"] - table["TP"]
    table["distance"] = table["way"] / table["TP"]
    table["distance_voxels"] = table["distance"] / true.voxel_size
    table["precision"] = table["TP"] / table["picks"]
    table["recall"] = table["TP"] / table["particles"]
    table["f1"] = _f(table, table["picks"], 1.0)
    table["shrec_precision"] = table["TP"] / table["matched"]
    table["shrec_f1"] = _f(table, table["matched"], 1.0)
    # Without classes a double hit is in SHREC's precision, too.
    table.loc[LOCALISATION, ["shrec_precision", "shrec_f1"]] = np.nan
    if beta is not None:
        table["f_beta"] = _f(table, table["picks"], beta)
    if names:
        table.loc[MEAN] = table.loc[names].mean()
        table.loc[MEAN, _COUNTS] = np.nan
    table[_COUNTS] = table[_COUNTS].astype("Int64")
    first = [*_COUNTS, "distance", "distance_voxels", "precision", "recall", "f1"]
    rest = [name for name in table if name not in (*first, "way", "matched")]
    return table[first + rest].rename_axis("class")


def _f(table: pd.DataFrame, picks: pd.Series, beta: float) -> pd.Series:
    """F-measure; 0 where something was to be found or was picked, and nothing is right."""
    return (1 + beta**2) * table["TP"] / (beta**2 * table["particles"] + picks)


def _confusion(
    result: _Verdict, found: ScoredTable, true: ScoredTable, names: list[str]
) -> pd.DataFrame:
    wanted = ~true.ignored
    kinds = [*names, *sorted(set(found.kind) - set(names))]
    got = np.where(result.pick >= 0, np.append(found.kind, "")[result.pick], MISSED)
    false = found.kind[result.verdict == "false"]
    rows = {
        name: [(wanted & (true.kind == name) & (got == kind)).sum() for kind in [*kinds, MISSED]]
        for name in names
    }
    rows[NOTHING] = [*((false == kind).sum() for kind in kinds), 0]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*kinds, MISSED]).astype(int)


def _curve(
    pairs: Pairs, found: ScoredTable, true: ScoredTable, names: list[str]
) -> pd.DataFrame | None:
    """Counts of the picks at or above a threshold, each matched anew."""
    if found.score is None or np.isnan(found.score).any():
        return None
    levels = np.unique(found.score)[::-1]
    if len(levels) > _THRESHOLDS:
        levels = levels[np.linspace(0, len(levels) - 1, _THRESHOLDS).round().astype(int)]
    rows = []
    for level in levels:
        kept = found.score >= level
        some = pairs[kept[pairs.pick]]
        nearest, matched = some[some.nearest()], some[some.one_to_one()]
        kept[nearest.pick[true.ignored[nearest.particle]]] = False
        kept[matched.pick[true.ignored[matched.particle]]] = False
        kept[matched.pick[~true.ignored[matched.particle]]] = True
        matched = matched[~true.ignored[matched.particle]]
        right = found.kind[matched.pick] == true.kind[matched.particle]
        rows.append((LOCALISATION, level, kept.sum(), len(matched), (~true.ignored).sum()))
        for name in names:
            mine = kept & (found.kind == name)
            of_it = true.kind[matched.particle] == name
            total = (~true.ignored & (true.kind == name)).sum()
            rows.append((name, level, mine.sum(), (right & of_it).sum(), total))
    curve = pd.DataFrame(rows, columns=["class", "threshold", "picks", "TP", "particles"])
    picks, particles = curve["picks"], curve["particles"]
    curve["precision"] = curve["TP"] / picks.where(picks > 0)
    curve["recall"] = curve["TP"] / particles.where(particles > 0)
    curve["f1"] = 2 * curve["TP"] / (picks + particles)
    order = {name: place for place, name in enumerate([LOCALISATION, *names])}
    place = curve["class"].map(order)
    return curve.iloc[np.argsort(place, kind="stable")].reset_index(drop=True)


def _area(part: pd.DataFrame) -> float:
    """Average precision: the area under the steps of precision over recall."""
    recall = part["recall"].to_numpy(float)
    precision = part["precision"].fillna(0.0).to_numpy(float)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def _picks_table(
    picks: pd.DataFrame,
    found: ScoredTable,
    true: ScoredTable,
    result: _Verdict,
    left_out: np.ndarray,
) -> pd.DataFrame:
    table = picks.reset_index(drop=True).copy()
    hit = result.particle >= 0
    row = np.full(len(table), -1)
    row[found.row[hit]] = true.row[result.particle[hit]]
    verdict = np.full(len(table), "ignored", dtype=object)
    verdict[found.row] = result.verdict
    distance = np.full(len(table), np.nan)
    distance[found.row] = result.distance
    kind = np.full(len(table), "", dtype=object)
    kind[found.row[hit]] = true.kind[result.particle[hit]]
    assert (verdict[left_out] == "ignored").all()
    return table.assign(verdict=verdict, particle=row, distance=distance, true_class=kind)


def _particles_table(
    truth: pd.DataFrame, true: ScoredTable, found: ScoredTable, result: _Verdict
) -> pd.DataFrame:
    pick = np.full(len(truth), -1)
    hit = result.pick >= 0
    pick[true.row[hit]] = found.row[result.pick[hit]]
    return truth.reset_index(drop=True).assign(pick=pick)
