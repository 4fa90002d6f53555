"""A refinement seen as it goes: a line a round in terminals and logs, a figure in notebooks."""

from __future__ import annotations

import logging
import math
from typing import Any, Protocol

import pandas as pd

from tomodask.cluster.progress import in_notebook

__all__ = ["RefinementView", "line_of", "watch_refinement"]

_log = logging.getLogger(__name__)


class RefinementView(Protocol):
    """Shows rounds."""

    def show(self, row: dict[str, Any]) -> None:
        """Show a finished round."""

    def close(self) -> None:
        """Leave the place in order."""


def watch_refinement() -> RefinementView:
    """Choose the view by where this runs."""
    return _NotebookFigure() if in_notebook() else _Lines()


def line_of(row: dict[str, Any]) -> str:
    """A round in one line.

    Examples
    --------
    >>> line_of({"iteration": 2, "classes": 1, "resolution_143": 28.4, "resolution_5": 35.1,
    ...          "band": 40.0, "angular_step": 20.0, "local": None, "turned": 1.25, "moved": 2.0,
    ...          "reassigned": float("nan"), "seconds": 12.3})
    'iteration 2: 28.4 Å (FSC 0.143), 35.1 Å (0.5); aligned to 40.0 Å, all rotations; poses turned \
1.2°, moved 2.0 Å; 12 s'
    """
    search = (
        "all rotations" if row["local"] is None or pd.isna(row["local"])
        else f"within {row['local']:.0f}°"
    )  # fmt: skip
    parts = [
        f"{_angstrom(row['resolution_143'])} (FSC 0.143), {_angstrom(row['resolution_5'])} (0.5)",
        f"aligned to {row['band']:.1f} Å, {search}",
    ]
    if not math.isnan(row["turned"]):
        parts.append(f"poses turned {row['turned']:.1f}°, moved {row['moved']:.1f} Å")
    if row["classes"] > 1:
        changed = row["reassigned"]
        parts.append(
            f"{row['classes']} classes"
            + ("" if math.isnan(changed) else f", {100 * changed:.0f} % of particles changed")
        )
    return f"iteration {row['iteration']}: {'; '.join(parts)}; {row['seconds']:.0f} s"


def _angstrom(value: float) -> str:
    return f"{value:.1f} Å" if math.isfinite(value) else "not reached"


class _Lines:
    """One line a round."""

    def show(self, row: dict[str, Any]) -> None:
        _log.info("%s", line_of(row))

    def close(self) -> None:
        """Nothing to do."""


class _NotebookFigure:
    """Resolution by round, drawn again in place."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.handle: Any = None

    def show(self, row: dict[str, Any]) -> None:
        import io

        from IPython.display import Image, display

        from tomodask.project.refinement.pictures import plot_rounds

        self.rows.append(row)
        buffer = io.BytesIO()
        plot_rounds(pd.DataFrame(self.rows)).savefig(buffer, format="png", dpi=110)
        picture = Image(buffer.getvalue(), alt=f"Resolution by iteration; {line_of(row)}.")
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)

    def close(self) -> None:
        """The figure stays."""
