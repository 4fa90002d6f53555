"""How far long work is: a bar in terminals and notebooks, few plain lines in a log."""

from __future__ import annotations

import html
import sys
import time
from types import TracebackType
from typing import Any, Protocol

__all__ = ["Progress", "in_notebook", "show_progress"]


class Progress(Protocol):
    """Shows the number of finished tasks; used as a context manager."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def update(self, finished: int, total: int) -> None:
        """Tell how many of the `total` tasks are finished."""
        ...


#: Seconds that a step of longer work may take before a log hears of it.
PATIENCE = 10.0


def show_progress(label: str, *, passing: bool = False) -> Progress:
    """Choose the display by where the standard error stream goes.

    `passing` is for a step of longer work that tells of itself: the bar goes when the step is done,
    and a log hears only of steps that take longer than `PATIENCE`.
    """
    if in_notebook():
        return NotebookBar(label, passing=passing)
    if sys.stderr.isatty():
        return TerminalBar(label, passing=passing)
    return PlainLines(label, passing=passing)


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return type(get_ipython()).__name__ == "ZMQInteractiveShell"


class PlainLines:
    """One line at the start, one about each tenth of the work, one at the end."""

    def __init__(self, label: str, *, passing: bool = False) -> None:
        self.label = label
        self.tenth = 0
        self.counts = (0, 0)
        self.silent = passing  # until it has taken long

    def __enter__(self) -> PlainLines:
        self.began = self.spoke = time.monotonic()
        if not self.silent:
            self._line("started")
        return self

    def update(self, finished: int, total: int) -> None:
        """Write a line when another tenth is done, and not more than one a second."""
        self.counts = (finished, total)
        tenth = 10 * finished // total if total else 0
        if self.silent:
            if total and time.monotonic() - self.began > PATIENCE:
                self.silent, self.tenth = False, tenth
                self._line(f"{100 * finished // total} % ({self._state()})")
        elif self.tenth < tenth < 10 and time.monotonic() - self.spoke > 1:
            self.tenth = tenth
            self._line(f"{100 * finished // total} % ({self._state()})")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.silent:
            self._line(f"{'done' if kind is None else 'stopped'} ({self._state()})")

    def _state(self) -> str:
        finished, total = self.counts
        # Work that is over before the first count has none to show.
        tasks = f"{finished} of {total} tasks, " if total else ""
        return f"{tasks}{time.monotonic() - self.began:.1f} s"

    def _line(self, text: str) -> None:
        self.spoke = time.monotonic()
        print(f"{self.label}: {text}", file=sys.stderr, flush=True)


class TerminalBar:
    """A bar that stays on the terminal when the work ends, unless it is of a passing step."""

    def __init__(self, label: str, *, passing: bool = False) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=passing,
        )
        self.task = self.bar.add_task(label, total=None)

    def __enter__(self) -> TerminalBar:
        self.bar.start()
        return self

    def update(self, finished: int, total: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=finished, total=total)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()


class NotebookBar:
    """An HTML progress element; needs no widgets, so a saved notebook keeps it."""

    def __init__(self, label: str, *, passing: bool = False) -> None:
        self.label = html.escape(label)
        self.passing = passing
        self.counts = (0, 0)
        self.drawn = 0.0

    def __enter__(self) -> NotebookBar:
        from IPython.display import display

        self.began = time.monotonic()
        self.handle = display(self._picture("started"), display_id=True)
        return self

    def update(self, finished: int, total: int) -> None:
        """Draw the element again, at most five times a second."""
        self.counts = (finished, total)
        if time.monotonic() - self.drawn > 0.2:
            self.drawn = time.monotonic()
            self.handle.update(self._picture("running"))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.passing and kind is None:
            from IPython.display import HTML

            self.handle.update(HTML(""))
            return
        self.handle.update(self._picture("done" if kind is None else "stopped"))

    def _picture(self, state: str) -> Any:
        from IPython.display import HTML

        finished, total = self.counts
        seconds = time.monotonic() - self.began
        return HTML(
            f'{self.label} <progress value="{finished}" max="{max(total, 1)}"></progress> '
            f"{state}, {finished} of {total} tasks, {seconds:.1f} s"
        )
