"""A classifier's training between two epochs: what it has learned, and how it goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from tomodask.classification.learning.box_stream import BoxStream
from tomodask.classification.learning.class_labels import Labelled, Split, class_weights
from tomodask.classification.learning.lenses import lenses_for
from tomodask.classification.learning.settings import ClassifierSettings
from tomodask.classification.learning.verdicts import Verdict, assessed, confusion, judged_at
from tomodask.nets.boxes.calibration import probabilities
from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.boxes.model_file import BoxModel, read_box_model, write_box_model
from tomodask.training.epoch import Epoch
from tomodask.training.keeping import versions
from tomodask.training.run import Run

if TYPE_CHECKING:
    from tomodask.nets.boxes.trainer import Judged

__all__ = ["ClassifierEpoch", "ClassifierRun", "guessing"]

_log = logging.getLogger(__name__)

_JUDGED = 32  # boxes that pass at once
_FITTED = 4096  # boxes that the last layer is fitted to, at most


@dataclass(frozen=True, kw_only=True)
class ClassifierEpoch(Epoch):
    """What an epoch of training came to: an `Epoch`, judged by held-out boxes.

    Attributes
    ----------
    validation_loss, accuracy : float
    class_accuracy : float
        The mean of the accuracies of each class, so that large ones do not hide small ones.
    confusion : array of int, shape (classes, classes)
        Boxes by their class (rows) and the class that is said (columns).
    classes : tuple of str
    """

    validation_loss: float
    accuracy: float
    class_accuracy: float
    confusion: np.ndarray
    classes: tuple[str, ...]


class ClassifierRun(Run[ClassifierEpoch, BoxModel]):
    """A training of a classifier between two epochs.

    Parameters
    ----------
    subtomograms : Dataset
    labelled : Labelled
        Sound boxes.
    split : Split
    encoder : Encoder
        Its outputs are the classes.
    settings : ClassifierSettings
    start : BoxModel, optional
        Pretrained.
    threads : int, optional
    data : mapping
        What the model file tells of the boxes.
    """

    data_named = "subtomograms, labels"

    def __init__(
        self,
        subtomograms: xr.Dataset,
        labelled: Labelled,
        split: Split,
        encoder: Encoder,
        settings: ClassifierSettings,
        *,
        start: BoxModel | None,
        threads: int | None,
        data: dict[str, Any],
    ) -> None:
        from tomodask.nets.boxes.trainer import ClassifierTrainer, Learning

        self.labelled, self.settings, self.encoder, self.data = labelled, settings, encoder, data
        self.voxel_size = float(subtomograms.attrs["voxel_size"])
        memory = int(settings.memory * 1e9)
        self.numbers: dict[str, np.ndarray] = {}
        self.streams: dict[str, BoxStream] = {}
        # Together they keep to the memory, also where each keeps its boxes.
        eighths = {"training": 6, "validation": 1 if len(split.test) else 2, "test": 1}
        for name, share in eighths.items():
            places = getattr(split, name)
            self.numbers[name] = labelled.numbers[places]
            self.streams[name] = BoxStream(
                subtomograms,
                labelled.rows[places],
                seed=settings.seed,
                memory=memory * share // 8,
                invert=settings.invert,
            )
        self.lens = lenses_for(subtomograms, self.streams["training"].rows, settings.augment)
        assert settings.learning_rate is not None  # settled
        count = len(split.training)
        weights = class_weights(self.numbers["training"], len(labelled.classes))
        self.batch = min(settings.batch, count)
        self.trainer = ClassifierTrainer(
            encoder,
            Learning(
                epochs=settings.epochs,
                steps=-(-count // self.batch),
                schedule=settings.schedule,
                learning_rate=settings.learning_rate,
                decay=settings.decay,
                momentum=settings.momentum,
                nesterov=settings.nesterov,
                weight_decay=settings.weight_decay,
                largest_gradient=settings.largest_gradient,
                class_weights=weights if settings.balance else None,
                patience=settings.patience,
                precision=settings.precision,
                seed=settings.seed,
            ),
            start=None if start is None else start.weights,
            threads=threads,
        )
        self.verdict: Verdict | None = None
        particles = [stream.particles for stream in self.streams.values()]
        super().__init__(
            settings.to_dict(),
            [
                encoder.to_dict(),
                labelled.classes,
                None if start is None else start.digest,
                self.voxel_size,
                data["digest"],
            ],
            [labelled.rows, labelled.numbers, *particles],
            write=write_box_model,
            read=read_box_model,
        )

    def settings_told(self) -> dict[str, Any]:
        """All settings, as model file and state tell them."""
        return {**self.settings.to_dict(), "network": self.encoder.network}

    def save(self, path: Path, told: dict[str, Any]) -> None:
        """Write `told`, the trainer's state and the verdict on the best epoch so far."""
        verdict = None if self.verdict is None else self.verdict.to_dict()
        self.trainer.save(path, {**told, "verdict": verdict})

    def load(self, path: Path, check: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Take up what `save` wrote."""
        told = self.trainer.load(path, check)
        self.verdict = Verdict(**told["verdict"]) if told["verdict"] else None
        return told

    def epochs_left(self) -> Iterator[int]:
        """Numbers of those to come, until no better one has come for long."""
        while not self.trainer.ended:
            yield self.trainer.epochs

    def model_named(self, epochs: int) -> str:
        """What the model file holds."""
        return "the best network" if self.verdict else ""

    def epoch(self, number: int) -> tuple[ClassifierEpoch, bool]:
        """Train on all boxes once, and judge by held-out ones."""
        start = time.perf_counter()
        # As it was at the last step: it is 0 after it.
        rate = self.trainer.how.rate(self.trainer.steps + self.trainer.how.steps - 1)
        views, known = self.settings.augment, self.numbers["training"]
        stream = self.streams["training"]
        if not self.trainer.steps:
            self._begin()
        # Closed here: an error would keep the generator, its threads and its boxes in its frames.
        with closing(stream.batches(number, self.batch, views=views, lens=self.lens)) as batches:
            seen = self.stopping.seen(batches)
            loss = self.trainer.train((batch.boxes[0], known[batch.places]) for batch in seen)
        judged = self._judged("validation")
        each = float(np.mean(_accuracies(judged)))
        by = replace(judged, accuracy=each) if self.settings.balance else judged
        better = self.trainer.keep_if_better(by)
        if better:
            self.verdict = judged_at(
                judged.logits, judged.labels, epoch=number + 1, known=self.settings.known
            )
        row: dict[str, Any] = {
            "epoch": number + 1,
            "loss": loss,
            "learning_rate": rate,
            "validation_loss": judged.loss,
            "accuracy": judged.accuracy,
            "class_accuracy": each,
            "seconds": time.perf_counter() - start,
        }
        self.history.append(row)
        report = ClassifierEpoch(
            **row,
            epochs=self.settings.epochs,
            confusion=confusion(judged.logits.argmax(1), judged.labels, len(self.labelled.classes)),
            classes=self.labelled.classes,
            ended=self.trainer.ended,
        )
        return report, better

    def _begin(self) -> None:
        """Scale first weights and fit the last layer, on boxes as they are."""
        stream, known = self.streams["training"], self.numbers["training"]
        size = min(_JUDGED, len(stream.rows))
        with closing(stream.batches(0, size)) as batches:
            seen = self.stopping.seen(islice(batches, -(-_FITTED // size)))
            self.trainer.begin((batch.boxes[0], known[batch.places]) for batch in seen)

    def _judged(self, name: str) -> Judged:
        known = self.numbers[name]
        with closing(self.streams[name].in_order(_JUDGED)) as batches:
            seen = self.stopping.seen(batches)
            return self.trainer.judge((batch.boxes[0], known[batch.places]) for batch in seen)

    def last_model(self) -> BoxModel:
        """The best network, tested where boxes are left for it; a guessing one is told of."""
        model = self.model()
        told = guessing(
            self.history[self.trainer.best_epoch - 1]["class_accuracy"],
            len(self.labelled.classes),
            len(self.numbers["validation"]),
        )
        if told is not None:
            _log.warning(told)
        return self._tested(model) if len(self.numbers["test"]) else model

    def model(self) -> BoxModel:
        """The best network so far, with what held-out boxes said of it."""
        assert self.trainer.best is not None
        assert self.verdict is not None
        return BoxModel(
            encoder=self.encoder,
            weights=self.trainer.best,
            voxel_size=self.voxel_size,
            classes=self.labelled.classes,
            temperature=self.verdict.temperature,
            least_confidence=self.verdict.least_confidence,
            invert=self.settings.invert,
            history=tuple(self.history),
            training={
                "kept_epoch": self.verdict.epoch,
                "validation": self.verdict.to_dict(),
                "settings": self.settings_told(),
                "data": self.data,
                "boxes": {name: len(numbers) for name, numbers in self.numbers.items()},
                "versions": versions(),
            },
        )

    def _tested(self, model: BoxModel) -> BoxModel:
        """The model, with what it says of boxes that nothing was chosen by."""
        from tomodask.nets.training_state import restore_weights

        restore_weights(self.trainer.network, model.weights)  # no epoch comes after
        judged = self._judged("test")
        chances = probabilities(judged.logits, model.temperature)
        told = assessed(chances, judged.labels, chances.max(1) < model.least_confidence)
        return replace(model, training={**model.training, "test": told})


def guessing(accuracy: float, classes: int, boxes: int) -> str | None:
    """A warning where a classifier is right about as often as one that guesses; else None.

    Parameters
    ----------
    accuracy : float
        Mean over the classes, on held-out boxes.
    classes, boxes : int
        How many; two standard deviations of so many guesses count as guessing.

    Examples
    --------
    >>> guessing(0.9, 3, 60) is None, guessing(0.4, 3, 60)[:30]
    (True, 'the classifier hardly does bet')
    """
    chance = 1 / classes
    if accuracy > chance + 2 * (chance * (1 - chance) / max(boxes, 1)) ** 0.5:
        return None
    return (
        f"the classifier hardly does better than guessing: right in {accuracy:.2f} of {boxes} "
        f"held-out boxes (mean of the classes), by chance {chance:.2f}; give more "
        "labelled boxes, more epochs, a pretrained start (init, --init), or another learning_rate "
        "(--learning-rate)"
    )


def _accuracies(judged: Judged) -> list[float]:
    """Of each class that has boxes."""
    right = judged.logits.argmax(1) == judged.labels
    return [float(right[judged.labels == n].mean()) for n in np.unique(judged.labels)]
