"""Particle picking: from a segmentation mask to a table of particle centers.

Mean-pool non-maximum suppression (MP-NMS) [1]_: mean-pool the mask until each particle is one
smooth hill, and take the top of the hill as the particle center.

Public functions build the graph; ``_*_block`` functions compute on one block in memory.  The halo
covers all that a voxel sees and each voxel has one owner, so the chunks do not change the result.

.. [1] Liu et al., "DeepETPicker", Nat. Commun. 15, 2090 (2024), doi:10.1038/s41467-024-46041-0.
"""

from functools import partial, reduce
from itertools import product

import dask.array as da
import numpy as np
import pandas as pd
from dask.base import compute
from dask.delayed import delayed

from tomodask.arrays.backend import Array, namespace, ndimage, to_numpy

__all__ = ["collect_centers", "find_centers"]


def find_centers(
    mask: Array, *, diameter: int, kernel: int = 3, min_distance: int = 1, min_height: float = 0.1
) -> Array:
    """Mark the particle centers in a segmentation mask.

    Parameters
    ----------
    mask : array of bool, shape (z, y, x)
        True in the particles, e.g. ``probability > 0.5``.  NumPy, CuPy or Dask array.
    diameter : int
        Particle diameter, in voxels.  Sets the number of poolings, as in [1]_.
    kernel : int
        Edge of the pooling cube, in voxels; odd.
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
    weights = _mean_pool_weights(diameter, kernel)
    block = partial(
        _centers_block, weights=weights, min_distance=min_distance, min_height=min_height
    )
    if not isinstance(mask, da.Array):
        return block(mask)
    halo = _halo(weights, min_distance)
    return mask.map_overlap(
        block,
        depth=tuple(min(halo, size) for size in mask.shape),
        boundary="none",  # the block, not Dask, says what lies beyond the tomogram
        meta=mask._meta.astype(np.float32),
    )


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


def _mean_pool_weights(diameter: int, kernel: int) -> np.ndarray:
    """1D weights that do all the poolings at once: a box convolved with itself.

    Pooling in steps, as [1]_ does, differs only at the tomogram's border, where it loses mass.
    """
    poolings = diameter // (kernel - 1) + 1
    return reduce(np.convolve, [np.full(kernel, 1 / kernel)] * poolings)


def _halo(weights: np.ndarray, min_distance: int) -> int:
    """Voxels that one voxel sees: the pooling, then two looks around for a rival."""
    return len(weights) // 2 + 2 * min_distance


def _centers_block(
    mask: Array, *, weights: np.ndarray, min_distance: int, min_height: float
) -> Array:
    """`find_centers` on one block in memory."""
    xp, ndi = namespace(mask), ndimage(mask)
    window = 2 * min_distance + 1
    hill = mask.astype(np.float32)
    for axis in range(3):  # not uniform_filter: its running sums depend on where a block starts
        hill = ndi.correlate1d(hill, xp.asarray(weights), axis=axis, mode="constant")
    top = (hill >= min_height) & (hill == ndi.maximum_filter(hill, window, mode="constant"))
    # Equal tops tie (a flat hill has many): the first in (z, y, x) order wins.  A block keeps
    # that order although its indices start elsewhere, so all blocks break a tie alike.
    rank = xp.where(top, xp.arange(hill.size, 0, -1).reshape(hill.shape), 0)
    kept = top & (rank == ndi.maximum_filter(rank, window, mode="constant"))
    return xp.where(kept, hill, np.float32(0))


def _table_block(centers: Array, corner: tuple[int, ...]) -> np.ndarray:
    """Rows (z, y, x, score) of one block, in voxels; `corner` is its place in the tomogram."""
    centers = to_numpy(centers)
    zyx = np.argwhere(centers)
    return np.column_stack([zyx + corner, centers[tuple(zyx.T)]])
