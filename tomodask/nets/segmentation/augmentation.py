"""Random mirroring, turning, scaling and bending of a crop: one interpolation, and exact centres.

A `Warp` says for each voxel of a crop where in the tomogram it is taken from.  Turn, scale and
elastic deformation are composed into that one map, and the tomogram is interpolated through it
once.  A mirror is a reversal of axes and interpolates nothing.

**Labels are not resampled.**  Libraries of augmentation (MONAI, TorchIO) resample a volume of
labels beside the image, by nearest neighbours as a rule: a ball of 7 voxels comes out frayed, and a
volume of labels must be drawn first.  Here the centres are moved through the inverse of the same
map and the labels drawn afterwards, as crisp as ever.  Points can be moved in MONAI too, but by
affine maps only, not along with an elastic deformation.  So neither of them is used.

**What turns do to the missing wedge.**  A mirror along any axis leaves the wedge of a symmetric
tilt range as it is; any turn takes it along, by at most `rotation`.  That is one reason for the 15°
of the paper [1]_; with ``axis="z"`` what is smeared along the beam stays along the beam.

**Interpolation smooths.**  Between voxels a trilinear value is a mean of eight, so the variance of
white noise falls, to 8/27 in the mean.  A network that saw only resampled crops would be trained
for smoother tomograms than it is used on.  So most crops must stay as they are: each of turn,
scale and deformation is done with `probability` 0.1, as in the authors' program [1]_, which leaves
73 % of the crops untouched but for the mirror.

.. [1] Liu et al., "DeepETPicker", Nat. Commun. 15, 2090 (2024), doi:10.1038/s41467-024-46041-0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import matrices_zyx
from tomodask.errors import InputError
from tomodask.nets import needs

__all__ = ["Augmentation", "Warp", "augment", "draw_warp"]

_SPACING = 24.0  # voxels between the control points of the deformation, about
_DEGREE = 3
_SMALLEST = 8  # voxels
_STRIDE = 4  # voxels between the samples by which a bend's slope is judged


@dataclass(frozen=True)
class Augmentation:
    """What is done to crops at random.

    Attributes
    ----------
    mirror : bool
        Along each axis with probability 1/2.
    rotation : float
        Largest angle, degrees.
    axis : {"any", "z"}
        Turn about a random axis, as in the paper, or about the beam only.
    scaling : (float, float)
        Smallest and largest factor; above 1 enlarges.
    elastic : float
        No derivative of the displacement, so neither a stretch along an axis nor a shear, is larger
        than this.
    probability : float
        Of a turn, of scaling, and of a deformation; each for itself.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    mirror: bool = True
    rotation: float = 15.0
    axis: Literal["any", "z"] = "any"
    scaling: tuple[float, float] = (0.95, 1.05)
    elastic: float = 0.05
    probability: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.rotation <= 180:
            raise InputError(f"rotation must be from 0 to 180°, got {self.rotation}")
        if self.axis not in ("any", "z"):
            raise InputError(f"axis must be any or z, got {self.axis!r}")
        low, high = self.scaling
        if not 0.5 <= low <= high <= 2:
            raise InputError(
                f"scaling must be two factors from 0.5 to 2, the smaller first, got {self.scaling}"
            )
        steepest = 0.25 / high  # the norm of nine derivatives is up to three times one of them
        if not 0 <= self.elastic <= steepest:
            raise InputError(
                f"elastic must be from 0 to {steepest:.3g} with scaling up to {high}, so that the "
                f"map can be inverted, got {self.elastic}"
            )
        if not 0 <= self.probability <= 1:
            raise InputError(f"probability must be from 0 to 1, got {self.probability}")


