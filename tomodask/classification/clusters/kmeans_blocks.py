"""What k-means does with one block of particles, and how blocks' sums become one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from dask.delayed import delayed

from tomodask.arrays.threads import one_thread_each

__all__ = [
    "Assigned",
    "Look",
    "add_by_cluster",
    "assigned_block",
    "come_nearer",
    "in_one",
    "labels_of",
    "looked",
    "nearest",
    "spread",
]

_FOLDED = 8  # blocks whose sums become one: of a million particles all of them would be gigabytes
_FAR = 64  # of each block, particles that an empty cluster may begin with


@dataclass(frozen=True)
class Look:
    """What a block holds: rows with features, their number, largest magnitude, mean and spread."""

    sound: np.ndarray
    infinite: bool
    largest: float
    mean: np.ndarray
    total: float


def looked(block: np.ndarray) -> Look:
    """What a block holds; NaN in a row: it has no features."""
    values = np.asarray(block, np.float64)
    sound = np.asarray(~np.isnan(values).any(1))
    kept = values[sound]
    if not len(kept):
        return Look(sound, False, 0.0, np.zeros(values.shape[1]), 0.0)
    largest = float(np.abs(kept).max())
    if not math.isfinite(largest):
        return Look(sound, True, 0.0, np.zeros(values.shape[1]), 0.0)
    mean = kept.mean(0)
    return Look(sound, False, largest, mean, float(((kept - mean) ** 2).sum()))


def spread(looks: list[Look]) -> float:
    """Mean squared distance of the particles from their mean."""
    counts = np.array([one.sound.sum() for one in looks], float)
    means = np.array([one.mean for one in looks])
    centre = (counts[:, None] * means).sum(0) / counts.sum()
    between = float((counts * ((means - centre) ** 2).sum(1)).sum())
    return (math.fsum(one.total for one in looks) + between) / float(counts.sum())


@dataclass(frozen=True)
class Assigned:
    """Of blocks: labels; by cluster sums (integers) and sizes; misfits; the farthest particles."""

    labels: np.ndarray
    sums: np.ndarray
    sizes: np.ndarray
    inertia: tuple[float, ...]
    far: np.ndarray
    distance: np.ndarray


def in_one(parts: list[Any]) -> Any:
    """Assigned blocks, delayed, as one; workers add up what they have."""
    fold = delayed(_folded, pure=False)
    while len(parts) > 1:
        parts = [fold(parts[i : i + _FOLDED]) for i in range(0, len(parts), _FOLDED)]
    return parts[0]


def _folded(parts: list[Assigned]) -> Assigned:
    """Neighbouring blocks as one; whole numbers are added, so that no order changes a bit."""
    first = np.cumsum([0, *(len(one.labels) for one in parts)])
    sums = parts[0].sums.copy()
    for one in parts[1:]:
        sums += one.sums
    return Assigned(
        np.concatenate([one.labels for one in parts]),
        sums,
        np.sum([one.sizes for one in parts], axis=0),
        tuple(value for one in parts for value in one.inertia),
        np.concatenate([start + one.far for start, one in zip(first, parts, strict=False)]),
        np.concatenate([one.distance for one in parts]),
    )


def assigned_block(block: np.ndarray, centres: np.ndarray, unit: float) -> Assigned:
    """Each row with its nearest centre; sums are counted in `unit`, a power of two."""
    sound = np.flatnonzero(~np.isnan(block).any(1))
    labels = np.full(len(block), -1, np.int32)
    kept = np.asarray(block if len(sound) == len(block) else block[sound], np.float64)
    with one_thread_each():
        which = nearest(kept, centres)
    labels[sound] = which
    sizes = np.bincount(which, minlength=len(centres))
    sums = np.zeros(centres.shape, np.int64)
    distance = np.empty(len(kept))
    _add_rows(kept, which, centres, 1 / unit, sums, distance)  # unit is a power of two
    far = np.argsort(-distance, kind="stable")[:_FAR]
    return Assigned(labels, sums, sizes, (math.fsum(distance),), sound[far], distance[far])


@numba.njit(cache=True, nogil=True, fastmath={"reassoc"})
def _add_rows(values, which, centres, scale, sums, distance):  # type: ignore[no-untyped-def]
    """Add each row, in whole units, to its cluster's; measure how far it is from the centre.

    In one pass: a block is larger than the caches, and NumPy would go through it ten times.
    """
    for i in range(len(values)):
        cluster, squared = which[i], 0.0
        for j in range(values.shape[1]):
            x = values[i, j]
            sums[cluster, j] += np.int64(np.rint(x * scale))
            squared += (x - centres[cluster, j]) ** 2
        distance[i] = squared


@numba.njit(cache=True, nogil=True, fastmath={"reassoc"})
def come_nearer(values, point, distance):  # type: ignore[no-untyped-def]
    """Lower each row's squared distance to what it is from a point, if that is less; in one pass.

    Of a row that equals the point it is 0 to the bit.
    """
    for i in range(len(values)):
        squared = 0.0
        for j in range(values.shape[1]):
            squared += (values[i, j] - point[j]) ** 2
        distance[i] = min(distance[i], squared)


@numba.njit(cache=True, nogil=True, fastmath=False)
def add_by_cluster(values, which, sums):  # type: ignore[no-untyped-def]
    """Add each row to the sum of its cluster, one after the other."""
    for i in range(len(values)):
        for j in range(values.shape[1]):
            sums[which[i], j] += values[i, j]


def labels_of(block: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest centre of each row, −1 for rows without features."""
    return assigned_block(block, centres, math.inf).labels  # the sums are not asked for


def nearest(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest centre of each row, of equals the first; one matrix product."""
    near = values @ (-2 * centres.T)
    near += (centres * centres).sum(1)
    return np.asarray(near.argmin(1))
