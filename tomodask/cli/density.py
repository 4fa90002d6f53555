"""``tomodask density``: an atomic structure as a map."""

from __future__ import annotations

from pathlib import Path

import click

from tomodask.cli.options import (
    INPUT,
    VOLUMES,
    check_output,
    command,
    output_option,
    overwrite_option,
)

__all__ = ["density"]


@command
@click.argument("structure", type=INPUT, metavar="STRUCTURE")
@click.option("--voxel-size", type=float, required=True, metavar="Å", help="Of the map, Å.")
@click.option(
    "--resolution",
    type=float,
    required=True,
    metavar="Å",
    help="Where a Gaussian low-pass leaves 1/e, Å; at least 2 voxels.",
)
@click.option(
    "--box",
    type=int,
    metavar="N",
    help="Voxels along each edge.  [default: the structure and a margin]",
)
@click.option(
    "--assembly",
    metavar="ID",
    help="The biological assembly to build; 'deposited' takes the coordinates of the file as they "
    "are.  [default: the first that the file describes]",
)
@click.option("--no-solvent", is_flag=True, help="Atoms in vacuum, not in amorphous ice.")
@click.option(
    "--mass",
    type=float,
    metavar="KDA",
    help="Of a map: kDa of protein that it shows, to scale it by.  [default: inner contrast 2.5 V]",
)
@output_option("MAP", "The map: .mrc, .map … or .zarr.")
@overwrite_option
def density(
    structure: Path,
    voxel_size: float,
    resolution: float,
    box: int | None,
    assembly: str | None,
    no_solvent: bool,
    mass: float | None,
    output: Path,
    overwrite: bool,
) -> None:
    """Turn a structure into its potential above that of ice, V.

    STRUCTURE is an atomic model (PDB, mmCIF, also .gz) or a map (MRC …), which is resampled and
    scaled.  The centre of mass lies on voxel N // 2.

    Example:
      tomodask density 4v5a.cif.gz --voxel-size 10 --resolution 20 --box 48 -o ribosome.mrc
    """
    check_output(output, VOLUMES, inputs=(structure,), replace=overwrite)
    from tomodask.data.tomograms import save_tomogram
    from tomodask.simulation import density as room
    from tomodask.simulation.structures import is_structure, molecular_weight, read_structure

    given = read_structure(structure, assembly=assembly) if is_structure(structure) else structure
    volume = room.structure_density(
        given,
        voxel_size=voxel_size,
        resolution=resolution,
        box=box,
        solvent=not no_solvent,
        assembly=None if is_structure(structure) else assembly,
        mass=mass,
    )
    save_tomogram(volume, output, overwrite=overwrite)
    contrast = room.inner_contrast(volume.to_numpy())
    if isinstance(given, Path):
        scaled = "a mean inner contrast of 2.5 V" if mass is None else f"{mass:g} kDa of protein"
        click.echo(f"{volume.name}: a map, scaled to {scaled}")
    else:
        kilodalton = molecular_weight(given) / 1e3
        heavy = f"{kilodalton / 1e3:.3g} MDa" if kilodalton >= 1e3 else f"{kilodalton:.1f} kDa"
        built = "as deposited" if given.assembly == "deposited" else f"assembly {given.assembly}"
        click.echo(
            f"{given.name}: {len(given):,} atoms and {given.hydrogens.sum():,.0f} hydrogens, "
            f"{heavy}, {built}"
        )
    sizes = "×".join(map(str, volume.shape))
    click.echo(
        f"{output}: {sizes} voxels of {voxel_size:g} Å, mean inner contrast {contrast:.2f} V"
    )
