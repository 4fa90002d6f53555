"""SIRT: the volume whose projections come nearest to the images, by small steps."""

from __future__ import annotations

import numpy as np

from tomodask.arrays.projection import back_project, fine_rows, project
from tomodask.reconstruction.wbp import centered

__all__ = ["ray_lengths", "sirt", "slab_rows"]

_BUDGET = 512 << 20  # bytes of a slab with all that is made of it; few rows take twice as long each
_MOST_ROWS = 128


def sirt(
    images: np.ndarray,
    angles: np.ndarray,
    depth: int,
    *,
    iterations: int,
    relaxation: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Reconstruct a slab of rows; rows do not know of each other, so any slab gives the same.

    ``v ← v + λ C Aᵀ R (b − A v)``, from v = 0 [1]_.  A is `project` and Aᵀ its transpose, R the
    inverse of the length of each ray in the volume, C that of the number of tilts that see a voxel.

    Parameters
    ----------
    images : array, shape (tilts, rows, width)
        Aligned, not filtered.
    angles : array, shape (tilts,)
        Degrees.
    depth : int
        Planes of the volume, which is as wide as the images.
    iterations : int
    relaxation : float
        λ, above 0 and below 2.

    Returns
    -------
    volume : array of float32, shape (depth, rows, width)
    residuals : array of float64, shape (iterations + 1, rows)
        Sum of squares of ``b − A v`` of each row, before the first step and after each.

    References
    ----------
    .. [1] Gregor & Benson, IEEE Trans. Med. Imaging 27, 918 (2008), doi:10.1109/TMI.2008.923696.
    """
    images = np.asarray(images, np.float32)
    width = images.shape[-1]
    zs, xs = centered(depth), centered(width)
    lengths = ray_lengths(angles, depth, width)
    rays = (1 / np.maximum(lengths, 1.0)).astype(np.float32)[:, None, :]
    step = (relaxation / _tilts_that_see(angles, zs, xs)).astype(np.float32)[:, None, :]
    volume = np.zeros((depth, images.shape[1], width), np.float32)
    residuals = np.empty((iterations + 1, images.shape[1]))
    for iteration in range(iterations + 1):
        off = images - project(volume, angles, width=width) if iteration else images.copy()
        residuals[iteration] = np.einsum("tyx,tyx->y", off, off, dtype=np.float64)
        if iteration < iterations:
            volume += step * back_project(fine_rows(off * rays), angles, zs, xs)
    return volume, residuals


def ray_lengths(angles: np.ndarray, depth: int, width: int) -> np.ndarray:
    """Voxels of the volume on each ray, shape (tilts, width): a chord of its cross-section.

    Examples
    --------
    >>> ray_lengths(np.array([0.0, 90.0]), 4, 8)[:, 4].tolist()
    [4.0, 8.0]
    """
    turn = np.deg2rad(np.asarray(angles, np.float64))[:, None]
    c, s = np.cos(turn), np.sin(turn)
    at = centered(width)[None, :]
    # Points of a ray are (x, z) = (at c − r s, at s + r c), r along the beam.
    low = np.full(np.broadcast_shapes(c.shape, at.shape), -np.inf)
    high = np.full(low.shape, np.inf)
    for start, slope, size in ((at * c, -s, width), (at * s, c, depth)):
        # The volume reaches half a voxel beyond its first and last.
        first, last = -(size // 2) - 0.5, size - size // 2 - 0.5
        steep = np.abs(slope) > 1e-9
        safe = np.where(steep, slope, 1.0)
        ends = np.sort(np.stack([(first - start) / safe, (last - start) / safe]), axis=0)
        inside = (start > first) & (start < last)
        low = np.maximum(low, np.where(steep, ends[0], np.where(inside, -np.inf, np.inf)))
        high = np.minimum(high, np.where(steep, ends[1], np.where(inside, np.inf, -np.inf)))
    return np.asarray(np.clip(high - low, 0, None))


def _tilts_that_see(angles: np.ndarray, zs: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """How many images each voxel falls on, at least 1; shape (z, x)."""
    count = np.zeros((len(zs), len(xs)))
    width = len(xs)
    for angle in np.deg2rad(np.asarray(angles, np.float64)):
        at = xs[None, :] * np.cos(angle) + zs[:, None] * np.sin(angle)
        count += (at > -(width // 2) - 0.5) & (at < width - width // 2 - 0.5)
    return np.maximum(count, 1)


def slab_rows(depth: int, width: int, tilts: int, rows: int) -> int:
    """Rows of a slab whose work fits the memory of a task: a power of two, or all."""
    each = 4 * width * (3 * depth + 6 * tilts)
    most = max(1, min(_BUDGET // each, _MOST_ROWS))
    return rows if rows <= most else 1 << int(np.log2(most))
