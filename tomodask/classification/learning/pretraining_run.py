"""An encoder's training without labels between two epochs: what it learned, how it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tomodask.classification.learning.box_stream import Batch, BoxStream
from tomodask.classification.learning.class_labels import Labelled
from tomodask.classification.learning.lenses import lenses_for
from tomodask.classification.learning.probes import Probe, probe_features
from tomodask.classification.learning.settings import EncoderSettings
from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.boxes.inference import open_predictor
from tomodask.nets.boxes.model_file import BoxModel, read_box_model, write_box_model
from tomodask.training.epoch import Epoch
from tomodask.training.keeping import versions
from tomodask.training.run import Run

__all__ = ["EncoderEpoch", "EncoderRun"]

_SHOWN = 4  # boxes whose views are in the picture
_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class EncoderEpoch(Epoch):
    """What an epoch of training without labels came to: an `Epoch`, judged by probes.

    Attributes
    ----------
    linear, neighbours : float
        Accuracy of the probes on labelled boxes that they did not learn from; NaN where there was
        no probe.
    views : array of float32, shape (boxes, 2, y, x)
        Middle slices of the two views of some boxes.
    """

    linear: float
    neighbours: float
    views: np.ndarray


class EncoderRun(Run[EncoderEpoch, BoxModel]):
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

    changeable = ("learning_rate", "precision", "probe_every")
    data_named = "subtomograms"

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
        from tomodask.nets.pretraining.trainer import Pretrainer, Pretraining

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
        super().__init__(
            self.settings_told(),
            [encoder.to_dict(), self.voxel_size, data["digest"]],
            [self.stream.rows, self.stream.particles],
            write=write_box_model,
            read=read_box_model,
        )

    @property
    def bytes(self) -> int:
        """Of boxes that lie in memory at most."""
        return self.stream.bytes + (0 if self.probing is None else self.probing.bytes)

    def settings_told(self) -> dict[str, Any]:
        """All settings, as model file and state tell them."""
        told = {"method": self.method, "network": self.encoder.network}
        return {**self.settings.to_dict(), **told}

    def save(self, path: Path, told: dict[str, Any]) -> None:
        """Write `told` and the trainer's state."""
        self.trainer.save(path, told)

    def load(self, path: Path, check: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Take up what `save` wrote."""
        told = self.trainer.load(path, check)
        # The optimiser's own rate came with its state; a lower one may be asked for.
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate
        return told

    def model_named(self, epochs: int) -> str:
        """What the model file holds."""
        return f"the encoder after epoch {epochs}"

    def epoch(self, number: int) -> tuple[EncoderEpoch, bool]:
        """Train on two views of all boxes, and probe the features where it is their turn."""
        start = time.perf_counter()
        shown: list[np.ndarray] = []
        batches = self.stream.batches(
            number, self.batch, views=self.settings.views, each=2, whole=True, lens=self.lens
        )
        # Closed here: an error would keep the generator, its threads and its boxes in its frames.
        with closing(batches):
            loss = self.trainer.train(_pairs(self.stopping.seen(batches), shown))
        probe = self._probe(number)
        row = {
            "epoch": number + 1,
            "loss": loss,
            "learning_rate": self.settings.learning_rate,
            "linear": None if probe is None else probe.linear,
            "neighbours": None if probe is None else probe.neighbours,
            "seconds": time.perf_counter() - start,
        }
        self.history.append(row)
        known = {name: np.nan if value is None else value for name, value in row.items()}
        known["epoch"] = number + 1
        report = EncoderEpoch(**known, epochs=self.settings.epochs, views=shown[0])  # type: ignore[arg-type]
        return report, True

    def _probe(self, epoch: int) -> Probe | None:
        if self.probing is None or self.probed is None:
            return None
        last = epoch + 1 == self.settings.epochs
        if epoch and (epoch + 1) % self.settings.probe_every and not last:
            return None
        # The stream normalises and inverts.
        predictor = open_predictor(replace(self.model(), invert=False))
        with closing(self.probing.in_order(_AT_ONCE)) as batches:
            seen = self.stopping.seen(batches)
            features = [predictor.predict_features(batch.boxes[0]) for batch in seen]
        return probe_features(
            np.concatenate(features), self.probed.numbers, seed=self.settings.seed
        )

    def model(self) -> BoxModel:
        """The encoder of now."""
        return BoxModel(
            encoder=self.encoder,
            weights=self.trainer.encoder_weights(),
            voxel_size=self.voxel_size,
            invert=self.settings.invert,
            history=tuple(self.history),
            training={
                "method": self.method,
                "settings": self.settings_told(),
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
