"""Training seen as it goes: in a terminal, in a notebook, in a log, and as files."""

from __future__ import annotations

import atexit
import csv
import io
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from tomodask.cluster.progress import in_notebook
from tomodask.data.writing import replacing
from tomodask.picking.training_pictures import (
    TrainedSlice,
    class_color,
    half_blocks,
    painted,
    plot_slice,
    plot_training,
    thinned,
)

__all__ = ["Epoch", "TrainingView", "watch_training"]

_log = logging.getLogger(__name__)

_NUMBERS = ("loss", "learning_rate", "precision", "recall", "f1", "seconds")
_HEAD = "epoch       loss  precision  recall      F1  learning rate      time      left"
_BARS = "▁▂▃▄▅▆▇█"


class Epoch(TrainedSlice, Protocol):
    """What is told of an epoch; see `tomodask.picking.training.EpochReport`."""

    @property
    def epoch(self) -> int:
        """From 1."""

    @property
    def epochs(self) -> int:
        """In all."""

    @property
    def loss(self) -> float:
        """Mean over the epoch."""

    @property
    def learning_rate(self) -> float:
        """At its end."""

    @property
    def precision(self) -> float:
        """On the validation part; NaN where there is none."""

    @property
    def recall(self) -> float:
        """On the validation part."""

    @property
    def f1(self) -> float:
        """On the validation part."""

    @property
    def seconds(self) -> float:
        """That the epoch took."""


class Screen(Protocol):
    """Where epochs are shown."""

    def show(self, report: Epoch, history: list[dict[str, Any]]) -> None:
        """Show the newest epoch; `history` ends with it."""

    def close(self) -> None:
        """Leave the place in order."""


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
    screen: Screen
    if in_notebook():
        screen = NotebookFigure()
    elif sys.stderr.isatty():
        screen = TerminalScreen()
    else:
        screen = PlainRows()
    return TrainingView(screen, None if folder is None else Path(folder))


