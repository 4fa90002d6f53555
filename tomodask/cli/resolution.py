"""``tomodask fsc``: the resolution of two half maps; what `tomodask average` tells of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tomodask.cli.options import (
    INPUT,
    VOLUMES,
    angstrom,
    check_output,
    command,
    overwrite_option,
    voxel_size_option,
)
from tomodask.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xarray as xr

__all__ = ["fsc", "mask_options", "read_mask", "sharpening", "tell_resolution"]


def mask_options(function: Any) -> Any:
    """Add ``--diameter``, ``--mask`` and ``--seed``."""
    for option in reversed(
        (
            click.option(
                "--diameter",
                type=float,
                metavar="Å",
                help="Of the soft sphere for the FSC, Å.  [default: the whole box]",
            ),
            click.option(
                "--mask", type=INPUT, metavar="MAP", help="Soft mask for the FSC, 0 to 1."
            ),
            click.option(
                "--seed",
                type=click.IntRange(min=0),
                default=0,
                show_default=True,
                help="Of the random phases that tell what the mask adds to the FSC.",
            ),
        )
    ):
        function = option(function)
    return function


def read_mask(
    mask: Path | None, diameter: float | None, *, box: int, voxel_size: float
) -> xr.DataArray | None:
    """The mask of the options, checked before any work; None for a sphere or nothing.

    Raises
    ------
    InputError
    """
    from tomodask.averaging.half_maps import mask_of
    from tomodask.data.tomograms import open_tomogram

    values = None if mask is None else open_tomogram(mask).compute()
    mask_of(box, voxel_size, diameter=diameter, mask=values)
    return values


def tell_resolution(
    half_1: np.ndarray,
    half_2: np.ndarray,
    *,
    voxel_size: float,
    diameter: float | None,
    mask: xr.DataArray | None,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Print the resolution of two half maps, as a whole and by direction.

    Returns
    -------
    curve : DataFrame
        Of `corrected_fsc` where there is a mask or a sphere, else of `fsc`.
    cones : DataFrame
        Of `fsc_by_cone`.
    """
    from tomodask.averaging.cone_fsc import fsc_by_cone, resolution_by_direction
    from tomodask.averaging.corrected_fsc import corrected_fsc
    from tomodask.averaging.fsc import fsc, resolution_at

    window: dict[str, Any] = {"voxel_size": voxel_size, "diameter": diameter, "mask": mask}
    if diameter is None and mask is None:
        curve, how = fsc(half_1, half_2, **window), ""
    else:
        curve, how = corrected_fsc(half_1, half_2, seed=seed, **window), ", corrected for the mask"
    click.echo(
        f"resolution: {angstrom(resolution_at(curve, 0.143))} (FSC 0.143), "
        f"{angstrom(resolution_at(curve, 0.5))} (FSC 0.5){how}"
    )
    cones = fsc_by_cone(half_1, half_2, **window)
    found = resolution_by_direction(cones)
    click.echo(
        f"anisotropy: {angstrom(found.min())} along {found.idxmin()} to {angstrom(found.max())} "
        f"along {found.idxmax()} (FSC 0.143, cones of 30°)"
    )
    return curve, cones


def sharpening(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> float | str | None:
    """Read ``--sharpen``: "auto" or a number of Å²."""
    if value is None or value == "auto":
        return value
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number of Å² nor auto") from None


@command
@click.argument("half1", type=INPUT, metavar="HALF1")
@click.argument("half2", type=INPUT, metavar="HALF2")
@click.option("-o", "--output", type=INPUT, metavar="CSV", help="Gets the curve.")
@mask_options
@click.option("--by-direction", type=INPUT, metavar="CSV", help="Gets the curves of all cones.")
@click.option(
    "--local-resolution",
    "local",
    type=INPUT,
    metavar="MAP",
    help="Gets the resolution by voxel, Å.",
)
@click.option(
    "--window",
    type=float,
    metavar="Å",
    help="Of the local resolution: diameter of the moving sphere.  [default: 7 times the "
    "resolution, at most half the box]",
)
@voxel_size_option
@overwrite_option
def fsc(
    half1: Path,
    half2: Path,
    *,
    output: Path | None,
    diameter: float | None,
    mask: Path | None,
    seed: int,
    by_direction: Path | None,
    local: Path | None,
    window: float | None,
    voxel_size: float | None,
    overwrite: bool,
) -> None:
    """Tell the resolution of two half maps.

    The Fourier shell correlation is corrected for what a mask adds to it (phase randomisation), and
    told by direction as well: a missing wedge makes one direction worse than the others.

    Example:
      tomodask fsc half1.mrc half2.mrc --mask mask.mrc -o fsc.csv
      tomodask fsc half1.mrc half2.mrc --diameter 250 --local-resolution local.mrc
    """
    for path, suffixes in ((output, (".csv",)), (by_direction, (".csv",)), (local, VOLUMES)):
        if path is not None:
            check_output(path, suffixes, inputs=(half1, half2), replace=overwrite)
    if window is not None and local is None:
        raise InputError("--window is of the local resolution; give --local-resolution MAP too")
    from tomodask.averaging.local_resolution import local_resolution
    from tomodask.data.tomograms import open_tomogram, save_tomogram

    pair = [open_tomogram(path, voxel_size=voxel_size) for path in (half1, half2)]
    size, other = (float(one.attrs["voxel_size"]) for one in pair)
    if abs(size - other) > 0.01 * size:
        raise InputError(
            f"{half1} has voxels of {size:g} Å, {half2} of {other:g} Å; these are no halves of one "
            "average, or say --voxel-size"
        )
    a, b = (one.to_numpy() for one in pair)
    soft = read_mask(mask, diameter, box=a.shape[-1], voxel_size=size)
    told: dict[str, Any] = {"voxel_size": size, "diameter": diameter, "mask": soft, "seed": seed}
    curve, cones = tell_resolution(a, b, **told)
    if output is not None:
        curve.to_csv(output, index=False)
    if by_direction is not None:
        cones.to_csv(by_direction, index=False)
    if local is not None:
        result = local_resolution(a, b, voxel_size=size, window=window, mask=soft)
        save_tomogram(result, local, overwrite=True)
        click.echo(f"{local}: local resolution in a window of {result.attrs['window']:.0f} Å")
