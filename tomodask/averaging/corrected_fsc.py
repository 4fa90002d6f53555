"""Fourier shell correlation under a mask, less what the mask adds by itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.fft
import xarray as xr

from tomodask.arrays.fourier import frequency_grid, shell_correlation
from tomodask.averaging.fsc import shell_table
from tomodask.averaging.half_maps import check_pair, mask_of, masked
from tomodask.errors import InputError

__all__ = ["corrected_fsc", "randomised_phases"]

_TRUSTED = 0.8  # as far as the halves agree by this, phases are left alone


def corrected_fsc(
    a: np.ndarray | xr.DataArray,
    b: np.ndarray | xr.DataArray,
    *,
    voxel_size: float,
    diameter: float | None = None,
    mask: np.ndarray | xr.DataArray | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Fourier shell correlation of half maps under a mask, corrected by phase randomisation.

    Both maps are masked once as they are and once with random phases from the first shell on where
    the correlation without a mask falls below 0.8.  There no signal is left that the halves could
    share: what still correlates under the mask is the mask's own doing, ``FSC_n``, and

        FSC = (FSC_masked − FSC_n) / (1 − FSC_n)

    from that shell on (Chen et al. 2013 [1]_; where it begins is RELION's rule).  The correlation
    under the mask would not do to tell where: under a tight one it may never fall below 0.8.
    RELION leaves the next two shells as they are.  In small boxes these may be all that is between
    signal and noise, so they are corrected here; a smooth curve may get a notch of some hundredths
    there.

    Parameters
    ----------
    a, b : array, shape (n, n, n)
        Half maps.
    voxel_size : float
        Å.
    diameter : float, optional
        Of a soft sphere about the box's centre, Å.
    mask : array or DataArray, shape (n, n, n), optional
        0 to 1; one of the two is needed.
    seed : int
        Of the random phases.

    Returns
    -------
    DataFrame
        One row a shell: ``frequency`` (1/Å), ``resolution`` (Å), ``unmasked``, ``masked``,
        ``randomised`` (FSC_n; 0 where phases are whole) and ``correlation``, the corrected one,
        which `resolution_at` reads.  ``attrs["randomised_from"]`` is the resolution (Å) from which
        on phases were random; NaN where all shells correlate by 0.8 or more.

    Raises
    ------
    InputError
        If the maps are not two cubic boxes of one size, no mask is given, or it does not fit them.

    References
    ----------
    .. [1] Chen, McMullan, Faruqi, Murshudov, Short, Scheres & Henderson, Ultramicroscopy 135, 24
       (2013), doi:10.1016/j.ultramic.2013.06.004.
    """
    a, b = check_pair(a, b, voxel_size)
    n = len(a)
    window = mask_of(n, voxel_size, diameter=diameter, mask=mask)
    if window is None:
        raise InputError("nothing to correct for: give a mask or the diameter of a soft sphere")
    if seed < 0:
        raise InputError(f"seed must be 0 or above, got {seed}")
    table = shell_table(n, voxel_size)
    unmasked = shell_correlation(a, b)
    under = shell_correlation(masked(a, window), masked(b, window))
    low = np.flatnonzero(unmasked[1:] < _TRUSTED) + 1
    randomised, corrected = np.zeros(len(under)), under.copy()
    start = int(low[0]) if len(low) else len(under)
    if start < len(under):
        pair = [
            masked(randomised_phases(volume, start, np.random.default_rng([seed, i])), window)
            for i, volume in enumerate((a, b))
        ]
        randomised = shell_correlation(*pair)
        randomised[:start] = 0.0
        added = randomised[start:]
        corrected[start:] = (under[start:] - added) / np.maximum(1 - added, 1e-3)
    out = table.assign(
        unmasked=unmasked, masked=under, randomised=randomised, correlation=corrected
    )
    out.attrs["randomised_from"] = (
        float(table["resolution"][start]) if start < len(under) else float("nan")
    )
    return out


def randomised_phases(volume: np.ndarray, start: int, rng: np.random.Generator) -> np.ndarray:
    """A map with the phases of white noise in the shells from `start` on; amplitudes are kept.

    Parameters
    ----------
    volume : array of float64, shape (n, n, n)
    start : int
        Shell, Fourier voxels.
    rng : Generator

    Returns
    -------
    array of float64, shape (n, n, n)
    """
    n = len(volume)
    spectrum = scipy.fft.rfftn(volume)
    kz, ky, kx = frequency_grid(volume.shape)
    beyond = np.rint(n * np.sqrt(kz**2 + ky**2 + kx**2)) >= start
    # The spectrum of a real map, so that conjugate pairs stay conjugate.
    noise = scipy.fft.rfftn(rng.normal(size=volume.shape))[beyond]
    spectrum[beyond] = np.abs(spectrum[beyond]) * noise / np.abs(noise)
    return np.asarray(scipy.fft.irfftn(spectrum, s=volume.shape))
