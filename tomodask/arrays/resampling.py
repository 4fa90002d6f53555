"""Bring a map to another voxel size or box, its centre (voxel ``size // 2``) on the centre."""

from __future__ import annotations

import numpy as np

__all__ = ["fitted", "resampled"]


def resampled(volume: np.ndarray, factor: float) -> np.ndarray:
    """Resample a map by its Fourier series, exact for what both samplings can hold.

    Detail finer than two new voxels is faded out, over a fifth of the band.

    Parameters
    ----------
    volume : array, shape (z, y, x)
        In a box with a margin: a particle that touches the border is wrapped there.
    factor : float
        New voxel size over the old one.

    Returns
    -------
    array of float32
        Of even edges, the largest within the old box.

    Raises
    ------
    ValueError
        If `factor` is not positive, or leaves less than 2 voxels.

    Examples
    --------
    >>> z = np.arange(32)[:, None, None] - 16
    >>> waves = np.broadcast_to(np.cos(2 * np.pi * z / 32), (32, 32, 32))
    >>> resampled(waves, 2.0)[[0, 2, 8, 10], 8, 8].astype(float).round(3).tolist()
    [-1.0, -0.707, 1.0, 0.707]
    """
    if not (np.isfinite(factor) and factor > 0):
        raise ValueError(f"factor must be above 0, got {factor}")
    out = np.asarray(volume, np.float64)
    for axis in range(3):
        n = volume.shape[axis]
        size = 2 * int((n // 2) / factor + 1e-6)
        if size < 2:
            raise ValueError(f"{n} voxels along axis {axis} make less than 2 at factor {factor:g}")
        place = n // 2 + (np.arange(size) - size // 2) * factor
        k = np.arange(-(n // 2), n // 2 + 1)
        weight = np.ones(len(k))
        if n % 2 == 0:
            weight[[0, -1]] = 0.5  # Nyquist's frequency has half of its power on either side
        if factor > 1:
            limit = n / 2 / factor
            edge = np.clip((np.abs(k) - 0.8 * limit) / (0.2 * limit), 0, 1)
            weight *= 0.5 + 0.5 * np.cos(np.pi * edge)
        turn = 2 * np.pi / n * k
        matrix = (np.exp(1j * np.outer(place, turn)) * weight) @ np.exp(
            -1j * np.outer(turn, np.arange(n))
        )
        out = np.moveaxis(np.tensordot(matrix.real / n, out, axes=(1, axis)), 0, axis)
    return out.astype(np.float32)


def fitted(volume: np.ndarray, size: int) -> np.ndarray:
    """Cut or pad a map to a cubic box.  Padded with the mean of its border.

    Parameters
    ----------
    volume : array, shape (z, y, x)
    size : int
        Edge of the new box, voxels.

    Returns
    -------
    array of float32, shape (size, size, size)

    Examples
    --------
    >>> fitted(np.pad([[[7.0]]], 1), 4)[2, 2].tolist()
    [0.0, 0.0, 7.0, 0.0]
    """
    volume = np.asarray(volume, np.float32)
    inner = tuple(slice(1, -1) if n > 2 else slice(0, 0) for n in volume.shape)
    border = np.ones(volume.shape, bool)
    border[inner] = False
    out = np.full((size,) * 3, volume[border].mean(dtype=np.float64), np.float32)
    source, target = [], []
    for n in volume.shape:
        first = size // 2 - n // 2
        low, high = max(0, first), min(size, first + n)
        target.append(slice(low, high))
        source.append(slice(low - first, high - first))
    out[tuple(target)] = volume[tuple(source)]
    return out
