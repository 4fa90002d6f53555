"""What kind of particle each row of a table is."""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["class_names", "with_classes"]

ONLY = "particle"


def class_names(table: pd.DataFrame) -> pd.Series:
    """Name of each row's class: its ``kind``, else what is in ``class``, else ``particle``.

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
    if "kind" in table:
        return table["kind"].astype(str)
    if "class" in table:
        number = pd.to_numeric(table["class"], errors="coerce")
        names = table["class"].astype(str)
        return names.where(number.isna(), number.fillna(0).astype(int).astype(str))
    return pd.Series(ONLY, index=table.index, dtype=object)


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
