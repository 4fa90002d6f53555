"""Features and classes of boxes by a trained network.

Boxes pass in batches of one size, the last one filled up with zeros: libraries may choose other
sums for other sizes, and so a box's numbers would depend on how many came with it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from tomodask.errors import InputError
from tomodask.nets import needs
from tomodask.nets.boxes import check_boxes, normalised
from tomodask.nets.calibration import probabilities
from tomodask.nets.classifier_file import BoxModel
from tomodask.nets.inference import exact_gpu, torch_threads
from tomodask.nets.memory import is_out_of_memory

__all__ = ["BoxPredictor", "open_predictor"]

Precision = Literal["float32", "bfloat16"]
_NONE = -1


@dataclass(frozen=True, eq=False)
class BoxPredictor:
    """A trained network and how it is run; see `open_predictor`.

    Can be sent to other processes: there the network is built at its first use.  Safe to use from
    several threads.
    """

    model: BoxModel
    precision: Precision
    threads: int
    batch: int
    device: str
    _made: list[Any] = field(default_factory=list, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "_made": [], "_lock": threading.Lock()}.items():
            object.__setattr__(self, name, value)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (
            type(self).__name__,
            self.model.digest,
            self.precision,
            self.threads,
            self.batch,
            self.device,
        )

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
            If boxes are not of the model's size, or hold NaN.
        """
        return self._run(boxes, "features", self.model.encoder.features)

    def predict_logits(self, boxes: np.ndarray) -> np.ndarray:
        """Outputs of the last linear layer, float32, shape (n, outputs); as `predict_features`."""
        return self._run(boxes, "forward", self.model.encoder.outputs)

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

    def _run(self, boxes: np.ndarray, what: str, width: int) -> np.ndarray:
        check_boxes(boxes, self.model.encoder.box)
        import torch

        network = getattr(self._network(), what)
        out = np.empty((len(boxes), width), np.float32)
        full = np.zeros((self.batch, 1, *boxes.shape[1:]), np.float32)
        half = torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16")
        try:
            with torch_threads(self.threads), exact_gpu(torch), torch.inference_mode(), half:
                for start in range(0, len(boxes), self.batch):
                    part = boxes[start : start + self.batch]
                    full[: len(part), 0] = normalised(part, invert=self.model.invert)
                    full[len(part) :] = 0
                    x = torch.from_numpy(full).to(self.device)
                    told = network(x.contiguous(memory_format=torch.channels_last_3d))
                    out[start : start + len(part)] = told[: len(part)].float().cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            edge = self.model.encoder.box
            raise InputError(
                f"memory ran out with {self.batch} boxes of {edge}³ voxels at once: lower batch "
                "(--batch)"
            ) from error
        return out

    def _network(self) -> Any:
        with self._lock:
            if not self._made:
                self._made.append(_built(self.model, self.device))
            return self._made[0]


def open_predictor(
    model: BoxModel,
    *,
    precision: Precision = "float32",
    threads: int = 1,
    batch: int = 16,
    device: str | None = None,
) -> BoxPredictor:
    """Make a trained network ready to be given boxes.

    Parameters
    ----------
    model : BoxModel
    precision : {"float32", "bfloat16"}
        Of the products.
    threads : int
        Of PyTorch on the CPU.
    batch : int
        Boxes that pass at once.
    device : {"cpu", "cuda"}, optional
        A GPU where there is one, if None.

    Raises
    ------
    InputError
        If PyTorch is missing, or a value is out of range.
    """
    needs("torch")
    import torch

    if precision not in get_args(Precision):
        raise InputError(f"precision must be float32 or bfloat16, got {precision!r}")
    for name, number in (("threads", threads), ("batch", batch)):
        if not isinstance(number, int) or number < 1:
            raise InputError(f"{name} must be a whole number of at least 1, got {number!r}")
    has_gpu = bool(torch.cuda.is_available())
    device = ("cuda" if has_gpu else "cpu") if device is None else device
    if device not in ("cpu", "cuda") or (device == "cuda" and not has_gpu):
        raise InputError(f"device must be cpu, or cuda where there is a GPU, got {device!r}")
    return BoxPredictor(model, precision, threads, batch, device)


def _built(model: BoxModel, device: str) -> Any:
    import torch

    from tomodask.nets.encoders3d import build_encoder
    from tomodask.nets.training_state import restore_weights

    network = build_encoder(model.encoder)
    restore_weights(network, model.weights)
    return network.eval().to(device=device, memory_format=torch.channels_last_3d)
