"""What `tomodask pick` is given, which options belong to it, and how it is picked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tomodask.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["PICKERS", "kind_of", "refuse_others"]

Kind = Literal["model", "segmentation", "match", "probability", "dog"]
Picked = tuple["pd.DataFrame", float, tuple[int, ...]]  # table, voxel size (Å) and shape to write

_CALLED: dict[Kind, str] = {
    "model": "a tomogram that a network segments",
    "segmentation": "a store of `tomodask segment`",
    "match": "a store of `tomodask match`",
    "probability": "a volume taken for a probability or a mask",
    "dog": "a tomogram picked by a difference of Gaussians",
}
_TAKES: dict[Kind, set[str]] = {
    "model": {"threshold", "max_particles", "min_height", "min_distance", "apart", "voxel_size"},
    "segmentation": {"threshold", "max_particles", "min_height", "min_distance", "apart"},
    "match": {"diameter", "threshold", "max_particles"},
    "probability": {
        "diameter", "threshold", "max_particles", "min_height", "min_distance", "voxel_size",
    },
    "dog": {"diameter", "threshold", "max_particles", "min_distance", "invert", "voxel_size"},
}  # fmt: skip
_HINTS = {
    ("match", "voxel_size"): "the match has its own",
    ("segmentation", "voxel_size"): "the segmentation has its own",
    ("segmentation", "diameter"): "the network says the diameters; --min-distance parts picks",
    ("model", "diameter"): "the network says the diameters; --min-distance parts picks",
    ("model", "invert"): "the network knows the contrast it was trained on",
}


def kind_of(source: Path, model: Path | None, method: str | None) -> Kind:
    """How an input is picked; wrong combinations are refused.

    Parameters
    ----------
    source : Path
    model : Path or None
        ``--model``.
    method : str or None
        ``--method``.
    """
    store = _store_kind(source)
    if model is not None and method not in (None, "segmentation"):
        raise InputError(
            f"--model belongs to --method segmentation, got --method {method}; leave one of the "
            "two out"
        )
    if store is not None:
        called = _CALLED[store]
        wanted = "template" if store == "match" else "segmentation"
        if model is not None:
            raise InputError(
                f"--model needs a tomogram, and {source} is {called}; leave --model out, or give "
                "the tomogram"
            )
        if method not in (None, wanted):
            way = "a tomogram" if method == "dog" else f"a store of `tomodask {_MAKER[method]}`"
            raise InputError(
                f"--method {method} needs {way}, and {source} is {called}; leave --method out, or "
                "give another input"
            )
        return store
    if model is not None:
        return "model"
    if method == "dog":
        return "dog"
    if method == "template":
        raise InputError(
            f"--method template needs the scores of a match, and {source} is no store of them; "
            "make one with `tomodask match`"
        )
    return "probability"


_MAKER: dict[str | None, str] = {"template": "match", "segmentation": "segment"}


def refuse_others(kind: Kind, source: Path, options: Mapping[str, Any]) -> None:
    """Raise an `InputError` for an option that has no part in how the input is picked."""
    for name, value in options.items():
        if value is None or value is False or name in _TAKES[kind]:
            continue
        why = _HINTS.get((kind, name), f"{source} is {_CALLED[kind]}")
        got = "" if value is True else f", got {value:g}"
        option = f"--{name.replace('_', '-')}"
        raise InputError(
            f"{name} cannot be changed for {source}{got}: {why}; leave {option} out"
            if (kind, name) in _HINTS
            else f"{name} has no part here{got}: {why}; leave {option} out"
        )


def _store_kind(path: Path) -> Kind | None:
    """Tell what wrote a store, by its attributes alone."""
    try:
        attributes = json.loads((path / "zarr.json").read_text("utf-8")).get("attributes", {})
    except (OSError, ValueError):
        return None
    told = str(attributes.get("format", ""))
    if told.startswith("tomodask-scores"):
        return "match"
    return "segmentation" if told.startswith("tomodask-segmentation") else None


def _match(source: Path, model: Path | None, options: dict[str, Any]) -> Picked:
    from tomodask.picking.templates.matching import open_scores, pick_particles

    match = open_scores(source)
    table = pick_particles(match, **{name: options[name] for name in _TAKES["match"]})
    return table, float(match.attrs["voxel_size"]), match["score"].shape


def _segmentation(source: Path, model: Path | None, options: dict[str, Any]) -> Picked:
    from tomodask.picking.segmentation.store import open_segmentation

    probability = open_segmentation(source)
    table = _of_segmentation(probability, options)
    # Tables count in the tomogram's own voxels, whatever those of the network.
    size = probability.attrs.get("tomogram_voxel_size", probability.attrs["voxel_size"])
    shape = probability.attrs.get("tomogram_shape", probability.shape[1:])
    return table, float(size), tuple(shape)


def _by_model(source: Path, model: Path | None, options: dict[str, Any]) -> Picked:
    from tomodask.data.tomograms import open_tomogram
    from tomodask.nets.segmentation.model_file import read_model
    from tomodask.picking.segmentation.segmenting import segment_tomogram

    assert model is not None
    volume = open_tomogram(source, voxel_size=options["voxel_size"])
    table = _of_segmentation(segment_tomogram(volume, read_model(model)), options)
    return table, float(volume.attrs["voxel_size"]), volume.shape


def _of_segmentation(probability: xr.DataArray, options: dict[str, Any]) -> pd.DataFrame:
    """Picks of all classes."""
    from tomodask.picking.segmentation.picks import pick_segmentation

    chosen = _given(options, "threshold", "min_height", "min_distance", "max_particles")
    return pick_segmentation(probability, jointly=not options["apart"], **chosen)


def _probability(source: Path, model: Path | None, options: dict[str, Any]) -> Picked:
    from tomodask.data.tomograms import open_tomogram
    from tomodask.picking.segmentation.picks import pick_segmentation

    volume = open_tomogram(source, voxel_size=options["voxel_size"])
    where, size = volume.attrs["source"], float(volume.attrs["voxel_size"])
    diameter = options["diameter"]
    if diameter is None or options["threshold"] is None:
        missing = "diameter" if diameter is None else "threshold"
        raise InputError(
            f"{missing} is needed for {where}, a volume that no match wrote, got none; give "
            f"--{missing} (for a tomogram give --model, or --method dog)"
        )
    if not diameter >= size:
        raise InputError(
            f"diameter must be at least a voxel of {where} ({size:g} Å), got {diameter:g} Å"
        )
    chosen = _given(options, "threshold", "min_height", "min_distance", "max_particles")
    table = pick_segmentation(volume, diameters=diameter, **chosen)
    return table.drop(columns=["kind", "class"]), size, volume.shape


def _dog(source: Path, model: Path | None, options: dict[str, Any]) -> Picked:
    from tomodask.data.tomograms import open_tomogram
    from tomodask.picking.blobs.finding import find_blobs

    if options["diameter"] is None:
        raise InputError("diameter is needed for --method dog, got none; give --diameter (Å)")
    volume = open_tomogram(source, voxel_size=options["voxel_size"])
    chosen = _given(options, "diameter", "threshold", "max_particles", "min_distance", "invert")
    return find_blobs(volume, **chosen), float(volume.attrs["voxel_size"]), volume.shape


def _given(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if options[name] is not None}


PICKERS: dict[Kind, Callable[[Path, Path | None, dict[str, Any]], Picked]] = {
    "model": _by_model,
    "segmentation": _segmentation,
    "match": _match,
    "probability": _probability,
    "dog": _dog,
}
