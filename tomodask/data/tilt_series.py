"""Tilt series: opened lazily from the stacks and tables of the field, written as a stream.

A tilt series is an `xarray.DataArray`, dims ``("tilt", "y", "x")``, float32, one block an image.
Along `tilt` it has the coords `angle` (degrees), and where known `order`, `exposure`,
`pre_exposure` (e/Å²), `defocus_u`, `defocus_v` (Å), `defocus_angle` (degrees), and the six numbers
of a transform; attrs `pixel_size` (Å), `source` and where known `files` (of the images), `voltage`
(kV), `spherical_aberration` (mm), `amplitude_contrast`, `phase_shift`, `tilt_axis` (degrees),
`handedness`.

The transform brings an image to where the tilt axis is along y through pixel ``size // 2``:
``new = A (old − c) + d + c'`` in (x, y) pixels about the middles ``(n − 1) / 2`` of the old and the
new image; without it the images are aligned already.  `transforms` gives it as one array, shape
(tilt, 2, 3); xarray holds it as coords `transform_a11`, `…_a12`, `…_dx`, `…_a21`, `…_a22`, `…_dy`,
so that tilts may be chosen and put in order with all that belongs to them.  IMOD's axis goes
through the middle, half a pixel before ``size // 2`` where the size is even, so its shifts d are
changed by that half when files are read and written.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from tomodask.data.mrc import HEADER_BYTES, header_dtype, open_mrc
from tomodask.data.mrc_writer import write_mrc
from tomodask.data.tilt_metadata import (
    AreTomoAlignment,
    Defocus,
    angles_text,
    read_aln,
    read_angles,
    read_defocus,
    read_mdoc,
    read_xf,
    xf_text,
)
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
    "aligned_shape",
    "as_tilt_series",
    "files_beside",
    "is_own_stack",
    "open_tilt_series",
    "require_tilt_series",
    "transforms",
    "with_transforms",
    "write_tilt_series",
]

_log = logging.getLogger(__name__)

#: What a stack that is written may be called.
STACK_SUFFIXES = (".mrc", ".st", ".mrcs")
#: Coords along `tilt` of one number an image, and what RELION calls them (ours where it has none).
_COLUMNS = {
    "angle": "rlnTomoNominalStageTiltAngle",
    "order": "tomodaskAcquisitionOrder",
    "exposure": "tomodaskExposure",
    "pre_exposure": "rlnMicrographPreExposure",
    "defocus_u": "rlnDefocusU",
    "defocus_v": "rlnDefocusV",
    "defocus_angle": "rlnDefocusAngle",
}
_OPTICS = {
    "voltage": "rlnVoltage",
    "spherical_aberration": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
    "handedness": "rlnTomoHand",
    "phase_shift": "rlnPhaseShift",
    "tilt_axis": "rlnTomoNominalTiltAxisAngle",
}
_TRANSFORM = [f"transform_{name}" for name in ("a11", "a12", "dx", "a21", "a22", "dy")]
_STAR_TRANSFORM = [f"tomodaskTransform{name}" for name in ("A11", "A12", "DX", "A21", "A22", "DY")]
#: Degrees: two lists of angles that differ by more, but for an offset, are of two orders.
_TURN = 5.0
_ALONG_Y = 1.0  # degrees
_LEAST_DEFOCUS = 100.0  # Å: no series is taken so near to focus


def as_tilt_series(
    images: da.Array,
    *,
    angle: Sequence[float] | np.ndarray,
    pixel_size: float,
    name: str = "tilt_series",
    columns: dict[str, Any] | None = None,
    transform: np.ndarray | None = None,
    attrs: dict[str, Any] | None = None,
) -> xr.DataArray:
    """Make a tilt series of images and what is known of them.

    Parameters
    ----------
    images : dask array, shape (tilts, y, x)
    angle : array, shape (tilts,)
        Degrees.
    pixel_size : float
        Å.
    columns, attrs : dict, optional
        Further coords along `tilt` and attrs, as the module says; None among them is left out.
    transform : array, shape (tilts, 2, 3), optional

    Examples
    --------
    >>> series = as_tilt_series(da.zeros((3, 4, 4)), angle=[-3, 0, 3], pixel_size=5.0)
    >>> series.dtype, float(series["angle"][0])
    (dtype('float32'), -3.0)
    """
    coords: dict[str, Any] = {"angle": ("tilt", np.asarray(angle, float))}
    for key, values in (columns or {}).items():
        if values is not None:
            coords[key] = ("tilt", np.asarray(values, int if key == "order" else float))
    kept = {key: value for key, value in (attrs or {}).items() if value is not None}
    series = xr.DataArray(
        images.rechunk((1, -1, -1)).astype(np.float32),
        dims=("tilt", "y", "x"),
        coords=coords,
        name=name,
        attrs={"pixel_size": float(pixel_size), "source": name, **kept},
    )
    return series if transform is None else with_transforms(series, transform)


def transforms(series: xr.DataArray) -> np.ndarray | None:
    """What aligns each image, shape (tilt, 2, 3); None where the images are aligned already."""
    if not set(_TRANSFORM) <= set(series.coords):
        return None
    columns = [np.asarray(series.coords[name], np.float64) for name in _TRANSFORM]
    return np.stack(columns, axis=-1).reshape(-1, 2, 3)


def with_transforms(series: xr.DataArray, transform: np.ndarray | None) -> xr.DataArray:
    """The series with other transforms, shape (tilt, 2, 3), or with none."""
    series = series.drop_vars([name for name in _TRANSFORM if name in series.coords])
    if transform is None:
        return series
    columns = np.asarray(transform, np.float64).reshape(len(series), 6).T
    return series.assign_coords(
        {name: ("tilt", values) for name, values in zip(_TRANSFORM, columns, strict=True)}
    )


def aligned_shape(series: xr.DataArray) -> tuple[int, int]:
    """Pixels (y, x) of the aligned images: turned over where the axis lay nearer to x than to y."""
    ny, nx = series.shape[1:]
    return _turned((ny, nx), transforms(series))


def _turned(shape: tuple[int, int], transform: np.ndarray | None) -> tuple[int, int]:
    if transform is not None and np.median(np.abs(transform[:, 0, 1])) > np.median(
        np.abs(transform[:, 0, 0])
    ):
        return shape[::-1]
    return shape


def _half_pixel(shape: tuple[int, int]) -> np.ndarray:
    """From IMOD's tilt axis to ours, (x, y) pixels: ``size // 2 − (size − 1) / 2``."""
    return np.array([size // 2 - (size - 1) / 2 for size in shape[::-1]])


def _from_imod(transform: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    out = np.array(transform, np.float64)
    out[:, :, 2] += _half_pixel(_turned(shape, out))
    return out


def _to_imod(transform: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    out = np.array(transform, np.float64)
    out[:, :, 2] -= _half_pixel(_turned(shape, out))
    return out


def require_tilt_series(series: xr.DataArray) -> None:
    """Refuse what is no tilt series, or holds what cannot be.

    Raises
    ------
    InputError
        If dims, angles or the pixel size are missing or wrong.
    """
    if not isinstance(series, xr.DataArray) or series.dims != ("tilt", "y", "x"):
        dims = getattr(series, "dims", type(series).__name__)
        raise InputError(f"a tilt series has the dims ('tilt', 'y', 'x'), got {dims}")
    if 0 in series.shape:
        raise InputError(f"the tilt series has no pixels: shape {series.shape}")
    if "angle" not in series.coords:
        raise InputError("the tilt series must have the coord angle (degrees) along tilt")
    angle = np.asarray(series.coords["angle"], float)
    if not (np.isfinite(angle) & (np.abs(angle) <= 90)).all():
        raise InputError(f"angle must lie within ±90°, got {angle.tolist()}")
    size = series.attrs.get("pixel_size")
    if size is None or not (np.isfinite(size) and size > 0):
        raise InputError(f"the tilt series must have a pixel_size above 0 Å, got {size}")


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
        series = _open_star(stack.absolute(), pixel_size)
    else:
        series = _open_stack(stack.absolute(), pixel_size, mdoc, tilts, aln)
    images, shape = len(series), (series.shape[1], series.shape[2])
    if xf is not None:
        transform = read_xf(Path(xf))
        if len(transform) != images:
            raise _other_count(Path(xf), "transforms", len(transform), stack, images)
        series = with_transforms(series, _from_imod(transform, shape))
    elif stack.suffix.lower() == ".ali" and aln is None:
        unit = np.tile(np.eye(2, 3), (images, 1, 1))
        series = with_transforms(series, _from_imod(unit, shape))
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
        transform=_from_imod(found.transform, images.shape[1:]),
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


def _open_star(path: Path, pixel_size: float | None) -> xr.DataArray:
    """A STAR with data_global and a table of images, as `write_tilt_series` or RELION 5 has it."""
    from tomodask.data.star import read_blocks

    blocks = read_blocks(path)
    tables = {
        key: block
        for key, block in blocks.items()
        if isinstance(block, pd.DataFrame) and _COLUMNS["angle"] in block
    }
    if len(tables) != 1:
        found = f"{len(tables)} tables of tilts" if tables else "no table of tilts"
        raise InputError(
            f"{path}: {found}, expected one with the column {_COLUMNS['angle']}; name the STAR of "
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
    for ours, theirs in _COLUMNS.items():
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
    new = _half_pixel(_turned(shape, out))
    old = np.stack(shift, axis=-1) / pixel_size + _half_pixel(shape)
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
    new = _half_pixel(_turned(shape, transform))
    shift = np.einsum("tji,tj->ti", matrix, new - transform[:, :, 2]) - _half_pixel(shape)
    return {
        "rlnTomoZRot": np.rad2deg(np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0])),
        "rlnTomoXShiftAngst": shift[:, 0] * pixel_size,
        "rlnTomoYShiftAngst": shift[:, 1] * pixel_size,
    }


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
        ".star": _star_text(series, path.name),
    }
    if transform is not None:
        beside[".xf"] = xf_text(_to_imod(transform, shape))
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


def _star_text(series: xr.DataArray, stack: str) -> str:
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
    for ours, theirs in _COLUMNS.items():
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
