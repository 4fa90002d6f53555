"""``tomodask simulate``: a tomogram whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tomodask.cli.options import INPUT, cluster_options, command, command_line, overwrite_option

__all__ = ["simulate"]


def _print_example(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from importlib.resources import files

    text = files("tomodask").joinpath("templates", "simulation.toml").read_text(encoding="utf-8")
    click.echo(text, nl=False)
    context.exit()


@command
@click.argument("settings", type=INPUT, metavar="CONFIG.toml")
@click.option(
    "-o",
    "--output",
    type=INPUT,
    required=True,
    metavar="FOLDER",
    help="Gets the tomogram, the tilt series and the truth.",
)
@click.option(
    "--example",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_example,
    help="Print a CONFIG.toml with every key explained, and stop.",
)
@overwrite_option
@cluster_options(default="a local cluster of this machine's cores")
def simulate(settings: Path, output: Path, **options: Any) -> None:
    """Simulate a tomogram with an exact truth.

    Particles are packed into a slab of ice, imaged as a tilt series and reconstructed.  FOLDER gets
    tomogram.zarr, tilt_series.mrc, and the truth: particles.star, labels.zarr, occupancy.zarr,
    density.zarr.  The same command goes on after a stop.

    Example:
      tomodask simulate --example > cell.toml
      tomodask simulate cell.toml -o cell
    """
    from tomodask.simulation.tomogram import simulate as simulate_tomogram

    result = simulate_tomogram(settings, output, command=command_line(), **options)
    click.echo(
        f"{result.count} particles fill {100 * result.molecular_occupancy:.1f} % of the slab, "
        f"their bounding spheres {100 * result.bounding_occupancy:.1f} %"
    )
    for name in ("tomogram", "tilt_series", "particles", "labels", "occupancy", "density"):
        click.echo(f"{name}: {getattr(result, name)}")
    click.echo("; ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items()))
