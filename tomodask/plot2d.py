"""Figures of images and their classes in two dimensions: averages, poses, curves, embeddings."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tomodask.averaging.fsc import resolution_at
from tomodask.errors import InputError
from tomodask.plot_style import BLUE, GRID, INK, ORANGE, SOFT, dressed, gray_range, new_figure

__all__ = [
    "plot_class_gallery",
    "plot_embedding",
    "plot_frc",
    "plot_map",
    "plot_poses2d",
    "plot_rounds2d",
    "shade",
]

_FEW = ("#0b6e99", "#c8553d", "#3f7d4e", "#8d6bb8", "#c9982b", "#4fa3a5", "#b05685", "#6d6a62")
_SIDE = 1.45  # inches of a panel of the gallery
_NAMED = 12  # classes that a legend can hold
_LEGEND = 28  # kinds that the legend of a map can hold


def shade(number: int, count: int) -> Any:
    """The colour of class `number`, from 1, of `count`: the house's own while they last."""
    if count <= len(_FEW):
        return _FEW[(number - 1) % len(_FEW)]
    hue = (number * 0.61803398875) % 1  # neighbours in number are far apart in hue
    return colorsys.hls_to_rgb(hue, 0.38 + 0.14 * (number % 3), 0.55)


def plot_class_gallery(
    averages: Any,
    counts: Sequence[int],
    *,
    resolutions: Sequence[float] | Mapping[int, float] | None = None,
    by_size: bool = True,
    most: int = 100,
) -> Figure:
    """Class averages side by side, each with its number of images.

    Parameters
    ----------
    averages : array, shape (classes, y, x)
        Each is drawn on a grey scale of its own.
    counts : sequence of int
        Images of each class.
    resolutions : sequence or mapping, optional
        Of each class, Å; by class number, from 1, where it is a mapping.
    by_size : bool
        Largest class first; else by number.
    most : int
        Averages that are drawn.
    """
    maps = np.asarray(averages)
    sizes = np.asarray(counts, np.int64)
    if maps.ndim != 3 or len(maps) != len(sizes) or not len(maps):
        raise InputError(
            f"averages must have the axes (class, y, x) and a count each, got shape {maps.shape} "
            f"and {len(sizes)} counts"
        )
    order = np.argsort(-sizes, kind="stable") if by_size else np.arange(len(sizes))
    order = order[:most]
    columns = min(len(order), 6)
    rows = math.ceil(len(order) / columns)
    side = 2 * _SIDE if len(order) == 1 else 1.5 * _SIDE if len(order) <= 4 else _SIDE
    wide = side * columns
    figure = new_figure(max(wide, 2.4), wide / columns * rows + 0.36 * rows + 0.05)
    panels: Any = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    total = max(int(sizes.sum()), 1)
    for axes in panels:
        axes.set_axis_off()
    for axes, number in zip(panels, order.tolist(), strict=False):
        image = maps[number]
        low, high = gray_range(image)
        axes.imshow(
            image, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="bicubic"
        )
        told = f"{sizes[number]:,} · {100 * sizes[number] / total:.0f} %"
        resolution = None
        if isinstance(resolutions, Mapping):
            resolution = resolutions.get(number + 1)
        elif resolutions is not None:
            resolution = resolutions[number]
        if resolution is not None and np.isfinite(resolution):
            told += f" · {resolution:.0f} Å"
        axes.set_title(
            f"class {number + 1}\n{told}", color=INK, fontsize=7.5, pad=3, linespacing=1.25
        )
    return figure


