"""What alignment and averaging refuse, before any graph runs or as soon as a box is at hand."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tomodask.errors import InputError

__all__ = ["FAULTS", "at_scale", "box_fault", "check_alignment", "check_box", "tilt_ranges"]

#: Between 2 to the minus and the plus of this, squares of a spectrum fit single precision.
_EXPONENT = 16

#: Why a box is set aside, by `box_fault`; the first is none.
FAULTS = (
    "",
    "the box holds NaN or infinite voxels",
    "the box holds one value only",
    "the given poses have none for it",
)


def check_alignment(
    *,
    box: int,
    voxel_size: float,
    angular_step: float = 20.0,
    shift_range: float | None = None,
    resolution: float | None = None,
    diameter: float | None = None,
    candidates: int = 6,
    seed: int = 0,
    batch: int = 1,
    split_every: int = 8,
    coarsest: float | None = None,
    local: float | None = None,
    keep: str = "best",
    method: str = "fourier",
) -> None:
    """Refuse parameters of `align_subtomograms` that make no sense for boxes of a size.

    Parameters
    ----------
    box : int
        Edge of the boxes, voxels.
    voxel_size : float
        Å.
    angular_step, shift_range, resolution, diameter, candidates, seed, batch, split_every, \
    coarsest, local, keep, method
        As of `align_subtomograms`.

    Raises
    ------
    InputError
        Naming the parameter, its bounds and its value.
    """
    edge = box * voxel_size
    if not 1 <= angular_step <= 90:
        raise InputError(f"angular_step must be within 1 to 90°, got {angular_step:g}")
    for name, value, least in (
        ("candidates", candidates, 1),
        ("batch", batch, 1),
        ("split_every", split_every, 2),
        ("seed", seed, 0),
    ):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    if shift_range is not None and not 0 <= shift_range <= edge / 2:
        raise InputError(
            f"shift_range must be within 0 to {edge / 2:g} Å, half the box, got {shift_range:g}"
        )
    if resolution is not None and not resolution >= 2 * voxel_size:
        raise InputError(
            f"resolution must be at least two voxels, {2 * voxel_size:g} Å, got {resolution:g}"
        )
    if diameter is not None and not 4 * voxel_size <= diameter <= edge:
        raise InputError(
            f"diameter must be within 4 voxels and the box, {4 * voxel_size:g} to {edge:g} Å, "
            f"got {diameter:g}"
        )
    finest = 2 * voxel_size if resolution is None else resolution
    if coarsest is not None and not finest < coarsest:
        raise InputError(
            f"coarsest must be above the finest detail, {finest:g} Å, got {coarsest:g}; it leaves "
            "out what is larger"
        )
    if local is not None and not 0 <= local <= 180:
        raise InputError(f"local must be within 0 to 180°, got {local:g}")
    for name, word, words in (
        ("keep", keep, ("best", "all")),
        ("method", method, ("fourier", "mbgd", "lm")),
    ):
        if word not in words:
            raise InputError(f"{name} must be one of {', '.join(words)}, got {word!r}")


def tilt_ranges(table: pd.DataFrame, tilt_range: tuple[float, float] | None) -> np.ndarray:
    """Least and largest tilt of each particle, degrees, shape (particles, 2).

    Raises
    ------
    InputError
        If neither `tilt_range` nor the table's ``tilt_min`` and ``tilt_max`` say it for every
        particle, or one does not rise within ±90.
    """
    if tilt_range is not None:
        low, high = map(float, tilt_range)
        if not -90 <= low < high <= 90:
            raise InputError(f"tilt_range must rise within -90 to 90°, got {low:g} to {high:g}")
        return np.tile([low, high], (len(table), 1))
    how = "give it: tilt_range=(-60, 60), --tilt-range -60 60 (degrees; -90 90 if none is missing)"
    if not {"tilt_min", "tilt_max"} <= set(table):
        raise InputError(f"subtomograms carry no tilt range; {how}")
    tilts = table[["tilt_min", "tilt_max"]].to_numpy(float)
    wrong = ~((tilts[:, 0] >= -90) & (tilts[:, 0] < tilts[:, 1]) & (tilts[:, 1] <= 90))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"the tilt range of {wrong.sum()} of {len(table)} particles does not rise within "
            f"-90 to 90° (particle {table.index[row]}: {tilts[row, 0]:g} to {tilts[row, 1]:g}); "
            f"{how}"
        )
    return tilts


def box_fault(box: np.ndarray) -> int:
    """What is wrong with a box: 0 if nothing is, else its place in `FAULTS`."""
    low, high = box.min(), box.max()  # of NaN and others, numpy's are NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        return 1
    return 2 if low == high else 0


def at_scale(volume: np.ndarray) -> np.ndarray:
    """The volume times a power of two, if its values are so large or small that squares overflow.

    Poses and correlations know no scale, and a power of two loses no bit.

    Examples
    --------
    >>> at_scale(np.float32([0, 0.25])), at_scale(np.float32([0, -3 * 2.0**100]))
    (array([0.  , 0.25], dtype=float32), array([ 0.  , -0.75], dtype=float32))
    """
    _, exponent = np.frexp(max(abs(float(volume.max())), abs(float(volume.min()))))
    return volume if abs(exponent) <= _EXPONENT else np.ldexp(volume, -exponent)


def check_box(box: np.ndarray, identity: int, name: str) -> np.ndarray:
    """The box as float32, if it holds something.

    Raises
    ------
    InputError
        Naming the particle, if a voxel is not finite or all are equal.
    """
    box = np.asarray(box, np.float32)
    fault = box_fault(box)
    if fault:
        what = FAULTS[fault].removeprefix("the box ")
        raise InputError(f"the box of particle {identity} ({name}) {what}; leave it out")
    return box
