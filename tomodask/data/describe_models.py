"""What a model file holds, in a few words; no engine is made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tomodask.errors import InputError
from tomodask.nets.boxes.model_file import BoxModel, is_box_model, read_box_model
from tomodask.nets.segmentation.model_file import PickingModel, read_model

__all__ = ["describe_model"]


def describe_model(path: Path) -> dict[str, Any]:
    """A picking model, a classifier of boxes, or an encoder of boxes.

    Raises
    ------
    InputError
        If the file is none of them, or damaged.
    """
    model = read_box_model(path) if is_box_model(path) else read_model(path)
    try:
        told = _of_boxes(model) if isinstance(model, BoxModel) else _of_picking(model)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise InputError(
            f"{path}: its record of training is not as tomodask writes it ({error!r}); train it "
            "again"
        ) from error
    weights = sum(int(values.size) for values in model.weights.values())
    return {"path": str(path), **told, "weights": weights, "digest": model.digest}


def _of_picking(model: PickingModel) -> dict[str, Any]:
    kept = model.training.get("kept_epoch")
    scores = [float(row["f1"]) for row in model.history if row["epoch"] == kept]
    data = model.training.get("data", [])
    return {
        "kind": "picking model",
        "classes": list(model.classes),
        "diameters": list(model.diameters),
        "voxel_size": model.voxel_size,
        "label_diameter": model.label_diameter,
        "halo": model.halo,
        "threshold": model.threshold,
        "channels": list(model.architecture.channels),
        "tomograms": [one["tomogram"] for one in data],
        "particles": sum(sum(one["particles"].values()) for one in data),
        "epochs": len(model.history),
        **({"kept_epoch": kept, "f1": round(scores[0], 3)} if scores else {}),
    }


def _of_boxes(model: BoxModel) -> dict[str, Any]:
    told: dict[str, Any] = {
        "kind": "classifier" if model.classes else "encoder",
        "network": model.encoder.network,
        "box": model.encoder.box,
        "voxel_size": model.voxel_size,
        "epochs": len(model.history),
    }
    if not model.classes:
        return {**told, "method": str(model.training.get("method", "unknown"))}
    told["classes"] = list(model.classes)
    told["least_confidence"] = round(model.least_confidence, 3)
    if "kept_epoch" in model.training:
        told["kept_epoch"] = int(model.training["kept_epoch"])
    for name in ("validation", "test"):
        if name in model.training:
            told[f"{name}_accuracy"] = round(float(model.training[name]["accuracy"]), 3)
    return told
