"""From normal equations to a step, in Fourier space and in real space: solution, turn, limits.

All say ``fastmath=False``: a kernel that says nothing takes it from the first that calls it, so
bits, and the check for what is not a number, would hang on which method ran first.
"""

from __future__ import annotations

import math

import numba
import numpy as np

__all__ = ["best_scale", "cholesky_solve", "step_from", "turn_within", "turned_by"]


@numba.njit(cache=True, nogil=True, fastmath=False)
def cholesky_solve(system, right, x):  # type: ignore[no-untyped-def]
    """Solve a small positive system; False where it is not positive, or not a number.

    By hand: seven unknowns, a thousand times a second per core.
    """
    n = right.size
    lower = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = system[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                if not total > 1e-12 * abs(system[i, i]):
                    return False
                lower[i, i] = math.sqrt(total)
            else:
                lower[i, j] = total / lower[j, j]
    for i in range(n):
        total = right[i]
        for k in range(i):
            total -= lower[i, k] * x[k]
        x[i] = total / lower[i, i]
    for i in range(n - 1, -1, -1):
        total = x[i]
        for k in range(i + 1, n):
            total -= lower[k, i] * x[k]
        x[i] = total / lower[i, i]
    return True


@numba.njit(cache=True, nogil=True, fastmath=False)
def best_scale(system):  # type: ignore[no-untyped-def]
    """Scale of the model beside the data, its derivatives free as well; 0 where they disagree.

    Held above 0.3 of the scale without derivatives: a tiny one would throw the pose far away.
    """
    x = np.zeros(7)
    plain = system[6, 7] / system[6, 6] if system[6, 6] > 0 else 0.0
    if plain <= 0.0 or not cholesky_solve(system[:7, :7], system[:7, 7], x):
        return 0.0
    return max(x[6], 0.3 * plain)


@numba.njit(cache=True, nogil=True, fastmath=False)
def turned_by(step, matrix, out):  # type: ignore[no-untyped-def]
    """exp([step]) @ matrix (Rodrigues): a step in the tangent space, no Euler singularities."""
    wx, wy, wz = step[0], step[1], step[2]
    angle = math.sqrt(wx * wx + wy * wy + wz * wz)
    if angle < 1e-12:
        out[:] = matrix
        return
    wx, wy, wz = wx / angle, wy / angle, wz / angle
    c, s = math.cos(angle), math.sin(angle)
    d = 1.0 - c
    e = np.empty((3, 3))
    e[0, 0], e[0, 1], e[0, 2] = c + wx * wx * d, wx * wy * d - wz * s, wx * wz * d + wy * s
    e[1, 0], e[1, 1], e[1, 2] = wy * wx * d + wz * s, c + wy * wy * d, wy * wz * d - wx * s
    e[2, 0], e[2, 1], e[2, 2] = wz * wx * d - wy * s, wz * wy * d + wx * s, c + wz * wz * d
    for i in range(3):
        for j in range(3):
            out[i, j] = e[i, 0] * matrix[0, j] + e[i, 1] * matrix[1, j] + e[i, 2] * matrix[2, j]


@numba.njit(cache=True, nogil=True, fastmath=False)
def turn_within(matrix, origin, turn_reach):  # type: ignore[no-untyped-def]
    """Turn `matrix` back, in place, until it is `turn_reach` (radians) from `origin`."""
    e = np.empty((3, 3))  # matrix @ origin.T
    for i in range(3):
        for j in range(3):
            e[i, j] = (
                matrix[i, 0] * origin[j, 0]
                + matrix[i, 1] * origin[j, 1]
                + matrix[i, 2] * origin[j, 2]
            )
    x, y, z = e[2, 1] - e[1, 2], e[0, 2] - e[2, 0], e[1, 0] - e[0, 1]
    sine = 0.5 * math.sqrt(x * x + y * y + z * z)
    angle = math.atan2(sine, 0.5 * (e[0, 0] + e[1, 1] + e[2, 2] - 1.0))
    if angle <= turn_reach or sine == 0.0:
        return
    step = np.zeros(6)
    step[0], step[1], step[2] = x, y, z
    step *= 0.5 * turn_reach / sine
    turned_by(step, origin, e)
    matrix[:] = e


@numba.njit(cache=True, nogil=True, fastmath=False)
def step_from(matrix, shift, step, radius, limits, bounds, turned, moved):  # type: ignore[no-untyped-def]
    """Where a step leads from a pose; returns its length, in radians and particle radii.

    `step` (turn in radians, move in particle radii) is first shortened, in place, to `limits` =
    (radians, voxels).  `bounds` = (origin, turn_reach, centre, reach) hold the pose.
    """
    turn = math.sqrt(step[0] ** 2 + step[1] ** 2 + step[2] ** 2)
    move = math.sqrt(step[3] ** 2 + step[4] ** 2 + step[5] ** 2) * radius
    shrink = 1.0
    if turn > limits[0]:
        shrink = min(shrink, limits[0] / turn)
    if move > limits[1]:
        shrink = min(shrink, limits[1] / move)
    for i in range(6):
        step[i] *= shrink
    origin, turn_reach, center, reach = bounds
    turned_by(step, matrix, turned)
    if turn_reach < math.pi:
        turn_within(turned, origin, turn_reach)
    longest = 0.0
    for i in range(3):
        moved[i] = min(max(shift[i] + radius * step[3 + i], center[i] - reach), center[i] + reach)
        longest = max(longest, abs(step[i]), abs(moved[i] - shift[i]) / radius)
    return longest
