"""A whole simulated tomogram: time of each stage, and the most memory ever held, at two sizes.

    python benchmarks/simulate.py [--structures DIR] [--workers 2] [--folder DIR]

200 × 512 × 512 voxels of 10 Å and a quarter of that, 61 tilts, crowded to 25 % by bounding spheres
with five kinds of particles, CTF, dose, noise, phase flipping, weighted back-projection.  With
`--structures` (a folder with 4v5a_70S.cif.gz, 1mnf.pdb.gz, 3j9i.pdb.gz, 3cf3.pdb.gz, 1bxn.pdb.gz)
the kinds are these; without it, the embedded phantoms.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import dask
import dask.array as da
import psutil

from tomodask.simulation import (
    Microscope,
    Simulation,
    counting_detector,
    simulate,
    simulate_tilt_series,
    tilt_scheme,
)
from tomodask.simulation.projections import open_projections

GOAL_SECONDS, GOAL_BYTES = 300.0, 4e9
STRUCTURES = (
    "4v5a_70S.cif.gz",
    "1mnf.pdb.gz",
    "3j9i.pdb.gz",
    "3cf3.pdb.gz",
    "1bxn.pdb.gz",
)


class Memory(threading.Thread):
    """The most that this process and its children hold together (what they share counted once)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.stop = 0, threading.Event()

    def run(self) -> None:
        own = psutil.Process()
        while not self.stop.wait(0.2):
            total = 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except (psutil.Error, OSError):
                    continue
            self.peak = max(self.peak, total)


def settings(shape: tuple[int, int, int], structures: Path | None) -> dict:
    kinds = [{"structure": "phantom"}, {"structure": "phantom-decoy"}]
    if structures is not None:
        kinds = [{"structure": str(structures / name)} for name in STRUCTURES]
    return {
        "seed": 1,
        "specimen": {"shape": list(shape), "voxel_size": 10.0, "occupancy": 0.25},
        "particles": kinds,
        "tilts": {"increment": 2.0, "dose": 120.0},
        "microscope": {"defocus": 40000.0},
        "detector": {"model": "counting"},
        "noise": {"snr": 0.1},
    }


def within(made: Simulation) -> dict[str, str]:
    """What the stages spend on their parts; the images again, on one core."""
    figures = json.loads((made.output / "run.json").read_text())["figures"]
    projections = open_projections(made.projections)
    common = {
        "scheme": tilt_scheme((-60, 60), 2.0, dose=120.0),
        "microscope": Microscope(defocus=40000.0),
        "detector": counting_detector(dqe_zero=0.85, dqe_nyquist=0.3, mtf_nyquist=0.4),
    }
    spent = []
    with dask.config.set(scheduler="synchronous"):
        for noise in ({}, {"snr": 0.1, "variance": made.signal_variance}):
            series = simulate_tilt_series(projections, **common, **noise)
            begin = time.perf_counter()
            da.store(series.data, Nowhere(), lock=False)
            spent.append(time.perf_counter() - begin)
    return {
        "pack": f": {figures['packing_seconds']:.1f} s of it packing, the rest labels and maps",
        "image": f": CTF, damage and detector {spent[0]:.1f} s of one core, noise "
        f"{spent[1] - spent[0]:.1f} s",
    }


class Nowhere:
    """Takes what is stored, and keeps nothing."""

    def __setitem__(self, index: object, value: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    given = parser.parse_args()
    for edge in given.sizes:
        shape = (200, edge, edge)
        folder = Path(tempfile.mkdtemp(dir=given.folder))
        try:
            memory = Memory()
            memory.start()
            begin = time.perf_counter()
            made = simulate(
                settings(shape, given.structures), folder / "out", workers=given.workers
            )
            took = time.perf_counter() - begin
            memory.stop.set()
            memory.join()
            parts = within(made)
        finally:
            stored = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
            shutil.rmtree(folder)
        print(
            f"{' × '.join(map(str, shape))} voxels, 61 tilts of {edge}², {given.workers} workers, "
            f"{os.cpu_count()} cores: {took:.1f} s (goal {GOAL_SECONDS:.0f} s for 512²), "
            f"peak memory of all processes {memory.peak / 1e6:.0f} MB "
            f"(goal {GOAL_BYTES / 1e6:.0f} MB), {stored / 1e6:.0f} MB on disk"
        )
        print(
            f"  {made.count} particles, {100 * made.bounding_occupancy:.1f} % by bounding spheres, "
            f"{100 * made.molecular_occupancy:.1f} % by bodies"
        )
        for stage, seconds in made.seconds.items():
            print(f"  {stage:12} {seconds:7.1f} s{parts.get(stage, '')}")


if __name__ == "__main__":
    main()
