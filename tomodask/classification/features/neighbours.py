"""Exact nearest neighbours out of core: features stream by once, block by block.

A matrix product tells roughly how far each particle of a block is from each query; those that may
be among the nearest are then measured as the sum of squared differences, row by row.  Equal
distances are ordered by the particle's row.  So the chunks and the workers change no bit.

The product is one of single precision, of features less their mean, and what it may be off by is
known: n terms add up to within n 2⁻²⁴ of the product of the lengths (Higham, Accuracy and Stability
of Numerical Algorithms, 2002, section 3.1).  Where that leaves too many that may be among the
nearest, as of features that lie close together and far from some others, double precision tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from dask.delayed import Delayed, delayed

from tomodask.arrays.threads import one_thread_each
from tomodask.classification.features.embedding import feature_array
from tomodask.errors import InputError

__all__ = ["find_neighbours", "nearest_rows"]

_ROWS = 4096  # particles of a block
_QUERIES = 256  # at a time: a matrix of distances stays within 8 MB
_SLACK = 1e-9  # relative to squared lengths: far above what a product in double precision loses
_UNIT = 2.0**-24  # half a last place of single precision
_MANY = 256  # to be measured a query: from here on a product in double precision costs less
_SPLIT = 8  # blocks' results that one task merges


def find_neighbours(
    features: Any,
    *,
    count: int = 10,
    particles: Any = None,
    queries: Any = None,
    metric: str = "euclidean",
) -> Delayed:
    """The nearest neighbours of particles, or of any features, among all particles.

    Parameters
    ----------
    features : Dataset, DataArray, Dask or NumPy array, shape (particle, feature)
        Rows that hold NaN are nobody's neighbours.
    count : int
        Neighbours of each; fewer where there are not so many.
    particles : sequence of int, optional
        Whose neighbours: names (``particle``) of a Dataset's or DataArray's rows, else row
        numbers.  A particle is not its own neighbour.
    queries : array, shape (query, feature), optional
        In place of `particles`.
    metric : {"euclidean", "cosine"}
        ``cosine`` takes features at unit length; the distance is then √(2 − 2 cos).

    Returns
    -------
    Delayed of DataFrame
        ``query`` (a particle's name, or the row of `queries`), ``rank`` from 1, ``particle`` and
        ``distance``; nearest first.

    Raises
    ------
    InputError
        If not one of `particles` and `queries` is given, one is not there or has no features, or
        a parameter makes no sense.

    Examples
    --------
    >>> values = np.array([[0.0], [5.0], [1.0], [7.0]])
    >>> find_neighbours(values, particles=[1], count=2).compute()["particle"].tolist()
    [3, 2]
    """
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise InputError(f"count must be a whole number, at least 1, got {count!r}")
    if metric not in ("euclidean", "cosine"):
        raise InputError(f"metric must be 'euclidean' or 'cosine', got {metric!r}")
    if (particles is None) == (queries is None):
        raise InputError("give particles, or queries: one of the two")
    values = feature_array(features).rechunk((_ROWS, -1))
    names = _names(features, values.shape[0])
    if particles is not None:
        asked = np.atleast_1d(np.asarray(particles))
        own = pd.Index(names).get_indexer(asked)
        if (own < 0).any():
            raise InputError(f"particle {asked[own < 0][0]} is not among the features")
        wanted: Any = values[own].to_delayed().ravel().tolist()
    else:
        given = np.asarray(queries, np.float64)
        if given.ndim != 2 or given.shape[1] != values.shape[1]:
            raise InputError(
                f"queries must have the shape (query, {values.shape[1]}), got {given.shape}"
            )
        asked, own, wanted = np.arange(len(given)), np.full(len(given), -1), [given]
    joined = delayed(_joined, pure=False)(wanted, asked)
    look, merge = delayed(nearest_rows, pure=False), delayed(_merged, pure=False)
    unit = metric == "cosine"
    level = [
        look(block, joined, count=int(count), start=b * _ROWS, own=own, unit=unit)
        for b, block in enumerate(values.to_delayed().ravel().tolist())
    ]
    while len(level) > 1:
        level = [merge(level[i : i + _SPLIT], int(count)) for i in range(0, len(level), _SPLIT)]
    return delayed(_table, pure=False)(level[0], asked, names)


def nearest_rows(
    block: np.ndarray,
    queries: np.ndarray,
    *,
    count: int,
    start: int = 0,
    own: np.ndarray | None = None,
    unit: bool = False,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The nearest rows of a block for each query.

    Parameters
    ----------
    block : array, shape (particle, feature)
    queries : array of float64, shape (query, feature)
    count : int
    start : int
        Number of the block's first row.
    own : array of int, shape (query,), optional
        The row that each query is, −1 for none; it is left out.
    unit : bool
        Take all at unit length; rows of no length are left out.

    Returns
    -------
    list of (array of float64, array of int)
        For each query squared distances and row numbers, nearest first, `count` at most.
    """
    values, asked = np.asarray(block, np.float64), np.asarray(queries, np.float64)
    if unit:
        values, asked = _at_unit_length(values), _at_unit_length(asked)
    sound = np.flatnonzero(np.isfinite(values).all(1))
    values = values[sound]
    # Where each query stands among the rows: it is left out there.
    mine = np.full(len(asked), -1) if own is None else np.asarray(own) - start
    place = np.searchsorted(sound, mine)
    place[~np.isin(mine, sound)] = -1
    if not len(sound):
        return [(np.empty(0), np.empty(0, np.intp)) for _ in asked]
    single, double = _Single.of(values), None
    out = []
    for i in range(0, len(asked), _QUERIES):
        some, leave = asked[i : i + _QUERIES], place[i : i + _QUERIES]
        near = single.near(some, leave, count)
        if near is None:
            double = double or _Double.of(values)
            near = double.near(some, leave, count)
        for query, keep in zip(some, near, strict=True):
            exact = ((values[keep] - query) ** 2).sum(1)
            rows = sound[keep] + start
            order = np.lexsort((rows, exact))[:count]
            out.append((exact[order], rows[order]))
    return out


@dataclass(frozen=True)
class _Single:
    """Rows of a block in single precision, less their mean.

    Attributes
    ----------
    rows : array of float32, shape (rows, feature)
    lengths : array of float32, shape (rows,)
        Squared.
    mean : array of float64, shape (feature,)
    longest : float
        The largest squared length.
    """

    rows: np.ndarray
    lengths: np.ndarray
    mean: np.ndarray
    longest: float

    @classmethod
    def of(cls, values: np.ndarray) -> _Single:
        mean = values.mean(0)
        with np.errstate(over="ignore"):
            rows = (values - mean).astype(np.float32)
            lengths = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
            return cls(rows, lengths.astype(np.float32), mean, float(lengths.max()))

    def near(self, queries: np.ndarray, leave: np.ndarray, count: int) -> list[np.ndarray] | None:
        """Rows that may be among the nearest of each query; None where that leaves too many.

        Parameters
        ----------
        queries : array of float64, shape (query, feature)
        leave : array of int, shape (query,)
            A row that is none of its neighbours, -1 for none.
        count : int
        """
        off = queries - self.mean
        theirs = (off * off).sum(1)
        largest = float(theirs.max()) + self.longest
        # Else single precision may run over, or lose all.
        if not 1e-30 < largest < 1e30:
            return None
        with one_thread_each():
            product = (-2 * off).astype(np.float32) @ self.rows.T
        product += self.lengths
        at = np.flatnonzero(leave >= 0)
        product[at, leave[at]] = np.inf
        if count < len(self.rows):
            # Rounding of both (4), of lengths and the sum (3), and of each step of the product.
            slack = 1.01 * (self.rows.shape[1] + 16) * _UNIT * (theirs + self.longest)
            bound = np.partition(product, count - 1, axis=1)[:, count - 1] + 2 * slack
            bound = np.nextafter(bound.astype(np.float32), np.float32(np.inf))
            may = product <= bound[:, None]
        else:
            may = np.ones(product.shape, bool)
        may[at, leave[at]] = False
        query, row = np.nonzero(may)
        if len(row) > (count + _MANY) * len(queries):
            return None
        return np.split(row, np.searchsorted(query, np.arange(1, len(queries))))


@dataclass(frozen=True)
class _Double:
    """Rows of a block in double precision, and their squared lengths; as of `_Single`."""

    rows: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> _Double:
        return cls(values, (values * values).sum(1))

    def near(self, queries: np.ndarray, leave: np.ndarray, count: int) -> list[np.ndarray]:
        with one_thread_each():
            product = queries @ self.rows.T
        total = (queries * queries).sum(1)[:, None] + self.lengths
        rough, slack = total - 2 * product, _SLACK * total
        out = []
        for near, loose, away in zip(rough, slack, leave, strict=True):
            keep = np.arange(len(near))
            keep = keep[keep != away]
            if len(keep) > count:
                bound = np.partition((near + loose)[keep], count - 1)[count - 1]
                keep = keep[(near - loose)[keep] <= bound]
            out.append(keep)
        return out


def _at_unit_length(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(values / np.sqrt((values * values).sum(1, keepdims=True)))


def _joined(parts: list[np.ndarray], asked: np.ndarray) -> np.ndarray:
    values = np.concatenate([np.asarray(one, np.float64) for one in parts])
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise InputError(f"particle or query {asked[bad][0]} has no features; leave it out")
    return values


def _merged(
    parts: list[list[tuple[np.ndarray, np.ndarray]]], count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    out = []
    for found in zip(*parts, strict=True):
        distance = np.concatenate([one[0] for one in found])
        rows = np.concatenate([one[1] for one in found])
        order = np.lexsort((rows, distance))[:count]
        out.append((distance[order], rows[order]))
    return out


def _table(
    found: list[tuple[np.ndarray, np.ndarray]], asked: np.ndarray, names: np.ndarray
) -> pd.DataFrame:
    sizes = [len(rows) for _, rows in found]
    return pd.DataFrame(
        {
            "query": np.repeat(asked, sizes),
            "rank": np.concatenate([np.arange(1, size + 1) for size in sizes]),
            "particle": names[np.concatenate([rows for _, rows in found])],
            "distance": np.sqrt(np.concatenate([distance for distance, _ in found])),
        }
    )


def _names(features: Any, count: int) -> np.ndarray:
    if isinstance(features, xr.Dataset | xr.DataArray) and "particle" in features.coords:
        return np.asarray(features["particle"].to_numpy())
    return np.arange(count)
