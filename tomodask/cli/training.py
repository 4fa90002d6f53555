"""``tomodask train``: a picking network from marked particles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tomodask.cli.options import INPUT, command, output_option, voxel_size_option
from tomodask.cli.training_options import precision_of, training, training_options
from tomodask.errors import InputError

__all__ = ["train"]


@command
@click.argument("tomograms", type=INPUT, nargs=-1, required=True)
@click.option(
    "--picks",
    type=INPUT,
    required=True,
    metavar="TABLE",
    help="Marked centres: STAR, Dynamo's tbl or CSV; for several tomograms with their names.",
)
@output_option("MODEL.safetensors", "The model file; MODEL.training/ beside it shows how it went.")
@click.option(
    "--diameter",
    multiple=True,
    required=True,
    metavar="[CLASS=]Å",
    help="Of the particles, Å; for several classes again with each one's name, ribosome=250.",
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME",
    help="Learn this class of the table only; may be given again.  [default: all]",
)
@click.option(
    "--channels",
    type=int,
    nargs=4,
    default=(24, 48, 72, 108),
    show_default=True,
    help="Of the network's four levels; 8 16 24 36 is several times as fast.",
)
@click.option(
    "--label",
    type=click.Choice(["truncated_ball", "ball", "cube"]),
    default="truncated_ball",
    show_default=True,
    help="What is drawn about each centre.",
)
@click.option(
    "--label-diameter",
    multiple=True,
    metavar="[CLASS=]N",
    help="Of the label, voxels; may be given for each class.  [default: 7]",
)
@click.option("--crop", type=int, default=64, show_default=True, help="Edge of a crop, voxels.")
@click.option("--epochs", type=int, default=60, show_default=True, help="Rounds of training.")
@click.option(
    "--examples", type=int, default=0, help="Crops of an epoch.  [default: the particles, 64–400]"
)
@click.option("--batch", type=int, default=8, show_default=True, help="Crops of a step.")
@click.option(
    "--learning-rate", type=float, default=1e-3, show_default=True, help="Highest of the cycle."
)
@click.option(
    "--dice",
    type=click.Choice(["classes", "particles"]),
    default="classes",
    show_default=True,
    help="Loss of each class, or of all taken for one, with the kinds left to --entropy.",
)
@click.option(
    "--entropy", type=float, default=0.0, show_default=True, help="Weight of cross-entropy."
)
@click.option(
    "--validation",
    type=float,
    default=0.15,
    show_default=True,
    help="Share of the particles held out to judge by.",
)
@click.option(
    "--some-marked",
    is_flag=True,
    help="Only some particles are marked: far from the marks nothing is learned.",
)
@click.option("--invert", is_flag=True, help="Take the tomograms' negative.")
@click.option("--any-size", is_flag=True, help="Train though particles are not 7 to 25 voxels.")
@voxel_size_option
@training_options
def train(
    tomograms: tuple[Path, ...],
    *,
    picks: Path,
    output: Path,
    diameter: tuple[str, ...],
    label_diameter: tuple[str, ...],
    classes: tuple[str, ...],
    channels: tuple[int, ...],
    precision: Any,
    any_size: bool,
    threads: int | None,
    resume: bool,
    voxel_size: float | None,
    overwrite: bool,
    **settings: Any,
) -> None:
    """Train a network to find particles, from some that are marked.

    What PICKS does not mark in TOMOGRAMS counts as background, unless --some-marked is given.
    Some dozens of marks are enough for a large particle.  Training can be stopped
    (Ctrl-C) and goes on with --resume; the model file is there after the first round and is the
    best one so far.

    Example:
      tomodask train tomogram.zarr --picks marked.star --diameter 250 -o ribosome.safetensors
    """
    with training(output, resume=resume, overwrite=overwrite):
        from tomodask.nets.segmentation.architecture import Architecture
        from tomodask.picking.learning.training import TrainingSettings, train_picker

        model = train_picker(
            tomograms,
            picks,
            diameter=_by_class("--diameter", diameter),
            settings=TrainingSettings(
                architecture=Architecture(channels=channels),
                precision=precision_of(precision),
                label_diameter=_widths(label_diameter, classes),
                **settings,
            ),
            output=output,
            classes=classes or None,
            voxel_size=voxel_size,
            any_size=any_size,
            resume=resume,
            overwrite=overwrite,
            threads=threads,
        )
    best = next(r["f1"] for r in model.history if r["epoch"] == model.training["kept_epoch"])
    if best == 0:
        click.echo(
            "no held-out particle was found, so the model finds nothing: train longer (--epochs, "
            "--examples), with --learning-rate 0.003, or see that the marks lie on particles",
            err=True,
        )
    click.echo(
        f"{output}: {', '.join(model.classes)}; F1 on held-out particles {best:.3f}, "
        f"halo {model.halo} voxels of {model.voxel_size:g} Å"
    )


def _widths(texts: tuple[str, ...], classes: tuple[str, ...]) -> int | tuple[int, ...]:
    """Return widths of labels, in the order of the classes."""
    found = _by_class("--label-diameter", texts or ("7",))
    values = found if isinstance(found, dict) else {"": found}
    for value in values.values():
        if value != int(value):
            raise InputError(f"--label-diameter must be whole voxels, got {value:g}")
    if not isinstance(found, dict):
        return int(found)
    order = classes or sorted(found)
    missing = [name for name in order if name not in found]
    if missing:
        raise InputError(f"--label-diameter: none given for {', '.join(missing)}; give one each")
    return tuple(int(found[name]) for name in order)


def _by_class(option: str, texts: tuple[str, ...]) -> float | dict[str, float]:
    """Turn ``250`` or ``ribosome=250`` … into numbers."""
    named: dict[str, float] = {}
    plain: list[float] = []
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise InputError(f"{option} must be a length, or CLASS=length, got {text!r}") from None
        if equals:
            named[name] = value
        else:
            plain.append(value)
    if len(plain) > 1 or (plain and named):
        raise InputError(
            f"{option} is given more than once: name the class of each, as in ribosome=250"
        )
    return plain[0] if plain else named
