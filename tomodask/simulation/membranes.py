"""What is in a specimen beside particles: vesicles and gold beads, as analytic functions.

A vesicle is a closed lipid bilayer, a sphere or an ellipsoid; a bead is a gold sphere.  Neither is
ever a map: their potential is evaluated where a block needs it.

The bilayer's profile is computed from volumes and areas of its parts, as X-ray diffraction on DOPC
gives them [1]_ (heads of 319 Å³ at ±18.5 Å, 72 Å² a lipid, hydrocarbon of half thickness 13.5 Å,
CH2 of 28 Å³, CH3 of 54 Å³), times the electron scattering factors of their atoms at angle 0 [2]_,
above amorphous ice of 0.94 g/cm³.  Gold (4 atoms in 4.0782³ Å³) is 25 V above ice in this way.

.. [1] Nagle & Tristram-Nagle, "Structure of lipid bilayers", Biochim. Biophys. Acta 1469, 159
   (2000), doi:10.1016/S0304-4157(00)00016-2.
.. [2] Peng, Ren, Dudarev & Whelan, Acta Cryst. A52, 257 (1996), doi:10.1107/S0108767395014371.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numba
import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import matrices_zyx
from tomodask.data.particles import orientations, with_orientations
from tomodask.errors import InputError
from tomodask.simulation.ball import ball_row, put_profile

__all__ = [
    "GOLD_POTENTIAL",
    "MEMBRANE_HALF_THICKNESS",
    "add_bead",
    "add_vesicle",
    "bilayer_profile",
    "ellipsoid_distance",
    "place_beads",
    "place_vesicles",
]

MEMBRANE_HALF_THICKNESS = 24.0  # Å, from the middle to where the heads end: what is labelled
GOLD_POTENTIAL = 25.0  # V above ice
_ATTEMPTS = 10_000

_VOLT_AREA = 47.878  # V Å²: h² / (2 pi m e), a scattering length in Å to a potential times volume
_FACTORS = {"H": 0.5288, "C": 2.5088, "N": 2.2135, "O": 1.9834, "P": 5.4876}  # Å, at angle 0
_ICE = _VOLT_AREA * (2 * 0.5288 + 1.9834) / (18.015 / (0.94 * 0.60221))  # V
_HEAD_PLACE, _HEAD_WIDTH = 18.5, 3.6  # Å
_TAIL_HALF, _TAIL_EDGE = 13.5, 2.4  # Å
_METHYL_WIDTH = 3.0  # Å
_AREA = 72.0  # Å² a lipid


def _excess(volume: float, **atoms: int) -> float:
    """V Å³: the potential of a group above that of as much ice, integrated."""
    factor = sum(_FACTORS[element] * count for element, count in atoms.items())
    return _VOLT_AREA * factor - _ICE * volume


_HEAD = _excess(319.0, C=10, H=18, N=1, O=8, P=1) / _AREA  # V Å, of a leaflet
_TAIL = _excess(28.0, C=1, H=2) / 28.0  # V
_METHYL = 4 * (_excess(54.0, C=1, H=3) - 54.0 * _TAIL) / _AREA  # V Å, of both leaflets


def bilayer_profile(distance: np.ndarray, *, blur: float = 0.0) -> np.ndarray:
    """Potential of a lipid bilayer above ice, by the distance from its middle.

    Two Gaussians of the heads, a slab of hydrocarbon, and the dip of the methyl ends.

    Parameters
    ----------
    distance : array
        Å, of either sign.
    blur : float
        Å: deviation of a Gaussian that the profile is convolved with; the bilayer is taken as
        flat on that scale.

    Returns
    -------
    array of float64
        V.

    Examples
    --------
    >>> bilayer_profile(np.array([0.0, 18.5, 60.0])).round(1).tolist()
    [0.5, 2.1, 0.0]
    """
    from scipy.special import erf

    d = np.asarray(distance, np.float64)

    def gaussian(place: float, width: float) -> np.ndarray:
        s = math.hypot(width, blur)
        return np.asarray(np.exp(-0.5 * ((d - place) / s) ** 2) / (s * math.sqrt(2 * math.pi)))

    edge = math.sqrt(2) * math.hypot(_TAIL_EDGE, blur)
    slab = 0.5 * (erf((d + _TAIL_HALF) / edge) - erf((d - _TAIL_HALF) / edge))
    heads = gaussian(-_HEAD_PLACE, _HEAD_WIDTH) + gaussian(_HEAD_PLACE, _HEAD_WIDTH)
    return np.asarray(_HEAD * heads + _TAIL * slab + _METHYL * gaussian(0.0, _METHYL_WIDTH))


def place_vesicles(
    shape: tuple[int, int, int],
    *,
    voxel_size: float,
    count: int,
    radius: tuple[float, float],
    elongation: float = 1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Vesicles at random places in a slab, whole inside it, none in touch with another.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels of the slab, (z, y, x).
    voxel_size : float
        Å.
    count : int
    radius : (float, float)
        Å: drawn uniformly from this range, to the bilayer's middle.
    elongation : float
        1: spheres.  Above, an ellipsoid's semi-axes are the radius times factors drawn from
        ``1 / elongation`` to `elongation`; at most 1.5.
    seed : int

    Returns
    -------
    DataFrame
        A row a vesicle: ``z, y, x`` (Å), ``quat_*`` and the semi-axes ``radius_z, radius_y,
        radius_x`` (Å) before it is turned.

    Raises
    ------
    InputError
        If a parameter is out of range or so many do not fit.
    """
    low, high = map(float, radius)
    if not 100.0 <= low <= high:
        raise InputError(
            f"radius of vesicles must be (low, high) with 100 Å ≤ low ≤ high, got {radius}"
        )
    if not 1 <= elongation <= 1.5:
        raise InputError(f"elongation of vesicles must be from 1 to 1.5, got {elongation}")
    rng = np.random.default_rng([seed, 1])
    axes = rng.uniform(low, high, (count, 1)) * np.exp(
        rng.uniform(-1, 1, (count, 3)) * math.log(elongation)
    )
    axes = axes[np.argsort(-axes.max(1), kind="stable")]  # the largest find room first
    turns = Rotation.random(count, rng=rng) if count else Rotation.identity(0)
    reach = axes.max(1, initial=0) + MEMBRANE_HALF_THICKNESS + voxel_size

    def free(number: int, place: np.ndarray, placed: np.ndarray) -> bool:
        apart = np.linalg.norm(placed - place, axis=1)
        return bool((apart > reach[:number] + reach[number]).all())

    table = pd.DataFrame(
        _place(rng, shape, voxel_size, reach, free, what="vesicles"), columns=["z", "y", "x"]
    )
    table = with_orientations(table, turns)
    table[["radius_z", "radius_y", "radius_x"]] = axes
    return table


