"""Particle picking: from a segmentation mask to a table of particle centers.

Mean-pool non-maximum suppression (MP-NMS) [1]_: mean-pool the mask until each particle is one
smooth hill, and take the top of the hill as the particle center.

What one place sees (`halo`) is put together from what the blocks around keep of themselves, and
each voxel has one owner, so the chunks do not change the result (`hills` says why not by a bit).

.. [1] Liu et al., "DeepETPicker", Nat. Commun. 15, 2090 (2024), doi:10.1038/s41467-024-46041-0.
"""

from __future__ import annotations

from itertools import product

import dask.array as da
import numpy as np
import pandas as pd
from dask.base import compute, tokenize
from dask.delayed import delayed
from dask.highlevelgraph import HighLevelGraph

from tomodask.arrays.backend import Array, is_cupy, namespace, to_numpy
from tomodask.picking.nms.hills import find_tops, least_count, mark_tops, pooling_weights
from tomodask.picking.nms.occupied import Occupied, blocks_within, merged_chunks, pack, unpack

__all__ = ["collect_centers", "find_centers", "halo"]


def find_centers(
    mask: Array, *, diameter: int, kernel: int = 3, min_distance: int = 1, min_height: float = 0.1
) -> Array:
    """Mark the particle centers in a segmentation mask.

    The mask is pooled as if it went on with zeros beyond the tomogram: a particle cut by the
    border is as high as the part that is there.  Pooling in steps that each stop at the border,
    as [1]_ does, differs within a pooling's reach of it, where it loses mass.

    Parameters
    ----------
    mask : array of bool, shape (z, y, x)
        True in the particles, e.g. ``probability > 0.5``.  NumPy, CuPy or Dask array.
    diameter : int
        Diameter of what the mask shows of a particle, in voxels.  Sets the number of poolings,
        as in [1]_: ``diameter // (kernel - 1) + 1``.
    kernel : int
        Edge of the pooling cube, in voxels; odd.  The paper's is 5.
    min_distance : int
        Tops this close, in voxels along every axis, are rivals: the higher one is kept, and of
        equals the first in (z, y, x) order.
    min_height : float
        A top below this height, in (0, 1], is noise.

    Returns
    -------
    array, shape (z, y, x), float32
        Height of the hill at each center, 0 elsewhere; the same kind of array as `mask`.
        From a Dask array nothing is computed.  Chunks smaller than the halo are merged.

    Raises
    ------
    TypeError
        If `mask` is not boolean.
    ValueError
        If `mask` is not 3D, `kernel` is not odd and above 1, or a length is below 1 voxel.

    Examples
    --------
    >>> mask = np.zeros((16, 16, 16), bool)
    >>> mask[4:9, 5:10, 6:11] = True
    >>> np.argwhere(find_centers(mask, diameter=5)).tolist()
    [[6, 7, 8]]
    """
    if mask.dtype != bool:
        raise TypeError(f"mask must be boolean, e.g. probability > 0.5, got {mask.dtype}")
    if mask.ndim != 3:
        raise ValueError(f"mask must have the axes (z, y, x), got shape {mask.shape}")
    if kernel < 3 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd and above 1 voxel, got {kernel}")
    if diameter < 1 or min_distance < 1:
        raise ValueError(f"need at least 1 voxel, got {diameter=}, {min_distance=}")
    weights = pooling_weights(diameter, kernel)
    level = least_count(weights, min_height)
    if isinstance(mask, da.Array):
        return _lazy_centers(mask, weights, level, min_distance)
    if is_cupy(mask):
        return mark_tops(mask, weights, level=level, reach=min_distance)
    places, counts = find_tops(mask, weights, level=level, reach=min_distance)
    return _marked(mask.shape, places, counts, weights)


