"""What training looks like: its curves, and a slice with labels and predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tomodask.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.text import Text

__all__ = [
    "TrainedSlice",
    "class_color",
    "half_blocks",
    "painted",
    "plot_slice",
    "plot_training",
    "thinned",
]

# Told apart by eyes of any kind, on grey and on white; then they come again.
_COLORS = (
    (255, 176, 0), (86, 180, 233), (0, 190, 130), (230, 90, 70), (204, 121, 167), (190, 190, 60),
    (120, 110, 240), (240, 140, 190), (70, 200, 200), (170, 120, 80), (140, 200, 90), (90, 90, 90),
)  # fmt: skip
_INK, _SOFT, _GRID = "#1b1f24", "#5b6570", "#d9dee3"
_CURVES = (("precision", "#c8553d"), ("recall", "#3f7d4e"), ("f1", "#0b6e99"))


class TrainedSlice(Protocol):
    """The picture in a report of an epoch."""

    @property
    def image(self) -> np.ndarray:
        """(y, x), any scale."""

    @property
    def label(self) -> np.ndarray:
        """(y, x), 0 or the number of a class, from 1; 255 has no say."""

    @property
    def prediction(self) -> np.ndarray:
        """(classes, y, x), probabilities."""

    @property
    def classes(self) -> Sequence[str]:
        """Their names."""


def class_color(number: int) -> tuple[int, int, int]:
    """Red, green, blue, 0 to 255, of class `number`, from 0."""
    return _COLORS[number % len(_COLORS)]


def painted(
    image: np.ndarray, *, label: np.ndarray | None = None, prediction: np.ndarray | None = None
) -> np.ndarray:
    """A grey slice, its labels outlined and its predictions laid over it, one colour a class.

    Parameters
    ----------
    image : array, shape (y, x)
    label : array of int, shape (y, x), optional
        0, or the number of a class, from 1; 255 has no say.
    prediction : array, shape (classes, y, x), optional
        Probabilities; the likeliest class is shown, the stronger the likelier.

    Returns
    -------
    array of uint8, shape (y, x, 3)
    """
    grey = _grey(image)
    out = np.repeat(grey[..., None], 3, axis=2)
    if prediction is not None:
        likeliest = np.asarray(prediction).argmax(0)
        share = 0.7 * np.clip(np.nan_to_num(np.asarray(prediction).max(0)), 0, 1)[..., None]
        colors = np.array([class_color(n) for n in range(len(prediction))], float)
        out = (1 - share) * out + share * colors[likeliest]
    if label is not None:
        for number in _numbers(label):
            out[_outline(label == number)] = class_color(number - 1)
    return np.asarray(np.rint(out), np.uint8)


def _numbers(label: np.ndarray) -> list[int]:
    """Classes in a label, from 1."""
    return [int(number) for number in np.unique(label) if 0 < number < 255]


def _grey(image: np.ndarray) -> np.ndarray:
    """0 to 255; a hundredth at either end is cut off."""
    values = np.nan_to_num(np.asarray(image, float))
    low, high = np.percentile(values, [1, 99])
    spread = high - low if high > low else 1.0
    return np.asarray(255 * np.clip((values - low) / spread, 0, 1))


def _outline(inside: np.ndarray) -> np.ndarray:
    """Pixels of a region that have a neighbour outside of it, or lie at the picture's edge."""
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(inside & ~core)


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


