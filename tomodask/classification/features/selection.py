"""Particles chosen by name, or by a line drawn about them on a map of their features."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.classification.features.maps import map_features
from tomodask.data.subtomogram_table import TABLE_NAMES
from tomodask.errors import InputError

__all__ = ["MapSelection", "map_table", "particles_named", "select_on_map"]


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
            what = f"{len(rows)} images end with" if len(rows) else "no image ends with"
            if text.isdecimal() and not len(rows):
                what = "there is no particle"
            raise InputError(
                f"{what} {text!r}; give a particle's number, {names.min()} to {names.max()}, "
                f"or more of its image's name, as {str(images[0])!r}"
            )
        found.append(int(names[rows[0]]))
    return found


# Told apart on white; of more, hues as far apart as can be.
_COLORS = ("#0b6e99", "#c8553d", "#3f7d4e", "#8d6bb8", "#c9982b", "#4fa3a5", "#b05685", "#6d6a62")
_MOST_NAMED = 40  # entries of a legend that one can still read


class MapSelection:
    """A map in a notebook, and the particles within the line that was drawn on it last.

    Shown as the last value of a cell.  Draw with the mouse, hold Shift to add, click twice to drop.

    Attributes
    ----------
    figure : plotly.graph_objects.FigureWidget
    """

    def __init__(
        self, table: pd.DataFrame, by: str | None, on_change: Callable[[pd.DataFrame], None] | None
    ) -> None:
        go, widgets = _plotly()
        self._places, self._on_change = table, on_change
        self._rows = _groups(table, by)
        self._chosen: list[np.ndarray] = [np.empty(0, np.int64) for _ in self._rows]
        self.figure = go.FigureWidget(_traces(go, table, by, self._rows), _layout(by, table))
        self._told = widgets.Label()
        self._shown = widgets.VBox([self.figure, self._told])
        for number, trace in enumerate(self.figure.data):
            trace.on_selection(self._selecting(number))
            trace.on_deselect(self._dropping(number))
        self._tell()

    @property
    def particles(self) -> np.ndarray:
        """Names of the chosen particles, in the order of the table."""
        return np.asarray(self.table.index.to_numpy())

    @property
    def table(self) -> pd.DataFrame:
        """Particle table of the chosen, without their places on the map; empty before any is."""
        chosen = [rows[mine] for rows, mine in zip(self._rows, self._chosen, strict=True)]
        rows = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
        return self._places.iloc[rows].drop(columns=["map_1", "map_2"])

    def _selecting(self, number: int) -> Callable[..., None]:
        def selected(trace: Any, points: Any, selector: Any) -> None:
            del trace, selector
            self._chosen[number] = np.asarray(points.point_inds, np.int64)
            self._changed(number)

        return selected

    def _dropping(self, number: int) -> Callable[..., None]:
        def dropped(trace: Any, points: Any) -> None:
            del trace, points
            self._chosen[number] = np.empty(0, np.int64)
            self._changed(number)

        return dropped

    def _changed(self, number: int) -> None:
        """Each group of points is told of by itself; with the last of them all are known."""
        if number == len(self._rows) - 1:
            self._tell()
            if self._on_change is not None:
                self._on_change(self.table)

    def _tell(self) -> None:
        count = sum(len(one) for one in self._chosen)
        self._told.value = f"{count:,} of {len(self._places):,} particles chosen"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self._shown._repr_mimebundle_(**kwargs)


def select_on_map(
    features: xr.Dataset | pd.DataFrame,
    *,
    by: str | None = None,
    most: int = 10_000,
    seed: int = 0,
    on_change: Callable[[pd.DataFrame], None] | None = None,
) -> MapSelection:
    """Choose particles in a notebook by drawing a line about them on a map of their features.

    Parameters
    ----------
    features : Dataset or DataFrame
        From `embed_subtomograms` or `open_features`, which are laid out by `map_features` (it
        computes); or a particle table with ``map_1`` and ``map_2``: of `map_table`, or
        `Subdivision.map`.
    by : str, optional
        The column that colours the points; by default ``kind``, ``class`` or ``cluster``,
        whichever is there first.
    most, seed
        As of `map_features`.
    on_change : callable, optional
        Called with the particle table of the chosen whenever they change.

    Returns
    -------
    MapSelection
        Its ``table`` is the particle table of those within the line.

    Raises
    ------
    InputError
        If plotly or what shows it in notebooks is not installed, or there is no such column.

    Examples
    --------
    In a notebook::

        chosen = tomodask.select_on_map(tomodask.open_features("features.zarr"))
        chosen                                   # the map; draw a line about some points
        tomodask.write_particles(chosen.table, "chosen.star", voxel_size=10.0)
    """
    _plotly()  # before t-SNE takes its time
    if isinstance(features, pd.DataFrame):
        table = features
        if not {"map_1", "map_2"} <= set(table):
            raise InputError(
                "the table must have map_1 and map_2 to be drawn; make it by map_table, or give "
                "features"
            )
    else:
        table = map_table(features, map_features(features, most=most, seed=seed))
    if not len(table):
        raise InputError("the map is empty: there is nothing to choose from")
    if by is None:
        by = next((name for name in ("kind", "class", "cluster") if name in table), None)
    elif by not in table:
        raise InputError(f"by must be a column of the table, got {by!r}; it has {list(table)}")
    return MapSelection(table, by, on_change)


def _plotly() -> tuple[Any, Any]:
    try:
        import anywidget  # noqa: F401  (what shows FigureWidget)
        import ipywidgets
        import plotly.graph_objects as go
    except ImportError as error:
        raise InputError(
            f"choosing on a map needs {error.name}, which is not installed: pip install "
            "'tomodask[notebook]'"
        ) from None
    return go, ipywidgets


def _groups(table: pd.DataFrame, by: str | None) -> list[np.ndarray]:
    """Rows of each group that has a colour of its own, by the groups' names."""
    if by is None:
        return [np.arange(len(table))]
    codes, _ = pd.factorize(table[by].astype(object), sort=False, use_na_sentinel=False)
    found = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    values = [table[by].iloc[rows[0]] for rows in found]
    numbers = all(isinstance(one, int | float | np.number) for one in values)
    keys = [float(one) if numbers else str(one) for one in values]
    return [found[i] for i in sorted(range(len(found)), key=lambda i: keys[i])]


