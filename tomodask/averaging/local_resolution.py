"""Resolution at each voxel: the correlation of half maps, band by band, within a moving window.

The Fourier shell correlation of what a window about a voxel holds, in every place [1]_.  Here the
window comes after the band and not before it: both half maps are filtered to a band of frequencies,
and the correlation of the two within a sphere about each voxel is a ratio of three moving averages,
which are products in Fourier space.  A band is as wide as the window resolves (one over its
diameter), so that the two orders see the same detail; all voxels of a band cost eleven transforms
of the map.

.. [1] Cardone, Heymann & Steven, "One number does not fit all: mapping local variations in
   resolution in cryo-EM reconstructions", J. Struct. Biol. 184, 226 (2013),
   doi:10.1016/j.jsb.2013.08.002.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import xarray as xr

from tomodask.arrays.fourier import frequency_grid
from tomodask.arrays.sampling import soft_sphere
from tomodask.averaging.fsc import fsc, resolution_at
from tomodask.averaging.half_maps import check_mask, check_pair
from tomodask.errors import InputError

__all__ = ["local_correlation", "local_resolution"]

_PERIODS = 3.0  # that a window holds of the coarsest detail which it tells of
_LEAST_WINDOW = 8  # voxels


def local_resolution(
    half_1: np.ndarray | xr.DataArray,
    half_2: np.ndarray | xr.DataArray,
    *,
    voxel_size: float,
    window: float | None = None,
    threshold: float = 0.5,
    mask: np.ndarray | xr.DataArray | None = None,
) -> xr.DataArray:
    """A map of the resolution of an average, from its half maps.

    Parameters
    ----------
    half_1, half_2 : array, shape (n, n, n)
    voxel_size : float
        Å.
    window : float, optional
        Diameter of the moving sphere, Å.  A small one tells more places apart, a large one is less
        noisy.  By default seven times the resolution of the whole at the threshold, at least 8
        voxels and at most half the box.
    threshold : float
        Of the correlation.  A window holds few independent voxels: at its coarsest band about 30,
        so that noise alone gives correlations of ± 0.2, and 0.143 would be crossed by chance.
    mask : array or DataArray, shape (n, n, n), optional
        Where the particle is; elsewhere the map says the coarsest resolution.

    Returns
    -------
    DataArray of float32, dims (z, y, x)
        Å, where the local correlation first falls below `threshold`, linear between bands.  The
        coarsest value that can be told is a third of the window; Nyquist's is the finest.
        ``attrs``: ``voxel_size``, ``window``, ``threshold``.

    Raises
    ------
    InputError
        If the maps are not two cubic boxes of one size, the mask does not fit, or the window or the
        threshold is out of range.

    Notes
    -----
    Memory: about ten arrays of the map's size, whatever the number of bands.  The box is taken to
    be periodic: near its faces a window sees the opposite ones.
    """
    a, b = check_pair(half_1, half_2, voxel_size)
    n = len(a)
    inside = None if mask is None else check_mask(mask, n, voxel_size) > 0.5
    if not 0 < threshold < 1:
        raise InputError(f"threshold must be within 0 to 1, got {threshold:g}")
    if window is None:
        whole = resolution_at(fsc(a, b, voxel_size=voxel_size), threshold)
        window = max(min(7 * whole, n * voxel_size / 2), _LEAST_WINDOW * voxel_size)
    if not _LEAST_WINDOW * voxel_size <= window <= n * voxel_size:
        raise InputError(
            f"window must be within 8 voxels and the box, {_LEAST_WINDOW * voxel_size:g} to "
            f"{n * voxel_size:g} Å, got {window:g}"
        )
    frequencies = _bands(window / voxel_size)
    edge = frequencies[0] / voxel_size
    found = np.full(a.shape, edge, np.float32)  # 1/Å, as far as the correlation has held
    still = np.ones(a.shape, bool) if inside is None else inside.copy()
    before = np.ones(a.shape, np.float32)
    last = edge
    for frequency in frequencies:
        if not still.any():
            break
        now = local_correlation(a, b, frequency=frequency, window=window / voxel_size)
        here = frequency / voxel_size
        falls = still & (now < threshold)
        share = (before[falls] - threshold) / (before[falls] - now[falls])
        found[falls] = last + share * (here - last)
        still &= ~falls
        before, last = now, here
    found[still] = 0.5 / voxel_size
    return xr.DataArray(
        (1 / found).astype(np.float32),
        dims=("z", "y", "x"),
        name="local_resolution",
        attrs={"voxel_size": voxel_size, "window": window, "threshold": threshold},
    )


def local_correlation(
    a: np.ndarray, b: np.ndarray, *, frequency: float, window: float
) -> np.ndarray:
    """Correlation of two maps in a band of frequencies, within a sphere about each voxel.

    Parameters
    ----------
    a, b : array of float64, shape (n, n, n)
    frequency : float
        Middle of the band, cycles per voxel; it falls off by a cosine over one over the window.
    window : float
        Diameter of the sphere, voxels.

    Returns
    -------
    array of float32, shape (n, n, n)
        0 where nothing of the band is in the window.
    """
    n = a.shape[0]
    kz, ky, kx = frequency_grid(a.shape)
    off = (np.sqrt(kz**2 + ky**2 + kx**2) - frequency) * window
    band = np.where(np.abs(off) < 1, 0.5 + 0.5 * np.cos(np.pi * off), 0.0)
    edge = min(3.0, window / 4)
    sphere = np.fft.ifftshift(soft_sphere(n, window / 2 - edge / 2, edge=edge)).astype(np.float64)
    around = scipy.fft.rfftn(sphere / sphere.sum())

    def mean(x: np.ndarray) -> np.ndarray:
        return np.asarray(scipy.fft.irfftn(scipy.fft.rfftn(x) * around, s=a.shape))

    fa, fb = (scipy.fft.irfftn(scipy.fft.rfftn(one) * band, s=a.shape) for one in (a, b))
    cross, pa, pb = mean(fa * fb), mean(fa**2), mean(fb**2)
    # The transforms' rounding leaves a little power, of any sign, where there is none.
    floor = 1e-12 * np.sqrt(pa.max() * pb.max())
    power = np.sqrt(np.clip(pa, 0, None) * np.clip(pb, 0, None))
    out = np.divide(cross, power, out=np.zeros_like(cross), where=power > floor)
    return np.asarray(out, np.float32)


def _bands(window: float) -> np.ndarray:
    """Middles of bands half a width apart, from three periods in the window on, cycles a voxel."""
    first = min(_PERIODS / window, 0.25)
    count = max(int(np.ceil((0.5 - first) * 2 * window)), 1)
    return np.linspace(first, 0.5, count + 1)
