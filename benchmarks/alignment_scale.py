"""Alignment at scale: two workers against one, time and memory by number of particles, peaks.

    python benchmarks/alignment_scale.py [--particles 100 1000] [--tomograms 10] [--large]

64³ boxes of the phantom in a Zarr store, ±60°, SNR 0.1; local workers of one thread, a cluster of
its own for each run.  The ratio of two workers to one is taken by the clock, and by the CPU time of
the busier worker, which another load of the machine does not change.  What moves between workers is
told apart: plans, candidates (which should be refined where they lie), all else.  The largest set
is aligned once more as of many tomograms.  --large adds 10⁴ particles (10 GB of boxes).
"""

from __future__ import annotations

import os

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[threads] = "1"

import argparse
import multiprocessing
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from align import BOX, SHIFT, VOXEL, simulate
from alignment_plan import KINDS
from alignment_plan import spent as spent_and_moved

from tomodask.alignment import candidate_bag as bag
from tomodask.alignment import search as searching
from tomodask.alignment.poses import align_subtomograms
from tomodask.cluster import connect, overhead
from tomodask.data.subtomograms import open_subtomograms
from tomodask.simulation.phantom import phantom_map, phantom_subtomograms

TILTS = (-60.0, 60.0)


def peak() -> float:
    """Most memory that a process held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def align(path: Path, workers: int, tomograms: int = 1) -> dict[str, float]:
    """One run with a cluster of its own, start-up aside."""
    reference = phantom_map(voxel_size=VOXEL, box=BOX)
    boxes = open_subtomograms(path)
    count = boxes.sizes["particle"]
    # A tilt range of its own makes a tomogram a measurement, as its record would.
    tilts = TILTS[0] + 1e-3 * (np.arange(count) * tomograms // count)
    boxes = boxes.assign_coords(
        tilt_min=("particle", tilts), tilt_max=("particle", np.full(count, TILTS[1]))
    )
    with connect(workers=workers) as client:
        few = boxes.isel(particle=slice(0, 2 * workers))
        compiled = align_subtomograms(few, reference, batch=1)
        client.submit(len, [0]).result()
        for address in client.scheduler_info()["workers"]:
            client.submit(compiled.compute, scheduler="sync", workers=[address]).result()
        idle = client.run(peak)
        before = client.run(spent_and_moved)
        here, began = time.process_time(), time.perf_counter()
        with overhead(client) as dask_time:
            table = client.compute(align_subtomograms(boxes, reference)).result()
        wall, here = time.perf_counter() - began, time.process_time() - here
        after, most = client.run(spent_and_moved), client.run(peak)
    assert len(table) == count
    cpu = [after[worker][0] - before[worker][0] for worker in after]
    moved = [sum(after[w][1][kind] - before[w][1][kind] for w in after) for kind in KINDS]
    figures = {
        "wall": wall,
        "busiest": max(cpu),
        "cpu": sum(cpu),
        "here": here,
        "memory": max(most.values()),
    }
    print(
        f"  {count:9,d} {tomograms:9d} {workers:7d} {wall:8.2f} {1e3 * wall / count:10.1f} "
        f"{1e3 * sum(cpu) / count:10.1f} {1e3 * max(cpu) / count:10.1f} {here:9.2f} "
        f"{100 * dask_time.share:8.1f} {max(most.values()):8.0f} {max(idle.values()):6.0f} "
        f"{' '.join(f'{one / 1e6:7.1f}' for one in moved)}",
        flush=True,
    )
    return figures


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Of this thread's own, which another load of the machine hardly changes."""
    took = []
    for _ in range(repeats):
        began = time.thread_time()
        work()
        took.append(time.thread_time() - began)
    return min(took)


def machine(start: Any = None, ready: Any = None) -> tuple[float, float]:
    """This core's best rates: matrix product, FLOP/s, and copying, bytes/s, read and written."""
    a, b = np.random.default_rng(0).random((2, 2048, 2048), np.float32)
    source = np.ones(1 << 27, np.uint8)
    target = np.ones_like(source)  # touched, so that no page is first made while it is timed
    if start is not None:
        ready.release()
        start.wait()
    product = 2.0 * 2048**3 / seconds(lambda: a @ b)
    if start is not None:
        ready.release()
    return product, 2 * source.size / seconds(lambda: np.copyto(target, source))


def machine_of(results: Any, start: Any, ready: Any) -> None:
    results.put(machine(start, ready))


def both_cores() -> tuple[float, float]:
    """What two processes reach side by side, together."""
    context = multiprocessing.get_context("spawn")
    results, start, ready = context.Queue(), context.Event(), context.Semaphore(0)
    processes = [context.Process(target=machine_of, args=(results, start, ready)) for _ in range(2)]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    start.set()
    rates = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(rate[0] for rate in rates), sum(rate[1] for rate in rates)


