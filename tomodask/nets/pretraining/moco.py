"""What MoCo [1]_ remembers between steps: a queue of former keys, and a slow copy of the encoder.

.. [1] He et al., "Momentum contrast for unsupervised visual representation learning", CVPR 2020,
   arXiv:1911.05722.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch

from tomodask.errors import InputError
from tomodask.nets.pretraining.contrastive import unit
from tomodask.nets.training_state import restore_weights, weights_of

__all__ = ["KeyQueue", "MomentumEncoder"]


class KeyQueue:
    """Keys of former batches; the oldest go first.

    Parameters
    ----------
    length, dimension : int
    seed : int
        Before it is full, the queue holds random directions, as in the authors' program.

    Attributes
    ----------
    keys : tensor of float32, shape (length, dimension)
        Rows of length 1.
    position : int
        Where the next key goes.
    """

    def __init__(self, length: int, dimension: int, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.keys = unit(torch.randn(length, dimension, generator=generator))
        self.position = 0

    def check(self, count: int) -> None:
        """Refuse batches that are larger than the queue."""
        if count > len(self.keys):
            raise InputError(
                f"queue must hold at least a batch ({count} keys), got {len(self.keys)}"
            )

    def push(self, keys: torch.Tensor) -> None:
        """Take the keys of a batch, shape (n, dimension), in place of the oldest n.

        Raises
        ------
        InputError
            If there are more than the queue holds.
        """
        self.check(len(keys))
        length = len(self.keys)
        at = (self.position + torch.arange(len(keys))) % length
        self.keys[at] = unit(keys.detach()).to(self.keys.device)
        self.position = (self.position + len(keys)) % length

    def to(self, device: torch.device) -> None:
        """Keep the keys there."""
        self.keys = self.keys.to(device)

    def state(self) -> dict[str, np.ndarray]:
        """All that going on needs, as arrays."""
        return {"keys": self.keys.cpu().numpy().copy(), "position": np.array(self.position)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take what `state` gave."""
        self.keys = torch.from_numpy(state["keys"].copy()).to(self.keys.device)
        self.position = int(state["position"])


class MomentumEncoder:
    """A copy of an encoder that follows it slowly: equation 2 of MoCo [1]_.

    Parameters
    ----------
    encoder : Module
    momentum : float
        After each step, ``slow = momentum · slow + (1 − momentum) · encoder``.

    Attributes
    ----------
    network : Module
        The copy; no gradient goes through it.
    """

    def __init__(self, encoder: torch.nn.Module, *, momentum: float = 0.999) -> None:
        if not 0 <= momentum < 1:
            raise InputError(f"momentum must be from 0 to below 1, got {momentum}")
        self.momentum = momentum
        self.network = copy.deepcopy(encoder).requires_grad_(False)

    def follow(self, encoder: torch.nn.Module) -> None:
        """One step towards the encoder."""
        with torch.no_grad():
            pairs = zip(self.network.parameters(), encoder.parameters(), strict=True)
            for slow, fast in pairs:
                slow.mul_(self.momentum).add_(fast, alpha=1 - self.momentum)

    def state(self) -> dict[str, np.ndarray]:
        """The copy's weights."""
        return weights_of(self.network)

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take what `state` gave."""
        restore_weights(self.network, state)
