"""What a simulation is made of, read from a TOML file: each key known, each value checked.

A section is a frozen dataclass; its fields are the keys.  Lengths are in Å, angles in degrees,
voltages in kV, exposures in e/Å².
"""

from __future__ import annotations

import difflib
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from tomodask.errors import InputError
from tomodask.simulation.microscope import Microscope, Motion
from tomodask.simulation.phantom import PHANTOMS
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


def _key(default: Any, **bounds: Any) -> Any:
    """A field with bounds, `least`, `above` and `below`; `choices` are the texts it may have."""
    return field(default=default, metadata=bounds)


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

    shape: tuple[int, int, int] = _key((200, 512, 512), least=16)
    voxel_size: float = _key(10.0, above=0)
    resolution: float | None = _key(None, above=0)
    occupancy: float | None = _key(None, above=0, below=1)
    gap: float | None = _key(None, least=0)
    solvent_density: float = _key(0.94, least=0)


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

    structure: str = _key(MISSING)
    name: str | None = _key(None)
    copies: int | None = _key(None, least=0)
    assembly: str | None = _key(None)

    @property
    def label(self) -> str:
        """Its name in the truth."""
        name = Path(self.structure).name
        return self.name or name.split(".")[0] or name


@dataclass(frozen=True)
class VesicleSettings:
    """``[vesicles]``: `number` closed bilayers, with radii between two bounds, Å."""

    number: int = _key(0, least=0)
    radius: tuple[float, float] = _key((300.0, 600.0), above=0)


@dataclass(frozen=True)
class BeadSettings:
    """``[beads]``: `number` gold beads of a `diameter`, Å."""

    number: int = _key(0, least=0)
    diameter: float = _key(100.0, above=0)


@dataclass(frozen=True)
class TiltSettings:
    """``[tilts]``: the scheme; see `tomodask.simulation.tilt_schemes.tilt_scheme`."""

    range: tuple[float, float] = _key((-60.0, 60.0))
    increment: float = _key(2.0, above=0)
    order: str = _key("dose-symmetric", choices=ORDERS)
    start: float = _key(0.0)
    group: int = _key(1, least=1)
    dose: float | None = _key(None, above=0)

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

    model: str = _key("ideal", choices=("ideal", "sinc", "counting", "file"))
    pixel_size: float | None = _key(None, above=0)
    shaped_noise: bool = _key(False)
    dqe_zero: float = _key(0.85, above=0)
    dqe_nyquist: float = _key(0.3, above=0)
    mtf_nyquist: float = _key(0.4, above=0)
    mtf: str | None = _key(None)


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

    snr: float | None = _key(None, above=0)
    damage: bool = _key(True)


@dataclass(frozen=True)
class ReconstructionSettings:
    """``[reconstruction]``: see `tomodask.reconstruct`."""

    method: str = _key("wbp", choices=("wbp", "sirt"))
    iterations: int = _key(20, least=1)
    ctf: str = _key("flip", choices=("none", "flip"))
    dose_weight: bool = _key(False)
    invert: bool = _key(True)


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

    name: str = _key("simulated")
    seed: int = _key(0, least=0)
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
        settings: SimulationSettings = _section(cls, table, "")
        return settings

    def to_mapping(self) -> dict[str, Any]:
        """Nested plain values, as JSON and TOML hold them; what is not given is left out."""
        given: dict[str, Any] = _given(asdict(self))
        return given


def _given(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _given(one) for key, one in value.items() if one is not None}
    if isinstance(value, tuple):
        return [_given(one) for one in value]
    return value


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


@lru_cache(maxsize=32)
def _types(section: type) -> dict[str, Any]:
    return typing.get_type_hints(section)


def _section(section: type, table: Mapping[str, Any], where: str) -> Any:
    """A section from a table of the file; `where` is its name with a dot, or nothing."""
    if not isinstance(table, Mapping):
        raise InputError(
            f"{where.rstrip('.')} must be a table, [{where.rstrip('.')}], got {table!r}"
        )
    known = {one.name: one for one in fields(section)}
    for key in table:
        if key not in known:
            raise InputError(_unknown(where, str(key), section))
    values = {}
    for name, one in known.items():
        if name in table:
            values[name] = _value(f"{where}{name}", table[name], _types(section)[name], one)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise InputError(f"{where}{name} is missing")
    return section(**values)


def _unknown(where: str, key: str, section: type) -> str:
    names = [one.name for one in fields(section)]
    homes = [""] * (key in _types(SimulationSettings))  # a right key in a wrong place
    for name, kind in _types(SimulationSettings).items():
        inner = next(iter(typing.get_args(kind)), kind)  # a tuple of sections counts as one
        if key in getattr(inner, "__dataclass_fields__", {}):
            homes.append(f"{name}.")
    near = [f"{home}{key}" for home in homes] or [
        f"{where}{name}" for name in difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    ]
    said = f"unknown key {where}{key}"
    if near:
        return f"{said}; did you mean {' or '.join(near)}?"
    return f"{said}; known are {', '.join(names)}"


def _value(name: str, value: Any, kind: Any, one: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kind = next(part for part in inner if part is not type(None))
        return _value(name, value, kind, one)
    if hasattr(kind, "__dataclass_fields__"):
        return _section(kind, value, f"{name}.")
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            wanted = f"a list of tables, each [[{name}]]" if inner[-1] is Ellipsis else "a list"
            raise InputError(f"{name} must be {wanted}, got {value!r}")
        if inner[-1] is Ellipsis:
            return tuple(_value(f"{name}[{i}]", v, inner[0], one) for i, v in enumerate(value))
        if len(value) != len(inner):
            raise InputError(f"{name} must have {len(inner)} values, got {len(value)}: {value}")
        return tuple(_value(name, v, k, one) for v, k in zip(value, inner, strict=True))
    return _plain(name, value, kind, one.metadata)


def _plain(name: str, value: Any, kind: type, bounds: Mapping[str, Any]) -> Any:
    if kind is bool or kind is str:
        if not isinstance(value, kind):
            wanted = "true or false" if kind is bool else "text"
            raise InputError(f"{name} must be {wanted}, got {value!r}")
        choices = bounds.get("choices")
        if choices and value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")
        return value
    right = isinstance(value, int) if kind is int else isinstance(value, (int, float))
    # Neither NaN, nor infinite, nor a whole number that is too large for a float.
    if not right or isinstance(value, bool) or not -1e300 < value < 1e300:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{name} must be {what}, got {value!r}")
    if value < bounds.get("least", -math.inf):
        raise InputError(f"{name} must be at least {bounds['least']:g}, got {value}")
    if value <= bounds.get("above", -math.inf):
        raise InputError(f"{name} must be above {bounds['above']:g}, got {value}")
    if value >= bounds.get("below", math.inf):
        raise InputError(f"{name} must be below {bounds['below']:g}, got {value}")
    return kind(value)


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
