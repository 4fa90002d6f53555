"""Which boxes bear which label: tables of labels held against boxes, and the split of them.

A row of a table is a box's by one of three: the name of the box (``image``), the number of its
particle (``particle``), or its place in the tomogram.  Boxes without a label are left out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial import cKDTree

from tomodask.data.classes import names_in
from tomodask.data.columns import POSITION, SHIFT, as_types
from tomodask.data.particles import PARTICLE_SUFFIXES, read_particles
from tomodask.data.subtomogram_table import particle_table
from tomodask.errors import InputError, did_you_mean

__all__ = ["Labelled", "Split", "class_weights", "labelled_boxes", "split_labels"]

_log = logging.getLogger(__name__)
_NAMED = 5
_FEW = 10  # members: below, a class is told of
_HEAVIEST = 10.0  # times a box of the largest class
FEWEST = 3  # members: one to judge by, and two to learn from


@dataclass(frozen=True)
class Labelled:
    """Boxes that bear a label.

    Attributes
    ----------
    rows : array of int, shape (n,)
        Of the boxes, rising.
    numbers : array of int, shape (n,)
        Of their classes, from 0.
    classes : tuple of str
    """

    rows: np.ndarray
    numbers: np.ndarray
    classes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Members of each class."""
        found = np.bincount(self.numbers, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, found, strict=True))

    def without(self, faulty: np.ndarray) -> Labelled:
        """Those whose flag is not set."""
        kept = ~np.asarray(faulty, bool)
        return Labelled(self.rows[kept], self.numbers[kept], self.classes)


@dataclass(frozen=True)
class Split:
    """Places in `Labelled`, each rising: to learn from, to choose and calibrate by, to test."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def labelled_boxes(
    subtomograms: xr.Dataset,
    labels: pd.DataFrame | str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
) -> Labelled:
    """Find the label of each box that has one.

    Parameters
    ----------
    subtomograms : Dataset
    labels : DataFrame or path
        Any table that `read_particles` reads, or a CSV.  Names of classes are in ``kind``, else
        numbers in ``class``, of which 0 is none; an empty cell is no label.  Rows are matched by
        ``image``, else by ``particle``, else by tomogram and place (shifts included, to a voxel).
    classes : sequence of str, optional
        Only these, in this order; by default all, in the order of their names.

    Raises
    ------
    InputError
        If the table has no classes, nothing in it is one of the boxes, a box has two labels, or a
        class of `classes` has no box.

    Examples
    --------
    >>> made = xr.Dataset(
    ...     {"subtomogram": (("particle", "z", "y", "x"), np.ones((3, 2, 2, 2)))},
    ...     {"particle": [4, 7, 9]},
    ...     {"voxel_size": 10.0},
    ... )
    >>> table = pd.DataFrame({"particle": [9, 4], "kind": ["b", "a"]})
    >>> found = labelled_boxes(made, table)
    >>> found.rows.tolist(), found.numbers.tolist(), found.classes
    ([0, 2], [0, 1], ('a', 'b'))
    """
    boxes = particle_table(subtomograms)
    table, source = _table(labels)
    names = _names(table, source)
    told = (names != "").to_numpy()
    if not told.any():
        raise InputError(f"{source}: no row has a class; fill in kind (names) or class (numbers)")
    voxel = float(subtomograms.attrs.get("voxel_size", np.nan))
    at, way = _matched(table, boxes, voxel, source)
    _tell_missing(table, told & (at < 0), int((told & (at >= 0)).sum()), source)
    known = told & (at >= 0)
    found = pd.DataFrame({"row": at[known], "name": names.to_numpy()[known]}).drop_duplicates()
    twice = found["row"].duplicated(keep=False)
    if twice.any():
        row = found["row"][twice].iloc[0]
        kinds = ", ".join(found["name"][found["row"] == row])
        raise InputError(
            f"{source}: box {_box_name(boxes, int(row))} has two labels ({kinds}), and "
            f"{found['row'][twice].nunique() - 1} others have, too; keep one row a box"
        )
    order = _order(found["name"], classes, source)
    found = found[found["name"].isin(order)].sort_values("row")
    numbers = found["name"].map({name: n for n, name in enumerate(order)})
    left = len(boxes) - len(found)
    if left:
        _log.info("%d of %d boxes have no label: they are left out", left, len(boxes))
    _log.debug("labels are matched by %s", way)
    return Labelled(found["row"].to_numpy(np.int64), numbers.to_numpy(np.int64), tuple(order))


def _table(labels: Any) -> tuple[pd.DataFrame, str]:
    if isinstance(labels, pd.DataFrame):
        source = str(labels.attrs.get("source", "labels"))
        named = labels.index.name == "particle" and "particle" not in labels
        return (labels.reset_index() if named else labels.reset_index(drop=True)), source
    path = Path(labels)
    if path.suffix.lower() != ".csv":
        return read_particles(path), str(path)
    # Not by `read_particles`, which wants places or images: a number and a kind are enough here.
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path} is a folder")
    text: Any = {"tomogram": "str", "image": "str", "kind": "str"}
    try:
        table = pd.read_csv(path, dtype=text, skipinitialspace=True)
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(
            f"{path} is not a CSV table that can be read ({error}); labels are one of "
            f"{', '.join(PARTICLE_SUFFIXES)}"
        ) from None
    return as_types(table, str(path)), str(path)


def _names(table: pd.DataFrame, source: str) -> pd.Series:
    """Name of each row's class, "" where it has none."""
    if not {"kind", "class"} & set(table):
        raise InputError(
            f"{source} has neither a column kind (names of classes) nor class (numbers); found "
            f"{', '.join(map(str, table)) or 'none'}"
        )
    names = pd.Series("", index=table.index, dtype=object)
    if "class" in table:
        names = names_in(table["class"]).replace("0", "")
    if "kind" in table:
        told = names_in(table["kind"])
        names = told.where(told != "", names)
    return names


