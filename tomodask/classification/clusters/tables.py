"""Clusters of a subdivision: how large they are, what they hold, and which particles are averaged.

The parts of the ``subdivide`` job that know no file: features → `KMeans` → `cluster_table` →
`members` of the clusters worth it → `average_cluster` → `nearest_known`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from dask.delayed import delayed

from tomodask.classification.clusters.kmeans import KMeans
from tomodask.classification.features.embedding import feature_array
from tomodask.cluster import compute
from tomodask.errors import InputError

__all__ = ["centre_distances", "cluster_table", "evenness", "members"]


def cluster_table(
    features: Any, clusters: KMeans, *, names: Any = None, distances: np.ndarray | None = None
) -> pd.DataFrame:
    """What the clusters are.  Computes.

    Parameters
    ----------
    features : Dataset, DataArray, Dask or NumPy array, shape (particle, feature)
        Those that `clusters` was fitted to.
    clusters : KMeans
        Fitted.
    names : sequence of str, optional
        The kind of each particle, where it is known.
    distances : array, shape (particle,), optional
        From `centre_distances`, where they are known already: features are not read again.

    Returns
    -------
    DataFrame
        A row a cluster: ``cluster`` (from 0), ``particles``, ``radius`` (root of the mean squared
        distance to the centre); with `names` also ``kind``, the most frequent of the cluster (of
        equals the first by name), and ``purity``, its share.

    Raises
    ------
    InputError
        If the clusters are not fitted, or of other features.
    """
    distances = centre_distances(features, clusters) if distances is None else distances
    sizes = np.asarray(clusters.sizes_, np.int64)
    known = np.flatnonzero(clusters.labels_ >= 0)
    labels = clusters.labels_[known].astype(np.int64)
    squared = np.bincount(labels, distances[known], minlength=len(sizes))
    with np.errstate(invalid="ignore"):
        radius = np.sqrt(squared / sizes)  # NaN of an empty one
    table = pd.DataFrame({"cluster": np.arange(len(sizes)), "particles": sizes, "radius": radius})
    if names is not None:
        given = np.asarray(names).astype(str)
        if len(given) != len(clusters.labels_):
            raise InputError(
                f"names must be one a particle, {len(clusters.labels_)}, got {len(given)}"
            )
        kinds, which = np.unique(given, return_inverse=True)
        pairs = np.bincount(labels * len(kinds) + which[known], minlength=len(sizes) * len(kinds))
        counts = pairs.reshape(len(sizes), len(kinds))
        table["kind"] = np.where(sizes > 0, kinds[counts.argmax(1)], "").astype(object)
        with np.errstate(invalid="ignore"):
            table["purity"] = counts.max(1) / sizes
    return table


def evenness(sizes: Any) -> float:
    """How even clusters are: entropy of their shares over that of equal ones, 0 to 1.

    Examples
    --------
    >>> evenness([5, 5, 5, 5]), evenness([20, 0, 0, 0])
    (1.0, 0.0)
    """
    counts = np.asarray(sizes, float)
    if counts.ndim != 1 or len(counts) < 2 or not counts.sum() > 0 or (counts < 0).any():
        raise InputError("sizes must be those of two clusters or more, with particles in them")
    shares = counts[counts > 0] / counts.sum()
    return float(abs((shares * np.log(shares)).sum()) / np.log(len(counts)))


def members(
    features: Any,
    clusters: KMeans,
    cluster: int,
    *,
    most: int | None = None,
    distances: np.ndarray | None = None,
) -> np.ndarray:
    """Rows of the particles of a cluster, those nearest to its centre if it has more than `most`.

    Computes, unless `distances` (from `centre_distances`) are given.

    Returns
    -------
    array of int, ascending
    """
    if not 0 <= cluster < len(clusters.sizes_):
        raise InputError(f"cluster must be within 0 to {len(clusters.sizes_) - 1}, got {cluster}")
    rows = np.flatnonzero(clusters.labels_ == cluster)
    if most is None or len(rows) <= most:
        return rows
    if most < 1:
        raise InputError(f"most must be at least 1, got {most}")
    distances = centre_distances(features, clusters) if distances is None else distances
    return np.sort(rows[np.argsort(distances[rows], kind="stable")[:most]])


def centre_distances(features: Any, clusters: KMeans) -> np.ndarray:
    """Squared distance of each particle to its centre; NaN for those without features.

    Computes: one pass over the features, that serves all clusters.
    """
    if not hasattr(clusters, "labels_"):
        raise InputError("clusters are not fitted yet: call fit first")
    values = feature_array(features)
    wanted = (len(clusters.labels_), clusters.cluster_centers_.shape[1])
    if values.shape != wanted:
        raise InputError(
            f"features must be those that the clusters were found in, of shape {wanted}, got "
            f"{values.shape}"
        )
    first = np.concatenate([[0], np.cumsum(values.chunks[0])])
    whole = values.rechunk({1: -1})
    squared = delayed(_squared, pure=False)
    parts = [
        squared(block, clusters.cluster_centers_, clusters.labels_[low:high])
        for block, low, high in zip(
            whole.to_delayed().ravel().tolist(), first[:-1], first[1:], strict=True
        )
    ]
    found = compute(parts, label="distances", passing=True)
    return np.asarray(np.concatenate(found))


def _squared(block: np.ndarray, centres: np.ndarray, labels: np.ndarray) -> np.ndarray:
    out = ((np.asarray(block, np.float64) - centres[labels]) ** 2).sum(1)
    return np.asarray(np.where(labels < 0, np.nan, out))
