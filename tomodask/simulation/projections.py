"""Noise-free projections of a volume: made lazily, and kept in a Zarr store.

`project_volume` projects a potential at each tilt by slabs of its rows.  Chunks of the store hold
rows of one image each: projections come by slabs of rows of many tilts, and go by whole images.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr

from tomodask.arrays.backend import Array, on_device
from tomodask.arrays.optics import defocus_step
from tomodask.arrays.projection import project
from tomodask.cluster import compute
from tomodask.data.writing import replacing
from tomodask.errors import InputError
from tomodask.simulation.microscope import Microscope
from tomodask.simulation.tilt_schemes import STEEPEST

__all__ = [
    "checked_angles",
    "checked_volume",
    "depth_slabs",
    "open_projections",
    "project_volume",
    "save_projections",
]

_KIND = "projections"


#: Bytes that a block of rows, as read and on its way to the images, may take.
_BUDGET = 128 * 2**20
#: Rows of a block at most: as many as the kernel takes in one pass, and enough blocks for workers.
_ROWS = 64


def depth_slabs(thickness: float, *, pixel_size: float, angles: Any, microscope: Microscope) -> int:
    """How many slabs a specimen must be cut into, so that each lies within the depth of field.

    Within it the phase of the lens at Nyquist's frequency changes by less than 0.3 rad from a
    slab's middle, at the steepest tilt.

    Parameters
    ----------
    thickness, pixel_size : float
        Å.
    angles : array
        Degrees.
    """
    if not microscope.ctf:
        return 1
    along = thickness / math.cos(math.radians(float(np.abs(angles).max())))
    slabs = math.ceil(along / defocus_step(pixel_size, microscope.voltage))
    return max(1, min(slabs, round(thickness / pixel_size)))  # none thinner than a plane


def project_volume(
    volume: xr.DataArray, angles: Any, *, slabs: int = 1, rows: int | None = None
) -> xr.DataArray:
    """Project a volume along the beam at each tilt.  Builds a graph.

    Parameters
    ----------
    volume : DataArray, dims (z, y, x)
        Potential in volts above that of the solvent; outside it is solvent.  Read by slabs of its
        rows, each once; NumPy or CuPy blocks.
    angles : array, shape (tilts,)
        Degrees about y, within ±85.
    slabs : int
        Cut the volume along the beam into so many, and project each by itself.
    rows : int, optional
        Rows of a slab; by default what 128 MB hold, at most 64.  Never changes a result.

    Returns
    -------
    DataArray of float32, dims (tilt, y, x), or (slab, tilt, y, x) with several slabs
        Sums along the beam, in V · voxels, exact to 1e-5 (`tomodask.arrays.projection`).  coords
        ``angle`` and, along slab, ``height``: of the slab's middle above the volume's centre, Å.
        attrs ``pixel_size`` and ``volume_shape``.

    Raises
    ------
    InputError
        If the volume, the angles or the slabs are not such.
    """
    voxel_size = checked_volume(volume)
    angles = checked_angles(angles)
    nz, ny, nx = volume.shape
    if not 1 <= slabs <= nz:
        raise InputError(f"slabs must be 1 to {nz}, the planes of the volume, got {slabs}")
    if rows is not None and rows < 1:
        raise InputError(f"rows must be at least 1, got {rows}")
    data = volume.data if isinstance(volume.data, da.Array) else da.from_array(volume.data)
    high = min(ny, rows or _rows_per_block(nz, ny, nx))
    # Of a tilt, twice as fine and half as long again: samples, their copy and their spectrum.
    # Not by the rows at hand: tilts that are projected together share the length of their lines.
    tilts = max(1, _BUDGET // (_ROWS * nx * 3 * 12))
    edges = np.linspace(0, nz, slabs + 1).round().astype(int)
    parts = []
    for start, stop in pairwise(edges):
        part = data[start:stop].rechunk((-1, high, -1), method="tasks")
        groups = [
            part.map_blocks(
                _project_block,
                angles=angles[first : first + tilts],
                center_z=float(nz // 2 - start),
                chunks=((len(angles[first : first + tilts]),), part.chunks[1], (nx,)),
                dtype=np.float32,
                meta=part._meta.astype(np.float32),
            )
            for first in range(0, len(angles), tilts)
        ]
        parts.append(da.concatenate(groups, axis=0))
    attrs = {
        "pixel_size": voxel_size,
        "volume_shape": [int(n) for n in volume.shape],
        "source": Path(str(volume.attrs.get("source", ""))).name,
    }
    coords: dict[str, Any] = {"angle": ("tilt", angles)}
    if slabs == 1:
        return xr.DataArray(
            parts[0], dims=("tilt", "y", "x"), coords=coords, attrs=attrs, name=volume.name
        )
    coords["height"] = ("slab", ((edges[:-1] + edges[1:] - 1) / 2 - nz // 2) * voxel_size)
    return xr.DataArray(
        da.stack(parts),
        dims=("slab", "tilt", "y", "x"),
        coords=coords,
        attrs=attrs,
        name=volume.name,
    )


def _project_block(block: Array, *, angles: np.ndarray, center_z: float) -> Array:
    """`project_volume` on one block in memory: all planes of a slab, some rows."""
    return on_device(partial(project, angles=angles, center_z=center_z), block)


def _rows_per_block(nz: int, ny: int, nx: int) -> int:
    """Rows of a slab of the volume, as read and in the order of the kernel."""
    return max(1, min(_ROWS, ny, _BUDGET // (nz * nx * 8)))


def checked_volume(volume: xr.DataArray) -> float:
    """Voxel size of a volume, Å; an InputError where it is none."""
    if volume.dims != ("z", "y", "x"):
        raise InputError(f"volume must have the dims (z, y, x), got {volume.dims}")
    voxel_size = float(volume.attrs.get("voxel_size", 0.0))
    if not (voxel_size > 0 and math.isfinite(voxel_size)):
        raise InputError(
            "volume needs the attribute voxel_size, Å, above 0; "
            f"got {volume.attrs.get('voxel_size')}"
        )
    if min(volume.shape) < 2:
        raise InputError(f"volume must be at least 2 voxels along each axis, got {volume.shape}")
    return voxel_size


def checked_angles(angles: Any) -> np.ndarray:
    """Tilts in degrees; an InputError where they are none."""
    values: np.ndarray = np.array(angles, np.float64)
    if values.ndim != 1 or not len(values):
        raise InputError(f"angles must be a list of degrees, got shape {values.shape}")
    if not (np.isfinite(values).all() and np.abs(values).max() <= STEEPEST):
        raise InputError(
            f"angles must lie within ±{STEEPEST:g} degrees, got {values.min()} to {values.max()}"
        )
    return values


def save_projections(projections: xr.DataArray, path: Path) -> None:
    """Compute projections (slab, tilt, y, x) or (tilt, y, x) into a store.

    Raises
    ------
    InputError
        If the disk is full.
    """
    data = projections.data
    if not isinstance(data, da.Array):
        data = da.from_array(data)
    # Zarr's chunks lie whole inside Dask's blocks, so that no two tasks write one: a block's rows,
    # one image deep.
    rows = data.chunks[-2][0]
    chunks = (*(1,) * (data.ndim - 2), rows, data.shape[-1])
    with replacing(path, overwrite=True, needed=4 * data.size) as part:
        group = zarr.open_group(part, mode="w")
        array = group.create_array(
            "projections", shape=data.shape, chunks=chunks, dtype=np.float32, compressors=None
        )
        kept: dict[str, Any] = {
            "tomodask": _KIND,
            "dims": list(projections.dims),
            "name": None if projections.name is None else str(projections.name),
            "attrs": dict(projections.attrs),
            "coords": {
                str(name): {"dims": list(coord.dims), "values": np.asarray(coord).tolist()}
                for name, coord in projections.coords.items()
            },
        }
        group.attrs.update(kept)
        compute(da.store(data, array, lock=False, compute=False), label="project")


def open_projections(path: Path) -> xr.DataArray:
    """Projections as they were saved; lazy, a block an image.

    Raises
    ------
    InputError
        If there is no such store.
    """
    try:
        group = zarr.open_group(path, mode="r")
    except (FileNotFoundError, ValueError, KeyError):
        raise InputError(f"{path}: no store of projections there; project again") from None
    kept = dict(group.attrs)
    if kept.get("tomodask") != _KIND:
        raise InputError(f"{path}: the store holds no projections; project again")
    array = group["projections"]
    blocks = (*(1,) * (array.ndim - 2), *array.shape[-2:])
    coords = {
        name: (tuple(one["dims"]), np.asarray(one["values"]))
        for name, one in kept["coords"].items()
    }
    return xr.DataArray(
        da.from_zarr(array, chunks=blocks),
        dims=kept["dims"],
        coords=coords,
        attrs=kept["attrs"],
        name=kept["name"],
    )
