"""Crowded specimens: rigid particles of many kinds in a slab, at random, without overlap.

Random sequential addition: one particle after the other, the largest kinds first, is given its
orientation once, and then places are drawn until it is clear of all that lies there.  So
orientations are uniform and independent of each other whatever the crowding; only places know of
their neighbours.  Two particles are held apart by their true bodies (`shapes.py`), tested as points
of the surface of one in the distance field of the other, both ways; spheres about them and lists of
cells spare nearly all of these tests.  Memory goes with the number of particles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numba
import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import matrices_zyx
from tomodask.data.particles import with_orientations
from tomodask.errors import InputError
from tomodask.simulation.membranes import (
    MEMBRANE_HALF_THICKNESS,
    ellipsoid_distance,
    vesicle_arrays,
)
from tomodask.simulation.shapes import Shape, distance_at

__all__ = ["Bodies", "Packing", "bodies_of", "pack"]

_BATCH = 8192  # places drawn at once
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
class Packing:
    """What lies where in a specimen.

    Attributes
    ----------
    shape : (int, int, int)
        Voxels of the slab, (z, y, x).
    voxel_size : float
        Å.
    shapes : mapping of str to Shape
        The kinds.
    particles : DataFrame
        A row a particle, in the order in which they were placed: ``tomogram``, ``z, y, x`` (Å),
        ``quat_*`` (reference → particle), ``kind`` and ``class`` (the kind's number, from 1).
    vesicles, beads : DataFrame
        As `place_vesicles` and `place_beads` give them, also with ``kind`` and ``class``.
    trials : int
        Places tried.
    """

    shape: tuple[int, int, int]
    voxel_size: float
    shapes: Mapping[str, Shape]
    particles: pd.DataFrame
    vesicles: pd.DataFrame
    beads: pd.DataFrame
    trials: int

    @property
    def classes(self) -> dict[str, int]:
        """Numbers in a class map: the kinds from 1, then beads, then membranes; 0 is empty."""
        return {name: i for i, name in enumerate([*self.shapes, "bead", "vesicle"], start=1)}

    @property
    def counts(self) -> dict[str, int]:
        """Particles of each kind."""
        found = self.particles["kind"].value_counts()
        return {name: int(found.get(name, 0)) for name in self.shapes}

    @property
    def occupancy(self) -> float:
        """Share of the slab by the particles' bounding spheres."""
        volumes = {name: _ball(shape.radius) for name, shape in self.shapes.items()}
        return self._share(volumes)

    @property
    def molecular_occupancy(self) -> float:
        """Share of the slab that the particles' bodies fill."""
        return self._share({name: shape.volume for name, shape in self.shapes.items()})

    def _share(self, volumes: Mapping[str, float]) -> float:
        filled = sum(volumes[name] * count for name, count in self.counts.items())
        return filled / _slab(self.shape, self.voxel_size)


def pack(
    shapes: Mapping[str, Shape],
    *,
    shape: tuple[int, int, int],
    voxel_size: float,
    copies: Mapping[str, int] | None = None,
    occupancy: float | None = None,
    gap: float | None = None,
    vesicles: pd.DataFrame | None = None,
    beads: pd.DataFrame | None = None,
    name: str = "specimen",
    trials: int = 500_000,
    seed: int = 0,
) -> Packing:
    """Pack particles into a slab at random, without overlap.

    Parameters
    ----------
    shapes : mapping of str to Shape
        The kinds by name, made for `voxel_size`.
    shape : (int, int, int)
        Voxels of the slab, (z, y, x).
    voxel_size : float
        Å.
    copies : mapping of str to int, optional
        How many of each kind; with `occupancy`, in which proportion instead.
    occupancy : float, optional
        Share of the slab, 0 to 1, that bounding spheres of the particles shall fill at least; in
        equal numbers of each kind unless `copies` says otherwise.  At least one of the two.
    gap : float, optional
        Å, least distance between two bodies; by default, and at least, one voxel, so that no voxel
        belongs to two.
    vesicles, beads : DataFrame, optional
        What lies there already: see `place_vesicles` and `place_beads`.  Particles keep clear of
        them, and may lie inside vesicles.
    name : str
        The column ``tomogram`` of the table.
    trials : int
        Places that are tried for one particle before it is given up.
    seed : int
        The same seed gives the same bytes.

    Returns
    -------
    Packing
        Each particle's bounding sphere lies wholly inside the slab.

    Raises
    ------
    InputError
        If a parameter is out of range, a kind is larger than the slab, or not all particles find
        room within `trials`: the message says what was reached.

    Notes
    -----
    Widom, J. Chem. Phys. 44, 3888 (1966), on random sequential addition: equal spheres come to
    rest at 38 %.  Bodies that are not round get above it by their bounding spheres.

    Examples
    --------
    >>> from tomodask.simulation.phantom import phantom_map
    >>> from tomodask.simulation.shapes import particle_shape
    >>> shapes = {"particle": particle_shape(phantom_map())}
    >>> packing = pack(shapes, shape=(64, 96, 96), voxel_size=10.0, copies={"particle": 5})
    >>> packing.counts, round(packing.occupancy, 2)
    ({'particle': 5}, 0.11)
    """
    gap = float(voxel_size) if gap is None else float(gap)
    _check(shapes, shape, voxel_size, copies, occupancy, gap, trials)
    wanted = _numbers(shapes, shape, voxel_size, copies, occupancy)
    bodies = bodies_of(shapes, voxel_size)
    names = list(shapes)
    order = sorted(range(len(names)), key=lambda k: -shapes[names[k]].radius)
    kinds = np.repeat(order, [wanted[names[k]] for k in order]).astype(np.int64)

    slab = np.asarray(shape, float) * voxel_size
    scene = _Scene.empty(bodies, slab, len(kinds), vesicles, beads)
    turns = Rotation.random(len(kinds), rng=np.random.default_rng([seed, 0]))
    matrices = matrices_zyx(turns).reshape(-1, 3, 3)
    far = slab - voxel_size  # the last voxel's middle: no voxel of a particle is cut off
    tried = 0
    for number, kind in enumerate(kinds.tolist()):
        rng = np.random.default_rng([seed, 3, number])
        radius = bodies.radii[kind]
        for begin in range(0, trials, _BATCH):
            batch = 64 if begin == 0 else min(_BATCH, trials - begin)
            places = rng.uniform(radius, far - radius, (batch, 3))
            found = scene.first_fit(places, matrices[number], kind, number, gap)
            tried += batch if found < 0 else found + 1
            if found >= 0:
                scene.add(number, places[found], matrices[number], kind)
                break
        else:
            _out_of_reach(shapes, shape, voxel_size, kinds, number, occupancy, wanted, trials)

    table = pd.DataFrame({"tomogram": name}, index=range(len(kinds)))
    table[["z", "y", "x"]] = scene.centers
    table = with_orientations(table, turns)
    table["kind"] = np.array(names, dtype=object)[kinds] if len(kinds) else []
    table["class"] = kinds + 1
    return Packing(
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        voxel_size=float(voxel_size),
        shapes=dict(shapes),
        particles=table,
        vesicles=_named(vesicles, "vesicle", len(names) + 2, name),
        beads=_named(beads, "bead", len(names) + 1, name),
        trials=tried,
    )


def _ball(radius: float) -> float:
    return 4 / 3 * math.pi * radius**3


def _slab(shape: tuple[int, int, int], voxel_size: float) -> float:
    return float(np.prod(np.asarray(shape, float) * voxel_size))


def _named(table: pd.DataFrame | None, kind: str, number: int, name: str) -> pd.DataFrame:
    out = pd.DataFrame(columns=["z", "y", "x"]) if table is None else table.reset_index(drop=True)
    out = out.assign(tomogram=name, kind=kind)
    out["class"] = number
    return out


def _check(
    shapes: Mapping[str, Shape],
    shape: tuple[int, int, int],
    voxel_size: float,
    copies: Mapping[str, int] | None,
    occupancy: float | None,
    gap: float,
    trials: int,
) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"shape must be three numbers of voxels (z, y, x), got {shape}")
    if copies is None and occupancy is None:
        raise InputError("give copies or occupancy: how many particles shall be packed")
    if occupancy is not None and not 0 < occupancy < 1:
        raise InputError(f"occupancy must be above 0 and below 1, got {occupancy}")
    if gap < voxel_size * (1 - 1e-9):
        raise InputError(
            f"gap must be at least one voxel ({voxel_size:g} Å), so that none belongs to two "
            f"particles, got {gap:g}"
        )
    if trials < 1:
        raise InputError(f"trials must be at least 1, got {trials}")
    if not shapes and occupancy is not None:
        raise InputError(f"occupancy={occupancy} needs at least one kind of particle")
    if {"bead", "vesicle"} & set(shapes):
        raise InputError('kinds of particles may not be called "bead" or "vesicle"')
    for name, count in (copies or {}).items():
        if name not in shapes:
            raise InputError(f"copies names {name!r}, the kinds are {', '.join(shapes)}")
        if count < 0 or count != int(count):
            raise InputError(f"copies of {name!r} must be a whole number from 0 on, got {count}")
    for name, one in shapes.items():
        if not math.isclose(one.voxel_size, voxel_size, rel_tol=1e-6):
            raise InputError(
                f"{name!r} is shaped for voxels of {one.voxel_size:g} Å, the slab has "
                f"{voxel_size:g} Å; make it with particle_shape(…, voxel_size={voxel_size:g})"
            )
        if 2 * one.radius > (min(shape) - 1) * voxel_size:
            raise InputError(
                f"{name!r} is {2 * one.radius:.0f} Å across and does not fit into a slab of "
                f"{'×'.join(map(str, shape))} voxels of {voxel_size:g} Å; ask for a larger shape"
            )


