"""The table of images: one image a row, as RELION's STAR of particles and as CSV.

Columns, each only where known: ``image`` (``000001@stack.mrcs``, counted from 1 as RELION does),
``psi`` (degrees), ``shift_y``, ``shift_x`` (Å), ``mirror``, ``class`` (from 1, 0 where set aside),
``score``, ``half``, ``reason``, ``defocus_u``, ``defocus_v`` (Å), ``defocus_angle`` and
``phase_shift`` (degrees).  What they mean is said in `tomodask.planar.poses2d`; all else is kept
under its own name.

A STAR says ``rlnAnglePsi``, ``rlnOriginXAngst`` (the shift negated), ``rlnClassNumber``; an image
that shows the reference's mirror image has ``rlnAngleTilt`` 180, the view of its back.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import starfile

from tomodask.data.relion_optics import Optics
from tomodask.data.star import SCORE_COLUMNS, printed_block, read_blocks
from tomodask.data.writing import replacing
from tomodask.errors import InputError

__all__ = ["IMAGE_COLUMNS", "read_image_table", "write_image_table"]

IMAGE_COLUMNS = (
    "image", "psi", "shift_y", "shift_x", "mirror", "class", "score", "half", "reason",
    "defocus_u", "defocus_v", "defocus_angle", "phase_shift",
)  # fmt: skip
_PLAIN = {
    "image": "rlnImageName",
    "class": "rlnClassNumber",
    "half": "rlnRandomSubset",
    "defocus_u": "rlnDefocusU",
    "defocus_v": "rlnDefocusV",
    "defocus_angle": "rlnDefocusAngle",
    "phase_shift": "rlnPhaseShift",
}
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_SHIFTS = {"shift_x": "rlnOriginX", "shift_y": "rlnOriginY"}
_GROUP = "rlnOpticsGroup"
#: Of the microscope, by optics group or by image: attribute → what a STAR calls it.
MICROSCOPE = {
    "voltage": "rlnVoltage",
    "spherical_aberration": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
}
_FLAT = 1e-3  # degrees: angles that differ by less are one
_EXACT: Any = (
    {} if int(pd.__version__.partition(".")[0]) >= 3 else {"float_precision": "round_trip"}
)


def read_image_table(
    path: str | os.PathLike[str], *, pixel_size: float | None = None
) -> pd.DataFrame:
    """Read a table of images.

    Parameters
    ----------
    path : path
        ``.star`` (RELION 3.1 and later, and older ones) or ``.csv``.
    pixel_size : float, optional
        Å, in place of what the file says.

    Returns
    -------
    DataFrame
        Columns as above; ``attrs``: `source` and, where known, `pixel_size` (Å, of the images),
        `voltage` (kV), `spherical_aberration` (mm), `amplitude_contrast`, `optics`.

    Raises
    ------
    InputError
        If the file is missing, lists no images, or those of several pixel sizes.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path} is a folder")
    suffix = path.suffix.lower()
    if suffix == ".star":
        table = _read_star(path, pixel_size)
    elif suffix == ".csv":
        try:
            table = pd.read_csv(path, dtype={"image": "str"}, **_EXACT)
        except (ValueError, pd.errors.ParserError) as error:
            raise InputError(f"{path} is not a CSV table that can be read ({error})") from None
        if pixel_size is not None:
            table.attrs["pixel_size"] = float(pixel_size)
    else:
        raise InputError(f"{path}: a table of images is a .star or a .csv, by its name")
    if "image" not in table and "psi" not in table:
        raise InputError(
            f"{path}: lists no images; needs the column image (in a STAR rlnImageName) or psi "
            f"(rlnAnglePsi), found {', '.join(map(str, table)) or 'none'}"
        )
    known = [name for name in IMAGE_COLUMNS if name in table]
    table = table[known + [name for name in table if name not in known]]
    table.attrs["source"] = str(path)
    return table


