"""What is made of the references once a round: moved by all shifts of a grid, and put on rings.

An image is turned into polar samples once.  A reference moved before it is turned needs nothing of
an image but its samples about its own centre, and the disc they fill is the same for every pose:
the correlation is exactly normalised, by the image's power within the disc and by each moved
reference's.  The shift in the image is the reference's, turned along (`tomodask.planar.poses2d`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import psutil

from tomodask.arrays.lanes import LANES
from tomodask.errors import InputError
from tomodask.planar.polar import (
    LaneScratch,
    PolarGrid,
    SampleTable,
    fill_lanes,
    polar_grid,
    polar_lanes,
    sample_table,
)
from tomodask.planar.poses2d import FAULTS
from tomodask.planar.rotational import COLUMNS, empty_tiles
from tomodask.planar.subgrid import ring_order

__all__ = ["Plan2D", "check_search", "plan_alignment2d", "shift_grid"]


@dataclass(frozen=True)
class Plan2D:
    """References, moved and on rings, ready to be searched.

    Attributes
    ----------
    shape : (int, int)
        Of the images, pixels.
    pixel_size : float
        Å.
    step : float
        Of the grid of shifts, pixels.
    reach : float
        How long a shift may be, steps.
    mirror : bool
    grid : PolarGrid
    table : SampleTable
        Polar samples of an image.
    shifts : array of float64, shape (searched shift, 2)
        Of the reference, (y, x) pixels.
    around : array of int64, shape (searched shift, 9)
        Which of the moved references are at and around each.
    columns : array of float32, shape (reference, shift, 2, number)
        Moved references in `ring_order`, with a rim beyond the searched shifts.
    tiled : array of float32, flat
        Of the searched shifts, as `search_lanes` reads them.
    """

    shape: tuple[int, int]
    pixel_size: float
    step: float
    reach: float
    mirror: bool
    grid: PolarGrid
    table: SampleTable
    shifts: np.ndarray
    around: np.ndarray
    columns: np.ndarray
    tiled: np.ndarray

    @property
    def references(self) -> int:
        """How many there are."""
        return len(self.columns)


def shift_grid(shift_range: float, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shifts within a disc, and with a rim around.

    Parameters
    ----------
    shift_range, step : float
        In one unit.

    Returns
    -------
    shifts : array of float64, shape (shift, 2)
        (y, x); those searched first, nearest to 0 first among them, then the rim.
    searched : int64
        How many are searched: all of the grid within `shift_range` of 0.
    around : array of int64, shape (searched, 9)
        Rows of the nine at and around each, (y, x) from -1 to 1.

    Examples
    --------
    >>> shifts, searched, around = shift_grid(4.0, 1.0)
    >>> len(shifts), int(searched), shifts[around[1]].mean(axis=0).tolist() == shifts[1].tolist()
    (89, 49, True)
    """
    reach = int(np.floor(shift_range / step + 1e-9))
    axis = np.arange(-reach - 1, reach + 2)
    y, x = (part.ravel() for part in np.meshgrid(axis, axis, indexing="ij"))
    inside = (y**2 + x**2) <= (shift_range / step) ** 2 + 1e-9
    near = np.zeros(len(y), bool)
    wide = len(axis)
    offsets = np.array([dy * wide + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    near[(np.flatnonzero(inside)[:, None] + offsets).ravel()] = True
    kept = np.flatnonzero(near)
    order = kept[np.lexsort((kept, (y**2 + x**2)[kept], ~inside[kept]))]
    row = np.full(len(y), -1)
    row[order] = np.arange(len(order))
    searched = inside.sum()
    around = row[order[:searched, None] + offsets]
    return np.stack([y, x], 1)[order] * float(step), searched, around


def check_search(
    shape: tuple[int, int], *, radius: float, shift_range: float, step: float, pixel_size: float
) -> None:
    """Refuse a search that the images cannot serve; lengths in Å, `shape` in pixels.

    Raises
    ------
    InputError
        Naming the parameter, its value and the way out.
    """
    if not (np.isfinite(pixel_size) and pixel_size > 0):
        raise InputError(f"pixel_size must be above 0 Å, got {pixel_size}; set it in the images")
    most = (min(shape) - 1) // 2
    if not radius >= 2 * pixel_size:
        raise InputError(
            f"radius must be 2 pixels ({2 * pixel_size:g} Å) at least, got {radius:g} Å"
        )
    if round(radius / pixel_size) > most:
        raise InputError(
            f"radius {radius:g} Å is {radius / pixel_size:.1f} pixels and reaches beyond images of "
            f"{shape[0]} × {shape[1]}; give {most * pixel_size:g} Å at most, or larger images"
        )
    if not 0 <= shift_range <= most * pixel_size:
        raise InputError(
            f"shift_range must be 0 to half the image ({most * pixel_size:g} Å), "
            f"got {shift_range:g} Å"
        )
    if not step > 0:
        raise InputError(f"shift_step must be above 0 Å, got {step:g}; leave it out for one pixel")


def _check_memory(references: int, searched: int, moved: int, grid: PolarGrid) -> None:
    """Refuse a plan that this machine cannot hold: the moved references twice."""
    wanted = 8 * references * grid.size * (searched + moved)
    there = int(psutil.virtual_memory().available)
    if wanted > there:
        raise InputError(
            f"{references} references at {searched} shifts and a radius of {len(grid.rings)} "
            f"pixels need {wanted / 1e9:.1f} GB, {there / 1e9:.1f} GB are free; give a larger "
            "shift_step, a smaller shift_range or binned images"
        )


def plan_alignment2d(
    references: np.ndarray,
    *,
    radius: float,
    shift_range: float,
    shift_step: float | None = None,
    mirror: bool = True,
    pixel_size: float = 1.0,
) -> Plan2D:
    """Move the references by all shifts and put them on rings.

    Parameters
    ----------
    references : array, shape (reference, y, x)
    radius : float
        Of the disc that is compared, Å; rounded to whole pixels, one ring each.
    shift_range : float
        How far a particle may lie from the centre of its image, Å.
    shift_step : float, optional
        Of the grid searched, Å; by default one pixel.
    mirror : bool
        Look for mirrored particles, too.
    pixel_size : float
        Å.

    Raises
    ------
    InputError
        If there is no reference, one is constant or not finite, a length does not fit, or the moved
        references need more memory than is free.
    """
    references = np.asarray(references)
    if references.ndim != 3 or len(references) == 0:
        raise InputError(
            "references must be images (class, y, x), one at least, "
            f"got an array of shape {references.shape}"
        )
    step = pixel_size if shift_step is None else shift_step
    shape = (int(references.shape[1]), int(references.shape[2]))
    check_search(shape, radius=radius, shift_range=shift_range, step=step, pixel_size=pixel_size)
    grid = polar_grid(round(radius / pixel_size))
    shifts, searched, around = shift_grid(shift_range / pixel_size, step / pixel_size)
    order, _ = ring_order(grid)
    known = order >= 0
    count = len(references)
    _check_memory(count, int(searched), len(shifts), grid)
    images = np.ascontiguousarray(references, np.float32)
    faults = np.zeros(count, np.uint8)
    scratches = [LaneScratch.of(grid, shape) for _ in range(0, count, LANES)]
    for group, scratch in enumerate(scratches):
        fill_lanes(images, group * LANES, grid, faults, scratch)
    if faults.any():
        bad = int(np.argmax(faults > 0))
        raise InputError(
            f"reference {bad + 1} is {FAULTS[faults[bad]]} within the radius of {radius:g} Å; "
            "leave it out, or start it again from an image"
        )
    tiled = empty_tiles(count * int(searched), grid.size)
    columns = np.zeros((count, len(shifts), 2, len(order)), np.float32)
    for at, (y, x) in enumerate(shifts):
        table = sample_table(grid, shape, shift_y=y, shift_x=x)
        for group, scratch in enumerate(scratches):
            lanes = polar_lanes(grid, shape, table, scratch).reshape(grid.size, 2, LANES)
            those = slice(group * LANES, min((group + 1) * LANES, count))
            part = lanes[:, :, : those.stop - those.start]
            columns[those, at][:, :, known] = part[order[known]].transpose(2, 1, 0)
            if at < searched:
                column = np.arange(those.start, those.stop) * searched + at
                tiled[column // COLUMNS, :, column % COLUMNS] = part.transpose(2, 0, 1)
    return Plan2D(
        shape=shape,
        pixel_size=float(pixel_size),
        step=float(step / pixel_size),
        reach=float(shift_range / step),
        mirror=bool(mirror),
        grid=grid,
        table=sample_table(grid, shape),
        shifts=shifts[:searched],
        around=around,
        columns=columns,
        tiled=tiled.ravel(),
    )
