"""How even the clusters of `subdivision.py` are: of features, and of boxes at normalised poses.

Before learned features, subtomograms were brought to one pose by themselves: the centre of mass of
their smoothed density to the middle, its principal axes along the box's (pose normalisation, see
Xu et al. 2017 and the work they cite), and k-means saw the voxels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.ndimage as ndi

from tomodask.classification.clusters.kmeans import KMeans
from tomodask.classification.clusters.tables import cluster_table, evenness
from tomodask.nets.boxes.normalisation import normalised

NORMALISED = "voxels at normalised poses"
SMALL = 10  # particles: a cluster that none would look at
_SMOOTH = 30.0  # Å, of the Gaussian
_FIELD = 368.0  # Å, the edge of a box


def evenness_rows(
    features: Mapping[str, np.ndarray], boxes: np.ndarray, names: np.ndarray, clusters: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the clusters are like: of each network's features, and of poses normalised."""
    for name, values in features.items():
        yield f"features of {name}", _row(values, names, clusters)
    at_one_pose = np.stack([pose_normalised(box) for box in normalised(boxes)])
    yield NORMALISED, _row(at_one_pose.reshape(len(boxes), -1), names, clusters)


def _row(values: np.ndarray, names: np.ndarray, clusters: int) -> dict[str, Any]:
    found = KMeans(clusters, seed=1).fit(values)
    table = cluster_table(values, found, names=names)
    share = table["particles"] / table["particles"].sum()
    return {
        "boxes": len(values),
        "sizes": sorted(table["particles"].tolist(), reverse=True),
        "evenness": evenness(table["particles"]),
        "small": int((table["particles"] <= SMALL).sum()),
        "purity": float((table["purity"] * share).sum()),
    }


def pose_normalised(box: np.ndarray) -> np.ndarray:
    """A box about its centre of mass, turned so that its principal axes lie along z, y, x.

    Both are those of what is one standard deviation above the mean, after smoothing, in the ball
    that fits the box; the axis of most spread is the first, and each points to where the density
    is skewed to, but for the last, which makes them right-handed.

    Examples
    --------
    >>> z, y, x = np.indices((24, 24, 24)) - 12.0
    >>> def rod(z, y, x):
    ...     return np.exp(-((z / 8) ** 2) - (y / 3) ** 2 - (x / 2) ** 2)
    >>> lying, standing = pose_normalised(rod(x, y - 2, z)), pose_normalised(rod(z, y, x))
    >>> bool(np.corrcoef(lying.ravel(), standing.ravel())[0, 1] > 0.95)
    True
    """
    n = box.shape[0]
    places = np.indices(box.shape).reshape(3, -1) - n // 2
    smooth = ndi.gaussian_filter(box, _SMOOTH * n / _FIELD).ravel()
    inside = (places**2).sum(0) <= (n // 2 - 1) ** 2
    weight = np.where(inside, smooth - smooth[inside].mean() - smooth[inside].std(), 0).clip(0)
    if not weight.sum() > 0:
        return box.astype(np.float32)
    centre = places @ weight / weight.sum()
    away = places - centre[:, None]
    _, axes = np.linalg.eigh((away * weight) @ away.T)
    axes = axes[:, ::-1]  # columns, the most spread first
    skew = (axes.T @ away) ** 3 @ weight
    axes = axes * np.where(skew < 0, -1, 1)
    axes[:, 2] *= np.sign(np.linalg.det(axes))
    # Of the new box, voxel q shows what lies at `axes · q` from the centre of mass.
    offset = centre + n // 2 - axes @ np.full(3, float(n // 2))
    return np.asarray(ndi.affine_transform(box, axes, offset, order=1), np.float32)
