"""Extraction: boxes per second from a compressed, chunked tomogram, each chunk read about once.

    python benchmarks/extract.py [--boxes 10000] [--workers 2] [--folder DIR]

Needs room for the boxes (10.5 GB for 10,000 of 64³) in a temporary folder, and removes it again.
What is measured in the same run, on the same tomogram:

- tomodask: `extract_subtomograms` and `save_subtomograms` on a local cluster;
- box by box: a sample of the boxes, each read through Zarr and written alone, by one process;
- the limit: the same number of bytes written as plain files by as many processes, and every chunk
  read and unpacked once.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
import zarr

from tomodask import connect, extract_subtomograms, open_tomogram, save_subtomograms, save_tomogram
from tomodask.cluster import overhead

VOXEL = 10.0


class Counting:
    """A reader that notes in a file which chunk it was asked for, whichever process it is in."""

    def __init__(self, reader, log: str) -> None:
        self.reader, self.log = reader, log
        self.shape, self.dtype, self.ndim = reader.shape, reader.dtype, 3

    def __getitem__(self, index):
        line = " ".join(str(part.start) for part in index) + "\n"
        handle = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, line.encode())
        os.close(handle)
        return self.reader[index]


def peak() -> float:
    """The most memory that this process ever held, MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def load() -> None:
    """Import what the tasks need: once a worker, not a matter of the boxes."""
    import tomodask.data.subtomograms  # noqa: F401


def used(client) -> tuple[float, float]:
    """Seconds of the processor that the workers spent: their own and the system's."""
    times = client.run(os.times).values()
    return sum(t.user for t in times), sum(t.system for t in times)


def write_files(folder: str, count: int, edge: int) -> float:
    """Write boxes as plain files; seconds."""
    box = np.random.default_rng(0).normal(size=(edge,) * 3).astype(np.float32)
    Path(folder).mkdir()
    begin = time.perf_counter()
    for number in range(count):
        Path(folder, str(number)).write_bytes(memoryview(box).cast("B"))
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=10_000)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--shape", type=int, nargs=3, default=(200, 512, 512), metavar="N")
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sample", type=int, default=100, help="boxes that are cut one by one")
    parser.add_argument("--folder", help="where the temporary folder is made")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="tomodask-extract-") as name:
        measure(Path(name), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    shape, edge = tuple(options.shape), options.box
    size = 4 * edge**3
    free = shutil.disk_usage(folder).free
    if free < 1.2 * size * options.boxes:
        raise SystemExit(
            f"{folder} has {free / 1e9:.1f} GB free, {options.boxes} boxes need "
            f"{1.2 * size * options.boxes / 1e9:.1f} GB; take fewer --boxes or another --folder"
        )
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    volume = xr.DataArray(values, dims=("z", "y", "x"), name="noise", attrs={"voxel_size": VOXEL})
    path = folder / "noise.zarr"
    save_tomogram(volume, path, chunk=options.chunk, levels=1)
    del values, volume
    tomogram = open_tomogram(path)
    chunks = tomogram.data.npartitions
    zyx = np.random.default_rng(2).uniform(0, 1, (options.boxes, 3)) * (np.array(shape) - 1)
    picks = pd.DataFrame(np.floor(zyx) * VOXEL, columns=["z", "y", "x"])
    stored = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    print(
        f"tomogram {'×'.join(map(str, shape))} float32 noise, {chunks} chunks of {options.chunk}³, "
        f"{stored / 1e6:.0f} MB stored; {options.boxes} boxes of {edge}³ "
        f"({size * options.boxes / 1e9:.2f} GB), {options.workers} workers"
    )

    begin = time.perf_counter()
    for chunk in tomogram.data.to_delayed().ravel():
        chunk.compute(scheduler="synchronous")
    reading = time.perf_counter() - begin

    array = zarr.open_array(path / "0", mode="r")
    low = (np.floor(zyx[: options.sample]) - edge // 2).astype(int)
    begin = time.perf_counter()
    (folder / "single").mkdir()
    for number, first in enumerate(low):
        inside = tuple(
            slice(max(0, a), min(n, a + edge)) for a, n in zip(first, shape, strict=True)
        )
        box = np.zeros((edge,) * 3, np.float32)
        part = array[inside]
        target = tuple(slice(s.start - a, s.stop - a) for s, a in zip(inside, first, strict=True))
        box[...] = part.mean()
        box[target] = part
        (folder / "single" / str(number)).write_bytes(memoryview(box).cast("B"))
    single = options.sample / (time.perf_counter() - begin)
    shutil.rmtree(folder / "single")

    log = folder / "reads.txt"
    reader = Counting(open_reader(path), str(log))
    counted = tomogram.copy(
        data=da.from_array(
            reader, chunks=tomogram.data.chunks, name="open-counted", asarray=False, fancy=False,
            meta=np.empty((0,) * 3, np.float32), inline_array=True,
        )
    )  # fmt: skip
    with connect(workers=options.workers) as client:
        begin = time.perf_counter()
        client.run(load)
        setup = time.perf_counter() - begin
        before = sum(client.run(peak).values())
        user, system = used(client)
        with overhead(client) as share:
            begin = time.perf_counter()
            boxes = extract_subtomograms(counted, picks, box=edge)
            save_subtomograms(boxes, folder / "boxes.zarr")
            seconds = time.perf_counter() - begin
        user, system = (b - a for a, b in zip((user, system), used(client), strict=True))
        peaks = client.run(peak)
        shutil.rmtree(folder / "boxes.zarr")
        each = min(options.boxes, 1000) // options.workers
        futures = [
            client.submit(write_files, str(folder / f"plain{i}"), each, edge, pure=False)
            for i in range(options.workers)
        ]
        writing = each * options.workers / max(client.gather(futures))
    reads = Counter(log.read_text().splitlines())
    rate = options.boxes / seconds
    limit = options.boxes / (options.boxes / writing + reading / options.workers)
    print(f"tomodask      {rate:8.0f} boxes/s   ({seconds:.1f} s, wanted: ≥ 300)")
    print(
        f"processor     {1000 * (user + system) / options.boxes:8.2f} ms a box, summed over the "
        f"workers, {1000 * system / options.boxes:.2f} of it in the system (writing); "
        f"set-up of the workers {setup:.1f} s"
    )
    print(f"box by box    {single:8.0f} boxes/s   ratio {rate / single:.1f}")
    print(
        f"limit         {limit:8.0f} boxes/s   share {rate / limit:.0%} of plain files "
        f"({writing * size / 1e6:.0f} MB/s) and reading each chunk once ({reading:.1f} s)"
    )
    print(
        f"chunk reads   {sum(reads.values())} of {len(reads)} chunks: "
        f"{sum(reads.values()) / len(reads):.2f} a chunk"
    )
    listed = ", ".join(f"{value:.0f}" for value in peaks.values())
    print(f"peak memory   {listed} MB by worker (idle: {before / len(peaks):.0f}); "
          f"{peak():.0f} MB here")  # fmt: skip
    print(f"Dask          {share}")


def open_reader(path: Path):
    """The reader behind an opened tomogram's blocks."""
    from tomodask.data.ome_zarr import open_ome_zarr

    return open_ome_zarr(path).reader


if __name__ == "__main__":
    main()
