"""``tomodask align``: from boxes of particles to their poses."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import click

from tomodask.cli.boxes import open_boxes, subtomograms_argument
from tomodask.cli.options import (
    INPUT,
    TABLES,
    candidates_option,
    check_output,
    cluster_options,
    command,
    keep_former,
    numbers_or_none,
    output_option,
    table_style_option,
    tilt_range_option,
    voxel_size_option,
)
from tomodask.cli.places import place
from tomodask.errors import InputError

__all__ = ["align"]


@command
@subtomograms_argument
@click.option(
    "--reference",
    "references",
    type=INPUT,
    required=True,
    multiple=True,
    metavar="MAP",
    help="A box of the boxes' contrast.  Given again for each class: a particle goes to the one "
    "that it fits best.",
)
@output_option("POSES.star", "Particle table of the poses: .star, .tbl or .csv.")
@tilt_range_option
@click.option(
    "--angular-step", type=float, default=20.0, show_default=True, help="Of the search, degrees."
)
@click.option(
    "--shift-range",
    type=float,
    metavar="Å",
    help="How far a particle may be off the centre along each axis, Å; in a local search, off the "
    "given shift.  [default: a tenth of the box; a twentieth]",
)
@click.option(
    "--symmetry",
    default="C1",
    show_default=True,
    metavar="GROUP",
    help="Point group of the reference, main axis along z: C7, D7, T, O, I …",
)
@click.option(
    "--local",
    type=float,
    metavar="°",
    help="Search only so far around the poses that are given; 0 refines them.",
)
@click.option(
    "--poses",
    "given",
    type=INPUT,
    metavar="STAR",
    help="Where a local search starts, in the order of the boxes or with their names.  [default: "
    "the poses that the boxes carry]",
)
@click.option(
    "--resolution",
    type=float,
    metavar="Å",
    help="Finest detail to align by, Å.  [default: what the reference tells of]",
)
@click.option(
    "--coarsest", type=float, metavar="Å", help="Coarsest detail to align by, Å.  [default: all]"
)
@click.option(
    "--diameter",
    type=float,
    metavar="Å",
    help="Of the soft sphere that cuts the reference out, Å.  [default: that of the box]",
)
@click.option(
    "--mask",
    type=INPUT,
    metavar="MAP",
    help="Soft mask that cuts the reference out, 0 to 1, in place of the sphere.",
)
@click.option(
    "--whiten", is_flag=True, help="Weigh by the noise, as measured in the boxes off the particle."
)
@click.option(
    "--fsc",
    "curve",
    type=INPUT,
    metavar="CSV",
    help="Between the halves of the reference, as `tomodask average` and `fsc` write it: detail "
    "counts by what it is known to.",
)
@click.option(
    "--method",
    type=click.Choice(["fourier", "mbgd", "lm"]),
    default="fourier",
    show_default=True,
    help="Of refinement: mini-batches of Fourier voxels, mini-batches of slabs, "
    "Levenberg-Marquardt.",
)
@candidates_option
@click.option(
    "--keep",
    type=click.Choice(["best", "all"]),
    default="best",
    show_default=True,
    help="Of several references: a row for each particle, on the one that it fits best, or a row "
    "for each reference, by class.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the order of the mini-batches."
)
@click.option("--invert", is_flag=True, help="Take the reference's negative (protein is dark).")
@click.option(
    "--resample", is_flag=True, help="Bring the reference to voxel size and edge of the boxes."
)
@voxel_size_option
@table_style_option
@cluster_options(default="a local cluster of this machine's cores")
def align(
    subtomograms: tuple[Path, ...],
    *,
    references: tuple[Path, ...],
    output: Path,
    tilt_range: tuple[float, ...] | None,
    angular_step: float,
    shift_range: float | None,
    symmetry: str,
    local: float | None,
    given: Path | None,
    resolution: float | None,
    coarsest: float | None,
    diameter: float | None,
    mask: Path | None,
    whiten: bool,
    curve: Path | None,
    method: str,
    candidates: int,
    keep: str,
    seed: int,
    invert: bool,
    resample: bool,
    voxel_size: float | None,
    style: str,
    **cluster: Any,
) -> None:
    """Find the pose of each subtomogram.

    All rotations are searched, or with --local those near poses that are given, and the best
    candidates refined.  Boxes that cannot be aligned (NaN, nothing in them) are named and set
    aside: the table tells why in the column reason.

    SUBTOMOGRAMS is the store that `tomodask extract` wrote, a folder of MRC boxes (taken in the
    order of the file names, the voxel size from their headers), a pattern, the boxes themselves, or
    a STAR file that lists them as rlnImageName.

    Boxes that know the record of their tilt series (tilts, CTF, dose: those that were cut from a
    tomogram which tomodask reconstructed or simulated) are compared as that series would have shown
    the reference.  --tilt-range takes its place: then all within it counts as measured alike.

    Finished batches are kept beside the output, in POSES.star.part, until it is written: an
    alignment that was stopped goes on when the same command is given again.

    Example:
      tomodask align subtomograms.zarr --reference ref.mrc --tilt-range -60 60 -o poses.star
      tomodask align 'boxes/*.mrc' --reference ref.mrc --tilt-range -60 60 -o poses.star
      tomodask align subtomograms.zarr --reference groel.mrc --symmetry D7 -o poses.star
      tomodask align subtomograms.zarr --reference a.mrc --reference b.mrc -o classes.star
      tomodask align boxes.zarr --reference ref.mrc --poses poses.star --local 10 -o finer.star
      tomodask align boxes.zarr --reference average/average.mrc --fsc average/fsc.csv -o next.star
    """
    inputs = (*subtomograms, *references, *(one for one in (given, mask, curve) if one is not None))
    check_output(output, TABLES, inputs=inputs)
    from tomodask.alignment.poses import align_subtomograms
    from tomodask.beforehand import check_table
    from tomodask.cluster import compute
    from tomodask.data.job_input import job_template
    from tomodask.data.particles import read_particles, write_particles
    from tomodask.data.subtomograms import particle_table

    boxes = open_boxes(subtomograms, voxel_size, tilt_range)
    written: dict[str, Any] = {"voxel_size": float(boxes.attrs["voxel_size"]), "style": style}
    try:
        check_table(particle_table(boxes), output, **written)
    except InputError as error:
        raise InputError(
            f"the poses of these subtomograms cannot be written as asked for ({error}); take "
            "another --style, or a name with .star or .csv"
        ) from None
    edge = int(boxes.sizes["x"])
    maps = [
        job_template(one, written["voxel_size"], resample, edge=edge, role="reference")
        for one in references
    ]
    maps = [one.copy(data=-one.to_numpy()) for one in maps] if invert else maps
    soft = None
    if mask is not None:
        soft = job_template(mask, written["voxel_size"], resample, edge=edge, role="mask")
        soft = soft.clip(0, 1) if resample else soft  # interpolation may overshoot
    start = None if given is None else read_particles(given, need=("orientation",))
    known = None if curve is None else _read_curve(curve)
    checkpoint = output.with_name(output.name + ".part")
    with _dropped_if_empty(checkpoint):
        poses = align_subtomograms(
            boxes,
            maps if len(maps) > 1 else maps[0],
            poses=start,
            tilt_range=numbers_or_none(tilt_range),
            angular_step=angular_step,
            shift_range=shift_range,
            symmetry=symmetry,
            local=local,
            resolution=resolution,
            coarsest=coarsest,
            diameter=diameter,
            mask=soft,
            whiten=whiten,
            fsc=known,
            method=method,
            candidates=candidates,
            keep=keep,
            seed=seed,
            checkpoint=checkpoint,
        )
        with place(cluster):
            table = compute(poses, label="align")
    keep_former(output)
    write_particles(table, output, **written)
    shutil.rmtree(checkpoint, ignore_errors=True)
    score = f"median score {table['score'].median():.3f}"
    each = len(maps) if keep == "all" else 1
    held_by = f" on each of {each} references" if each > 1 else ""
    there = int(table["score"].notna().sum()) // each
    click.echo(f"{output}: poses of {there} particles{held_by}, {score}")
    if len(maps) > 1 and keep == "best":
        held = [f"{(table['class'] == i + 1).sum()} {path}" for i, path in enumerate(references)]
        click.echo("classes: " + ", ".join(held))
    if "reason" in table:
        reasons = table.loc[table["reason"] != "", "reason"].value_counts(sort=False)
        told = ", ".join(f"{count // each}: {reason}" for reason, count in reasons.items())
        click.echo(f"set aside without a pose: {told}")


def _read_curve(path: Path) -> Any:
    """A Fourier shell correlation, as this command line writes it."""
    import pandas as pd

    try:
        curve = pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:  # what pandas raises where it cannot parse is the first
        raise InputError(f"{path} is no table of a Fourier shell correlation: {error}") from None
    if not {"frequency", "correlation"} <= set(curve):
        raise InputError(
            f"{path} has the columns {', '.join(map(str, curve))}; a Fourier shell correlation has "
            "frequency and correlation: give the fsc.csv of `tomodask average`"
        )
    return curve


@contextlib.contextmanager
def _dropped_if_empty(checkpoint: Path) -> Any:
    """Leave no folder behind in which not one batch was finished."""
    try:
        yield
    except BaseException:
        if checkpoint.is_dir() and not any(checkpoint.glob("*.npy")):
            shutil.rmtree(checkpoint, ignore_errors=True)
        raise
