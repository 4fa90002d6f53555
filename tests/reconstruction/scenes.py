"""Volumes and their tilt series for the tests of this room; slow, obvious references."""

import dask.array as da
import numpy as np

from tomodask.arrays.projection import project
from tomodask.data.tilt_series_array import as_tilt_series


def blobs(shape, places, sigma=1.6, heights=None):
    """Gaussian blobs at places (z, y, x) from the middle voxel, ``size // 2``."""
    axes = [np.arange(n) - n // 2 for n in shape]
    out = np.zeros(shape)
    for number, place in enumerate(places):
        parts = [
            np.exp(-((axis - at) ** 2) / (2 * sigma**2))
            for axis, at in zip(axes, place, strict=True)
        ]
        height = 1.0 if heights is None else heights[number]
        out += height * parts[0][:, None, None] * parts[1][:, None] * parts[2]
    return out.astype(np.float32)


def series_of(volume, angles, *, pixel_size=5.0, images=None, **known):
    """The noise-free tilt series of a volume, one block an image."""
    images = project(volume, angles) if images is None else images
    return as_tilt_series(
        da.from_array(np.asarray(images, np.float32), chunks=(1, -1, -1)),
        angle=angles,
        pixel_size=pixel_size,
        name="TS",
        **known,
    )


def slow_projection(volume, angle, width):
    """Each voxel onto the detector by the sum that defines a band-limited row: slow."""
    nz, _, nx = volume.shape
    theta = np.deg2rad(angle)
    z, x = np.arange(nz) - nz // 2, np.arange(nx) - nx // 2
    at = x[None, :] * np.cos(theta) + z[:, None] * np.sin(theta)
    pixels = np.arange(width) - width // 2
    return np.einsum("zyx,zxp->yp", volume, np.sinc(pixels - at[:, :, None]))


def slow_back_projection(images, angles, depth):
    """Weighted back-projection by its definition: the ramp's samples and sinc interpolation."""
    tilts, ny, width = images.shape
    n = np.arange(-2 * width, 2 * width + 1)
    kernel = np.zeros(len(n))
    kernel[n == 0] = 0.25
    kernel[n % 2 != 0] = -1 / (np.pi * n[n % 2 != 0]) ** 2
    order = np.argsort(angles)
    weight = np.empty(tilts)
    weight[order] = np.deg2rad(np.gradient(np.asarray(angles, float)[order]))
    z, x = np.arange(depth) - depth // 2, np.arange(width) - width // 2
    out = np.zeros((depth, ny, width))
    for image, angle, share in zip(images, angles, weight, strict=True):
        rows = np.array([np.convolve(row, kernel)[2 * width : 3 * width] for row in image])
        theta = np.deg2rad(angle)
        at = x[None, :] * np.cos(theta) + z[:, None] * np.sin(theta) + width // 2
        out += share * np.einsum("yp,zxp->zyx", rows, np.sinc(at[:, :, None] - np.arange(width)))
    return out
