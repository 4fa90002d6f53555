"""What a simulation is made of, read from a TOML file.

A section of the file is a dataclass, see `tomodask.simulation.sections`.  Lengths are in Å,
angles in degrees, voltages in kV, exposures in e/Å².
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tomodask.errors import InputError
from tomodask.simulation.microscope import Microscope, Motion
from tomodask.simulation.phantom import PHANTOMS
from tomodask.simulation.sections import bounded, section_of, without_none
from tomodask.simulation.tilt_schemes import ORDERS, tilt_scheme

__all__ = [
    "BeadSettings",
    "DetectorSettings",
    "KindSettings",
    "NoiseSettings",
    "ReconstructionSettings",
    "SimulationSettings",
    "SpecimenSettings",
    "TiltSettings",
    "VesicleSettings",
    "read_settings",
]


@dataclass(frozen=True)
class SpecimenSettings:
    """``[specimen]``: the slab, and how full it is.

    Attributes
    ----------
    shape : (int, int, int)
        Voxels, (z, y, x).
    voxel_size : float
        Å.
    resolution : float, optional
        Of the densities, Å; by default two voxels.
    occupancy : float, optional
        Share of the slab that the particles' bounding spheres fill; without it each kind says how
        many copies.
    gap : float, optional
        Least distance between two particles, Å; by default a voxel.
    solvent_density : float
        Of the ice, g/cm³; 0 for particles in a vacuum.
    """

    shape: tuple[int, int, int] = bounded((200, 512, 512), least=16)
    voxel_size: float = bounded(10.0, above=0)
    resolution: float | None = bounded(None, above=0)
    occupancy: float | None = bounded(None, above=0, below=1)
    gap: float | None = bounded(None, least=0)
    solvent_density: float = bounded(0.94, least=0)


@dataclass(frozen=True)
class KindSettings:
    """``[[particles]]``: one kind of particle.

    Attributes
    ----------
    structure : str
        An atomic model or a map, relative to the file of the settings; ``phantom`` and
        ``phantom-decoy`` are the embedded ones.
    name : str, optional
        In the truth; by default the file's.
    copies : int, optional
        How many; where `occupancy` is given, how many in proportion to the other kinds, or left
        out for all of them.
    assembly : str, optional
        Biological assembly of the model.
    """

    structure: str = bounded(MISSING)
    name: str | None = bounded(None)
    copies: int | None = bounded(None, least=0)
    assembly: str | None = bounded(None)

    @property
    def label(self) -> str:
        """Its name in the truth."""
        name = Path(self.structure).name
        return self.name or name.split(".")[0] or name


@dataclass(frozen=True)
class VesicleSettings:
    """``[vesicles]``: `number` closed bilayers, with radii between two bounds, Å."""

    number: int = bounded(0, least=0)
    radius: tuple[float, float] = bounded((300.0, 600.0), above=0)


@dataclass(frozen=True)
class BeadSettings:
    """``[beads]``: `number` gold beads of a `diameter`, Å."""

    number: int = bounded(0, least=0)
    diameter: float = bounded(100.0, above=0)


@dataclass(frozen=True)
class TiltSettings:
    """``[tilts]``: the scheme; see `tomodask.simulation.tilt_schemes.tilt_scheme`."""

    range: tuple[float, float] = bounded((-60.0, 60.0))
    increment: float = bounded(2.0, above=0)
    order: str = bounded("dose-symmetric", choices=ORDERS)
    start: float = bounded(0.0)
    group: int = bounded(1, least=1)
    dose: float | None = bounded(None, above=0)

    def scheme(self) -> pd.DataFrame:
        """The tilts, as `tilt_scheme` gives them."""
        return tilt_scheme(
            self.range,
            self.increment,
            order=self.order,
            start=self.start,
            group=self.group,
            dose=self.dose,
        )


@dataclass(frozen=True)
class DetectorSettings:
    """``[detector]``: see `tomodask.simulation.detector`.

    Attributes
    ----------
    model : {"ideal", "sinc", "counting", "file"}
        What the other keys are for: `shaped_noise` for sinc; `dqe_zero`, `dqe_nyquist` and
        `mtf_nyquist` for counting; `mtf`, a STAR file of RELION's, for file.
    pixel_size : float, optional
        Å that a physical pixel covers on the specimen; by default as much as a voxel.
    """

    model: str = bounded("ideal", choices=("ideal", "sinc", "counting", "file"))
    pixel_size: float | None = bounded(None, above=0)
    shaped_noise: bool = bounded(False)
    dqe_zero: float = bounded(0.85, above=0)
    dqe_nyquist: float = bounded(0.3, above=0)
    mtf_nyquist: float = bounded(0.4, above=0)
    mtf: str | None = bounded(None)


@dataclass(frozen=True)
class NoiseSettings:
    """``[noise]``: `snr` of the tilt images; or, from the dose of ``[tilts]``, shot noise.

    Attributes
    ----------
    snr : float, optional
        Variance of the noise-free tilt images / variance of the noise.  Without it, and without a
        dose, there is no noise.
    damage : bool
        Whether the dose also attenuates high frequencies.
    """

    snr: float | None = bounded(None, above=0)
    damage: bool = bounded(True)


@dataclass(frozen=True)
class ReconstructionSettings:
    """``[reconstruction]``: see `tomodask.reconstruct`."""

    method: str = bounded("wbp", choices=("wbp", "sirt"))
    iterations: int = bounded(20, least=1)
    ctf: str = bounded("flip", choices=("none", "flip"))
    dose_weight: bool = bounded(False)
    invert: bool = bounded(True)


@dataclass(frozen=True)
class SimulationSettings:
    """Everything that a simulated tomogram is made of; the file's top level.

    ``[microscope]`` and ``[motion]`` are `tomodask.simulation.microscope.Microscope` and `Motion`.

    Attributes
    ----------
    name : str
        Of the tomogram.
    seed : int
        The same settings with the same seed give the same bytes, whatever the number of workers.
    """

    name: str = bounded("simulated")
    seed: int = bounded(0, least=0)
    specimen: SpecimenSettings = SpecimenSettings()
    particles: tuple[KindSettings, ...] = ()
    vesicles: VesicleSettings = VesicleSettings()
    beads: BeadSettings = BeadSettings()
    tilts: TiltSettings = TiltSettings()
    microscope: Microscope = field(default_factory=Microscope)
    detector: DetectorSettings = DetectorSettings()
    noise: NoiseSettings = NoiseSettings()
    motion: Motion = field(default_factory=Motion)
    reconstruction: ReconstructionSettings = ReconstructionSettings()

    def __post_init__(self) -> None:
        _check_together(self)

    @classmethod
    def from_mapping(cls, table: Mapping[str, Any]) -> SimulationSettings:
        """Settings from nested mappings, as `tomllib` gives them.

        Raises
        ------
        InputError
            Naming the key, and for one that is not known the nearest that is.
        """
        settings: SimulationSettings = section_of(cls, table)
        return settings

    def to_mapping(self) -> dict[str, Any]:
        """Nested plain values, as JSON and TOML hold them; what is not given is left out."""
        given: dict[str, Any] = without_none(asdict(self))
        return given


def read_settings(path: str | Path) -> SimulationSettings:
    """Read the TOML file of a simulation.

    Parameters
    ----------
    path : path
        Structures are named relative to its folder.

    Raises
    ------
    InputError
        If it cannot be read or is no TOML, or a key or value makes no sense.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin it with a mark
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise InputError(f"{path} cannot be read ({reason})") from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no TOML: {error}") from None
    try:
        settings = SimulationSettings.from_mapping(table)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return _beside(settings, path.parent)