def collect_centers(centers: Array, *, voxel_size: float) -> pd.DataFrame:
    """Gather the result of `find_centers` into a table.  Computes a Dask array.

    Parameters
    ----------
    centers : array, shape (z, y, x)
    voxel_size : float
        Edge of a voxel, in angstrom.

    Returns
    -------
    pandas.DataFrame
        Columns ``z``, ``y``, ``x`` (angstrom; the middle of voxel (0, 0, 0) is the origin) and
        ``score``.  Highest score first, equal scores in (z, y, x) order.
    """
    if isinstance(centers, da.Array):
        corners = product(*(np.cumsum((0, *sizes[:-1])) for sizes in centers.chunks))
        rows = compute(*map(delayed(_table_block), centers.to_delayed().flat, corners))
    else:
        rows = (_table_block(centers, (0, 0, 0)),)
    table = pd.DataFrame(np.concatenate(rows), columns=["z", "y", "x", "score"])
    table[["z", "y", "x"]] *= voxel_size
    rising = [False, True, True, True]
    return table.sort_values(["score", "z", "y", "x"], ascending=rising, ignore_index=True)


def halo(weights: np.ndarray, min_distance: int) -> int:
    """Voxels that one voxel sees: the pooling, then two looks around for a rival."""
    return len(weights) // 2 + 2 * min_distance


def _lazy_centers(mask: da.Array, weights: np.ndarray, level: float, reach: int) -> da.Array:
    margin = halo(weights, reach)
    chunks = tuple(merged_chunks(sizes, margin) for sizes in mask.chunks)
    token = tokenize(mask.name, weights, level, reach)
    packed, name = f"mask-pack-{token}", f"mask-centers-{token}"
    graph: dict[tuple, tuple] = {
        (packed, *index): (pack, (mask.name, *index)) for index in np.ndindex(*mask.numblocks)
    }
    edges = [np.concatenate([[0], np.cumsum(sizes)]).tolist() for sizes in chunks]
    meta = namespace(mask._meta).empty((0, 0, 0), np.float32)
    for index in np.ndindex(*map(len, chunks)):
        low = [e[i] for e, i in zip(edges, index, strict=True)]
        high = [e[i + 1] for e, i in zip(edges, index, strict=True)]
        around = blocks_within(mask.chunks, [a - margin for a in low], [b + margin for b in high])
        graph[(name, *index)] = (
            _centers_block,
            [(packed, *at) for at, _ in around],
            [corner for _, corner in around],
            low,
            high,
            mask.shape,
            weights,
            level,
            reach,
            is_cupy(mask._meta),
        )
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[mask])
    return da.Array(layers, name, chunks=chunks, meta=meta)


def _centers_block(
    parts: list[Occupied],
    corners: list[tuple[int, ...]],
    low: list[int],
    high: list[int],
    shape: tuple[int, ...],
    weights: np.ndarray,
    level: float,
    reach: int,
    on_gpu: bool,
) -> Array:
    """`find_centers` from voxel `low` to below `high`."""
    margin = halo(weights, reach)
    begin = tuple(max(0, a - margin) for a in low)
    end = tuple(min(n, b + margin) for n, b in zip(shape, high, strict=True))
    mask = unpack(parts, corners, begin, end)
    core = [(a - o, b - o) for a, b, o in zip(low, high, begin, strict=True)]
    if on_gpu:
        import cupy

        inside = np.zeros([b - a for a, b in zip(begin, end, strict=True)], bool)
        on_device = cupy.asarray(inside if mask is None else mask.view(bool))
        tops = mark_tops(on_device, weights, level=level, reach=reach)
        return tops[tuple(slice(a, b) for a, b in core)]
    if mask is None:
        return np.zeros([b - a for a, b in core], np.float32)
    mask = mask.view(bool)
    first, last = zip(*core, strict=True)
    places, counts = find_tops(mask, weights, level=level, reach=reach, low=first, high=last)
    return _marked(tuple(b - a for a, b in core), places - first, counts, weights)


def _marked(
    shape: tuple[int, ...], places: np.ndarray, counts: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    out = np.zeros(shape, np.float32)
    out[tuple(places.T)] = counts / float(weights.sum()) ** 3
    return out


def _table_block(centers: Array, corner: tuple[int, ...]) -> np.ndarray:
    """Rows (z, y, x, score) of one block, in voxels; `corner` is its place in the tomogram."""
    centers = to_numpy(centers)
    zyx = np.argwhere(centers)
    return np.column_stack([zyx + corner, centers[tuple(zyx.T)]])
