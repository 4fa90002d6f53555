"""A subdivision as steps that know no file: what is asked for, the clusters, and one's average.

A job that does it keeps what each step gives, and asks for the next:

    plan_subdivision → subdivide_features → for each of clusters_to_average: average_members

The features are made before (`embed_subtomograms`, `save_features`), what an average is like is
asked afterwards (`nearest_known`).  A cluster is one task: workers share the clusters of a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from dask.delayed import Delayed

from tomodask.alignment.checks import check_alignment
from tomodask.classification.clusters.averages import LEAST_PARTICLES, average_cluster
from tomodask.classification.clusters.kmeans import KMeans
from tomodask.classification.clusters.tables import members
from tomodask.classification.features.embedding import feature_array
from tomodask.data.subtomograms import chosen_boxes
from tomodask.errors import InputError

__all__ = [
    "SubdivisionPlan",
    "average_members",
    "clusters_to_average",
    "plan_subdivision",
    "subdivide_features",
]


@dataclass(frozen=True)
class SubdivisionPlan:
    """What is asked for; see `plan_subdivision`."""

    clusters: int
    method: str
    least: int
    most: int
    diameter: float
    start_resolution: float
    finest: float | None
    angular_step: float
    iterations: int
    classes: int
    tilt_range: tuple[float, float] | None
    seed: int


def plan_subdivision(
    subtomograms: xr.Dataset,
    features: xr.Dataset,
    *,
    diameter: float,
    clusters: int = 100,
    method: str = "minibatch",
    least: int = 20,
    most: int = 300,
    start_resolution: float = 60.0,
    finest: float | None = None,
    angular_step: float = 20.0,
    iterations: int = 5,
    classes: int = 3,
    tilt_range: tuple[float, float] | None = None,
    seed: int = 0,
) -> SubdivisionPlan:
    """Check what is asked for, before hours of work go into it.

    Parameters
    ----------
    subtomograms : Dataset
    features : Dataset
        Of the same particles, in the same order.
    diameter, start_resolution, finest, angular_step, iterations, classes, tilt_range
        As of `average_cluster`.
    clusters : int
        More, by far, than structures are expected.
    method : {"exact", "minibatch"}
        As of `KMeans`.
    least : int
        Clusters with fewer particles are not averaged; 8 at least.
    most : int
        Particles that an average is made of, those nearest to the cluster's centre.
    seed : int

    Raises
    ------
    InputError
        If features are of other particles, there are not enough of them, or a parameter makes no
        sense.
    """
    values = feature_array(features)
    theirs = features["particle"].to_numpy()
    if not np.array_equal(theirs, subtomograms["particle"].to_numpy()):
        raise InputError(
            f"features are of other particles than subtomograms ({len(theirs)} and "
            f"{subtomograms.sizes['particle']}, or in another order); make them anew"
        )
    for name, value, low in (
        ("clusters", clusters, 1),
        ("least", least, LEAST_PARTICLES),
        ("most", most, least),
        ("iterations", iterations, 1 if classes == 1 else 3),
        ("classes", classes, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
            raise InputError(f"{name} must be a whole number, at least {low}, got {value!r}")
    if clusters > values.shape[0]:
        raise InputError(
            f"clusters must be at most the number of particles, {values.shape[0]}, got {clusters}"
        )
    if method not in ("exact", "minibatch"):
        raise InputError(f"method must be 'exact' or 'minibatch', got {method!r}")
    check_alignment(
        box=int(subtomograms.sizes["x"]),
        voxel_size=float(subtomograms.attrs["voxel_size"]),
        angular_step=angular_step,
        resolution=start_resolution,
        diameter=diameter,
        seed=seed,
    )
    return SubdivisionPlan(
        clusters=int(clusters),
        method=method,
        least=int(least),
        most=int(most),
        diameter=float(diameter),
        start_resolution=float(start_resolution),
        finest=finest,
        angular_step=float(angular_step),
        iterations=int(iterations),
        classes=int(classes),
        tilt_range=tilt_range,
        seed=int(seed),
    )


def subdivide_features(features: xr.Dataset, plan: SubdivisionPlan) -> KMeans:
    """The clusters.  Computes."""
    return KMeans(plan.clusters, method=plan.method, seed=plan.seed).fit(features)


def clusters_to_average(clusters: KMeans, plan: SubdivisionPlan) -> list[int]:
    """Clusters that have particles enough for an average, the largest first."""
    return np.flatnonzero(clusters.sizes_ >= plan.least).tolist()


def average_members(
    subtomograms: xr.Dataset,
    features: xr.Dataset | None,
    clusters: KMeans,
    cluster: int,
    plan: SubdivisionPlan,
    *,
    distances: np.ndarray | None = None,
) -> Delayed:
    """The classes of a cluster, of those of its particles that are nearest to the centre.

    Parameters
    ----------
    subtomograms : Dataset
    features : Dataset, optional
        Of all its particles; not needed where `distances` are given.
    clusters : KMeans
        Fitted to them.
    cluster : int
    plan : SubdivisionPlan
    distances : array, shape (particle,), optional
        From `centre_distances`, where they are known already; else they are computed here for a
        cluster that has more particles than are taken.

    Returns
    -------
    Delayed of SortedCluster
        One task; see `average_cluster`.  A cluster that cannot be averaged has no classes, and a
        note that says why.  The index of its poses holds the particles' names.
    """
    rows = members(features, clusters, cluster, most=plan.most, distances=distances)
    return average_cluster(
        chosen_boxes(subtomograms, rows),
        diameter=plan.diameter,
        classes=plan.classes,
        start_resolution=plan.start_resolution,
        finest=plan.finest,
        angular_step=plan.angular_step,
        iterations=plan.iterations,
        tilt_range=plan.tilt_range,
        seed=plan.seed,
    )
