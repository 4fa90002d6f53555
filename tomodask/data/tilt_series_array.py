"""A tilt series as an array: what is known of each image, and the transforms that align them.

A tilt series is an `xarray.DataArray`, dims ``("tilt", "y", "x")``, float32, one block an image.
Along `tilt` it has the coords `angle` (degrees), and where known `order`, `exposure`,
`pre_exposure` (e/Å²), `defocus_u`, `defocus_v` (Å), `defocus_angle` (degrees), and the six numbers
of a transform; attrs `pixel_size` (Å), `source` and where known `files` (of the images), `voltage`
(kV), `spherical_aberration` (mm), `amplitude_contrast`, `phase_shift`, `tilt_axis` (degrees),
`handedness`.

The transform brings an image to where the tilt axis is along y through pixel ``size // 2``:
``new = A (old − c) + d + c'`` in (x, y) pixels about the middles ``(n − 1) / 2`` of the old and the
new image; without it the images are aligned already.  `transforms` gives it as one array, shape
(tilt, 2, 3); xarray holds it as coords `transform_a11`, `…_a12`, `…_dx`, `…_a21`, `…_a22`, `…_dy`,
so that tilts may be chosen and put in order with all that belongs to them.  IMOD's axis goes
through the middle, half a pixel before ``size // 2`` where the size is even, so its shifts d are
changed by that half when files are read and written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from tomodask.errors import InputError

__all__ = [
    "COLUMNS",
    "TRANSFORM",
    "aligned_shape",
    "as_tilt_series",
    "from_imod",
    "half_pixel",
    "require_tilt_series",
    "to_imod",
    "transforms",
    "turned_shape",
    "with_transforms",
]

#: Coords along `tilt` of one number an image, and what RELION calls them (ours where it has none).
COLUMNS = {
    "angle": "rlnTomoNominalStageTiltAngle",
    "order": "tomodaskAcquisitionOrder",
    "exposure": "tomodaskExposure",
    "pre_exposure": "rlnMicrographPreExposure",
    "defocus_u": "rlnDefocusU",
    "defocus_v": "rlnDefocusV",
    "defocus_angle": "rlnDefocusAngle",
}
TRANSFORM = [f"transform_{name}" for name in ("a11", "a12", "dx", "a21", "a22", "dy")]


def as_tilt_series(
    images: da.Array,
    *,
    angle: Sequence[float] | np.ndarray,
    pixel_size: float,
    name: str = "tilt_series",
    columns: dict[str, Any] | None = None,
    transform: np.ndarray | None = None,
    attrs: dict[str, Any] | None = None,
) -> xr.DataArray:
    """Make a tilt series of images and what is known of them.

    Parameters
    ----------
    images : dask array, shape (tilts, y, x)
    angle : array, shape (tilts,)
        Degrees.
    pixel_size : float
        Å.
    columns, attrs : dict, optional
        Further coords along `tilt` and attrs, as the module says; None among them is left out.
    transform : array, shape (tilts, 2, 3), optional

    Examples
    --------
    >>> series = as_tilt_series(da.zeros((3, 4, 4)), angle=[-3, 0, 3], pixel_size=5.0)
    >>> series.dtype, float(series["angle"][0])
    (dtype('float32'), -3.0)
    """
    coords: dict[str, Any] = {"angle": ("tilt", np.asarray(angle, float))}
    for key, values in (columns or {}).items():
        if values is not None:
            coords[key] = ("tilt", np.asarray(values, int if key == "order" else float))
    kept = {key: value for key, value in (attrs or {}).items() if value is not None}
    series = xr.DataArray(
        images.rechunk((1, -1, -1)).astype(np.float32),
        dims=("tilt", "y", "x"),
        coords=coords,
        name=name,
        attrs={"pixel_size": float(pixel_size), "source": name, **kept},
    )
    return series if transform is None else with_transforms(series, transform)


def transforms(series: xr.DataArray) -> np.ndarray | None:
    """What aligns each image, shape (tilt, 2, 3); None where the images are aligned already."""
    if not set(TRANSFORM) <= set(series.coords):
        return None
    columns = [np.asarray(series.coords[name], np.float64) for name in TRANSFORM]
    return np.stack(columns, axis=-1).reshape(-1, 2, 3)


def with_transforms(series: xr.DataArray, transform: np.ndarray | None) -> xr.DataArray:
    """The series with other transforms, shape (tilt, 2, 3), or with none."""
    series = series.drop_vars([name for name in TRANSFORM if name in series.coords])
    if transform is None:
        return series
    columns = np.asarray(transform, np.float64).reshape(len(series), 6).T
    return series.assign_coords(
        {name: ("tilt", values) for name, values in zip(TRANSFORM, columns, strict=True)}
    )


def aligned_shape(series: xr.DataArray) -> tuple[int, int]:
    """Pixels (y, x) of the aligned images: turned over where the axis lay nearer to x than to y."""
    ny, nx = series.shape[1:]
    return turned_shape((ny, nx), transforms(series))


def turned_shape(shape: tuple[int, int], transform: np.ndarray | None) -> tuple[int, int]:
    """Of the aligned images: edges change places where most are turned by more than 45°."""
    if transform is not None and np.median(np.abs(transform[:, 0, 1])) > np.median(
        np.abs(transform[:, 0, 0])
    ):
        return shape[::-1]
    return shape


def half_pixel(shape: tuple[int, int]) -> np.ndarray:
    """From IMOD's tilt axis to ours, (x, y) pixels: ``size // 2 − (size − 1) / 2``."""
    return np.array([size // 2 - (size - 1) / 2 for size in shape[::-1]])


def from_imod(transform: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """IMOD's transform, whose axis passes the middle, as ours, whose axis passes ``size // 2``."""
    out = np.array(transform, np.float64)
    out[:, :, 2] += half_pixel(turned_shape(shape, out))
    return out


def to_imod(transform: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The opposite of `from_imod`."""
    out = np.array(transform, np.float64)
    out[:, :, 2] -= half_pixel(turned_shape(shape, out))
    return out


def require_tilt_series(series: xr.DataArray) -> None:
    """Refuse what is no tilt series, or holds what cannot be.

    Raises
    ------
    InputError
        If dims, angles or the pixel size are missing or wrong.
    """
    if not isinstance(series, xr.DataArray) or series.dims != ("tilt", "y", "x"):
        dims = getattr(series, "dims", type(series).__name__)
        raise InputError(f"a tilt series has the dims ('tilt', 'y', 'x'), got {dims}")
    if 0 in series.shape:
        raise InputError(f"the tilt series has no pixels: shape {series.shape}")
    if "angle" not in series.coords:
        raise InputError("the tilt series must have the coord angle (degrees) along tilt")
    angle = np.asarray(series.coords["angle"], float)
    if not (np.isfinite(angle) & (np.abs(angle) <= 90)).all():
        raise InputError(f"angle must lie within ±90°, got {angle.tolist()}")
    size = series.attrs.get("pixel_size")
    if size is None or not (np.isfinite(size) and size > 0):
        raise InputError(f"the tilt series must have a pixel_size above 0 Å, got {size}")
