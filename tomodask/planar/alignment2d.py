"""Align images to references in the plane: a batch of them, or a stack as blocks of Dask."""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed, delayed

from tomodask.alignment.batches import BatchFolder
from tomodask.arrays.backend import Array, on_device
from tomodask.arrays.lanes import LANES
from tomodask.data.images import images_per_block
from tomodask.errors import InputError
from tomodask.planar.found2d import poses_of, with_faults
from tomodask.planar.image_optics import (
    Correction,
    ImageOptics,
    check_correction,
    corrected,
    image_optics,
)
from tomodask.planar.numbering import image_numbers
from tomodask.planar.plan2d import Plan2D, check_search, plan_alignment2d
from tomodask.planar.polar import LaneScratch, fill_lanes, polar_lanes, transform_tables
from tomodask.planar.poses2d import FAULTS, POSE2D
from tomodask.planar.rotational import COLUMNS, search_lanes
from tomodask.planar.subgrid import refine_lanes, ring_order

__all__ = [
    "Plan2D",
    "align_batch",
    "align_images",
    "check_search",
    "plan_alignment2d",
]

_log = logging.getLogger(__name__)
_NAMED_AT_MOST = 5


def align_images(
    images: xr.DataArray,
    references: xr.DataArray,
    *,
    radius: float,
    shift_range: float,
    shift_step: float | None = None,
    mirror: bool = True,
    ctf: Correction | None = None,
    keep: str = "best",
    batch: int | None = None,
    checkpoint: str | Path | None = None,
) -> Delayed:
    """Find the class, angle, shift and mirror of each image.

    Parameters
    ----------
    images : DataArray, dims (image, y, x)
        Lazy or not, with ``attrs["pixel_size"]`` (Å), as `open_images` gives them.
    references : DataArray, dims (class, y, x) or (y, x)
        Of the images' shape, pixel size and contrast; the centre is pixel ``size // 2``.
    radius : float
        Of the disc about the image's centre that is compared, Å; rounded to whole pixels.
    shift_range : float
        How far a particle may lie from the centre of its image, Å.
    shift_step : float, optional
        Of the grid of shifts searched, Å; by default one pixel.
    mirror : bool
        Look for mirrored particles, too.
    ctf : {"multiply", "flip"}, optional
        Images that carry their defocus are multiplied by their CTF (a matched filter), or by its
        sign, before they are compared.
    keep : {"best", "all"}
        One row an image, of the reference that fits best, or one for each reference.
    batch : int, optional
        Images in a task; by default `images_per_block`.
    checkpoint : path, optional
        A folder that keeps each finished batch; the same call goes on there.

    Returns
    -------
    Delayed of DataFrame
        Index ``image``, its number; ``class`` (from 1), ``psi`` (degrees), ``shift_y``,
        ``shift_x`` (Å), ``mirror`` and ``score``, the correlation coefficient within the disc; see
        `tomodask.planar.poses2d`.  An image that is constant or not finite has class 0, no pose,
        no score and a ``reason``, a column that is there only then.  Nothing is computed before
        ``.compute()``.

    Raises
    ------
    InputError
        If images and references differ in shape or pixel size, there are none, a reference is
        empty, the radius reaches beyond the images, or a parameter is out of range.

    Notes
    -----
    Chunks, batches and workers do not change a bit of the result.  `docs/algorithms/planar.md`
    has the method.
    """
    shape, pixel_size = _checked(images)
    step = pixel_size if shift_step is None else float(shift_step)
    check_search(shape, radius=radius, shift_range=shift_range, step=step, pixel_size=pixel_size)
    maps = _checked_references(references, shape, pixel_size)
    check_correction(ctf)
    if keep not in ("best", "all"):
        raise InputError(f"keep must be 'best' or 'all', got {keep!r}")
    count = images.sizes["image"]
    if batch is None:
        batch = images_per_block(count, shape[0] * shape[1])
    if batch < 1:
        raise InputError(f"batch must be 1 image at least, got {batch}; leave it out")
    if ctf is not None and shape[0] != shape[1]:
        raise InputError(f"ctf needs square images, got {shape[0]} × {shape[1]} pixels")
    numbers = image_numbers(images)
    optics = None if ctf is None else image_optics(images)
    settings: dict[str, Any] = {
        "radius": float(radius),
        "shift_range": float(shift_range),
        "shift_step": step,
        "mirror": bool(mirror),
        "pixel_size": pixel_size,
    }
    plan = delayed(plan_alignment2d, pure=True)(maps, **settings)
    lazy = images.data if isinstance(images.data, da.Array) else da.from_array(images.data)
    lazy = lazy.rechunk({0: batch, 1: -1, 2: -1})
    parts = (tokenize(lazy), tokenize(maps), settings, ctf, keep, batch, tokenize(optics))
    mark = hashlib.sha256(repr(parts).encode()).hexdigest()
    folder = BatchFolder.open(checkpoint, mark)
    rows: list[Any] = []
    for number, block in enumerate(lazy.to_delayed().ravel()):
        name = f"batch{number:06d}"
        finished = folder.read(name, POSE2D)
        if finished is None:
            these = slice(number * batch, (number + 1) * batch)
            finished = delayed(_align_block, pure=True)(
                block,
                plan,
                None if optics is None else optics[these],
                ctf,
                every_class=keep == "all",
                folder=folder,
                name=name,
            )
        rows.append(finished)
    return delayed(_table)(rows, numbers)


