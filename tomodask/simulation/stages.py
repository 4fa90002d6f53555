"""The stages of a simulation: what each makes, and the files that it leaves.

Structures (a density of each kind), pack (which particle lies where: tables, labels, occupancy),
specimen (the density of all), project, image (the tilt series) and reconstruct.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import xarray as xr

from tomodask.cluster import compute
from tomodask.data.run_folder import RunFolder
from tomodask.data.tilt_series import open_tilt_series, write_tilt_series
from tomodask.data.tomograms import open_tomogram, save_tomogram
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
from tomodask.simulation.settings import KindSettings, SimulationSettings
from tomodask.simulation.shapes import particle_shape
from tomodask.simulation.specimen import specimen_density, write_truth

__all__ = ["STAGES", "detector_of", "do_all"]

STAGES = ("structures", "pack", "specimen", "project", "image", "reconstruct")


def do_all(folder: RunFolder, settings: SimulationSettings, detector: Detector) -> None:
    """Do all stages that are not finished, in their order.  Computes."""
    densities = _structures(folder, settings)
    packing = _pack(folder, settings, densities)
    _specimen(folder, settings, packing, densities)
    _project(folder, settings)
    _image(folder, settings, packing, detector)
    _reconstruct(folder, settings)


def detector_of(settings: SimulationSettings) -> Detector:
    """The detector.

    Raises
    ------
    InputError
        If its file cannot be read, or its pixels are too large.
    """
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
