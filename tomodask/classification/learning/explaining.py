"""What of a box speaks for its class: Grad-CAM volumes beside the boxes, lazily."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from tomodask.alignment.checks import box_fault
from tomodask.errors import InputError, did_you_mean
from tomodask.nets import needs
from tomodask.nets.boxes.inference import BoxPredictor, open_predictor
from tomodask.nets.boxes.model_file import BoxModel, read_box_model
from tomodask.nets.boxes.normalisation import normalised

__all__ = ["explain_subtomograms"]

_TOGETHER = 16  # boxes of a task
_NONE = -1


def explain_subtomograms(
    subtomograms: xr.Dataset,
    *,
    model: BoxModel | str | os.PathLike[str],
    target: str | None = None,
) -> xr.Dataset:
    """How much each part of a box speaks for a class, by Grad-CAM.  Lazy.

    The kernel is `tomodask.nets.boxes.gradcam`.

    Parameters
    ----------
    subtomograms : Dataset
        Of the model's box and voxel size; choose the few that are to be explained.
    model : BoxModel or path
        A classifier.
    target : str, optional
        The class that is asked for; by default each box's likeliest.

    Returns
    -------
    Dataset
        ``evidence`` (particle, z, y, x), float32, 0 to 1: each box's own scale, 0 everywhere where
        nothing speaks for the class; ``probability`` (particle, class), float32, calibrated;
        ``explained`` (particle,), int16, number of the class from 0, −1 of a box with a fault,
        which has NaN; and the boxes' columns.

    Raises
    ------
    InputError
        If the model is no classifier, knows no such class, the boxes are not of its box and voxel
        size, or PyTorch is not installed.

    Notes
    -----
    The maps of the last convolutions are a half to a quarter as fine as the box: evidence tells
    where the network looks, roughly, and nothing about why.
    """
    needs("torch", extra="classification")
    read = model if isinstance(model, BoxModel) else read_box_model(model)
    if not read.classes:
        raise InputError(
            "model is an encoder that was trained without labels, and knows no classes: there is "
            "nothing to explain; train a classifier from it (classify train --init)"
        )
    if target is not None and target not in read.classes:
        raise InputError(
            f"class {target!r} is not one of the model's; it knows {', '.join(read.classes)}"
            f"{did_you_mean([target], read.classes)}"
        )
    boxes, size = subtomograms["subtomogram"], float(subtomograms.attrs.get("voxel_size", np.nan))
    n = read.encoder.box
    if boxes.shape[1:] != (n, n, n):
        edges = "×".join(map(str, boxes.shape[1:]))
        raise InputError(
            f"subtomograms have boxes of {edges} voxels, the model takes {n}³; extract them anew "
            f"with box={n} (--box {n})"
        )
    if not abs(size - read.voxel_size) <= 0.05 * read.voxel_size:
        raise InputError(
            f"subtomograms have voxels of {size:g} Å, the model was trained on "
            f"{read.voxel_size:g} Å; extract boxes from tomograms of that voxel size"
        )
    chosen = None if target is None else read.classes.index(target)
    explainer = _Explainer(open_predictor(read), chosen)
    data = boxes.data if isinstance(boxes.data, da.Array) else da.from_array(boxes.data)
    data = data.rechunk((_TOGETHER, -1, -1, -1))
    width = n**3 + len(read.classes) + 1
    rows = data.map_blocks(
        explainer,
        dtype=np.float32,
        drop_axis=(2, 3),
        chunks=(data.chunks[0], (width,)),
        meta=np.empty((0, 0), np.float32),
    )
    coords = {name: c for name, c in subtomograms.coords.items() if c.dims == ("particle",)}
    return xr.Dataset(
        {
            "evidence": (("particle", "z", "y", "x"), rows[:, : n**3].reshape((-1, n, n, n))),
            "probability": (("particle", "class"), rows[:, n**3 : -1]),
            "explained": ("particle", rows[:, -1].astype(np.int16)),
        },
        # What the model says takes the place of a class that boxes may carry.
        coords={**{k: v for k, v in coords.items() if k != "class"}, "class": list(read.classes)},
        attrs={"voxel_size": size},
    )


@dataclass
class _Explainer:
    """Evidence, probabilities and class of each box of a block, side by side in a row."""

    predictor: BoxPredictor
    target: int | None
    _made: list[Any] = field(default_factory=list, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"predictor": self.predictor, "target": self.target}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _made=[], _lock=threading.Lock())

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return type(self).__name__, self.predictor.model.digest, self.target

    def __call__(self, block: np.ndarray) -> np.ndarray:
        from tomodask.nets.boxes.gradcam import grad_cam

        model = self.predictor.model
        out = np.full((len(block), block[0].size + len(model.classes) + 1), np.nan, np.float32)
        out[:, -1] = _NONE
        sound = np.flatnonzero([not box_fault(box) for box in block])
        if not len(sound):
            return out
        boxes = np.asarray(block[sound], np.float32)
        chances = self.predictor.predict_probabilities(boxes)
        classes = chances.argmax(1) if self.target is None else np.full(len(sound), self.target)
        with self._lock:
            if not self._made:
                self._made.append(_network(model))
            evidence = grad_cam(self._made[0], normalised(boxes, invert=model.invert), classes)
        out[sound, :-1] = np.concatenate([evidence.reshape(len(sound), -1), chances], 1)
        out[sound, -1] = classes
        return out


def _network(model: BoxModel) -> Any:
    from tomodask.nets.boxes.networks import build_encoder
    from tomodask.nets.training_state import restore_weights

    network = build_encoder(model.encoder)
    restore_weights(network, model.weights)
    return network.eval()
