"""Boxes by the papers' protocols: time a box, SNR as measured, and how well their poses are found.

    python benchmarks/boxes.py [--structure 1mnf.pdb.gz] [--workers 2]

The structure is GroEL in the paper; without it the embedded phantom takes its place.  GroEL looks
the same from fourteen sides, so a pose is judged by the densities: the correlation of the reference
at the found pose with the reference at the true one, both turned and moved exactly.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import dask
import numpy as np

from tomodask import align_subtomograms, orientations
from tomodask.arrays.geometry import matrices_zyx
from tomodask.data.subtomogram_table import particle_table
from tomodask.simulation import PROTOCOLS, simulate_subtomograms, structure_density
from tomodask.simulation.phantom import phantom_map
from tomodask.simulation.splines import SplineDensity


def drawn(spline: SplineDensity, table, how) -> np.ndarray:
    """The reference at the poses of a table."""
    shifts = table[["shift_z", "shift_y", "shift_x"]].to_numpy()
    return np.stack(
        [
            spline.box(how.box, voxel_size=how.voxel_size, matrix_zyx=matrix, shift_zyx=shift)
            for matrix, shift in zip(matrices_zyx(orientations(table)), shifts, strict=True)
        ]
    )


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a = a.reshape(len(a), -1) - a.mean(axis=(1, 2, 3))[:, None]
    b = b.reshape(len(b), -1) - b.mean(axis=(1, 2, 3))[:, None]
    return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structure", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    dask.config.set(scheduler="threads", num_workers=given.workers)
    how = PROTOCOLS["mbgd"]

    def density(voxel_size: float, box: int | None):
        if given.structure is None:
            return phantom_map(voxel_size=voxel_size, box=box or 108)
        return structure_density(
            given.structure, voxel_size=voxel_size, resolution=how.resolution, box=box
        )

    fine, reference = density(how.voxel_size / 2, None), density(how.voxel_size, how.box)
    spline = SplineDensity.of(fine, voxel_size=how.voxel_size)
    print(
        f"structure {fine.name}, protocol mbgd: {how.count} boxes of {how.box}³, {how.voxel_size} Å"
    )
    for tilt in (60.0, 40.0):
        for snr in (0.03, 0.01, 0.003):
            changes = {"snr": snr, "tilt_range": (-tilt, tilt)}
            boxes = simulate_subtomograms({"particle": fine}, **changes)
            clean = simulate_subtomograms({"particle": fine}, **changes | {"snr": np.inf})
            begin = time.perf_counter()
            boxes = boxes.compute()
            made = (time.perf_counter() - begin) / how.count
            signal = clean.subtomogram.to_numpy()
            noise = boxes.subtomogram.to_numpy() - signal
            measured = signal.var(axis=(1, 2, 3)) / noise.var(axis=(1, 2, 3))
            truth, at_truth = particle_table(boxes), None
            at_truth = drawn(spline, truth, how)
            told = []
            known = boxes.chunk(particle=10)
            blind = known.copy()
            blind.attrs = {key: one for key, one in known.attrs.items() if key != "tilt_series"}
            for label, dataset in (("weights of the series", known), ("wedge alone", blind)):
                begin = time.perf_counter()
                found = align_subtomograms(
                    dataset, reference, shift_range=how.shift_range
                ).compute()
                took = (time.perf_counter() - begin) / how.count
                score = correlations(drawn(spline, found, how), at_truth)
                told.append(
                    f"{label}: median {np.median(score):.3f}, least {score.min():.3f} "
                    f"({1000 * took:.0f} ms)"
                )
            print(
                f"  ±{tilt:.0f}°, SNR {snr:<5}: {1000 * made:.0f} ms a box; measured SNR "
                f"{measured.mean():.5f}; density at the found pose against the true one: "
                + "; ".join(told)
            )
    for name, wanted in (("subdivision", 64), ("contrastive", 24)):
        chosen = PROTOCOLS[name]
        half = chosen.voxel_size / 2
        kind = (
            phantom_map(voxel_size=half, box=2 * round(160 / half))
            if given.structure is None
            else structure_density(given.structure, voxel_size=half, resolution=chosen.resolution)
        )
        begin = time.perf_counter()
        made = simulate_subtomograms({"particle": kind}, protocol=name, count=wanted)
        made.subtomogram.compute()
        took = (time.perf_counter() - begin) / wanted
        print(f"protocol {name}: {1000 * took:.0f} ms a box of {chosen.box}³, {wanted} boxes")


if __name__ == "__main__":
    main()