def _traces(go: Any, table: pd.DataFrame, by: str | None, groups: list[np.ndarray]) -> list[Any]:
    size = float(np.clip(2500 / np.sqrt(max(len(table), 1)) / 8, 3, 9))
    traces = []
    for number, rows in enumerate(groups):
        name = "" if by is None else f"{table[by].iloc[rows[0]]}"
        traces.append(
            go.Scattergl(  # WebGL: SVG is sluggish from some thousand points on
                x=table["map_1"].to_numpy(float)[rows],
                y=table["map_2"].to_numpy(float)[rows],
                mode="markers",
                name=name,
                customdata=np.asarray(table.index[rows]),
                hovertemplate=f"particle %{{customdata}}<extra>{name}</extra>",
                marker={"size": size, "color": _color(number), "opacity": 0.8},
                unselected={"marker": {"opacity": 0.12}},
            )
        )
    return traces


def _color(number: int) -> str:
    if number < len(_COLORS):
        return _COLORS[number]
    hue = (number * 0.61803398875) % 1
    parts = colorsys.hls_to_rgb(hue, 0.38 + 0.14 * (number % 3), 0.55)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def _layout(by: str | None, table: pd.DataFrame) -> dict[str, Any]:
    plain = {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": ""}
    several = by is not None and 1 < table[by].nunique() <= _MOST_NAMED
    return {
        "dragmode": "lasso",
        "template": "plotly_white",
        "width": 860,
        "height": 640,
        "margin": {"l": 20, "r": 20, "t": 20, "b": 20},
        "xaxis": plain,
        "yaxis": {**plain, "scaleanchor": "x"},
        "showlegend": several,
        "legend": {"title": {"text": by or ""}, "itemsizing": "constant"},
        "hoverlabel": {"namelength": -1},
    }
