"""EM files, as TOM, AV3, PyTom and Dynamo write them: a 512-byte header, then x fastest [1]_.

.. [1] Nickell et al., "TOM software toolbox", J. Struct. Biol. 149, 227 (2005).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tomodask.data.compressed import plain_file
from tomodask.data.stored_voxels import StoredVoxels, mapped
from tomodask.errors import InputError

__all__ = ["EmReader", "open_em"]

_HEADER_BYTES = 512
_TYPES = {1: "i1", 2: "i2", 4: "i4", 5: "f4", 9: "f8"}
_BIG_ENDIAN = (0, 3, 5)  # OS-9, SGI, Mac; 1 VAX, 2 Convex and 6 PC are read as little endian


@dataclass(frozen=True)
class EmReader(StoredVoxels):
    """Voxels of an EM file as (z, y, x); picklable, opens the file for each block."""

    path: str
    shape: tuple[int, ...]
    stored_dtype: str
    stamp: tuple[int, int]

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Read one block."""
        stored = mapped(self.path, self.stamp, self.stored_dtype, _HEADER_BYTES, self.shape)
        return np.array(stored[index], dtype=self.dtype, order="C")


def open_em(path: Path) -> tuple[EmReader, tuple[float | None, ...]]:
    """Read the header: reader and voxel size along (z, y, x) in Å.

    The voxel size is the header's seventh number (1000 = 1 nm); 0 there means that none is known.
    """
    plain = plain_file(path)
    size = plain.stat().st_size
    if size < _HEADER_BYTES:
        state = "is empty" if size == 0 else f"ends within the header ({size} of 512 bytes)"
        raise InputError(f"{path} {state}: not an EM file, or cut off; copy or make it again")
    with plain.open("rb") as file:
        raw = file.read(_HEADER_BYTES)
    order = ">" if raw[0] in _BIG_ENDIAN else "<"
    if raw[3] not in _TYPES:
        raise InputError(
            f"{path}: EM data type {raw[3]} is not read, only {sorted(_TYPES)} (real numbers)"
        )
    columns, rows, sections = (int(count) for count in np.frombuffer(raw, order + "i4", 3, 4))
    dtype = np.dtype(order + _TYPES[raw[3]])
    expected = _HEADER_BYTES + columns * rows * sections * dtype.itemsize
    if min(columns, rows, sections) < 1 or size != expected:
        raise InputError(
            f"{path}: the header says {columns}×{rows}×{sections} voxels of {dtype.itemsize} "
            f"bytes, that is {expected} bytes, the file has {size}; copy or make it again"
        )
    state_now = path.stat()
    reader = EmReader(
        str(path), (sections, rows, columns), dtype.str, (state_now.st_size, state_now.st_mtime_ns)
    )
    pixel = int(np.frombuffer(raw, order + "i4", 1, 96 + 4 * 6)[0])
    known = pixel / 100 if pixel > 0 else None
    return reader, (known,) * 3
