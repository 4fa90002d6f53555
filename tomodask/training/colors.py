"""Colours of classes, levels of grey, and pictures in a terminal's characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["class_color", "grey_levels", "half_blocks"]

# Told apart by eyes of any kind, on grey and on white; then they come again.
_COLORS = (
    (255, 176, 0), (86, 180, 233), (0, 190, 130), (230, 90, 70), (204, 121, 167), (190, 190, 60),
    (120, 110, 240), (240, 140, 190), (70, 200, 200), (170, 120, 80), (140, 200, 90), (90, 90, 90),
)  # fmt: skip


def class_color(number: int) -> tuple[int, int, int]:
    """Red, green, blue, 0 to 255, of class `number`, from 0."""
    return _COLORS[number % len(_COLORS)]


def grey_levels(image: np.ndarray) -> np.ndarray:
    """0 to 255, float; a hundredth at either end is cut off."""
    values = np.nan_to_num(np.asarray(image, float))
    low, high = np.percentile(values, [1, 99])
    spread = high - low if high > low else 1.0
    return np.asarray(255 * np.clip((values - low) / spread, 0, 1))


def half_blocks(picture: np.ndarray) -> Text:
    """A picture in characters whose upper and lower halves are a pixel each.

    Parameters
    ----------
    picture : array of uint8, shape (y, x, 3)
        Row 0 is drawn at the bottom, as in figures.

    Returns
    -------
    rich.text.Text
    """
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    rows = picture[::-1]
    if len(rows) % 2:
        rows = np.concatenate([rows, np.zeros_like(rows[:1])])
    lines = [Text(no_wrap=True) for _ in rows[::2]]
    for line, upper, lower in zip(lines, rows[::2], rows[1::2], strict=True):
        for above, below in zip(upper, lower, strict=True):
            color, ground = (Color.from_rgb(*map(int, rgb)) for rgb in (above, below))
            line.append("▀", Style(color=color, bgcolor=ground))
    return Text("\n").join(lines)
