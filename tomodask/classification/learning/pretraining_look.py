"""Training without labels as it is seen: curves, what probes say, and the views of some boxes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tomodask.training.colors import grey_levels, half_blocks
from tomodask.training.curves import INK, RATE, Panel, draw_curves
from tomodask.training.screens import Number
from tomodask.training.view import TrainingView, open_view

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tomodask.classification.learning.pretraining_run import EncoderEpoch

__all__ = ["EncoderLook", "plot_encoder", "watch_encoder"]

_GAP = 2  # pixels between two pictures
_PANELS = (
    Panel("loss", [("loss", "loss", INK)]),
    Panel(
        "probes, on labelled boxes",
        [("linear", "linear", "#0b6e99"), ("neighbours", "5 nearest", "#3f7d4e")],
        share=True,
    ),
    RATE,
)


def watch_encoder(folder: str | os.PathLike[str] | None = None) -> TrainingView:
    """Show training as it goes: what to give `pretrain_encoder` as `on_epoch`.

    Parameters
    ----------
    folder : path, optional
        Gets ``history.csv`` and ``progress.png`` (curves and the views of some boxes), each whole
        at any moment.  Where training goes on after a stop, so does the history there.

    Returns
    -------
    TrainingView
        To be called with the report of each epoch; shown as by `watch_classifier`.
    """
    return open_view(EncoderLook(), folder)


class EncoderLook:
    """Loss, accuracy of probes; the two views of some boxes."""

    label = "pretrain"
    numbers = (Number("linear", "linear probe"), Number("neighbours", "nearest probe"))
    sparks = (("loss", "loss"), ("probe", "linear"))

    def plot(self, history: list[dict[str, Any]], report: EncoderEpoch | None) -> Figure:
        """Curves, and views below them."""
        return plot_encoder(history, None if report is None else report.views)

    def picture(self, report: EncoderEpoch) -> None:
        """No picture of each epoch is kept."""

    def below(self, report: EncoderEpoch, width: int, height: int) -> list[Any]:
        """Views beside each other, as many as fit."""
        from rich.text import Text

        edge = report.views.shape[-1]
        most = min(len(report.views), (width + _GAP) // (edge + _GAP))
        if most < 1 or edge + 10 > height:
            return []
        row = np.full((_GAP, most * (edge + _GAP) - _GAP), 0, np.uint8)
        rows = []
        for number in (1, 0):  # row 0 is drawn at the bottom
            line = np.zeros((edge, row.shape[1]), np.uint8)
            for i in range(most):
                line[:, i * (edge + _GAP) : i * (edge + _GAP) + edge] = grey_levels(
                    report.views[i, number]
                )
            rows += [line, row]
        picture = np.repeat(np.concatenate(rows[:-1])[..., None], 3, axis=2)
        return [Text("two views of some boxes, middle slices"), half_blocks(picture)]


def plot_encoder(history: Sequence[dict[str, Any]], views: np.ndarray | None = None) -> Figure:
    """Loss, probes and learning rate over the epochs, and views of some boxes.

    Parameters
    ----------
    history : sequence of mapping
        Of each epoch, e.g. ``model.history``.
    views : array, shape (boxes, 2, y, x), optional
        Middle slices of two views of each.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is no epoch.
    """
    from matplotlib.figure import Figure

    probed = any(row.get("linear") is not None for row in history)
    panels = [panel for panel in _PANELS if probed or "probes" not in panel.title]
    lower = 0.0 if views is None else 1.5
    figure = Figure(figsize=(9.0, 2.9 + lower), layout="constrained", facecolor="white")
    if views is None:
        draw_curves(figure.subplots(1, len(panels)), panels, history)
        return figure
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.9, lower])
    draw_curves(parts[0].subplots(1, len(panels)), panels, history)
    pictures = parts[1].subplots(1, 2 * len(views), squeeze=False)[0]
    for number, axes in enumerate(pictures):
        axes.imshow(grey_levels(views[number // 2, number % 2]), cmap="gray", origin="lower")
        axes.set_axis_off()
        axes.set_title(
            f"box {number // 2 + 1}, {'second' if number % 2 else 'first'} view",
            fontsize=7.5,
            color=INK,
            loc="left",
        )
    return figure
