"""``tomodask refine``: from boxes of particles to the finest average, or to classes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tomodask.cli.boxes import boxes_named, subtomograms_argument
from tomodask.cli.options import (
    INPUT,
    angstrom,
    candidates_option,
    cluster_options,
    command,
    command_line,
    diameter_option,
    global_step_option,
    numbers_or_none,
    output_option,
    overwrite_option,
    seed_option,
    shift_range_option,
    tilt_range_option,
    voxel_size_option,
)

__all__ = ["refine"]


@command
@subtomograms_argument
@output_option("FOLDER", "Gets every iteration, the result, and report.html.")
@click.option(
    "--reference",
    "references",
    type=INPUT,
    multiple=True,
    metavar="MAP",
    help="A map of the particle, low-passed before it is used; several times for several classes.  "
    "[default: the particles find their own]",
)
@click.option(
    "--classes", type=int, metavar="K", help="Kinds of particles to tell apart.  [default: 1]"
)
@click.option(
    "--symmetry", default="C1", show_default=True, metavar="GROUP",
    help="C1 … C99, D2 … D99, T, O or I; main axis along z.",
)  # fmt: skip
@click.option(
    "--halves",
    type=click.Choice(["particle", "tomogram"]),
    default="particle",
    show_default=True,
    help="What is dealt to the two half sets; a column of the boxes that says it comes before.",
)
@tilt_range_option
@diameter_option
@click.option(
    "--start-resolution", type=float, default=60.0, show_default=True, metavar="Å",
    help="Of the first maps, Å: all that the halves share.",
)  # fmt: skip
@click.option(
    "--resolution",
    type=float,
    metavar="Å",
    help="Align by no finer detail, Å.  [default: what the halves agree in]",
)
@global_step_option
@shift_range_option
@click.option(
    "--method",
    type=click.Choice(["fourier", "mbgd", "lm"]),
    default="fourier",
    show_default=True,
    help="How poses are refined; see tomodask align.",
)
@candidates_option
@click.option("--whiten", is_flag=True, help="Weight shells by the noise measured in the boxes.")
@click.option(
    "--iterations", type=int, default=15, show_default=True, help="At most; add more later."
)
@click.option(
    "--assignment",
    type=click.Choice(["hard", "soft"]),
    default="hard",
    show_default=True,
    help="Of particles to classes: wholly, or by probability.",
)
@click.option(
    "--consensus", type=int, default=2, show_default=True,
    help="Iterations with one class before K.",
)  # fmt: skip
@click.option(
    "--reseeds", type=int, default=2, show_default=True,
    help="How often classes that fall empty are filled again.",
)  # fmt: skip
@click.option(
    "--merge", type=float, default=0.97, show_default=True,
    help="Make classes one whose averages correlate so well, noise aside; 0 keeps all.",
)  # fmt: skip
@click.option("--resample", is_flag=True, help="Bring references to the size of the boxes.")
@click.option("--invert", is_flag=True, help="Take the references' negative (protein is dark).")
@click.option(
    "--attempts", type=int, default=3, show_default=True,
    help="First maps that are tried where there is no reference.",
)  # fmt: skip
@click.option(
    "--first-particles", type=int, default=100, show_default=True,
    help="How many particles they are made of.",
)  # fmt: skip
@seed_option
@voxel_size_option
@overwrite_option
@cluster_options(default="a local cluster of this machine's cores")
def refine(
    subtomograms: tuple[Path, ...],
    *,
    references: tuple[Path, ...],
    resample: bool,
    merge: float,
    tilt_range: tuple[float, ...] | None,
    **options: Any,
) -> None:
    """Align and average in turn, up to the finest average.

    It ends when the resolution stops improving.  Two halves of the particles are kept apart (gold
    standard).  Each iteration's maps, poses and curves are kept in FOLDER.  A refinement that was
    stopped goes on when the same command is given again, and ends with the same result.

    SUBTOMOGRAMS is what `tomodask align` takes.

    Example:
      tomodask refine subtomograms.zarr -o refined
      tomodask refine subtomograms.zarr -o refined --reference map.mrc --symmetry C7
      tomodask refine subtomograms.zarr -o classes --classes 10 --symmetry C7
    """
    from tomodask.project.refinement.refining import refine as refine_project

    classes = options.get("classes")
    many = len(references) > 1 or (len(references) == 1 and classes == 1)
    result = refine_project(
        boxes_named(subtomograms),
        reference=references[0] if len(references) == 1 and not many else None,
        references=list(references) if many else None,
        merge=merge or None,
        tilt_range=numbers_or_none(tilt_range),
        resample_reference=resample,
        command=command_line(),
        **options,
    )
    rounds = len(result.history)
    for label, count in result.particles.items():
        what = f"class {label}: " if len(result.particles) > 1 else ""
        click.echo(
            f"{what}{count} particles, {rounds} iterations; resolution "
            f"{angstrom(result.resolution_143[label])} (FSC 0.143), "
            f"{angstrom(result.resolution_5[label])} (FSC 0.5)"
        )
        click.echo(f"average: {result.averages[label]}")
    if len(result.set_aside):
        click.echo(f"particles set aside: {len(result.set_aside)} (set_aside.csv)")
    click.echo(f"poses: {result.poses}")
    click.echo(f"report: {result.report}")
