"""Two-stage dimension reduction (2SDR): multilinear PCA of images, then PCA of what is left [1]_.

Multilinear PCA [2]_ finds orthonormal A (rows × p) and B (columns × q) that keep most of the power
of ``Aᵀ (X − mean) B``, taking turns: with B fixed, A holds the leading eigenvectors of
``Σ (X − mean) B Bᵀ (X − mean)ᵀ``, and likewise B.  PCA of the p·q numbers that are left then finds
the components.  A PCA of the pixels would need a covariance of pixels by pixels; this needs
covariances of rows by rows, columns by columns, and pq by pq, all of them sums over images.

The images are walked through in blocks that depend on their number and size alone, and the sums of
blocks are added in one order: chunks and workers change no bit.

.. [1] Chung, Wang, Niu, Tu, Huang, Chang, Huang, Yao, "2SDR: Applying Kronecker envelope PCA to
   denoise cryo-EM images" (2020).
.. [2] Lu, Plataniotis & Venetsanopoulos, "MPCA: Multilinear principal component analysis of tensor
   objects", IEEE Trans. Neural Netw. 19, 18 (2008).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import delayed

from tomodask.arrays.threads import one_thread_each
from tomodask.cluster import compute
from tomodask.data.images import images_per_block
from tomodask.errors import InputError

__all__ = ["TwoStageReduction"]

_SPLIT = 8  # sums that one task of the tree adds
_SLICE = 64  # images that are in double precision at a time
_MOST = 40  # rows or columns kept at most, where the noise decides
_LEAST = 2


class TwoStageReduction:
    """2SDR as an estimator in the manner of scikit-learn, working out of core.

    Parameters
    ----------
    n_components : int
        Of the second stage; fewer where there are not so many.
    ranks : (int, int), optional
        Rows and columns that the first stage keeps.  By default those whose eigenvalues stand out
        of white noise: above σ² (1 + √(edge / (images · other edge)))², the upper end of the
        eigenvalues of noise alone (Marchenko & Pastur 1967), σ² being the median eigenvalue; 2 at
        least, 40 at most.
    rounds : int
        Turns of the first stage at most, each two passes over the images.
    tolerance : float
        The first stage ends when a turn adds less than this share of the power kept.

    Attributes
    ----------
    mean_ : array, shape (y, x)
    row_basis_, column_basis_ : arrays, shapes (y, p), (x, q)
        Orthonormal columns; the entry of each that is largest in magnitude is positive.
    components_ : array, shape (k, p · q)
        Orthonormal rows, likewise.
    explained_variance_, explained_variance_ratio_ : arrays, shape (k,)
        Variance along each component, and its share of that of the pixels.
    ranks_ : (int, int)
    n_components_, n_samples_ : int

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> images = rng.normal(size=(40, 1, 1)) * np.outer(np.hanning(12), np.hanning(9))
    >>> reduction = TwoStageReduction(n_components=1, ranks=(2, 2)).fit(images)
    >>> reduction.transform(images).shape, round(float(reduction.explained_variance_ratio_[0]), 6)
    ((40, 1), 1.0)
    """

    mean_: np.ndarray
    row_basis_: np.ndarray
    column_basis_: np.ndarray
    components_: np.ndarray
    explained_variance_: np.ndarray
    explained_variance_ratio_: np.ndarray
    ranks_: tuple[int, int]
    n_components_: int
    n_samples_: int

    def __init__(
        self,
        n_components: int = 20,
        *,
        ranks: tuple[int, int] | None = None,
        rounds: int = 3,
        tolerance: float = 1e-3,
    ) -> None:
        self.n_components = n_components
        self.ranks = ranks
        self.rounds = rounds
        self.tolerance = tolerance

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name, as scikit-learn asks for them."""
        del deep
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **parameters: Any) -> TwoStageReduction:
        """Change parameters by name."""
        for name, value in parameters.items():
            if name not in self.get_params():
                raise InputError(f"TwoStageReduction has no parameter {name!r}")
            setattr(self, name, value)
        return self

    def fit(self, images: Any, y: Any = None) -> TwoStageReduction:
        """Find the bases; a few passes over the images, each computed at once.

        Parameters
        ----------
        images : DataArray, Dask or NumPy array, shape (image, y, x)
        y : ignored

        Raises
        ------
        InputError
            If there are fewer than two images, one is not finite, all are equal, or a parameter is
            none.
        """
        del y
        data = _images(images)
        count, high, wide = data.shape
        components, turns = _whole("n_components", self.n_components), _whole("rounds", self.rounds)
        if count < 2:
            raise InputError(f"images must be two or more to be reduced, got {count}")
        ranks = self._checked_ranks(high, wide)
        blocks = _fixed_blocks(data)

        first = _total(blocks, _first_sums)
        mean = first.parts[0] / count
        power = float(first.parts[3] - count * (mean * mean).sum())
        if not power > 1e-12 * max(float(first.parts[3]), np.finfo(float).tiny):
            raise InputError("images are all equal: there is nothing to reduce")
        with one_thread_each():
            over_rows = first.parts[1] - count * mean @ mean.T
            over_columns = first.parts[2] - count * mean.T @ mean
        if ranks is None:
            ranks = (
                _standing_out(over_rows / (count * wide), count * wide),
                _standing_out(over_columns / (count * high), count * high),
            )
        column_basis = _leading(over_columns, ranks[1])[0]
        row_basis, kept = _leading(over_rows, ranks[0])
        before = 0.0
        for _ in range(turns):
            sums = _total(blocks, partial(_row_sums, basis=column_basis, mean=mean))
            row_basis, kept = _leading(sums.parts[0], ranks[0])
            sums = _total(blocks, partial(_column_sums, basis=row_basis, mean=mean))
            column_basis, kept = _leading(sums.parts[0], ranks[1])
            if kept.sum() - before <= self.tolerance * kept.sum():
                break
            before = float(kept.sum())
        # PCA of what the first stage keeps; its mean is 0, as that of X − mean is.
        sums = _total(blocks, partial(_core_sums, rows=row_basis, columns=column_basis, mean=mean))
        most = min(components, count - 1, ranks[0] * ranks[1])
        vectors, values = _leading(sums.parts[0], most)
        self.mean_ = mean
        self.row_basis_, self.column_basis_ = row_basis, column_basis
        self.components_ = np.ascontiguousarray(vectors.T)
        self.explained_variance_ = np.maximum(values, 0.0) / (count - 1)
        self.explained_variance_ratio_ = np.maximum(values, 0.0) / power
        self.ranks_, self.n_components_, self.n_samples_ = ranks, most, count
        return self

    def transform(self, images: Any) -> Any:
        """Components of images, shape (image, k): lazy where the images are, float64.

        Parameters
        ----------
        images : DataArray, Dask or NumPy array, shape (image, y, x)

        Returns
        -------
        DataArray with dims (image, component), Dask or NumPy array, as the images are.
        """
        self._check_fitted()
        core = partial(
            _project,
            mean=self.mean_,
            rows=self.row_basis_,
            columns=self.column_basis_,
            components=self.components_,
        )
        if isinstance(images, xr.DataArray):
            coords = {name: one for name, one in images.coords.items() if one.dims == ("image",)}
            return xr.DataArray(
                self.transform(images.data), dims=("image", "component"), coords=coords
            )
        self._check_shape(images.shape[1:], self.mean_.shape)
        if isinstance(images, da.Array):
            data = images.rechunk({1: -1, 2: -1})
            return data.map_blocks(
                core, drop_axis=2, dtype=np.float64,
                chunks=(data.chunks[0], (self.n_components_,)), meta=np.empty((0, 0)),
            )  # fmt: skip
        return core(np.asarray(images))

    def fit_transform(self, images: Any, y: Any = None) -> Any:
        """`fit`, then `transform`."""
        return self.fit(images, y).transform(images)

    def inverse_transform(self, features: Any) -> Any:
        """Images of components: what of an image the components tell, the mean added.

        Parameters
        ----------
        features : array, shape (image, k)

        Returns
        -------
        array of float64, shape (image, y, x); a DataArray or Dask array where `features` are.
        """
        self._check_fitted()
        if isinstance(features, xr.DataArray):
            coords = {n: one for n, one in features.coords.items() if one.dims == ("image",)}
            return xr.DataArray(
                self.inverse_transform(features.data), dims=("image", "y", "x"), coords=coords
            )
        self._check_shape(features.shape[1:], (self.n_components_,))
        restore = partial(
            _restore,
            mean=self.mean_,
            rows=self.row_basis_,
            columns=self.column_basis_,
            components=self.components_,
        )
        if isinstance(features, da.Array):
            data = features.rechunk({1: -1})
            high, wide = self.mean_.shape
            return data.map_blocks(
                restore, drop_axis=1, new_axis=[1, 2], dtype=np.float64,
                chunks=(data.chunks[0], (high,), (wide,)), meta=np.empty((0, 0, 0)),
            )  # fmt: skip
        return restore(np.asarray(features))

    def _checked_ranks(self, high: int, wide: int) -> tuple[int, int] | None:
        if self.ranks is None:
            return None
        try:
            first, second = self.ranks
        except (TypeError, ValueError):
            raise InputError(f"ranks must be two numbers, got {self.ranks!r}") from None
        first, second = _whole("ranks", first), _whole("ranks", second)
        if first > high or second > wide:
            raise InputError(
                f"ranks must be at most the edges of the images, {high} and {wide}, got {first} "
                f"and {second}"
            )
        return first, second

    def _check_fitted(self) -> None:
        if not hasattr(self, "components_"):
            raise InputError("the reduction is not fitted yet; call fit first")

    @staticmethod
    def _check_shape(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        if tuple(shape) != tuple(wanted):
            raise InputError(f"must be of shape (…, {', '.join(map(str, wanted))}), got {shape}")


@dataclass(frozen=True)
class _Sums:
    """Sums over images; `bad` is the number of the first image that is not finite."""

    parts: tuple[Any, ...]
    bad: int | None

    def merge(self, other: _Sums) -> _Sums:
        known = [one for one in (self.bad, other.bad) if one is not None]
        parts = tuple(a + b for a, b in zip(self.parts, other.parts, strict=True))
        return _Sums(parts, min(known, default=None))


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} must be a whole number, at least 1, got {value!r}")
    return int(value)


