"""Features and classes of boxes by a trained network, on OpenVINO or PyTorch.

Boxes pass in batches of one size, the last one filled up with zeros: libraries may choose other
sums for other sizes, and so a box's numbers would depend on how many came with it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tomodask.errors import InputError
from tomodask.nets.boxes.calibration import probabilities
from tomodask.nets.boxes.model_file import BoxModel, read_box_model
from tomodask.nets.boxes.normalisation import check_boxes, normalised
from tomodask.nets.boxes.openvino_graph import Output, build_encoder_graph
from tomodask.nets.engines import (
    EngineName,
    check_options,
    chosen_engine,
    engine_told,
    exact_gpu,
    require_engine,
    torch_threads,
)
from tomodask.nets.memory import is_out_of_memory
from tomodask.nets.openvino_layers import compiled
from tomodask.nets.precision import Precision

__all__ = ["BoxPredictor", "open_predictor"]

_NONE = -1
_SENT_AT_MOST = 4 << 20  # bytes of weights; Dask warns of graphs from 10 MB
_Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class BoxPredictor:
    """A trained network and how it is run; see `open_predictor`.

    Can be sent to other processes: there the network is built at its first use, and stays for the
    next boxes.  Safe to use from several threads.

    Attributes
    ----------
    given : BoxModel or Path
        The model, or the file that it is read from at its first use (`for_workers`).
    engine, precision, threads, batch, device
        As of `open_predictor`.
    """

    given: BoxModel | Path
    engine: EngineName
    precision: Precision
    threads: int
    batch: int
    device: str | None
    _idle: dict[Output, list[_Run]] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def model(self) -> BoxModel:
        """The network, its classes and what it was trained on."""
        if isinstance(self.given, BoxModel):
            return self.given
        model = read_box_model(self.given)
        if model.digest != self.digest:
            raise InputError(f"{self.given}: the model was written anew while in use; start again")
        return model

    @property
    def box(self) -> int:
        """Edge of the boxes, voxels."""
        return self.model.encoder.box

    @property
    def voxel_size(self) -> float:
        """Of the boxes that the network was trained on, Å."""
        return self.model.voxel_size

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the probabilities; none of an encoder trained without labels."""
        return self.model.classes

    @cached_property
    def digest(self) -> str:
        """`BoxModel.digest`, worked out once: it reads all of the weights."""
        return self.model.digest

    def for_workers(self) -> BoxPredictor:
        """The same, to be sent: a large model goes as the name of its file, if it has one.

        Each process that is given it reads the file, once.
        """
        model = self.model
        size = sum(values.nbytes for values in model.weights.values())
        if size <= _SENT_AT_MOST or model.source is None:
            return self
        sent = replace(self, given=model.source, _idle={}, _lock=threading.Lock())
        vars(sent)["digest"] = self.digest
        return sent

    def __getstate__(self) -> dict[str, Any]:
        known = ("digest", *(one.name for one in fields(self) if not one.name.startswith("_")))
        return {name: vars(self)[name] for name in known if name in vars(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "_idle": {}, "_lock": threading.Lock()}.items():
            object.__setattr__(self, name, value)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        # Not "auto", which may be another engine tomorrow.
        options = (self.engine_told(), self.precision, self.threads, self.batch)
        return (type(self).__name__, self.digest, *options)

    def engine_told(self) -> str:
        """Engine, its version and device, as `chosen_engine` finds them in this process."""
        return engine_told(self.engine, self.device)

    def predict_features(self, boxes: np.ndarray) -> np.ndarray:
        """What stands for each box; see `BoxNetwork.features`.

        Parameters
        ----------
        boxes : array of float, shape (n, z, y, x)
            As they are: normalised here.

        Returns
        -------
        array of float32, shape (n, ``model.encoder.features``)
            A box's row does not depend on the boxes beside it.

        Raises
        ------
        InputError
            If boxes are not of the model's size, or hold NaN; if memory runs out.
        """
        return self._predicted(boxes, "features", self.model.encoder.features)

    def predict_logits(self, boxes: np.ndarray) -> np.ndarray:
        """Outputs of the last linear layer, float32, shape (n, outputs); as `predict_features`."""
        return self._predicted(boxes, "logits", self.model.encoder.outputs)

    def predict_probabilities(self, boxes: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of the classes, float64, shape (n, classes)."""
        if not self.model.classes:
            raise InputError(
                "model is an encoder that was trained without labels, and knows no classes: train "
                "a classifier from it (start= of ClassifierTrainer)"
            )
        return probabilities(self.predict_logits(boxes), self.model.temperature)

    def predict_classes(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class of each box, −1 for none of them, and the confidence in the likeliest class."""
        chances = self.predict_probabilities(boxes)
        confidence = chances.max(1)
        sure = confidence >= self.model.least_confidence
        return np.where(sure, chances.argmax(1), _NONE), confidence

    def _predicted(self, boxes: np.ndarray, output: Output, width: int) -> np.ndarray:
        check_boxes(boxes, self.box)
        out = np.empty((len(boxes), width), np.float32)
        if not len(boxes):
            return out
        full = np.empty((self.batch, 1, *boxes.shape[1:]), np.float32)
        try:
            with self._ready(output) as run:
                for start in range(0, len(boxes), self.batch):
                    part = boxes[start : start + self.batch]
                    normalised(part, invert=self.model.invert, out=full[: len(part), 0])
                    full[len(part) :] = 0
                    out[start : start + len(part)] = run(full)[: len(part)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(
                f"memory ran out with {self.batch} boxes of {self.box}³ voxels at once: lower "
                "batch (--batch)"
            ) from error
        return out

    @contextlib.contextmanager
    def _ready(self, output: Output) -> Iterator[_Run]:
        """The network as a function that no other thread uses meanwhile."""
        with self._lock:
            idle = self._idle.setdefault(output, [])
            run = idle.pop() if idle else None
        if run is None:
            kind, device = chosen_engine(self.engine, self.device)
            run = (
                self._openvino(output)
                if kind == "openvino"
                else _torch_network(self.model, output, device, self.precision, self.threads)
            )
        yield run
        with self._lock:  # not after an error, which may have left it in pieces
            idle.append(run)

    def _openvino(self, output: Output) -> _Run:
        graph = build_encoder_graph(
            self.model.encoder, self.model.weights, batch=self.batch, output=output
        )
        return compiled(graph, precision=self.precision, threads=self.threads)


def open_predictor(
    model: BoxModel,
    *,
    engine: EngineName = "auto",
    precision: Precision = "float32",
    threads: int = 1,
    batch: int = 16,
    device: str | None = None,
) -> BoxPredictor:
    """Make a trained network ready to be given boxes.  Builds nothing before the first boxes.

    Parameters
    ----------
    model : BoxModel
    engine : {"auto", "openvino", "torch"}
        ``"auto"``: PyTorch on a GPU that is used, else OpenVINO, else PyTorch.  On CPUs OpenVINO
        is up to twice as fast, and needs no PyTorch.
    precision : {"float32", "bfloat16"}
        Of the products.  ``"bfloat16"`` is nearly twice as fast on CPUs that have it; features
        then change by a few hundredths of their standard deviation.
    threads : int
        Of one network on the CPU; one for each thread of a Dask worker.
    batch : int
        Boxes that pass at once.
    device : {"cpu", "cuda"}, optional
        None: the GPU of a worker that is told to use it (``TOMODASK_DEVICE=cuda``), else the CPU.

    Raises
    ------
    InputError
        If the engine is missing (with what to install), or a value is out of range.
    """
    check_options(engine=engine, precision=precision, threads=threads, batch=batch)
    chosen_engine(engine, device)
    require_engine("torch" if device == "cuda" else engine)
    return BoxPredictor(model, engine, precision, threads, batch, device)


def _torch_network(
    model: BoxModel, output: Output, device: str, precision: Precision, threads: int
) -> _Run:
    import torch

    from tomodask.nets.boxes.networks import build_encoder
    from tomodask.nets.training_state import restore_weights

    network = build_encoder(model.encoder)
    restore_weights(network, model.weights)
    network.eval().to(device=device, memory_format=torch.channels_last_3d)
    layers = network.features if output == "features" else network
    half = torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")

    def run(given: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(given).to(device).contiguous(memory_format=torch.channels_last_3d)
        with torch_threads(threads), exact_gpu(torch), torch.inference_mode(), half:
            return np.asarray(layers(x).float().cpu().numpy())

    return run
