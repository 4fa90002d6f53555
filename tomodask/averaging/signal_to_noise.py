"""Spectral signal-to-noise ratio of an average, from the sums that the average itself is made of.

A particle's spectrum in the reference's frame is ``F_i = w_i X + noise`` of variance σ² per Fourier
voxel.  What the particles leave unexplained, each about the average of all, tells σ² by shell, and
with it how much of the average's power is not noise (Unser et al. 1987 [1]_; with unequal weights
Penczek 2002 [2]_).  No half maps are needed, and the noise spectrum comes with it.

.. [1] Unser, Trus & Steven, Ultramicroscopy 23, 39 (1987), doi:10.1016/0304-3991(87)90225-7.
.. [2] Penczek, J. Struct. Biol. 138, 34 (2002), doi:10.1016/S1047-8477(02)00033-3.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["snr_of_fsc", "spectral_snr"]


def spectral_snr(
    data: np.ndarray,
    weight: np.ndarray,
    *,
    shells: np.ndarray,
    power: np.ndarray,
    spread: np.ndarray,
    count: np.ndarray,
    box: int,
    voxel_size: float,
) -> pd.DataFrame:
    """SSNR of an average by shell, from its sums.

    With ``A = Σ_k |Σ_i γ w F|² / Σ_i γ w²`` over a shell, M frequencies with weight in it and
    ``ρ = Σ (γ w)² / Σ γ w²`` (1 for whole particles, γ = 1)

        σ² = (Σ γ |F|² − A) / (Σ γ − ρ M),      SSNR = A / (ρ M σ²) − 1

    Parameters
    ----------
    data : array of complex128, shape (frequencies,)
        Σ γ w F.
    weight : array of float64, shape (frequencies,)
        Σ γ w².
    shells : array of intp, shape (frequencies,)
        Of each frequency.
    power, spread, count : array of float64, shape (box // 2 + 1,)
        Over a shell: Σ γ |F|², Σ (γ w)², Σ γ.
    box : int
        Edge, voxels.
    voxel_size : float
        Å.

    Returns
    -------
    DataFrame
        One row a shell from 0 to Nyquist: ``frequency`` (1/Å), ``resolution`` (Å), ``ssnr`` of the
        average, not below 0, and ``noise``, the variance σ² of a Fourier voxel of one box (of the
        transform as `numpy.fft` has it).  NaN where nothing was measured twice.
    """
    size = box // 2 + 1
    seen = weight > 0
    explained = np.divide(np.abs(data) ** 2, weight, out=np.zeros(len(weight)), where=seen)
    explained = np.bincount(shells, explained, size)[:size]
    total = np.bincount(shells, weight, size)[:size]
    seen_here = np.bincount(shells, seen, size)[:size]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = spread / total * seen_here
        free = count - share
        noise = np.where(free > 0.5, (power - explained) / free, np.nan)
        ssnr = np.maximum(explained / (share * noise) - 1, 0.0)
        frequency = np.arange(size) / (box * voxel_size)
        resolution = 1 / frequency
    return pd.DataFrame(
        {"frequency": frequency, "resolution": resolution, "ssnr": ssnr, "noise": noise}
    )


def snr_of_fsc(curve: pd.DataFrame) -> np.ndarray:
    """SSNR of the average of both halves from the correlation between them.

    ``2 FSC / (1 − FSC)``: the signal to noise ratio of two independent measurements is that of one,
    ``FSC / (1 − FSC)``, twice (Frank & Al-Ali, Nature 256, 376 (1975), doi:10.1038/256376a0).

    Parameters
    ----------
    curve : DataFrame
        Of `tomodask.fsc`.

    Returns
    -------
    array of float64, shape (shells,)
        Infinite where the halves are equal; 0 where they do not correlate.
    """
    correlation = np.clip(curve["correlation"].to_numpy(float), 0.0, 1.0)
    with np.errstate(divide="ignore"):
        return np.asarray(2 * correlation / (1 - correlation))
