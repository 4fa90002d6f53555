"""What other programs write beside a tilt series: angles, doses, alignments, defocus.

Every reader gives plain arrays, an entry an image of the stack, and names file and line of what it
cannot read.  Transforms are in IMOD's form, ``new = A (old − c) + d + c'`` in (x, y) pixels, where
the middle of the first pixel is 0, c and c' are the middles ``(n − 1) / 2`` of the old and the new
image, and the tilt axis goes through c' along y.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tomodask.errors import InputError

__all__ = [
    "AreTomoAlignment",
    "Defocus",
    "Mdoc",
    "angles_text",
    "read_aln",
    "read_angles",
    "read_defocus",
    "read_mdoc",
    "read_xf",
    "xf_text",
]

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = re.compile(r"(\d{1,4})-([A-Za-z]{3})-(\d{1,4})\s+(\d{1,2}):(\d{2}):(\d{2})")
_DECIMAL_COMMA = re.compile(r"\d,\d")
_AXIS = re.compile(r"[Tt]ilt axis angle\s*=\s*(-?[\d.]+)")


@dataclass(frozen=True)
class Mdoc:
    """A SerialEM ``.mdoc``: an entry an image of the stack, None or NaN where it says nothing.

    Attributes
    ----------
    angle : array
        Degrees.
    order : array of int or None
        Which image was taken first (0), second (1) …, by DateTime.
    exposure, pre_exposure : array or None
        e/Å² of this image and before it: ExposureDose and PriorRecordDose (by the order where the
        latter is missing); None where the camera's dose was not calibrated (all 0).
    target_defocus : array or None
        Å, positive = underfocus.
    pixel_size : float or None
        Å.
    tilt_axis : float or None
        Degrees, from the title of the file.
    voltage : float or None
        kV.
    frames : list of str
        SubFramePath of each image, or "".
    """

    angle: np.ndarray
    order: np.ndarray | None = None
    exposure: np.ndarray | None = None
    pre_exposure: np.ndarray | None = None
    target_defocus: np.ndarray | None = None
    pixel_size: float | None = None
    tilt_axis: float | None = None
    voltage: float | None = None
    frames: list[str] = field(default_factory=list)


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


@dataclass(frozen=True)
class Defocus:
    """Defocus of each image: Å (positive = underfocus), astigmatism and phase shift in degrees."""

    u: np.ndarray
    v: np.ndarray
    angle: np.ndarray
    phase_shift: np.ndarray | None = None


def read_angles(path: Path) -> np.ndarray:
    """Tilt angles, degrees, one a line: IMOD's ``.tlt``, ``.rawtlt`` and ``.xtilt``.

    Raises
    ------
    InputError
        If a line is no number, or an angle is beyond ±90°.
    """
    angles = []
    for number, line in _lines(path):
        (angle,) = _numbers(path, number, line, (1,), "one tilt angle in degrees")
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
    for number, line in _lines(path):
        a, b, c, d, x, y = _numbers(path, number, line, (6,), "A11 A12 A21 A22 DX DY")
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
    for number, line in _lines(path):
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            key = key.strip()
            if key == "RawSize":
                x, y, n = _numbers(path, number, value, (3,), "# RawSize = X Y IMAGES")
                size = (int(x), int(y), int(n))
            elif key == "NumPatches":
                (count,) = _numbers(path, number, value, (1,), "# NumPatches = N")
                patches = int(count)
            elif key == "DarkFrame":
                first, second, _ = _numbers(path, number, value, (3,), "# DarkFrame = I J TILT")
                dark.append((int(first), int(second)))
            local = local or key.startswith("Local Alignment")
        elif not local:
            what = "SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT"
            rows.append((number, _numbers(path, number, line, (10,), what)))
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


def read_mdoc(path: Path) -> Mdoc:
    """A SerialEM ``.mdoc`` of a tilt series.

    Sections are taken in the order of their numbers (ZValue).  Where these have gaps, images were
    taken out, and what they had of the dose is unknown but for PriorRecordDose.

    Raises
    ------
    InputError
        If it has no images, or a value is not what it must be.
    """
    head: dict[str, tuple[int, str]] = {}
    images: dict[int, dict[str, tuple[int, str]]] = {}
    axis = None
    current = head
    for number, line in _lines(path):
        if line.startswith("[") and line.endswith("]"):
            key, _, value = line[1:-1].partition("=")
            if key.strip() == "ZValue":
                (z,) = _numbers(path, number, value, (1,), "[ZValue = NUMBER]")
                place = int(z)
                if place in images:
                    raise InputError(f"{path}, line {number}: ZValue {place} is there twice")
                current = images.setdefault(place, {})
            elif found := _AXIS.search(value):
                axis = float(found[1])
        elif "=" in line:
            key, _, value = line.partition("=")
            current[key.strip()] = (number, value.strip())
    if not images:
        raise InputError(f"{path}: no image, expected sections [ZValue = 0], [ZValue = 1] …")
    ordered = [images[place] for place in sorted(images)]
    whole = max(images) == len(images) - 1

    def column(key: str) -> np.ndarray | None:
        values = []
        for place, image in zip(sorted(images), ordered, strict=True):
            number, text = image.get(key, (0, ""))
            if not text:
                if key == "TiltAngle":
                    raise InputError(f"{path}: no TiltAngle for [ZValue = {place}]")
                return None
            values.append(_numbers(path, number, text.split()[0], (1,), f"{key} = NUMBER")[0])
        return np.array(values)

    def single(key: str) -> float | None:
        number, text = head.get(key) or ordered[0].get(key) or (0, "")
        return _numbers(path, number, text.split()[0], (1,), f"{key} = NUMBER")[0] if text else None

    order = _order(ordered)
    exposure, prior = column("ExposureDose"), column("PriorRecordDose")
    if exposure is not None and not exposure.any():
        exposure = None  # the camera's dose was not calibrated
    if exposure is None:
        prior = None
    elif prior is None and order is not None and whole:
        prior = np.empty(len(order))
        prior[np.argsort(order)] = (
            np.cumsum(exposure[np.argsort(order)]) - exposure[np.argsort(order)]
        )
    target = column("TargetDefocus")
    return Mdoc(
        angle=column("TiltAngle"),  # type: ignore[arg-type]
        order=order,
        exposure=exposure,
        pre_exposure=prior,
        target_defocus=None if target is None else -1e4 * target,
        pixel_size=single("PixelSpacing"),
        tilt_axis=axis,
        voltage=single("Voltage"),
        frames=[image.get("SubFramePath", (0, ""))[1] for image in ordered],
    )


def _order(images: list[dict[str, tuple[int, str]]]) -> np.ndarray | None:
    """Rank by DateTime, e.g. ``30-Nov-15  15:21:38``; None where one has none that is known."""
    times = []
    for image in images:
        found = _DATE.search(image.get("DateTime", (0, ""))[1])
        if found is None or found[2].lower() not in _MONTHS:
            return None
        day, year = int(found[1]), int(found[3])
        if day > 31:
            day, year = year, day
        year += 2000 if year < 100 else 0
        month = _MONTHS.index(found[2].lower()) + 1
        try:
            hour, minute, second = map(int, found.groups()[3:])
            times.append(datetime.datetime(year, month, day, hour, minute, second))
        except ValueError:
            return None
    order = np.empty(len(times), int)
    order[np.argsort(np.array(times, "datetime64[s]"), kind="stable")] = np.arange(len(times))
    return order


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
        _numbers(path, number, line, range(7, 20), "NUMBER DEFOCUS1 DEFOCUS2 AZIMUTH PHASE …")
        for number, line in _lines(path)
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
    lines = list(_lines(path))
    what = "FIRST LAST ANGLE ANGLE DEFOCUS …"
    if not lines:
        raise InputError(f"{path}: empty, expected lines {what}")
    head = _numbers(path, *lines[0], range(5, 10), what)
    flags = 0  # version 2 has none
    if len(head) == 6 and head[5] == 3:
        flags, lines = int(head[0]), lines[1:]
    total, weight = np.zeros((images, 3), complex), np.zeros(images)
    for number, line in lines:
        row = _numbers(path, number, line, range(5, 10), what)
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


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that are not empty."""
    try:
        text = path.read_text("utf-8", "replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    for number, line in enumerate(text.splitlines(), 1):
        if bare := line.strip("\x00 \t\r\ufeff"):
            yield number, bare


def _numbers(
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
