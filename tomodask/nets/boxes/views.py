"""Random views of a box: the augmentation of Gupta et al. [1]_, and one that minds the physics.

A view is a function of seed, epoch, particle and number: workers and batches change nothing.  Crop,
turn, shift and scale are composed into one map, so voxels are interpolated once.

**The paper's.**  With probability ½ a random resized crop, of 0.5 to 1 of the volume (torchvision's
scale is that of the area); with probability ½ an affine map: a turn about the beam of up to ±45°, a
shift along x and y, a scaling.  Turns about the beam take the missing wedge along, in the plane.

**The physical one.**  A turn about any axis (`ANY_TURN`); if asked for, what lies beyond the wedge
of some tilt series of the range asked for is taken away; what one lens did is changed into what
another, of a near defocus, would have done; noise is added where the series measured.

.. [1] Gupta et al., "Self-supervised learning for macromolecular structure classification based on
   cryo-electron tomograms", Front. Physiol. 13, 957484 (2022), doi:10.3389/fphys.2022.957484.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tomodask.arrays.fourier import frequency_grid, wedge
from tomodask.arrays.geometry import matrices_zyx
from tomodask.arrays.optics import ctf_radial
from tomodask.errors import InputError
from tomodask.nets.boxes.normalisation import normalised

__all__ = ["ANY_TURN", "Lens", "Views", "view"]

_WIENER = 0.1  # of |CTF|² at its best: below, what the first lens left is not amplified further


@dataclass(frozen=True)
class Lens:
    """What made the contrast of a box.

    Attributes
    ----------
    voxel_size : float
        Å.
    defocus : float
        Å, positive for underfocus.
    voltage : float
        kV.
    spherical_aberration : float
        mm.
    amplitude_contrast : float
    """

    voxel_size: float
    defocus: float
    voltage: float = 300.0
    spherical_aberration: float = 2.7
    amplitude_contrast: float = 0.07


@dataclass(frozen=True)
class Views:
    """What is done to boxes at random.

    Attributes
    ----------
    crop : (float, float)
        Least and largest share of the volume that a resized crop keeps.
    crop_probability, affine_probability : float
    rotation : float
        Largest angle about z, degrees.
    translation : float
        Largest shift along x and y, as a share of the edge.
    scaling : (float, float)
        Smallest and largest factor; above 1 enlarges.
    turn : float
        Largest angle about any axis, degrees; 180: any orientation alike.  Physical.
    tilts : (float, float) or None
        Of a symmetric tilt series, whose highest tilt, degrees, is drawn between these: its missing
        wedge is taken away.  Physical.
    defocus : float
        Largest change of the defocus, Å; needs the box's `Lens`.  Physical.
    noise : float
        Largest standard deviation of added white noise, as a share of the box's.  Physical.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    crop: tuple[float, float] = (0.5, 1.0)
    crop_probability: float = 0.5
    affine_probability: float = 0.5
    rotation: float = 45.0
    translation: float = 0.1
    scaling: tuple[float, float] = (0.9, 1.1)
    turn: float = 0.0
    tilts: tuple[float, float] | None = None
    defocus: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop_probability", "affine_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        for name in ("rotation", "turn"):
            if not 0 <= getattr(self, name) <= 180:
                raise InputError(f"{name} must be from 0 to 180°, got {getattr(self, name)}")
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise InputError(
                f"crop must be two shares of the volume up to 1, the smaller first, got {self.crop}"
            )
        if not 0.5 <= self.scaling[0] <= self.scaling[1] <= 2:
            raise InputError(
                f"scaling must be two factors from 0.5 to 2, the smaller first, got {self.scaling}"
            )
        if not 0 <= self.translation <= 0.5:
            raise InputError(f"translation must be from 0 to 0.5, got {self.translation}")
        if self.tilts is not None and not 0 < self.tilts[0] <= self.tilts[1] <= 90:
            raise InputError(
                f"tilts must be two angles up to 90°, the smaller first, got {self.tilts}"
            )
        for name in ("defocus", "noise"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}")


#: Any orientation, the wedge turned along, and the shifts of the paper; no crop and no scaling, for
#: molecules come in one size.
ANY_TURN = Views(crop_probability=0.0, scaling=(1.0, 1.0), turn=180.0)


