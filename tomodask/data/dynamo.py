"""Dynamo's ``.tbl``: numbers without a heading, one particle a row [1]_.

Dynamo counts voxels from 1, so that position = (x + dx − 1) × voxel size.  A tomogram is a number;
the names are in a ``.doc`` beside the table ("number name" a line), read and written here.

.. [1] Castaño-Díez et al., "Dynamo", J. Struct. Biol. 178, 139 (2012).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import dynamo_from_rotation, rotation_from_dynamo
from tomodask.data.columns import POSITION, QUATERNION, SHIFT, TILT_RANGE, as_types, converted
from tomodask.errors import InputError

__all__ = ["read_dynamo", "write_dynamo"]

# Counted from 1, as Dynamo's documentation does.
_NAMES = {
    1: "tag", 2: "aligned", 3: "averaged", 4: "dx", 5: "dy", 6: "dz", 7: "tdrot", 8: "tilt",
    9: "narot", 10: "cc", 11: "cc2", 12: "cpu", 13: "ftype", 14: "ymintilt", 15: "ymaxtilt",
    16: "xmintilt", 17: "xmaxtilt", 18: "fs1", 19: "fs2", 20: "tomo", 21: "reg", 22: "class",
    23: "annotation", 24: "x", 25: "y", 26: "z", 27: "dshift", 28: "daxis", 29: "dnarot",
    30: "dcc", 31: "otag", 32: "npar", 33: "column_33", 34: "ref", 35: "sref", 36: "apix",
    37: "def", 38: "column_38", 39: "column_39", 40: "column_40", 41: "eig1", 42: "eig2",
}  # fmt: skip
_NEEDED = 26
_WIDTH = 35
_OURS = {4, 5, 6, 7, 8, 9, 10, 14, 15, 20, 22, 24, 25, 26}


def read_dynamo(path: Path, *, voxel_size: float | None) -> pd.DataFrame:
    """Read a table; `voxel_size` (Å) comes from the caller, as Dynamo does not keep it."""
    rows = [line.split() for line in _lines(path)]
    width = len(rows[0]) if rows else _WIDTH
    if width < _NEEDED or any(len(row) != width for row in rows):
        widths = sorted({len(row) for row in rows})
        raise InputError(
            f"{path}: a Dynamo table has the same number of columns in each row, at least "
            f"{_NEEDED} (position in 24, 25, 26); found {', '.join(map(str, widths))}"
        )
    try:
        values = np.array(rows, dtype=float).reshape(-1, width)
    except ValueError as error:
        raise InputError(f"{path}: a Dynamo table holds numbers only ({error})") from None
    if voxel_size is None:
        apix = np.unique(values[:, 35]) if width > 35 and len(values) else np.zeros(1)
        if len(apix) != 1 or not apix[0] > 0:
            raise InputError(
                f"{path}: a Dynamo table counts in voxels and does not say their size; pass "
                "voxel_size=… (--voxel-size on the command line) in Å"
            )
        voxel_size = float(apix[0])
    column = {number: values[:, number - 1] for number in range(1, width + 1)}
    names = _tomogram_names(path.with_suffix(".doc"))
    tomograms = [names.get(int(number), str(int(number))) for number in column[20]]
    table = pd.DataFrame({"tomogram": pd.Series(tomograms, dtype="str")})
    for ours, number in zip(POSITION, (26, 25, 24), strict=True):
        table[ours] = (column[number] - 1) * voxel_size
    for ours, number in zip(SHIFT, (6, 5, 4), strict=True):
        table[ours] = column[number] * voxel_size
    angles = values[:, 6:9]
    table[list(QUATERNION)] = converted(
        angles, lambda known: rotation_from_dynamo(known).as_quat(canonical=True), 4
    )
    table["score"] = column[10]
    table["class"] = column[22].astype(int)
    measured = (column[13] == 1) & (column[14] < column[15])  # 1: a single tilt axis along y
    if measured.any() or not len(values):
        table["tilt_min"] = np.where(measured, column[14], np.nan)
        table["tilt_max"] = np.where(measured, column[15], np.nan)
    else:
        table["ymintilt"], table["ymaxtilt"] = column[14], column[15]
    for number, data in column.items():
        if number not in _OURS:
            table[_NAMES.get(number, f"column_{number}")] = data
    table = as_types(table)
    table.attrs["voxel_size"] = voxel_size
    return table


def write_dynamo(table: pd.DataFrame, part: Path, *, path: Path, voxel_size: float | None) -> None:
    """Write a table to `part`, and the tomograms' names to the ``.doc`` beside `path`.

    What Dynamo has no column for (`image`, `half`, names of other programs) is not written.
    """
    if voxel_size is None:
        raise InputError(f"{path}: Dynamo counts in voxels; pass voxel_size=… in Å")
    if missing := [column for column in POSITION if column not in table]:
        raise InputError(f"{path}: Dynamo needs positions; the table has no {', '.join(missing)}")
    width = max([_WIDTH, *(number for number, name in _NAMES.items() if name in table)])
    values = np.zeros((len(table), width))
    values[:, 0] = np.arange(1, len(table) + 1)
    values[:, 1:3] = 1
    for number, name in _NAMES.items():
        if number not in _OURS | {14, 15} and name in table:
            values[:, number - 1] = table[name]
    for ours, number in zip(POSITION, (26, 25, 24), strict=True):
        values[:, number - 1] = table[ours].to_numpy(float) / voxel_size + 1
    for ours, number in zip(SHIFT, (6, 5, 4), strict=True):
        if ours in table:
            values[:, number - 1] = table[ours].to_numpy(float) / voxel_size
    if set(QUATERNION) <= set(table):
        values[:, 6:9] = converted(
            table[list(QUATERNION)].to_numpy(float),
            lambda known: dynamo_from_rotation(Rotation.from_quat(known)),
            3,
        )
    if "score" in table:
        values[:, 9] = table["score"]
    if "class" in table:
        values[:, 21] = table["class"].fillna(0)
    if set(TILT_RANGE) <= set(table):
        known = table["tilt_min"].notna().to_numpy()
        values[:, 12] = known
        values[:, 13] = table["tilt_min"].fillna(0)
        values[:, 14] = table["tilt_max"].fillna(0)
    elif {"ymintilt", "ymaxtilt"} <= set(table):
        values[:, 13:15] = table[["ymintilt", "ymaxtilt"]]
    if "tomogram" in table:
        values[:, 19] = _number_tomograms(table["tomogram"].astype(str), path.with_suffix(".doc"))
    lines = (" ".join(f"{value:.10g}" for value in row) for row in values)
    part.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a Dynamo table: not text") from None
    return [line for line in text.splitlines() if line.strip()]


def _tomogram_names(doc: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    if doc.is_file():
        for line in _lines(doc):
            number, _, name = line.strip().partition(" ")
            if number.isdigit() and name.strip():
                names[int(number)] = name.strip()
    return names


def _number_tomograms(names: pd.Series, doc: Path) -> np.ndarray:
    """Dynamo's numbers: the names themselves where they are numbers, else in order, with a .doc."""
    if names.str.fullmatch(r"0|[1-9]\d*").all():
        return names.astype(int).to_numpy()
    numbers, unique = pd.factorize(names)
    lines = (f"{number} {name}\n" for number, name in enumerate(unique, start=1))
    doc.write_text("".join(lines), encoding="utf-8")
    return np.asarray(numbers) + 1
