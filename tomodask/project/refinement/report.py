"""The report of a refinement: one page, whole after every round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tomodask import plot
from tomodask.data.particles import read_particles
from tomodask.data.run_folder import RunFolder
from tomodask.data.tomograms import open_tomogram
from tomodask.project.map_files import map_file
from tomodask.project.refinement.pictures import (
    plot_class_curves,
    plot_classes,
    plot_local_resolution,
    plot_rounds,
)
from tomodask.project.refinement.round_files import SET_ASIDE
from tomodask.report_page import (
    angstrom,
    duration,
    inline,
    job_told,
    number_or_dash,
    page_template,
    seconds_of,
    write_page,
)

__all__ = ["write_refinement_report"]


def write_refinement_report(folder: RunFolder) -> Path:
    """Write ``report.html`` into the folder of a refinement that has a finished round.

    The page holds its pictures itself and needs no network.
    """
    return write_page(folder.path, lambda: _page(folder))


def _page(folder: RunFolder) -> str:
    figures = folder.document["figures"]
    rounds: dict[str, dict[str, Any]] = {
        name: told
        for name, told in sorted(figures["rounds"].items())
        if folder.finished(name) and told["iteration"] <= figures["iterations"]
    }
    names = list(rounds)
    # More rounds may have been asked for after an earlier end: they are at work then.
    ended = figures.get("last_round") == names[-1]
    shown = figures["chosen"] if ended else names[-1]
    told, at = rounds[shown], folder.path / shown
    several = told["phase"] == "classes"
    labels = [int(label) for label in told["shares"]]
    history = pd.DataFrame(
        [
            {
                key: np.nan if one[key] is None else one[key]
                for key in ("iteration", "resolution_143", "resolution_5", "band", "turned",
                            "moved", "reassigned", "score")
            }
            for one in rounds.values()
        ]
    )  # fmt: skip
    size = float(figures["voxel_size"])

    def file_of(label: int, name: str) -> str:
        return map_file(several, label, name)

    maps = {
        label: np.asarray(open_tomogram(at / file_of(label, "average.mrc"))) for label in labels
    }
    curves = {label: pd.read_csv(at / file_of(label, "fsc.csv")) for label in labels}
    pictures = {
        "rounds": inline(
            plot_rounds(history),
            "Resolution by iteration, and how far poses changed in each.",
        ),
        "fsc": inline(
            plot_class_curves(curves) if several else plot.plot_fsc(curves[labels[0]]),
            "Fourier shell correlation of the half maps over resolution.",
        ),
        "orientations": inline(
            plot.plot_orientations(read_particles(at / "poses.star")),
            "Map of the sphere with the viewing directions of the particles.",
        ),
        "slices": inline(
            plot.plot_average(
                {f"class {c}" if several else "average": one for c, one in maps.items()},
                voxel_size=size,
                diameter=float(figures["diameter"]),
            ),
            "Three orthogonal central slices of each average.",
        ),
    }
    local = figures.get("local_resolution", {}) if ended else {}
    if local:
        titles = {c: f"class {c}" if several else "local resolution" for c in labels}
        levels = {
            titles[c]: np.asarray(open_tomogram(folder.path / file_of(c, "local_resolution.mrc")))
            for c in labels
        }
        pictures["local"] = inline(
            plot_local_resolution(
                levels,
                {titles[c]: one for c, one in maps.items()},
                voxel_size=size,
                diameter=float(figures["diameter"]),
            ),
            "Three orthogonal central slices through the local resolution of each average.",
        )
    surfaces = [
        (
            f"Class {c}" if several else "",
            inline(
                plot.plot_surfaces(
                    one, voxel_size=size, resolution=told["classes"][str(c)]["resolution_143"]
                ),
                "The surface of the average, shaded, seen along z, y and x.",
            ),
        )
        for c, one in maps.items()
    ]
    of_classes = {
        one["iteration"]: {int(c): share for c, share in one["shares"].items()}
        for one in rounds.values()
        if one["phase"] == "classes"
    }
    if of_classes:
        pictures["classes"] = inline(
            plot_classes(of_classes), "Share of the particles in each class, by iteration."
        )
    aside = at / SET_ASIDE
    seconds = seconds_of(folder)
    seconds.pop("result", None)
    return page_template("refinement.html").render(
        **job_told(folder),
        pictures=pictures,
        surfaces=surfaces,
        shown=told,
        finished=ended,
        local=[
            (f"class {c}: " if several else "", told["range"], told["window"])
            for c, told in local.items()
        ],
        rows=[_row(one, seconds.get(name, 0.0)) for name, one in rounds.items()],
        classes=[
            (
                label,
                sum(told["classes"][str(label)]["particles"]),
                angstrom(told["classes"][str(label)]["resolution_143"]),
                angstrom(told["classes"][str(label)]["resolution_5"]),
            )
            for label in labels
        ]
        if several
        else [],
        resolution_143=angstrom(told["resolution_143"]),
        resolution_5=angstrom(told["resolution_5"]),
        aside=pd.read_csv(aside).astype(str).to_numpy().tolist() if told["set_aside"] else [],
        attempts=[
            (one["particle"], [one[f"score_{i}"] for i in range(1, len(one) - 1)], one["chosen"])
            for one in figures.get("attempts", [])
        ],
        total=duration(sum(seconds.values())),
    )


def _row(one: dict[str, Any], seconds: float) -> list[str]:
    notes = []
    if one.get("merged"):
        notes.append("made one: " + ", ".join(f"{a} and {b}" for a, b in one["merged"]))
    if one.get("refilled"):
        notes.append("filled again: " + ", ".join(map(str, one["refilled"])))
    if one.get("given_up"):
        notes.append("given up: " + ", ".join(map(str, one["given_up"])))
    return [
        str(one["iteration"]),
        angstrom(one["resolution_143"]),
        angstrom(one["resolution_5"]),
        f"{one['band']:.1f} Å",
        "all rotations" if one["local"] is None else f"within {one['local']:.0f}°",
        number_or_dash(one["turned"], ".2f"),
        number_or_dash(one["moved"], ".2f"),
        str(len(one["shares"])),
        "–" if one["reassigned"] is None else f"{100 * one['reassigned']:.1f} %",
        number_or_dash(one["score"], ".4f"),
        duration(seconds),
        "; ".join(notes),
    ]
