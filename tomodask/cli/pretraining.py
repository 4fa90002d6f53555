"""``tomodask pretrain``: an encoder of boxes, without labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tomodask.cli.classification import NETWORK, box_training_options
from tomodask.cli.options import INPUT, command, numbers_or_none, output_option
from tomodask.cli.training_options import precision_of, training

__all__ = ["pretrain"]

_PHYSICAL = (
    click.option(
        "--views",
        type=click.Choice(["any-turn", "paper"]),
        default="any-turn",
        show_default=True,
        help="Turned about any axis, and shifted; or turned about z, cropped, scaled, shifted.",
    ),
    click.option(
        "--tilts",
        type=float,
        nargs=2,
        metavar="LO HI",
        help="Views that lose the missing wedge of ±LO to ±HI degrees.",
    ),
    click.option(
        "--defocus",
        type=float,
        default=0.0,
        metavar="Å",
        help="Views seen by a lens whose defocus differs by up to this.  [default: 0]",
    ),
    click.option(
        "--noise",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="Views with white noise of up to this share of the box's own.  [default: 0]",
    ),
)


def _physical_options(function: Any) -> Any:
    for option in reversed(_PHYSICAL):
        function = option(function)
    return function


@command
@click.argument("subtomograms", type=INPUT)
@click.option(
    "--method",
    type=click.Choice(["moco", "simclr", "swav"]),
    default="moco",
    show_default=True,
    help="What is held against what.",
)
@output_option("ENCODER.safetensors", "The model file; ENCODER.training/ shows how it went.")
@NETWORK
@click.option(
    "--labels",
    type=INPUT,
    metavar="TABLE",
    help="Known classes of some boxes: they judge the features, nothing is learned from them.",
)
@click.option(
    "--probe-every", type=int, default=5, show_default=True, help="Rounds between two probes."
)
@click.option("--epochs", type=int, default=200, show_default=True, help="Rounds of training.")
@click.option("--batch", type=int, default=16, show_default=True, help="Boxes of a step.")
@click.option("--learning-rate", type=float, default=1e-4, show_default=True, help="Of Adam.")
@click.option("--temperature", type=float, help="Of the loss.  [default: the method's own]")
@click.option(
    "--queue",
    type=int,
    default=128,
    show_default=True,
    help="MoCo: former boxes that new ones are held against; 64 for real data in the paper.",
)
@click.option(
    "--prototypes", type=int, default=100, show_default=True, help="SwAV: several times the kinds."
)
@_physical_options
@box_training_options
def pretrain(
    subtomograms: Path,
    *,
    method: Any,
    output: Path,
    network: Any,
    labels: Path | None,
    views: str,
    tilts: tuple[float, ...] | None,
    defocus: float,
    noise: float,
    precision: Any,
    threads: int | None,
    resume: bool,
    overwrite: bool,
    **settings: Any,
) -> None:
    """Train an encoder on SUBTOMOGRAMS without labels.

    Two random views of a box shall be alike, and unlike those of other boxes.  A classifier
    that begins with the encoder (classify train --init) needs fewer labels.  Training can be
    stopped (Ctrl-C) and goes on with --resume; the model file is there after the first round.

    Example:
      tomodask pretrain boxes.zarr --method moco -o encoder.safetensors
    """
    with training(output, resume=resume, overwrite=overwrite):
        from tomodask.classification.learning.pretraining import EncoderSettings, pretrain_encoder
        from tomodask.nets.boxes.views import ANY_TURN, Views

        shown = replace(
            ANY_TURN if views == "any-turn" else Views(),
            tilts=numbers_or_none(tilts),
            defocus=defocus,
            noise=noise,
        )
        model = pretrain_encoder(
            subtomograms,
            method=method,
            network=network,
            settings=EncoderSettings(views=shown, precision=precision_of(precision), **settings),
            labels=labels,
            output=output,
            resume=resume,
            overwrite=overwrite,
            threads=threads,
        )
    last = model.history[-1]
    told = f"{output}: {network} for boxes of {model.encoder.box}³, loss {last['loss']:.3f}"
    if last["linear"] is not None:
        told += (
            f"; of labelled boxes a linear probe knows {last['linear']:.1%}, the five nearest "
            f"{last['neighbours']:.1%}"
        )
    click.echo(told)
