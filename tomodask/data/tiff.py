"""TIFF stacks: plain, ImageJ and OME, read plane by plane or through a memory map."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from tomodask.data.stored_voxels import StoredVoxels
from tomodask.data.units import angstroms
from tomodask.errors import InputError

__all__ = ["TiffReader", "open_tiff"]

_RESOLUTION_UNITS = {2: "inch", 3: "cm"}
_TOO_COARSE = 1000.0  # Å: tags that say "72 dpi" are a program's default, not a measurement


@dataclass(frozen=True)
class TiffReader(StoredVoxels):
    """Voxels of a TIFF file as (z, y, x); picklable, opens the file for each block.

    `offset` is where the voxels start if they lie in one piece, else None.
    """

    path: str
    shape: tuple[int, ...]
    stored_dtype: str
    offset: int | None
    stamp: tuple[int, int]

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Read one block."""
        try:
            if self.offset is not None:
                stored: np.ndarray = np.memmap(
                    self.path, self.stored_dtype, "r", self.offset, self.shape
                )
                return np.array(stored[index], dtype=self.dtype, order="C")
            with tifffile.TiffFile(self.path) as file:
                pages = file.series[0].pages
                planes = range(*index[0].indices(self.shape[0]))
                return np.stack(
                    [np.asarray(pages[z].asarray(), self.dtype)[index[1:]] for z in planes]
                )
        except Exception as error:  # the decoders raise whatever they like
            raise InputError(
                f"{self.path}: planes {index[0].start} to {index[0].stop} cannot be read "
                f"({type(error).__name__}: {error}); the file is damaged or was written to"
            ) from None


def open_tiff(path: Path) -> tuple[TiffReader, tuple[float | None, ...]]:
    """Read the tags: reader and voxel size along (z, y, x) in Å, None where not said."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            axes = "".join(axis for axis, n in zip(series.axes, series.shape, strict=True) if n > 1)
            shape = tuple(n for n in series.shape if n > 1)
            if len(shape) == 2:
                axes, shape = "Z" + axes, (1, *shape)
            # Stacks without metadata call their planes Q or I, ImageJ's slices may be T or C.
            if len(shape) != 3 or axes[1:] != "YX":
                raise InputError(
                    f"{path}: holds the axes {series.axes} with shape {series.shape}, "
                    "but a tomogram has z, y and x only; save one channel as a stack of planes"
                )
            pages = len(series.pages)
            offset = series.dataoffset
            dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
            if dtype.kind not in "iufb":
                raise InputError(f"{path}: voxels of type {dtype} are not real numbers")
            sizes = _voxel_sizes(file)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} is not a TIFF file that can be read ({error})") from None
    size = path.stat().st_size
    if offset is None and pages != shape[0]:
        raise InputError(f"{path}: has {pages} planes where its tags say {shape[0]}; cut off?")
    if offset is not None and offset + int(np.prod(shape)) * dtype.itemsize > size:
        raise InputError(f"{path} is truncated: {shape} voxels do not fit into {size} bytes")
    state = path.stat()
    reader = TiffReader(str(path), shape, dtype.str, offset, (state.st_size, state.st_mtime_ns))
    return reader, sizes


def _voxel_sizes(file: tifffile.TiffFile) -> tuple[float | None, ...]:
    """What the OME XML, ImageJ's metadata, or the resolution tags say, in Å along (z, y, x)."""
    if file.ome_metadata:
        return _of_ome(file.ome_metadata)
    tags = file.pages[0].tags
    imagej = file.imagej_metadata
    unit = (imagej or {}).get("unit")
    if not unit and "ResolutionUnit" in tags:
        unit = _RESOLUTION_UNITS.get(int(tags["ResolutionUnit"].value))
    y, x = (_per_pixel(tags, f"{axis}Resolution", unit) for axis in "YX")
    if imagej:
        spacing = imagej.get("spacing")
        scale = angstroms(unit)
        z = float(spacing) * scale if spacing is not None and scale is not None else None
        return z, y, x
    if x is None or x > _TOO_COARSE:
        return None, None, None
    return x, y, x  # plain TIFF has no tag for the distance of planes


def _per_pixel(tags: Any, name: str, unit: str | None) -> float | None:
    scale = angstroms(unit)
    if name not in tags or scale is None:
        return None
    pixels, units = tags[name].value
    return float(units) / float(pixels) * scale if pixels else None


def _of_ome(xml: str) -> tuple[float | None, ...]:
    sizes: list[float | None] = []
    with contextlib.suppress(ElementTree.ParseError):
        pixels = ElementTree.fromstring(xml).find(".//{*}Pixels")
        if pixels is not None:
            for axis in "ZYX":
                size = pixels.get(f"PhysicalSize{axis}")
                scale = angstroms(pixels.get(f"PhysicalSize{axis}Unit", "µm"))  # OME's default
                sizes.append(float(size) * scale if size and scale is not None else None)
            return tuple(sizes)
    return None, None, None
