"""The search of `tomodask.planar.alignment2d` in array operations alone, for CuPy and its like.

The same samples, products and climb as the kernels of the processor do, written with functions that
the Python array API has: matrix products over the rings for all images, references and shifts of an
angular frequency at once, inverse transforms, maxima.  It needs an array library, no compiler.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tomodask.arrays.backend import Array, is_cupy, namespace, to_numpy
from tomodask.planar.found2d import poses_of, with_faults
from tomodask.planar.plan2d import Plan2D
from tomodask.planar.polar import FLAT, MARGIN
from tomodask.planar.poses2d import POSE2D
from tomodask.planar.subgrid import STEPS, STILL, TURN, ring_order

__all__ = ["align_portable"]

#: Images at a time: their profiles for all shifts of one reference are in memory.
_IMAGES = 128


class _Library:
    """An array library, and arrays of its own kind beside those of the caller."""

    def __init__(self, like: Array) -> None:
        self.like = like
        own = getattr(like, "__array_namespace__", None)
        self.xp: Any = namespace(like) if is_cupy(like) or own is None else own()

    def put(self, array: np.ndarray) -> Array:
        if is_cupy(self.like) or not hasattr(self.like, "device"):
            return self.xp.asarray(array)
        return self.xp.asarray(array, device=self.like.device)

    def cast(self, array: Array, name: str) -> Array:
        kind = getattr(self.xp, name)
        return self.xp.astype(array, kind) if hasattr(self.xp, "astype") else array.astype(kind)

    def turned(self, array: Array, axes: tuple[int, ...]) -> Array:
        """Its axes in another order; NumPy and CuPy had another name for it before the standard."""
        turn = getattr(self.xp, "permute_dims", None) or self.xp.transpose
        return turn(array, axes)

    def get(self, array: Array) -> np.ndarray:
        if is_cupy(array):
            return to_numpy(array)
        if getattr(array, "device", "cpu") != "cpu" and hasattr(array, "to_device"):
            array = array.to_device(self.xp.__array_namespace_info__().default_device())
        return np.asarray(np.from_dlpack(array) if hasattr(array, "__dlpack__") else array)


def align_portable(batch: Array, plan: Plan2D, *, every_class: bool = False) -> np.ndarray:
    """As `align_batch`, for arrays of any library that has the functions of the array API."""
    library = _Library(batch)
    columns = _dense(plan)
    out = []
    for begin in range(0, batch.shape[0], _IMAGES):
        stop = min(begin + _IMAGES, batch.shape[0])
        part = batch[begin:stop, :, :]
        out.append(_aligned(library, part, plan, columns, every_class=every_class))
    none = np.zeros((0, plan.references if every_class else 1), POSE2D)
    poses = np.concatenate(out) if out else none
    return poses if every_class else poses[:, 0]


def _dense(plan: Plan2D) -> np.ndarray:
    """Moved references, complex64, shape (reference, shift, ring, frequency), 0 beyond a band."""
    grid = plan.grid
    _, starts = ring_order(grid)
    references, shifts = plan.columns.shape[:2]
    out = np.zeros((references, shifts, len(grid.rings), grid.frequencies), np.complex64)
    for ring, band in enumerate(grid.bands):
        part = plan.columns[:, :, :, starts[ring] : starts[ring] + band]
        out[:, :, ring, :band] = part[:, :, 0] + 1j * part[:, :, 1]
    return out


def _aligned(
    library: _Library, batch: Array, plan: Plan2D, columns: np.ndarray, *, every_class: bool
) -> np.ndarray:
    """Poses (image, reference), or (image, 1) for the reference that is best on the grid."""
    xp, put, grid = library.xp, library.put, plan.grid
    series, faults = _series(library, batch, plan)
    count, references, searched = batch.shape[0], len(columns), len(plan.shifts)
    # (frequency, 2 images, ring): real parts, then imaginary ones.
    stacked = library.turned(
        xp.reshape(
            xp.stack([xp.real(series), xp.imag(series)], axis=0), (2 * count, *series.shape[1:])
        ),
        (2, 0, 1),
    )
    sign = put(np.where(np.arange(grid.frequencies) % 2, -1, 1).astype(np.float32))
    sign = xp.reshape(sign, (-1, 1, 1))
    tops = np.zeros((references, count))
    shift, mirror, sample = (np.zeros((references, count), np.int64) for _ in range(3))
    for reference in range(references):
        part = columns[reference, :searched]
        both = np.concatenate([part.real, part.imag]).transpose(2, 1, 0)
        product = xp.matmul(stacked, put(np.ascontiguousarray(both)))
        ac, ad = product[:, :count, :searched], product[:, :count, searched:]
        bc, bd = product[:, count:, :searched], product[:, count:, searched:]
        spectra = [library.cast(ac + bd, "complex64") + 1j * library.cast(bc - ad, "complex64")]
        if plan.mirror:
            flipped = library.cast(ac - bd, "complex64") + 1j * library.cast(bc + ad, "complex64")
            spectra.append(library.cast(sign, "complex64") * flipped)
        profiles = xp.fft.irfft(xp.stack(spectra, axis=0), n=grid.angles, axis=1)
        # (mirror, angle, image, shift) -> image, all others.
        flat = xp.reshape(library.turned(profiles, (2, 3, 0, 1)), (count, -1))
        tops[reference] = library.get(xp.max(flat, axis=1))
        shift[reference], rest = np.divmod(
            library.get(xp.argmax(flat, axis=1)), len(spectra) * grid.angles
        )
        mirror[reference], sample[reference] = np.divmod(rest, grid.angles)
    chosen = np.tile(np.arange(references)[:, None], count) if every_class else [tops.argmax(0)]
    poses = []
    for which in chosen:
        at, flip, angle = (one[which, np.arange(count)] for one in (shift, mirror > 0, sample))
        near = columns[which[:, None], plan.around[at]]  # (image, 9, ring, frequency)
        pose = _climbed(library, series, near, flip, angle, plan, at)
        poses.append(poses_of(plan, which, plan.shifts[at], flip, pose))
    return with_faults(np.stack(poses, axis=1), faults)


def _series(library: _Library, batch: Array, plan: Plan2D) -> tuple[Array, np.ndarray]:
    """Normalised Fourier series of the rings, (image, ring, frequency), and the faults."""
    xp, put, grid = library.xp, library.put, plan.grid
    ny, nx = plan.shape
    images = library.cast(batch, "float64")
    finite = xp.all(xp.isfinite(images), axis=(1, 2), keepdims=True)
    images = xp.where(finite, images, xp.zeros_like(images))
    y, x = np.ogrid[:ny, :nx]
    disc = ((y - ny // 2) ** 2 + (x - nx // 2) ** 2 <= len(grid.rings) ** 2).astype(np.float64)
    inside, area = put(disc), float(disc.sum())
    mean = xp.sum(images * inside, axis=(1, 2), keepdims=True) / area
    square = xp.sum((images - mean) ** 2 * inside, axis=(1, 2), keepdims=True)
    varied = square > area * (FLAT * mean) ** 2
    images = xp.where(varied, images - mean, xp.zeros_like(images))
    faults = np.where(library.get(finite).ravel(), np.where(library.get(varied).ravel(), 0, 2), 1)

    images = library.cast(images, "float32")
    along_y, along_x = put(_coefficient_matrix(ny)), put(_coefficient_matrix(nx))
    spline = xp.matmul(xp.matmul(along_y, images), library.turned(along_x, (1, 0)))
    flat = xp.reshape(spline, (images.shape[0], -1))
    weights, wide = plan.table.weights, nx + 2 * MARGIN
    samples = None
    for i in range(6):
        for j in range(6):
            taken = xp.take(flat, put(plan.table.index + i * wide + j), axis=1)
            part = taken * put(weights[:, i] * weights[:, 6 + j])
            samples = part if samples is None else samples + part
    samples = xp.reshape(samples, (images.shape[0], len(grid.rings), grid.angles))
    series = xp.fft.rfft(samples, axis=2)[:, :, : grid.frequencies]
    kept = (np.arange(grid.frequencies) < grid.bands[:, None]).astype(np.float32)
    radii = grid.rings[:, None]
    zero = np.zeros((1, grid.frequencies))
    zero[0, 0] = 1.0
    # The mean over the disc is a share of frequency 0 of every ring.
    share = put((radii * zero / radii.sum()).astype(np.complex64))
    means = xp.sum(series * share, axis=(1, 2), keepdims=True)
    series = (series - means * put(zero.astype(np.complex64))) * put(kept.astype(np.complex64))
    twice = np.where(np.arange(grid.frequencies) == 0, 1.0, 2.0)
    power = library.cast(xp.real(series) ** 2 + xp.imag(series) ** 2, "float64")
    norm = xp.sqrt(xp.sum(power * put(radii * twice), axis=(1, 2), keepdims=True))
    scale = xp.where(norm > 0, 1.0 / xp.where(norm > 0, norm, xp.ones_like(norm)), norm)
    weighed = put(np.sqrt(radii)) * scale
    return series * library.cast(weighed, "complex64"), faults.astype(np.uint8)


def _coefficient_matrix(size: int) -> np.ndarray:
    """Pixels of a line to its spline coefficients with their margin, mirrored at both ends."""
    period = max(2 * size - 2, 1)

    def mirrored(at: np.ndarray) -> np.ndarray:
        at = at % period
        return np.where(at < size, at, period - at)

    values = np.zeros((size, size))
    for offset, weight in zip(range(-2, 3), (1, 26, 66, 26, 1), strict=True):
        np.add.at(values, (np.arange(size), mirrored(np.arange(size) + offset)), weight / 120)
    rows = mirrored(np.arange(-MARGIN, size + MARGIN))
    return np.asarray(np.linalg.inv(values)[rows], np.float32)


def _climbed(
    library: _Library,
    series: Array,
    near: np.ndarray,
    mirror: np.ndarray,
    sample: np.ndarray,
    plan: Plan2D,
    shift: np.ndarray,
) -> np.ndarray:
    """As `tomodask.planar.subgrid` does it, all images at once; float64, shape (image, 4)."""
    xp, put, grid = library.xp, library.put, plan.grid
    sign = np.where(np.arange(grid.frequencies) % 2, -1, 1)
    # Mirrored, the product is with the reference itself, every second frequency negative.
    near = np.where(mirror[:, None, None, None], near * sign, near.conj()).astype(np.complex64)
    g = xp.sum(xp.expand_dims(series, axis=1) * put(near), axis=2)  # (image, 9, frequency)
    g = library.cast(g, "complex128")
    m = np.arange(grid.frequencies)
    twice = np.where(m == 0, 1.0, 2.0)
    turn = put((-1j * m)[None, :])
    by = [put((twice * (-1j * m) ** order)[None, None, :]) for order in range(3)]
    spacing = 2 * np.pi / grid.angles
    start = -spacing * sample

    def model(pose: np.ndarray) -> np.ndarray:
        """f, gradient and Hessian of `subgrid`, shape (image, 10)."""
        wave = xp.exp(turn * put(pose[:, :1].astype(np.complex128)))
        turned = g * xp.expand_dims(wave, axis=1)
        h = [library.get(xp.real(xp.sum(turned * one, axis=2))).reshape(-1, 3, 3) for one in by]
        ly, lx = _lagrange(pose[:, 1]), _lagrange(pose[:, 2])

        def mixed(order: int, along_y: int, along_x: int) -> np.ndarray:
            return np.asarray(np.einsum("nyx,ny,nx->n", h[order], ly[along_y], lx[along_x]))

        orders = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2)]
        orders += [(1, 1, 0), (1, 0, 1), (0, 1, 1)]
        return np.stack([mixed(*order) for order in orders], axis=1)

    pose = np.stack([start, np.zeros(len(start)), np.zeros(len(start))], axis=1)
    f = model(pose)
    scale = np.array([spacing, 1.0, 1.0])
    farthest = scale * (TURN, 1, 1)
    low, high = pose - farthest, pose + farthest
    share, at = np.ones(len(start)), plan.shifts[shift] / plan.step
    for _ in range(STEPS):
        new = np.clip(pose + share[:, None] * _steps(f, scale), low, high)
        moved = at + new[:, 1:]
        within = plan.reach / np.maximum(np.hypot(moved[:, 0], moved[:, 1]), 1e-300)
        new[:, 1:] = np.where(within[:, None] < 1, moved * within[:, None] - at, new[:, 1:])
        moving = (np.abs(new - pose) / scale).max(axis=1) >= STILL
        if not moving.any():
            break
        trial = model(new)
        better = moving & (trial[:, 0] > f[:, 0])
        pose = np.where(better[:, None], new, pose)
        f = np.where(better[:, None], trial, f)
        share = np.where(better, 1.0, np.where(moving, 0.25 * share, share))
    return np.concatenate([pose, f[:, :1]], axis=1)


def _lagrange(t: np.ndarray) -> list[np.ndarray]:
    one = np.ones_like(t)
    return [
        np.stack([0.5 * t * (t - 1), 1 - t * t, 0.5 * t * (t + 1)], axis=1),
        np.stack([t - 0.5, -2 * t, t + 0.5], axis=1),
        np.stack([one, -2 * one, one], axis=1),
    ]


def _steps(f: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Newton's step, or uphill along each axis where the top is not a hill."""
    hill = -f[:, [[4, 7, 8], [7, 5, 9], [8, 9, 6]]]
    minors = np.stack([hill[:, 0, 0], np.linalg.det(hill[:, :2, :2]), np.linalg.det(hill)], axis=1)
    good: np.ndarray = np.all(minors > 0, axis=1)
    slope = f[:, 1:4]
    step = np.zeros_like(slope)
    if good.any():
        step[good] = np.linalg.solve(hill[good], slope[good][:, :, None])[:, :, 0]
    own = np.diagonal(hill, axis1=1, axis2=2)
    uphill = 0.25 * scale * np.where(slope > 0, 1.0, -1.0)
    alone = np.where(own > 0, slope / np.where(own > 0, own, 1.0), uphill)
    return np.asarray(np.where(good[:, None], step, alone))
