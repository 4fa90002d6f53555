"""Sums of aligned images by class and half, exact: no order, batch or tree changes their last bit.

As in 3D (`tomodask.averaging.half_sums`) whole numbers are added.  Here one unit serves all: every
image is first brought to mean 0 outside of the particle and root mean square 1, so that no pixel of
n by n is larger than n whatever the image holds, and what the unit leaves of 62 bits after the
number of images and n (35 for 10⁶ images of 128 pixels) is finer than single precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from tomodask.arrays.optics import image_frequencies
from tomodask.planar.image_optics import Correction, ImageOptics
from tomodask.planar.poses2d import FAULTS, Poses2D, shift_in_image
from tomodask.planar.transforming import disc, fine_image, image_frame, transform_into

__all__ = ["ClassSums", "matrices2d", "normalised", "sum_images", "unit_bits"]

_WEIGHT_BITS = 30  # of a squared CTF; sums of up to 2³² images


@dataclass(frozen=True)
class ClassSums:
    """Sums over images; a slot is a half of a class.  Adding two is associative, exactly.

    Attributes
    ----------
    bits : int
        Binary digits of a pixel behind the point.
    slots : array of int64, shape (m,)
        2 · class + half, both from 0; ascending.
    data : array of int64, shape (m, n, n)
        Σ image (times its CTF, where it is corrected for), in the reference's frame.
    weight : array of int64, shape (m, n, n // 2 + 1), optional
        Σ CTF² there, laid out as ``rfft2``.
    images : array of int64, shape (m,)
    set_aside : tuple of (int, str)
        Number and reason of each image that could not be added.
    """

    bits: int
    slots: np.ndarray
    data: np.ndarray = field(repr=False)
    weight: np.ndarray | None = field(repr=False)
    images: np.ndarray
    set_aside: tuple[tuple[int, str], ...] = ()

    def merge(self, other: ClassSums) -> ClassSums:
        """The sums over both sets of images."""
        if self.bits != other.bits:
            raise ValueError(f"sums of {self.bits} and {other.bits} bits do not add up")
        slots = np.union1d(self.slots, other.slots)
        out = _empty(slots, self.data.shape[1], self.bits, self.weight is not None)
        for one in (self, other):
            at = np.searchsorted(slots, one.slots)
            out.data[at] += one.data
            out.images[at] += one.images
            if out.weight is not None and one.weight is not None:
                out.weight[at] += one.weight
        aside = tuple(sorted(self.set_aside + other.set_aside))
        return ClassSums(out.bits, slots, out.data, out.weight, out.images, aside)

    def totals(self, slots: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Sums of data, of weight and number of images of all `slots`, those without images 0."""
        n = self.data.shape[1]
        data, images = np.zeros((slots, n, n)), np.zeros(slots, np.int64)
        data[self.slots] = np.ldexp(self.data.astype(np.float64), -self.bits)
        images[self.slots] = self.images
        if self.weight is None:
            return data, None, images
        weight = np.zeros((slots, n, n // 2 + 1))
        weight[self.slots] = np.ldexp(self.weight.astype(np.float64), -_WEIGHT_BITS)
        return data, weight, images


def _empty(slots: np.ndarray, n: int, bits: int, weighted: bool) -> ClassSums:
    weight = np.zeros((len(slots), n, n // 2 + 1), np.int64) if weighted else None
    return ClassSums(
        bits,
        slots,
        np.zeros((len(slots), n, n), np.int64),
        weight,
        np.zeros(len(slots), np.int64),
    )


def unit_bits(images: int, size: int) -> int:
    """Digits behind the point that sums of so many images of `size` pixels may have.

    Examples
    --------
    >>> unit_bits(10**6, 128)
    34
    """
    # The largest pixel is `size`: all of the power in it.  Twice that, for interpolation.
    return 62 - math.ceil(math.log2(max(images, 2))) - math.ceil(math.log2(2 * size))


def normalised(image: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray | None, int]:
    """The image with mean 0 outside of the particle and root mean square 1.

    Parameters
    ----------
    image : array, shape (n, n)
    outside : array of bool, shape (n, n)

    Returns
    -------
    image : array of float32, or None
    fault : int
        Index of `tomodask.planar.poses2d.FAULTS`; 0 where there is an image.
    """
    # A copy, and in C order: a sum's last bit depends on the layout in memory.
    wide = np.array(image, np.float64, order="C")
    if not np.isfinite(wide.sum()):
        return None, FAULTS.index("not finite")
    if wide.min() == wide.max():
        return None, FAULTS.index("constant")
    wide /= np.abs(wide).max()  # squares of huge or tiny values fit
    wide -= wide[outside].mean()
    wide /= np.sqrt(np.mean(wide * wide))
    return wide.astype(np.float32), 0


def matrices2d(psi: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Reference → image on (y, x) columns, shape (..., 2, 2)."""
    along_y = shift_in_image(psi, mirror, 1.0, 0.0)
    along_x = shift_in_image(psi, mirror, 0.0, 1.0)
    return np.stack([np.stack(along_y, -1), np.stack(along_x, -1)], -1)


def sum_images(
    images: np.ndarray,
    poses: Poses2D,
    slots: np.ndarray,
    numbers: np.ndarray,
    *,
    radius: float,
    bits: int,
    optics: ImageOptics | None = None,
    correction: Correction | None = None,
) -> ClassSums:
    """Sums of a batch (the task ``average``).

    Parameters
    ----------
    images : array, shape (count, n, n)
    poses : Poses2D
        Of each image; shifts in pixels.
    slots : array of int, shape (count,)
        2 · class + half, from 0; of those below 0 nothing is added.
    numbers : array of int, shape (count,)
        What an image that cannot be added is called by.
    radius : float
        Of the particle, pixels: what is beyond is background.
    bits : int
        From `unit_bits` of all images of the job.
    optics : ImageOptics, optional
        Of each image, where `correction` is given.
    correction : {"multiply", "flip"}, optional
    """
    n = images.shape[-1]
    frame, outside = image_frame(n), ~disc(n, radius)
    if not outside.any():
        outside = ~disc(n, n / 2 - 1)
    present = np.unique(slots[slots >= 0]).astype(np.int64)
    weighted = correction == "multiply"
    sums = _empty(present, n, bits, weighted)
    matrices = matrices2d(poses.psi, poses.mirror)
    shifts = np.stack([poses.shift_y, poses.shift_x], -1)
    aside = []
    ky, kx = image_frequencies((n, n), 1.0 if optics is None else optics.pixel_size)
    for i in np.flatnonzero(slots >= 0).tolist():
        image, fault = normalised(images[i], outside)
        if image is None:
            aside.append((int(numbers[i]), FAULTS[fault]))
            continue
        response = None
        if optics is not None and correction is not None:
            response = optics.response(i, n, correction)
        at = int(np.searchsorted(present, slots[i]))
        transform_into(
            sums.data[at],
            fine_image(image, frame, response),
            frame,
            matrices[i],
            shifts[i],
            scale=2.0**bits,
        )
        sums.images[at] += 1
        if sums.weight is not None and optics is not None:
            m = matrices[i]
            turned = optics.ctf(i, m[0, 0] * ky + m[0, 1] * kx, m[1, 0] * ky + m[1, 1] * kx)
            squared = np.rint(np.ldexp(turned.astype(np.float64) ** 2, _WEIGHT_BITS))
            sums.weight[at] += squared.astype(np.int64)
    return ClassSums(bits, present, sums.data, sums.weight, sums.images, tuple(sorted(aside)))
