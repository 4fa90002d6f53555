"""Converting a tomogram: peak memory, speed against a plain copy, and what Dask itself costs.

Makes a float32 MRC of noise (512×512×200 by default), converts it in a process of its own and
prints the peak of its resident memory (asked: below 600 MB), the throughput, the share of the
speed of a plain copy, and the share of the time that is not spent in reading and writing blocks.

    python benchmarks/convert.py [--shape 200 512 512] [--to zarr|mrc] [--compression zstd]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mrcfile
import numpy as np

LIMIT_MB = 600


def make(path: Path, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    with mrcfile.new_mmap(path, shape, mrc_mode=2) as mrc:
        for plane in range(shape[0]):
            mrc.data[plane] = rng.normal(size=shape[1:])
        mrc.voxel_size = 10.0
        mrc.update_header_stats()


def copied(source: Path, target: Path) -> float:
    """Seconds of a plain copy, synced to the disk: what no conversion can beat."""
    start = time.perf_counter()
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - start


def peak_memory() -> float:
    """MB of resident memory at most.  `ru_maxrss` would begin with that of the parent."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def convert(source: str, target: str, compression: str, threads: int) -> None:
    """In the measured process: convert, then print what it took as JSON."""
    import dask
    from dask.callbacks import Callback

    from tomodask.data.tomograms import open_tomogram, save_tomogram

    class Tasks(Callback):
        """Seconds inside tasks and of the whole graph, and how many tasks there were."""

        def __init__(self) -> None:
            self.began: dict = {}
            self.seconds, self.count, self.graph = 0.0, 0, 0.0

        def _start(self, dsk) -> None:
            self.graph -= time.perf_counter()

        def _finish(self, dsk, state, errored) -> None:
            self.graph += time.perf_counter()

        def _pretask(self, key, dsk, state) -> None:
            self.began[key] = time.perf_counter()

        def _posttask(self, key, result, dsk, state, worker_id) -> None:
            self.seconds += time.perf_counter() - self.began.pop(key)
            self.count += 1

    if threads:
        dask.config.set(num_workers=threads)
    base = peak_memory()
    start = time.perf_counter()
    tomogram = open_tomogram(source)
    save_tomogram(tomogram, target, compression=compression)
    seconds = time.perf_counter() - start
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    peak = peak_memory()

    # Dask's own time, on one thread: what the graph takes beyond its tasks.
    shutil.rmtree(target, ignore_errors=True)
    Path(target).unlink(missing_ok=True)
    tasks = Tasks()
    with dask.config.set(scheduler="synchronous"), tasks:
        start = time.perf_counter()
        save_tomogram(open_tomogram(source), target, compression=compression)
        one = time.perf_counter() - start
    own = {
        "base": base,
        "peak": peak,
        "seconds": seconds,
        "cpu": cpu.ru_utime + cpu.ru_stime,
        "one_thread": one,
        "dask": tasks.graph - tasks.seconds,
        "tasks": tasks.count,
    }
    print(json.dumps(own))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(200, 512, 512), metavar="N")
    parser.add_argument("--to", choices=("zarr", "mrc"), default="zarr")
    parser.add_argument("--compression", choices=("zstd", "lz4", "none"), default="zstd")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--threads", type=int, default=0, help="of Dask; by default its cores")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        *texts, threads = arguments.child
        convert(*texts, int(threads))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source, target = Path(folder, "tomogram.mrc"), Path(folder, f"converted.{arguments.to}")
        make(source, tuple(arguments.shape))
        megabytes = source.stat().st_size / 1e6
        copy = copied(source, Path(folder, "copy.mrc"))
        out = subprocess.run(
            [sys.executable, __file__, "--child", str(source), str(target),
             arguments.compression, str(arguments.threads)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        told = json.loads(out.stdout.splitlines()[-1])
        sizes = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
        written = (sizes or target.stat().st_size) / 1e6
    speed = megabytes / told["seconds"]
    kind = f"{arguments.to} ({arguments.compression})" if arguments.to == "zarr" else "mrc"
    rows = [
        (
            "peak memory",
            told["peak"],
            "MB",
            f"limit {LIMIT_MB}; {told['base']:.0f} after the imports",
        ),
        ("throughput", speed, "MB/s", f"{told['seconds']:.2f} s, {told['cpu']:.2f} s of CPU"),
        ("share of a copy", 100 * copy / told["seconds"], "%", f"copy {megabytes / copy:.0f} MB/s"),
        ("Dask's own time", 100 * told["dask"] / told["one_thread"], "%", f"{told['tasks']} tasks"),
    ]
    print(f"{megabytes:.0f} MB float32 MRC -> {kind}: {written:.0f} MB")
    for name, value, unit, remark in rows:
        print(f"  {name:16} {value:7.1f} {unit:5} ({remark})")
    return int(told["peak"] > LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
