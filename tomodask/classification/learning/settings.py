"""How classifiers and encoders of boxes are trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from tomodask.errors import InputError
from tomodask.nets.boxes.encoder import EncoderName
from tomodask.nets.boxes.views import ANY_TURN, Views
from tomodask.nets.precision import Precision

__all__ = ["ClassifierSettings", "EncoderSettings"]

Method = Literal["moco", "simclr", "swav"]
# From a random start; from a pretrained network, which is to be kept for the most part.
_RATE, _RATE_PRETRAINED = 0.01, 0.001
_LARGEST_GRADIENT = {"rb3d": 1.0}
_Rules = Sequence[tuple[str, bool, str]]


@dataclass(frozen=True)
class ClassifierSettings:
    """How a classifier is trained; all that the result depends on beside boxes and labels.

    The defaults learn from a random start.  `finetuning` and `subdivision` are the papers'.

    Attributes
    ----------
    epochs : int
        At most.
    batch : int
        Boxes of a step.
    schedule : {"cosine", "inverse"}
        Of the learning rate: half a cosine down to 0, or ``1 / (1 + decay · step)``.
    learning_rate : float, optional
        At the start; None: 0.01 from a random start, 0.001 from a pretrained network.
    decay : float
        Of the schedule ``inverse``.
    momentum : float
        Of the descent, Nesterov's where `nesterov`.
    nesterov : bool
    weight_decay : float
    largest_gradient : float, optional
        Longer gradients (2-norm over all weights) are cut to this length; None: to 1 in RB3D, which
        may diverge at the default rate without, and not at all in the other networks.
    patience : int, optional
        Training ends after so many epochs without a better one; None: after all epochs.
    validation, test : float
        Shares of each class's boxes: to choose the epoch and to calibrate by, and to be looked at
        once, at the end.
    balance : bool
        Weigh the losses of boxes by one over the size of their class (`class_weights`), and choose
        the epoch by the mean of the classes' accuracies: for classes of very different size.
    augment : Views, optional
        A random view of each box in each epoch; None: the boxes as they are.
    known : float
        Share of the validation boxes whose class is said; the rest, of the least confidence, would
        be none of these.  1: every box is of a class.
    invert : bool
        Multiply boxes by −1.
    precision : {"float32", "bfloat16"}
    memory : float
        GB of boxes that may lie in memory at once; where they are more, they are shuffled in lots.
    seed : int
    """

    epochs: int = 50
    batch: int = 16
    schedule: Literal["cosine", "inverse"] = "cosine"
    learning_rate: float | None = None
    decay: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    largest_gradient: float | None = None
    patience: int | None = 15
    validation: float = 0.2
    test: float = 0.0
    balance: bool = False
    augment: Views | None = None
    known: float = 0.95
    invert: bool = False
    precision: Precision = "float32"
    memory: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        rate = self.learning_rate is None or 0 < self.learning_rate < 10
        longest = self.largest_gradient is None or 0 < self.largest_gradient < math.inf
        _check(
            self,
            (
                ("epochs", self.epochs >= 1, "at least 1"),
                ("batch", self.batch >= 1, "at least 1"),
                ("schedule", self.schedule in ("cosine", "inverse"), "cosine or inverse"),
                ("learning_rate", rate, "above 0 and below 10"),
                ("decay", 0 <= self.decay < math.inf, "at least 0"),
                ("momentum", 0 <= self.momentum < 1, "at least 0 and below 1"),
                ("nesterov", not self.nesterov or self.momentum > 0, "off without momentum"),
                ("weight_decay", 0 <= self.weight_decay < 1, "at least 0 and below 1"),
                ("largest_gradient", longest, "above 0, or None"),
                ("patience", self.patience is None or self.patience >= 1, "at least 1 epoch"),
                ("validation", 0 < self.validation <= 0.5, "above 0 and at most 0.5"),
                ("test", 0 <= self.test <= 0.5, "from 0 to 0.5"),
                ("known", 0.5 <= self.known <= 1, "from 0.5 to 1"),
                *_common(self),
            ),
        )

    @classmethod
    def finetuning(cls, **changes: Any) -> ClassifierSettings:
        """Of Gupta et al. (2022): a pretrained encoder; 5e-4, 1e-4 where labels are few."""
        return cls(**{"learning_rate": 5e-4, "patience": None, "test": 0.2, **changes})

    @classmethod
    def subdivision(cls, **changes: Any) -> ClassifierSettings:
        """Of Xu et al. (2017): Inception3D and DSRF3D from a random start."""
        told: dict[str, Any] = {
            "epochs": 20,
            "batch": 64,
            "schedule": "inverse",
            "learning_rate": _RATE,
            "decay": 1e-6,
            "nesterov": True,
            "weight_decay": 0.0,
            "patience": None,
        }
        return cls(**{**told, **changes})

    def settled(self, network: EncoderName, *, pretrained: bool) -> ClassifierSettings:
        """With what is not told: the learning rate of the start, the network's longest gradient.

        Examples
        --------
        >>> settings = ClassifierSettings().settled("rb3d", pretrained=True)
        >>> settings.learning_rate, settings.largest_gradient
        (0.001, 1.0)
        """
        rate, longest = self.learning_rate, self.largest_gradient
        if rate is None:
            rate = _RATE_PRETRAINED if pretrained else _RATE
        if longest is None:
            longest = _LARGEST_GRADIENT.get(network)
        return replace(self, learning_rate=rate, largest_gradient=longest)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return _plain(self)


@dataclass(frozen=True)
class EncoderSettings:
    """How an encoder learns without labels; as Gupta et al. (2022) have it, but for the views.

    Attributes
    ----------
    epochs : int
    batch : int
        Boxes of a step, each seen in two views.
    temperature : float, optional
        Of the loss; the method's own where None.
    dimension : int
        Of the embeddings that are compared.
    queue, momentum : int, float
        MoCo's keys and slow encoder; the paper's queue is 128 for simulated, 64 for real boxes.
    prototypes, epsilon : int, float
        SwAV's.
    learning_rate, weight_decay : float
        Of Adam.
    views : Views
        By default turns about any axis and shifts (`tomodask.nets.boxes.views.ANY_TURN`), of which
        encoders learn more than of the paper's, ``Views()``.
    probe_every : int
        Epochs between two probes, where some boxes bear labels.
    invert, precision, memory, seed
        See `ClassifierSettings`.
    """

    epochs: int = 200
    batch: int = 16
    temperature: float | None = None
    dimension: int = 128
    queue: int = 128
    momentum: float = 0.999
    prototypes: int = 100
    epsilon: float = 0.05
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    views: Views = ANY_TURN
    probe_every: int = 5
    invert: bool = False
    precision: Precision = "float32"
    memory: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        warm = self.temperature is None or 0 < self.temperature < math.inf
        _check(
            self,
            (
                ("epochs", self.epochs >= 1, "at least 1"),
                ("batch", self.batch >= 2, "at least 2: each box is held against the others"),
                ("temperature", warm, "above 0"),
                ("dimension", self.dimension >= 2, "at least 2"),
                ("queue", self.queue >= 2, "at least 2"),
                ("momentum", 0 <= self.momentum < 1, "at least 0 and below 1"),
                ("prototypes", self.prototypes >= 2, "at least 2"),
                ("epsilon", 0 < self.epsilon < math.inf, "above 0"),
                ("learning_rate", 0 < self.learning_rate < 10, "above 0 and below 10"),
                ("weight_decay", 0 <= self.weight_decay < 1, "at least 0 and below 1"),
                ("probe_every", self.probe_every >= 1, "at least 1 epoch"),
                *_common(self),
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return _plain(self)


def _common(settings: ClassifierSettings | EncoderSettings) -> _Rules:
    return (
        ("precision", settings.precision in get_args(Precision), "float32 or bfloat16"),
        ("memory", 0 < settings.memory < math.inf, "above 0 GB"),
        ("seed", settings.seed >= 0, "at least 0"),
    )


def _check(settings: Any, rules: _Rules) -> None:
    for name, kept, rule in rules:
        if not kept:
            raise InputError(f"{name} must be {rule}, got {getattr(settings, name)!r}")


def _plain(settings: Any) -> dict[str, Any]:
    """As JSON gives it back: no tuples."""

    def listed(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: listed(v) for k, v in value.items()}
        return [listed(v) for v in value] if isinstance(value, tuple) else value

    told: dict[str, Any] = listed(asdict(settings))
    return told
