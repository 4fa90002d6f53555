"""``tomodask average``: from boxes and their poses to an average and its resolution."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tomodask.cli.boxes import open_boxes, subtomograms_argument
from tomodask.cli.options import (
    INPUT,
    cluster_options,
    command,
    numbers_or_none,
    output_option,
    overwrite_option,
    tilt_range_option,
    voxel_size_option,
)
from tomodask.cli.places import place
from tomodask.cli.resolution import mask_options, read_mask, sharpening, tell_resolution
from tomodask.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["average"]

_MAPS = ("average.mrc", "half1.mrc", "half2.mrc")
_TABLES = ("fsc.csv", "directions.csv", "ssnr.csv")
_NOT_ALWAYS = ("set_aside.csv", "sharpened.mrc", "local_resolution.mrc")


@command
@subtomograms_argument
@click.option(
    "--poses",
    type=INPUT,
    metavar="STAR",
    help="Particle table of the poses, in the order of the boxes or with their names.  [default: "
    "the poses that the boxes carry]",
)
@output_option("FOLDER", "Gets average.mrc, half1.mrc, half2.mrc, fsc.csv and more tables.")
@tilt_range_option
@click.option(
    "--symmetry",
    default="C1",
    show_default=True,
    metavar="GROUP",
    help="Point group of the reference that the poses are of: C7, D7, T, O, I …",
)
@mask_options
@click.option(
    "--sharpen",
    metavar="B|auto",
    callback=sharpening,
    help="Write sharpened.mrc: amplitudes times exp(B k²/4), B in Å², shells weighted by the FSC; "
    "auto fits B from 10 Å on.",
)
@click.option(
    "--local-resolution", "local", is_flag=True, help="Write local_resolution.mrc, Å by voxel."
)
@voxel_size_option
@overwrite_option
@cluster_options(default="a local cluster of this machine's cores")
def average(
    subtomograms: tuple[Path, ...],
    *,
    poses: Path | None,
    output: Path,
    tilt_range: tuple[float, ...] | None,
    symmetry: str,
    diameter: float | None,
    mask: Path | None,
    seed: int,
    sharpen: float | str | None,
    local: bool,
    voxel_size: float | None,
    overwrite: bool,
    **cluster: Any,
) -> None:
    """Average subtomograms in two halves; tell the resolution.

    SUBTOMOGRAMS is what `tomodask align` takes.  FOLDER gets the average, the half maps, the
    Fourier shell correlation between them (corrected for the mask, where one is given), the same by
    direction (directions.csv) and the average's signal-to-noise ratio (ssnr.csv).

    Boxes that know the record of their tilt series are weighted and corrected by it (CTF, dose);
    --tilt-range takes its place.  Poses that alignment set aside are left out, boxes that hold NaN
    or one value only as well (set_aside.csv names them).

    Example:
      tomodask average subtomograms.zarr --poses poses.star -o average
      tomodask average subtomograms.zarr --symmetry C7 --mask mask.mrc --sharpen 800 -o average
    """
    import numpy as np

    from tomodask.averaging.averages import average_subtomograms
    from tomodask.averaging.local_resolution import local_resolution
    from tomodask.averaging.sharpening import sharpen as sharpened
    from tomodask.cluster import compute
    from tomodask.data.particles import read_particles
    from tomodask.data.tomograms import save_tomogram

    _check_folder(output, overwrite)
    boxes = open_boxes(subtomograms, voxel_size, tilt_range)
    table = None if poses is None else read_particles(poses, need=("orientation",))
    soft = read_mask(
        mask, diameter, box=boxes.sizes["x"], voxel_size=float(boxes.attrs["voxel_size"])
    )
    graph = average_subtomograms(
        boxes, poses=table, tilt_range=numbers_or_none(tilt_range), symmetry=symmetry
    )
    with place(cluster):
        result = compute(graph, label="average")
    output.mkdir(exist_ok=True)
    volumes = (result.average, result.half_1, result.half_2)
    for name, values in zip(_MAPS, volumes, strict=True):
        save_tomogram(_as_map(values, name, result.voxel_size), output / name, overwrite=True)
    halves = " + ".join(map(str, np.atleast_1d(result.particles)))
    under = "" if result.symmetry == "C1" else f", symmetry {result.symmetry}"
    click.echo(f"{output}: average of {halves} particles{under}")
    size = result.voxel_size
    curve, cones = tell_resolution(
        result.half_1, result.half_2, voxel_size=size, diameter=diameter, mask=soft, seed=seed
    )
    curve.to_csv(output / "fsc.csv", index=False)
    cones.to_csv(output / "directions.csv", index=False)
    result.ssnr.to_csv(output / "ssnr.csv", index=False)
    for name in _NOT_ALWAYS:  # of an average that was here before
        (output / name).unlink(missing_ok=True)
    if len(result.set_aside):
        result.set_aside.to_csv(output / "set_aside.csv", index=False)
        click.echo(f"boxes set aside: {len(result.set_aside)} (set_aside.csv)")
    if local:
        levels = local_resolution(result.half_1, result.half_2, voxel_size=size, mask=soft)
        save_tomogram(levels, output / "local_resolution.mrc", overwrite=True)
        click.echo(f"local resolution: in a window of {levels.attrs['window']:.0f} Å")
    if sharpen is not None:
        sharp = sharpened(result.average, voxel_size=size, b_factor=sharpen, fsc=curve)
        save_tomogram(sharp, output / "sharpened.mrc", overwrite=True)
        cut = sharp.attrs["resolution"]
        click.echo(f"sharpened: B {sharp.attrs['b_factor']:.0f} Å² to {cut:.1f} Å")


def _as_map(values: Any, name: str, voxel_size: float) -> xr.DataArray:
    import xarray as xr

    return xr.DataArray(
        values,
        dims=("z", "y", "x"),
        name=name.removesuffix(".mrc"),
        attrs={"voxel_size": voxel_size},
    )


def _check_folder(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; name a folder with -o")
    if not output.absolute().parent.is_dir():
        raise InputError(f"{output}: the folder {output.parent} does not exist; make it first")
    there = [name for name in (*_MAPS, *_TABLES, *_NOT_ALWAYS) if (output / name).exists()]
    if there and not overwrite:
        raise InputError(
            f"{output / there[0]} exists already; choose another folder or add --overwrite"
        )
