"""MRC, MAP, REC, ST, ALI: the MRC2014 format [1]_ and its older dialects, read block by block.

.. [1] Cheng et al., "MRC2014: Extensions to the MRC format header", J. Struct. Biol. 192,
   146 (2015).
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomodask.data.compressed import plain_file
from tomodask.data.stored_voxels import StoredVoxels, mapped
from tomodask.errors import InputError

__all__ = ["HEADER_BYTES", "MODES", "MrcReader", "header_dtype", "open_mrc"]

HEADER_BYTES = 1024
MODES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
_OTHER_MODES = {3: "complex 16-bit integers", 4: "complex 32-bit floats", 101: "4-bit integers"}
_IMOD_STAMP = 1146047817
_LABEL = re.compile(r"^tomodask (name|tilt_range) (.*)$")

_FIELDS: list[tuple[Any, ...]] = [
    ("shape_xyz", "i4", 3), ("mode", "i4"), ("start_xyz", "i4", 3), ("sampling_xyz", "i4", 3),
    ("cell_xyz", "f4", 3), ("angles", "f4", 3), ("map_crs", "i4", 3), ("minimum", "f4"),
    ("maximum", "f4"), ("mean", "f4"), ("space_group", "i4"), ("extended", "i4"),
    ("extra_1", "V8"), ("extended_type", "S4"), ("version", "i4"), ("extra_2", "V40"),
    ("imod_stamp", "i4"), ("imod_flags", "i4"), ("extra_3", "V36"), ("origin_xyz", "f4", 3),
    ("map", "S4"), ("machine", "u1", 4), ("rms", "f4"), ("label_count", "i4"),
    ("labels", "S80", 10),
]  # fmt: skip


def header_dtype(byte_order: str) -> np.dtype:
    """The 1024 bytes of the header as one record; `byte_order` is ``"<"`` or ``">"``."""
    dtype = np.dtype(
        [
            (field[0], field[1] if field[1][0] in "VS" else byte_order + field[1], *field[2:])
            for field in _FIELDS
        ]
    )
    assert dtype.itemsize == HEADER_BYTES
    return dtype


@dataclass(frozen=True)
class MrcReader(StoredVoxels):
    """Voxels of an MRC file as (z, y, x); picklable, opens the file for each block.

    `stored_shape` is (sections, rows, columns) and ``order[i]`` the stored axis that is axis i of
    (z, y, x).  `stamp` (size and time of the file) tells two states of one file apart.
    """

    path: str
    stored_shape: tuple[int, int, int]
    order: tuple[int, int, int]
    stored_dtype: str
    offset: int
    stamp: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along (z, y, x)."""
        return tuple(self.stored_shape[axis] for axis in self.order)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Read one block."""
        stored = mapped(self.path, self.stamp, self.stored_dtype, self.offset, self.stored_shape)
        # A copy: the map of the file is let go with the task, not kept with the block.
        return np.array(stored.transpose(self.order)[index], dtype=self.dtype, order="C")


def open_mrc(
    path: Path,
) -> tuple[MrcReader, tuple[float | None, ...], str | None, tuple[float, float] | None]:
    """Read the header: reader, voxel size along (z, y, x) in Å, name and tilt range (if kept).

    Raises
    ------
    InputError
        If the file is empty, truncated, not an MRC file, of a mode without real voxels, or its
        size is not what the header says.
    """
    plain = plain_file(path)
    size = plain.stat().st_size
    if size < HEADER_BYTES:
        state = "is empty" if size == 0 else f"ends within the header ({size} of 1024 bytes)"
        raise InputError(f"{path} {state}: not an MRC file, or cut off; copy or make it again")
    with plain.open("rb") as file:
        header = _parse(path, file.read(HEADER_BYTES))
    mode = int(header["mode"])
    if mode not in MODES:
        what = _OTHER_MODES.get(mode, "unknown")
        raise InputError(
            f"{path}: MRC mode {mode} ({what}) is not read, only modes 0, 1, 2, 6 and 12; "
            "convert it to mode 2"
        )
    dtype = np.dtype(MODES[mode])
    if mode == 0 and header["imod_stamp"] == _IMOD_STAMP and not int(header["imod_flags"]) & 1:
        dtype = np.dtype("uint8")  # IMOD before 4.2.23 wrote bytes unsigned, and says so
    columns, rows, sections = (int(count) for count in header["shape_xyz"])
    shape = (sections, rows, columns)
    offset = HEADER_BYTES + int(header["extended"])
    expected = offset + dtype.itemsize * sections * rows * columns
    if size != expected:
        state = "truncated" if size < expected else "longer than its header says"
        raise InputError(
            f"{path} is {state}: {columns}×{rows}×{sections} voxels of mode {mode} need {expected} "
            f"bytes, the file has {size}; copy or make it again"
        )
    axes_crs = tuple(int(axis) for axis in header["map_crs"])
    if axes_crs == (0, 0, 0):
        axes_crs = (1, 2, 3)  # left out by programs older than the field
    if sorted(axes_crs) != [1, 2, 3]:
        raise InputError(f"{path}: axes {axes_crs} (mapc, mapr, maps) in the header, not 1, 2, 3")
    # Stored axes are sections, rows, columns; which of them is z (3), y (2), x (1)?
    order = tuple(2 - axes_crs.index(axis) for axis in (3, 2, 1))
    cell, sampling = header["cell_xyz"][::-1], header["sampling_xyz"][::-1]
    sizes = tuple(
        float(edge) / int(count) if count else 0.0
        for edge, count in zip(cell, sampling, strict=True)
    )
    stamp = (path.stat().st_size, path.stat().st_mtime_ns)
    reader = MrcReader(
        str(path),
        shape,
        order,  # type: ignore[arg-type]
        dtype.newbyteorder(">" if header.dtype["mode"].byteorder == ">" else "<").str,
        offset,
        stamp,
    )
    name, tilt_range = _kept(header)
    return reader, sizes, name, tilt_range


def _parse(path: Path, raw: bytes) -> np.void:
    """The header in the byte order in which it makes sense (the machine stamp is often wrong)."""
    for order in "<>":
        header: np.void = np.frombuffer(raw, header_dtype(order))[0]
        known = int(header["mode"]) in MODES or int(header["mode"]) in _OTHER_MODES
        axes_fit = all(0 <= int(axis) <= 3 for axis in header["map_crs"])
        if known and axes_fit and (header["shape_xyz"] > 0).all() and header["extended"] >= 0:
            return header
    little = np.frombuffer(raw, header_dtype("<"))[0]
    raise InputError(
        f"{path} is not an MRC file: neither byte order gives a valid header "
        f"(nx, ny, nz = {little['shape_xyz'].tolist()}, mode {int(little['mode'])})"
    )


def _kept(header: np.void) -> tuple[str | None, tuple[float, float] | None]:
    """Name and tilt range that `save_tomogram` left in the labels."""
    name, tilt_range = None, None
    for label in header["labels"]:
        found = _LABEL.match(label.decode("ascii", "replace").rstrip())
        if found and found[1] == "name":
            name = found[2]
        elif found:
            with contextlib.suppress(ValueError):
                low, high = map(float, found[2].split())
                tilt_range = (low, high)
    return name, tilt_range
