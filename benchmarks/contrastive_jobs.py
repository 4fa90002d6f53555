"""The jobs of benchmarks/contrastive.py: boxes, encoders without labels, classifiers with some."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np

from tomodask.classification.learning.settings import ClassifierSettings
from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.boxes.model_file import BoxModel, read_box_model, write_box_model
from tomodask.nets.boxes.normalisation import normalised
from tomodask.nets.boxes.views import ANY_TURN, Views, view
from tomodask.simulation import simulate_subtomograms

FOLDER = Path(os.environ.get("TOMODASK_SHARED") or Path(__file__).parents[2] / "shared" / "data")
KINDS = ["1bxn", "1gru_assembly", "1mnf", "1qvr", "1u6g"]
KINDS += ["2cg9", "3cf3", "3d2f", "3j9i", "4v4r_30S"]
SHARES = (0.25, 0.5, 0.75, 1.0)
SEEDS = 5
VOXEL_SIZE = 10.0
LARGEST_GRADIENT = ClassifierSettings().settled("rb3d", pretrained=False).largest_gradient
#: Beyond the paper: any orientation, and no crop, which changes sizes.
TURNED = ", any turn"
STARTS: dict[str, tuple[str, Views]] = {
    f"{method}{name}": (method, views)
    for name, views in (("", Views()), (TURNED, ANY_TURN))
    for method in ("moco", "simclr", "swav")
}


@dataclass(frozen=True)
class Scale:
    """How much is done; the defaults are the paper's, where it tells them.

    `train`, `validation` and `test` are boxes of each kind, `batch` of fine-tuning and MoCo;
    `large_batch` of SimCLR and SwAV, whose papers have thousands.  With labels there are so many
    `epochs`, or so many `steps` whatever the share: few labels are then not few steps, too, and the
    random start is not held back by that.  `whole`: all views and shares at every SNR; else
    encoders of the paper's views meet the fewest and all labels only, and at SNRs after the first
    one there are none of them, and no other shares.
    """

    box: int = 32
    train: int = 300
    validation: int = 100
    test: int = 100
    snrs: tuple[float, ...] = (math.inf, 0.05, 0.03)
    pretraining_epochs: int = 200
    pretraining_rate: float = 1e-4
    momentum: float = 0.999
    epochs: int = 50
    steps: int | None = None
    rates: tuple[float, ...] = (5e-4,)
    batch: int = 16
    large_batch: int = 128
    whole: bool = True

    @property
    def count(self) -> int:
        return self.train + self.validation + self.test

    def epochs_of(self, boxes: int) -> int:
        each = math.ceil(boxes / self.batch)
        return self.epochs if self.steps is None else math.ceil(self.steps / each)


FULL = Scale()
REDUCED = Scale(
    box=24,
    train=40,
    validation=10,
    test=50,
    snrs=(math.inf, 0.05),
    pretraining_epochs=20,
    pretraining_rate=3e-4,
    momentum=0.99,
    steps=120,
    rates=(3e-3, 1e-3, 3e-4),
    large_batch=32,
    whole=False,
)


def simulated(scale: Scale, snr: float, data: Path, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Boxes, normalised, and their classes from 0; made once."""
    file = work / f"boxes-{snr:g}.npz"
    if not file.exists():
        structures = {kind: data / "structures" / f"{kind}.pdb.gz" for kind in KINDS}
        missing = [str(path) for path in structures.values() if not path.exists()]
        if missing:
            sys.exit(f"{missing[0]} is missing; set TOMODASK_SHARED to the folder of structures/")
        begin = time.perf_counter()
        made = simulate_subtomograms(
            structures, protocol="contrastive", count=scale.count, box=scale.box, snr=snr
        )
        with dask.config.set(scheduler="synchronous"):
            boxes = made.subtomogram.to_numpy()
        part = file.with_suffix(".part.npz")
        np.savez(part, boxes=normalised(boxes), labels=made["class"].to_numpy().astype(int) - 1)
        part.replace(file)
        print(f"SNR {snr:g}: {len(boxes)} boxes in {time.perf_counter() - begin:.0f} s", flush=True)
    with np.load(file) as kept:
        return kept["boxes"], kept["labels"]


