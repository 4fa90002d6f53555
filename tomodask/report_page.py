"""What the pages that tomodask writes have in common: look, figures within, numbers as text."""

from __future__ import annotations

import base64
import contextlib
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from tomodask.data.run_folder import RunFolder
from tomodask.data.writing import replacing

__all__ = [
    "angstrom",
    "duration",
    "file_size",
    "inline",
    "job_told",
    "number_or_dash",
    "page_style",
    "page_template",
    "seconds_of",
    "write_page",
]


def page_template(name: str) -> jinja2.Template:
    """A page of ``tomodask/templates``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tomodask"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def job_told(folder: RunFolder) -> dict[str, Any]:
    """What the page of any job tells: ``figures``, ``document``, ``parameters`` and the like."""
    document = folder.document
    return {
        "figures": document["figures"],
        "document": document,
        "parameters": _shown(document["parameters"]),
        "memory": f"{document['machine']['memory_bytes'] / 2**30:.0f} GiB",
        "path": str(folder.path.resolve()),
    }


def seconds_of(folder: RunFolder) -> dict[str, float]:
    """How long each stage of a job that is done took."""
    return {name: float(told["seconds"]) for name, told in folder.document["stages"].items()}


def _shown(parameters: dict[str, Any]) -> list[tuple[str, str]]:
    """Parameters of a run as text."""
    shown = []
    for name, value in parameters.items():
        if isinstance(value, list):
            told = [v if isinstance(v, str) else f"{v:g}" for v in value]
            value = ", ".join(told) if any(isinstance(v, str) for v in value) else " to ".join(told)
            value = value or None
        elif isinstance(value, float):
            value = f"{value:g}"
        shown.append((name.replace("_", " "), "by default" if value is None else str(value)))
    return shown


@contextlib.contextmanager
def page_style() -> Iterator[None]:
    """Figures are drawn alike wherever, and the same one gives the same bytes."""
    with mpl.rc_context(
        {
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "svg.fonttype": "path",
            "svg.hashsalt": "tomodask",  # the same figure gives the same bytes
        }
    ):
        yield


def inline(figure: Figure, text: str) -> Markup:
    """A figure as an image element: drawings as SVG, pictures as PNG, each with its text."""
    raster = any(axes.images for axes in figure.axes)
    kind, mime = ("png", "image/png") if raster else ("svg", "image/svg+xml")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=160, metadata=None if raster else {"Date": None})
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    width = round(96 * figure.get_figwidth())
    return Markup('<img src="data:{};base64,{}" width="{}" alt="{}">').format(
        mime, Markup(content), width, text
    )


def angstrom(value: float | None) -> str:
    """A resolution as text."""
    return "not reached" if value is None or math.isinf(value) else f"{value:.1f} Å"


def number_or_dash(value: float | None, form: str) -> str:
    """A number as text, a dash where it is not known."""
    return "–" if value is None or math.isnan(value) else format(value, form)


def duration(seconds: float) -> str:
    """Seconds as text."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def file_size(path: Path) -> str:
    """Size of a file or folder; nothing for the page that is being written."""
    if path.name == "report.html":
        return ""
    size = float(
        sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        if path.is_dir()
        else path.stat().st_size
    )
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def write_page(folder: Path, page: Callable[[], str]) -> Path:
    """Write ``report.html`` into `folder`: what `page` makes of it, in the style of all pages.

    It appears when it is whole.
    """
    with page_style():
        text = page()
    path = folder / "report.html"
    with replacing(path, overwrite=True) as part:
        part.write_text(text, encoding="utf-8")
    return path
