"""Training of a `ResUNet3D`, epoch by epoch, from a state that can be put down and taken up again.

What the trainer knows is in `Trainer.state`; nothing hides in a loader or a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tomodask.nets.precision import Precision
from tomodask.nets.segmentation.architecture import Architecture
from tomodask.nets.segmentation.losses import dice_loss
from tomodask.nets.segmentation.resunet import ResUNet3D
from tomodask.nets.training_state import (
    load_training,
    of_kind,
    restore_weights,
    save_training,
    weights_of,
)
from tomodask.nets.training_step import TrainingStep, mean_loss

__all__ = ["Optimisation", "Trainer"]

_FORMAT = "tomodask-training-state/1"
Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Optimisation:
    """How weights are stepped: AdamW with a one-cycle schedule (the paper's values).

    Attributes
    ----------
    epochs, steps : int
        Steps are those of one epoch.
    learning_rate : float
        The highest of the cycle.
    weight_decay : float
    betas : (float, float)
    together : bool
        Dice of all classes taken for one.
    entropy : float
        Weight of the cross-entropy beside Dice.
    precision : {"float32", "bfloat16"}
        Of the products; weights and sums stay in float32.
    seed : int
        Of the first weights.
    """

    epochs: int
    steps: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    together: bool = False
    entropy: float = 0.0
    precision: Precision = "float32"
    seed: int = 0


class Trainer:
    """A network in training.

    Parameters
    ----------
    architecture : Architecture
    how : Optimisation
    threads : int, optional
        Of PyTorch on the CPU; its own number where None.

    Notes
    -----
    Several GPUs share each batch (`torch.nn.DataParallel`).  Where memory runs out, a batch is
    passed in halves whose gradients are summed.
    """

    def __init__(
        self, architecture: Architecture, how: Optimisation, *, threads: int | None = None
    ) -> None:
        self.architecture, self.how = architecture, how
        generator = torch.random.get_rng_state()
        torch.manual_seed(how.seed)
        self.network = ResUNet3D(architecture)
        torch.random.set_rng_state(generator)
        self.step = TrainingStep(self.network, how.precision, threads=threads)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=how.learning_rate,
            betas=how.betas,
            weight_decay=how.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            max_lr=how.learning_rate,
            total_steps=how.epochs * how.steps,
            cycle_momentum=False,
        )

    def train(self, batches: Iterable[Batch]) -> float:
        """One epoch; gives the mean loss.

        Parameters
        ----------
        batches : iterable of (crops, labels)
            Float32 of shape (batch, 1, z, y, x), uint8 of shape (batch, z, y, x).

        Raises
        ------
        TrainingDivergedError
            If the loss is not finite.
        InputError
            If not even one crop fits into memory.
        """
        self.network.train()
        how = self.how
        losses = (self._step(crops, labels) for crops, labels in batches)
        return mean_loss(losses, learning_rate=how.learning_rate, precision=how.precision)

    def _step(self, crops: np.ndarray, labels: np.ndarray) -> float:
        def loss_of(rows: slice) -> torch.Tensor:
            x = self.step.tensor(crops[rows])
            y = torch.from_numpy(labels[rows]).to(self.step.device)
            with self.step.autocast():
                logits = self.step.parallel(x)
            how = self.how
            loss = dice_loss(logits, y, together=how.together, entropy=how.entropy)
            return loss * (len(x) / len(crops))

        loss = self.step.gradients(
            self.optimizer,
            len(crops),
            loss_of,
            what="crops",
            too_large=f"not even one crop of {crops.shape[-1]}³ voxels fits into the memory of "
            "training: lower crop (--crop), or the network's channels (--channels)",
        )
        if math.isfinite(loss):
            self.optimizer.step()
            self.schedule.step()
        return loss

    def predict(self, crops: np.ndarray) -> np.ndarray:
        """Probabilities (batch, classes, z, y, x), float32, of crops (batch, 1, z, y, x)."""
        self.network.eval()
        with torch.inference_mode(), self.step.autocast():
            out = []
            for crop in crops:
                logits = self.network(self.step.tensor(crop[None])).float()
                share = (
                    torch.sigmoid(logits)
                    if logits.shape[1] == 1
                    else torch.softmax(logits, 1)[:, 1:]
                )
                out.append(share.cpu().numpy())
        return np.concatenate(out)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def scale_learning_rate(self, factor: float) -> None:
        """Go on with the whole schedule so many times as high."""
        for group in self.optimizer.param_groups:
            for name in ("lr", "initial_lr", "max_lr", "min_lr"):
                group[name] *= factor

    def weights(self) -> dict[str, np.ndarray]:
        """The network's state, float32 arrays, copied."""
        return weights_of(self.network)

    def load_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Take weights that `weights` gave."""
        restore_weights(self.network, weights)

    def save(self, path: Path, told: dict[str, Any], best: dict[str, np.ndarray] | None) -> None:
        """Write all that training needs to go on, in one step: weights, moments, schedule.

        Parameters
        ----------
        path : Path
        told : dict
            What the caller wants back from `load`; JSON.
        best : dict of arrays, optional
            Weights of the best epoch.
        """
        arrays = {f"best/{k}": v for k, v in (best or {}).items()}
        schedule = {
            k: v
            for k, v in self.schedule.state_dict().items()
            if isinstance(v, (int, float, str, list))
        }
        more = {"schedule": schedule, "part": self.step.part}
        save_training(path, _FORMAT, self.network, self.optimizer, told, arrays, more)

    def load(
        self, path: Path, check: Callable[[dict[str, Any]], None] = lambda told: None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray] | None]:
        """Take up what `save` put down; gives `told` and the weights of the best epoch.

        `check` gets `told` before anything is taken: it may refuse the state of another network.
        """
        told, arrays, more = load_training(path, _FORMAT, self.network, self.optimizer, check)
        self.schedule.load_state_dict(more["schedule"])
        self.step.part = more["part"]
        return told, of_kind("best", arrays) or None
