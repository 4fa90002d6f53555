"""Pictures of a subdivision's report: each class of a cluster in one small strip, and curves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from tomodask.arrays.surfaces import surface_views
from tomodask.data.writing import replacing
from tomodask.plot_style import gray_range

__all__ = ["class_picture", "curve_drawing", "is_dark", "write_class_picture"]

_PANEL, _GAP = 132, 4  # pixels
_DRAWN = (150, 56)  # of a curve


def class_picture(
    volume: np.ndarray, *, voxel_size: float, resolution: float = math.inf
) -> np.ndarray:
    """A map's surface seen along z, and its central slices across z, y and x, side by side.

    Where what is densest is dark, as in a tomogram, the map is turned over for the surface.

    Parameters
    ----------
    volume : array, shape (n, n, n)
    voxel_size : float
        Å.
    resolution : float
        Of the surface, Å.

    Returns
    -------
    array of uint8, shape (y, x)
        The first row is the uppermost.
    """
    volume = np.asarray(volume, np.float32)
    bright = -volume if is_dark(volume) else volume
    seen = surface_views(
        bright, voxel_size=voxel_size, resolution=resolution, axes=(0,), edge=_PANEL, crop=False
    )[0]
    surface = np.where(np.ma.getmaskarray(seen), 255, 235 * np.clip(seen.filled(0) / 1.05, 0, 1))
    low, high = gray_range(volume)
    c = volume.shape[0] // 2
    panels = [_fitted(surface)]
    for cut in (volume[c], volume[:, c], volume[:, :, c]):
        panels.append(_fitted(255 * np.clip((cut - low) / (high - low), 0, 1)))
    white = np.full((_PANEL, _GAP), 255.0)
    strip = [part for panel in panels for part in (panel, white)][:-1]
    return np.asarray(np.rint(np.concatenate(strip, axis=1))[::-1], np.uint8)


def is_dark(volume: np.ndarray) -> bool:
    """Whether what a map shows is darker than what is about it, as protein in a tomogram."""
    middle = float(np.median(volume))
    low, high = np.percentile(volume, [1, 99])
    return bool(middle - low > high - middle)


def _fitted(image: np.ndarray) -> np.ndarray:
    """Brought to the size of a panel."""
    from PIL import Image

    one = Image.fromarray(np.asarray(image, np.float32))
    fine = one.resize((_PANEL, _PANEL), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(fine, np.float64), 0, 255)


def write_class_picture(
    path: Path, volume: np.ndarray, *, voxel_size: float, resolution: float
) -> None:
    """`class_picture` as a JPEG: a gallery holds hundreds of them."""
    from PIL import Image

    picture = class_picture(volume, voxel_size=voxel_size, resolution=resolution)
    with replacing(path, overwrite=True) as part, part.open("wb") as file:
        Image.fromarray(picture).save(file, format="JPEG", quality=88, optimize=True)


def curve_drawing(curve: pd.DataFrame, *, threshold: float = 0.143) -> Markup:
    """An FSC curve as a small drawing, SVG: frequency to the right, 0 to 1 upwards."""
    wide, high = _DRAWN
    frequency, values = (curve[name].to_numpy(float) for name in ("frequency", "correlation"))
    top = frequency[-1] if len(frequency) and frequency[-1] > 0 else 1.0
    x = wide * frequency / top
    y = (high - 4) * (1 - np.clip(np.nan_to_num(values), -0.05, 1.0)) + 2
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    line, zero = ((high - 4) * (1 - level) + 2 for level in (threshold, 0.0))
    return Markup(
        '<svg class="fsc" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
        'aria-label="Fourier shell correlation of the halves, to {r:.0f} Å">'
        '<path d="M0 {z:.1f}H{w}" class="axis"/><path d="M0 {t:.1f}H{w}" class="level"/>'
        '<polyline points="{p}"/></svg>'
    ).format(w=wide, h=high, z=zero, t=line, p=points, r=1 / top)
