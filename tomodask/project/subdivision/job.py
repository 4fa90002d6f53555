"""What a subdivision is asked to do: checked before any work, and told apart from others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.alignment.measurement import measurements
from tomodask.beforehand import check_table, number, whole
from tomodask.classification.clusters.known import known_maps
from tomodask.classification.clusters.subdivision import SubdivisionPlan, plan_subdivision
from tomodask.classification.features.models import NamedModel, open_feature_model
from tomodask.classification.features.store import open_features
from tomodask.classification.learning.class_labels import labelled_boxes
from tomodask.data.classes import class_names
from tomodask.data.columns import POSITION
from tomodask.data.job_boxes import (
    boxes_state,
    job_boxes,
    lasting_images,
    table_state,
    tilts_state,
)
from tomodask.data.job_input import map_digest
from tomodask.data.subtomogram_table import particle_table
from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError
from tomodask.planar.embedding import EMBEDDINGS, check_embedding
from tomodask.project.embedding import check_features, features_of

__all__ = ["MOST_CLUSTERS", "UNKNOWN", "SubdivisionJob", "checked_subdivision", "cluster_name"]

MOST_CLUSTERS = 10_000
#: The kind of a particle that has no label.
UNKNOWN = "no label"
_ROWS = 1000  # of the table that are tried out
_EDGE = 8  # voxels of the box outside the largest sphere: room for its soft edge


@dataclass(frozen=True)
class SubdivisionJob:
    """A subdivision's input and settings, as they are used.

    Attributes
    ----------
    boxes : Dataset
        Lazy; their ``particle`` numbers are unique.
    table : DataFrame
        Of the boxes, named so that the names hold wherever the table is put.
    model : NamedModel
    features : Dataset
        Of all boxes.  Lazy: those that are given, or those that the model will make.
    given : Path, optional
        The store that `features` are of.
    plan : SubdivisionPlan
    kinds : array of str, optional
        Of each particle, where they are known.
    known : tuple of DataArray
        Maps that averages are compared with, centred, at the boxes' voxel size and edge.
    mirrored : bool
        Compare with their mirror images, too.
    map_particles : int
        On the map of the features; 0 for none.
    map_method : {"tsne", "umap"}
    source : str
    parameters : dict
        Name → (stage, value), of `RunFolder.opened`.
    """

    boxes: xr.Dataset
    table: pd.DataFrame
    model: NamedModel
    features: xr.Dataset
    given: Path | None
    plan: SubdivisionPlan
    kinds: np.ndarray | None
    known: tuple[xr.DataArray, ...]
    mirrored: bool
    map_particles: int
    map_method: str
    source: str
    parameters: dict[str, tuple[str, Any]] = field(repr=False)

    @property
    def stages(self) -> tuple[str, ...]:
        """All that there may be, in their order."""
        return ("features", "clusters", "map", *map(cluster_name, range(self.plan.clusters)),
                "result")  # fmt: skip

    @property
    def placed(self) -> bool:
        """Whether the boxes say where in a tomogram they lie, and have names to be found by."""
        return {*POSITION, "image"} <= set(self.table)

    @property
    def voxel_size(self) -> float:
        """Å."""
        return float(self.boxes.attrs["voxel_size"])

    def figures(self) -> dict[str, Any]:
        """What the report tells of the input."""
        return {
            "name": Path(self.source).name or "subtomograms",
            "subtomograms": self.source,
            "particles": len(self.table),
            "box": int(self.boxes.sizes["x"]),
            "voxel_size": self.voxel_size,
            "model": self.model.name,
            "features": None if self.given is None else str(self.given.absolute()),
            "diameter": self.plan.diameter,
            "asked": self.plan.clusters,
            "least": self.plan.least,
            "most": self.plan.most,
            "known": [str(one.attrs["known"]) for one in self.known],
            "mirrored": self.mirrored,
            "map_particles": self.map_particles,
            "map_method": EMBEDDINGS[self.map_method],
        }


def cluster_name(cluster: int) -> str:
    """Of a cluster's folder, and of the stage that makes it."""
    return f"cluster_{cluster:03d}"


