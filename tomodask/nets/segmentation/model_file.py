"""The file of a trained picking network: weights and all that is needed to use them.

A safetensors file: arrays, and a JSON text in its header.  Reading it runs no code of the file, and
needs no PyTorch.  Names and shapes of the arrays are held against the network that the JSON
describes before any is used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tomodask.errors import InputError
from tomodask.nets.segmentation.architecture import Architecture, weight_shapes
from tomodask.nets.weights_file import (
    check_names,
    check_weights,
    digest_of,
    is_positive,
    read_model_file,
    told_of_training,
    write_arrays,
)

__all__ = ["PickingModel", "read_model", "write_model"]

_FORMAT = "tomodask-picking-model/1"


@dataclass(frozen=True)
class PickingModel:
    """A trained network, and what it was trained on.

    Attributes
    ----------
    architecture : Architecture
    weights : mapping of str to array
        Float32; names and shapes as in `weight_shapes`.
    classes : tuple of str
        Names of the kinds of particles, in the order of the network's outputs.
    diameters : tuple of float
        Of each kind, Å.
    voxel_size : float
        Of the tomograms it was trained on, Å; others are resampled to it.
    halo : int
        Voxels of a tile next to its faces that are thrown away, by default: from there on the
        tile's faces change little (`reach`).
    label_diameter : int or tuple of int
        Of the labels it was trained on, voxels, one for all classes or one each: what a particle
        looks like in the probabilities.
    threshold : float
        Probability above which a voxel is taken for a particle's: the best on held-out particles.
    invert : bool
        Whether tomograms were multiplied by −1 in training, and are so before the network.
    reach : tuple of (int, float)
        Halo, voxels, and the 99.9 % quantile of how much probabilities change by cutting there.
    history : tuple of mapping
        Of each epoch: epoch, loss, learning rate, validation figures, seconds.
    training : mapping
        Settings, seed, sources and versions, as JSON knows them.
    """

    architecture: Architecture
    weights: Mapping[str, np.ndarray] = field(repr=False)
    classes: tuple[str, ...]
    diameters: tuple[float, ...]
    voxel_size: float
    halo: int
    label_diameter: int | tuple[int, ...] = 7
    threshold: float = 0.5
    invert: bool = False
    reach: tuple[tuple[int, float], ...] = ()
    history: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        count = self.architecture.classes
        check_names(self.classes, count)
        if len(self.diameters) != count or not all(is_positive(d) for d in self.diameters):
            raise InputError(
                f"diameters must be {count} lengths above 0 Å, one per class, got "
                f"{self.diameters!r}"
            )
        if not is_positive(self.voxel_size):
            raise InputError(f"voxel_size must be above 0 Å, got {self.voxel_size!r}")
        if not isinstance(self.halo, int) or self.halo < 0:
            raise InputError(f"halo must be a whole number of voxels, got {self.halo!r}")
        told = self.label_diameter
        widths = (told,) * count if isinstance(told, int) else told
        if len(widths) != count or any(not isinstance(n, int) or n < 3 for n in widths):
            raise InputError(
                f"label_diameter must be at least 3 voxels, one or one per class, got "
                f"{self.label_diameter!r}"
            )
        if not (is_positive(self.threshold) and self.threshold < 1):
            raise InputError(f"threshold must be above 0 and below 1, got {self.threshold!r}")
        check_weights(self.weights, weight_shapes(self.architecture))
        for name, values in self.weights.items():
            if name.endswith("running_var") and (values < 0).any():
                raise InputError(f"weight {name!r} is a variance, and below 0")

    @property
    def digest(self) -> str:
        """What a result depends on, as a short text; training history does not count."""
        told = [
            self.architecture.to_dict(),
            self.classes,
            self.diameters,
            self.voxel_size,
            self.label_diameter,
            self.threshold,
            self.invert,
        ]
        return digest_of(told, self.weights)


def write_model(model: PickingModel, path: str | os.PathLike[str]) -> None:
    """Write a model file; one that is there is replaced in one step.

    Parameters
    ----------
    model : PickingModel
    path : path
        Ends with ``.safetensors``.
    """
    told = {
        "architecture": model.architecture.to_dict(),
        "classes": list(model.classes),
        "diameters": list(model.diameters),
        "voxel_size": model.voxel_size,
        "halo": model.halo,
        "label_diameter": model.label_diameter,
        "threshold": model.threshold,
        "invert": model.invert,
        "normalisation": "z-score of the tomogram",
        "reach": [list(pair) for pair in model.reach],
        **told_of_training(model.history, model.training),
    }
    write_arrays(path, _FORMAT, told, model.weights)


def read_model(path: str | os.PathLike[str]) -> PickingModel:
    """Read a model file.  Runs no code of the file.

    Parameters
    ----------
    path : path

    Returns
    -------
    PickingModel

    Raises
    ------
    InputError
        If the file is missing, damaged, of another kind, or does not hold the network it says.
    """
    return read_model_file(path, _FORMAT, "tomodask train", _model)


def _model(told: dict[str, Any], weights: dict[str, np.ndarray]) -> PickingModel:
    return PickingModel(
        architecture=Architecture.from_dict(told["architecture"]),
        weights=weights,
        classes=tuple(told["classes"]),
        diameters=tuple(float(d) for d in told["diameters"]),
        voxel_size=float(told["voxel_size"]),
        halo=told["halo"],
        label_diameter=_one_or_several(told["label_diameter"]),
        threshold=told.get("threshold", 0.5),
        invert=bool(told["invert"]),
        reach=tuple((int(h), float(d)) for h, d in told["reach"]),
        history=tuple(told["history"]),
        training=told["training"],
    )


def _one_or_several(value: Any) -> Any:
    """JSON knows no tuples."""
    return tuple(value) if isinstance(value, list) else value
