"""What makes features, by its name: the file of a trained network, or the baseline without one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomodask.classification.features.embedding import FeatureModel
from tomodask.classification.features.rotation_invariant import RotationInvariant
from tomodask.errors import InputError
from tomodask.nets.boxes.inference import open_predictor
from tomodask.nets.boxes.model_file import BoxModel, read_box_model

__all__ = ["ROTATION_INVARIANT", "NamedModel", "open_feature_model"]

#: Stands for `RotationInvariant` where a file is asked for.
ROTATION_INVARIANT = "rotation-invariant"
_SMOOTH = 1.0  # voxels: boxes of tomograms are noisy, and noise has a power of its own


@dataclass(frozen=True)
class NamedModel:
    """A model for `embed_subtomograms`, and what tells it from others.

    Attributes
    ----------
    model : object with ``predict_features``
    name : str
        What pages and messages call it.
    digest : str
        All that features depend on, as a short text.
    network : BoxModel, optional
        None where it is no network of this project.
    """

    model: FeatureModel
    name: str
    digest: str
    network: BoxModel | None = None

    @property
    def box(self) -> int | None:
        """Edge of the boxes that it takes, voxels; None for any."""
        return None if self.network is None else self.network.encoder.box

    def predict_features(self, batch: Any) -> Any:
        """Those of the model."""
        return self.model.predict_features(batch)


def open_feature_model(
    model: str | os.PathLike[str] | BoxModel | FeatureModel,
    *,
    precision: str = "float32",
    together: int = 16,
) -> NamedModel:
    """A model by its file, by its name, or as it is.

    Parameters
    ----------
    model : path, BoxModel or object with ``predict_features``
        A model file (a classifier, or an encoder that was trained without labels); or
        ``"rotation-invariant"``, which needs no training (`RotationInvariant`).
    precision : {"float32", "bfloat16"}
        Of a network's products.
    together : int
        Boxes that pass a network at once.

    Raises
    ------
    InputError
        If there is no such file, it is damaged or of another kind, what runs networks is not
        installed, or a parameter makes no sense.

    Examples
    --------
    >>> open_feature_model("rotation-invariant").digest
    'rotation-invariant, degree 10, of density, smoothed by 1 voxels'
    """
    if isinstance(model, NamedModel):
        return model
    if isinstance(model, str) and model == ROTATION_INVARIANT:
        model = RotationInvariant(smooth=_SMOOTH)
    if isinstance(model, RotationInvariant):
        radius = "" if model.radius is None else f", radius {model.radius}"
        told = f"{ROTATION_INVARIANT}, degree {model.degree}{radius}, of {model.of}"
        told += f", smoothed by {model.smooth:g} voxels" if model.smooth else ""
        return NamedModel(model, ROTATION_INVARIANT, told)
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        if not path.suffix and not path.exists():
            raise InputError(
                f"model {str(model)!r} is no file; give the .safetensors of a network, or "
                f"{ROTATION_INVARIANT}, which needs no training"
            )
        network, name = read_box_model(path), path.name
    elif isinstance(model, BoxModel):
        network, name = model, f"{model.encoder.network} in memory"
    else:
        if not hasattr(model, "predict_features"):
            raise InputError(
                "model must be a model file, a BoxModel, or have predict_features, got "
                f"{type(model).__name__}"
            )
        name = type(model).__name__
        from dask.base import tokenize

        return NamedModel(model, name, f"{name}, {tokenize(model)[:16]}")
    predictor = open_predictor(network, precision=precision, batch=together)  # type: ignore[arg-type]
    digest = f"{network.digest}, {precision}, {together} together"
    return NamedModel(predictor, name, digest, network)
