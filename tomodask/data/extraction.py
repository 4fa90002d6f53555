"""Cut subtomograms out of a tomogram, reading each of its chunks once.

Particles are put in the order of fixed tiles of space and come as one block of boxes per tile.
Blocks share the tasks that read the chunks, so a chunk is read once for all the boxes it touches,
and goes as soon as the last of them is cut.  The tiles follow from the box alone, never from the
chunks, so neither order nor values depend on how the tomogram is stored.
"""

from __future__ import annotations

import logging
from itertools import product
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from tomodask.arrays.tilt_weights import check_record, record_range
from tomodask.data.names import names_of_tomogram
from tomodask.data.positions import warn_of_voxels
from tomodask.data.subtomogram_table import subtomogram_dataset
from tomodask.errors import InputError

__all__ = ["extract_subtomograms"]

_log = logging.getLogger(__name__)
_BLOCK_BYTES = 64 << 20  # of boxes in one block: what a task makes, and a worker holds
_TILE = 128  # voxels, at least: edge of the tiles that order the particles

Triple = tuple[int, int, int]


def extract_subtomograms(
    tomogram: xr.DataArray,
    picks: pd.DataFrame,
    *,
    box: int,
    outside: Literal["pad", "drop"] = "pad",
    tilt_range: tuple[float, float] | None = None,
) -> xr.Dataset:
    """Cut a cubic box around each particle.  Lazy: the boxes are cut when they are computed.

    Voxel ``box // 2`` of a box is the voxel of the tomogram nearest to the particle's centre
    (position plus shift, where the table has shifts); voxels are copied, not interpolated.  What is
    left of the centre, half a voxel at most, is kept as the new shift.

    Parameters
    ----------
    tomogram : DataArray, dims (z, y, x)
        As `open_tomogram` gives it; its attribute `voxel_size` is in Å.
    picks : DataFrame
        Particle table with the columns ``z``, ``y``, ``x`` in Å.  Where it names tomograms, the
        rows of this one are taken; ``TS_01``, ``rec_TS_01.mrc`` and ``TS_01.mrc_10.00Apx.mrc``
        are one name.
    box : int
        Edge of the box, in voxels.
    outside : {"pad", "drop"}
        What becomes of a box that leaves the tomogram: the rest is filled with the mean of the part
        inside, or the particle is left out.  Either is counted in the attributes `padded` and
        `dropped`, and said in the log.
    tilt_range : (float, float), optional
        Least and largest tilt, in degrees; by default that of the table, or of the tomogram.  Given
        here, it also takes the place of the record of the tilt series.

    Returns
    -------
    Dataset, dims (particle, z, y, x)
        `subtomogram` (float32, lazy) and, along `particle`, the columns of the table.
        `position_z`, `position_y`, `position_x` are the centre of the box in Å.  `particle` is the
        row of `picks`; the order is that of tiles of space, whatever the chunks:
        ``sortby("particle")`` gives that of the table.  Where the tomogram has a record of its tilt
        series, ``attrs["tilt_series"]`` is {its name: record}.

    Raises
    ------
    InputError
        If the table is empty, lacks a column, is of another tomogram, or has a particle outside
        this one; if `box` or `tilt_range` makes no sense; if every particle was dropped.  While
        computing: if a box has NaN or infinite voxels.

    Examples
    --------
    >>> volume = np.arange(27.0, dtype=np.float32).reshape(3, 3, 3)
    >>> tomogram = xr.DataArray(volume, dims=("z", "y", "x"), attrs={"voxel_size": 10.0}, name="t")
    >>> picks = pd.DataFrame({"z": [10.0], "y": [10.0], "x": [14.0]})
    >>> boxes = extract_subtomograms(tomogram, picks, box=2)
    >>> boxes.subtomogram.values[0, 1, 1, 1], float(boxes.shift_x[0])
    (np.float32(13.0), 4.0)
    """
    voxel_size = _check(tomogram, picks, box, outside)
    table = _rows_of(tomogram, picks)
    series = _record(tomogram) if tilt_range is None else None
    known = tomogram.attrs.get("tilt_range", series and record_range(series))
    _set_tilt_range(table, tilt_range, known)
    centers = _snap(table, tomogram, voxel_size)
    shape = np.array(tomogram.shape)
    low = centers - box // 2
    leaves = np.any((low < 0) | (low + box > shape), axis=1)
    left = int(leaves.sum())
    if left and outside == "drop":
        if left == len(table):
            raise InputError(
                f"all {left} boxes of {box} voxels leave the tomogram of {_size(tomogram)} voxels, "
                'nothing is left to extract; take a smaller box or outside="pad"'
            )
        table, centers = table.loc[~leaves], centers[~leaves]
    if left:
        what = "dropped" if outside == "drop" else "padded with their mean"
        _log.warning("%d of %d boxes leave the tomogram: %s", left, len(leaves), what)
    # A stable sort: within a tile, particles keep the order of the table.
    tile = centers // max(_TILE, 2 * box)
    order = np.lexsort(tile.T[::-1])
    table, centers, tile = table.iloc[order], centers[order], tile[order]
    attrs: dict[str, Any] = {
        "padded": left if outside == "pad" else 0,
        "dropped": left if outside == "drop" else 0,
    }
    if series is not None:
        attrs["tilt_series"] = {str(tomogram.name): series}
    if "source" in tomogram.attrs:
        attrs["source"] = str(tomogram.attrs["source"])
    where = str(tomogram.attrs.get("source") or tomogram.name or "tomogram")
    rows = table.index.to_numpy(np.int64)
    boxes = _cut(tomogram.data, centers - box // 2, box, _block_sizes(tile, box), where, rows)
    return subtomogram_dataset(boxes, table, voxel_size=voxel_size, attrs=attrs)


def _check(tomogram: xr.DataArray, picks: pd.DataFrame, box: int, outside: str) -> float:
    """Refuse what cannot be extracted; the voxel size in Å."""
    if tomogram.dims != ("z", "y", "x"):
        raise InputError(f"tomogram must have the dims (z, y, x), got {tomogram.dims}")
    voxel_size = float(tomogram.attrs.get("voxel_size", 0.0))
    if not voxel_size > 0:
        raise InputError(
            "tomogram has no voxel size: set tomogram.attrs['voxel_size'] in Å, "
            "or open it with voxel_size=…"
        )
    if isinstance(box, bool) or not isinstance(box, int | np.integer) or box < 2:
        raise InputError(f"box must be a whole number of voxels, at least 2, got {box!r}")
    if outside not in ("pad", "drop"):
        raise InputError(f'outside must be "pad" or "drop", got {outside!r}')
    missing = [name for name in "zyx" if name not in picks.columns]
    if missing:
        raise InputError(
            f"picks: the table lacks the columns {', '.join(missing)} (Å); it has "
            f"{', '.join(map(str, picks.columns)) or 'none'}"
        )
    if picks.empty:
        raise InputError(
            "picks: the table has no rows, nothing to extract; pick again with a lower threshold"
        )
    return voxel_size


def _record(tomogram: xr.DataArray) -> dict[str, Any] | None:
    """Of the tilt series, where the tomogram has one."""
    if (series := tomogram.attrs.get("tilt_series")) is None:
        return None
    return check_record(series, str(tomogram.attrs.get("source") or tomogram.name or "tomogram"))


def _rows_of(tomogram: xr.DataArray, picks: pd.DataFrame) -> pd.DataFrame:
    """The rows of this tomogram, numbered as in the table."""
    table = picks.reset_index(drop=True)
    if "tomogram" in table:
        names = table["tomogram"].astype(str)
        several = sorted(set(names))
        own = {str(tomogram.name)} if tomogram.name else set()
        if own and (source := tomogram.attrs.get("source")):
            own.add(Path(str(source)).name)  # a file may have been renamed since
        mine = names_of_tomogram(several, own)
        if not mine:
            listed = ", ".join(several[:3]) + (", …" if len(several) > 3 else "")
            raise InputError(
                f"picks: no row is of tomogram {tomogram.name!r}, the table has {listed}; give the "
                "tomogram that they are of, or drop the column tomogram from the table to cut "
                "there all the same"
            )
        table = table[names.isin(mine)]
    table = table.copy()
    table["tomogram"] = str(tomogram.name)
    return table


def _set_tilt_range(
    table: pd.DataFrame,
    given: tuple[float, float] | None,
    known: tuple[float, float] | None,
) -> None:
    """Fill `tilt_min`, `tilt_max`: what the caller says, else the table, else the tomogram."""
    tilt_range = given
    if tilt_range is None and not {"tilt_min", "tilt_max"} <= set(table.columns):
        tilt_range = known
    if tilt_range is None:
        return
    low, high = (float(tilt) for tilt in tilt_range)
    if not -90 <= low < high <= 90:
        raise InputError(
            "tilt_range must be two tilts in degrees, the lower first, within ±90, "
            f"got {low:g} {high:g}"
        )
    table["tilt_min"], table["tilt_max"] = low, high


def _snap(table: pd.DataFrame, tomogram: xr.DataArray, voxel_size: float) -> np.ndarray:
    """Move the position to the nearest voxel, the rest into the shift; the voxels, shape (n, 3)."""
    shifts = ["shift_z", "shift_y", "shift_x"]
    exact = table[["z", "y", "x"]].to_numpy(np.float64, copy=True)
    for axis, name in enumerate(shifts):
        if name in table:
            exact[:, axis] += table[name].to_numpy(np.float64)
    # Not rint, which rounds halves to even: a move by one voxel would change the box.
    # The 1e-6 keeps a position that was written as text on the side it came from.
    voxels = np.floor(exact / voxel_size + 0.5 + 1e-6)
    shape = np.array(tomogram.shape)
    bad = ~((voxels >= 0) & (voxels < shape)).all(1)  # NaN is bad too
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        place = ", ".join(f"{v:g}" for v in exact[first])
        raise InputError(
            f"picks: {int(bad.sum())} of {len(table)} particles lie outside the tomogram of "
            f"{_size(tomogram)} voxels of {voxel_size:g} Å, the first in row {table.index[first]} "
            f"at (z, y, x) = ({place}) Å; check the voxel size the picks were read with"
        )
    warn_of_voxels(exact / voxel_size, tomogram, "picks")
    table[["z", "y", "x"]] = voxels * voxel_size
    table[shifts] = exact - voxels * voxel_size
    return voxels.astype(np.int64)


def _size(tomogram: xr.DataArray) -> str:
    return "×".join(map(str, tomogram.shape))


def _block_sizes(tile: np.ndarray, box: int) -> tuple[int, ...]:
    """Boxes in each block: those of one tile, in equal shares where they are too many."""
    most = max(1, _BLOCK_BYTES // (4 * box**3))
    _, counts = np.unique(tile, axis=0, return_counts=True)
    sizes: list[int] = []
    for count in counts:
        shares = -(-int(count) // most)
        sizes += [len(part) for part in np.array_split(np.arange(count), shares)]
    return tuple(sizes)


def _cut(
    data: Any,
    low: np.ndarray,
    box: int,
    sizes: tuple[int, ...],
    where: str,
    rows: np.ndarray,
) -> da.Array:
    """Lazy boxes, one block for each of `sizes`, from the blocks of a tomogram."""
    if not isinstance(data, da.Array):
        data = da.from_array(np.asarray(data), chunks=_TILE)
    edges = [np.concatenate([[0], np.cumsum(c)]) for c in data.chunks]
    name = f"extract-{tokenize(data.name, low, box, sizes, rows)}"
    graph: dict[tuple, tuple] = {}
    start = 0
    for number, size in enumerate(sizes):
        mine, told = low[start : start + size], rows[start : start + size]
        start += size
        touched = _touched(mine, box, edges)
        keys = [(data.name, *index) for index in touched]
        corners = [tuple(int(e[i]) for e, i in zip(edges, at, strict=True)) for at in touched]
        more = (mine, box, data.shape, where, told)
        graph[(name, number, 0, 0, 0)] = (cut_boxes, keys, corners, *more)
    return da.Array(
        HighLevelGraph.from_collections(name, graph, dependencies=[data]),
        name,
        chunks=(sizes, (box,), (box,), (box,)),
        dtype=np.float32,
    )


def _touched(low: np.ndarray, box: int, edges: list[np.ndarray]) -> list[tuple[int, ...]]:
    """Indices of the chunks that hold a voxel of one of the boxes."""
    first, last = [], []
    for axis, edge in enumerate(edges):
        inner = np.clip(low[:, axis], 0, None), np.clip(low[:, axis] + box, None, edge[-1]) - 1
        first.append(np.searchsorted(edge, inner[0], side="right") - 1)
        last.append(np.searchsorted(edge, inner[1], side="right") - 1)
    ranges = np.unique(np.column_stack(first + last), axis=0).tolist()
    touched: set[tuple[int, ...]] = {
        index
        for *a, d, e, f in ranges
        for index in product(*(range(i, j + 1) for i, j in zip(a, (d, e, f), strict=True)))
    }
    return sorted(touched)


def cut_boxes(
    blocks: list[np.ndarray],
    corners: list[Triple],
    low: np.ndarray,
    box: int,
    shape: Triple,
    where: str,
    rows: np.ndarray,
) -> np.ndarray:
    """Cut boxes out of the blocks of a volume, and pad what lies beyond it.

    Parameters
    ----------
    blocks : list of array
        All the blocks that the boxes touch.
    corners : list of (int, int, int)
        First voxel of each block.
    low : array of int, shape (n, 3)
        First voxel of each box, (z, y, x); may be negative.
    box : int
        Edge, voxels.
    shape : (int, int, int)
        The volume.
    where : str
        The volume, for the message.
    rows : array of int, shape (n,)
        Rows of the table of particles, for the message.

    Returns
    -------
    array of float32, shape (n, box, box, box)

    Raises
    ------
    InputError
        If a box has NaN or infinite voxels.
    """
    starts = np.array(corners)
    stops = starts + [block.shape for block in blocks]
    out = np.empty((len(low), box, box, box), np.float32)
    for boxed, first, row in zip(out, low, rows, strict=True):
        for i in np.flatnonzero(((starts < first + box) & (stops > first)).all(1)):
            a, b = np.maximum(starts[i], first), np.minimum(stops[i], first + box)
            source = tuple(slice(p, q) for p, q in zip(a - starts[i], b - starts[i], strict=True))
            target = tuple(slice(p, q) for p, q in zip(a - first, b - first, strict=True))
            boxed[target] = blocks[i][source]
        a, b = np.maximum(first, 0), np.minimum(first + box, shape)
        inside = tuple(slice(p, q) for p, q in zip(a - first, b - first, strict=True))
        bad = boxed[inside].size - np.count_nonzero(np.isfinite(boxed[inside]))
        if bad:
            raise InputError(
                f"{where}: {bad} voxels of the box of the particle in row {row} are NaN or "
                "infinite; fill them (save_tomogram(…, fill=0), tomodask convert --fill 0), or "
                "take the particle out of the table"
            )
        if (b - a < box).any():
            kept = boxed[inside].copy()
            # From one copy of the whole part, so that the sum does not depend on the blocks.
            boxed[...] = np.float32(kept.mean(dtype=np.float64))
            boxed[inside] = kept
    return out
