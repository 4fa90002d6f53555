"""References, images of them at known poses, and stacks, for tests of alignment in the plane."""

import numpy as np
import scipy.ndimage as ndi
import xarray as xr

from tomodask.planar.poses2d import Poses2D, rendered

PIXEL = 2.5


def views(shape, count, seed=0, width=1.8, radius=None):
    """References without symmetry: soft random blobs within a disc."""
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[: shape[0], : shape[1]]
    away = np.hypot(y - shape[0] // 2, x - shape[1] // 2)
    disc = np.clip((radius or min(shape) / 2 - 5) - away, 0, 3) / 3
    out = np.stack([ndi.gaussian_filter(rng.normal(size=shape), width) for _ in range(count)])
    out = (out - out.mean()) * disc
    return (out / out.std(axis=(1, 2), keepdims=True)).astype(np.float32)


def shown(references, count, *, shift=2.0, noise=0.0, mirror=True, seed=1):
    """Images of references at random poses, the poses (pixels), and the classes from 1."""
    rng = np.random.default_rng(seed)
    psi, away = rng.uniform(-180, 180, count), shift * np.sqrt(rng.uniform(size=count))
    angle = rng.uniform(0, 2 * np.pi, count)
    truth = Poses2D(
        psi, away * np.sin(angle), away * np.cos(angle), mirror & (rng.random(count) < 0.5)
    )
    classes = rng.integers(len(references), size=count)
    images = np.stack(
        [
            rendered(references[c], psi=p, shift_y=y, shift_x=x, mirror=m)
            for c, p, y, x, m in zip(
                classes, truth.psi, truth.shift_y, truth.shift_x, truth.mirror, strict=True
            )
        ]
    )
    return (images + noise * rng.normal(size=images.shape)).astype(np.float32), truth, classes + 1


def stack(images, **attrs):
    return xr.DataArray(images, dims=("image", "y", "x"), attrs={"pixel_size": PIXEL, **attrs})


def as_references(maps):
    return xr.DataArray(maps, dims=("class", "y", "x"), attrs={"pixel_size": PIXEL})
