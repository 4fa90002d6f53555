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

from dataclasses import dataclass
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
from tomodask.arrays.symmetry import symmetry_group
from tomodask.averaging.average import check_half, finished_averages
from tomodask.averaging.half_sums import (
    Entries,
    HalfSums,
    average,
    bits_for,
)
from tomodask.averaging.lookups import lookup_of
from tomodask.averaging.symmetrising import grid_cosets
from tomodask.data.box_blocks import BoxBlocks, partition_edges
from tomodask.data.particles import orientations
from tomodask.data.subtomogram_table import batch_size, particle_table
from tomodask.errors import InputError

__all__ = ["average_classes", "average_subtomograms"]

_SHARE = 0.1  # of the mean weight of a shell, added to each weight where records are known


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
            check_half(number, int((half == number - 1).sum()))

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
    return delayed(finished_averages, pure=True)(
        total.to_delayed(), labels, grid, symmetry, n, voxel_size, share
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