def _images(images: Any) -> Any:
    data = images.data if isinstance(images, xr.DataArray) else images
    if not isinstance(data, da.Array):
        data = np.asarray(data)
    if data.ndim != 3 or 0 in data.shape[1:]:
        raise InputError(f"images must have the axes (image, y, x), got shape {data.shape}")
    return data


def _fixed_blocks(data: Any) -> list[tuple[int, Any]]:
    """Blocks that follow from number and size of the images, each with its first number."""
    count, high, wide = data.shape
    most = images_per_block(count, high * wide)
    starts = list(range(0, count, most))
    if isinstance(data, da.Array):
        pieces = data.rechunk((most, -1, -1)).to_delayed().ravel().tolist()
        return list(zip(starts, pieces, strict=True))
    return [(start, data[start : start + most]) for start in starts]


def _total(blocks: list[tuple[int, Any]], sums: Callable[[np.ndarray], tuple[Any, ...]]) -> _Sums:
    """One pass over the images."""
    task = delayed(partial(_block_sums, sums=sums), pure=False)
    add = delayed(_merged, pure=False)
    level = [task(block, start) for start, block in blocks]
    while len(level) > 1:
        level = [add(level[i : i + _SPLIT]) for i in range(0, len(level), _SPLIT)]
    total: _Sums = compute(level[0], label="2SDR", passing=True)
    if total.bad is not None:
        raise InputError(f"image {total.bad} holds values that are not finite; set it aside first")
    return total