def write_image_table(
    table: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    pixel_size: float | None = None,
    overwrite: bool = True,
) -> None:
    """Write a table of images; what is read back is equal to 10 digits.

    Parameters
    ----------
    table : DataFrame
        Columns as above; others are kept under their own names.
    path : path
        ``.star`` or ``.csv``.
    pixel_size : float, optional
        Of the images, Å; by default what the table's attrs say.
    overwrite : bool

    Raises
    ------
    InputError
        If `path` exists and may not be overwritten, the disk is full, or a text holds what a STAR
        cannot keep.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".star", ".csv"):
        raise InputError(f"{path}: written are .star and .csv; choose one")
    with replacing(path, overwrite=overwrite) as part:
        if suffix == ".csv":
            table.to_csv(part, index=False)
        else:
            size = pixel_size if pixel_size is not None else table.attrs.get("pixel_size")
            _write_star(table, part, size)


def _read_star(path: Path, pixel_size: float | None) -> pd.DataFrame:
    blocks = read_blocks(path)
    found = {
        name: block
        for name, block in blocks.items()
        if isinstance(block, pd.DataFrame) and {"rlnImageName", "rlnAnglePsi"} & set(block)
    }
    if not found:
        raise InputError(
            f"{path}: lists no images (rlnImageName, rlnAnglePsi) in "
            f"{', '.join(f'data_{n}' for n in blocks)}"
        )
    particles = found.get("particles", next(iter(found.values()))).reset_index(drop=True)
    optics = Optics.of_blocks(blocks)
    table = pd.DataFrame(index=particles.index)
    used: set[str] = set()

    def number(name: str) -> np.ndarray | None:
        if name not in particles:
            return None
        try:
            values = particles[name].to_numpy(float)
        except ValueError as error:
            raise InputError(f"{path}: {name} must be numbers ({error})") from None
        used.add(name)
        return np.asarray(values)

    for ours, theirs in _PLAIN.items():
        if theirs == "rlnImageName":
            if theirs in particles:
                table[ours] = particles[theirs].astype("str")
                used.add(theirs)
        elif (values := number(theirs)) is not None:
            whole = ours in ("class", "half") and bool((values == np.round(values)).all())
            table[ours] = values.astype(np.int64) if whole else values
    if (psi := number("rlnAnglePsi")) is not None:
        table["psi"] = psi
    rot, tilt = number("rlnAngleRot"), number("rlnAngleTilt")
    # What has no pose says nothing against it.
    flat = rot is None or not bool((np.abs(rot) >= _FLAT).any())
    if tilt is not None:
        back = np.abs(np.abs(tilt) - 180.0) < _FLAT
        flat = flat and not bool((~back & (np.abs(tilt) >= _FLAT)).any())
        if flat and psi is not None:
            table["mirror"] = back
    if not flat:  # views of a map: their psi is still the turn in the plane
        used -= {"rlnAngleRot", "rlnAngleTilt"}
    size = _pixel_size(path, particles, optics, pixel_size)
    for ours, theirs in _SHIFTS.items():
        if (angst := number(f"{theirs}Angst")) is not None:
            table[ours] = -angst
        elif theirs in particles:
            if size is None:
                raise InputError(
                    f"{path}: {theirs} counts in pixels and the file does not say their size; pass "
                    "pixel_size=… (--pixel-size) in Å"
                )
            values = number(theirs)
            assert values is not None
            table[ours] = -values * size
    score = next((name for name in SCORE_COLUMNS if name in particles), None)
    if score is not None:
        table["score"] = number(score)
        if score != SCORE_COLUMNS[0]:
            used.discard(score)
    if optics.is_single(particles):
        used.add(_GROUP)
    rest = particles[[name for name in particles if name not in used]]
    table = pd.concat([table, rest], axis=1)
    if size is not None:
        table.attrs["pixel_size"] = size
    for name, theirs in MICROSCOPE.items():
        by_group = {row.get(_GROUP): float(row[theirs]) for row in optics.rows if theirs in row}
        if theirs in particles:
            told = particles[theirs].astype(float)
        elif _GROUP in particles and by_group:
            told = particles[_GROUP].map(by_group).astype(float)
        else:
            told = pd.Series(list(by_group.values()), dtype=float)
        kinds = told.unique()
        if len(kinds) == 1 and told.notna().all():
            table.attrs[name] = float(told.iloc[0])
        elif len(told) == len(table) and len(kinds) > 1:
            table[name] = told.to_numpy()  # microscopes of several kinds
    if optics.rows:
        table.attrs["optics"] = optics.rows
    return table


def _pixel_size(
    path: Path, particles: pd.DataFrame, optics: Optics, given: float | None
) -> float | None:
    """Of the images: not of the micrographs, which may be finer."""
    if given is not None:
        return float(given)
    groups = set(particles[_GROUP]) if _GROUP in particles else None
    rows = [row for row in optics.rows if groups is None or row.get(_GROUP) in groups]
    sizes = {float(row["rlnImagePixelSize"]) for row in rows if "rlnImagePixelSize" in row}
    if not sizes:
        for name in ("rlnImagePixelSize", "rlnPixelSize"):
            if name in particles:
                sizes = set(particles[name].astype(float))
                break
        else:
            if {"rlnDetectorPixelSize", "rlnMagnification"} <= set(particles):
                detector = particles["rlnDetectorPixelSize"].astype(float)
                sizes = set(np.round(detector * 1e4 / particles["rlnMagnification"], 6))
    sizes = {size for size in sizes if size > 0}
    if len(sizes) > 1:
        raise InputError(
            f"{path}: images of several pixel sizes ({', '.join(f'{s:g}' for s in sorted(sizes))} "
            "Å); resample them to one, or split the STAR by optics group"
        )
    return sizes.pop() if sizes else None


def _write_star(table: pd.DataFrame, part: Path, pixel_size: float | None) -> None:
    columns: dict[str, Any] = {}
    for ours, theirs in _PLAIN.items():
        if ours in table:
            columns[theirs] = table[ours]
    if "psi" in table:
        mirror = table["mirror"].to_numpy(bool) if "mirror" in table else np.zeros(len(table), bool)
        psi = table["psi"].to_numpy(float)
        turned = "rlnAngleTilt" in table  # views of a map keep theirs
        if not turned:
            columns[_ANGLES[0]] = np.where(np.isfinite(psi), 0.0, np.nan)
            columns[_ANGLES[1]] = np.where(np.isfinite(psi), np.where(mirror, 180.0, 0.0), np.nan)
        columns[_ANGLES[2]] = psi
    for ours, theirs in _SHIFTS.items():
        if ours in table:
            columns[f"{theirs}Angst"] = 0.0 - table[ours].to_numpy(float)  # no −0
    if "score" in table:
        columns[SCORE_COLUMNS[0]] = table["score"]
    ours_all = set(_PLAIN) | {"psi", "mirror", "score", *_SHIFTS}
    for ours, theirs in MICROSCOPE.items():  # told by the optics groups, or by columns of theirs
        if ours in table:
            ours_all.add(ours)
            if theirs not in table and not table.attrs.get("optics"):
                columns[theirs] = table[ours]
    for name in table:
        if name not in ours_all and name not in columns:
            columns[str(name)] = table[name]
    rows = _optics_rows(table, pixel_size)
    if rows:
        known = [row[_GROUP] for row in rows]
        grouped = _GROUP in table and set(table[_GROUP]) <= set(known)
        columns[_GROUP] = table[_GROUP] if grouped else np.full(len(table), known[0])
    body = pd.DataFrame(
        {name: np.asarray(values) for name, values in columns.items()}, index=range(len(table))
    )
    blocks = {"optics": printed_block(pd.DataFrame(rows))} if rows else {}
    starfile.write(
        {**blocks, "particles": printed_block(body)}, part, sep="\t", na_rep="nan", overwrite=True
    )
    if not part.exists():  # starfile adds .star to a name without it
        part.with_suffix(part.suffix + ".star").rename(part)


def _optics_rows(table: pd.DataFrame, pixel_size: float | None) -> list[dict[str, Any]]:
    """The groups that the table came with, else one of what is known."""
    kept = table.attrs.get("optics")
    used = set(table[_GROUP]) if _GROUP in table else {1}
    if kept and used <= {row.get(_GROUP) for row in kept}:
        sized = {} if pixel_size is None else {"rlnImagePixelSize": float(pixel_size)}
        return [dict(row) | sized for row in kept]
    if pixel_size is None:
        return []
    row: dict[str, Any] = {_GROUP: 1, "rlnOpticsGroupName": "opticsGroup1"}
    row |= {
        theirs: float(table.attrs[name])
        for name, theirs in MICROSCOPE.items()
        if name in table.attrs
    }
    return [row | {"rlnImagePixelSize": float(pixel_size), "rlnImageDimensionality": 2}]
