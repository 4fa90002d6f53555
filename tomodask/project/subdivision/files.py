"""The files of a subdivision.

::

    clusters.npz                   centres, sizes, labels, distances: what the averages start from
    particles.star .csv            every box: its cluster (−1: set aside) and its distance
    centred.star                   every box, its place led to the middle of its average
    map.csv                        where particles lie on the map of the features
    cluster_007/
      particles.star               all of the cluster, to go on with
      poses.star                   those that were averaged: pose, class, half, score
      class1_average.mrc …         and half1, half2, filtered, fsc.csv; the largest class is 1
      class1.jpg                   surface and slices, for the report
    clusters.csv classes.csv       a row a cluster, and a row a class of it

Where a cluster has one class alone, its files are ``average.mrc`` … .
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tomodask.averaging.fsc import resolution_at
from tomodask.averaging.sharpening import sharpen
from tomodask.classification.clusters.averages import ClusterAverage, SortedCluster
from tomodask.classification.clusters.centring import centred_poses, density_centre, with_centres
from tomodask.classification.clusters.kmeans import KMeans
from tomodask.data.columns import SHIFT
from tomodask.data.particles import read_particles, write_particles
from tomodask.data.tomograms import open_tomogram
from tomodask.data.writing import replacing
from tomodask.project.map_files import map_file, write_map
from tomodask.project.subdivision.job import SubdivisionJob, cluster_name
from tomodask.project.subdivision.pictures import write_class_picture

__all__ = [
    "CENTRED",
    "CLUSTERS",
    "cluster_outputs",
    "read_clusters",
    "write_centred",
    "write_cluster",
    "write_clusters",
    "write_members",
    "write_table",
]

CLUSTERS = "clusters.npz"
CENTRED = "centred.star"
_ARRAYS = ("cluster_centers_", "sizes_", "labels_")
_NUMBERS = ("inertia_", "n_iter_", "converged_")


def write_clusters(path: Path, clusters: KMeans, distances: np.ndarray) -> None:
    """Keep clusters, and the squared distance of each particle to its centre."""
    content: dict[str, Any] = {
        name: np.asarray(getattr(clusters, name)) for name in (*_ARRAYS, *_NUMBERS)
    }
    with replacing(path, overwrite=True) as part, part.open("wb") as file:
        np.savez(file, distances=distances, **content)


def read_clusters(path: Path) -> tuple[KMeans, np.ndarray]:
    """Equal to what was written.  No pickles: reading runs nothing of the file."""
    with np.load(path, allow_pickle=False) as content:
        clusters = KMeans(len(content["sizes_"]))
        for name in _ARRAYS:
            setattr(clusters, name, content[name])
        for name in _NUMBERS:
            setattr(clusters, name, content[name].item())
        return clusters, content["distances"]


def particles_of(job: SubdivisionJob, clusters: KMeans, distances: np.ndarray) -> pd.DataFrame:
    """The table of all boxes with their cluster and distance, and kind where it is known."""
    table = job.table.assign(cluster=clusters.labels_, distance=np.sqrt(distances))
    return table if job.kinds is None else table.assign(kind=job.kinds)


def write_table(table: pd.DataFrame, path: Path, voxel_size: float) -> None:
    """A table of particles: STAR and CSV."""
    write_particles(table, path.with_suffix(".star"), voxel_size=voxel_size)
    with replacing(path.with_suffix(".csv"), overwrite=True) as part:
        table.to_csv(part, index_label="particle")


def write_members(
    at: Path, job: SubdivisionJob, clusters: KMeans, distances: np.ndarray, cluster: int
) -> None:
    """``particles.star`` of a cluster, in its folder."""
    at.mkdir(exist_ok=True)
    rows = np.flatnonzero(clusters.labels_ == cluster)
    table = job.table.iloc[rows].assign(cluster=cluster, distance=np.sqrt(distances[rows]))
    if job.kinds is not None:
        table = table.assign(kind=job.kinds[rows])
    write_particles(table.reset_index(drop=True), at / "particles.star", voxel_size=job.voxel_size)


def cluster_outputs(cluster: int, classes: int) -> list[str]:
    """Files of a cluster, its folder first."""
    names = ["particles.star"]
    if classes:
        names.append("poses.star")
        for c in range(1, classes + 1):
            names += [
                map_file(classes > 1, c, one)
                for one in ("average.mrc", "half1.mrc", "half2.mrc", "filtered.mrc", "fsc.csv")
            ]
            names.append(f"class{c}.jpg")
    folder = cluster_name(cluster)
    return [folder, *(f"{folder}/{name}" for name in names)]


def write_cluster(
    at: Path, job: SubdivisionJob, cluster: int, found: SortedCluster
) -> dict[str, Any]:
    """Write what became of a cluster into its folder.

    Returns
    -------
    dict
        As JSON knows it: ``taken`` (particles that were averaged), ``classes`` (of each its
        ``particles``, ``share``, ``resolution_143`` and ``resolution_5``, Å, None if not reached),
        ``notes``.
    """
    at.mkdir(exist_ok=True)
    for leftover in at.glob(".*.part"):  # of one that was killed
        leftover.unlink()
    several = len(found.classes) > 1
    if found.classes:
        rows = job.table.index.get_indexer(found.poses.index)
        table = found.poses.assign(cluster=cluster)
        for name in job.table.columns.difference(table.columns):
            table[name] = job.table[name].to_numpy()[rows]
        known = (table["class"] > 0).to_numpy()
        table = table[known].drop(columns="reason", errors="ignore").reset_index(drop=True)
        write_particles(table, at / "poses.star", voxel_size=job.voxel_size)
    told = {str(one.number): _write_class(at, job, several, one) for one in found.classes}
    return {"taken": len(found.poses), "classes": told, "notes": list(found.notes)}


def _write_class(
    at: Path, job: SubdivisionJob, several: bool, one: ClusterAverage
) -> dict[str, Any]:
    """Maps, curve and picture of a class."""

    def path(name: str) -> Path:
        return at / map_file(several, one.number, name)

    size, average = job.voxel_size, one.average
    write_map(path("average.mrc"), average.average, size)
    write_map(path("half1.mrc"), average.half_1, size)
    write_map(path("half2.mrc"), average.half_2, size)
    shown = average.average
    if math.isfinite(one.resolution):
        shown = sharpen(shown, voxel_size=size, b_factor=0.0, fsc=one.curve).to_numpy()
    write_map(path("filtered.mrc"), shown, size)
    with replacing(path("fsc.csv"), overwrite=True) as part:
        one.curve.to_csv(part, index=False)
    write_class_picture(
        at / f"class{one.number}.jpg", shown, voxel_size=size, resolution=one.resolution
    )
    return {
        "particles": len(one.poses),
        "share": one.share,
        "resolution_143": _or_none(one.resolution),
        "resolution_5": _or_none(resolution_at(one.curve, 0.5)),
    }


def _or_none(value: float) -> float | None:
    """None for what is not reached: JSON knows no infinity."""
    return float(value) if math.isfinite(value) else None


def write_centred(at: Path, job: SubdivisionJob, clusters: KMeans, told: Mapping[str, Any]) -> int:
    """``centred.star``: all boxes, each led to the middle of the average that it is in.

    To be cut out again: `tomodask.extract_subtomograms` adds shifts to places.

    Particles that were not averaged stay where they were, and so do those of an average whose
    halves agree at no resolution: where its middle is, nobody knows.

    Returns
    -------
    int
        Particles that were moved.
    """
    rows, poses = [], []
    image = pd.Index(job.table["image"].astype(str))
    for name, one in told.items():
        if not one["classes"]:
            continue
        table = read_particles(at / name / "poses.star", need=("orientation", "shift", "image"))
        several = len(one["classes"]) > 1
        for c, figures in one["classes"].items():
            if figures["resolution_143"] is None:
                continue
            mine = table[table["class"] == int(c)] if several else table
            volume = open_tomogram(at / name / map_file(several, int(c), "average.mrc"))
            centre = density_centre(
                volume.to_numpy(), voxel_size=job.voxel_size, diameter=job.plan.diameter
            )
            poses.append(centred_poses(mine, centre))
            rows.append(image.get_indexer(pd.Index(mine["image"].astype(str))))
    found = np.concatenate(rows) if rows else np.zeros(0, np.intp)
    moved = pd.concat(poses) if poses else pd.DataFrame(columns=list(SHIFT))
    there = found >= 0
    table = job.table.assign(cluster=clusters.labels_)
    centred = with_centres(table, found[there], moved[there])
    if job.kinds is not None:
        centred = centred.assign(kind=job.kinds)
    write_particles(centred.reset_index(drop=True), at / CENTRED, voxel_size=job.voxel_size)
    return int(there.sum())
