"""Structures that a network was not shown, recovered from a cluster of its features."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from subdivision_boxes import CLASSES, KINDS, PROTOCOL, Boxes
from subdivision_networks import Condition, predictor

from tomodask.classification.clusters.averages import average_cluster
from tomodask.classification.clusters.kmeans import KMeans
from tomodask.classification.clusters.known import nearest_known
from tomodask.data.subtomogram_table import subtomogram_dataset
from tomodask.nets.boxes.model_file import BoxModel
from tomodask.simulation import structure_density

DIAMETER = 320.0  # Å, of the sphere about any of the complexes: nobody knows which it is
_COMPARED = 40.0  # Å, the finest detail by which an average is laid on the truth
SORTED_INTO, ITERATIONS = 3, 5  # classes and rounds, the paper's


def recover(
    boxes: Boxes, model: BoxModel, condition: Condition, wanted: Sequence[str], *, clusters: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each class left out of the model's training: its cluster, and what that looks like.

    The last linear layer's output for the test boxes of all classes → k-means → the cluster with
    most boxes of the class → three classes of it without a reference → the largest one's average,
    held against the truth.
    """
    amount = boxes.amount
    count = amount.test + amount.more
    small = boxes.condition(*condition, test=True, count=count)
    features = predictor(model).predict_logits(small.boxes)
    found = KMeans(clusters, seed=1).fit(features)
    for name in wanted:
        begin = time.process_time()
        of_it = small.labels == CLASSES.index(name)
        richest = int(np.bincount(found.labels_[of_it], minlength=clusters).argmax())
        rows = np.flatnonzero(found.labels_ == richest)
        row: dict[str, Any] = {
            "particles": len(rows),
            "share": float(of_it[rows].mean()),
            "found": float(of_it[rows].sum() / of_it.sum()),
            "discrepancy": None,
        }
        if len(rows) >= 8:
            row |= _averaged(boxes, condition, rows, count, name)
        yield name, row | {"seconds": time.process_time() - begin}


def _averaged(
    boxes: Boxes, condition: Condition, rows: np.ndarray, count: int, name: str
) -> dict[str, Any]:
    whole = boxes.condition(*condition, test=True, count=count, whole=True).boxes[rows]
    sorted_ = average_cluster(
        _dataset(whole, boxes, condition[0]),
        diameter=DIAMETER,
        classes=SORTED_INTO,
        iterations=ITERATIONS,
        seed=1,
    ).compute()
    if not sorted_.classes:
        return {"notes": list(sorted_.notes)}
    found = [_likeness(one.average.average, boxes.structures, [name]) for one in sorted_.classes]
    among = _likeness(sorted_.classes[0].average.average, boxes.structures, list(KINDS))
    return {
        "discrepancy": found[0][name][1],
        "all": [one[name][1] for one in found],
        "averaged": int(sum(sorted_.classes[0].average.particles)),
        "resolution": float(sorted_.classes[0].resolution),
        "nearest": max(among, key=lambda kind: among[kind][0]),
        "others": sorted(away for kind, (_, away) in among.items() if kind != name),
        "notes": list(sorted_.notes),
    }


def _likeness(
    volume: np.ndarray, structures: Path, kinds: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Correlation with each of some complexes, and the discrepancy, Å."""
    table = nearest_known(
        volume,
        {kind: truth(structures, kind) for kind in kinds},
        voxel_size=PROTOCOL.voxel_size,
        resolution=_COMPARED,
        diameter=DIAMETER,
    )
    values = zip(table["correlation"], table["discrepancy"], strict=True)
    return {kind: (float(a), float(b)) for kind, (a, b) in zip(table["name"], values, strict=True)}


def alike(structures: Path) -> list[dict[str, Any]]:
    """How like the complexes are among themselves: every pair, the likest first."""
    kinds = list(KINDS)
    rows = []
    for i, one in enumerate(kinds[:-1]):
        found = _likeness(truth(structures, one).to_numpy(), structures, kinds[i + 1 :])
        rows += [
            {"pair": [one, other], "correlation": score, "discrepancy": away}
            for other, (score, away) in found.items()
        ]
    return sorted(rows, key=lambda row: -row["correlation"])


def _dataset(whole: np.ndarray, boxes: Boxes, tilt: int) -> xr.Dataset:
    """Boxes as `open_subtomograms` would give them: no poses, the record of the series."""
    low, high = float(-tilt), float(tilt)
    table = pd.DataFrame({"tomogram": ["subdivision"] * len(whole)}).assign(
        tilt_min=low, tilt_max=high
    )
    return subtomogram_dataset(
        da.from_array(whole, chunks=(len(whole), -1, -1, -1)),
        table,
        voxel_size=PROTOCOL.voxel_size,
        attrs={"tilt_series": {"subdivision": boxes.record(tilt)}},
    )


@cache
def truth(structures: Path, name: str) -> xr.DataArray:
    """The density of a complex in a box of 40³."""
    return structure_density(
        structures / KINDS[name],
        voxel_size=PROTOCOL.voxel_size,
        resolution=PROTOCOL.resolution,
        box=PROTOCOL.box,
    )
