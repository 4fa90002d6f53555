"""What a 2D averaging is asked to do: checked before any work, and told apart from others."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from tomodask.beforehand import number, whole
from tomodask.data.image_table import MICROSCOPE
from tomodask.data.images import image_table, open_images
from tomodask.data.sources import file_state
from tomodask.data.subtomograms import open_subtomograms
from tomodask.errors import InputError
from tomodask.planar.image_optics import Correction, image_optics
from tomodask.planar.projections import project_subtomograms
from tomodask.planar.round2d import Settings2D, check_settings

__all__ = ["MOST", "Job2D", "checked_job2d"]

_SETTINGS = (
    "radius", "shift_range", "shift_step", "mirror", "equal", "center", "ctf", "resolution",
    "start_resolution", "seed",
)  # fmt: skip
MOST = 99  # rounds; their folders are numbered with two digits
_SAME = 0.01  # pixel sizes that differ by less are one


@dataclass(frozen=True)
class Job2D:
    """The input and settings of a 2D averaging, as they are used.

    Attributes
    ----------
    images : DataArray, dims (image, y, x)
        Lazy; numbered by their place.
    boxes : Dataset, optional
        That the images are projections of.
    references : DataArray, optional
    settings : Settings2D
    embed : int
        Images of the embedding at most; 0 for none.
    source : str
    parameters : dict
        Name → (stage, value), of `RunFolder.opened`.
    """

    images: xr.DataArray
    boxes: xr.Dataset | None
    references: xr.DataArray | None
    settings: Settings2D
    embed: int
    source: str
    parameters: dict[str, tuple[str, Any]] = field(repr=False)

    def figures(self) -> dict[str, Any]:
        """What the report tells of the input."""
        return {
            "name": Path(self.source).name or "images",
            "images": self.source,
            "count": int(self.images.sizes["image"]),
            "size": int(self.images.sizes["x"]),
            "pixel_size": float(self.images.attrs["pixel_size"]),
            "classes": self.settings.classes,
            "radius": self.settings.radius,
            "projected": self.boxes is not None,
            "references": None
            if self.references is None
            else str(self.references.attrs.get("source", "in memory")),
        }


def checked_job2d(
    images: Any,
    *,
    classes: int | None,
    references: Any,
    radius: float,
    shift_range: float,
    shift_step: float | None,
    mirror: bool,
    equal: bool,
    center: bool,
    ctf: Correction | None,
    resolution: float | None,
    start_resolution: float | None,
    rounds: int,
    project: str | None,
    thickness: float | None,
    pixel_size: float | None,
    embed: int,
    seed: int,
) -> Job2D:
    """Open and check all that `average2d` is given; reads no pixel.

    Raises
    ------
    InputError
        If anything in it would make a later round fail.
    """
    seed, rounds = whole("seed", seed, least=0), whole("rounds", rounds, least=1)
    embed = whole("embed", embed, least=0)
    if rounds > MOST:
        raise InputError(f"rounds must be at most {MOST}, got {rounds}")
    stack, boxes, source = _opened(images, project, thickness, pixel_size)
    count, n = int(stack.sizes["image"]), int(stack.sizes["x"])
    if stack.sizes["y"] != n:
        raise InputError(
            f"{source}: images must be square, got {stack.sizes['y']} rows of {n} pixels; cut or "
            "pad them"
        )
    size = float(stack.attrs["pixel_size"])
    given = None if references is None else _references(references, n, size)
    if classes is not None and given is not None and classes != len(given):
        raise InputError(
            f"classes is {classes} and there are {len(given)} references; leave classes out, or "
            "give as many"
        )
    wanted = classes if classes is not None else (1 if given is None else len(given))
    if isinstance(wanted, int) and wanted > count:
        raise InputError(
            f"classes must be at most the number of images, {count}, got {wanted}; ask for fewer, "
            "a class wants dozens of images"
        )
    settings = Settings2D(
        classes=wanted,
        radius=number("radius", radius),
        shift_range=number("shift_range", shift_range),
        shift_step=number("shift_step", shift_step),
        mirror=bool(mirror),
        equal=bool(equal),
        center=bool(center),
        ctf=ctf,
        resolution=number("resolution", resolution),
        start_resolution=number("start_resolution", start_resolution),
        # Known references are told apart by all that they show, from the first round on.
        coarse=Settings2D.coarse if given is None else 0,
        rounds=rounds,
        seed=seed,
    )
    check_settings(stack, settings)
    if ctf is not None:
        image_optics(stack)  # refuses images that do not carry their defocus
    parameters = {
        "images": _state(stack, boxes, source),
        "pixel_size": size,
        "project": project,
        "thickness": thickness,
        "references": None if given is None else _digest(given),
        "classes": wanted,
        **{name: getattr(settings, name) for name in _SETTINGS},
    }
    return Job2D(
        images=stack,
        boxes=boxes,
        references=given,
        settings=settings,
        embed=embed,
        source=source,
        parameters={name: ("start", value) for name, value in parameters.items()},
    )


def _opened(
    images: Any, project: str | None, thickness: float | None, pixel_size: float | None
) -> tuple[xr.DataArray, xr.Dataset | None, str]:
    """The stack, the boxes that it is a projection of, and what it is called."""
    if project not in (None, "z"):
        raise InputError(f"project must be 'z', along the beam, or None, got {project!r}")
    if thickness is not None and project is None:
        raise InputError("thickness is of projections; add project='z' (--project z)")
    thickness = number("thickness", thickness)
    if project is not None or isinstance(images, xr.Dataset):
        boxes = (
            images
            if isinstance(images, xr.Dataset)
            else open_subtomograms(images, voxel_size=pixel_size)
        )
        if project is None:
            raise InputError(
                "images are subtomograms: say that they shall be projected (project='z', --project "
                "z)"
            )
        stack = project_subtomograms(boxes, thickness=thickness)
        return stack, boxes, str(stack.attrs["source"])
    if isinstance(images, xr.DataArray):
        image_table(images)  # refuses what is no stack
        if pixel_size is not None:
            images = images.assign_attrs(pixel_size=float(pixel_size))
        size = images.attrs.get("pixel_size")
        if size is None or not (np.isfinite(size) and size > 0):
            raise InputError(f"images.attrs['pixel_size'] must be a length in Å, got {size}")
        if 0 in images.shape:
            raise InputError(f"images hold no pixels: shape {images.shape}")
        source = str(images.attrs.get("source", "in memory"))
    else:
        images = open_images(os.fspath(images), pixel_size=pixel_size)
        source = str(images.attrs["source"])
    # Of an earlier alignment: here they would be taken for this one's.  Halves stay.
    stale = ["psi", "shift_y", "shift_x", "mirror", "class", "score", "reason"]
    images = images.drop_vars(stale, errors="ignore")
    return images.assign_coords(image=np.arange(images.sizes["image"])), None, source


def _references(references: Any, n: int, pixel_size: float) -> xr.DataArray:
    """Maps to begin with, in memory."""
    if isinstance(references, xr.DataArray):
        given = references
        if given.ndim == 3:
            given = given.rename(dict(zip(given.dims, ("image", "y", "x"), strict=True)))
    elif isinstance(references, str | os.PathLike):
        given = open_images(references)
    else:
        raise InputError(
            "references must be a path or a DataArray with the dims (class, y, x), got "
            f"{type(references).__name__}; wrap an array in xarray.DataArray"
        )
    where = str(given.attrs.get("source", "references"))
    if given.ndim != 3 or given.shape[1:] != (n, n):
        raise InputError(
            f"{where}: references must have {n}×{n} pixels, as the images have, got shape "
            f"{given.shape}; resample, cut or pad them"
        )
    theirs = float(given.attrs.get("pixel_size", pixel_size))
    if abs(theirs - pixel_size) > _SAME * pixel_size:
        raise InputError(
            f"{where}: the references' pixels are {theirs:g} Å, those of the images "
            f"{pixel_size:g} Å; resample them"
        )
    values = np.asarray(given.to_numpy(), np.float32)
    flat = values.reshape(len(values), -1)
    wrong = np.flatnonzero(~np.isfinite(flat).all(1) | (flat.min(1) == flat.max(1)))
    if len(wrong):
        raise InputError(
            f"{where}: reference {wrong[0] + 1} is constant or not finite; leave it out"
        )
    return xr.DataArray(
        values, dims=("class", "y", "x"), attrs={"pixel_size": pixel_size, "source": where}
    )


def _digest(references: xr.DataArray) -> str:
    content = hashlib.sha256(np.ascontiguousarray(references.to_numpy()).tobytes()).hexdigest()
    return f"{Path(str(references.attrs['source'])).name}: {content[:16]}"


def _state(images: xr.DataArray, boxes: xr.Dataset | None, source: str) -> str:
    """Tell images from others: by the states of their files, or by their content."""
    data = images.data if boxes is None else boxes["subtomogram"].data
    name = data.name if isinstance(data, da.Array) else tokenize(np.asarray(data))
    path = Path(source)
    state = file_state(path) if source != "in memory" and path.exists() else ""
    table = image_table(images)
    used = [c for c in ("half", "defocus_u", "defocus_v", "defocus_angle", "phase_shift")
            if c in table]  # fmt: skip
    optics = [images.attrs.get(key) for key in MICROSCOPE]
    return f"{path.name}: {tokenize(name, state, table[used].to_csv(), optics)[:16]}"
