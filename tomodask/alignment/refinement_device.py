"""The refinement in Fourier space of many candidates of many boxes at once, on a device.

The steps of `tomodask.alignment.refinement`: each candidate sees the mini-batches that it would see
there, in the same order, and its 7 × 7 normal equations are solved with those of all the others.
What has come to rest, or has no step, stays where it is while the others go on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomodask.alignment.device_sampling import (
    DeviceSpectrum,
    as_type,
    parts_of,
    phases_of,
    transposed,
    turned,
)
from tomodask.alignment.refinement import TOLERANCE, Stage
from tomodask.arrays.backend import Array, to_numpy

__all__ = ["DeviceStage", "Limits", "refine_poses"]

#: Fourier voxels whose products are summed in single precision, before all sums are in double.
_BLOCK = 512
#: Bytes that the arrays of one run of candidates may take together, about.
_BYTES = 2**31
_BYTES_PER_VOXEL = 400


@dataclass(frozen=True)
class Limits:
    """How far steps and poses may go: radians and voxels, see `refine_pose`."""

    turn: float
    shift: float
    reach: float
    turn_reach: float


@dataclass(frozen=True)
class DeviceStage:
    """A `Stage` on a device: mini-batches of one length, filled up with voxels of weight 0.

    Attributes
    ----------
    frequencies : array of float32, shape (batches, count, 3)
    index : array of int64, shape (batches * count,)
    weights : array of float32, shape (batches, count)
    batches, passes : int
    """

    frequencies: Array
    index: Array
    weights: Array
    batches: int
    passes: int

    @classmethod
    def of(cls, xp: Any, stage: Stage) -> DeviceStage:
        """Copy one."""
        total = len(stage.frequencies)
        edges = [total * part // stage.batches for part in range(stage.batches + 1)]
        most = -(-max(np.diff(edges)) // _BLOCK) * _BLOCK
        frequencies = np.zeros((stage.batches, most, 3), np.float32)
        weights = np.zeros((stage.batches, most), np.float32)
        index = np.zeros((stage.batches, most), np.int64)
        for part in range(stage.batches):
            mine = slice(edges[part], edges[part + 1])
            count = edges[part + 1] - edges[part]
            frequencies[part, :count] = stage.frequencies[mine]
            weights[part, :count] = 1.0 if stage.weights is None else stage.weights[mine]
            index[part, :count] = stage.index[mine]
        return cls(
            xp.asarray(frequencies),
            xp.asarray(index.reshape(-1)),
            xp.asarray(weights),
            stage.batches,
            stage.passes,
        )


def refine_poses(
    xp: Any,
    spectrum: DeviceSpectrum,
    stage: DeviceStage,
    data: Array,
    owner: np.ndarray,
    matrices: np.ndarray,
    shifts_xyz: np.ndarray,
    order: np.ndarray,
    limits: Limits,
    about: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Descend from many candidates through one stage.

    Parameters
    ----------
    xp : module
    spectrum : DeviceSpectrum
        Of the reference.
    stage : DeviceStage
    data : array of complex64, shape (boxes, frequencies)
        All that is held of the boxes, on the device.
    owner : array of int, shape (poses,)
        Whose candidate each is.
    matrices : array of float64, shape (poses, 3, 3)
    shifts_xyz : array of float64, shape (poses, 3)
    order : array of int, shape (poses, passes * batches)
        Of its mini-batches.
    limits : Limits
    about : (matrices, shifts_xyz), optional
        Given poses of the boxes, see `refine_pose`.

    Returns
    -------
    matrices, shifts_xyz
    scores : array of float64, shape (poses,)
        `correlation` on the whole band.
    """
    found = []
    here = xp.take(data, stage.index, axis=1)
    count = stage.index.shape[0] // stage.batches
    here = xp.reshape(here, (-1, stage.batches, count))
    for part in parts_of(len(owner), _BYTES_PER_VOXEL * count, _BYTES):
        whose = owner[part]
        bounds = None if about is None else (about[0][whose], about[1][whose])
        job = _Job(xp, spectrum, stage, here, whose, limits, bounds)
        found.append(job.run(matrices[part], shifts_xyz[part], order[part]))
    m, t, s = (np.concatenate(one) for one in zip(*found, strict=True))
    return m, t, s


