"""The surface of a map: at which density it lies, and how it looks, shaded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage

from tomodask.arrays.resampling import fitted, resampled

__all__ = ["surface_level", "surface_views"]


def surface_views(
    volume: np.ndarray,
    *,
    voxel_size: float,
    resolution: float | None = None,
    level: float | None = None,
    axes: Sequence[int] = (0, 1, 2),
    edge: int = 200,
    crop: bool = True,
) -> list[np.ma.MaskedArray]:
    """A map's shaded surface as seen along axes, masked where there is none.

    Parameters
    ----------
    volume : array, shape (z, y, x)
    voxel_size : float
        Å.
    resolution : float, optional
        The map is smoothed to it, Å; what is finer is noise.
    level : float, optional
        Of the surface; by default `surface_level`.  Of several pieces the largest is shown.
    axes : sequence of int
        Looked along: 0 is z.
    edge : int
        Of the pictures, pixels, at least.
    crop : bool
        Show the body and a margin, not the whole box.

    Returns
    -------
    list of masked array, shapes (edge, edge)
        Brightness, 0 to 1.
    """
    smooth = np.asarray(volume, np.float32)
    if resolution is not None and np.isfinite(resolution):
        # A Gaussian whose transform is 1/2 at that resolution: sigma = √(ln 2 / 2) / π periods.
        smooth = scipy.ndimage.gaussian_filter(smooth, 0.1874 * resolution / voxel_size)
    level = surface_level(smooth) if level is None else level
    pieces, count = scipy.ndimage.label(smooth > level)
    if count > 1:
        largest = np.bincount(pieces.ravel())[1:].argmax() + 1
        # What is near the piece keeps its values: they shape its surface between the voxels.
        near = scipy.ndimage.binary_dilation(pieces == largest, iterations=2)
        smooth = np.where(near, smooth, np.minimum(smooth, np.median(smooth)))
    within = _edge_about(smooth > level) if crop else min(smooth.shape) // 2 * 2
    fine = resampled(fitted(smooth, within), min(1.0, within / edge))
    return [_shaded(np.moveaxis(fine, axis, 0), level) for axis in axes]


def _edge_about(inside: np.ndarray) -> int:
    """Edge of the box about the centre that holds a body with a margin, even."""
    places = np.argwhere(inside)
    half: int = max(inside.shape) // 2
    if len(places):
        farthest = int(np.abs(places - np.array(inside.shape) // 2).max())
        half = min(half, farthest + 3)
    return 2 * half


def surface_level(volume: np.ndarray) -> float:
    """Halfway between a map's surroundings and the densest hundredth within the box's ball."""
    squares = (
        (np.arange(n).reshape([-1 if i == axis else 1 for i in range(3)]) - n // 2) ** 2
        for axis, n in enumerate(volume.shape)
    )
    ball = sum(squares) < (min(volume.shape) / 2) ** 2
    return float((np.median(volume[~ball]) + np.percentile(volume[ball], 99)) / 2)


def _shaded(volume: np.ndarray, level: float) -> np.ma.MaskedArray:
    """Look down the first axis at the first crossing of `level`, lit from the upper left."""
    fine = volume[::-1]
    inside = fine > level
    first, hit = inside.argmax(axis=0), inside.any(axis=0)
    if not hit.any():
        return np.ma.masked_array(np.zeros(hit.shape), ~hit)
    before = np.clip(first - 1, 0, None)
    rows, columns = np.indices(first.shape)
    at, over = fine[before, rows, columns], fine[first, rows, columns]
    share = np.divide(level - at, over - at, out=np.zeros_like(at), where=over > at)
    depth = before + np.clip(share, 0, 1)
    # Normals from the map's own gradient: smoother than from the depth.
    here = (first, rows, columns)
    slopes = np.empty((3, *first.shape))
    for axis, n in enumerate(fine.shape):
        up, down = list(here), list(here)
        up[axis], down[axis] = np.minimum(here[axis] + 2, n - 1), np.maximum(here[axis] - 2, 0)
        slopes[axis] = fine[tuple(up)] - fine[tuple(down)]
    slopes /= np.maximum(np.linalg.norm(slopes, axis=0), 1e-12)
    light = np.array([0.75, -0.5, 0.43])
    shade = np.clip((slopes * light[:, None, None]).sum(0), 0, 1)
    far = (depth - depth[hit].min()) / max(float(np.ptp(depth[hit])), 1.0)
    return np.ma.masked_array((0.25 + 0.75 * shade) * (1 - 0.45 * far), ~hit)
