"""Subtomograms: cut from a tomogram, kept in a Zarr store, or opened from the files of others."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask._task_spec import Task
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from tomodask.data.columns import TILT_RANGE
from tomodask.data.em import open_em
from tomodask.data.extraction import extract_subtomograms
from tomodask.data.mrc import open_mrc
from tomodask.data.particles import read_particles
from tomodask.data.stored_run import as_run
from tomodask.data.subtomogram_store import StoredBox, is_store, open_store, save_subtomograms
from tomodask.data.subtomogram_table import batch_size, particle_table, subtomogram_dataset
from tomodask.data.tomograms import tomogram_format
from tomodask.data.volumes import TOLERANCE, VolumeReader, cubic_voxel_size
from tomodask.errors import InputError

__all__ = [
    "box_readers",
    "chosen_boxes",
    "extract_subtomograms",
    "is_box",
    "open_subtomograms",
    "particle_table",
    "read_boxes",
    "save_subtomograms",
]

_PATTERN = frozenset("*?[")

PathLike = str | os.PathLike[str]


def open_subtomograms(
    path: PathLike | Sequence[PathLike],
    *,
    voxel_size: float | None = None,
    tilt_range: tuple[float, float] | None = None,
) -> xr.Dataset:
    """Open subtomograms lazily, in blocks of many boxes.

    Parameters
    ----------
    path : path, or list of paths
        A store that `save_subtomograms` wrote; a folder or a pattern (``boxes/*.mrc``) of MRC or EM
        boxes, in the order of the file names; a list of boxes, in its own order; or a STAR file
        that lists them as ``rlnImageName``: files, or ``index@store`` with the index from 0.
        Names in a STAR are looked for from its folder, then from the working directory.
    voxel_size : float, optional
        Å; in place of what the headers say.
    tilt_range : (float, float), optional
        Least and largest tilt, in degrees; in place of what is stored, records of the tilt series
        included.

    Returns
    -------
    Dataset, dims (particle, z, y, x)
        `subtomogram` (float32, lazy) and the columns of the particle table; ``image`` names each
        box.  ``attrs["tilt_series"]``, {tomogram: record of its tilt series}, where stores know it.

    Raises
    ------
    InputError
        If nothing is found; if boxes are missing, not cubic, or differ in size or voxel size (the
        file is named); if `tilt_range` makes no sense; if the record of a tilt series is damaged,
        or stores have two of one tomogram.
    """
    if tilt_range is not None and not -90 <= tilt_range[0] < tilt_range[1] <= 90:
        raise InputError(
            "tilt_range must be two tilts in degrees, the lower first, within ±90, "
            f"got {tilt_range[0]:g} {tilt_range[1]:g}"
        )
    dataset = _open(path, voxel_size)
    if tilt_range is not None:
        low, high = (np.full(dataset.sizes["particle"], float(tilt)) for tilt in tilt_range)
        dataset = dataset.assign_coords(tilt_min=("particle", low), tilt_max=("particle", high))
        dataset.attrs.pop("tilt_series", None)
    return dataset


def _open(path: PathLike | Sequence[PathLike], voxel_size: float | None) -> xr.Dataset:
    if not isinstance(path, str | os.PathLike):
        files = [Path(file) for file in path]
        return _open_files(files, [str(file) for file in files], voxel_size, "the list of boxes")
    path = Path(path)
    if path.suffix.lower() == ".star":
        return _open_star(path, voxel_size)
    if path.is_dir() and not ((path / "zarr.json").exists() or path.suffix == ".zarr"):
        files = sorted(f for f in path.iterdir() if is_box(f))
        if not files:
            raise InputError(f"{path}: the folder holds no MRC or EM file; name that of the boxes")
        return _open_files(files, [str(file) for file in files], voxel_size, str(path))
    if not path.exists() and _PATTERN & set(str(path)):
        files = sorted(Path(f) for f in glob.glob(str(path), recursive=True))
        if not files:
            raise InputError(f"{path}: no file matches; check the pattern, in quotes")
        return _open_files(files, [str(file) for file in files], voxel_size, str(path))
    if is_box(path):
        return _open_files([path], [str(path)], voxel_size, str(path))
    boxes, table, attrs = open_store(path)
    shape = boxes[0].shape
    if voxel_size is not None:
        attrs["voxel_size"] = cubic_voxel_size(path, (), shape, voxel_size)
    table["image"] = [f"{number}@{path}" for number in range(len(table))]
    return subtomogram_dataset(
        lazy_boxes(boxes, shape),
        table,
        voxel_size=attrs.pop("voxel_size"),
        attrs={**attrs, "store": str(path.absolute())},
    )


def is_box(path: Path) -> bool:
    """Whether a file is a box by its name: MRC or EM, packed or not."""
    return (
        path.is_file() and not path.name.startswith(".") and tomogram_format(path) in ("MRC", "EM")
    )


def _open_star(path: Path, voxel_size: float | None) -> xr.Dataset:
    table = read_particles(path, need=("image",))
    files: list[Path | tuple[Path, int]] = []
    for row, image in enumerate(table["image"].astype(str)):
        index, at, name = image.rpartition("@")
        found = next((f for f in (path.parent / name, Path(name)) if f.exists()), None)
        if found is None:
            raise InputError(
                f"{path}: the box {image} of row {row} is neither in {path.parent} nor in the "
                "working directory; move the STAR to its boxes"
            )
        if at and not index.isdecimal():
            raise InputError(f"{path}: {image} in row {row} is not index@store, with index from 0")
        if at and not is_store(found):
            raise InputError(
                f"{path}: {image} in row {row} is not in a store of subtomograms; stacks of other "
                "programs are not read, save each box as a file"
            )
        files.append((found, int(index)) if at else found)
    return _open_files(files, list(table["image"]), voxel_size, str(path), table=table)


def _open_files(
    files: Sequence[Path | tuple[Path, int]],
    images: list[str],
    voxel_size: float | None,
    source: str,
    *,
    table: pd.DataFrame | None = None,
) -> xr.Dataset:
    """Boxes of files, or by number from stores, whose sizes must agree."""
    if not files:
        raise InputError(f"{source} is empty: no subtomograms")
    stores: dict[Path, tuple[list[StoredBox], pd.DataFrame, dict[str, Any]]] = {}
    readers: list[VolumeReader] = []
    known: list[Mapping[Any, Any]] = []
    first: tuple[str, tuple[int, ...], float] | None = None
    for file, image in zip(files, images, strict=True):
        if isinstance(file, tuple):
            store, number = file
            if store not in stores:
                stores[store] = open_store(store)
            boxes, rows, attrs = stores[store]
            if number >= len(rows):
                raise InputError(
                    f"{source}: {image}: the store has boxes 0 to {len(rows) - 1} only"
                )
            reader: VolumeReader = boxes[number]
            size = float(attrs["voxel_size"] if voxel_size is None else voxel_size)
            known.append(rows.iloc[number].to_dict())
        else:
            reader, size, tilts = _open_box(file, voxel_size)
            known.append(dict(zip(TILT_RANGE, tilts, strict=True)) if tilts else {})
        if len(set(reader.shape)) != 1:
            edges = "×".join(map(str, reader.shape))
            raise InputError(f"{image}: the box is not cubic ({edges} voxels); cut or pad it")
        if first is None:
            first = image, reader.shape, size
        if reader.shape != first[1]:
            raise InputError(
                f"{image}: its edge is {reader.shape[0]} voxels, that of {first[0]} is "
                f"{first[1][0]}; all boxes must be of one size"
            )
        if abs(size - first[2]) > TOLERANCE * first[2]:
            raise InputError(
                f"{image}: voxel size {size:g} Å, that of {first[0]} is {first[2]:g} Å; resample, "
                "or pass the right one (voxel_size=…, --voxel-size)"
            )
        readers.append(reader)
    assert first is not None
    table = pd.DataFrame(index=pd.RangeIndex(len(files))) if table is None else table.copy()
    for name in TILT_RANGE:  # a STAR seldom says it, the store does, and the labels of our MRC
        values = [float(row.get(name, np.nan)) for row in known]
        if name not in table and np.isfinite(values).all():
            table[name] = values
    if "tomogram" not in table and all(row.get("tomogram") for row in known):
        table["tomogram"] = [str(row["tomogram"]) for row in known]
    attrs = {"source": source}
    if series := _records(files, known, stores, table, source):
        attrs["tilt_series"] = series
    table["image"] = images
    return subtomogram_dataset(
        lazy_boxes(readers, first[1]), table, voxel_size=first[2], attrs=attrs
    )


def _records(
    files: Sequence[Path | tuple[Path, int]],
    known: Sequence[Mapping[Any, Any]],
    stores: Mapping[Path, tuple[Any, Any, dict[str, Any]]],
    table: pd.DataFrame,
    source: str,
) -> dict[str, Any]:
    """Records of the tilt series of boxes of several stores, by the names in the table."""
    if "tomogram" not in table:
        return {}
    out: dict[str, Any] = {}
    for file, row, name in zip(files, known, table["tomogram"].astype(str), strict=True):
        series = stores[file[0]][2].get("tilt_series", {}) if isinstance(file, tuple) else {}
        record = series.get(str(row.get("tomogram")))
        if record is not None and out.setdefault(name, record) != record:
            raise InputError(
                f"{source}: two stores have tomogram {name}, but not the same record of its tilt "
                "series; give the tomograms names of their own, or say the tilt range for all "
                "(tilt_range=…, --tilt-range)"
            )
    return out


def _open_box(
    path: Path, voxel_size: float | None
) -> tuple[VolumeReader, float, tuple[float, float] | None]:
    """Reader, voxel size and tilt range (if kept) of a box in a file of its own."""
    tilts = None
    kind = tomogram_format(path)
    sizes: tuple[float | None, ...]
    reader: VolumeReader
    path = path.absolute()  # for workers, which may be in other folders
    if kind == "MRC":
        reader, sizes, _, tilts = open_mrc(path)
    elif kind == "EM":
        reader, sizes = open_em(path)
    else:
        raise InputError(f"{path}: a box is an MRC or EM file, by its name; convert it")
    return reader, cubic_voxel_size(path, sizes, reader.shape, voxel_size), tilts


def chosen_boxes(subtomograms: xr.Dataset, rows: np.ndarray) -> xr.Dataset:
    """Some of the boxes, as ``subtomograms.isel(particle=rows)``.  Lazy.

    Boxes that are read from files are read anew, those alone and each once.  Dask would read whole
    blocks and take them apart: half of all boxes, say, would have all read, and a block that two
    halves share would lie in memory until both had worked on it.
    """
    boxes = subtomograms["subtomogram"]
    readers = box_readers(boxes.data)
    if readers is None or not len(rows):
        return subtomograms.isel(particle=rows)
    data = lazy_boxes(
        [readers[row] for row in rows], boxes.shape[1:], token=tokenize(boxes.data.name, rows)
    )
    some = subtomograms.drop_vars("subtomogram").isel(particle=rows)
    return some.assign(subtomogram=(boxes.dims, data, boxes.attrs))


def box_readers(data: Any) -> list[VolumeReader] | None:
    """What boxes are read by, where they are just as `lazy_boxes` made them; else None."""
    if not isinstance(data, da.Array):
        return None
    graph = data.dask.layers.get(data.name, {})
    readers: list[VolumeReader] = []
    for number in range(data.numblocks[0]):
        node = graph.get((data.name, number, 0, 0, 0))
        if not isinstance(node, Task) or node.func is not read_boxes:
            return None
        readers += node.args[0]
    return readers


def lazy_boxes(
    readers: Sequence[VolumeReader], shape: tuple[int, ...], *, token: str | None = None
) -> da.Array:
    """One array over boxes that are read one by one, many a task (`batch_size`).

    `token` tells them from others, by default what Dask makes of the readers.
    """
    most = batch_size(len(readers), max(shape))
    starts = range(0, len(readers), most)
    runs = [as_run(readers[start : start + most]) for start in starts]
    name = f"open-boxes-{token or tokenize(runs)}"
    graph = {
        (name, number, 0, 0, 0): Task((name, number, 0, 0, 0), read_boxes, run)
        for number, run in enumerate(runs)
    }
    sizes = tuple(min(most, len(readers) - start) for start in starts)
    return da.Array(
        HighLevelGraph.from_collections(name, graph, dependencies=[]),
        name,
        chunks=(sizes, *((n,) for n in shape)),
        dtype=np.float32,
    )


def read_boxes(readers: Iterable[VolumeReader]) -> np.ndarray:
    """Read boxes of one size into one array of float32, shape (n, z, y, x)."""
    whole = (slice(None),) * 3
    boxes = list(readers)
    out = np.empty((len(boxes), *boxes[0].shape), np.float32)
    for box, reader in zip(out, boxes, strict=True):
        box[...] = reader[whole]
    return out
