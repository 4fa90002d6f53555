"""Networks of whole boxes as graphs of OpenVINO, built from plain weights: no PyTorch is needed.

The same functions as those of `tomodask.nets.boxes.networks` in evaluation.  Of what is not asked
for nothing is computed: features know no last layer where they are taken before it, nor dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.openvino_layers import Layers, require_openvino

__all__ = ["Output", "build_encoder_graph"]

Output = Literal["features", "logits"]


def build_encoder_graph(
    encoder: Encoder, weights: Mapping[str, np.ndarray], *, batch: int, output: Output
) -> Any:
    """A network for so many boxes at once, as an ``openvino.Model``.

    Parameters
    ----------
    encoder : Encoder
    weights : mapping of str to array of float32
        Names and shapes as `Encoder.shapes` has them.
    batch : int
        Boxes at once.
    output : {"features", "logits"}
        What `BoxNetwork.features` gives, or `BoxNetwork.forward`.

    Returns
    -------
    openvino.Model
        Takes normalised boxes (batch, 1, z, y, x), float32; gives (batch, numbers), float32.
    """
    openvino = require_openvino()
    made = _Boxes(weights, batch)
    x = made.ops.parameter([batch, 1, *(encoder.box,) * 3], np.float32, name="boxes")
    build: Callable[[_Boxes, Encoder, Any], Any] = {
        "rb3d": _rb3d,
        "inception3d": _inception3d,
        "dsrf3d": _dsrf3d,
    }[encoder.network]
    told = build(made, encoder, x)
    if output == "logits" or encoder.network == "inception3d":
        told = made.linear(told, "last")
    return openvino.Model([told], [x], f"tomodask {encoder.network} {output}")


class _Boxes(Layers):
    """Layers by the names of their weights."""

    def __init__(self, weights: Mapping[str, np.ndarray], batch: int) -> None:
        super().__init__(weights)
        self.batch = batch

    def convolution(self, x: Any, name: str, margin: int = 0) -> Any:
        bias = np.asarray(self.weights[f"{name}.bias"])
        return self.convolved(x, self.constant(f"{name}.weight"), bias, margin)

    def active(self, x: Any, name: str, margin: int = 0) -> Any:
        return self.ops.relu(self.convolution(x, name, margin))

    def flat(self, x: Any) -> Any:
        shape = self.ops.constant(np.array([self.batch, -1], np.int64))
        return self.ops.reshape(x, shape, False)

    def linear(self, x: Any, name: str) -> Any:
        bias = np.asarray(self.weights[f"{name}.bias"], np.float32).reshape(1, -1)
        product = self.ops.matmul(x, self.constant(f"{name}.weight"), False, True)
        return self.ops.add(product, self.ops.constant(bias))


def _rb3d(made: _Boxes, encoder: Encoder, x: Any) -> Any:
    ops = made.ops
    x = made.pooled(made.active(x, "first", 1), "max")
    blocks = sum(name.endswith("short.weight") for name in encoder.shapes)
    for name in (f"blocks.{n}" for n in range(blocks)):
        long = made.active(made.active(x, f"{name}.narrow"), f"{name}.wide", 1)
        paths = [made.convolution(x, f"{name}.short", 1), made.convolution(long, f"{name}.close")]
        x = ops.relu(ops.concat(paths, 1))
    size, step = encoder.windows
    mean = made.pooled(x, "average", size=size, step=step)
    return ops.relu(made.linear(made.flat(mean), "hidden"))


def _dsrf3d(made: _Boxes, encoder: Encoder, x: Any) -> Any:
    for number in (0, 1, 2, 3):
        x = made.active(x, f"convolutions.{number}", 1)
        if number in (1, 3):
            x = made.pooled(x, "max")
    x = made.flat(x)
    for number in (0, 1):
        x = made.ops.relu(made.linear(x, f"hidden.{number}"))
    return x


def _inception3d(made: _Boxes, encoder: Encoder, x: Any) -> Any:
    ops = made.ops
    ones, zeros, two = [1, 1, 1], [0, 0, 0], [2, 2, 2]
    x = made.active(x, "first")
    x = ops.max_pool(x, two, ones, zeros, zeros, two, "ceil").output(0)
    # Beyond the far faces nothing is above a maximum, nor is the zero there after a ReLU.
    highest = ops.max_pool(x, ones, ones, zeros, ones, two).output(0)
    paths = [
        made.convolution(x, "single"),
        made.convolution(made.active(x, "to_three"), "three", 1),
        made.convolution(made.active(x, "to_five"), "five", 2),
        made.convolution(highest, "after_pool"),
    ]
    mean = made.pooled(ops.relu(ops.concat(paths, 1)), "average", size=2, step=1)
    return made.flat(mean)
