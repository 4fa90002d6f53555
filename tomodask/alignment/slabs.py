"""Real-space slabs of a model at a pose, its derivatives, and their products with the data.

The list of Fourier voxels that a box is known by is a band-limited volume.  A grid of
``m = 2 K + 1`` samples an edge holds a band of radius K exactly, sums of products included, so the
work is done on it instead of on the n voxels of the box: for a band of 16 of 32 an eighth of them.

A step of mini-batch descent looks at a slab of slices along x only.  The inverse transform is
separable, and three small matrix products give the model and its six derivatives on just these
slices: the cost of a step falls with the slab.  The model is turned in Fourier space and
transformed anew at every pose, so the missing wedge and the weights of the tilt series stay where
the microscope left them.  (To turn a prepared, filtered volume by interpolation instead turns its
wedge with it, and blurs what is sampled as sparsely as here.)

Loss of a set of voxels (a slab, or all under the mask), after [1]_ and [2]_: data s and model p,
each mean-free and of unit norm there; ``d = Σ (s* - p*)² = 2 - 2 CCC``.

.. [1] Lü et al., "Subtomogram refined alignment based on mini-batch gradient descent and Spark
   distribution" (2019).
.. [2] Förster et al., J. Struct. Biol. 161, 276 (2008), doi:10.1016/j.jsb.2007.07.006.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from tomodask.arrays.sampling import Spectrum, trilinear

__all__ = [
    "Level",
    "kernel_of",
    "linearise",
    "products",
    "scratch",
    "slab_gradient",
    "slab_loss",
    "volume_of",
]

_NONE = np.empty(0, np.float32)
_BLOCK = 512


@dataclass(frozen=True)
class Level:
    """One band, and the grid that holds it.

    Attributes
    ----------
    frequencies : array of float32, shape (count, 3)
        Of the band, (z, y, x), Fourier voxels of the box.
    weights : array of float32, shape (count,) or (0,)
        What the boxes hold of a particle there; none: all of it.
    index : array of intp, shape (count,)
        Where they stand in the particle's list.
    place : array of intp, shape (count,)
        Where they stand in the transform's (kx, ky, kz) cube, flattened.
    grid : array of float32, shape (side,)
        Coordinates of the samples along each axis, voxels of the box, from its centre.
    reach : array of int32, shape (side, side)
        Of each row (x, y), so many samples on either side of the middle are under the mask;
        -1: none.
    along_x : array of complex64, shape (2, side, K + 1)
        Transform along x, and its derivative.
    along_y : array of complex64, shape (2, side, 2 K + 1)
    along_z : array of float32, shape (2 (2 K + 1), side)
        Real part only; rows for real and imaginary parts take turns.
    along_z2 : array of float32, shape (2 (2 K + 1), 2 side)
        The same, and its derivative beside it.
    """

    frequencies: np.ndarray
    weights: np.ndarray
    index: np.ndarray
    place: np.ndarray
    grid: np.ndarray
    reach: np.ndarray
    along_x: np.ndarray
    along_y: np.ndarray
    along_z: np.ndarray
    along_z2: np.ndarray

    @property
    def radius(self) -> int:
        """Of the band, Fourier voxels."""
        return int(self.along_y.shape[2] // 2)

    @property
    def kernel(self) -> tuple[np.ndarray, ...]:
        """What the compiled functions take of a level."""
        return (
            self.frequencies, self.weights, self.place, self.reach,
            self.along_x, self.along_y, self.along_z, self.along_z2,
        )  # fmt: skip

    @classmethod
    def of(
        cls,
        frequencies: np.ndarray,
        weights: np.ndarray | None,
        index: np.ndarray,
        *,
        box: int,
        mask_radius: float | None,
    ) -> Level:
        """Prepare the transforms of a band.

        Parameters
        ----------
        frequencies, weights, index
            As the attributes; no weights: None.
        box : int
            Edge of the box, voxels.
        mask_radius : float, optional
            Of the binary spherical mask about the box's centre, voxels; by default the whole box.
        """
        k = np.rint(frequencies).astype(np.intp)
        band = int(np.abs(k).max())
        size = 2 * band + 1
        step = box / size
        half = band if mask_radius is None else int(min(mask_radius / step, band))
        near = np.arange(-half, half + 1)
        if mask_radius is None:
            reach = np.full((len(near), len(near)), half)
        else:
            left = (mask_radius / step) ** 2 - near[:, None] ** 2 - near**2
            reach = np.where(left < 0, -1, np.minimum(np.sqrt(np.maximum(left, 0)), half))
        whole = np.arange(-band, band + 1)
        turn = np.exp(2j * np.pi / size * near[:, None] * whole)
        slope = 2j * np.pi / box * whole
        # The list holds one of each conjugate pair: twice the real part of its sum is the volume.
        x = 2 * turn[:, band:]
        z, dz = _real_part(turn), _real_part(turn * slope)
        return cls(
            np.ascontiguousarray(frequencies, np.float32),
            _NONE if weights is None else np.ascontiguousarray(weights, np.float32),
            index,
            (k[:, 2] * size + k[:, 1] + band) * size + k[:, 0] + band,
            (near * step).astype(np.float32),
            reach.astype(np.int32),
            np.stack([x, x * slope[band:]]).astype(np.complex64),
            np.stack([turn, turn * slope]).astype(np.complex64),
            z,
            np.concatenate([z, dz], axis=1),
        )


def _real_part(matrix: np.ndarray) -> np.ndarray:
    """What gives the real part of ``values @ matrix.T`` from values seen as pairs of floats."""
    rows = np.stack([matrix.real, -matrix.imag], axis=-1)  # (side, count, 2)
    return np.ascontiguousarray(rows.reshape(len(matrix), -1).T, np.float32)


def volume_of(level: Level, values: np.ndarray) -> np.ndarray:
    """Inverse transform of a list of Fourier voxels on the level's grid.

    Parameters
    ----------
    level : Level
    values : array of complex64, shape (count,)

    Returns
    -------
    array of float32, shape (side, side, side)
        Axes (x, y, z): slabs along x lie together in memory.
    """
    size = level.along_y.shape[2]
    side = len(level.grid)
    cube = np.zeros((size // 2 + 1) * size * size, np.complex64)
    cube[level.place] = values
    slices = (level.along_x[0] @ cube.reshape(size // 2 + 1, -1)).reshape(side, size, size)
    rows = np.ascontiguousarray(level.along_y[0] @ slices)
    return np.asarray(rows.view(np.float32) @ level.along_z)


@numba.njit(cache=True, fastmath=True, nogil=True, inline="always")
def _lay_out(  # type: ignore[no-untyped-def]
    values, padding, box, frequencies, weights, place, matrix, shift, cubes
):
    """Model and its derivatives to a turn about x, y, z, laid out for the transform."""
    step = np.float32(2 * math.pi / box)
    m, s = matrix.astype(np.float32), shift.astype(np.float32)
    for j in range(frequencies.shape[0]):
        kz, ky, kx = frequencies[j, 0], frequencies[j, 1], frequencies[j, 2]
        # The turned reference at k is the reference at transpose(R) k.
        qx = padding * (m[0, 0] * kx + m[1, 0] * ky + m[2, 0] * kz)
        qy = padding * (m[0, 1] * kx + m[1, 1] * ky + m[2, 1] * kz)
        qz = padding * (m[0, 2] * kx + m[1, 2] * ky + m[2, 2] * kz)
        re, im, az, ay, ax, bz, by, bx = trilinear(values, qz, qy, qx)
        phase = step * (s[0] * kx + s[1] * ky + s[2] * kz)
        w = weights[j] if weights.size else np.float32(1.0)
        moved = complex(w * math.cos(phase), -w * math.sin(phase))
        # Slopes in the particle's frame; a turn by ω changes the model by ω · (slope × k).
        gx = complex(
            m[0, 0] * ax + m[0, 1] * ay + m[0, 2] * az, m[0, 0] * bx + m[0, 1] * by + m[0, 2] * bz
        )
        gy = complex(
            m[1, 0] * ax + m[1, 1] * ay + m[1, 2] * az, m[1, 0] * bx + m[1, 1] * by + m[1, 2] * bz
        )
        gz = complex(
            m[2, 0] * ax + m[2, 1] * ay + m[2, 2] * az, m[2, 0] * bx + m[2, 1] * by + m[2, 2] * bz
        )
        at = place[j]
        cubes[0, at] = moved * complex(re, im)
        moved *= padding
        cubes[1, at] = moved * (gy * kz - gz * ky)
        cubes[2, at] = moved * (gz * kx - gx * kz)
        cubes[3, at] = moved * (gx * ky - gy * kx)


@numba.njit(cache=True, nogil=True)
def _transform(cubes, along_x, along_y, along_z, along_z2, first, last):  # type: ignore[no-untyped-def]
    """Volumes on slices first … last.

    Returns the model and its slope along z side by side, and, together, its derivatives to y, x
    and a turn about x, y, z; axes (…, x, y, z).
    """
    side, size = along_y.shape[1], along_y.shape[2]
    count = last - first
    slices = np.empty((5, count, size * size), np.complex64)
    for a in range(4):
        columns = cubes[a].reshape(size // 2 + 1, size * size)
        np.dot(along_x[0, first:last], columns, slices[a])
    np.dot(along_x[1, first:last], cubes[0].reshape(size // 2 + 1, size * size), slices[4])
    rows = np.empty((6, count, side, size), np.complex64)
    for i in range(count):
        model = slices[0, i].reshape(size, size)
        np.dot(along_y[0], model, rows[0, i])
        np.dot(along_y[1], model, rows[1, i])
        np.dot(along_y[0], slices[4, i].reshape(size, size), rows[2, i])
        for a in range(3):
            np.dot(along_y[0], slices[1 + a, i].reshape(size, size), rows[3 + a, i])
    pairs = rows.reshape(6, count * side, size).view(np.float32)
    both = np.dot(pairs[0], along_z2).reshape(count, side, 2 * side)
    rest = np.dot(pairs[1:].reshape(5 * count * side, 2 * size), along_z)
    return both, rest.reshape(5, count, side, side)


@numba.njit(cache=True, fastmath=True, nogil=True, inline="always")
def _flush(columns, count, out):  # type: ignore[no-untyped-def]
    for a in range(8):
        for b in range(a + 1):
            total = np.float32(0.0)
            for i in range(count):
                total += columns[a, i] * columns[b, i]
            out[a, b] += total
        single = np.float32(0.0)
        for i in range(count):
            single += columns[a, i]
        out[8, a] += single
    out[8, 8] += count


@numba.njit(cache=True, fastmath=True, nogil=True, inline="always")
def _sum_products(both, rest, data, reach, radius, first, last, out):  # type: ignore[no-untyped-def]
    """Sums of products of [turn x, y, z, move x, y, z, model, data, 1] over the slices' voxels."""
    side = reach.shape[0]
    middle = side // 2
    columns = np.empty((8, _BLOCK), np.float32)
    unit = np.float32(radius)
    out[:] = 0.0
    held = 0
    for i in range(first, last):
        n = i - first
        for j in range(side):
            half = reach[i, j]
            if half < 0:
                continue
            if held + 2 * half + 1 > _BLOCK:
                _flush(columns, held, out)
                held = 0
            for at in range(2 * half + 1):
                k = middle - half + at
                columns[0, held + at] = rest[2, n, j, k]
                columns[1, held + at] = rest[3, n, j, k]
                columns[2, held + at] = rest[4, n, j, k]
                columns[3, held + at] = -unit * rest[1, n, j, k]
                columns[4, held + at] = -unit * rest[0, n, j, k]
                columns[5, held + at] = -unit * both[n, j, side + k]
                columns[6, held + at] = both[n, j, k]
                columns[7, held + at] = data[i, j, k]
            held += 2 * half + 1
    _flush(columns, held, out)
    for a in range(8):  # mean-free over the voxels seen
        for b in range(a + 1):
            if out[8, 8] > 0:
                out[a, b] -= out[8, a] * out[8, b] / out[8, 8]
            out[b, a] = out[a, b]


