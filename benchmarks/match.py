"""Template matching: rotations per second, against pyTME on the same work in the same run.

A 128³ tomogram, a 40³ template, 1,992 rotations (pyTME's own 15° set where it is installed,
``pip install -e '.[benchmark]'``), two workers of one thread.

    python benchmarks/match.py [--rotations 1992] [--pytme-rotations 200]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time

import numpy as np
import scipy.fft
import xarray as xr
from dask.distributed import Client, LocalCluster, get_task_stream
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import rotation_grid
from tomodask.arrays.spectrum_slices import band_rows
from tomodask.arrays.tiles import plan_tiles
from tomodask.picking.templates.matching import match_template, pick_particles
from tomodask.simulation.phantom import phantom_map, phantom_tomogram

WORKERS = 2
SIZE = 128


def rotation_set(count: int) -> tuple[Rotation, str]:
    try:
        from tme.rotations import get_rotation_matrices
    except ImportError:
        return rotation_grid(count=count), "rotation_grid"
    matrices = get_rotation_matrices(15.0, dim=3)
    return Rotation.from_matrix(matrices[:count]), "pyTME's 15° set"


def ours(client: Client, match: xr.Dataset) -> tuple[xr.Dataset, float, float, float]:
    """Result, seconds, CPU seconds of all workers, share of their time outside tasks."""
    before = sum(client.run(time.process_time).values())
    with get_task_stream(client) as stream:
        start = time.perf_counter()
        result = match.compute()
        wall = time.perf_counter() - start
    busy = sum(
        part["stop"] - part["start"]
        for task in stream.data
        for part in task["startstops"]
        if part["action"] == "compute"
    )
    cpu = sum(client.run(time.process_time).values()) - before
    return result, wall, cpu, 1 - busy / (WORKERS * wall)


def pytme(tomogram: np.ndarray, template: np.ndarray, radius: float, count: int) -> float | None:
    """Rotations per second of pyTME at its best of a few settings."""
    try:
        from tme.analyzer import MaxScoreOverRotations
        from tme.matching_data import MatchingData
        from tme.matching_exhaustive import MATCHING_EXHAUSTIVE_REGISTER, match_exhaustive
        from tme.rotations import get_rotation_matrices
    except ImportError:
        print("pyTME is not installed: no ratio (pip install -e '.[benchmark]')")
        return None
    rotations = get_rotation_matrices(15.0, dim=3)
    z, y, x = np.ogrid[tuple(slice(-(n // 2), n - n // 2) for n in template.shape)]
    mask = (z**2 + y**2 + x**2 <= radius**2).astype(np.float32)

    def seconds(n: int, order: int, jobs: int) -> float:
        data = MatchingData(target=tomogram.copy(), template=template * mask, template_mask=mask)
        data.rotations = rotations[:n]
        setup, score = MATCHING_EXHAUSTIVE_REGISTER["FLCSphericalMask"]
        start = time.perf_counter()
        match_exhaustive(
            matching_data=data,
            matching_score=score,
            matching_setup=setup,
            callback_class=MaxScoreOverRotations,
            callback_class_args={"score_threshold": 0},
            interpolation_order=order,
            job_schedule=(1, jobs),
        )
        return time.perf_counter() - start

    best = 0.0
    for order in (1, 3):
        seconds(2 * WORKERS, order, WORKERS)  # plans and workers once
        few = min(seconds(2 * WORKERS, order, WORKERS) for _ in range(2))
        rate = (count - 2 * WORKERS) / (seconds(count, order, WORKERS) - few)
        print(f"  pyTME, spline order {order}, {WORKERS} jobs: {rate:.0f} rotations/s")
        best = max(best, rate)
    return best


def peaks(band: float, radius: float, tilt_range: tuple[float, float]) -> tuple[float, float, str]:
    """Least seconds of a pair of rotations on one core: bare transforms, or bare memory traffic."""
    plan = plan_tiles((SIZE,) * 3, radius=radius + 1, band=band)
    rows = band_rows(plan.box, band=band, tilt_range=tilt_range)
    nz, ny, nx = plan.grid
    kz, ky, _ = plan.core if plan.grid == plan.box else plan.grid
    lines = [(rows.columns, ny), (ky * nx, nz), (ky * kz, nx)]  # measured, kept, kept
    bare = 0.0
    for count, length in lines:
        x = np.ones((count // 16 + 1, length), np.complex64)
        x = scipy.fft.ifft(x, workers=1)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            scipy.fft.ifft(x, workers=1, overwrite_x=True)
            times.append(time.perf_counter() - start)
        bare += min(times) * count / (count // 16 + 1)
    # Read and written at least: the columns twice (written, transformed), best and rotation.
    touched = 8 * 4 * rows.columns * ny + 8 * 2 * kz * ky * nx + 8 * rows.size
    source = np.ones(1 << 24, np.uint8)
    target = np.empty_like(source)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        target[:] = source
        times.append(time.perf_counter() - start)
    bandwidth = 2 * source.size / min(times)
    flops = sum(5 * n * length * np.log2(length) for n, length in lines)
    note = (
        f"{rows.size:,} frequencies sampled, grid {nz}×{ny}×{nx}, "
        f"{flops / 1e6:.0f} MFLOP of transforms at {flops / bare / 1e9:.1f} GFLOP/s bare, "
        f"{touched / 1e6:.0f} MB at {bandwidth / 1e9:.0f} GB/s copy"
    )
    return bare, touched / bandwidth, note


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rotations", type=int, default=1992)
    parser.add_argument("--pytme-rotations", type=int, default=200)
    options = parser.parse_args()
    tomogram, truth = phantom_tomogram((SIZE,) * 3, particles=14, decoys=4, seed=1)
    tomogram = tomogram.compute()
    template = phantom_map().compute()
    rotations, name = rotation_set(options.rotations)
    count = len(rotations)
    true = truth[truth["kind"] == "particle"][["z", "y", "x"]].to_numpy()
    print(f"{SIZE}³ tomogram, {template.shape[0]}³ template, {count} rotations ({name}), ±60°")
    rates, found = {}, {}
    with (
        LocalCluster(WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for label, resolution, goal in (("full band", 0.0, 150), ("band cut", None, 700)):
            warm = match_template(
                tomogram, template, rotations=rotations[: 128 * WORKERS], resolution=resolution
            )
            ours(client, warm)  # kernels are compiled or loaded once per worker
            match = match_template(tomogram, template, rotations=rotations, resolution=resolution)
            result, wall, cpu, outside = ours(client, match)
            rates[label] = count / wall
            table = pick_particles(result)
            gap = cKDTree(table[["z", "y", "x"]]).query(true)[0]
            found[label] = gap < 30
            print(
                f"{label} ({match.attrs['resolution']:.0f} Å): {rates[label]:.0f} rotations/s "
                f"(goal {goal}), {wall:.1f} s, {100 * outside:.1f} % of the workers' time outside "
                f"tasks; {(gap < 30).sum()} of {len(true)} particles, {len(table)} picks"
            )
            bare, traffic, note = peaks(
                10.0 / match.attrs["resolution"], match.attrs["diameter"] / 20, (-60.0, 60.0)
            )
            # By CPU time, so that other work on the machine does not count.
            pair = 2 * cpu / count
            print(f"  {WORKERS * count / cpu:.0f} rotations/s where {WORKERS} cores are free")
            print(
                f"  a pair of rotations takes {1e3 * pair:.1f} ms of a core; its transforms alone "
                f"{1e3 * bare:.1f} ms ({100 * bare / pair:.0f} %), its memory traffic alone "
                f"{1e3 * traffic:.1f} ms ({100 * traffic / pair:.0f} %): {note}"
            )
    full, cut = found["full band"], found["band cut"]
    print(
        f"the same particles by both: {'yes' if (full == cut).all() else 'NO'} "
        f"({full.sum()} and {cut.sum()} of {len(true)}; other picks are decoys or noise)"
    )
    radius = match.attrs["diameter"] / 20
    rate = pytme(tomogram.to_numpy(), template.to_numpy(), radius, options.pytme_rotations)
    if rate is not None:
        print(
            f"against pyTME's {rate:.0f} rotations/s: full band {rates['full band'] / rate:.1f}×, "
            f"band cut {rates['band cut'] / rate:.0f}×"
        )


if __name__ == "__main__":
    main()
