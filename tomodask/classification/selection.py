"""Particles chosen by name, or by a line drawn about them on a map of their features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.data.subtomogram_table import TABLE_NAMES
from tomodask.errors import InputError

__all__ = ["map_table", "particles_named"]


def map_table(features: xr.Dataset, places: pd.DataFrame) -> pd.DataFrame:
    """The particle table of those on a map, with ``map_1`` and ``map_2``.

    Parameters
    ----------
    features : Dataset
        From `embed_subtomograms` or `open_features`.
    places : DataFrame
        From `map_features` of them.

    Returns
    -------
    DataFrame
        In the order of `places`; the index, ``particle``, holds the particles' names.

    Raises
    ------
    InputError
        If a particle of `places` is not one of `features`, or has no place.
    """
    if not {"map_1", "map_2"} <= set(places):
        raise InputError("places must have map_1 and map_2; make them by map_features")
    names = pd.Index(features["particle"].to_numpy(), name="particle")
    rows = names.get_indexer(places.index)
    if (rows < 0).any():
        raise InputError(
            f"particle {places.index[rows < 0][0]} of places is not among the features; make the "
            "map of these features"
        )
    columns = {
        TABLE_NAMES.get(str(name), str(name)): one.to_numpy()[rows]
        for name, one in features.coords.items()
        if one.dims == ("particle",) and name != "particle"
    }
    table = pd.DataFrame(columns, index=names[rows])
    return table.assign(map_1=places["map_1"].to_numpy(), map_2=places["map_2"].to_numpy())


def particles_named(features: xr.Dataset, asked: Sequence[str]) -> list[int]:
    """Particles by their number, or by how the name of their image ends.

    Parameters
    ----------
    features : Dataset
        Anything with ``particle`` and, where known, ``image``.
    asked : sequence of str

    Returns
    -------
    list of int
        Their names in ``particle``.

    Raises
    ------
    InputError
        If there is no such particle, or several images end so.
    """
    names = features["particle"].to_numpy()
    images = np.asarray(features["image"].to_numpy(), str) if "image" in features.coords else None
    found = []
    for one in asked:
        text = str(one).strip()
        if text.isdecimal() and int(text) in names:
            found.append(int(text))
            continue
        if images is None:
            raise InputError(
                f"there is no particle {text!r}: they are numbered {names.min()} to {names.max()}"
            )
        rows = np.flatnonzero(np.char.endswith(images, text)) if text else np.empty(0, int)
        if len(rows) != 1:
            what = f"{len(rows)} images end" if len(rows) else "no image ends"
            raise InputError(
                f"{what} with {text!r}; give a particle's number, {names.min()} to {names.max()}, "
                f"or more of its image's name, as {str(images[0])!r}"
            )
        found.append(int(names[rows[0]]))
    return found
