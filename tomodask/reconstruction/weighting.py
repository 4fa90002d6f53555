"""Weights of weighted back-projection: the share of each tilt in the turn, and the ramp."""

from __future__ import annotations

from typing import Literal

import numpy as np

from tomodask.arrays.tilt_weights import hamming
from tomodask.errors import InputError

__all__ = ["Filter", "angular_weights", "ramp", "ramp_response"]

Filter = Literal["ramp", "hamming"]


def angular_weights(angles: np.ndarray) -> np.ndarray:
    """Share of each tilt in the turn, radians: half of the gaps to its neighbours on both sides.

    The first and the last have one neighbour, and count as if the gap beyond were as wide, or as
    wide as what is left of the half turn after which images come again.  Tilts at one angle share.

    Parameters
    ----------
    angles : array, shape (tilts,)
        Degrees, in any order.

    Raises
    ------
    InputError
        If there are not two different angles.

    Examples
    --------
    >>> np.rad2deg(angular_weights(np.array([-60.0, 0.0, 3.0, 9.0]))).round(6).tolist()
    [60.0, 31.5, 4.5, 6.0]
    """
    different, which, count = np.unique(
        np.asarray(angles, np.float64), return_inverse=True, return_counts=True
    )
    if len(different) < 2:
        raise InputError(
            f"a reconstruction needs images at two different angles at least, got {len(angles)} at "
            f"{', '.join(f'{angle:g}' for angle in different)}°"
        )
    gaps = np.diff(different)
    beyond = 180 - (different[-1] - different[0])
    # −90° and 90° are one plane: nothing lies beyond, and each counts with its inner half alone.
    padded = np.concatenate([[min(gaps[0], beyond)], gaps, [min(gaps[-1], beyond)]])
    share = np.deg2rad((padded[:-1] + padded[1:]) / 2)
    return np.asarray((share / count)[which])


def ramp_response(length: int) -> np.ndarray:
    """The ramp |k| for rows of `length` pixels, at the frequencies of ``rfft``, cycles per pixel.

    It is the transform of the ramp's samples in real space [1]_, 1/4 at 0 and −1 / (π n)² at odd n:
    not |k| itself, which as a filter of rows of finite length would take their mean away and leave
    the reconstruction in a bowl.

    References
    ----------
    .. [1] Kak & Slaney, "Principles of Computerized Tomographic Imaging" (1988), eq. 61.
    """
    n = np.arange(length)
    n = np.minimum(n, length - n)
    kernel = np.zeros(length)
    kernel[0] = 0.25
    odd = n % 2 == 1
    kernel[odd] = -1 / (np.pi * n[odd]) ** 2
    return np.asarray(np.fft.rfft(kernel).real)


def ramp(frequency: np.ndarray, *, filter: Filter = "ramp") -> np.ndarray:
    """The ramp at the frequencies of ``rfft``, as `fine_rows` asks for it.

    Parameters
    ----------
    frequency : array
        Cycles per pixel, ``0, 1 / length, …``, up to 0.5.
    filter : {"ramp", "hamming"}
        The ramp; or the ramp times ``0.54 + 0.46 cos 2πk``, which falls to 0.08 at Nyquist.
    """
    length = round(1 / frequency[1])
    response = ramp_response(length)
    if filter == "hamming":
        response = response * hamming(frequency)
    return np.asarray(response)
