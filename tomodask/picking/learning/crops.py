"""Crops to train on, read straight from lazy tomograms: each with its label, drawn on the spot.

An example is a function of the seed, the epoch and its number: threads, chunks and the order in
which examples are asked for change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from tomodask.errors import InputError
from tomodask.nets.segmentation.architecture import IGNORED
from tomodask.nets.segmentation.augmentation import Augmentation, Warp, augment, draw_warp
from tomodask.picking.learning.crop_reader import CropReader
from tomodask.picking.learning.labels import LabelKind, label_diameters, paint_bodies, paint_near
from tomodask.picking.learning.tomograms import TrainingTomogram, split

__all__ = ["CropSampler", "TrainingTomogram", "split"]

_SMALLEST = 16
_ORDER, _EXAMPLE, _VALIDATION, _VALIDATED = range(4)  # streams of random numbers
_MEMORY = 2 << 30


class CropSampler:
    """Crops about the particles of all tomograms, and a share of crops at random places.

    The label of a voxel is its class, 0 in the background, and `IGNORED` (255) where it shall have
    no say in the loss: beyond the tomogram or its region, in the body of a particle outside the
    region, and, with `known_within`, far from all particles.

    Parameters
    ----------
    tomograms : sequence of TrainingTomogram
    crop : int
        Edge, voxels, at least 16; a multiple of what the network needs, 8 as a rule.
    jitter : int
        A particle lies up to so many voxels along each axis from the middle of its crop; less where
        its label would not be inside any more.
    background : float
        Share of the crops that lie at random places, from 0 to below 1.
    label : {"truncated_ball", "ball", "cube"}
    diameter : int or sequence of int
        Of the label, voxels; see `tomodask.picking.learning.labels.draw_labels`.
    augmentation : Augmentation or None
        None for none.
    known_within : float, optional
        For tables that hold *some* of the particles.  In crops about particles, a voxel farther
        than this from every particle, in voxels, has no say: what lies there may be a particle
        that nobody marked.  About 1.5 diameters of the particle is a good choice, so that its
        own outside is background.  Crops at random places, of which most is background, say what
        ice, membranes and gold look like, and keep all their say.  By default a voxel that
        belongs to no particle is background.
    seed : int
    memory : int
        Bytes.  Tomograms that fit into it together are kept once they were read.

    Raises
    ------
    InputError
        If there is no particle, or an argument is out of range.
    """

    def __init__(
        self,
        tomograms: Sequence[TrainingTomogram],
        *,
        crop: int = 64,
        jitter: int = 14,
        background: float = 0.1,
        label: LabelKind = "truncated_ball",
        diameter: int | Sequence[int] = 7,
        augmentation: Augmentation | None = None,
        known_within: float | None = None,
        seed: int = 0,
        memory: int = _MEMORY,
    ) -> None:
        if crop < _SMALLEST:
            raise InputError(f"crop must be at least {_SMALLEST} voxels, got {crop}")
        if jitter < 0:
            raise InputError(f"jitter must be at least 0 voxels, got {jitter}")
        if not 0 <= background < 1:
            raise InputError(f"background must be a share from 0 to below 1, got {background}")
        if known_within is not None and not known_within > 0:
            raise InputError(f"known_within must be above 0 voxels, got {known_within}")
        if seed < 0:
            raise InputError(f"seed must be at least 0, got {seed}")
        self._tomograms = tuple(tomograms)
        self._crop = crop
        self._kind = label
        self._augmentation = augmentation
        self._known_within = known_within
        self._seed = seed
        self._diameters = [
            label_diameters(tomogram.classes, kind=label, diameter=diameter)
            for tomogram in self._tomograms
        ]
        self._largest = max((int(d.max()) for d in self._diameters if len(d)), default=0)
        room = crop // 2 - 1 - (self._largest + 1) // 2
        if room < 0:
            raise InputError(
                f"diameter must leave room in a crop of {crop} voxels, got {self._largest}; take "
                "larger crops, or smaller labels"
            )
        self._jitter = min(jitter, room)
        self._owned = [tomogram.owned for tomogram in self._tomograms]
        self._particles = np.concatenate(
            [np.empty((0, 2), np.int64)]
            + [
                np.stack([np.full(owned.sum(), i), np.flatnonzero(owned)], 1)
                for i, owned in enumerate(self._owned)
            ]
        )
        if not len(self._particles):
            raise InputError("no particle in the tomograms: there is nothing to train on")
        self._backgrounds = round(len(self._particles) * background / (1 - background))
        sizes = np.array([tomogram.voxels for tomogram in self._tomograms], float)
        self._chances = sizes / sizes.sum()
        self._trees = [cKDTree(tomogram.centers) for tomogram in self._tomograms]
        self._reader = CropReader(self._tomograms, memory=memory)
        self._order: tuple[tuple[int, int], np.ndarray] | None = None
        self._validated = np.random.default_rng([seed, _VALIDATION]).permutation(len(self))
        first = int(np.argmax(self._validated < len(self._particles)))
        self._validated[[0, first]] = self._validated[[first, 0]]

    def __len__(self) -> int:
        """Examples of an epoch: each particle once, and the random places."""
        return len(self._particles) + self._backgrounds

    def example(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """One example of an epoch; reads.  May be called from any thread.

        Parameters
        ----------
        epoch, index : int
            From 0.  An epoch goes through all in an order of its own; from ``len`` on it goes
            through them once more, in another.

        Returns
        -------
        crop : array of float32, shape (1, z, y, x)
            Less the tomogram's mean and over its standard deviation; 0 beyond the tomogram.
        label : array of uint8, shape (z, y, x)

        Raises
        ------
        InputError
            If the crop holds NaN or infinite voxels, or PyTorch, which augments, is missing.
        """
        turn, rest = divmod(index, len(self))
        number = int(self._order_of(epoch, turn)[rest])
        rng = np.random.default_rng([self._seed, _EXAMPLE, epoch, turn, number])
        shape = (self._crop,) * 3
        warp = Warp(shape)
        if self._augmentation is not None:
            warp = draw_warp(self._augmentation, shape, rng)
        which, center = self._place(number, rng)
        target = self._crop // 2 + rng.integers(-self._jitter, self._jitter + 1, size=3)
        return self._cut(which, center, target, warp, random=number >= len(self._particles))

    def validation(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """As `example`, without jitter and augmentation, and always the same.

        All examples in one random order, of which a part is a fair sample.  The first one is of a
        particle, which is at voxel ``crop // 2``.
        """
        number = int(self._validated[index])
        rng = np.random.default_rng([self._seed, _VALIDATED, number])
        which, center = self._place(number, rng)
        target = np.full(3, self._crop // 2)
        warp = Warp((self._crop,) * 3)
        return self._cut(which, center, target, warp, random=number >= len(self._particles))

    def region(self, edge: int) -> np.ndarray:
        """Normalised voxels about the particle of the first validation example; reads.

        Parameters
        ----------
        edge : int
            Voxels; less where the tomogram has less, whose border it does not cross.

        Returns
        -------
        array of float32, shape (z, y, x)
        """
        which, row = self._particles[self._validated[0]]
        sizes = np.array(self._tomograms[which].volume.shape)
        edges = np.minimum(edge, sizes)
        middle = np.rint(self._tomograms[which].centers[row]).astype(np.int64)
        low = np.clip(middle - edges // 2, 0, sizes - edges)
        return self._reader.read(int(which), low, low + edges)

    def _order_of(self, epoch: int, turn: int) -> np.ndarray:
        kept = self._order  # one read: another thread may put another epoch there
        if kept is None or kept[0] != (epoch, turn):
            rng = np.random.default_rng([self._seed, _ORDER, epoch, turn])
            kept = (epoch, turn), rng.permutation(len(self))
            self._order = kept
        return kept[1]

    def _place(self, number: int, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """Tomogram and centre, in its voxels, of a particle or of a random place."""
        if number < len(self._particles):
            which, row = self._particles[number]
            return int(which), self._tomograms[which].centers[row]
        which = int(rng.choice(len(self._chances), p=self._chances))
        low, high = np.array(self._tomograms[which].box).T
        return which, rng.uniform(low - 0.5, high - 0.5)

    def _cut(
        self, which: int, center: np.ndarray, target: np.ndarray, warp: Warp, *, random: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The crop, and its label, in which `center` comes to lie at `target`, to the voxel."""
        first = np.rint(center - warp.origin(target)).astype(np.int64)
        low, high = (first + corner for corner in warp.source_box())
        source = self._reader.read(which, low, high)
        reach = max(self._largest / 2, self._known_within or 0.0)
        near = self._near(which, *(first + corner for corner in warp.source_box(reach)))
        crop, centers = augment(source, self._tomograms[which].centers[near] - first, warp)
        owned = self._owned[which][near]
        label = paint_bodies(
            warp.shape,
            centers,
            np.where(owned, self._tomograms[which].classes[near], IGNORED).astype(np.uint8),
            self._diameters[which][near],
            kind=self._kind,
        )
        if self._known_within is not None and not random:
            known = paint_near(warp.shape, centers[owned], self._known_within)
            label[~known & (label == 0)] = IGNORED
        box = np.array(self._tomograms[which].box)
        if (low < box[:, 0]).any() or (high > box[:, 1]).any():
            label[~_inside(warp, box - first[:, None])] = IGNORED
        return crop[None], label

    def _near(self, which: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Rows of the particles in a box, rising."""
        middle, half = (low + high) / 2, float((high - low).max()) / 2
        found: Any = self._trees[which].query_ball_point(middle, half, p=np.inf)
        return np.sort(np.asarray(found, np.int64))


def _inside(warp: Warp, box: np.ndarray) -> np.ndarray:
    """Which voxels of a crop come from voxels of a box alone; (start, stop) along each axis."""
    if warp.resamples:
        inside = np.ones(warp.shape, bool)
        for at, (start, stop) in zip(warp.sources, box, strict=True):
            inside &= (at >= start) & (at <= stop - 1)
    else:
        z, y, x = (
            (np.arange(n) >= start) & (np.arange(n) < stop)
            for n, (start, stop) in zip(warp.shape, box, strict=True)
        )
        inside = z[:, None, None] & y[:, None] & x
    return warp.mirrored(inside)
