"""A training seen as it goes, and kept as files beside its model."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import sys
from collections.abc import Callable
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
    is_last,
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
        show = self.screen.show
        self._try("the view of training", lambda: show(self.look, report, self.history))
        if self.folder is not None:
            self._try("the files about training", lambda: self._write(report))
        if is_last(report):
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

    def _write(self, report: Any) -> None:
        folder = self.folder
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        table = io.StringIO()
        writer = csv.DictWriter(table, ["epoch", *self.names], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        contents = {folder / "history.csv": table.getvalue().encode()}
        if (picture := self.look.picture(report)) is not None:
            (folder / "slices").mkdir(exist_ok=True)
            contents[folder / "slices" / f"epoch_{report.epoch:04d}.png"] = png(picture)
        contents[folder / "progress.png"] = png(self.look.plot(self.history, report))
        for path, content in contents.items():
            with replacing(path, overwrite=True) as part:
                part.write_bytes(content)

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


def _number(value: Any) -> float | None:
    """A finite number; None for anything else, as JSON and CSV have no NaN."""
    number = float(value)
    return number if math.isfinite(number) else None