def _align_block(
    block: Array,
    plan: Plan2D,
    optics: ImageOptics | None,
    correction: Correction | None,
    *,
    every_class: bool,
    folder: BatchFolder,
    name: str,
) -> np.ndarray:
    if optics is not None and correction is not None:
        block = corrected(block, optics, correction)
    poses = on_device(partial(align_batch, plan=plan, every_class=every_class), block)
    folder.write(name, poses)
    return np.asarray(poses)


def _table(parts: list[np.ndarray], numbers: np.ndarray) -> pd.DataFrame:
    """A row an image, or one for each image and class."""
    poses = np.concatenate(parts)
    if poses.ndim == 2:
        numbers = np.repeat(numbers, poses.shape[1])
        poses = poses.ravel()
    table = pd.DataFrame(
        {name: poses[name] for name in POSE2D.names or () if name != "fault"},
        index=pd.Index(numbers, name="image"),
    )
    aside = poses["fault"] > 0
    if aside.any():
        table.loc[aside, ["psi", "shift_y", "shift_x", "score"]] = np.nan
        table["reason"] = np.asarray(FAULTS)[poses["fault"]]
        which = dict.fromkeys(numbers[aside].tolist())
        told = [f"{n} ({table['reason'][aside].loc[[n]].iloc[0]})" for n in which]
        more = len(told) - _NAMED_AT_MOST
        _log.warning(
            "%d of %d images are set aside, without a pose: %s%s",
            len(told),
            len(np.unique(numbers)),
            ", ".join(told[:_NAMED_AT_MOST]),
            f" and {more} more" if more > 0 else "",
        )
    return table


def _checked(images: xr.DataArray) -> tuple[tuple[int, int], float]:
    """Shape in pixels and pixel size of a stack."""
    if not isinstance(images, xr.DataArray) or images.dims != ("image", "y", "x"):
        dims = getattr(images, "dims", type(images).__name__)
        raise InputError(f"images must be a DataArray with the dims (image, y, x), got {dims}")
    if images.sizes["image"] == 0:
        raise InputError("images hold no image; give one at least")
    pixel_size = images.attrs.get("pixel_size")
    if pixel_size is None:
        raise InputError("images carry no pixel_size; set images.attrs['pixel_size'], in Å")
    return (images.sizes["y"], images.sizes["x"]), float(pixel_size)