def checked_subdivision(
    subtomograms: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | xr.Dataset,
    *,
    output: Path,
    model: Any,
    features: Any,
    precision: str,
    batch: int,
    clusters: int,
    method: str,
    least: int,
    most: int,
    diameter: float | None,
    classes: int,
    iterations: int,
    start_resolution: float,
    resolution: float | None,
    angular_step: float,
    tilt_range: Sequence[float] | None,
    voxel_size: float | None,
    labels: Any,
    known: Sequence[Any],
    invert: bool,
    mirrored: bool,
    map_particles: int,
    map_method: str,
    seed: int,
) -> SubdivisionJob:
    """Open and check all that `subdivide` is given; reads no box.

    Raises
    ------
    InputError
        If anything in it would make a later stage fail.
    """
    batch, seed = whole("batch", batch, least=1), whole("seed", seed, least=0)
    map_particles = whole("map_particles", map_particles, least=0)
    if map_method not in EMBEDDINGS:
        methods = ", ".join(EMBEDDINGS)
        raise InputError(f"map_method must be one of {methods}, got {map_method!r}")
    if map_particles and map_method != "tsne":  # the default: without it, the page has no map
        check_embedding(map_method)
    clusters = whole("clusters", clusters, least=1)
    if clusters > MOST_CLUSTERS:
        raise InputError(f"clusters must be at most {MOST_CLUSTERS}, got {clusters}")
    tilts = None if tilt_range is None else (float(tilt_range[0]), float(tilt_range[1]))
    boxes, source = job_boxes(
        subtomograms, voxel_size=voxel_size, tilt_range=tilts, keep=("class", "kind")
    )
    table = lasting_images(particle_table(boxes), boxes)
    kinds = _kinds(boxes, labels)
    boxes = boxes.drop_vars(["class", "kind"], errors="ignore")
    table = table.drop(columns=["class", "kind"], errors="ignore")
    n, size = int(boxes.sizes["x"]), float(boxes.attrs["voxel_size"])
    if len({boxes.sizes[axis] for axis in "zyx"}) != 1:
        raise InputError(f"subtomograms must be cubic boxes, got {dict(boxes.sizes)}")
    measurements(table, boxes.attrs, tilts)  # refuses boxes that do not say what was measured
    named = open_feature_model(model, precision=precision, together=batch)
    wanted = features_of(boxes, source, named, batch)
    given = None if features is None else Path(features)
    if given is not None:
        there = open_features(given)
        check_features(there, wanted, str(given))
    diameter = number("diameter", diameter)
    plan = plan_subdivision(
        boxes,
        wanted if given is None else there,
        diameter=(n - _EDGE) * size if diameter is None else diameter,
        clusters=clusters,
        method=method,
        least=whole("least", least, least=1),
        most=whole("most", most, least=1),
        start_resolution=number("start_resolution", start_resolution),
        finest=number("resolution", resolution),
        angular_step=number("angular_step", angular_step),
        iterations=whole("iterations", iterations, least=1),
        classes=whole("classes", classes, least=1),
        tilt_range=tilts,
        seed=seed,
    )
    maps = _known(known, size, n, bool(invert))
    # Of a million rows, writing all would take a minute: what cannot be written shows in some.
    some = table.head(_ROWS).assign(cluster=0, distance=0.0)
    check_table(some, output / "particles.star", voxel_size=size)
    parameters: dict[str, tuple[str, Any]] = {
        "subtomograms": ("features", boxes_state(boxes, source)),
        # Features are the same wherever boxes lie, but their store holds the table.
        "particle_table": ("features", table_state(boxes)),
        "voxel_size": ("features", size),
        "model": ("features", f"{named.name}: {named.digest}"),
        "clusters": ("clusters", plan.clusters),
        "method": ("clusters", plan.method),
        "seed": ("clusters", plan.seed),
        "least": ("cluster_000", plan.least),
        "most": ("cluster_000", plan.most),
        "diameter": ("cluster_000", plan.diameter),
        "classes": ("cluster_000", plan.classes),
        "iterations": ("cluster_000", plan.iterations),
        "start_resolution": ("cluster_000", plan.start_resolution),
        "resolution": ("cluster_000", plan.finest),
        "angular_step": ("cluster_000", plan.angular_step),
        # Tables of all boxes hold tilts, too: those are written with the clusters.
        "tilt_range": ("clusters", None if tilts is None else list(tilts)),
        "tilts": ("clusters", tilts_state(boxes) if tilts is None else None),
    }
    return SubdivisionJob(
        boxes=boxes,
        table=table,
        model=named,
        features=wanted if given is None else there,
        given=given,
        plan=plan,
        kinds=kinds,
        known=maps,
        mirrored=bool(mirrored),
        map_particles=map_particles,
        map_method=map_method,
        source=source,
        parameters=parameters,
    )


def _kinds(boxes: xr.Dataset, labels: Any) -> np.ndarray | None:
    """Of each particle, if the boxes or a table of labels say it."""
    table = particle_table(boxes)
    if labels is None:
        if not {"class", "kind"} & set(table):
            return None
        return np.asarray(class_names(table).to_numpy(), str)
    found = labelled_boxes(boxes.drop_vars(["class", "kind"], errors="ignore"), labels)
    kinds = np.full(len(table), UNKNOWN, dtype=object)
    kinds[found.rows] = np.array(found.classes, dtype=object)[found.numbers]
    return kinds.astype(str)


def _known(
    known: Sequence[Any], voxel_size: float, edge: int, invert: bool
) -> tuple[xr.DataArray, ...]:
    """Maps to compare with, as `known_maps` makes them of what is given, or their negative."""
    if isinstance(known, str | os.PathLike | xr.DataArray):
        known = [known]
    given: dict[str, xr.DataArray] = {}
    for one in known:
        volume = one if isinstance(one, xr.DataArray) else open_tomogram(one)
        name = Path(str(volume.attrs.get("source") or volume.name or "known")).stem
        if name in given:
            raise InputError(f"known maps must have names of their own, got {name!r} twice")
        if not float(volume.attrs.get("voxel_size", 0.0)) > 0:
            raise InputError(f"known map {name} has no voxel size; set attrs['voxel_size'] in Å")
        given[name] = volume
    made = known_maps(given, voxel_size=voxel_size, box=edge) if given else {}
    maps = []
    for name, values in made.items():
        attrs = {"voxel_size": voxel_size, "source": name, "known": name}
        one = xr.DataArray(-values if invert else values, dims=("z", "y", "x"), attrs=attrs)
        maps.append(one.assign_attrs(digest=map_digest(one)))
    return tuple(maps)
