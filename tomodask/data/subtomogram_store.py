"""The Zarr store of subtomograms: one chunk a particle, its table as small arrays beside it.

::

    subtomograms.zarr/
      zarr.json                    attributes: tomodask = "subtomograms", version, voxel_size, …
      subtomogram/c.<i>.0.0.0      float32, (particle, z, y, x), one box a file, not compressed
      particle/, position_z/, …    one array a column; text as codes of the attribute `categories`

Noise does not compress (lz4 saves 5 %), and a box whose bytes are the file's is written at the
disk's speed.  xarray's `open_zarr` reads the store too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from dask.base import tokenize
from dask.delayed import delayed

from tomodask.cluster import compute
from tomodask.data.sources import file_state
from tomodask.data.subtomogram_table import TABLE_NAMES, particle_table, tilt_series_of
from tomodask.data.writing import no_space, put_in_place
from tomodask.errors import InputError

__all__ = [
    "StoredBox",
    "is_store",
    "open_store",
    "read_box",
    "read_column",
    "save_subtomograms",
    "write_column",
]

VERSION = 1
_NAME = "subtomogram"
_BLOCK_BYTES = 64 << 20


def save_subtomograms(
    subtomograms: xr.Dataset, path: str | Path, *, overwrite: bool = False
) -> None:
    """Write subtomograms to a Zarr store.  Computes.

    Until it is whole, the store bears the name ``<path>.part``.  Where that is there already, from
    a call that was killed, the boxes it holds are kept if it is of the same subtomograms.

    Parameters
    ----------
    subtomograms : Dataset, dims (particle, z, y, x)
    path : str or Path
        The store, a folder, by custom ``….zarr``.
    overwrite : bool
        Whether a store of that name may be replaced; it stays until the new one is whole.

    Raises
    ------
    InputError
        If `path` exists and may not be replaced, or is no store of subtomograms, the record of a
        tilt series is damaged, or the disk is full.
    """
    path = Path(path).absolute()  # for workers, which may be in other folders
    if path.exists() and not is_store(path):
        raise InputError(f"{path} exists and is no store of subtomograms: choose another name")
    token = _token(subtomograms)
    if path.exists() and _unfinished(path) == token:  # killed after all but the last touch
        _finish(path)
        return
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; choose another name or allow overwriting it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    part = path.with_name(path.name + ".part")
    tilt_series_of(subtomograms.attrs, str(path))  # damaged, it is refused before the work
    boxes = subtomograms[_NAME]
    try:
        _begin(subtomograms, part, token)
        pending = _pending(boxes, part, path)
        if pending:
            compute(
                delayed(_count)(pending, dask_key_name=f"extract-done-{token}"), label="extract"
            )
        _publish(part, path)
    except OSError as error:
        if (full := _full(error, path, 4 * boxes.size)) is not None:
            raise full from None
        raise


def _token(subtomograms: xr.Dataset) -> str:
    """Tells subtomograms from others, and from those of another state of their tomogram."""
    data = subtomograms[_NAME].data
    if not isinstance(data, da.Array):
        data = da.from_array(data, chunks=(1, -1, -1, -1))
    table = particle_table(subtomograms)
    state = _source_state(subtomograms), _plain(subtomograms.attrs.get("tilt_series"))
    return str(tokenize(data.name, state, table.to_csv(), subtomograms.sizes))


def _unfinished(path: Path) -> str | None:
    """The token of a store that was begun and not finished."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        return str(zarr.open_group(path, mode="r").attrs["unfinished"])
    return None


def _begin(subtomograms: xr.Dataset, part: Path, token: str) -> None:
    """Make the unfinished store, or go on with that of the same subtomograms."""
    boxes = subtomograms[_NAME]
    if _unfinished(part) == token:
        return
    if part.exists():
        shutil.rmtree(part)
    group = zarr.open_group(part, mode="w", zarr_format=3)
    zarr.create_array(
        part,
        name=_NAME,
        shape=boxes.shape,
        chunks=(1, *boxes.shape[1:]),
        dtype="float32",
        compressors=None,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=boxes.dims,
        attributes={"coordinates": " ".join(str(name) for name in subtomograms.coords)},
    )
    for name, values in subtomograms.coords.items():
        if values.dims == ("particle",):
            write_column(part, str(name), values.to_numpy())
    # Last: a store without this attribute was not even begun.
    group.attrs.update(
        {
            "tomodask": "subtomograms",
            "version": VERSION,
            **{str(k): _plain(v) for k, v in subtomograms.attrs.items()},
            "written": uuid.uuid4().hex,
            "unfinished": token,
        }
    )


