"""``tomodask segment``: from a tomogram to the probability of each kind of particle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tomodask.cli.options import (
    INPUT,
    check_output,
    cluster_options,
    command,
    output_option,
    overwrite_option,
    voxel_size_option,
)
from tomodask.cli.places import place

__all__ = ["segment"]


@command
@click.argument("tomogram", type=INPUT)
@click.option(
    "--model",
    type=INPUT,
    required=True,
    metavar="MODEL.safetensors",
    help="Network that `tomodask train` wrote.",
)
@output_option("PROB.zarr", "Zarr store of probabilities; viewers of OME-Zarr open it.")
@click.option(
    "--tile", type=int, metavar="N", help="Edge of a tile, voxels.  [default: by cost and memory]"
)
@click.option(
    "--halo",
    type=int,
    metavar="N",
    help="Voxels next to a tile's faces that are thrown away.  [default: the model's]",
)
@click.option("--batch", type=int, metavar="N", help="Tiles at once.  [default: 1]")
@click.option("--mirror", is_flag=True, help="Mean over the 8 mirrors: 8 times the work.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "openvino", "torch"]),
    default="auto",
    show_default=True,
    help="auto: PyTorch on a worker with a GPU, else OpenVINO.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="bfloat16 is about twice as fast where the processor has it.",
)
@voxel_size_option
@overwrite_option
@cluster_options(default="a local cluster of this machine's cores")
def segment(
    tomogram: Path,
    *,
    model: Path,
    output: Path,
    tile: int | None,
    halo: int | None,
    batch: int | None,
    mirror: bool,
    engine: Any,
    precision: Any,
    voxel_size: float | None,
    overwrite: bool,
    **cluster: Any,
) -> None:
    """Give each voxel its probability of being in a particle.

    MODEL is what `tomodask train` wrote; TOMOGRAM is brought to its voxel size on the fly.  A
    segmentation that was stopped goes on when the same command is given again.

    Example:
      tomodask segment tomogram.zarr --model model.safetensors -o probability.zarr
    """
    check_output(output, (".zarr",), inputs=(tomogram, model))
    from tomodask.data.tomograms import open_tomogram
    from tomodask.nets.segmentation.model_file import read_model
    from tomodask.picking.segmentation.segmenting import save_segmentation, segment_tomogram

    network = read_model(model)
    probability = segment_tomogram(
        open_tomogram(tomogram, voxel_size=voxel_size),
        network,
        tile=tile,
        halo=halo,
        batch=batch,
        mirror=mirror,
        engine=engine,
        precision=precision,
    )
    with place(cluster):
        save_segmentation(probability, output, resume=not overwrite)
    names = ", ".join(network.classes)
    size = "×".join(map(str, probability.shape[1:]))
    click.echo(f"{output}: {size} voxels of {probability.voxel_size:g} Å; classes: {names}")
