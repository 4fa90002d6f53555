"""From a tomogram to an average as one run, which can be killed and goes on where it stopped."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.alignment.averaging import Average, average_subtomograms
from tomodask.alignment.fsc import fsc, resolution_at
from tomodask.alignment.poses import align_subtomograms
from tomodask.arrays.tilt_weights import check_record, record_digest, record_range
from tomodask.beforehand import check_name, check_run_alignment, number, whole
from tomodask.cluster import compute, connect
from tomodask.data.job_input import job_template, job_tomogram, map_digest, tomogram_state
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
from tomodask.picking.template_matching import (
    match_template,
    open_scores,
    pick_particles,
    save_scores,
    template_diameter,
)
from tomodask.report import write_report

__all__ = ["Run", "run"]

_log = logging.getLogger(__name__)

STAGES = ("tomogram", "match", "pick", "extract", "align", "average", "report")
_BOX = 1.6  # of the diameter: room for the shift, and for a mask's soft edge


@dataclass(frozen=True)
class Run:
    """What a run made.

    Attributes
    ----------
    output : Path
        The folder.
    scores, picks, subtomograms, poses, average, half_1, half_2, fsc, report : Path
        Its files.
    particles : int
        In the average.
    threshold : float
        Score above which particles were picked.
    voxel_size, box, diameter : float, int, float
        Å, voxels, Å.
    resolution_143, resolution_5 : float
        Where the FSC of the half maps falls below 0.143 and 0.5, Å; infinite if not reached.
    seconds : dict
        Of each stage.
    """

    output: Path
    scores: Path
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
    template: str | os.PathLike[str] | xr.DataArray,
    output: str | os.PathLike[str],
    voxel_size: float | None = None,
    tilt_range: tuple[float, float] | None = None,
    diameter: float | None = None,
    angular_step: float = 15.0,
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
    """Template matching, picks, subtomograms, poses, average and report, in one folder.

    Each finished stage, and within matching, extraction and alignment each finished batch, is kept
    in `output`.  The same call goes on where an earlier one stopped, however it ended, and ends
    with the same result to the last bit.

    Parameters
    ----------
    tomogram : path or DataArray
        A file that `open_tomogram` reads, or a tomogram; one that is no file is saved in the folder
        first.
    template : path or DataArray
        A map of the particle, of the tomogram's contrast.
    output : path
        The folder; made where it is not there.
    voxel_size : float, optional
        Å; in place of what the tomogram says.
    tilt_range : (float, float), optional
        Least and largest tilt, degrees; by default what the tomogram says.  Given here, it also
        takes the place of the record of its tilt series.
    diameter : float, optional
        Of the particle, Å; by default measured on the template (`template_diameter`).
    angular_step : float
        Of matching, degrees.
    resolution : float, optional
        Finest detail matched, Å; see `match_template`.
    invert : bool
        Take the negative of the template: density bright, tomogram dark.
    resample_template : bool
        Bring a template of another voxel size to that of the tomogram; without it, it is refused.
    threshold : float, optional
        Least score of a pick; by default found (`pick_particles`).
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
    voxel_size = number("voxel_size", voxel_size)
    angular_step, search_step = (
        number("angular_step", angular_step),
        number("search_step", search_step),
    )
    diameter, threshold = number("diameter", diameter), number("threshold", threshold)
    resolution = number("resolution", resolution)
    shift_range = number("shift_range", shift_range)
    align_resolution = number("align_resolution", align_resolution)
    max_particles = whole("max_particles", max_particles, least=2)  # an average needs two
    seed = whole("seed", seed, least=0)
    invert, resample_template = bool(invert), bool(resample_template)
    if outside not in ("pad", "drop"):
        raise InputError(f"outside must be 'pad' or 'drop', got {outside!r}")
    volume, is_file = job_tomogram(tomogram, voxel_size)
    if tilt_range is not None:
        low, high = (number("tilt_range", tilt) for tilt in tilt_range)
        volume = volume.assign_attrs(tilt_range=(low, high))
        volume.attrs.pop("tilt_series", None)
    series = volume.attrs.get("tilt_series")
    if series is not None:
        series = check_record(series, str(volume.attrs.get("source") or volume.name))
        volume = volume.assign_attrs(
            tilt_range=volume.attrs.get("tilt_range", record_range(series))
        )
    if "tilt_range" not in volume.attrs:
        raise InputError(
            "the tomogram does not say its tilt range; give it: tilt_range=(-60, 60), "
            "--tilt-range -60 60 (degrees; -90 90 where nothing is missing)"
        )
    reference = job_template(template, volume.attrs["voxel_size"], resample_template)
    size = float(volume.attrs["voxel_size"])
    diameter_here = template_diameter(reference) if diameter is None else diameter
    box = whole("box", box, least=2)
    box_here = 2 * int(np.ceil(_BOX * diameter_here / size / 2)) if box is None else box
    if box_here * size < diameter_here:
        raise InputError(
            f"box must be at least the diameter of the particle, {diameter_here / size:.0f} "
            f"voxels, got {box_here}"
        )
    check_run_alignment(
        box=box_here,
        voxel_size=size,
        angular_step=search_step,
        shift_range=shift_range,
        resolution=align_resolution,
        diameter=diameter_here,
        seed=seed,
    )
    matching: dict[str, Any] = {
        "angular_step": angular_step,
        "diameter": diameter_here,
        "resolution": resolution,
        "invert": invert,
    }
    match_template(volume, reference, **matching)  # refuses what cannot be matched, before all else
    name = str(volume.name or "tomogram")
    source = volume.attrs.get("source") if is_file else None
    check_name(name, str(source or "tomogram"))
    parameters: dict[str, tuple[str, Any]] = {
        "tomogram": ("tomogram", tomogram_state(volume, source)),
        "voxel_size": ("tomogram", size),
        "tilt_range": ("match", list(volume.attrs["tilt_range"])),
        "template": ("match", map_digest(reference)),
        "angular_step": ("match", angular_step),
        "diameter": ("match", diameter_here),
        "resolution": ("match", resolution),
        "invert": ("match", invert),
        "threshold": ("pick", threshold),
        "max_particles": ("pick", max_particles),
        "box": ("extract", box_here),
        "outside": ("extract", outside),
        "tilt_series": ("match", None if series is None else record_digest(series)),
        "search_step": ("align", search_step),
        "shift_range": ("align", shift_range),
        "align_resolution": ("align", align_resolution),
        "seed": ("align", seed),
    }
    if command is None:
        command = _command(locals())
    output = Path(output)
    with RunFolder.opened(
        output, stages=STAGES, parameters=parameters, command=command, overwrite=overwrite
    ) as folder:
        folder.document["figures"] |= {
            "name": name,
            "tomogram": str(Path(source).resolve()) if source else "tomogram.zarr",
            "template": str(reference.attrs.get("source", "in memory")),
            "shape": list(volume.shape),
            "voxel_size": size,
            "box": box_here,
            "diameter": diameter_here,
            "tilt_range": list(volume.attrs["tilt_range"]),
        }
        if not all(_finished(folder, stage) for stage in STAGES if stage != "tomogram"):
            with connect(scheduler, workers=workers, memory=memory, config=config):
                if source is None:
                    volume = _save_tomogram(folder, volume)
                _match(folder, volume, reference, matching)
                _pick(folder, threshold, max_particles, size)
                _extract(folder, volume, box_here, outside)
                _align(
                    folder,
                    reference,
                    invert=invert,
                    search_step=search_step,
                    shift_range=shift_range,
                    resolution=align_resolution,
                    diameter=diameter_here,
                    seed=seed,
                )
                _average(folder, diameter_here)
                _report(folder)
        else:
            _log.info("%s: all stages were finished", output)
        return _result(folder)


