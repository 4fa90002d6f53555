"""Which pose is of which box, and which rows are set aside."""

from __future__ import annotations

import logging
from pathlib import PurePath

import numpy as np
import pandas as pd

from tomodask.errors import InputError

__all__ = ["kept_rows", "match_poses", "match_rows"]

_log = logging.getLogger(__name__)
_QUATERNION = ["quat_x", "quat_y", "quat_z", "quat_w"]
_TAKEN = ["shift_z", "shift_y", "shift_x", "half", "score", "reason", "class", "weight"]
_NAMED_AT_MOST = 5


def match_poses(table: pd.DataFrame, poses: pd.DataFrame | None) -> pd.DataFrame:
    """The particle table of some boxes with the poses of another table.

    Rows are matched by ``image`` where both have it: by the whole name, or by file name and index
    alone where folders differ (``0@a/boxes.zarr`` and ``0@boxes.zarr``) and these are unique.
    Where one of the two has no names, a table whose index is called ``particle``, as
    `align_subtomograms` returns it, is matched by that; any other by its order.

    Parameters
    ----------
    table : DataFrame
        Of the boxes.
    poses : DataFrame, optional
        By default `table` itself.

    Returns
    -------
    DataFrame
        One row a box.

    Raises
    ------
    InputError
        If there are no poses, they do not name all boxes, there are not as many, or the boxes are
        not in the order of the table that they were cut by, so that rows would be mixed up.
    """
    if poses is None:
        poses = table
    elif {"image"} <= set(table) & set(poses):
        poses = _by_image(table["image"].astype(str), poses)
    elif poses.index.name == "particle" and poses.index.is_unique:
        missing_rows = table.index.difference(poses.index)
        if len(missing_rows):
            raise InputError(f"poses have no row for particle {missing_rows[0]}; give them all")
        poses = poses.loc[table.index]
    else:
        _check_order(table, poses)
    _check_orientations(poses)
    taken = [*_QUATERNION, *(c for c in _TAKEN if c in poses)]
    # A score or a reason that the boxes carry is not of these poses.
    bare = table.drop(columns=[c for c in ("score", "reason") if c in table])
    return bare.assign(**{name: poses[name].to_numpy() for name in taken})


def match_rows(table: pd.DataFrame, poses: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """As `match_poses`, where a box may have several rows: one for each of its classes.

    Returns
    -------
    rows : DataFrame
        The rows of `poses`, of all boxes, in the order of the boxes.
    box : array of intp, shape (rows,)
        The row of `table` that each is of.

    Raises
    ------
    InputError
        As `match_poses`.
    """
    if {"image"} <= set(table) & set(poses):
        images, theirs = table["image"].astype(str), poses["image"].astype(str)
        for key in (str, _file_and_index):
            wanted, known = pd.Index(images.map(key)), pd.Index(theirs.map(key))
            if wanted.is_unique and wanted.isin(known).all():
                place = wanted.get_indexer(known)
                break
        else:
            raise _unnamed(images, theirs)
    elif poses.index.name == "particle":
        missing_rows = table.index.difference(poses.index)
        if len(missing_rows):
            raise InputError(f"poses have no row for particle {missing_rows[0]}; give them all")
        place = table.index.get_indexer(poses.index)
    else:
        _check_order(table, poses)
        place = np.arange(len(table))
    keep = np.flatnonzero(place >= 0)
    keep = keep[np.argsort(place[keep], kind="stable")]
    _check_orientations(poses.iloc[keep])
    return poses.iloc[keep], place[keep].astype(np.intp)


def kept_rows(rows: pd.DataFrame, names: np.ndarray, *, quiet: bool = False) -> np.ndarray:
    """Which rows have a pose and no reason to be left out; names the others once, in the log.

    Parameters
    ----------
    rows : DataFrame
        With ``quat_*``; where known ``score`` and ``reason``, the word of an alignment that set
        the particle aside.
    names : array of str, shape (rows,)
        What the log calls the particles.
    quiet : bool
        Name none.

    Returns
    -------
    array of bool, shape (rows,)
    """
    aside = rows[_QUATERNION].isna().to_numpy().any(axis=1)
    if "score" in rows and rows["score"].notna().any():
        aside = aside | rows["score"].isna().to_numpy()
    if "reason" in rows:
        aside = aside | rows["reason"].fillna("").astype(str).str.strip().ne("").to_numpy()
    if aside.any() and not quiet:
        _log.warning(
            "%d of %d poses are left out of the average, as alignment set them aside: %s",
            aside.sum(),
            len(rows),
            _some(list(dict.fromkeys(names[aside]))),
        )
    return np.asarray(~aside)


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _check_orientations(poses: pd.DataFrame) -> None:
    missing = [name for name in _QUATERNION if name not in poses]
    if missing or (len(poses) and poses[_QUATERNION].isna().any(axis=1).all()):
        raise InputError(
            f"poses lack orientations ({', '.join(missing) or 'all are empty'}); align the "
            "subtomograms first: tomodask align SUBTOMOGRAMS --reference MAP -o POSES.star"
        )


def _check_order(table: pd.DataFrame, poses: pd.DataFrame) -> None:
    """Refuse to match by order where the order is not known to be the boxes'."""
    if len(poses) != len(table):
        raise InputError(
            f"poses have {len(poses)} rows for {len(table)} boxes and no images to tell which is "
            "which; give the table that belongs to these boxes"
        )
    if not table.index.is_monotonic_increasing:
        raise InputError(
            "extraction put the boxes in an order of their own (by place), and the poses do not "
            "say which is which; sort them, subtomograms.sortby('particle'), or give the poses "
            "an index called 'particle' (the row of the table that was extracted)"
        )


def _by_image(images: pd.Series, poses: pd.DataFrame) -> pd.DataFrame:
    """The rows of `poses` that name `images`, in their order."""
    theirs = poses["image"].astype(str)
    for key in (str, _file_and_index):
        wanted, known = images.map(key), theirs.map(key)
        if known.is_unique and wanted.is_unique and set(wanted) <= set(known):
            return poses.set_index(pd.Index(known)).loc[wanted]
    raise _unnamed(images, theirs)


def _unnamed(images: pd.Series, theirs: pd.Series) -> InputError:
    return InputError(
        f"the poses do not name each box once: the boxes are {images.iloc[0]} …, the poses name "
        f"{theirs.iloc[0] if len(theirs) else 'nothing'} …; give the table that belongs to these "
        "boxes, or drop its column of images to take its rows in order"
    )


def _file_and_index(image: str) -> str:
    """``3@some/where/boxes.zarr`` → ``3@boxes.zarr``."""
    index, at, path = image.rpartition("@")
    return index + at + PurePath(path).name