def _beside(settings: SimulationSettings, folder: Path) -> SimulationSettings:
    """Files as they are named from `folder`."""

    def at(name: str) -> str:
        return name if name in PHANTOMS else str(folder / name)

    kinds = tuple(replace(kind, structure=at(kind.structure)) for kind in settings.particles)
    mtf = settings.detector.mtf
    detector = settings.detector if mtf is None else replace(settings.detector, mtf=at(mtf))
    return replace(settings, particles=kinds, detector=detector)


def _check_together(settings: SimulationSettings) -> None:
    """What one key alone cannot tell."""
    specimen, kinds = settings.specimen, settings.particles
    if specimen.resolution is not None and specimen.resolution < 2 * specimen.voxel_size:
        raise InputError(
            f"specimen.resolution must be at least two voxels, {2 * specimen.voxel_size:g} Å, got "
            f"{specimen.resolution:g}; give a smaller specimen.voxel_size for more detail"
        )
    copies = [kind.copies for kind in kinds]
    if all(count == 0 for count in copies) and not (
        settings.vesicles.number or settings.beads.number
    ):
        raise InputError(
            "there is nothing to simulate; add a table [[particles]] with a structure, e.g. "
            'structure = "phantom", and copies'
        )
    if specimen.occupancy is not None and not any(count != 0 for count in copies):
        raise InputError("specimen.occupancy needs particles; add a table [[particles]]")
    if None in copies and (specimen.occupancy is None or set(copies) != {None}):
        raise InputError(
            f"particles[{copies.index(None)}].copies is missing; give it for all kinds, or "
            "specimen.occupancy and none"
        )
    names = [kind.label for kind in kinds]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"two kinds of particles are named {min(twice)}; give each a name")
    for key, name in [("name", settings.name), *(("particles.name", name) for name in names)]:
        if not name.strip() or name.startswith(".") or set(name) & set("/\\\"'#\t\r\n"):
            raise InputError(
                f"{key} must be one that files and STAR tables can bear: no quotes, slashes or "
                f"#, and no dot in front; got {name!r}"
            )
    if {"bead", "vesicle"} & set(names):
        raise InputError('particles.name may not be "bead" or "vesicle": the truth has those, too')
    if (settings.detector.model == "file") != (settings.detector.mtf is not None):
        raise InputError(
            'detector.model = "file" and detector.mtf, a STAR of an MTF, need each other, got '
            f"model = {settings.detector.model!r} and mtf = {settings.detector.mtf!r}"
        )
    if settings.vesicles.radius[0] > settings.vesicles.radius[1]:
        raise InputError(f"vesicles.radius must rise, got {list(settings.vesicles.radius)}")
    try:
        angles = settings.tilts.scheme()["angle"]
    except InputError as error:  # its parameters are the keys, but for the first
        raise InputError(f"tilts.{str(error).removeprefix('tilt_')}") from None
    if len(angles) < 2:
        raise InputError(
            f"tilts hold one image, at {angles[0]:g}°, a tomogram needs two; give a wider "
            "tilts.range or a smaller tilts.increment"
        )
    damaged = settings.tilts.dose is not None and settings.noise.damage
    if settings.reconstruction.dose_weight and not damaged:
        raise InputError(
            "reconstruction.dose_weight needs radiation damage: give tilts.dose, and leave "
            "noise.damage true"
        )
