"""Images as points of a plane: t-SNE of what 2SDR keeps of them.

.. [1] van der Maaten & Hinton, "Visualizing data using t-SNE", J. Mach. Learn. Res. 9, 2579 (2008).
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from tomodask.arrays.threads import one_thread_each
from tomodask.errors import InputError

__all__ = ["can_embed", "embed_images"]


def can_embed() -> bool:
    """Whether what `embed_images` needs is installed."""
    return importlib.util.find_spec("sklearn") is not None


def embed_images(features: Any, *, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """Lay images out in the plane, those that are alike beside each other, by t-SNE.

    Parameters
    ----------
    features : array, shape (image, k)
        As `TwoStageReduction` gives them; what is lazy is computed.
    perplexity : float
        Neighbours that count for each image; at most a third of the others.
    seed : int

    Returns
    -------
    array of float64, shape (image, 2)
        Begun from the first two components, so that the same features give the same plane.
        Distances within a cluster tell of likeness; those between clusters, and the clusters'
        sizes, do not.

    Raises
    ------
    InputError
        If scikit-learn is not installed, there are fewer than four images, or features are not
        finite.
    """
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or len(values) < 4:
        raise InputError(
            f"features must have the axes (image, component), four images or more, got shape "
            f"{values.shape}"
        )
    if not np.isfinite(values).all():
        raise InputError("features hold values that are not finite; leave these images out")
    if not (np.isfinite(perplexity) and perplexity > 0):
        raise InputError(f"perplexity must be above 0, got {perplexity}")
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise InputError(
            "t-SNE needs scikit-learn, which is not installed; pip install 'tomodask[planar]'"
        ) from None
    nearest = min(perplexity, (len(values) - 1) / 3)
    scale = values[:, 0].std() or 1.0
    start = np.zeros((len(values), 2))
    start[:, : min(2, values.shape[1])] = values[:, :2] / scale * 1e-4
    if values.shape[1] == 1:  # a line stays a line without a little noise
        start[:, 1] = np.random.default_rng(seed).normal(scale=1e-6, size=len(values))
    with one_thread_each():
        plane = TSNE(perplexity=nearest, init=start, random_state=seed, n_jobs=1)
        return np.asarray(plane.fit_transform(values), np.float64)
