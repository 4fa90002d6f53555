"""The steps of a subdivision: each does its work into the folder, unless it is finished there."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from dask.delayed import Delayed, delayed

from tomodask.classification.clusters.kmeans import KMeans
from tomodask.classification.clusters.known import KnownMaps, nearest_known
from tomodask.classification.clusters.subdivision import (
    average_members,
    clusters_to_average,
    subdivide_features,
)
from tomodask.classification.clusters.tables import centre_distances, cluster_table
from tomodask.classification.features.embedding import set_aside
from tomodask.classification.features.maps import map_features
from tomodask.classification.features.store import open_features, reopened_features, save_features
from tomodask.cluster.completing import completed
from tomodask.data.run_folder import RunFolder
from tomodask.data.tomograms import open_tomogram
from tomodask.data.writing import replacing
from tomodask.errors import InputError
from tomodask.planar.embedding import can_embed
from tomodask.project.embedding import check_features, with_engine
from tomodask.project.map_files import map_file
from tomodask.project.subdivision.files import (
    CENTRED,
    CLUSTERS,
    cluster_outputs,
    particles_of,
    read_clusters,
    write_centred,
    write_cluster,
    write_clusters,
    write_members,
    write_table,
)
from tomodask.project.subdivision.job import SubdivisionJob, cluster_name
from tomodask.project.subdivision.pictures import is_dark
from tomodask.project.subdivision.report import write_subdivision_report
from tomodask.project.subdivision.tables import class_rows, cluster_rows

__all__ = ["Subdividing"]

_log = logging.getLogger(__name__)

_PATIENCE = 20.0  # seconds between two reports while it works
_UNLIKE = 0.75  # share of averages whose contrast is not the known maps', from which it is told
_COARSEST = 2.2  # voxels: a known map is laid on an average by no finer detail


class Subdividing:
    """The way from boxes to averages, each step only where its files are not there."""

    def __init__(self, folder: RunFolder, job: SubdivisionJob) -> None:
        self.folder, self.job = folder, job
        self.figures: dict[str, Any] = folder.document["figures"]
        self.told: dict[str, Any] = self.figures.setdefault("clusters", {})
        self.nearest: dict[str, Any] = self.figures.setdefault("nearest", {})
        self.reported, self.patience = time.monotonic(), _PATIENCE

    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        if not (self.folder.finished("result") and self.folder.finished("clusters")):
            return False
        clusters, _ = read_clusters(self.folder.path / CLUSTERS)
        return self.figures.get("result") == self._asked() and not (
            self._missing(clusters) or dict(self._compared(clusters))
        )

    def do_all(self) -> None:
        """Do what is missing."""
        features = self._features()
        clusters, distances = self._clusters(features)
        self._kinds(clusters, distances)
        self._map(features)
        self._averages(clusters, distances)
        self._compare(clusters)
        self._finish(clusters, distances)

    def _asked(self) -> dict[str, Any]:
        """What the result depends on that may be asked for anew."""
        hands = ", either hand" if self.job.mirrored else ""
        known = {str(one.attrs["known"]): one.attrs["digest"] + hands for one in self.job.known}
        return {
            "known": known,
            "map": [self.job.map_particles, self.job.map_method],
            "kinds": self._digest_of_kinds(),
        }

    def _digest_of_kinds(self) -> str | None:
        kinds = self.job.kinds
        return None if kinds is None else hashlib.sha256("\n".join(kinds).encode()).hexdigest()[:16]

    def _features(self) -> xr.Dataset:
        if self.job.given is not None:
            return self.job.features
        path = self.folder.path / "features.zarr"
        if not self.folder.finished("features"):
            with self.folder.stage("features", [path.name]):
                if not self._made(path):
                    features = with_engine(self.job.features, self.job.model)
                    save_features(features, path, overwrite=path.exists())
        return open_features(path)

    def _made(self, path: Path) -> bool:
        """Whether the features are whole, and only ``run.json`` does not know it yet: a kill."""
        if not path.exists():
            return False
        try:
            check_features(reopened_features(path), self.job.features, str(path))
        except InputError:  # they are made anew
            return False
        _log.info("%s: features of these boxes by this model are there already", path)
        return True

    def _clusters(self, features: xr.Dataset) -> tuple[KMeans, np.ndarray]:
        path = self.folder.path / CLUSTERS
        if not self.folder.finished("clusters"):
            outputs = [CLUSTERS, "particles.star", "particles.csv"]
            with self.folder.stage("clusters", outputs):
                clusters = subdivide_features(features, self.job.plan)
                distances = centre_distances(features, clusters)
                self.figures["aside"] = self._aside(features)
                self.figures["kinds"] = self._digest_of_kinds()
                self._write_particles(clusters, distances)
                write_clusters(path, clusters, distances)
            sizes = clusters.sizes_
            _log.info(
                "%d clusters of %d to %d particles, %d of them with %d or more",
                len(sizes), sizes.min(), sizes.max(), (sizes >= self.job.plan.least).sum(),
                self.job.plan.least,
            )  # fmt: skip
        return read_clusters(path)

    def _kinds(self, clusters: KMeans, distances: np.ndarray) -> None:
        """Where other kinds are known than before: name them in the tables that are there."""
        kinds = self._digest_of_kinds()
        if self.figures.get("kinds") == kinds:
            return
        self._write_particles(clusters, distances)
        for c in range(len(clusters.sizes_)):
            at = self.folder.path / cluster_name(c)
            if (at / "particles.star").exists():
                write_members(at, self.job, clusters, distances, c)
        self.figures["kinds"] = kinds
        self.folder.save()

    def _aside(self, features: xr.Dataset) -> dict[str, Any]:
        """How many particles have no features, and the first of them."""
        aside = set_aside(features)
        first = aside.head(20)
        return {"count": len(aside), "first": first.astype(str).to_numpy().tolist()}

    def _write_particles(self, clusters: KMeans, distances: np.ndarray) -> None:
        write_table(
            particles_of(self.job, clusters, distances),
            self.folder.path / "particles.star",
            self.job.voxel_size,
        )

    def _map(self, features: xr.Dataset) -> None:
        path, most, method = (
            self.folder.path / "map.csv",
            self.job.map_particles,
            self.job.map_method,
        )
        asked = [most, method]
        if self.folder.finished("map") and self.figures.get("mapped") == asked:
            return
        if most < 4 or features.sizes["particle"] < 4 or not can_embed(method):
            self.figures["mapped"] = asked
            path.unlink(missing_ok=True)
            return
        with self.folder.stage("map", [path.name]):
            plane = map_features(features, method=method, most=most, seed=self.job.plan.seed)
            with replacing(path, overwrite=True) as part:
                plane.to_csv(part)
            self.figures["mapped"] = asked

    def _missing(self, clusters: KMeans) -> list[int]:
        """Clusters whose averages are still to be made, the largest first."""
        return [
            c
            for c in clusters_to_average(clusters, self.job.plan)
            if not (self.folder.finished(cluster_name(c)) and cluster_name(c) in self.told)
        ]

    def _averages(self, clusters: KMeans, distances: np.ndarray) -> None:
        missing, began, job = self._missing(clusters), {}, self.job

        def tasks() -> Iterator[tuple[int, Delayed]]:
            for c in missing:
                began[c] = time.monotonic()
                yield (
                    c,
                    average_members(job.boxes, None, clusters, c, job.plan, distances=distances),
                )

        for c, found in completed(tasks(), count=len(missing), label="averages of clusters"):
            name = cluster_name(c)
            with self.folder.stage(name, cluster_outputs(c, len(found.classes))):
                at = self.folder.path / name
                write_members(at, self.job, clusters, distances, c)
                told = write_cluster(at, self.job, c, found)
                self.told[name] = {
                    "cluster": c,
                    "particles": int(clusters.sizes_[c]),
                    "seconds": round(time.monotonic() - began[c], 1),
                    **told,
                }
                self.nearest.pop(name, None)
            _log.info("%s", line_of_cluster(self.told[name]))
            self._report_at_times(clusters, distances)

    def _compared(self, clusters: KMeans) -> Iterator[tuple[str, dict[str, str]]]:
        """Clusters that are to be compared with known maps (again), and what with."""
        known = self._asked()["known"]
        for c in clusters_to_average(clusters, self.job.plan) if known else ():
            name = cluster_name(c)
            there = self.nearest.get(name, {}).get("known")
            if there != known and self.told.get(name, {}).get("classes"):
                yield name, known

    def _compare(self, clusters: KMeans) -> None:
        """The known map that each class is likest to."""
        todo = dict(self._compared(clusters))
        maps = {str(one.attrs["known"]): np.asarray(one) for one in self.job.known}
        shared = delayed(KnownMaps(maps, self.job.voxel_size), pure=False)
        tasks = ((name, self._likeness(name, shared)) for name in todo)
        for name, rows in completed(tasks, count=len(todo), label="known structures"):
            self.nearest[name] = {"known": todo[name], "classes": rows}
            if time.monotonic() - self.reported > _PATIENCE:
                self.folder.save()
                self.reported = time.monotonic()
        if todo:
            self._warn_of_contrast(todo)
            self.folder.save()

    def _warn_of_contrast(self, names: Iterable[str]) -> None:
        """Say where averages are dark and known maps bright, or the other way: nothing fits so."""
        sides = []
        for name in names:
            several = len(self.told[name]["classes"]) > 1
            path = self.folder.path / name / map_file(several, 1, "filtered.mrc")
            sides.append(is_dark(open_tomogram(path).to_numpy()))
        dark = [is_dark(np.asarray(one)) for one in self.job.known]
        share = abs(float(np.mean(sides)) - float(np.mean(dark)))
        if share > _UNLIKE:
            _log.warning(
                "what averages show is %s, what known maps show is %s: compare them with the "
                "known maps' negative (invert=True, --invert)",
                *(("dark", "bright") if np.mean(sides) > 0.5 else ("bright", "dark")),
            )

    def _likeness(self, name: str, known: Delayed) -> Delayed:
        told, maps = self.told[name], {}
        several = len(told["classes"]) > 1
        for c, one in told["classes"].items():
            path = self.folder.path / name / map_file(several, int(c), "average.mrc")
            reached = one["resolution_143"] or self.job.plan.start_resolution
            finest = max(reached, _COARSEST * self.job.voxel_size)
            maps[c] = (open_tomogram(path).to_numpy(), finest)
        task: Delayed = delayed(_nearest, pure=False)(
            maps, known, self.job.voxel_size, self.job.plan.diameter, self.job.mirrored
        )
        return task

    def _finish(self, clusters: KMeans, distances: np.ndarray) -> None:
        sizes = clusters.sizes_
        small = np.flatnonzero((sizes > 0) & (sizes < self.job.plan.least)).tolist()
        outputs = ["clusters.csv", "classes.csv", "report.html", *map(cluster_name, small)]
        if self.job.placed:
            outputs.append(CENTRED)
        done = self.folder.finished("result") and self.figures.get("result") == self._asked()
        if done and not self.folder.worked:
            return
        with self.folder.stage("result", outputs):
            for c in small:
                at = self.folder.path / cluster_name(c)
                if not (at / "particles.star").exists():
                    write_members(at, self.job, clusters, distances, c)
            if self.job.placed:
                self.figures["centred"] = write_centred(
                    self.folder.path, self.job, clusters, self.told
                )
            self.figures["result"] = self._asked()
            self._tables(clusters, distances)
            self.folder.save()
            write_subdivision_report(self.folder)

    def _tables(self, clusters: KMeans, distances: np.ndarray) -> None:
        table = cluster_table(None, clusters, names=self.job.kinds, distances=distances)
        known = self._asked()["known"]
        nearest = {name: one for name, one in self.nearest.items() if one["known"] == known}
        for name, one in (
            ("clusters.csv", cluster_rows(table, self.told, nearest)),
            ("classes.csv", class_rows(self.told, nearest)),
        ):
            with replacing(self.folder.path / name, overwrite=True) as part:
                one.to_csv(part, index=False)

    def _report_at_times(self, clusters: KMeans, distances: np.ndarray) -> None:
        begin = time.monotonic()
        if begin - self.reported > self.patience:
            self._tables(clusters, distances)
            write_subdivision_report(self.folder)
            self.reported = time.monotonic()
            # A page of a thousand pictures takes its time: a tenth of all at most.
            self.patience = max(_PATIENCE, 10 * (self.reported - begin))


def _nearest(
    maps: dict[str, tuple[np.ndarray, float]],
    known: KnownMaps,
    voxel_size: float,
    diameter: float,
    mirrored: bool,
) -> dict[str, list[dict[str, Any]]]:
    """Of each class all known maps, the likest first, as JSON knows them."""
    out = {}
    for c, (volume, finest) in maps.items():
        table = nearest_known(
            volume, known, voxel_size=voxel_size, resolution=finest, diameter=diameter,
            mirrored=mirrored,
        )  # fmt: skip
        out[c] = [
            {
                "name": str(row["name"]),
                "mirrored": bool(row["mirrored"]),
                "correlation": float(row["correlation"]),
                "discrepancy": float(row["discrepancy"])
                if math.isfinite(row["discrepancy"])
                else None,
            }
            for row in table.to_dict("records")
        ]
    return out


def line_of_cluster(told: dict[str, Any]) -> str:
    """A cluster that is done, in one line.

    Examples
    --------
    >>> line_of_cluster({"cluster": 3, "particles": 210, "taken": 200, "notes": [], "seconds": 3.2,
    ...     "classes": {"1": {"particles": 150, "resolution_143": 31.4},
    ...                 "2": {"particles": 50, "resolution_143": None}}})
    'cluster 3: 210 particles; classes of 150 (31.4 Å), 50 (not reached); 3 s'
    """
    parts = []
    for one in told["classes"].values():
        found = one["resolution_143"]
        reached = "not reached" if found is None else f"{found:.1f} Å"
        parts.append(f"{one['particles']} ({reached})")
    what = "classes of" if len(parts) > 1 else "average of"
    made = f"{what} {', '.join(parts)}" if parts else "no average: " + "; ".join(told["notes"])
    of = f"cluster {told['cluster']}: {told['particles']} particles"
    return f"{of}; {made}; {told['seconds']:.0f} s"
