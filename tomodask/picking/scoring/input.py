"""What scoring is given, brought to one form and checked before anything is counted."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial import cKDTree

from tomodask.data.classes import names_in
from tomodask.data.columns import POSITION, SHIFT, require_columns
from tomodask.errors import InputError
from tomodask.picking.scoring.pairing import Pairs

__all__ = ["ScoredTable", "check_units", "scored_tables"]

_log = logging.getLogger(__name__)

_FEW = 5  # rows that tell nothing about units


@dataclass(frozen=True)
class ScoredTable:
    """Picks or true particles that are scored; arrays with a value for each.

    Attributes
    ----------
    row : array of int
        In the table that was given.
    position : array, shape (n, 3)
        Å, shifts added.
    tomogram, kind : array of str
        A kind is "" where none is known.
    score : array or None
        Of picks.
    radius : array
        Of particles, Å; NaN without.
    label : array of int
        Of particles, in the map of their tomogram.
    ignored : array of bool
        Particles that need not be found.
    names : list of str
        The classes that are scored; empty where only localisation is.
    voxel_size : float
        Å; NaN where unknown.
    """

    row: np.ndarray
    position: np.ndarray
    tomogram: np.ndarray
    kind: np.ndarray
    score: np.ndarray | None = None
    radius: np.ndarray = field(default_factory=lambda: np.zeros(0))
    label: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    ignored: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    names: list[str] = field(default_factory=list)
    voxel_size: float = math.nan

    def __len__(self) -> int:
        return len(self.row)


def scored_tables(
    picks: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    radius: float | Mapping[str, float] | None,
    needs_radius: bool,
    classes: Sequence[str] | None,
    ignore: Sequence[str],
    occupancy: xr.DataArray | Mapping[str, xr.DataArray] | None,
    voxel_size: float | None,
) -> tuple[ScoredTable, ScoredTable, np.ndarray]:
    """The picks, the truth, and the rows of picks that are left out; as `score_picks` says."""
    position, true_position = _position(picks, "picks"), _position(truth, "truth")
    tomogram, true_tomogram = _tomograms(picks, truth, occupancy)
    kind, true_kind, names = _kinds(picks, truth)
    chosen = _chosen(true_kind, classes, ignore)
    ignored = np.isin(true_kind, list(ignore))
    kept_truth = np.ones(len(truth), bool) if chosen is None else np.isin(true_kind, chosen)
    kept_truth |= ignored
    kept = np.isin(tomogram, np.unique(true_tomogram)) if len(truth) else np.ones(len(picks), bool)
    if absent := sorted(set(tomogram[~kept])):
        _log.warning(
            "%d picks lie in tomograms of which the truth says nothing (%s); they are left out",
            int((~kept).sum()),
            ", ".join(absent[:5]) + (" …" if len(absent) > 5 else ""),
        )
    if names and chosen is not None:
        kept &= np.isin(kind, chosen)
    names = [one for one in names if one not in ignore and (chosen is None or one in chosen)]
    row = np.flatnonzero(kept)
    true_row = np.flatnonzero(kept_truth)
    found = ScoredTable(
        row=row,
        position=position[row],
        tomogram=tomogram[row],
        kind=kind[row],
        score=picks["score"].to_numpy(float)[row] if "score" in picks else None,
    )
    true = ScoredTable(
        row=true_row,
        position=true_position[true_row],
        tomogram=true_tomogram[true_row],
        kind=true_kind[true_row],
        radius=_radius(truth, true_kind, radius, needs_radius)[true_row],
        label=_labels(truth, true_tomogram)[true_row],
        ignored=ignored[true_row],
        names=names,
        voxel_size=_voxel_size(voxel_size, occupancy, truth, picks),
    )
    return found, true, np.flatnonzero(~kept)


def check_units(found: ScoredTable, true: ScoredTable, pairs: Pairs) -> None:
    """Refuse picks that miss the truth as they are and fit it when taken for voxels (or Å)."""
    few = min(len(found), len(true))
    if few < _FEW or len(pairs.nearest()) > 0.05 * few:
        return
    size = true.voxel_size
    if not math.isnan(size) and not 0.5 < size < 2:
        tree = cKDTree(true.position)
        reach = np.median(tree.query(true.position, 2)[0][:, 1]) / 2
        for factor, theirs, want in ((size, "voxels", "Å"), (1 / size, "Å", "voxels")):
            if (tree.query(found.position * factor)[0] <= reach).mean() > 0.5:
                raise InputError(
                    f"picks are in {theirs} and the truth is in {want}, it seems: hardly one pick "
                    f"lies near a particle, and most do when multiplied by {factor:g}; bring both "
                    "to Å"
                )
    spans = [np.abs(one.position).max() for one in (found, true)]
    if not len(pairs) and not 1 / 3 < spans[0] / max(spans[1], 1e-9) < 3:
        raise InputError(
            f"picks reach to {spans[0]:.4g} and the truth to {spans[1]:.4g}, and no pick lies near "
            "a particle: they are in other units; bring both to Å"
        )


def _position(table: pd.DataFrame, what: str) -> np.ndarray:
    require_columns(table, ("position",), what, rows=False)
    position = table[list(POSITION)].to_numpy(float)
    if set(SHIFT) <= set(table):
        position = position + table[list(SHIFT)].to_numpy(float)
    bad = ~np.isfinite(position).all(axis=1)
    if bad.any():
        raise InputError(
            f"{what}: {bad.sum()} rows have no finite position, the first is row "
            f"{int(np.argmax(bad))}; drop them"
        )
    return position


def _tomograms(
    picks: pd.DataFrame, truth: pd.DataFrame, occupancy: xr.DataArray | Mapping | None
) -> tuple[np.ndarray, np.ndarray]:
    """Names of each row's tomogram, such that equal ones are equal."""
    both = [
        names_in(one["tomogram"]).to_numpy()
        if "tomogram" in one
        else np.full(len(one), "", dtype=object)
        for one in (picks, truth)
    ]
    sets = [sorted(set(one)) for one in both]
    if all(sets) and not set(sets[0]) & set(sets[1]):
        if len(sets[0]) > 1 or len(sets[1]) > 1:
            raise InputError(
                "picks and truth have no tomogram in common: picks are of "
                f"{', '.join(map(repr, sets[0][:5]))}, the truth of "
                f"{', '.join(map(repr, sets[1][:5]))}; give both a column tomogram with equal names"
            )
        if sets[0][0] and sets[1][0]:
            _log.warning("tomogram %s is taken for %s", sets[0][0], sets[1][0])
        both[0] = np.full(len(picks), sets[1][0], dtype=object)
    if isinstance(occupancy, Mapping):
        if missing := [name for name in sets[1] if name not in occupancy]:
            raise InputError(
                f"occupancy has no map of {', '.join(map(repr, missing))}; give one by name for "
                "each tomogram of the truth"
            )
        maps = [occupancy[name] for name in sets[1]]
    else:
        maps = [] if occupancy is None else [occupancy]
        if maps and len(sets[1]) > 1:
            raise InputError(
                f"occupancy is one map and the truth is of {len(sets[1])} tomograms; give a map by "
                "name for each"
            )
    for one in maps:
        if one.ndim != 3 or "voxel_size" not in one.attrs:
            raise InputError(
                f"occupancy must be a volume (z, y, x) with a voxel size, got dims {one.dims}; "
                "open it with open_tomogram"
            )
    return both[0], both[1]


