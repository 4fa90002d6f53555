"""Averages made into the references of the next round: filtered by their FRC, and centred."""

from __future__ import annotations

import numpy as np

from tomodask.planar.frc import frc_weights, low_pass_rings, ring_correlation, ring_weighted
from tomodask.planar.transforming import soft_disc

__all__ = ["center_of_density", "make_reference", "next_references"]


def center_of_density(image: np.ndarray, radius: float) -> tuple[float, float]:
    """Where the particle of an average lies, from the centre, (y, x) in pixels.

    The centre of mass of the squared density, above what the rim of the disc holds of it: it asks
    neither for the sign of the contrast nor for a threshold of density.  Found by looking within a
    disc about the centre that it finds, five times, so that the disc does not pull it back.

    Parameters
    ----------
    image : array, shape (n, n)
        Low-passed.
    radius : float
        Of the disc, pixels.
    """
    n = image.shape[-1]
    axis = np.arange(n) - n // 2
    y = x = 0.0
    for _ in range(5):
        away = np.hypot(axis[:, None] - y, axis - x)
        rim = (away > radius - 2) & (away <= radius + 1)
        level = image[rim].mean(dtype=np.float64) if rim.any() else 0.0
        power = (np.asarray(image, np.float64) - level) ** 2
        floor = power[rim].mean() if rim.any() else 0.0
        weight = np.clip(power - 2 * floor, 0, None) * (away <= radius)
        total = weight.sum()
        if not total > 0:
            return 0.0, 0.0
        new_y = float((weight.sum(1) * axis).sum() / total)
        new_x = float((weight.sum(0) * axis).sum() / total)
        done = abs(new_y - y) + abs(new_x - x) < 1e-3
        y, x = new_y, new_x
        if done:
            break
    return y, x


def make_reference(
    average: np.ndarray,
    halves: np.ndarray,
    *,
    radius: float,
    center: bool,
    pixel_size: float,
    resolution: float | None = None,
    unknown: float | None = None,
) -> np.ndarray:
    """One average, filtered and, where asked for, centred.

    Parameters
    ----------
    average : array, shape (n, n)
    halves : array, shape (2, n, n)
    radius : float
        Of the particle, pixels.
    center : bool
    pixel_size : float
        Å.
    resolution : float, optional
        Finest detail that is kept in any case, Å.
    unknown : float, optional
        The same of an average whose images are all of one half, so that no FRC says it; by
        default four rings' worth.

    Returns
    -------
    array of float32, shape (n, n)
    """
    n = average.shape[-1]
    window = soft_disc(n, min(radius, n / 2 - 1))
    weights = frc_weights(ring_correlation(halves[0] * window, halves[1] * window))
    if unknown is not None and not (halves[0].any() and halves[1].any()):
        weights = low_pass_rings(n, pixel_size=pixel_size, resolution=unknown)
    if resolution is not None:
        weights = weights * low_pass_rings(n, pixel_size=pixel_size, resolution=resolution)
    filtered = ring_weighted(average, weights)
    if not center:
        return filtered
    y, x = center_of_density(filtered, radius)
    return ring_weighted(average, weights, move=(-y, -x))


def next_references(
    averages: np.ndarray,
    halves: np.ndarray,
    *,
    radius: float,
    center: bool,
    pixel_size: float,
    resolution: float | None = None,
    unknown: float | None = None,
) -> np.ndarray:
    """`make_reference` of each class; averages (classes, n, n), halves (2, classes, n, n)."""
    return np.stack(
        [
            make_reference(
                average,
                halves[:, c],
                radius=radius,
                center=center,
                pixel_size=pixel_size,
                resolution=resolution,
                unknown=unknown,
            )
            for c, average in enumerate(averages)
        ]
    )
