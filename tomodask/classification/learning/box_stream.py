"""Boxes that stream through a training: shuffled, in batches, never all in memory.

Boxes are read in runs of consecutive particles (blocks), as they are stored.  An epoch draws an
order of blocks, reads as many as the memory holds, shuffles these, and goes on; the next ones are
read meanwhile.  Blocks are runs of a length that follows from the number and edge of the boxes
alone: how the array is chunked changes neither the order nor a bit of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from tomodask.data.subtomogram_table import batch_size
from tomodask.data.subtomograms import box_readers, read_boxes
from tomodask.errors import InputError
from tomodask.nets.boxes.normalisation import normalised
from tomodask.nets.boxes.views import Lens, Views, view
from tomodask.training.ahead import made_ahead

__all__ = ["Batch", "BoxStream"]

_AHEAD = 2  # batches
_FEWEST_AT_ONCE = 64  # boxes that memory must hold, so that a batch is no run of neighbours
_MAKERS = 4  # threads that draw views


@dataclass(frozen=True)
class Batch:
    """Boxes that a network gets at once.

    Attributes
    ----------
    places : array of int, shape (n,)
        Which boxes of the stream they are.
    boxes : tuple of array of float32, shape (n, z, y, x)
        Normalised; with two views of each box there are two.
    """

    places: np.ndarray
    boxes: tuple[np.ndarray, ...]


@dataclass(eq=False)
class BoxStream:
    """Some boxes of subtomograms, in batches.

    Parameters
    ----------
    subtomograms : Dataset
    rows : array of int, rising
        Boxes that are used; the stream counts them from 0.
    seed : int
        Of the order and of the views.
    memory : int
        Bytes of boxes that may lie in memory.  It says how far apart boxes are that may come into
        one batch, so it is part of what a result depends on.
    invert : bool
        Multiply by −1.

    Raises
    ------
    InputError
        If `memory` holds too few boxes.
    """

    subtomograms: xr.Dataset
    rows: np.ndarray
    seed: int = 0
    memory: int = 1 << 30
    invert: bool = False
    _kept: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        boxes = self.subtomograms["subtomogram"]
        self.rows = np.asarray(self.rows, np.int64)
        self.shape: tuple[int, ...] = boxes.shape[1:]
        self.particles = self.subtomograms["particle"].to_numpy().astype(np.int64)[self.rows]
        self._read = _reading(boxes)
        size = 4 * int(np.prod(self.shape))
        # Two lots: one is served while the next one is read.  Where one is all, there is no next.
        self.whole = size * len(self.rows) <= self.memory
        self.at_once = len(self.rows) if self.whole else self.memory // (2 * size)
        if not self.whole and self.at_once < _FEWEST_AT_ONCE:
            raise InputError(
                f"memory must hold at least {2 * _FEWEST_AT_ONCE} boxes, "
                f"{2 * _FEWEST_AT_ONCE * size / 1e6:.0f} MB, got {self.memory / 1e6:.0f} MB, a "
                "part of all that is allowed: raise it (--memory)"
            )
        length = batch_size(boxes.shape[0], max(self.shape))
        if not self.whole:
            length = min(length, self.at_once // 4)  # so that lots are of about one size
        cuts = np.flatnonzero(np.diff(self.rows // length)) + 1
        self.blocks = list(pairwise([0, *cuts.tolist(), len(self.rows)]))

    @property
    def bytes(self) -> int:
        """That lie in memory at most."""
        return 4 * int(np.prod(self.shape)) * (self.at_once if self.whole else 2 * self.at_once)

    def order(self, epoch: int) -> list[np.ndarray]:
        """Places in the order of an epoch, in lots that lie in memory together."""
        rng = np.random.default_rng([self.seed, epoch])
        lots: list[list[int]] = [[]]
        count = 0
        for block in rng.permutation(len(self.blocks)):
            low, high = self.blocks[block]
            if count + high - low > self.at_once:
                lots.append([])
                count = 0
            lots[-1].append(int(block))
            count += high - low
        return [rng.permutation(self._places(sorted(lot))) for lot in lots]

    def batches(
        self,
        epoch: int,
        size: int,
        *,
        views: Views | None = None,
        each: int = 1,
        whole: bool = False,
        lens: Callable[[int], Lens | None] | None = None,
    ) -> Generator[Batch, None, None]:
        """The boxes once, shuffled.  Close it where it is left early, and its threads end.

        Parameters
        ----------
        epoch : int
            Its order and views are its own.
        size : int
            Boxes of a batch.
        views : Views, optional
            A random view in place of each box.
        each : int
            Views of each box.
        whole : bool
            Leave out what does not fill a last batch.
        lens : callable, optional
            The lens of a row, where `views` changes the defocus.
        """
        most = len(self.rows) if self.whole else self.at_once // 2
        if not 1 <= size <= max(most, 1):
            raise InputError(
                f"batch must be from 1 to {most} boxes, which memory holds at once, got {size}: "
                "change it (--batch), or give more memory (--memory)"
            )
        makers = _Makers(self, epoch, views, each, lens)
        return made_ahead(self._shuffled(epoch, size, makers, whole), depth=_AHEAD)

    def in_order(self, size: int) -> Generator[Batch, None, None]:
        """The boxes once, as they come; a batch ends where a block does.  To be closed, too."""
        makers = _Makers(self, 0, None, 1, None)
        return made_ahead(self._ordered(size, makers), depth=_AHEAD)

    def _ordered(self, size: int, makers: _Makers) -> Iterator[Batch]:
        with makers:
            for low, high in self.blocks:
                boxes = self._boxes(np.arange(low, high))
                for start in range(low, high, size):
                    places = np.arange(start, min(start + size, high))
                    yield makers.batch(places, boxes[places - low])

    def _shuffled(self, epoch: int, size: int, makers: _Makers, whole: bool) -> Iterator[Batch]:
        lots = self.order(epoch)
        left = np.zeros(0, np.int64)
        rest = np.zeros((0, *self.shape), np.float32)
        with makers, ThreadPoolExecutor(1, "boxes") as reader:
            coming = reader.submit(self._lot, lots[0])
            for number, places in enumerate(lots):
                boxes, at = coming.result()
                if number + 1 < len(lots):
                    coming = reader.submit(self._lot, lots[number + 1])
                last = number + 1 == len(lots)
                # A batch may hold the last boxes of one lot and the first of the next.
                count = len(left) + len(places)
                full = count - count % size
                start = 0
                while start < full or (last and not whole and start < count):
                    stop = min(start + size, count)
                    mine = places[max(start - len(left), 0) : stop - len(left)]
                    got = boxes[np.searchsorted(at, mine)]
                    if start < len(left):
                        mine = np.concatenate([left[start:], mine])
                        got = np.concatenate([rest[start:], got])
                    yield makers.batch(mine, got)
                    start = stop
                left = places[max(start - len(left), 0) :]
                rest = boxes[np.searchsorted(at, left)]

    def _lot(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes of a lot, and their places, rising."""
        at = np.sort(places)
        return self._boxes(at), at

    def _boxes(self, places: np.ndarray) -> np.ndarray:
        """Boxes as they are stored, at rising places; not to be written to."""
        if not self.whole:
            return self._read_blocks(places)
        if "boxes" not in self._kept:
            self._kept["boxes"] = self._read_blocks(np.arange(len(self.rows)))
        kept = self._kept["boxes"]
        # An epoch's only lot is all of them: a copy would be as much memory again.
        return kept if len(places) == len(kept) else np.asarray(kept[places])

    def _read_blocks(self, places: np.ndarray) -> np.ndarray:
        """Block by block, so that no more than the result and a block are in memory."""
        out = np.empty((len(places), *self.shape), np.float32)
        block = np.searchsorted([low for low, _ in self.blocks], places, side="right")
        cuts = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(places)]
        for low, high in pairwise(cuts):
            out[low:high] = self._read(self.rows[places[low:high]])
        return out

    def _places(self, blocks: list[int]) -> np.ndarray:
        return np.concatenate([np.arange(*self.blocks[block]) for block in blocks])


