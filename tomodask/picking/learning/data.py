"""From tomograms and tables of picks to what a network is trained on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.data.classes import class_names
from tomodask.data.columns import POSITION, SHIFT, require_columns
from tomodask.data.particles import read_particles
from tomodask.data.positions import warn_of_voxels
from tomodask.data.sources import source_state
from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError, did_you_mean

__all__ = ["FEWEST", "LARGEST", "SMALLEST", "Marked", "read_marked"]

_log = logging.getLogger(__name__)

SMALLEST, LARGEST = 7.0, 25.0  # voxels across a particle that the network is made for (the paper's)
FEWEST = 4  # particles: fewer cannot be both learned and held out
_BEST = 16.0  # voxels: the middle of that range, by ratio about


@dataclass(frozen=True)
class Marked:
    """Tomograms and the particles marked in them.

    Attributes
    ----------
    volumes : list of DataArray, dims (z, y, x)
        Lazy, of one voxel size.
    centers : list of array, shape (n, 3)
        Of each tomogram, voxels.
    numbers : list of array of int, shape (n,)
        Number of the class, from 1.
    classes : tuple of str
    diameters : tuple of float
        Å.
    voxel_size : float
        Å.
    """

    volumes: list[xr.DataArray]
    centers: list[np.ndarray]
    numbers: list[np.ndarray]
    classes: tuple[str, ...]
    diameters: tuple[float, ...]
    voxel_size: float

    @property
    def count(self) -> int:
        """Particles in all."""
        return sum(map(len, self.centers))

    def told(self) -> list[dict[str, Any]]:
        """What a training record says of the data."""
        return [
            {
                "tomogram": str(volume.name),
                "state": source_state(volume),
                "shape": list(volume.shape),
                "particles": {
                    name: int((numbers == n + 1).sum()) for n, name in enumerate(self.classes)
                },
            }
            for volume, numbers in zip(self.volumes, self.numbers, strict=True)
        ]


def read_marked(
    tomograms: Any,
    picks: pd.DataFrame | str | os.PathLike[str],
    *,
    diameter: float | Mapping[str, float],
    classes: Sequence[str] | None = None,
    voxel_size: float | None = None,
    any_size: bool = False,
) -> Marked:
    """Open the tomograms, share the picks out to them, and check both.

    Parameters
    ----------
    tomograms : path, DataArray, or a sequence of them
    picks : DataFrame or path
        Positions in Å (shifts are added); with several tomograms, column ``tomogram`` has their
        names.  Classes are the column ``kind`` (names), else ``class`` (numbers); without either
        there is one.
    diameter : float or mapping
        Of the particles, Å; a mapping has one for each class.
    classes : sequence of str, optional
        Only these, in this order; by default all, sorted.
    voxel_size : float, optional
        Å; in place of what the tomograms say.
    any_size : bool
        Let particles pass that are not 7 to 25 voxels across.
    """
    volumes = _opened(tomograms, voxel_size)
    size = float(volumes[0].attrs["voxel_size"])
    name = str(picks) if isinstance(picks, (str, os.PathLike)) else "picks"
    if isinstance(picks, pd.DataFrame):
        table = picks
    else:
        try:
            table = read_particles(picks, need=("position",))
        except InputError:
            # Dynamo's tables, and some STAR files, count in voxels that they do not tell; RELION 5
            # counts from the tomogram's middle.
            shapes: Any = {str(volume.name): volume.shape for volume in volumes}
            if len(volumes) == 1:
                shapes = volumes[0].shape
            table = read_particles(
                picks, voxel_size=size, tomogram_shape=shapes, need=("position",)
            )
    require_columns(table, ("position",), name, rows=False)
    if table.empty:
        raise InputError(f"{name}: holds no particle; mark some centres first")
    label = class_names(table)
    there = sorted(label.unique())
    known = there if classes is None else list(dict.fromkeys(classes))
    missing = [one for one in known if one not in set(label)]
    if missing:
        raise InputError(
            f"classes: no particle in {name} is of {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, there))}{did_you_mean(missing, there)}"
        )
    if len(known) > 254:
        raise InputError(f"classes: at most 254, got {len(known)} in {name}; choose some (classes)")
    if isinstance(diameter, Mapping):
        nobody = [one for one in diameter if one not in {*known, *label}]
        if nobody:
            raise InputError(
                f"diameter: no particle in {name} is of {', '.join(map(repr, nobody))}; it has "
                f"{', '.join(map(repr, there))}{did_you_mean(nobody, there)}"
            )
    diameters = _diameters(diameter, known)
    if not any_size:
        _check_diameters(diameters, known, size)
    chosen = label.isin(known).to_numpy()
    number = label.map({one: n + 1 for n, one in enumerate(known)}).to_numpy()
    position = table[list(POSITION)].to_numpy(float)
    if set(SHIFT) <= set(table):
        position = position + table[list(SHIFT)].to_numpy(float)
    centers, numbers = [], []
    for volume in volumes:
        here = chosen & _in_tomogram(table, volume, alone=len(volumes) == 1, name=name)
        zyx = position[here] / float(volume.attrs["voxel_size"])
        _check_inside(zyx, volume, name)
        warn_of_voxels(zyx, volume, name)
        centers.append(zyx)
        numbers.append(number[here].astype(np.int64))
    marked = Marked(volumes, centers, numbers, tuple(known), diameters, size)
    if marked.count < FEWEST:
        names = ", ".join(str(v.name) for v in volumes)
        raise InputError(
            f"{name}: {marked.count} particles in {names}; training needs {FEWEST} at least, and "
            "some dozens for a good result: mark more"
        )
    return marked


def _opened(tomograms: Any, voxel_size: float | None) -> list[xr.DataArray]:
    if isinstance(tomograms, (str, os.PathLike, xr.DataArray)):
        tomograms = [tomograms]
    volumes = []
    for one in tomograms:
        volume = one if isinstance(one, xr.DataArray) else open_tomogram(one, voxel_size=voxel_size)
        if volume.ndim != 3:
            raise InputError(f"a tomogram has the axes (z, y, x), got {volume.dims}")
        if isinstance(one, xr.DataArray) and voxel_size is not None:
            volume = volume.assign_attrs(voxel_size=float(voxel_size))
        if not volume.attrs.get("voxel_size"):
            raise InputError(f"{volume.name}: no voxel size; give it (voxel_size, --voxel-size), Å")
        volumes.append(volume)
    if not volumes:
        raise InputError("tomograms is empty; give one at least")
    sizes = [float(v.attrs["voxel_size"]) for v in volumes]
    if max(sizes) > 1.01 * min(sizes):
        raise InputError(
            f"tomograms have voxel sizes from {min(sizes):g} to {max(sizes):g} Å: bring them to "
            f"one (`tomodask convert IN OUT --resample-to {max(sizes):g}`), or train on those of "
            "one size; the model is used on any"
        )
    names = [str(v.name) for v in volumes]
    if len(set(names)) < len(names):
        raise InputError(f"tomograms need different names, got {', '.join(names)}")
    return volumes


def _diameters(diameter: float | Mapping[str, float], classes: list[str]) -> tuple[float, ...]:
    if isinstance(diameter, Mapping):
        missing = [one for one in classes if one not in diameter]
        if missing:
            raise InputError(
                f"diameter: none given for {', '.join(map(repr, missing))}; give one for each class"
            )
        values = [diameter[one] for one in classes]
    else:
        values = [diameter] * len(classes)
    if not all(np.isfinite(d) and d > 0 for d in values):
        raise InputError(f"diameter must be above 0 Å, got {', '.join(f'{d:g}' for d in values)}")
    return tuple(float(d) for d in values)


def _check_diameters(diameters: tuple[float, ...], classes: list[str], size: float) -> None:
    """Refuse particles that the network is not made for."""
    for one, d in zip(classes, diameters, strict=True):
        width = d / size
        if SMALLEST <= width <= LARGEST:
            continue
        factor = width / _BEST
        bins = max(2, round(factor))
        way = (
            f"bin the tomograms by {bins}, to {size * bins:g} Å "
            f"(`tomodask convert IN OUT --resample-to {size * bins:g}`; the picks stay as they are)"
            if width > LARGEST
            else f"rescale the tomograms to voxels {1 / factor:.1f} times as small, "
            f"{d / _BEST:.3g} Å (reconstruct them with less binning)"
        )
        raise InputError(
            f"diameter of {one!r} is {width:.1f} voxels ({d:g} Å of {size:g} Å); the network is "
            f"made for {SMALLEST:g} to {LARGEST:g}: {way}, or train nevertheless (any_size=True, "
            "--any-size)"
        )


def _in_tomogram(
    table: pd.DataFrame, volume: xr.DataArray, *, alone: bool, name: str
) -> np.ndarray:
    """Which rows are of this tomogram."""
    if "tomogram" not in table:
        if alone:
            return np.ones(len(table), bool)
        raise InputError(
            f"{name}: no column tomogram, so its particles cannot be shared out to several "
            "tomograms; add it (in a STAR rlnTomoName)"
        )
    names = table["tomogram"].astype(str)
    wanted = {str(volume.name)}
    if volume.attrs.get("source"):
        wanted |= {Path(volume.attrs["source"]).name, Path(volume.attrs["source"]).stem}
    here = names.isin(wanted).to_numpy()
    if alone and not here.any() and len(set(names)) == 1:  # one tomogram, one name: renamed
        _log.warning("%s: tomogram %s is taken for %s", name, names.iloc[0], volume.name)
        return np.ones(len(table), bool)
    if not here.any():
        raise InputError(
            f"{name}: no particle is of tomogram {volume.name!r}; its column tomogram has "
            f"{', '.join(map(repr, sorted(names.unique())[:5]))}"
        )
    return np.asarray(here)


def _check_inside(zyx: np.ndarray, volume: xr.DataArray, name: str) -> None:
    inside = ((zyx > -0.5) & (zyx < np.array(volume.shape) - 0.5)).all(1)
    if not inside.all():
        worst = int(np.argmin(inside))
        at = ", ".join(f"{v:.0f}" for v in zyx[worst])
        raise InputError(
            f"{name}: {int((~inside).sum())} of {len(zyx)} particles lie outside of tomogram "
            f"{volume.name!r} of {'×'.join(map(str, volume.shape))} voxels (z, y, x), the first at "
            f"voxel ({at}); are the positions of another voxel size or binning?"
        )
