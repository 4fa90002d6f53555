"""Class averages of aligned images and their halves: one tree of exact sums.

Each image is turned, moved and, where its pose says so, mirrored into the reference's frame once,
by exact interpolation, and added to its class and half.  With a correction of the contrast
transfer, ``"multiply"``, images are multiplied by their CTF and the sum is divided by that of CTF²,
plus a tenth of its mean over the ring as Wiener's filter would; the whole is multiplied by 1.1, so
that a frequency of mean weight keeps its height, as the 3D average does.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import dask.array as da
import dask.bag as db
import numpy as np
import pandas as pd
import scipy.fft
import xarray as xr
from dask.delayed import Delayed, delayed

from tomodask.arrays.backend import to_numpy
from tomodask.averaging.fsc import resolution_at
from tomodask.data.images import images_per_block
from tomodask.errors import InputError
from tomodask.planar.class_sums import ClassSums, sum_images, unit_bits
from tomodask.planar.frc import frc, ring_mean
from tomodask.planar.image_optics import Correction, check_correction, image_optics
from tomodask.planar.numbering import half_numbers, image_numbers
from tomodask.planar.poses2d import Poses2D
from tomodask.planar.transforming import soft_disc

__all__ = ["ClassAverages", "average_images", "check_images"]

_log = logging.getLogger(__name__)
_SHARE = 0.1  # of the mean weight of a ring, added to each weight


@dataclass(frozen=True)
class ClassAverages:
    """Averages of classes 1 … K, of images brought to root mean square 1.

    Attributes
    ----------
    averages : array of float32, shape (classes, n, n)
        Centre at pixel ``n // 2``; 0 outside of the inscribed disc, and for a class without images.
    halves : array of float32, shape (2, classes, n, n)
    counts : array of int64, shape (2, classes)
        Images in each half.
    pixel_size : float
        Å.
    set_aside : DataFrame
        ``image`` (number) and ``reason`` of what could not be averaged.
    """

    averages: np.ndarray = field(repr=False)
    halves: np.ndarray = field(repr=False)
    counts: np.ndarray
    pixel_size: float
    set_aside: pd.DataFrame = field(repr=False)

    def frc(self, *, radius: float | None = None) -> pd.DataFrame:
        """Fourier ring correlation of the halves of each class.

        Returns
        -------
        DataFrame
            ``class``, ``frequency`` (1/Å), ``resolution`` (Å), ``correlation``; NaN where a half
            has no image.
        """
        parts = []
        for c in range(len(self.averages)):
            one, two = self.halves[:, c]
            curve = frc(one, two, pixel_size=self.pixel_size, radius=radius)
            if not self.counts[:, c].all():
                curve["correlation"] = np.nan
            parts.append(curve.assign(**{"class": c + 1}))
        table = pd.concat(parts, ignore_index=True)
        return table[["class", "frequency", "resolution", "correlation"]]

    def resolutions(self, *, threshold: float = 0.143, radius: float | None = None) -> np.ndarray:
        """Resolution of each class, Å: where its FRC falls below `threshold`; infinite if none."""
        curves = self.frc(radius=radius).groupby("class")
        return np.array([resolution_at(curve, threshold) for _, curve in curves])


def average_images(
    images: xr.DataArray,
    poses: pd.DataFrame,
    *,
    classes: int | None = None,
    radius: float | None = None,
    ctf: Correction | None = None,
    batch: int | None = None,
    split_every: int = 8,
) -> Delayed:
    """Average images at their poses, class by class.

    Parameters
    ----------
    images : DataArray, dims (image, y, x)
        Square; lazy or not; attrs ``pixel_size``, Å.  Whole numbers in a coordinate ``image`` are
        the numbers of the images, else their places are.
    poses : DataFrame
        ``psi``, ``shift_y``, ``shift_x`` (Å), and, where known, ``mirror``, ``class`` (from 1),
        ``half`` (1, 2) and ``reason``; see `tomodask.planar.poses2d`.  A row an image in their
        order, or, with an index called ``image``, a row for each of some by number.  Rows without
        an angle or a class, or with a ``reason``, are left out.
    classes : int, optional
        How many there are; by default the largest ``class``.
    radius : float, optional
        Of the particle, Å: the mean of what is beyond is taken for the background.  By default
        the inscribed disc.
    ctf : {"multiply", "flip"}, optional
        Correct for the contrast transfer: images times their CTF, the sum over that of CTF²; or
        images times its sign, the sum over their number.
    batch : int, optional
        Images that a task sums; by default `images_per_block`.
    split_every : int
        Sums that one task of the reduction takes.

    Returns
    -------
    Delayed of ClassAverages
        Halves by the column ``half``, else by the image's number: even, odd.  Nothing is computed
        before ``.compute()``.

    Raises
    ------
    InputError
        If the images are not square, the poses do not match them or lack a column, a class or a
        half is none, the radius leaves the image, or the optics are missing.

    Notes
    -----
    Chunks, batches, workers and `split_every` change no bit, see `tomodask.planar.class_sums`.
    """
    n, pixel_size = check_images(images)
    check_correction(ctf)
    if batch is None:
        batch = images_per_block(images.sizes["image"], n**2)
    if batch < 1 or split_every < 2:
        raise InputError(f"need batch ≥ 1 and split_every ≥ 2, got {batch=}, {split_every=}")
    edge = n * pixel_size
    if radius is not None and not 2 * pixel_size <= radius <= edge / 2:
        raise InputError(
            f"radius must be within two pixels and half the image, {2 * pixel_size:g} to "
            f"{edge / 2:g} Å, got {radius:g}"
        )
    numbers = image_numbers(images)
    table = _matched(poses, numbers)
    slot, count = _slots(table, numbers, classes)
    missing = {"psi", "shift_y", "shift_x"} - set(table)
    if missing:
        raise InputError(f"poses have no column {sorted(missing)[0]}; align the images first")
    kept = slot >= 0
    # What is left out has no pose: 0 in its place is not looked at.
    psi, y, x = (
        np.where(kept, table[name].to_numpy(float), 0.0) for name in ("psi", "shift_y", "shift_x")
    )
    mirror = np.zeros(len(table), bool)
    if "mirror" in table:
        mirror = table["mirror"].fillna(False).to_numpy().astype(bool)
    optics = image_optics(images) if ctf is not None else None
    lazy = images.data if isinstance(images.data, da.Array) else da.from_array(images.data)
    blocks = list(lazy.rechunk({0: batch, 1: -1, 2: -1}).to_delayed().ravel())
    bits = unit_bits(len(numbers), n)
    parts = []
    for i, block in enumerate(blocks):
        here = slice(i * batch, (i + 1) * batch)
        if not kept[here].any():
            continue
        poses_here = Poses2D(psi[here], y[here] / pixel_size, x[here] / pixel_size, mirror[here])
        parts.append(
            delayed(_sums, pure=True)(
                block,
                poses_here,
                slot[here],
                numbers[here],
                radius=n / 2 - 1 if radius is None else radius / pixel_size,
                bits=bits,
                optics=None if optics is None else optics[here],
                correction=ctf,
            )
        )
    if not parts:
        raise InputError("no image is left to average; give poses, or others")
    total = db.from_delayed(parts).reduction(_merge, _merge, split_every=split_every)
    return delayed(_finish, pure=True)(total.to_delayed(), count, pixel_size)


def check_images(images: xr.DataArray) -> tuple[int, float]:
    """Edge in pixels, and pixel size in Å, of images that can be averaged.

    Raises
    ------
    InputError
        If they are not square or tiny, or nobody says the size of a pixel.
    """
    if images.dims != ("image", "y", "x") or images.shape[1] != images.shape[2]:
        raise InputError(
            f"images must be square, with dims (image, y, x), got {images.dims} of shape "
            f"{images.shape}"
        )
    if images.shape[1] < 8:
        raise InputError(f"images must have 8 by 8 pixels at least, got shape {images.shape}")
    size = images.attrs.get("pixel_size")
    if size is None or not np.isfinite(size) or size <= 0:
        raise InputError(f"images.attrs['pixel_size'] must be a length in Å, got {size}")
    return int(images.shape[1]), float(size)


def _matched(poses: pd.DataFrame, numbers: np.ndarray) -> pd.DataFrame:
    """A row an image, in the images' order; empty rows where there is no pose."""
    if poses.index.name == "image":
        unknown = ~poses.index.isin(numbers)
        if unknown.any() or poses.index.has_duplicates:
            which = poses.index[unknown | poses.index.duplicated()][0]
            raise InputError(
                f"poses name image {which}, which is not there, or is named twice; "
                "give one row an image"
            )
        if np.array_equal(poses.index, numbers):
            return poses
        table = poses.reindex(numbers)
        if "half" in poses:  # of images without a pose: any, they are left out
            table["half"] = table["half"].fillna(1)
        return table
    if len(poses) != len(numbers):
        raise InputError(
            f"poses have {len(poses)} rows for {len(numbers)} images; give one for each, or an "
            "index called image"
        )
    return poses.set_axis(pd.Index(numbers, name="image"))


