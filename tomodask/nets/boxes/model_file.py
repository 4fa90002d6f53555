"""The file of a network that looks at whole boxes: a classifier, or an encoder without classes.

Weights, and all that is needed to use them.  Reading it runs no code of the file, and needs no
PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tomodask.errors import InputError
from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.weights_file import (
    check_names,
    check_weights,
    digest_of,
    is_number,
    is_positive,
    read_header,
    read_model_file,
    told_of_training,
    write_arrays,
)

__all__ = ["NORMALISATION", "BoxModel", "is_box_model", "read_box_model", "write_box_model"]

_FORMAT = "tomodask-box-model/1"
_MAKER = "tomodask classify train` or `tomodask pretrain"
NORMALISATION = "z-score of the box"


@dataclass(frozen=True)
class BoxModel:
    """A trained network, and what it was trained on.

    Attributes
    ----------
    encoder : Encoder
        Network, box and number of outputs.
    weights : mapping of str to array
        Float32; names and shapes as `Encoder.shapes` has them.
    voxel_size : float
        Of the boxes it was trained on, Å.
    classes : tuple of str
        Names, in the order of the outputs; none of an encoder that was trained without labels.
    temperature : float
        Logits are divided by it before the softmax: so its confidence is what it says
        (`tomodask.nets.boxes.calibration`).
    least_confidence : float
        Below it, a box is said to be none of the classes; 0: never.
    invert : bool
        Whether boxes were multiplied by −1 in training, and are so before the network.
    history : tuple of mapping
        Of each epoch: loss, learning rate, validation figures.
    training : mapping
        Settings, seed, sources and versions, as JSON knows them.
    source : Path, optional
        The file that it was read from.

    Raises
    ------
    InputError
        If the parts do not belong together.
    """

    encoder: Encoder
    weights: Mapping[str, np.ndarray] = field(repr=False)
    voxel_size: float
    classes: tuple[str, ...] = ()
    temperature: float = 1.0
    least_confidence: float = 0.0
    invert: bool = False
    history: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)
    # Not of a changed copy (`dataclasses.replace`), whose file there is none yet.
    source: Path | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.classes:
            check_names(self.classes, self.encoder.outputs)
        for what, value in (("voxel_size", self.voxel_size), ("temperature", self.temperature)):
            if not is_positive(value):
                raise InputError(f"{what} must be above 0, got {value!r}")
        if not is_number(self.least_confidence) or not 0 <= self.least_confidence < 1:
            raise InputError(
                f"least_confidence must be from 0 to below 1, got {self.least_confidence!r}"
            )
        check_weights(self.weights, self.encoder.shapes)

    @property
    def digest(self) -> str:
        """What a result depends on, as a short text; training history does not count."""
        told = [
            self.encoder.to_dict(),
            self.voxel_size,
            self.classes,
            self.temperature,
            self.least_confidence,
            self.invert,
        ]
        return digest_of(told, self.weights)


def write_box_model(model: BoxModel, path: str | os.PathLike[str]) -> None:
    """Write a model file; one that is there is replaced in one step.

    Parameters
    ----------
    model : BoxModel
    path : path
        Ends with ``.safetensors``.
    """
    told = {
        "encoder": model.encoder.to_dict(),
        "voxel_size": model.voxel_size,
        "classes": list(model.classes),
        "temperature": model.temperature,
        "least_confidence": model.least_confidence,
        "invert": model.invert,
        "normalisation": NORMALISATION,
        **told_of_training(model.history, model.training),
    }
    write_arrays(path, _FORMAT, told, model.weights)


def is_box_model(path: str | os.PathLike[str]) -> bool:
    """Whether the head of a file says that it is such a model."""
    try:
        read_header(Path(path), _FORMAT, _MAKER)
    except InputError:
        return False
    return True


def read_box_model(path: str | os.PathLike[str]) -> BoxModel:
    """Read a model file.  Runs no code of the file.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another kind, or does not hold the network it says.
    """
    model = read_model_file(path, _FORMAT, _MAKER, _model)
    object.__setattr__(model, "source", Path(path).absolute())
    return model


def _model(told: dict[str, Any], weights: dict[str, np.ndarray]) -> BoxModel:
    if told["normalisation"] != NORMALISATION:
        raise InputError(
            f"its boxes were normalised by {told['normalisation']!r}, which is not known here"
        )
    return BoxModel(
        encoder=Encoder.from_dict(told["encoder"]),
        weights=weights,
        voxel_size=told["voxel_size"],
        classes=tuple(told["classes"]),
        temperature=told["temperature"],
        least_confidence=told["least_confidence"],
        invert=bool(told["invert"]),
        history=tuple(told["history"]),
        training=told["training"],
    )