def _order(names: pd.Series, classes: Sequence[str] | None, source: str) -> list[str]:
    there = sorted(set(names), key=lambda n: (0, int(n), n) if n.isdecimal() else (1, 0, n))
    if classes is None:
        return there
    wanted = list(dict.fromkeys(classes))
    missing = [name for name in wanted if name not in there]
    if missing:
        raise InputError(
            f"{source}: no box is of {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, there))}{did_you_mean(missing, there)}"
        )
    return wanted


def _matched(
    table: pd.DataFrame, boxes: pd.DataFrame, voxel_size: float, source: str
) -> tuple[np.ndarray, str]:
    """Row of the box that each row of the table is of, −1 where none is, and by what."""
    tried = []
    for way, columns, match in (
        ("image", ("image",), _by_image),
        ("particle", ("particle",), _by_number),
        ("place", POSITION, _by_place),
    ):
        if not set(columns) <= set(table) or (way != "particle" and not set(columns) <= set(boxes)):
            continue
        at = match(table, boxes, voxel_size)
        if at is not None and (at >= 0).any():
            return at, way
        tried.append(way)
    if tried:
        raise InputError(
            f"{source}: no row is of these boxes, by {' or '.join(tried)}; the first box is "
            f"{_box_name(boxes, 0)}: give the table that they were extracted from, with its classes"
        )
    raise InputError(
        f"{source} does not say which boxes its {len(table)} rows are of: it needs a column "
        f"particle (number of the particle), image, or z, y, x (Å); found "
        f"{', '.join(map(str, table))}"
    )


def _by_number(table: pd.DataFrame, boxes: pd.DataFrame, voxel_size: float) -> np.ndarray | None:
    if boxes.index.has_duplicates:  # of several stores
        return None
    numbers = pd.to_numeric(table["particle"], errors="coerce").fillna(-1)
    return np.asarray(boxes.index.get_indexer(pd.Index(numbers)), np.int64)


def _by_image(table: pd.DataFrame, boxes: pd.DataFrame, voxel_size: float) -> np.ndarray | None:
    """By the whole name, else by number and last part of it: folders are moved."""
    names, wanted = boxes["image"].astype(str), table["image"].astype(str)
    for shorten in (str, _last_part):
        known = pd.Index([shorten(name) for name in names])
        if known.has_duplicates:
            continue
        at = np.asarray(known.get_indexer(pd.Index([shorten(name) for name in wanted])), np.int64)
        if (at >= 0).any():
            return at
    return None


def _last_part(name: str) -> str:
    number, at, path = name.rpartition("@")
    return f"{number}{at}{Path(path).name}"


