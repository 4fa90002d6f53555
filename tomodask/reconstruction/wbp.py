"""Weighted back-projection: rows of the images filtered, and summed at each voxel."""

from __future__ import annotations

from functools import partial

import numpy as np

from tomodask.arrays.backend import on_device
from tomodask.arrays.projection import back_project, fine_rows
from tomodask.reconstruction.images import extended
from tomodask.reconstruction.weighting import Filter, ramp

__all__ = ["centered", "filtered_rows", "voxels"]


def filtered_rows(image: np.ndarray, *, filter: Filter = "ramp") -> np.ndarray:
    """Rows of an aligned image, filtered by the ramp, at half pixels.

    Parameters
    ----------
    image : array, shape (y, x)
        The tilt axis along y through pixel ``x // 2``.  Continued by its mirror image beyond both
        ends of the rows, faded out, so that the ramp sees no edge there.

    Returns
    -------
    array of float32, shape (y, 2 x)
        As `back_project` reads them.
    """
    width = image.shape[-1]
    margin = max(16, width // 8)
    long = extended(np.asarray(image, np.float32), margin)
    fine = fine_rows(long, response=partial(ramp, filter=filter))
    return np.ascontiguousarray(fine[..., 2 * margin : 2 * (margin + width)])


def centered(size: int) -> np.ndarray:
    """Places of voxels from the middle one, ``size // 2``.

    Examples
    --------
    >>> centered(4).tolist(), centered(5).tolist()
    ([-2.0, -1.0, 0.0, 1.0], [-2.0, -1.0, 0.0, 1.0, 2.0])
    """
    return np.arange(size, dtype=np.float64) - size // 2


def voxels(
    fine: np.ndarray,
    angles: tuple[float, ...],
    weights: tuple[float, ...],
    zs: np.ndarray,
    xs: np.ndarray,
    *,
    width: int,
    first: int,
) -> np.ndarray:
    """A block of the tomogram from a window of the filtered rows, shape (tilts, rows, samples)."""
    kernel = partial(
        back_project,
        angles=np.array(angles),
        zs=zs,
        xs=xs,
        width=width,
        weights=np.array(weights),
        first=first,
    )
    return np.asarray(on_device(kernel, fine))
