"""What a network is trained on: lazy tomograms with marked particles, and a part held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from tomodask.errors import InputError
from tomodask.nets.segmentation.architecture import IGNORED

__all__ = ["TrainingTomogram", "split"]

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, eq=False)
class TrainingTomogram:
    """A tomogram, and where its particles are.

    Attributes
    ----------
    volume : DataArray, dims (z, y, x)
        Lazy, at the voxel size of the model.
    mean, std : float
        Of the volume: crops are normalised by them.  A negative `std` inverts the contrast.
    centers : array, shape (n, 3)
        (z, y, x) in voxels; the middle of voxel (0, 0, 0) is the origin.
    classes : array of int, shape (n,)
        1 to 254.
    region : ((int, int), (int, int), (int, int)), optional
        First voxel, and one past the last, along z, y, x, of the part that is trained on; by
        default the whole.  The other voxels, and the bodies of particles among them, have no say.

    Raises
    ------
    InputError
        If a value is not as above, a centre is outside the volume, or `std` is 0.
    """

    volume: xr.DataArray
    mean: float
    std: float
    centers: np.ndarray
    classes: np.ndarray
    region: Box | None = None

    def __post_init__(self) -> None:
        if self.volume.dims != ("z", "y", "x"):
            raise InputError(f"{self.name} must have the dims ('z', 'y', 'x'), got "
                             f"{self.volume.dims}")  # fmt: skip
        if not (np.isfinite(self.mean) and np.isfinite(self.std) and self.std):
            raise InputError(
                f"{self.name}: mean and std must be finite and std not 0, got {self.mean} and "
                f"{self.std}; a tomogram of one value has nothing to train on"
            )
        centers = np.array(self.centers, np.float64).reshape(-1, 3)
        classes = np.array(self.classes).reshape(-1)
        if len(centers) != len(classes):
            raise InputError(
                f"{self.name}: {len(centers)} centers, but {len(classes)} classes; give one each"
            )
        if len(classes) and not (classes.min() >= 1 and classes.max() < IGNORED):
            raise InputError(
                f"{self.name}: classes must be from 1 to {IGNORED - 1}, got {classes.min()} to "
                f"{classes.max()}"
            )
        outside = ~((centers >= -0.5) & (centers < np.array(self.volume.shape) - 0.5)).all(1)
        if outside.any():
            raise InputError(
                f"{self.name}: {outside.sum()} of {len(centers)} particles are outside the volume "
                f"of {self.volume.shape} voxels, the first at (z, y, x) = "
                f"{centers[outside][0].round(1).tolist()} voxels; is the voxel size right?  Else "
                "take them out of the table"
            )
        for (start, stop), size in zip(self.box, self.volume.shape, strict=True):
            if not 0 <= start < stop <= size:
                raise InputError(f"{self.name}: region {self.region} is not within the volume of "
                                 f"{self.volume.shape} voxels")  # fmt: skip
        object.__setattr__(self, "centers", centers)
        object.__setattr__(self, "classes", classes.astype(np.int64))

    @property
    def name(self) -> str:
        """How messages call it."""
        return str(self.volume.attrs.get("source") or self.volume.name or "tomogram")

    @property
    def box(self) -> Box:
        """The region, also where it is the whole volume."""
        if self.region is not None:
            return self.region
        z, y, x = self.volume.shape
        return (0, z), (0, y), (0, x)

    @property
    def voxels(self) -> int:
        """Of the region."""
        return int(np.prod([stop - start for start, stop in self.box]))

    @property
    def owned(self) -> np.ndarray:
        """Which particles have their centre in the region; bool, shape (n,)."""
        low, high = np.array(self.box).T - 0.5
        return np.asarray(((self.centers >= low) & (self.centers < high)).all(1))


def split(
    tomograms: Sequence[TrainingTomogram], share: float = 0.2, seed: int = 0
) -> tuple[list[TrainingTomogram], list[TrainingTomogram]]:
    """Hold out a slab at one end of each tomogram, along y or x, for validation.

    A slab, and not particles here and there: crops about neighbours overlap, and what a network
    was trained on would be judged as if it had never been seen.  A voxel is in one of the two
    parts, and so is a particle; where the body of a particle reaches into the other part, its
    voxels there have no say.  The slab is the one, of those at both ends along y and x, that holds
    most nearly `share` of each class; of equal ones the seed chooses.  It is cut from every
    tomogram, however many there are, since each has noise of its own and all marks count; to judge
    on whole unseen tomograms, pass those as validation.

    (Voxels of the held-out part are still seen around the training crops next to it, as the
    surroundings of what is labelled; never with a label.)

    Parameters
    ----------
    tomograms : sequence of TrainingTomogram
        Without a `region`.
    share : float
        Of the particles, from 0 (none are held out) to below 1.  A tomogram of one particle keeps
        it.
    seed : int

    Returns
    -------
    training, validation : lists of TrainingTomogram
        Of the same volumes and particles, with complementary regions.

    Raises
    ------
    InputError
        If `share` is out of range, or no tomogram has two particles that a slab can part.
    """
    if not 0 <= share < 1:
        raise InputError(f"share must be from 0 to below 1, got {share}")
    if any(tomogram.region is not None for tomogram in tomograms):
        raise InputError("tomograms must be whole, but one has a region already; split it once")
    if share == 0:
        return list(tomograms), []
    training, validation = [], []
    for number, tomogram in enumerate(tomograms):
        parts = _best_slab(tomogram, share, np.random.default_rng([seed, number]))
        training.append(replace(tomogram, region=parts[0]) if parts else tomogram)
        if parts:
            validation.append(replace(tomogram, region=parts[1]))
    if not validation:
        raise InputError(
            "no tomogram has two particles or more that a slab can part, so that none can be held "
            "out for validation; mark more particles"
        )
    return training, validation


def _best_slab(
    tomogram: TrainingTomogram, share: float, rng: np.random.Generator
) -> tuple[Box, Box] | None:
    """Regions of training and of validation, or None where no slab parts the particles."""
    classes, wanted = np.unique(tomogram.classes, return_counts=True)
    count = len(tomogram.classes)
    best: tuple[float, float, int, int, bool] | None = None
    for axis, high_end in ((1, False), (1, True), (2, False), (2, True)):
        size, along = tomogram.volume.shape[axis], tomogram.centers[:, axis]
        rising = np.sort(along)
        for number in np.unique(np.rint(count * share * np.linspace(0.75, 1.25, 9)).astype(int)):
            number = min(max(1, int(number)), count - 1)
            if number < 1:
                continue
            border = count - number if high_end else number
            cut = int(np.rint((rising[border - 1] + rising[border]) / 2 + 0.5))
            if not 0 < cut < size:
                continue
            held = (along >= cut - 0.5) == high_end
            if held.all() or not held.any():
                continue
            there = np.array([np.count_nonzero(held & (tomogram.classes == c)) for c in classes])
            lost = np.count_nonzero((there == wanted) & (wanted > 1))
            cost = float(np.abs(there - share * wanted).sum() + count * lost)
            found = (cost, float(rng.random()), axis, cut, high_end)
            best = found if best is None else min(best, found)
    if best is None:
        return None
    _, _, axis, cut, high_end = best
    whole = list(tomogram.box)
    low, high = list(whole), list(whole)
    low[axis], high[axis] = (0, cut), (cut, whole[axis][1])
    below, above = (low[0], low[1], low[2]), (high[0], high[1], high[2])
    return (below, above) if high_end else (above, below)
