"""SerialEM's ``.mdoc`` of a tilt series: angles, order, doses, the microscope's settings."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tomodask.data.text_lines import lines_of, numbers_of
from tomodask.errors import InputError

__all__ = ["Mdoc", "read_mdoc"]


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = re.compile(r"(\d{1,4})-([A-Za-z]{3})-(\d{1,4})\s+(\d{1,2}):(\d{2}):(\d{2})")
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
    for number, line in lines_of(path):
        if line.startswith("[") and line.endswith("]"):
            key, _, value = line[1:-1].partition("=")
            if key.strip() == "ZValue":
                (z,) = numbers_of(path, number, value, (1,), "[ZValue = NUMBER]")
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
            values.append(numbers_of(path, number, text.split()[0], (1,), f"{key} = NUMBER")[0])
        return np.array(values)

    def single(key: str) -> float | None:
        number, text = head.get(key) or ordered[0].get(key) or (0, "")
        if not text:
            return None
        return numbers_of(path, number, text.split()[0], (1,), f"{key} = NUMBER")[0]

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
