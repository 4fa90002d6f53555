"""Two masked maps in one band, compared at any motion between them.

Both are sampled halfway, one turned there and the other back, about a frame that lies askew to the
voxels: between its samples a spectrum is a little smoother, noise above all, and maps that are
compared at the samples of one of them seem to fit better when slightly turned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import scipy.optimize
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import matrices_zyx
from tomodask.arrays.sampling import (
    Spectrum,
    cut_out,
    half_sphere,
    padded_spectrum,
    sample,
    soft_sphere,
    trilinear,
)

__all__ = ["MapPair"]

_ASKEW = Rotation.from_euler("xyz", [27.0, 41.0, 13.0], degrees=True)
_ASKEW_XYZ = _ASKEW.as_matrix()
_STILL = 3e-4  # slope of the correlation, in units of `scale`; interpolation leaves 2.5e-4


@dataclass(frozen=True)
class MapPair:
    """A map at rest and one that moves.

    Attributes
    ----------
    fixed, moving : Spectrum
    k : array of float32, shape (frequencies, 3)
        Compared, (z, y, x).
    radius : float
        Of the band, Fourier voxels.
    """

    fixed: Spectrum
    moving: Spectrum
    k: np.ndarray
    radius: float

    @classmethod
    def of(
        cls,
        fixed: np.ndarray,
        moving: np.ndarray,
        voxel_size: float,
        resolution: float,
        diameter: float | None,
    ) -> MapPair:
        """Maps of shape (n, n, n), lengths in Å; as of `superpose`."""
        n = fixed.shape[0]
        radius = float(np.clip(n * voxel_size / resolution, 2.0, n / 2 - 1))
        within = n / 2 - 4 if diameter is None else min(diameter / 2 / voxel_size, n / 2 - 4)
        sphere = soft_sphere(n, within)
        one, two = (
            padded_spectrum(cut_out(np.asarray(x, np.float32), sphere), radius=radius)
            for x in (fixed, moving)
        )
        return cls(one, two, half_sphere(radius), radius)

    @property
    def scale(self) -> np.ndarray:
        """Turn vector (rad) and shift (voxels) that move the finest detail by about a radian."""
        n = self.fixed.box
        # A turn by 1 / reach moves the finest detail by a radian.
        reach = 2.0 * self.radius / n
        return np.repeat([1 / max(2 * np.pi * reach, 1.0), n / (2 * np.pi * self.radius)], 3)

    def correlation(self, turn: Rotation, shift_xyz: np.ndarray) -> float:
        """Of ``moving(x)`` and ``fixed(R⁻¹ (x − t))``, t in voxels."""
        half = Rotation.from_rotvec(turn.as_rotvec() / 2)
        # moving at M q and fixed at F q show the same where M = R F.
        f = matrices_zyx(half.inv() * _ASKEW)
        m = matrices_zyx(half * _ASKEW)
        a = sample(self.fixed, self.k, f)
        b = sample(self.moving, self.k, m)
        angle = 2 * np.pi / self.fixed.box * (self.k @ (m.T @ shift_xyz[::-1]))
        b = b * np.exp(1j * angle)
        power = np.sqrt(np.vdot(a, a).real * np.vdot(b, b).real)
        return float(np.vdot(a, b).real / power) if power > 0 else 0.0

    def slope(
        self, start: Rotation, turn: np.ndarray, shift_xyz: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """The correlation at a motion near a start, and how it changes with the motion.

        Parameters
        ----------
        start : Rotation
            R₀.
        turn : array, shape (3,)
            d, radians: the motion's rotation is ``exp(d / 2) R₀ exp(d / 2)``, half of it made by
            each map.
        shift_xyz : array, shape (3,)
            Voxels.

        Returns
        -------
        float
        array of float64, shape (6,)
            By d, then by the shift.
        """
        first = Rotation.from_rotvec(start.as_rotvec() / 2).as_matrix()
        return self._slope(first, turn, shift_xyz)

    def _slope(
        self, first: np.ndarray, turn: np.ndarray, shift_xyz: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """The same, of the matrix of half of R₀."""
        half = _turned(turn / 2)
        sums = np.zeros(18)
        _slope_sums(
            self.fixed.values,
            self.moving.values,
            np.float32(self.fixed.padding),
            self.k,
            ((first @ half).T @ _ASKEW_XYZ).astype(np.float32),
            (half @ first @ _ASKEW_XYZ).astype(np.float32),
            np.asarray(shift_xyz, np.float32),
            np.float32(2 * np.pi / self.fixed.box),
            sums,
        )
        product, power_a, power_b = sums[:3]
        power = math.sqrt(power_a * power_b)
        if not power > 0:
            return 0.0, np.zeros(6)
        correlation = product / power
        of_a = sums[3:6] / power - correlation / power_a * sums[6:9]
        of_b = sums[9:12] / power - correlation / power_b * sums[12:15]
        by_turn = 0.5 * (_turning(turn / 2).T @ of_b - _turning(-turn / 2).T @ of_a)
        return correlation, np.concatenate([by_turn, sums[15:] / power])

    def nearest_optimum(
        self, start: Rotation, shift_xyz: np.ndarray
    ) -> tuple[Rotation, np.ndarray, float]:
        """The motion of the highest correlation near a start, and that correlation.

        Along the slope (L-BFGS); shifts in voxels.
        """
        scale, moved = self.scale, np.asarray(shift_xyz, float)
        first = Rotation.from_rotvec(start.as_rotvec() / 2).as_matrix()

        def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = self._slope(first, x[:3] * scale[:3], moved + x[3:] * scale[3:])
            return -value, -slope * scale

        found = scipy.optimize.minimize(
            loss, np.zeros(6), jac=True, method="L-BFGS-B", options={"gtol": _STILL, "maxiter": 60}
        )
        half = Rotation.from_rotvec(found.x[:3] * scale[:3] / 2)
        return half * start * half, moved + found.x[3:] * scale[3:], -float(found.fun)


def _turned(v: np.ndarray) -> np.ndarray:
    """The rotation by a turn vector, as a matrix (Rodrigues)."""
    angle = float(np.linalg.norm(v))
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    a = np.sinc(angle / np.pi)
    b = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    return np.asarray(np.eye(3) + a * cross + b * cross @ cross)


def _turning(v: np.ndarray) -> np.ndarray:
    """J with ``exp(v + dv) = exp(J dv) exp(v)``: the left Jacobian of rotations."""
    angle = float(np.linalg.norm(v))
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    if angle < 1e-4:
        return np.asarray(np.eye(3) + cross / 2 + cross @ cross / 6)
    a = (1 - math.cos(angle)) / angle**2
    b = (angle - math.sin(angle)) / angle**3
    return np.asarray(np.eye(3) + a * cross + b * cross @ cross)


@numba.njit(cache=True, fastmath=True, nogil=True)
def _slope_sums(fixed, moving, padding, k_zyx, f, m, shift, unit, out):  # type: ignore[no-untyped-def]
    """Sums over the band, a = fixed(f k), b = moving(m k) exp(i unit m k · shift), all xyz.

    Re a* b, |a|², |b|²; the torque of the first and half of the second's about a (3 + 3); of the
    first and half of the third about b (3 + 3); the first's slope by the shift (3).
    """
    sx, sy, sz = shift[0], shift[1], shift[2]
    ab = aa = bb = 0.0
    abx = aby = abz = aax = aay = aaz = 0.0  # about a
    bax = bay = baz = bbx = bby = bbz = 0.0  # about b
    dx = dy = dz = 0.0
    for i in range(k_zyx.shape[0]):
        x, y, z = k_zyx[i, 2], k_zyx[i, 1], k_zyx[i, 0]
        px = f[0, 0] * x + f[0, 1] * y + f[0, 2] * z
        py = f[1, 0] * x + f[1, 1] * y + f[1, 2] * z
        pz = f[2, 0] * x + f[2, 1] * y + f[2, 2] * z
        qx = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z
        qy = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z
        qz = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z
        ar, ai, arz, ary, arx, aiz, aiy, aix = trilinear(
            fixed, pz * padding, py * padding, px * padding
        )
        br, bi, brz, bry, brx, biz, biy, bix = trilinear(
            moving, qz * padding, qy * padding, qx * padding
        )
        angle = unit * (qx * sx + qy * sy + qz * sz)
        c, s = math.cos(angle), math.sin(angle)
        # a turned back by the shift's phase meets b as it is: Re (a e^-iθ)* b.
        tr, ti = ar * c + ai * s, ai * c - ar * s
        ab += tr * br + ti * bi
        aa += ar * ar + ai * ai
        bb += br * br + bi * bi
        # b turned by the phase meets the slope of a.
        ur, ui = br * c - bi * s, br * s + bi * c
        wx, wy, wz = arx * ur + aix * ui, ary * ur + aiy * ui, arz * ur + aiz * ui
        abx += py * wz - pz * wy
        aby += pz * wx - px * wz
        abz += px * wy - py * wx
        wx, wy, wz = arx * ar + aix * ai, ary * ar + aiy * ai, arz * ar + aiz * ai
        aax += py * wz - pz * wy
        aay += pz * wx - px * wz
        aaz += px * wy - py * wx
        along = unit * (ti * br - tr * bi)  # Re a* (i b), of a turn of the phase
        wx = padding * (tr * brx + ti * bix) + along * sx
        wy = padding * (tr * bry + ti * biy) + along * sy
        wz = padding * (tr * brz + ti * biz) + along * sz
        bax += qy * wz - qz * wy
        bay += qz * wx - qx * wz
        baz += qx * wy - qy * wx
        wx, wy, wz = br * brx + bi * bix, br * bry + bi * biy, br * brz + bi * biz
        bbx += qy * wz - qz * wy
        bby += qz * wx - qx * wz
        bbz += qx * wy - qy * wx
        dx += along * qx
        dy += along * qy
        dz += along * qz
    out[0], out[1], out[2] = ab, aa, bb
    out[3], out[4], out[5] = padding * abx, padding * aby, padding * abz
    out[6], out[7], out[8] = padding * aax, padding * aay, padding * aaz
    out[9], out[10], out[11] = bax, bay, baz
    out[12], out[13], out[14] = padding * bbx, padding * bby, padding * bbz
    out[15], out[16], out[17] = dx, dy, dz