@dataclass(frozen=True, eq=False)
class Warp:
    """Where each voxel of a crop is taken from.

    A crop's voxel p, (z, y, x), is that at p' with the mirrored axes reversed, taken from
    ``c + matrix @ (p' - c) + bend(p')``, c the crop's middle ``(shape - 1) / 2``.  Both are in
    voxels of the crop's frame: unwarped, a voxel is taken from where it is.

    Attributes
    ----------
    shape : (int, int, int)
        Of the crop.
    flips : tuple of int
        Axes that are mirrored.
    matrix : array of float64, shape (3, 3)
        On (z, y, x) column vectors.
    controls : array of float64, shape (3, z, y, x), or None
        Of the bend, a cubic B-spline; voxels.
    """

    shape: tuple[int, int, int]
    flips: tuple[int, ...] = ()
    matrix: np.ndarray | None = None
    controls: np.ndarray | None = None

    @property
    def resamples(self) -> bool:
        """Whether anything but a mirror is done."""
        return self.matrix is not None or self.controls is not None

    @property
    def _linear(self) -> np.ndarray:
        return np.eye(3) if self.matrix is None else self.matrix

    @property
    def _middle(self) -> np.ndarray:
        return (np.array(self.shape) - 1) / 2

    def source_box(self, margin: float = 0.0) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """First voxel, and one past the last, of what `resample` needs, in the crop's frame.

        With a `margin`, of what it would need for a crop with so many more voxels on each side.
        """
        if not self.resamples and not margin:
            return (0, 0, 0), self.shape
        reach = np.abs(self._linear) @ (self._middle + margin)
        if self.controls is not None:  # a B-spline stays within the hull of its control points
            reach = reach + np.abs(self.controls).reshape(3, -1).max(1)
        low = np.floor(self._middle - reach).astype(int)
        high = np.floor(self._middle + reach).astype(int) + 2
        return (
            (int(low[0]), int(low[1]), int(low[2])),
            (int(high[0]), int(high[1]), int(high[2])),
        )

    @cached_property
    def sources(self) -> np.ndarray:
        """Where each voxel is taken from, before the mirror; float32, shape (3, z, y, x)."""
        axes = [np.arange(n) - c for n, c in zip(self.shape, self._middle, strict=True)]
        out = np.empty((3, *self.shape), np.float32)
        for i, row in enumerate(self._linear):
            z, y, x = (weight * axis for weight, axis in zip(row, axes, strict=True))
            out[i] = (z + self._middle[i])[:, None, None] + y[:, None] + x
        if self.controls is not None:
            out += _spline(self.controls, [_basis(np.arange(n), n) for n in self.shape])
        return out

    def resample(self, source: np.ndarray) -> np.ndarray:
        """The crop, by trilinear interpolation.

        Parameters
        ----------
        source : array of float32
            The voxels of `source_box`.

        Returns
        -------
        array of float32, shape `shape`

        Raises
        ------
        InputError
            If PyTorch is missing.
        """
        low, high = self.source_box()
        assert source.shape == tuple(b - a for a, b in zip(low, high, strict=True))
        crop = _interpolate(source, self.sources, low) if self.resamples else source
        return self.mirrored(crop)

    def mirrored(self, crop: np.ndarray) -> np.ndarray:
        """The mirror alone, on an array of the crop's shape."""
        return np.asarray(np.ascontiguousarray(np.flip(crop, self.flips)))

    def move(self, centers: np.ndarray) -> np.ndarray:
        """Where points of the tomogram come to lie in the crop: the inverse of the map.

        Parameters
        ----------
        centers : array, shape (n, 3)
            (z, y, x), voxels of the crop's frame; also outside it, where the bend goes on as at the
            nearest face.

        Returns
        -------
        array of float64, shape (n, 3)
        """
        centers = np.asarray(centers, np.float64).reshape(-1, 3)
        back = np.linalg.inv(self._linear).T
        moved = (centers - self._middle) @ back + self._middle
        if self.controls is not None:
            # A contraction, to 3/4 at worst and about 1/20 as a rule, by the bounds of `elastic`.
            for _ in range(100):
                before = moved
                moved = (centers - self._middle - self._bend(before)) @ back + self._middle
                if np.abs(moved - before).max(initial=0) < 1e-9:
                    break
        for axis in self.flips:
            moved[:, axis] = self.shape[axis] - 1 - moved[:, axis]
        return np.asarray(moved)

    def origin(self, point: np.ndarray) -> np.ndarray:
        """Where a point of the crop, (z, y, x), is taken from: the inverse of `move`."""
        point = np.array(point, np.float64)
        for axis in self.flips:
            point[axis] = self.shape[axis] - 1 - point[axis]
        bend = 0 if self.controls is None else self._bend(point[None])[0]
        return np.asarray(self._middle + self._linear @ (point - self._middle) + bend)

    def _bend(self, points: np.ndarray) -> np.ndarray:
        """Displacement at any points of the crop, before the mirror; shape (n, 3)."""
        assert self.controls is not None
        z, y, x = (_basis(points[:, i], n) for i, n in enumerate(self.shape))
        weights = z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :]
        flat = self.controls.reshape(3, -1)
        return np.asarray(np.einsum("nk,ik->ni", weights.reshape(-1, flat.shape[1]), flat))


