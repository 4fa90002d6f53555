"""What kind of particle each row of a table is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

__all__ = ["class_names", "names_in", "with_classes"]

ONLY = "particle"


def class_names(table: pd.DataFrame) -> pd.Series:
    """Name of each row's class: its ``kind``, else what is in ``class``, else ``particle``.

    Where a cell is empty the next of the three counts.

    Parameters
    ----------
    table : DataFrame

    Returns
    -------
    Series of str, index as `table`

    Examples
    --------
    >>> class_names(pd.DataFrame({"z": [1.0, 2.0], "class": [2, 1]})).tolist()
    ['2', '1']
    >>> class_names(pd.DataFrame({"kind": ["ribosome"]})).tolist()
    ['ribosome']
    """
    names = pd.Series(ONLY, index=table.index, dtype=object)
    for column in ("class", "kind"):
        if column in table:
            told = names_in(table[column])
            names = told.where(told != "", names)
    return names


def names_in(column: pd.Series) -> pd.Series:
    """A column's values as names: whole numbers without a point, "" for none.

    Examples
    --------
    >>> names_in(pd.Series([20260101.0, float("nan")])).tolist()
    ['20260101', '']
    """
    return pd.Series([_text(value) for value in column], index=column.index, dtype=object)


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    return str(value).strip()


def with_classes(table: pd.DataFrame, names: list[str], known: tuple[str, ...]) -> pd.DataFrame:
    """The table with ``kind`` (names) and ``class`` (numbers, from 1, in the order of `known`).

    The number is what STAR files and Dynamo's tables have a column for; the name stands beside it.

    Examples
    --------
    >>> with_classes(pd.DataFrame({"z": [1.0]}), ["b"], ("a", "b")).to_dict("list")
    {'z': [1.0], 'kind': ['b'], 'class': [2]}
    """
    number = {name: n + 1 for n, name in enumerate(known)}
    numbers = np.array([number[name] for name in names], np.int64)
    return table.assign(kind=np.array(names, dtype=object), **{"class": numbers})
