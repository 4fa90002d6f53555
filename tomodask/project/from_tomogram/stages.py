"""The stages of a run: each does its work into the folder, unless it is finished there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.alignment.poses import align_subtomograms
from tomodask.averaging.average import Average
from tomodask.averaging.averages import average_subtomograms
from tomodask.averaging.fsc import fsc, resolution_at
from tomodask.cluster import compute
from tomodask.data.job_input import job_template
from tomodask.data.particles import read_particles, write_particles
from tomodask.data.run_folder import RunFolder
from tomodask.data.subtomograms import (
    extract_subtomograms,
    open_subtomograms,
    particle_table,
    save_subtomograms,
)
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.data.writing import replacing
from tomodask.errors import InputError
from tomodask.picking.templates.matching import (
    match_template,
    open_scores,
    pick_particles,
    save_scores,
)
from tomodask.project.from_tomogram.job import Job
from tomodask.report import write_report

__all__ = ["do_all", "finished"]


def finished(folder: RunFolder, stage: str) -> bool:
    """Whether a stage is done; what the pickers write bears its final name from the first tile."""
    if stage in ("match", "segment") and folder.finished(stage):
        try:
            if stage == "match":
                open_scores(folder.path / "scores.zarr")
            else:
                from tomodask.picking.segmentation.store import open_segmentation

                open_segmentation(folder.path / "probability.zarr")
        except InputError:
            return False
    return folder.finished(stage)


def do_all(folder: RunFolder, job: Job) -> None:
    """Do the stages that are not finished."""
    volume = job.volume if job.source is not None else _save_tomogram(folder, job.volume)
    if job.model is None:
        _match(folder, job, volume)
    else:
        _segment(folder, job, volume)
    _pick(folder, job)
    _extract(folder, job, volume)
    _align(folder, job)
    _average(folder, job.diameter)
    _report(folder)


def _save_tomogram(folder: RunFolder, volume: xr.DataArray) -> xr.DataArray:
    path = folder.path / "tomogram.zarr"
    if not folder.finished("tomogram"):
        with folder.stage("tomogram", [path.name]):
            save_tomogram(volume, path, overwrite=True)
    return open_tomogram(path).assign_attrs(tilt_range=volume.attrs["tilt_range"])


def _match(folder: RunFolder, job: Job, volume: xr.DataArray) -> None:
    if finished(folder, "match"):
        return
    with folder.stage("match", ["scores.zarr"]):
        scores = match_template(volume, job.reference, **job.matching)
        save_scores(scores, folder.path / "scores.zarr")


def _segment(folder: RunFolder, job: Job, volume: xr.DataArray) -> None:
    if finished(folder, "segment"):
        return
    from tomodask.picking.segmentation.segmenting import segment_tomogram
    from tomodask.picking.segmentation.store import save_segmentation

    assert job.model is not None
    with folder.stage("segment", ["probability.zarr"]):
        save_segmentation(segment_tomogram(volume, job.model), folder.path / "probability.zarr")


def _pick(folder: RunFolder, job: Job) -> None:
    if folder.finished("pick"):
        return
    with folder.stage("pick", ["picks.star"]) as figures:
        picks, level = _by_score(folder, job) if job.model is None else _by_model(folder, job)
        if len(picks) < 4:  # two in each half
            what, kept, way = (
                (
                    "score",
                    "scores",
                    "see that the template has the tomogram's contrast (invert=True, --invert)",
                )
                if job.model is None
                else (
                    f"of {job.particle_class!r} have a probability",
                    "probabilities",
                    "see that the model was trained on such tomograms, of the same contrast",
                )
            )
            raise InputError(
                f"{len(picks)} particles {what} above {level:.3g}, an average needs 4; lower the "
                f"threshold (threshold=…, --threshold; the {kept} are kept), or {way}"
            )
        write_particles(picks, folder.path / "picks.star", voxel_size=job.voxel_size)
        figures |= {"picked": len(picks), "threshold": level}


def _by_score(folder: RunFolder, job: Job) -> tuple[pd.DataFrame, float]:
    picks = pick_particles(
        open_scores(folder.path / "scores.zarr"),
        threshold=job.threshold,
        max_particles=job.max_particles,
    )
    return picks, float(picks.attrs["threshold"])


def _by_model(folder: RunFolder, job: Job) -> tuple[pd.DataFrame, float]:
    """Picks of one class, best first."""
    from tomodask.picking.segmentation.picks import pick_segmentation
    from tomodask.picking.segmentation.store import open_segmentation

    given: dict[str, Any] = {} if job.threshold is None else {"threshold": job.threshold}
    picks = pick_segmentation(open_segmentation(folder.path / "probability.zarr"), **given)
    level = float(picks.attrs["threshold"])
    # One class, of a table whose kind no later stage asks for.
    picks = picks[picks["kind"] == job.particle_class].drop(columns=["kind", "class"])
    picks = picks.sort_values("score", ascending=False, kind="stable", ignore_index=True)
    return picks.head(job.max_particles or len(picks)), level


def _extract(folder: RunFolder, job: Job, volume: xr.DataArray) -> None:
    if folder.finished("extract"):
        return
    path = folder.path / "subtomograms.zarr"
    with folder.stage("extract", [path.name]) as figures:
        picks = read_particles(folder.path / "picks.star")
        boxes = extract_subtomograms(volume, picks, box=job.box, outside=job.outside)
        save_subtomograms(boxes, path, overwrite=path.exists())
        figures |= {name: int(boxes.attrs[name]) for name in ("padded", "dropped")}


def _align(folder: RunFolder, job: Job) -> None:
    if folder.finished("align"):
        return
    with folder.stage("align", ["poses.star", "align_batches"]):
        boxes = open_subtomograms(folder.path / "subtomograms.zarr")
        size = float(boxes.attrs["voxel_size"])
        shaped = job_template(job.reference, size, True, edge=boxes.sizes["x"])
        shaped = shaped.copy(data=-shaped.to_numpy()) if job.invert else shaped
        aligned = align_subtomograms(
            boxes, shaped, checkpoint=folder.path / "align_batches", **job.alignment
        )
        poses = compute(aligned, label="align")
        # Halves in turn, and boxes named from the STAR's folder, which may be moved as a whole.
        poses = poses.reset_index(drop=True).assign(
            half=1 + np.arange(len(poses)) % 2,
            image=[f"{number}@subtomograms.zarr" for number in range(len(poses))],
        )
        write_particles(poses, folder.path / "poses.star", voxel_size=size)


def _average(folder: RunFolder, diameter: float) -> None:
    if folder.finished("average"):
        return
    outputs = ["average.mrc", "half1.mrc", "half2.mrc", "fsc.csv"]
    with folder.stage("average", outputs) as figures:
        boxes = open_subtomograms(folder.path / "subtomograms.zarr")
        poses = read_particles(folder.path / "poses.star", need=("orientation",))
        result: Average = compute(
            average_subtomograms(boxes, poses=_in_order(poses, boxes)), label="average"
        )
        maps = (result.average, result.half_1, result.half_2)
        for name, values in zip(outputs, maps, strict=False):
            volume = xr.DataArray(
                values,
                dims=("z", "y", "x"),
                name=name.removesuffix(".mrc"),
                attrs={"voxel_size": result.voxel_size},
            )
            save_tomogram(volume, folder.path / name, overwrite=True)
        curve = fsc(result.half_1, result.half_2, voxel_size=result.voxel_size, diameter=diameter)
        with replacing(folder.path / "fsc.csv", overwrite=True) as part:
            curve.to_csv(part, index=False)
        figures |= {
            "particles": int(sum(result.particles)),
            "resolution_143": _or_none(resolution_at(curve, 0.143)),
            "resolution_5": _or_none(resolution_at(curve, 0.5)),
        }


def _or_none(value: float) -> float | None:
    """None for what is not reached: JSON knows no infinity."""
    return float(value) if np.isfinite(value) else None


def _in_order(poses: pd.DataFrame, boxes: xr.Dataset) -> pd.DataFrame:
    """The poses as the run wrote them, row by row those of the boxes."""
    return poses.assign(image=particle_table(boxes)["image"].to_numpy())


def _report(folder: RunFolder) -> None:
    if folder.finished("report") and not folder.worked:
        return
    with folder.stage("report", ["report.html"]):
        folder.save()
        write_report(folder.path)
