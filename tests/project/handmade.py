"""A picking model that nobody trained: it finds what is bright over 5³ voxels."""

from __future__ import annotations

import numpy as np

from tomodask.nets.segmentation.architecture import Architecture, weight_shapes
from tomodask.nets.segmentation.model_file import PickingModel


def bright_balls(*, voxel_size: float, diameter: float, level: float, classes=("ball",), **more):
    """Two means over 3³ voxels, one after the other, and a step at `level` deviations.

    Of several classes the first one is found, and the others never.
    """
    architecture = Architecture(
        classes=len(classes), channels=(1,), residual=False, activation="relu", coordinates="none",
        pyramid=False,
    )  # fmt: skip
    weights = {
        name: np.zeros(shape, np.float32) for name, shape in weight_shapes(architecture).items()
    }
    for name, values in weights.items():
        if name.endswith("running_var") or (values.ndim == 1 and name.endswith(".weight")):
            values[...] = 1
        elif values.ndim == 5:
            values[...] = 1 / 27
    sharp = 20.0
    head, bias = weights["head.weight"], weights["head.bias"]
    head[...], bias[...] = 0, 0
    first = 0 if len(classes) == 1 else 1  # channel 0 of several is the background
    head[first], bias[first] = sharp, -sharp * level
    bias[first + 1 :] = -50
    return PickingModel(
        architecture=architecture,
        weights=weights,
        classes=tuple(classes),
        diameters=(diameter,) * len(classes),
        voxel_size=voxel_size,
        halo=4,
        label_diameter=7,
        **more,
    )