def _merged(parts: list[_Sums]) -> _Sums:
    total = parts[0]
    for one in parts[1:]:
        total = total.merge(one)
    return total


def _block_sums(
    block: np.ndarray, start: int, *, sums: Callable[[np.ndarray], tuple[Any, ...]]
) -> _Sums:
    block = np.asarray(block)
    finite = np.isfinite(block.sum(axis=(1, 2), dtype=np.float64))
    bad = None if finite.all() else start + int(np.argmin(finite))
    total: tuple[Any, ...] | None = None
    with one_thread_each():  # more threads would add in another order
        for i in range(0, len(block), _SLICE):
            one = sums(np.array(block[i : i + _SLICE], np.float64, order="C"))
            total = one if total is None else tuple(a + b for a, b in zip(total, one, strict=True))
    assert total is not None
    return _Sums(total, bad)


def _first_sums(images: np.ndarray) -> tuple[Any, ...]:
    by_row, by_column = _unfolded(images)
    return images.sum(0), by_row @ by_row.T, by_column @ by_column.T, (images * images).sum()


def _unfolded(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and columns, of all images side by side."""
    by_row = np.ascontiguousarray(images.transpose(1, 0, 2)).reshape(images.shape[1], -1)
    by_column = np.ascontiguousarray(images.transpose(2, 0, 1)).reshape(images.shape[2], -1)
    return by_row, by_column


def _row_sums(images: np.ndarray, *, basis: np.ndarray, mean: np.ndarray) -> tuple[Any, ...]:
    reduced = (images - mean) @ basis
    by_row = _unfolded(reduced)[0]
    return (by_row @ by_row.T,)


def _column_sums(images: np.ndarray, *, basis: np.ndarray, mean: np.ndarray) -> tuple[Any, ...]:
    reduced = basis.T @ (images - mean)
    by_column = _unfolded(reduced)[1]
    return (by_column @ by_column.T,)


def _core(
    images: np.ndarray, mean: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    return np.asarray((rows.T @ (images - mean) @ columns).reshape(len(images), -1))


def _core_sums(
    images: np.ndarray, *, mean: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[Any, ...]:
    core = _core(images, mean, rows, columns)
    return (core.T @ core,)


def _project(
    images: np.ndarray, *, mean: np.ndarray, rows: np.ndarray, columns: np.ndarray,
    components: np.ndarray,
) -> np.ndarray:  # fmt: skip
    out = np.empty((len(images), len(components)))
    with one_thread_each():
        for i in range(len(images)):  # one by one: batches change no bit
            core = _core(np.array(images[i : i + 1], np.float64, order="C"), mean, rows, columns)
            out[i] = components @ core[0]
    return out


def _restore(
    features: np.ndarray, *, mean: np.ndarray, rows: np.ndarray, columns: np.ndarray,
    components: np.ndarray,
) -> np.ndarray:  # fmt: skip
    shape = (rows.shape[1], columns.shape[1])
    out = np.empty((len(features), *mean.shape))
    with one_thread_each():
        for i, one in enumerate(features):
            out[i] = rows @ (one @ components).reshape(shape) @ columns.T + mean
    return out


def _leading(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors of the largest eigenvalues as columns, with signs of their own, and these."""
    with one_thread_each():
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    largest = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    signs = np.where(largest < 0, -1.0, 1.0)
    return np.ascontiguousarray(vectors * signs), values


def _standing_out(covariance: np.ndarray, samples: int) -> int:
    """Eigenvalues of a covariance above what white noise of that many samples gives."""
    with one_thread_each():
        values = np.linalg.eigvalsh(covariance)
    edge = float(np.median(values)) * (1 + np.sqrt(len(values) / samples)) ** 2
    return int(min(max((values > edge).sum(), _LEAST), _MOST, len(values)))
