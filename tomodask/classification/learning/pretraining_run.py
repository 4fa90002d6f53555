"""An encoder's training without labels between two epochs: what it learned, how it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from tomodask.classification.learning.box_stream import Batch, BoxStream
from tomodask.classification.learning.class_labels import Labelled
from tomodask.classification.learning.lenses import lenses_for
from tomodask.classification.learning.probes import Probe, probe_features
from tomodask.classification.learning.settings import EncoderSettings
from tomodask.nets.box_inference import open_predictor
from tomodask.nets.classifier_file import BoxModel, read_box_model, write_box_model
from tomodask.nets.encoder import Encoder
from tomodask.training.keeping import (
    Place,
    digest_of_training,
    same_training,
    stopped_at,
    versions,
)
from tomodask.training.stopping import Stopping

__all__ = ["EncoderEpoch", "EncoderRun"]

_CHANGEABLE = ("learning_rate", "precision", "probe_every")  # they may be others where it goes on
_SHOWN = 4  # boxes whose views are in the picture
_AT_ONCE = 32


@dataclass(frozen=True)
class EncoderEpoch:
    """What an epoch of training without labels came to.

    Attributes
    ----------
    epoch, epochs : int
        This one, from 1, and all.
    loss, learning_rate : float
        Mean over the epoch; at its end.
    linear, neighbours : float
        Accuracy of the probes on labelled boxes that they did not learn from; NaN where there was
        no probe.
    seconds : float
        That the epoch took, probe included.
    views : array of float32, shape (boxes, 2, y, x)
        Middle slices of the two views of some boxes.
    """

    epoch: int
    epochs: int
    loss: float
    learning_rate: float
    linear: float
    neighbours: float
    seconds: float
    views: np.ndarray


class EncoderRun:
    """A training without labels between two epochs.

    Parameters
    ----------
    subtomograms : Dataset
    rows : array of int
        Sound boxes.
    encoder : Encoder
    method : {"moco", "simclr", "swav"}
    settings : EncoderSettings
    probed : Labelled, optional
        Sound boxes by which features are judged.
    threads : int, optional
    data : mapping
        What the model file tells of the boxes.
    """

    def __init__(
        self,
        subtomograms: xr.Dataset,
        rows: np.ndarray,
        encoder: Encoder,
        method: Any,
        settings: EncoderSettings,
        *,
        probed: Labelled | None,
        threads: int | None,
        data: dict[str, Any],
    ) -> None:
        from tomodask.nets.pretrainer import Pretrainer, Pretraining

        self.encoder, self.settings, self.method, self.data = encoder, settings, method, data
        self.voxel_size = float(subtomograms.attrs["voxel_size"])
        how: dict[str, Any] = {"seed": settings.seed, "invert": settings.invert}
        memory = int(settings.memory * 1e9)
        self.stream = BoxStream(subtomograms, rows, memory=memory * 3 // 4, **how)
        self.lens = lenses_for(subtomograms, rows, settings.views)
        self.batch = min(settings.batch, len(rows))
        self.probed = probed
        self.probing = None
        if probed is not None:
            self.probing = BoxStream(subtomograms, probed.rows, memory=memory // 4, **how)
        self.trainer = Pretrainer(
            encoder,
            Pretraining(
                method=method,
                temperature=settings.temperature,
                dimension=settings.dimension,
                queue=settings.queue,
                momentum=settings.momentum,
                prototypes=settings.prototypes,
                epsilon=settings.epsilon,
                learning_rate=settings.learning_rate,
                weight_decay=settings.weight_decay,
                precision=settings.precision,
                seed=settings.seed,
            ),
            threads=threads,
        )
        self.stopping = Stopping()
        self.history: list[dict[str, Any]] = []
        told = [
            {k: v for k, v in self._settings().items() if k not in _CHANGEABLE},
            encoder.to_dict(),
            self.voxel_size,
            data["digest"],
        ]
        self.identity = digest_of_training(told, [self.stream.rows, self.stream.particles])

    @property
    def bytes(self) -> int:
        """Of boxes that lie in memory at most."""
        return self.stream.bytes + (0 if self.probing is None else self.probing.bytes)

    def _settings(self) -> dict[str, Any]:
        told = {"method": self.method, "network": self.encoder.network}
        return {**self.settings.to_dict(), **told}

    def take_up(self, place: Place) -> None:
        """Go on from a state that `put_down` left."""

        def same(told: dict[str, Any]) -> None:
            same_training(place, told, self.identity, self._settings(), data="subtomograms")

        self.history = self.trainer.load(place.state, same)["history"]
        # The optimiser's own rate came with its state; a lower one may be asked for.
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate

    def put_down(self, place: Place) -> None:
        """Keep all that going on needs."""
        told = {
            "identity": self.identity,
            "settings": self._settings(),
            "history": self.history,
        }
        self.trainer.save(place.state, told)

    def to_the_end(self, place: Place | None, on_epoch: Callable[[EncoderEpoch], None]) -> BoxModel:
        """All epochs that are left; the last one as a model.

        Ctrl-C is heeded between two batches, a second one at once.
        """
        with self.stopping.heard():
            return self._trained(place, on_epoch)

    def _trained(self, place: Place | None, on_epoch: Callable[[EncoderEpoch], None]) -> BoxModel:
        from tomodask.nets.trainer import TrainingDivergedError

        epochs = self.settings.epochs
        for epoch in range(len(self.history), epochs):
            try:
                report = self._epoch(epoch)
            except TrainingDivergedError as error:
                told = f"the encoder after epoch {epoch}"
                raise TrainingDivergedError(
                    stopped_at(error, place, epoch=epoch, epochs=epochs, model=told)
                ) from error
            if place is not None:
                self.put_down(place)
                write_box_model(self._model(), place.target)
            on_epoch(report)
        if place is None:
            return self._model()
        write_box_model(self._model(), place.target)
        return read_box_model(place.target)

    def _epoch(self, epoch: int) -> EncoderEpoch:
        start = time.perf_counter()
        shown: list[np.ndarray] = []
        batches = self.stream.batches(
            epoch, self.batch, views=self.settings.views, each=2, whole=True, lens=self.lens
        )
        # Closed here: an error would keep the generator, its threads and its boxes in its frames.
        with closing(batches):
            loss = self.trainer.train(_pairs(self.stopping.seen(batches), shown))
        probe = self._probe(epoch)
        row = {
            "epoch": epoch + 1,
            "loss": loss,
            "learning_rate": self.settings.learning_rate,
            "linear": None if probe is None else probe.linear,
            "neighbours": None if probe is None else probe.neighbours,
            "seconds": time.perf_counter() - start,
        }
        self.history.append(row)
        known = {name: np.nan if value is None else value for name, value in row.items()}
        known["epoch"] = epoch + 1
        return EncoderEpoch(**known, epochs=self.settings.epochs, views=shown[0])  # type: ignore[arg-type]

    def _probe(self, epoch: int) -> Probe | None:
        if self.probing is None or self.probed is None:
            return None
        last = epoch + 1 == self.settings.epochs
        if epoch and (epoch + 1) % self.settings.probe_every and not last:
            return None
        # The stream normalises and inverts.
        predictor = open_predictor(self._model(invert=False))
        with closing(self.probing.in_order(_AT_ONCE)) as batches:
            seen = self.stopping.seen(batches)
            features = [predictor.predict_features(batch.boxes[0]) for batch in seen]
        return probe_features(
            np.concatenate(features), self.probed.numbers, seed=self.settings.seed
        )

    def _model(self, *, invert: bool | None = None) -> BoxModel:
        """The encoder of now."""
        return BoxModel(
            encoder=self.encoder,
            weights=self.trainer.encoder_weights(),
            voxel_size=self.voxel_size,
            invert=self.settings.invert if invert is None else invert,
            history=tuple(self.history),
            training={
                "method": self.method,
                "settings": self._settings(),
                "data": self.data,
                "versions": versions(),
            },
        )


def _pairs(
    batches: Iterable[Batch], shown: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Two views of each box; middle slices of the first boxes are kept."""
    for batch in batches:
        first, second = batch.boxes
        if not shown:
            middle = first.shape[1] // 2
            shown.append(np.stack([first[:_SHOWN, middle], second[:_SHOWN, middle]], 1))
        yield first, second
