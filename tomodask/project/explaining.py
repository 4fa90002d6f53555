"""Explanations of a classifier's decisions in a folder: MRC volumes, and a page that shows them.

::

    explained/
      particle_17.mrc              the evidence, 0 to 1, where the box lies in its tomogram
      particle_17_box.mrc          the box
      explained.csv                a row a particle: class, confidence, probabilities
      report.html
"""

from __future__ import annotations

import base64
import io
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import scipy.ndimage
import xarray as xr
from markupsafe import Markup

from tomodask.classification.features.selection import particles_named
from tomodask.classification.learning.explaining import explain_subtomograms
from tomodask.classification.learning.predicting import (
    NONE,
    classify_subtomograms,
    collect_classes,
    column_of,
)
from tomodask.cluster import compute
from tomodask.data.job_boxes import job_boxes
from tomodask.data.mrc_writer import write_mrc
from tomodask.data.subtomogram_table import particle_table
from tomodask.data.subtomograms import chosen_boxes
from tomodask.data.writing import replacing
from tomodask.errors import InputError
from tomodask.nets.boxes.model_file import BoxModel, read_box_model
from tomodask.plot_style import gray_range
from tomodask.report_page import page_template, write_page

__all__ = ["evidence_picture", "explain"]

_PANEL, _GAP = 150, 4  # pixels
_SMOOTH = 1.0  # voxels: what an eye makes out of noise
_LIKELY = 3  # classes told of each box


