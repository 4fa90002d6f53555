"""What a run is asked to do: checked before any work, and told apart from other runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from tomodask.arrays.tilt_weights import check_record, record_digest, record_range
from tomodask.beforehand import check_class, check_name, check_run_alignment, number, whole
from tomodask.data.job_input import job_template, job_tomogram, map_digest, tomogram_state
from tomodask.errors import InputError
from tomodask.nets.segmentation.model_file import PickingModel, read_model
from tomodask.picking.templates.matching import match_template, template_diameter

__all__ = ["MATCHING", "SEGMENTATION", "Job", "checked_job"]

MATCHING = ("tomogram", "match", "pick", "extract", "align", "average", "report")
SEGMENTATION = ("tomogram", "segment", "pick", "extract", "align", "average", "report")
_BOX = 1.6  # of the diameter: room for the shift, and for a mask's soft edge
_ANGULAR_STEP = 15.0  # degrees, of matching


@dataclass(frozen=True)
class Job:
    """A run's input and settings, as they are used.

    Attributes
    ----------
    volume : DataArray, dims (z, y, x)
        Lazy; its attrs hold the tilt range, and the record of the tilt series if there is one.
    source : str, optional
        Its file; None for a tomogram that has none.
    reference : DataArray
        The template, at the tomogram's voxel size, in memory.
    matching : dict
        Of `match_template`; empty where a model picks.
    model : PickingModel, optional
    model_file : str
    particle_class : str, optional
        Which of the model's classes is picked.
    threshold : float, optional
    max_particles : int, optional
    voxel_size, diameter : float
        Å.
    box : int
        Voxels.
    outside : {"pad", "drop"}
    invert : bool
    alignment : dict
        Of `align_subtomograms`.
    parameters : dict
        Name → (the stage it first has a say in, value as JSON knows it).
    """

    volume: xr.DataArray
    source: str | None
    reference: xr.DataArray
    matching: dict[str, Any]
    model: PickingModel | None
    model_file: str
    particle_class: str | None
    threshold: float | None
    max_particles: int | None
    voxel_size: float
    diameter: float
    box: int
    outside: Literal["pad", "drop"]
    invert: bool
    alignment: dict[str, Any]
    parameters: dict[str, tuple[str, Any]] = field(repr=False)

    @property
    def stages(self) -> tuple[str, ...]:
        """In their order."""
        return MATCHING if self.model is None else SEGMENTATION

    def figures(self) -> dict[str, Any]:
        """What the report tells of the input."""
        told = {
            "name": str(self.volume.name or "tomogram"),
            "tomogram": str(Path(self.source).resolve()) if self.source else "tomogram.zarr",
            "template": str(self.reference.attrs.get("source", "in memory")),
            "shape": list(self.volume.shape),
            "voxel_size": self.voxel_size,
            "box": self.box,
            "diameter": self.diameter,
            "tilt_range": list(self.volume.attrs["tilt_range"]),
        }
        if self.model is not None:
            told["model"] = {
                "file": self.model_file,
                "digest": self.model.digest,
                "classes": list(self.model.classes),
                "diameters": list(self.model.diameters),
                "voxel_size": self.model.voxel_size,
                "particle_class": self.particle_class,
                "channels": list(self.model.architecture.channels),
                "history": [dict(row) for row in self.model.history],
                "training": dict(self.model.training),
            }
        return told


def checked_job(
    tomogram: str | os.PathLike[str] | xr.DataArray,
    *,
    template: str | os.PathLike[str] | xr.DataArray | None,
    model: str | os.PathLike[str] | PickingModel | None,
    particle_class: str | None,
    voxel_size: float | None,
    tilt_range: Sequence[float] | None,
    diameter: float | None,
    angular_step: float | None,
    resolution: float | None,
    invert: bool,
    resample_template: bool,
    threshold: float | None,
    max_particles: int | None,
    box: int | None,
    outside: Literal["pad", "drop"],
    search_step: float,
    shift_range: float | None,
    align_resolution: float | None,
    seed: int,
) -> Job:
    """Open and check all that `run` is given; computes nothing of the tomogram.

    Raises
    ------
    InputError
        If anything in it would make a later stage fail.
    """
    voxel_size = number("voxel_size", voxel_size)
    angular_step, resolution = (
        number("angular_step", angular_step),
        number("resolution", resolution),
    )
    search_step, shift_range = (
        number("search_step", search_step),
        number("shift_range", shift_range),
    )
    diameter, threshold = number("diameter", diameter), number("threshold", threshold)
    align_resolution = number("align_resolution", align_resolution)
    max_particles = whole("max_particles", max_particles, least=4)  # two in each half
    seed = whole("seed", seed, least=0)
    invert, resample_template = bool(invert), bool(resample_template)
    if outside not in ("pad", "drop"):
        raise InputError(f"outside must be 'pad' or 'drop', got {outside!r}")
    if template is None:
        raise InputError(
            "template is needed: alignment starts from a map of the particle (template=…, "
            "--template MAP), with a model too; a start without any map is not there yet"
        )
    network, network_file = _model(model)
    if network is None:
        if particle_class is not None:
            raise InputError(
                f"particle_class is one of a model's classes, got {particle_class!r} without a "
                "model; give model=… (--model MODEL), or leave it out"
            )
    else:
        particle_class = check_class(particle_class, network.classes, network_file)
        for name, value in (("angular_step", angular_step), ("resolution", resolution)):
            if value is not None:
                raise InputError(
                    f"{name} is of template matching, got {value:g} together with a model, which "
                    "does the picking; leave it out"
                )
        if threshold is not None and not 0 < threshold < 1:
            raise InputError(
                f"threshold must be a probability above 0 and below 1, got {threshold:g}"
            )
    volume, is_file = job_tomogram(tomogram, voxel_size)
    volume = _with_tilts(volume, tilt_range)
    size = float(volume.attrs["voxel_size"])
    reference = job_template(template, size, resample_template)
    diameter = template_diameter(reference) if diameter is None else diameter
    box = whole("box", box, least=2)
    box = 2 * int(np.ceil(_BOX * diameter / size / 2)) if box is None else box
    if box * size < diameter:
        raise InputError(
            f"box must be at least the diameter of the particle, {diameter / size:.0f} voxels, got "
            f"{box}"
        )
    check_run_alignment(
        box=box,
        voxel_size=size,
        angular_step=search_step,
        shift_range=shift_range,
        resolution=align_resolution,
        diameter=diameter,
        seed=seed,
    )
    matching: dict[str, Any] = {}
    if network is None:
        matching = {
            "angular_step": _ANGULAR_STEP if angular_step is None else angular_step,
            "diameter": diameter,
            "resolution": resolution,
            "invert": invert,
        }
        match_template(volume, reference, **matching)  # refuses what cannot be matched
    else:
        from tomodask.picking.segmentation.segmenting import segment_tomogram

        segment_tomogram(volume, network)  # refuses what cannot be segmented
    source = volume.attrs.get("source") if is_file else None
    check_name(str(volume.name or "tomogram"), str(source or "tomogram"))
    # The stage in which each begins to matter; the picker's own first.
    picker, aligned = ("match", "match") if network is None else ("segment", "align")
    tilted = picker if network is None else "extract"
    series = volume.attrs.get("tilt_series")
    parameters: dict[str, tuple[str, Any]] = {
        "tomogram": ("tomogram", tomogram_state(volume, source)),
        "voxel_size": ("tomogram", size),
        "tilt_range": (tilted, list(volume.attrs["tilt_range"])),
        "template": (aligned, map_digest(reference)),
        "model": (picker, None if network is None else f"{network_file}: {network.digest}"),
        "angular_step": (picker, matching.get("angular_step")),
        "diameter": (aligned, diameter),
        "resolution": (picker, resolution),
        "invert": (aligned, invert),
        "particle_class": ("pick", particle_class),
        "threshold": ("pick", threshold),
        "max_particles": ("pick", max_particles),
        "box": ("extract", box),
        "outside": ("extract", outside),
        "tilt_series": (tilted, None if series is None else record_digest(series)),
        "search_step": ("align", search_step),
        "shift_range": ("align", shift_range),
        "align_resolution": ("align", align_resolution),
        "seed": ("align", seed),
    }
    return Job(
        volume=volume,
        source=source,
        reference=reference,
        matching=matching,
        model=network,
        model_file=network_file,
        particle_class=particle_class,
        threshold=threshold,
        max_particles=max_particles,
        voxel_size=size,
        diameter=diameter,
        box=box,
        outside=outside,
        invert=invert,
        alignment={
            "angular_step": search_step,
            "shift_range": shift_range,
            "resolution": align_resolution,
            "diameter": diameter,
            "seed": seed,
        },
        parameters=parameters,
    )


def _model(model: str | os.PathLike[str] | PickingModel | None) -> tuple[PickingModel | None, str]:
    """The model, and what messages call it."""
    if model is None:
        return None, ""
    if isinstance(model, PickingModel):
        return model, "the model"
    return read_model(model), Path(model).name


def _with_tilts(volume: xr.DataArray, tilt_range: Sequence[float] | None) -> xr.DataArray:
    """The tomogram with a tilt range, and with the record of its tilt series if it is sound."""
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
    return volume
