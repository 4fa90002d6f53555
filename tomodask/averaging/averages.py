"""The average of aligned subtomograms and its two halves: one tree of sums.

Each subtomogram's spectrum is turned into the reference's frame and added with the weight ``w`` of
its wedge; beside the sum stands that of ``w²``, and the one over the other is the least-squares
average (the spectrum of a box holds ``w`` times the particle's).  Between a measured and a missing
Fourier voxel of the box the spectrum falls off, and `w` falls with it: a sharp wedge would make the
average too weak at its edges.  A frequency that no particle measured stays empty.

Where the boxes carry the record of their tilt series, `w` is what it says (wedge, contrast
transfer, damage; see `tomodask.arrays.tilt_weights`), and the sum of ``w²`` may come near zero
where the contrast of all particles crosses it.  A tenth of its mean over the shell is added to it
there as everywhere, as Wiener's filter would, and the whole multiplied by 1.1, so that a frequency
of mean weight keeps its height.

With a symmetry both sums are those over all equivalent poses, before the division.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from typing import Any

import dask.bag as db
import numpy as np
import pandas as pd
import xarray as xr
from dask.delayed import Delayed, delayed

from tomodask.alignment.measurement import measurements
from tomodask.alignment.pose_matching import kept_rows, match_poses, match_rows
from tomodask.arrays.geometry import matrices_zyx
from tomodask.arrays.sampling import half_sphere
from tomodask.arrays.symmetry import symmetry_group
from tomodask.averaging.corrected_fsc import corrected_fsc
from tomodask.averaging.fsc import fsc
from tomodask.averaging.half_sums import (
    AMOUNT_UNIT,
    Entries,
    HalfSums,
    Totals,
    average,
    bits_for,
)
from tomodask.averaging.lookups import lookup_of
from tomodask.averaging.map_filters import from_half_sphere
from tomodask.averaging.signal_to_noise import spectral_snr
from tomodask.averaging.symmetrising import grid_cosets, symmetrised
from tomodask.data.box_blocks import BoxBlocks, partition_edges
from tomodask.data.particles import orientations
from tomodask.data.subtomogram_table import batch_size, particle_table
from tomodask.errors import InputError

__all__ = ["Average", "average_classes", "average_subtomograms"]

_log = logging.getLogger(__name__)
_SHARE = 0.1  # of the mean weight of a shell, added to each weight where records are known
_LEAST = 2  # particles a half: of one alone, no noise can be told


@dataclass(frozen=True)
class Average:
    """The average of subtomograms, in the reference's frame.

    Attributes
    ----------
    average, half_1, half_2 : array of float32, shape (n, n, n)
        Centre at voxel ``n // 2``.
    voxel_size : float
        Å.
    particles : (int, int)
        In each half.
    coverage : float
        Share of the Fourier voxels that at least one particle measured.
    ssnr : DataFrame
        ``frequency``, ``resolution``, ``ssnr`` of the average and ``noise`` of a box by shell; see
        `tomodask.averaging.signal_to_noise`.
    weights : (float, float)
        Sum of the particles' weights in each half: of whole particles, their number.
    symmetry : str
        Point group that both sums were made equal under.
    set_aside : DataFrame
        ``particle``, ``image`` and ``reason`` of each box that could not be averaged.
    """

    average: np.ndarray
    half_1: np.ndarray
    half_2: np.ndarray
    voxel_size: float
    particles: tuple[int, int]
    coverage: float
    ssnr: pd.DataFrame = field(repr=False)
    weights: tuple[float, float]
    symmetry: str
    set_aside: pd.DataFrame = field(repr=False)

    def fsc(
        self, *, diameter: float | None = None, mask: xr.DataArray | None = None
    ) -> pd.DataFrame:
        """Fourier shell correlation of the halves, see `tomodask.fsc`."""
        halves = self.half_1, self.half_2
        return fsc(*halves, voxel_size=self.voxel_size, diameter=diameter, mask=mask)

    def corrected_fsc(
        self, *, diameter: float | None = None, mask: xr.DataArray | None = None, seed: int = 0
    ) -> pd.DataFrame:
        """The same under a mask, less what the mask adds, see `tomodask.corrected_fsc`."""
        halves = self.half_1, self.half_2
        size = self.voxel_size
        return corrected_fsc(*halves, voxel_size=size, diameter=diameter, mask=mask, seed=seed)


def average_subtomograms(
    subtomograms: xr.Dataset,
    *,
    poses: pd.DataFrame | None = None,
    tilt_range: tuple[float, float] | None = None,
    symmetry: str = "C1",
    batch: int | None = None,
    split_every: int = 8,
    quiet: bool = False,
) -> Delayed:
    """Average subtomograms at their poses, with the missing wedge weighed out.

    Parameters
    ----------
    subtomograms : Dataset
        From `extract_subtomograms` or `open_subtomograms`; cubic boxes.
    poses : DataFrame, optional
        ``quat_*`` and, where known, ``shift_*`` and ``half``: as many rows as there are boxes, in
        their order, or with the boxes' names in ``image``.  By default the poses that the boxes
        carry.  Rows without a pose or a score, or with a ``reason``, are left out.
    tilt_range : (float, float), optional
        Degrees, in place of what the boxes carry: the record of the tilt series that each particle
        is of, else its ``tilt_min``, ``tilt_max``.
    symmetry : str
        Point group of the reference that the poses are of, e.g. ``"C7"``; its main axis is z
        through the centre.
    batch : int, optional
        Particles that a task sums; by default whole blocks, of up to two of `batch_size`.
    split_every : int
        Sums that one task of the reduction takes.
    quiet : bool
        Do not log which poses are left out because an alignment set them aside.

    Returns
    -------
    Delayed of Average
        Halves by the column ``half``, else particles in turn.  Nothing is computed before
        ``.compute()``.

    Raises
    ------
    InputError
        If poses are missing or do not match the boxes, the tilt range is missing, the record of a
        tilt series is damaged, there is no such symmetry, or a half has fewer than two particles;
        the last also from a task, where boxes that hold NaN or one value only are set aside.

    Notes
    -----
    The chunks, workers, batches and `split_every` change no bit: see
    `tomodask.averaging.half_sums`.
    """
    table = particle_table(subtomograms)
    matched = match_poses(table, poses)
    rows = _Rows(matched, np.arange(len(matched)), np.zeros(len(matched), np.intp), None)
    return _averages(
        subtomograms, table, rows, (None,), tilt_range, symmetry, batch, split_every, quiet
    )


def average_classes(
    subtomograms: xr.Dataset,
    *,
    poses: pd.DataFrame,
    weights: np.ndarray | None = None,
    tilt_range: tuple[float, float] | None = None,
    symmetry: str = "C1",
    batch: int | None = None,
    split_every: int = 8,
    quiet: bool = False,
) -> Delayed:
    """The average of each class of particles; each box is looked at once.

    Parameters
    ----------
    subtomograms, tilt_range, symmetry, batch, split_every, quiet
        As of `average_subtomograms`.
    poses : DataFrame
        As there, and ``class``, whole numbers.  A particle may have several rows, one a class (a
        soft assignment), if they are named by ``image`` or by an index called ``particle``.
    weights : array, shape (rows,), optional
        How much of the particle is of the row's class, 0 to 1; by default the column ``weight``,
        else 1.  Whole multiples of 2⁻²⁰ are taken.

    Returns
    -------
    Delayed of dict of int to Average
        By class.  A class with a total weight below two in a half is left out, and named in the
        log.

    Raises
    ------
    InputError
        As `average_subtomograms`; if ``class`` is missing, weights are outside 0 to 1, or no class
        has two particles in each half.
    """
    table = particle_table(subtomograms)
    if "class" not in poses:
        raise InputError("poses have no column class; give it, or take average_subtomograms")
    if weights is not None:
        if np.shape(weights) != (len(poses),):
            raise InputError(f"weights must be {len(poses)} numbers, got {np.shape(weights)}")
        poses = poses.assign(weight=np.asarray(weights, float))
    matched, box = match_rows(table, poses)
    if "half" not in matched and "half" in table:
        matched = matched.assign(half=table["half"].to_numpy()[box])
    known = matched["class"].notna().to_numpy()
    matched, box = matched[known], box[known]
    amount = None
    if "weight" in matched:
        amount = matched["weight"].to_numpy(float)
        if not ((amount >= 0) & (amount <= 1)).all():
            raise InputError(f"weights must be within 0 to 1, got {amount.min()} to {amount.max()}")
    labels, which = np.unique(matched["class"].to_numpy(int), return_inverse=True)
    rows = _Rows(matched, box, which.astype(np.intp), amount)
    return _averages(
        subtomograms, table, rows, tuple(map(int, labels)), tilt_range, symmetry, batch,
        split_every, quiet,
    )  # fmt: skip


@dataclass(frozen=True)
class _Rows:
    """Poses, the box that each is of, and which of the classes it goes to."""

    poses: pd.DataFrame
    box: np.ndarray
    which: np.ndarray
    amount: np.ndarray | None

    def __getitem__(self, keep: np.ndarray) -> _Rows:
        amount = None if self.amount is None else self.amount[keep]
        return _Rows(self.poses[keep], self.box[keep], self.which[keep], amount)


def _halves(table: pd.DataFrame, box: np.ndarray) -> np.ndarray:
    """0 or 1: by the column, else boxes in turn."""
    if "half" not in table:
        return box % 2
    half = table["half"].to_numpy(float)
    wrong = half[~np.isin(half, (1, 2))]
    if len(wrong):
        raise InputError(f"half must be 1 or 2, got {wrong[0]:g}")
    return half.astype(np.intp) - 1


def _averages(
    subtomograms: xr.Dataset,
    table: pd.DataFrame,
    rows: _Rows,
    labels: tuple[int | None, ...],
    tilt_range: tuple[float, float] | None,
    symmetry: str,
    batch: int | None,
    split_every: int,
    quiet: bool,
) -> Delayed:
    """The graph: sums of batches, a tree, and the averages of all classes at its end."""
    boxes = subtomograms["subtomogram"]
    n, voxel_size = int(boxes.shape[-1]), float(subtomograms.attrs["voxel_size"])
    if (batch is not None and batch < 1) or split_every < 2:
        raise InputError(f"need batch ≥ 1 and split_every ≥ 2, got {batch=}, {split_every=}")
    cosets, grid = grid_cosets(symmetry_group(symmetry))
    kind, kinds = measurements(table, subtomograms.attrs, tilt_range)
    names = np.asarray(table.get("image", table.index).astype(str))
    rows = rows[kept_rows(rows.poses, names[rows.box], quiet=quiet)]
    half = _halves(rows.poses, rows.box)
    if labels == (None,):
        for number in (1, 2):
            _check_half(number, int((half == number - 1).sum()))

    matrices = matrices_zyx(orientations(rows.poses))
    shifts = _shifts(rows.poses) / voxel_size
    slot = 2 * rows.which + half
    amount = np.ones(len(rows.box)) if rows.amount is None else rows.amount
    identities = np.asarray(table.index, np.int64)[rows.box]
    bits = bits_for(len(rows.box) * len(cosets))
    lookups = [lookup_of(one, box=n, voxel_size=voxel_size) for one in kinds]
    parts = []
    size = 2 * batch_size(len(table), n)
    blocks = BoxBlocks(boxes, batch or size)
    edges = partition_edges(blocks.chunks, size, batch)
    for block, edge in zip(blocks.joined(edges), pairwise(edges.tolist()), strict=True):
        here = slice(*np.searchsorted(rows.box, edge))
        if here.start == here.stop:
            continue
        mine, place = np.unique(kind[rows.box[here]], return_inverse=True)
        entries = Entries(
            rows.box[here] - edge[0],
            matrices[here],
            shifts[here],
            slot[here],
            amount[here],
            place.ravel(),
            identities[here],
            names[rows.box[here]],
        )
        parts.append(
            delayed(average, pure=True)(
                block,
                entries,
                [lookups[one] for one in mine],
                matrices_zyx(cosets),
                slots=2 * len(labels),
                bits=bits,
            )
        )
    if not parts:
        raise InputError("no particle is left to average; give poses, or others")
    total = db.from_delayed(parts).reduction(_merge, _merge, split_every=split_every)
    share = _SHARE if any(one.record is not None for one in kinds) else 0.0
    return delayed(_finish, pure=True)(
        total.to_delayed(), labels, grid, symmetry, n, voxel_size, share
    )


def _check_half(number: int, count: int, aside: str = "") -> None:
    if count < _LEAST:
        raise InputError(
            f"half {number} has {count} particle{'' if count == 1 else 's'}, it needs at least "
            f"{_LEAST}{aside}; give more particles, or share them out anew by the column half"
        )


def _shifts(table: pd.DataFrame) -> np.ndarray:
    """Å, (z, y, x)."""
    columns = ["shift_z", "shift_y", "shift_x"]
    if not set(columns) <= set(table):
        return np.zeros((len(table), 3))
    return np.asarray(table[columns].fillna(0.0).to_numpy(float))


def _merge(parts: Any) -> HalfSums:
    total: HalfSums = reduce(HalfSums.merge, parts)
    return total


def _finish(
    sums: HalfSums,
    labels: tuple[int | None, ...],
    grid: np.ndarray,
    symmetry: str,
    n: int,
    voxel_size: float,
    share: float,
) -> Average | dict[int, Average]:
    """Averages of all classes; of one without a label, that alone."""
    aside = pd.DataFrame(list(sums.set_aside), columns=["particle", "image", "reason"])
    told = "; ".join(f"particle {i} ({name}): {why}" for i, name, why in sums.set_aside[:5])
    if len(aside):
        more = f"; and {len(aside) - 5} more" if len(aside) > 5 else ""
        _log.warning("%d boxes are left out of the average: %s%s", len(aside), told, more)
    if labels == (None,):
        for half in (0, 1):
            _check_half(half + 1, int(sums.particles[half]), f" ({told})" if told else "")
    frequencies = half_sphere(n / 2 - 0.5)
    shells = np.rint(np.linalg.norm(frequencies, axis=1)).astype(np.intp)
    enough = (sums.amount * AMOUNT_UNIT).reshape(-1, 2).min(1) >= _LEAST
    if not enough.any():
        raise InputError(
            f"none of {len(labels)} classes has {_LEAST} particles in each half; give more "
            "particles, or ask for fewer classes"
        )
    if not enough.all():
        few = ", ".join(str(label) for label, ok in zip(labels, enough, strict=True) if not ok)
        _log.warning("left out, with fewer than %d particles in a half: class %s", _LEAST, few)
    totals, out = sums.totals(), {}
    for place in np.flatnonzero(enough):
        mine = slice(2 * place, 2 * place + 2)
        data = symmetrised(totals.data[mine], frequencies, grid)
        weight = symmetrised(totals.weight[mine], frequencies, grid)
        whole = data.sum(0), weight.sum(0)
        held = sums.amount[mine] * AMOUNT_UNIT
        out[labels[place]] = Average(
            _volume(*whole, n, share),
            _volume(data[0], weight[0], n, share),
            _volume(data[1], weight[1], n, share),
            voxel_size,
            (int(sums.particles[mine][0]), int(sums.particles[mine][1])),
            float((whole[1] > 0).mean()),
            spectral_snr(
                *whole,
                shells=shells,
                **_radial(totals, mine, len(grid)),
                box=n,
                voxel_size=voxel_size,
            ),
            (float(held[0]), float(held[1])),
            symmetry.strip().upper(),
            aside,
        )
    return out[None] if labels == (None,) else out  # type: ignore[return-value,index]


def _radial(totals: Totals, mine: slice, turns: int) -> dict[str, np.ndarray]:
    """Sums over shells of both halves; a turn of the grid adds each particle once more."""
    return {
        name: turns * getattr(totals, name)[mine].sum(0) for name in ("power", "spread", "count")
    }


def _volume(data: np.ndarray, weight: np.ndarray, n: int, share: float) -> np.ndarray:
    """The box of a weighted sum over half a sphere of frequencies."""
    k = half_sphere(n / 2 - 0.5)
    if share:
        shell = np.rint(np.linalg.norm(k, axis=1)).astype(np.intp)
        seen = np.maximum(np.bincount(shell, weight > 0), 1)
        mean = (np.bincount(shell, weight) / seen)[shell]
        data, weight = data * (1 + share), np.where(weight > 0, weight + share * mean, 0)
    values = np.divide(data, weight, out=np.zeros_like(data), where=weight > 0)
    return from_half_sphere(values, k, n)
