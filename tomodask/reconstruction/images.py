"""Tilt images made ready: aligned, brought to the voxel size, corrected for lens and damage.

An image is one task, whatever the chunks of the series, so that nothing depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import dask.array as da
import numpy as np
import scipy.fft
import xarray as xr

from tomodask.data.tilt_series_array import (
    aligned_shape,
    as_tilt_series,
    require_tilt_series,
    transforms,
)
from tomodask.errors import InputError
from tomodask.reconstruction.lenses import Lens, lenses_of

__all__ = ["align_images", "extended", "prepare_image", "resample_image"]

Normalize = Literal["mean", "std", "none"]

_SPLINE = 5  # order: at 0.4 cycles per pixel a cubic spline has lost 16 % of the signal, this 8 %
_MARGIN = 16  # pixels beyond the borders that the image is continued for, at least


@dataclass(frozen=True)
class Recipe:
    """How one image is made ready; plain numbers, so that tasks are told apart by them."""

    number: int
    matrix: tuple[float, float, float, float] | None
    shift: tuple[float, float]
    aligned: tuple[int, int]
    shape: tuple[int, int]
    factor: float
    normalize: Normalize
    sign: float
    lens: Lens | None
    source: str


def align_images(
    series: xr.DataArray,
    *,
    bin: float | None = None,
    voxel_size: float | None = None,
    normalize: Normalize = "mean",
    ctf: Literal["none", "flip"] = "none",
    dose_weight: bool = False,
    invert: bool = False,
) -> xr.DataArray:
    """Aligned images at the voxel size wanted, the tilt axis along y through pixel ``size // 2``.

    Images that are shifted only are shifted by Fourier phases; others are resampled once, by
    splines of order 5, at their full sampling or at least at twice the final one.  Binning cuts the
    spectrum, so that nothing folds back.  Beyond its borders an image is continued by its mirror
    image, faded to its mean.  Values are divided by the bin, so that sums along the beam over
    voxels mean the same at any of them.

    Parameters
    ----------
    series : DataArray, dims (tilt, y, x)
    bin : float, optional
        Pixels of the series per voxel, at least 1 (the default); 2.5 is as good as 2.
    voxel_size : float, optional
        Å, in place of `bin`.
    normalize : {"mean", "std", "none"}
        Subtract the mean of each image; also divide by its standard deviation; or neither.
    ctf : {"none", "flip"}
        Flip phases, with the defocus of each place on the tilted slab.
    dose_weight : bool
        Filter each image with the share of the amplitude that radiation damage left.
    invert : bool
        Turn the contrast over.

    Returns
    -------
    DataArray, dims (tilt, y, x)
        Without transforms; lazy.

    Raises
    ------
    InputError
        If the series lacks what an option needs, or a number is out of range.  While computing: if
        an image holds NaN or infinite pixels.
    """
    require_tilt_series(series)
    factor = bin_factor(float(series.attrs["pixel_size"]), bin=bin, voxel_size=voxel_size)
    if normalize not in ("mean", "std", "none"):
        raise InputError(f"normalize must be mean, std or none, got {normalize!r}")
    aligned = aligned_shape(series)
    shape = (int(aligned[0] / factor + 1e-6), int(aligned[1] / factor + 1e-6))
    if shape[0] < 1 or shape[1] < 4:
        raise InputError(
            f"bin must leave at least 4 pixels along x of {aligned[0]}×{aligned[1]} (y, x), got "
            f"{factor:g}"
        )
    lenses = lenses_of(series, factor, ctf, dose_weight)
    transform = transforms(series)
    recipes = tuple(
        Recipe(
            number=number,
            matrix=None if transform is None else _matrix(transform[number]),
            shift=(0.0, 0.0) if transform is None else tuple(transform[number, :, 2].tolist()),
            aligned=aligned,
            shape=shape,
            factor=factor,
            normalize=normalize,
            sign=(-1.0 if invert else 1.0) / factor,
            lens=lens,
            source=str(series.attrs.get("source") or series.name or "the tilt series"),
        )
        for number, lens in enumerate(lenses)
    )
    data = series.data if isinstance(series.data, da.Array) else da.from_array(series.to_numpy())
    images = data.rechunk((1, -1, -1)).map_blocks(
        _prepare_block,
        recipes=recipes,
        dtype=np.float32,
        token="align",
        chunks=((1,) * len(series), (shape[0],), (shape[1],)),
        meta=np.empty((0, 0, 0), np.float32),
    )
    columns = {
        str(key): np.asarray(value)
        for key, value in series.coords.items()
        if value.dims == ("tilt",) and key not in ("angle", "tilt")
        and not str(key).startswith("transform")
    }  # fmt: skip
    if "defocus_angle" in columns and transform is not None:
        turn = np.rad2deg(np.arctan2(transform[:, 1, 0], transform[:, 0, 0]))
        columns["defocus_angle"] = columns["defocus_angle"] + turn
    return as_tilt_series(
        images,
        angle=np.asarray(series["angle"]),
        pixel_size=float(series.attrs["pixel_size"]) * factor,
        name=str(series.name or "tilt_series"),
        columns=columns,
        attrs={
            **{key: value for key, value in series.attrs.items() if key != "pixel_size"},
            "phase_flipped": ctf == "flip" or bool(series.attrs.get("phase_flipped")),
            "dose_weighted": dose_weight or bool(series.attrs.get("dose_weighted")),
        },
    )


def bin_factor(pixel_size: float, *, bin: float | None, voxel_size: float | None) -> float:
    """Pixels per voxel, from what was given of the two."""
    if bin is not None and voxel_size is not None:
        raise InputError(f"bin and voxel_size are both given ({bin:g}, {voxel_size:g}); leave one")
    if voxel_size is not None:
        if not (np.isfinite(voxel_size) and voxel_size >= pixel_size * (1 - 1e-6)):
            raise InputError(
                f"voxel_size must be at least the pixel size, {pixel_size:g} Å, got {voxel_size:g}"
            )
        return max(1.0, float(voxel_size) / pixel_size)
    if bin is None:
        return 1.0
    if not (np.isfinite(bin) and bin >= 1):
        raise InputError(f"bin must be at least 1 pixel per voxel, got {bin}")
    return float(bin)


def _matrix(transform: np.ndarray) -> tuple[float, float, float, float] | None:
    """The four numbers, or None where they turn and stretch by less than could be seen."""
    if np.abs(transform[:, :2] - np.eye(2)).max() < 1e-7:
        return None
    a11, a12, a21, a22 = transform[:, :2].ravel().tolist()
    return a11, a12, a21, a22


def _prepare_block(
    block: np.ndarray, *, recipes: tuple[Recipe, ...], block_id: tuple[int, ...]
) -> np.ndarray:
    return prepare_image(block[0], recipes[block_id[0]])[None]


def prepare_image(image: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Make one image ready.

    Parameters
    ----------
    image : array, shape (y, x)
    recipe : Recipe

    Returns
    -------
    array of float32, of the recipe's shape
    """
    values = np.asarray(image, np.float32)
    if not np.isfinite(values).all():
        raise InputError(
            f"{recipe.source}: image {recipe.number + 1} holds pixels that are NaN or infinite; "
            "replace them (tomodask convert --fill), or leave the image out"
        )
    # Continued to its mean beyond the borders, whatever becomes of the mean itself.
    mean = np.float32(values.mean(dtype=np.float64))
    values = values - mean
    if recipe.normalize == "std":
        spread = float(values.std(dtype=np.float64))
        values *= np.float32(1 / spread if spread > 0 else 0)
    shift, factor = recipe.shift, recipe.factor
    if recipe.matrix is not None:
        values, factor = _turned_image(values, recipe)
        shift = (0.0, 0.0)
    if factor != 1 or any(shift):
        values = resample_image(values, factor=factor, shift=shift, shape=recipe.shape)
    if recipe.normalize == "none":
        values = values + mean
    values = values * np.float32(recipe.sign)
    return values if recipe.lens is None else recipe.lens.apply(values)


