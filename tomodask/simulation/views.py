"""Images of the phantom: a few of its views, each many times, turned, mirrored, moved, noisy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import matrices_zyx
from tomodask.arrays.threads import one_thread_each
from tomodask.data.images import images_array
from tomodask.simulation.phantom import Phantom, phantom_particle

__all__ = ["phantom_images", "phantom_views"]


def phantom_views(
    views: int, *, box: int = 48, pixel_size: float = 10.0, seed: int = 0
) -> xr.DataArray:
    """Noise-free projections of the phantom from directions that the seed draws.

    Returns
    -------
    DataArray, dims (class, y, x)
        float32, the particle's centre at pixel ``box // 2``; attrs ``pixel_size``, Å.
    """
    points, phantom = _projected(views, seed)
    maps = np.stack([_image(one, phantom, box, pixel_size) for one in points])
    return xr.DataArray(
        maps, dims=("class", "y", "x"), name="views", attrs={"pixel_size": float(pixel_size)}
    )


def phantom_images(
    count: int,
    *,
    views: int = 4,
    box: int = 48,
    pixel_size: float = 10.0,
    snr: float = 0.1,
    shift_range: float = 20.0,
    mirror: bool = True,
    seed: int = 0,
) -> tuple[xr.DataArray, pd.DataFrame]:
    """Images of `phantom_views`, for tests, examples and benchmarks.

    Parameters
    ----------
    count : int
        Of the images; each is of a view that is drawn.
    views : int
    box : int
        Pixels.
    pixel_size : float
        Å.
    snr : float
        Variance of the noise-free images over that of the white noise.
    shift_range : float
        Shifts are uniform within a disc of it, Å.
    mirror : bool
        Whether half of the images show the mirror image of their view.
    seed : int
        Of the views, as of `phantom_views`, and, with an image's number, of all that is its own.

    Returns
    -------
    images : DataArray, dims (image, y, x)
        float32, in memory.
    truth : DataFrame
        ``class`` (the view, from 1), ``psi``, ``shift_y``, ``shift_x``, ``mirror``, as
        `tomodask.planar.poses2d` has them.
    """
    points, phantom = _projected(views, seed)
    images = np.empty((count, box, box), np.float32)
    rows = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        view = int(rng.integers(views))
        psi = float(rng.uniform(-180, 180))
        away, where = shift_range * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        shift = away * np.array([np.sin(where), np.cos(where)])
        back = mirror and bool(rng.random() < 0.5)
        y, x = points[view][:, 0], points[view][:, 1] * (-1 if back else 1)
        c, s = np.cos(np.deg2rad(psi)), np.sin(np.deg2rad(psi))
        turned = np.stack([c * y - s * x, s * y + c * x], 1) + shift
        images[number] = _image(turned, phantom, box, pixel_size)
        rows.append(
            {"class": view + 1, "psi": psi, "shift_y": shift[0], "shift_x": shift[1],
             "mirror": back}
        )  # fmt: skip
    spread = float(np.sqrt(images.var(axis=(1, 2), dtype=np.float64).mean() / snr))
    for number in range(count):
        noise = np.random.default_rng([seed, number, 1]).normal(scale=spread, size=(box, box))
        images[number] += noise.astype(np.float32)
    stack = images_array(images, pd.DataFrame(index=range(count)), pixel_size=pixel_size)
    return stack, pd.DataFrame(rows)


def _projected(views: int, seed: int) -> tuple[list[np.ndarray], Phantom]:
    """Places (y, x) of the phantom's Gaussians in each view, Å."""
    phantom = phantom_particle()
    turns = Rotation.random(views, random_state=np.random.default_rng([seed, views]))
    return [(phantom.centers_zyx @ m.T)[:, 1:] for m in matrices_zyx(turns)], phantom


def _image(points: np.ndarray, phantom: Phantom, box: int, pixel_size: float) -> np.ndarray:
    """Gaussians summed along z, but for a constant."""
    grid = (np.arange(box) - box // 2) * pixel_size
    waves = np.exp(-0.5 * ((grid - points[..., None]) / phantom.sigma) ** 2)  # (n, 2, box)
    with one_thread_each():
        image = (waves[:, 0] * phantom.weights[:, None]).T @ waves[:, 1]
    return np.asarray(image, np.float32)
