"""Figures of tomograms, picks, scores, orientations, averages and FSC curves.

Every function returns a `matplotlib.figure.Figure` and leaves pyplot alone: ``figure.savefig(…)``
works without a display and from any thread, and a notebook shows the figure that a cell returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tomodask.arrays.geometry import relion_from_rotation
from tomodask.arrays.surfaces import surface_views
from tomodask.averaging.fsc import resolution_at
from tomodask.data.particles import orientations
from tomodask.errors import InputError
from tomodask.picking.learning.pictures import plot_training
from tomodask.plot2d import plot_class_gallery, plot_embedding, plot_frc, plot_poses2d
from tomodask.plot_style import (
    BLUE,
    GREEN,
    GRID,
    INK,
    ORANGE,
    SOFT,
    dressed,
    gray_range,
    new_figure,
)
from tomodask.training.colors import class_color

__all__ = [
    "plot_average",
    "plot_class_gallery",
    "plot_embedding",
    "plot_frc",
    "plot_fsc",
    "plot_orientations",
    "plot_poses2d",
    "plot_scores",
    "plot_segmentation",
    "plot_surfaces",
    "plot_tomogram",
    "plot_training",
]


def plot_tomogram(
    tomogram: xr.DataArray,
    picks: pd.DataFrame | None = None,
    *,
    diameter: float | None = None,
    thickness: float | None = None,
) -> Figure:
    """Central slabs of a tomogram across z and across y, with the picks in them.  Computes.

    Parameters
    ----------
    tomogram : DataArray, dims (z, y, x)
    picks : DataFrame, optional
        With ``z``, ``y``, ``x`` in Å; those within half a diameter of the slab are circled.
    diameter : float, optional
        Of the circles, Å; by default 12 voxels.
    thickness : float, optional
        Of the slabs, which are averaged, Å; by default a quarter of the diameter.
    """
    size = float(tomogram.attrs["voxel_size"])
    diameter = 12 * size if diameter is None else diameter
    thickness = diameter / 4 if thickness is None else thickness
    count = max(1, round(thickness / size))
    depth, height, width = tomogram.shape
    ratio = 0.93 * (height + depth) / width
    wide = min(9.0, 11.0 / ratio)  # a tall tomogram still fits a page
    figure = new_figure(wide, wide * ratio + 0.9)
    panels = figure.subplots(2, 1, height_ratios=[height, depth])
    for axes, axis, other in zip(panels, ("z", "y"), ("y", "z"), strict=True):
        n = tomogram.sizes[axis]
        first = max(0, n // 2 - count // 2)
        slab = tomogram.isel({axis: slice(first, first + count)}).data
        image = np.asarray(slab.mean(axis=0 if axis == "z" else 1, dtype=np.float64))
        low, high = gray_range(image)
        extent = _extent(image, size)
        axes.imshow(
            image, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent,
            interpolation="antialiased",
        )  # fmt: skip
        centre = (first + (count - 1) / 2) * size
        title = (
            f"Slab of {count * size / 10:.0f} nm across {axis}, at {axis} = {centre / 10:.0f} nm"
        )
        if picks is not None and len(picks):
            near = picks[(picks[axis] - centre).abs() <= diameter / 2]
            _circles(axes, near, axis, other, centre, diameter)
            title += f", {len(near)} of {len(picks)} picks"
        axes.set_xlim(extent[0], extent[1])
        axes.set_ylim(extent[2], extent[3])
        dressed(axes, x="x (nm)", y=f"{other} (nm)", title=title)
    return figure


def _circles(
    axes: Any, near: pd.DataFrame, axis: str, other: str, centre: float, diameter: float
) -> None:
    """Circle particles where the slab at `centre` across `axis` cuts their balls."""
    cut = np.sqrt(np.clip(diameter**2 / 4 - (near[axis] - centre) ** 2, 0, None))
    radius = np.maximum(cut.to_numpy(float), diameter / 8) / 10
    axes.add_collection(
        EllipseCollection(
            2 * radius, 2 * radius, np.zeros(len(near)), units="xy",
            offsets=near[["x", other]].to_numpy(float) / 10, transOffset=axes.transData,
            facecolors="none", edgecolors="#ffb000", linewidths=1.3,
        )
    )  # fmt: skip


def plot_segmentation(
    tomogram: xr.DataArray,
    probability: xr.DataArray,
    picks: pd.DataFrame | None = None,
    *,
    diameter: float | None = None,
) -> Figure:
    """A slab of a tomogram across z, bare and beneath the probabilities of each class.  Computes.

    Parameters
    ----------
    tomogram : DataArray, dims (z, y, x)
    probability : DataArray, dims (class, z, y, x)
        From `segment_tomogram`, of the tomogram's voxel size or another.
    picks : DataFrame, optional
        With ``z``, ``y``, ``x`` in Å: circled as in `plot_tomogram`; the slab is where most are.
    diameter : float, optional
        Of the circles, Å; by default the largest of the probabilities' attrs, else 12 voxels.
    """
    size, coarse = float(tomogram.attrs["voxel_size"]), float(probability.attrs["voxel_size"])
    if diameter is None:
        diameter = max(probability.attrs.get("diameters", ()), default=12 * size)
    depth = tomogram.sizes["z"]
    middle = (depth - 1) / 2 * size
    if picks is not None and len(picks):
        z = picks["z"].to_numpy(float)
        near = (np.abs(z[:, None] - z) <= diameter / 4).sum(1)
        # Of planes with equally many the one nearest the middle of the tomogram.
        middle = float(z[np.lexsort((np.abs(z - middle), -near))[0]])
    count = max(1, round(diameter / 4 / size))
    first = int(np.clip(round(middle / size) - count // 2, 0, max(0, depth - count)))
    centre = (first + (min(count, depth) - 1) / 2) * size
    image = np.asarray(tomogram.isel(z=slice(first, first + count)).data.mean(axis=0))
    plane = int(np.clip(round(centre / coarse), 0, probability.sizes["z"] - 1))
    shares = np.asarray(probability.isel(z=plane).data, float)
    colors = np.array([class_color(n) for n in range(len(shares))]) / 255
    over = np.concatenate([colors[shares.argmax(0)], 0.7 * shares.max(0)[..., None]], axis=2)
    width = 4.9
    height = width * image.shape[0] / image.shape[1]
    figure = new_figure(2 * width, min(height, 8.0) + 0.9)
    low, high = gray_range(image)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    titles = (
        f"Slab of {min(count, depth) * size / 10:.0f} nm at z = {centre / 10:.0f} nm",
        "Probabilities",
    )
    for axes, title, drawn in zip(panels, titles, (False, True), strict=True):
        axes.imshow(
            image, cmap="gray", vmin=low, vmax=high, origin="lower",
            extent=_extent(image, size), interpolation="antialiased",
        )  # fmt: skip
        if drawn:
            axes.imshow(over, origin="lower", extent=_extent(over, coarse), interpolation="nearest")
        if drawn and picks is not None:
            near = picks[(picks["z"] - centre).abs() <= diameter / 2]
            _circles(axes, near, "z", "y", centre, diameter)
            title += f", {len(near)} of {len(picks)} picks"
        axes.set_xlim(*_extent(image, size)[:2])
        axes.set_ylim(*_extent(image, size)[2:])
        dressed(axes, x="x (nm)", y="" if drawn else "y (nm)", title=title)
    names = [str(name) for name in probability["class"].to_numpy()]
    figure.legend(
        handles=[Patch(color=c, label=n) for n, c in zip(names, colors, strict=True)],
        loc="outside lower center", ncols=min(6, len(names)), frameon=False, fontsize=9,
        labelcolor=INK, handlelength=0.9,
    )  # fmt: skip
    return figure


def _extent(image: np.ndarray, size: float) -> np.ndarray:
    """Left, right, bottom and top of a picture of voxels of `size` Å, nm."""
    rows, columns = image.shape[:2]
    return np.array([-0.5, columns - 0.5, -0.5, rows - 0.5]) * size / 10


def plot_scores(
    scores: np.ndarray,
    *,
    threshold: float | None = None,
    background: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """Histogram of scores.

    Parameters
    ----------
    scores : array, shape (particles,)
        Of the picks.
    threshold : float, optional
        Drawn as a line.
    background : (counts, edges), optional
        Histogram of all voxels of the score map; both are then drawn on a logarithmic scale.
    """
    scores = np.asarray(scores, float)
    figure = new_figure(6.2, 3.3)
    axes = figure.subplots()
    if background is not None:
        counts, edges = background
        axes.stairs(counts, edges, fill=True, color=GRID, label="all voxels of the score map")
        bins = edges.tolist()
        axes.set_yscale("log")
        axes.set_ylim(0.7, None)
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
        )
    else:
        count = min(60, max(8, int(np.sqrt(len(scores)) * 2)))
        bins = np.histogram_bin_edges(scores, count).tolist()
    axes.hist(scores, bins=bins, color=BLUE, label=f"{len(scores)} picks")
    if threshold is not None:
        axes.axvline(threshold, color=ORANGE, lw=1.4, ls=(0, (4, 2)))
        axes.annotate(
            f"threshold {threshold:.3g}", (threshold, 0.97), xycoords=("data", "axes fraction"),
            xytext=(4, 0), textcoords="offset points", va="top", fontsize=9, color=ORANGE,
        )  # fmt: skip
    axes.legend(
        frameon=False, fontsize=9, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=2,
        borderaxespad=0,
    )  # fmt: skip
    dressed(axes, x="score", y="number")
    return figure


def plot_orientations(table: pd.DataFrame) -> Figure:
    """How orientations are distributed: the reference's z axis, and the turn about it.

    Parameters
    ----------
    table : DataFrame
        With ``quat_x`` … ``quat_w`` (reference → particle).

    Notes
    -----
    The left map is Mollweide's, of equal area: even coverage looks even.  Longitude is the angle
    about the beam (z) from x, latitude the angle above the plane of the tomogram.  The turn is
    RELION's ``rot``.
    """
    turns = orientations(table)
    axis = np.atleast_2d(turns.apply([0.0, 0.0, 1.0]))
    longitude, latitude = np.arctan2(axis[:, 1], axis[:, 0]), np.arcsin(np.clip(axis[:, 2], -1, 1))
    own = np.deg2rad(np.atleast_2d(relion_from_rotation(turns))[:, 0])
    figure = new_figure(9.0, 3.3)
    grid = figure.add_gridspec(1, 2, width_ratios=[2.3, 1])
    globe = figure.add_subplot(grid[0], projection="mollweide")
    if len(table) <= 1500:
        globe.scatter(longitude, latitude, s=max(6, 40 - len(table) / 10), c=BLUE, alpha=0.65, lw=0)
    else:
        shown = globe.hexbin(longitude, latitude, gridsize=36, cmap="Blues", mincnt=1, lw=0.1)
        bar = figure.colorbar(shown, ax=globe, shrink=0.7, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, colors=SOFT)
    globe.grid(color=GRID, lw=0.6)
    globe.set_axisbelow(True)
    dressed(globe, title="Direction of the reference's z axis")
    globe.tick_params(labelsize=7)
    rose = figure.add_subplot(grid[1], projection="polar")
    counts, edges = np.histogram(own, bins=24, range=(-np.pi, np.pi))
    rose.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=BLUE, alpha=0.85, lw=0)
    rose.grid(color=GRID, lw=0.6)
    rose.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    dressed(rose, title="Turn about it")
    rose.tick_params(labelsize=7)
    return figure


def plot_average(
    maps: Mapping[str, np.ndarray], *, voxel_size: float, diameter: float | None = None
) -> Figure:
    """Three orthogonal slices through the centre of maps, one row a map, on one grey scale.

    Parameters
    ----------
    maps : mapping
        Name → array (z, y, x), e.g. the average and its halves.
    voxel_size : float
        Å.
    diameter : float, optional
        A dotted circle of it is drawn, Å.
    """
    if not maps:
        raise InputError("maps is empty: give at least one map, e.g. {'average': volume}")
    rows = len(maps)
    figure = new_figure(8.4, 2.75 * rows + 0.35)
    panels = np.atleast_2d(figure.subplots(rows, 3))
    limits = gray_range(np.asarray(next(iter(maps.values()))))
    for line, (name, volume) in zip(panels, maps.items(), strict=True):
        volume = np.asarray(volume)
        c = [n // 2 for n in volume.shape]
        for axes, image, (v, h) in zip(
            line,
            (volume[c[0]], volume[:, c[1]], volume[:, :, c[2]]),
            (("y", "x"), ("z", "x"), ("z", "y")),
            strict=True,
        ):
            high, wide = image.shape
            reach = np.array([-0.5, wide - 0.5, -0.5, high - 0.5])
            reach -= np.repeat([wide // 2, high // 2], 2)
            axes.imshow(
                image, cmap="gray", vmin=limits[0], vmax=limits[1], origin="lower",
                extent=reach * voxel_size / 10, interpolation="bicubic",
            )  # fmt: skip
            if diameter is not None:
                angle = np.linspace(0, 2 * np.pi, 200)
                radius = diameter / 20
                axes.plot(radius * np.cos(angle), radius * np.sin(angle), ":", c="#ffb000", lw=1.1)
            dressed(axes, x=f"{h} (nm)", y=f"{v} (nm)", title=f"{name}, {v}{h} plane")
    return figure


def plot_surfaces(
    volume: np.ndarray,
    *,
    voxel_size: float,
    resolution: float | None = None,
    level: float | None = None,
) -> Figure:
    """A map's surface, shaded, seen along z, y and x.

    Parameters
    ----------
    volume : array, shape (z, y, x)
    voxel_size : float
        Å.
    resolution : float, optional
        The map is smoothed to it, Å; what is finer is noise.
    level : float, optional
        Of the surface; by default halfway between the surroundings and the densest hundredth
        within the box's ball.  Of several pieces the largest is shown.
    """
    figure = new_figure(8.4, 3.1)
    views = surface_views(volume, voxel_size=voxel_size, resolution=resolution, level=level)
    for axes, image, name in zip(figure.subplots(1, 3), views, "zyx", strict=True):
        axes.imshow(image, cmap="bone", vmin=0, vmax=1.05, origin="lower", interpolation="bilinear")
        axes.set_axis_off()
        axes.set_title(f"seen along {name}", color=INK, fontsize=10.5)
    return figure


def plot_fsc(
    curve: pd.DataFrame,
    *,
    thresholds: Sequence[float] = (0.143, 0.5),
    truth: pd.DataFrame | None = None,
    other: str = "average against the truth",
) -> Figure:
    """Fourier shell correlation over resolution.

    Parameters
    ----------
    curve : DataFrame
        From `fsc`: of the two halves.
    thresholds : sequence of float
        Drawn, with the resolution at which the curve falls below each.
    truth : DataFrame, optional
        A second curve.
    other : str
        Its name.
    """
    figure = new_figure(6.2, 3.5)
    axes = figure.subplots()
    axes.axhline(0, color=GRID, lw=0.8)
    axes.plot(curve["frequency"], curve["correlation"], color=BLUE, lw=1.8, label="half maps")
    if truth is not None:
        axes.plot(truth["frequency"], truth["correlation"], color=GREEN, lw=1.8, label=other)
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper right")
    nyquist = float(curve["frequency"].iloc[-1])
    for threshold in thresholds:
        axes.axhline(threshold, color=ORANGE, lw=1, ls=(0, (4, 2)))
        found = resolution_at(curve, threshold)
        never = bool((curve["correlation"].iloc[1:] >= threshold).all())
        text = f"{threshold:g}: " + (
            f"below {found:.1f} Å" if never else f"{found:.1f} Å" if np.isfinite(found) else "–"
        )
        axes.annotate(
            text, (nyquist * 1.0, threshold), xytext=(-2, 3), textcoords="offset points",
            ha="right", fontsize=9, color=ORANGE,
            bbox={"facecolor": "white", "alpha": 0.8, "pad": 0.5, "lw": 0},
        )  # fmt: skip
        if np.isfinite(found) and not never:
            axes.plot(1 / found, threshold, "o", ms=5, color=BLUE)
    axes.set_xlim(0, nyquist)
    axes.set_ylim(min(-0.05, float(curve["correlation"].min()) - 0.03), 1.03)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{1 / value:.1f}" if value > 0 else "∞")
    )
    dressed(axes, x="resolution (Å)", y="Fourier shell correlation")
    return figure