def place_beads(
    shape: tuple[int, int, int],
    *,
    voxel_size: float,
    count: int,
    diameter: float = 100.0,
    vesicles: pd.DataFrame | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Gold beads at random places in a slab, whole inside it, in touch with nothing.

    Parameters
    ----------
    shape, voxel_size, count, seed
        As for `place_vesicles`.
    diameter : float
        Å.
    vesicles : DataFrame, optional
        As `place_vesicles` gives them; beads lie inside or outside, not in the membrane.

    Returns
    -------
    DataFrame
        A row a bead: ``z, y, x``, ``diameter`` (Å).

    Raises
    ------
    InputError
        If a parameter is out of range or so many do not fit.
    """
    if not diameter > 0:
        raise InputError(f"diameter of beads must be above 0 Å, got {diameter}")
    rng = np.random.default_rng([seed, 2])
    gap = diameter / 2 + voxel_size
    shells = [] if vesicles is None else list(vesicle_arrays(vesicles))

    def free(number: int, place: np.ndarray, placed: np.ndarray) -> bool:
        if (np.linalg.norm(placed - place, axis=1) < diameter + voxel_size).any():
            return False
        return all(
            abs(ellipsoid_distance(*(matrix.T @ (place - center)), *axes))
            > gap + MEMBRANE_HALF_THICKNESS
            for center, matrix, axes in zip(*shells, strict=True)
        )

    reach = np.full(count, diameter / 2)
    places = _place(rng, shape, voxel_size, reach, free, what="beads")
    return pd.DataFrame(places, columns=["z", "y", "x"]).assign(diameter=float(diameter))


def vesicle_arrays(vesicles: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (n, 3) in Å, matrices (n, 3, 3) and semi-axes (n, 3) in Å, all (z, y, x)."""
    return (
        np.ascontiguousarray(vesicles[["z", "y", "x"]], float),
        matrices_zyx(orientations(vesicles)).reshape(-1, 3, 3),
        np.ascontiguousarray(vesicles[["radius_z", "radius_y", "radius_x"]], float),
    )


def _place(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    voxel_size: float,
    reach: np.ndarray,
    free: Callable[[int, np.ndarray, np.ndarray], bool],
    *,
    what: str,
) -> np.ndarray:
    """Places for things of the radii `reach` (Å), one by one where `free` allows it."""
    placed = np.empty((0, 3))
    far = (np.asarray(shape) - 1) * voxel_size
    for number, radius in enumerate(reach):
        if (2 * radius > far).any():
            raise InputError(
                f"{what} reach {2 * radius:.0f} Å across, the slab is {tuple(shape)} voxels of "
                f"{voxel_size:g} Å; ask for smaller ones"
            )
        for _ in range(_ATTEMPTS):
            place = rng.uniform(radius, far - radius)
            if free(number, place, placed):
                placed = np.vstack([placed, place])
                break
        else:
            raise InputError(
                f"only {number} of {len(reach)} {what} fit into {tuple(shape)} voxels; "
                "ask for fewer or smaller ones"
            )
    return placed


@numba.njit(cache=True, nogil=True)
def ellipsoid_distance(z, y, x, a, b, c):  # type: ignore[no-untyped-def]
    """Signed distance in Å from an ellipsoid of semi-axes a, b, c along z, y, x; inside negative.

    Newton's steps on the secular equation, which is convex where the nearest point is sought, so
    that they never overshoot [1]_.

    .. [1] Eberly, "Distance from a point to an ellipse, an ellipsoid, or a hyperellipsoid", 2013.
    """
    if a == b and b == c:
        return math.sqrt(z * z + y * y + x * x) - a
    least = min(a, b, c)
    tiny = 1e-6 * least  # on a plane of symmetry the nearest point may be off it
    z, y, x = max(abs(z), tiny), max(abs(y), tiny), max(abs(x), tiny)
    t = max(a * z - a * a, b * y - b * b, c * x - c * c)
    for _ in range(50):
        p, q, r = a * z / (t + a * a), b * y / (t + b * b), c * x / (t + c * c)
        value = p * p + q * q + r * r - 1
        slope = -2 * (p * p / (t + a * a) + q * q / (t + b * b) + r * r / (t + c * c))
        step = value / slope
        t -= step
        if abs(step) <= 1e-9 * least * least:
            break
    # The nearest point is a² z / (t + a²), so what leads to it is z t / (t + a²).
    p, q, r = z / (t + a * a), y / (t + b * b), x / (t + c * c)
    return t * math.sqrt(p * p + q * q + r * r)


@numba.njit(cache=True, nogil=True)
def add_vesicle(out, corner, voxel_size, center, matrix, axes, profile, step, mode, value):  # type: ignore[no-untyped-def]
    """Write one vesicle into a block.

    Parameters
    ----------
    out : array, shape (nz, ny, nx)
        The block; its first voxel is voxel `corner` (z, y, x) of the volume.
    center, matrix, axes : arrays
        As `vesicle_arrays` gives them.
    profile : array
        By distance from the bilayer's middle, each `step` Å; 0 from its end on.
    mode, value
        As of `put_profile`.
    """
    reach = max(axes[0], axes[1], axes[2]) + step * (len(profile) - 1)
    least = min(axes[0], axes[1], axes[2])
    thin = step * (len(profile) - 1)
    for k in range(out.shape[0]):
        dz = (corner[0] + k) * voxel_size - center[0]
        if abs(dz) > reach:
            continue
        for j in range(out.shape[1]):
            dy = (corner[1] + j) * voxel_size - center[1]
            first, last = ball_row(dz, dy, reach, center[2], corner[2], out.shape[2], voxel_size)
            for i in range(first, last + 1):
                dx = (corner[2] + i) * voxel_size - center[2]
                z = matrix[0, 0] * dz + matrix[1, 0] * dy + matrix[2, 0] * dx
                y = matrix[0, 1] * dz + matrix[1, 1] * dy + matrix[2, 1] * dx
                x = matrix[0, 2] * dz + matrix[1, 2] * dy + matrix[2, 2] * dx
                ratio = math.sqrt((z / axes[0]) ** 2 + (y / axes[1]) ** 2 + (x / axes[2]) ** 2)
                if abs(ratio - 1) * least > thin:  # at least as far as this
                    continue
                far = abs(ellipsoid_distance(z, y, x, axes[0], axes[1], axes[2])) / step
                put_profile(out[k, j], i, far, profile, mode, value)


@numba.njit(cache=True, nogil=True)
def add_bead(out, corner, voxel_size, center, profile, step, mode, value):  # type: ignore[no-untyped-def]
    """Write one bead into a block: as `add_vesicle`, `profile` by the distance from the centre."""
    reach = step * (len(profile) - 1)
    for k in range(out.shape[0]):
        dz = (corner[0] + k) * voxel_size - center[0]
        if abs(dz) > reach:
            continue
        for j in range(out.shape[1]):
            dy = (corner[1] + j) * voxel_size - center[1]
            first, last = ball_row(dz, dy, reach, center[2], corner[2], out.shape[2], voxel_size)
            for i in range(first, last + 1):
                dx = (corner[2] + i) * voxel_size - center[2]
                far = math.sqrt(dz * dz + dy * dy + dx * dx) / step
                put_profile(out[k, j], i, far, profile, mode, value)
