"""The report of a 2D averaging: one page, whole while it works and at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tomodask import plot2d
from tomodask.data.run_folder import RunFolder
from tomodask.project.averaging2d.round_files import read_round2d, resolutions_of
from tomodask.project.averaging2d.view import notes_of_round
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

__all__ = ["write_averaging2d_report"]


def write_averaging2d_report(folder: RunFolder) -> Path:
    """Write ``report.html`` into the folder of an averaging that has a finished round.

    The page holds its pictures itself and needs no network.
    """
    return write_page(folder.path, lambda: _page(folder))


def _page(folder: RunFolder) -> str:
    figures = folder.document["figures"]
    rounds: dict[str, dict[str, Any]] = {
        name: told for name, told in sorted(figures["rounds"].items()) if folder.finished(name)
    }
    last = figures.get("last_round", next(reversed(rounds)))
    last = last if last in rounds else next(reversed(rounds))
    rounds = {name: told for name, told in rounds.items() if name <= last}
    state = read_round2d(folder.path / last)
    resolutions = resolutions_of(state)
    history = pd.DataFrame(
        [{k: np.nan if v is None else v for k, v in told.items()} for told in rounds.values()]
    )
    pictures = {
        "averages": inline(
            plot2d.plot_class_gallery(
                state.averages, state.counts.tolist(), resolutions=resolutions
            ),
            "The average of each class, with its number of images and resolution.",
        ),
        "rounds": inline(
            plot2d.plot_rounds2d(history), "Score, resolution and changes of the poses by round."
        ),
        "frc": inline(
            plot2d.plot_frc(state.frc), "Fourier ring correlation of the halves of each class."
        ),
        "poses": inline(
            plot2d.plot_poses2d(state.table),
            "Histograms of the angles, shifts, scores and classes of the images.",
        ),
    }
    embedding = folder.path / "embedding.csv"
    name = ""
    if embedding.exists() and "last_round" in figures:
        points = pd.read_csv(embedding)
        name = "t-SNE" if "tsne_1" in points else "2SDR component"
        axes = ("tsne_1", "tsne_2") if "tsne_1" in points else ("component_1", "component_2")
        if axes[1] in points:
            pictures["embedding"] = inline(
                plot2d.plot_embedding(
                    points[list(axes)].to_numpy(), points["class"].tolist(),
                    averages=state.averages, name=name,
                ),
                "Images as points, those that are alike beside each other, coloured by class.",
            )  # fmt: skip
    seconds = seconds_of(folder)
    finite = np.array(resolutions)[state.counts > 0]
    order = np.argsort(-state.counts, kind="stable")
    return page_template("averaging2d.html").render(
        **job_told(folder),
        pictures=pictures,
        embedding=name,
        finished="last_round" in figures,
        rounds=[_row(told, seconds.get(key, 0.0)) for key, told in rounds.items()],
        shown=rounds[last],
        classes=[
            (
                int(c) + 1,
                f"{int(state.counts[c]):,}",
                f"{100 * state.counts[c] / max(int(state.counts.sum()), 1):.1f} %",
                angstrom(resolutions[c]),
            )
            for c in order.tolist()
        ],
        best=angstrom(float(finite.min()) if len(finite) else None),
        aside=figures.get("set_aside", {"count": rounds[last]["set_aside"], "first": []}),
        total=duration(sum(value for key, value in seconds.items() if key != "result")),
    )


def _row(told: dict[str, Any], seconds: float) -> list[str]:
    notes = notes_of_round(told)
    if told["settled"]:
        notes.append("settled")
    return [
        str(told["round"]),
        number_or_dash(told["score"], ".4f"),
        angstrom(told["resolution"]),
        "–" if told["reassigned"] is None else f"{100 * told['reassigned']:.1f} %",
        number_or_dash(told["turned"], ".2f"),
        number_or_dash(told["moved"], ".2f"),
        str(told["classes"]),
        duration(seconds),
        "; ".join(notes),
    ]