def plot_poses2d(table: pd.DataFrame) -> Figure:
    """Histograms of the images' angles, shifts, scores and classes.

    Parameters
    ----------
    table : DataFrame
        ``psi`` (degrees), ``shift_y``, ``shift_x`` (Å) and, where known, ``mirror``, ``score``,
        ``class``; rows without an angle or of class 0 are left out.
    """
    table = table[np.isfinite(table["psi"].to_numpy(float))]
    if "class" in table:
        table = table[table["class"] > 0]
    figure = new_figure(9.2, 5.6)
    panels: Any = figure.subplot_mosaic([["turn", "shift"], ["score", "class"]])
    psi = table["psi"].to_numpy(float)
    mirror = np.zeros(len(table), bool)
    if "mirror" in table:
        mirror = table["mirror"].fillna(False).to_numpy().astype(bool)
    edges = np.linspace(-180, 180, 37)
    axes = panels["turn"]
    parts = [(psi[~mirror], BLUE, "as is"), (psi[mirror], ORANGE, "mirrored")]
    axes.hist(
        [one for one, _, _ in parts], bins=edges.tolist(), stacked=True,
        color=[color for _, color, _ in parts], label=[name for _, _, name in parts],
    )  # fmt: skip
    if mirror.any():
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, ncols=2, loc="upper right")
        axes.margins(y=0.22)
    axes.set_xlim(-180, 180)
    axes.set_xticks([-180, -90, 0, 90, 180])
    dressed(axes, x="psi (°)", y="images", title="Turn in the plane")
    axes = panels["shift"]
    x, y = table["shift_x"].to_numpy(float), table["shift_y"].to_numpy(float)
    reach = float(max(np.abs(x).max(initial=0), np.abs(y).max(initial=0))) * 1.08 or 1.0
    if len(x):
        shown = axes.hexbin(
            x, y, gridsize=25, extent=(-reach, reach, -reach, reach), cmap="Blues", mincnt=1, lw=0.1
        )
        bar = figure.colorbar(shown, ax=axes, shrink=0.85, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, colors=SOFT)
    axes.axhline(0, color=GRID, lw=0.8)
    axes.axvline(0, color=GRID, lw=0.8)
    axes.set_aspect("equal")
    dressed(axes, x="x (Å)", y="y (Å)", title="Shift from the centre")
    axes = panels["score"]
    if "score" in table and len(table):
        scores = table["score"].to_numpy(float)
        count = min(50, max(8, int(2 * np.sqrt(len(scores)))))
        axes.hist(scores[np.isfinite(scores)], bins=count, color=BLUE)
    dressed(axes, x="score", y="images", title="Correlation with the reference")
    axes = panels["class"]
    label = table["class"].to_numpy(int) if "class" in table else np.ones(len(table), int)
    sizes = np.bincount(label, minlength=2)[1:]
    colors = [shade(number + 1, len(sizes)) for number in range(len(sizes))]
    axes.bar(np.arange(1, len(sizes) + 1), sizes, width=0.85, color=colors)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    dressed(axes, x="class", y="images", title="Classes")
    return figure


def plot_embedding(
    plane: np.ndarray, classes: Sequence[int], *, averages: Any | None = None, name: str = "t-SNE"
) -> Figure:
    """Images as points of a plane, coloured by class.

    Parameters
    ----------
    plane : array, shape (image, 2)
        From `embed_images`, or two components of `TwoStageReduction`.
    classes : sequence of int
        Of each image, from 1; 0 is drawn grey.
    averages : array, shape (classes, y, x), optional
        Drawn small above the points of their class.
    name : str
        Of the axes.
    """
    points, label = np.asarray(plane, float), np.asarray(classes, np.int64)
    if points.ndim != 2 or points.shape[1] < 2 or len(points) != len(label):
        raise InputError(
            f"plane must be of shape (image, 2) with a class each, got {points.shape} and "
            f"{len(label)} classes"
        )
    figure = new_figure(7.4, 5.6)
    axes = figure.subplots()
    count = int(label.max(initial=1))
    size = float(np.clip(3000 / max(len(points), 1), 3, 24))
    for number in range(count + 1):
        mine = points[label == number]
        if len(mine):
            color = GRID if number == 0 else shade(number, count)
            axes.scatter(mine[:, 0], mine[:, 1], s=size, color=color, lw=0, alpha=0.8,
                         label=f"{number}" if number else "set aside")  # fmt: skip
    for number in range(1, count + 1):
        mine = points[label == number]
        if not len(mine):
            continue
        at = np.median(mine, axis=0)
        if averages is not None and count <= _NAMED:
            top = np.array([at[0], np.percentile(mine[:, 1], 97)])
            _stamp(axes, np.asarray(averages)[number - 1], top, shade(number, count))
        elif count > _NAMED:
            axes.annotate(str(number), at, color=INK, fontsize=8, ha="center", va="center",
                          bbox={"facecolor": "white", "alpha": 0.7, "pad": 1, "lw": 0})  # fmt: skip
    if 1 < count <= _NAMED:
        axes.legend(
            frameon=False, fontsize=8.5, labelcolor=INK, title="class", title_fontsize=8.5,
            loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.6,
        )  # fmt: skip
    dressed(axes, x=f"{name} 1", y=f"{name} 2", title=f"{len(points):,} images by class")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.06, 0.14)  # room for the averages above
    return figure