def _source_state(subtomograms: xr.Dataset) -> str:
    """State of the tomogram's file: a name alone does not tell two of them apart."""
    with contextlib.suppress(OSError, KeyError):
        return file_state(Path(subtomograms.attrs["source"]))
    return ""


def _plain(value: Any) -> Any:
    """As JSON takes it."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


def write_column(
    store: Path, name: str, values: np.ndarray, *, dimension: str = "particle"
) -> None:
    """Write a column of a table as a small array of a Zarr store; text as codes."""
    attributes = {}
    if values.dtype.kind in "OU":  # Zarr has no settled type for text
        values = values.astype(object)
        codes, categories = pd.factorize(values)
        values, attributes["categories"] = codes.astype(np.int32), [str(c) for c in categories]
    zarr.create_array(
        store,
        name=name,
        data=np.ascontiguousarray(values),
        chunks=values.shape,
        dimension_names=(dimension,),
        attributes=attributes,
    )


def _pending(boxes: xr.DataArray, part: Path, path: Path) -> list:
    """Tasks that write the blocks whose boxes are not all there."""
    data = boxes.data
    most = max(1, _BLOCK_BYTES // (4 * int(np.prod(boxes.shape[1:]))))
    if not isinstance(data, da.Array):
        data = da.from_array(data, chunks=(most, -1, -1, -1))
    data = data.rechunk({1: -1, 2: -1, 3: -1}).astype(np.float32)
    folder = part / _NAME
    done = _finished(folder, 4 * int(np.prod(boxes.shape[1:])))
    write = delayed(_write_boxes, pure=False)
    starts = np.concatenate([[0], np.cumsum(data.chunks[0])]).tolist()
    token = tokenize(data.name)
    return [
        write(block, str(folder), start, str(path), dask_key_name=f"extract-write-{token}-{start}")
        for block, start, stop in zip(
            data.to_delayed().ravel(), starts[:-1], starts[1:], strict=True
        )
        if not done.keys() >= set(range(start, stop))
    ]


def _count(written: list[int]) -> int:
    return sum(written)


def _finished(folder: Path, size: int) -> dict[int, int]:
    """Boxes whose file is there with all its bytes: number → time of the file, ns."""
    done = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            parts = entry.name.split(".")
            if (
                parts[0] == "c"
                and parts[2:] == ["0", "0", "0"]
                and parts[1].isdecimal()
                and (state := entry.stat()).st_size == size
            ):
                done[int(parts[1])] = state.st_mtime_ns
    return done


def _write_boxes(boxes: np.ndarray, folder: str, start: int, path: str) -> int:
    """Write boxes as chunks of a Zarr array that is not compressed: their bytes are the file.

    Ten times less of the processor than through Zarr, which matters at thousands a second.
    """
    try:
        for number, box in enumerate(np.ascontiguousarray(boxes, "<f4"), start):
            name = f"c.{number}.0.0.0"
            temporary = Path(folder, f"{name}.{uuid.uuid4().hex[:8]}.partial")
            try:
                temporary.write_bytes(box.data.cast("B"))
                temporary.replace(Path(folder, name))
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        if (full := _full(error, Path(path), None)) is not None:
            raise full from None
        raise
    return len(boxes)


def _full(error: OSError, path: Path, needed: int | None) -> InputError | None:
    if no_space(error, path) is None:
        return None
    room = f" ({needed / 1e6:.0f} MB needed in all)" if needed else ""
    return InputError(
        f"{path}: the disk is full{room}; free some space and call again: it goes on "
        "with the boxes that are there"
    )


def _publish(part: Path, path: Path) -> None:
    """Give the whole store its name."""
    for leftover in (part / _NAME).glob("*.partial"):  # of a writer that was killed
        leftover.unlink()
    put_in_place(part, path)
    _finish(path)


def _finish(path: Path) -> None:
    """Take the mark off: last, so that a kill before it leaves a store to go on with."""
    group = zarr.open_group(path, mode="r+")
    group.attrs.put({k: v for k, v in group.attrs.asdict().items() if k != "unfinished"})


def is_store(path: Path) -> bool:
    """Whether a folder is a store of subtomograms."""
    if not (path / "zarr.json").is_file():
        return False
    try:
        return bool(zarr.open_group(path, mode="r").attrs.get("tomodask") == "subtomograms")
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return False


def read_box(path: str, number: int, shape: tuple[int, ...], time: int) -> np.ndarray:
    """One box of a store; float32.

    Raises
    ------
    InputError
        If its file is missing or cut off, or not of the time (ns) that it had.
    """
    file = f"{path}/{_NAME}/c.{number}.0.0.0"
    box = np.empty(shape, "<f4")
    try:
        with open(file, "rb") as opened:
            state = os.fstat(opened.fileno())
            if state.st_size != box.nbytes:
                raise ValueError(f"{state.st_size} bytes, not {box.nbytes}")
            if opened.readinto(box.data.cast("B")) != box.nbytes:
                raise ValueError("its end could not be read")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: the box is missing or cut off ({error}); extract again"
        ) from None
    if state.st_mtime_ns != time:
        raise InputError(f"{path}: the store was written anew while it was in use; start again")
    return box


@dataclass(frozen=True)
class StoredBox:
    """A box of a store, read as a volume is.

    `written` (random, of the store) and `time` (of the box's file) tell two states of it apart.
    """

    path: str
    number: int
    shape: tuple[int, ...]
    written: str
    time: int

    def __dask_tokenize__(self) -> str:
        """As Dask would tell boxes apart, in a tenth of its time: there may be a million."""
        return repr(self)

    @property
    def dtype(self) -> np.dtype:
        """Boxes are float32."""
        return np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        """Always 3."""
        return 3

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Read a part of the box."""
        return read_box(self.path, self.number, self.shape, self.time)[index]


def open_store(path: Path) -> tuple[list[StoredBox], pd.DataFrame, dict[str, Any]]:
    """Boxes, table and attributes of a store; checks that every box is there.

    Raises
    ------
    InputError
        If it is not a whole store of subtomograms: no such folder, another version, boxes missing
        or cut off, the record of a tilt series damaged.
    """
    if not is_store(path):
        part = path.with_name(path.name + ".part")
        if part.exists():
            raise InputError(f"{path}: the extraction into it was not finished; extract again")
        state = "is not a store of subtomograms" if path.exists() else "does not exist"
        raise InputError(f"{path} {state}; make one by extract (save_subtomograms)")
    group = zarr.open_group(path, mode="r")
    attrs = dict(group.attrs)
    version = attrs.pop("version", None)
    attrs.pop("tomodask")
    attrs.pop("unfinished", None)  # under its final name it is whole
    written = str(attrs.pop("written", ""))
    if version != VERSION:
        raise InputError(
            f"{path}: version {version} of the store is not known to this tomodask "
            f"(it reads version {VERSION}); extract again, or update tomodask"
        )
    try:
        array = group[_NAME]
        columns = {name: read_column(group[name]) for name in _columns(group)}
    except (KeyError, ValueError, OSError, RuntimeError) as error:  # codecs raise the last
        raise InputError(f"{path}: the store is damaged ({error}); extract again") from None
    encoding = array.metadata.chunk_key_encoding
    if (
        array.compressors
        or array.dtype != np.float32
        or array.chunks != (1, *array.shape[1:])
        or getattr(encoding, "separator", None) != "."
    ):
        raise InputError(f"{path}: the boxes are not stored as tomodask does; extract again")
    done = _finished(path / _NAME, 4 * int(np.prod(array.shape[1:])))
    if missing := sorted(set(range(array.shape[0])) - done.keys()):
        raise InputError(
            f"{path}: {len(missing)} of {array.shape[0]} boxes are missing or cut off, the first "
            f"is {_NAME}/c.{missing[0]}.0.0.0; extract again"
        )
    if series := tilt_series_of(attrs, str(path)):
        attrs["tilt_series"] = series
    table = pd.DataFrame(columns, index=pd.Index(columns.pop("particle"), name="particle"))
    shape = tuple(array.shape[1:])
    where = str(path.absolute())
    boxes = [StoredBox(where, i, shape, written, done[i]) for i in range(array.shape[0])]
    return boxes, table.rename(columns=TABLE_NAMES), attrs


def _columns(group: Any) -> list[str]:
    """Names of the columns, in the order in which they were written."""
    there = set(group.array_keys()) - {_NAME}
    order = [n for n in group[_NAME].attrs.get("coordinates", "").split(" ") if n in there]
    return order + sorted(there - set(order))


def read_column(array: Any) -> np.ndarray:
    """A column that `write_column` wrote."""
    values = np.asarray(array[:])
    if "categories" in array.attrs:
        categories = np.array([*array.attrs["categories"], None], dtype=object)
        return np.asarray(categories[values])
    return values
