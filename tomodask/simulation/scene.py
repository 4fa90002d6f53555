"""A specimen as plain arrays, and a block of its density, labels or occupancy drawn from them.

A block draws only what reaches it, and each voxel sums what it holds in one order: vesicles, beads,
particles as in the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from tomodask.arrays.geometry import matrices_zyx
from tomodask.data.particles import orientations
from tomodask.simulation.ball import ball_row
from tomodask.simulation.membranes import add_bead, add_vesicle, vesicle_arrays
from tomodask.simulation.packing import Packing
from tomodask.simulation.shapes import distance_at

__all__ = ["PROFILE_STEP", "Scene", "density_block", "labels_block", "occupancy_block"]

#: Of tabulated profiles, Å.
PROFILE_STEP = 0.25


@dataclass(frozen=True)
class Scene:
    """All that a block needs, as plain arrays: one small value that the tasks share."""

    voxel_size: float
    kinds: np.ndarray
    centers: np.ndarray
    matrices: np.ndarray
    reaches: np.ndarray  # Å, of each particle
    maps: Any  # a `SplineDensity` a kind, or all `Bodies`
    vesicles: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    bilayer: np.ndarray
    beads: np.ndarray
    balls: list[np.ndarray]
    marks: list[np.ndarray] | None  # of particles, beads, vesicles in a label map

    @classmethod
    def of(
        cls,
        packing: Packing,
        maps: Any,
        radii: np.ndarray,
        bilayer: np.ndarray,
        balls: list[np.ndarray],
        marks: list[np.ndarray] | None = None,
    ) -> Scene:
        """The scene of a packing.

        Parameters
        ----------
        packing : Packing
        maps : list of SplineDensity, one a kind, or Bodies
        radii : array, shape (kinds,)
            How far each kind reaches from its centre, Å.
        bilayer : array
            Profile of a membrane by the distance from its middle, each `PROFILE_STEP`.
        balls : list of array
            Profile of each bead by the distance from its centre, each `PROFILE_STEP`.
        marks : list of array of int32, optional
            What labels particles, beads and vesicles have.
        """
        table = packing.particles
        kinds = table["class"].to_numpy(np.int64) - 1
        return cls(
            voxel_size=packing.voxel_size,
            kinds=kinds,
            centers=np.ascontiguousarray(table[["z", "y", "x"]], float),
            matrices=matrices_zyx(orientations(table)).reshape(-1, 3, 3),
            reaches=np.asarray(radii, float)[kinds],
            maps=maps,
            vesicles=vesicle_arrays(packing.vesicles) if len(packing.vesicles) else None,
            bilayer=bilayer,
            beads=np.ascontiguousarray(packing.beads[["z", "y", "x"]], float),
            balls=balls,
            marks=marks,
        )

    def particles_in(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Rows that reach the voxels from `low` to `high`, by rising number."""
        return _reaching(self.centers, self.reaches, low * self.voxel_size, high * self.voxel_size)


def _reaching(centers: np.ndarray, reaches: Any, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which spheres touch a box; all in Å."""
    away = np.maximum(np.maximum(low - centers, centers - high), 0)
    return np.flatnonzero((away**2).sum(1) <= np.square(reaches))


def density_block(out: np.ndarray, corner: np.ndarray, scene: Scene) -> None:
    """Add particles, membranes and beads to a block that begins at voxel `corner`, in volts."""
    _solids(out, corner, scene, mode=0)
    for i in scene.particles_in(corner, corner + out.shape - 1):
        one = scene.maps[scene.kinds[i]]
        one.add_to(
            out,
            corner=corner,
            voxel_size=scene.voxel_size,
            center_zyx=scene.centers[i],
            matrix_zyx=scene.matrices[i],
        )


def labels_block(out: np.ndarray, corner: np.ndarray, scene: Scene) -> None:
    """Write the scene's marks into a block that begins at voxel `corner`."""
    assert scene.marks is not None
    _solids(out, corner, scene, mode=1)
    _bodies(out, corner, scene, scene.marks[0])


def occupancy_block(out: np.ndarray, corner: np.ndarray, scene: Scene) -> None:
    """Write the share of each voxel that is filled into a block that begins at voxel `corner`."""
    _solids(out, corner, scene, mode=2)
    _bodies(out, corner, scene, None)


def _bodies(out: np.ndarray, corner: np.ndarray, scene: Scene, values: np.ndarray | None) -> None:
    b = scene.maps
    for i in scene.particles_in(corner, corner + out.shape - 1):
        kind = scene.kinds[i]
        _add_body(
            out, corner, scene.voxel_size, scene.centers[i], scene.matrices[i], scene.reaches[i],
            b.fields, b.starts[kind], b.sizes[kind], b.firsts[kind],
            values is not None, 0 if values is None else values[i],
        )  # fmt: skip


def _solids(out: np.ndarray, corner: np.ndarray, scene: Scene, *, mode: int) -> None:
    """Vesicles and beads."""
    low, high = corner * scene.voxel_size, (corner + out.shape - 1) * scene.voxel_size
    marks = scene.marks or [np.zeros(0)] * 3
    if scene.vesicles is not None:
        centers, matrices, axes = scene.vesicles
        far = axes.max(1) + PROFILE_STEP * len(scene.bilayer)
        for i in _reaching(centers, far, low, high):
            add_vesicle(
                out, corner, scene.voxel_size, centers[i], matrices[i], axes[i], scene.bilayer,
                PROFILE_STEP, mode, marks[2][i] if mode == 1 else 0,
            )  # fmt: skip
    sizes = np.array([PROFILE_STEP * len(ball) for ball in scene.balls])
    for i in _reaching(scene.beads, sizes, low, high) if len(scene.balls) else ():
        add_bead(
            out, corner, scene.voxel_size, scene.beads[i], scene.balls[i], PROFILE_STEP, mode,
            marks[1][i] if mode == 1 else 0,
        )  # fmt: skip


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _add_body(  # type: ignore[no-untyped-def]
    out, corner, voxel_size, center, matrix, radius, field, start, size, first_zyx, mark, value
):
    """Mark a body in a block with `value`, or with the share of the voxel that it fills."""
    for k in range(out.shape[0]):
        dz = (corner[0] + k) * voxel_size - center[0]
        if abs(dz) > radius:
            continue
        for j in range(out.shape[1]):
            dy = (corner[1] + j) * voxel_size - center[1]
            first, last = ball_row(dz, dy, radius, center[2], corner[2], out.shape[2], voxel_size)
            for i in range(first, last + 1):
                dx = (corner[2] + i) * voxel_size - center[2]
                far = distance_at(
                    field, start, size, first_zyx, voxel_size,
                    matrix[0, 0] * dz + matrix[1, 0] * dy + matrix[2, 0] * dx,
                    matrix[0, 1] * dz + matrix[1, 1] * dy + matrix[2, 1] * dx,
                    matrix[0, 2] * dz + matrix[1, 2] * dy + matrix[2, 2] * dx,
                )  # fmt: skip
                if mark:
                    if far <= 0:
                        out[k, j, i] = value
                else:
                    share = min(max(0.5 - far / voxel_size, 0.0), 1.0)
                    if share > out[k, j, i]:
                        out[k, j, i] = share
