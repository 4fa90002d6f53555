"""Features of boxes: the networks' speed by engine, streaming from Zarr, and a million planned.

Random weights and noise, which change no speed; only "a trained classifier" learns, from simulated
balls.  CPU seconds are given beside the clock, as other work on the machine counts there less.

    python benchmarks/embed.py                         # all of it, on 10,000 boxes of 32³
    python benchmarks/embed.py --parts engines trained
    python benchmarks/embed.py --device cuda --parts engines stream --workers 1
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import pickle
import platform
import shutil
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

import dask
import numpy as np
import psutil
import xarray as xr
from embed_engines import BATCH, BOX, NETWORKS, SEED, engines, noise, random_model, trained

from tomodask.classification.clusters.kmeans import KMeans
from tomodask.classification.features.embedding import embed_subtomograms
from tomodask.classification.features.neighbours import find_neighbours
from tomodask.classification.features.store import (
    _begin,
    _pending,
    _token,
    open_features,
    save_features,
)
from tomodask.cluster import connect
from tomodask.data.subtomogram_store import StoredBox, save_subtomograms
from tomodask.data.subtomograms import lazy_boxes, open_subtomograms
from tomodask.nets.boxes.inference import BoxPredictor, open_predictor

PARTS = ("engines", "trained", "stream", "groups", "plan")


class Peak:
    """Highest resident memory of this process and of its children, of the largest alone too."""

    def __enter__(self) -> Peak:
        self.highest, self.largest, self.ended = 0, 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        # Once: looking for children walks all processes of the machine, a millisecond and more.
        own = psutil.Process()
        children = own.children(recursive=True)
        while not self.ended.wait(0.25):
            held = []
            for process in children:
                try:
                    held.append(process.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            self.largest = max([self.largest, *held])
            self.highest = max(self.highest, own.memory_info().rss + sum(held))

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()


def store(folder: Path, count: int) -> Path:
    path = folder / "boxes.zarr"
    values = dask.array.random.default_rng(SEED).standard_normal(
        (count, BOX, BOX, BOX), chunks=(128, -1, -1, -1), dtype=np.float32
    )
    made = xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), values)},
        {"particle": np.arange(count)},
        {"voxel_size": 10.0},
    )
    with dask.config.set(scheduler="threads", num_workers=2):
        save_subtomograms(made, path)
    return path


def bare(predictor: BoxPredictor, rounds: int) -> tuple[float, float]:
    """Clock and CPU seconds a box of the network alone, on boxes in a worker's memory.

    The worker imports what streaming needs, too: seconds, however many boxes there are.
    """
    import tomodask.classification.features.store
    import tomodask.data.subtomograms  # noqa: F401

    boxes = noise(BATCH)
    predictor.predict_features(boxes)
    clock, own = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        predictor.predict_features(boxes)
    count = rounds * len(boxes)
    return (time.perf_counter() - clock) / count, (time.process_time() - own) / count


def stream(options: argparse.Namespace, folder: Path, path: Path) -> None:
    for name in options.networks:
        for precision in options.precisions:
            streamed(options, folder, path, name, precision)


def streamed(
    options: argparse.Namespace, folder: Path, path: Path, name: str, precision: str
) -> None:
    predictor = open_predictor(random_model(name), precision=precision, device=options.device)
    workers = options.workers
    with connect("cuda" if options.device == "cuda" else None, workers=workers) as client:
        boxes = open_subtomograms(path)
        count = boxes.sizes["particle"]
        rounds = max(1, min(24, count // 64))

        def alone() -> tuple[float, float]:
            told = client.run(bare, predictor, rounds).values()
            clock = len(told) / sum(1 / one for one, _ in told) / len(told)
            return clock, float(np.mean([own for _, own in told]))

        before = alone()
        features = embed_subtomograms(boxes, model=predictor)
        spent = client.run(time.process_time)
        with Peak() as peak:
            start = time.perf_counter()
            save_features(features, folder / f"{name}.zarr", overwrite=True)
            wall = time.perf_counter() - start
        cpu = sum(client.run(time.process_time).values()) - sum(spent.values())
        after = alone()
    network = [(one + other) / 2 for one, other in zip(before, after, strict=True)]
    print(
        f"{name} {precision}: {count} boxes of {BOX}³ from Zarr into a store of features, "
        f"{workers} workers: {wall:.1f} s, {1e3 * wall / count:.2f} ms a box "
        f"({1e3 * cpu / count:.2f} CPU ms)"
        f"\n  the network alone in the same workers {1e3 * network[0]:.2f} ms a box "
        f"({1e3 * network[1]:.2f} CPU ms): streaming comes to "
        f"{100 * network[0] * count / wall:.0f} % of its rate by the clock, "
        f"{100 * network[1] * count / cpu:.0f} % by CPU seconds"
        f"\n  peak memory {peak.largest / 1e6:.0f} MB a worker, {peak.highest / 1e9:.2f} GB in "
        f"all; the boxes are {4 * count * BOX**3 / 1e9:.2f} GB",
        flush=True,
    )


def groups(options: argparse.Namespace, folder: Path) -> None:
    found = open_features(folder / f"{options.networks[0]}.zarr")
    count, width = found.features.shape
    with dask.config.set(scheduler="threads", num_workers=2):
        own, start = time.process_time(), time.perf_counter()
        means = KMeans(min(options.clusters, count // 4), max_iter=10).fit(found)
        wall, cpu = time.perf_counter() - start, time.process_time() - own
        print(
            f"\nk-means, {means.n_clusters} clusters of {count} × {width} features out of core: "
            f"{wall:.1f} s ({cpu:.1f} CPU s)"
        )
        own, start = time.process_time(), time.perf_counter()
        table = find_neighbours(found, particles=range(count), count=10).compute()
        wall, cpu = time.perf_counter() - start, time.process_time() - own
        product = 2.0 * count * count * width
        print(
            f"the 10 nearest of each of {table['query'].nunique()}: {wall:.1f} s "
            f"({cpu:.1f} CPU s), {product / cpu / 1e9:.0f} GFLOP/s of its matrix products a core"
        )


def plan(options: argparse.Namespace, folder: Path) -> None:
    """A store that is not there: what a million boxes cost before the first task."""
    count = options.planned
    own, start = time.process_time(), time.perf_counter()
    readers = [
        StoredBox("/a/store/boxes.zarr", i, (BOX,) * 3, "state", 10**18 + i * 10**5 + i * i % 9973)
        for i in range(count)
    ]
    boxes = xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), lazy_boxes(readers, (BOX,) * 3))},
        {"particle": np.arange(count), "position_z": ("particle", np.arange(count) * 1.0)},
        {"voxel_size": 10.0},
    )
    opened = time.process_time() - own
    features = embed_subtomograms(boxes, model=open_predictor(random_model("rb3d")))
    part, token = folder / "planned.part", _token(features)
    _begin(features, part, max(features.chunks["particle"]), token)
    task = _pending(features, part, max(features.chunks["particle"]), token)
    assert task is not None
    graph = dict(task.__dask_graph__())
    size = len(pickle.dumps(graph))
    print(
        f"\n{count:,} boxes of {BOX}³ planned: {time.process_time() - own:.1f} CPU s "
        f"({time.perf_counter() - start:.1f} s by the clock) to the first task, {opened:.1f} of "
        f"them for the boxes; {len(graph):,} keys, {size / 1e6:.1f} MB of graph, "
        f"{len(features.chunks['particle']):,} blocks"
    )
    large = random_model("dsrf3d")
    from tomodask.nets.boxes.model_file import read_box_model, write_box_model

    write_box_model(large, folder / "large.safetensors")
    stored = open_predictor(read_box_model(folder / "large.safetensors"))
    told = [len(pickle.dumps(one)) for one in (stored.for_workers(), stored)]
    print(
        f"a dsrf3d of {large.encoder.parameters:,} weights goes to workers in {told[0]} bytes, "
        f"the name of its file (all of it: {told[1] / 1e6:.0f} MB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--precisions", nargs="+", default=["bfloat16"])
    parser.add_argument("--boxes", type=int, default=10_000)
    parser.add_argument("--judged", type=int, default=2000)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--planned", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    told = {name: version(name) for name in ("torch", "openvino", "dask", "zarr", "numpy")}
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        + ", ".join(f"{name} {one}" for name, one in told.items())
        + f"; seed {SEED}"
    )
    folder = Path(tempfile.mkdtemp(prefix="embed-"))
    try:
        if "engines" in options.parts:
            engines(options)
        if "trained" in options.parts:
            trained(options)
        if {"stream", "groups"} & set(options.parts):
            path = store(folder, options.boxes)
            print()
            stream(options, folder, path)
        if "groups" in options.parts:
            groups(options, folder)
        if "plan" in options.parts:
            plan(options, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
