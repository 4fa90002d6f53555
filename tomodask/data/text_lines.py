"""Lines of numbers that other programs write: file and line are named where one cannot be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tomodask.errors import InputError

__all__ = ["lines_of", "numbers_of"]


_DECIMAL_COMMA = re.compile(r"\d,\d")


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that are not empty."""
    try:
        text = path.read_text("utf-8", "replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    for number, line in enumerate(text.splitlines(), 1):
        if bare := line.strip("\x00 \t\r\ufeff"):
            yield number, bare


def numbers_of(
    path: Path, number: int, text: str, counts: tuple[int, ...] | range, what: str
) -> list[float]:
    """The numbers of a line, of which there must be one of `counts`."""
    words = text.replace(",", " ").split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) not in counts or not np.isfinite(values).all():
        shown = text if len(text) <= 60 else text[:57] + "…"
        comma = "; write decimals with a point" if _DECIMAL_COMMA.search(text) else ""
        raise InputError(f"{path}, line {number}: expected {what}, got {shown.strip()!r}{comma}")
    return values
