"""Training of a picking network as it is seen; screens and files are those of any training."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tomodask.picking.learning.pictures import painted, plot_slice, plot_training, thinned
from tomodask.training.colors import class_color, half_blocks
from tomodask.training.screens import Number
from tomodask.training.view import TrainingView, open_view

if TYPE_CHECKING:
    from tomodask.picking.learning.run import EpochReport

__all__ = ["PickingLook", "watch_training"]


def watch_training(folder: str | os.PathLike[str] | None = None) -> TrainingView:
    """Show training as it goes: what to give `train_picker` as `on_epoch`.

    Parameters
    ----------
    folder : path, optional
        Gets ``history.csv``, ``progress.png`` (curves and the last slice) and
        ``slices/epoch_0001.png`` …, each whole at any moment.  Where training goes on after a
        stop, so does the history there.

    Returns
    -------
    TrainingView
        To be called with the report of each epoch.  In a terminal it draws a line an epoch, and
        below them the curves and a picture of a slice; in a notebook a figure, in place; elsewhere
        it writes a plain line an epoch to the standard error stream.
    """
    return open_view(PickingLook(), folder)


class PickingLook:
    """Precision, recall and F1; a slice with its labels and predictions."""

    label = "train"
    numbers = (
        Number("precision", "precision"),
        Number("recall", "recall"),
        Number("f1", "F1"),
    )
    sparks = (("loss", "loss"), ("F1", "f1"))

    def plot(self, history: list[dict[str, Any]], report: EpochReport | None) -> Any:
        """Curves, and the slice below them."""
        return plot_training(history, report)

    def picture(self, report: EpochReport) -> Any:
        """The slice."""
        return plot_slice(report, title=f"epoch {report.epoch}: ")

    def below(self, report: EpochReport, width: int, height: int) -> list[Any]:
        """Labels, and predictions beside them where there is room, or alone."""
        from rich.table import Table
        from rich.text import Text

        height = max(6, min(36, height - 8))
        pair = width >= 60
        wide = min(72, (width - 3) // 2 if pair else width)
        image, label, prediction = thinned(report, width=wide, height=2 * height)
        predicted = half_blocks(painted(image, prediction=prediction))
        names = Text.assemble(
            *(
                part
                for number, name in enumerate(report.classes)
                for part in (("■ ", "rgb({},{},{})".format(*class_color(number))), f"{name}  ")
            ),
            no_wrap=True,
        )
        table = Table.grid(padding=(0, 3, 0, 0))
        if pair:
            table.add_row("slice and labels", "prediction")
            table.add_row(half_blocks(painted(image, label=label)), predicted)
        else:
            table.add_row("prediction")
            table.add_row(predicted)
        return [table, names]
