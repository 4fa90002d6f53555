"""Models of random weights, whose probabilities vary; quick to make, and the same every time."""

import numpy as np

from tomodask.nets.segmentation.architecture import Architecture, weight_shapes
from tomodask.nets.segmentation.model_file import PickingModel


def random_model(
    classes=1,
    channels=(4, 6),
    halo=8,
    voxel_size=10.0,
    seed=0,
    invert=False,
    gain=1.0,
    **architecture,
):
    network = Architecture(classes=classes, channels=channels, **architecture)
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(network).items():
        if name.endswith("running_var"):
            values = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            values = 0.1 * rng.normal(size=shape) + name.endswith("weight")
        else:
            values = gain * rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        weights[name] = values.astype(np.float32)
    return PickingModel(
        architecture=network,
        weights=weights,
        classes=tuple(f"kind {i}" for i in range(classes)),
        diameters=(100.0,) * classes,
        voxel_size=voxel_size,
        halo=halo,
        invert=invert,
    )