def _command(given: Mapping[str, Any]) -> str:
    """The call of the command line that does the same."""

    def path(value: Any) -> str:
        if isinstance(value, xr.DataArray):
            return str(value.attrs.get("source") or value.name or "IN_MEMORY")
        return str(value)

    words = ["tomodask", "run", path(given["tomogram"]), "--template", path(given["template"])]
    words += ["-o", str(given["output"])]
    defaults = run.__kwdefaults__ or {}
    for name, default in defaults.items():
        value = given[name]
        if value == default or name in ("command", "overwrite"):
            continue
        words.append("--resample" if name == "resample_template" else f"--{name.replace('_', '-')}")
        if not isinstance(value, bool):
            values = (
                value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            )
            words += [f"{v:g}" if isinstance(v, float) else str(v) for v in values]
    return shlex.join(words)


def _finished(folder: RunFolder, stage: str) -> bool:
    """Whether a stage is done; scores bear their final name from the first tile on."""
    if stage == "match" and folder.finished(stage):
        try:
            open_scores(folder.path / "scores.zarr")
        except InputError:
            return False
    return folder.finished(stage)


def _save_tomogram(folder: RunFolder, volume: xr.DataArray) -> xr.DataArray:
    path = folder.path / "tomogram.zarr"
    if not folder.finished("tomogram"):
        with folder.stage("tomogram", [path.name]):
            save_tomogram(volume, path, overwrite=True)
    return open_tomogram(path).assign_attrs(tilt_range=volume.attrs["tilt_range"])


