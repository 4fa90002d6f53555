"""Which network looks at whole boxes, and the shapes of its weights; needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal, get_args

from tomodask.errors import InputError

__all__ = ["LARGEST_BOX", "SMALLEST_BOX", "Encoder", "EncoderName"]

EncoderName = Literal["rb3d", "inception3d", "dsrf3d"]
SMALLEST_BOX, LARGEST_BOX = 24, 48  # voxels
_BLOCKS = 4  # of RB3D
_PARTS = 4  # RB3D takes means over so many windows along each axis
_MOST = 4096  # outputs


@dataclass(frozen=True)
class Encoder:
    """A network that makes numbers of a cubic box.

    Attributes
    ----------
    network : {"rb3d", "inception3d", "dsrf3d"}
        See `tomodask.nets.boxes.networks`.
    box : int
        Edge of the boxes, 24 to 48 voxels.
    outputs : int
        Of the last linear layer: the classes, or the dimensions of an embedding.

    Raises
    ------
    InputError
        If a value is out of range.

    Examples
    --------
    >>> Encoder("dsrf3d", 40, 23).parameters
    33237559
    """

    network: EncoderName
    box: int
    outputs: int

    def __post_init__(self) -> None:
        if self.network not in get_args(EncoderName):
            raise InputError(
                f"network must be one of {', '.join(get_args(EncoderName))}, got {self.network!r}"
            )
        if not _whole(self.box) or not SMALLEST_BOX <= self.box <= LARGEST_BOX:
            raise InputError(
                f"box must be a whole number of voxels from {SMALLEST_BOX} to {LARGEST_BOX}, got "
                f"{self.box!r}: crop the subtomograms, or bin them"
            )
        if not _whole(self.outputs) or not 1 <= self.outputs <= _MOST:
            raise InputError(f"outputs must be from 1 to {_MOST}, got {self.outputs!r}")

    @property
    def flat(self) -> int:
        """Numbers that the convolutions leave of a box."""
        if self.network == "rb3d":
            return 32 * _PARTS**3
        if self.network == "dsrf3d":
            return 64 * (self.box // 4) ** 3
        pooled = -(-(self.box - 4) // 2)
        return 160 * (pooled - 1) ** 3

    @property
    def windows(self) -> tuple[int, int]:
        """Edge and step of the windows over which RB3D takes means, voxels of its last maps.

        They touch where the edge of the maps is a multiple of their number, and overlap otherwise.
        """
        edge = self.box // 2
        step = edge // _PARTS
        return edge - (_PARTS - 1) * step, step

    @property
    def features(self) -> int:
        """Numbers that `features` gives of a box."""
        return {"rb3d": 1024, "dsrf3d": 512, "inception3d": self.outputs}[self.network]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all weights."""
        layers: dict[str, tuple[int, ...]] = {}
        if self.network == "rb3d":
            layers["first"] = (32, 1, 3, 3, 3)
            for n in range(_BLOCKS):
                layers[f"blocks.{n}.short"] = (16, 32, 3, 3, 3)
                layers[f"blocks.{n}.narrow"] = (16, 32, 1, 1, 1)
                layers[f"blocks.{n}.wide"] = (32, 16, 3, 3, 3)
                layers[f"blocks.{n}.close"] = (16, 32, 1, 1, 1)
            layers["hidden"] = (1024, self.flat)
            layers["last"] = (self.outputs, 1024)
        elif self.network == "dsrf3d":
            for n, (before, width) in enumerate([(1, 32), (32, 32), (32, 64), (64, 64)]):
                layers[f"convolutions.{n}"] = (width, before, 3, 3, 3)
            layers["hidden.0"] = (512, self.flat)
            layers["hidden.1"] = (512, 512)
            layers["last"] = (self.outputs, 512)
        else:
            layers["first"] = (32, 1, 5, 5, 5)
            layers["single"] = (32, 32, 1, 1, 1)
            layers["to_three"] = (32, 32, 1, 1, 1)
            layers["three"] = (64, 32, 3, 3, 3)
            layers["to_five"] = (16, 32, 1, 1, 1)
            layers["five"] = (32, 16, 5, 5, 5)
            layers["after_pool"] = (32, 32, 1, 1, 1)
            layers["last"] = (self.outputs, self.flat)
        out: dict[str, tuple[int, ...]] = {}
        for name, shape in layers.items():
            out[f"{name}.weight"], out[f"{name}.bias"] = shape, shape[:1]
        return out

    @property
    def parameters(self) -> int:
        """Numbers that are learned."""
        return sum(prod(shape) for shape in self.shapes.values())

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Encoder:
        """What `to_dict` told."""
        return cls(told["network"], told["box"], told["outputs"])


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
