"""Maps that a refinement's result is looked at by: the filtered average, and local resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from dask.delayed import delayed

from tomodask.arrays.sampling import soft_sphere
from tomodask.arrays.surfaces import surface_level
from tomodask.averaging.fsc import resolution_at
from tomodask.averaging.local_resolution import local_resolution
from tomodask.averaging.sharpening import sharpen
from tomodask.cluster import compute
from tomodask.data.tomograms import open_tomogram
from tomodask.project.map_files import map_file, write_map
from tomodask.rounds.iterations import RefinementPlan

__all__ = ["write_filtered", "write_local_resolution"]

_LOCAL = ("average", "half1", "half2")


def write_filtered(at: Path, several: bool, label: int, voxel_size: float) -> None:
    """Write ``filtered.mrc``, the map to look at.

    It is the average, its shells weighted by C_ref, up to its resolution.
    """
    average = open_tomogram(at / map_file(several, label, "average.mrc")).to_numpy()
    curve = pd.read_csv(at / map_file(several, label, "fsc.csv"))
    if math.isfinite(resolution_at(curve, 0.143)):
        average = sharpen(average, voxel_size=voxel_size, b_factor=0.0, fsc=curve).to_numpy()
    write_map(at / map_file(several, label, "filtered.mrc"), average, voxel_size)


def write_local_resolution(
    at: Path, several: bool, labels: Sequence[int], plan: RefinementPlan
) -> dict[str, Any]:
    """Write the maps ``local_resolution.mrc``, one a class; computes.

    Returns
    -------
    dict
        By class, as JSON knows it: ``window`` and ``range``, within which nine tenths of the
        voxels of the average's surface lie, Å.
    """
    at, told = at.absolute(), {}
    tasks = [
        delayed(_local_levels)(
            *(str(at / map_file(several, c, f"{name}.mrc")) for name in _LOCAL), plan.diameter
        )
        for c in labels
    ]
    found = compute(tasks, label="local resolution", passing=True)
    for c, (levels, window, span) in zip(labels, found, strict=True):
        write_map(at / map_file(several, c, "local_resolution.mrc"), levels, plan.voxel_size)
        told[str(c)] = {"window": window, "range": span}
    return told


def _local_levels(
    average: str, half1: str, half2: str, diameter: float
) -> tuple[np.ndarray, float, list[float]]:
    """The task ``local_levels``: local resolution, Å; its window; 5 % and 95 % in the surface."""
    density, a, b = (open_tomogram(one) for one in (average, half1, half2))
    n, size = density.shape[0], float(density.attrs["voxel_size"])
    sphere = soft_sphere(n, min(diameter / 2 / size, n / 2 - 4))
    levels = local_resolution(a.to_numpy(), b.to_numpy(), voxel_size=size, mask=sphere)
    values, body = levels.to_numpy(), density.to_numpy()
    inside = (body > surface_level(body)) & (sphere > 0.5)
    span = np.percentile(values[inside if inside.any() else sphere > 0.5], [5, 95])
    return values, float(levels.attrs["window"]), [round(float(one), 3) for one in span]
