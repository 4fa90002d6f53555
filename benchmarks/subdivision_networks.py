"""Training of the networks of `subdivision.py`, epoch by epoch, from a state that is put down."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from subdivision_boxes import CLASSES, PROTOCOL, Boxes

from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.boxes.inference import BoxPredictor, open_predictor
from tomodask.nets.boxes.model_file import BoxModel, read_box_model, write_box_model
from tomodask.nets.boxes.normalisation import normalised
from tomodask.nets.boxes.trainer import ClassifierTrainer, Learning
from tomodask.nets.training_step import default_precision

Condition = tuple[int, float]  # tilt range, SNR


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes
    ----------
    network : str
    epochs : int
        Each passes every training particle once, in one condition that is drawn for it.
    learning_rate : float
    schedule : {"cosine", "inverse"}
        As of `tomodask.nets.boxes.trainer.Learning`.
    batch : int
    fresh : bool
        Whether noise is drawn anew in each epoch; else each particle keeps its own.
    """

    network: str
    epochs: int
    learning_rate: float
    schedule: str = "cosine"
    batch: int = 16
    fresh: bool = True


def train(
    name: str,
    recipe: Recipe,
    boxes: Boxes,
    conditions: Sequence[Condition],
    folder: Path,
    *,
    without: Sequence[str] = (),
    whole: bool = False,
) -> BoxModel:
    """The network of a name, as it was trained, or trained now; goes on where it was stopped.

    Parameters
    ----------
    without : sequence of str
        Classes that it is not shown.
    whole : bool
        Whether it looks at boxes of 40³.
    """
    path = folder / f"{name}.safetensors"
    if path.exists():
        return read_box_model(path)
    folder.mkdir(parents=True, exist_ok=True)
    classes = tuple(one for one in CLASSES if one not in without)
    count = len(classes) * boxes.amount.train
    learning = Learning.nesterov_decay(
        -(-count // recipe.batch),
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        schedule=recipe.schedule,
        precision=default_precision(),
        seed=1,
    )
    edge = PROTOCOL.box if whole else boxes.amount.box
    encoder = Encoder(recipe.network, edge, len(classes))  # type: ignore[arg-type]
    trainer = ClassifierTrainer(encoder, learning, threads=1)
    state = path.with_suffix(".state")
    history: list[dict[str, float]] = []
    if state.exists():
        history = trainer.load(state)["history"]
    print(f"  training {name} on {len(classes)} classes, {recipe}", flush=True)
    while not trainer.ended:
        begin = time.process_time()
        loss = trainer.train(_batches(boxes, conditions, classes, recipe, trainer.epochs, whole))
        seconds = time.process_time() - begin
        history.append({"epoch": trainer.epochs, "loss": loss, "seconds": seconds})
        trainer.save(state, {"history": history})
        print(
            f"    epoch {trainer.epochs}/{recipe.epochs}: loss {loss:.3f}, {seconds:.0f} CPU s",
            flush=True,
        )
    voxel_size = PROTOCOL.voxel_size * PROTOCOL.box / edge
    model = BoxModel(
        encoder, trainer.weights(), voxel_size, classes=classes, history=tuple(history)
    )
    write_box_model(model, path)
    state.unlink()
    return model


def _batches(
    boxes: Boxes,
    conditions: Sequence[Condition],
    classes: Sequence[str],
    recipe: Recipe,
    epoch: int,
    whole: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every training particle once, mixed, in batches; conditions as even as can be."""
    train = boxes.amount.train
    rng = np.random.default_rng([12, epoch])
    rows = rng.permutation(len(classes) * train)
    which = rng.permutation(np.resize(np.arange(len(conditions)), len(rows)))
    labels, numbers = rows // train, rows % train
    shown = np.array([CLASSES.index(one) for one in classes])
    noise = np.random.default_rng([13, epoch if recipe.fresh else 0])
    made: np.ndarray | None = None
    for n, (tilt, snr) in enumerate(conditions):
        mine = np.flatnonzero(which == n)
        # In the particles' own order, so that noise drawn alike is that of the same particle.
        mine = mine[np.argsort(rows[mine])]
        drawn = boxes.draw(
            tilt, snr, shown[labels[mine]], numbers[mine], noise, test=False, whole=whole
        )
        made = np.empty((len(rows), *drawn.shape[1:]), np.float32) if made is None else made
        made[mine] = drawn
    assert made is not None
    for start in range(0, len(rows), recipe.batch):
        part = slice(start, start + recipe.batch)
        yield normalised(made[part]), labels[part]


def predictor(model: BoxModel) -> BoxPredictor:
    return open_predictor(model, precision=default_precision(), batch=32)
