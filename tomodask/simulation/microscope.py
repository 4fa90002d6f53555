"""What the specimen is imaged with, and what happens to it meanwhile: plain settings, checked."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from tomodask.errors import InputError

__all__ = ["Beads", "Microscope", "Motion"]


@dataclass(frozen=True)
class Microscope:
    """How the lens images the specimen.

    Attributes
    ----------
    voltage : float
        kV.
    spherical_aberration : float
        mm.
    amplitude_contrast : float
        0 to 1.
    defocus : float
        Å at the centre of the volume, positive = underfocus; mean of U and V.
    astigmatism : float
        Å, defocus U − V.
    astigmatism_angle : float
        Degrees from x towards y to the direction of U.
    phase_shift : float
        Degrees, of a phase plate.
    b_factor : float
        Å², of an envelope exp(−B k² / 4) for all that is not modelled one by one.
    handedness : int
        Defocus at height z' is ``defocus + handedness · z'``: −1 (RELION's default) or +1.
    ctf : bool
        False: a perfect microscope instead, whose contrast is −2 · phase at all frequencies.
    """

    voltage: float = 300.0
    spherical_aberration: float = 2.7
    amplitude_contrast: float = 0.07
    defocus: float = 30_000.0
    astigmatism: float = 0.0
    astigmatism_angle: float = 0.0
    phase_shift: float = 0.0
    b_factor: float = 0.0
    handedness: int = -1
    ctf: bool = True

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not math.isfinite(value):
                raise InputError(f"{name} of the microscope must be a finite number, got {value}")
        if not 10 <= self.voltage <= 3000:
            raise InputError(f"voltage must be in kV, 10 to 3000, got {self.voltage:g}")
        if not 0 <= self.amplitude_contrast <= 1:
            raise InputError(
                f"amplitude_contrast must be between 0 and 1, got {self.amplitude_contrast:g}"
            )
        if not 0 <= self.spherical_aberration < 100:
            raise InputError(
                f"spherical_aberration must be in mm, 0 to 100, got {self.spherical_aberration:g}"
            )
        if self.defocus != 0 and abs(self.defocus) < 100:
            raise InputError(
                f"defocus must be in Å, got {self.defocus:g}; for µm write "
                f"defocus={self.defocus * 1e4:g}"
            )
        if self.b_factor < 0:
            raise InputError(f"b_factor must not be negative, got {self.b_factor:g}")
        if self.handedness not in (-1, 1):
            raise InputError(f"handedness must be -1 or 1, got {self.handedness}")

    @property
    def lens(self) -> dict[str, float]:
        """What the contrast transfer of all images has in common, by the names that `ctf` takes."""
        return {
            "voltage": self.voltage,
            "spherical_aberration": self.spherical_aberration,
            "amplitude_contrast": self.amplitude_contrast,
            "phase_shift": self.phase_shift,
        }

    @property
    def focus(self) -> dict[str, float]:
        """Defocus U and V, Å, and the angle of U, degrees, at the centre, as `ctf` takes them."""
        return {
            "defocus_u": self.defocus + 0.5 * self.astigmatism,
            "defocus_v": self.defocus - 0.5 * self.astigmatism,
            "defocus_angle": self.astigmatism_angle,
        }


@dataclass(frozen=True)
class Motion:
    """Beam-induced motion of the specimen from tilt to tilt, normally distributed.

    Attributes
    ----------
    shift : float
        Å, root mean square along each of x and y.
    rotation : float
        Degrees, root mean square, in the plane of the image about its centre.
    """

    shift: float = 0.0
    rotation: float = 0.0

    def __post_init__(self) -> None:
        if not (self.shift >= 0 and math.isfinite(self.shift)):
            raise InputError(f"shift of the motion must be at least 0 Å, got {self.shift}")
        if not 0 <= self.rotation <= 20:
            raise InputError(f"rotation of the motion must be 0 to 20 degrees, got {self.rotation}")


@dataclass(frozen=True)
class Beads:
    """Gold beads, whose pixels do not count as signal: they would outshine the specimen.

    Attributes
    ----------
    positions_zyx : sequence of (float, float, float)
        Å, in the volume's frame: the middle of voxel (0, 0, 0) is the origin.
    diameter : float
        Å, of a bead.  Left out is its disk, and around it as far as the lens carries its signal.
    """

    positions_zyx: tuple[tuple[float, float, float], ...]
    diameter: float

    def __post_init__(self) -> None:
        positions = np.asarray(self.positions_zyx, np.float64)
        if positions.size and (positions.ndim != 2 or positions.shape[1] != 3):
            raise InputError(
                f"positions_zyx of beads must be rows (z, y, x), got {positions.shape}"
            )
        if not (self.diameter > 0 and np.isfinite(positions).all()):
            raise InputError(
                f"beads need finite positions and a diameter above 0 Å, got {self.diameter}"
            )
        # As plain numbers: equal beads are equal, whatever array they came in.
        object.__setattr__(self, "positions_zyx", tuple(map(tuple, positions.tolist())))
