"""A run: its folder, its stages one after the other, and what came of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from tomodask.cluster import connect
from tomodask.data.run_folder import RunFolder
from tomodask.nets.segmentation.model_file import PickingModel
from tomodask.project.as_typed import as_typed
from tomodask.project.from_tomogram.job import checked_job
from tomodask.project.from_tomogram.stages import do_all, finished

__all__ = ["Run", "run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What a run made.

    Attributes
    ----------
    output : Path
        The folder.
    scores : Path, optional
        Of template matching; None where a model picked.
    probability : Path, optional
        Of the segmentation; None where a template picked.
    picks, subtomograms, poses, average, half_1, half_2, fsc, report : Path
        The other files.
    particles : int
        In the average.
    threshold : float
        Score, or probability, above which particles were picked.
    voxel_size, box, diameter : float, int, float
        Å, voxels, Å.
    resolution_143, resolution_5 : float
        Where the FSC of the half maps falls below 0.143 and 0.5, Å; infinite if not reached.
    seconds : dict
        Of each stage.
    """

    output: Path
    scores: Path | None
    probability: Path | None
    picks: Path
    subtomograms: Path
    poses: Path
    average: Path
    half_1: Path
    half_2: Path
    fsc: Path
    report: Path
    particles: int
    threshold: float
    voxel_size: float
    box: int
    diameter: float
    resolution_143: float
    resolution_5: float
    seconds: dict[str, float]


def run(
    tomogram: str | os.PathLike[str] | xr.DataArray,
    *,
    template: str | os.PathLike[str] | xr.DataArray | None = None,
    output: str | os.PathLike[str],
    model: str | os.PathLike[str] | PickingModel | None = None,
    particle_class: str | None = None,
    voxel_size: float | None = None,
    tilt_range: tuple[float, float] | None = None,
    diameter: float | None = None,
    angular_step: float | None = None,
    resolution: float | None = None,
    invert: bool = False,
    resample_template: bool = False,
    threshold: float | None = None,
    max_particles: int | None = None,
    box: int | None = None,
    outside: Literal["pad", "drop"] = "pad",
    search_step: float = 20.0,
    shift_range: float | None = None,
    align_resolution: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
    scheduler: str | None = None,
    workers: int | None = None,
    memory: str | None = None,
    config: str | Path | None = None,
    command: str | None = None,
) -> Run:
    """From a tomogram to picks, subtomograms, poses, average and report, in one folder.

    Particles are found by template matching or, where a `model` is given, by its segmentation.
    Each finished stage, and within matching, segmentation, extraction and alignment each finished
    batch, is kept in `output`.  The same call goes on where an earlier one stopped, however it
    ended, and ends with the same result to the last bit.

    Parameters
    ----------
    tomogram : path or DataArray
        A file that `open_tomogram` reads, or a tomogram; one that is no file is saved in the folder
        first.
    template : path or DataArray
        A map of the particle, of the tomogram's contrast: what is matched, and what alignment
        starts from.  With a model it is needed for the alignment alone.
    output : path
        The folder; made where it is not there.
    model : path or PickingModel, optional
        Of `train_picker`: picks in place of the template.
    particle_class : str, optional
        Which of the model's classes to average; needed where it knows several.
    voxel_size : float, optional
        Å; in place of what the tomogram says.
    tilt_range : (float, float), optional
        Least and largest tilt, degrees; by default what the tomogram says.  Given here, it also
        takes the place of the record of its tilt series.
    diameter : float, optional
        Of the particle, Å; by default measured on the template (`template_diameter`).
    angular_step : float, optional
        Of matching, degrees; 15 by default.
    resolution : float, optional
        Finest detail matched, Å; see `match_template`.
    invert : bool
        Take the negative of the template: density bright, tomogram dark.  A model knows the
        contrast it was trained on.
    resample_template : bool
        Bring a template of another voxel size to that of the tomogram; without it, it is refused.
    threshold : float, optional
        Least score of a pick, by default found (`pick_particles`); with a model the least
        probability of a particle's voxels, by default 0.5 (`pick_segmentation`).
    max_particles : int, optional
        The best so many at most.
    box : int, optional
        Edge of the boxes, voxels; by default 1.6 diameters, even.
    outside : {"pad", "drop"}
        Boxes that leave the tomogram.
    search_step : float
        Of the search of alignment, degrees.
    shift_range : float, optional
        Of alignment along each axis, Å; by default a tenth of the box.
    align_resolution : float, optional
        Finest detail to align by, Å; see `align_subtomograms`.
    seed : int
        Of the mini-batches of refinement.
    overwrite : bool
        Drop another run in the folder.
    scheduler, workers, memory, config
        Where the work runs, see `connect`.
    command : str, optional
        What the report says was called; by default the call of the command line that does the same.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        If an input is wrong, the folder holds another run, fewer than two particles are found, or
        the disk is full.  What is finished is kept.
    """
    job = checked_job(
        tomogram,
        template=template,
        model=model,
        particle_class=particle_class,
        voxel_size=voxel_size,
        tilt_range=tilt_range,
        diameter=diameter,
        angular_step=angular_step,
        resolution=resolution,
        invert=invert,
        resample_template=resample_template,
        threshold=threshold,
        max_particles=max_particles,
        box=box,
        outside=outside,
        search_step=search_step,
        shift_range=shift_range,
        align_resolution=align_resolution,
        seed=seed,
    )
    if command is None:
        command = _command(locals())
    output = Path(output)
    with RunFolder.opened(
        output, stages=job.stages, parameters=job.parameters, command=command, overwrite=overwrite
    ) as folder:
        folder.document["figures"] |= job.figures()
        if all(finished(folder, stage) for stage in job.stages if stage != "tomogram"):
            _log.info("%s: all stages were finished", output)
        else:
            with connect(scheduler, workers=workers, memory=memory, config=config):
                do_all(folder, job)
        return _result(folder)


def _command(given: Mapping[str, Any]) -> str:
    return as_typed(
        "run",
        run,
        given,
        first=["template"],
        options={"resample_template": "--resample", "particle_class": "--class"},
    )


def _or_infinity(value: float | None) -> float:
    return float("inf") if value is None else value


def _result(folder: RunFolder) -> Run:
    figures, at = folder.document["figures"], folder.path
    by_model = folder.document["parameters"]["model"] is not None
    return Run(
        output=at,
        scores=None if by_model else at / "scores.zarr",
        probability=at / "probability.zarr" if by_model else None,
        picks=at / "picks.star",
        subtomograms=at / "subtomograms.zarr",
        poses=at / "poses.star",
        average=at / "average.mrc",
        half_1=at / "half1.mrc",
        half_2=at / "half2.mrc",
        fsc=at / "fsc.csv",
        report=at / "report.html",
        particles=figures["particles"],
        threshold=figures["threshold"],
        voxel_size=figures["voxel_size"],
        box=figures["box"],
        diameter=figures["diameter"],
        resolution_143=_or_infinity(figures["resolution_143"]),
        resolution_5=_or_infinity(figures["resolution_5"]),
        seconds={stage: entry["seconds"] for stage, entry in folder.document["stages"].items()},
    )
