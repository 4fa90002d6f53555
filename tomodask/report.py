"""The report of a run: one page with everything in it, to look at, to print and to keep."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from markupsafe import Markup

from tomodask import plot
from tomodask.data.particles import read_particles
from tomodask.data.run_folder import RunFolder
from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError
from tomodask.picking.segmentation.store import open_segmentation
from tomodask.picking.templates.matching import open_scores
from tomodask.report_page import (
    angstrom,
    duration,
    file_size,
    inline,
    job_told,
    page_template,
    write_page,
)

__all__ = ["Truth", "write_report"]

_FILES = {
    "report.html": "this page",
    "tomogram.zarr": "the tomogram, as it was given in memory",
    "scores.zarr": "score and best orientation of each voxel",
    "probability.zarr": "probability of each class at each voxel",
    "picks.star": "picked particles: position, score and, by matching, orientation",
    "subtomograms.zarr": "boxes cut around the picks, and their table",
    "poses.star": "refined orientation and shift of each particle, half set, score",
    "align_batches": "finished batches of the alignment, kept so that a run can go on",
    "average.mrc": "the average of all particles",
    "half1.mrc": "the average of the first half",
    "half2.mrc": "the average of the second half",
    "fsc.csv": "Fourier shell correlation of the halves",
    "run.json": "parameters, input, versions, time of each stage",
}
_STAGES = {
    "tomogram": "save the tomogram",
    "match": "match the template",
    "segment": "segment",
    "pick": "pick particles",
    "extract": "extract subtomograms",
    "align": "align",
    "average": "average",
    "report": "report",
}


@dataclass(frozen=True)
class Truth:
    """One line of a comparison with what is known.

    Attributes
    ----------
    name : str
        What was compared, e.g. ``"recall"``.
    found : str
        With its unit.
    expected : str
        What was asked for, e.g. ``"≥ 0.95"``.
    met : bool, optional
        Whether `found` is as good as that.
    """

    name: str
    found: str
    expected: str = ""
    met: bool | None = None


def write_report(
    output: str | os.PathLike[str],
    *,
    truth: Sequence[Truth] = (),
    truth_fsc: pd.DataFrame | None = None,
) -> Path:
    """Write ``report.html`` into the folder of a run.  Computes slabs and a histogram.

    The page holds its pictures itself and needs no network.

    Parameters
    ----------
    output : path
        A folder that `run` made, its average finished.
    truth : sequence of Truth, optional
        A comparison with what is known, to be shown first.
    truth_fsc : DataFrame, optional
        `fsc` of the average and the true map, drawn beside that of the halves.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    InputError
        If the folder is not of a run, its average is not finished, or a file of it is missing.
    """
    folder = RunFolder.read(Path(output))
    if not folder.finished("average"):
        raise InputError(f"{output}: the run has no average yet; finish it by the same command")
    return write_page(folder.path, lambda: _page(folder, truth, truth_fsc))


def _page(folder: RunFolder, truth: Sequence[Truth], truth_fsc: pd.DataFrame | None) -> str:
    document, at = folder.document, folder.path
    figures = document["figures"]
    picks = read_particles(at / "picks.star")
    poses = read_particles(at / "poses.star")
    curve = pd.read_csv(at / "fsc.csv")
    size, diameter = figures["voxel_size"], figures["diameter"]
    maps = {
        name: np.asarray(open_tomogram(at / f"{file}.mrc"))
        for name, file in (("average", "average"), ("half 1", "half1"), ("half 2", "half2"))
    }
    # Relative where the run saved it itself: its folder may have been moved.
    tomogram = open_tomogram(at / figures["tomogram"], voxel_size=size)
    count = figures["particles"]
    pictures = {
        "tomogram": inline(
            plot.plot_tomogram(tomogram, picks, diameter=diameter),
            "Two grey slabs through the middle of the tomogram, seen along z and along y, with a "
            "circle around each picked particle.",
        ),
        "orientations": inline(
            plot.plot_orientations(poses),
            f"Map of the sphere with the viewing directions of {count} particles, and a rose of "
            "their turn about the own axis.",
        ),
        "surfaces": inline(
            plot.plot_surfaces(
                maps["average"], voxel_size=size, resolution=figures["resolution_143"]
            ),
            "The surface of the average, shaded, seen along z, y and x.",
        ),
        "average": inline(
            plot.plot_average(maps, voxel_size=size, diameter=diameter),
            "Three orthogonal central slices of the average and of its two halves.",
        ),
        "fsc": inline(
            plot.plot_fsc(curve, truth=truth_fsc),
            "Fourier shell correlation of the half maps over resolution; it falls below 0.143 at "
            f"{angstrom(figures['resolution_143'])} and below 0.5 at "
            f"{angstrom(figures['resolution_5'])}.",
        ),
    }
    model = figures.get("model")
    if model is None:
        pictures |= {"scores": _scores(at, picks, figures["threshold"])}
    else:
        pictures |= _segmentation(at, tomogram, picks, diameter)
        if model["history"]:
            pictures["training"] = inline(
                plot.plot_training(model["history"]),
                "Curves over the epochs of training: loss, precision, recall and F1 on the part "
                "that was held out, learning rate.",
            )
    seconds = {
        stage: float(document["stages"].get(stage, {}).get("seconds", 0.0))
        for stage in _STAGES
        if stage in document["stages"]
    }
    total = sum(seconds.values())
    return page_template("report.html").render(
        **job_told(folder),
        pictures=pictures,
        network=None if model is None else _network(model),
        truth=truth,
        resolution_143=angstrom(figures["resolution_143"]),
        resolution_5=angstrom(figures["resolution_5"]),
        stages=[
            (_STAGES[name], duration(value), 100 * value / max(seconds.values()))
            for name, value in seconds.items()
        ],
        total=duration(total),
        outputs=[
            (name, str((at / name).resolve()), what, file_size(at / name))
            for name, what in _FILES.items()
            if name == "report.html" or (at / name).exists()
        ],
    )


def _scores(folder: Path, picks: pd.DataFrame, threshold: float) -> Markup:
    """The picks' scores above those of all voxels."""
    score = picks["score"].to_numpy(float)
    return inline(
        plot.plot_scores(score, threshold=threshold, background=_histogram(folder, score)),
        f"Histogram of the scores of {len(picks)} picks above that of all voxels of the score "
        f"map, with the threshold at {threshold:.3g}.",
    )


