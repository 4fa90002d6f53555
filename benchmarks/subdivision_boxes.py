"""Boxes of the subdivision paper, for its benchmarks: 22 complexes, and nothing.

A box of the protocol ``subdivision`` (`tomodask.simulate_subtomograms`; 40³ voxels of 9.2 Å, −5 µm,
300 kV, Cs 2 mm, MTF sinc(πω/2)) is the reconstruction of its signal and that of its noise, added.
Both are made once for each tilt range and kept apart, in units of their own spread in boxes of 40³:
signal + noise / √SNR is then a box of any SNR by the protocol's own definition.  Noise boxes are a
pool that any particle draws from, mirrored along any of the axes, which leaves noise of a symmetric
tilt range what it is: so conditions, and epochs of a training, do not share noise.

The reduced settings look at boxes of the same field, brought to 24³ voxels of 15.3 Å as a binned
tomogram would (`tomodask.arrays.resampling`).  Those of 40³ are kept of ±60° only.

What is made lies in a folder, a file a kind and tilt range: a second run takes it as it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import tomodask
from tomodask.arrays.resampling import resampled
from tomodask.simulation import PROTOCOLS

SNRS = (1000.0, 0.5, 0.1, 0.05, 0.03)  # the paper's
HARDER = (0.01, 0.003, 0.001)
TILTS = (60, 50, 40)
WHOLE = 60  # the tilt range whose boxes are kept at 40³ too
EMPTY = "none"
PROTOCOL = PROTOCOLS["subdivision"]

#: The 22 complexes, and the file of each below the data folder.  Of the 26 maps, 4V7R, 4V94, 5MRC,
#: 6QZP, 8TUX and 4V4R's 50S reach beyond the box with the protocol's shift; GroEL and GroEL-GroES
#: come from atoms.
KINDS: Mapping[str, str] = {
    name: f"maps/10A/{name}.mrc"
    for name in (
        *("1bxn", "1f4a", "1qvr", "1s3x", "1u6g", "2cg9", "2uv8", "3cf3", "3d2f", "3gl1"),
        *("3h84", "3ipm", "3j9i", "3qm1", "4cr2", "4v4r", "4v4r_30S", "6pxm", "6utj", "7n4y"),
    )
} | {"1mnf": "structures/1mnf.pdb.gz", "1gru": "structures/1gru_assembly.pdb.gz"}
CLASSES = (*KINDS, EMPTY)


@dataclass(frozen=True)
class Amount:
    """How many boxes of a kind and tilt range.

    Attributes
    ----------
    train, test : int
    more : int
        Further test boxes of the tilt range `WHOLE`, for the clusters.
    noise : int
        Boxes of the pool of noise of a tilt range; shared out as `train` to `test`.
    box : int
        Voxels of the edge that networks look at.
    """

    train: int
    test: int
    more: int
    noise: int
    box: int

    def particles(self, tilt: int) -> int:
        return self.train + self.test + (self.more if tilt == WHOLE else 0)


@dataclass(frozen=True)
class Drawn:
    """Boxes (n, z, y, x), float32, as simulated, and the class of each, a place in `CLASSES`."""

    boxes: np.ndarray
    labels: np.ndarray


class Boxes:
    """Signals and noise of all tilt ranges, made where they are not there yet."""

    def __init__(self, amount: Amount, structures: Path, folder: Path) -> None:
        self.amount, self.structures = amount, structures
        self.folder = folder / f"boxes-{amount.box}"
        self.folder.mkdir(parents=True, exist_ok=True)

    @cache  # noqa: B019  one set of boxes a run
    def signals(self, tilt: int, name: str, *, whole: bool = False) -> np.ndarray:
        """Noise-free boxes of a kind, (particle, z, y, x); simulated where they are not there."""
        path = self._path(tilt, name, whole=whole)
        if not path.exists():
            begin = time.process_time()
            self._make(tilt, name)
            seconds = time.process_time() - begin
            print(f"  simulated ±{tilt}°, {name}: {seconds:.0f} CPU s", flush=True)
        return np.load(path, mmap_mode="r" if whole else None)

    def noise(self, tilt: int, *, whole: bool = False) -> np.ndarray:
        return self.signals(tilt, EMPTY, whole=whole)

    def draw(
        self,
        tilt: int,
        snr: float,
        labels: np.ndarray,
        numbers: np.ndarray,
        rng: np.random.Generator,
        *,
        test: bool,
        whole: bool = False,
    ) -> np.ndarray:
        """Boxes of particles, each with noise that is drawn for it, (n, z, y, x)."""
        pool = self.noise(tilt, whole=whole)
        split = round(len(pool) * self.amount.train / (self.amount.train + self.amount.test))
        first, last = (split, len(pool)) if test else (0, split)
        # Of each noise box eight, by mirroring; none twice before all have been drawn.
        every = 8 * (last - first)
        picks = np.concatenate([rng.permutation(every) for _ in range(-(-len(labels) // every))])
        out = np.empty((len(labels), *pool.shape[1:]), np.float32)
        for i, (label, number, pick) in enumerate(
            zip(labels, numbers, picks[: len(labels)], strict=True)
        ):
            mirrored = tuple(slice(None, None, -1 if pick >> axis & 1 else 1) for axis in range(3))
            np.multiply(pool[first + pick // 8][mirrored], np.float32(snr**-0.5), out=out[i])
            if CLASSES[label] != EMPTY:
                out[i] += self.signals(tilt, CLASSES[label], whole=whole)[number]
        return out

    def condition(
        self,
        tilt: int,
        snr: float,
        *,
        test: bool,
        count: int | None = None,
        whole: bool = False,
    ) -> Drawn:
        """Training or test boxes of a condition, class by class; the same at each call.

        Those of 40³ are of the same particles and noise as the others.  Of the tilt range `WHOLE`,
        `count` may ask for the further test boxes too.
        """
        amount = self.amount
        most = amount.test if test else amount.train
        count = most if count is None else count
        first = amount.train if test else 0
        labels = np.repeat(np.arange(len(CLASSES)), count)
        numbers = np.tile(first + np.arange(count), len(CLASSES))
        rng = np.random.default_rng([11, tilt, round(1000 * snr), int(test)])
        boxes = self.draw(tilt, snr, labels, numbers, rng, test=test, whole=whole)
        return Drawn(boxes, labels)

    @cache  # noqa: B019
    def truth(self, tilt: int, name: str) -> pd.DataFrame:
        """The particle table of a kind: poses, tilt range."""
        return tomodask.particle_table(self._simulated(tilt, name))

    def record(self, tilt: int) -> dict[str, object]:
        """Of the tilt series, as averaging wants it."""
        return dict(self._simulated(tilt, "3j9i").attrs["tilt_series"]["subdivision"])

    def _simulated(self, tilt: int, name: str) -> xr.Dataset:
        nothing = name == EMPTY
        return tomodask.simulate_subtomograms(
            {name: None if nothing else self.structures / KINDS[name]},
            protocol="subdivision",
            count=self.amount.noise if nothing else self.amount.particles(tilt),
            snr=1.0 if nothing else np.inf,
            tilt_range=(-tilt, tilt),
            seed=1000 * tilt + CLASSES.index(name),
            batch=25,
        )

    def _make(self, tilt: int, name: str) -> None:
        boxes = self._simulated(tilt, name).subtomogram.data.compute(scheduler="synchronous")
        spread = boxes.std(axis=(1, 2, 3), dtype=np.float64)
        if name == EMPTY:  # one spread for all: that of a single box is by chance
            spread = np.full(len(boxes), np.sqrt((spread**2).mean()))
        boxes /= spread.astype(np.float32)[:, None, None, None]
        if tilt == WHOLE and self.amount.box != PROTOCOL.box:
            _write(self._path(tilt, name, whole=True), boxes)
        if self.amount.box != PROTOCOL.box:
            factor = PROTOCOL.box / self.amount.box
            boxes = np.stack([resampled(box, factor) for box in boxes])
        _write(self._path(tilt, name), boxes)

    def _path(self, tilt: int, name: str, *, whole: bool = False) -> Path:
        edge = PROTOCOL.box if whole else self.amount.box
        kind = f"noise-{self.amount.noise}" if name == EMPTY else name
        count = "" if name == EMPTY else f"-{self.amount.particles(tilt)}"
        return self.folder / f"{kind}{count}-tilt{tilt}-box{edge}.npy"


def _write(path: Path, boxes: np.ndarray) -> None:
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        np.save(file, boxes)
    os.replace(part, path)
