"""The networks' speed by engine, and classes by each: two parts of the benchmark `embed.py`."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable

import numpy as np

from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.boxes.inference import BoxPredictor, open_predictor
from tomodask.nets.boxes.model_file import BoxModel
from tomodask.nets.boxes.normalisation import normalised

SEED, BOX, BATCH = 0, 32, 16
NETWORKS = ("rb3d", "inception3d", "dsrf3d")
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
    from tomodask.nets.boxes.trainer import ClassifierTrainer, Learning

    edge, classes, size, steps = 24, 4, 16, 40
    z, y, x = np.indices((edge,) * 3) - edge // 2

    def batch(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """A ball of one of four sizes, at a random place about the centre, in noise."""
        rng = np.random.default_rng([SEED, seed])
        labels = rng.integers(0, classes, count)
        made = rng.standard_normal((count, edge, edge, edge), np.float32)
        for box, label in zip(made, labels, strict=True):
            at, width = rng.uniform(-4, 4, 3), (1.5, 2.2, 3.2, 4.7)[label]
            squared = (z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2
            box += 1.2 * np.exp(-squared / (2 * width**2))
        return normalised(made), labels

    trainer = ClassifierTrainer(
        Encoder("dsrf3d", edge, classes),
        Learning.cosine(steps, epochs=3, learning_rate=0.01, seed=SEED),
        threads=1,
    )
    for epoch in range(3):
        trainer.train(batch(1000 * epoch + step, size) for step in range(steps))
        trainer.keep_if_better(trainer.judge([batch(10**6, 64)]))
    model = trainer.model(tuple("abcd"), 10.0, [batch(10**6 + 1, 64)])
    boxes, labels = batch(10**6 + 2, options.judged)
    wanted, _ = open_predictor(model, engine="torch").predict_classes(boxes)
    print(
        f"\na trained classifier (dsrf3d, {edge}³, {classes} classes, {3 * steps * size} boxes, "
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
