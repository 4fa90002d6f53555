"""In which order the tilts of a series are taken, and what dose the specimen has seen by then."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from tomodask.errors import InputError

__all__ = ["ORDERS", "tilt_scheme"]

ORDERS = ("dose-symmetric", "continuous", "bidirectional")
#: Degrees; steeper tilts see through more than eleven times the thickness.
STEEPEST = 85.0


def tilt_scheme(
    tilt_range: tuple[float, float] = (-60.0, 60.0),
    increment: float = 2.0,
    *,
    order: str = "dose-symmetric",
    start: float = 0.0,
    group: int = 1,
    dose: float | None = None,
) -> pd.DataFrame:
    """The tilts of a series and the order in which they are taken.

    Parameters
    ----------
    tilt_range : (float, float)
        Least and largest tilt, degrees.
    increment : float
        Degrees between neighbouring tilts.
    order : {"dose-symmetric", "continuous", "bidirectional"}
        Dose-symmetric: from `start` outwards, `group` tilts up, `group` tilts down, and so on
        (Hagen et al. 2017), so that low tilts see the freshest specimen.  Bidirectional: from
        `start` up to the end, then from `start` down.  Continuous: from the least tilt to the
        largest.
    start : float
        Degrees; the first tilt, from which the others are counted.  Has no meaning for
        "continuous", which counts from the least tilt.
    group : int
        Tilts in a row on one side, for "dose-symmetric".
    dose : float, optional
        e/Å² of the whole series, shared evenly.

    Returns
    -------
    DataFrame, one tilt a row, sorted by angle
        ``angle`` (degrees), ``order`` (from 0) and, with `dose`, ``exposure`` and ``pre_exposure``
        (e/Å² of this tilt and before it).

    Raises
    ------
    InputError
        If a value is out of its range.

    References
    ----------
    Hagen, Wan and Briggs, J. Struct. Biol. 197, 191 (2017), doi:10.1016/j.jsb.2016.06.007.

    Examples
    --------
    >>> tilt_scheme((-4, 4), 2, dose=50).sort_values("order")["angle"].tolist()
    [0.0, 2.0, -2.0, 4.0, -4.0]
    >>> tilt_scheme((-4, 4), 2, order="continuous", dose=50)
       angle  order  exposure  pre_exposure
    0   -4.0      0      10.0           0.0
    1   -2.0      1      10.0          10.0
    2    0.0      2      10.0          20.0
    3    2.0      3      10.0          30.0
    4    4.0      4      10.0          40.0
    """
    low, high = _checked_range(tilt_range)
    if not (math.isfinite(increment) and increment > 0):
        raise InputError(f"increment must be above 0 degrees, got {increment}")
    if order not in ORDERS:
        raise InputError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    if isinstance(group, bool) or not isinstance(group, int) or group < 1:
        raise InputError(f"group must be a whole number of tilts, at least 1, got {group!r}")
    if dose is not None and not (math.isfinite(dose) and dose > 0):
        raise InputError(
            f"dose must be above 0 e/Å² for the whole series, got {dose}; leave it out for a "
            "specimen that does not suffer"
        )
    if order == "continuous":
        taken = low + increment * np.arange(_steps(high - low, increment) + 1)
    else:
        if not low <= start <= high:
            raise InputError(
                f"start must lie within tilt_range, {low:g} to {high:g} degrees, got {start}"
            )
        up = [start + increment * (i + 1) for i in range(_steps(high - start, increment))]
        down = [start - increment * (i + 1) for i in range(_steps(start - low, increment))]
        taken = np.array([start, *_alternating(up, down, len(up) or 1)])
        if order == "dose-symmetric":
            taken = np.array([start, *_alternating(up, down, group)])
    taken = taken.astype(np.float64) + 0.0  # no −0
    table = pd.DataFrame({"angle": taken, "order": np.arange(len(taken))})
    if dose is not None:
        table["exposure"] = dose / len(taken)
        table["pre_exposure"] = table["order"] * (dose / len(taken))
    return table.sort_values("angle", ignore_index=True)


def _alternating(up: list[float], down: list[float], group: int) -> list[float]:
    """`group` of one list, `group` of the other, and on until both are through."""
    out = []
    for first in range(0, max(len(up), len(down)), group):
        out += up[first : first + group] + down[first : first + group]
    return out


def _steps(span: float, increment: float) -> int:
    """Whole increments in `span`; 0.1 goes 600 times into 60, whatever its binary digits."""
    return math.floor(span / increment + 1e-6)


def _checked_range(tilt_range: tuple[float, float]) -> tuple[float, float]:
    low, high = map(float, tilt_range)
    if not (-STEEPEST <= low <= high <= STEEPEST):
        raise InputError(
            f"tilt_range must be (least, largest) tilt within ±{STEEPEST:g} degrees, "
            f"got ({low:g}, {high:g})"
        )
    return low, high