def _segmentation(
    folder: Path, tomogram: xr.DataArray, picks: pd.DataFrame, diameter: float
) -> dict[str, Markup]:
    """A slab beneath the probabilities, and the picks' heights."""
    probability = open_segmentation(folder / "probability.zarr")
    return {
        "segmentation": inline(
            plot.plot_segmentation(tomogram, probability, picks, diameter=diameter),
            "A grey slab of the tomogram, and the same slab beneath the probabilities, a colour "
            "for each class, with a circle around each picked particle.",
        ),
        "scores": inline(
            plot.plot_scores(picks["score"].to_numpy(float)),
            f"Histogram of the scores of {len(picks)} picks.",
        ),
    }


def _network(model: dict[str, Any]) -> list[tuple[str, str]]:
    """What there is to know of the model: name and text."""
    training = model.get("training", {})
    data, versions = training.get("data", []), training.get("versions", {})
    facts = [
        ("file", model["file"]),
        ("digest", model["digest"]),
        (
            "classes",
            ", ".join(
                f"{name} ({d:g} Å)"
                for name, d in zip(model["classes"], model["diameters"], strict=True)
            ),
        ),
        ("averaged", model["particle_class"]),
        ("voxel size", f"{model['voxel_size']:g} Å"),
        ("channels", ", ".join(map(str, model["channels"]))),
    ]
    if data:
        marked = [f"{d['tomogram']} ({sum(d['particles'].values())})" for d in data]
        facts.append(("trained on (particles)", ", ".join(marked)))
    if versions:
        facts.append(("trained with", ", ".join(f"{k} {v}" for k, v in versions.items())))
    return facts


def _histogram(folder: Path, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of all voxels of the score map that are not exactly 0, block by block."""
    score = open_scores(folder / "scores.zarr")["score"].data
    low, high = dask.compute(score.min(), score.max())
    # Picks may score higher than any voxel: a parabola through the top lies above it.
    edges = np.linspace(float(low), max(float(high), float(picked.max())) + 1e-6, 81)
    counts, _ = da.histogram(score[score != 0], bins=edges)
    return np.asarray(counts.compute()), edges
