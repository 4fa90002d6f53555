"""The global and the local search of many boxes at once, on a device.

The same products of the same numbers as `tomodask.alignment.search` takes box by box: the shifts of
all boxes against all rotations in one matrix product, then each box's shifts against the
rotations that are left to it, and the best of each on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomodask.alignment.device_sampling import (
    DeviceSpectrum,
    parts_of,
    phases_of,
    real_rows,
    transposed,
    turned,
)
from tomodask.alignment.local import MOST, Neighbourhood
from tomodask.alignment.search import POOL, SearchGrid
from tomodask.arrays.backend import Array, to_numpy

__all__ = ["DeviceGrid", "DeviceNeighbourhood", "candidates_of", "local_candidates_of"]

#: Bytes that the arrays of one run of boxes may take together, about.
_BYTES = 2**30

Poses = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class _Round:
    """One band of the search: `Level`, or the last, from which candidates are taken.

    Attributes
    ----------
    phases : array of complex64, shape (shifts, count)
    model : array of float32, shape (rotations, 2 count)
    scale : array of float32, shape (rotations,), or None
    passing : int
    """

    phases: Array
    model: Array
    scale: Array | None
    passing: int


@dataclass(frozen=True)
class DeviceGrid:
    """A `SearchGrid` on a device."""

    rounds: tuple[_Round, ...]
    index: Array
    rotations: Array
    group: Array
    host: SearchGrid

    @classmethod
    def of(cls, xp: Any, grid: SearchGrid) -> DeviceGrid:
        """Copy one."""
        whole = xp.asarray(grid.model)
        rounds = [
            _Round(
                xp.asarray(level.phases),
                real_rows(xp, whole[:, : level.phases.shape[1]]),
                xp.asarray(level.scale),
                level.passing,
            )
            for level in grid.levels
        ]
        rounds.append(_Round(xp.asarray(grid.phases), real_rows(xp, whole), None, 0))
        return cls(
            tuple(rounds),
            xp.asarray(grid.index),
            xp.asarray(grid.rotations.reshape(-1, 9)),
            xp.asarray(grid.group),
            grid,
        )

    def bytes_each(self) -> int:
        """What a box takes in the round that takes most."""
        left, most = len(self.host.rotations), 0
        for number, one in enumerate(self.rounds):
            shifts, width = one.phases.shape
            rows = 8 * width * left if number else 0
            most = max(most, 24 * shifts * width + 2 * rows + 8 * shifts * left)
            left = one.passing
        return most


@dataclass(frozen=True)
class DeviceNeighbourhood:
    """A `Neighbourhood` on a device."""

    frequencies: Array
    index: Array
    weights: Array | None
    phases: Array
    group: Array
    host: Neighbourhood

    @classmethod
    def of(cls, xp: Any, around: Neighbourhood) -> DeviceNeighbourhood:
        """Copy one."""
        return cls(
            xp.asarray(around.frequencies)[None, :, :],
            xp.asarray(around.index),
            None if around.weights is None else xp.asarray(around.weights),
            xp.asarray(around.phases),
            xp.asarray(around.group),
            around,
        )


def candidates_of(xp: Any, grid: DeviceGrid, data: Array, *, count: int) -> list[Poses]:
    """Candidates of many boxes, see `tomodask.alignment.search.candidate_poses`.

    Parameters
    ----------
    xp : module
    grid : DeviceGrid
    data : array of complex64, shape (boxes, frequencies)
    count : int

    Returns
    -------
    list of (matrices, shifts_xyz)
        In the memory of the processor.
    """
    out: list[Poses] = []
    for part in parts_of(data.shape[0], grid.bytes_each(), _BYTES):
        out += _candidates(xp, grid, data[part, :], count)
    return out


def _candidates(xp: Any, grid: DeviceGrid, data: Array, count: int) -> list[Poses]:
    there = xp.take(data, grid.index, axis=1)
    boxes = there.shape[0]
    passing: Array | None = None
    scores: Array = None
    for one in grid.rounds:
        width = one.phases.shape[1]
        moved = real_rows(xp, one.phases[None, :, :] * there[:, None, :width])
        if passing is None:
            flat = xp.reshape(moved, (-1, 2 * width))
            scores = xp.reshape(xp.matmul(flat, one.model.T), (boxes, moved.shape[1], -1))
        else:
            rows = xp.take(one.model, xp.reshape(passing, (-1,)), axis=0)
            rows = xp.reshape(rows, (boxes, -1, 2 * width))
            scores = xp.matmul(moved, transposed(rows))
        if one.scale is None:
            break
        scale = one.scale[None, :]
        if passing is not None:
            scale = xp.reshape(xp.take(one.scale, xp.reshape(passing, (-1,)), axis=0), (boxes, -1))
        order = xp.argsort(-xp.max(scores, axis=1) * scale, axis=1)
        first = xp.sort(order[:, : one.passing], axis=1)
        passing = first if passing is None else _each(xp, passing, first)
    if passing is None:
        passing = xp.broadcast_to(
            xp.arange(grid.rotations.shape[0])[None, :], (boxes, grid.rotations.shape[0])
        )
    rotations = xp.take(grid.rotations, xp.reshape(passing, (-1,)), axis=0)
    chosen, valid = _hills(
        xp,
        xp.reshape(rotations, (boxes, -1, 9)),
        xp.max(scores, axis=1),
        count=count,
        separation=grid.host.separation,
        group=grid.group,
    )
    rotation = to_numpy(_each(xp, passing, chosen))
    shift = to_numpy(_each(xp, xp.argmax(scores, axis=1), chosen))
    keep = to_numpy(valid)
    return [
        (grid.host.rotations[rotation[i, keep[i]]], grid.host.shifts_xyz[shift[i, keep[i]]])
        for i in range(boxes)
    ]


def local_candidates_of(
    xp: Any,
    around: DeviceNeighbourhood,
    spectrum: DeviceSpectrum,
    data: Array,
    given: np.ndarray,
    *,
    count: int,
) -> list[Poses]:
    """Candidates near given poses, see `tomodask.alignment.local.local_candidates`.

    Parameters
    ----------
    data : array of complex64, shape (boxes, frequencies)
    given : numpy.ndarray, shape (boxes, 12)
        Matrices, row by row, and shifts.
    """
    host = around.host
    rotations = host.turns @ given[:, None, :9].reshape(-1, 1, 3, 3)
    turns, shifts = len(host.turns), len(host.shifts_xyz)
    if turns == shifts == 1:
        return [
            (r, t[None] + host.shifts_xyz) for r, t in zip(rotations, given[:, 9:], strict=True)
        ]
    width = around.frequencies.shape[1]
    out: list[Poses] = []
    for part in parts_of(len(given), 8 * width * (20 * turns + 3 * shifts), _BYTES):
        out += _local(xp, around, spectrum, data[part, :], given[part], rotations[part], count)
    return out


def _local(
    xp: Any,
    around: DeviceNeighbourhood,
    spectrum: DeviceSpectrum,
    data: Array,
    given: np.ndarray,
    rotations: np.ndarray,
    count: int,
) -> list[Poses]:
    boxes, turns = rotations.shape[:2]
    moves = xp.asarray(given[:, 9:].astype(np.float32))
    there = xp.take(data, around.index, axis=1)
    there = there * xp.conj(phases_of(xp, around.frequencies, moves, spectrum.box))
    matrices = xp.asarray(rotations.reshape(-1, 3, 3).astype(np.float32))
    model, _ = turned(xp, spectrum, around.frequencies, matrices)
    model = real_rows(xp, model if around.weights is None else model * around.weights)
    norm = xp.sqrt(xp.sum(model * model, axis=1))
    model = model / xp.where(norm > 0, norm, xp.ones_like(norm))[:, None]
    moved = real_rows(xp, around.phases[None, :, :] * there[:, None, :])
    scores = xp.matmul(moved, transposed(xp.reshape(model, (boxes, turns, -1))))
    chosen, valid = _hills(
        xp,
        xp.asarray(rotations.reshape(boxes, turns, 9)),
        xp.max(scores, axis=1),
        count=min(count, MOST),
        separation=around.host.separation,
        group=around.group,
    )
    shift = to_numpy(_each(xp, xp.argmax(scores, axis=1), chosen))
    turn, keep = to_numpy(chosen), to_numpy(valid)
    return [
        (
            rotations[i, turn[i, keep[i]]],
            given[i, 9:] + around.host.shifts_xyz[shift[i, keep[i]]],
        )
        for i in range(boxes)
    ]


def _each(xp: Any, values: Array, places: Array) -> Array:
    """Of each row of `values`, shape (rows, n), those at `places`, shape (rows, m)."""
    rows, n = values.shape
    at = places + n * xp.arange(rows, dtype=places.dtype)[:, None]
    found = xp.take(xp.reshape(values, (-1,)), xp.reshape(at, (-1,)), axis=0)
    return xp.reshape(found, places.shape)


def _hills(
    xp: Any, rotations: Array, scores: Array, *, count: int, separation: float, group: Array
) -> tuple[Array, Array]:
    """Places of the best rotations of each box, no two on one hill; equal scores in their order.

    Parameters
    ----------
    rotations : array of float64, shape (boxes, n, 9)
    scores : array of float32, shape (boxes, n)
    count, separation, group
        As of `tomodask.alignment.search.hills`.

    Returns
    -------
    places : array of int, shape (boxes, count)
    valid : array of bool, shape (boxes, count)
        False where a box has no more hills.
    """
    boxes, n, _ = rotations.shape
    limit = 1 + 2 * math.cos(separation)  # the trace of a rotation by the separation
    nothing = xp.full_like(scores, -math.inf)
    left = scores
    pool = POOL * count
    if pool < n:
        left = xp.where(scores < xp.sort(scores, axis=1)[:, n - pool][:, None], nothing, scores)
    places, valid = [], []
    across = transposed(rotations)
    for _ in range(count):
        best = xp.argmax(left, axis=1)
        places.append(best)
        valid.append(xp.max(left, axis=1) > -math.inf)
        at = best + n * xp.arange(boxes, dtype=best.dtype)
        taken = xp.reshape(xp.take(xp.reshape(rotations, (-1, 9)), at, axis=0), (boxes, 1, 3, 3))
        taken = xp.reshape(xp.matmul(taken, group[None, :, :, :]), (boxes, -1, 9))
        near = xp.max(xp.matmul(taken, across), axis=1) >= limit
        near = near | (xp.arange(n, dtype=best.dtype)[None, :] == best[:, None])
        left = xp.where(near, nothing, left)
    return xp.stack(places, axis=1), xp.stack(valid, axis=1)
