"""Training of a classifier of boxes, epoch by epoch, from a state that can be put down.

Cross-entropy and SGD, as both papers have it: `Learning.cosine` (Gupta et al. 2022, fine-tuning)
and `Learning.nesterov_decay` (Xu et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from tomodask.errors import InputError
from tomodask.nets.boxes.calibration import fit_temperature
from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.boxes.last_layer import fit_logistic
from tomodask.nets.boxes.model_file import BoxModel
from tomodask.nets.boxes.networks import build_encoder
from tomodask.nets.boxes.normalisation import check_boxes
from tomodask.nets.precision import Precision
from tomodask.nets.training_state import (
    load_training,
    of_kind,
    restore_weights,
    save_training,
    seed_of_step,
    weights_of,
)
from tomodask.nets.training_step import TrainingStep, mean_loss

__all__ = ["ClassifierTrainer", "Judged", "Learning"]

_FORMAT = "tomodask-classifier-state/1"
_AT_ONCE = 32  # boxes, where no gradient is wanted
_WIDEST = 4096  # inputs of a last layer that is fitted
Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Learning:
    """How weights are stepped; the two papers' ways are `cosine` and `nesterov_decay`.

    Attributes
    ----------
    epochs, steps : int
        Steps are those of one epoch.
    schedule : {"cosine", "inverse"}
        From `learning_rate` at step t: half a cosine down to 0 at the last step, or
        ``1 / (1 + decay · t)``.
    learning_rate : float
    decay : float
        Of the schedule ``inverse``.
    momentum : float
    nesterov : bool
    weight_decay : float
    largest_gradient : float, optional
        Gradients that are longer (2-norm over all weights) are cut to this length; None: as they
        are, as in both papers.  Inception3D's first steps are then far too large: its last layer
        has 160 numbers for each voxel, and their curvature adds up.
    class_weights : tuple of float, optional
        What the loss of a box of each class counts; None: 1.
    patience : int, optional
        Training has ended after so many epochs without a better one; None: all epochs.
    precision : {"float32", "bfloat16"}
        Of the products; weights and sums stay in float32.
    seed : int
        Of the first weights, and of dropout.
    """

    epochs: int
    steps: int
    schedule: Literal["cosine", "inverse"] = "cosine"
    learning_rate: float = 5e-4
    decay: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    largest_gradient: float | None = None
    class_weights: tuple[float, ...] | None = None
    patience: int | None = None
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.largest_gradient is not None and not self.largest_gradient > 0:
            raise InputError(f"largest_gradient must be above 0, got {self.largest_gradient}")
        if self.patience is not None and self.patience < 1:
            raise InputError(f"patience must be at least 1 epoch, got {self.patience}")

    @classmethod
    def cosine(cls, steps: int, *, epochs: int = 50, **changes: Any) -> Learning:
        """Of Gupta et al. (2022): batches of 16, 50 epochs, 5e-4 (1e-4 where labels are few)."""
        return cls(epochs, steps, **changes)

    @classmethod
    def nesterov_decay(cls, steps: int, *, epochs: int = 20, **changes: Any) -> Learning:
        """Of Xu et al. (2017): batches of 64, 20 epochs, Nesterov's momentum, decay 1e-6."""
        told: dict[str, Any] = {
            "schedule": "inverse",
            "learning_rate": 0.01,
            "decay": 1e-6,
            "nesterov": True,
            "weight_decay": 0.0,
        }
        return cls(epochs, steps, **{**told, **changes})

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        if self.schedule == "inverse":
            return self.learning_rate / (1 + self.decay * step)
        return (
            self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / (self.epochs * self.steps)))
        )


@dataclass(frozen=True)
class Judged:
    """What a network says of labelled boxes.

    Attributes
    ----------
    loss, accuracy : float
        Means over the boxes.
    logits : array of float32, shape (n, classes)
    labels : array of int, shape (n,)
    """

    loss: float
    accuracy: float
    logits: np.ndarray
    labels: np.ndarray


