"""Where the epochs of a training are shown: a log, a terminal, a notebook."""

from __future__ import annotations

import atexit
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from tomodask.training.epoch import Epoch

__all__ = ["Look", "NotebookFigure", "Number", "PlainRows", "Screen", "TerminalScreen"]

_BARS = "▁▂▃▄▅▆▇█"
History = list[dict[str, Any]]


@dataclass(frozen=True)
class Number:
    """What a kind of training tells of an epoch beside its loss.

    Attributes
    ----------
    name : str
        Attribute of the report, column of the history; NaN where it is not known.
    title : str
        What people call it.
    kind : {"share", "loss"}
        Written with three or four digits.
    """

    name: str
    title: str
    kind: Literal["share", "loss"] = "share"


class Look(Protocol):
    """How a kind of training is told and drawn."""

    @property
    def label(self) -> str:
        """What a log's lines begin with."""

    @property
    def numbers(self) -> Sequence[Number]:
        """In the order of the columns."""

    @property
    def sparks(self) -> Sequence[tuple[str, str]]:
        """Titles and names of what a terminal draws over the epochs."""

    def below(self, report: Any, width: int, height: int) -> list[Any]:
        """What a coloured terminal shows below: renderables of rich."""

    def picture(self, report: Any) -> Any:
        """A figure to keep of each epoch, or None."""

    def plot(self, history: History, report: Any) -> Any:
        """A figure of all epochs and what the newest one came to; None: the curves alone."""


class Screen(Protocol):
    """Where epochs are shown."""

    def show(self, look: Look, report: Any, history: History) -> None:
        """Show the newest epoch; `history` ends with it."""

    def close(self) -> None:
        """Leave the place in order."""


def seconds_left(report: Epoch, history: History) -> float:
    """To the end, by the last epochs; the first of all may hold what is done once."""
    recent = [row["seconds"] for row in history[-6:] if row["seconds"] is not None]
    recent = recent[1:] if len(recent) > 1 else recent
    return max(0, report.epochs - report.epoch) * (float(np.median(recent)) if recent else 0.0)


def span(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def png(figure: Any) -> bytes:
    """A figure as a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _told(number: Number, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if number.kind == "share" else f"{value:.4f}"


_LOSS = Number("loss", "loss", "loss")


class PlainRows:
    """A line an epoch, without any control character."""

    def show(self, look: Look, report: Any, history: History) -> None:
        """Write the newest epoch's line."""
        row = history[-1]
        told = [f"{one.title} {_told(one, row[one.name])}" for one in (_LOSS, *look.numbers)]
        told += [f"learning rate {report.learning_rate:.2g}", span(report.seconds)]
        if not report.last:
            told.append(f"about {span(seconds_left(report, history))} left")
        line = f"{look.label}: epoch {report.epoch} of {report.epochs}: {', '.join(told)}"
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is open."""


class TerminalScreen:
    """A table that grows by a line an epoch; below it the curves and a picture, drawn in place.

    Parameters
    ----------
    console : rich.console.Console, optional
        By default on the standard error stream.
    """

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False) if console is None else console
        self.live: Any = None

    def show(self, look: Look, report: Any, history: History) -> None:
        """Add a line, and draw the rest again."""
        from rich.live import Live

        if self.live is None:
            self.console.print(_head(look), style="bold", markup=False, highlight=False)
            # Redrawn when told to alone: no thread, and what is logged meanwhile goes above.
            self.live = Live(console=self.console, auto_refresh=False)
            atexit.register(self.close)  # whatever ends the training: the cursor comes back
            self.live.start()
        self.console.print(_row(look, report, history), markup=False, highlight=False)
        self.live.update(self._below(look, report, history), refresh=True)

    def close(self) -> None:
        """Leave the last drawing, and give the cursor back."""
        if self.live is not None:
            self.live.stop()
            self.live = None
            atexit.unregister(self.close)

    def _below(self, look: Look, report: Any, history: History) -> Any:
        from rich.console import Group
        from rich.text import Text

        width = self.console.width
        parts: list[Any] = [
            Text(f"{title:<9} {_spark(history, name, width - 22)}", no_wrap=True)
            for title, name in look.sparks
        ]
        if self.console.color_system and not self.console.no_color:
            parts += [Text(), *look.below(report, width, self.console.height)]
        return Group(*parts)


def _width(number: Number) -> int:
    return max(8, len(number.title) + 2)


def _head(look: Look) -> str:
    """Titles over the lines of `_row`."""
    titles = "".join(f"{one.title:>{_width(one)}}" for one in look.numbers)
    return f"{'epoch':<8}{'loss':>8}{titles}{'learning rate':>15}{'time':>10}{'left':>10}"


def _row(look: Look, report: Any, history: History) -> str:
    row = history[-1]
    count = f"{report.epoch}/{report.epochs}"
    told = "".join(f"{_told(one, row[one.name]):>{_width(one)}}" for one in look.numbers)
    left = "done" if report.last else span(seconds_left(report, history))
    return (
        f"{count:<8}{_told(_LOSS, row['loss']):>8}{told}"
        f"{report.learning_rate:>15.2e}{span(report.seconds):>10}{left:>10}"
    )


def _spark(history: History, name: str, width: int) -> str:
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

    def show(self, look: Look, report: Any, history: History) -> None:
        """Draw all epochs and what the newest one came to."""
        from IPython.display import Image, display

        figure = look.plot(history, report)
        told = f"epoch {report.epoch} of {report.epochs}"
        last = report.last
        told += ", done" if last else f", about {span(seconds_left(report, history))} left"
        figure.suptitle(told, x=0.01, ha="left", fontsize=11)
        picture = Image(data=png(figure), format="png", width=int(96 * figure.get_figwidth()))
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)

    def close(self) -> None:
        """The figure stays."""
