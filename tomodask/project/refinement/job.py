"""What a refinement is asked to do: checked before any work, and told apart from others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.alignment.checks import check_alignment
from tomodask.alignment.measurement import measurements
from tomodask.alignment.references import check_references
from tomodask.arrays.symmetry import symmetry_group
from tomodask.beforehand import check_table, number, whole
from tomodask.data.job_boxes import (
    boxes_state,
    job_boxes,
    lasting_images,
    table_state,
    tilts_state,
)
from tomodask.data.job_input import job_template, map_digest
from tomodask.data.subtomogram_table import particle_table
from tomodask.errors import InputError
from tomodask.rounds.classes import check_classes
from tomodask.rounds.half_sets import half_sets
from tomodask.rounds.iterations import RefinementPlan
from tomodask.rounds.round_state import RoundPlan

__all__ = ["MOST", "RefinementJob", "checked_refinement"]

MOST = 99  # iterations; their folders are numbered with two digits
_ASSIGNMENTS = ("hard", "soft")


@dataclass(frozen=True)
class RefinementJob:
    """A refinement's input and settings, as they are used.

    Attributes
    ----------
    boxes : Dataset
        Lazy; its ``particle`` numbers are unique.
    table : DataFrame
        Of the boxes, with ``half``.
    plan : RefinementPlan
        Its diameter is 0 where it is to be measured on the first map.
    references : tuple of DataArray
        None for a start without.
    classes : int
    assignment : {"hard", "soft"}
    consensus : int
        Rounds with one class before they are told apart.
    reseeds : int
        How often classes that fall empty are filled again.
    merge : float, optional
        Correlation from which classes are one.
    tilt_range : (float, float), optional
    seed, attempts, first_particles : int
    parameters : dict
        Name → (stage, value), of `RunFolder.opened`.
    """

    boxes: xr.Dataset
    table: pd.DataFrame
    plan: RefinementPlan
    references: tuple[xr.DataArray, ...]
    classes: int
    assignment: str
    consensus: int
    reseeds: int
    merge: float | None
    tilt_range: tuple[float, float] | None
    seed: int
    attempts: int
    first_particles: int
    source: str
    parameters: dict[str, tuple[str, Any]] = field(repr=False)

    @property
    def half(self) -> np.ndarray:
        """1 or 2, of each particle."""
        return np.asarray(self.table["half"].to_numpy(np.int64))

    @property
    def rounds(self) -> RoundPlan:
        """What its rounds are of."""
        return RoundPlan(
            boxes=self.boxes,
            table=self.table,
            half=self.half,
            plan=self.plan,
            assignment=self.assignment,
            reseeds=self.reseeds,
            merge=self.merge,
            tilt_range=self.tilt_range,
        )

    def with_diameter(self, diameter: float) -> RefinementJob:
        """The job with the particle's diameter, Å, which is known from the first map on."""
        return replace(self, plan=replace(self.plan, diameter=diameter))

    def figures(self) -> dict[str, Any]:
        """What the report tells of the input."""
        sizes = np.bincount(self.half, minlength=3)[1:]
        return {
            "name": Path(self.source).name or "subtomograms",
            "subtomograms": self.source,
            "particles": len(self.table),
            "halves": [int(size) for size in sizes],
            "box": self.plan.box,
            "voxel_size": self.plan.voxel_size,
            "symmetry": self.plan.symmetry,
            "start": [str(one.attrs.get("source", "in memory")) for one in self.references],
            "start_resolution": self.plan.start_resolution,
            "classes": self.classes,
        }


