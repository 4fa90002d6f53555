"""``tomodask reconstruct``: from a tilt series to a tomogram."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tomodask.cli.options import (
    INPUT,
    VOLUMES,
    check_output,
    cluster_options,
    command,
    output_option,
    overwrite_option,
)
from tomodask.cli.places import place

__all__ = ["reconstruct"]

_CS, _AMPLITUDE = 2.7, 0.1  # mm, share: of most microscopes and of ice, where nothing is said


@command
@click.argument("stack", type=INPUT)
@output_option("OUT", "The tomogram: .zarr, .mrc or .rec.")
@click.option("--thickness", type=float, required=True, metavar="Å", help="Along the beam, Å.")
@click.option("--tilts", type=INPUT, metavar="FILE", help="Angles, one a line: .tlt, .rawtlt.")
@click.option("--mdoc", type=INPUT, metavar="FILE", help="SerialEM's .mdoc: angles, order, doses.")
@click.option("--xf", type=INPUT, metavar="FILE", help="IMOD's alignment.")
@click.option("--aln", type=INPUT, metavar="FILE", help="AreTomo's alignment, with its angles.")
@click.option(
    "--pixel-size", type=float, metavar="Å", help="Of the images, Å.  [default: what files say]"
)
@click.option("--bin", type=float, metavar="N", help="Pixels per voxel, 1 or more.  [default: 1]")
@click.option("--voxel-size", type=float, metavar="Å", help="In place of --bin: Å.")
@click.option(
    "--method",
    type=click.Choice(["wbp", "sirt"]),
    default="wbp",
    show_default=True,
    help="Weighted back-projection, or iterations towards the images.",
)
@click.option(
    "--filter",
    type=click.Choice(["ramp", "hamming"]),
    default="ramp",
    show_default=True,
    help="Of wbp: the ramp, or one that falls towards the finest detail.",
)
@click.option("--iterations", type=int, default=20, show_default=True, metavar="N", help="Of sirt.")
@click.option(
    "--ctf",
    type=click.Choice(["none", "flip"]),
    default="none",
    show_default=True,
    help="Flip phases, each place with its defocus on the tilted slab.",
)
@click.option(
    "--defocus",
    metavar="FILE|Å",
    help="Of each image (IMOD's .defocus, CTFFIND's .txt), or one value, Å; underfocus is above 0.",
)
@click.option("--voltage", type=float, metavar="kV", help="[default: what files say, else 300]")
@click.option(
    "--cs",
    type=float,
    metavar="mm",
    help="Spherical aberration.  [default: what files say, or 2.7]",
)
@click.option(
    "--amplitude-contrast", type=float, metavar="A", help="[default: what files say, or 0.1]"
)
@click.option(
    "--handedness",
    type=click.Choice(["-1", "1"]),
    help="1 if defocus grows with height along the beam, as RELION's rlnTomoHand.  [default: what "
    "files say, or -1]",
)
@click.option(
    "--dose-weight", is_flag=True, help="Damp in each image what radiation damage took from it."
)
@click.option("--invert", is_flag=True, help="Turn the contrast over: particles bright.")
@overwrite_option
@cluster_options(default="a local cluster of this machine's cores")
def reconstruct(
    stack: Path,
    *,
    output: Path,
    thickness: float,
    tilts: Path | None,
    mdoc: Path | None,
    xf: Path | None,
    aln: Path | None,
    pixel_size: float | None,
    bin: float | None,
    voxel_size: float | None,
    method: Any,
    filter: Any,
    iterations: int,
    ctf: Any,
    defocus: str | None,
    voltage: float | None,
    cs: float | None,
    amplitude_contrast: float | None,
    handedness: str | None,
    dose_weight: bool,
    invert: bool,
    overwrite: bool,
    **cluster: Any,
) -> None:
    """Reconstruct a tomogram from a tilt series.

    STACK is an MRC stack (.st, .mrc, .mrcs, .ali) or the STAR of one that tomodask wrote.  Where
    none of --tilts, --mdoc, --xf and --aln is given, files of the stack's name beside it are taken,
    and told.

    Example:
      tomodask reconstruct TS_01.st --thickness 2000 --bin 4 -o TS_01.zarr
      tomodask reconstruct TS_01.st --aln TS_01.aln --thickness 2000 --voxel-size 10 -o TS_01.mrc
    """
    given = {"tilts": tilts, "mdoc": mdoc, "xf": xf, "aln": aln}
    files = {key: path for key, path in given.items() if path is not None}
    inputs = (stack, *files.values())
    check_output(output, VOLUMES, inputs=inputs, replace=overwrite)
    from tomodask.data.tilt_series import files_beside, open_tilt_series
    from tomodask.reconstruction.tomogram import save_reconstruction

    if not files and stack.suffix.lower() != ".star":
        files = files_beside(stack)
        if files:
            names = ", ".join(f"--{key} {path.name}" for key, path in files.items())
            click.echo(f"{stack}: beside it lie and are used {names}", err=True)
    series = open_tilt_series(
        stack,
        **files,
        defocus=_number_or_path(defocus),
        pixel_size=pixel_size,
        voltage=voltage,
        spherical_aberration=cs,
        amplitude_contrast=amplitude_contrast,
        handedness=None if handedness is None else int(handedness),
    )
    # A defocus that is known goes with the tomogram, also where phases are not flipped.
    lens = "defocus_u" in series.coords
    needed = {"voltage": 300.0} if lens or dose_weight else {}
    needed |= {"spherical_aberration": _CS, "amplitude_contrast": _AMPLITUDE} if lens else {}
    for key, usual in needed.items():
        if series.attrs.get(key) is None:
            series.attrs[key] = usual
            click.echo(f"{stack}: {key.replace('_', ' ')} {usual:g} is assumed", err=True)
    with place(cluster):
        told = save_reconstruction(
            series,
            output,
            thickness=thickness,
            bin=bin,
            voxel_size=voxel_size,
            method=method,
            filter=filter,
            iterations=iterations,
            ctf=ctf,
            dose_weight=dose_weight,
            invert=invert,
            overwrite=overwrite,
        )
    if "residuals" in told:
        shares = ", ".join(f"{share:.3f}" for share in told["residuals"])
        click.echo(f"not explained of the images, step by step: {shares}")
    sizes = "×".join(map(str, told["shape"]))
    click.echo(f"{output}: {sizes} voxels of {told['voxel_size']:g} Å from {told['tilts']} images")


def _number_or_path(text: str | None) -> float | Path | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return Path(text)
