"""Classes of boxes by a trained classifier: lazily, block by block, and as a particle table."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from tomodask.alignment.checks import FAULTS
from tomodask.classification.features.embedding import embed_subtomograms
from tomodask.classification.learning.class_labels import Labelled
from tomodask.classification.learning.verdicts import assessed
from tomodask.cluster import compute
from tomodask.data.subtomogram_table import particle_table
from tomodask.errors import InputError
from tomodask.nets.boxes.inference import BoxPredictor, open_predictor
from tomodask.nets.boxes.model_file import BoxModel, read_box_model

__all__ = ["NONE", "classify_subtomograms", "collect_classes", "column_of", "compare_labels"]

_WORD = re.compile(r"[^\w.+-]")

#: The kind of a particle that is none of the model's classes.
NONE = "none of these"


def classify_subtomograms(
    subtomograms: xr.Dataset,
    *,
    model: BoxModel | BoxPredictor | str | os.PathLike[str],
    batch: int | None = None,
    least_confidence: float | None = None,
) -> xr.Dataset:
    """Say what kind of particle each box holds.  Lazy.

    Parameters
    ----------
    subtomograms : Dataset
        From `open_subtomograms` or `extract_subtomograms`; of the model's box and voxel size.
    model : BoxModel, BoxPredictor or path
        A classifier of `train_classifier`; as a predictor of `open_predictor` where precision,
        threads or device matter.
    batch : int, optional
        Particles that a task takes; it changes no bit.
    least_confidence : float, optional
        Below it a box is none of these; by default the model's.

    Returns
    -------
    Dataset
        ``probability`` (particle, class), float32, calibrated, the names of the classes along
        ``class``; along particle ``number`` (int16, from 1 in the order of the classes; 0: none of
        these, or no sound box), ``confidence`` (float32, the largest probability) and ``fault``
        (int8, the place in `tomodask.alignment.checks.FAULTS`, 0 where nothing is wrong); and the
        columns of the particle table, but for ``class`` and ``kind``, which this replaces.  Boxes
        with a fault have NaN.

    Raises
    ------
    InputError
        If the model is no classifier, or the boxes are not of its box and voxel size.
    """
    if isinstance(model, BoxPredictor):
        predictor = model
    else:
        read = read_box_model(model) if isinstance(model, str | os.PathLike) else model
        predictor = open_predictor(read)
    told = predictor.model
    if not told.classes:
        raise InputError(
            "model is an encoder that was trained without labels, and knows no classes: train a "
            "classifier from it (train_classifier(init=…), classify train --init)"
        )
    least = told.least_confidence if least_confidence is None else least_confidence
    if not 0 <= least < 1:
        raise InputError(f"least_confidence must be from 0 to below 1, got {least}")
    kept = [n for n in ("class", "kind") if n in subtomograms.coords]
    found = embed_subtomograms(subtomograms.drop_vars(kept), model=_Chances(predictor), batch=batch)
    chances: da.Array = found["features"].data
    return xr.Dataset(
        {
            "probability": (("particle", "class"), chances),
            "number": (
                "particle",
                chances.map_blocks(_number, least, drop_axis=1, dtype=np.int16),
            ),
            "confidence": (
                "particle",
                chances.map_blocks(_confidence, drop_axis=1, dtype=np.float32),
            ),
            "fault": found["fault"],
        },
        coords={**found.coords, "class": list(told.classes)},
        attrs={**found.attrs, "least_confidence": least},
    )


class _Chances:
    """A predictor whose features are its probabilities: one task a block makes them."""

    def __init__(self, predictor: BoxPredictor) -> None:
        self.predictor, self.batch = predictor, predictor.batch
        self.box, self.voxel_size = predictor.model.encoder.box, predictor.model.voxel_size

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """Not that of the predictor itself, whose features are others."""
        return (type(self).__name__, self.predictor.__dask_tokenize__())

    def for_workers(self) -> _Chances:
        """The same, to be sent; see `BoxPredictor.for_workers`."""
        sent = copy.copy(self)
        sent.predictor = self.predictor.for_workers()
        return sent

    def predict_features(self, boxes: np.ndarray) -> np.ndarray:
        """Probabilities."""
        return self.predictor.predict_probabilities(boxes).astype(np.float32)


def _confidence(chances: np.ndarray) -> np.ndarray:
    return np.asarray(chances.max(axis=1), np.float32)


def _number(chances: np.ndarray, least: float) -> np.ndarray:
    """Number of the likeliest class, from 1, where it is likely enough, else 0."""
    likeliest = np.nan_to_num(chances).argmax(axis=1) + 1
    # NaN is not above anything: a box with a fault is of no class.
    return np.where(_confidence(chances) >= least, likeliest, 0).astype(np.int16)


def collect_classes(classified: xr.Dataset) -> pd.DataFrame:
    """The result of `classify_subtomograms` as a particle table.  Computes.

    Returns
    -------
    DataFrame
        The particle table with ``class`` (from 1; 0: none), ``kind`` (`NONE` where no class is
        likely enough), ``confidence``, ``probability_NAME`` of each class and, where boxes were set
        aside, ``reason``; those have no kind.
    """
    # What follows from the probabilities is worked out here: a task a block is enough.
    got = compute([classified[name].data for name in ("probability", "fault")], label="classify")
    chances, fault = (np.asarray(values) for values in got)
    number = _number(chances, float(classified.attrs["least_confidence"]))
    confidence = _confidence(chances)
    table = particle_table(classified)
    names = [str(name) for name in classified["class"].to_numpy()]
    kinds = np.array([NONE, *names], dtype=object)[number]
    table["class"] = number.astype(np.int64)
    table["kind"] = np.where(fault > 0, "", kinds)
    table["confidence"] = confidence.astype(float)
    for name, column in zip(names, chances.T, strict=True):
        table[column_of(name)] = column.astype(float)
    if fault.any():
        table["reason"] = [FAULTS[place] for place in fault]
    return table


def compare_labels(
    table: pd.DataFrame, classes: Sequence[str], labelled: Labelled
) -> dict[str, Any]:
    """Hold classes that were said against labels.

    Parameters
    ----------
    table : DataFrame
        From `collect_classes`, one row a box.
    classes : sequence of str
        Of the model.
    labelled : Labelled
        Of the same boxes; it may have classes that the model does not know.

    Returns
    -------
    dict
        What `assessed` says of boxes of the model's classes; ``others`` (boxes of other classes),
        ``others_none`` (share of them that was said to be none of these; None where there are
        none), ``set_aside`` (labelled boxes without a sound box).
    """
    rows = table.iloc[labelled.rows]
    sound = rows["confidence"].notna().to_numpy()
    number = {name: n for n, name in enumerate(classes)}
    labels = np.array([number.get(name, -1) for name in labelled.classes], np.int64)
    labels = labels[labelled.numbers]
    known, other = sound & (labels >= 0), sound & (labels < 0)
    columns = [column_of(name) for name in classes]
    told: dict[str, Any] = {
        "others": int(other.sum()),
        "others_none": float((rows["class"][other] == 0).mean()) if other.any() else None,
        "set_aside": int((~sound).sum()),
    }
    if known.any():
        none = (rows["class"][known] == 0).to_numpy()
        told |= assessed(rows[columns].to_numpy()[known], labels[known], none)
    return told


def column_of(name: str) -> str:
    """The column of a class's probability; a STAR file's columns are one word."""
    return f"probability_{_WORD.sub('_', name)}"