def plot_map(table: pd.DataFrame, *, by: str | None = None, name: str = "t-SNE") -> Figure:
    """Particles as points of a map of their features, coloured by kind or cluster.

    Parameters
    ----------
    table : DataFrame
        With ``map_1`` and ``map_2``.
    by : str, optional
        The column that colours them; by default ``kind``, ``class`` or ``cluster``, whichever is
        there first, else all are alike.
    name : str
        Of the axes.
    """
    if not {"map_1", "map_2"} <= set(table):
        raise InputError("table must have map_1 and map_2; make them by map_features")
    if by is None:
        by = next((name for name in ("kind", "class", "cluster") if name in table), None)
    elif by not in table:
        raise InputError(f"by must be a column of the table, got {by!r}")
    places = table[["map_1", "map_2"]].to_numpy(float)
    figure = new_figure(7.4, 5.6)
    axes = figure.subplots()
    size = float(np.clip(3000 / max(len(places), 1), 3, 24))
    names = [""] if by is None else table[by].astype(str).to_numpy()
    known = sorted(set(names), key=lambda one: (len(one), one) if one.isdecimal() else (0, one))
    for number, kind in enumerate(known, 1):
        mine = places if by is None else places[names == kind]
        axes.scatter(mine[:, 0], mine[:, 1], s=size, color=shade(number, len(known)), lw=0,
                     alpha=0.8, label=kind)  # fmt: skip
        if len(known) > _LEGEND and by is not None:
            at = np.median(mine, axis=0)
            axes.annotate(kind, at, color=INK, fontsize=7.5, ha="center", va="center",
                          bbox={"facecolor": "white", "alpha": 0.7, "pad": 1, "lw": 0})  # fmt: skip
    if 1 < len(known) <= _LEGEND:
        axes.legend(
            frameon=False, fontsize=8.5, labelcolor=INK, title=by, title_fontsize=8.5,
            loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2,
        )  # fmt: skip
    told = f"{len(places):,} particles" + (f" by {by}" if by else "")
    dressed(axes, x=f"{name} 1", y=f"{name} 2", title=told)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure


def _stamp(axes: Any, image: np.ndarray, at: np.ndarray, color: Any) -> None:
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    low, high = gray_range(image)
    scaled = np.clip((image - low) / (high - low), 0, 1)
    picture = OffsetImage(scaled[::-1], cmap="gray", zoom=34 / max(image.shape))
    axes.add_artist(
        AnnotationBbox(picture, tuple(at), (0, 24), boxcoords="offset points", frameon=True,
                       pad=0.1, bboxprops={"edgecolor": color, "lw": 1.4})
    )  # fmt: skip


def plot_frc(curves: pd.DataFrame, *, threshold: float = 0.143) -> Figure:
    """Fourier ring correlation of the halves of each class.

    Parameters
    ----------
    curves : DataFrame
        ``class``, ``frequency`` (1/Å), ``correlation``.
    threshold : float
        Drawn as a line.
    """
    figure = new_figure(6.6, 3.5)
    axes = figure.subplots()
    axes.axhline(0, color=GRID, lw=0.8)
    axes.axhline(threshold, color=ORANGE, lw=1, ls=(0, (4, 2)))
    labels = sorted(set(curves["class"]))
    nyquist = float(curves["frequency"].max())
    for number in labels:
        curve = curves[curves["class"] == number]
        if not np.isfinite(curve["correlation"]).any():
            continue
        found = resolution_at(curve, threshold)
        told = f"{found:.1f} Å" if np.isfinite(found) else "not reached"
        axes.plot(
            curve["frequency"], curve["correlation"], lw=1.6 if len(labels) <= _NAMED else 0.9,
            color=shade(int(number), max(labels)), label=f"{number}: {told}",
        )  # fmt: skip
    if len(labels) <= _NAMED:
        axes.legend(
            frameon=False, fontsize=8.5, labelcolor=INK, title=f"class: FRC {threshold:g}",
            title_fontsize=8.5, loc="center left", bbox_to_anchor=(1, 0.5),
        )  # fmt: skip
    axes.set_xlim(0, nyquist)
    axes.set_ylim(-0.2, 1.03)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{1 / value:.1f}" if value > 0 else "∞")
    )
    dressed(axes, x="resolution (Å)", y="Fourier ring correlation")
    return figure


def plot_rounds2d(history: pd.DataFrame) -> Figure:
    """Score, resolution and changes by round.

    Parameters
    ----------
    history : DataFrame
        ``round``, ``score``, ``resolution`` (Å), ``reassigned`` (0 to 1), ``turned`` (degrees),
        ``moved`` (Å).
    """
    rounds = history["round"].to_numpy(int)
    figure = new_figure(9.2, 3.0)
    panels = figure.subplots(1, 3)
    style: dict[str, Any] = {"ms": 4, "lw": 1.6}
    panels[0].plot(rounds, history["score"], "o-", color=BLUE, **style)
    dressed(panels[0], x="round", title="Mean score")
    panels[1].plot(rounds, history["resolution"], "o-", color=BLUE, **style)
    panels[1].set_ylim(0, None)
    dressed(panels[1], x="round", title="Resolution, median class (Å)")
    axes = panels[2]
    for name, color, label, scale in (
        ("reassigned", _FEW[2], "other class (%)", 100),
        ("turned", BLUE, "turned (°)", 1),
        ("moved", ORANGE, "moved (Å)", 1),
    ):
        values = scale * history[name].to_numpy(float)
        if np.isfinite(values).any():
            axes.plot(rounds, values, "o-", color=color, label=label, **style)
    axes.set_ylim(0, None)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    dressed(axes, x="round", title="Change since the round before")
    for one in panels:
        one.xaxis.set_major_locator(MaxNLocator(integer=True))
        one.set_xlim(rounds.min() - 0.4, rounds.max() + 0.4)
    return figure
