"""k-means out of core: features stream from their store, pass by pass.

Lloyd's passes are exact: each particle goes to its nearest centre, each centre to the mean of its
particles.  The sums are those of integers (features in steps of 2⁻ᵇ of the largest), so that no
order of adding can change them, and blocks hold so many particles whatever the chunks of the
features are.  With ``method="minibatch"`` the centres first follow mini-batches (Sculley 2010
[1]_): blocks are read in an order that the seed draws, several at a time, their particles are
shuffled, and each mini-batch moves its centres by 1 / (particles that they have seen).  Exact
passes end both.

.. [1] Sculley, "Web-scale k-means clustering", WWW 2010, 1177.
.. [2] Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007, 1027.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import delayed

from tomodask.arrays.threads import one_thread_each
from tomodask.classification.clusters.kmeans_blocks import (
    Assigned,
    add_by_cluster,
    assigned_block,
    come_nearer,
    in_one,
    labels_of,
    looked,
    nearest,
    spread,
)
from tomodask.classification.features.embedding import feature_array
from tomodask.cluster import compute
from tomodask.errors import InputError

__all__ = ["KMeans", "assigned", "plus_plus"]

_ROWS = 4096  # particles of a block: of 512 features 16 MB in double precision
_BITS = 40  # of a feature, in the sums
_BUFFER = 8  # blocks whose particles are shuffled together


class KMeans:
    """k-means as an estimator in the manner of scikit-learn.

    Parameters
    ----------
    n_clusters : int
    method : {"exact", "minibatch"}
        Passes over all particles alone, or mini-batches before them.
    batch : int
        Particles of a mini-batch.
    epochs : int
        How often mini-batches go through all particles.
    max_iter : int
        Exact passes at most.
    tolerance : float
        The passes end where the centres move by less than this share of the features' variance
        (mean over the features, squared lengths), or no longer at all.
    sample : int
        Particles that k-means++ [2]_ draws the first centres from, drawn by the seed; at least
        twenty a cluster.
    tries : int
        Starts on the sample, each let run for ten passes there; that of the least misfit is taken.
    seed : int

    Attributes
    ----------
    cluster_centers_ : array of float64, shape (cluster, feature)
        The largest cluster first; of equals that whose first particle comes first.
    sizes_ : array of int64, shape (cluster,)
    labels_ : array of int32, shape (particle,)
        −1 for particles without features (NaN).
    inertia_ : float
        Sum of squared distances to the centres.
    n_iter_ : int
        Exact passes.
    converged_ : bool

    Notes
    -----
    The same bytes whatever the chunks, the workers and the threads.  Each pass computes lazy
    features anew: write them first.

    Examples
    --------
    >>> values = np.array([[0.0, 0], [0, 1], [9, 9], [9, 8], [8, 9]])
    >>> found = KMeans(2).fit(values)
    >>> found.labels_.tolist(), found.sizes_.tolist(), round(found.inertia_, 6)
    ([1, 1, 0, 0, 0], [3, 2], 1.833333)
    """

    cluster_centers_: np.ndarray
    sizes_: np.ndarray
    labels_: np.ndarray
    inertia_: float
    n_iter_: int
    converged_: bool

    def __init__(
        self,
        n_clusters: int = 100,
        *,
        method: str = "exact",
        batch: int = 1024,
        epochs: int = 3,
        max_iter: int = 50,
        tolerance: float = 1e-6,
        sample: int = 10_000,
        tries: int = 4,
        seed: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.method = method
        self.batch = batch
        self.epochs = epochs
        self.max_iter = max_iter
        self.tolerance = tolerance
        self.sample = sample
        self.tries = tries
        self.seed = seed

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name, as scikit-learn asks for them."""
        del deep
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **parameters: Any) -> KMeans:
        """Change parameters by name."""
        for name, value in parameters.items():
            if name not in self.get_params():
                raise InputError(f"KMeans has no parameter {name!r}")
            setattr(self, name, value)
        return self

    def fit(self, features: Any, y: Any = None) -> KMeans:
        """Find the centres.  Computes.

        Parameters
        ----------
        features : Dataset, DataArray, Dask or NumPy array, shape (particle, feature)
            Rows that hold NaN are left out.
        y : ignored

        Raises
        ------
        InputError
            If there are fewer different particles than clusters, features are infinite, or a
            parameter makes no sense.
        """
        del y
        self._check()
        values = feature_array(features).rechunk((_ROWS, -1))
        blocks = values.to_delayed().ravel().tolist()
        look = delayed(looked, pure=False)
        looks = compute([look(block) for block in blocks], label="k-means", passing=True)
        sound = np.concatenate([one.sound for one in looks])
        if any(one.infinite for one in looks):
            raise InputError("features hold infinite values; leave these particles out")
        rows = np.flatnonzero(sound)
        clusters = int(self.n_clusters)
        if len(rows) < clusters:
            raise InputError(
                f"n_clusters must be at most the number of particles with features, {len(rows)}, "
                f"got {clusters}"
            )
        largest = max(one.largest for one in looks)
        scatter = spread(looks)
        bits = min(_BITS, 62 - math.ceil(math.log2(len(rows) + 1)))
        # A power of two, so that steps of it are exact.
        unit = 2.0 ** (math.ceil(math.log2(largest)) - bits) if largest > 0 else 1.0
        centres = self._start(values, rows)
        if self.method == "minibatch":
            centres = self._by_batches(blocks, sound, centres)
        assign = delayed(assigned_block, pure=False)
        converged, passes = False, 0
        while True:
            shared = delayed(centres, pure=False)
            found = compute(
                in_one([assign(block, shared, unit) for block in blocks]),
                label="k-means",
                passing=True,
            )
            if converged or passes == self.max_iter:
                break
            means = found.sums / np.maximum(found.sizes, 1)[:, None] * unit
            empty = np.flatnonzero(found.sizes == 0)
            if len(empty):
                means[empty] = _farthest(values, found, len(empty))
            moved = float(((means - centres) ** 2).sum(1).max())
            centres, passes = means, passes + 1
            converged = moved <= self.tolerance * scatter and not len(empty)
        labels, sizes = found.labels, found.sizes
        first = np.full(clusters, len(labels))
        np.minimum.at(first, labels[rows], rows)
        order = np.lexsort((first, -sizes))
        place = np.empty(clusters, np.int32)
        place[order] = np.arange(clusters, dtype=np.int32)
        self.cluster_centers_, self.sizes_ = centres[order], sizes[order]
        self.labels_ = np.where(labels < 0, np.int32(-1), place[labels])
        self.inertia_ = math.fsum(found.inertia)
        self.n_iter_, self.converged_ = passes, converged
        return self

    def predict(self, features: Any) -> da.Array:
        """The nearest centre of each particle, −1 for those without features.  Lazy.

        Returns
        -------
        Dask array of int32, shape (particle,)
        """
        if not hasattr(self, "cluster_centers_"):
            raise InputError("KMeans is not fitted yet: call fit first")
        values = feature_array(features)
        wanted = self.cluster_centers_.shape[1]
        if values.shape[1] != wanted:
            raise InputError(f"features must be {wanted} a particle, got {values.shape[1]}")
        values = values.rechunk((_ROWS, -1))
        return values.map_blocks(
            labels_of,
            self.cluster_centers_,
            drop_axis=1,
            dtype=np.int32,
            meta=np.empty(0, np.int32),
        )

    def _check(self) -> None:
        for name, least in (
            ("n_clusters", 1), ("batch", 1), ("epochs", 1), ("max_iter", 1), ("sample", 1),
            ("tries", 1), ("seed", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise InputError(f"{name} must be a whole number, at least {least}, got {value!r}")
        if self.method not in ("exact", "minibatch"):
            raise InputError(f"method must be 'exact' or 'minibatch', got {self.method!r}")
        if not self.tolerance >= 0:
            raise InputError(f"tolerance must be 0 or above, got {self.tolerance}")

    def _start(self, values: da.Array, rows: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 0])
        most = max(self.sample, 20 * self.n_clusters)
        drawn = np.sort(rng.permutation(rows)[:most])
        seen = np.asarray(compute(values[drawn], label="k-means", passing=True), np.float64)
        best, least = seen[:0], math.inf
        with one_thread_each():
            for number in range(self.tries):
                centres = plus_plus(
                    seen, self.n_clusters, rng=np.random.default_rng([self.seed, 1, number])
                )
                for _ in range(10):
                    which = nearest(seen, centres)
                    sizes = np.bincount(which, minlength=len(centres))
                    sums = np.zeros_like(centres)
                    add_by_cluster(seen, which, sums)
                    centres = np.where(
                        sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres
                    )
                misfit = math.fsum(assigned(seen, centres)[1])
                if misfit < least:
                    best, least = centres, misfit
        return best

    def _by_batches(self, blocks: list[Any], sound: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """Centres after mini-batches; a few blocks are in memory at a time."""
        centres, seen = centres.copy(), np.zeros(len(centres))
        for epoch in range(self.epochs):
            rng = np.random.default_rng([self.seed, 2, epoch])
            order = rng.permutation(len(blocks))
            for i in range(0, len(order), _BUFFER):
                here = order[i : i + _BUFFER]
                read = compute([blocks[b] for b in here], label="k-means", passing=True)
                kept = [
                    sound[b * _ROWS : b * _ROWS + len(one)]
                    for b, one in zip(here, read, strict=True)
                ]
                pool = np.concatenate([one[mask] for one, mask in zip(read, kept, strict=True)])
                pool = pool[rng.permutation(len(pool))].astype(np.float64)
                with one_thread_each():
                    for j in range(0, len(pool), self.batch):
                        _follow(centres, seen, pool[j : j + self.batch])
        return centres


def plus_plus(values: np.ndarray, clusters: int, *, rng: np.random.Generator) -> np.ndarray:
    """First centres: each a particle drawn by its squared distance to those before [2]_.

    Parameters
    ----------
    values : array of float64, shape (particle, feature)
    clusters : int
    rng : Generator

    Raises
    ------
    InputError
        If there are fewer different particles than clusters.
    """
    chosen = [int(rng.integers(len(values)))]
    distance = np.full(len(values), np.inf)
    come_nearer(values, values[chosen[0]], distance)
    for _ in range(1, clusters):
        total = np.cumsum(distance)
        if not total[-1] > 0:
            raise InputError(
                f"n_clusters must be at most the number of different particles, here "
                f"{len(chosen)}, got {clusters}"
            )
        at = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        at = min(at, int(np.flatnonzero(distance)[-1]))
        chosen.append(at)
        come_nearer(values, values[at], distance)
    return np.array(values[chosen], np.float64)


def assigned(values: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centre of each row, of equals the first, and its squared distance."""
    which = nearest(values, centres)
    return which, ((values - centres[which]) ** 2).sum(1)


def _follow(centres: np.ndarray, seen: np.ndarray, batch: np.ndarray) -> None:
    which = nearest(batch, centres)
    sizes = np.bincount(which, minlength=len(centres))
    sums = np.zeros_like(centres)
    add_by_cluster(batch, which, sums)
    seen += sizes
    hit = sizes > 0
    # 1 / seen a particle: the centre is the mean of all that it has seen.
    centres[hit] += (sums[hit] - sizes[hit, None] * centres[hit]) / seen[hit, None]


def _farthest(values: da.Array, found: Assigned, count: int) -> np.ndarray:
    """Particles that lie farthest from their centres: where empty clusters begin anew."""
    best = found.far[np.lexsort((found.far, -found.distance))][:count]
    drawn = compute(values[np.sort(best)], label="k-means", passing=True)
    taken = np.asarray(drawn, np.float64)
    if len(taken) < count:  # more empty clusters than are looked at: the rest waits
        taken = np.concatenate([taken, np.repeat(taken[-1:], count - len(taken), axis=0)])
    return taken
