"""Curves over the epochs of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tomodask.errors import InputError

__all__ = ["INK", "RATE", "Curve", "Panel", "draw_curves", "draw_panel"]

INK, _SOFT, _GRID = "#1b1f24", "#5b6570", "#d9dee3"
_DOTS = 25  # epochs: from so many on, points are not marked

#: Name in the history, what it is called, colour.
Curve = tuple[str, str, str]


class Panel:
    """Curves in one pair of axes.

    Parameters
    ----------
    title : str
    curves : sequence of (str, str, str)
    share : bool
        Whether values are from 0 to 1.
    from_zero : bool
    """

    def __init__(
        self, title: str, curves: Sequence[Curve], *, share: bool = False, from_zero: bool = False
    ) -> None:
        self.title, self.curves, self.share, self.from_zero = title, curves, share, from_zero


#: The learning rate, of any training.
RATE = Panel("learning rate", [("learning_rate", "", _SOFT)], from_zero=True)


def draw_curves(
    axes: Sequence[Any], panels: Sequence[Panel], history: Sequence[Mapping[str, Any]]
) -> None:
    """Draw panels into axes, one each.

    Raises
    ------
    InputError
        If there is no epoch.
    """
    if not history:
        raise InputError("history is empty: train at least one epoch, then plot it")
    for one, panel in zip(axes, panels, strict=True):
        draw_panel(one, panel, history)


def draw_panel(axes: Any, panel: Panel, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw what there is of a panel's curves: values that are not known yet leave a gap."""
    epochs = [row["epoch"] for row in history]
    dot = "." if len(epochs) < _DOTS else ""
    for name, label, color in panel.curves:
        values = _column(history, name)
        known = np.isfinite(values)
        if known.any() or len(panel.curves) == 1:
            # Those that are told in some epochs only are joined over the others.
            x, y = np.array(epochs)[known], values[known]
            sparse = dot or ("." if known.sum() < len(epochs) else "")
            axes.plot(x, y, color=color, lw=1.6, marker=sparse, label=label)
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)  # the same beside curves with gaps
    if panel.share:
        axes.set_ylim(-0.02, 1.02)
    if panel.from_zero:
        axes.set_ylim(0, None)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    _dress(axes, panel.title)
    if len(panel.curves) > 1 and axes.lines:
        place = "lower right" if panel.share else "upper right"
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc=place)


def _column(history: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Values over the epochs; NaN where there is none."""
    values = [row.get(name) for row in history]
    return np.array([np.nan if value is None else float(value) for value in values])


def _dress(axes: Any, title: str) -> None:
    """One look for all axes; epochs are whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch", color=INK, fontsize=9.5)
    axes.set_title(title, color=INK, fontsize=10, loc="left", pad=6)
    axes.tick_params(colors=_SOFT, labelsize=8.5, length=3)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y", color=_GRID, lw=0.6)
    for name, spine in axes.spines.items():
        spine.set_color(_GRID)
        spine.set_visible(name in ("left", "bottom"))
