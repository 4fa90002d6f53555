"""Images as points of a plane: t-SNE [1]_ or UMAP [2]_ of what 2SDR keeps of them.

Both begin from the first two components: what they keep of the whole depends on the start, not on
which of the two is taken [3]_.

.. [1] van der Maaten & Hinton, "Visualizing data using t-SNE", J. Mach. Learn. Res. 9, 2579 (2008).
.. [2] McInnes, Healy & Melville, "UMAP: uniform manifold approximation and projection for
   dimension reduction", arXiv:1802.03426 (2018).
.. [3] Kobak & Linderman, "Initialization is critical for preserving global data structure in both
   t-SNE and UMAP", Nat. Biotechnol. 39, 156 (2021).
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from tomodask.arrays.threads import one_thread_each
from tomodask.errors import InputError

__all__ = ["EMBEDDINGS", "can_embed", "check_embedding", "embed_images"]

#: Method → what it is called.
EMBEDDINGS = {"tsne": "t-SNE", "umap": "UMAP"}
_NEEDED = {"tsne": ("sklearn", "scikit-learn", "planar"), "umap": ("umap", "umap-learn", "umap")}


def can_embed(method: str = "tsne") -> bool:
    """Whether what `embed_images` needs is installed."""
    return importlib.util.find_spec(_NEEDED[method][0]) is not None


def check_embedding(method: str) -> None:
    """Refuse a method that is not known, or that what it needs is not installed for."""
    if method not in EMBEDDINGS:
        raise InputError(f"method must be one of {', '.join(EMBEDDINGS)}, got {method!r}")
    if not can_embed(method):
        raise _missing(method)


def _missing(method: str) -> InputError:
    _, package, extra = _NEEDED[method]
    return InputError(
        f"{EMBEDDINGS[method]} needs {package}, which is not installed; pip install "
        f"'tomodask[{extra}]'"
    )


def embed_images(
    features: Any,
    *,
    method: str = "tsne",
    perplexity: float = 30.0,
    neighbours: int = 15,
    seed: int = 0,
) -> np.ndarray:
    """Lay images out in the plane, those that are alike beside each other.

    Parameters
    ----------
    features : array, shape (image, k)
        As `TwoStageReduction` gives them; what is lazy is computed.
    method : {"tsne", "umap"}
    perplexity : float
        Of t-SNE: neighbours that count for each image; at most a third of the others.
    neighbours : int
        Of UMAP: the same; at most all others.
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
        If scikit-learn or umap-learn is not installed, there are fewer than four images, features
        are not finite, or a parameter makes no sense.
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
    if isinstance(neighbours, bool) or not isinstance(neighbours, int | np.integer):
        raise InputError(f"neighbours must be a whole number, at least 2, got {neighbours!r}")
    if neighbours < 2:
        raise InputError(f"neighbours must be a whole number, at least 2, got {neighbours}")
    check_embedding(method)
    scale = values[:, 0].std() or 1.0
    start = np.zeros((len(values), 2))
    start[:, : min(2, values.shape[1])] = values[:, :2] / scale
    if values.shape[1] == 1:  # a line stays a line without a little noise
        start[:, 1] = np.random.default_rng(seed).normal(scale=1e-2, size=len(values))
    with one_thread_each():
        if method == "umap":
            return _umap(values, start, int(neighbours), seed)
        try:
            from sklearn.manifold import TSNE
        except ImportError:
            raise _missing(method) from None
        nearest = min(perplexity, (len(values) - 1) / 3)
        plane = TSNE(perplexity=nearest, init=start * 1e-4, random_state=seed, n_jobs=1)
        return np.asarray(plane.fit_transform(values), np.float64)


def _umap(values: np.ndarray, start: np.ndarray, neighbours: int, seed: int) -> np.ndarray:
    try:
        import umap  # takes seconds, which nobody else shall wait
    except ImportError:
        raise _missing("umap") from None
    plane = umap.UMAP(
        n_components=2,
        n_neighbors=min(neighbours, len(values) - 1),
        init=start.astype(np.float32),
        random_state=seed,  # else, and with more threads, no two runs were alike
        n_jobs=1,
    )
    return np.asarray(plane.fit_transform(values), np.float64)
