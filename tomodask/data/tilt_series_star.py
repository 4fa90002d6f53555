"""The STAR of a tilt series: ours, and RELION 5's."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from tomodask.data.mrc import open_mrc
from tomodask.data.tilt_series_array import (
    COLUMNS,
    as_tilt_series,
    half_pixel,
    transforms,
    turned_shape,
)
from tomodask.data.volumes import (
    cubic_voxel_size,
    lay_chunks,
)
from tomodask.errors import InputError

__all__ = ["open_star", "star_text"]

_log = logging.getLogger(__name__)

_OPTICS = {
    "voltage": "rlnVoltage",
    "spherical_aberration": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
    "handedness": "rlnTomoHand",
    "phase_shift": "rlnPhaseShift",
    "tilt_axis": "rlnTomoNominalTiltAxisAngle",
}
_STAR_TRANSFORM = [f"tomodaskTransform{name}" for name in ("A11", "A12", "DX", "A21", "A22", "DY")]


def open_star(path: Path, pixel_size: float | None) -> xr.DataArray:
    """A STAR with data_global and a table of images, as `write_tilt_series` or RELION 5 has it."""
    from tomodask.data.star import read_blocks

    blocks = read_blocks(path)
    tables = {
        key: block
        for key, block in blocks.items()
        if isinstance(block, pd.DataFrame) and COLUMNS["angle"] in block
    }
    if len(tables) != 1:
        found = f"{len(tables)} tables of tilts" if tables else "no table of tilts"
        raise InputError(
            f"{path}: {found}, expected one with the column {COLUMNS['angle']}; name the STAR of "
            "one tilt series"
        )
    name, table = next(iter(tables.items()))
    images, header_size, files = _star_images(path, table)
    head = _star_head(blocks, name)

    def number(key: str) -> float | None:
        if key not in head:
            return None
        try:
            return float(head[key])
        except ValueError:
            raise InputError(f"{path}: {key} must be a number, got {head[key]!r}") from None

    # The original pixel size is that of the movies, which may have been binned since.
    size = (
        pixel_size
        or number("rlnTomoTiltSeriesPixelSize")
        or header_size
        or number("rlnMicrographOriginalPixelSize")
    )
    if size is None:
        raise InputError(
            f"{path}: the pixel size is unknown; pass pixel_size=… (--pixel-size) in Å"
        )
    columns = {}
    for ours, theirs in COLUMNS.items():
        if theirs in table:
            try:
                columns[ours] = table[theirs].to_numpy(float)
            except ValueError:
                raise InputError(f"{path}: {theirs} must be numbers") from None
    if "rlnTomoXTilt" in table and (tilt := table["rlnTomoXTilt"].abs().max()) > 0.05:
        _log.warning("%s: the slab's tilt about x (up to %g°) is not used", path, tilt)
    if "rlnTomoYTilt" in table:
        columns["angle"] = table["rlnTomoYTilt"].to_numpy(float)
    dose = number("rlnTomoImportFractionalDose")
    if "exposure" not in columns and dose:
        columns["exposure"] = np.full(len(table), dose)
    angle = columns.pop("angle")
    attrs = {ours: number(theirs) for ours, theirs in _OPTICS.items()}
    if attrs["handedness"] is not None:
        attrs["handedness"] = int(attrs["handedness"])
    if attrs["phase_shift"] is None and "rlnPhaseShift" in table:
        attrs["phase_shift"] = float(table["rlnPhaseShift"].mean())
    return as_tilt_series(
        images,
        angle=angle,
        pixel_size=float(size),
        name=str(head.get("rlnTomoName", name)),
        columns=columns,
        transform=_star_transform(table, images.shape[1:], float(size)),
        attrs={"source": str(path), "files": [str(file) for file in files], **attrs},
    )


def _star_head(blocks: dict[str, Any], name: str) -> dict[str, Any]:
    """The one row of data_global that means this table."""
    block = blocks.get("global")
    if isinstance(block, dict):
        return dict(block)
    if isinstance(block, pd.DataFrame) and len(block):
        rows = block
        if "rlnTomoName" in block and len(block) > 1:
            rows = block[block["rlnTomoName"].astype(str) == name]
        if len(rows) == 1:
            return dict(rows.iloc[0])
    return {}


def _star_images(path: Path, table: pd.DataFrame) -> tuple[da.Array, float | None, list[Path]]:
    """The images that ``rlnMicrographName`` lists: ``3@stack.mrc``, or a file each; their files."""
    if "rlnMicrographName" not in table:
        what = "it lists movies; " if "rlnMicrographMovieName" in table else ""
        raise InputError(
            f"{path}: no column rlnMicrographName, so no images; {what}name the stack, and this "
            "series' angles as tilts"
        )
    readers: dict[Path, tuple[da.Array, tuple[float | None, ...]]] = {}
    images = []
    for text in table["rlnMicrographName"].astype(str):
        number, _, file = text.rpartition("@")
        found = _near(path, Path(file))
        if found not in readers:
            reader, sizes, _, _ = open_mrc(found)
            readers[found] = (lay_chunks(reader, chunks=(1, -1, -1)), sizes)
        stack = readers[found][0]
        place = int(number) - 1 if number.isdigit() else 0
        if not 0 <= place < len(stack):
            raise InputError(f"{path}: {text}, but {found} has {len(stack)} images")
        images.append(stack[place : place + 1])
    if len({one.shape for one in images}) > 1:
        raise InputError(f"{path}: its images are of several sizes")
    size = None
    with contextlib.suppress(InputError):
        first, sizes = next(iter(readers.values()))
        size = cubic_voxel_size(path, (None, *sizes[1:]), (1, *first.shape[1:]), None)
    if len(readers) == 1 and len(images) == len(first):
        whole = next(iter(readers.values()))[0]
        order = [int(text.rpartition("@")[0]) - 1 for text in table["rlnMicrographName"]]
        if order == list(range(len(whole))):
            return whole, size, list(readers)
    return da.concatenate(images), size, list(readers)


def _near(path: Path, file: Path) -> Path:
    """Find a file that a STAR names, from its folder or one above, as in RELION's projects."""
    for folder in (path.parent, *path.parents):
        if (found := folder / file).is_file():
            return found
    raise InputError(f"{path}: its image file {file} is not there")