@numba.njit(cache=True, nogil=True)
def linearise(spectrum, level, cubes, data, matrix, shift, radius, first, last, out):  # type: ignore[no-untyped-def]
    """Everything a step needs of the slices first … last at a pose; `out` is (9, 9).

    `spectrum` and `level` are tuples of their arrays; `cubes` is scratch, 0 where no frequency is.
    """
    values, padding, box = spectrum
    frequencies, weights, place, reach, along_x, along_y, along_z, along_z2 = level
    _lay_out(values, padding, box, frequencies, weights, place, matrix, shift, cubes)
    both, rest = _transform(cubes, along_x, along_y, along_z, along_z2, first, last)
    _sum_products(both, rest, data, reach, radius, first, last, out)


def kernel_of(spectrum: Spectrum) -> tuple[np.ndarray, np.float32, int]:
    """What the compiled functions take of a spectrum."""
    return spectrum.values, np.float32(spectrum.padding), spectrum.box


def scratch(level: Level) -> np.ndarray:
    """Room for a model and its turns laid out for the transform."""
    size = level.along_y.shape[2]
    return np.zeros((4, (size // 2 + 1) * size * size), np.complex64)


def products(
    spectrum: Spectrum,
    level: Level,
    data: np.ndarray,
    matrix: np.ndarray,
    shift_xyz: np.ndarray,
    *,
    particle_radius: float = 1.0,
    slices: slice | None = None,
) -> np.ndarray:
    """Products of model, its six derivatives and the data over a slab, each mean-free there.

    Parameters
    ----------
    spectrum : Spectrum
        Of the reference.
    level : Level
    data : array of float32, shape (side, side, side)
        The particle, from `volume_of`.
    matrix, shift_xyz
        The pose: reference → particle, acting on (x, y, z) columns; voxels.
    particle_radius : float
        The unit of shifts, voxels.
    slices : slice, optional
        Along x; by default all.

    Returns
    -------
    array of float64, shape (8, 8)
        Of the columns: turn about x, y, z (radians, particle frame), shift along x, y, z
        (particle radii), the model, the data.
    """
    first, last, _ = (slices or slice(None)).indices(len(level.grid))
    out = np.empty((9, 9))
    linearise(
        kernel_of(spectrum), level.kernel, scratch(level), data,
        np.ascontiguousarray(matrix, np.float64), np.ascontiguousarray(shift_xyz, np.float64),
        particle_radius, first, last, out,
    )  # fmt: skip
    return out[:8, :8]


def slab_loss(system: np.ndarray) -> float:
    """``d = 2 - 2 CCC`` of the voxels that `products` summed over; 2 where one of the two is 0."""
    power = system[6, 6] * system[7, 7]
    return float(2 - 2 * system[6, 7] / math.sqrt(power)) if power > 0 else 2.0


def slab_gradient(system: np.ndarray) -> np.ndarray:
    """Derivative of `slab_loss` to turn (radians) and shift (particle radii), shape (6,)."""
    power = math.sqrt(system[6, 6] * system[7, 7])
    along = system[:6, 7] - system[:6, 6] * system[6, 7] / system[6, 6]
    return np.asarray(-2 * along / power)
