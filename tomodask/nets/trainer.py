"""Training of a `ResUNet3D`, epoch by epoch, from a state that can be put down and taken up again.

What the trainer knows is in `Trainer.state`; nothing hides in a loader or a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tomodask.errors import InputError
from tomodask.nets.architecture import Architecture
from tomodask.nets.losses import dice_loss
from tomodask.nets.memory import run_in_parts
from tomodask.nets.resunet import ResUNet3D
from tomodask.nets.training_state import (
    moments_of,
    of_kind,
    read_state,
    restore_moments,
    restore_weights,
    weights_of,
    write_state,
)

__all__ = ["Optimisation", "Trainer", "TrainingDivergedError", "default_precision"]

_FORMAT = "tomodask-training-state/1"
Batch = tuple[np.ndarray, np.ndarray]


class TrainingDivergedError(InputError):
    """The loss is no number any more."""


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
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0


def default_precision() -> Literal["float32", "bfloat16"]:
    """The faster one of those that this machine computes natively."""
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    capable = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bfloat16" if capable is not None and capable() else "float32"


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
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        generator = torch.random.get_rng_state()
        torch.manual_seed(how.seed)
        self.network = ResUNet3D(architecture)
        torch.random.set_rng_state(generator)
        self.network.to(self.device, memory_format=torch.channels_last_3d)
        several = self.device.type == "cuda" and torch.cuda.device_count() > 1
        self._parallel: Any = torch.nn.DataParallel(self.network) if several else self.network
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
        self.part: int | None = None  # crops that pass at once, where a batch does not fit

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
        total, count = 0.0, 0
        for crops, labels in batches:
            loss = self._step(crops, labels)
            if not math.isfinite(loss):
                raise TrainingDivergedError(
                    f"the loss became {loss} in step {count + 1} of the epoch; lower learning_rate "
                    f"(--learning-rate), now {self.how.learning_rate:g}"
                    + (
                        ", or train with precision='float32'"
                        if self.how.precision != "float32"
                        else ""
                    )
                )
            total, count = total + loss, count + 1
        return total / max(count, 1)

    def _step(self, crops: np.ndarray, labels: np.ndarray) -> float:
        loss, self.part = run_in_parts(
            lambda part: self._gradients(crops, labels, part),
            len(crops),
            self.part,
            what="crops",
            too_large=f"not even one crop of {crops.shape[-1]}³ voxels fits into the memory of "
            "training: lower crop (--crop), or the network's channels (--channels)",
            release=self._release,
        )
        if math.isfinite(loss):
            self.optimizer.step()
            self.schedule.step()
        return loss

    def _release(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _gradients(self, crops: np.ndarray, labels: np.ndarray, part: int) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for start in range(0, len(crops), part):
            x = self._tensor(crops[start : start + part])
            y = torch.from_numpy(labels[start : start + part]).to(self.device)
            with self._autocast():
                logits = self._parallel(x)
            how = self.how
            loss = dice_loss(logits, y, together=how.together, entropy=how.entropy)
            loss = loss * (len(x) / len(crops))
            value = float(loss.detach())
            if not math.isfinite(value):
                return value
            loss.backward()
            total += value
        return total

    def predict(self, crops: np.ndarray) -> np.ndarray:
        """Probabilities (batch, classes, z, y, x), float32, of crops (batch, 1, z, y, x)."""
        self.network.eval()
        with torch.inference_mode(), self._autocast():
            out = []
            for crop in crops:
                logits = self.network(self._tensor(crop[None])).float()
                share = (
                    torch.sigmoid(logits)
                    if logits.shape[1] == 1
                    else torch.softmax(logits, 1)[:, 1:]
                )
                out.append(share.cpu().numpy())
        return np.concatenate(out)

    def _tensor(self, crops: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(np.ascontiguousarray(crops, np.float32)).to(self.device)
        return x.contiguous(memory_format=torch.channels_last_3d)

    def _autocast(self) -> Any:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.how.precision == "bfloat16"
        )

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
        arrays = {f"weight/{k}": v for k, v in self.weights().items()}
        arrays |= {f"best/{k}": v for k, v in (best or {}).items()}
        moments, groups = moments_of(self.optimizer)
        arrays |= {f"moment/{k}": v for k, v in moments.items()}
        schedule = {
            k: v
            for k, v in self.schedule.state_dict().items()
            if isinstance(v, (int, float, str, list))
        }
        state = {"schedule": schedule, "groups": groups, "part": self.part, "told": told}
        write_state(path, _FORMAT, arrays, state)

    def load(
        self, path: Path, check: Callable[[dict[str, Any]], None] = lambda told: None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray] | None]:
        """Take up what `save` put down; gives `told` and the weights of the best epoch.

        `check` gets `told` before anything is taken: it may refuse the state of another network.
        """
        state, arrays = read_state(path, _FORMAT)
        told = state["told"]
        check(told)
        self.load_weights(of_kind("weight", arrays))
        restore_moments(self.optimizer, of_kind("moment", arrays), state["groups"])
        self.schedule.load_state_dict(state["schedule"])
        self.part = state["part"]
        return told, of_kind("best", arrays) or None
