"""What a 3D-ResUNet is made of, in plain values: for model files and engines without PyTorch.

The network is that of DeepETPicker [1]_, each of its additions switchable.

.. [1] Liu et al., "DeepETPicker", Nat. Commun. 15, 2090 (2024), doi:10.1038/s41467-024-46041-0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from tomodask.errors import InputError

__all__ = ["IGNORED", "Architecture", "coordinate_line", "receptive_radius", "weight_shapes"]

IGNORED = 255
"""Label of a voxel that has no say in the loss; classes are 1 to 254, 0 is the background."""

Coordinates = Literal["border", "patch", "none"]


@dataclass(frozen=True)
class Architecture:
    """What a `ResUNet3D` is made of.

    Attributes
    ----------
    classes : int
        Kinds of particles.  One: a sigmoid; more: a softmax over them and the background.
    channels : tuple of int
        Of the levels, finest first; the paper's 24, 48, 72, 108.  As many levels as numbers.
    residual : bool
        Residual blocks; else two plain convolutions.
    activation : {"elu", "relu"}
    pooling : {"average", "max"}
    coordinates : {"border", "patch", "none"}
        Channels that tell a voxel where it is.  ``"patch"``, the paper's: −1 to 1 over the input
        along each axis, so that what a voxel gets depends on where the tile about it starts.
        ``"border"``: 0 inside, rising to ±1 over the `border` voxels next to a face, where context
        is missing; a voxel farther inside gets the same wherever the tile starts.
    border : int
        Voxels.
    pyramid : bool
        The input, averaged to each coarser level, joins the features there.
    """

    classes: int = 1
    channels: tuple[int, ...] = (24, 48, 72, 108)
    residual: bool = True
    activation: Literal["elu", "relu"] = "elu"
    pooling: Literal["average", "max"] = "average"
    coordinates: Coordinates = "border"
    border: int = 12
    pyramid: bool = True

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise InputError(f"classes must be at least 1, got {self.classes}")
        if not 1 <= len(self.channels) <= 6 or any(
            not isinstance(n, int) or not 1 <= n <= 1024 for n in self.channels
        ):
            raise InputError(
                f"channels must be 1 to 6 numbers from 1 to 1024, got {self.channels!r}"
            )
        for name, values in (
            ("activation", ("elu", "relu")),
            ("pooling", ("average", "max")),
            ("coordinates", get_args(Coordinates)),
        ):
            if getattr(self, name) not in values:
                raise InputError(
                    f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}"
                )
        if not self.border >= 1:  # not a number, too
            raise InputError(f"border must be at least 1 voxel, got {self.border}")

    @property
    def outputs(self) -> int:
        """Channels of the result: one, or the background (channel 0) and each class."""
        return 1 if self.classes == 1 else self.classes + 1

    @property
    def multiple(self) -> int:
        """What the edges of an input must be a multiple of."""
        return int(2 ** (len(self.channels) - 1))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "channels": list(self.channels)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        """From what `to_dict` gave; raises InputError for anything else."""
        try:
            return cls(**{**values, "channels": tuple(values["channels"])})
        except (TypeError, KeyError) as error:
            raise InputError(f"not the description of a network: {values!r} ({error})") from error


def coordinate_line(n: int, kind: str, border: float) -> np.ndarray:
    """Coordinates along an axis of `n` voxels, float32; see `Architecture.coordinates`.

    Examples
    --------
    >>> coordinate_line(6, "border", 2.0).tolist()
    [-0.75, -0.25, 0.0, 0.0, 0.25, 0.75]
    """
    if kind == "patch":
        return np.linspace(-1, 1, n, dtype=np.float32)
    near = np.maximum(0, 1 - (np.arange(n) + 0.5) / border)
    return np.asarray(near[::-1] - near, np.float32)


def weight_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all arrays of a network's state, in PyTorch's names.

    Examples
    --------
    >>> weight_shapes(Architecture(channels=(8,), coordinates="none"))["head.weight"]
    (1, 8, 1, 1, 1)
    """
    a = architecture
    extra = 0 if a.coordinates == "none" else 3
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, norm: str, before: int, width: int) -> None:
        shapes[f"{name}.weight"] = (width, before, 3, 3, 3)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = (width,)

    def block(name: str, before: int, width: int) -> None:
        if a.residual:
            convolution(f"{name}.first.0", f"{name}.first.1", before, width)
            convolution(f"{name}.rest.0", f"{name}.rest.1", width, width)
            convolution(f"{name}.rest.3", f"{name}.rest.4", width, width)
        else:
            convolution(f"{name}.0", f"{name}.1", before, width)
            convolution(f"{name}.3", f"{name}.4", width, width)

    before = 0
    for level, width in enumerate(a.channels):
        joined = 1 if a.pyramid or level == 0 else 0
        block(f"encoder.{level}", before + joined + extra, width)
        before = width
    for level, (fine, coarse) in enumerate(zip(a.channels[:-1], a.channels[1:], strict=True)):
        shapes[f"up.{level}.weight"] = (coarse, fine, 3, 3, 3)
        shapes[f"up.{level}.bias"] = (fine,)
        block(f"decoder.{level}", fine + extra, fine)
    shapes["head.weight"] = (a.outputs, a.channels[0], 1, 1, 1)
    shapes["head.bias"] = (a.outputs,)
    return shapes


def receptive_radius(architecture: Architecture) -> int:
    """Voxels beyond which a voxel of the input cannot change a voxel of the result.

    Along each axis; what the convolutions, poolings and up-samplings add up to.  Trained networks
    see far less: their own reach is measured (`docs/algorithms/segmentation.md`).

    Examples
    --------
    >>> receptive_radius(Architecture(channels=(8,)))
    3
    """
    convolutions = 3 if architecture.residual else 2
    levels = len(architecture.channels)
    reach = sum(convolutions * 2**level for level in range(levels))  # down
    for level in range(levels - 1):  # up: convolutions, and a coarse voxel's follower
        reach += convolutions * 2**level + 2 * 2**level
    return int(reach + 2 ** (levels - 1) - 1)  # a coarse voxel covers all of its fine ones
