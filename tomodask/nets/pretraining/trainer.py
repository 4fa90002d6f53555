"""Training of an encoder without labels, epoch by epoch: MoCo, SimCLR or SwAV.

What the trainer knows is in its attributes and in `Pretrainer.save`: encoder and head, the moments
of Adam, MoCo's queue and slow encoder, SwAV's prototypes.  Going on gives the bits of one go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from tomodask.errors import InputError
from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.boxes.networks import BoxNetwork, build_encoder
from tomodask.nets.memory import is_out_of_memory
from tomodask.nets.precision import Precision
from tomodask.nets.pretraining.contrastive import info_nce, nt_xent, swav_loss
from tomodask.nets.pretraining.moco import KeyQueue, MomentumEncoder
from tomodask.nets.pretraining.swav import Prototypes
from tomodask.nets.training_state import (
    load_training,
    of_kind,
    restore_weights,
    save_training,
    seed_of_step,
    weights_of,
)
from tomodask.nets.training_step import TrainingStep, mean_loss

__all__ = ["Method", "Pretrainer", "Pretraining", "ProjectedEncoder"]

_FORMAT = "tomodask-pretraining-state/1"
Method = Literal["moco", "simclr", "swav"]
_TEMPERATURE = {"moco": 0.2, "simclr": 0.5, "swav": 0.1}  # of Gupta et al., and the methods' papers


@dataclass(frozen=True)
class Pretraining:
    """How an encoder learns without labels; MoCo's values are those of Gupta et al. (2022).

    Attributes
    ----------
    method : {"moco", "simclr", "swav"}
    temperature : float, optional
        Of the loss; the method's own where None: 0.2, 0.5, 0.1.
    dimension : int
        Of the embeddings that are compared.
    queue : int
        MoCo's keys: 128 for simulated, 64 for real boxes in the paper.
    momentum : float
        Of MoCo's slow encoder.
    prototypes : int
        SwAV's; several times the number of classes expected.
    epsilon : float
        SwAV's sharpness of codes.
    learning_rate, weight_decay : float
        Of Adam.
    precision : {"float32", "bfloat16"}
        Of the products.
    seed : int
        Of the first weights, queue and prototypes.
    """

    method: Method = "moco"
    temperature: float | None = None
    dimension: int = 128
    queue: int = 128
    momentum: float = 0.999
    prototypes: int = 100
    epsilon: float = 0.05
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(
                f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}"
            )
        for name, number in (("temperature", self.sharpness), ("epsilon", self.epsilon)):
            if not (math.isfinite(number) and number > 0):
                raise InputError(f"{name} must be above 0, got {number}")
        for name in ("dimension", "queue", "prototypes"):
            if getattr(self, name) < 2:
                raise InputError(f"{name} must be at least 2, got {getattr(self, name)}")

    @property
    def sharpness(self) -> float:
        """The temperature that is used."""
        return _TEMPERATURE[self.method] if self.temperature is None else self.temperature


class ProjectedEncoder(torch.nn.Module):
    """An encoder and the small network that is thrown away after pretraining.

    ``features → ReLU of a layer as wide → dimension``: without it the loss takes from the features
    what it has no use for (Chen et al., "SimCLR", ICML 2020, §4.2).
    """

    def __init__(self, encoder: BoxNetwork, dimension: int, *, seed: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.encoder.features
        self.head = torch.nn.Sequential(
            torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, dimension)
        )
        generator = torch.Generator().manual_seed(seed)
        for layer in (self.head[0], self.head[2]):
            torch.nn.init.xavier_uniform_(layer.weight, generator=generator)
            torch.nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings (batch, dimension) of boxes (batch, 1, z, y, x)."""
        return torch.as_tensor(self.head(self.encoder.features(x)))


