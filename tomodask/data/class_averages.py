"""Class averages in files: a stack of MRC or Zarr, and the classes' table as STAR and CSV."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import starfile

from tomodask.data.images import images_array, save_images
from tomodask.data.star import printed_block, read_blocks
from tomodask.data.writing import replacing
from tomodask.errors import InputError

__all__ = ["class_table", "read_class_table", "save_class_averages", "write_class_table"]

_IN_STAR = {
    "reference": "rlnReferenceImage",
    "share": "rlnClassDistribution",
    "resolution": "rlnEstimatedResolution",
    "class": "tomodaskClass",
    "images": "tomodaskImages",
}


def class_table(
    counts: Sequence[int], resolutions: Sequence[float], *, stack: str = "averages.mrcs"
) -> pd.DataFrame:
    """A row a class: ``class`` (from 1), ``images``, ``share`` of them, ``resolution`` (Å, infinite
    where not reached) and ``reference``, where its average is.

    Examples
    --------
    >>> class_table([3, 1], [8.0, 12.5])["reference"].tolist()
    ['000001@averages.mrcs', '000002@averages.mrcs']
    """
    sizes = np.asarray(counts, np.int64)
    return pd.DataFrame(
        {
            "class": np.arange(1, len(sizes) + 1),
            "images": sizes,
            "share": sizes / max(int(sizes.sum()), 1),
            "resolution": np.asarray(resolutions, float),
            "reference": [f"{number:06d}@{stack}" for number in range(1, len(sizes) + 1)],
        }
    )


def save_class_averages(
    averages: np.ndarray,
    path: str | os.PathLike[str],
    *,
    pixel_size: float,
    table: pd.DataFrame | None = None,
    overwrite: bool = False,
) -> None:
    """Write class averages as a stack: image k is class k.

    Parameters
    ----------
    averages : array, shape (classes, y, x)
    path : path
        ``.mrcs``, ``.mrc`` or ``.zarr``; `open_images` reads them back.
    pixel_size : float
        Å.
    table : DataFrame, optional
        Of `class_table`; a Zarr store keeps it.
    overwrite : bool

    Raises
    ------
    InputError
        If the averages are no stack, or `path` may not be written.
    """
    values = np.asarray(averages, np.float32)
    if values.ndim != 3:
        raise InputError(f"averages must have the axes (class, y, x), got shape {values.shape}")
    rows = pd.DataFrame(index=range(len(values))) if table is None else table
    save_images(images_array(values, rows, pixel_size=pixel_size), path, overwrite=overwrite)


def write_class_table(
    table: pd.DataFrame, path: str | os.PathLike[str], *, overwrite: bool = True
) -> None:
    """Write a table of classes as RELION's ``model_classes`` (``.star``) or as ``.csv``.

    Raises
    ------
    InputError
        If `path` is of another kind, or may not be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".star", ".csv"):
        raise InputError(f"{path}: written are .star and .csv; choose one")
    with replacing(path, overwrite=overwrite) as part:
        if path.suffix.lower() == ".csv":
            table.to_csv(part, index=False)
            return
        block = table.rename(columns=_IN_STAR)
        block[_IN_STAR["resolution"]] = block[_IN_STAR["resolution"]].replace(np.inf, 999.0)
        first = [name for name in _IN_STAR.values() if name in block]
        block = block[first + [name for name in block if name not in first]]
        star = part.with_suffix(part.suffix + ".star")
        starfile.write({"model_classes": printed_block(block)}, star, sep="\t", overwrite=True)
        star.rename(part)


def read_class_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read what `write_class_table` wrote, or the classes of RELION's ``model.star``.

    Raises
    ------
    InputError
        If the file is missing or lists no classes.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() == ".csv":
        return pd.read_csv(path)
    for block in read_blocks(path).values():
        if isinstance(block, pd.DataFrame) and _IN_STAR["reference"] in block:
            table = block.rename(columns={theirs: ours for ours, theirs in _IN_STAR.items()})
            if "class" not in table:
                table.insert(0, "class", np.arange(1, len(table) + 1))
            if "resolution" in table:
                # RELION's word for what is not reached.
                table["resolution"] = table["resolution"].astype(float).replace(999.0, np.inf)
            ours = [name for name in ("class", "images", "share", "resolution", "reference")
                    if name in table]  # fmt: skip
            return table[ours + [name for name in table if name not in ours]]
    raise InputError(f"{path}: lists no classes (rlnReferenceImage)")
