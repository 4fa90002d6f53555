"""What other programs write beside a tilt series: its angles, and how its images are aligned.

Every reader gives plain arrays, an entry an image of the stack, and names file and line of what it
cannot read.  Transforms are in IMOD's form, ``new = A (old − c) + d + c'`` in (x, y) pixels, where
the middle of the first pixel is 0, c and c' are the middles ``(n − 1) / 2`` of the old and the new
image, and the tilt axis goes through c' along y.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tomodask.data.text_lines import lines_of, numbers_of
from tomodask.errors import InputError

__all__ = ["AreTomoAlignment", "angles_text", "read_aln", "read_angles", "read_xf", "xf_text"]


@dataclass(frozen=True)
class AreTomoAlignment:
    """An AreTomo ``.aln``: an entry an image that was aligned.

    Attributes
    ----------
    section : array of int
        Its place in the raw stack, from 0.
    angle : array
        Refined tilt, degrees.
    transform : array, shape (images, 2, 3)
        As ``.xf``.
    tilt_axis : array
        ROT, degrees.
    size : (int, int, int)
        RawSize: x, y, images of the raw stack.
    dark : list of int
        Images of the raw stack that were left out, from 0.
    patches : int
        Patches of the local alignment, which is not read.
    """

    section: np.ndarray
    angle: np.ndarray
    transform: np.ndarray
    tilt_axis: np.ndarray
    size: tuple[int, int, int]
    dark: list[int]
    patches: int


def read_angles(path: Path) -> np.ndarray:
    """Tilt angles, degrees, one a line: IMOD's ``.tlt``, ``.rawtlt`` and ``.xtilt``.

    Raises
    ------
    InputError
        If a line is no number, or an angle is beyond ±90°.
    """
    angles = []
    for number, line in lines_of(path):
        (angle,) = numbers_of(path, number, line, (1,), "one tilt angle in degrees")
        if not abs(angle) <= 90:
            raise InputError(
                f"{path}, line {number}: a tilt angle lies within ±90°, got {angle:g}; "
                "is it a file of angles in degrees?"
            )
        angles.append(angle)
    if not angles:
        raise InputError(f"{path}: no tilt angles, expected one a line")
    return np.array(angles)


def angles_text(angles: np.ndarray) -> str:
    """Text of a ``.rawtlt``: one angle a line, degrees, two to six digits after the point."""
    return "".join(f"{float(f'{angle:.6f}') + 0.0:.6f}\n" for angle in angles)


def read_xf(path: Path) -> np.ndarray:
    """IMOD's ``.xf``: a line ``A11 A12 A21 A22 DX DY`` an image.

    Returns
    -------
    array of float64, shape (images, 2, 3)
        ``[[A11, A12, DX], [A21, A22, DY]]``.

    Raises
    ------
    InputError
        If a line does not hold six numbers, or a matrix cannot be undone.
    """
    rows = []
    for number, line in lines_of(path):
        a, b, c, d, x, y = numbers_of(path, number, line, (6,), "A11 A12 A21 A22 DX DY")
        if abs(a * d - b * c) < 1e-6:
            raise InputError(
                f"{path}, line {number}: the matrix [{a:g} {b:g}; {c:g} {d:g}] cannot be undone; "
                "expected a rotation, nearly"
            )
        rows.append([[a, b, x], [c, d, y]])
    if not rows:
        raise InputError(f"{path}: no transforms, expected six numbers a line")
    return np.array(rows)


def xf_text(transform: np.ndarray) -> str:
    """Text of an ``.xf`` for transforms in IMOD's form, shape (images, 2, 3)."""
    return "".join(
        "".join(f"{value:12.7f}" for value in (*one[0, :2], *one[1, :2]))
        + "".join(f"{value:12.3f}" for value in one[:, 2])
        + "\n"
        for one in transform
    )


