"""Which half of a gold standard each particle belongs to."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from tomodask.errors import InputError

__all__ = ["half_sets"]


def half_sets(
    table: pd.DataFrame, *, by: Literal["particle", "tomogram"] = "particle", seed: int = 0
) -> np.ndarray:
    """Which half each particle belongs to: 1 or 2, for good.

    Parameters
    ----------
    table : DataFrame
        A particle table; its column ``half``, if it is full, is what counts.
    by : {"particle", "tomogram"}
        What is drawn: particles (halves of equal size), or whole tomograms, so that neighbours,
        which share noise where their boxes overlap, are in one half.  Of tomograms the larger ones
        are dealt first, each to the half that has fewer particles.
    seed : int

    Returns
    -------
    array of int64, shape (particles,)

    Raises
    ------
    InputError
        If a half would have fewer than two particles, tomograms are asked for and there is one or
        none, or the column holds something else.
    """
    if "half" in table and table["half"].notna().all() and len(table):
        half = table["half"].to_numpy()
        if not np.isin(half, (1, 2)).all():
            raise InputError(
                f"the column half must hold 1 and 2, got {sorted(set(half.tolist()))[:5]}; drop it "
                "to have halves drawn"
            )
        half = half.astype(np.int64)
        way_out = "drop the column half to have halves drawn"
    elif by == "particle":
        way_out = "give more particles"
        order = np.random.default_rng([seed, 0]).permutation(len(table))
        half = np.empty(len(table), np.int64)
        half[order] = 1 + np.arange(len(table)) % 2
    elif by == "tomogram":
        half = _by_tomogram(table, seed)
        way_out = "draw halves by particle (halves='particle', --halves particle)"
    else:
        raise InputError(f"halves must be 'particle' or 'tomogram', got {by!r}")
    sizes = np.bincount(half, minlength=3)[1:]
    if sizes.min() < 2:
        raise InputError(
            f"each half needs at least two particles, got {sizes[0]} and {sizes[1]} of "
            f"{len(table)}; {way_out}"
        )
    return half


def _by_tomogram(table: pd.DataFrame, seed: int) -> np.ndarray:
    names = table["tomogram"].astype(str) if "tomogram" in table else pd.Series("", table.index)
    sizes = names.value_counts()
    if len(sizes) < 2:
        raise InputError(
            f"halves by tomogram need two tomograms at least, the particles are of {len(sizes)}; "
            "draw them by particle (halves='particle', --halves particle)"
        )
    known = sorted(sizes.index)
    rank = dict(
        zip(known, np.random.default_rng([seed, 0]).permutation(len(known)).tolist(), strict=True)
    )
    of: dict[str, int] = {}
    total = [0, 0]
    for name in sorted(known, key=lambda one: (-int(sizes[one]), rank[one])):
        half = int(total[1] < total[0])
        of[name] = half + 1
        total[half] += int(sizes[name])
    return np.asarray(names.map(of).to_numpy(np.int64))
