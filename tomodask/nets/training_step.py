"""A step of training, whatever is learned: where it runs, in which precision, in which parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from tomodask.errors import InputError
from tomodask.nets.memory import keep_freed_memory, run_in_parts
from tomodask.nets.precision import Precision

__all__ = [
    "TrainingDivergedError",
    "TrainingStep",
    "default_precision",
    "mean_loss",
]


class TrainingDivergedError(InputError):
    """The loss is no number any more."""


def default_precision() -> Precision:
    """The faster one of those that this machine computes natively."""
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    capable = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bfloat16" if capable is not None and capable() else "float32"


def mean_loss(losses: Iterable[float], *, learning_rate: float, precision: Precision) -> float:
    """The mean over an epoch's steps, each done when its loss is asked for; 0 where there is none.

    Raises
    ------
    TrainingDivergedError
        At the first loss that is not finite; says what helps.
    """
    total, count = 0.0, 0
    for loss in losses:
        count += 1
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss became {loss} in step {count} of the epoch; lower learning_rate "
                f"(--learning-rate), now {learning_rate:g}"
                + (", or train with precision='float32'" if precision != "float32" else "")
            )
        total += loss
    return total / max(count, 1)


class TrainingStep:
    """A network where it is trained: its device, its precision, how much passes at once.

    Several GPUs share each batch (`torch.nn.DataParallel`).

    Parameters
    ----------
    network : Module
        Is moved to the device.
    precision : {"float32", "bfloat16"}
        Of the products; weights and sums stay in float32.
    threads : int, optional
        Of PyTorch on the CPU; its own number where None.

    Attributes
    ----------
    device : torch.device
    parallel : Module
        The network, on all GPUs.
    part : int or None
        What passes at once, where a batch does not fit into memory; None: all of it.
    """

    def __init__(
        self, network: torch.nn.Module, precision: Precision, *, threads: int | None = None
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.precision = precision
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            keep_freed_memory()
        # Beside the device, `to` takes a layout of memory, which its stub does not know.
        move: Any = network.to
        move(self.device, memory_format=torch.channels_last_3d)
        several = self.device.type == "cuda" and torch.cuda.device_count() > 1
        self.parallel: Any = torch.nn.DataParallel(network) if several else network
        self.part: int | None = None

    def tensor(self, boxes: np.ndarray) -> torch.Tensor:
        """Float32, on the device, laid out as its kernels want it; (batch, channel, z, y, x)."""
        x = torch.from_numpy(np.ascontiguousarray(boxes, np.float32)).to(self.device)
        return x.contiguous(memory_format=torch.channels_last_3d)

    def autocast(self) -> Any:
        """Within it, products have the precision asked for."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"
        )

    def gradients(
        self,
        optimizer: torch.optim.Optimizer,
        count: int,
        loss_of: Callable[[slice], torch.Tensor],
        *,
        what: str,
        too_large: str,
    ) -> float:
        """The loss of a batch, and its gradients, ready for a step.

        Where memory runs out, the batch passes in halves whose gradients are summed.

        Parameters
        ----------
        optimizer : Optimizer
        count : int
            Of the batch.
        loss_of : callable
            Gets rows of the batch and gives their share of its loss.
        what, too_large : str
            What is counted, and the message where not even one fits.

        Returns
        -------
        float
            Where it is not finite, the gradients are not to be used.

        Raises
        ------
        InputError
            If not even one fits into memory.
        """

        def run(part: int) -> float:
            optimizer.zero_grad(set_to_none=True)
            total = 0.0
            for start in range(0, count, part):
                loss = loss_of(slice(start, start + part))
                value = float(loss.detach())
                if not math.isfinite(value):
                    return value
                loss.backward()
                total += value
            return total

        loss, self.part = run_in_parts(
            run, count, self.part, what=what, too_large=too_large, release=self._release
        )
        return loss

    def _release(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