def _match(
    folder: RunFolder, volume: xr.DataArray, reference: xr.DataArray, matching: dict[str, Any]
) -> None:
    if _finished(folder, "match"):
        return
    with folder.stage("match", ["scores.zarr"]):
        save_scores(match_template(volume, reference, **matching), folder.path / "scores.zarr")


def _pick(
    folder: RunFolder, threshold: float | None, max_particles: int | None, voxel_size: float
) -> None:
    if folder.finished("pick"):
        return
    with folder.stage("pick", ["picks.star"]) as figures:
        picks = pick_particles(
            open_scores(folder.path / "scores.zarr"),
            threshold=threshold,
            max_particles=max_particles,
        )
        level = float(picks.attrs["threshold"])
        if len(picks) < 2:
            raise InputError(
                f"{len(picks)} particles score above {level:.3g}, an average needs 2; lower the "
                "threshold (threshold=…, --threshold; the scores are kept), or see that the "
                "template has the tomogram's contrast (invert=True, --invert)"
            )
        write_particles(picks, folder.path / "picks.star", voxel_size=voxel_size)
        figures |= {"picked": len(picks), "threshold": level}


def _extract(
    folder: RunFolder, volume: xr.DataArray, box: int, outside: Literal["pad", "drop"]
) -> None:
    if folder.finished("extract"):
        return
    path = folder.path / "subtomograms.zarr"
    with folder.stage("extract", [path.name]) as figures:
        picks = read_particles(folder.path / "picks.star")
        boxes = extract_subtomograms(volume, picks, box=box, outside=outside)
        save_subtomograms(boxes, path, overwrite=path.exists())
        figures |= {name: int(boxes.attrs[name]) for name in ("padded", "dropped")}


def _align(
    folder: RunFolder,
    reference: xr.DataArray,
    *,
    invert: bool,
    search_step: float,
    **options: Any,
) -> None:
    if folder.finished("align"):
        return
    with folder.stage("align", ["poses.star", "align_batches"]):
        boxes = open_subtomograms(folder.path / "subtomograms.zarr")
        size = float(boxes.attrs["voxel_size"])
        shaped = job_template(reference, size, True, edge=boxes.sizes["x"])
        shaped = shaped.copy(data=-shaped.to_numpy()) if invert else shaped
        poses = compute(
            align_subtomograms(
                boxes,
                shaped,
                angular_step=search_step,
                checkpoint=folder.path / "align_batches",
                **options,
            ),
            label="align",
        )
        # Halves in turn, and boxes named from the STAR's folder, which may be moved as a whole.
        poses = poses.reset_index(drop=True).assign(
            half=1 + np.arange(len(poses)) % 2,
            image=[f"{number}@subtomograms.zarr" for number in range(len(poses))],
        )
        write_particles(
            poses, folder.path / "poses.star", voxel_size=float(boxes.attrs["voxel_size"])
        )


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


def _or_infinity(value: float | None) -> float:
    return float("inf") if value is None else value


def _report(folder: RunFolder) -> None:
    if folder.finished("report") and not folder.worked:
        return
    with folder.stage("report", ["report.html"]):
        folder.save()
        write_report(folder.path)


def _result(folder: RunFolder) -> Run:
    figures, at = folder.document["figures"], folder.path
    return Run(
        output=at,
        scores=at / "scores.zarr",
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