def test_rows(scale: Scale, labels: np.ndarray) -> np.ndarray:
    """The boxes that nothing learns from: the last of each kind."""
    return np.concatenate([np.flatnonzero(labels == kind)[-scale.test :] for kind in set(labels)])


def split(scale: Scale, labels: np.ndarray, seed: int, share: float) -> tuple[np.ndarray, ...]:
    """Rows to learn from, to choose the epoch by, and left; a larger share holds the smaller."""
    rng = np.random.default_rng([seed, 1])
    train, validation, left = [], [], []
    for kind in sorted(set(labels)):
        rows = rng.permutation(np.flatnonzero(labels == kind)[: -scale.test])
        validation.append(rows[: scale.validation])
        rest = rows[scale.validation :]
        known = round(share * scale.train)
        train.append(rest[:known])
        left.append(rest[known:])
    return np.concatenate(train), np.concatenate(validation), np.concatenate(left)


def in_batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def pretrain(scale: Scale, snr: float, start: str, work: Path) -> dict[str, Any]:
    """An encoder that saw no label; kept in the work folder, and so is its state on the way."""
    from tomodask.nets.pretraining.trainer import Pretrainer, Pretraining
    from tomodask.nets.training_step import default_precision

    method, views = STARTS[start]
    with np.load(work / f"boxes-{snr:g}.npz") as kept:
        boxes, labels = kept["boxes"], kept["labels"]
    rows = np.setdiff1d(np.arange(len(boxes)), test_rows(scale, labels))
    size = scale.batch if method == "moco" else scale.large_batch
    how = Pretraining(
        method,  # type: ignore[arg-type]
        momentum=scale.momentum,
        learning_rate=scale.pretraining_rate,
        precision=default_precision(),
    )
    one = Pretrainer(Encoder("rb3d", scale.box, len(KINDS)), how, threads=1)
    state = work / f"state-{snr:g}-{start}.safetensors"
    told: dict[str, Any] = {"losses": [], "seconds": 0.0}
    if state.exists():
        told = one.load(state)
    for epoch in range(len(told["losses"]), scale.pretraining_epochs):
        begin = time.process_time()
        order = np.random.default_rng([3, epoch]).permutation(rows)

        def pair(row: int, epoch: int = epoch) -> list[np.ndarray]:
            at = {"seed": 5, "epoch": epoch, "particle": int(row)}
            return [view(boxes[row], views, number=n, **at) for n in (0, 1)]

        # The last, smaller batch is left out: fewer boxes are easier to tell apart.
        batches = (
            tuple(np.stack(side) for side in zip(*map(pair, some), strict=True))
            for some in in_batches(order, size)
            if len(some) == size
        )
        told["losses"].append(one.train(batches))  # type: ignore[arg-type]
        told["seconds"] += time.process_time() - begin
        one.save(state, told)
    model = BoxModel(one.encoder, one.encoder_weights(), VOXEL_SIZE)
    write_box_model(model, work / f"encoder-{snr:g}-{start}.safetensors")
    state.unlink(missing_ok=True)
    return {"what": "encoder", "snr": snr, "start": start, **told}


def choose(scale: Scale, snr: float, start: str, work: Path) -> dict[str, Any]:
    """The learning rate that suits a start, by boxes that neither teach nor test."""
    with np.load(work / f"boxes-{snr:g}.npz") as kept:
        boxes, labels = kept["boxes"], kept["labels"]
    seed, share = SEEDS, SHARES[0]
    train, validation, left = split(scale, labels, seed, share)
    found = {}
    for rate in scale.rates:
        one = learned(scale, snr, start, seed, rate, boxes, labels, train, validation, work)
        found[rate] = one.judge(in_order(boxes, labels, left)).accuracy
    best = max(found, key=lambda rate: found[rate])
    return {"what": "rate", "snr": snr, "start": start, "rate": best, "found": list(found.items())}