def _slots(table: pd.DataFrame, numbers: np.ndarray, classes: int | None) -> tuple[np.ndarray, int]:
    """2 · class + half, from 0; -1 for what is left out; and the number of classes."""
    label = np.ones(len(table), np.int64)
    if "class" in table:
        wide = table["class"].fillna(0).to_numpy(float)
        if (wide != np.floor(wide)).any() or (wide < 0).any():
            raise InputError("class must hold whole numbers from 1, 0 where there is none")
        label = wide.astype(np.int64)
    out = (label < 1) | table["psi"].isna().to_numpy() if "psi" in table else label < 1
    for name in ("shift_y", "shift_x"):
        if name in table:
            out = out | table[name].isna().to_numpy()
    if "reason" in table:
        out = out | table["reason"].fillna("").astype(str).ne("").to_numpy()
    most = int(label[~out].max(initial=0))
    count = max(most, 1) if classes is None else int(classes)
    if count < 1 or most > count:
        raise InputError(f"classes must be at least 1 and the largest class, {most}, got {classes}")
    half = half_numbers(table, numbers)
    return np.where(out, -1, 2 * (label - 1) + half - 1), count


def _sums(block: np.ndarray, *args: Any, **settings: Any) -> list[ClassSums]:
    return [sum_images(to_numpy(block), *args, **settings)]


