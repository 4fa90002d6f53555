"""``tomodask info`` and ``tomodask convert``: what files are, and other files of the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from tomodask.cli.options import (
    INPUT,
    OWN_THREADS,
    VOLUMES,
    check_output,
    cluster_options,
    command,
    overwrite_option,
    voxel_size_option,
)
from tomodask.errors import InputError

__all__ = ["convert", "info"]

_UNITS = {
    "shape": "voxels (z, y, x)",
    "voxel_size": "Å",
    "extent": "Å (z, y, x)",
    "megabytes": "MB",
}
_UNITS |= {"chunks": "voxels", "tilt_range": "degrees", "zarr_chunks": "voxels"}
_UNITS |= {"image_size": "pixels (y, x)", "pixel_size": "Å", "tilt_increment": "degrees"}
_UNITS |= {"exposure": "e/Å²", "exposure_before_the_last": "e/Å²", "defocus_range": "Å"}
_UNITS |= {"voltage": "kV", "spherical_aberration": "mm", "phase_shift": "degrees"}
_UNITS |= {"tilt_axis": "degrees"}
_UNITS |= {"diameters": "Å", "label_diameter": "voxels", "halo": "voxels"}
_UNITS |= {f"{axis}_range": "Å" for axis in "zyx"} | {"zarr_shards": "voxels"}


@command
@click.argument("paths", nargs=-1, required=True, type=INPUT, metavar="PATH...")
@voxel_size_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def info(paths: tuple[Path, ...], voxel_size: float | None, as_json: bool) -> None:
    """Tell what a file is: shape, voxel size, range, particles.

    PATH is a tomogram or map (MRC, TIFF, EM, OME-Zarr), a tilt series (its stack or STAR), a
    particle table (STAR, Dynamo's tbl, CSV), a store of subtomograms, a folder of boxes or a
    model.

    Example:
      tomodask info tomogram.mrc particles.star subtomograms.zarr
    """
    from tomodask.data.describe import describe

    failed: list[InputError] = []
    for path in paths:
        try:
            told = describe(path, voxel_size=voxel_size)
        except InputError as error:  # of many files, the others are still told
            if len(paths) == 1:
                raise
            failed.append(error)
            click.echo(f"tomodask: {error}", err=True)
            continue
        if as_json:
            click.echo(json.dumps({key: _plain(value) for key, value in told.items()}))
        else:
            _print_table(told)
    if failed:
        raise InputError(f"{len(failed)} of {len(paths)} files cannot be read, see above")


def _plain(value: Any) -> Any:
    """Return what JSON knows: lists for tuples, text for all else."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value.item() if hasattr(value, "item") else value


def _print_table(told: dict[str, Any]) -> None:
    rows = [
        (
            key.replace("_", " "),
            f"{_shown(value)} {'' if isinstance(value, str) else _UNITS.get(key, '')}".rstrip(),
        )
        for key, value in told.items()
        if key != "path"
    ]
    if not sys.stdout.isatty():  # a log or another program: no frame, no folded lines
        click.echo("\n".join([told["path"], *(f"  {key}: {value}" for key, value in rows)]))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(told["path"]), title_justify="left", show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(key, escape(value))
    Console().print(table)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        separator = " × " if all(isinstance(one, int) for one in value) else ", "
        return separator.join(map(_shown, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@command
@click.argument("source", type=INPUT, metavar="IN")
@click.argument("target", type=INPUT, metavar="[OUT]", required=False)
@click.option("-o", "--output", type=INPUT, metavar="OUT", help="The same as OUT.")
@click.option(
    "--chunk", type=int, default=64, show_default=True, help="Zarr: edge of a chunk, voxels."
)
@click.option("--shard", type=int, help="Zarr: edge of a shard, voxels.  [default: about 128]")
@click.option("--levels", type=int, help="Zarr: number of scales.  [default: down to 64 voxels]")
@click.option(
    "--compression",
    type=click.Choice(["zstd", "lz4", "none"]),
    default="zstd",
    show_default=True,
    help="Zarr: compression of the chunks.",
)
@click.option("--dtype", help="Type of the voxels written, e.g. float16.  [default: as they are]")
@click.option("--fill", type=float, help="Write this for NaN and infinite voxels.")
@voxel_size_option
@click.option(
    "--resample-to",
    type=float,
    metavar="Å",
    help="Resample a map (in memory) to this voxel size, Å: for a template.",
)
@overwrite_option
@cluster_options(default=OWN_THREADS)
def convert(
    source: Path,
    target: Path | None,
    output: Path | None,
    *,
    chunk: int,
    shard: int | None,
    levels: int | None,
    compression: str,
    dtype: str | None,
    fill: float | None,
    voxel_size: float | None,
    resample_to: float | None,
    overwrite: bool,
    **cluster: Any,
) -> None:
    """Write a tomogram or map as MRC or OME-Zarr.

    The suffix of OUT says which.  IN is MRC (.mrc, .map, .rec, also .gz and .bz2), TIFF, EM or
    OME-Zarr.  The volume streams from one file to the other and is never in memory as a whole.

    Example:
      tomodask convert tomogram.mrc tomogram.zarr --chunk 64
      tomodask convert emd_3228.map.gz template.mrc --resample-to 10
    """
    out = target or output
    if out is None or (target is not None and output is not None):
        raise click.UsageError(
            "Name the output once, as OUT or with -o.", click.get_current_context()
        )
    from tomodask.cli.places import place

    check_output(out, VOLUMES, inputs=(source,), replace=overwrite)
    from tomodask.data.tomograms import open_tomogram, save_tomogram

    volume = open_tomogram(source, voxel_size=voxel_size)
    with place(cluster, local=False):
        if resample_to is not None:
            from tomodask.data.resample import resample_map

            volume = resample_map(volume, voxel_size=resample_to)
        save_tomogram(
            volume,
            out,
            chunk=chunk,
            shard=shard,
            levels=levels,
            compression=compression,
            dtype=dtype,
            fill=fill,
            overwrite=overwrite,
        )
    sizes = "×".join(map(str, volume.shape))
    click.echo(f"{out}: {sizes} voxels of {volume.attrs['voxel_size']:g} Å")
