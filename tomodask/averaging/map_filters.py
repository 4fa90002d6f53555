"""Maps made ready to be references: shells weighted, low-passed, centred, moved.

What a half map shows of a shell is worth its Fourier shell correlation with the other half: with
signal S and noise N in each half, ``FSC = S / (S + N)``, which is Wiener's filter of that half map.
(Of the average of both halves Wiener's filter is ``2 FSC / (1 + FSC)``, the square of the C_ref of
[1]_, its correlation with the perfect map; a half that is kept to itself must not be trusted as
much as the average of the two.)

.. [1] Rosenthal, Henderson, J. Mol. Biol. 333, 721 (2003), doi:10.1016/j.jmb.2003.07.013.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.fft

from tomodask.arrays.fourier import frequency_grid
from tomodask.arrays.sampling import cut_out, soft_sphere

__all__ = [
    "centred",
    "from_half_sphere",
    "half_map_weights",
    "low_pass_weights",
    "moved",
    "shell_weighted",
]

_LEAST = 0.143  # of the correlation: below, the pass ends
_EDGE = 2  # shells over which it ends


def shell_weighted(volume: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A map whose shells are multiplied by weights.

    Parameters
    ----------
    volume : array, shape (n, n, n)
    weights : array, shape (n // 2 + 1,)
        Of the shells of radius 0, 1, 2, … Fourier voxels; linear between them, and 0 in the
        corners beyond the last.

    Returns
    -------
    array of float32, shape (n, n, n)
    """
    n = volume.shape[0]
    kz, ky, kx = frequency_grid((n, n, n))
    radius = n * np.sqrt(kz**2 + ky**2 + kx**2)
    spectrum = scipy.fft.rfftn(np.asarray(volume, np.float64))
    spectrum *= np.interp(radius, np.arange(len(weights)), weights, right=0.0)
    return np.asarray(scipy.fft.irfftn(spectrum, s=volume.shape), np.float32)


def low_pass_weights(n: int, *, voxel_size: float, resolution: float) -> np.ndarray:
    """Weights of shells that pass what is coarser than `resolution` (Å).

    1 up to the shell of that resolution, then a cosine down to 0 over two shells.

    Examples
    --------
    >>> low_pass_weights(16, voxel_size=10.0, resolution=40.0).round(3).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0]
    """
    shell = np.arange(n // 2 + 1)
    last = n * voxel_size / resolution
    ramp = np.clip((shell - last) / _EDGE, 0, 1)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * ramp))


def half_map_weights(curve: pd.DataFrame) -> np.ndarray:
    """Wiener's filter of a half map, by shell: the correlation itself, up to where it is lost.

    Parameters
    ----------
    curve : DataFrame
        ``correlation`` of the halves by shell, from shell 0.

    Returns
    -------
    array of float64, shape (shells,)
        0 beyond the first shell whose correlation is below 0.143: what comes up again there is
        chance.

    Examples
    --------
    >>> half_map_weights(pd.DataFrame({"correlation": [1, 0.9, 0.4, 0.1, 0.3, 0.2]})).tolist()
    [1.0, 0.9, 0.4, 0.1, 0.0, 0.0]
    """
    weights = np.clip(curve["correlation"].to_numpy(float), 0, 1)
    weights[0] = 1.0
    below = np.flatnonzero(weights < _LEAST)
    if len(below):
        weights[below[0] + 1 :] = 0.0
    return np.asarray(weights)


def moved(volume: np.ndarray, shift_zyx: np.ndarray) -> np.ndarray:
    """A map moved by a shift in voxels, through its Fourier series; what leaves a face comes back.

    Examples
    --------
    >>> volume = np.zeros((5, 5, 5))
    >>> volume[2, 2, 2] = 1
    >>> np.argwhere(moved(volume, [1, 0, -1]).round(6))[0].tolist()
    [3, 2, 1]
    """
    n = volume.shape[0]
    grid = frequency_grid((n, n, n))
    phase = sum(k * s for k, s in zip(grid, shift_zyx, strict=True))
    spectrum = scipy.fft.rfftn(np.asarray(volume, np.float64)) * np.exp(-2j * np.pi * phase)
    return np.asarray(scipy.fft.irfftn(spectrum, s=volume.shape), np.float32)


def from_half_sphere(values: np.ndarray, frequencies: np.ndarray, n: int) -> np.ndarray:
    """The real box whose spectrum about its centre has these values, and 0 elsewhere.

    Parameters
    ----------
    values : array of complex, shape (count,)
    frequencies : array, shape (count, 3)
        Whole, of `tomodask.arrays.sampling.half_sphere`, below ``n / 2``.
    n : int

    Returns
    -------
    array of float32, shape (n, n, n)
        Without a mean: frequency 0 is no part of half a sphere.
    """
    k = np.rint(frequencies).astype(np.intp)
    held = values * np.exp(-2j * np.pi * (n // 2) / n * k.sum(1))  # from the centre to the corner
    spectrum = np.zeros((n, n, n // 2 + 1), np.complex128)
    spectrum[k[:, 0], k[:, 1], k[:, 2]] = held
    plane = k[:, 2] == 0  # the other half of the plane that rfftn keeps whole
    spectrum[-k[plane, 0], -k[plane, 1], 0] = held[plane].conj()
    return np.asarray(scipy.fft.irfftn(spectrum, s=(n, n, n)), np.float32)


def centred(volume: np.ndarray) -> np.ndarray:
    """A map moved so that the centre of its squared density is on voxel ``n // 2``.

    Squared, so that a weak background has little say; twice, as the sphere that the map is cut to
    moves with it.
    """
    volume = np.asarray(volume, np.float32)
    n = volume.shape[0]
    sphere, axis = soft_sphere(n, n / 2 - 3, edge=2.0), np.arange(n) - n // 2
    offset = np.zeros(3)
    for _ in range(2):
        power = cut_out(moved(volume, -offset), sphere).astype(np.float64) ** 2
        total = power.sum()
        if not total > 0:
            return volume
        offset += [power.sum(axis=other) @ axis / total for other in ((1, 2), (0, 2), (0, 1))]
    return moved(volume, -offset)
