"""A training seen as it goes, and kept as files beside its model."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tomodask.cluster.progress import in_notebook
from tomodask.data.writing import replacing
from tomodask.training.screens import (
    Look,
    NotebookFigure,
    PlainRows,
    Screen,
    TerminalScreen,
    png,
)

__all__ = ["TrainingView", "open_view"]

_log = logging.getLogger(__name__)


def open_view(look: Look, folder: str | os.PathLike[str] | None = None) -> TrainingView:
    """The view of a training for where it runs: notebook, terminal or log."""
    screen: Screen
    if in_notebook():
        screen = NotebookFigure()
    elif sys.stderr.isatty():
        screen = TerminalScreen()
    else:
        screen = PlainRows()
    return TrainingView(look, screen, None if folder is None else Path(folder))


class TrainingView:
    """Shows each epoch on a screen and keeps it in a folder.  Never stops the training.

    Parameters
    ----------
    look : Look
    screen : Screen
    folder : Path, optional
        Gets ``history.csv``, ``progress.png`` and, where the look has pictures of each epoch,
        ``slices/epoch_0001.png`` …, each whole at any moment.
    """

    def __init__(self, look: Look, screen: Screen, folder: Path | None = None) -> None:
        self.look, self.screen, self.folder = look, screen, folder
        first = ["loss", "learning_rate"]
        self.names = [*first, *(one.name for one in look.numbers), "seconds"]
        self.history: list[dict[str, Any]] = []
        self._failed: set[str] = set()
        if folder is not None:
            self._try("the history that is there", lambda: self.history.extend(self._read(folder)))

    def __call__(self, report: Any) -> None:
        """Show an epoch, and write its files."""
        # An epoch that is told again, after a stop, takes the place of what followed.
        self.history = [row for row in self.history if row["epoch"] < report.epoch]
        numbers = {name: _number(getattr(report, name)) for name in self.names}
        self.history.append({"epoch": int(report.epoch), **numbers})
        # The table first: it takes no time, and a stop while pictures are drawn leaves it.
        self._keep(self._write_history)
        show = self.screen.show
        self._try("the view of training", lambda: show(self.look, report, self.history))
        self._keep(lambda folder: self._write_pictures(folder, report))
        if report.last:
            self.close()

    def take_up(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Begin with the epochs of a training that goes on; what the folder lacks is written.

        The training knows them all; the folder may lack the last ones, or all, where it was stopped
        before they were shown.

        Parameters
        ----------
        history : sequence of mapping
            Of each epoch; empty where none is done.
        """
        if not history:
            return
        self.history = [
            {"epoch": int(row["epoch"])} | {name: _number(row.get(name)) for name in self.names}
            for row in history
        ]
        self._keep(self._write_history)
        self._keep(self._write_curves)

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

    def _keep(self, write: Callable[[Path], None]) -> None:
        """Write something into the folder, if there is to be one."""
        folder = self.folder
        if folder is not None:
            self._try("the files about training", lambda: write(folder))

    def _write_history(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        table = io.StringIO()
        writer = csv.DictWriter(table, ["epoch", *self.names], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        _write(folder / "history.csv", table.getvalue().encode())

    def _write_curves(self, folder: Path) -> None:
        """The curves alone, where no picture is there."""
        if not (folder / "progress.png").exists():
            _write(folder / "progress.png", png(self.look.plot(self.history, None)))

    def _write_pictures(self, folder: Path, report: Any) -> None:
        if (picture := self.look.picture(report)) is not None:
            (folder / "slices").mkdir(exist_ok=True)
            _write(folder / "slices" / f"epoch_{report.epoch:04d}.png", png(picture))
        _write(folder / "progress.png", png(self.look.plot(self.history, report)))

    def _read(self, folder: Path) -> list[dict[str, Any]]:
        """Rows of an earlier time; none where there are none."""
        try:
            with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
                return [
                    {"epoch": int(row["epoch"])}
                    | {name: _number(row[name] or "nan") for name in self.names}
                    for row in csv.DictReader(file)
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{folder / 'history.csv'} is not a history: {error!r}") from error

    def _try(self, what: str, act: Callable[[], None]) -> None:
        """Training is worth more than its view: an error is told once, and no more."""
        try:
            act()
        except Exception as error:
            if what not in self._failed:
                self._failed.add(what)
                _log.warning("%s failed (%s); training goes on", what, error or repr(error))


def _write(path: Path, content: bytes) -> None:
    with replacing(path, overwrite=True) as part:
        part.write_bytes(content)


def _number(value: Any) -> float | None:
    """A finite number; None for anything else, as JSON and CSV have no NaN."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None
