"""OpenVINO: whether it is there, layers from plain weights, and a graph made ready to run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tomodask.errors import InputError

__all__ = ["Layers", "compiled", "require_openvino"]

_MISSING = (
    "networks run on CPUs by OpenVINO here, which is not installed: "
    "pip install 'tomodask[segmentation]'"
)
_ONES = [1, 1, 1]


def require_openvino() -> Any:
    """The module ``openvino``; InputError with the way out where it is missing."""
    try:
        import openvino
    except ImportError as error:
        raise InputError(_MISSING) from error
    return openvino


class Layers:
    """Adds layers of a network, node by node, to a graph of OpenVINO.

    Parameters
    ----------
    weights : mapping of str to array of float32
        In PyTorch's names and shapes.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        require_openvino()
        from openvino import opset8 as opset

        self.ops: Any = opset
        self.weights = weights

    def constant(self, name: str) -> Any:
        """The array of a name."""
        return self.ops.constant(np.ascontiguousarray(self.weights[name], np.float32))

    def bias(self, values: np.ndarray) -> Any:
        """A number for each channel, as (1, channel, 1, 1, 1)."""
        return self.ops.constant(np.asarray(values, np.float32).reshape(1, -1, 1, 1, 1))

    def convolved(self, x: Any, kernel: Any, bias: np.ndarray, margin: int) -> Any:
        """A convolution with `margin` zeros beyond each face, and its bias."""
        out = self.ops.convolution(x, kernel, _ONES, [margin] * 3, [margin] * 3, _ONES)
        return self.ops.add(out, self.bias(bias))

    def pooled(self, x: Any, kind: str, size: int = 2, step: int = 2) -> Any:
        """Maxima (``"max"``) or means (``"average"``) over cubes of `size` voxels."""
        strides, zeros, sizes = [step] * 3, [0, 0, 0], [size] * 3
        if kind == "average":
            return self.ops.avg_pool(x, strides, zeros, zeros, sizes, True)
        return self.ops.max_pool(x, strides, _ONES, zeros, zeros, sizes).output(0)


def compiled(graph: Any, *, precision: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """A graph of one input and one output, ready to run.  Not safe for several threads at once.

    Parameters
    ----------
    graph : openvino.Model
    precision : {"float32", "bfloat16"}
        Of the products.
    threads : int

    Returns
    -------
    callable
        Takes an array of float32, C-contiguous and of the graph's shape; what it gives is the
        engine's own memory, which the next run writes to: copy it before.
    """
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Else every worker process would hold its thread to the same first core.
        "ENABLE_CPU_PINNING": False,
    }
    request = _core().compile_model(graph, "CPU", options).create_infer_request()

    def run(given: np.ndarray) -> np.ndarray:
        # Always shared: a copy would go into the memory that was shared before.
        result = request.infer(given, share_inputs=True, share_outputs=True)
        return np.asarray(result[0])

    return run


_cores: dict[int, Any] = {}


def _core() -> Any:
    """OpenVINO's plugin loader, one a process; a fork would share its threads."""
    if os.getpid() not in _cores:
        _cores[os.getpid()] = require_openvino().Core()
    return _cores[os.getpid()]
