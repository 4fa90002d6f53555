"""One map laid on another, and poses that follow.

Half maps that are kept apart may drift apart, as whole bodies: turning and moving one brings them
together again, six numbers that carry no detail from one half to the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import scipy.optimize
import xarray as xr
from scipy.spatial.transform import Rotation

from tomodask.alignment.poses import align_subtomograms
from tomodask.arrays.geometry import matrices_zyx
from tomodask.arrays.sampling import cut_out, half_sphere, padded_spectrum, sample, soft_sphere
from tomodask.arrays.symmetry import reduced, symmetry_group
from tomodask.averaging.map_filters import from_half_sphere
from tomodask.data.columns import QUATERNION, SHIFT
from tomodask.data.particles import orientations
from tomodask.rounds.map_pair import MapPair

__all__ = [
    "Motion",
    "correlation_under",
    "superpose",
    "turned_map",
    "with_motion",
]

_STEP = 20.0  # degrees, of the search


@dataclass(frozen=True)
class Motion:
    """Takes one map to another: ``b(x) = a(R⁻¹ (x − t))``.

    Attributes
    ----------
    rotation : Rotation
        R, acting on (x, y, z) columns.
    shift_xyz : array of float64, shape (3,)
        t, Å.
    score : float
        Correlation of the maps after it, or of a group's frame what `find_axes` says.
    """

    rotation: Rotation
    shift_xyz: np.ndarray
    score: float

    @property
    def angle(self) -> float:
        """Degrees."""
        return float(np.rad2deg(self.rotation.magnitude()))

    @property
    def length(self) -> float:
        """Å."""
        return float(np.linalg.norm(self.shift_xyz))


def superpose(
    fixed: np.ndarray,
    moving: np.ndarray,
    *,
    voxel_size: float,
    resolution: float,
    diameter: float | None = None,
    symmetry: str = "C1",
    shift_range: float | None = None,
    everywhere: bool = False,
    method: Literal["simplex", "gradient"] = "simplex",
) -> Motion:
    """The motion that takes `fixed` to `moving`.  Computes, in this process.

    Parameters
    ----------
    fixed, moving : array, shape (n, n, n)
    voxel_size : float
        Å.
    resolution : float
        Finest detail compared, Å.
    diameter : float, optional
        Of the soft sphere about `fixed`, Å.
    symmetry : str
        Of both maps, about their own z axes.  The motion leaves the axes in their place: of Cn it
        is a turn about z and a shift along z, of other groups nothing.
    shift_range : float, optional
        Of the search of all rotations, Å; by default a tenth of the box.
    everywhere : bool
        Search all rotations first, so that `moving` may lie anyhow (with Cn, stand upside down;
        with Dn, be turned by 180°/n, which lays the twofold axes on each other, but not the
        particle; with D2 and T, by turns of the cube); by default the nearest optimum is found,
        which is where maps lie that came of one.

    Returns
    -------
    Motion
        Its score is the correlation of the maps in the band, after it.
    """
    group = symmetry_group(symmetry)
    cyclic = symmetry.strip().upper().startswith("C")
    free = 6 if len(group) == 1 else (2 if cyclic else 0)
    over, start = Rotation.identity(), np.zeros(6)
    if everywhere and free:
        over, start = _lying_anyhow(
            fixed, moving, voxel_size, resolution, diameter, symmetry, shift_range
        )
    pair = MapPair.of(fixed, moving, voxel_size, resolution, diameter)
    if not free:
        turns = _settings(symmetry) if everywhere else [over]
        scores = [pair.correlation(one, np.zeros(3)) for one in turns]
        best = int(np.argmax(scores))
        return Motion(turns[best], np.zeros(3), scores[best])
    if method == "gradient" and free == 6:
        turn, shift, score = pair.nearest_optimum(Rotation.from_rotvec(start[:3]), start[3:])
        return Motion(turn, shift * voxel_size, score)
    axes = np.arange(6) if free == 6 else np.array([2, 5])  # turn about z, move along z
    scale = pair.scale

    def motion(x: np.ndarray) -> tuple[Rotation, np.ndarray]:
        full = start.copy()
        full[axes] += x * scale[axes]
        return Rotation.from_rotvec(full[:3]) * over, full[3:]

    x = np.zeros(len(axes))
    for size in (0.5, 0.1):  # simplexes of unlike size: two that come to the same place found it
        found = scipy.optimize.minimize(
            lambda y: -pair.correlation(*motion(y)),
            x,
            method="Nelder-Mead",
            options={
                "initial_simplex": np.vstack([x, x + size * np.eye(len(x))]),
                "xatol": 1e-4,
                "fatol": 1e-9,
                "maxiter": 600,
            },
        )
        x = found.x
    turn, shift = motion(x)
    return Motion(turn, shift * voxel_size, -float(found.fun))


def correlation_under(
    motion: Motion,
    fixed: np.ndarray,
    moving: np.ndarray,
    *,
    voxel_size: float,
    resolution: float,
    diameter: float | None = None,
) -> float:
    """Correlation of two maps in a band once `fixed` has made the motion; as of `superpose`."""
    pair = MapPair.of(fixed, moving, voxel_size, resolution, diameter)
    return pair.correlation(motion.rotation, np.asarray(motion.shift_xyz) / voxel_size)


def _settings(symmetry: str) -> list[Rotation]:
    """Turns that lay a group's axes on axes of their kind, one of each that differ by the group.

    They are the group's normaliser less the group itself, the identity first: what two maps of that
    symmetry, each in its frame, may differ by.  Of D2 and T it is within the turns of the cube (O),
    of Dn D2n, of O and I themselves.
    """
    name, group = symmetry.strip().upper(), symmetry_group(symmetry)
    if name in ("D2", "T"):
        wider = symmetry_group("O")
    elif name.startswith("D"):
        wider = Rotation.from_euler("z", [[0.0], [180.0 / int(name[1:])]], degrees=True)
    else:
        wider = Rotation.identity(1)
    found: list[Rotation] = []
    for one in wider:
        if all(reduced(other.inv() * one, group).magnitude() > 1e-6 for other in found):
            found.append(one)
    return found


def _lying_anyhow(
    fixed: np.ndarray,
    moving: np.ndarray,
    voxel_size: float,
    resolution: float,
    diameter: float | None,
    symmetry: str,
    shift_range: float | None,
) -> tuple[Rotation, np.ndarray]:
    """By a search of all rotations: a turn by half a circle or none, then turn vector and shift."""
    attrs = {"voxel_size": float(voxel_size)}
    box = xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), np.asarray(moving, np.float32)[None])},
        coords={"particle": [0]},
        attrs=attrs,
    )
    found = align_subtomograms(
        box,
        xr.DataArray(np.asarray(fixed, np.float32), dims=("z", "y", "x"), attrs=attrs),
        tilt_range=(-90.0, 90.0),
        angular_step=_STEP,
        shift_range=shift_range,
        resolution=resolution,
        diameter=diameter,
        symmetry=symmetry,
        quiet=True,
    )
    table = found.compute(scheduler="synchronous")
    rotation = orientations(table)[0]
    shift = table[list(SHIFT[::-1])].to_numpy(float)[0] / voxel_size
    if len(symmetry_group(symmetry)) == 1:
        return Rotation.identity(), np.concatenate([rotation.as_rotvec(), shift])
    # Only what leaves the axis in its place.
    over = Rotation.identity()
    if rotation.as_matrix()[2, 2] < 0:
        over = Rotation.from_quat([1, 0, 0, 0])
    _, _, z, w = (rotation * over.inv()).as_quat()
    about = Rotation.from_quat([0, 0, z, w] if z or w else [0, 0, 0, 1])
    return over, np.concatenate([about.as_rotvec(), [0, 0, shift[2]]])


def with_motion(poses: pd.DataFrame, motion: Motion) -> pd.DataFrame:
    """Poses on `moving`, as poses on `fixed` (see `superpose`).

    A box that shows ``moving`` at (R_p, t_p) shows ``fixed`` at (R_p R, t_p + R_p t).  Rows without
    a pose stay so.
    """
    known = poses[list(QUATERNION)].notna().all(axis=1).to_numpy()
    turns = orientations(poses[known])
    out, columns = poses.copy(), list(SHIFT[::-1])
    out.loc[known, list(QUATERNION)] = (turns * motion.rotation).as_quat(canonical=True)
    before = poses.loc[known, columns].fillna(0.0).to_numpy(float)
    out.loc[known, columns] = before + turns.apply(motion.shift_xyz)
    return out


def turned_map(volume: np.ndarray, motion: Motion, *, voxel_size: float) -> np.ndarray:
    """A map brought back by a motion: ``a(y) = b(R y + t)``, for a map b that the motion made.

    Returns
    -------
    array of float32, shape (n, n, n)
    """
    n = volume.shape[0]
    inside = cut_out(np.asarray(volume, np.float32), soft_sphere(n, n / 2 - 4, edge=3.0))
    k = half_sphere(n / 2 - 1)
    spectrum = padded_spectrum(inside, radius=n / 2 - 1)
    turn = matrices_zyx(motion.rotation)
    shift = np.asarray(motion.shift_xyz)[::-1] / voxel_size
    values = sample(spectrum, k, turn) * np.exp(2j * np.pi / n * (k @ (turn.T @ shift)))
    return from_half_sphere(values, k, n)
