"""From the normal equations of a slab to a step: scale, solution, limits."""

from __future__ import annotations

import math

import numba
import numpy as np

from tomodask.alignment.refinement import _turn, _turn_within

__all__ = ["best_scale", "cholesky_solve", "step_from"]


@numba.njit(cache=True, nogil=True)
def cholesky_solve(system, right, x):  # type: ignore[no-untyped-def]
    """Solve a small positive system by hand; False where it is not positive."""
    n = right.size
    lower = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = system[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                if total <= 1e-12 * abs(system[i, i]) or total <= 0.0:
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


@numba.njit(cache=True, nogil=True)
def best_scale(system):  # type: ignore[no-untyped-def]
    """Scale of the model beside the data, its derivatives free as well; 0 where they disagree.

    Held above 0.3 of the scale without derivatives: a tiny one would throw the pose far away.
    """
    x = np.zeros(7)
    plain = system[6, 7] / system[6, 6] if system[6, 6] > 0 else 0.0
    if plain <= 0.0 or not cholesky_solve(system[:7, :7], system[:7, 7], x):
        return 0.0
    return max(x[6], 0.3 * plain)


@numba.njit(cache=True, nogil=True)
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
    _turn(step, matrix, turned)
    if turn_reach < math.pi:
        _turn_within(turned, origin, turn_reach)
    longest = 0.0
    for i in range(3):
        moved[i] = min(max(shift[i] + radius * step[3 + i], center[i] - reach), center[i] + reach)
        longest = max(longest, abs(step[i]), abs(moved[i] - shift[i]) / radius)
    return longest
