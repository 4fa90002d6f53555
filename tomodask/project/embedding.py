"""Features of boxes in a store that is made once: the same call finds them there again."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tomodask.classification.features.embedding import embed_subtomograms
from tomodask.classification.features.models import NamedModel, open_feature_model
from tomodask.classification.features.store import open_features, reopened_features, save_features
from tomodask.cluster.computing import active_client
from tomodask.data.job_boxes import boxes_state, job_boxes, lasting_images, table_state
from tomodask.data.subtomogram_table import particle_table
from tomodask.errors import InputError
from tomodask.nets.boxes.inference import BoxPredictor
from tomodask.nets.engines import engine_told

__all__ = ["check_features", "features_of", "save_embedding", "with_engine"]

_log = logging.getLogger(__name__)


def save_embedding(
    subtomograms: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | xr.Dataset,
    path: str | os.PathLike[str],
    *,
    model: Any,
    precision: str = "float32",
    batch: int = 16,
    voxel_size: float | None = None,
    overwrite: bool = False,
) -> xr.Dataset:
    """Make features of boxes and keep them.  Computes, unless they are there.

    A store that holds features of the same boxes by the same model is opened as it is.

    Parameters
    ----------
    subtomograms : path, list of paths or Dataset
        What `open_subtomograms` takes or gives.
    path : path
        The store, by custom ``….zarr``.
    model, precision
        As of `tomodask.classification.features.models.open_feature_model`.
    batch : int
        Boxes that pass a network at once; another number may change the features' last bits.
    voxel_size : float, optional
        Å; in place of what the files say.
    overwrite : bool
        Make them anew, and in place of features of other boxes or by another model.

    Returns
    -------
    Dataset
        As `open_features` gives it, with the table of these boxes; attrs ``model`` and
        ``model_digest`` say what made them, ``engine`` what ran a network, ``boxes`` of what.

    Raises
    ------
    InputError
        If boxes, model and voxel size do not belong together, or there are other features.
    """
    path = Path(path)
    boxes, source = job_boxes(subtomograms, voxel_size=voxel_size, keep=("class", "kind"))
    named = open_feature_model(model, precision=precision, together=batch)
    features = with_engine(features_of(boxes, source, named, batch), named)
    if path.exists() and not overwrite:
        there = reopened_features(path)
        check_features(there, features, str(path))
        _log.info("%s: features of these boxes by this model are there already", path)
        ours, theirs = (one.attrs.get("engine", "") for one in (features, there))
        if ours != theirs:
            _log.info(
                "%s: made by %s, where here it were %s: last digits would differ",
                path, theirs or "an engine that was not noted", ours,
            )  # fmt: skip
        if table_state(there) != table_state(features):
            _log.info("%s: its table is of before; that of these boxes takes its place here", path)
        # Features are the same wherever boxes lie, and whatever they are taken for.
        former = [name for name, one in there.coords.items() if one.dims == ("particle",)]
        now = {name: one for name, one in features.coords.items() if one.dims == ("particle",)}
        return there.drop_vars(former).assign_coords(now)
    save_features(features, path, overwrite=overwrite)
    return open_features(path)


def features_of(boxes: xr.Dataset, source: str, model: NamedModel, batch: int) -> xr.Dataset:
    """Features of a job's boxes, with what they are told apart from others by.  Lazy."""
    table = lasting_images(particle_table(boxes), boxes)
    if "image" in table:
        boxes = boxes.assign_coords(image=("particle", table["image"].to_numpy()))
    made = embed_subtomograms(boxes, model=model.model, together=batch)
    return made.assign_attrs(
        model=model.name, model_digest=model.digest, boxes=boxes_state(boxes, source)
    )


def with_engine(features: xr.Dataset, model: NamedModel) -> xr.Dataset:
    """Features with what runs their network where the work is done in ``engine``: call it there.

    Engines differ in last bits, so that a store that was begun is not gone on with by another.
    One that is whole is of one engine, and taken as it is wherever it is opened.
    """
    if not isinstance(model.model, BoxPredictor):
        return features
    engine, device, client = model.model.engine, model.model.device, active_client()
    if client is None:
        found = {engine_told(engine, device)}
    else:
        client.wait_for_workers(1)  # of a queue they come late
        found = set(client.run(engine_told, engine, device).values())
    return features.assign_attrs(engine=", or ".join(sorted(found)))


def check_features(features: xr.Dataset, wanted: xr.Dataset, where: str) -> None:
    """Refuse features that are not of these boxes by this model.

    Parameters
    ----------
    features : Dataset
        Of a store.
    wanted : Dataset
        From `features_of`.
    where : str
        What the message calls the store.

    Raises
    ------
    InputError
    """
    way = "choose another name, or make them anew (overwrite=True, --overwrite)"
    count, there = wanted.sizes["particle"], features.sizes["particle"]
    same = count == there and np.array_equal(features["particle"], wanted["particle"])
    if not same or features.attrs.get("boxes", "") != wanted.attrs["boxes"]:
        raise InputError(
            f"{where} holds features of other boxes ({there} of "
            f"{features.attrs.get('source') or features.attrs.get('store') or 'in memory'}; here "
            f"are {count}, or they were written anew since); {way}"
        )
    if features.attrs.get("model_digest", "") != wanted.attrs["model_digest"]:
        raise InputError(
            f"{where} holds features by another model ({features.attrs.get('model', 'not said')}"
            f"), precision or batch; {way}"
        )