def tune(
    scale: Scale, snr: float, start: str, seed: int, share: float, rate: float, work: Path
) -> dict[str, Any]:
    """Accuracy on the test's boxes of a classifier that learned from a share of the labels."""
    begin = time.process_time()
    with np.load(work / f"boxes-{snr:g}.npz") as kept:
        boxes, labels = kept["boxes"], kept["labels"]
    train, validation, _ = split(scale, labels, seed, share)
    test = test_rows(scale, labels)
    one = learned(scale, snr, start, seed, rate, boxes, labels, train, validation, work)
    row = {
        "what": "accuracy",
        "snr": snr,
        "start": start,
        "seed": seed,
        "share": share,
        "accuracy": one.judge(in_order(boxes, labels, test)).accuracy,
        "validation": one.best_accuracy,
        "best epoch": one.best_epoch,
    }
    if share in (SHARES[0], SHARES[-1]):
        one = begun(scale, snr, start, seed, rate, len(train), work)
        first_fit(one, boxes, labels, train, seed, scale.batch)
        row |= probes(one.network, boxes, labels, train, test)
    return {**row, "seconds": time.process_time() - begin}


def begun(
    scale: Scale, snr: float, start: str, seed: int, rate: float, known: int, work: Path
) -> Any:
    """A trainer at its first step."""
    from tomodask.nets.boxes.trainer import ClassifierTrainer, Learning
    from tomodask.nets.training_step import default_precision

    how = Learning.cosine(
        math.ceil(known / scale.batch),
        epochs=scale.epochs_of(known),
        learning_rate=rate,
        largest_gradient=LARGEST_GRADIENT,
        precision=default_precision(),
        seed=seed,
    )
    weights = None
    if not start.startswith("random"):
        weights = read_box_model(work / f"encoder-{snr:g}-{start}.safetensors").weights
    return ClassifierTrainer(Encoder("rb3d", scale.box, len(KINDS)), how, start=weights, threads=1)


def learned(
    scale: Scale,
    snr: float,
    start: str,
    seed: int,
    rate: float,
    boxes: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    validation: np.ndarray,
    work: Path,
) -> Any:
    """A trainer after its last step, with the weights of its best epoch."""
    from tomodask.nets.training_state import restore_weights

    one = begun(scale, snr, start, seed, rate, len(train), work)
    first_fit(one, boxes, labels, train, seed, scale.batch)
    while not one.ended:
        order = np.random.default_rng([seed, 2, one.epochs]).permutation(train)
        shown = boxes
        if start == "random" + TURNED:
            shown = boxes.copy()
            for row in train:
                at = {"seed": seed, "epoch": one.epochs, "particle": int(row)}
                shown[row] = view(boxes[row], ANY_TURN, **at)
        one.train(in_order(shown, labels, order, scale.batch))
        one.keep_if_better(one.judge(in_order(boxes, labels, validation)))
    restore_weights(one.network, one.best)
    return one


def first_fit(
    one: Any, boxes: np.ndarray, labels: np.ndarray, train: np.ndarray, seed: int, size: int
) -> None:
    """The trainer's own beginning: weights scaled, the last layer fitted to the features."""
    order = np.random.default_rng([seed, 2, 0]).permutation(train)
    one.begin(in_order(boxes, labels, order, size))


def in_order(
    boxes: np.ndarray, labels: np.ndarray, rows: np.ndarray, size: int = 32
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for some in in_batches(rows, size):
        yield boxes[some], labels[some]


def probes(
    network: Any, boxes: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray
) -> dict[str, float]:
    """How well the features, as they are, tell the kinds: a linear one, and the five nearest."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    network.eval()
    with torch.inference_mode():
        known, asked = (
            torch.cat(
                [
                    network.features(torch.from_numpy(boxes[some])[:, None])
                    for some in in_batches(rows, 64)
                ]
            ).numpy()
            for rows in (train, test)
        )
    middle, width = known.mean(0), known.std() + 1e-12
    known, asked = (known - middle) / width, (asked - middle) / width
    linear = LogisticRegression(C=0.01, max_iter=500).fit(known, labels[train])
    near = KNeighborsClassifier(5, metric="cosine").fit(known, labels[train])
    return {
        "linear": float(linear.score(asked, labels[test])),
        "nearest": float(near.score(asked, labels[test])),
    }
