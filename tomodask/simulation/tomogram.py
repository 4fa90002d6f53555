"""A simulated tomogram with its exact truth, as one run that can be killed and goes on.

Each stage (`tomodask.simulation.stages`) leaves its files in the output folder.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tomodask.cluster import connect
from tomodask.data.run_folder import RunFolder
from tomodask.errors import InputError
from tomodask.simulation.phantom import PHANTOMS
from tomodask.simulation.settings import SimulationSettings, read_settings
from tomodask.simulation.stages import STAGES, detector_of, do_all

__all__ = ["Simulation", "simulate"]

_log = logging.getLogger(__name__)

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
    detector = detector_of(settings)  # a file that is not there is said before any work
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
            do_all(folder, settings, detector)
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
