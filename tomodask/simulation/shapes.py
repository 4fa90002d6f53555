"""The body of a particle: what of its density others may not enter, and what a label map marks.

A body is the inside of a level of the density, told by its signed distance field: below 0 inside,
above outside, zero on the surface.  Two bodies are apart by a gap where no point of the surface of
one has a distance to the other below the gap; fields and points are plain arrays, for kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import xarray as xr

from tomodask.errors import InputError

__all__ = ["Shape", "distance_at", "particle_shape"]

_SMOOTHING = 5.0  # Å, deviation of the Gaussian: atoms become one body, domains stay apart
_MARGIN = 2  # voxels of the field beyond the body; farther out the distance is bounded from below
_BALLS = 16
_SPECK = 0.05  # of the largest piece: smaller ones are noise of a map, not parts of the body


@dataclass(frozen=True)
class Shape:
    """The body of one kind of particle; all lengths from its centre, voxel ``box // 2``.

    Attributes
    ----------
    voxel_size : float
        Å, spacing of `distance`: the voxel of the volume the shape is made for.
    level : float
        Of the smoothed density, in its units: the body is where it is higher.
    distance : array of float32, shape (nz, ny, nx)
        Signed distance from the surface in Å, negative inside.
    first_zyx : array, shape (3,)
        Å: where ``distance[0, 0, 0]`` lies.
    points_zyx : array of float32, shape (n, 3)
        Å, on the surface, no place of which is farther than about a voxel from one of them; the
        first ones are far from each other.
    balls : array of float32, shape (m, 4)
        z, y, x and radius in Å of balls within the body, the largest first: what comes too near
        to a ball comes too near to the body, which is told by one look.
    radius : float
        Å, of the sphere about the centre that holds the body.
    inner_radius : float
        Å, of the sphere about the centre that the body holds; 0 where the centre is outside.
    volume : float
        Å³, of the body.
    """

    voxel_size: float
    level: float
    distance: np.ndarray
    first_zyx: np.ndarray
    points_zyx: np.ndarray
    balls: np.ndarray
    radius: float
    inner_radius: float
    volume: float


def particle_shape(
    density: xr.DataArray, *, voxel_size: float | None = None, level: float | None = None
) -> Shape:
    """The body of a particle from its density.

    The density is smoothed by a Gaussian of 5 Å; holes that are closed on all sides belong to the
    body, specks do not.

    Parameters
    ----------
    density : DataArray, dims (z, y, x)
        A map with ``attrs["voxel_size"]``, the particle's centre in voxel ``box // 2``.
    voxel_size : float, optional
        Å, of the volume that the particle shall lie in; by default the map's own.
    level : float, optional
        In units of the map; by default 0.3 of its mean weighted by itself, Σρ²/Σρ over ρ > 0.
        That holds 95 % of the density of proteins at 20 Å.

    Raises
    ------
    InputError
        If the map is no density (no voxel above 0, not finite), nothing is above the level, or
        the body touches the border of its box.

    Examples
    --------
    >>> from tomodask.simulation.phantom import phantom_map
    >>> shape = particle_shape(phantom_map())
    >>> round(shape.radius), shape.distance.dtype.name, bool(shape.inner_radius > 0)
    (148, 'float32', True)
    """
    from scipy import ndimage

    own, name = float(density.attrs["voxel_size"]), density.name or "density"
    size = own if voxel_size is None else float(voxel_size)
    values = np.asarray(density.values, np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{name}: some voxels are NaN or infinite; repair the map first")
    smooth = ndimage.gaussian_filter(values, _SMOOTHING / own, mode="constant")
    above = np.clip(smooth, 0, None)
    if not above.any():
        raise InputError(f"{name}: no voxel is above 0; turn its contrast over first")
    if level is None:
        level = 0.3 * float((above**2).sum() / above.sum())

    inside = np.argwhere(smooth > level)
    if not len(inside):
        raise InputError(
            f"{name}: nothing is above level={level:g} (the smoothed map's highest voxel is "
            f"{smooth.max():g}); choose a lower one"
        )
    if (inside == 0).any() or (inside == np.array(values.shape) - 1).any():
        raise InputError(
            f"{name}: the body touches the border of its box of {values.shape} voxels; "
            "choose a larger box or a higher level"
        )

    # On a grid twice as fine as the volume's, centred on the particle's centre.
    fine = size / 2
    center = np.array(values.shape) // 2
    extent = np.abs(inside - center).max(0) + 1
    reach = [2 * int(np.ceil(e * own / size)) + 2 * (_MARGIN + 1) for e in extent]
    places = [np.arange(-r, r + 1) * (fine / own) + c for r, c in zip(reach, center, strict=True)]
    grid = np.stack(np.meshgrid(*places, indexing="ij"))
    body = _one_body(ndimage.map_coordinates(smooth, grid, order=1, mode="constant") > level)
    # Distances are from the middles of voxels: the surface lies half a step before them.
    distance = ndimage.distance_transform_edt(~body) - ndimage.distance_transform_edt(body)
    distance = (distance - 0.5 * np.sign(distance)) * fine

    surface = np.argwhere(np.abs(distance) < 0.75 * fine)
    slope = np.stack(np.gradient(distance, fine), -1)[tuple(surface.T)]
    slope /= np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-6)
    onto = (surface - reach) * fine - distance[tuple(surface.T)][:, None] * slope
    points = onto[_spread(np.ascontiguousarray(onto), size)]

    centre = float(distance[tuple(reach)])
    kept = distance[::2, ::2, ::2]  # reach is even: the centre is a node
    filled = np.argwhere(body)
    low, high = filled.min(0) // 2 - _MARGIN, -(-filled.max(0) // 2) + _MARGIN + 1
    nodes = kept[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return Shape(
        voxel_size=size,
        level=float(level),
        distance=np.ascontiguousarray(nodes, np.float32),
        first_zyx=(low - np.asarray(reach) // 2) * size,
        points_zyx=np.ascontiguousarray(points, np.float32),
        balls=_balls(nodes, low - np.asarray(reach) // 2, size),
        radius=float(np.linalg.norm(onto, axis=1).max()),
        inner_radius=max(-centre, 0.0),
        volume=float(body.sum() * fine**3),
    )


def _one_body(mask: np.ndarray) -> np.ndarray:
    """Without specks and closed holes."""
    from scipy import ndimage

    pieces, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes((sizes > _SPECK * sizes.max())[pieces]))


def _balls(distance: np.ndarray, first: np.ndarray, spacing: float) -> np.ndarray:
    """Balls in a body: the deepest node, then the deepest that is in no ball yet, and so on."""
    depth = -np.ascontiguousarray(distance, np.float64)
    grid = np.indices(depth.shape)
    out: list[list[float]] = []
    while len(out) < _BALLS and depth.max() > 0:
        at = np.array(np.unravel_index(np.argmax(depth), depth.shape))
        deepest = float(depth[tuple(at)])
        # Smaller by what a distance field of voxels may be wrong: no pair that fits is refused.
        out.append([*((at + first) * spacing), max(deepest - 0.25 * spacing, 0.0)])
        away2 = sum((axis - place) ** 2 for axis, place in zip(grid, at, strict=True))
        depth[away2 * spacing**2 <= deepest**2] = 0
    return np.array(out, np.float32).reshape(-1, 4)


@numba.njit(cache=True, nogil=True)
def _spread(points, cover):  # type: ignore[no-untyped-def]
    """Farthest points first, until every point is within `cover` of one chosen: their indices."""
    count = points.shape[0]
    nearest = np.full(count, np.inf)
    chosen = np.empty(count, np.int64)
    at = 0
    for number in range(count):
        chosen[number] = at
        farthest, most = 0, -1.0
        for i in range(count):
            dz = points[i, 0] - points[at, 0]
            dy = points[i, 1] - points[at, 1]
            dx = points[i, 2] - points[at, 2]
            nearest[i] = min(nearest[i], dz * dz + dy * dy + dx * dx)
            if nearest[i] > most:
                farthest, most = i, nearest[i]
        if most <= cover * cover:
            return chosen[: number + 1]
        at = farthest
    return chosen


@numba.njit(cache=True, nogil=True, inline="always")
def distance_at(field, start, size, first, spacing, z, y, x):  # type: ignore[no-untyped-def]
    """Trilinear signed distance at (z, y, x) Å of the field that starts at ``field[start]``.

    Beyond the field it is a lower bound: the body lies in the field's box, which is convex, so it
    is at least as far as the legs of a right angle over the nearest point of the box say.
    """
    pz, py, px = (z - first[0]) / spacing, (y - first[1]) / spacing, (x - first[2]) / spacing
    cz = min(max(pz, 0.0), size[0] - 1.0)
    cy = min(max(py, 0.0), size[1] - 1.0)
    cx = min(max(px, 0.0), size[2] - 1.0)
    iz, iy, ix = min(int(cz), size[0] - 2), min(int(cy), size[1] - 2), min(int(cx), size[2] - 2)
    az, ay, ax = cz - iz, cy - iy, cx - ix
    row, plane = size[2], size[1] * size[2]
    i = start + iz * plane + iy * row + ix
    j = i + plane
    a = field[i] + ax * (field[i + 1] - field[i])
    b = field[i + row] + ax * (field[i + row + 1] - field[i + row])
    c = field[j] + ax * (field[j + 1] - field[j])
    d = field[j + row] + ax * (field[j + row + 1] - field[j + row])
    e, f = a + ay * (b - a), c + ay * (d - c)
    near = e + az * (f - e)
    out = ((pz - cz) ** 2 + (py - cy) ** 2 + (px - cx) ** 2) * spacing * spacing
    if out == 0.0:
        return near
    return np.sqrt(out + max(near, 0.0) ** 2)
