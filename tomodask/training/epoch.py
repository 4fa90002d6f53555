"""What any training tells of an epoch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Epoch"]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What an epoch of training came to; each kind of training adds its own.

    Attributes
    ----------
    epoch, epochs : int
        This one, from 1, and all.
    loss, learning_rate : float
        Mean over the epoch; at its end.
    seconds : float
        That the epoch took, with all that the model is judged by.
    ended : bool
        Whether this one is the last, though fewer than all.
    """

    epoch: int
    epochs: int
    loss: float
    learning_rate: float
    seconds: float
    ended: bool = False

    @property
    def last(self) -> bool:
        """Whether no epoch comes after."""
        return self.ended or self.epoch >= self.epochs
