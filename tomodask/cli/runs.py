"""``tomodask run`` and ``demo``: the whole way in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tomodask.cli.options import (
    INPUT,
    angstrom,
    cluster_options,
    command,
    command_line,
    diameter_option,
    numbers_or_none,
    output_option,
    overwrite_option,
    shift_range_option,
    tilt_range_option,
    voxel_size_option,
)

__all__ = ["demo", "run"]


@command
@click.argument("tomogram", type=INPUT)
@click.option(
    "--template",
    type=INPUT,
    metavar="MAP",
    help="A map of the particle: what is matched, and what alignment starts from.",
)
@click.option(
    "--model",
    type=INPUT,
    metavar="MODEL",
    help="Find the particles by this network (of tomodask train), not by matching the template.",
)
@click.option(
    "--class",
    "particle_class",
    metavar="NAME",
    help="Which of the model's classes to average.  [default: its only one]",
)
@output_option("FOLDER", "Gets all results, and report.html.")
@tilt_range_option
@diameter_option
@click.option(
    "--angular-step", type=float, metavar="°", help="Of matching, degrees.  [default: 15]"
)
@click.option(
    "--resolution",
    type=float,
    metavar="Å",
    help="Finest detail to match, Å; 0 for all.  [default: what the angular step resolves]",
)
@click.option("--invert", is_flag=True, help="Take the template's negative (protein is dark).")
@click.option("--resample", is_flag=True, help="Bring the template to the tomogram's voxel size.")
@click.option(
    "--threshold",
    type=float,
    help="Least score of a particle; with a model, least probability of its voxels.  [default: "
    "found; 0.5]",
)
@click.option("--max-particles", type=int, metavar="N", help="Keep the N best at most.")
@click.option(
    "--box", type=int, metavar="N", help="Edge of a box, voxels.  [default: 1.6 diameters]"
)
@click.option(
    "--outside",
    type=click.Choice(["pad", "drop"]),
    default="pad",
    show_default=True,
    help="A box that leaves the tomogram: fill it with its mean, or leave the particle out.",
)
@click.option(
    "--search-step", type=float, default=20.0, show_default=True, help="Of alignment, degrees."
)
@shift_range_option
@click.option(
    "--align-resolution",
    type=float,
    metavar="Å",
    help="Finest detail to align by, Å.  [default: what the template tells of]",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the order of the mini-batches."
)
@voxel_size_option
@overwrite_option
@cluster_options(default="a local cluster of this machine's cores")
def run(
    tomogram: Path, *, resample: bool, tilt_range: tuple[float, ...] | None, **options: Any
) -> None:
    """From a tomogram to an average, in one resumable run.

    The stages are match (or, with a model, segment), pick, extract, align, average and report.
    Each finished stage is kept in FOLDER.  A run that was stopped goes on when the same command is
    given again, and ends with the same result.

    Example:
      tomodask run tomogram.mrc --template ribosome.mrc --tilt-range -60 60 -o out
      tomodask run tomogram.mrc --model model.safetensors --template ribosome.mrc -o out
    """
    from tomodask.project import run as run_project

    result = run_project(
        tomogram,
        tilt_range=numbers_or_none(tilt_range),
        resample_template=resample,
        command=command_line(),
        **options,
    )
    _tell(result)


@command
@output_option("FOLDER", "Gets the tomogram, all results, and report.html.")
@click.option(
    "--method",
    type=click.Choice(["segmentation", "template"]),
    default="segmentation",
    show_default=True,
    help="Find the particles by the network that comes with tomodask, or by matching their map.",
)
@cluster_options(default="a local cluster of this machine's cores")
def demo(
    output: Path, *, method: Any, scheduler: str | None, workers: int | None, **cluster: Any
) -> None:
    """Run the main job on phantoms, and hold it against the truth.

    Takes about three minutes and needs no input.

    Example:
      tomodask demo -o demo_output
    """
    from tomodask.demo import run_demo

    if any(value is not None for value in cluster.values()):
        raise click.UsageError(
            "demo takes --scheduler and --workers alone.", click.get_current_context()
        )
    result, truth = run_demo(output, method=method, scheduler=scheduler, workers=workers)
    _tell(result)
    for line in truth.lines():
        verdict = "met" if line.met else "MISSED"
        click.echo(f"{line.name}: {line.found} (expected {line.expected}: {verdict})")
    click.echo(f"report: {result.report}")


def _tell(result: Any) -> None:
    """Print the figures and paths of a run."""
    what = "score" if result.probability is None else "probability"
    click.echo(
        f"{result.particles} particles above a {what} of {result.threshold:.3f}; resolution "
        f"{angstrom(result.resolution_143)} (FSC 0.143), {angstrom(result.resolution_5)} (FSC 0.5)"
    )
    for name in ("poses", "average", "report"):
        click.echo(f"{name}: {getattr(result, name)}")
