"""OME-Zarr 0.4 (Zarr 2) and 0.5 (Zarr 3), read chunk by chunk; damage is told, not filled in [1]_.

Zarr gives the fill value for a chunk that is not there, without a word.  Writers may leave out
chunks that are all fill value, so a missing one is damage only where the store says that all were
written: ours do (``tomodask: {complete: true}`` in the attributes of the group).

.. [1] Moore et al., "OME-Zarr: a cloud-optimized bioimaging file format", Histochem. Cell Biol.
   160, 223 (2023).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from tomodask.data.stored_voxels import StoredVoxels
from tomodask.data.units import angstroms
from tomodask.data.volumes import MOST_VOXELS
from tomodask.errors import InputError

__all__ = [
    "OmeLevel",
    "ZarrReader",
    "is_zarr",
    "level_paths",
    "open_ome_zarr",
    "warn_of_absent_chunks",
]

_log = logging.getLogger(__name__)

_MARKS = ("zarr.json", ".zgroup", ".zarray")


@dataclass(frozen=True)
class ZarrReader(StoredVoxels):
    """A level of an OME-Zarr store as (z, y, x); picklable, opens the array for each block.

    `leading` is the number of axes of length 1 (time, channel) before z.
    """

    store: str
    level: str
    shape: tuple[int, ...]
    stored_dtype: str
    leading: int
    complete: bool
    stamp: int

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Read one block."""
        array = _array(self.store, self.level, self.stamp)
        if self.complete:
            self._require_chunks(array, index)
        try:
            block = array[(0,) * self.leading + tuple(index)]
        except Exception as error:  # the codecs raise whatever they like: crc32c, blosc, sizes
            place = ", ".join(f"{part.start}:{part.stop}" for part in index)
            raise InputError(
                f"{self.store}, level {self.level or '.'}: the shard {self._damaged(array, index)} "
                f"(voxels {place}) is damaged ({type(error).__name__}: {_short(error)}); "
                "make the store again, e.g. with tomodask convert"
            ) from None
        return np.asarray(block, dtype=self.dtype)

    def _places(self, array: Any, index: tuple[slice, ...]) -> list[tuple[int, ...]]:
        """The stored objects (shards, else chunks) that hold the block."""
        edges = (array.shards or array.chunks)[self.leading :]
        ranges = []
        for part, edge, size in zip(index, edges, self.shape, strict=True):
            start, stop, _ = part.indices(size)
            ranges.append(range(start // edge, max(start, stop - 1) // edge + 1))
        return list(product(*ranges))

    def _require_chunks(self, array: Any, index: tuple[slice, ...]) -> None:
        root = Path(self.store, self.level)
        for place in self._places(array, index):
            key = array.metadata.encode_chunk_key((0,) * self.leading + place)
            lacks = _lacks(root / key, array, place, self.leading)
            if lacks:
                raise InputError(
                    f"{self.store}, level {self.level or '.'}: {lacks.format(key=key)}; "
                    "make the store again, e.g. with tomodask convert"
                )

    def _damaged(self, array: Any, index: tuple[slice, ...]) -> str:
        """The first stored object of the block that cannot be read on its own."""
        edges = (array.shards or array.chunks)[self.leading :]
        for place in self._places(array, index):
            part = tuple(
                slice(i * edge, (i + 1) * edge) for i, edge in zip(place, edges, strict=True)
            )
            try:
                array[(0,) * self.leading + part]
            except Exception:
                return str(array.metadata.encode_chunk_key((0,) * self.leading + place))
        return "of these"


def _lacks(path: Path, array: Any, place: tuple[int, ...], leading: int) -> str | None:
    """What is not there of a stored object: all of it, or a chunk that its index does not know.

    Zarr takes a shard of no bytes, or a chunk that is not in the index, for fill values.
    """
    if not path.is_file():
        return "the chunk {key} is missing"
    if not array.shards:
        return None if path.stat().st_size else "the chunk {key} is damaged (empty)"
    counts = [s // c for s, c in zip(array.shards[leading:], array.chunks[leading:], strict=True)]
    index_bytes = 16 * int(np.prod(counts))
    with path.open("rb") as file:
        if file.seek(0, 2) < index_bytes + 4:
            return "the shard {key} is damaged (cut off)"
        file.seek(-index_bytes - 4, 2)  # offset and length of each chunk, then a checksum
        offsets = np.frombuffer(file.read(index_bytes), "<u8")[::2].reshape(counts)
    inside = tuple(
        slice(0, max(0, -(-(size - i * shard) // chunk)))
        for size, i, shard, chunk in zip(
            array.shape[leading:],
            place,
            array.shards[leading:],
            array.chunks[leading:],
            strict=True,
        )
    )
    if (offsets[inside] == np.iinfo(np.uint64).max).any():
        return "a chunk of the shard {key} is missing"
    return None


@dataclass(frozen=True)
class OmeLevel:
    """One level of a multiscale store, as its attributes tell."""

    reader: ZarrReader
    voxel_sizes: tuple[float | None, ...]
    unit: tuple[int, ...]
    name: str | None
    tilt_range: tuple[float, float] | None
    tilt_series: Any


def is_zarr(path: Path) -> bool:
    """Whether there is a Zarr group or array under that name."""
    return any((path / mark).is_file() for mark in _MARKS)


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:160] if str(error) else "no details"


@lru_cache(maxsize=64)
def _array(store: str, level: str, stamp: int) -> Any:
    """The open array; kept per process, since opening costs milliseconds.  Holds no file."""
    try:
        return zarr.open_array(zarr.storage.LocalStore(store, read_only=True), path=level, mode="r")
    except Exception as error:
        raise InputError(
            f"{store}: the array {level or '.'} cannot be opened ({type(error).__name__}: "
            f"{_short(error)}); was the store moved or written to?"
        ) from None


def _stamp(path: Path) -> int:
    return max((path / mark).stat().st_mtime_ns for mark in _MARKS if (path / mark).is_file())


def level_paths(group: Any) -> list[str]:
    """Paths of the levels of a multiscale group, finest first; empty where it is none."""
    multiscale = _multiscale(dict(group.attrs))
    return [] if multiscale is None else [str(d["path"]) for d in multiscale["datasets"]]


def _multiscale(attributes: dict[str, Any]) -> dict[str, Any] | None:
    found = attributes.get("ome", attributes).get("multiscales")
    return dict(found[0]) if found else None


def open_ome_zarr(path: Path) -> OmeLevel:
    """Read the attributes of a store (its finest level), or of one level (``store.zarr/1``)."""
    root, level = path, ""
    if not is_zarr(path):
        raise InputError(f"{path}: no Zarr store there (no zarr.json, .zgroup or .zarray)")
    try:
        node = zarr.open(zarr.storage.LocalStore(str(path), read_only=True), mode="r")
    except Exception as error:
        raise InputError(f"{path}: the Zarr store cannot be opened ({_short(error)})") from None
    attributes = dict(node.attrs)
    if isinstance(node, zarr.Array):
        attributes = {}
        for parent in list(path.parents)[:3]:
            if is_zarr(parent):
                inner = path.relative_to(parent).as_posix()
                group = zarr.open(zarr.storage.LocalStore(str(parent), read_only=True), mode="r")
                if inner in level_paths(group):
                    root, level, attributes = parent, inner, dict(group.attrs)
                    break
    multiscale = _multiscale(attributes)
    if multiscale is not None and not level:
        level = str(multiscale["datasets"][0]["path"])
    elif multiscale is None and not isinstance(node, zarr.Array):
        kind = attributes.get("tomodask")
        hint = " (it holds subtomograms)" if kind == "subtomograms" else ""
        raise InputError(
            f"{path}: the Zarr group is no OME-Zarr image: no multiscales in its attributes{hint}"
        )
    home = root / level
    if not is_zarr(home):
        raise InputError(f"{root}: the level {level} is missing; make the store again")
    stamp = _stamp(home)
    array = _array(str(root), level, stamp)
    leading = _leading_axes(root, array, multiscale)
    ours = attributes.get("tomodask")
    ours = ours if isinstance(ours, dict) else {}
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "iufb":
        raise InputError(f"{path}: voxels of type {dtype} are not real numbers")
    reader = ZarrReader(
        str(root), level, tuple(array.shape[leading:]), dtype.str, leading,
        bool(ours.get("complete")), stamp,
    )  # fmt: skip
    tilt_range = ours.get("tilt_range")
    return OmeLevel(
        reader,
        _voxel_sizes(multiscale, level) if multiscale else (None,) * 3,
        _unit(array, leading),
        ours.get("name"),
        (float(tilt_range[0]), float(tilt_range[1])) if tilt_range else None,
        ours.get("tilt_series"),
    )


def _unit(array: Any, leading: int) -> tuple[int, ...]:
    """What is best read as a whole: a shard, or a chunk of it where a block cannot be so large."""
    shard = array.shards
    if shard and int(np.prod(shard)) <= MOST_VOXELS:
        return tuple(shard[leading:])
    return tuple(array.chunks[leading:])


@lru_cache(maxsize=1024)
def warn_of_absent_chunks(reader: ZarrReader) -> None:
    """Say once how many chunks of a level are not there, where that may be meant or may be a loss.

    Stores that say that all were written are checked while they are read.
    """
    if reader.complete:
        return
    array = _array(reader.store, reader.level, reader.stamp)
    home = Path(reader.store, reader.level)
    edges = array.shards or array.chunks
    counts = [-(-size // edge) for size, edge in zip(array.shape, edges, strict=True)]
    stored = {
        Path(folder, name).relative_to(home).as_posix()
        for folder, _, names in os.walk(home)
        for name in names
    }
    expected = int(np.prod(counts))
    there = sum(
        array.metadata.encode_chunk_key(place) in stored
        for place in product(*(range(count) for count in counts))
    )
    if there < expected:
        _log.warning(
            "%s, level %s: %d of %d chunks are absent and are read as %s: the writer left out "
            "empty ones, or they were lost",
            reader.store,
            reader.level or ".",
            expected - there,
            expected,
            array.fill_value,
        )


def _leading_axes(root: Path, array: Any, multiscale: dict[str, Any] | None) -> int:
    """Number of axes before z; all must be of length 1, and the last three z, y, x."""
    names = [
        axis if isinstance(axis, str) else str(axis.get("name"))
        for axis in (multiscale or {}).get("axes") or "tczyx"[-array.ndim :]
    ]
    shape = tuple(array.shape)
    if len(names) != len(shape) or [name.lower() for name in names[-3:]] != ["z", "y", "x"]:
        raise InputError(f"{root}: the axes are {names} of shape {shape}, not (…, z, y, x)")
    if any(size != 1 for size in shape[:-3]):
        raise InputError(
            f"{root}: the axes {names} have the shape {shape}; a tomogram has one channel and one "
            "time point, so write the wanted one into a store of its own"
        )
    return len(shape) - 3


def _voxel_sizes(multiscale: dict[str, Any], level: str) -> tuple[float | None, ...]:
    """Scale of a level along (z, y, x), in Å: the level's transform times the image's."""
    dataset = next(d for d in multiscale["datasets"] if str(d["path"]) == level)
    transforms = [
        *dataset.get("coordinateTransformations", []),
        *(multiscale.get("coordinateTransformations") or []),
    ]
    scales = [transform["scale"] for transform in transforms if transform.get("type") == "scale"]
    if not scales:
        return (None,) * 3
    scale = np.prod(np.array([one[-3:] for one in scales], dtype=float), axis=0)
    axes = (multiscale.get("axes") or [])[-3:]
    units = [None if isinstance(axis, str) else angstroms(axis.get("unit")) for axis in axes]
    return tuple(
        None if unit is None else float(one) * unit
        for one, unit in zip(scale, units or [None] * 3, strict=True)
    )
