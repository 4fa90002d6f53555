"""The volumes of a packing: density, labels and occupancy, each built block by block on demand.

A block draws only what reaches it (`tomodask.simulation.scene`), and each voxel sums what it holds
in one order, from the places in the whole volume; so any chunks give equal bits, and memory goes
with the blocks.  A particle is turned and moved by evaluating the cubic B-spline of its density
where the voxels of the volume lie.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize
from dask.delayed import delayed

from tomodask.data.particles import write_particles
from tomodask.data.tomograms import save_tomogram
from tomodask.errors import InputError
from tomodask.simulation.collisions import bodies_of
from tomodask.simulation.membranes import (
    GOLD_POTENTIAL,
    MEMBRANE_HALF_THICKNESS,
    bilayer_profile,
)
from tomodask.simulation.packing import Packing
from tomodask.simulation.scene import (
    PROFILE_STEP,
    Scene,
    density_block,
    labels_block,
    occupancy_block,
)
from tomodask.simulation.splines import SplineDensity

__all__ = ["specimen_density", "specimen_labels", "specimen_occupancy", "write_truth"]

_CHUNKS = (128, 256, 256)  # 8 million voxels, 0.2 s of work where a quarter is filled


def specimen_density(
    packing: Packing,
    densities: Mapping[str, xr.DataArray],
    *,
    chunks: Any = None,
    resolution: float | None = None,
    bead_potential: float = GOLD_POTENTIAL,
    membrane_contrast: float = 1.0,
) -> xr.DataArray:
    """The electrostatic potential of a specimen above that of the ice, in volts, lazily.

    Parameters
    ----------
    packing : Packing
    densities : mapping of str to DataArray, dims (z, y, x)
        A map in volts for each kind that occurs, with ``attrs["voxel_size"]``, the particle's
        centre in voxel ``box // 2``.  Best at half the voxel size of the packing and a resolution
        of at least two voxels of it: what is finer is faded out where the map's voxels are
        smaller than that, and maps of larger voxels are brought to finer ones by their Fourier
        series first.
    chunks : int or tuple, optional
        Of the Dask array, as Dask takes them; by default about 128 × 256 × 256 voxels.
    resolution : float, optional
        Å, of membranes and beads: their edges are blurred by ``exp(-(resolution · k)²)``, as
        `structure_density` does; by default two voxels.
    bead_potential : float
        V above ice.
    membrane_contrast : float
        Factor of `bilayer_profile`.

    Returns
    -------
    DataArray of float32, dims (z, y, x)
        ``attrs`` `voxel_size` and `source`.  Nothing is drawn before it is computed.

    Raises
    ------
    InputError
        If a kind has no density, or a length is out of range.
    """
    voxel_size = packing.voxel_size
    resolution = 2 * voxel_size if resolution is None else float(resolution)
    if not resolution > 0:
        raise InputError(f"resolution must be above 0 Å, got {resolution}")
    missing = [name for name, count in packing.counts.items() if count and name not in densities]
    if missing:
        raise InputError(
            f"densities has none for {', '.join(map(repr, missing))}; give one for each kind of "
            f"{', '.join(map(repr, packing.shapes))}"
        )
    splines = [
        SplineDensity.of(densities[name], voxel_size=voxel_size)
        if count
        else SplineDensity.nothing()
        for name, count in packing.counts.items()
    ]
    blur = resolution / (math.pi * math.sqrt(2))
    reach = MEMBRANE_HALF_THICKNESS + 5 * blur
    bilayer = membrane_contrast * bilayer_profile(np.arange(0, reach, PROFILE_STEP), blur=blur)
    scene = Scene.of(
        packing,
        splines,
        np.array([one.radius for one in splines]),
        bilayer,
        [_ball_profile(d, blur) * bead_potential for d in packing.beads.get("diameter", ())],
    )
    return _lay(packing, scene, density_block, np.float32, chunks, "density")


def specimen_labels(packing: Packing, *, classes: bool = False, chunks: Any = None) -> xr.DataArray:
    """Which particle, or which kind of particle, each voxel belongs to, lazily.

    A voxel belongs to a particle if its middle lies in the particle's body (`particle_shape`), to a
    membrane within 24 Å of its middle, to a bead within its radius.  No voxel belongs to two.

    Parameters
    ----------
    packing : Packing
    classes : bool
        False: the number of the particle, its row in ``packing.particles`` from 1 on; then beads,
        then vesicles go on counting.  True: ``packing.classes``.
    chunks : int or tuple, optional

    Returns
    -------
    DataArray of int32, dims (z, y, x)
        0 is empty.
    """
    particles, beads = packing.particles, packing.beads
    if classes:
        values = [t["class"].to_numpy(np.int32) for t in (particles, beads, packing.vesicles)]
    else:
        counts = np.cumsum([0, len(particles), len(beads), len(packing.vesicles)])
        values = [
            np.arange(low + 1, high + 1, dtype=np.int32) for low, high in itertools.pairwise(counts)
        ]
    scene = _solid(packing, values)
    return _lay(packing, scene, labels_block, np.int32, chunks, "classes" if classes else "labels")


def specimen_occupancy(packing: Packing, *, chunks: Any = None) -> xr.DataArray:
    """The share of each voxel, 0 to 1, that particles, membranes and beads fill, lazily.

    From the distance d between the voxel's middle and the nearest surface: ½ − d in voxels, cut to
    0 … 1; its sum is the volume of all bodies.

    Parameters
    ----------
    packing : Packing
    chunks : int or tuple, optional

    Returns
    -------
    DataArray of float32, dims (z, y, x)
    """
    scene = _solid(packing, None)
    return _lay(packing, scene, occupancy_block, np.float32, chunks, "occupancy")


def write_truth(
    packing: Packing,
    folder: str | os.PathLike[str],
    *,
    chunks: Any = None,
    overwrite: bool = False,
) -> dict[str, Path]:
    """Write what is known of a specimen: tables and maps.  Computes.

    ``particles.star`` (positions, orientations, ``kind``, ``class``), ``vesicles.csv`` and
    ``beads.csv`` where there are any, ``classes.csv`` (number, name, copies, radius and volume),
    ``labels.zarr``, ``classes.zarr`` and ``occupancy.zarr`` (0 to 1, see `specimen_occupancy`).

    Parameters
    ----------
    packing : Packing
    folder : path
        Made if it is not there.
    chunks : int or tuple, optional
        Of the blocks that are drawn at once.
    overwrite : bool

    Returns
    -------
    dict
        Path by what it holds.

    Raises
    ------
    InputError
        If a file exists and may not be overwritten, or the disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "vesicles": packing.vesicles,
        "beads": packing.beads,
        "classes": _class_table(packing),
    }
    paths = {"particles": folder / "particles.star"}
    paths |= {name: folder / f"{name}.csv" for name, table in tables.items() if len(table)}
    maps = {
        "labels": specimen_labels(packing, chunks=chunks),
        "class_map": specimen_labels(packing, classes=True, chunks=chunks),
        "occupancy": specimen_occupancy(packing, chunks=chunks),
    }
    paths |= {name: folder / f"{volume.name}.zarr" for name, volume in maps.items()}
    if not overwrite and (there := [path for path in paths.values() if path.exists()]):
        raise InputError(f"{there[0]} exists; allow it to be overwritten, or choose another folder")
    write_particles(packing.particles, paths["particles"], voxel_size=packing.voxel_size)
    for name, table in tables.items():
        if name in paths:
            table.to_csv(paths[name], index=False)
    for name, volume in maps.items():
        # One level: the mean of two labels is no label.
        levels = None if name == "occupancy" else 1
        save_tomogram(volume, paths[name], levels=levels, overwrite=overwrite)
    return paths


