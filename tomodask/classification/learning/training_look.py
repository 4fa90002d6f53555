"""Training of a classifier as it is seen: curves, and which class is taken for which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tomodask.training.curves import INK, RATE, Panel, draw_curves
from tomodask.training.screens import Number
from tomodask.training.view import TrainingView, open_view

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tomodask.classification.learning.training_run import ClassifierEpoch

__all__ = ["ClassifierLook", "draw_confusion", "plot_classifier", "watch_classifier"]

_MOST_COUNTS = 16  # classes: with more, a figure has no room for counts
_LONGEST = 18  # characters of a name
_PANELS = (
    Panel(
        "loss",
        [("loss", "training", INK), ("validation_loss", "validation", "#c8553d")],
    ),
    Panel(
        "on held-out boxes",
        [
            ("accuracy", "accuracy", "#0b6e99"),
            ("class_accuracy", "mean of the classes", "#3f7d4e"),
        ],
        share=True,
    ),
    RATE,
)


def watch_classifier(folder: str | os.PathLike[str] | None = None) -> TrainingView:
    """Show training as it goes: what to give `train_classifier` as `on_epoch`.

    Parameters
    ----------
    folder : path, optional
        Gets ``history.csv`` and ``progress.png`` (curves and confusion matrix), each whole at any
        moment.  Where training goes on after a stop, so does the history there.

    Returns
    -------
    TrainingView
        To be called with the report of each epoch.  In a terminal it draws a line an epoch, and
        below them the curves and the confusion matrix; in a notebook a figure, in place; elsewhere
        it writes a plain line an epoch to the standard error stream.
    """
    return open_view(ClassifierLook(), folder)


class ClassifierLook:
    """Loss and accuracy on held-out boxes; a confusion matrix."""

    label = "classify"
    numbers = (
        Number("validation_loss", "validation", "loss"),
        Number("accuracy", "accuracy"),
        Number("class_accuracy", "of classes"),
    )
    sparks = (("loss", "validation_loss"), ("accuracy", "accuracy"))

    def plot(self, history: list[dict[str, Any]], report: ClassifierEpoch | None) -> Figure:
        """Curves, and the confusion matrix below them."""
        if report is None:
            return plot_classifier(history)
        return plot_classifier(history, report.confusion, report.classes)

    def picture(self, report: ClassifierEpoch) -> None:
        """No picture of each epoch is kept."""

    def below(self, report: ClassifierEpoch, width: int, height: int) -> list[Any]:
        """The confusion matrix: a row a class, darker where more of it."""
        from rich.style import Style
        from rich.text import Text

        table = report.confusion
        cell = max(4, len(str(table.max())) + 1)
        most = min(len(table), max(2, (width - _LONGEST - 6) // cell), max(2, height - 10))
        lines = [Text(f"{'label, and the class that is said':<{_LONGEST + 5}}", no_wrap=True)]
        head = "".join(f"{n + 1:>{cell}}" for n in range(most))
        lines.append(Text(" " * (_LONGEST + 5) + head, no_wrap=True))
        for n, (name, row) in enumerate(zip(report.classes, table, strict=True)):
            if n == most:
                lines.append(Text(f"… and {len(table) - most} more classes"))
                break
            line = Text(f"{n + 1:>3}  {_short(name):<{_LONGEST}}", no_wrap=True)
            for count in row[:most]:
                share = count / max(row.sum(), 1)
                back = tuple(round(255 - share * (255 - c)) for c in (11, 110, 153))
                front = "white" if share > 0.5 else "black"
                line.append(
                    f"{count:>{cell}}", Style.parse(f"{front} on rgb({','.join(map(str, back))})")
                )
            lines.append(line)
        return [Text("\n").join(lines)]


def plot_classifier(
    history: Sequence[dict[str, Any]],
    confusion: np.ndarray | Sequence[Sequence[int]] | None = None,
    classes: Sequence[str] = (),
) -> Figure:
    """Loss, accuracy and learning rate over the epochs, and a confusion matrix.

    Parameters
    ----------
    history : sequence of mapping
        Of each epoch, e.g. ``model.history``.
    confusion : array of int, shape (classes, classes), optional
        E.g. ``model.training["validation"]["confusion"]``.
    classes : sequence of str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is no epoch.
    """
    from matplotlib.figure import Figure

    if confusion is None:
        figure = Figure(figsize=(9.0, 2.9), layout="constrained", facecolor="white")
        draw_curves(figure.subplots(1, 3), _PANELS, history)
        return figure
    table = np.asarray(confusion)
    lower = float(np.clip(1.6 + 0.34 * len(table), 3.0, 9.0))
    figure = Figure(figsize=(9.0, 2.9 + lower), layout="constrained", facecolor="white")
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.9, lower])
    draw_curves(parts[0].subplots(1, 3), _PANELS, history)
    draw_confusion(parts[1].subplots(), table, classes, title=f"epoch {history[-1]['epoch']}: ")
    return figure


def draw_confusion(axes: Any, table: np.ndarray, classes: Sequence[str], *, title: str) -> None:
    """Held-out boxes by their class (rows) and the class that is said (columns)."""
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    names = [_short(name) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8.5)
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.tick_params(length=0, colors=INK)
    axes.set_xlabel("class that is said", color=INK, fontsize=9.5)
    axes.set_ylabel("label", color=INK, fontsize=9.5)
    axes.set_title(f"{title}held-out boxes", color=INK, fontsize=10, loc="left", pad=6)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if len(names) <= _MOST_COUNTS:
        for (row, column), count in np.ndenumerate(table):
            if count:
                color = "white" if shares[row, column] > 0.5 else INK
                told = f"{count}"
                axes.text(column, row, told, ha="center", va="center", color=color, fontsize=8)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