def _star_transform(
    table: pd.DataFrame, shape: tuple[int, int], pixel_size: float
) -> np.ndarray | None:
    """Our own columns; or RELION's, ``old = R(ZRot) (x', y') + shift`` about ``size // 2``."""
    if set(_STAR_TRANSFORM) <= set(table):
        return np.asarray(table[_STAR_TRANSFORM].to_numpy(float).reshape(-1, 2, 3))
    relion = ["rlnTomoZRot", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst"]
    if not set(relion) <= set(table):
        return None
    turn, *shift = table[relion].to_numpy(float).T
    turn = np.deg2rad(turn)
    matrix = np.stack(
        [
            np.stack([np.cos(turn), np.sin(turn)], axis=-1),
            np.stack([-np.sin(turn), np.cos(turn)], axis=-1),
        ],
        axis=1,
    )
    out = np.concatenate([matrix, np.zeros((len(turn), 2, 1))], axis=2)
    new = half_pixel(turned_shape(shape, out))
    old = np.stack(shift, axis=-1) / pixel_size + half_pixel(shape)
    out[:, :, 2] = new - np.einsum("tij,tj->ti", matrix, old)
    if np.allclose(out, np.eye(2, 3), atol=1e-9):
        return None
    return out


def _relion_columns(
    transform: np.ndarray | None, shape: tuple[int, int], pixel_size: float, images: int
) -> dict[str, Any]:
    """RELION's alignment; nothing where a transform also stretches, which it has no word for."""
    if transform is None:
        return {
            name: np.zeros(images)
            for name in ("rlnTomoZRot", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst")
        }
    matrix = transform[:, :, :2]
    if not np.allclose(matrix @ matrix.transpose(0, 2, 1), np.eye(2), atol=1e-4):
        return {}
    new = half_pixel(turned_shape(shape, transform))
    shift = np.einsum("tji,tj->ti", matrix, new - transform[:, :, 2]) - half_pixel(shape)
    return {
        "rlnTomoZRot": np.rad2deg(np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0])),
        "rlnTomoXShiftAngst": shift[:, 0] * pixel_size,
        "rlnTomoYShiftAngst": shift[:, 1] * pixel_size,
    }


def star_text(series: xr.DataArray, stack: str) -> str:
    """The STAR: data_global with the optics, and a table of the images under the series' name."""
    name = "".join(c if c.isalnum() or c in "-._" else "_" for c in str(series.name or "series"))
    head: dict[str, Any] = {
        "rlnTomoName": name,
        "rlnTomoTiltSeriesPixelSize": float(series.attrs["pixel_size"]),
    }
    for ours, theirs in _OPTICS.items():
        if series.attrs.get(ours) is not None:
            head[theirs] = series.attrs[ours]
    images = len(series)
    table: dict[str, Any] = {
        "rlnMicrographName": [f"{number:06d}@{stack}" for number in range(1, images + 1)]
    }
    for ours, theirs in COLUMNS.items():
        if ours in series.coords:
            table[theirs] = np.asarray(series.coords[ours])
    table["rlnTomoXTilt"] = np.zeros(images)
    table["rlnTomoYTilt"] = np.asarray(series.coords["angle"])
    transform = transforms(series)
    shape = (series.shape[1], series.shape[2])
    table |= _relion_columns(transform, shape, float(series.attrs["pixel_size"]), images)
    if transform is not None:
        columns = transform.reshape(-1, 6).T
        table |= dict(zip(_STAR_TRANSFORM, columns, strict=True))
    blocks = [("global", {key: [value] for key, value in head.items()}), (name, table)]
    return "\n# version 50001\n\n" + "\n".join(_loop(*block) for block in blocks)


def _loop(name: str, table: dict[str, Any]) -> str:
    lines = [f"data_{name}", "", "loop_"]
    lines += [f"_{column} #{number}" for number, column in enumerate(table, 1)]
    for row in zip(*table.values(), strict=True):
        lines.append("  ".join(f"{_shown(value):>14}" for value in row))
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return f"{float(value) + 0.0:.12g}"
    return str(value)