def peaks(particles: int = 16) -> None:
    """Share of the core's peaks that the search and its products reach."""
    flop_rate, copy_rate = machine()
    two = both_cores()
    print(
        f"peaks: matrix product {flop_rate / 1e9:.0f} GFLOP/s one core, {two[0] / 1e9:.0f} two; "
        f"copy {copy_rate / 1e9:.1f} GB/s one, {two[1] / 1e9:.1f} two"
    )
    volumes, _ = phantom_subtomograms(
        particles, box=BOX, voxel_size=VOXEL, snr=0.1, shift_range=SHIFT
    )
    told = {"products": 0.0, "flops": 0.0, "bytes": 0.0, "search": 0.0, "refine": 0.0}
    product, search, refine = searching.real_products, bag.search, bag.refine

    def timed_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        began = time.thread_time()
        out = product(a, b)
        told["products"] += time.thread_time() - began
        told["flops"] += 4.0 * a.shape[0] * b.shape[0] * a.shape[1]
        told["bytes"] += a.nbytes + b.nbytes + out.nbytes
        return out

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            out = work(*args, **kwargs)
            told[name] += time.thread_time() - began
            return out

        return run

    import dask
    import dask.array as da
    import xarray as xr

    boxes = xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), da.from_array(volumes, (16, -1, -1, -1)))},
        coords={"particle": np.arange(particles)},
        attrs={"voxel_size": VOXEL},
    )
    reference = phantom_map(voxel_size=VOXEL, box=BOX)
    with (
        dask.config.set(scheduler="synchronous"),
        mock.patch.object(searching, "real_products", timed_product),
        mock.patch.object(bag, "search", timed("search", search)),
        mock.patch.object(bag, "refine", timed("refine", refine)),
    ):
        for _ in range(2):  # the second time all is compiled
            told.update(dict.fromkeys(told, 0.0))
            align_subtomograms(boxes, reference, tilt_range=TILTS).compute()
    each = {name: value / particles for name, value in told.items()}
    rate, traffic = told["flops"] / told["products"], told["bytes"] / told["products"]
    print(
        f"a particle: search {1e3 * each['search']:.1f} ms, of which its matrix products "
        f"{1e3 * each['products']:.1f} ms; refinement {1e3 * each['refine']:.1f} ms"
    )
    print(
        f"matrix products: {each['flops'] / 1e9:.2f} GFLOP a particle at {rate / 1e9:.0f} GFLOP/s, "
        f"{100 * rate / flop_rate:.0f} % of the core's peak; they touch at least "
        f"{each['bytes'] / 1e6:.1f} MB, {traffic / 1e9:.1f} GB/s, "
        f"{100 * traffic / copy_rate:.0f} % of its copy rate"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--tomograms", type=int, default=10)
    parser.add_argument("--large", action="store_true", help="10⁴ particles as well")
    args = parser.parse_args()
    counts = [*args.particles, *([10_000] if args.large else [])]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    peaks()
    print(
        "seconds by the clock; CPU of the workers and of the busier one; CPU of client, scheduler; "
        "peak memory of a worker,\nand before it began; MB that moved between workers: plans, "
        "candidates (found), all else"
    )
    print(
        f"  {'particles':>9s} {'tomograms':>9s} {'workers':>7s} {'clock s':>8s} {'ms each':>10s} "
        f"{'CPU each':>10s} {'busier':>10s} {'client s':>9s} {'% Dask':>8s} {'peak MB':>8s} "
        f"{'idle':>6s} {'plans':>7s} {'found':>7s} {'else':>7s}"
    )
    runs: dict[tuple[int, int], dict[str, float]] = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "boxes.zarr")
            simulate(count, 0.1, path)
            for workers in (1, 2):
                runs[count, workers] = align(path, workers)
            if count == max(counts):
                align(path, 2, args.tomograms)
    most, least = max(counts), min(counts)
    one, two = runs[most, 1], runs[most, 2]
    clock, busier = one["wall"] / two["wall"], one["busiest"] / two["busiest"]
    print(
        f"two workers against one, {most:,d} particles: {clock:.2f} times by the clock, "
        f"{busier:.2f} by the CPU time of the busier (wanted: 1.8)"
    )
    for workers in (1, 2):
        few, many = runs[least, workers], runs[most, workers]
        each, held = (many["cpu"] / most) / (few["cpu"] / least), many["memory"] / few["memory"]
        print(
            f"{workers} worker{'s' * (workers > 1)}, {least:,d} → {most:,d} particles: CPU a "
            f"particle {each:.2f} times, peak memory {held:.2f} times"
        )


if __name__ == "__main__":
    main()