class TrainingView:
    """Shows each epoch on a screen and keeps it in a folder.  Never stops the training.

    Parameters
    ----------
    screen : Screen
    folder : Path, optional
    """

    def __init__(self, screen: Screen, folder: Path | None = None) -> None:
        self.screen = screen
        self.folder = folder
        self.history: list[dict[str, Any]] = []
        self._failed: set[str] = set()
        if folder is not None:
            self._try("the history that is there", lambda: self.history.extend(_read(folder)))

    def __call__(self, report: Epoch) -> None:
        """Show an epoch, and write its files."""
        # An epoch that is told again, after a stop, takes the place of what followed.
        self.history = [row for row in self.history if row["epoch"] < report.epoch]
        numbers = {name: _number(getattr(report, name)) for name in _NUMBERS}
        self.history.append({"epoch": int(report.epoch), **numbers})
        self._try("the view of training", lambda: self.screen.show(report, self.history))
        if self.folder is not None:
            self._try("the files about training", lambda: self._write(report))
        if report.epoch >= report.epochs:
            self.close()

    def close(self) -> None:
        """Leave the terminal in order; done of itself at the last epoch and at the end."""
        self._try("the view of training", self.screen.close)

    def __enter__(self) -> TrainingView:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, report: Epoch) -> None:
        folder = self.folder
        assert folder is not None
        slices = folder / "slices"
        slices.mkdir(parents=True, exist_ok=True)
        table = io.StringIO()
        writer = csv.DictWriter(table, ["epoch", *_NUMBERS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        for path, content in (
            (folder / "history.csv", table.getvalue().encode()),
            (
                slices / f"epoch_{report.epoch:04d}.png",
                _png(plot_slice(report, title=f"epoch {report.epoch}: ")),
            ),
            (folder / "progress.png", _png(plot_training(self.history, report))),
        ):
            with replacing(path, overwrite=True) as part:
                part.write_bytes(content)

    def _try(self, what: str, act: Callable[[], None]) -> None:
        """Training is worth more than its view: an error is told once, and no more."""
        try:
            act()
        except Exception as error:
            if what not in self._failed:
                self._failed.add(what)
                _log.warning("%s failed (%s); training goes on", what, error or repr(error))


def _read(folder: Path) -> list[dict[str, Any]]:
    """Rows of an earlier time; none where there are none."""
    try:
        with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
            return [
                {"epoch": int(row["epoch"])}
                | {name: _number(row[name] or "nan") for name in _NUMBERS}
                for row in csv.DictReader(file)
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{folder / 'history.csv'} is not a history: {error!r}") from error


def _number(value: Any) -> float | None:
    """A finite number; None for anything else, as JSON and CSV have no NaN."""
    number = float(value)
    return number if math.isfinite(number) else None


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _left(report: Epoch, history: list[dict[str, Any]]) -> float:
    """Seconds to the end, by the last epochs; the first of all may hold what is done once."""
    recent = [row["seconds"] for row in history[-6:] if row["seconds"] is not None]
    recent = recent[1:] if len(recent) > 1 else recent
    return max(0, report.epochs - report.epoch) * (float(np.median(recent)) if recent else 0.0)


def _span(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


class PlainRows:
    """A line an epoch, without any control character."""

    def show(self, report: Epoch, history: list[dict[str, Any]]) -> None:
        """Write the newest epoch's line."""
        row = history[-1]
        told = [f"loss {row['loss']:.4f}" if row["loss"] is not None else "loss –"]
        told += [
            f"{'F1' if name == 'f1' else name} {_share(row[name])}"
            for name in ("precision", "recall", "f1")
        ]
        told += [f"learning rate {report.learning_rate:.2g}", _span(report.seconds)]
        if report.epoch < report.epochs:
            told.append(f"about {_span(_left(report, history))} left")
        line = f"train: epoch {report.epoch} of {report.epochs}: {', '.join(told)}"
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is open."""


class TerminalScreen:
    """A table that grows by a line an epoch; below it the curves and a slice, drawn in place.

    Parameters
    ----------
    console : rich.console.Console, optional
        By default on the standard error stream.
    """

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False) if console is None else console
        self.live: Any = None

    def show(self, report: Epoch, history: list[dict[str, Any]]) -> None:
        """Add a line, and draw the rest again."""
        from rich.live import Live

        if self.live is None:
            self.console.print(_HEAD, style="bold", markup=False, highlight=False)
            # Redrawn when told to alone: no thread, and what is logged meanwhile goes above.
            self.live = Live(console=self.console, auto_refresh=False)
            atexit.register(self.close)  # whatever ends the training: the cursor comes back
            self.live.start()
        self.console.print(_row(report, history), markup=False, highlight=False)
        self.live.update(self._below(report, history), refresh=True)

    def close(self) -> None:
        """Leave the last drawing, and give the cursor back."""
        if self.live is not None:
            self.live.stop()
            self.live = None
            atexit.unregister(self.close)

    def _below(self, report: Epoch, history: list[dict[str, Any]]) -> Any:
        from rich.console import Group
        from rich.text import Text

        width = self.console.width
        parts = [
            Text(f"{name:<9} {_spark(history, key, width - 22)}", no_wrap=True)
            for name, key in (("loss", "loss"), ("F1", "f1"))
        ]
        if self.console.color_system and not self.console.no_color:
            parts += [Text(), *self._pictures(report, width)]
        return Group(*parts)

    def _pictures(self, report: Epoch, width: int) -> list[Any]:
        """Labels, and predictions beside them where there is room, or alone."""
        from rich.table import Table
        from rich.text import Text

        height = max(6, min(36, self.console.height - 8))
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


def _row(report: Epoch, history: list[dict[str, Any]]) -> str:
    """A line under `_HEAD`."""
    row = history[-1]
    count = f"{report.epoch}/{report.epochs}"
    loss = "–" if row["loss"] is None else f"{row['loss']:.4f}"
    shares = [_share(row[name]) for name in ("precision", "recall", "f1")]
    left = _span(_left(report, history)) if report.epoch < report.epochs else "done"
    return (
        f"{count:<8}{loss:>8}{shares[0]:>11}{shares[1]:>8}{shares[2]:>8}"
        f"{report.learning_rate:>15.2e}{_span(report.seconds):>10}{left:>10}"
    )


def _spark(history: list[dict[str, Any]], name: str, width: int) -> str:
    """Bars of the last epochs between the least and the greatest of all, and these two."""
    values = [row[name] for row in history if row[name] is not None]
    if not values:
        return "–"
    low, high = min(values), max(values)
    steps = [round(7 * (v - low) / (high - low)) if high > low else 3 for v in values]
    bars = "".join(_BARS[step] for step in steps[-max(1, width) :])
    return f"{bars} {low:.3g} to {high:.3g}"


class NotebookFigure:
    """A figure that is drawn again in place; a saved notebook keeps the last one."""

    def __init__(self) -> None:
        self.handle: Any = None

    def show(self, report: Epoch, history: list[dict[str, Any]]) -> None:
        """Draw all epochs and the newest slice."""
        from IPython.display import Image, display

        figure = plot_training(history, report)
        left = _left(report, history)
        told = f"epoch {report.epoch} of {report.epochs}"
        told += f", about {_span(left)} left" if report.epoch < report.epochs else ", done"
        figure.suptitle(told, x=0.01, ha="left", fontsize=11)
        picture = Image(data=_png(figure), format="png", width=int(96 * figure.get_figwidth()))
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)

    def close(self) -> None:
        """The figure stays."""
