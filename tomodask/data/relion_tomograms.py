"""RELION 5's tomograms.star and optimisation set: where a centred coordinate has its origin."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tomodask.errors import InputError

__all__ = ["centre_offsets", "optimisation_set", "set_beside"]

_SIZES = ("rlnTomoSizeZ", "rlnTomoSizeY", "rlnTomoSizeX")
_PIXEL = "rlnTomoTiltSeriesPixelSize"
_WAY_OUT = (
    "pass tomogram_shape=(z, y, x) with voxel_size=…, or the tomograms.star as tomogram_shape=…"
)

Reader = Callable[[Path], dict[str, Any]]


def optimisation_set(path: Path, blocks: dict[str, Any]) -> tuple[Path, Path] | None:
    """Files of particles and tomograms that an optimisation set names; None for any other STAR."""
    for block in blocks.values():
        if isinstance(block, pd.DataFrame):
            block = block.iloc[0].to_dict() if len(block) == 1 else {}
        if {"rlnTomoParticlesFile", "rlnTomoTomogramsFile"} <= set(block):
            particles, tomograms = (
                _below_project(path, str(block[key]))
                for key in ("rlnTomoParticlesFile", "rlnTomoTomogramsFile")
            )
            return particles, tomograms
    return None


def set_beside(path: Path, read: Reader) -> Path | None:
    """The tomograms.star that an optimisation set in the same folder names for these particles."""
    for candidate in sorted(path.parent.glob("*optimisation_set.star")):
        try:
            found = optimisation_set(candidate, read(candidate))
        except InputError:  # of another iteration, whose files are gone
            continue
        if found is not None and found[0].resolve() == path.resolve():
            return found[1]
    return None


def centre_offsets(
    path: Path,
    names: list[str] | None,
    shape: tuple[int, int, int] | Mapping[str, Any] | str | os.PathLike[str] | None,
    voxel_size: float | None,
    read: Reader,
) -> np.ndarray:
    """Middle of each particle's tomogram: half its extent, in Å, (z, y, x).

    Parameters
    ----------
    path : Path
        For messages.
    names : list of str, optional
        Tomogram of each particle.
    shape
        (z, y, x) in voxels of `voxel_size`, that by tomogram, or a tomograms.star.
    """
    if shape is None:
        raise InputError(
            f"{path}: RELION 5 counts positions from the tomogram's middle, so its size is needed; "
            + _WAY_OUT
        )
    if isinstance(shape, str | os.PathLike):
        extents = _extents(Path(shape), read)
    else:
        if voxel_size is None:
            raise InputError(f"{path}: tomogram_shape counts voxels, so voxel_size is needed, too")
        if not isinstance(shape, Mapping):
            return _half(path, np.asarray(shape, float) * voxel_size)
        extents = {str(k): np.asarray(v, float) * voxel_size for k, v in shape.items()}
    if names is None:
        if len(extents) == 1:
            return _half(path, next(iter(extents.values())))
        raise InputError(f"{path}: has no rlnTomoName, so which tomogram's size counts? {_WAY_OUT}")
    if missing := sorted(set(names) - set(extents)):
        raise InputError(
            f"{path}: the size of the tomogram {missing[0]} is not known, only of "
            f"{', '.join(sorted(extents)) or 'none'}; {_WAY_OUT}"
        )
    return np.array([_half(path, extents[name]) for name in names]).reshape(-1, 3)


def _half(path: Path, extent: np.ndarray) -> np.ndarray:
    if extent.shape != (3,) or not (extent > 0).all():
        raise InputError(f"{path}: tomogram_shape must be three sizes (z, y, x), got {extent}")
    return extent / 2


def _extents(path: Path, read: Reader) -> dict[str, np.ndarray]:
    """Size in Å of each tomogram of a tomograms.star: unbinned voxels × their size."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; {_WAY_OUT}")
    needed = ("rlnTomoName", *_SIZES, _PIXEL)
    for block in read(path).values():
        if isinstance(block, pd.DataFrame) and set(needed) <= set(block):
            sizes = block[list(_SIZES)].to_numpy(float) * block[_PIXEL].to_numpy(float)[:, None]
            return dict(zip(block["rlnTomoName"].astype(str), sizes, strict=True))
    raise InputError(f"{path}: no table of tomograms; needs the columns {', '.join(needed)}")


def _below_project(path: Path, named: str) -> Path:
    """RELION names files from the project's folder: the nearest folder above where it exists."""
    for folder in path.resolve().parents:
        if (folder / named).is_file():
            return folder / named
    raise InputError(f"{path}: names {named}, which is in no folder above it; put it there")
