"""Boxes of particles, as they are named on a command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tomodask.cli.options import INPUT, numbers_or_none
from tomodask.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["boxes_named", "open_boxes", "subtomograms_argument"]

subtomograms_argument = click.argument(
    "subtomograms", nargs=-1, required=True, type=INPUT, metavar="SUBTOMOGRAMS..."
)


def boxes_named(paths: tuple[Path, ...]) -> Path | list[Path]:
    """One name (store, folder, pattern, STAR), or the names that a shell made of a pattern.

    Raises
    ------
    InputError
        If a store, a folder or a STAR is one of several names.
    """
    if len(paths) == 1:
        return paths[0]
    several = [path for path in paths if path.is_dir() or path.suffix.lower() in (".star", ".zarr")]
    if several:
        raise InputError(
            f"subtomograms must be one store, one folder, one STAR, one pattern in quotes, or any "
            f"number of files of one box, got {len(paths)} names with {several[0]} among them; "
            "list the boxes of several in one STAR, as rlnImageName 0@A.zarr, 1@A.zarr, 0@B.zarr …"
        )
    return list(paths)


def open_boxes(
    paths: tuple[Path, ...], voxel_size: float | None, tilt_range: tuple[float, ...] | None
) -> xr.Dataset:
    """Open the boxes that `boxes_named` tells of."""
    from tomodask.data.subtomograms import open_subtomograms

    return open_subtomograms(
        boxes_named(paths), voxel_size=voxel_size, tilt_range=numbers_or_none(tilt_range)
    )
