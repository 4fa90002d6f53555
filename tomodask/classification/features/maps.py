"""Features laid out in the plane: principal components, then t-SNE or UMAP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.arrays.threads import one_thread_each
from tomodask.classification.features.embedding import feature_array
from tomodask.cluster import compute
from tomodask.errors import InputError
from tomodask.planar.embedding import check_embedding, embed_images

__all__ = ["map_features"]


def map_features(
    features: Any,
    *,
    method: str = "tsne",
    perplexity: float = 30.0,
    neighbours: int = 15,
    components: int = 50,
    most: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """A map on which particles with like features lie beside each other.  Computes.

    Parameters
    ----------
    features : Dataset, DataArray, Dask or NumPy array, shape (particle, feature)
        Rows that hold NaN are left out.
    method : {"tsne", "umap"}
        UMAP needs umap-learn.
    perplexity : float
        Of t-SNE: neighbours that count for each particle.
    neighbours : int
        Of UMAP: the same.
    components : int
        Principal components that either is given; fewer where there are not so many.
    most : int
        Particles on the map, drawn by the seed; fewer where some of those have no features.  All
        of them are held in memory.
    seed : int

    Returns
    -------
    DataFrame
        ``map_1``, ``map_2`` of the particles on the map, in their order; the index, ``particle``,
        holds their names (row numbers, where they have none).  Distances within a cluster tell of
        likeness; those between clusters, and the clusters' sizes, do not.

    Raises
    ------
    InputError
        If scikit-learn, or umap-learn for UMAP, is not installed, fewer than four particles have
        features, or a parameter makes no sense.
    """
    for name, value, least in (("components", components, 2), ("most", most, 4)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} must be a whole number, at least {least}, got {value!r}")
    check_embedding(method)  # before features are made, which may take long
    values = feature_array(features)
    count = values.shape[0]
    rows = np.random.default_rng([seed, 3]).permutation(count)
    drawn = np.sort(rows[:most])
    taken = np.asarray(compute(values[drawn], label="map", passing=True), np.float64)
    sound = np.isfinite(taken).all(1)
    drawn, seen = drawn[sound], taken[sound]
    if len(seen) < 4:
        raise InputError(f"a map needs four particles with features or more, got {len(seen)}")
    plane = embed_images(
        _components(seen, components), method=method, perplexity=perplexity,
        neighbours=neighbours, seed=seed,
    )  # fmt: skip
    names = drawn
    if isinstance(features, xr.Dataset | xr.DataArray) and "particle" in features.coords:
        names = features["particle"].to_numpy()[drawn]
    index = pd.Index(names, name="particle")
    return pd.DataFrame({"map_1": plane[:, 0], "map_2": plane[:, 1]}, index=index)


def _components(values: np.ndarray, most: int) -> np.ndarray:
    """Along the leading principal components; the largest entry of each direction is positive."""
    centred = values - values.mean(0)
    with one_thread_each():
        _, _, directions = np.linalg.svd(centred, full_matrices=False)
        kept = directions[:most]
        signs = np.sign(kept[np.arange(len(kept)), np.abs(kept).argmax(1)])
        return np.asarray(centred @ (kept * signs[:, None]).T)
