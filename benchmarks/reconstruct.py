"""Reconstruction: time of each part, the kernel's share of the peak, memory at two sizes.

A tilt series of noise, 61 tilts of 512² (``--tilts``, ``--size``), is written as a stack and
becomes a tomogram of 200 planes (``--planes``) by weighted back-projection, through the disk, in a
process of its own.  Then the same with twice the length of the edges, for the memory.

    python benchmarks/reconstruct.py [--tilts 61] [--size 512] [--planes 200] [--threads 2] [--sirt]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np


def peak_memory() -> float:
    """MB of resident memory at most.  `ru_maxrss` would begin with that of the parent."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def multiply_add_rate() -> float:
    """Multiply-adds per second of one core, on rows that lie in its cache: what bounds the sum."""
    import numba

    @numba.njit(fastmath={"contract"})
    def combine(rows, taps, out, count):
        for _ in range(count):
            for g in range(0, 64, 8):
                a, b, c, d = rows[g], rows[g + 1], rows[g + 2], rows[g + 3]
                e, f, h, i = rows[g + 4], rows[g + 5], rows[g + 6], rows[g + 7]
                for y in range(64):
                    low = (taps[g] * a[y] + taps[g + 1] * b[y]) + (
                        taps[g + 2] * c[y] + taps[g + 3] * d[y]
                    )
                    high = (taps[g + 4] * e[y] + taps[g + 5] * f[y]) + (
                        taps[g + 6] * h[y] + taps[g + 7] * i[y]
                    )
                    out[y] += low + high

    rows, taps = np.ones((64, 64), np.float32), np.ones(64, np.float32)
    out = np.zeros(64, np.float32)
    combine(rows, taps, out, 1)
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        combine(rows, taps, out, 20000)
        best = min(best, time.perf_counter() - start)
    return 20000 * 64 * 64 / best


def work(stack: str, target: str, thickness: float, threads: int, method: str) -> None:
    """In the measured process: reconstruct, then print what it took as JSON."""
    import dask

    from tomodask.arrays.projection import back_project
    from tomodask.data.tilt_series import open_tilt_series
    from tomodask.reconstruction import images, row_store, tomogram

    back_project(np.zeros((2, 2, 16), np.float32), [0.0, 3.0], [0.0], [0.0])  # compiled or loaded
    spent: dict[str, float] = {}

    def clocked(owner: object, name: str, label: str) -> None:
        """CPU seconds of the thread, so that other work on the machine does not count."""
        function = getattr(owner, name)

        def call(*words: object, **options: object) -> object:
            start = time.thread_time()
            try:
                return function(*words, **options)
            finally:
                with lock:
                    spent[label] = spent.get(label, 0.0) + time.thread_time() - start

        setattr(owner, name, call)

    lock = threading.Lock()
    clocked(images, "prepare_image", "align")
    clocked(tomogram, "filtered_rows", "filter")
    clocked(row_store.RowStore, "write", "rows to disk")
    clocked(row_store.RowStore, "read", "rows from disk")
    clocked(tomogram, "voxels", "back-projection")
    clocked(tomogram, "sirt", "SIRT")
    series = open_tilt_series(stack.replace(".mrc", ".star"))
    start, cpu = time.perf_counter(), time.process_time()
    with dask.config.set(num_workers=threads, scheduler="threads"):
        tomogram.save_reconstruction(
            series, target, thickness=thickness, method=method, iterations=5, invert=True
        )
    cpu = time.process_time() - cpu
    spent["compress and write"] = cpu - sum(spent.values())
    wall = time.perf_counter() - start
    print(json.dumps({"wall": wall, "cpu": cpu, "memory": peak_memory(), "spent": spent}))


def make(path: Path, tilts: int, size: int) -> None:
    import dask.array as da

    from tomodask.data.tilt_series import write_tilt_series
    from tomodask.data.tilt_series_array import as_tilt_series

    def noise(block_id: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(block_id[0]).normal(size=(1, size, size)).astype(np.float32)

    images = da.map_blocks(
        noise, chunks=((1,) * tilts, (size,), (size,)), dtype=np.float32, meta=np.empty((0, 0, 0))
    )
    series = as_tilt_series(
        images, angle=np.linspace(-60, 60, tilts), pixel_size=10.0, name="noise"
    )
    write_tilt_series(series, path)


def measure(folder: Path, options: argparse.Namespace, size: int, planes: int, method: str) -> dict:
    stack, target = folder / f"{size}.mrc", folder / f"{size}-{method}.zarr"
    if not stack.exists():
        make(stack, options.tilts, size)
    words = ["--work", str(stack), str(target), str(10.0 * planes), str(options.threads), method]
    done = subprocess.run(
        [sys.executable, __file__, *words], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tilts", type=int, default=61)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--planes", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sirt", action="store_true", help="five iterations of SIRT, too")
    parser.add_argument("--once", action="store_true", help="not the second size")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        stack, target, thickness, threads, method = options.work
        work(stack, target, float(thickness), int(threads), method)
        return
    tilts, size, planes = options.tilts, options.size, options.planes
    updates = planes * size * size * tilts
    peak = multiply_add_rate()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(
            f"{tilts} tilts of {size}² to {planes}×{size}×{size}, {options.threads} threads; "
            f"a core does {peak / 1e9:.1f} G multiply-adds per second in its cache"
        )
        measure(folder, options, 64, 16, "wbp")  # kernels are compiled once
        for method in ("wbp", "sirt") if options.sirt else ("wbp",):
            told = measure(folder, options, size, planes, method)
            parts = ", ".join(f"{key} {value:.1f} s" for key, value in told["spent"].items())
            print(
                f"{method}: {told['wall']:.1f} s, {told['cpu']:.1f} s of a core "
                f"({parts}); peak {told['memory']:.0f} MB"
            )
            if method == "wbp":
                spent = told["spent"]["back-projection"]
                print(
                    f"  {updates / spent / 1e6:.0f} M voxel·tilt updates per second of a core; six "
                    f"taps each are {100 * 6 * updates / spent / peak:.0f} % of the peak"
                )
        if options.once:
            return
        big = measure(folder, options, 2 * size, 2 * planes, "wbp")
        print(
            f"{2 * planes}×{2 * size}×{2 * size}, {32 * planes * size * size / 1e6:.0f} MB: "
            f"{big['wall']:.1f} s, {big['cpu']:.1f} s of a core; peak {big['memory']:.0f} MB"
        )


if __name__ == "__main__":
    main()