def explain(
    subtomograms: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | xr.Dataset,
    *,
    output: str | os.PathLike[str],
    model: str | os.PathLike[str] | BoxModel,
    particles: Sequence[str | int] = (),
    most_sure: int = 0,
    least_sure: int = 0,
    target: str | None = None,
    voxel_size: float | None = None,
    overwrite: bool = False,
    command: str | None = None,
) -> pd.DataFrame:
    """Show what in some boxes speaks for their class (`explain_subtomograms`).  Computes.

    Parameters
    ----------
    subtomograms : path, list of paths or Dataset
        What `open_subtomograms` takes or gives.
    output : path
        The folder; made where it is not there.
    model : path or BoxModel
        A classifier.
    particles : sequence of str or int
        By number, or by how the names of their images end.
    most_sure, least_sure : int
        So many besides, of those that the model is surest of, and least sure of; all boxes are
        classified for it.  Where nothing is asked for, four of each.
    target : str, optional
        The class that is asked for; by default each box's likeliest.
    voxel_size : float, optional
        Å; in place of what the boxes' files say.
    overwrite : bool
        Write into a folder that holds something.
    command : str, optional
        What the page says was called.

    Returns
    -------
    DataFrame
        A row a box: the particle table, ``kind`` (the likeliest class), ``confidence``,
        ``explained`` (the class that evidence is for), ``probability_NAME`` of each class,
        ``evidence`` (the file); without those that were set aside.

    Raises
    ------
    InputError
        As `explain_subtomograms`; if a particle is not there, the folder holds something, or no
        sound box is left.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())) and not overwrite:
        raise InputError(
            f"{output} exists already; choose another name, or allow overwriting it "
            "(overwrite=True, --overwrite)"
        )
    if isinstance(model, str | os.PathLike) and os.fspath(model) == "rotation-invariant":
        raise InputError(
            "rotation-invariant features know no classes: give a classifier (classify train)"
        )
    read = model if isinstance(model, BoxModel) else read_box_model(model)
    boxes, source = job_boxes(subtomograms, voxel_size=voxel_size)
    # Refused before anything is classified.
    explain_subtomograms(boxes, model=read, target=target)
    for name, count in (("most_sure", most_sure), ("least_sure", least_sure)):
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 0:
            raise InputError(f"{name} must be a whole number, at least 0, got {count!r}")
    if not len(particles) and not most_sure and not least_sure:
        most_sure = least_sure = 4
    rows = _rows(boxes, read, particles, most_sure, least_sure)
    chosen = chosen_boxes(boxes, rows)
    found = explain_subtomograms(chosen, model=read, target=target)
    evidence, chances, explained, values = compute(
        [found["evidence"].data, found["probability"].data, found["explained"].data,
         da.asarray(chosen["subtomogram"].data)],
        label="explain",
    )  # fmt: skip
    sound = np.flatnonzero(explained >= 0)
    if not len(sound):
        raise InputError("none of the boxes asked for can be explained: they hold NaN or one value")
    table = particle_table(chosen).iloc[sound]
    names = np.array(read.classes, dtype=object)
    likely = chances[sound].argmax(1)
    confidence = chances[sound].max(1).astype(float)
    kinds = np.where(confidence >= read.least_confidence, names[likely], NONE)
    table = table.assign(kind=kinds, confidence=confidence, explained=names[explained[sound]])
    for number, name in enumerate(read.classes):
        table[column_of(name)] = chances[sound, number].astype(float)
    table["evidence"] = [f"particle_{name}.mrc" for name in table.index]
    size = float(boxes.attrs["voxel_size"])
    output.mkdir(parents=True, exist_ok=True)
    _drop_former(output)
    for row, (place, name) in enumerate(zip(sound, table.index, strict=True)):
        corner = _corner(table.iloc[row], size, evidence.shape[-1])
        _write(output / f"particle_{name}.mrc", evidence[place], size, corner)
        _write(output / f"particle_{name}_box.mrc", values[place], size, corner)
    with replacing(output / "explained.csv", overwrite=True) as part:
        table.to_csv(part)
    told = {
        "name": Path(source).name or "subtomograms",
        "model": "a model in memory" if read.source is None else read.source.name,
        "network": read.encoder.network,
        "classes": read.classes,
        "target": target,
        "voxel_size": size,
        "aside": len(rows) - len(sound),
        "command": command or shlex.join(["tomodask", "explain", source, "-o", str(output)]),
    }
    pictures = [evidence_picture(values[p], evidence[p]) for p in sound]
    _write_page(output, table, chances[sound], pictures, told)
    return table


def _rows(
    boxes: xr.Dataset,
    model: BoxModel,
    particles: Sequence[str | int],
    most_sure: int,
    least_sure: int,
) -> np.ndarray:
    """Rows of the boxes, those that were named first, then by confidence; each once."""
    index = pd.Index(boxes["particle"].to_numpy())
    rows = index.get_indexer(particles_named(boxes, [str(one) for one in particles])).tolist()
    if most_sure or least_sure:
        table = collect_classes(classify_subtomograms(boxes, model=model, least_confidence=0.0))
        confidence = table["confidence"].to_numpy(float)
        known = np.flatnonzero(np.isfinite(confidence))
        order = known[np.argsort(-confidence[known], kind="stable")].tolist()
        rows += order[:most_sure] + (order[-least_sure:] if least_sure else [])
    return np.array(list(dict.fromkeys(rows)), np.int64)


def _drop_former(output: Path) -> None:
    """Remove the volumes of a call before this one, those that its table names."""
    try:
        former = pd.read_csv(output / "explained.csv", dtype=str)["evidence"].dropna()
    except (OSError, KeyError, ValueError):
        return
    for name in former:
        if name != Path(name).name or not name.startswith("particle_"):
            continue  # not a name that is written here
        (output / name).unlink(missing_ok=True)
        (output / f"{Path(name).stem}_box.mrc").unlink(missing_ok=True)


def _corner(row: pd.Series, voxel_size: float, edge: int) -> tuple[float, float, float]:
    """Where the middle of a box's voxel (0, 0, 0) lies in its tomogram, Å; 0 where not known."""
    if not {"z", "y", "x"} <= set(row.index):
        return (0.0, 0.0, 0.0)
    z, y, x = (float(row[axis]) - edge // 2 * voxel_size for axis in "zyx")
    return (z, y, x) if np.isfinite([z, y, x]).all() else (0.0, 0.0, 0.0)


def _write(
    path: Path, values: np.ndarray, voxel_size: float, origin_zyx: tuple[float, float, float]
) -> None:
    with replacing(path, overwrite=True) as part:
        write_mrc(
            da.from_array(np.asarray(values, np.float32), chunks=-1),
            part,
            path=path,
            voxel_size=voxel_size,
            labels=[f"tomodask name {path.stem}"[:80]],
            origin_zyx=origin_zyx,
        )


def evidence_picture(box: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Slices across z, y and x: through the middle; of most evidence; and this laid over them.

    Parameters
    ----------
    box, evidence : array, shape (n, n, n)
        The box is smoothed by a Gaussian of one voxel.

    Returns
    -------
    array of uint8, shape (y, x, 3)
        The first row is the uppermost.
    """
    import matplotlib as mpl

    smooth = scipy.ndimage.gaussian_filter(np.asarray(box, np.float32), _SMOOTH)
    others = ((1, 2), (0, 2), (0, 1))
    middle = [size // 2 for size in box.shape]
    most = [int(evidence.sum(axes).argmax()) for axes in others]
    low, high = gray_range(smooth)
    colors = mpl.colormaps["inferno"]

    def grey(axis: int, at: int) -> np.ndarray:
        cut = np.take(smooth, at, axis)
        return np.asarray(
            _fitted(np.clip((cut - low) / (high - low), 0, 1))[..., None].repeat(3, 2)
        )

    def overlaid(axis: int, at: int) -> np.ndarray:
        share = _fitted(np.take(np.asarray(evidence, np.float32), at, axis))
        alpha = 0.75 * share[..., None]
        return np.asarray(
            (1 - alpha) * grey(axis, at) + alpha * colors(0.25 + 0.7 * share)[..., :3]
        )

    rows = [
        [grey(axis, middle[axis]) for axis in range(3)],
        [grey(axis, most[axis]) for axis in range(3)],
        [overlaid(axis, most[axis]) for axis in range(3)],
    ]
    white = np.ones((_PANEL, _GAP, 3))
    strips = [
        np.concatenate([part for one in row for part in (one[::-1], white)][:-1], axis=1)
        for row in rows
    ]
    gap = np.ones((_GAP, strips[0].shape[1], 3))
    parts = [part for strip in strips for part in (strip, gap)][:-1]
    return np.asarray(np.rint(255 * np.concatenate(parts)), np.uint8)


def _fitted(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    one = Image.fromarray(np.asarray(image, np.float32))
    fine = one.resize((_PANEL, _PANEL), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(fine, np.float64), 0, 1)


def _write_page(
    output: Path,
    table: pd.DataFrame,
    chances: np.ndarray,
    pictures: list[np.ndarray],
    told: dict[str, Any],
) -> None:
    from PIL import Image

    cards = []
    for name, row, shares, picture in zip(
        table.index, table.to_dict("records"), chances, pictures, strict=True
    ):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="JPEG", quality=90, optimize=True)
        order = np.argsort(-shares, kind="stable")[:_LIKELY]
        cards.append(
            {
                "particle": name,
                "image": row.get("image", ""),
                "kind": row["kind"],
                "explained": row["explained"],
                "confidence": f"{100 * row['confidence']:.0f} %",
                "shares": [(told["classes"][n], float(100 * shares[n])) for n in order],
                "picture": Markup(
                    "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
                ),
                "file": row["evidence"],
            }
        )
    write_page(output, lambda: page_template("explained.html").render(cards=cards, **told))
