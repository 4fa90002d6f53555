"""Which pick is of which particle: one to one, nearest first, and each pair lies close enough.

A pick may come near several particles (by a radius) or lie in one (by a map of labels).  Either way
there are candidate pairs with a distance, and the same rule settles them.
"""

from __future__ import annotations

from dataclasses import dataclass

import dask.array as da
import numpy as np
import xarray as xr
from scipy.spatial import cKDTree

from tomodask.errors import InputError

__all__ = ["Pairs", "matched_pairs", "pairs_by_label", "pairs_by_radius"]

# The voxel itself, then its six neighbours.
_CROSS = np.array(
    [(0, 0, 0), (-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1)], np.int64
)


@dataclass(frozen=True)
class Pairs:
    """Candidate pairs, the nearest first; equal ones by the pick's row, then the particle's.

    Attributes
    ----------
    pick, particle : array of int, shape (n,)
        Rows.
    distance : array of float, shape (n,)
    """

    pick: np.ndarray
    particle: np.ndarray
    distance: np.ndarray

    @classmethod
    def of(cls, pick: np.ndarray, particle: np.ndarray, distance: np.ndarray) -> Pairs:
        """Candidates in any order."""
        order = np.lexsort((particle, pick, distance))
        return cls(
            np.asarray(pick, np.int64)[order],
            np.asarray(particle, np.int64)[order],
            np.asarray(distance, float)[order],
        )

    @classmethod
    def joined(cls, parts: list[Pairs]) -> Pairs:
        """Those of several tomograms."""
        if not parts:
            return cls.of(np.zeros(0), np.zeros(0), np.zeros(0))
        columns = zip(*((one.pick, one.particle, one.distance) for one in parts), strict=True)
        return cls.of(*map(np.concatenate, columns))

    def __getitem__(self, where: np.ndarray) -> Pairs:
        return Pairs(self.pick[where], self.particle[where], self.distance[where])

    def __len__(self) -> int:
        return len(self.pick)

    def one_to_one(self) -> np.ndarray:
        """Indices of the pairs that count: the nearest, then the nearest of the rest, and so on.

        Taken in rounds: a pair that is the first of its pick and the first of its particle is what
        the pass from the nearest to the farthest would take.
        """
        chosen, left = [], np.arange(len(self))
        while len(left):
            pick, particle = self.pick[left], self.particle[left]
            taken = _firsts(pick) & _firsts(particle)
            chosen.append(left[taken])
            gone = np.isin(pick, pick[taken]) | np.isin(particle, particle[taken])
            left = left[~gone]
        return np.sort(np.concatenate(chosen)) if chosen else left

    def nearest(self) -> np.ndarray:
        """Indices of each pick's nearest pair."""
        return np.flatnonzero(_firsts(self.pick))


def _firsts(values: np.ndarray) -> np.ndarray:
    """Where a value stands for the first time."""
    out = np.zeros(len(values), bool)
    out[np.unique(values, return_index=True)[1]] = True
    return out


def matched_pairs(
    picks: np.ndarray, truth: np.ndarray, radius: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match places to true places one to one, the nearest first.

    Parameters
    ----------
    picks : array, shape (n, 3)
    truth : array, shape (m, 3)
        In the units and frame of `picks`.
    radius : float or array, shape (m,)
        A pair is at most so far apart.

    Returns
    -------
    picks, truth : array of int, shape (k,)
        Rows of the pairs, the nearest pair first.
    distance : array of float, shape (k,)

    Examples
    --------
    >>> rows, true, far = matched_pairs(
    ...     np.array([[0.0, 0, 1], [0, 0, 2], [0, 0, 9]]), np.array([[0.0, 0, 0], [0, 0, 4]]), 3.0
    ... )
    >>> rows.tolist(), true.tolist(), far.tolist()
    ([0, 1], [0, 1], [1.0, 2.0])
    """
    pairs = pairs_by_radius(picks, truth, radius)
    pairs = pairs[pairs.one_to_one()]
    return pairs.pick, pairs.particle, pairs.distance


def pairs_by_radius(picks: np.ndarray, truth: np.ndarray, radius: float | np.ndarray) -> Pairs:
    """All pairs at most `radius` apart; parameters as of `matched_pairs`."""
    picks = np.asarray(picks, float).reshape(-1, 3)
    truth = np.asarray(truth, float).reshape(-1, 3)
    reach = np.broadcast_to(np.asarray(radius, float), len(truth))
    if not len(picks) or not len(truth):
        return Pairs.joined([])
    near = cKDTree(picks).query_ball_point(truth, reach * (1 + 1e-9))
    particle = np.repeat(np.arange(len(truth)), [len(one) for one in near])
    pick = np.fromiter((i for one in near for i in one), np.int64, len(particle))
    distance = np.linalg.norm(picks[pick] - truth[particle], axis=1)
    within = distance <= reach[particle]
    return Pairs.of(pick[within], particle[within], distance[within])


def pairs_by_label(
    picks: np.ndarray,
    truth: np.ndarray,
    *,
    labels: xr.DataArray,
    numbers: np.ndarray,
) -> tuple[Pairs, int]:
    """Each pick with the particle whose voxels it lies in.

    As in SHREC 2021, a pick outside the map is moved to the nearest voxel, and particles are wider
    by one voxel: a pick in no particle belongs to one that has a neighbour (of six) of its voxel;
    of several the one with the nearest centre.

    Parameters
    ----------
    picks, truth : array, shape (n, 3) and (m, 3)
        Å.
    labels : DataArray of int, dims (z, y, x)
        The number of the particle that each voxel belongs to.
    numbers : array of int, shape (m,)
        Of the particles.  Voxels of other numbers are nobody's.

    Returns
    -------
    pairs : Pairs
    outside : int
        Picks that lie outside the map.
    """
    size, shape = float(labels.attrs["voxel_size"]), np.array(labels.shape)
    voxel = np.rint(np.asarray(picks, float).reshape(-1, 3) / size)
    inside = np.clip(voxel, 0, shape - 1).astype(np.int64)
    outside = int((voxel != inside).any(axis=1).sum())
    around = np.clip(inside[:, None] + _CROSS, 0, shape - 1)
    found = _values(labels, around.reshape(-1, 3)).reshape(-1, len(_CROSS))
    found[found[:, 0] != 0, 1:] = 0
    pick, place = np.nonzero(found)
    order = np.argsort(numbers, kind="stable")
    at = np.searchsorted(numbers[order], found[pick, place])
    at = np.minimum(at, len(numbers) - 1)
    known = numbers[order][at] == found[pick, place] if len(numbers) else np.zeros(len(at), bool)
    pick, particle = pick[known], order[at[known]]
    distance = np.linalg.norm(picks[pick] - truth[particle], axis=1)
    pairs = Pairs.of(pick, particle, distance)
    return pairs[pairs.nearest()], outside


def _values(labels: xr.DataArray, zyx: np.ndarray) -> np.ndarray:
    """Whole numbers at some voxels; of a lazy map only the blocks that hold them are read."""
    at = tuple(zyx.T)
    values = labels.data.vindex[at].compute() if isinstance(labels.data, da.Array) else None
    values = np.asarray(labels.data)[at] if values is None else np.asarray(values)
    whole = values.astype(np.int64)
    if values.dtype.kind == "f" and not np.array_equal(whole, values):
        raise InputError(
            "occupancy must hold whole numbers, the particle that each voxel belongs to; "
            f"{labels.attrs.get('source') or labels.name or 'the map'} holds shares such as "
            f"{float(values[whole != values][0]):g}; give the label map (labels.zarr of a "
            "simulation)"
        )
    return whole
