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
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import dask
import numpy as np
import psutil
import xarray as xr

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
from tomodask.nets.box_inference import BoxPredictor, open_predictor
from tomodask.nets.classifier_file import BoxModel
from tomodask.nets.encoder import Encoder

SEED, BOX, BATCH = 0, 32, 16
NETWORKS = ("rb3d", "inception3d", "dsrf3d")
PARTS = ("engines", "trained", "stream", "groups", "plan")
ROUNDS = 3


def random_model(name: str, outputs: int = 10, box: int = BOX) -> BoxModel:
    encoder, rng = Encoder(name, box, outputs), np.random.default_rng(SEED)
    weights = {
        part: (
            rng.normal(size=shape) * (np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1)
        ).astype(np.float32)
        for part, shape in encoder.shapes.items()
    }
    return BoxModel(encoder, weights, 10.0)


def noise(count: int) -> np.ndarray:
    made = np.random.default_rng(SEED).standard_normal((count, BOX, BOX, BOX), np.float32)
    return made * 3 + 5


def operations(encoder: Encoder) -> float:
    """Products and sums of the features of a box, counted from the shapes of the weights."""
    box, total = encoder.box, 0.0
    half = box // 2
    for name, shape in encoder.shapes.items():
        if name.endswith("bias") or (name == "last.weight" and encoder.network != "inception3d"):
            continue
        if len(shape) == 2:
            voxels = 1
        elif encoder.network == "inception3d":
            voxels = (box - 4) ** 3 if name == "first.weight" else (-(-(box - 4) // 2)) ** 3
        else:
            fine = name in ("first.weight", "convolutions.0.weight", "convolutions.1.weight")
            voxels = box**3 if fine else half**3
        total += 2.0 * np.prod(shape) * voxels
    return total


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """The best of a few rounds; the first has everything built, and its memory taken."""
    found = []
    for _ in range(ROUNDS):
        start = clock()
        work()
        found.append(clock() - start)
    return min(found)


def peak_rate(precision: str, threads: int, clock: Callable[[], float]) -> float:
    """Operations a second of a convolution that suits the processor, by the same engine."""
    import openvino
    from openvino import opset8 as ops

    from tomodask.nets.openvino_layers import compiled

    channels, edge = 64, 32
    rng = np.random.default_rng(SEED)
    x = ops.parameter([1, channels, edge, edge, edge], np.float32)
    out = x
    for _ in range(3):
        kernel = rng.normal(size=(channels, channels, 3, 3, 3)).astype(np.float32)
        ones = [1, 1, 1]
        out = ops.convolution(out, ops.constant(kernel * 0.02), ones, ones, ones, ones)
    graph = openvino.Model([ops.reduce_max(out, ops.constant(np.array([2, 3, 4])))], [x], "peak")
    run = compiled(graph, precision=precision, threads=threads)
    given = rng.standard_normal((1, channels, edge, edge, edge), np.float32)
    count = 3 * 2 * 27 * channels**2 * edge**3
    return count / seconds(lambda: run(given), clock)


def engines(options: argparse.Namespace) -> None:
    """ms a box on one core and on two, by CPU seconds; a GPU by the clock."""
    gpu = options.device == "cuda"
    boxes = noise(64 * BATCH if gpu else 2 * BATCH)
    few = boxes if gpu else boxes[:BATCH]
    clock = time.perf_counter if gpu else time.process_time
    peaks = {} if gpu else {p: peak_rate(p, 1, time.process_time) for p in ("float32", "bfloat16")}
    for precision, rate in peaks.items():
        print(
            f"a 3³ convolution, 64 channels, OpenVINO {precision}: {rate / 1e9:.0f} GFLOP/s, 1 core"
        )
    for name in options.networks:
        model = random_model(name)
        count = operations(model.encoder)
        print(
            f"\n{name}, {BOX}³: {count / 1e9:.2f} GFLOP a box, {model.encoder.parameters:,} weights"
        )
        print(
            "  engine, precision       batch  1 core ms  2 cores ms  of peak  × eager  difference"
        )
        first, exact = 0.0, None
        cases = [("torch", "float32", BATCH), ("torch", "float32", 1), ("torch", "bfloat16", BATCH)]
        if not gpu:
            cases += [
                ("openvino", precision, batch)
                for precision in ("float32", "bfloat16")
                for batch in (1, BATCH)
            ]
        for engine, precision, batch in cases:
            predictor = open_predictor(
                model, engine=engine, precision=precision, batch=batch, device=options.device
            )
            found = predictor.predict_features(few)
            one = seconds(lambda p=predictor: p.predict_features(few), clock) / len(few)
            exact = found if exact is None else exact
            first = first or one
            both = "" if gpu else f"{1e3 * side_by_side(predictor, boxes, clock):10.2f}"
            share = "" if gpu else f"{100 * count / one / peaks[precision]:6.0f} %"
            told = f"  {engine:9s} {precision:10s} {batch:8d} {1e3 * one:10.2f} {both:>11s}"
            off = np.abs(found - exact).max() / exact.std()
            print(
                f"{told} {share:>9s} {first / one:8.2f}  {off:.1e}",
                flush=True,
            )
    print(
        "difference: the largest of any feature from PyTorch's float32, in their standard deviation"
    )


def side_by_side(predictor: BoxPredictor, boxes: np.ndarray, clock: Callable[[], float]) -> float:
    """Seconds a box of two threads with boxes of their own: half of what both spend."""

    def both() -> None:
        halves = np.array_split(boxes, 2)
        asked = [threading.Thread(target=predictor.predict_features, args=(h,)) for h in halves]
        for thread in asked:
            thread.start()
        for thread in asked:
            thread.join()

    return seconds(both, clock) / 2 / len(boxes)


def trained(options: argparse.Namespace) -> None:
    """Classes by bfloat16 and float32, of a classifier that has learned something."""
    from tomodask.nets.classifier_trainer import ClassifierTrainer, Learning

    edge, classes, size, steps = 24, 4, 16, 40
    z, y, x = np.indices((edge,) * 3) - edge // 2

    def batch(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Two, three, four or five balls at random places about the centre, in noise."""
        rng = np.random.default_rng([SEED, seed])
        labels = rng.integers(0, classes, count)
        made = rng.standard_normal((count, edge, edge, edge), np.float32)
        for box, label in zip(made, labels, strict=True):
            for at in rng.uniform(-6, 6, (2 + label, 3)):
                box += 1.5 * np.exp(-((z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2) / 8)
        return made, labels

    trainer = ClassifierTrainer(
        Encoder("rb3d", edge, classes),
        Learning.cosine(steps, epochs=3, learning_rate=0.02, seed=SEED),
        threads=1,
    )
    for epoch in range(3):
        trainer.train(batch(1000 * epoch + step, size) for step in range(steps))
        trainer.keep_if_better(trainer.judge([batch(10**6, 64)]))
    model = trainer.model(tuple("abcd"), 10.0, [batch(10**6 + 1, 64)])
    boxes, labels = batch(10**6 + 2, options.judged)
    wanted, _ = open_predictor(model, engine="torch").predict_classes(boxes)
    print(
        f"\na trained classifier (rb3d, {edge}³, {classes} classes, {3 * steps * size} boxes, "
        f"{options.judged} others judged): {100 * (wanted == labels).mean():.1f} % right"
    )
    for precision in ("float32", "bfloat16"):
        told, _ = open_predictor(model, engine="openvino", precision=precision).predict_classes(
            boxes
        )
        print(
            f"  OpenVINO {precision}: {100 * (told == labels).mean():.1f} % right, "
            f"{100 * (told == wanted).mean():.2f} % the same class as PyTorch's float32"
        )


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
    from tomodask.nets.classifier_file import read_box_model, write_box_model

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