def _turned_image(values: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, float]:
    """The image turned and shifted, and the bin that is left to do.

    Of a bin of more than two, all but the last factor of two is done before: the spline has then
    little to do, and no detail near its Nyquist frequency.
    """
    from scipy import ndimage

    assert recipe.matrix is not None
    matrix = np.reshape(recipe.matrix, (2, 2))
    # Of places from pixel size // 2, instead of from the middle: new = A old + d.
    old, new = (np.array([n // 2 - (n - 1) / 2 for n in shape[::-1]])
                for shape in (values.shape, recipe.aligned))  # fmt: skip
    shift = matrix @ old + recipe.shift - new
    first = max(1.0, recipe.factor / 2)
    aligned = recipe.aligned
    if first > 1:
        shape = int(values.shape[0] / first), int(values.shape[1] / first)
        values = resample_image(values, factor=first, shift=(0.0, 0.0), shape=shape)
        aligned = int(aligned[0] / first), int(aligned[1] / first)
    undo = np.linalg.inv(matrix)
    center = np.array([n // 2 for n in values.shape[::-1]]) + _MARGIN
    offset = center - undo @ (np.array([n // 2 for n in aligned[::-1]]) + shift / first)
    turned = ndimage.affine_transform(
        extended(extended(values, _MARGIN, axis=0), _MARGIN, axis=1),
        undo[::-1, ::-1],  # rows are y
        offset[::-1],
        output_shape=aligned,
        output=np.float32,
        order=_SPLINE,
        mode="constant",
    )
    return np.asarray(turned), recipe.factor / first


def extended(values: np.ndarray, margin: int, *, axis: int = -1) -> np.ndarray:
    """Continue beyond both ends by the mirror image, faded to zero.

    Examples
    --------
    >>> extended(np.array([2.0, 4.0]), 2).round(2).tolist()
    [1.0, 1.5, 2.0, 4.0, 3.0, 0.5]
    """
    pads = [(0, 0)] * values.ndim
    pads[axis] = (margin, margin)
    fade = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, margin + 1) / (margin + 1))
    window = np.concatenate([fade[::-1], np.ones(values.shape[axis]), fade]).astype(values.dtype)
    shape = [1] * values.ndim
    shape[axis] = -1
    return np.asarray(np.pad(values, pads, mode="symmetric") * window.reshape(shape))


def resample_image(
    image: np.ndarray, *, factor: float, shift: tuple[float, float], shape: tuple[int, int]
) -> np.ndarray:
    """Shift an image and bin it, by its Fourier series.

    Parameters
    ----------
    image : array of float32, shape (y, x)
        Of zero mean, or nearly so.
    factor : float
        Old pixels per new one, at least 1; frequencies beyond the new Nyquist are cut off.
    shift : (float, float)
        (x, y), in old pixels.
    shape : (int, int)
        Of the result; its pixel ``size // 2`` is the old one moved by `shift`.
    """
    margin = _MARGIN * ceil(factor)
    spectrum: np.ndarray = extended(extended(image, margin, axis=0), margin, axis=1)
    axes = []
    for axis in (0, 1):
        long, short = _lengths(spectrum.shape[axis], factor)
        start = image.shape[axis] // 2 - shift[1 - axis] + margin - shape[axis] // 2 * factor
        axes.append((long, short, start))
    (ly, sy, y), (lx, sx, x) = axes
    pads = (0, ly - spectrum.shape[0]), (0, lx - spectrum.shape[1])
    spectrum = scipy.fft.rfft2(np.pad(spectrum, pads))
    ky = np.fft.fftfreq(sy, 1 / sy).astype(int)
    kx = np.arange(sx // 2 + 1)
    kept = spectrum[ky][:, kx]
    if sy % 2 == 0:
        kept[sy // 2] = 0
    if sx % 2 == 0:
        kept[:, -1] = 0
    kept *= np.exp(2j * np.pi * ky * (y / ly)).astype(np.complex64)[:, None]
    kept *= np.exp(2j * np.pi * kx * (x / lx)).astype(np.complex64) * np.float32(
        sy * sx / (ly * lx)
    )
    return np.ascontiguousarray(scipy.fft.irfft2(kept, (sy, sx))[: shape[0], : shape[1]])


def _lengths(least: int, factor: float) -> tuple[int, int]:
    """Old and new samples of one period, in the ratio `factor` (to 1e-6).

    Where nothing is cut off the number is odd: without a Nyquist frequency, whose shift by a part
    of a pixel has no meaning.
    """
    first = ceil(least / factor)
    step = 1
    if factor == 1:
        first, step = first // 2 * 2 + 1, 2
    new = first + step * np.arange(max(first, 200))
    old = np.rint(new * factor).astype(int)
    off = np.abs(old / (new * factor) - 1)
    exact = np.flatnonzero((off < 1e-6) & (old >= least))
    if not len(exact):
        best = int(np.argmin(np.where(old >= least, off, 1.0)))
        return int(old[best]), int(new[best])
    for place in exact[:48]:  # of the shortest, one that is quick
        if scipy.fft.next_fast_len(int(new[place]), real=True) == new[place]:
            return int(old[place]), int(new[place])
    return int(old[exact[0]]), int(new[exact[0]])
