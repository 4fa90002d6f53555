"""How a picking network is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tomodask.errors import InputError
from tomodask.nets.precision import Precision
from tomodask.nets.segmentation.architecture import Architecture
from tomodask.picking.learning.labels import LabelKind

__all__ = ["TrainingSettings"]


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained; all that the result depends on beside the data.

    Attributes
    ----------
    architecture : Architecture
        `classes` is set from the picks.
    label : {"truncated_ball", "ball", "cube"}
    label_diameter : int or tuple of int
        Of the label about each centre, voxels, at least 3; one for all classes, or one each, in
        their order.
    crop : int
        Edge of the training crops, voxels.
    jitter : int
        How far a crop's centre may be from its particle, voxels along each axis; less where the
        particle's label would not be in the crop any more.
    background : float
        Share of crops at random places.
    augment : bool
        Mirror, turn, scale and bend the crops.
    some_marked : bool
        Only some of the particles are marked: voxels farther than 1.5 diameters from every mark
        have no say, but in the crops at random places.
    epochs : int
    examples : int
        Crops of an epoch; 0 for as many as there are particles, 64 to 400.
    batch : int
        Crops of a step.
    learning_rate : float
        The highest of the one-cycle schedule.
    dice : {"classes", "particles"}
        Loss of each class by itself (the paper's), or of all taken for one: then places are
        learned together, and kinds by the cross-entropy alone, which takes fewer steps.
    entropy : float
        Weight of the cross-entropy beside the Dice loss; 0 is the paper's.
    validation : float
        Share of the particles that is held out, in a place of their own.
    invert : bool
        Multiply tomograms by −1.
    precision : {"float32", "bfloat16"}
    seed : int
    """

    architecture: Architecture = field(default_factory=Architecture)
    label: LabelKind = "truncated_ball"
    label_diameter: int | tuple[int, ...] = 7
    crop: int = 64
    jitter: int = 14
    background: float = 0.1
    augment: bool = True
    some_marked: bool = False
    epochs: int = 60
    examples: int = 0
    batch: int = 8
    learning_rate: float = 1e-3
    dice: Literal["classes", "particles"] = "classes"
    entropy: float = 0.0
    validation: float = 0.15
    invert: bool = False
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        multiple = self.architecture.multiple
        least = max(16, 2 * multiple)  # one voxel on the coarsest level cannot be normalised
        rules = (
            ("label_diameter", all(3 <= n <= 64 for n in self.widths(1)), "3 to 64 voxels"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("examples", self.examples >= 0, "at least 0"),
            ("batch", self.batch >= 1, "at least 1"),
            ("jitter", self.jitter >= 0, "at least 0 voxels"),
            ("background", 0 <= self.background < 1, "at least 0 and below 1"),
            ("validation", 0 < self.validation <= 0.5, "above 0 and at most 0.5"),
            ("learning_rate", 0 < self.learning_rate < 10, "above 0 and below 10"),
            ("dice", self.dice in ("classes", "particles"), "classes or particles"),
            ("entropy", 0 <= self.entropy < 1e3, "at least 0"),
            (
                "entropy",
                self.dice == "classes" or self.architecture.classes == 1 or self.entropy > 0,
                "above 0 where kinds are told apart by it alone (dice='particles')",
            ),
            ("seed", self.seed >= 0, "at least 0"),
            (
                "crop",
                least <= self.crop <= 512 and self.crop % multiple == 0,
                f"{least} to 512 voxels, a multiple of {multiple}",
            ),
            ("precision", self.precision in ("float32", "bfloat16"), "float32 or bfloat16"),
        )
        for name, kept, rule in rules:
            if not kept:
                raise InputError(f"{name} must be {rule}, got {getattr(self, name)!r}")

    def widths(self, classes: int) -> tuple[int, ...]:
        """Of the labels of each class, voxels."""
        one = self.label_diameter
        return (one,) * classes if isinstance(one, int) else tuple(one)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "architecture": self.architecture.to_dict()}