def _by_place(table: pd.DataFrame, boxes: pd.DataFrame, voxel_size: float) -> np.ndarray | None:
    """The box nearest to each place, within a voxel along each axis, of the same tomogram."""
    ours, theirs = _places(boxes), _places(table)
    at = np.full(len(table), -1, np.int64)
    both = "tomogram" in table and "tomogram" in boxes
    group = table["tomogram"].astype(str) if both else pd.Series("", index=table.index)
    mine = boxes["tomogram"].astype(str).to_numpy() if both else np.full(len(boxes), "")
    for name, rows in group.groupby(group).groups.items():
        here = np.flatnonzero((mine == name) & np.isfinite(ours).all(1))
        rows = np.asarray(rows)[np.isfinite(theirs[np.asarray(rows)]).all(1)]
        if len(here) and len(rows):
            far, near = cKDTree(ours[here]).query(theirs[rows], p=np.inf)
            at[rows] = np.where(far <= voxel_size, here[near], -1)
    return at


def _places(table: pd.DataFrame) -> np.ndarray:
    places = table[list(POSITION)].to_numpy(float)
    if set(SHIFT) <= set(table):
        places = places + np.nan_to_num(table[list(SHIFT)].to_numpy(float))
    return places


def _box_name(boxes: pd.DataFrame, row: int) -> str:
    number = f"{boxes.index[row]}"
    return f"{boxes['image'].iloc[row]} (particle {number})" if "image" in boxes else number


def _tell_missing(table: pd.DataFrame, missing: np.ndarray, found: int, source: str) -> None:
    rows = np.flatnonzero(missing)
    if not len(rows):
        return
    column = next((c for c in ("image", "particle") if c in table), None)
    named = [str(table[column].iloc[row] if column else f"row {row + 1}") for row in rows[:_NAMED]]
    _log.warning(
        "%s: %d of %d labels are of boxes that are not there: %s%s",
        source, len(rows), len(rows) + found, ", ".join(named),
        f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "",
    )  # fmt: skip


def split_labels(
    labelled: Labelled, *, validation: float, test: float = 0.0, seed: int = 0
) -> Split:
    """Part labelled boxes, each class by itself.

    Parameters
    ----------
    labelled : Labelled
    validation, test : float
        Shares of each class; of `validation` at least one box, and two are left to learn from.
    seed : int

    Raises
    ------
    InputError
        If there is one class only, or a class has fewer than three boxes.
    """
    counts = labelled.counts
    if len(counts) < 2:
        raise InputError(
            f"labels are of one class only ({', '.join(counts)}): a classifier needs two; label "
            "boxes of something else, or empty ones (kind: no particle)"
        )
    few = {name: n for name, n in counts.items() if n < FEWEST}
    if few:
        told = ", ".join(f"{name} has {n}" for name, n in few.items())
        others = [name for name in counts if name not in few]
        leave = " ".join(f"--class {name!r}" for name in others)
        raise InputError(
            f"a class needs at least {FEWEST} boxes, one of them to judge by, but {told}: label "
            f"more, join it with another class, or leave it out (classes={others!r}, {leave})"
        )
    small = [f"{name} ({n})" for name, n in counts.items() if n < _FEW]
    if small:
        _log.warning(
            "classes of fewer than %d boxes: %s; what is said of them is little more than a guess",
            _FEW,
            ", ".join(small),
        )
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for number in range(len(labelled.classes)):
        members = np.flatnonzero(labelled.numbers == number)
        drawn = np.random.default_rng([seed, number]).permutation(members)
        judged = min(max(1, round(validation * len(drawn))), len(drawn) - 2)
        tested = min(round(test * len(drawn)), len(drawn) - judged - 2)
        cuts = [judged, judged + tested]
        for part, some in zip((1, 2, 0), np.split(drawn, cuts), strict=True):
            parts[part].append(some)
    return Split(*(np.sort(np.concatenate(part)) for part in parts))


def class_weights(numbers: np.ndarray, classes: int) -> tuple[float, ...]:
    """What a box of each class counts, so that classes of different size count alike.

    One over the number of boxes of the class, scaled so that the mean over all boxes is 1.  But no
    box counts more than ten times one of the largest class: a class of two boxes would else be
    learned by heart.

    Parameters
    ----------
    numbers : array of int, shape (n,)
        Class of each box, from 0.
    classes : int

    Examples
    --------
    >>> class_weights(np.repeat([0, 1], [30, 10]), 2)
    (0.6666666666666666, 2.0)
    """
    counts = np.bincount(numbers, minlength=classes)
    weights = counts.max() / np.maximum(counts, counts.max() / _HEAVIEST)
    scale = counts.sum() / (counts * weights).sum()
    return tuple(float(value) for value in weights * scale)