def draw_warp(
    augmentation: Augmentation, shape: tuple[int, int, int], rng: np.random.Generator
) -> Warp:
    """Draw a warp of a crop of `shape` (z, y, x); the same number of draws whatever is switched on.

    Examples
    --------
    >>> still = Augmentation(mirror=False, probability=0.0)
    >>> draw_warp(still, (16, 16, 16), np.random.default_rng(0)).resamples
    False
    """
    if min(shape) < _SMALLEST:
        raise InputError(f"a crop must have {_SMALLEST} voxels along each axis to be bent, got "
                         f"{shape}")  # fmt: skip
    coins, chances = rng.random(3), rng.random(3)
    direction, angle, factor, strength = rng.normal(size=3), rng.uniform(-1, 1), *rng.random(2)
    controls = rng.uniform(-1, 1, size=(3, *(_intervals(n) + _DEGREE for n in shape)))
    turned, scaled, bent = chances < augmentation.probability
    matrix = np.eye(3)
    if turned and augmentation.rotation:
        if augmentation.axis == "z":
            direction = np.array([0.0, 0.0, 1.0])  # xyz
        direction = direction / np.linalg.norm(direction)
        turn = Rotation.from_rotvec(np.deg2rad(angle * augmentation.rotation) * direction)
        matrix = matrices_zyx(turn)
    low, high = augmentation.scaling
    if scaled:
        matrix = matrix / (low + (high - low) * factor)
    return Warp(
        shape,
        tuple(i for i in range(3) if augmentation.mirror and coins[i] < 0.5),
        None if np.array_equal(matrix, np.eye(3)) else matrix,
        _scaled(controls, shape, strength * augmentation.elastic)
        if bent and augmentation.elastic
        else None,
    )


def augment(source: np.ndarray, centers: np.ndarray, warp: Warp) -> tuple[np.ndarray, np.ndarray]:
    """Warp the voxels of ``warp.source_box()``, and move centres, in the frame of the crop.

    Returns
    -------
    crop : array of float32, shape ``warp.shape``
    centers : array of float64, shape (n, 3)
    """
    return warp.resample(source), warp.move(centers)


def _intervals(size: int) -> int:
    return max(1, round((size - 1) / _SPACING))


def _scaled(controls: np.ndarray, shape: tuple[int, int, int], slope: float) -> np.ndarray:
    """Control points of a bend whose steepest derivative is `slope`, or a little less."""
    bend = _spline(controls, [_basis(np.arange(0, n, _STRIDE), n) for n in shape])
    steepest = max(float(np.abs(np.diff(bend, axis=axis)).max()) for axis in (1, 2, 3)) / _STRIDE
    # Between the samples it may be steeper.
    return np.asarray(controls * (0.9 * slope / steepest))


def _spline(controls: np.ndarray, bases: list[np.ndarray]) -> np.ndarray:
    """The bend on a grid, shape (3, z, y, x), from the weights along each axis."""
    planes = np.matmul(bases[1], controls @ bases[2].T)
    flat = np.matmul(bases[0], planes.reshape(*planes.shape[:2], -1))
    return np.asarray(flat.reshape(3, len(bases[0]), *planes.shape[2:]))


def _basis(positions: np.ndarray, size: int) -> np.ndarray:
    """Weights of the control points along an axis at positions in voxels, (n, control points).

    Uniform cubic B-splines that span the crop; beyond it as at its face.
    """
    count = _intervals(size)
    inside = np.clip(np.asarray(positions, float) * (count / (size - 1)), 0, count)
    first = np.minimum(inside.astype(int), count - 1)
    t = inside - first
    out = np.zeros((len(inside), count + _DEGREE))
    parts = ((1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3)
    for i, part in enumerate(parts):
        out[np.arange(len(inside)), first + i] = part / 6
    return out


def _interpolate(source: np.ndarray, at: np.ndarray, low: tuple[int, int, int]) -> np.ndarray:
    """Values of an array, whose first voxel is `low`, at positions (3, z, y, x)."""
    needs("torch")
    import torch

    grid = np.empty((*at.shape[1:], 3), np.float32)
    for axis, (start, n) in enumerate(zip(low, source.shape, strict=True)):
        # From −1 to 1 over the source, x first.
        grid[..., 2 - axis] = (at[axis] - np.float32(start)) * np.float32(2 / (n - 1)) - 1
    with torch.inference_mode():
        crop = torch.nn.functional.grid_sample(
            torch.from_numpy(np.ascontiguousarray(source, np.float32))[None, None],
            torch.from_numpy(grid)[None],
            mode="bilinear",
            padding_mode="border",  # rounding at the faces only
            align_corners=True,
        )
    return np.asarray(crop[0, 0].numpy())
