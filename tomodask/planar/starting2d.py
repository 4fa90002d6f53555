"""Where 2D classes start: from images drawn by the seed, low-passed.

An average of many images that are not aligned shows a blob, whatever they show, and blobs are all
alike.  A single image keeps its view; low-passed to a fraction of the particle, it holds more
signal than noise where the image as a whole holds a twentieth.  What it got wrong the first
assignment mends: its class is of many.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from tomodask.cluster import compute
from tomodask.errors import InputError
from tomodask.planar.class_sums import normalised
from tomodask.planar.frc import low_pass_rings, ring_weighted
from tomodask.planar.image_optics import Correction, corrected_images
from tomodask.planar.transforming import disc, soft_disc

__all__ = ["given_references", "start_images"]


def start_images(
    images: xr.DataArray,
    classes: int,
    *,
    radius: float,
    resolution: float,
    ctf: Correction | None,
    seed: int,
) -> np.ndarray:
    """So many images, drawn by the seed and low-passed, as first references; computes.

    Images that are not finite or constant are passed over.

    Parameters
    ----------
    images : DataArray, dims (image, y, x)
    classes : int
    radius, resolution : float
        Å.
    ctf : {"multiply", "flip"}, optional
    seed : int

    Returns
    -------
    array of float32, shape (classes, n, n)

    Raises
    ------
    InputError
        If fewer images hold something.
    """
    n, pixel_size = images.sizes["x"], float(images.attrs["pixel_size"])
    order = np.random.default_rng([seed, 0]).permutation(images.sizes["image"])
    weights = low_pass_rings(n, pixel_size=pixel_size, resolution=resolution)
    outside = ~disc(n, min(radius / pixel_size, n / 2 - 1))
    window = soft_disc(n, n / 2 - 3, edge=2.0)
    ready = corrected_images(images, ctf)
    out: list[np.ndarray] = []
    for first in range(0, len(order), classes):
        # In the order of the stack, so that each block is read once.
        rows = np.sort(order[first : first + classes])
        drawn = compute(ready[rows], label="first references", passing=True).to_numpy()
        for row in order[first : first + classes]:
            image, _ = normalised(drawn[np.searchsorted(rows, row)], outside)
            if image is not None and len(out) < classes:
                out.append(ring_weighted(image * window, weights))
        if len(out) == classes:
            return np.stack(out)
    raise InputError(
        f"only {len(out)} of {len(order)} images hold something, fewer than {classes} classes; "
        "look at the images, or ask for fewer classes"
    )


def given_references(references: xr.DataArray, images: xr.DataArray, classes: int) -> np.ndarray:
    """References of the user, as they are.

    Raises
    ------
    InputError
        If they do not fit the images or the number of classes, or hold NaN.
    """
    n, pixel_size = images.sizes["x"], float(images.attrs["pixel_size"])
    stack = np.asarray(references.to_numpy(), np.float32)
    if stack.shape != (classes, n, n):
        raise InputError(
            f"references must be {classes} images of {n} × {n} pixels, one a class, got an array "
            f"of shape {stack.shape}"
        )
    size = references.attrs.get("pixel_size")
    if size is not None and abs(float(size) / pixel_size - 1) > 1e-3:
        raise InputError(
            f"references have pixels of {float(size):g} Å, images of {pixel_size:g} Å; resample "
            "the references"
        )
    if not np.isfinite(stack).all():
        raise InputError("references hold NaN or infinite pixels; give others")
    return stack
