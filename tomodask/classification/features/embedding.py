"""Features of subtomograms: a model looks at each box, and a few hundred numbers are left of it.

Boxes stream through the model block by block.  A network's matrix products may round otherwise for
a batch of another size, and for another place in it; so the model is always given the same number
of boxes, counted off from the first particle, the last batch filled up with empty boxes.  Then the
chunks of the boxes, the particles of a task and the workers change no bit of a feature.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Protocol

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask._task_spec import DataNode, GraphNode, Task, TaskRef
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from tomodask.alignment.checks import FAULTS, box_fault
from tomodask.data.box_blocks import BoxBlocks, join, partition_edges
from tomodask.data.subtomogram_table import batch_size, particle_table
from tomodask.errors import InputError

__all__ = ["FeatureModel", "aside_told", "embed_subtomograms", "feature_array", "set_aside"]

_TOGETHER = 16
_NAMED_AT_MOST = 5


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
    together: int | None = None,
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
    together : int, optional
        Boxes that the model is given at once: by default its own ``batch``, else 16.  Other
        numbers may change the last bits of what a network gives.

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
    (`tomodask.classification.features.store.save_features`).

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
    together = getattr(model, "batch", _TOGETHER) if together is None else together
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
    chunks = np.diff(edges).tolist()
    # Named by what they depend on, so that a store that was begun can tell that they are its own.
    token = tokenize(model, boxes.data.name if boxes.chunks else boxes.data, edges, together)
    taken, graph = BoxBlocks(boxes, size).taken_by(edges)
    one, made = f"model-{token}", f"embed-{token}"
    # A network may be told shorter than by all of its weights.
    sent = _callable(getattr(model, "for_workers", lambda: model)())
    graph[one] = DataNode(one, _Embedding(sent, int(width[1]), int(together)))
    for number, (blocks, start) in enumerate(zip(taken, edges[:-1].tolist(), strict=True)):
        graph[made, number] = Task((made, number), _embedded, TaskRef(one), blocks, start)
    features, fault = (
        _part(graph, made, place, (tuple(chunks), *more), kind)
        for place, (more, kind) in enumerate((([(int(width[1]),)], np.float32), ([], np.int8)))
    )
    coords = {name: c for name, c in subtomograms.coords.items() if c.dims == ("particle",)}
    attrs = {k: v for k, v in subtomograms.attrs.items() if k in ("voxel_size", "source", "store")}
    return xr.Dataset(
        {
            "features": (("particle", "feature"), features),
            "fault": ("particle", fault),
        },
        coords=coords,
        attrs={**attrs, "box": n},
    )


class _Embedding:
    """A model and what it is given and gives, as one value of the graph."""

    def __init__(self, predict: Callable[[np.ndarray], np.ndarray], width: int, together: int):
        self.predict, self.width, self.together = predict, width, together


def _part(
    graph: dict[Any, GraphNode],
    made: str,
    place: int,
    chunks: tuple[tuple[int, ...], ...],
    kind: Any,
) -> da.Array:
    """Features (0) or faults (1) of the tasks, as an array."""
    name = f"{('features', 'fault')[place]}-{made}"
    rest = (0,) * (len(chunks) - 1)
    own = {
        (name, number, *rest): Task(
            (name, number, *rest), operator.getitem, TaskRef((made, number)), place
        )
        for number in range(len(chunks[0]))
    }
    layers = HighLevelGraph({made: graph, name: own}, {made: set(), name: {made}})
    return da.Array(layers, name, chunks=chunks, dtype=kind)


def _embedded(
    one: _Embedding, blocks: list[np.ndarray], start: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features of boxes, and what is wrong with each."""
    boxes = join(blocks)
    blocks.clear()  # else what was joined would stay in memory, too
    count, together = len(boxes), one.together
    out = np.empty((count, one.width), np.float32)
    faults = np.array([box_fault(box) for box in boxes], np.int8)
    for i in range(0, count, together):
        part, bad = boxes[i : i + together], faults[i : i + together] > 0
        if bad.any() or len(part) < together:
            given = np.zeros((together, *boxes.shape[1:]), np.float32)
            given[: len(part)][~bad] = part[~bad]
        else:
            given = np.array(part, np.float32)  # a copy: what a model does to it is its own
        found = np.asarray(one.predict(given), np.float32)
        if found.shape != (together, one.width):
            raise InputError(
                f"model gave features of shape {found.shape} for {together} boxes, before it gave "
                f"{one.width} a box"
            )
        found = found[: len(part)]
        odd = ~np.isfinite(found).all(1) & ~bad
        if odd.any():
            raise InputError(
                f"model gave features that are not finite for box {start + i + int(odd.argmax())}, "
                "which is sound; look at the model"
            )
        out[i : i + len(part)] = np.where(bad[:, None], np.float32(np.nan), found)
    return out, faults


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


def aside_told(features: xr.Dataset) -> str:
    """Particles without features in one line, the first of them by name; empty if there are none.

    Examples
    --------
    >>> made = xr.Dataset({"fault": ("particle", [0, 1, 0])}, {"particle": [4, 5, 9]})
    >>> aside_told(made)
    '1 of 3 particles have no features: 5 (the box holds NaN or infinite voxels)'
    """
    aside = set_aside(features)
    if not len(aside):
        return ""
    named = [
        f"{image or particle} ({reason})"
        for particle, image, reason in aside.head(_NAMED_AT_MOST).to_numpy().tolist()
    ]
    more = len(aside) - len(named)
    return (
        f"{len(aside)} of {features.sizes['particle']} particles have no features: "
        f"{', '.join(named)}{f' and {more} more' if more else ''}"
    )