class _Job:
    """Candidates that go through a stage together."""

    def __init__(
        self,
        xp: Any,
        spectrum: DeviceSpectrum,
        stage: DeviceStage,
        data: Array,
        owner: np.ndarray,
        limits: Limits,
        about: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:
        self.xp, self.spectrum, self.stage, self.limits = xp, spectrum, stage, limits
        self.data = xp.reshape(data, (-1, data.shape[2]))  # a row: one mini-batch of one box
        self.owner = owner
        self.origin = self.centre = None
        if about is not None:
            self.origin, self.centre = xp.asarray(about[0]), xp.asarray(about[1])

    def run(
        self, matrices: np.ndarray, shifts: np.ndarray, order: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All steps, and the scores in the end."""
        xp, stage = self.xp, self.stage
        m, t = xp.asarray(matrices), xp.asarray(shifts)
        origin = m if self.origin is None else self.origin
        centre = xp.zeros_like(t) if self.centre is None else self.centre
        active = xp.ones(len(matrices)) > 0
        for number in range(stage.passes):
            longest = xp.zeros(len(matrices), dtype=xp.float64)
            for one in range(stage.batches):
                step, good = self._step(m, t, order[:, number * stage.batches + one])
                good = good & active
                step = xp.where(good[:, None], step, xp.zeros_like(step))
                new = xp.matmul(_turns(xp, step[:, :3]), m)
                if self.limits.turn_reach < math.pi:
                    new = _turned_within(xp, new, origin, self.limits.turn_reach)
                m = xp.where(good[:, None, None], new, m)
                moved = t + step[:, 3:]
                if math.isfinite(self.limits.reach):
                    moved = xp.minimum(
                        xp.maximum(moved, centre - self.limits.reach), centre + self.limits.reach
                    )
                t = xp.where(good[:, None], moved, t)
                size = xp.where(step < 0, -step, step)
                turn = xp.max(size[:, :3], axis=1)
                move = xp.max(size[:, 3:], axis=1) * (6.0 / self.spectrum.box)
                longest = xp.maximum(longest, xp.maximum(turn, move))
            active = active & (longest >= TOLERANCE)
        return to_numpy(m), to_numpy(t), to_numpy(self._scores(m, t))

    def _part(self, part: np.ndarray) -> tuple[Array, Array, Array]:
        """Frequencies, weights and data of each candidate's mini-batch."""
        xp, stage = self.xp, self.stage
        rows = xp.asarray(self.owner * stage.batches + part)
        data = xp.take(self.data, rows, axis=0)
        if (part == part[0]).all():  # all see one
            one = slice(int(part[0]), int(part[0]) + 1)
            return stage.frequencies[one, :, :], stage.weights[one, :], data
        places = xp.asarray(part)
        return (
            xp.take(stage.frequencies, places, axis=0),
            xp.take(stage.weights, places, axis=0),
            data,
        )

    def _step(self, m: Array, t: Array, part: np.ndarray) -> tuple[Array, Array]:
        """Steps of turn (radians) and shift (voxels), shape (poses, 6), and where there is one."""
        frequencies, weights, data = self._part(part)
        columns = self._columns(frequencies, weights, m, t)
        return _solve(self.xp, _products(self.xp, [*columns, data]), self.limits)

    def _columns(self, frequencies: Array, weights: Array, m: Array, t: Array) -> list[Array]:
        """Weighted derivatives by turns about x, y, z and shifts along x, y, z, and the model."""
        xp, box = self.xp, self.spectrum.box
        m32, t32 = as_type(xp, m, xp.float32), as_type(xp, t, xp.float32)
        value, slopes = turned(xp, self.spectrum, frequencies, m32, with_slopes=True)
        phase = phases_of(xp, frequencies, t32, box) * weights
        model = phase * value
        # Gradients turned back into the particle's frame, times the phase of the shift.
        gx, gy, gz = (
            (self.spectrum.padding * phase)
            * sum(m32[:, i, j][:, None] * slopes[j] for j in range(3))
            for i in range(3)
        )
        kz, ky, kx = (frequencies[:, :, i] for i in range(3))
        along = model * (-2j * math.pi / box)
        return [
            gy * kz - gz * ky, gz * kx - gx * kz, gx * ky - gy * kx,
            kx * along, ky * along, kz * along, model,
        ]  # fmt: skip

    def _scores(self, m: Array, t: Array) -> Array:
        xp = self.xp
        m32, t32 = as_type(xp, m, xp.float32), as_type(xp, t, xp.float32)
        cross = model_power = power = 0.0
        for part in range(self.stage.batches):
            frequencies, weights, data = self._part(np.full(len(self.owner), part))
            value, _ = turned(xp, self.spectrum, frequencies, m32)
            model = value * (phases_of(xp, frequencies, t32, self.spectrum.box) * weights)
            seen = data * as_type(xp, weights != 0, xp.float32)  # what only fills up, left out
            sums = _products(xp, [model, seen])
            cross = cross + sums[:, 0, 1]
            model_power, power = model_power + sums[:, 0, 0], power + sums[:, 1, 1]
        below = xp.sqrt(model_power * power)
        good = below > 0
        return xp.where(good, cross, xp.zeros_like(cross)) / xp.where(
            good, below, xp.ones_like(below)
        )


def _products(xp: Any, columns: list[Array]) -> Array:
    """Real products of complex columns, float64, shape (poses, columns, columns)."""
    poses, count = columns[0].shape[0], columns[0].shape[1]
    shape = (poses, count // _BLOCK, _BLOCK)
    re = xp.stack([xp.reshape(xp.real(one), shape) for one in columns], axis=2)
    im = xp.stack([xp.reshape(xp.imag(one), shape) for one in columns], axis=2)
    sums = xp.matmul(re, transposed(re)) + xp.matmul(im, transposed(im))
    return xp.sum(as_type(xp, sums, xp.float64), axis=1)


def _solve(xp: Any, system: Array, limits: Limits) -> tuple[Array, Array]:
    """The Gauss-Newton steps of pose and scale, see `refinement._solve`.

    By elimination without exchange of rows, whose pivots are the squares of Cholesky's.
    """
    left = system[:, :7, :8]
    good = xp.ones(left.shape[0]) > 0
    unit = xp.eye(7, dtype=xp.float64)
    for j in range(7):
        pivot = left[:, j, j]
        fine = pivot > 1e-12 * system[:, j, j]
        good = good & fine
        row = left[:, j, :] / xp.where(fine, pivot, xp.ones_like(pivot))[:, None]
        left = left - (left[:, :, j] - unit[:, j][None, :])[:, :, None] * row[:, None, :]
    x = left[:, :, 7]
    plain = xp.where(good, system[:, 6, 6], xp.ones_like(x[:, 6]))
    # A tiny or negative scale would throw the pose far away.
    scale = xp.maximum(x[:, 6], 0.3 * system[:, 6, 7] / plain)
    good = good & (scale > 0)
    scale = xp.where(good, scale, xp.ones_like(scale))
    step = x[:, :6] / scale[:, None]
    turn = xp.sqrt(xp.sum(step[:, :3] ** 2, axis=1))
    move = xp.sqrt(xp.sum(step[:, 3:] ** 2, axis=1))
    shrink = xp.minimum(
        limits.turn / xp.maximum(turn, xp.full_like(turn, limits.turn)),
        limits.shift / xp.maximum(move, xp.full_like(move, limits.shift)),
    )
    return step * shrink[:, None], good


def _turns(xp: Any, vectors: Array) -> Array:
    """exp([v]) of rotation vectors (Rodrigues), float64, shape (n, 3, 3)."""
    angle = xp.sqrt(xp.sum(vectors * vectors, axis=1))
    some = angle >= 1e-12
    axis = vectors / xp.where(some, angle, xp.ones_like(angle))[:, None]
    angle = xp.where(some, angle, xp.zeros_like(angle))
    x, y, z = (axis[:, i] for i in range(3))
    c, s = xp.cos(angle), xp.sin(angle)
    d = 1.0 - c
    rows = [
        xp.stack([c + x * x * d, x * y * d - z * s, x * z * d + y * s], axis=1),
        xp.stack([y * x * d + z * s, c + y * y * d, y * z * d - x * s], axis=1),
        xp.stack([z * x * d - y * s, z * y * d + x * s, c + z * z * d], axis=1),
    ]
    return xp.stack(rows, axis=1)


def _turned_within(xp: Any, matrices: Array, origin: Array, reach: float) -> Array:
    """Matrices, those farther than `reach` (radians) from `origin` turned back until there."""
    e = xp.matmul(matrices, transposed(origin))
    vectors = xp.stack(
        [e[:, 2, 1] - e[:, 1, 2], e[:, 0, 2] - e[:, 2, 0], e[:, 1, 0] - e[:, 0, 1]], axis=1
    )
    sine = 0.5 * xp.sqrt(xp.sum(vectors * vectors, axis=1))
    cosine = 0.5 * (e[:, 0, 0] + e[:, 1, 1] + e[:, 2, 2] - 1.0)
    # sin(angle - reach), as both are within 0 to pi
    far = (sine * math.cos(reach) - cosine * math.sin(reach) > 0) & (sine > 0)
    factor = 0.5 * reach / xp.where(far, sine, xp.ones_like(sine))
    back = xp.matmul(_turns(xp, vectors * factor[:, None]), origin)
    return xp.where(far[:, None, None], back, matrices)
