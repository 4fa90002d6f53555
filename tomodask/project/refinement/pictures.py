"""Figures of a refinement: what its rounds came to, and its classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tomodask.arrays.surfaces import surface_level
from tomodask.plot_style import BLUE, GREEN, GRID, INK, ORANGE, SOFT, dressed, new_figure
from tomodask.training.colors import class_color

__all__ = ["plot_class_curves", "plot_classes", "plot_local_resolution", "plot_rounds"]


def plot_rounds(history: pd.DataFrame) -> Figure:
    """Resolution, changes of the poses, and score by round.

    Parameters
    ----------
    history : DataFrame
        As of `Refinement`.
    """
    rounds = history["iteration"].to_numpy(int)
    figure = new_figure(9.0, 3.1)
    left, right = figure.subplots(1, 2)
    for name, color, label in (
        ("resolution_143", BLUE, "halves agree to (FSC 0.143)"),
        ("resolution_5", GREEN, "to (FSC 0.5)"),
        ("band", ORANGE, "aligned to"),
    ):
        frequency = 1 / history[name].to_numpy(float)
        left.plot(rounds, frequency, "o-", ms=4, lw=1.6, color=color, label=label)
    left.set_ylim(0, None)
    left.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{1 / value:.0f}" if value > 0 else "∞")
    )
    left.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="lower right")
    dressed(left, x="iteration", y="resolution (Å)", title="Resolution")
    right.plot(rounds, history["turned"], "o-", ms=4, lw=1.6, color=BLUE, label="turned (°)")
    right.plot(rounds, history["moved"], "o-", ms=4, lw=1.6, color=ORANGE, label="moved (Å)")
    changed = 100 * history["reassigned"].to_numpy(float)
    if np.isfinite(changed).any():
        right.plot(rounds, changed, "o-", ms=4, lw=1.6, color=GREEN, label="other class (%)")
    right.set_ylim(0, None)
    right.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    dressed(right, x="iteration", title="Change since the round before (medians)")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(rounds.min() - 0.4, rounds.max() + 0.4)
    return figure


def plot_classes(shares: Mapping[int, Mapping[int, float]]) -> Figure:
    """The classes' shares of the particles by round.

    Parameters
    ----------
    shares : mapping
        Iteration → {class → share}.
    """
    figure = new_figure(6.2, 3.0)
    axes = figure.subplots()
    rounds = sorted(shares)
    labels = sorted({label for one in shares.values() for label in one})
    below = np.zeros(len(rounds))
    for number, label in enumerate(labels):
        part = np.array([shares[r].get(label, 0.0) for r in rounds])
        color = tuple(np.array(class_color(number)) / 255)
        axes.bar(rounds, 100 * part, bottom=100 * below, width=0.8, color=color, label=str(label))
        below += part
    axes.legend(
        frameon=False, fontsize=8.5, labelcolor=INK, title="class", title_fontsize=8.5,
        loc="center left", bbox_to_anchor=(1, 0.5), reverse=True,
    )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    dressed(axes, x="iteration", y="particles (%)")
    return figure


def plot_class_curves(curves: Mapping[int, pd.DataFrame]) -> Figure:
    """The FSC of the halves of each class."""
    figure = new_figure(6.2, 3.5)
    axes = figure.subplots()
    axes.axhline(0, color=GRID, lw=0.8)
    axes.axhline(0.143, color=ORANGE, lw=1, ls=(0, (4, 2)))
    for number, (label, curve) in enumerate(curves.items()):
        color = tuple(np.array(class_color(number)) / 255)
        axes.plot(curve["frequency"], curve["correlation"], color=color, lw=1.7, label=str(label))
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, title="class", title_fontsize=9)
    axes.set_xlim(0, float(next(iter(curves.values()))["frequency"].iloc[-1]))
    axes.set_ylim(-0.1, 1.03)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{1 / value:.1f}" if value > 0 else "∞")
    )
    dressed(axes, x="resolution (Å)", y="Fourier shell correlation")
    return figure


def plot_local_resolution(
    levels: Mapping[str, np.ndarray],
    maps: Mapping[str, np.ndarray],
    *,
    voxel_size: float,
    diameter: float,
) -> Figure:
    """Three orthogonal slices through local resolution, one row a map, on one scale of colours.

    Parameters
    ----------
    levels : mapping
        Name → local resolution, Å, array (z, y, x).
    maps : mapping
        The averages, by the same names: their outlines are drawn.
    voxel_size : float
        Å.
    diameter : float
        Of the sphere that is shown, Å; outside it nothing was measured.
    """
    n = next(iter(levels.values())).shape[0]
    axis = (np.arange(n) - n // 2) * voxel_size / 10
    ball = sum(np.meshgrid(*[axis**2] * 3, indexing="ij", sparse=True)) <= (diameter / 20) ** 2
    within = np.concatenate([one[ball] for one in levels.values()])
    low, high = float(within.min()), float(within.max())
    figure = new_figure(8.4, 2.75 * len(levels) + 0.35)
    panels = np.atleast_2d(figure.subplots(len(levels), 3))
    for line, (name, local) in zip(panels, levels.items(), strict=True):
        shown, density = np.where(ball, local, np.nan), np.asarray(maps[name])
        for axes, cut, (v, h) in zip(
            line,
            (np.s_[n // 2], np.s_[:, n // 2], np.s_[:, :, n // 2]),
            (("y", "x"), ("z", "x"), ("z", "y")),
            strict=True,
        ):
            edge = voxel_size / 20
            image = axes.imshow(
                shown[cut], cmap="viridis_r", vmin=low, vmax=max(high, low + 1e-3), origin="lower",
                extent=(axis[0] - edge, axis[-1] + edge) * 2,
            )  # fmt: skip
            axes.contour(
                axis, axis, density[cut], [surface_level(density)], colors=[INK], linewidths=0.9
            )
            dressed(axes, x=f"{h} (nm)", y=f"{v} (nm)", title=f"{name}, {v}{h} plane")
    bar = figure.colorbar(image, ax=panels, shrink=0.9, pad=0.015)
    bar.set_label("local resolution (Å)", color=INK, fontsize=10)
    bar.ax.tick_params(colors=SOFT, labelsize=9, length=3)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.invert_yaxis()
    return figure
