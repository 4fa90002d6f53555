"""A training between two epochs: what it has learned, and how it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tomodask.nets.segmentation.architecture import IGNORED
from tomodask.nets.segmentation.model_file import PickingModel, read_model, write_model
from tomodask.picking.learning.crops import CropSampler, TrainingTomogram, split
from tomodask.picking.learning.data import Marked
from tomodask.picking.learning.settings import TrainingSettings
from tomodask.picking.learning.validation import Counts, judge
from tomodask.training.epoch import Epoch
from tomodask.training.keeping import versions
from tomodask.training.run import Run

__all__ = ["EpochReport", "TrainingRun"]

_RECALL_WEIGHT = 0.7  # of recall against precision, where the best epoch is chosen
_HALO = 16  # voxels, until the network's reach is measured
_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_TOLERATED = 0.02  # change of a probability by cutting a tile, in 99.9 % of the voxels
_JUDGED = 24  # crops of validation, at most
_SEEN = 128  # voxels along an edge of the part in which a network's reach is measured
_KNOWN = 1.5  # diameters: that far about a marked particle nothing is left unmarked


@dataclass(frozen=True, kw_only=True)
class EpochReport(Epoch):
    """What an epoch of training came to: an `Epoch`, judged by the held-out part.

    Attributes
    ----------
    precision, recall, f1 : float
        Particles found and claimed, all classes together.
    threshold : float
        The probability at which they are best.
    image, label, prediction : array, shapes (y, x), (y, x), (classes, y, x)
        A slice of a held-out crop: voxels (z-score), label (0, or class from 1; 255 has no say),
        probabilities.
    classes : tuple of str
    """

    precision: float
    recall: float
    f1: float
    threshold: float
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    classes: tuple[str, ...]


class TrainingRun(Run[EpochReport, PickingModel]):
    """A training of a picking network between two epochs."""

    data_named = "tomograms, picks, diameters"
    parts_named = "architecture"

    def __init__(
        self,
        marked: Marked,
        settings: TrainingSettings,
        tomograms: list[TrainingTomogram],
        *,
        threads: int | None,
    ) -> None:
        from tomodask.nets.segmentation.augmentation import Augmentation
        from tomodask.nets.segmentation.trainer import Optimisation, Trainer

        self.marked, self.settings, self.tomograms = marked, settings, tomograms
        crops: dict[str, Any] = {
            "crop": settings.crop,
            "label": settings.label,
            "diameter": settings.widths(len(marked.classes)),
            "jitter": settings.jitter,
            "background": settings.background,
            "known_within": self._known_within(),
            "seed": settings.seed,
        }
        training, held_out = split(tomograms, settings.validation, settings.seed)
        self.training = CropSampler(
            training,
            augmentation=Augmentation() if settings.augment else None,
            **crops,
        )
        # Jittered too: a network that always says the middle shall not be right.
        self.held_out = CropSampler(held_out, **crops)
        count = settings.examples or int(np.clip(len(training), 64, 400))
        self.steps = max(1, count // settings.batch)
        self.trainer = Trainer(
            settings.architecture,
            Optimisation(
                epochs=settings.epochs,
                steps=self.steps,
                learning_rate=settings.learning_rate,
                together=settings.dice == "particles",
                entropy=settings.entropy,
                precision=settings.precision,
                seed=settings.seed,
            ),
            threads=threads,
        )
        self.best: dict[str, np.ndarray] | None = None
        self.best_score, self.best_epoch, self.best_threshold = -1.0, 0, 0.5
        super().__init__(
            settings.to_dict(),
            [marked.told(), marked.classes, marked.diameters],
            [np.asarray(c) for c in marked.centers],
            write=write_model,
            read=read_model,
        )

    def _known_within(self) -> float | None:
        """Voxels about a particle in which others would have been marked, where only some are."""
        if not self.settings.some_marked:
            return None
        return _KNOWN * max(self.marked.diameters) / self.marked.voxel_size

    def settings_told(self) -> dict[str, Any]:
        """All settings, as model file and state tell them."""
        return self.settings.to_dict()

    def save(self, path: Path, told: dict[str, Any]) -> None:
        """Write `told`, the trainer's state and the best epoch so far."""
        best = {
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "best_threshold": self.best_threshold,
        }
        self.trainer.save(path, {**told, **best}, self.best)

    def load(self, path: Path, check: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Take up what `save` wrote; the learning rate may be another one."""
        told, self.best = self.trainer.load(path, check)
        self.best_score, self.best_epoch = told["best_score"], told["best_epoch"]
        self.best_threshold = told["best_threshold"]
        former = told["settings"]["learning_rate"]
        if former != self.settings.learning_rate:
            self.trainer.scale_learning_rate(self.settings.learning_rate / former)
        return told

    def model_named(self, epochs: int) -> str:
        """What the model file holds."""
        return "the best network" if self.best else ""

    def epoch(self, number: int) -> tuple[EpochReport, bool]:
        """Train on the crops of an epoch, and judge by held-out ones."""
        start = time.perf_counter()
        batch, count = self.settings.batch, self.steps * self.settings.batch
        with ThreadPoolExecutor(2) as pool:
            numbers = range(number * count, (number + 1) * count)
            # Closed here: an error would wait until all that was asked for in advance is made.
            with closing(_ahead(pool, self._example, numbers, batch)) as examples:
                loss = self.trainer.train(self.stopping.seen(_batches(examples, batch)))
            judged = range(min(len(self.held_out), _JUDGED))
            with closing(
                _ahead(pool, lambda i: self.held_out.example(0, i), judged, batch)
            ) as examples:
                held_out = list(self.stopping.seen(examples))
        predictions = [self.trainer.predict(crop[None])[0] for crop, _ in held_out]
        labels = [label for _, label in held_out]
        # Of thresholds that do as well the one nearest to a half.
        judged_at = {t: self._judged(predictions, labels, t) for t in _THRESHOLDS}
        threshold = max(
            _THRESHOLDS, key=lambda t: (judged_at[t].f_score(_RECALL_WEIGHT), -abs(t - 0.5))
        )
        counts = judged_at[threshold]
        score = counts.f_score(_RECALL_WEIGHT)
        # A later epoch of the same score has learned more: the schedule ends with small steps.
        better = score >= self.best_score
        if better:
            self.best_score, self.best, self.best_epoch = score, self.trainer.weights(), number + 1
            self.best_threshold = threshold
        row: dict[str, Any] = {
            "epoch": number + 1,
            "loss": loss,
            "learning_rate": self.trainer.learning_rate,
            "precision": counts.precision,
            "recall": counts.recall,
            "f1": counts.f_score(),
            "threshold": threshold,
            "seconds": time.perf_counter() - start,
        }
        self.history.append(row)
        # For the picture: of the crop with most labels the slice that has most of them.
        marks = [((label > 0) & (label != IGNORED)).sum((1, 2)) for _, label in held_out]
        shown = int(np.argmax([one.sum() for one in marks]))
        crop, label = held_out[shown]
        middle = int(marks[shown].argmax())
        return EpochReport(
            **row,
            epochs=self.settings.epochs,
            image=crop[0, middle],
            label=label[middle],
            prediction=predictions[shown][:, middle],
            classes=self.marked.classes,
        ), better

    def _judged(
        self, predictions: list[np.ndarray], labels: list[np.ndarray], threshold: float
    ) -> Counts:
        """What is picked in all crops of validation."""
        widths = self.settings.widths(len(self.marked.classes))
        counts = Counts()
        for prediction, label in zip(predictions, labels, strict=True):
            counts = counts.merge(judge(prediction, label, widths=widths, threshold=threshold))
        return counts

    def _example(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Example of this number, counted over all epochs: the sampler's epochs are its own."""
        return self.training.example(*divmod(number, len(self.training)))

    def model(self) -> PickingModel:
        """The best network so far; its halo is a guess."""
        return self._model(())

    def last_model(self) -> PickingModel:
        """The best network, and how far it looks."""
        return self._model(self._reach())

    def _model(self, reach: tuple[tuple[int, float], ...]) -> PickingModel:
        assert self.best is not None
        kept = [halo for halo, change in reach if change <= _TOLERATED]
        halo = min(kept, default=max((h for h, _ in reach), default=_HALO))
        return PickingModel(
            architecture=self.settings.architecture,
            weights=self.best,
            classes=self.marked.classes,
            diameters=self.marked.diameters,
            voxel_size=self.marked.voxel_size,
            halo=halo,
            label_diameter=self.settings.label_diameter,
            threshold=self.best_threshold,
            invert=self.settings.invert,
            reach=reach,
            history=tuple(self.history),
            training={
                "kept_epoch": self.best_epoch,
                "settings": self.settings.to_dict(),
                "data": self.marked.told(),
                "versions": versions(),
            },
        )

    def _reach(self) -> tuple[tuple[int, float], ...]:
        """How far the trained network looks, about a held-out particle."""
        from tomodask.nets.segmentation.reach import measure_reach

        values = self.held_out.region(_SEEN)
        least = max(_SEEN // 2, 4 * self.settings.architecture.multiple)
        missing = [(0, max(0, least - n)) for n in values.shape]
        return measure_reach(self._model(()), np.pad(values, missing))


def _ahead(
    pool: ThreadPoolExecutor, make: Callable[[int], Any], numbers: range, batch: int
) -> Generator[Any, None, None]:
    """Results in order, two batches of them made in advance.  To be closed where left early."""
    rest = iter(numbers)
    waiting: list[Future[Any]] = [pool.submit(make, n) for n in islice(rest, 2 * batch)]
    try:
        while waiting:
            done = waiting.pop(0).result()
            waiting.extend(pool.submit(make, n) for n in islice(rest, 1))
            yield done
    finally:
        for one in waiting:
            one.cancel()


def _batches(
    examples: Iterator[tuple[np.ndarray, np.ndarray]], size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while part := list(islice(examples, size)):
        crops, labels = zip(*part, strict=True)
        yield np.stack(crops), np.stack(labels)
