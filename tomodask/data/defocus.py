"""Defocus of each image of a tilt series: IMOD's, CTFFIND's and AreTomo's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tomodask.data.text_lines import lines_of, numbers_of
from tomodask.errors import InputError

__all__ = ["Defocus", "read_defocus"]


@dataclass(frozen=True)
class Defocus:
    """Defocus of each image: Å (positive = underfocus), astigmatism and phase shift in degrees."""

    u: np.ndarray
    v: np.ndarray
    angle: np.ndarray
    phase_shift: np.ndarray | None = None


def read_defocus(path: Path, images: int) -> Defocus:
    """Defocus of each image: IMOD's ``.defocus`` (version 2, 3) or CTFFIND's or AreTomo's ``.txt``.

    Parameters
    ----------
    path : Path
        ``.defocus`` or any other text; the latter has lines of a number, defocus 1 and 2 (Å),
        azimuth (degrees), phase shift (radians), score and resolution.
    images : int
        Of the stack.

    Raises
    ------
    InputError
        If a line is damaged, or an image has no defocus.
    """
    if path.suffix.lower() == ".defocus":
        return _imod_defocus(path, images)
    rows = [
        numbers_of(path, number, line, range(7, 20), "NUMBER DEFOCUS1 DEFOCUS2 AZIMUTH PHASE …")
        for number, line in lines_of(path)
        if not line.startswith("#")
    ]
    if len(rows) != images:
        raise InputError(
            f"{path} tells the defocus of {len(rows)} images, the stack has {images}; "
            "give the file of this stack"
        )
    table = np.array([row[:5] for row in rows])
    phase = np.rad2deg(table[:, 4])
    return Defocus(table[:, 1], table[:, 2], table[:, 3], phase if phase.any() else None)


def _imod_defocus(path: Path, images: int) -> Defocus:
    """Ranges of views, nanometres, options in the first line: see ctfphaseflip in IMOD's guide."""
    lines = list(lines_of(path))
    what = "FIRST LAST ANGLE ANGLE DEFOCUS …"
    if not lines:
        raise InputError(f"{path}: empty, expected lines {what}")
    head = numbers_of(path, *lines[0], range(5, 10), what)
    flags = 0  # version 2 has none
    if len(head) == 6 and head[5] == 3:
        flags, lines = int(head[0]), lines[1:]
    total, weight = np.zeros((images, 3), complex), np.zeros(images)
    for number, line in lines:
        row = numbers_of(path, number, line, range(5, 10), what)
        needed = 5 + 2 * bool(flags & 1) + bool(flags & 4)
        if len(row) < needed:
            raise InputError(f"{path}, line {number}: expected {needed} numbers, got {len(row)}")
        first, last = int(row[0]), int(row[1])
        if not 1 <= first <= last <= images:
            raise InputError(
                f"{path}, line {number}: views {first} to {last} of a stack of {images} images; "
                "give the file of this stack"
            )
        u = v = 10 * row[4]
        angle, phase = 0.0, 0.0
        if flags & 1:
            v = 10 * row[5]
            angle = np.rad2deg(row[6]) if flags & 2 else row[6]
        if flags & 4:
            phase = row[needed - 1]
            phase = np.rad2deg(phase) if flags & 8 else phase
        # Of several fits of a view the mean is taken: those at 179° and at 1° are 2° apart.
        astigmatism = (u - v) / 2 * np.exp(2j * np.deg2rad(angle))
        total[first - 1 : last] += ((u + v) / 2, astigmatism, phase)
        weight[first - 1 : last] += 1
    if not weight.all():
        raise InputError(
            f"{path}: no defocus for image {int(np.argmin(weight)) + 1} of {images}; fit every view"
        )
    mean, astigmatism, phase = (total / weight[:, None]).T
    u, v = mean.real + np.abs(astigmatism), mean.real - np.abs(astigmatism)
    angle = np.rad2deg(np.angle(astigmatism)) / 2
    return Defocus(u, v, angle, phase.real if flags & 4 else None)
