"""A simulated tomogram with its exact truth, as one run that can be killed and goes on.

The stages are structures (a density of each kind), pack (which particle lies where: tables, labels,
occupancy), specimen (the density of all), project, image (the tilt series) and reconstruct.  Each
leaves its files in the output folder.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tomodask.cluster import compute, connect
from tomodask.data.run_folder import RunFolder
from tomodask.data.tilt_series import open_tilt_series, write_tilt_series
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError
from tomodask.reconstruction.tomogram import save_reconstruction
from tomodask.simulation.density import structure_density
from tomodask.simulation.detector import (
    Detector,
    counting_detector,
    ideal_detector,
    read_detector,
    sinc_detector,
)
from tomodask.simulation.imaging import signal_variance, simulate_tilt_series
from tomodask.simulation.membranes import place_beads, place_vesicles
from tomodask.simulation.microscope import Beads
from tomodask.simulation.packing import Packing, pack
from tomodask.simulation.phantom import PHANTOMS, phantom_map
from tomodask.simulation.projections import (
    depth_slabs,
    open_projections,
    project_volume,
    save_projections,
)
from tomodask.simulation.settings import KindSettings, SimulationSettings, read_settings
from tomodask.simulation.shapes import particle_shape
from tomodask.simulation.specimen import specimen_density, write_truth

__all__ = ["Simulation", "simulate"]

_log = logging.getLogger(__name__)

STAGES = ("structures", "pack", "specimen", "project", "image", "reconstruct")
_DOMAIN = {  # the first stage that a section of the settings, or one key of it, has a say in
    "specimen": "structures",
    "specimen.shape": "pack",
    "specimen.occupancy": "pack",
    "specimen.gap": "pack",
    "particles": "structures",
    "particles.copies": "pack",
    "name": "pack",
    "seed": "pack",
    "vesicles": "pack",
    "beads": "pack",
    "tilts": "project",
    "microscope": "project",
    "detector": "image",
    "noise": "image",
    "motion": "image",
    "reconstruction": "reconstruct",
}


@dataclass(frozen=True)
class Simulation:
    """What a simulation made.

    Attributes
    ----------
    output : Path
        The folder.
    tomogram, tilt_series : Path
        OME-Zarr, and an MRC stack with its ``.rawtlt`` and ``.star`` beside it.
    particles, labels, occupancy, density, projections : Path
        The truth: table (STAR), label map, occupancy map, noise-free density (V), and its
        projections.
    count : int
        Particles.
    bounding_occupancy, molecular_occupancy : float
        Shares of the slab that bounding spheres and bodies fill.
    signal_variance : float
        Of the noise-free tilt images, beads left out; NaN where no noise was set by it.
    seconds : dict
        Of each stage.
    """

    output: Path
    tomogram: Path
    tilt_series: Path
    particles: Path
    labels: Path
    occupancy: Path
    density: Path
    projections: Path
    count: int
    bounding_occupancy: float
    molecular_occupancy: float
    signal_variance: float
    seconds: dict[str, float]


def simulate(
    settings: SimulationSettings | Mapping[str, Any] | str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    scheduler: str | None = None,
    workers: int | None = None,
    memory: str | None = None,
    config: str | Path | None = None,
    command: str | None = None,
) -> Simulation:
    """Simulate a tomogram: pack, image, reconstruct, and keep the truth beside it.

    Parameters
    ----------
    settings : SimulationSettings, mapping, or path of a TOML file
        See `tomodask.simulation.settings`; ``tomodask simulate --example`` prints a file.
    output : path
        A folder.  The same call goes on there after a stop, and gives the same bytes.
    overwrite : bool
        Drop what another simulation left in the folder.
    scheduler, workers, memory, config
        As of `tomodask.connect`.
    command : str, optional
        Kept in ``run.json``.

    Returns
    -------
    Simulation
        Paths and figures.

    Raises
    ------
    InputError
        If a setting is not known or makes no sense, a structure cannot be read, the occupancy is
        out of reach, the folder holds something else, or the disk is full.

    Notes
    -----
    The same settings give the same bytes, whatever the number of workers.  No stage holds the
    volume: memory does not grow with it.
    """
    if not isinstance(settings, SimulationSettings):
        settings = (
            SimulationSettings.from_mapping(settings)
            if isinstance(settings, Mapping)
            else read_settings(settings)
        )
    detector = _detector(settings)  # a file that is not there is said before any work
    parameters = {
        name: (_DOMAIN.get(name, _DOMAIN[name.partition(".")[0]]), value)
        for name, value in _told(settings).items()
    }
    if command is None:
        command = shlex.join(["tomodask", "simulate", "SETTINGS.toml", "-o", str(output)])
    with RunFolder.opened(
        Path(output), stages=STAGES, parameters=parameters, command=command, overwrite=overwrite
    ) as folder:
        if all(folder.finished(stage) for stage in STAGES):
            _log.info("%s: all stages were finished", output)
            return _result(folder)
        with connect(scheduler, workers=workers, memory=memory, config=config):
            densities = _structures(folder, settings)
            packing = _pack(folder, settings, densities)
            _specimen(folder, settings, packing, densities)
            _project(folder, settings)
            _image(folder, settings, packing, detector)
            _reconstruct(folder, settings)
        return _result(folder)


def _told(settings: SimulationSettings) -> dict[str, Any]:
    """Each setting by its name; files by their names and contents, wherever they lie."""
    told: dict[str, Any] = {}
    for name, value in asdict(settings).items():
        if isinstance(value, dict):
            told |= {f"{name}.{key}": one for key, one in value.items()}
        elif name != "particles":
            told[name] = value
    for key in ("structure", "name", "assembly", "copies"):
        told[f"particles.{key}"] = [getattr(kind, key) for kind in settings.particles]
    told["particles.structure"] = [_state(kind.structure) for kind in settings.particles]
    if settings.detector.mtf is not None:
        told["detector.mtf"] = _state(settings.detector.mtf)
    return told


def _state(file: str) -> str:
    """Name and content of a file, or a Zarr store; the embedded ones have their names alone."""
    if file in PHANTOMS:
        return file
    path, digest = Path(file), hashlib.sha256()
    try:
        store = path.suffix == ".zarr" and path.is_dir()
        for part in filter(Path.is_file, sorted(path.rglob("*"))) if store else [path]:
            digest.update(str(part.relative_to(path)).encode() + part.read_bytes())
    except OSError as error:
        raise InputError(
            f"the structure {file} cannot be read ({error.strerror}); name an atomic model, a map, "
            f"or one of {', '.join(PHANTOMS)}"
        ) from None
    return f"{path.name} {digest.hexdigest()[:16]}"


def _detector(settings: SimulationSettings) -> Detector:
    one = settings.detector
    if one.model == "sinc":
        detector = sinc_detector(pixel_size=one.pixel_size, shaped_noise=one.shaped_noise)
    elif one.model == "counting":
        detector = counting_detector(
            dqe_zero=one.dqe_zero,
            dqe_nyquist=one.dqe_nyquist,
            mtf_nyquist=one.mtf_nyquist,
            pixel_size=one.pixel_size,
        )
    elif one.model == "file":
        detector = read_detector(str(one.mtf), pixel_size=one.pixel_size)
    else:
        detector = ideal_detector()
    detector.signal(np.zeros(1), settings.specimen.voxel_size)  # refuses pixels that are too large
    return detector


def _structures(folder: RunFolder, settings: SimulationSettings) -> dict[str, xr.DataArray]:
    """Each kind's density at half the voxel size: fine enough to be turned."""
    paths = {
        kind.label: folder.path / "structures" / f"{kind.label}.mrc" for kind in settings.particles
    }
    if not folder.finished("structures"):
        with folder.stage("structures", ["structures"]):
            (folder.path / "structures").mkdir(exist_ok=True)
            for kind in settings.particles:
                save_tomogram(_density(kind, settings), paths[kind.label], overwrite=True)
    return {name: open_tomogram(path).load() for name, path in paths.items()}


