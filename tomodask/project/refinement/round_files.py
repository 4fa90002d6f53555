"""The files of a round of refinement.

::

    iteration_03/
      poses.star                   of every particle: pose, score, half, class
      set_aside.csv                particles without a pose, and why; where there are such
      average.mrc half1.mrc half2.mrc
      reference1.mrc reference2.mrc  what the halves are aligned to in the next round
      fsc.csv

With several classes the maps and curves of each bear its number, ``class2_average.mrc``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tomodask.data.columns import QUATERNION
from tomodask.data.particles import read_particles, write_particles
from tomodask.data.tomograms import open_tomogram
from tomodask.data.writing import replacing
from tomodask.project.map_files import map_file, write_map
from tomodask.project.refinement.job import RefinementJob
from tomodask.rounds.round_state import Round, RoundResult, next_references

__all__ = [
    "SET_ASIDE",
    "read_round",
    "round_outputs",
    "write_round",
]

#: Table of the particles that no pose was found for.
SET_ASIDE = "set_aside.csv"

_BOX = "tomodaskBox"


def round_outputs(name: str, labels: list[int], classes: bool, *, aside: bool) -> list[str]:
    """Files of a round, its folder first; `aside` says whether particles were set aside."""
    maps = ("average.mrc", "half1.mrc", "half2.mrc", "reference1.mrc", "reference2.mrc", "fsc.csv")
    files = [map_file(classes, label, one) for label in labels for one in maps]
    tables = ("poses.star", *((SET_ASIDE,) if aside else ()))
    return [name, *(f"{name}/{file}" for file in (*tables, *files))]


def read_round(folder: Path, job: RefinementJob, told: dict[str, Any]) -> Round:
    """A finished round, from its files."""
    classes = job.classes > 1 and told["phase"] == "classes"
    references = {}
    for label in map(int, told["shares"]):
        one, two = (
            np.asarray(open_tomogram(folder / map_file(classes, label, name)).values, np.float32)
            for name in ("reference1.mrc", "reference2.mrc")
        )
        references[label] = (one, two)
    table = read_particles(folder / "poses.star", need=("orientation",))
    table = table.set_index(pd.Index(table.pop(_BOX).to_numpy(np.int64)))
    table = table.reindex(np.arange(len(job.table)))
    table["half"] = job.half
    table = table.set_axis(pd.Index(job.table.index, name="particle"))
    shares = {int(label): float(share) for label, share in told["shares"].items()}
    return Round(table, references, shares, int(told["filled"]))


def write_round(at: Path, job: RefinementJob, result: RoundResult) -> None:
    """Write a round's files into its folder."""
    table = result.table
    references = next_references(result.classes, several=result.several)
    for c, one in result.classes.items():
        average = one.average
        maps = {
            "average.mrc": average.average,
            "half1.mrc": average.half_1,
            "half2.mrc": average.half_2,
            "reference1.mrc": references[c][0],
            "reference2.mrc": references[c][1],
        }
        for name, values in maps.items():
            write_map(at / map_file(result.several, c, name), values, job.plan.voxel_size)
        with replacing(at / map_file(result.several, c, "fsc.csv"), overwrite=True) as part:
            one.curve.to_csv(part, index=False)
    # STAR knows no row without a pose: those that are set aside are found again by their number.
    known = table[list(QUATERNION)].notna().all(axis=1).to_numpy()
    rows = table.assign(**{_BOX: np.arange(len(table))}).drop(columns="reason", errors="ignore")
    if "image" in job.table:
        rows["image"] = job.table["image"].to_numpy()
    write_particles(
        rows[known].reset_index(drop=True), at / "poses.star", voxel_size=job.plan.voxel_size
    )
    if not known.all():
        aside = pd.DataFrame({"particle": job.table.index[~known]})
        aside["image"] = job.table["image"].to_numpy()[~known] if "image" in job.table else ""
        aside["reason"] = table["reason"].to_numpy()[~known] if "reason" in table else ""
        with replacing(at / SET_ASIDE, overwrite=True) as part:
            aside.to_csv(part, index=False)