class _Makers:
    """Makes batches of boxes as they are stored; views are drawn by several threads."""

    def __init__(
        self,
        stream: BoxStream,
        epoch: int,
        views: Views | None,
        each: int,
        lens: Callable[[int], Lens | None] | None,
    ) -> None:
        self.stream, self.epoch, self.views, self.each, self.lens = (
            stream, epoch, views, each, lens,
        )  # fmt: skip
        self.pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> _Makers:
        if self.views is not None:
            self.pool = ThreadPoolExecutor(_MAKERS, "views")
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def batch(self, places: np.ndarray, boxes: np.ndarray) -> Batch:
        """Normalised boxes, or views of them."""
        boxes = normalised(boxes, invert=self.stream.invert)
        if self.views is None or self.pool is None:
            return Batch(places, (boxes,) * self.each)
        out = tuple(np.empty_like(boxes) for _ in range(self.each))
        for number, values in enumerate(out):
            one = partial(self._view, number=number)
            for i, seen in enumerate(self.pool.map(one, places, boxes)):
                values[i] = seen
        return Batch(places, out)

    def _view(self, place: int, box: np.ndarray, *, number: int) -> np.ndarray:
        assert self.views is not None
        return view(
            box,
            self.views,
            seed=self.stream.seed,
            epoch=self.epoch,
            particle=int(self.stream.particles[place]),
            number=number,
            lens=None if self.lens is None else self.lens(int(self.stream.rows[place])),
        )


def _reading(boxes: xr.DataArray) -> Callable[[np.ndarray], np.ndarray]:
    """What gives the boxes of rising rows, float32."""
    data: Any = boxes.data
    if not isinstance(data, da.Array):
        return lambda rows: np.asarray(data[rows], np.float32)
    readers = box_readers(data)
    if readers is not None:
        return lambda rows: read_boxes(readers[row] for row in rows)

    def computed(rows: np.ndarray) -> np.ndarray:
        # In this process: boxes go to the network that is here.  Not by Dask's configuration,
        # which is that of all threads.
        return np.asarray(data[rows].compute(scheduler="threads"), np.float32)

    return computed