class ClassifierTrainer:
    """A classifier in training.

    Parameters
    ----------
    encoder : Encoder
        Its outputs are the classes.
    how : Learning
    start : mapping of str to array, optional
        Weights of a pretrained encoder of the same network and box; the last layer is drawn anew.
    threads : int, optional
        Of PyTorch on the CPU; its own number where None.

    Attributes
    ----------
    network : BoxNetwork
    steps, epochs : int
        Done so far.
    best : dict of arrays or None
        Weights of the epoch with the best accuracy on held-out boxes; of equals, the lower loss.
    best_epoch : int
        From 1.
    best_accuracy, best_loss : float

    Notes
    -----
    Several GPUs share each batch.  Where memory runs out, a batch is passed in halves whose
    gradients are summed.

    The first batch that is seen scales the weights.  From a random start, those of RB3D, which
    else says nearly the same of all boxes (`BoxNetwork.settle`).  From a pretrained one, what the
    last layer gets is made as long as of a random start: pretraining leaves it several times as
    long, and every learning rate would be too high.
    """

    def __init__(
        self,
        encoder: Encoder,
        how: Learning,
        *,
        start: Mapping[str, np.ndarray] | None = None,
        threads: int | None = None,
    ) -> None:
        if how.class_weights is not None and len(how.class_weights) != encoder.outputs:
            raise InputError(
                f"class_weights must be one for each of the {encoder.outputs} classes, got "
                f"{len(how.class_weights)}"
            )
        self.encoder, self.how = encoder, how
        self.network = build_encoder(encoder, seed=how.seed)
        self._pretrained, self._settled = start is not None, False
        if start is not None:
            self._begin_with(start)
        self.step = TrainingStep(self.network, how.precision, threads=threads)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=how.learning_rate,
            momentum=how.momentum,
            nesterov=how.nesterov,
            weight_decay=how.weight_decay,
        )
        self.weight = (
            None
            if how.class_weights is None
            else torch.tensor(how.class_weights, device=self.step.device)
        )
        self.steps = self.epochs = 0
        self.best: dict[str, np.ndarray] | None = None
        self.best_epoch, self.best_accuracy, self.best_loss = 0, -1.0, math.inf

    def _begin_with(self, start: Mapping[str, np.ndarray]) -> None:
        own = weights_of(self.network)
        learned = {k: v for k, v in start.items() if not k.startswith("last.")}
        wanted = {k: v.shape for k, v in own.items() if not k.startswith("last.")}
        if {k: v.shape for k, v in learned.items()} != wanted:
            raise InputError(
                f"start holds an encoder of another network or box than {self.encoder.network} for "
                f"boxes of {self.encoder.box}³: pretrain one of that kind"
            )
        restore_weights(self.network, {**own, **learned})

    def begin(self, batches: Iterable[Batch]) -> None:
        """Before the first step: fit the last layer to what the layers before it say of boxes.

        Where there is a pretrained start, or RB3D; the last layer of Inception3D has too many
        weights for that.  Without it, the last layer begins as it was drawn.

        Parameters
        ----------
        batches : iterable of (boxes, labels)
            As for `train`; some thousands of boxes are enough.  The first batch scales weights.
        """
        wide = self.network.last.in_features > _WIDEST
        if wide or not (self._pretrained or self.network.unsettled):
            return
        network = self.network
        said, known = [], []
        for boxes, labels in batches:
            self._check(boxes, labels)
            self._settle(boxes)
            said.append(self._passed(boxes, lambda x: network.flat(network.maps(x))))
            known.append(torch.from_numpy(np.array(labels, np.int64)))
        if not said:
            return
        weights = None if self.weight is None else self.weight.cpu()
        weight, bias = fit_logistic(
            torch.cat(said), torch.cat(known), self.encoder.outputs, class_weights=weights
        )
        with torch.no_grad():
            self.network.last.weight.copy_(weight)
            self.network.last.bias.copy_(bias)

    def train(self, batches: Iterable[Batch]) -> float:
        """One epoch; gives the mean loss over its batches.

        Parameters
        ----------
        batches : iterable of (boxes, labels)
            Normalised, float32 of shape (batch, z, y, x); int of shape (batch,).

        Raises
        ------
        TrainingDivergedError
            If the loss is not finite.
        InputError
            If a label is not one of the classes, or not even one box fits into memory.
        """
        self.network.train()
        how = self.how
        losses = (self._step(boxes, labels) for boxes, labels in batches)
        loss = mean_loss(losses, learning_rate=how.learning_rate, precision=how.precision)
        self.epochs += 1
        return loss

    def _step(self, boxes: np.ndarray, labels: np.ndarray) -> float:
        self._check(boxes, labels)
        self._settle(boxes)
        for group in self.optimizer.param_groups:
            group["lr"] = self.how.rate(self.steps)

        def loss_of(rows: slice) -> torch.Tensor:
            y = torch.from_numpy(np.array(labels[rows], np.int64)).to(self.step.device)
            with self.step.autocast():
                logits = self.step.parallel(self.step.tensor(boxes[rows][:, None]))
            logits = logits.float()
            # Over the number of boxes, not over their weights: parts of a batch add up.
            return functional.cross_entropy(logits, y, self.weight, reduction="sum") / len(boxes)

        # Dropout's numbers belong to the step, not to what was drawn before.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed_of_step(self.how.seed, self.steps))
            loss = self.step.gradients(
                self.optimizer,
                len(boxes),
                loss_of,
                what="boxes",
                too_large=f"not even one box of {boxes.shape[-1]}³ voxels fits into the memory of "
                "training: take a smaller network (rb3d)",
            )
        if math.isfinite(loss):
            if self.how.largest_gradient is not None:
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.how.largest_gradient)
            self.optimizer.step()
            self.steps += 1
        return loss

    def _settle(self, boxes: np.ndarray) -> None:
        """Scale weights by the first boxes that are seen, once."""
        if self._settled or self.steps:
            return
        x = self.step.tensor(boxes[:_AT_ONCE][:, None])
        first = self.network
        if self._pretrained:
            first = build_encoder(self.encoder, seed=self.how.seed).to(self.step.device)
        if first.unsettled:
            first.settle(x)
        if self._pretrained and (own := self.network.length(x)) > 0:
            self.network.lengthen(first.length(x) / own)
        self._settled = True

    def _check(self, boxes: np.ndarray, labels: np.ndarray) -> None:
        if len(boxes) != len(labels):
            raise InputError(f"labels must be one per box, got {len(labels)} for {len(boxes)}")
        check_boxes(boxes, self.encoder.box)
        wrong = np.flatnonzero((labels < 0) | (labels >= self.encoder.outputs))
        if len(wrong):
            raise InputError(
                f"labels must be from 0 to {self.encoder.outputs - 1}, got "
                f"{int(labels[wrong[0]])} for box {int(wrong[0])} of a batch"
            )

    def judge(self, batches: Iterable[Batch]) -> Judged:
        """What the network says of labelled boxes that it does not learn from."""
        said, known = [], []
        for boxes, labels in batches:
            self._check(boxes, labels)
            said.append(self.logits(boxes))
            known.append(np.array(labels, np.int64))
        if not said:
            raise InputError("there are no held-out boxes to judge by: raise validation")
        logits, labels = np.concatenate(said), np.concatenate(known)
        loss = functional.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels))
        return Judged(float(loss), float((logits.argmax(1) == labels).mean()), logits, labels)

    def keep_if_better(self, judged: Judged) -> bool:
        """Keep the weights of the epoch just done where they are the best so far; whether so."""
        better = (judged.accuracy, -judged.loss) > (self.best_accuracy, -self.best_loss)
        if better:
            self.best, self.best_epoch = self.weights(), self.epochs
            self.best_accuracy, self.best_loss = judged.accuracy, judged.loss
        return better

    @property
    def ended(self) -> bool:
        """Whether all epochs are done, or too many without a better one."""
        patience = self.how.patience
        tired = patience is not None and self.epochs - self.best_epoch >= patience
        return self.epochs >= self.how.epochs or (tired and self.best is not None)

    def logits(self, boxes: np.ndarray) -> np.ndarray:
        """Of normalised boxes (n, z, y, x); float32, shape (n, classes)."""
        if not len(boxes):
            return np.zeros((0, self.encoder.outputs), np.float32)
        return np.asarray(self._passed(boxes, self.network).numpy())

    def _passed(
        self, boxes: np.ndarray, through: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """What a part of the network says of boxes, as it is used; float32, a row a box."""
        self.network.eval()
        with torch.inference_mode(), self.step.autocast():
            parts = range(0, len(boxes), _AT_ONCE)
            x = (self.step.tensor(boxes[at : at + _AT_ONCE][:, None]) for at in parts)
            return torch.cat([through(one).float().cpu() for one in x])

    def weights(self) -> dict[str, np.ndarray]:
        """The network's, float32 arrays, copied."""
        return weights_of(self.network)

    def model(
        self,
        classes: tuple[str, ...],
        voxel_size: float,
        held_out: Iterable[Batch],
        *,
        invert: bool = False,
        least_confidence: float = 0.0,
        history: tuple[Mapping[str, Any], ...] = (),
        training: Mapping[str, Any] | None = None,
    ) -> BoxModel:
        """The best network as a model; its confidence calibrated on held-out boxes."""
        now = self.weights()
        try:
            if self.best is not None:
                restore_weights(self.network, self.best)
            judged = self.judge(held_out)
            return BoxModel(
                encoder=self.encoder,
                weights=self.weights(),
                voxel_size=voxel_size,
                classes=classes,
                temperature=fit_temperature(judged.logits, judged.labels),
                least_confidence=least_confidence,
                invert=invert,
                history=history,
                training={"learning": asdict(self.how), **(training or {})},
            )
        finally:
            restore_weights(self.network, now)

    def save(self, path: Path, told: dict[str, Any]) -> None:
        """Write all that training needs to go on, in one step.

        `told`, JSON, is what the caller wants back from `load`.
        """
        arrays = {f"best/{k}": v for k, v in (self.best or {}).items()}
        best = [self.best_epoch, self.best_accuracy, self.best_loss]
        more = {
            "part": self.step.part,
            "steps": self.steps,
            "epochs": self.epochs,
            "best": best if self.best is not None else None,
        }
        save_training(path, _FORMAT, self.network, self.optimizer, told, arrays, more)

    def load(
        self, path: Path, check: Callable[[dict[str, Any]], None] = lambda told: None
    ) -> dict[str, Any]:
        """Take up what `save` put down; gives `told`.

        `check` gets `told` before anything is taken: it may refuse another training's state.
        """
        told, arrays, more = load_training(path, _FORMAT, self.network, self.optimizer, check)
        self.step.part, self.steps, self.epochs = more["part"], more["steps"], more["epochs"]
        self.best = of_kind("best", arrays) or None
        if more["best"] is not None:
            self.best_epoch, self.best_accuracy, self.best_loss = more["best"]
        return told