def _density(kind: KindSettings, settings: SimulationSettings) -> xr.DataArray:
    specimen, half = settings.specimen, settings.specimen.voxel_size / 2
    if kind.structure in PHANTOMS:
        return phantom_map(voxel_size=half, kind=PHANTOMS[kind.structure])
    return structure_density(
        kind.structure,
        voxel_size=half,
        resolution=specimen.resolution or 2 * specimen.voxel_size,
        solvent=specimen.solvent_density,
        assembly=kind.assembly,
    )


def _pack(
    folder: RunFolder, settings: SimulationSettings, densities: dict[str, xr.DataArray]
) -> Packing:
    """Where everything lies: drawn by each call anew, in seconds, and always the same."""
    if folder.finished("pack"):
        return _packing(settings, densities)
    outputs = ["particles.star", "classes.csv", "labels.zarr", "classes.zarr", "occupancy.zarr"]
    outputs += ["beads.csv"] * bool(settings.beads.number)
    outputs += ["vesicles.csv"] * bool(settings.vesicles.number)
    with folder.stage("pack", outputs) as figures:
        begin = time.perf_counter()
        packing = _packing(settings, densities)
        figures["packing_seconds"] = round(time.perf_counter() - begin, 3)
        write_truth(packing, folder.path, overwrite=True)
        figures |= {
            "count": len(packing.particles),
            "bounding_occupancy": packing.occupancy,
            "molecular_occupancy": packing.molecular_occupancy,
        }
    return packing


