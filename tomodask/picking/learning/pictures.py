"""What training looks like: its curves, and a slice with labels and predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tomodask.training.colors import class_color, grey_levels
from tomodask.training.curves import INK, RATE, Panel, draw_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TrainedSlice", "painted", "plot_slice", "plot_training", "thinned"]

_PANELS = (
    Panel("loss", [("loss", "loss", INK)]),
    Panel(
        "on the validation part",
        [("precision", "precision", "#c8553d"), ("recall", "recall", "#3f7d4e"),
         ("f1", "F1", "#0b6e99")],
        share=True,
    ),
    RATE,
)  # fmt: skip


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
    grey = grey_levels(image)
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


def _outline(inside: np.ndarray) -> np.ndarray:
    """Pixels of a region that have a neighbour outside of it, or lie at the picture's edge."""
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(inside & ~core)


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
        title = f"epoch {history[-1]['epoch']}: " if history else ""
        _slices(lower.subplots(1, 2), shown, title)
    draw_curves(curves, _PANELS, history)
    return figure


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
        axes.set_title(f"{title}{name}", color=INK, fontsize=10, loc="left")
        title = ""
    patches = [
        Patch(color=np.array(class_color(n)) / 255, label=name)
        for n, name in enumerate(shown.classes)
    ]
    left.figure.legend(
        handles=patches, loc="outside lower center", ncols=min(6, len(patches)), frameon=False,
        fontsize=9, labelcolor=INK, handlelength=0.9,
    )  # fmt: skip
