"""A volume in a file: what every reader knows of it, and how a Dask array is laid over it.

A reader is a small frozen dataclass: it pickles, holds no open file and no voxels, and reads the
block it is asked for.  So a task opens its file itself, on whichever worker it runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from tomodask.arrays.tilt_weights import check_record, record_range
from tomodask.errors import InputError

__all__ = [
    "MOST_VOXELS",
    "UnknownVoxelSizeError",
    "VolumeReader",
    "as_tomogram",
    "cubic_voxel_size",
    "file_stem",
    "lay_chunks",
    "require_unchanged",
]

TOLERANCE = 1e-3  # relative: what rounding in headers does to the sides of a cubic voxel
MOST_VOXELS = 2**23  # of a block, unless what the file stores in one piece has more
_SUFFIXES = (".gz", ".bz2", ".ome")


class UnknownVoxelSizeError(InputError):
    """A file whose voxels are there, but not their size, or not one size."""


class VolumeReader(Protocol):
    """A volume in a file, with the axes (z, y, x)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along (z, y, x)."""

    @property
    def dtype(self) -> np.dtype:
        """Type of the voxels, in the byte order of this machine."""

    @property
    def ndim(self) -> int:
        """Always 3."""

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Read one block."""


def file_stem(path: Path) -> str:
    """Name of a tomogram: the file's name without its suffixes that tell the format.

    Examples
    --------
    >>> file_stem(Path("TS_01.mrc.gz")), file_stem(Path("a.ome.zarr")), file_stem(Path("a.b.rec"))
    ('TS_01', 'a', 'a.b')
    """
    while path.suffix.lower() in _SUFFIXES:
        path = path.with_suffix("")
    path = path.with_suffix("")
    return path.with_suffix("").name if path.suffix.lower() == ".ome" else path.name


def cubic_voxel_size(
    path: Path, sizes: tuple[float | None, ...], shape: tuple[int, ...], override: float | None
) -> float:
    """The edge of the cubic voxel, in Å, or an `InputError` that says why there is none.

    Parameters
    ----------
    path : Path
        For the message.
    sizes : tuple
        What the file says of (z, y, x), in Å; None where it says nothing.
    shape : tuple
        Voxels along (z, y, x); the size along an axis of one voxel means nothing and is ignored.
    override : float, optional
        What the caller says; the file is then not asked.
    """
    if override is not None:
        if not (np.isfinite(override) and override > 0):
            raise InputError(f"voxel_size must be above 0 Å, got {override}")
        return float(override)
    way_out = "pass the right one in Å (voxel_size=…, --voxel-size on the command line)"
    known = [size for size, count in zip(sizes, shape, strict=True) if count > 1] or list(sizes)
    said = [size for size in known if size is not None]
    if len(said) < len(known) or not said:
        raise UnknownVoxelSizeError(f"{path}: the file does not say its voxel size; {way_out}")
    if any(not np.isfinite(size) or size <= 0 for size in said):
        listed = ", ".join(f"{size:g}" for size in said)
        raise UnknownVoxelSizeError(f"{path}: voxel size is {listed} Å in the header; {way_out}")
    if max(said) > min(said) * (1 + TOLERANCE):
        named = ", ".join(
            f"{axis} {size:.6g}"
            for axis, size in zip("zyx", sizes, strict=True)
            if size is not None
        )
        raise InputError(f"{path}: voxels are not cubic ({named} Å); resample it, or {way_out}")
    # Headers hold float32: six digits are what they mean (5.144, not 5.14399986).
    return float(f"{float(np.mean(said)):.6g}")


def lay_chunks(
    reader: Any, *, chunks: Any = None, unit: tuple[int, ...] = (1, 1, 1), target: int = 128
) -> da.Array:
    """A lazy array over a reader.

    Parameters
    ----------
    reader : VolumeReader
    chunks
        As Dask takes them; by default blocks of about `target` voxels an edge, multiples of `unit`,
        of 8 million voxels at most.
    unit : tuple of int
        What the file stores in one piece, so that no piece is read twice.
    """
    if chunks is None:
        chunks = _about(reader.shape, unit, target)
    try:
        # Spelt out, so that the name is that of the blocks, however they were asked for.
        chunks = da.core.normalize_chunks(chunks, reader.shape, dtype=reader.dtype)
        return da.from_array(
            reader,
            chunks=chunks,
            name=f"open-{tokenize(reader, chunks)}",
            lock=False,
            asarray=False,
            fancy=False,
            meta=np.empty((0, 0, 0), reader.dtype),
            inline_array=True,  # the reader is a few hundred bytes, less than a task costs
        )
    except ValueError as error:
        raise InputError(f"chunks={chunks} do not fit the shape {reader.shape}: {error}") from None


def _about(shape: tuple[int, ...], unit: tuple[int, ...], target: int) -> tuple[int, ...]:
    """Whole units, `target` voxels an edge or so; fewer where they are slabs or rods."""
    counts = [max(1, target // edge) for edge in unit]
    while True:
        chunks = tuple(
            min(size, edge * count) for size, edge, count in zip(shape, unit, counts, strict=True)
        )
        if math.prod(chunks) <= MOST_VOXELS or max(counts) == 1:
            return chunks
        most = counts.index(max(counts))
        counts[most] = -(-counts[most] // 2)


def require_unchanged(path: Path, stamp: tuple[int, int]) -> None:
    """Refuse a file that is not of the size and time (ns) that it had when it was opened."""
    state = path.stat()
    if (state.st_size, state.st_mtime_ns) != stamp:
        raise InputError(f"{path}: was written to since it was opened; open it again")


def as_tomogram(
    array: da.Array,
    *,
    path: Path,
    voxel_size: float,
    name: str | None = None,
    tilt_range: tuple[float, float] | None = None,
    tilt_series: Mapping[str, Any] | None = None,
) -> xr.DataArray:
    """A tomogram as the rest of tomodask takes it (see docs/design.md).

    A record of the tilt series that is damaged is an `InputError`; it says the tilt range too.
    """
    attrs: dict[str, Any] = {"voxel_size": voxel_size, "source": str(path)}
    if tilt_range is not None:
        attrs["tilt_range"] = (float(tilt_range[0]), float(tilt_range[1]))
    if tilt_series is not None:
        attrs["tilt_series"] = check_record(tilt_series, str(path))
        attrs.setdefault("tilt_range", record_range(attrs["tilt_series"]))
    return xr.DataArray(
        array,
        dims=("z", "y", "x"),
        coords={
            axis: np.arange(size) * voxel_size
            for axis, size in zip("zyx", array.shape, strict=True)
        },
        name=name or file_stem(path),
        attrs=attrs,
    )
