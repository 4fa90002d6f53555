"""One look for all figures: colours, sizes, axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

__all__ = ["BLUE", "GREEN", "GRID", "INK", "ORANGE", "SOFT", "dressed", "gray_range", "new_figure"]

INK, SOFT, GRID = "#1b1f24", "#5b6570", "#d9dee3"
BLUE, ORANGE, GREEN = "#0b6e99", "#c8553d", "#3f7d4e"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sides in inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def dressed(axes: Any, *, x: str = "", y: str = "", title: str = "") -> Any:
    """The axes with labels and the look that all have."""
    axes.set_xlabel(x, color=INK, fontsize=10)
    axes.set_ylabel(y, color=INK, fontsize=10)
    if title:
        axes.set_title(title, color=INK, fontsize=10.5, loc="left", pad=7)
    axes.tick_params(colors=SOFT, labelsize=9, length=3)
    for name, spine in axes.spines.items():
        spine.set_color(GRID)
        spine.set_visible(name in ("left", "bottom", "geo", "polar"))
    return axes


def gray_range(image: np.ndarray) -> tuple[float, float]:
    """Values that become black and white."""
    low, high = np.percentile(image, [0.5, 99.5])
    return (float(low), float(high)) if high > low else (float(low) - 1, float(low) + 1)
