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
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import matrices_zyx
from tomodask.data.particles import with_orientations
from tomodask.errors import InputError
from tomodask.simulation.collisions import Scene, bodies_of
from tomodask.simulation.shapes import Shape

__all__ = ["Packing", "pack"]

_BATCH = 8192  # places drawn at once


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
        As `place_vesicles` and `place_beads` give them, also with ``kind`` and ``class``; none by
        default.
    trials : int
        Places tried.
    """

    shape: tuple[int, int, int]
    voxel_size: float
    shapes: Mapping[str, Shape]
    particles: pd.DataFrame
    vesicles: pd.DataFrame = field(default_factory=lambda: _named(None, "vesicle", 0, ""))
    beads: pd.DataFrame = field(default_factory=lambda: _named(None, "bead", 0, ""))
    trials: int = 0

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
    scene = Scene.empty(bodies, slab, len(kinds), vesicles, beads)
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
