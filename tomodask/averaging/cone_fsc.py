"""Resolution by direction: Fourier shell correlation within cones.

A missing wedge, or orientations that prefer a view, leave some directions of Fourier space with few
measurements.  The correlation over a whole shell is the mean of all directions and hides it.

The cones are those of conical FSC (Diebolder et al. 2015 [1]_; Tan et al. 2017 [2]_ show it as a
map of directions).

.. [1] Diebolder, Faas, Koster & Koning, "Conical Fourier shell correlation applied to
   electron tomograms", J. Struct. Biol. 190, 215 (2015).
.. [2] Tan, Baldwin, Davis, Williamson, Potter, Carragher & Lyumkis, Nat. Methods 14, 793 (2017),
   doi:10.1038/nmeth.4347.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.fft
import xarray as xr

from tomodask.arrays.fourier import frequency_grid, half_counts
from tomodask.averaging.fsc import resolution_at, shell_table
from tomodask.averaging.half_maps import check_pair, mask_of, masked
from tomodask.errors import InputError

__all__ = ["cone_axes", "fsc_by_cone", "resolution_by_direction"]

_LEAST = 8  # conjugate pairs of a cone's shell; fewer say nothing, and are pooled


def cone_axes() -> dict[str, tuple[float, float, float]]:
    """The 13 axes through faces, edges and corners of a cube, (z, y, x), by name.

    Examples
    --------
    >>> axes = cone_axes()
    >>> len(axes), axes["z"], axes["y-x"]
    (13, (1.0, 0.0, 0.0), (0.0, 1.0, -1.0))
    """
    out = {}
    for z, y, x in itertools.product((1.0, 0.0, -1.0), repeat=3):
        if next((v for v in (z, y, x) if v), 0) == 1:  # not 0 itself, nor the opposite of another
            signed = [
                ("+" if v > 0 else "-") + name
                for v, name in zip((z, y, x), "zyx", strict=True)
                if v
            ]
            out["".join(signed)[1:]] = (z, y, x)
    return dict(sorted(out.items(), key=lambda item: len(item[0])))


def fsc_by_cone(
    a: np.ndarray | xr.DataArray,
    b: np.ndarray | xr.DataArray,
    *,
    voxel_size: float,
    axes: Mapping[str, tuple[float, float, float]] | None = None,
    half_angle: float = 30.0,
    diameter: float | None = None,
    mask: np.ndarray | xr.DataArray | None = None,
) -> pd.DataFrame:
    """Fourier shell correlation of two maps within double cones about axes.

    Parameters
    ----------
    a, b : array, shape (n, n, n)
    voxel_size : float
        Å.
    axes : mapping of str to (z, y, x), optional
        Of any length; by default `cone_axes`.
    half_angle : float
        Between a cone's axis and its side, degrees.
    diameter, mask
        As of `fsc`.

    Returns
    -------
    DataFrame
        One row a direction and shell: ``direction``, ``frequency`` (1/Å), ``resolution`` (Å),
        ``correlation`` and ``voxels``, the conjugate pairs of Fourier voxels that it is of.  A
        shell with fewer than 8 is pooled with those within it; where all together are fewer, the
        correlation is NaN.

    Raises
    ------
    InputError
        If the maps or the mask do not fit, an axis has no direction, or the angle is not within 5
        to 90°.
    """
    a, b = check_pair(a, b, voxel_size)
    n = len(a)
    window = mask_of(n, voxel_size, diameter=diameter, mask=mask)
    if not 5 <= half_angle <= 90:
        raise InputError(f"half_angle must be within 5 to 90°, got {half_angle:g}")
    axes = cone_axes() if axes is None else axes
    units = {name: _unit(name, axis) for name, axis in axes.items()}
    fa, fb = (scipy.fft.rfftn(masked(volume, window)) for volume in (a, b))
    kz, ky, kx = frequency_grid(a.shape)
    radius = np.sqrt(kz**2 + ky**2 + kx**2)
    shell = np.rint(n * radius).astype(np.intp)
    inside = (shell > 0) & (shell <= n // 2)
    each = np.broadcast_to(half_counts(n) / 2, fa.shape)[inside]
    shell = shell[inside]
    terms = ((fa * fb.conj()).real[inside], np.abs(fa[inside]) ** 2, np.abs(fb[inside]) ** 2)
    table, parts = shell_table(n, voxel_size), []
    for name, unit in units.items():
        along = np.abs(kz * unit[0] + ky * unit[1] + kx * unit[2])
        cone = (along >= radius * np.cos(np.deg2rad(half_angle)) - 1e-9)[inside]
        where = shell[cone]
        cross, pa, pb, voxels = (
            np.bincount(where, (each * term)[cone], n // 2 + 1) for term in (*terms, 1.0)
        )
        for i in np.flatnonzero(voxels < _LEAST)[1:]:
            for sums in (cross, pa, pb, voxels):
                sums[i] += sums[i - 1]
        power = np.sqrt(pa * pb)
        correlation = np.full(len(power), np.nan)
        np.divide(cross, power, out=correlation, where=(power > 0) & (voxels >= _LEAST))
        correlation[(power == 0) & (voxels >= _LEAST)] = 0.0
        parts.append(
            table.assign(correlation=correlation, voxels=np.rint(voxels).astype(int)).assign(
                direction=name
            )
        )
    columns = ["direction", "frequency", "resolution", "correlation", "voxels"]
    return pd.concat(parts, ignore_index=True)[columns]


def resolution_by_direction(cones: pd.DataFrame, threshold: float = 0.143) -> pd.Series:
    """The resolution of each direction, Å, from the table of `fsc_by_cone`.

    Returns
    -------
    Series
        By ``direction``, in their order.
    """
    values = {
        str(name): resolution_at(part.dropna(subset="correlation"), threshold)
        for name, part in cones.groupby("direction", sort=False)
    }
    return pd.Series(values, name="resolution").rename_axis("direction")


def _unit(name: str, axis: tuple[float, float, float]) -> np.ndarray:
    vector = np.asarray(axis, float)
    if vector.shape != (3,) or not np.isfinite(vector).all() or not np.linalg.norm(vector) > 0:
        raise InputError(f"axis {name!r} must be three numbers (z, y, x), not all 0, got {axis}")
    return np.asarray(vector / np.linalg.norm(vector))
