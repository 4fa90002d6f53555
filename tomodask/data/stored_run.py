"""Many boxes of a store as one small value: what tasks of a graph take with them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomodask.data.subtomogram_store import StoredBox
from tomodask.data.volumes import VolumeReader

__all__ = ["StoredRun", "as_run"]


@dataclass(frozen=True)
class StoredRun:
    """Boxes of one store, to be read one by one; goes over `StoredBox`.

    A graph over a million boxes is a tenth as large as with each of them on its own.

    Attributes
    ----------
    path, shape, written
        As of each `StoredBox`.
    packed : bytes
        Numbers of the boxes and times of their files: differences of int64, deflated.
    """

    path: str
    shape: tuple[int, ...]
    written: str
    packed: bytes

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """Not by the packed bytes: another zlib packs otherwise, and a job could not go on."""
        told = hashlib.sha256(zlib.decompress(self.packed)).hexdigest()
        return (type(self).__name__, self.path, self.shape, self.written, told)

    def __iter__(self) -> Iterator[StoredBox]:
        """The boxes, in order."""
        steps = np.frombuffer(zlib.decompress(self.packed), "<i8").reshape(2, -1)
        for number, time in np.cumsum(steps, axis=1).T.tolist():
            yield StoredBox(self.path, number, self.shape, self.written, time)


def as_run(readers: Sequence[VolumeReader]) -> Any:
    """Readers as a `StoredRun` where all are boxes of one state of one store; else as a list."""
    boxes = [one for one in readers if isinstance(one, StoredBox)]
    if len(boxes) < len(readers) or len({(b.path, b.shape, b.written) for b in boxes}) != 1:
        return list(readers)
    told = np.array([[one.number for one in boxes], [one.time for one in boxes]], "<i8")
    steps = np.diff(told, axis=1, prepend=np.zeros((2, 1), "<i8"))
    one = boxes[0]
    return StoredRun(one.path, one.shape, one.written, zlib.compress(steps.tobytes(), 1))