def _merge(parts: Any) -> ClassSums:
    total: ClassSums = reduce(ClassSums.merge, parts)
    return total


def _finish(sums: ClassSums, classes: int, pixel_size: float) -> ClassAverages:
    data, weight, images = sums.totals(2 * classes)
    n = data.shape[1]
    # The inscribed disc was summed: its rim is softened, so that it is no edge to a spectrum.
    window = soft_disc(n, n / 2 - 3, edge=2.0)

    def average(total: np.ndarray, count: int, weights: np.ndarray | None) -> np.ndarray:
        if count == 0:
            return np.zeros((n, n), np.float32)
        if weights is None:
            return np.asarray(total / count * window, np.float32)
        level = ring_mean(weights)
        spectrum = scipy.fft.rfft2(total) * (1 + _SHARE) / (weights + _SHARE * level)
        return np.asarray(scipy.fft.irfft2(spectrum, s=(n, n)) * window, np.float32)

    halves = np.zeros((2, classes, n, n), np.float32)
    averages = np.zeros((classes, n, n), np.float32)
    for c in range(classes):
        for h in (0, 1):
            one = None if weight is None else weight[2 * c + h]
            halves[h, c] = average(data[2 * c + h], int(images[2 * c + h]), one)
        pair = slice(2 * c, 2 * c + 2)
        both = None if weight is None else weight[pair].sum(0)
        averages[c] = average(data[pair].sum(0), int(images[pair].sum()), both)
    aside = pd.DataFrame(list(sums.set_aside), columns=["image", "reason"])
    if len(aside):
        told = "; ".join(f"image {i}: {why}" for i, why in sums.set_aside[:5])
        more = f"; and {len(aside) - 5} more" if len(aside) > 5 else ""
        _log.warning("%d images are left out of the averages: %s%s", len(aside), told, more)
    return ClassAverages(averages, halves, images.reshape(classes, 2).T, pixel_size, aside)