def view(
    box: np.ndarray,
    views: Views,
    *,
    seed: int,
    epoch: int,
    particle: int,
    number: int = 0,
    lens: Lens | None = None,
) -> np.ndarray:
    """A random view of a box.

    Parameters
    ----------
    box : array of float, shape (n, n, n)
    views : Views
    seed, epoch, particle, number : int
        What it is a function of; `number` tells the two views of one particle and epoch apart.
    lens : Lens, optional
        Of the box, where `Views.defocus` is above 0.

    Returns
    -------
    array of float32, shape (n, n, n)
        With mean 0 and standard deviation 1.

    Raises
    ------
    InputError
        If the defocus shall change and `lens` is missing.
    """
    if views.defocus and lens is None:
        raise InputError(
            "defocus: to change it, the defocus of each box must be known (lens); give it, or "
            "defocus=0"
        )
    n = box.shape[0]
    rng = np.random.default_rng([seed, epoch, particle, number])
    # The same number of draws whatever is switched on, so that one switch leaves the rest alone.
    coins, places, signs = rng.random(2), rng.random(3), rng.uniform(-1, 1, 4)
    factors, quaternion, share = rng.random(5), rng.normal(size=4), rng.uniform(-1, 1)
    noise = rng.normal(size=box.shape)

    linear, offset = np.eye(3), np.zeros(3)
    middle = np.full(3, n // 2, float)
    if coins[0] < views.crop_probability:
        low, high = views.crop
        edge = (low + (high - low) * factors[0]) ** (1 / 3)
        # The faces of the crop's outer voxels, not their middles, come to lie on the box's.
        linear, offset = edge * linear, places * (1 - edge) * n + (edge - 1) / 2
    turn = np.eye(3)
    shift, scale = np.zeros(3), 1.0
    if coins[1] < views.affine_probability:
        about_z = Rotation.from_rotvec([0, 0, np.deg2rad(signs[0] * views.rotation)])
        turn = matrices_zyx(about_z)
        shift = np.array([0.0, *(signs[1:3] * views.translation * n)])
        scale = views.scaling[0] + (views.scaling[1] - views.scaling[0]) * factors[1]
    if views.turn:
        turn = turn @ matrices_zyx(_any_turn(views.turn, quaternion, factors[2]))
    # What was at x comes to scale · turn · (x − middle) + middle + shift: the inverse is sampled.
    inverse = turn.T / scale
    matrix = linear @ inverse
    origin = linear @ (middle - inverse @ (middle + shift)) + offset
    out = np.asarray(box, np.float64)
    if not (np.array_equal(matrix, np.eye(3)) and not origin.any()):
        out = np.asarray(
            ndimage.affine_transform(
                out, matrix, origin, order=1, mode="constant", cval=float(out.mean())
            )
        )
    imaged = _imaged(out, views, lens, noise, factors[3:], share)
    return np.asarray(normalised(imaged[None])[0])


def _any_turn(largest: float, quaternion: np.ndarray, share: float) -> Rotation:
    """A turn of any direction: of all orientations alike at 180°, else by an even angle."""
    if largest >= 180:
        return Rotation.from_quat(quaternion)
    axis = quaternion[:3] / np.linalg.norm(quaternion[:3])
    return Rotation.from_rotvec(np.deg2rad(largest * share) * axis)


def _imaged(
    box: np.ndarray,
    views: Views,
    lens: Lens | None,
    noise: np.ndarray,
    factors: np.ndarray,
    share: float,
) -> np.ndarray:
    """The box as another tilt series, lens and exposure would show it."""
    if views.tilts is None and not views.defocus and not views.noise:
        return box
    if views.noise:
        box = box + factors[1] * views.noise * box.std() * noise
    shape = (box.shape[0], box.shape[1], box.shape[2])
    spectrum = scipy.fft.rfftn(box)
    if views.tilts is not None:
        highest = views.tilts[0] + (views.tilts[1] - views.tilts[0]) * factors[0]
        spectrum *= wedge(shape, (-highest, highest))
    if views.defocus and lens is not None:
        spectrum *= _relensed(shape, lens, lens.defocus + share * views.defocus)
    return np.asarray(scipy.fft.irfftn(spectrum, s=shape))


def _relensed(shape: tuple[int, int, int], lens: Lens, defocus: float) -> np.ndarray:
    """What changes one lens's contrast into another's: new · old / (old² + ε), Wiener's."""
    z, y, x = frequency_grid(shape)
    k = np.sqrt(z**2 + y**2 + x**2) / lens.voxel_size
    old, new = (
        ctf_radial(
            k,
            voltage=lens.voltage,
            spherical_aberration=lens.spherical_aberration,
            amplitude_contrast=lens.amplitude_contrast,
            defocus=d,
        )
        for d in (lens.defocus, defocus)
    )
    return np.asarray(new * old * (1 + _WIENER) / (old**2 + _WIENER))