def _numbers(
    shapes: Mapping[str, Shape],
    shape: tuple[int, int, int],
    voxel_size: float,
    copies: Mapping[str, int] | None,
    occupancy: float | None,
) -> dict[str, int]:
    share = {name: 1 if copies is None else int(copies.get(name, 0)) for name in shapes}
    if occupancy is None:
        return share
    one = sum(count * _ball(shapes[name].radius) for name, count in share.items())
    if not one:
        raise InputError(f"copies are all 0, occupancy={occupancy} cannot be reached")
    times = occupancy * _slab(shape, voxel_size) / one
    return {name: math.ceil(count * times - 1e-9) for name, count in share.items()}


def _out_of_reach(
    shapes: Mapping[str, Shape],
    shape: tuple[int, int, int],
    voxel_size: float,
    kinds: np.ndarray,
    placed: int,
    occupancy: float | None,
    wanted: Mapping[str, int],
    trials: int,
) -> None:
    names = list(shapes)
    volumes = np.array([_ball(shapes[name].radius) for name in names])
    reached = volumes[kinds[:placed]].sum() / _slab(shape, voxel_size)
    asked = volumes[kinds].sum() / _slab(shape, voxel_size)
    here = names[kinds[placed]]
    number = int((kinds[:placed] == kinds[placed]).sum())
    target = f"occupancy={occupancy:g}" if occupancy is not None else f"occupancy {asked:.3g}"
    raise InputError(
        f"{target} is out of reach: {placed} of {len(kinds)} particles found room in "
        f"{'×'.join(map(str, shape))} voxels, occupancy {reached:.3f} by bounding spheres; "
        f"{here!r} stopped at {number} of {wanted[here]} after {trials:,} places. Ask for less, or "
        "for more small kinds beside the large ones, or raise trials"
    )


@dataclass(frozen=True)
class _Scene:
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
    ) -> _Scene:
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
        if _collide(
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
def _collide(  # type: ignore[no-untyped-def]
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
