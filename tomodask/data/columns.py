"""The columns of a particle table, and what is said where one is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from tomodask.errors import InputError

__all__ = [
    "POSITION",
    "QUATERNION",
    "SHIFT",
    "TILT_RANGE",
    "as_types",
    "converted",
    "require_columns",
]

POSITION = ("z", "y", "x")
SHIFT = ("shift_z", "shift_y", "shift_x")
QUATERNION = ("quat_x", "quat_y", "quat_z", "quat_w")
TILT_RANGE = ("tilt_min", "tilt_max")
_GROUPS = {
    "position": POSITION,
    "shift": SHIFT,
    "orientation": QUATERNION,
    "tilt_range": TILT_RANGE,
}
_IN_STAR = {
    "position": "rlnCoordinateX, Y, Z",
    "shift": "rlnOriginXAngst, Y, Z",
    "orientation": "rlnAngleRot, Tilt, Psi",
    "tilt_range": "tomodaskTiltMin, Max",
    "tomogram": "rlnTomoName or rlnMicrographName",
    "image": "rlnImageName",
    "score": "rlnLCCmax",
    "half": "rlnRandomSubset",
    "class": "rlnClassNumber",
}
_FLOATS = (*POSITION, *SHIFT, *QUATERNION, "score", *TILT_RANGE)
_INTEGERS = ("half", "class")
_ORDER = ("tomogram", *POSITION, *SHIFT, *QUATERNION, "score", "image", *TILT_RANGE, *_INTEGERS)


def as_types(table: pd.DataFrame, name: str = "the table") -> pd.DataFrame:
    """The known columns first and of their types, whatever a file made of them.

    `half` and `class` are integers unless a row has none.  An `InputError` tells which value of the
    table called `name` is no number.
    """
    known = [column for column in _ORDER if column in table]
    table = table[known + [column for column in table if column not in known]].copy()
    for column in known:
        if column in _FLOATS:
            table[column] = _numbers(table[column], name, lambda values: values.astype("float64"))
        elif column in _INTEGERS:
            numbers = _numbers(table[column], name, pd.to_numeric)
            whole = not numbers.isna().any() and (numbers == numbers.round()).all()
            table[column] = numbers.astype("int64" if whole else "float64")
    return table


def converted(
    values: np.ndarray, convert: Callable[[np.ndarray], np.ndarray], width: int
) -> np.ndarray:
    """`convert` of the rows that are finite, NaN for others: a particle may have no orientation."""
    out = np.full((len(values), width), np.nan)
    known = np.isfinite(values).all(axis=1)
    if known.any():
        out[known] = convert(values[known])
    return out


def _numbers(column: pd.Series, name: str, convert: Callable[[pd.Series], pd.Series]) -> pd.Series:
    try:
        return convert(column)
    except (ValueError, TypeError):
        bad = pd.to_numeric(column, errors="coerce").isna() & column.notna()
        row = int(bad.to_numpy().argmax())
        way = "; names of classes go into a column kind" if column.name == "class" else ""
        raise InputError(
            f"{name}: {column.name} must be a number, got {column.iloc[row]!r} in row {row + 1}"
            f"{way}"
        ) from None


def require_columns(
    table: pd.DataFrame, need: Sequence[str], name: str, *, rows: bool = True
) -> None:
    """Raise an `InputError` that names what is missing and what was found.

    Parameters
    ----------
    table : DataFrame
    need : sequence of str
        ``"position"``, ``"shift"``, ``"orientation"``, ``"tilt_range"``, or names of columns.
    name : str
        How the message calls the table.
    rows : bool
        Whether an empty table is an error, too (where anything is needed).

    Examples
    --------
    >>> require_columns(  # doctest: +ELLIPSIS
    ...     pd.DataFrame({"x": [1.0]}), ("position",), "picks.csv"
    ... )
    Traceback (most recent call last):
    ...
    tomodask.errors.InputError: picks.csv: position needs the columns z, y (in a STAR ...); found x
    """
    found = ", ".join(map(str, table)) or "none"
    for what in need:
        missing = [column for column in _GROUPS.get(what, (what,)) if column not in table]
        if missing:
            listed = ", ".join(missing)
            plural = "columns" if len(missing) > 1 else "column"
            wants = (
                f"{what} needs the {plural} {listed}" if what in _GROUPS else f"no column {what}"
            )
            in_star = f" (in a STAR {_IN_STAR[what]})" if what in _IN_STAR else ""
            raise InputError(f"{name}: {wants}{in_star}; found {found}")
    if need and rows and table.empty:
        raise InputError(f"{name}: holds no particles; pick again, e.g. with a lower threshold")