def _packing(settings: SimulationSettings, densities: dict[str, xr.DataArray]) -> Packing:
    specimen, size = settings.specimen, settings.specimen.voxel_size
    shapes = {name: particle_shape(density, voxel_size=size) for name, density in densities.items()}
    vesicles = place_vesicles(
        specimen.shape,
        voxel_size=size,
        count=settings.vesicles.number,
        radius=settings.vesicles.radius,
        seed=settings.seed,
    )
    beads = place_beads(
        specimen.shape,
        voxel_size=size,
        count=settings.beads.number,
        diameter=settings.beads.diameter,
        vesicles=vesicles,
        seed=settings.seed,
    )
    copies = {kind.label: kind.copies for kind in settings.particles if kind.copies is not None}
    return pack(
        shapes,
        shape=specimen.shape,
        voxel_size=size,
        # With an occupancy, kinds that say nothing are as many as each other.
        copies=copies if copies or specimen.occupancy is None else None,
        occupancy=specimen.occupancy,
        gap=specimen.gap,
        vesicles=vesicles,
        beads=beads,
        name=settings.name,
        seed=settings.seed,
    )


def _specimen(
    folder: RunFolder,
    settings: SimulationSettings,
    packing: Packing,
    densities: dict[str, xr.DataArray],
) -> None:
    if folder.finished("specimen"):
        return
    with folder.stage("specimen", ["density.zarr"]):
        volume = specimen_density(packing, densities, resolution=settings.specimen.resolution)
        save_tomogram(volume, folder.path / "density.zarr", overwrite=True)


def _project(folder: RunFolder, settings: SimulationSettings) -> None:
    if folder.finished("project"):
        return
    with folder.stage("project", ["projections.zarr"]):
        volume = open_tomogram(folder.path / "density.zarr")
        angles = settings.tilts.scheme()["angle"].to_numpy()
        slabs = depth_slabs(
            volume.shape[0] * settings.specimen.voxel_size,
            pixel_size=settings.specimen.voxel_size,
            angles=angles,
            microscope=settings.microscope,
        )
        # Beyond its borders the slab goes on at its mean: else each tilt would see it end.
        mean = compute(volume.data.mean(dtype="float64"), label="mean")
        volume = volume.copy(data=volume.data - np.float32(mean))
        save_projections(
            project_volume(volume, angles, slabs=slabs), folder.path / "projections.zarr"
        )


def _image(
    folder: RunFolder, settings: SimulationSettings, packing: Packing, detector: Detector
) -> None:
    if folder.finished("image"):
        return
    outputs = ["tilt_series.mrc", "tilt_series.rawtlt", "tilt_series.star"]
    if settings.motion.shift or settings.motion.rotation:
        outputs.append("tilt_series.xf")
    noise = settings.noise
    with folder.stage("image", outputs) as figures:
        projections = open_projections(folder.path / "projections.zarr")
        imaging: dict[str, Any] = {
            "scheme": settings.tilts.scheme(),
            "microscope": settings.microscope,
            "detector": detector,
            "motion": settings.motion,
            "damage": noise.damage,
            "seed": settings.seed,
        }
        beads = None
        if len(packing.beads):
            places = packing.beads[["z", "y", "x"]].to_numpy(float)
            beads = Beads(tuple(map(tuple, places.tolist())), settings.beads.diameter)
        variance = None
        if noise.snr is not None:
            variance = compute(signal_variance(projections, beads=beads, **imaging), label="signal")
            figures["signal_variance"] = float(variance)
        series = simulate_tilt_series(
            projections,
            snr=noise.snr,
            shot_noise=noise.snr is None and settings.tilts.dose is not None,
            variance=variance,
            beads=beads,
            **imaging,
        ).rename(settings.name)
        write_tilt_series(series, folder.path / "tilt_series.mrc", overwrite=True)


def _reconstruct(folder: RunFolder, settings: SimulationSettings) -> None:
    if folder.finished("reconstruct"):
        return
    with folder.stage("reconstruct", ["tomogram.zarr"]):
        specimen = settings.specimen
        # A STAR's name for it has no spaces, the table of particles has the name as it was given.
        series = open_tilt_series(folder.path / "tilt_series.star").rename(settings.name)
        save_reconstruction(
            series,
            folder.path / "tomogram.zarr",
            thickness=specimen.shape[0] * specimen.voxel_size,
            **_reconstruction(settings),
            overwrite=True,
        )


def _reconstruction(settings: SimulationSettings) -> dict[str, Any]:
    one = settings.reconstruction
    flip = one.ctf == "flip" and settings.microscope.ctf
    return {
        "method": one.method,
        "iterations": one.iterations,
        "ctf": "flip" if flip else "none",
        "dose_weight": one.dose_weight,
        "invert": one.invert,
    }


def _result(folder: RunFolder) -> Simulation:
    figures, at = folder.document["figures"], folder.path
    return Simulation(
        output=at,
        tomogram=at / "tomogram.zarr",
        tilt_series=at / "tilt_series.mrc",
        particles=at / "particles.star",
        labels=at / "labels.zarr",
        occupancy=at / "occupancy.zarr",
        density=at / "density.zarr",
        projections=at / "projections.zarr",
        count=int(figures["count"]),
        bounding_occupancy=float(figures["bounding_occupancy"]),
        molecular_occupancy=float(figures["molecular_occupancy"]),
        signal_variance=float(figures.get("signal_variance", math.nan)),
        seconds={name: folder.document["stages"][name]["seconds"] for name in STAGES},
    )
