"""Whether bodies are clear of each other: fields, points and balls of all kinds in flat arrays.

What lies in the slab is kept in lists of cells; what is cheap is asked first: spheres within
bodies, beads, balls of one body in the field of the other, points of surfaces, membranes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numba
import numpy as np
import pandas as pd

from tomodask.errors import InputError
from tomodask.simulation.membranes import (
    MEMBRANE_HALF_THICKNESS,
    ellipsoid_distance,
    vesicle_arrays,
)
from tomodask.simulation.shapes import Shape, distance_at

__all__ = ["Bodies", "Scene", "bodies_of", "collide"]

_NEAR = 256  # particles that may reach one place


@dataclass(frozen=True)
class Bodies:
    """The shapes of all kinds in flat arrays, for kernels; lengths in Å, axes (z, y, x).

    Attributes
    ----------
    spacing : float
        Of the fields.
    fields : array of float32
        Distance fields one after the other; kind k has ``sizes[k]`` from ``starts[k]`` on.
    starts, sizes, firsts : arrays, shape (k,), (k, 3), (k, 3)
    points, ends : arrays, shape (n, 3), (k + 1,)
        Points of kind k are ``points[ends[k]:ends[k + 1]]``.
    balls, ball_ends : arrays, shape (m, 4), (k + 1,)
    radii, inner : arrays, shape (k,)
    """

    spacing: float
    fields: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    firsts: np.ndarray
    points: np.ndarray
    ends: np.ndarray
    balls: np.ndarray
    ball_ends: np.ndarray
    radii: np.ndarray
    inner: np.ndarray


def bodies_of(shapes: Mapping[str, Shape], voxel_size: float) -> Bodies:
    """Gather shapes for kernels."""
    each = list(shapes.values())
    fields = [shape.distance.ravel() for shape in each]
    points = [shape.points_zyx.astype(np.float64) for shape in each]
    return Bodies(
        spacing=float(voxel_size),
        fields=np.concatenate([*fields, np.empty(0, np.float32)]),
        starts=np.cumsum([0, *map(len, fields)])[:-1].astype(np.int64),
        sizes=np.array([shape.distance.shape for shape in each], np.int64).reshape(-1, 3),
        firsts=np.array([shape.first_zyx for shape in each], float).reshape(-1, 3),
        points=np.concatenate([*points, np.empty((0, 3))]),
        ends=np.cumsum([0, *map(len, points)]).astype(np.int64),
        balls=np.concatenate(
            [*(shape.balls.astype(np.float64) for shape in each), np.empty((0, 4))]
        ),
        ball_ends=np.cumsum([0, *(len(shape.balls) for shape in each)]).astype(np.int64),
        radii=np.array([shape.radius for shape in each], float),
        inner=np.array([shape.inner_radius for shape in each], float),
    )


@dataclass(frozen=True)
class Scene:
    """What lies there already; `centers` … are filled one by one."""

    bodies: Bodies
    centers: np.ndarray
    matrices: np.ndarray
    kinds: np.ndarray
    edge: float  # Å, of the cells
    heads: np.ndarray  # the last particle in each cell, or -1
    nexts: np.ndarray  # the one before it in the same cell
    vesicles: tuple[np.ndarray, np.ndarray, np.ndarray]
    beads: np.ndarray

    @classmethod
    def empty(
        cls,
        bodies: Bodies,
        slab: np.ndarray,
        count: int,
        vesicles: pd.DataFrame | None,
        beads: pd.DataFrame | None,
    ) -> Scene:
        """A slab (its edges in Å) for `count` particles, with what lies there beforehand."""
        # As many cells as particles, or larger ones: memory follows the particles.
        edge = (slab.prod() / max(count, 1)) ** (1 / 3)
        cells = np.maximum(np.ceil(slab / edge), 1).astype(int)
        shells = (np.empty((0, 3)), np.empty((0, 3, 3)), np.empty((0, 3)))
        spheres = np.empty((0, 4))
        if beads is not None:
            spheres = np.ascontiguousarray(beads[["z", "y", "x", "diameter"]], float)
            spheres[:, 3] /= 2
        return cls(
            bodies=bodies,
            centers=np.empty((count, 3)),
            matrices=np.empty((count, 3, 3)),
            kinds=np.empty(count, np.int64),
            edge=float(edge),
            heads=np.full(cells, -1, np.int64),
            nexts=np.full(count, -1, np.int64),
            vesicles=shells if vesicles is None or vesicles.empty else vesicle_arrays(vesicles),
            beads=spheres,
        )

    def first_fit(
        self, places: np.ndarray, matrix: np.ndarray, kind: int, placed: int, gap: float
    ) -> int:
        """The first of the places (Å) where a particle is clear of all others, or -1."""
        b = self.bodies
        reach = b.radii[self.kinds[0]] if placed else 0.0  # the largest come first
        found, full = _first_fit(
            places, matrix, kind, gap, reach, self.centers, self.matrices, self.kinds, self.edge,
            self.heads, self.nexts, *self.vesicles, self.beads, b.spacing, b.fields, b.starts,
            b.sizes, b.firsts, b.points, b.ends, b.balls, b.ball_ends, b.radii, b.inner,
        )  # fmt: skip
        if full:
            raise InputError(
                f"more than {_NEAR} small particles lie around one large one; pack kinds that are "
                "nearer in size"
            )
        return int(found)

    def add(self, number: int, place: np.ndarray, matrix: np.ndarray, kind: int) -> None:
        """Lay particle `number` at a place (Å)."""
        cell = tuple((place / self.edge).astype(int))
        self.centers[number], self.matrices[number], self.kinds[number] = place, matrix, kind
        self.nexts[number], self.heads[cell] = self.heads[cell], number


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _first_fit(  # type: ignore[no-untyped-def]
    places, matrix, kind, gap, most, centers, matrices, kinds, edge, heads, nexts,
    shell_centers, shell_matrices, shell_axes, beads,
    spacing, fields, starts, sizes, firsts, points, ends, balls, ball_ends, radii, inner,
):  # fmt: skip
    near = np.empty(_NEAR, np.int64)
    radius = radii[kind]
    reach = radius + most + gap
    for trial in range(places.shape[0]):
        z, y, x = places[trial, 0], places[trial, 1], places[trial, 2]
        count = 0
        clear = True
        low_z, high_z = max(int((z - reach) / edge), 0), int((z + reach) / edge)
        low_y, high_y = max(int((y - reach) / edge), 0), int((y + reach) / edge)
        low_x, high_x = max(int((x - reach) / edge), 0), int((x + reach) / edge)
        for k in range(low_z, min(high_z, heads.shape[0] - 1) + 1):
            for j in range(low_y, min(high_y, heads.shape[1] - 1) + 1):
                for i in range(low_x, min(high_x, heads.shape[2] - 1) + 1):
                    other = heads[k, j, i]
                    while other >= 0 and clear:
                        dz = centers[other, 0] - z
                        dy = centers[other, 1] - y
                        dx = centers[other, 2] - x
                        apart = dz * dz + dy * dy + dx * dx
                        both = radius + radii[kinds[other]] + gap
                        if apart < both * both:
                            core = inner[kind] + inner[kinds[other]] + gap
                            if apart < core * core:
                                clear = False
                            elif count == near.shape[0]:
                                return -1, True
                            else:
                                near[count] = other
                                count += 1
                        other = nexts[other]
                    if not clear:
                        break
                if not clear:
                    break
            if not clear:
                break
        if not clear:
            continue
        if not _clear_of_beads(
            z, y, x, matrix, kind, gap, beads, spacing, fields, starts, sizes, firsts, radii
        ):
            continue
        if collide(
            z, y, x, matrix, kind, near[:count], centers, matrices, kinds, gap,
            spacing, fields, starts, sizes, firsts, points, ends, balls, ball_ends, radii,
        ):  # fmt: skip
            continue
        if not _clear_of_shells(
            z, y, x, matrix, kind, gap, shell_centers, shell_matrices, shell_axes, points, ends,
            radii,
        ):  # fmt: skip
            continue
        return trial, False
    return -1, False


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _balls_within(  # type: ignore[no-untyped-def]
    z, y, x, turn, kind, center, other_turn, other, gap,
    spacing, fields, starts, sizes, firsts, balls, ball_ends,
):  # fmt: skip
    """Whether a ball within one body (z, y, x, turn, kind) comes nearer than `gap` to another."""
    size, first, start = sizes[other], firsts[other], starts[other]
    for n in range(ball_ends[kind], ball_ends[kind + 1]):
        u, v, w = balls[n, 0], balls[n, 1], balls[n, 2]
        pz = z - center[0] + turn[0, 0] * u + turn[0, 1] * v + turn[0, 2] * w
        py = y - center[1] + turn[1, 0] * u + turn[1, 1] * v + turn[1, 2] * w
        px = x - center[2] + turn[2, 0] * u + turn[2, 1] * v + turn[2, 2] * w
        if balls[n, 3] + gap > distance_at(
            fields, start, size, first, spacing,
            other_turn[0, 0] * pz + other_turn[1, 0] * py + other_turn[2, 0] * px,
            other_turn[0, 1] * pz + other_turn[1, 1] * py + other_turn[2, 1] * px,
            other_turn[0, 2] * pz + other_turn[1, 2] * py + other_turn[2, 2] * px,
        ):  # fmt: skip
            return True
    return False


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _points_within(  # type: ignore[no-untyped-def]
    z, y, x, turn, kind, center, other_turn, other, gap,
    spacing, fields, starts, sizes, firsts, points, ends, radii,
):  # fmt: skip
    """Whether a point of the surface of one body comes nearer than `gap` to another."""
    far = (radii[other] + gap) ** 2
    size, first, start = sizes[other], firsts[other], starts[other]
    dz, dy, dx = z - center[0], y - center[1], x - center[2]
    for n in range(ends[kind], ends[kind + 1]):
        u, v, w = points[n, 0], points[n, 1], points[n, 2]
        pz = dz + turn[0, 0] * u + turn[0, 1] * v + turn[0, 2] * w
        py = dy + turn[1, 0] * u + turn[1, 1] * v + turn[1, 2] * w
        px = dx + turn[2, 0] * u + turn[2, 1] * v + turn[2, 2] * w
        if pz * pz + py * py + px * px < far and gap > distance_at(
            fields, start, size, first, spacing,
            other_turn[0, 0] * pz + other_turn[1, 0] * py + other_turn[2, 0] * px,
            other_turn[0, 1] * pz + other_turn[1, 1] * py + other_turn[2, 1] * px,
            other_turn[0, 2] * pz + other_turn[1, 2] * py + other_turn[2, 2] * px,
        ):  # fmt: skip
            return True
    return False


@numba.njit(cache=True, nogil=True, error_model="numpy")
def collide(  # type: ignore[no-untyped-def]
    z, y, x, turn, kind, near, centers, turns, kinds, gap,
    spacing, fields, starts, sizes, firsts, points, ends, balls, ball_ends, radii,
):  # fmt: skip
    """Whether a body is nearer than `gap` to one of those listed in `near`.

    The balls within bodies come first, which find most collisions at once; then the surfaces.
    """
    for other in near:
        o, t, k = centers[other], turns[other], kinds[other]
        here = o[0], o[1], o[2]
        if _balls_within(
            z, y, x, turn, kind, o, t, k, gap,
            spacing, fields, starts, sizes, firsts, balls, ball_ends,
        ) or _balls_within(
            *here, t, k, (z, y, x), turn, kind, gap,
            spacing, fields, starts, sizes, firsts, balls, ball_ends,
        ):  # fmt: skip
            return True
    for other in near:
        o, t, k = centers[other], turns[other], kinds[other]
        here = o[0], o[1], o[2]
        if _points_within(
            z, y, x, turn, kind, o, t, k, gap,
            spacing, fields, starts, sizes, firsts, points, ends, radii,
        ) or _points_within(
            *here, t, k, (z, y, x), turn, kind, gap,
            spacing, fields, starts, sizes, firsts, points, ends, radii,
        ):  # fmt: skip
            return True
    return False


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _clear_of_beads(  # type: ignore[no-untyped-def]
    z, y, x, turn, kind, gap, beads, spacing, fields, starts, sizes, firsts, radii
):
    for n in range(beads.shape[0]):
        dz, dy, dx = beads[n, 0] - z, beads[n, 1] - y, beads[n, 2] - x
        need = beads[n, 3] + gap
        if dz * dz + dy * dy + dx * dx < (radii[kind] + need) ** 2 and need > distance_at(
            fields, starts[kind], sizes[kind], firsts[kind], spacing,
            turn[0, 0] * dz + turn[1, 0] * dy + turn[2, 0] * dx,
            turn[0, 1] * dz + turn[1, 1] * dy + turn[2, 1] * dx,
            turn[0, 2] * dz + turn[1, 2] * dy + turn[2, 2] * dx,
        ):  # fmt: skip
            return False
    return True


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _clear_of_shells(z, y, x, turn, kind, gap, centers, matrices, axes, points, ends, radii):  # type: ignore[no-untyped-def]
    need = MEMBRANE_HALF_THICKNESS + gap
    for n in range(centers.shape[0]):
        m, a, b, c = matrices[n], axes[n, 0], axes[n, 1], axes[n, 2]
        dz, dy, dx = z - centers[n, 0], y - centers[n, 1], x - centers[n, 2]
        if math.sqrt(dz * dz + dy * dy + dx * dx) > max(a, b, c) + radii[kind] + need:
            continue
        pz = m[0, 0] * dz + m[1, 0] * dy + m[2, 0] * dx
        py = m[0, 1] * dz + m[1, 1] * dy + m[2, 1] * dx
        px = m[0, 2] * dz + m[1, 2] * dy + m[2, 2] * dx
        if abs(ellipsoid_distance(pz, py, px, a, b, c)) > radii[kind] + need:
            continue
        least = min(a, b, c)
        # A membrane through the body cuts its surface, near which there are points.
        for i in range(ends[kind], ends[kind + 1]):
            u, v, w = points[i, 0], points[i, 1], points[i, 2]
            sz = dz + turn[0, 0] * u + turn[0, 1] * v + turn[0, 2] * w
            sy = dy + turn[1, 0] * u + turn[1, 1] * v + turn[1, 2] * w
            sx = dx + turn[2, 0] * u + turn[2, 1] * v + turn[2, 2] * w
            pz = m[0, 0] * sz + m[1, 0] * sy + m[2, 0] * sx
            py = m[0, 1] * sz + m[1, 1] * sy + m[2, 1] * sx
            px = m[0, 2] * sz + m[1, 2] * sy + m[2, 2] * sx
            ratio = math.sqrt((pz / a) ** 2 + (py / b) ** 2 + (px / c) ** 2)
            if abs(ratio - 1) * least > need:  # at least as far as this
                continue
            if abs(ellipsoid_distance(pz, py, px, a, b, c)) < need:
                return False
    return True
