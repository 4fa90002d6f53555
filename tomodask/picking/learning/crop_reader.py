"""Boxes of lazy tomograms, normalised: read as they are asked for, from any thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import product
from typing import Any

import dask.array as da
import numpy as np

from tomodask.errors import InputError
from tomodask.picking.learning.tomograms import TrainingTomogram

__all__ = ["CropReader"]


class CropReader:
    """Reads boxes of tomograms.

    Boxes overlap, and a stored chunk holds many of them: decoding chunks is most of the cost.  So
    the blocks of tomograms that together fit into `memory` are kept once they were read.  Of larger
    ones only what a box needs is read, anew for each box: blocks that come and go would be decoded
    whole for one box each.

    Parameters
    ----------
    tomograms : sequence of TrainingTomogram
    memory : int
        Bytes.
    """

    def __init__(self, tomograms: Sequence[TrainingTomogram], *, memory: int) -> None:
        self._tomograms = tomograms
        lazy = [t.volume for t in tomograms if isinstance(t.volume.data, da.Array)]
        distinct = {volume.data.name: volume.nbytes for volume in lazy}
        self._keep = sum(distinct.values()) <= memory
        self._blocks: dict[tuple[Any, ...], np.ndarray] = {}
        self._lock = threading.Lock()

    def read(self, which: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The box of a tomogram from voxel `low` to `high`, which may lie beyond it.

        Returns
        -------
        array of float32, shape ``high - low``
            Less the mean and over the standard deviation; 0 beyond the tomogram.

        Raises
        ------
        InputError
            If it holds NaN or infinite voxels.
        """
        tomogram = self._tomograms[which]
        start = np.clip(low, 0, tomogram.volume.shape)
        stop = np.clip(high, start, tomogram.volume.shape)
        out = np.zeros(tuple(high - low), np.float32)
        if (stop > start).all():
            values = self._raw(tomogram.volume.data, start, stop).astype(np.float32)
            values -= np.float32(tomogram.mean)
            values *= np.float32(1 / tomogram.std)
            if not np.isfinite(values).all():
                raise InputError(
                    f"{tomogram.name}: NaN or infinite voxels between voxel {start.tolist()} and "
                    f"{stop.tolist()}; fill them (save_tomogram(…, fill=0), "
                    "tomodask convert --fill 0)"
                )
            out[tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))] = values
        return out

    def _raw(self, data: Any, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        index = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        if not isinstance(data, da.Array):
            return np.asarray(data[index])
        if not self._keep:
            return np.asarray(data[index].compute(scheduler="synchronous"))
        out = np.empty(tuple(stop - start), data.dtype)
        edges = [np.cumsum([0, *sizes]) for sizes in data.chunks]
        touched = [
            range(np.searchsorted(edge, a, "right") - 1, np.searchsorted(edge, b, "left"))
            for edge, a, b in zip(edges, start, stop, strict=True)
        ]
        for place in product(*touched):
            corner = np.array([edge[i] for edge, i in zip(edges, place, strict=True)])
            block = self._block(data, place)
            a, b = np.maximum(corner, start), np.minimum(corner + block.shape, stop)
            target = tuple(slice(p, q) for p, q in zip(a - start, b - start, strict=True))
            origin = tuple(slice(p, q) for p, q in zip(a - corner, b - corner, strict=True))
            out[target] = block[origin]
        return out

    def _block(self, data: da.Array, place: tuple[int, ...]) -> np.ndarray:
        key = (data.name, *place)
        with self._lock:
            block = self._blocks.get(key)
        if block is None:  # two threads may decode the same one: that costs time only, and once
            block = np.asarray(data.blocks[place].compute(scheduler="synchronous"))
            with self._lock:
                self._blocks[key] = block
        return block
