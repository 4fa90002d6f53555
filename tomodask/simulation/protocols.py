"""How sets of boxes are made: the protocols of three papers, and one's own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tomodask.errors import InputError
from tomodask.simulation.detector import Detector, ideal_detector, sinc_detector
from tomodask.simulation.microscope import Microscope
from tomodask.simulation.tilt_schemes import tilt_scheme

__all__ = ["PROTOCOLS", "Protocol", "protocol_with"]


@dataclass(frozen=True)
class Protocol:
    """How a set of boxes is made.

    Attributes
    ----------
    box : int
        Voxels.
    voxel_size : float
        Å.
    resolution : float
        Of the density, Å.
    count : int
        Boxes of each kind.
    snr : float
        Variance of the noise-free box as reconstructed / variance of the noise in it as
        reconstructed, over the whole box; infinite for none.
    tilt_range, tilt_increment : (float, float), float
        Degrees.
    shift_range : float
        Å; shifts are uniform within ± this along each axis.
    microscope : Microscope
    detector : Detector
    phase_flip : bool
        Whether phases are flipped before the reconstruction.
    crowding : float, optional
        Share of a slab that the kinds' bounding spheres fill together: boxes are then cut from
        crowded tomograms, around each particle with its neighbours.  None: particles by
        themselves.  In crowded tomograms `snr` is that of the tilt images, there is no
        `shift_range`, and no box is empty.
    """

    box: int
    voxel_size: float
    resolution: float
    count: int
    snr: float
    tilt_range: tuple[float, float] = (-60.0, 60.0)
    tilt_increment: float = 1.0
    shift_range: float = 0.0
    microscope: Microscope = field(default_factory=Microscope)
    detector: Detector = field(default_factory=ideal_detector)
    phase_flip: bool = False
    crowding: float | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("box", self.box, 8), ("count", self.count, 1)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise InputError(f"{name} must be a whole number, at least {least}, got {value!r}")
        for name in ("voxel_size", "snr", "tilt_increment"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)!r}")
        if not self.resolution >= 2 * self.voxel_size:
            raise InputError(
                f"resolution must be at least two voxels, {2 * self.voxel_size:g} Å, got "
                f"{self.resolution:g}"
            )
        if len(self.angles) < 2:
            raise InputError(
                f"tilt_range, {self.tilt_range}, and tilt_increment, {self.tilt_increment:g}, give "
                "one image, a reconstruction needs two; take a wider range or a smaller increment"
            )
        # Below, a few particles lie in a tomogram that is wider than any.
        if self.crowding is not None and not 0.005 <= self.crowding < 0.6:
            raise InputError(f"crowding must be from 0.005 to below 0.6, got {self.crowding:g}")
        if not 0 <= self.shift_range <= self.box * self.voxel_size / 2:
            raise InputError(
                f"shift_range must be within 0 and half the box, "
                f"{self.box * self.voxel_size / 2:g} Å, got {self.shift_range:g}"
            )

    @property
    def angles(self) -> np.ndarray:
        """Of the tilts, degrees."""
        scheme = tilt_scheme(self.tilt_range, self.tilt_increment, order="continuous")
        return scheme["angle"].to_numpy()


#: The protocols of three papers; what a paper leaves open is stated in docs/algorithms/boxes.md.
PROTOCOLS: Mapping[str, Protocol] = {
    "mbgd": Protocol(
        box=64,
        voxel_size=6.0,
        resolution=12.0,
        count=20,
        snr=0.03,
        shift_range=24.0,
        microscope=Microscope(defocus=60_000.0, spherical_aberration=2.0),
        detector=sinc_detector(shaped_noise=True),
    ),
    "subdivision": Protocol(
        box=40,
        voxel_size=9.2,
        resolution=18.4,
        count=1000,
        snr=0.1,
        shift_range=9.2,
        microscope=Microscope(defocus=50_000.0, spherical_aberration=2.0),
        detector=sinc_detector(shaped_noise=True),
    ),
    "contrastive": Protocol(
        box=32,
        voxel_size=10.0,
        resolution=20.0,
        count=500,
        snr=0.05,
        tilt_increment=2.0,
        microscope=Microscope(defocus=50_000.0, spherical_aberration=2.0),
        detector=sinc_detector(shaped_noise=True),
        crowding=0.2,
    ),
}


def protocol_with(protocol: str | Protocol, changes: Mapping[str, Any]) -> Protocol:
    """A protocol by its name, or one's own, with some fields changed.

    Raises
    ------
    InputError
        If the name or a field is not known (the nearest is told), or a value makes no sense.
    """
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            near = difflib.get_close_matches(protocol, PROTOCOLS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"protocol must be one of {', '.join(PROTOCOLS)} or a Protocol, got "
                f"{protocol!r}{hint}"
            )
        protocol = PROTOCOLS[protocol]
    known = list(Protocol.__dataclass_fields__)
    for name in changes:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise InputError(f"a protocol has no {name}; {hint}")
    return replace(protocol, **changes)
