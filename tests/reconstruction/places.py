"""Where points are put, how they are tilted, and where they are found."""

import numpy as np

WIDE = np.arange(-90.0, 90.0, 2.0)
TILTS = np.arange(-60.0, 61.0, 3.0)
PLACES = [(3, 4, -8), (-4, -6, 9), (0, 2, 1)]


def mass_centre(volume, place, reach=5):
    """Centre of mass of what is around a place, from the middle voxel."""
    corner = [n // 2 + round(at) for n, at in zip(volume.shape, place, strict=True)]
    part = volume[tuple(slice(c - reach, c + reach + 1) for c in corner)].astype(float)
    axes = np.ogrid[tuple(slice(-reach, reach + 1) for _ in range(3))]
    return [
        float((part * axis).sum() / part.sum()) + c - n // 2
        for axis, c, n in zip(axes, corner, volume.shape, strict=True)
    ]
