"""Small pictures of known pose: a few blobs that have no symmetry, drawn where a pose puts them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.planar.poses2d import shift_in_image

PIXEL = 4.0


def blobs(view: int, count: int = 7, reach: float = 8.0) -> np.ndarray:
    """Places (y, x), widths and heights of the blobs of a view, in pixels."""
    rng = np.random.default_rng([7, view])
    out = np.column_stack(
        [
            rng.uniform(-reach, reach, (count, 2)),
            rng.uniform(1.2, 2.2, count),
            rng.uniform(0.5, 1.5, count),
        ]
    )
    out[:, :2] -= (out[:, :2] * (out[:, 2:3] ** 2 * out[:, 3:])).sum(0) / (
        out[:, 2:3] ** 2 * out[:, 3:]
    ).sum()
    return out


def picture(
    view: int,
    size: int,
    *,
    psi: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    mirror: bool = False,
) -> np.ndarray:
    """A view at a pose, exactly: the blobs are moved, no image is turned."""
    axis = np.arange(size) - size // 2
    out = np.zeros((size, size))
    for y, x, width, height in blobs(view):
        at_y, at_x = shift_in_image(psi, mirror, y, x)
        away = (axis[:, None] - at_y - shift[0]) ** 2 + (axis - at_x - shift[1]) ** 2
        out += height * np.exp(-away / (2 * width**2))
    return out


def stack(
    count: int,
    size: int,
    *,
    views: int = 1,
    noise: float = 0.3,
    reach: float = 1.5,
    in_turn: bool = False,
    seed: int = 0,
) -> tuple[xr.DataArray, pd.DataFrame]:
    """Images and the truth; `noise` as a share of the pictures' deviation.

    Views are drawn, or come `in_turn`: two of them then are those of even and odd number.
    """
    rng = np.random.default_rng([seed, 1])
    label = np.arange(count) % views if in_turn else rng.integers(0, views, count)
    psi, mirror = rng.uniform(-180, 180, count), rng.random(count) < 0.5
    shift = rng.uniform(-reach, reach, (count, 2))
    clean = np.stack(
        [
            picture(int(v), size, psi=a, shift=(s[0], s[1]), mirror=bool(m))
            for v, a, s, m in zip(label, psi, shift, mirror, strict=True)
        ]
    )
    images = clean + rng.normal(scale=noise * clean.std(), size=clean.shape)
    truth = pd.DataFrame(
        {
            "class": label + 1,
            "psi": psi,
            "shift_y": shift[:, 0] * PIXEL,
            "shift_x": shift[:, 1] * PIXEL,
            "mirror": mirror,
        }
    )
    return xr.DataArray(
        images.astype(np.float32), dims=("image", "y", "x"), attrs={"pixel_size": PIXEL}
    ), truth
