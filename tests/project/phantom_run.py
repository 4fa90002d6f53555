"""What runs of phantoms begin with and leave: a small tomogram, quick settings, results."""

from __future__ import annotations

from pathlib import Path

import dask
import pandas as pd

from tomodask.data.tomograms import save_tomogram
from tomodask.project import Run, run
from tomodask.simulation.phantom import phantom_map, phantom_tomogram

SETTINGS = {
    "angular_step": 20.0,
    "search_step": 30.0,
    "box": 40,
    "diameter": 260.0,
    "max_particles": 6,
}
RESULTS = ("picks.star", "poses.star", "average.mrc", "half1.mrc", "half2.mrc", "fsc.csv")


def save_input(folder: Path) -> pd.DataFrame:
    """Write a small tomogram of six particles and its template; gives the truth."""
    volume, truth = phantom_tomogram((56, 88, 88), particles=6, decoys=0, snr=0.5, seed=3)
    with dask.config.set(scheduler="synchronous"):
        save_tomogram(volume, folder / "tomogram.mrc")
        save_tomogram(phantom_map(box=32), folder / "template.mrc")
    return truth


def again(files: tuple[Path, object], output: Path, **options: object) -> Run:
    """The run of this tomogram in a folder: from the start, or on from where one stopped."""
    folder, _ = files
    return run(
        folder / "tomogram.mrc",
        template=folder / "template.mrc",
        output=output,
        **{**SETTINGS, "scheduler": "synchronous", **options},
    )


def content(path: Path) -> bytes:
    """All bytes but the line in which a STAR tells when it was written."""
    whole = path.read_bytes()
    return whole.partition(b"\n")[2] if whole.startswith(b"# Created") else whole
