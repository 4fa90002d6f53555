"""What a cluster costs that is sorted into classes and averaged, and what shares in it.

    python benchmarks/clusters.py [--particles 100] [--classes 3] [--snr 0.1]

Two kinds of phantoms in boxes of 32³, one thread.  Printed are CPU seconds of the parts, those a
particle and iteration, and how the kinds were told apart.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import dask
import numpy as np
import pandas as pd
import xarray as xr

from tomodask.classification.clusters import averages as cluster_averages
from tomodask.classification.clusters.averages import average_cluster
from tomodask.rounds import one_round
from tomodask.simulation.boxes import simulate_subtomograms

SPENT: dict[str, float] = defaultdict(float)
DIAMETER = 280.0


def timed(module: Any, name: str) -> None:
    """Count the CPU seconds that a function of a module takes."""
    function: Callable[..., Any] = getattr(module, name)

    def counting(*given: Any, **named: Any) -> Any:
        begin = time.process_time()
        try:
            return function(*given, **named)
        finally:
            SPENT[name] += time.process_time() - begin

    setattr(module, name, counting)


def boxes(count: int, snr: float) -> xr.Dataset:
    """As many of either kind, in memory."""
    made = simulate_subtomograms(
        {"phantom": "phantom", "decoy": "phantom-decoy"},
        protocol="mbgd", box=32, voxel_size=12.0, resolution=24.0, shift_range=10.0, count=count,
        snr=snr,
    )  # fmt: skip
    return made.load()


def main() -> None:
    """Sort one cluster."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--particles", type=int, default=100)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--snr", type=float, default=0.1)
    asked = parser.parse_args()
    dask.config.set(scheduler="synchronous")
    average_cluster(boxes(8, 2.0), diameter=DIAMETER, classes=2).compute()  # kernels are compiled
    cluster = boxes(asked.particles // 2, asked.snr)
    for name in ("first_map", "class_maps"):
        timed(cluster_averages, name)
    for name in ("_sums", "superpose", "equal_classes", "corrected_fsc"):
        timed(one_round, name)
    begin = time.process_time()
    found = average_cluster(cluster, diameter=DIAMETER, classes=asked.classes).compute()
    total = time.process_time() - begin
    SPENT["alignment and the rest"] = total - sum(SPENT.values())
    for name, seconds in sorted(SPENT.items(), key=lambda one: -one[1]):
        print(f"{name.strip('_'):24} {seconds:6.2f} CPU s  {seconds / total:4.0%}")
    each = 1e3 * total / len(found.poses) / len(found.rounds)
    print(f"{'all':24} {total:6.2f} CPU s; {each:.1f} ms a particle and iteration")
    print(f"a hundred such clusters on two cores: {100 * total / 2 / 60:.1f} min")
    kinds = np.asarray(cluster["kind"].values)
    print(pd.crosstab(found.poses["class"].to_numpy(), kinds, rownames=["class"], colnames=[""]))
    for one in found.classes:
        print(f"class {one.number}: {len(one.poses)} particles, {one.resolution:.1f} Å")
    print("; ".join(found.notes))


if __name__ == "__main__":
    main()
