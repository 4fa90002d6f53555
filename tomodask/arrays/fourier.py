"""Fourier space: which frequencies a tilt series measured, shells, and correlation by shell.

Spectra are those of ``rfftn``: axes (z, y, x), the last one halved.  Frequencies are in cycles per
voxel, so that boxes of unequal edges keep true angles.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

__all__ = ["frequency_grid", "half_counts", "measured", "shell_correlation", "wedge"]


def frequency_grid(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies along z, y, x of the spectrum of a real volume, ready to broadcast.

    Cycles per voxel; shapes (z, 1, 1), (1, y, 1), (1, 1, x // 2 + 1).
    """
    z, y, x = shape
    return (
        np.fft.fftfreq(z)[:, None, None],
        np.fft.fftfreq(y)[None, :, None],
        np.fft.rfftfreq(x)[None, None, :],
    )


def measured(kz: np.ndarray, kx: np.ndarray, tilt_range: tuple[float, float]) -> np.ndarray:
    """True at the frequencies that a tilt series about y measured.

    A projection at tilt θ measures the plane ``kz = kx tan θ``; the series measures all planes
    between the least and the largest tilt, their edges included.

    Parameters
    ----------
    kz, kx : array
        Frequencies along the beam and across the tilt axis, same unit, broadcastable.
    tilt_range : (float, float)
        Least and largest tilt, degrees, within ±90.
    """
    low, high = np.tan(np.deg2rad(np.clip(tilt_range, -89.999, 89.999)))
    # The plane of a negative kx is that of the opposite point: fold to kx >= 0.
    kz, kx = np.broadcast_arrays(np.where(kx < 0, -kz, kz), np.abs(kx))
    slack = 1e-9
    inside = (kz >= kx * low - slack) & (kz <= kx * high + slack)
    if tilt_range[0] <= -90 and tilt_range[1] >= 90:
        return np.ones_like(inside)
    return np.asarray(inside)


def wedge(shape: tuple[int, int, int], tilt_range: tuple[float, float]) -> np.ndarray:
    """1 where a tilt series measured the spectrum of a box, 0 in the missing wedge.

    Parameters
    ----------
    shape : (int, int, int)
        The box in real space, (z, y, x), voxels.
    tilt_range : (float, float)
        Least and largest tilt in degrees; beam along z, tilt axis along y.

    Returns
    -------
    array of float32, shape (z, y, x // 2 + 1), laid out as by ``rfftn``

    Examples
    --------
    >>> bool(wedge((8, 8, 8), (-60, 60))[4, 0, 0])  # the beam's direction is never measured
    False
    """
    kz, _, kx = frequency_grid(shape)
    half = measured(kz, kx, tilt_range).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(half, (*shape[:2], shape[2] // 2 + 1)))


def half_counts(n: int) -> np.ndarray:
    """How many of the full spectrum's n columns each of the ``n // 2 + 1`` of ``rfft`` stands for.

    Columns 0 and Nyquist hold both of a conjugate pair, the others one.

    Examples
    --------
    >>> half_counts(6).tolist(), half_counts(5).tolist()
    ([1.0, 2.0, 2.0, 1.0], [1.0, 2.0, 2.0])
    """
    counts = np.full(n // 2 + 1, 2.0)
    counts[0] = 1.0
    if n % 2 == 0:
        counts[-1] = 1.0
    return counts


def shell_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Fourier shell correlation of two real cubic boxes.

    Parameters
    ----------
    a, b : array, shape (n, n, n)

    Returns
    -------
    array of float64, shape (n // 2 + 1,)
        Correlation in the shells of radius 0, 1, 2, … voxels of Fourier space, each one voxel
        thick; the last one is Nyquist's.  A shell without power gives 0.
    """
    n = a.shape[0]
    if a.shape != b.shape or a.shape != (n, n, n):
        raise ValueError(f"need two cubic boxes of one size, got shapes {a.shape} and {b.shape}")
    fa = scipy.fft.rfftn(np.asarray(a, np.float64))
    fb = scipy.fft.rfftn(np.asarray(b, np.float64))
    kz, ky, kx = frequency_grid(a.shape)
    shell = np.rint(n * np.sqrt(kz**2 + ky**2 + kx**2)).astype(np.intp).ravel()
    each = np.broadcast_to(half_counts(n), fa.shape)

    def total(x: np.ndarray) -> np.ndarray:
        return np.bincount(shell, (each * x).ravel(), n)[: n // 2 + 1]

    cross, pa, pb = total((fa * fb.conj()).real), total(np.abs(fa) ** 2), total(np.abs(fb) ** 2)
    power = np.sqrt(pa * pb)
    return np.asarray(np.divide(cross, power, out=np.zeros_like(cross), where=power > 0))
