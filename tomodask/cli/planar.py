"""``tomodask average2d``: images, or projections of subtomograms, to class averages."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from tomodask.cli.options import (
    INPUT,
    angstrom,
    cluster_options,
    command,
    output_option,
    overwrite_option,
    seed_option,
)

__all__ = ["average2d"]


@command
@click.argument("images", type=INPUT, metavar="IMAGES")
@output_option("FOLDER", "Gets every round, the averages, the tables, and report.html.")
@click.option(
    "--radius", type=float, required=True, metavar="Å", help="Of the particle, Å: what is aligned."
)
@click.option(
    "--shift",
    "shift_range",
    type=float,
    required=True,
    metavar="Å",
    help="How far a particle may lie from the middle of its image, Å.",
)
@click.option(
    "--classes",
    type=int,
    metavar="K",
    help="1: the average is its own reference; more: each image goes to the one that it fits.  "
    "[default: as many as references, else 1]",
)
@click.option(
    "--reference",
    "references",
    type=INPUT,
    metavar="REFS",
    help="A stack of maps to begin with, one a class.  [default: drawn from the images]",
)
@click.option(
    "--shift-step", type=float, metavar="Å", help="Of the search, Å.  [default: one pixel]"
)
@click.option(
    "--mirror/--no-mirror", default=True, show_default=True,
    help="Whether an image may show its reference's mirror image.",
)  # fmt: skip
@click.option("--equal", is_flag=True, help="Classes of equal size.")
@click.option(
    "--center/--no-center", default=True, show_default=True, help="Centre averages each round."
)
@click.option(
    "--ctf",
    type=click.Choice(["multiply", "flip"]),
    help="Correct for the contrast transfer of images whose STAR says their defocus.",
)
@click.option(
    "--resolution",
    type=float,
    metavar="Å",
    help="Finest detail of the references, Å.  [default: what the halves of each class agree in]",
)
@click.option(
    "--start-resolution",
    type=float,
    metavar="Å",
    help="Of the images that classes start from, Å.  [default: 2/9 of the radius]",
)
@click.option("--rounds", type=int, default=30, show_default=True, help="At most; add more later.")
@click.option(
    "--project",
    type=click.Choice(["z"]),
    help="IMAGES are subtomograms; project them along z, the beam.",
)
@click.option(
    "--thickness",
    type=float,
    metavar="Å",
    help="Of the slab that is projected, Å.  [default: the box]",
)
@click.option(
    "--embed", type=int, default=2000, show_default=True, metavar="N",
    help="Images that the embedding in the report shows at most; 0 for none.",
)  # fmt: skip
@click.option("--pixel-size", type=float, metavar="Å", help="In place of what the input says, Å.")
@seed_option
@overwrite_option
@cluster_options(default="a local cluster of this machine's cores")
def average2d(images: Path, **options: Any) -> None:
    """Align and average images in 2D, by class.

    IMAGES is an MRC stack, a STAR that lists images, HDF5 or a Zarr store; with --project z, what
    `tomodask align` takes.  Rounds end when classes and poses stand still.  An averaging that was
    stopped goes on when the same command is given again, and ends with the same result.

    Example:
      tomodask average2d particles.star --classes 20 --radius 120 --shift 20 -o classes
      tomodask average2d subtomograms.zarr --project z --classes 10 --radius 150 --shift 30 -o clean
    """
    from tomodask.project.averaging2d.averaging import average2d as average

    result = average(images, command=shlex.join(["tomodask", *sys.argv[1:]]), **options)
    counts = result.round.counts
    filled = int((counts > 0).sum())
    aside = int((result.table["class"] < 1).sum())
    finest = float(result.averages["resolution"].to_numpy()[counts > 0].min(initial=float("inf")))
    click.echo(
        f"{int(counts.sum())} images in {filled} {'class' if filled == 1 else 'classes'}, "
        f"{aside} set aside, {len(result.history)} rounds"
        + ("" if result.settled else ", not settled yet (--rounds)")
        + f"; {'best ' if filled > 1 else ''}resolution {angstrom(finest)} (FRC 0.143)"
    )
    click.echo(f"averages: {result.output / 'averages.mrcs'}")
    click.echo(f"particles: {result.particles}")
    click.echo(f"report: {result.report}")
