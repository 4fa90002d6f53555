"""``tomodask match``, ``pick`` and ``extract``: from a tomogram to boxes of particles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tomodask.cli.options import (
    INPUT,
    TABLES,
    check_output,
    cluster_options,
    command,
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
@click.option(
    "--diameter", type=float, metavar="Å", help="Of the particle, Å.  [default: measured]"
)
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
    from tomodask.picking.template_matching import match_template, save_scores

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
@click.argument("scores", type=INPUT)
@output_option("PICKS.star", "Particle table: .star, .tbl or .csv.")
@click.option(
    "--diameter", type=float, metavar="Å", help="Of the particle, Å.  [default: that of the match]"
)
@click.option(
    "--threshold",
    type=float,
    help="Least score, or least probability.  [default for a match: found from the scores]",
)
@click.option("--max-particles", type=int, metavar="N", help="Keep the N best at most.")
@click.option(
    "--min-height",
    type=float,
    default=0.1,
    show_default=True,
    help="Of a probability or mask: least height of a particle after pooling, 0 to 1.",
)
@voxel_size_option
@table_style_option
@cluster_options(default="threads of this process")
def pick(
    scores: Path,
    *,
    output: Path,
    diameter: float | None,
    threshold: float | None,
    max_particles: int | None,
    min_height: float,
    voxel_size: float | None,
    style: str,
    **cluster: Any,
) -> None:
    """Find the particles in a map of scores or probabilities.

    SCORES is the store that `tomodask match` wrote, or any volume of probabilities (or a mask), of
    which the voxels above --threshold are taken for particles of --diameter.

    Example:
      tomodask pick scores.zarr -o picks.star
      tomodask pick probability.mrc --threshold 0.5 --diameter 250 -o picks.star
    """
    check_output(output, TABLES, inputs=(scores,))
    from tomodask.beforehand import whole
    from tomodask.data.particles import write_particles

    max_particles = whole("max_particles", max_particles, least=1)

    with place(cluster, local=False):
        if _is_match(scores):
            from tomodask.picking.template_matching import open_scores, pick_particles

            if voxel_size is not None:
                raise InputError(
                    f"voxel_size cannot be changed for {scores}, got {voxel_size:g}: the match has "
                    "its own; leave --voxel-size out"
                )
            match = open_scores(scores)
            table = pick_particles(
                match, diameter=diameter, threshold=threshold, max_particles=max_particles
            )
            size, shape = float(match.attrs["voxel_size"]), match["score"].shape
        else:
            from tomodask.data.tomograms import open_tomogram

            volume = open_tomogram(scores, voxel_size=voxel_size)
            table = _pick_probability(volume, diameter, threshold, min_height)[:max_particles]
            size, shape = float(volume.attrs["voxel_size"]), volume.shape
    if table.empty:
        at = f"threshold {threshold:g}" if threshold is not None else "the threshold that was found"
        raise InputError(f"{scores}: no particle lies above {at}; give a lower --threshold")
    keep_former(output)
    write_particles(
        table, output, voxel_size=size, tomogram_shape=_centred(style, shape), style=style
    )
    used = table.attrs.get("threshold", threshold)
    click.echo(f"{output}: {len(table)} particles above {used:.4g}")


def _is_match(path: Path) -> bool:
    """Tell whether this is a store of `tomodask match`, by its attributes alone."""
    import json

    try:
        attributes = json.loads((path / "zarr.json").read_text("utf-8")).get("attributes", {})
    except (OSError, ValueError):
        return False
    return str(attributes.get("format", "")).startswith("tomodask-scores")


def _pick_probability(
    volume: xr.DataArray, diameter: float | None, threshold: float | None, min_height: float
) -> pd.DataFrame:
    """Centres in a volume that template matching did not make."""
    import numpy as np

    from tomodask.picking.centers import collect_centers, find_centers

    source, size = volume.attrs["source"], float(volume.attrs["voxel_size"])
    if diameter is None or threshold is None:
        missing = "diameter" if diameter is None else "threshold"
        raise InputError(
            f"{missing} is needed for {source}, a volume that no match wrote, got none; give "
            f"--{missing}"
        )
    if not diameter >= size:
        raise InputError(
            f"diameter must be at least a voxel of {source} ({size:g} Å), got {diameter:g} Å"
        )
    if not 0 < min_height <= 1:
        raise InputError(f"min_height must be above 0 and at most 1, got {min_height:g}")
    if not np.isfinite(threshold):
        raise InputError(f"threshold must be a number, got {threshold}")
    mask = volume.data > threshold
    centers = find_centers(mask, diameter=max(1, round(diameter / size)), min_height=min_height)
    table = collect_centers(centers, voxel_size=size)
    table.insert(0, "tomogram", str(volume.name))
    return table


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
