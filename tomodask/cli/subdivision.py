"""``tomodask embed``, ``subdivide``, ``explain``: what a network sees in boxes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from tomodask.cli.boxes import boxes_named, subtomograms_argument
from tomodask.cli.options import (
    INPUT,
    OWN_THREADS,
    angstrom,
    check_output,
    cluster_options,
    command,
    command_line,
    global_step_option,
    numbers_or_none,
    output_option,
    overwrite_option,
    seed_option,
    tilt_range_option,
    voxel_size_option,
)
from tomodask.cli.places import place

__all__ = ["embed", "explain", "subdivide"]

_model_option = click.option(
    "--model",
    required=True,
    metavar="MODEL",
    help="Network that `tomodask classify train` or `tomodask pretrain` wrote; or "
    "rotation-invariant, which needs no training.",
)
_precision_option = click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the network; bfloat16 is faster where the processor has it.",
)
_batch_option = click.option(
    "--batch", type=int, default=16, show_default=True, help="Boxes that pass the network at once."
)
_map_method_option = click.option(
    "--map-method",
    type=click.Choice(["tsne", "umap"]),
    default="tsne",
    show_default=True,
    help="How the map is laid out; umap needs umap-learn.",
)
_AROUND = 10  # neighbours shown


@command
@subtomograms_argument
@_model_option
@output_option("FEATURES.zarr", "Gets the features beside the particles' table.")
@click.option(
    "--map",
    "picture",
    type=INPUT,
    metavar="MAP.png",
    help="Lay the particles out in the plane, coloured by kind where that is known; a table of the "
    "places lies beside it, MAP.csv.",
)
@click.option(
    "--map-particles", type=int, default=10_000, show_default=True, help="On the map, at most."
)
@_map_method_option
@click.option(
    "--neighbours",
    multiple=True,
    metavar="PARTICLE",
    help="Print the particles nearest to this one.  PARTICLE is a particle number (the boxes' own: "
    "the row, from 0, of the table that they were extracted by, also where only some of them are "
    "here) or the end of its image's name; may be given several times.",
)
@click.option("--count", type=int, default=_AROUND, show_default=True, help="Of neighbours.")
@_precision_option
@_batch_option
@click.option("--seed", type=int, default=0, show_default=True, help="Of the map.")
@voxel_size_option
@overwrite_option
@cluster_options(default="a local cluster of this machine's cores")
def embed(
    subtomograms: tuple[Path, ...],
    *,
    model: str,
    output: Path,
    picture: Path | None,
    map_particles: int,
    map_method: str,
    neighbours: tuple[str, ...],
    count: int,
    precision: str,
    batch: int,
    seed: int,
    voxel_size: float | None,
    overwrite: bool,
    **cluster: Any,
) -> None:
    """Make features of each box: numbers that tell structures apart.

    Features that FEATURES.zarr holds already, of the same boxes by the same model, are not made
    again: give the command once more to see a map or neighbours.

    Example:
      tomodask embed subtomograms.zarr --model classifier.safetensors -o features.zarr --map map.png
      tomodask embed subtomograms.zarr --model rotation-invariant -o features.zarr --neighbours 17
    """
    check_output(output, (".zarr",), inputs=subtomograms)
    if picture is not None:
        check_output(picture, (".png", ".svg", ".pdf"))
        from tomodask.planar.embedding import check_embedding

        check_embedding(map_method)  # before features are made, which may take long
    from tomodask.classification.features.embedding import aside_told
    from tomodask.classification.features.selection import particles_named
    from tomodask.project.embedding import save_embedding

    with place(cluster):
        features = save_embedding(
            boxes_named(subtomograms),
            output,
            model=model,
            precision=precision,
            batch=batch,
            voxel_size=voxel_size,
            overwrite=overwrite,
        )
        particles, width = features["features"].shape
        click.echo(f"{output}: {width} features of {particles} particles, by {features.model}")
        if told := aside_told(features):
            click.echo(told)
        names = particles_named(features, neighbours)  # before the map, which takes its time
        if picture is not None:
            _draw_map(features, picture, method=map_method, most=map_particles, seed=seed)
        if names:
            _tell_neighbours(features, names, count)


def _draw_map(features: Any, picture: Path, *, method: str, most: int, seed: int) -> None:
    from tomodask.classification.features.maps import map_features
    from tomodask.classification.features.selection import map_table
    from tomodask.data.writing import replacing
    from tomodask.planar.embedding import EMBEDDINGS
    from tomodask.plot2d import plot_map
    from tomodask.report_page import page_style

    table = map_table(features, map_features(features, method=method, most=most, seed=seed))
    with page_style():
        figure = plot_map(table, name=EMBEDDINGS[method])
    with replacing(picture, overwrite=True) as part:
        figure.savefig(part, format=picture.suffix[1:], dpi=160)
    places = picture.with_suffix(".csv")
    with replacing(places, overwrite=True) as part:
        table.to_csv(part)
    click.echo(f"map: {picture}, {len(table)} particles ({places})")


def _tell_neighbours(features: Any, names: list[int], count: int) -> None:
    from tomodask.classification.features.neighbours import find_neighbours
    from tomodask.cluster import compute

    table = compute(
        find_neighbours(features, particles=names, count=count), label="neighbours", passing=True
    )
    for column in ("image", "kind"):
        if column in features.coords:
            there = features[column].to_series()
            table[column] = there.loc[table["particle"]].to_numpy()
    click.echo("neighbours; query and particle are particle numbers, not places among the boxes")
    click.echo(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))


@command
@subtomograms_argument
@_model_option
@output_option("FOLDER", "Gets features, clusters, averages, tables, and report.html.")
@click.option(
    "--features",
    type=INPUT,
    metavar="FEATURES.zarr",
    help="Of these boxes by this model, as `tomodask embed` wrote them.  [default: made]",
)
@click.option(
    "--clusters", type=int, default=100, show_default=True, metavar="K",
    help="More, by far, than structures are expected.",
)  # fmt: skip
@click.option(
    "--least", type=int, default=20, show_default=True, metavar="N",
    help="Particles that a cluster needs to be averaged.",
)  # fmt: skip
@click.option(
    "--most", type=int, default=300, show_default=True, metavar="N",
    help="Particles of a cluster that are averaged, those nearest to its centre.",
)  # fmt: skip
@click.option(
    "--classes", type=int, default=3, show_default=True,
    help="That each cluster is sorted into, at most.",
)  # fmt: skip
@click.option(
    "--iterations", type=int, default=5, show_default=True, help="Of each cluster's alignment."
)
@click.option(
    "--diameter",
    type=float,
    metavar="Å",
    help="Of the particles, Å.  [default: what the box holds]",
)
@click.option(
    "--start-resolution", type=float, default=60.0, show_default=True, metavar="Å",
    help="Of the first maps, Å.",
)  # fmt: skip
@click.option(
    "--resolution",
    type=float,
    metavar="Å",
    help="Align by no finer detail, Å.  [default: 2 voxels]",
)  # fmt: skip
@global_step_option
@click.option(
    "--labels",
    type=INPUT,
    metavar="TABLE",
    help="Kinds of some boxes, which tell what clusters are made of.  [default: what the boxes "
    "carry]",
)
@click.option(
    "--known",
    type=INPUT,
    multiple=True,
    metavar="MAP",
    help="A structure to compare the averages with; may be given several times.",
)
@click.option("--invert", is_flag=True, help="Take the known maps' negative (protein is dark).")
@click.option(
    "--mirrored",
    is_flag=True,
    help="Compare with the known maps' mirror images, too: where the hand is not sure.",
)
@click.option(
    "--method",
    type=click.Choice(["minibatch", "exact"]),
    default="minibatch",
    show_default=True,
    help="Of k-means: mini-batches first, or passes over all particles alone.",
)
@click.option(
    "--map", "map_particles", type=int, default=5000, show_default=True, metavar="N",
    help="Particles on the report's map of the features; 0 for none.",
)  # fmt: skip
@_map_method_option
@_precision_option
@_batch_option
@tilt_range_option
@seed_option
@voxel_size_option
@overwrite_option
@cluster_options(default="a local cluster of this machine's cores")
def subdivide(
    subtomograms: tuple[Path, ...],
    *,
    known: tuple[Path, ...],
    tilt_range: tuple[float, ...] | None,
    **options: Any,
) -> None:
    """Divide boxes that nobody labelled into clusters; average each.

    Features by MODEL, k-means, and for each cluster a sorting into classes and averages without any
    reference; report.html shows them all.  A subdivision that was stopped goes on when the same
    command is given again, and ends with the same result.

    Example:
      tomodask subdivide subtomograms.zarr --model classifier.safetensors --clusters 100 -o clusters
      tomodask subdivide boxes.star --model encoder.safetensors -o clusters --known 'ribosome.mrc'
      tomodask refine clusters/cluster_003/particles.star -o refined
      tomodask extract tomogram.zarr clusters/centred.star --box 32 -o centred.zarr
    """
    from tomodask.project.subdivision.subdividing import subdivide as run_subdivision

    result = run_subdivision(
        boxes_named(subtomograms),
        known=list(known),
        tilt_range=numbers_or_none(tilt_range),
        command=command_line(),
        **options,
    )
    table = result.clusters
    made = table[table["classes"] > 0]
    click.echo(
        f"{len(table)} clusters of {table['particles'].min()} to {table['particles'].max()} "
        f"particles; {len(made)} averaged, {len(result.classes)} classes"
    )
    best = result.classes.sort_values("resolution_143", kind="stable").head(5)
    for row in best[best["resolution_143"] < math.inf].to_dict("records"):
        near = f"; nearest {row['nearest']}" if isinstance(row["nearest"], str) else ""
        near += ", mirror image" if row["mirrored"] is True else ""
        click.echo(
            f"  cluster {row['cluster']}, class {row['class']}: {row['particles']} particles, "
            f"{angstrom(row['resolution_143'])} (FSC 0.143){near}"
        )
    seen = result.classes[result.classes["nearest"].notna()]
    if len(seen):
        names = sorted(set(seen["nearest"]))
        click.echo(f"known structures that averages are likest to: {', '.join(names)}")
    click.echo(f"particles: {result.particles}")
    if result.centred is not None:
        click.echo(f"particles, centred by their averages: {result.centred}")
    click.echo(f"clusters: {result.output / 'clusters.csv'}")
    click.echo(f"report: {result.report}")


@command
@subtomograms_argument
@click.option(
    "--model",
    type=INPUT,
    required=True,
    metavar="MODEL.safetensors",
    help="Classifier that `tomodask classify train` wrote.",
)
@output_option("FOLDER", "Gets the evidence as MRC volumes, and report.html.")
@click.option(
    "--particles",
    multiple=True,
    metavar="PARTICLE",
    help="A box, by its particle number (of the table it was extracted by, from 0) or the end of "
    "its image's name; may be given several times.",
)
@click.option(
    "--most-sure", type=int, default=0, metavar="N",
    help="Boxes that the model is surest of.  [default: 4 where nothing is asked for]",
)  # fmt: skip
@click.option(
    "--least-sure", type=int, default=0, metavar="N",
    help="Boxes that it is least sure of.  [default: 4 where nothing is asked for]",
)  # fmt: skip
@click.option(
    "--class", "target", metavar="NAME", help="That is asked for.  [default: the likeliest]"
)
@voxel_size_option
@overwrite_option
@cluster_options(default=OWN_THREADS)
def explain(
    subtomograms: tuple[Path, ...],
    *,
    model: Path,
    output: Path,
    particles: tuple[str, ...],
    most_sure: int,
    least_sure: int,
    target: str | None,
    voxel_size: float | None,
    overwrite: bool,
    **cluster: Any,
) -> None:
    """Show what in a box speaks for its class: Grad-CAM volumes.

    Each volume has the box's voxels, and lies where the box lies in its tomogram.

    Example:
      tomodask explain subtomograms.zarr --model classifier.safetensors -o explained
      tomodask explain boxes.star --model m.safetensors -o why --particles 17 --class ribosome
    """
    from tomodask.project.explaining import explain as run_explanation

    with place(cluster, local=False):
        table = run_explanation(
            boxes_named(subtomograms),
            output=output,
            model=model,
            particles=particles,
            most_sure=most_sure,
            least_sure=least_sure,
            target=target,
            voxel_size=voxel_size,
            overwrite=overwrite,
            command=command_line(),
        )
    for name, row in table.iterrows():
        what = "" if row["explained"] == row["kind"] else f", evidence for {row['explained']}"
        click.echo(f"particle {name}: {row['kind']} ({row['confidence']:.2f}){what}")
    click.echo(f"evidence: {output / 'particle_*.mrc'}")
    click.echo(f"report: {output / 'report.html'}")