def _kinds(picks: pd.DataFrame, truth: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Class of each pick and particle, by the names of the truth, and those names in order."""
    none = np.full(len(picks), "", dtype=object)
    columns = [name for name in ("kind", "class") if name in truth]
    if not columns:
        return none, np.full(len(truth), "", dtype=object), []
    true = names_in(truth[columns[0]]).to_numpy()
    by = truth["class"] if "class" in truth and truth["class"].dtype.kind in "iuf" else None
    order = dict.fromkeys(true[np.argsort(by, kind="stable")] if by is not None else sorted(true))
    names = [name for name in order if name]
    for theirs in ("kind", "class"):
        for ours in columns:
            if theirs not in picks:
                continue
            kind, called = (names_in(one).to_numpy() for one in (picks[theirs], truth[ours]))
            if set(kind) & set(called) - {""} or picks.empty:
                rename = dict(zip(called, true, strict=True))
                kind = np.array([rename.get(one, one) for one in kind], dtype=object)
                return kind, true, names
    if ("kind" in picks or "class" in picks) and len(truth):
        _log.warning("no class of the picks is one of the truth: only localisation is scored")
    return none, true, []


def _chosen(
    true_kind: np.ndarray, classes: Sequence[str] | None, ignore: Sequence[str]
) -> list[str] | None:
    known = sorted(set(true_kind) - {""})
    for parameter, names in (("classes", classes or ()), ("ignore", ignore)):
        if isinstance(names, str):
            raise InputError(f"{parameter} must be a list of names, got {names!r}")
        if unknown := [name for name in names if name not in known]:
            raise InputError(
                f"{parameter}: the truth has no {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(known) or 'no classes'}"
            )
    return None if classes is None else list(classes)


def _radius(
    truth: pd.DataFrame,
    true_kind: np.ndarray,
    radius: float | Mapping[str, float] | None,
    needed: bool,
) -> np.ndarray:
    if not needed:
        return np.full(len(truth), np.nan)
    if isinstance(radius, Mapping):
        if missing := sorted(set(true_kind) - set(radius)):
            raise InputError(
                f"radius has none for {', '.join(map(repr, missing))}; give one for each class"
            )
        reach = np.array([radius[name] for name in true_kind], float)
    elif radius is not None:
        reach = np.full(len(truth), float(radius))
    elif "radius" in truth:
        reach = truth["radius"].to_numpy(float)
    elif "diameter" in truth:
        reach = truth["diameter"].to_numpy(float) / 2
    else:
        raise InputError(
            "radius is needed, as the truth has no column radius or diameter; give the farthest "
            "that a pick may lie from a particle, Å (half the particle's diameter, say)"
        )
    bad = ~(np.isfinite(reach) & (reach > 0))
    if bad.any() or (isinstance(radius, float | int) and not radius > 0):
        value = radius if not len(reach) else reach[bad][0]
        raise InputError(f"radius must be above 0 Å, got {value}")
    return reach


def _labels(truth: pd.DataFrame, tomogram: np.ndarray) -> np.ndarray:
    """Number of each particle in its tomogram's map: a column, or rows counted from 1."""
    if "label" in truth:
        return truth["label"].to_numpy(np.int64)
    return pd.Series(tomogram).groupby(tomogram).cumcount().to_numpy(np.int64) + 1


def _voxel_size(
    given: float | None,
    occupancy: xr.DataArray | Mapping | None,
    truth: pd.DataFrame,
    picks: pd.DataFrame,
) -> float:
    if given is not None:
        if not (math.isfinite(given) and given > 0):
            raise InputError(f"voxel_size must be above 0 Å, got {given}")
        return float(given)
    maps = occupancy.values() if isinstance(occupancy, Mapping) else [occupancy]
    for one in (*(m for m in maps if m is not None), truth, picks):
        if (size := one.attrs.get("voxel_size")) is not None:
            return float(size)
    return math.nan
