"""A compact kernel that spreads points onto a grid, and its transform, which undoes the spreading.

A value at any place is spread onto a grid twice as fine as wanted; the spectrum of the grid is then
divided by that of the kernel, and cut to the wanted half of its frequencies.  With six samples of
the "exponential of semicircle" [1]_ what is left of the neighbouring copies of the spectrum is of
order 1e-6: sums over points and over voxels become exact Fourier sums, for any places.

.. [1] Barnett, Magland & af Klinteberg, "A parallel nonuniform fast Fourier transform library based
   on an 'exponential of semicircle' kernel", SIAM J. Sci. Comput. 41, C479 (2019),
   doi:10.1137/18M120885X, eq. 2.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = [
    "BETA",
    "STEPS",
    "TABLE",
    "WIDTH",
    "kernel",
    "kernel_table",
    "kernel_transform",
    "spread",
    "tap",
]

#: Samples of the fine grid that the kernel spans.
WIDTH = 6
#: Entries of `kernel_table` per sample.
STEPS = 2048

BETA = 2.30 * WIDTH  # the choice of the paper for twofold oversampling


def kernel(distance: np.ndarray) -> np.ndarray:
    """The kernel at a distance in samples of the fine grid; 1 at 0, 0 from ``WIDTH / 2`` on.

    Examples
    --------
    >>> kernel(np.array([0.0, 3.0, -4.0])).round(6).tolist()
    [1.0, 1e-06, 0.0]
    """
    t2 = (2 * np.asarray(distance, np.float64) / WIDTH) ** 2
    inside = np.exp(BETA * (np.sqrt(np.clip(1 - t2, 0, None)) - 1))
    return np.asarray(np.where(t2 <= 1, inside, 0.0))


def kernel_transform(frequency: np.ndarray) -> np.ndarray:
    """The Fourier transform of `kernel` at frequencies in cycles per sample of the fine grid.

    By Gauss-Legendre quadrature, exact to double precision for frequencies up to 0.5.
    """
    nodes, weights = np.polynomial.legendre.leggauss(60)
    t = nodes * WIDTH / 2
    flat = np.asarray(frequency, np.float64)
    waves = np.cos(2 * np.pi * flat[..., None] * t)
    return np.asarray((waves * kernel(t) * weights).sum(-1) * WIDTH / 2)


def kernel_table() -> np.ndarray:
    """The kernel at distances 0, 1 / STEPS, …, for linear interpolation; error below 1e-7."""
    distance = np.arange(STEPS * WIDTH // 2 + 2) / STEPS
    return kernel(distance).astype(np.float32)


TABLE = kernel_table()


@numba.njit(cache=True, nogil=True, inline="always")
def tap(table, distance):  # type: ignore[no-untyped-def]
    """`kernel` within ± WIDTH / 2, from its table."""
    at = abs(distance) * STEPS
    k = int(at)
    f = np.float32(at - k)
    return table[k] + f * (table[k + 1] - table[k])


@numba.njit(cache=True, nogil=True)
def _spread(points, weights, table, out):  # type: ignore[no-untyped-def]
    taps = np.empty((3, WIDTH), np.float32)
    place = np.empty((3, WIDTH), np.int64)
    for i in range(points.shape[0]):
        for axis in range(3):
            start = int(np.ceil(points[i, axis] - WIDTH / 2))
            for j in range(WIDTH):
                place[axis, j] = (start + j) % out.shape[axis]
                taps[axis, j] = tap(table, start + j - points[i, axis])
        for a in range(WIDTH):
            for b in range(WIDTH):
                w = weights[i] * taps[0, a] * taps[1, b]
                row = out[place[0, a], place[1, b]]
                for c in range(WIDTH):
                    row[place[2, c]] += w * taps[2, c]


def spread(points_zyx: np.ndarray, weights: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Spread weighted points onto a periodic grid with `kernel`.

    Parameters
    ----------
    points_zyx : array, shape (n, 3)
        Places in samples of the grid; any, as the grid is periodic.
    weights : array, shape (n,)
    shape : (int, int, int)
        Of the grid, each at least `WIDTH`.

    Returns
    -------
    array of float32, shape `shape`
        Its spectrum, divided by `kernel_transform` along each axis, is that of the points, for
        frequencies up to a quarter of a cycle per sample.
    """
    if min(shape) < WIDTH:
        raise ValueError(f"shape must be at least {WIDTH} samples along each axis, got {shape}")
    out = np.zeros(shape, np.float32)
    _spread(
        np.ascontiguousarray(points_zyx, np.float64),
        np.ascontiguousarray(weights, np.float32),
        TABLE,
        out,
    )
    return out