def thinned(shown: TrainedSlice, *, width: int, height: int) -> tuple[np.ndarray, ...]:
    """Image, label and prediction of `width` × `height` pixels at most.

    Thinned by a whole number: image and prediction averaged, of the labels every so many taken.
    """
    rows, columns = shown.image.shape
    step = max(1, math.ceil(columns / max(1, width)), math.ceil(rows / max(1, height)))
    rows, columns = (max(1, n // step) for n in (rows, columns))

    def averaged(values: np.ndarray) -> np.ndarray:
        step_y, step_x = (min(step, n) for n in values.shape)
        cut = values[: rows * step_y, : columns * step_x]
        return np.asarray(cut.reshape(rows, step_y, columns, step_x).mean(axis=(1, 3)))

    label = shown.label[step // 2 :: step, step // 2 :: step][:rows, :columns]
    return averaged(shown.image), label, np.stack([averaged(one) for one in shown.prediction])


def plot_slice(shown: TrainedSlice, *, title: str = "") -> Figure:
    """A slice with its labels, beside it the predictions.

    Parameters
    ----------
    shown : TrainedSlice
        E.g. a report of an epoch.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    rows, columns = shown.image.shape
    width = 4.2
    figure = Figure(
        figsize=(2 * width + 0.3, width * rows / columns + 0.85),
        layout="constrained",
        facecolor="white",
    )
    _slices(figure.subplots(1, 2), shown, title)
    return figure


def plot_training(
    history: Sequence[Mapping[str, Any]], shown: TrainedSlice | None = None
) -> Figure:
    """Loss, validation figures and learning rate over the epochs, and a slice.

    Parameters
    ----------
    history : sequence of mapping
        Of each epoch: ``epoch`` and what there is of ``loss``, ``precision``, ``recall``, ``f1``,
        ``learning_rate``.
    shown : TrainedSlice, optional
        Drawn below the curves.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is no epoch.
    """
    from matplotlib.figure import Figure

    if not history:
        raise InputError("history is empty: train at least one epoch, then plot it")
    figure = Figure(
        figsize=(9.0, 2.9 if shown is None else 7.3), layout="constrained", facecolor="white"
    )
    curves: Any
    if shown is None:
        curves = figure.subplots(1, 3)
    else:
        parts: Any = figure.subfigures(2, 1, height_ratios=[2.7, 4.6])
        upper, lower = parts
        curves = upper.subplots(1, 3)
        _slices(lower.subplots(1, 2), shown, f"epoch {history[-1]['epoch']}: ")
    epochs = [row["epoch"] for row in history]
    dot = "." if len(epochs) < 25 else ""
    loss, score, rate = curves
    loss.plot(epochs, _column(history, "loss"), color=_INK, lw=1.6, marker=dot)
    _dress(loss, "loss")
    for name, color in _CURVES:
        values = _column(history, name)
        if np.isfinite(values).any():
            told = "F1" if name == "f1" else name
            score.plot(epochs, values, color=color, lw=1.6, marker=dot, label=told)
    score.set_ylim(-0.02, 1.02)
    _dress(score, "on the validation part")
    if score.lines:
        score.legend(frameon=False, fontsize=8.5, labelcolor=_INK, loc="lower right")
    rate.plot(epochs, _column(history, "learning_rate"), color=_SOFT, lw=1.6, marker=dot)
    rate.set_ylim(0, None)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    _dress(rate, "learning rate")
    return figure


def _column(history: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Values over the epochs; NaN where there is none."""
    values = [row.get(name) for row in history]
    return np.array([np.nan if value is None else float(value) for value in values])


def _slices(panels: Any, shown: TrainedSlice, title: str) -> None:
    """Draw labels on the left, predictions on the right, names below."""
    from matplotlib.patches import Patch

    left, right = panels
    for axes, picture, name in (
        (left, painted(shown.image), "slice and labels"),
        (right, painted(shown.image, prediction=shown.prediction), "prediction and labels"),
    ):
        axes.imshow(picture, origin="lower", interpolation="nearest")
        for number in _numbers(shown.label):
            color = np.array(class_color(number - 1)) / 255
            inside = np.pad((shown.label == number).astype(float), 1)
            rows, columns = (np.arange(n) - 1 for n in inside.shape)
            axes.contour(columns, rows, inside, [0.5], colors=[color], linewidths=1.4)
        axes.set_xlim(-0.5, shown.image.shape[1] - 0.5)
        axes.set_ylim(-0.5, shown.image.shape[0] - 0.5)
        axes.set_axis_off()
        axes.set_title(f"{title}{name}", color=_INK, fontsize=10, loc="left")
        title = ""
    patches = [
        Patch(color=np.array(class_color(n)) / 255, label=name)
        for n, name in enumerate(shown.classes)
    ]
    left.figure.legend(
        handles=patches, loc="outside lower center", ncols=min(6, len(patches)), frameon=False,
        fontsize=9, labelcolor=_INK, handlelength=0.9,
    )  # fmt: skip


def _dress(axes: Any, title: str) -> None:
    """One look for all axes; epochs are whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch", color=_INK, fontsize=9.5)
    axes.set_title(title, color=_INK, fontsize=10, loc="left", pad=6)
    axes.tick_params(colors=_SOFT, labelsize=8.5, length=3)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y", color=_GRID, lw=0.6)
    for name, spine in axes.spines.items():
        spine.set_color(_GRID)
        spine.set_visible(name in ("left", "bottom"))
