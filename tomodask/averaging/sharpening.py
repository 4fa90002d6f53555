"""How fast a map's amplitudes fall off, and the map with that taken back.

What blurs an average (poses, motion, interpolation) multiplies its amplitudes by about
``exp(−B k² / 4)``.  Beyond some 10 Å the amplitudes of a protein itself are level on the average
(Wilson), and a line through ``ln |F|`` against ``k²``, Guinier's plot, tells B.  Noise is kept down
by ``C_ref = √(2 FSC / (1 + FSC))``, the expected correlation of the average with the perfect map
[1]_.

.. [1] Rosenthal & Henderson, J. Mol. Biol. 333, 721 (2003), doi:10.1016/j.jmb.2003.07.013.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.fft
import xarray as xr

from tomodask.arrays.fourier import frequency_grid, half_counts
from tomodask.averaging.fsc import resolution_at, shell_table
from tomodask.errors import InputError

__all__ = ["b_factor", "guinier_plot", "reference_weights", "sharpen"]

_WILSON = 10.0  # Å; what is coarser has the amplitudes of the particle's shape
_LEAST = 4  # shells of a line
_EDGE = 2  # shells over which the low-pass ends


def reference_weights(curve: pd.DataFrame) -> np.ndarray:
    """C_ref by shell, ``√(2 FSC / (1 + FSC))``, from the correlation of the halves.

    Parameters
    ----------
    curve : DataFrame
        Of `fsc` or `corrected_fsc`.

    Returns
    -------
    array of float64, shape (shells,)
        0 from the first shell on whose correlation is not above 0; 1 at frequency 0.

    Examples
    --------
    >>> curve = pd.DataFrame({"correlation": [0.9, 1.0, 1 / 7, -0.1, 0.5]})
    >>> reference_weights(curve).round(3).tolist()
    [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    correlation = np.nan_to_num(curve["correlation"].to_numpy(float))
    correlation[0] = 1.0  # of one Fourier voxel, the mean of the map
    correlation[np.cumsum(correlation <= 0) > 0] = 0.0
    return np.asarray(np.sqrt(2 * correlation / (1 + correlation)))


def guinier_plot(
    volume: np.ndarray | xr.DataArray,
    *,
    voxel_size: float,
    fsc: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The logarithm of a map's amplitude by shell.

    Parameters
    ----------
    volume : array, shape (n, n, n)
    voxel_size : float
        Å.
    fsc : DataFrame, optional
        Of the halves; amplitudes are then multiplied by C_ref, which takes the noise's part away.

    Returns
    -------
    DataFrame
        One row a shell: ``frequency`` (1/Å), ``resolution`` (Å), ``frequency_squared`` (1/Å²) and
        ``log_amplitude``, of the root mean square; NaN where it is 0.
    """
    values = _map(volume, voxel_size)
    n = len(values)
    kz, ky, kx = frequency_grid(values.shape)
    shell = np.rint(n * np.sqrt(kz**2 + ky**2 + kx**2)).astype(np.intp).ravel()
    each = np.broadcast_to(half_counts(n), (n, n, n // 2 + 1)).ravel()
    power = np.abs(scipy.fft.rfftn(values).ravel()) ** 2
    size = n // 2 + 1
    mean = np.bincount(shell, each * power, size)[:size] / np.bincount(shell, each, size)[:size]
    amplitude = np.sqrt(mean)
    if fsc is not None:
        amplitude = amplitude * _fitting(fsc, size)
    table = shell_table(n, voxel_size)
    with np.errstate(divide="ignore"):
        logarithm = np.where(amplitude > 0, np.log(amplitude), np.nan)
    return table.assign(frequency_squared=table["frequency"] ** 2, log_amplitude=logarithm)


def b_factor(
    volume: np.ndarray | xr.DataArray,
    *,
    voxel_size: float,
    fsc: pd.DataFrame | None = None,
    resolution_range: tuple[float, float],
) -> float:
    """The B-factor that a map's amplitudes fall off by, Å², from Guinier's plot.

    Parameters
    ----------
    volume : array, shape (n, n, n)
        Best under a soft mask: the noise about the particle has amplitudes too.
    voxel_size : float
        Å.
    fsc : DataFrame, optional
        Of the halves, see `guinier_plot`.
    resolution_range : (float, float)
        Coarsest and finest resolution of the line, Å.  From 10 Å on a protein's own amplitudes are
        level; a coarser range tells of its shape as well.

    Returns
    -------
    float
        Positive where amplitudes fall off, as ``exp(−B k² / 4)``.

    Raises
    ------
    InputError
        If the range does not fall, or holds fewer than four shells.
    """
    coarse, fine = map(float, resolution_range)
    if not coarse > fine > 0:
        raise InputError(f"resolution_range must fall and be above 0 Å, got {coarse:g} to {fine:g}")
    plot = guinier_plot(volume, voxel_size=voxel_size, fsc=fsc)
    slack = 1e-9
    used = plot[
        plot["frequency"].between(1 / coarse - slack, 1 / fine + slack)
        & plot["log_amplitude"].notna()
    ]
    if len(used) < _LEAST:
        raise InputError(
            f"a line through {len(used)} shells ({coarse:g} to {fine:g} Å) tells no B-factor, it "
            f"needs {_LEAST}; take a wider range, or say b_factor"
        )
    slope, _ = np.polyfit(used["frequency_squared"], used["log_amplitude"], 1)
    return float(-4 * slope)


def sharpen(
    volume: np.ndarray | xr.DataArray,
    *,
    voxel_size: float,
    b_factor: float | str = "auto",
    fsc: pd.DataFrame | None = None,
    resolution: float | None = None,
    resolution_range: tuple[float, float] | None = None,
) -> xr.DataArray:
    """A map with its B-factor taken back, its shells weighted by what is known of them.

    Parameters
    ----------
    volume : array, shape (n, n, n)
        The average of both halves.
    voxel_size : float
        Å.
    b_factor : float or "auto"
        Å², positive for a map that falls off: its amplitudes are multiplied by ``exp(+B k² / 4)``
        (other programs write this B with a minus).  "auto" takes what `b_factor` tells from 10 Å to
        `resolution`.
    fsc : DataFrame, optional
        Of the halves: each shell is multiplied by C_ref.
    resolution : float, optional
        Å; what is finer is cut off, over two shells.  By default where `fsc` falls below 0.143,
        else Nyquist's.
    resolution_range : (float, float), optional
        For "auto", in place of 10 Å to `resolution`.

    Returns
    -------
    DataArray of float32, dims (z, y, x)
        ``attrs``: ``voxel_size``, ``b_factor``, ``resolution``.

    Raises
    ------
    InputError
        If a number is out of range, or "auto" has no shells finer than 10 Å to tell from.
    """
    values = _map(volume, voxel_size)
    n = len(values)
    if resolution is None:
        resolution = 2 * voxel_size if fsc is None else resolution_at(fsc, 0.143)
    if resolution == np.inf:
        raise InputError("no shell of fsc reaches 0.143; there is nothing to sharpen")
    if not resolution >= 2 * voxel_size - 1e-6:
        raise InputError(
            f"resolution must be at least two voxels, {2 * voxel_size:g} Å, got {resolution:g}"
        )
    if b_factor == "auto":
        b_factor = _automatic(volume, voxel_size, fsc, resolution, resolution_range)
    if isinstance(b_factor, str) or not np.isfinite(b_factor):
        raise InputError(f'b_factor must be a number of Å² or "auto", got {b_factor!r}')
    kz, ky, kx = frequency_grid(values.shape)
    k = np.sqrt(kz**2 + ky**2 + kx**2) / voxel_size
    gain = np.exp(b_factor / 4 * np.minimum(k, 0.5 / voxel_size) ** 2)
    if fsc is not None:
        weights = _fitting(fsc, n // 2 + 1)
        gain *= np.interp(k * n * voxel_size, np.arange(len(weights)), weights, right=0.0)
    beyond = (k - 1 / resolution) * n * voxel_size / _EDGE
    gain *= 0.5 + 0.5 * np.cos(np.pi * np.clip(beyond, 0, 1))
    out = scipy.fft.irfftn(scipy.fft.rfftn(values) * gain, s=values.shape)
    return xr.DataArray(
        np.asarray(out, np.float32),
        dims=("z", "y", "x"),
        name="sharpened",
        attrs={"voxel_size": voxel_size, "b_factor": float(b_factor), "resolution": resolution},
    )


def _automatic(
    volume: np.ndarray | xr.DataArray,
    voxel_size: float,
    curve: pd.DataFrame | None,
    resolution: float,
    resolution_range: tuple[float, float] | None,
) -> float:
    if resolution_range is None:
        if resolution >= _WILSON:
            raise InputError(
                f"the B-factor of a map of {resolution:.1f} Å cannot be told from its amplitudes: "
                f"coarser than {_WILSON:g} Å they are those of the particle's shape; say b_factor "
                "(--sharpen 500), or the resolution_range to fit in"
            )
        resolution_range = _WILSON, resolution
    return b_factor(volume, voxel_size=voxel_size, fsc=curve, resolution_range=resolution_range)


def _fitting(curve: pd.DataFrame, shells: int) -> np.ndarray:
    weights = reference_weights(curve)
    if len(weights) != shells:
        raise InputError(
            f"fsc has {len(weights)} shells, the map {shells}; give the curve of its own halves"
        )
    return weights


def _map(volume: np.ndarray | xr.DataArray, voxel_size: float) -> np.ndarray:
    values = np.asarray(volume, np.float64)
    if values.ndim != 3 or len(set(values.shape)) != 1:
        raise InputError(f"need a cubic map, got {values.shape}; cut or pad it")
    if not np.isfinite(values.sum()):
        raise InputError("the map holds NaN or infinite voxels; cut these away")
    if not voxel_size > 0:
        raise InputError(f"voxel_size must be above 0 Å, got {voxel_size}")
    return values
