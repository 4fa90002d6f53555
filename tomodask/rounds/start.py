"""A first map without a reference: a few particles find each other, coarsely.

One particle, drawn by chance and low-passed, is the first reference of a small set; the set is
aligned to it and averaged, and the average, centred and low-passed, is the next.  After a few
rounds the missing wedge of the first has been filled by the others.  Several such attempts start
from several particles, side by side, and the one whose set fits its average best is kept: a first
particle that lies across its neighbours loses.

At the resolution of the start (60 Å, say) nothing of this needs fine voxels: the boxes are cut to
that band first, so that an attempt costs seconds.  With symmetry the attempts know nothing of it;
the axis is found in the best map (`tomodask.rounds.superposition.find_axes`) and laid along z.

The map is for both half sets, which therefore share what is coarser than its resolution, and
nothing else: the usual gold standard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from tomodask.alignment.checks import box_fault
from tomodask.alignment.poses import align_subtomograms
from tomodask.arrays.resampling import fitted, resampled
from tomodask.averaging.averages import average_classes
from tomodask.averaging.map_filters import centred, low_pass_weights, shell_weighted
from tomodask.data.subtomograms import chosen_boxes
from tomodask.errors import InputError
from tomodask.rounds.axes import find_axes, symmetrised
from tomodask.rounds.superposition import turned_map

__all__ = ["Start", "as_fine", "coarse_boxes", "first_map"]

_STEP = 25.0  # degrees
_CANDIDATES = 3
_FINER = 4.0  # voxels to a period of the start's resolution: room for masks with a soft edge
_LEAST_BOX = 24
_BATCH = 25  # particles a task: of boxes this small, fewer would cost more to hand out than to do


@dataclass(frozen=True)
class Start:
    """What the attempts came to.

    Attributes
    ----------
    volume : array of float32, shape (n, n, n)
        The best attempt's average, low-passed, in the boxes' voxels.
    attempts : DataFrame
        A row each: ``particle`` that it began with, mean ``score`` of its set by round
        (``score_1`` …), ``chosen``.
    share : float
        What remains of the map under its symmetry, see `find_axes`; 1 without symmetry.
    """

    volume: np.ndarray
    attempts: pd.DataFrame
    share: float


def coarse_boxes(subtomograms: xr.Dataset, resolution: float) -> xr.Dataset:
    """The same boxes in fewer, larger voxels, for work at a resolution (Å).  Lazy.

    Four voxels to the period; not fewer than 24 a box.  Boxes that are that small stay as they
    are.
    """
    boxes = subtomograms["subtomogram"]
    n, voxel_size = int(boxes.shape[-1]), float(subtomograms.attrs["voxel_size"])
    wanted = max(_LEAST_BOX, int(np.ceil(n * voxel_size * _FINER / resolution)))
    edge = 2 * int(np.ceil(wanted / 2))
    if edge >= n - 1:
        return subtomograms
    factor = (n // 2) / (edge // 2)
    lazy = boxes.data if isinstance(boxes.data, da.Array) else da.from_array(boxes.data)
    lazy = lazy.rechunk({1: -1, 2: -1, 3: -1})
    made = lazy.map_blocks(
        _resampled, factor, dtype=np.float32, chunks=(lazy.chunks[0], (edge,), (edge,), (edge,))
    )
    coords = {name: one for name, one in subtomograms.coords.items() if one.dims == ("particle",)}
    return xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), made)},
        coords=coords,
        attrs={**subtomograms.attrs, "voxel_size": voxel_size * factor},
    )


def _resampled(boxes: np.ndarray, factor: float) -> np.ndarray:
    """A box that holds nothing stays one: rounding would make it look as if it held something."""
    return np.stack(
        [
            np.full_like(resampled(np.zeros_like(box), factor), np.nan)
            if box_fault(box)
            else resampled(box, factor)
            for box in boxes
        ]
    )


def first_map(
    subtomograms: xr.Dataset,
    *,
    resolution: float = 60.0,
    symmetry: str = "C1",
    diameter: float | None = None,
    shift_range: float | None = None,
    tilt_range: tuple[float, float] | None = None,
    particles: int = 100,
    attempts: int = 3,
    rounds: int = 4,
    seed: int = 0,
    compute: Callable[..., Any],
) -> Start:
    """A map of the particle at low resolution, from the particles alone.  Computes.

    Parameters
    ----------
    subtomograms : Dataset
        Cubic boxes.
    resolution : float
        Finest detail used and shown, Å.
    symmetry : str
        Its axis is laid along z.
    diameter : float, optional
        Of the soft sphere that cuts references out, Å; by default it touches the box.
    shift_range : float, optional
        Å; by default a tenth of the box.
    tilt_range : (float, float), optional
        As of `align_subtomograms`.
    particles : int
        In the set, drawn by the seed; all if there are fewer.
    attempts, rounds : int
    seed : int
    compute : callable
        ``compute(delayed, label=…)``, e.g. `tomodask.compute`.

    Returns
    -------
    Start

    Raises
    ------
    InputError
        If fewer than four particles have a box that holds something, or a number is below 1.
    """
    count = subtomograms.sizes["particle"]
    if count < 4:
        raise InputError(
            f"a start without a reference needs at least 4 particles, got {count}; give a reference"
        )
    for name, value in (("attempts", attempts), ("rounds", rounds), ("particles", particles - 3)):
        if value < 1:
            raise InputError(f"{name} must be at least {4 if name == 'particles' else 1}")
    n = int(subtomograms.sizes["x"])
    rng = np.random.default_rng([seed, 1])
    rows = np.sort(rng.permutation(count)[: min(particles, count)])
    small = coarse_boxes(chosen_boxes(subtomograms, rows), resolution)
    # A few megabytes, that all rounds of all attempts look at.
    boxes = np.asarray(compute(small["subtomogram"].data, label="first boxes"))
    sound = np.array([not box_fault(box) for box in boxes])
    if sound.sum() < 4:
        raise InputError(
            f"a start without a reference needs at least 4 particles, of {len(rows)} drawn the "
            f"boxes of {len(rows) - sound.sum()} hold NaN or one value only; give a reference"
        )
    small, boxes, rows = small.isel(particle=sound), boxes[sound], rows[sound]
    lazy = da.from_array(boxes, chunks=(_BATCH, -1, -1, -1))
    small = small.assign(subtomogram=(("particle", "z", "y", "x"), lazy))
    edge, voxel_size = int(small.sizes["x"]), float(small.attrs["voxel_size"])
    weights = low_pass_weights(edge, voxel_size=voxel_size, resolution=resolution)
    firsts = rng.permutation(len(rows))[:attempts]
    maps = [centred(shell_weighted(boxes[first], weights)) for first in firsts]
    table = pd.DataFrame({"particle": rows[firsts]})
    for turn in range(1, rounds + 1):
        label = f"first map, round {turn} of {rounds}"
        aligned = [
            align_subtomograms(
                small,
                xr.DataArray(volume, dims=("z", "y", "x"), attrs={"voxel_size": voxel_size}),
                tilt_range=tilt_range,
                angular_step=_STEP,
                candidates=_CANDIDATES,
                shift_range=shift_range,
                resolution=max(resolution, 2 * voxel_size),
                diameter=diameter,
                seed=seed,
                batch=_BATCH,
                quiet=True,  # first looks: boxes that are set aside are told of by the rounds
            )
            for volume in maps
        ]
        tables = compute(aligned, label=f"{label}, align")
        table[f"score_{turn}"] = [float(poses["score"].mean()) for poses in tables]
        # Attempts are classes of one average: each box is looked at once for all of them.
        rows = pd.concat(
            [one.drop(columns="image", errors="ignore").assign(**{"class": number})
             for number, one in enumerate(tables)]
        )  # fmt: skip
        graph = average_classes(
            small.drop_vars("image", errors="ignore"), poses=rows, tilt_range=tilt_range,
            batch=_BATCH, quiet=True,
        )  # fmt: skip
        averages = compute(graph, label=f"{label}, average").values()
        maps = [centred(shell_weighted(one.average, weights)) for one in averages]
    best = int(np.argmax(table[f"score_{rounds}"].to_numpy()))
    table["chosen"] = np.arange(len(table)) == best
    volume, share = maps[best], 1.0
    if symmetry.upper() != "C1":
        motion = find_axes(
            volume, symmetry, voxel_size=voxel_size, resolution=resolution, diameter=diameter
        )
        share = motion.score
        volume = symmetrised(
            turned_map(volume, motion, voxel_size=voxel_size),
            symmetry,
            voxel_size=voxel_size,
            resolution=resolution,
        )
    return Start(as_fine(volume, n), table, share)


def as_fine(volume: np.ndarray, n: int) -> np.ndarray:
    """A map of larger voxels in `n` of the boxes' own."""
    edge = volume.shape[0]
    if edge == n:
        return volume
    return fitted(resampled(volume, (edge // 2) / (n // 2)), n)
