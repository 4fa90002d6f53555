"""From the best grid point to the top of the correlation between the grid points.

The correlation with a reference at nine shifts, the best of the grid and those around it, is known
at *every* angle, as a Fourier series.  Between the nine it is taken for the biquadratic polynomial
through them, and Newton's method climbs to the top in angle and both shifts at once, but never to a
shift beyond the range that is searched.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from tomodask.arrays.lanes import LANES, fma, load, splat, store
from tomodask.planar.polar import PolarGrid

__all__ = ["STEPS", "STILL", "TURN", "refine_lanes", "ring_order"]

#: Steps of Newton's method; it ends sooner where a step is below STILL samples.
STEPS = 12
STILL = 1e-5
#: Samples that the angle may turn by: a small particle half a pixel off its place turns by several.
TURN = 4


def ring_order(grid: PolarGrid) -> tuple[np.ndarray, np.ndarray]:
    """Packed numbers ring by ring, each ring filled up to whole vectors.

    Returns
    -------
    order : array of int64
        Which packed number stands there, -1 where none does.
    rings : array of int64, shape (ring + 1,)
        Where each ring begins.
    """
    order = []
    for ring, band in enumerate(grid.bands):
        m = np.arange(band)
        part = np.full(-(-band // LANES) * LANES, -1)
        part[:band] = grid.starts[m] + ring - grid.first[m]
        order.append(part)
    return np.concatenate(order), np.concatenate([[0], np.cumsum([len(one) for one in order])])


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _series(image, columns, start, rings, mirror, g):  # type: ignore[no-untyped-def]
    """The Fourier series over the angle of an image's correlation with one column.

    `image` and, from `start` on, `columns` hold real parts, then imaginary parts, ring by ring;
    `g` becomes as many real parts as it has numbers in half of it, then imaginary parts.
    """
    size, half = rings[-1], len(g) // 2
    g[:] = np.float32(0.0)
    sign = splat(np.float32(-1.0) if mirror else np.float32(1.0))
    minus = splat(np.float32(-1.0))
    for ring in range(len(rings) - 1):
        for at in range(rings[ring], rings[ring + 1], LANES):
            m = at - rings[ring]
            a, b = load(image, at), load(image, size + at)
            c, d = load(columns, start + at), sign * load(columns, start + size + at)
            # x times the conjugate of y, or times y itself.
            store(g, m, fma(a, c, fma(b, d, load(g, m))))
            store(g, half + m, fma(b, c, fma(minus * a, d, load(g, half + m))))
    if mirror:
        for m in range(1, half, 2):
            g[m], g[half + m] = -g[m], -g[half + m]


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _at_angle(g, psi, value):  # type: ignore[no-untyped-def]
    """Correlations, their first and second derivatives by the angle (radians): value (3, 9).

    `g` is (m, real and imaginary, 9): one wave serves all nine.
    """
    c1, s1 = math.cos(psi), -math.sin(psi)
    c, s = 1.0, 0.0
    for j in range(9):
        value[0, j], value[1, j], value[2, j] = g[0, 0, j], 0.0, 0.0
    for m in range(1, g.shape[0]):
        c, s = c * c1 - s * s1, c * s1 + s * c1
        twice, slope, bend = 2.0, 2.0 * m, 2.0 * m * m
        for j in range(9):
            real = g[m, 0, j] * c - g[m, 1, j] * s
            value[0, j] += twice * real
            value[1, j] += slope * (g[m, 0, j] * s + g[m, 1, j] * c)
            value[2, j] -= bend * real


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _lagrange(t, weights):  # type: ignore[no-untyped-def]
    """Weights of values at -1, 0, 1 for the parabola at t, its slope and its curvature: (3, 3)."""
    weights[0, 0], weights[0, 1], weights[0, 2] = 0.5 * t * (t - 1), 1 - t * t, 0.5 * t * (t + 1)
    weights[1, 0], weights[1, 1], weights[1, 2] = t - 0.5, -2 * t, t + 0.5
    weights[2, 0], weights[2, 1], weights[2, 2] = 1.0, -2.0, 1.0


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _model(g, psi, v, u, ly, lx, value, out):  # type: ignore[no-untyped-def]
    """f, its gradient and Hessian in (psi, v along y, u along x): out (10,)."""
    _lagrange(v, ly)
    _lagrange(u, lx)
    out[:] = 0.0
    _at_angle(g, psi, value)
    for j in range(9):
        y, x = j // 3, j % 3
        out[0] += ly[0, y] * lx[0, x] * value[0, j]
        out[1] += ly[0, y] * lx[0, x] * value[1, j]
        out[2] += ly[1, y] * lx[0, x] * value[0, j]
        out[3] += ly[0, y] * lx[1, x] * value[0, j]
        out[4] += ly[0, y] * lx[0, x] * value[2, j]
        out[5] += ly[2, y] * lx[0, x] * value[0, j]
        out[6] += ly[0, y] * lx[2, x] * value[0, j]
        out[7] += ly[1, y] * lx[0, x] * value[1, j]
        out[8] += ly[0, y] * lx[1, x] * value[1, j]
        out[9] += ly[1, y] * lx[1, x] * value[0, j]


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _newton(f, step):  # type: ignore[no-untyped-def]
    """The step to the top of the parabola; False where there is none (no negative curvature)."""
    a, b, c = -f[4], -f[5], -f[6]
    ab, ac, bc = -f[7], -f[8], -f[9]
    if a <= 0 or a * b - ab * ab <= 0:
        return False
    determinant = a * (b * c - bc * bc) - ab * (ab * c - bc * ac) + ac * (ab * bc - b * ac)
    if determinant <= 0:
        return False
    x, y, z = f[1], f[2], f[3]
    step[0] = (
        (b * c - bc * bc) * x + (ac * bc - ab * c) * y + (ab * bc - ac * b) * z
    ) / determinant
    step[1] = (
        (bc * ac - ab * c) * x + (a * c - ac * ac) * y + (ab * ac - a * bc) * z
    ) / determinant
    step[2] = (
        (ab * bc - b * ac) * x + (ab * ac - a * bc) * y + (a * b - ab * ab) * z
    ) / determinant
    return True


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _climb(g, start, sample, at_y, at_x, reach, out):  # type: ignore[no-untyped-def]
    """Psi (radians), v, u in steps of the grid, and the correlation there: out (4,).

    The grid's point is (at_y, at_x); no farther than `reach` from 0 is looked, all in steps.
    """
    ly, lx, value = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 9))
    f, trial, step = np.empty(10), np.empty(10), np.zeros(3)
    psi, v, u = start, 0.0, 0.0
    _model(g, psi, v, u, ly, lx, value, f)
    scale = (sample, 1.0, 1.0)
    share = 1.0
    for _ in range(STEPS):
        if not _newton(f, step):
            # Uphill along each axis by itself, a quarter of a sample where it is not a hill.
            for i in range(3):
                hill = -f[4 + i]
                uphill = 0.25 * scale[i] * (1.0 if f[1 + i] > 0 else -1.0)
                step[i] = f[1 + i] / hill if hill > 0 else uphill
        new_psi = psi + share * step[0]
        new_psi = min(max(new_psi, start - TURN * sample), start + TURN * sample)
        new_v = min(max(v + share * step[1], -1.0), 1.0)
        new_u = min(max(u + share * step[2], -1.0), 1.0)
        away = math.hypot(at_y + new_v, at_x + new_u)
        if away > reach:
            new_v = (at_y + new_v) * (reach / away) - at_y
            new_u = (at_x + new_u) * (reach / away) - at_x
        moved = max(abs(new_psi - psi) / sample, abs(new_v - v), abs(new_u - u))
        if moved < STILL:
            break
        _model(g, new_psi, new_v, new_u, ly, lx, value, trial)
        if trial[0] > f[0]:
            psi, v, u, share = new_psi, new_v, new_u, 1.0
            f[:] = trial
        else:  # too far for the parabola: a part of the step
            share *= 0.25
    out[0], out[1], out[2], out[3] = psi, v, u, f[0]


@numba.njit(cache=True, nogil=True, boundscheck=False)
def refine_lanes(  # type: ignore[no-untyped-def]
    packed, columns, around, shifts, reach, order, rings, frequencies, angles, index, place, use,
    pose,
):  # fmt: skip
    """Refine the best grid point of each lane and reference that is asked for.

    Parameters
    ----------
    packed : array of float32, flat
        Of `polar_lanes`.
    columns : array of float32, shape (reference, shift, 2, packed)
        Ring by ring, real and imaginary parts; shifts with a rim beyond those searched.
    around : array of int64, shape (searched shift, 9)
        The shifts at and around each searched one, (y, x) from -1 to 1.
    shifts : array of float64, shape (searched shift, 2)
        In steps.
    reach : float
        How long a shift may be, steps.
    order, rings
        Of `ring_order`.
    frequencies, angles : int
        Of the grid.
    index, place : arrays of int32, shape (reference, 16)
        Best shift, and sample of the angle plus `angles` where mirrored, in order.
    use : array of bool, shape (reference, 16)
    pose : array of float64, shape (reference, 16, 4)
        Result: psi in radians, shift along y and x from the best in steps, correlation.
    """
    size = len(order)
    image = np.empty(2 * size, np.float32)
    half = (frequencies + LANES - 1) // LANES * LANES
    g, series = np.empty((frequencies, 2, 9)), np.empty(2 * half, np.float32)
    flat = columns.reshape(-1)
    sample = 2 * math.pi / angles
    for lane in range(LANES):
        filled = False
        for reference in range(use.shape[0]):
            if not use[reference, lane]:
                continue
            if not filled:
                for t in range(size):
                    if order[t] >= 0:
                        image[t] = packed[order[t] * 32 + lane]
                        image[size + t] = packed[order[t] * 32 + 16 + lane]
                    else:
                        image[t], image[size + t] = np.float32(0.0), np.float32(0.0)
                filled = True
            mirrored = place[reference, lane] >= angles
            for j in range(9):
                column = reference * columns.shape[1] + around[index[reference, lane], j]
                _series(image, flat, column * 2 * size, rings, mirrored, series)
                for m in range(frequencies):
                    g[m, 0, j], g[m, 1, j] = series[m], series[half + m]
            # The transform runs over exp(+i m angle), the correlation over exp(-i m psi).
            start = -sample * (place[reference, lane] % angles)
            at = shifts[index[reference, lane]]
            _climb(g, start, sample, at[0], at[1], reach, pose[reference, lane])
