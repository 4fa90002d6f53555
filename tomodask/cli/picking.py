"""``tomodask match``, ``pick`` and ``extract``: from a tomogram to boxes of particles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tomodask.cli.options import (
    INPUT,
    OWN_THREADS,
    TABLES,
    check_output,
    cluster_options,
    command,
    diameter_option,
    keep_former,
    numbers_or_none,
    output_option,
    overwrite_option,
    table_style_option,
    tilt_range_option,
    voxel_size_option,
)
from tomodask.cli.places import place
from tomodask.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["extract", "match", "pick"]


@command
@click.argument("tomogram", type=INPUT)
@click.argument("template", type=INPUT)
@output_option("SCORES.zarr", "Zarr store of scores and orientations.")
@click.option(
    "--angular-step", type=float, default=15.0, show_default=True, help="Of the grid, degrees."
)
@tilt_range_option
@diameter_option
@click.option(
    "--resolution",
    type=float,
    metavar="Å",
    help="Finest detail to compare, Å; 0 for all.  [default: what the angular step resolves]",
)
@click.option("--invert", is_flag=True, help="Take the template's negative (protein is dark).")
@click.option("--resample", is_flag=True, help="Bring the template to the tomogram's voxel size.")
@click.option("--tile", type=int, help="Edge of a tile, voxels.  [default: by cost]")
@voxel_size_option
@overwrite_option
@cluster_options(default="a local cluster of this machine's cores")
def match(
    tomogram: Path,
    template: Path,
    *,
    output: Path,
    angular_step: float,
    tilt_range: tuple[float, ...] | None,
    diameter: float | None,
    resolution: float | None,
    invert: bool,
    resample: bool,
    tile: int | None,
    voxel_size: float | None,
    overwrite: bool,
    **cluster: Any,
) -> None:
    """Score where a template fits a tomogram, and how turned.

    Every voxel of TOMOGRAM gets the score of TEMPLATE's best orientation there.  A match that
    was stopped goes on when the same command is given again.

    Example:
      tomodask match tomogram.zarr template.mrc --tilt-range -60 60 -o scores.zarr
    """
    check_output(output, (".zarr",), inputs=(tomogram, template))
    from tomodask.data.job_input import job_template
    from tomodask.data.tomograms import open_tomogram
    from tomodask.picking.templates.matching import match_template, save_scores

    volume = open_tomogram(tomogram, voxel_size=voxel_size)
    reference = job_template(template, float(volume.attrs["voxel_size"]), resample)
    scores = match_template(
        volume,
        reference,
        angular_step=angular_step,
        tilt_range=numbers_or_none(tilt_range),
        diameter=diameter,
        resolution=resolution,
        invert=invert,
        tile=tile,
    )
    with place(cluster):
        save_scores(scores, output, resume=not overwrite)
    rotations = scores.sizes["orientation"]
    click.echo(f"{output}: {rotations} orientations of a particle of {scores.diameter:g} Å")


@command
@click.argument("source", metavar="INPUT", type=INPUT)
@output_option("PICKS.star", "Particle table: .star, .tbl or .csv.")
@click.option(
    "--model",
    type=INPUT,
    metavar="MODEL.safetensors",
    help="Segment INPUT, a tomogram, with this network of `tomodask train`.",
)
@click.option(
    "--method",
    type=click.Choice(["segmentation", "template", "dog"]),
    help="What INPUT is picked by; dog, a difference of Gaussians, takes a tomogram.  [default: "
    "what INPUT is made for]",
)
@click.option(
    "--diameter",
    type=float,
    metavar="Å",
    help="Of the particle, Å; for dog and for volumes of other programs.  [default: what the match "
    "or the network says]",
)
@click.option(
    "--threshold",
    type=float,
    help="Least score, or least probability.  [default: the network's own; found from the scores "
    "of a match or of dog]",
)
@click.option("--max-particles", type=int, metavar="N", help="Keep the N best at most.")
@click.option(
    "--min-height",
    type=float,
    metavar="H",
    help="Of a probability: least height of a particle after pooling, 0 to 1.  [default: 0.1]",
)
@click.option(
    "--min-distance",
    type=float,
    metavar="Å",
    help="Of two picks closer than this the lower is dropped, Å; for a probability and dog.  "
    "[default: half the diameter]",
)
@click.option(
    "--apart",
    is_flag=True,
    help="For a network of several kinds: find each in a mask of its own, as the paper does, not "
    "all in one.",
)
@click.option("--invert", is_flag=True, help="For dog: particles are dark.")
@voxel_size_option
@table_style_option
@cluster_options(default=f"{OWN_THREADS}; with --model a local cluster")
def pick(
    source: Path,
    *,
    output: Path,
    model: Path | None,
    method: str | None,
    style: str,
    **options: Any,
) -> None:
    """Find particles in probabilities, scores or a tomogram.

    INPUT is the store that `tomodask segment` wrote, that of `tomodask match`, any volume of
    probabilities (or a mask), of which the voxels above --threshold are taken for particles of
    --diameter, or, with --model or --method dog, a tomogram.  Kinds of particles are the columns
    kind (names) and class (numbers, from 1).

    Example:
      tomodask pick probability.zarr -o picks.star
      tomodask pick tomogram.zarr --model model.safetensors -o picks.star
      tomodask pick scores.zarr -o picks.star
      tomodask pick tomogram.zarr --method dog --diameter 250 -o picks.star
      tomodask pick mask.mrc --threshold 0.5 --diameter 250 -o picks.star
    """
    check_output(output, TABLES, inputs=(source,) if model is None else (source, model))
    from tomodask.beforehand import whole
    from tomodask.cli.picking_inputs import PICKERS, kind_of, refuse_others
    from tomodask.data.particles import write_particles

    cluster = {name: options.pop(name) for name in ("scheduler", "workers", "memory", "config")}
    kind = kind_of(source, model, method)
    refuse_others(kind, source, options)
    options["max_particles"] = whole("max_particles", options["max_particles"], least=1)
    with place(cluster, local=kind == "model"):
        table, size, shape = PICKERS[kind](source, model, options)
    if table.empty:
        given = options["threshold"]
        at = "the threshold that was found" if given is None else f"threshold {given:g}"
        if given is None and kind in ("model", "segmentation"):
            at = f"threshold {table.attrs['threshold']:g}"
        raise InputError(f"{source}: no particle lies above {at}; give a lower --threshold")
    keep_former(output)
    write_particles(
        table, output, voxel_size=size, tomogram_shape=_centred(style, shape), style=style
    )
    told = f"{output}: {len(table)} particles above {table.attrs['threshold']:.4g}"
    counts = table["kind"].value_counts().to_dict() if "kind" in table else {}
    if len(counts) > 1:
        told += ": " + ", ".join(f"{number} {name}" for name, number in counts.items())
    click.echo(told)


def _centred(style: str, shape: tuple[int, ...]) -> Any:
    """Return the shape where the style of the table counts from the tomogram's middle."""
    return shape if style == "relion5" else None


