"""Numbers of images: what they are called by, and which half each belongs to."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.errors import InputError

__all__ = ["half_numbers", "image_numbers"]


def image_numbers(images: xr.DataArray) -> np.ndarray:
    """The number of each image, which its half and its randomness go by.

    Raises
    ------
    InputError
        If two images have one number, or a number is negative.
    """
    if "image" not in images.coords or images.coords["image"].dtype.kind not in "iu":
        return np.arange(images.sizes["image"], dtype=np.int64)
    numbers = images.coords["image"].to_numpy().astype(np.int64)
    if len(np.unique(numbers)) < len(numbers) or (len(numbers) and numbers.min() < 0):
        raise InputError(
            "the coordinate image must hold a number of its own, from 0, for each image; drop it, "
            "or number the images anew"
        )
    return np.asarray(numbers, np.int64)


def half_numbers(table: pd.DataFrame, numbers: np.ndarray) -> np.ndarray:
    """1 or 2 for each image: by the column ``half``, else even and odd numbers.

    Raises
    ------
    InputError
        If the column holds something else.
    """
    if "half" not in table:
        return np.asarray(1 + numbers % 2, np.int64)
    half = table["half"].to_numpy(float)
    wrong = half[~np.isin(half, (1, 2))]
    if len(wrong):
        raise InputError(f"half must be 1 or 2, got {wrong[0]:g}; drop it to have halves drawn")
    return np.asarray(half, np.int64)