def read_aln(path: Path) -> AreTomoAlignment:
    """AreTomo's ``.aln``: global alignment, and which images were left out.

    ROT turns the tilt axis away from y, TX and TY lie in the raw image, so that IMOD's transform
    is ``A = R(−ROT)``, ``d = −A (TX, TY)``: what AreTomo itself writes as ``.xf`` [1]_.  SEC counts
    the images of the raw stack from 1 (AreTomo 3) or from 0 (AreTomo 2); where it runs from 1 on
    without a gap although images were left out, it counts those that remained.

    Raises
    ------
    InputError
        If the header or a line is damaged, or sections and dark frames do not make up the stack.

    References
    ----------
    .. [1] AreTomo2, ``ImodUtil/CSaveXF.cpp``.
    """
    size: tuple[int, int, int] | None = None
    patches, dark = 0, []
    rows: list[tuple[int, list[float]]] = []
    local = False
    for number, line in lines_of(path):
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            key = key.strip()
            if key == "RawSize":
                x, y, n = numbers_of(path, number, value, (3,), "# RawSize = X Y IMAGES")
                size = (int(x), int(y), int(n))
            elif key == "NumPatches":
                (count,) = numbers_of(path, number, value, (1,), "# NumPatches = N")
                patches = int(count)
            elif key == "DarkFrame":
                first, second, _ = numbers_of(path, number, value, (3,), "# DarkFrame = I J TILT")
                dark.append((int(first), int(second)))
            local = local or key.startswith("Local Alignment")
        elif not local:
            what = "SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT"
            rows.append((number, numbers_of(path, number, line, (10,), what)))
    if size is None:
        raise InputError(f"{path}: no line '# RawSize = X Y IMAGES', so it is no AreTomo alignment")
    if not rows:
        raise InputError(f"{path}: no image is aligned, expected lines SEC ROT GMAG TX TY … TILT")
    table = np.array([row for _, row in rows])
    section, left_out = _sections(path, table[:, 0].astype(int), dark, size[2])
    turn = np.deg2rad(-table[:, 1])
    matrix = table[:, 2, None, None] * np.stack(
        [
            np.stack([np.cos(turn), -np.sin(turn)], axis=-1),
            np.stack([np.sin(turn), np.cos(turn)], axis=-1),
        ],
        axis=1,
    )
    shift = -np.einsum("tij,tj->ti", matrix, table[:, 3:5])
    order = np.argsort(section, kind="stable")
    transform = np.concatenate([matrix, shift[:, :, None]], axis=2)
    return AreTomoAlignment(
        section=section[order],
        angle=table[order, 9],
        transform=transform[order],
        tilt_axis=table[order, 1],
        size=size,
        dark=left_out,
        patches=patches,
    )


def _sections(
    path: Path, given: np.ndarray, dark: list[tuple[int, int]], images: int
) -> tuple[np.ndarray, list[int]]:
    """Places in the raw stack, from 0, of the images aligned and of those left out."""
    if len(set(given.tolist())) < len(given):
        raise InputError(f"{path}: an image is listed twice under SEC")
    base = 0 if given.min() == 0 else 1
    section = given - base
    if section.min() < 0 or section.max() >= images:
        raise InputError(
            f"{path}: SEC is {given.min()} to {given.max()}, but RawSize tells of {images} images"
        )
    # A dark frame has two numbers, frame and section; older versions left one of them 0.
    places = [max(pair) if base else pair[1] or pair[0] for pair in dark]
    places = [place - 1 if base and 0 not in places else place for place in places]
    left = [place for place in range(images) if place not in places]
    if (
        dark
        and base
        and section.tolist() == list(range(len(section)))
        and len(left) >= len(section)
    ):
        section = np.array(left[: len(section)])
    both = sorted(set(places) & set(section.tolist()))
    if both:
        raise InputError(
            f"{path}: image {both[0] + 1} of {images} is both aligned and a dark frame; "
            "is the file whole?"
        )
    return section, sorted(set(range(images)) - set(section.tolist()))
