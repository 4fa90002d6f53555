"""Tilt series: opened lazily from stacks and tables, written as a stream.

What a series is as an array, and how its images are aligned: `tomodask.data.tilt_series_array`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from tomodask.data.defocus import Defocus, read_defocus
from tomodask.data.mdoc import read_mdoc
from tomodask.data.mrc import HEADER_BYTES, header_dtype, open_mrc
from tomodask.data.mrc_writer import write_mrc
from tomodask.data.tilt_metadata import (
    AreTomoAlignment,
    angles_text,
    read_aln,
    read_angles,
    read_xf,
    xf_text,
)
from tomodask.data.tilt_series_array import (
    as_tilt_series,
    from_imod,
    require_tilt_series,
    to_imod,
    transforms,
    with_transforms,
)
from tomodask.data.tilt_series_star import open_star, star_text
from tomodask.data.tomograms import tomogram_format
from tomodask.data.volumes import (
    UnknownVoxelSizeError,
    cubic_voxel_size,
    file_stem,
    lay_chunks,
)
from tomodask.data.writing import replacing
from tomodask.errors import InputError

__all__ = [
    "STACK_SUFFIXES",
    "files_beside",
    "is_own_stack",
    "open_tilt_series",
    "write_tilt_series",
]

_log = logging.getLogger(__name__)

#: What a stack that is written may be called.
STACK_SUFFIXES = (".mrc", ".st", ".mrcs")
#: Degrees: two lists of angles that differ by more, but for an offset, are of two orders.
_TURN = 5.0
_ALONG_Y = 1.0  # degrees
_LEAST_DEFOCUS = 100.0  # Å: no series is taken so near to focus


def files_beside(stack: str | os.PathLike[str]) -> dict[str, Path]:
    """Files of the stack's name that tell of it: keys as the parameters of `open_tilt_series`.

    ``.aln`` before ``.xf``; ``.tlt`` (refined) before ``.rawtlt``; ``NAME.mrc.mdoc`` or
    ``NAME.mdoc``.
    """
    stack = Path(stack)
    stem = file_stem(stack)
    found: dict[str, Path] = {}
    for key, names in {
        "aln": (f"{stem}.aln", f"{stack.name}.aln"),
        "xf": (f"{stem}.xf",),
        "tilts": (f"{stem}.tlt", f"{stem}.rawtlt"),
        "mdoc": (f"{stack.name}.mdoc", f"{stem}.mdoc"),
    }.items():
        for name in names:
            if (path := stack.with_name(name)).is_file():
                found[key] = path
                break
    if "aln" in found:
        found.pop("xf", None)
        found.pop("tilts", None)
    if stack.suffix.lower() == ".ali":
        found.pop("aln", None)
        found.pop("xf", None)  # applied already
    return found


def is_own_stack(path: Path) -> tuple[bool | None, int]:
    """Whether tomodask wrote an MRC file as a stack of images, or None if another program did.

    Only of our own does the space group tell (0: images); others leave it 0 for volumes, too.

    Returns
    -------
    ours : bool or None
        True for a stack, False for a volume.
    images : int
        Sections of the file.
    """
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        return None, 0
    for order in "<>":
        header = np.frombuffer(head, header_dtype(order))[0]
        if b"tomodask" in bytes(header["labels"][0]):
            return int(header["space_group"]) == 0, int(header["shape_xyz"][2])
        if 0 < header["shape_xyz"][2] < 1 << 20:
            return None, int(header["shape_xyz"][2])
    return None, 0


def open_tilt_series(
    stack: str | os.PathLike[str],
    *,
    tilts: str | os.PathLike[str] | None = None,
    mdoc: str | os.PathLike[str] | None = None,
    xf: str | os.PathLike[str] | None = None,
    aln: str | os.PathLike[str] | None = None,
    defocus: str | os.PathLike[str] | float | None = None,
    pixel_size: float | None = None,
    voltage: float | None = None,
    spherical_aberration: float | None = None,
    amplitude_contrast: float | None = None,
    handedness: int | None = None,
) -> xr.DataArray:
    """Open a tilt series lazily: headers and tables are read, an image when it is computed.

    Parameters
    ----------
    stack : path
        MRC (``.st .mrc .mrcs .ali …``), or the STAR of `write_tilt_series` or of RELION 5 (then all
        else is taken from it, and what is given here goes before).
    tilts : path, optional
        Angles in degrees, one a line: ``.tlt``, ``.rawtlt``.
    mdoc : path, optional
        SerialEM's: angles (unless `tilts` has them), order, doses, pixel size.
    xf, aln : path, optional
        Alignment by IMOD or AreTomo, one of them.  An ``.aln`` has angles of its own, and images
        that it left out are left out here.
    defocus : path or float, optional
        IMOD's ``.defocus``, CTFFIND's or AreTomo's ``.txt``, or one value for all images, Å.
    pixel_size : float, optional
        Å; in place of what the files say.
    voltage, spherical_aberration, amplitude_contrast, handedness : optional
        kV, mm, 0 to 1, and −1 or 1; what the contrast transfer function needs.

    Returns
    -------
    DataArray, dims (tilt, y, x)

    Raises
    ------
    InputError
        If a file is missing or damaged, angles are unknown, or files tell of another number of
        images than the stack has, or of another order.
    """
    stack = Path(stack)
    if not stack.exists():
        raise InputError(f"{stack}: no such file")
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise InputError(f"pixel_size must be above 0 Å, got {pixel_size}")
    if aln is not None and xf is not None:
        raise InputError(f"xf and aln are both given ({xf}, {aln}); an image has one alignment")
    if stack.suffix.lower() == ".star":
        series = open_star(stack.absolute(), pixel_size)
    else:
        series = _open_stack(stack.absolute(), pixel_size, mdoc, tilts, aln)
    images, shape = len(series), (series.shape[1], series.shape[2])
    if xf is not None:
        transform = read_xf(Path(xf))
        if len(transform) != images:
            raise _other_count(Path(xf), "transforms", len(transform), stack, images)
        series = with_transforms(series, from_imod(transform, shape))
    elif stack.suffix.lower() == ".ali" and aln is None:
        unit = np.tile(np.eye(2, 3), (images, 1, 1))
        series = with_transforms(series, from_imod(unit, shape))
    elif stack.suffix.lower() != ".star" and aln is None:
        _tell_unaligned(series, stack)
    if defocus is not None:
        series = _with_defocus(series, defocus, stack, aln)
    for key, value, low, high in (
        ("voltage", voltage, 1, 3000),
        ("spherical_aberration", spherical_aberration, 0, 20),
        ("amplitude_contrast", amplitude_contrast, 0, 1),
        ("handedness", handedness, -1, 1),
    ):
        if value is None:
            continue
        if not low <= value <= high or (key == "handedness" and value not in (-1, 1)):
            allowed = "-1 or 1" if key == "handedness" else f"{low} to {high}"
            raise InputError(f"{key} must be {allowed}, got {value}")
        series.attrs[key] = value
    return series


def _tell_unaligned(series: xr.DataArray, stack: Path) -> None:
    """An .mdoc tells where the tilt axis lies; if that is not along y, the images want turning."""
    axis = series.attrs.get("tilt_axis")
    if axis is not None and abs((axis + 90) % 180 - 90) > _ALONG_Y:
        _log.warning(
            "%s: no alignment (xf or aln), so the images are taken as aligned, with the tilt axis "
            "along y; the mdoc says it lies at %g°",
            stack.name,
            axis,
        )


def _other_count(path: Path, what: str, count: int, stack: Path, images: int) -> InputError:
    return InputError(
        f"{path} has {count} {what}, but {stack} has {images} images; give the file of this stack, "
        "or take the same images out of both"
    )


def _open_stack(
    stack: Path,
    pixel_size: float | None,
    mdoc: str | os.PathLike[str] | None,
    tilts: str | os.PathLike[str] | None,
    aln: str | os.PathLike[str] | None,
) -> xr.DataArray:
    if tomogram_format(stack) != "MRC":
        raise InputError(
            f"{stack}: a tilt series is a stack in an MRC file (.st .mrc .mrcs .ali) or a STAR of "
            "one; convert it"
        )
    reader, sizes, name, _ = open_mrc(stack)
    images = lay_chunks(reader, chunks=(1, -1, -1))
    count = len(images)
    doc = read_mdoc(Path(mdoc)) if mdoc is not None else None
    if doc is not None and len(doc.angle) != count:
        raise _other_count(Path(str(mdoc)), "images", len(doc.angle), stack, count)
    listed = read_angles(Path(tilts)) if tilts is not None else None
    if listed is not None and len(listed) != count:
        raise _other_count(Path(str(tilts)), "tilt angles", len(listed), stack, count)
    if doc is not None and listed is not None:
        _require_order(listed, doc.angle, Path(str(tilts)), Path(str(mdoc)))
    angle = listed if listed is not None else doc.angle if doc is not None else None
    columns: dict[str, Any] = {}
    attrs: dict[str, Any] = {"source": str(stack), "files": [str(stack)]}
    if doc is not None:
        columns = {
            "order": doc.order,
            "exposure": doc.exposure,
            "pre_exposure": doc.pre_exposure,
        }
        attrs |= {"voltage": doc.voltage, "tilt_axis": doc.tilt_axis}
    size = pixel_size if pixel_size is not None else doc.pixel_size if doc is not None else None
    try:
        pixel_size = cubic_voxel_size(stack, (None, *sizes[1:]), (1, *reader.shape[1:]), size)
    except UnknownVoxelSizeError:
        raise UnknownVoxelSizeError(
            f"{stack}: the file does not say its pixel size; pass pixel_size=… (--pixel-size on "
            "the command line) in Å"
        ) from None
    if aln is not None:
        return _with_aln(stack, images, pixel_size, name, columns, attrs, Path(aln), angle)
    if angle is None:
        raise InputError(
            f"{stack}: tilt angles are unknown; give tilts (a .tlt or .rawtlt, one angle a line), "
            "mdoc or aln"
        )
    return as_tilt_series(
        images,
        angle=angle,
        pixel_size=pixel_size,
        name=name or file_stem(stack),
        columns=columns,
        attrs=attrs,
    )


def _with_aln(
    stack: Path,
    images: da.Array,
    pixel_size: float,
    name: str | None,
    columns: dict[str, Any],
    attrs: dict[str, Any],
    path: Path,
    angle: np.ndarray | None,
) -> xr.DataArray:
    found: AreTomoAlignment = read_aln(path)
    count, aligned = len(images), len(found.section)
    if found.size[:2] != images.shape[:0:-1]:
        raise InputError(
            f"{path} aligns images of {found.size[0]}×{found.size[1]} pixels, those of {stack} "
            f"have {images.shape[2]}×{images.shape[1]}; give the stack that was aligned"
        )
    if count == found.size[2]:
        kept = found.section
    elif count == aligned:
        kept = np.arange(aligned)  # the stack has lost its dark images
    else:
        raise InputError(
            f"{path} aligns {aligned} of {found.size[2]} images, but {stack} has {count} images; "
            "give the stack that was aligned"
        )
    if angle is not None:
        _require_order(angle[kept], found.angle, stack, path)
    if found.patches:
        _log.warning("%s: the local alignment of %d patches is not used", path, found.patches)
    if len(kept) < count:
        _log.warning("%s: %d of %d images are left out", path, count - len(kept), count)
    return as_tilt_series(
        images[kept],
        angle=found.angle,
        pixel_size=pixel_size,
        name=name or file_stem(stack),
        columns={key: None if one is None else one[kept] for key, one in columns.items()},
        transform=from_imod(found.transform, images.shape[1:]),
        attrs=attrs | {"tilt_axis": float(np.median(found.tilt_axis))},
    )


def _require_order(one: np.ndarray, other: np.ndarray, path: Path, path2: Path) -> None:
    """Refuse two lists of angles that mean another order; an offset between them is usual."""
    apart = one - other
    apart = np.abs(apart - np.median(apart))
    if apart.max() > _TURN:
        worst = int(np.argmax(apart))
        raise InputError(
            f"{path} and {path2} disagree: image {worst + 1} is at {one[worst]:g}° and at "
            f"{other[worst]:g}°; is one of them in another order than the stack?"
        )


def _with_defocus(
    series: xr.DataArray,
    defocus: str | os.PathLike[str] | float,
    stack: Path,
    aln: str | os.PathLike[str] | None,
) -> xr.DataArray:
    images = len(series)
    if isinstance(defocus, (int, float)):
        if not np.isfinite(defocus):
            raise InputError(f"defocus must be a number of Å, got {defocus}")
        if 0 < abs(defocus) < _LEAST_DEFOCUS:
            raise InputError(
                f"defocus counts in Å, got {defocus:g}; is it µm? 3 µm are 30000 Å, and underfocus "
                "is above 0"
            )
        u = v = np.full(images, float(defocus))
        angle = np.zeros(images)
    else:
        found = _read_defocus(Path(defocus), images, aln)
        u, v, angle = found.u, found.v, found.angle
        if found.phase_shift is not None:
            series = series.copy(deep=False)
            series.attrs["phase_shift"] = float(np.mean(found.phase_shift))
    if np.median(u) < 0:
        _log.warning(
            "%s: the defocus is below 0, which is overfocus: %g Å", stack.name, np.median(u)
        )
    return series.assign_coords(
        defocus_u=("tilt", u), defocus_v=("tilt", v), defocus_angle=("tilt", angle)
    )


def _read_defocus(path: Path, images: int, aln: str | os.PathLike[str] | None) -> Defocus:
    """Of the images of the series; the file may also count those that an ``.aln`` left out."""
    aligned = None if aln is None else read_aln(Path(aln))
    if aligned is None or aligned.size[2] == images:
        return read_defocus(path, images)
    try:
        whole = read_defocus(path, aligned.size[2])
    except InputError:
        return read_defocus(path, images)
    kept = aligned.section
    phase = whole.phase_shift
    return Defocus(
        whole.u[kept], whole.v[kept], whole.angle[kept], None if phase is None else phase[kept]
    )


def write_tilt_series(
    series: xr.DataArray, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write a tilt series image by image: an MRC stack, ``.rawtlt``, ``.star``, ``.xf``.  Computes.

    Beside ``NAME.mrc`` lie ``NAME.rawtlt`` (angles), ``NAME.star`` (all that is known, with
    RELION 5's names where it has some; `open_tilt_series` reads it) and, where the images are not
    aligned, ``NAME.xf``.  All four get their names at the end, together.

    Parameters
    ----------
    series : DataArray, dims (tilt, y, x)
    path : path
        ``.mrc``, ``.st`` or ``.mrcs``.
    overwrite : bool
        Replace what is there.

    Raises
    ------
    InputError
        If a file is there and may not be overwritten, the disk is full, or pixels are NaN or
        infinite.
    """
    path = Path(path).absolute()
    require_tilt_series(series)
    if path.suffix.lower() not in STACK_SUFFIXES:
        raise InputError(f"{path}: a stack is written as {', '.join(STACK_SUFFIXES)}; choose one")
    data = series.data if isinstance(series.data, da.Array) else da.from_array(series.to_numpy())
    images = data.rechunk((1, -1, -1)).astype(np.float32)
    transform = transforms(series)
    shape = (series.shape[1], series.shape[2])
    beside = {
        ".rawtlt": angles_text(np.asarray(series["angle"])),
        ".star": star_text(series, path.name),
    }
    if transform is not None:
        beside[".xf"] = xf_text(to_imod(transform, shape))
    source = str(series.attrs.get("source") or series.name or path)
    label = f"tomodask name {series.name}"
    labels = ["Written by tomodask", *([label] if label.isascii() and len(label) <= 80 else [])]
    with contextlib.ExitStack() as stack:
        part = stack.enter_context(
            replacing(path, overwrite=overwrite, needed=1024 + 4 * series.size)
        )
        for suffix, text in beside.items():
            other = stack.enter_context(replacing(path.with_suffix(suffix), overwrite=overwrite))
            other.write_text(text, "utf-8")
        statistics = write_mrc(
            images,
            part,
            path=path,
            voxel_size=float(series.attrs["pixel_size"]),
            labels=labels if series.name else labels[:1],
        )
        statistics.require_finite(source)
        with part.open("r+b") as file:  # a stack of images, not a volume
            file.seek(88)
            file.write(bytes(4))
