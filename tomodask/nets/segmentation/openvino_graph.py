"""The network as a graph of OpenVINO, built from plain weights: segmentation needs no PyTorch.

The same function as `tomodask.nets.segmentation.resunet.ResUNet3D` in evaluation, with the batch
normalisations folded into the convolutions before them, and the sigmoid or softmax at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tomodask.errors import InputError
from tomodask.nets.openvino_layers import Layers, require_openvino
from tomodask.nets.segmentation.architecture import Architecture, coordinate_line

__all__ = ["build_graph", "check_shape", "folded"]

_EPSILON = 1e-5  # of PyTorch's batch normalisation


def folded(weights: Mapping[str, np.ndarray], convolution: str, norm: str) -> Any:
    """Weights and bias of a convolution that does its batch normalisation too, float32.

    The product is formed in double precision.
    """
    part = {
        name: np.asarray(weights[f"{norm}.{name}"], np.float64)
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    scale = part["weight"] / np.sqrt(part["running_var"] + _EPSILON)
    kernel = np.asarray(weights[f"{convolution}.weight"], np.float64)
    bias = part["bias"] - part["running_mean"] * scale
    return (
        (kernel * scale.reshape(-1, 1, 1, 1, 1)).astype(np.float32),
        bias.astype(np.float32),
    )


def build_graph(
    architecture: Architecture,
    weights: Mapping[str, np.ndarray],
    shape: tuple[int, int, int],
    *,
    batch: int = 1,
) -> Any:
    """The network for tiles of one shape, as an ``openvino.Model``.

    Parameters
    ----------
    architecture : Architecture
    weights : mapping of str to array of float32
        Names and shapes as in `weight_shapes`.
    shape : (int, int, int)
        Of a tile, voxels; multiples of `Architecture.multiple`.
    batch : int
        Tiles at once.

    Returns
    -------
    openvino.Model
        Takes normalised tiles (batch, 1, z, y, x), float32; gives probabilities (batch, classes,
        z, y, x), of several classes without the background's.
    """
    openvino = require_openvino()
    check_shape(architecture, shape)
    return _Builder(architecture, weights, shape, batch).model(openvino)


def check_shape(architecture: Architecture, shape: tuple[int, ...]) -> None:
    """Refuse tiles that poolings would not halve evenly."""
    multiple = architecture.multiple
    if len(shape) != 3 or any(n < multiple or n % multiple for n in shape):
        raise InputError(
            f"edges of a tile must be multiples of {multiple} voxels for a network of "
            f"{len(architecture.channels)} levels, got {shape}"
        )


class _Builder(Layers):
    """Adds node by node what `ResUNet3D.forward` computes."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Mapping[str, np.ndarray],
        shape: tuple[int, int, int],
        batch: int,
    ) -> None:
        super().__init__(weights)
        self.a = architecture
        self.shape = shape
        self.batch = batch

    def model(self, openvino: Any) -> Any:
        ops, a = self.ops, self.a
        x = ops.parameter([self.batch, 1, *self.shape], np.float32, name="tiles")
        raw, features = x, x
        skips: list[Any] = []
        for level in range(len(a.channels)):
            if level:
                features = self.pooled(skips[-1], a.pooling)
                if a.pyramid:
                    raw = self.pooled(raw, "average")
                    features = ops.concat([features, raw], 1)
            skips.append(self.block(f"encoder.{level}", self.located(features, level)))
        features = skips.pop()
        for level in reversed(range(len(a.channels) - 1)):
            features = ops.add(self.up(level, features), skips.pop())
            features = self.block(f"decoder.{level}", self.located(features, level))
        bias = np.asarray(self.weights["head.bias"])
        logits = self.convolved(features, self.constant("head.weight"), bias, 0)
        return openvino.Model([self.probabilities(logits)], [x], "tomodask")

    def probabilities(self, logits: Any) -> Any:
        ops = self.ops
        if self.a.outputs == 1:
            return ops.sigmoid(logits)
        everything = ops.softmax(logits, 1)
        ends = [np.array([v], np.int64) for v in (1, self.a.outputs, 1, 1)]
        start, stop, step, axis = (ops.constant(v) for v in ends)
        return ops.slice(everything, start, stop, step, axis)

    def up(self, level: int, x: Any) -> Any:
        """Transposed convolution: kernel 3, stride 2, to exactly twice the size."""
        ones = [1, 1, 1]
        kernel = self.constant(f"up.{level}.weight")
        out = self.ops.convolution_backprop_data(
            x,
            kernel,
            strides=[2, 2, 2],
            pads_begin=ones,
            pads_end=ones,
            dilations=ones,
            auto_pad="explicit",
            output_padding=ones,
        )
        return self.ops.add(out, self.bias(np.asarray(self.weights[f"up.{level}.bias"])))

    def located(self, x: Any, level: int) -> Any:
        """Features with the channels of coordinates, which are constants of the tile's shape."""
        a = self.a
        if a.coordinates == "none":
            return x
        shape = tuple(n // 2**level for n in self.shape)
        channels = np.empty((self.batch, 3, *shape), np.float32)
        for axis, n in enumerate(shape):
            form = [1, 1, 1]
            form[axis] = n
            line = coordinate_line(n, a.coordinates, a.border / 2**level)
            channels[:, axis] = line.reshape(form)
        return self.ops.concat([x, self.ops.constant(channels)], 1)

    def convolution(self, x: Any, name: str, norm: str) -> Any:
        kernel, bias = folded(self.weights, name, norm)
        return self.convolved(x, self.ops.constant(kernel), bias, 1)

    def activation(self, x: Any) -> Any:
        return self.ops.elu(x, 1.0) if self.a.activation == "elu" else self.ops.relu(x)

    def block(self, name: str, x: Any) -> Any:
        relu = self.ops.relu
        if self.a.residual:
            skip = relu(self.convolution(x, f"{name}.first.0", f"{name}.first.1"))
            rest = relu(self.convolution(skip, f"{name}.rest.0", f"{name}.rest.1"))
            rest = self.convolution(rest, f"{name}.rest.3", f"{name}.rest.4")
            return self.activation(self.ops.add(rest, skip))
        for first in (0, 3):
            x = self.activation(self.convolution(x, f"{name}.{first}", f"{name}.{first + 1}"))
        return x