def _checked_references(references: xr.DataArray, shape: tuple[int, int], pixel_size: float) -> Any:
    """References as an array (class, y, x), lazy where they are."""
    if not isinstance(references, xr.DataArray) or references.dims[-2:] != ("y", "x"):
        dims = getattr(references, "dims", type(references).__name__)
        raise InputError(f"references must be a DataArray with dims (class, y, x), got {dims}")
    if references.ndim == 2:
        references = references.expand_dims("class")
    if references.ndim != 3 or len(references) == 0:
        raise InputError(
            f"references must be one image at least, (class, y, x), got shape {references.shape}"
        )
    if references.shape[1:] != shape:
        raise InputError(
            f"references are of {references.shape[1]} × {references.shape[2]} pixels, images of "
            f"{shape[0]} × {shape[1]}; cut or pad the references to the images' shape"
        )
    own = references.attrs.get("pixel_size")
    if own is not None and abs(own / pixel_size - 1) > 1e-3:
        raise InputError(
            f"references have a pixel size of {own:g} Å, images of {pixel_size:g} Å; "
            "resample one of them"
        )
    if isinstance(references.data, da.Array):
        return references.data
    maps = np.ascontiguousarray(references.data, np.float32)
    for number, one in enumerate(maps):
        if not np.isfinite(one).all() or one.min() == one.max():
            what = "constant" if np.isfinite(one).all() else "not finite"
            raise InputError(
                f"reference {number + 1} is {what}; leave it out, or start it from an image"
            )
    return maps


def align_batch(batch: Array, plan: Plan2D, *, every_class: bool = False) -> np.ndarray:
    """The pose of each image for its best reference, or for every one.

    Parameters
    ----------
    batch : array, shape (image, y, x)
        NumPy, CuPy or any other array of the array API.  What an image gets does not depend on
        the images beside it.
    plan : Plan2D
    every_class : bool
        Return the best pose for each reference.

    Returns
    -------
    array of POSE2D, shape (image,) or, with `every_class`, (image, reference)
        Shifts in Å, classes from 1.  An image that is not finite or constant has class 0 and the
        fault (index of FAULTS); its pose is 0 and its score NaN.

    Raises
    ------
    InputError
        If the images are not of the references' shape.
    """
    if batch.ndim != 3 or tuple(batch.shape[1:]) != plan.shape:
        raise InputError(
            f"images must have the shape of the references, {plan.shape[0]} × {plan.shape[1]} "
            f"pixels, got an array of shape {tuple(batch.shape)}"
        )
    if not isinstance(batch, np.ndarray):
        from tomodask.planar.portable import align_portable

        return align_portable(batch, plan, every_class=every_class)
    images = np.ascontiguousarray(batch, np.float32)
    grid, count, shifts = plan.grid, plan.references, len(plan.shifts)
    order, rings = ring_order(grid)
    where, waves = transform_tables(grid.angles)
    sample_at = np.empty(grid.angles, np.int32)
    sample_at[where] = np.arange(grid.angles)
    scratch = LaneScratch.of(grid, plan.shape)
    work = np.zeros(COLUMNS * grid.angles * 2 * LANES, np.float32)
    tops = np.zeros(2 * LANES, np.float32)
    score = np.zeros((count, LANES), np.float32)
    index, place = np.zeros((count, LANES), np.int32), np.zeros((count, LANES), np.int32)
    pose = np.zeros((count, LANES, 4))
    faults = np.zeros(len(images), np.uint8)
    out = np.zeros((len(images), count if every_class else 1), POSE2D)
    for begin in range(0, len(images), LANES):
        fill_lanes(images, begin, grid, faults, scratch)
        packed = polar_lanes(grid, plan.shape, plan.table, scratch)
        search_lanes(
            packed, plan.tiled, count * shifts, shifts, grid.starts, grid.angles, waves,
            plan.mirror, work, tops, score, index, place,
        )  # fmt: skip
        here = slice(begin, min(begin + LANES, len(images)))
        lanes = here.stop - here.start
        use = np.zeros((count, LANES), bool)
        best = score[:, :lanes].argmax(axis=0)
        use[:, :lanes] = True if every_class else best == np.arange(count)[:, None]
        place = sample_at[place % grid.angles] + place // grid.angles * grid.angles
        refine_lanes(
            packed, plan.columns, plan.around, plan.shifts / plan.step, plan.reach, order, rings,
            grid.frequencies, grid.angles, index, place, use, pose,
        )  # fmt: skip
        chosen = np.tile(np.arange(count), (lanes, 1)) if every_class else best[:, None]
        lane = np.arange(lanes)[:, None]
        out[here] = poses_of(
            plan,
            chosen,
            plan.shifts[index[chosen, lane]],
            place[chosen, lane] >= grid.angles,
            pose[chosen, lane],
        )
    out = with_faults(out, faults)
    return out if every_class else out[:, 0]