class Pretrainer:
    """An encoder that learns from two views of each box.

    Parameters
    ----------
    encoder : Encoder
    how : Pretraining
    threads : int, optional
        Of PyTorch on the CPU; its own number where None.

    Attributes
    ----------
    network : ProjectedEncoder
    queue : KeyQueue or None
    slow : MomentumEncoder or None
    prototypes : Prototypes or None
    steps : int
        Done so far.

    Notes
    -----
    Several GPUs share each batch.  A loss that compares the boxes of a batch cannot be taken in
    parts: where memory runs out, an error says so.
    """

    def __init__(self, encoder: Encoder, how: Pretraining, *, threads: int | None = None) -> None:
        self.encoder, self.how, self.steps = encoder, how, 0
        state = torch.random.get_rng_state()
        self.network = ProjectedEncoder(
            build_encoder(encoder, seed=how.seed), how.dimension, seed=how.seed + 1
        )
        torch.random.set_rng_state(state)
        self.step = TrainingStep(self.network, how.precision, threads=threads)
        device = self.step.device
        self.queue: KeyQueue | None = None
        self.slow: MomentumEncoder | None = None
        self.prototypes: Prototypes | None = None
        learned = [p for n, p in self.network.named_parameters() if self._used(n)]
        if how.method == "moco":
            self.queue = KeyQueue(how.queue, how.dimension, seed=how.seed + 2)
            self.queue.to(device)
            self.slow = MomentumEncoder(self.network, momentum=how.momentum)
        elif how.method == "swav":
            self.prototypes = Prototypes(how.prototypes, how.dimension, seed=how.seed + 3)
            self.prototypes.to(device)
            learned += list(self.prototypes.parameters())
        self.optimizer = torch.optim.Adam(
            learned, lr=how.learning_rate, weight_decay=how.weight_decay
        )

    def _used(self, name: str) -> bool:
        """Whether features depend on a weight: not on the last layer, but for Inception3D."""
        return self.encoder.network == "inception3d" or not name.startswith("encoder.last.")

    def train(self, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
        """One epoch; gives the mean loss.

        Parameters
        ----------
        batches : iterable of (first, second)
            Two views of the same boxes, normalised, float32 of shape (batch, z, y, x).

        Raises
        ------
        TrainingDivergedError
            If the loss is not finite.
        InputError
            If a batch does not fit into memory.
        """
        self.network.train()
        how = self.how
        losses = (self._within_memory(first, second) for first, second in batches)
        return mean_loss(losses, learning_rate=how.learning_rate, precision=how.precision)

    def _within_memory(self, first: np.ndarray, second: np.ndarray) -> float:
        try:
            return self._step(first, second)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(
                f"a batch of {len(first)} boxes of {first.shape[-1]}³ voxels does not fit into "
                "the memory of training: lower batch (--batch)"
            ) from error

    def _step(self, first: np.ndarray, second: np.ndarray) -> float:
        how = self.how
        if self.queue is not None:
            self.queue.check(len(first))  # before anything is stepped
        self.optimizer.zero_grad(set_to_none=True)
        # Dropout's numbers belong to the step, not to what was drawn before.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed_of_step(how.seed, self.steps))
            one = self._embedded(self.step.parallel, first)
            if self.slow is not None and self.queue is not None:
                with torch.no_grad():
                    key = self._embedded(self.slow.network, second)
                loss = info_nce(one, key, self.queue.keys, temperature=how.sharpness)
            else:
                other = self._embedded(self.step.parallel, second)
                if self.prototypes is None:
                    loss = nt_xent(one, other, temperature=how.sharpness)
                else:
                    scores = self.prototypes(one), self.prototypes(other)
                    loss = swav_loss(*scores, temperature=how.sharpness, epsilon=how.epsilon)
        value = float(loss.detach())
        if not math.isfinite(value):
            return value
        loss.backward()
        self.optimizer.step()
        if self.slow is not None and self.queue is not None:
            self.queue.push(key)
            self.slow.follow(self.network)
        if self.prototypes is not None:
            self.prototypes.normalise()
        self.steps += 1
        return value

    def _embedded(self, network: Any, boxes: np.ndarray) -> torch.Tensor:
        with self.step.autocast():
            return torch.as_tensor(network(self.step.tensor(boxes[:, None])).float())

    def encoder_weights(self) -> dict[str, np.ndarray]:
        """The encoder's, without the head: where a classifier begins."""
        return weights_of(self.network.encoder)

    def save(self, path: Path, told: dict[str, Any]) -> None:
        """Write all that training needs to go on, in one step.

        `told`, JSON, is what the caller wants back from `load`.
        """
        arrays: dict[str, np.ndarray] = {}
        if self.queue is not None and self.slow is not None:
            arrays |= {f"queue/{k}": v for k, v in self.queue.state().items()}
            arrays |= {f"slow/{k}": v for k, v in self.slow.state().items()}
        if self.prototypes is not None:
            arrays |= {f"prototypes/{k}": v for k, v in weights_of(self.prototypes).items()}
        more = {"steps": self.steps}
        save_training(path, _FORMAT, self.network, self.optimizer, told, arrays, more)

    def load(
        self, path: Path, check: Callable[[dict[str, Any]], None] = lambda told: None
    ) -> dict[str, Any]:
        """Take up what `save` put down; gives `told`.

        `check` gets `told` before anything is taken: it may refuse another training's state.
        """
        told, arrays, more = load_training(path, _FORMAT, self.network, self.optimizer, check)
        if self.queue is not None and self.slow is not None:
            self.queue.restore(of_kind("queue", arrays))
            self.slow.restore(of_kind("slow", arrays))
        if self.prototypes is not None:
            restore_weights(self.prototypes, of_kind("prototypes", arrays))
        self.steps = int(more["steps"])
        return told