@command
@click.argument("tomogram", type=INPUT)
@click.argument("picks", type=INPUT)
@output_option("SUBTOMOGRAMS.zarr", "Zarr store of the boxes.")
@click.option("--box", type=int, required=True, metavar="N", help="Edge of a box, voxels.")
@click.option(
    "--outside",
    type=click.Choice(["pad", "drop"]),
    default="pad",
    show_default=True,
    help="A box that leaves the tomogram: fill it with its mean, or leave the particle out.",
)
@tilt_range_option
@voxel_size_option
@click.option(
    "--picks-voxel-size",
    type=float,
    metavar="Å",
    help="Voxel size that the coordinates in PICKS count in, Å.  [default: what PICKS says, else "
    "the tomogram's]",
)
@overwrite_option
@cluster_options(default="a local cluster of this machine's cores")
def extract(
    tomogram: Path,
    picks: Path,
    *,
    output: Path,
    box: int,
    outside: Any,
    tilt_range: tuple[float, ...] | None,
    voxel_size: float | None,
    picks_voxel_size: float | None,
    overwrite: bool,
    **cluster: Any,
) -> None:
    """Cut a box around each particle out of a tomogram.

    PICKS is a particle table: STAR, Dynamo's tbl or CSV.

    Example:
      tomodask extract tomogram.zarr picks.star --box 64 -o subtomograms.zarr
    """
    check_output(output, (".zarr",), inputs=(tomogram, picks), replace=overwrite)
    from tomodask.data.subtomograms import extract_subtomograms, save_subtomograms
    from tomodask.data.tomograms import open_tomogram

    volume = open_tomogram(tomogram, voxel_size=voxel_size)
    size = float(volume.attrs["voxel_size"])
    table = _picks(picks, picks_voxel_size, volume)
    boxes = extract_subtomograms(
        volume, table, box=box, outside=outside, tilt_range=numbers_or_none(tilt_range)
    )
    with place(cluster):
        save_subtomograms(boxes, output, overwrite=overwrite)
    padded, dropped = boxes.attrs.get("padded", 0), boxes.attrs.get("dropped", 0)
    click.echo(
        f"{output}: {boxes.sizes['particle']} boxes of {box}³ voxels of {size:g} Å, "
        f"{padded} padded, {dropped} dropped"
    )


def _picks(path: Path, voxel_size: float | None, tomogram: xr.DataArray) -> pd.DataFrame:
    """A particle table; what its format leaves open is taken from the tomogram."""
    from tomodask.data.particles import read_particles

    size = float(tomogram.attrs["voxel_size"])
    if voxel_size is None and path.suffix.lower() == ".tbl":
        voxel_size = size  # Dynamo's tables say nothing
    try:
        return read_particles(path, voxel_size=voxel_size, need=("position",))
    except InputError:
        # RELION 5 counts from the tomogram's middle; its own list of tomograms comes first.
        if path.suffix.lower() != ".star" or b"_rlnCenteredCoordinate" not in _head(path):
            raise
    z, y, x = tomogram.shape
    return read_particles(path, voxel_size=size, tomogram_shape=(z, y, x), need=("position",))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(65536)
    except OSError:
        return b""
