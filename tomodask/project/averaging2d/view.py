"""A 2D averaging seen as it goes: a line a round in terminals and logs, averages in notebooks."""

from __future__ import annotations

import logging
import math
from typing import Any, Protocol

from tomodask.cluster.progress import in_notebook
from tomodask.planar.round2d import Round2D

__all__ = ["View2D", "line_of_round", "notes_of_round", "watch_averaging"]

_log = logging.getLogger(__name__)


class View2D(Protocol):
    """Shows rounds."""

    def show(self, row: dict[str, Any] | None, state: Round2D | None) -> None:
        """Show a finished round: its row of the history, its averages, or both."""

    def close(self) -> None:
        """Leave the place in order."""


def watch_averaging() -> View2D:
    """Choose the view by where this runs."""
    return _NotebookGallery() if in_notebook() else _Lines()


def line_of_round(row: dict[str, Any]) -> str:
    """A round in one line.

    Examples
    --------
    >>> line_of_round({"round": 3, "score": 0.214, "resolution": 12.25, "reassigned": 0.031,
    ...                "turned": 1.26, "moved": 0.4, "classes": 10, "filled": 1, "twins": 0,
    ...                "seconds": 1.5})
    'round 3: score 0.2140; 12.2 Å (FRC 0.143, median of 10 classes); 3.1 % in another class, the \
others turned 1.3°, moved 0.4 Å; 1 empty class filled again; 1.5 s'
    """
    classes = int(row["classes"])
    found = row["resolution"]
    resolution = f"{found:.1f} Å" if math.isfinite(found) else "no resolution"
    of = f", median of {classes} classes" if classes > 1 else ""
    parts = [f"score {row['score']:.4f}", f"{resolution} (FRC 0.143{of})"]
    if not math.isnan(row["turned"]):
        poses = f"turned {row['turned']:.1f}°, moved {row['moved']:.1f} Å"
        changed = row["reassigned"]
        if classes > 1 and not math.isnan(changed):
            parts.append(f"{100 * changed:.1f} % in another class, the others {poses}")
        else:
            parts.append(f"images {poses}")
    parts += notes_of_round(row)
    return f"round {row['round']}: {'; '.join(parts)}; {row['seconds']:.1f} s"


def notes_of_round(row: dict[str, Any]) -> list[str]:
    """What happened to classes in a round.

    Examples
    --------
    >>> notes_of_round({"filled": 2, "twins": 0})
    ['2 empty classes filled again']
    """
    notes = []
    if row["filled"]:
        many = "class" if row["filled"] == 1 else "classes"
        notes.append(f"{row['filled']} empty {many} filled again")
    if row["twins"]:
        pairs = "class was" if row["twins"] == 1 else "classes were"
        notes.append(f"{row['twins']} {pairs} of one view with another, and got others")
    return notes


class _Lines:
    """One line a round."""

    def show(self, row: dict[str, Any] | None, state: Round2D | None) -> None:
        del state
        if row is not None:
            _log.info("%s", line_of_round(row))

    def close(self) -> None:
        """Nothing to do."""


class _NotebookGallery:
    """The averages of the last round, drawn again in place, with its line beneath."""

    def __init__(self) -> None:
        self.handle: Any = None
        self.text: Any = None

    def show(self, row: dict[str, Any] | None, state: Round2D | None) -> None:
        import io

        from IPython.display import Image, Pretty, display

        if state is not None:
            from tomodask.plot2d import plot_class_gallery

            buffer = io.BytesIO()
            figure = plot_class_gallery(state.averages, state.counts.tolist(), by_size=False)
            figure.savefig(buffer, format="png", dpi=110)
            picture = Image(buffer.getvalue())
            if self.handle is None:
                self.handle = display(picture, display_id=True)
            else:
                self.handle.update(picture)
        if row is not None:
            if self.text is None:
                self.text = display(Pretty(line_of_round(row)), display_id=True)
            else:
                self.text.update(Pretty(line_of_round(row)))

    def close(self) -> None:
        """The averages stay."""
