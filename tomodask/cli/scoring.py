"""``tomodask score``: picks held against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tomodask.cli.options import INPUT, check_output, command, voxel_size_option
from tomodask.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["score"]

_CSV = (".csv",)


@command
@click.argument("picks", type=INPUT)
@click.argument("truth", type=INPUT)
@click.option(
    "--radius",
    type=float,
    metavar="Å",
    help="Farthest that a pick may lie from its particle, Å.  [default: half the particle's "
    "diameter, from TRUTH or the classes.csv of a simulation beside it]",
)
@click.option(
    "--occupancy",
    multiple=True,
    metavar="[NAME=]LABELS",
    help="Match by a map in place of a radius: the number of the particle that each voxel belongs "
    "to (labels.zarr of a simulation); of several tomograms one each, by name.",
)
@click.option("--classes", metavar="A,B", help="Score these classes alone; others are false.")
@click.option("--ignore", metavar="A,B", help="Classes that need not be found and may be.")
@click.option(
    "--beta", type=float, help="Add an F-measure in which recall weighs so many times as much."
)
@voxel_size_option
@click.option("-o", "--output", type=INPUT, metavar="SCORES.csv", help="Write the table.")
@click.option("--confusion", type=INPUT, metavar="CSV", help="Write the confusion matrix.")
@click.option("--curve", type=INPUT, metavar="CSV", help="Write precision and recall by threshold.")
@click.option("--verdicts", type=INPUT, metavar="CSV", help="Write each pick with its verdict.")
def score(
    picks: Path,
    truth: Path,
    *,
    radius: float | None,
    occupancy: tuple[str, ...],
    classes: str | None,
    ignore: str | None,
    beta: float | None,
    voxel_size: float | None,
    output: Path | None,
    confusion: Path | None,
    curve: Path | None,
    verdicts: Path | None,
) -> None:
    """Hold picks against the truth: found, false, missed.

    PICKS and TRUTH are particle tables: STAR, Dynamo's tbl or CSV.  With classes (columns kind or
    class) in both, classification is scored, too.

    Example:
      tomodask score picks.star cell/particles.star --occupancy cell/labels.zarr
      tomodask score picks.star truth.star --radius 100 -o scores.csv --curve curve.csv
    """
    outputs = {"output": output, "confusion": confusion, "curve": curve, "verdicts": verdicts}
    for one in filter(None, outputs.values()):
        check_output(one, _CSV, inputs=(picks, truth))
    from tomodask.data.particles import read_particles
    from tomodask.picking.scoring.scores import score_picks

    found = read_particles(picks, voxel_size=voxel_size)
    true = read_particles(truth, voxel_size=voxel_size)
    if radius is None and not occupancy:
        true = _with_radii(true, truth)
    scores = score_picks(
        found,
        true,
        radius=radius,
        occupancy=_maps(occupancy),
        classes=_names(classes),
        ignore=_names(ignore) or (),
        beta=beta,
    )
    tables = {
        "output": scores.table.reset_index(),
        "confusion": None
        if scores.confusion is None
        else scores.confusion.rename_axis("class").reset_index(),
        "curve": scores.curve,
        "verdicts": scores.picks,
    }
    for name, path in outputs.items():
        if path is None:
            continue
        table = tables[name]
        if table is None:
            missing = "scores" if name == "curve" else "classes that the truth has"
            raise InputError(
                f"{name} cannot be written, as the picks have no {missing}; leave --{name} out"
            )
        table.to_csv(path, index=False)
    click.echo(str(scores))


def _names(text: str | None) -> list[str] | None:
    """Names that commas part."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _maps(given: tuple[str, ...]) -> xr.DataArray | dict[str, xr.DataArray] | None:
    """Label maps, by the names of their tomograms where there are several."""
    from tomodask.data.tomograms import open_tomogram

    if not given:
        return None
    if len(given) == 1 and ("=" not in given[0] or Path(given[0]).exists()):
        return open_tomogram(given[0])
    maps = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals:
            raise InputError(
                f"occupancy {text!r} has no name of its tomogram, needed with several; give "
                "--occupancy NAME=LABELS for each"
            )
        maps[name] = open_tomogram(path)
    return maps


def _with_radii(true: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Radii of the classes from the table that a simulation leaves beside the particles."""
    import pandas as pd

    beside = path.parent / "classes.csv"
    if {"radius", "diameter"} & set(true) or "kind" not in true or not beside.is_file():
        return true
    classes = pd.read_csv(beside)
    if not {"kind", "radius"} <= set(classes):
        return true
    radii = dict(zip(classes["kind"].astype(str), classes["radius"], strict=True))
    return true.assign(radius=[radii.get(str(kind), float("nan")) for kind in true["kind"]])
