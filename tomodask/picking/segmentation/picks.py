"""From the probabilities of a segmentation to particles: MP-NMS, classes, then distances.

Of each block only the runs with voxels above the threshold are kept on: the probabilities are never
in memory as a whole, a mostly empty mask is next to nothing, and each block is computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize
from dask.delayed import delayed
from scipy.spatial import cKDTree

from tomodask.arrays.backend import to_numpy
from tomodask.cluster import compute
from tomodask.data.classes import with_classes
from tomodask.errors import InputError
from tomodask.picking.nms.centers import halo
from tomodask.picking.nms.hills import find_tops, least_count, measure_tops, pooling_weights
from tomodask.picking.nms.occupied import FULL, Occupied, blocks_within, merged_chunks, pack, unpack

__all__ = ["pick_segmentation"]

_KERNEL = 5  # edge of the pooling cube, voxels: the paper's
_REACH = 2  # voxels: tops are highest within 5³ voxels, as in the paper
_POOLINGS = 2  # at least: pooled once, a small label is a flat hill without a middle
_CORE = 96  # voxels along an axis that one task picks in, at least: some 20 MB with its halo
_LARGE = 256**3  # voxels from which progress is shown: below, picking takes a few seconds
_COLUMNS = ["tomogram", "z", "y", "x", "kind", "class", "score"]


def pick_segmentation(
    probability: xr.DataArray,
    *,
    threshold: float | None = None,
    min_height: float = 0.1,
    min_distance: float | None = None,
    diameters: float | Sequence[float] | Mapping[str, float] | None = None,
    jointly: bool = True,
    exclusive: bool = True,
    max_particles: int | None = None,
) -> pd.DataFrame:
    """Pick the particles of every class from the probabilities of a segmentation.  Computes.

    1. The mask ``probability > threshold``, of all classes together, is mean-pooled (kernel 5, as
       often as the width of a label asks for) until each particle is one smooth hill.  The highest
       voxels within 5³ are candidates; a hill below `min_height` is noise (`find_centers`).  A
       candidate is of the class whose probability, pooled there in the same way, is highest.
    2. A parabola through the hill's top along each axis gives the place between voxels.
    3. From the best score down: of two closer than the least distance, the lower is dropped.

    Parameters
    ----------
    probability : DataArray, dims (z, y, x) or (class, z, y, x)
        From `segment_tomogram` or `open_segmentation`, or any other (values above 1 weigh as 1);
        Dask, NumPy or CuPy.  `attrs`: ``voxel_size`` (Å); ``label_diameter`` (voxels), how wide a
        particle looks in it (without it: as wide as it is); ``diameters`` (Å).  Coordinate
        ``class`` names the classes.
    threshold : float, optional
        By default that in `attrs`, the best on the network's held-out particles, else 0.5.  From
        0.5 on, probabilities that sum up to 1 leave a voxel to one class.
    min_height : float
        Least height of a hill, above 0 to 1: 1 is that of an endless mask.
    min_distance : float, optional
        Least distance of two particles' centres, Å, by default half of their diameter.
    diameters : float, sequence or mapping, optional
        Of the particles of each class, Å, in place of those in `attrs`.
    jointly : bool
        Whether places are found for all classes together, where their labels are of one width.
        False, as in the paper: in a mask of each class by itself; then a particle that a network
        finds but cannot tell, with half of the probability here and half there, is in no mask.
    exclusive : bool
        Whether the distance counts between classes too: for each class its own, and for a pair
        the smaller of the two.  False, with ``jointly=False``: a place may have a particle of
        every class.
    max_particles : int, optional
        Keep so many at most, of all classes together, those of the highest scores.

    Returns
    -------
    DataFrame
        ``tomogram``, ``z``, ``y``, ``x`` (Å; the middle of voxel (0, 0, 0) is the origin),
        ``kind`` (name of the class), ``class`` (its number, from 1), ``score``; highest score
        first.  The score is the probability above the threshold, pooled as the mask is: it falls
        where a blob is smaller than a label and where the network is less sure.  ``attrs`` has
        ``threshold`` and ``voxel_size``.

    Raises
    ------
    InputError
        If a parameter is out of its range, or something about the probabilities is not known.
    """
    if threshold is None:
        threshold = float(probability.attrs.get("threshold", 0.5)) if _known(probability) else 0.5
    data, names = _checked(probability, threshold, min_height, min_distance, max_particles)
    if _known(probability) and "model" in probability.attrs and not 0 <= threshold < 1:
        raise InputError(f"threshold is a probability, 0 to less than 1, got {threshold:g}")
    size = float(probability.attrs["voxel_size"])
    own = _diameters(probability, diameters, names)
    widths = _widths(probability, own, names, size)
    if min_distance is None:
        if own is None:
            raise InputError(
                "min_distance is not known, as the probabilities have no diameters; give "
                "diameters, or min_distance (both Å)"
            )
        apart = [d / 2 for d in own]
    else:
        apart = [float(min_distance)] * len(names)
    if jointly and len(names) > 1 and len(set(widths)) == 1:
        # Channel 0: all classes; what a place is asked for then are those after it.
        data, widths = data.rechunk({0: -1}), widths[:1]
    rows = _rows(data, threshold=float(threshold), min_height=float(min_height), widths=widths)
    rows = _thinned(rows, np.asarray(apart) / size, exclusive=exclusive)[:max_particles]
    table = pd.DataFrame({"tomogram": [_tomogram(probability)] * len(rows)})
    for column, dim in enumerate("zyx"):
        table[dim] = rows[:, 1 + column] * size + _origin(probability, dim)
    table["score"] = rows[:, 4]
    table = with_classes(table, [names[int(n)] for n in rows[:, 0]], tuple(names))[_COLUMNS]
    table.attrs.update(threshold=float(threshold), voxel_size=size)
    return table


def _known(probability: Any) -> bool:
    return isinstance(probability, xr.DataArray) and "voxel_size" in probability.attrs


def _checked(
    probability: xr.DataArray,
    threshold: float,
    min_height: float,
    min_distance: float | None,
    max_particles: int | None,
) -> tuple[da.Array, list[str]]:
    """Probabilities as a Dask array (class, z, y, x), and the names of the classes."""
    if not _known(probability):
        raise InputError(
            "probability must be a DataArray with attrs['voxel_size'] (Å), as segment_tomogram "
            f"gives it, got {type(probability).__name__}"
        )
    if probability.dims not in (("z", "y", "x"), ("class", "z", "y", "x")):
        raise InputError(
            "probability must have the dims (z, y, x) or (class, z, y, x), got "
            f"{tuple(probability.dims)}; transpose it"
        )
    if not np.isfinite(threshold):
        raise InputError(f"threshold must be a number, got {threshold}")
    if not 0 < min_height <= 1:
        raise InputError(f"min_height must be above 0 and at most 1, got {min_height}")
    if min_distance is not None and not 0 <= min_distance < np.inf:
        raise InputError(f"min_distance must be 0 Å or more, got {min_distance}")
    if max_particles is not None and max_particles < 1:
        raise InputError(f"max_particles must be at least 1, got {max_particles}")
    if not float(probability.attrs["voxel_size"]) > 0:
        raise InputError(
            f"voxel_size must be above 0 Å, got {probability.attrs['voxel_size']} in the attrs"
        )
    data = probability.data
    if not isinstance(data, da.Array):
        data = da.from_array(data, chunks=(*[1] * (data.ndim - 3), *[_CORE] * 3), name=False)
    if data.ndim == 3:
        data = data[None]
    if "class" in probability.coords:
        names = [str(name) for name in np.atleast_1d(probability["class"].to_numpy())]
    else:
        names = ["particle"] if len(data) == 1 else [str(n + 1) for n in range(len(data))]
    return data, names


def _diameters(probability: xr.DataArray, given: Any, names: list[str]) -> list[float] | None:
    told = probability.attrs.get("diameters") if given is None else given
    if told is None:
        return None
    if isinstance(told, Mapping):
        missing = [name for name in names if name not in told]
        if missing:
            raise InputError(
                f"diameters must have every class, none is given for {', '.join(missing)}"
            )
        told = [told[name] for name in names]
    values = [float(value) for value in np.atleast_1d(told)]
    if len(values) == 1:
        values *= len(names)
    if len(values) != len(names) or not all(0 < value < np.inf for value in values):
        raise InputError(
            f"diameters must be lengths above 0 Å, one or one for each of the {len(names)} "
            f"classes ({', '.join(names)}), got {told}"
        )
    return values


def _widths(
    probability: xr.DataArray, diameters: list[float] | None, names: list[str], size: float
) -> list[int]:
    """Width of what a particle of each class looks like, voxels."""
    told = probability.attrs.get("label_diameter")
    if told is None:
        if diameters is None:
            raise InputError(
                "diameters are needed, as the probabilities do not tell the width of their labels "
                "(attrs['label_diameter'], voxels); give diameters (Å)"
            )
        told = [round(d / size) for d in diameters]
    widths = [int(width) for width in np.atleast_1d(told)]
    if len(widths) == 1:
        widths *= len(names)
    if len(widths) != len(names) or min(widths) < 1:
        raise InputError(
            f"the particles must be at least a voxel ({size:g} Å) wide in the probabilities, got "
            f"{told} voxels for {', '.join(names)}"
        )
    return widths


def _tomogram(probability: xr.DataArray) -> str:
    return str(probability.attrs.get("tomogram", probability.name or ""))


def _origin(probability: xr.DataArray, dim: str) -> float:
    """Where the first voxel lies, Å: not at 0 in a part of a tomogram."""
    return float(probability[dim][0]) if dim in probability.coords else 0.0


def _rows(data: da.Array, *, threshold: float, min_height: float, widths: list[int]) -> np.ndarray:
    """Rows (class, z, y, x, score) of all candidates, voxels."""
    weights = [pooling_weights(max(w, (_KERNEL - 1) * (_POOLINGS - 1)), _KERNEL) for w in widths]
    levels = [least_count(w, min_height) for w in weights]
    margin = max(halo(w, _REACH) for w in weights)
    token = tokenize(data.name, threshold, min_height, widths)
    jointly = len(widths) < len(data)
    pack_block = _packed_jointly if jointly else _packed
    packed: dict[tuple[int, ...], Any] = {
        index: delayed(pack_block)(block, threshold, dask_key_name=(f"pick-pack-{token}", *index))
        for index, block in np.ndenumerate(data.to_delayed())
    }
    firsts = np.cumsum((0, *data.chunks[0]))
    edges = [np.cumsum((0, *merged_chunks(sizes, _CORE))).tolist() for sizes in data.chunks[1:]]
    tasks: list[Any] = []
    for group, *index in np.ndindex(data.numblocks[0], *(len(e) - 1 for e in edges)):
        low = [e[i] for e, i in zip(edges, index, strict=True)]
        high = [e[i + 1] for e, i in zip(edges, index, strict=True)]
        around = blocks_within(
            data.chunks[1:], [a - margin for a in low], [b + margin for b in high]
        )
        classes = range(1) if jointly else range(int(firsts[group]), int(firsts[group + 1]))
        tasks.append(
            delayed(_rows_block)(
                [packed[group, *at] for at, _ in around],
                [corner for _, corner in around],
                low,
                high,
                data.shape[1:],
                list(classes),
                [weights[c] for c in classes],
                [levels[c] for c in classes],
                dask_key_name=(f"pick-hills-{token}", group, *index),
            )
        )
    voxels = int(np.prod(data.shape))
    found = dask.compute(*tasks) if voxels < _LARGE else compute(tasks, label="pick")
    return np.concatenate([np.zeros((0, 5)), *found])


def _packed(block: np.ndarray, threshold: float) -> list[Occupied]:
    """What lies above the threshold, for each class of a block."""
    return [pack(one, threshold) for one in block]


def _packed_jointly(block: np.ndarray, threshold: float) -> list[Occupied]:
    """What lies above the threshold for all classes together; and each class there."""
    block = to_numpy(block)
    total = block[0].astype(np.float64)
    for one in block[1:]:
        total += one
    mask = total > threshold
    return [pack(total, threshold), *(pack(np.where(mask, one, 0), 0.0) for one in block)]


def _rows_block(
    parts: list[list[Occupied]],
    corners: list[tuple[int, ...]],
    low: list[int],
    high: list[int],
    shape: tuple[int, ...],
    classes: list[int],
    weights: list[np.ndarray],
    levels: list[float],
) -> np.ndarray:
    """Candidates from voxel `low` to below `high`."""
    rows = [np.zeros((0, 5))]
    for n, number in enumerate(classes):
        margin = halo(weights[n], _REACH)
        begin = tuple(max(0, a - margin) for a in low)
        end = tuple(min(size, b + margin) for size, b in zip(shape, high, strict=True))
        values = unpack([part[n] for part in parts], corners, begin, end)
        if values is None:
            continue
        places, _ = find_tops(
            values > 0,
            weights[n],
            level=levels[n],
            reach=_REACH,
            low=tuple(a - o for a, o in zip(low, begin, strict=True)),
            high=tuple(b - o for b, o in zip(high, begin, strict=True)),
        )
        shifts, pooled = measure_tops(values, weights[n], places)
        kinds = np.full(len(places), number)
        if len(parts) and len(parts[0]) > len(classes):
            kinds = _likeliest(parts, corners, begin, end, weights[n], places)
        # A hill that falls to the border may have its top beyond it.
        zyx = np.clip(places + begin + shifts, 0, np.subtract(shape, 1))
        rows.append(np.column_stack([kinds, zyx, pooled / FULL]))
    return np.concatenate(rows)


def _likeliest(
    parts: list[list[Occupied]],
    corners: list[tuple[int, ...]],
    begin: tuple[int, ...],
    end: tuple[int, ...],
    weights: np.ndarray,
    places: np.ndarray,
) -> np.ndarray:
    """The class of highest pooled probability at each place; of equals the first."""
    pooled = np.zeros((len(parts[0]) - 1, len(places)))
    for n in range(len(pooled)):
        values = unpack([part[1 + n] for part in parts], corners, begin, end)
        if values is not None:
            pooled[n] = measure_tops(values, weights, places)[1]
    return np.asarray(pooled.argmax(axis=0))


def _thinned(rows: np.ndarray, apart: np.ndarray, *, exclusive: bool) -> np.ndarray:
    """Highest score first, of equals the first class, then (z, y, x); the lower of two close ones
    is dropped.  `apart` is each class's least distance, voxels.
    """
    rows = rows[np.lexsort((rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0], -rows[:, 4]))]
    if len(rows) == 0:
        return rows
    kept = np.ones(len(rows), bool)
    number = rows[:, 0].astype(np.intp)
    tree = cKDTree(rows[:, 1:4])
    for i in range(len(rows)):
        if not kept[i]:
            continue
        near = np.array(tree.query_ball_point(rows[i, 1:4], apart.max()))
        near = near[(near > i) & kept[near]]
        if not exclusive:
            near = near[number[near] == number[i]]
        gap = np.sqrt(((rows[near, 1:4] - rows[i, 1:4]) ** 2).sum(axis=1))
        kept[near[gap < np.minimum(apart[number[near]], apart[number[i]])]] = False
    return rows[kept]
