"""Features of subtomograms: a model looks at each box, and a few hundred numbers are left of it.

Boxes stream through the model block by block.  A network's matrix products may round otherwise for
a batch of another size, and for another place in it; so the model is always given the same number
of boxes, counted off from the first particle, the last batch filled up with empty boxes.  Then the
chunks of the boxes, the particles of a task and the workers change no bit of a feature.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask.delayed import delayed

from tomodask.alignment.checks import FAULTS, box_fault
from tomodask.data.box_blocks import BoxBlocks, partition_edges
from tomodask.data.subtomogram_table import batch_size, particle_table
from tomodask.errors import InputError

__all__ = ["FeatureModel", "embed_subtomograms", "feature_array", "set_aside"]

_log = logging.getLogger(__name__)
_TOGETHER = 16


class FeatureModel(Protocol):
    """Whatever makes features of boxes.

    It, or its ``model``, may say the edge of its boxes, ``box`` (voxels), and their ``voxel_size``
    (Å); then boxes that differ are refused.
    """

    def predict_features(self, batch: np.ndarray) -> np.ndarray:
        """Features, shape (n, feature), of boxes, float32 of shape (n, z, y, x)."""


def embed_subtomograms(
    subtomograms: xr.Dataset,
    *,
    model: FeatureModel | Callable[[np.ndarray], np.ndarray],
    batch: int | None = None,
    together: int = _TOGETHER,
) -> xr.Dataset:
    """Features of each box, beside the particle table.  Lazy.

    Parameters
    ----------
    subtomograms : Dataset
        From `open_subtomograms` or `extract_subtomograms`.
    model : object with ``predict_features``, or a callable
        Is given boxes as they are, float32 of shape (together, z, y, x): normalising them is its
        own work.  A row of what it gives must depend on its own box alone.  It is called once
        here, with empty boxes, to know how many features there are.
    batch : int, optional
        Particles that a task takes, rounded up to a multiple of `together`; it changes no bit.
        By default as many as an alignment's task takes.
    together : int
        Boxes that the model is given at once.  Other numbers may change the last bits of what a
        network gives.

    Returns
    -------
    Dataset
        ``features`` (particle, feature), float32; ``fault`` (particle,), int8, the place in
        `tomodask.alignment.checks.FAULTS` of what is wrong with a box, 0 where nothing is; and the
        columns of the particle table.  Boxes that hold NaN or one value only have NaN for features.

    Raises
    ------
    InputError
        If there are no boxes, they are not those of the model, or a number is below 1; from a
        task, if the model gives another shape, or features of a sound box that are not finite.

    Notes
    -----
    Each look at lazy features runs the model again: write them first
    (`tomodask.classification.feature_store.save_features`).

    Examples
    --------
    >>> boxes = xr.DataArray(np.arange(16.0).reshape(2, 2, 2, 2), dims=("particle", "z", "y", "x"))
    >>> made = xr.Dataset({"subtomogram": boxes}, {"particle": [4, 7]}, {"voxel_size": 10.0})
    >>> found = embed_subtomograms(made, model=lambda x: x.reshape(len(x), -1)[:, :2])
    >>> found.features.values.tolist()
    [[0.0, 1.0], [8.0, 9.0]]
    """
    table = particle_table(subtomograms)
    boxes = subtomograms["subtomogram"]
    predict = _callable(model)
    for name, value in (("together", together), ("batch", 1 if batch is None else batch)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise InputError(f"{name} must be a whole number, at least 1, got {value!r}")
    if not len(table):
        raise InputError("subtomograms is empty: there is nothing to make features of")
    n = int(boxes.sizes["x"])
    _check_boxes(model, boxes.shape[1:], float(subtomograms.attrs.get("voxel_size", np.nan)))
    wanted = batch_size(len(table), n) if batch is None else int(batch)
    size = -(-wanted // together) * together
    width = np.asarray(predict(np.zeros((together, *boxes.shape[1:]), np.float32))).shape
    if len(width) != 2 or width[0] != together or width[1] < 1:
        raise InputError(
            f"model must give features of shape (n, feature), got {width} for {together} boxes"
        )
    edges = partition_edges((len(table),), size, size)
    taken = BoxBlocks(boxes, size).joined(edges)
    one = delayed(_Embedding(predict, int(width[1]), int(together)), pure=False)
    embed = delayed(_embedded, pure=False)
    chunks = np.diff(edges).tolist()
    blocks = [
        da.from_delayed(embed(one, block, int(start)), (count, int(width[1]) + 1), np.float32)
        for block, start, count in zip(taken, edges[:-1], chunks, strict=True)
    ]
    values = da.concatenate(blocks)
    coords = {name: c for name, c in subtomograms.coords.items() if c.dims == ("particle",)}
    attrs = {k: v for k, v in subtomograms.attrs.items() if k in ("voxel_size", "source", "store")}
    return xr.Dataset(
        {
            "features": (("particle", "feature"), values[:, :-1]),
            "fault": ("particle", values[:, -1].astype(np.int8)),
        },
        coords=coords,
        attrs={**attrs, "box": n},
    )


class _Embedding:
    """A model and what it is given and gives, as one value of the graph."""

    def __init__(self, predict: Callable[[np.ndarray], np.ndarray], width: int, together: int):
        self.predict, self.width, self.together = predict, width, together


def _embedded(one: _Embedding, boxes: np.ndarray, start: int) -> np.ndarray:
    """Features of a block of boxes, and in the last column what is wrong with each."""
    count, together = len(boxes), one.together
    out = np.empty((count, one.width + 1), np.float32)
    given = np.empty((together, *boxes.shape[1:]), np.float32)
    for i in range(0, count, together):
        part = boxes[i : i + together]
        faults = np.array([box_fault(box) for box in part])
        given[: len(part)] = part
        given[len(part) :] = 0.0
        given[: len(part)][faults > 0] = 0.0
        found = np.asarray(one.predict(given.copy()), np.float32)
        if found.shape != (together, one.width):
            raise InputError(
                f"model gave features of shape {found.shape} for {together} boxes, before it gave "
                f"{one.width} a box"
            )
        found = found[: len(part)]
        bad = ~np.isfinite(found).all(1) & (faults == 0)
        if bad.any():
            raise InputError(
                f"model gave features that are not finite for box {start + i + int(bad.argmax())}, "
                "which is sound; look at the model"
            )
        out[i : i + len(part), :-1] = np.where(faults[:, None] > 0, np.float32(np.nan), found)
        out[i : i + len(part), -1] = faults
    return out


def _callable(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    predict = getattr(model, "predict_features", model)
    if not callable(predict):
        raise InputError(
            f"model must have predict_features, or be callable, got {type(model).__name__}"
        )
    found: Callable[[np.ndarray], np.ndarray] = predict
    return found


def _check_boxes(model: Any, shape: tuple[int, ...], voxel_size: float) -> None:
    within = getattr(model, "model", None)  # a predictor holds the file's header there
    box, size = (getattr(model, n, getattr(within, n, None)) for n in ("box", "voxel_size"))
    if box is not None and set(shape) != {int(box)}:
        edges = "×".join(map(str, shape))
        raise InputError(
            f"subtomograms have boxes of {edges} voxels, the model takes {box}³; extract them anew "
            f"with box={box}, or train a model on such boxes"
        )
    if size is not None and not abs(float(size) - voxel_size) <= 0.05 * float(size):
        raise InputError(
            f"subtomograms have voxels of {voxel_size:g} Å, the model was trained on {size:g} Å; "
            "resample the tomograms, or train a model on such boxes"
        )


def feature_array(features: xr.Dataset | xr.DataArray | da.Array | np.ndarray) -> da.Array:
    """Features as a Dask array, shape (particle, feature).

    Raises
    ------
    InputError
        If there are not two axes, or one is empty.
    """
    values: Any = features
    if isinstance(values, xr.Dataset):
        if "features" not in values:
            raise InputError("features must be a Dataset from embed_subtomograms or open_features")
        values = values["features"]
    if isinstance(values, xr.DataArray):
        values = values.data
    if not isinstance(values, da.Array):
        values = da.from_array(np.asarray(values), chunks=-1)
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(
            f"features must have the axes (particle, feature), got shape {values.shape}"
        )
    return values


def set_aside(features: xr.Dataset) -> pd.DataFrame:
    """Particles without features, and why.  Computes ``fault`` if that is lazy.

    Returns
    -------
    DataFrame
        Columns ``particle``, ``image`` (empty where not known) and ``reason``.
    """
    fault = np.asarray(features["fault"].to_numpy())
    rows = np.flatnonzero(fault)
    image = features["image"].to_numpy()[rows] if "image" in features.coords else ""
    return pd.DataFrame(
        {
            "particle": features["particle"].to_numpy()[rows],
            "image": image,
            "reason": [FAULTS[fault[row]] for row in rows],
        }
    )