def _class_table(packing: Packing) -> pd.DataFrame:
    counts = {**packing.counts, "bead": len(packing.beads), "vesicle": len(packing.vesicles)}
    table = pd.DataFrame({"class": packing.classes, "copies": counts})
    table["radius"] = pd.Series({name: shape.radius for name, shape in packing.shapes.items()})
    table["volume"] = pd.Series({name: shape.volume for name, shape in packing.shapes.items()})
    table["level"] = pd.Series({name: shape.level for name, shape in packing.shapes.items()})
    return table.rename_axis("kind").reset_index()


def _ball_profile(diameter: float, blur: float) -> np.ndarray:
    """Share of gold by the distance from a bead's centre, blurred as if its surface were flat."""
    from scipy.special import erfc

    far = np.arange(0, diameter / 2 + 5 * blur + 2 * PROFILE_STEP, PROFILE_STEP)
    return np.asarray(0.5 * erfc((far - diameter / 2) / (math.sqrt(2) * blur)))


def _slab_profile(half: float, softness: float) -> np.ndarray:
    """1 until `softness` / 2 before `half`, ½ at `half`, 0 from `softness` / 2 beyond it on."""
    far = np.arange(0, half + softness + 2 * PROFILE_STEP, PROFILE_STEP)
    return np.clip(0.5 - (far - half) / softness, 0, 1)


def _solid(packing: Packing, values: list[np.ndarray] | None) -> Scene:
    """The scene of bodies."""
    voxel = packing.voxel_size
    softness = voxel if values is None else 4 * PROFILE_STEP
    return Scene.of(
        packing,
        bodies_of(packing.shapes, voxel),
        np.array([shape.radius for shape in packing.shapes.values()]) + voxel,
        _slab_profile(MEMBRANE_HALF_THICKNESS, softness),
        [_slab_profile(d / 2, softness) for d in packing.beads.get("diameter", ())],
        values,
    )


def _lay(
    packing: Packing, scene: Scene, block: Any, dtype: Any, chunks: Any, what: str
) -> xr.DataArray:
    try:
        laid = da.core.normalize_chunks(
            _CHUNKS if chunks is None else chunks, packing.shape, dtype=dtype
        )
    except ValueError as error:
        raise InputError(f"chunks={chunks} do not fit the shape {packing.shape}: {error}") from None
    token = tokenize(block.__name__, scene, laid)
    shared = delayed(scene, name=f"scene-{token}", traverse=False)
    array = da.map_blocks(
        _draw,
        block=block,
        scene=shared,
        chunks=laid,
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype),
        name=f"specimen-{what}-{token}",
    )
    return xr.DataArray(
        array,
        dims=("z", "y", "x"),
        coords={
            axis: np.arange(size) * packing.voxel_size
            for axis, size in zip("zyx", packing.shape, strict=True)
        },
        name=what,
        attrs={"voxel_size": packing.voxel_size, "source": f"specimen {what}"},
    )


def _draw(*, block: Any, scene: Scene, block_info: Any = None) -> np.ndarray:
    """One block: told its place by Dask."""
    here = block_info[None]
    place = np.array(here["array-location"], np.int64)
    out = np.zeros(place[:, 1] - place[:, 0], here["dtype"])
    block(out, place[:, 0], scene)
    return out