def checked_refinement(
    subtomograms: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | xr.Dataset,
    *,
    output: Path,
    reference: Any,
    references: Sequence[Any] | None,
    classes: int | None,
    symmetry: str,
    halves: str,
    tilt_range: Sequence[float] | None,
    voxel_size: float | None,
    diameter: float | None,
    start_resolution: float,
    resolution: float | None,
    angular_step: float,
    shift_range: float | None,
    method: str,
    candidates: int,
    whiten: bool,
    iterations: int,
    assignment: str,
    consensus: int,
    reseeds: int,
    merge: float | None,
    resample_reference: bool,
    invert: bool,
    attempts: int,
    first_particles: int,
    seed: int,
) -> RefinementJob:
    """Open and check all that `refine` is given; reads no box.

    Raises
    ------
    InputError
        If anything in it would make a later stage fail.
    """
    seed, iterations = whole("seed", seed, least=0), whole("iterations", iterations, least=1)
    if iterations > MOST:
        raise InputError(f"iterations must be at most {MOST}, got {iterations}")
    consensus, reseeds = whole("consensus", consensus, least=1), whole("reseeds", reseeds, least=0)
    attempts = whole("attempts", attempts, least=1)
    first_particles = whole("first_particles", first_particles, least=4)
    if assignment not in _ASSIGNMENTS:
        raise InputError(f"assignment must be 'hard' or 'soft', got {assignment!r}")
    merge = number("merge", merge)
    if merge is not None and not 0 < merge <= 1:
        raise InputError(f"merge must be a correlation above 0, at most 1, got {merge:g}")
    symmetry = symmetry.strip().upper() if isinstance(symmetry, str) else symmetry
    symmetry_group(symmetry)  # refuses what is none
    tilts = None if tilt_range is None else (float(tilt_range[0]), float(tilt_range[1]))
    boxes, source = job_boxes(subtomograms, voxel_size=voxel_size, tilt_range=tilts)
    table = particle_table(boxes)
    n, size = int(boxes.sizes["x"]), float(boxes.attrs["voxel_size"])
    if len({boxes.sizes[axis] for axis in "zyx"}) != 1:
        raise InputError(f"subtomograms must be cubic boxes, got {dict(boxes.sizes)}")
    half = half_sets(table, by=halves, seed=seed)  # type: ignore[arg-type]
    kind, _ = measurements(table, boxes.attrs, tilts)
    del kind  # refuses boxes that do not say what was measured

    given = _given(reference, references)
    maps = tuple(
        job_template(one, size, resample_reference, edge=n, role="reference") for one in given
    )
    if maps:  # zeros only, say: refused here, before a folder is made
        check_references(maps, shape=boxes["subtomogram"].shape, voxel_size=size)
    if invert:
        maps = tuple(one.copy(data=-one.to_numpy()) for one in maps)
    if references is not None and classes is not None and classes != len(maps):
        raise InputError(
            f"classes is {classes} and there are {len(maps)} references; leave classes out, or "
            "give as many"
        )
    wanted = classes if classes is not None else (len(maps) if references is not None else 1)
    wanted = check_classes(wanted, half)
    start_resolution = number("start_resolution", start_resolution)
    if not 4 * size <= start_resolution <= n * size / 2:
        raise InputError(
            f"start_resolution must be within 4 voxels and half the box, {4 * size:g} to "
            f"{n * size / 2:g} Å, got {start_resolution:g}"
        )
    resolution = number("resolution", resolution)
    finest = 2 * size * n / (n - 2) if resolution is None else resolution
    if finest > start_resolution:
        raise InputError(
            f"resolution must be finer than start_resolution, {start_resolution:g} Å, got "
            f"{finest:g}"
        )
    diameter = number("diameter", diameter)
    angular_step, shift_range = (
        number("angular_step", angular_step),
        number("shift_range", shift_range),
    )
    candidates = whole("candidates", candidates, least=1)
    check_alignment(
        box=n,
        voxel_size=size,
        angular_step=angular_step,
        shift_range=shift_range,
        resolution=finest,
        diameter=diameter,
        candidates=candidates,
        seed=seed,
        method=method,
    )
    table = lasting_images(table.assign(half=half), boxes)
    check_table(table, output / "poses.star", voxel_size=size)
    alignment: dict[str, Any] = {
        "method": method,
        "candidates": candidates,
        "shift_range": shift_range,
        "tilt_range": tilts,
        "seed": seed,
    }
    if whiten:
        alignment["whiten"] = True
    plan = RefinementPlan(
        box=n,
        voxel_size=size,
        diameter=0.0 if diameter is None else diameter,
        start_resolution=start_resolution,
        finest=finest,
        angular_step=angular_step,
        symmetry=symmetry,
        iterations=iterations,
        alignment=tuple(alignment.items()),
    )
    parameters = {
        "subtomograms": boxes_state(boxes, source),
        "particle_table": table_state(boxes),
        "voxel_size": size,
        "references": [map_digest(one) for one in maps],
        "classes": wanted,
        "symmetry": symmetry,
        "halves": str(halves),
        "tilt_range": None if tilts is None else list(tilts),
        "tilts": tilts_state(boxes) if tilts is None else None,
        "diameter": diameter,
        "start_resolution": start_resolution,
        "resolution": resolution,
        "angular_step": angular_step,
        "shift_range": shift_range,
        "method": method,
        "candidates": candidates,
        "whiten": bool(whiten),
        "assignment": assignment,
        "consensus": consensus,
        "reseeds": reseeds,
        "merge": merge,
        "attempts": attempts,
        "first_particles": first_particles,
        "seed": seed,
    }
    return RefinementJob(
        boxes=boxes,
        table=table,
        plan=plan,
        references=maps,
        classes=wanted,
        assignment=assignment,
        consensus=consensus,
        reseeds=reseeds,
        merge=merge,
        tilt_range=tilts,
        seed=seed,
        attempts=attempts,
        first_particles=first_particles,
        source=source,
        parameters={name: ("start", value) for name, value in parameters.items()},
    )


def _given(reference: Any, references: Sequence[Any] | None) -> list[Any]:
    if references is None:
        return [] if reference is None else [reference]
    if reference is not None:
        raise InputError("give reference or references, one of them")
    if isinstance(references, str | os.PathLike | xr.DataArray) or not len(references):
        raise InputError("references must be a list of maps, one for each class")
    return list(references)
