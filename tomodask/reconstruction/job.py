"""What a reconstruction is asked to do: checked before any graph."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr

from tomodask.data.volumes import as_tomogram
from tomodask.errors import InputError
from tomodask.reconstruction.images import align_images
from tomodask.reconstruction.wbp import filtered_rows
from tomodask.reconstruction.weighting import Filter, angular_weights

__all__ = ["Job", "Method", "checked_reconstruction"]


Method = Literal["wbp", "sirt"]

_log = logging.getLogger(__name__)
_MOST_PLANES = 16384
_THIN = 400.0  # Å
#: What the record of the series takes from its coords and attrs.
_LISTS = ("exposure", "pre_exposure")
_DEFOCUS = ("defocus_u", "defocus_v", "defocus_angle")
_OPTICS = ("spherical_aberration", "amplitude_contrast")
_SCALARS = ("voltage", "phase_shift", "handedness")


@dataclass(frozen=True)
class Job:
    """A checked reconstruction, before any graph."""

    images: xr.DataArray
    shape: tuple[int, int, int]
    angles: tuple[float, ...]
    weights: tuple[float, ...]
    method: Method
    iterations: int
    relaxation: float
    filter: Filter
    record: dict[str, Any]

    @property
    def fine(self) -> da.Array:
        """What is stored between the halves, one block an image: filtered or plain rows."""
        images = self.images.data
        if self.method == "sirt":
            return images
        tilts, ny, nx = images.shape
        return images.map_blocks(
            _filter_block,
            filter=self.filter,
            dtype=np.float32,
            token="filter",
            chunks=((1,) * tilts, (ny,), (2 * nx,)),
            meta=np.empty((0, 0, 0), np.float32),
        )

    def tomogram(self, array: da.Array) -> xr.DataArray:
        """The array as a tomogram, with what is known of it."""
        volume = as_tomogram(
            array,
            path=Path(str(self.images.attrs.get("source", ""))),
            voxel_size=float(self.images.attrs["pixel_size"]),
            name=str(self.images.name),
            tilt_range=(min(self.angles), max(self.angles)),
            tilt_series=self.record,
        )
        volume.attrs["source"] = str(self.images.attrs.get("source", ""))
        return volume


def checked_reconstruction(
    series: xr.DataArray,
    *,
    thickness: float,
    method: Method,
    filter: Filter,
    iterations: int,
    relaxation: float,
    ctf: Literal["none", "flip"],
    dose_weight: bool,
    invert: bool,
    **options: Any,
) -> Job:
    """Check everything, and lay out the images; the graph of the rest comes later."""
    if method not in ("wbp", "sirt"):
        raise InputError(f"method must be wbp or sirt, got {method!r}")
    if filter not in ("ramp", "hamming"):
        raise InputError(f"filter must be ramp or hamming, got {filter!r}")
    if method == "sirt" and not (iterations >= 1 and int(iterations) == iterations):
        raise InputError(f"iterations must be a whole number of at least 1, got {iterations}")
    if not 0 < relaxation < 2:
        raise InputError(f"relaxation must be above 0 and below 2, got {relaxation}")
    images = align_images(series, ctf=ctf, dose_weight=dose_weight, invert=invert, **options)
    size = float(images.attrs["pixel_size"])
    if not (np.isfinite(thickness) and thickness >= size):
        raise InputError(f"thickness must be at least a voxel, {size:g} Å, got {thickness:g}")
    depth = round(thickness / size)
    if depth > _MOST_PLANES:
        raise InputError(
            f"thickness makes at most {_MOST_PLANES} planes of {size:g} Å, got {thickness:g} Å; it "
            "counts in Å, not in nm or voxels"
        )
    if thickness < _THIN:
        _log.warning(
            "thickness %g Å makes %d planes of %g Å; most specimens have 1000 to 3000 Å, and it "
            "counts in Å, not in nm or voxels",
            thickness,
            depth,
            size,
        )
    angles = np.asarray(images["angle"], float)
    weights = angular_weights(angles)
    record: dict[str, Any] = {
        "angle": angles.tolist(),
        "weight": weights.tolist(),
        "pixel_size": float(series.attrs["pixel_size"]),
        "voxel_size": size,
        "phase_flipped": bool(images.attrs["phase_flipped"]),
        "dose_weighted": bool(images.attrs["dose_weighted"]),
        "method": method,
        "inverted": bool(invert),
    }
    record |= {"filter": filter} if method == "wbp" else {"iterations": int(iterations)}
    for key in _SCALARS:
        if images.attrs.get(key) is not None:
            record[key] = float(images.attrs[key])
    for key in _LISTS:
        if key in images.coords:
            record[key] = np.asarray(images.coords[key], float).tolist()
    if "defocus_u" in images.coords:
        lacking = [k for k in ("voltage", *_OPTICS) if images.attrs.get(k) is None]
        if lacking:
            _log.warning(
                "%s: the defocus is not kept with the tomogram, as %s is unknown",
                images.attrs.get("source"),
                ", ".join(lacking),
            )
        else:
            record |= {key: float(images.attrs[key]) for key in _OPTICS}
            record |= {
                key: np.asarray(images.coords[key], float).tolist()
                for key in _DEFOCUS
                if key in images.coords
            }
    return Job(
        images=images,
        shape=(depth, images.shape[1], images.shape[2]),
        angles=tuple(angles.tolist()),
        weights=tuple(weights.tolist()),
        method=method,
        iterations=int(iterations),
        relaxation=float(relaxation),
        filter=filter,
        record=record,
    )


def _filter_block(block: np.ndarray, *, filter: Filter) -> np.ndarray:
    return filtered_rows(block[0], filter=filter)[None]
