"""The spectrum of a turned template, sampled where a tilt series measured it.

The template is transformed once, in a box that is padded, and its spectrum is looked up at the
turned frequencies: no transform per rotation.  Trilinear interpolation of a spectrum multiplies
the template by sinc² of the distance from its centre; it is divided out beforehand.

Frequencies are listed as rows along x, over half of Fourier space (the other half is conjugate):
within a row inside the band and the measured wedge x runs from `low` to `high` without a gap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft

from tomodask.arrays.fourier import measured

__all__ = ["Rows", "TemplateSpectrum", "band_rows", "sample_pair", "template_spectrum"]


@dataclass(frozen=True)
class Rows:
    """Half of the measured frequencies of a box inside a band.

    Attributes
    ----------
    z, y : array of int32, shape (rows,)
        Whole frequencies of each row.
    low, high : array of int32, shape (rows,)
        The row holds the frequencies low … high − 1 along x, all of them ≥ 0.
    start : array of int64, shape (rows + 1,)
        Where the row begins in an array of all frequencies.
    box : (int, int, int)
    """

    z: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    start: np.ndarray
    box: tuple[int, int, int]

    @property
    def size(self) -> int:
        """Number of frequencies."""
        return int(self.start[-1])

    def gather(self, spectrum: np.ndarray) -> np.ndarray:
        """The rows' values, one after another, of an ``rfftn`` of the box."""
        out = np.empty(self.size, np.complex64)
        for i, (z, y, low, high) in enumerate(
            zip(self.z, self.y, self.low, self.high, strict=True)
        ):
            out[self.start[i] : self.start[i + 1]] = spectrum[z, y, low:high]
        return out


@dataclass(frozen=True)
class TemplateSpectrum:
    """Spectrum of a template in a padded box, within a band.

    Attributes
    ----------
    values : array of float32, shape (2 k + 3, 2 k + 3, k + 3, 2)
        Real and imaginary part; frequency (0, 0, 0) at index (k + 1, k + 1, 0).
    edge : int
        Edge of the padded box: frequency in cycles per voxel × edge = steps of `values`.
    """

    values: np.ndarray
    edge: int


def template_spectrum(
    template: np.ndarray, *, band: float = 0.5, padding: float = 2.0
) -> TemplateSpectrum:
    """Transform a template once, ready to be sampled at turned frequencies.

    Parameters
    ----------
    template : array, shape (z, y, x)
        Zero outside the particle; its centre is voxel ``size // 2`` of each axis.
    band : float
        Highest frequency that will be sampled, cycles per voxel.
    padding : float
        Edge of the padded box over the longest edge of the template.
    """
    edge = scipy.fft.next_fast_len(int(np.ceil(padding * max(template.shape))), real=True)
    padded = np.zeros((edge,) * 3)
    index = []
    for axis, size in enumerate(template.shape):
        grid = np.arange(size) - size // 2
        form = [1, 1, 1]
        form[axis] = -1
        template = template / np.sinc(grid / edge).reshape(form) ** 2
        index.append(grid % edge)
    padded[np.ix_(*index)] = template
    k = int(np.ceil(band * edge))
    around = np.arange(-k - 1, k + 2)
    # The half spectrum ends at Nyquist's frequency; what lies beyond it is periodic.
    ahead = np.arange(0, k + 3)
    full = scipy.fft.fftn(padded)
    part = full[np.ix_(around % edge, around % edge, ahead % edge)].astype(np.complex64)
    return TemplateSpectrum(np.stack([part.real, part.imag], axis=-1), edge)


def band_rows(box: tuple[int, int, int], *, band: float, tilt_range: tuple[float, float]) -> Rows:
    """The frequencies of a box that were measured and lie inside a band, half of them, as rows.

    Frequency zero is left out: a template has no mean.

    Parameters
    ----------
    box : (int, int, int)
        Box in real space (z, y, x), voxels.
    band : float
        Radius of the band, cycles per voxel.
    tilt_range : (float, float)
        Least and largest tilt, degrees; tilt axis along y, beam along z.
    """
    radius = [min(int(np.floor(band * n + 1e-6)), (n - 1) // 2) for n in box]
    z = np.arange(-radius[0], radius[0] + 1)[:, None, None]
    y = np.arange(-radius[1], radius[1] + 1)[None, :, None]
    x = np.arange(radius[2] + 1)[None, None, :]
    inside = (z / box[0]) ** 2 + (y / box[1]) ** 2 + (x / box[2]) ** 2 <= band**2 * (1 + 1e-9)
    inside &= measured(z / box[0], x / box[2], tilt_range)
    # The plane x = 0 holds both of each conjugate pair: keep one.
    inside[:, :, 0] &= ((y > 0) | ((y == 0) & (z > 0)))[:, :, 0]
    zi, yi = np.nonzero(inside.any(axis=2))
    row = inside[zi, yi]
    low = row.argmax(axis=1)
    count = row.sum(axis=1)
    high = low + count
    assert np.array_equal(high, row.shape[1] - row[:, ::-1].argmax(axis=1))  # no gap in a row
    return Rows(
        z=(zi - radius[0]).astype(np.int32),
        y=(yi - radius[1]).astype(np.int32),
        low=low.astype(np.int32),
        high=high.astype(np.int32),
        start=np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
        box=box,
    )


@numba.njit(cache=True, fastmath=True, nogil=True)
def _look_up(values, sz, sy, sx, top):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Trilinear value (real, imaginary) at a frequency in steps of `values`."""
    sign = np.float32(1.0)
    if sx < np.float32(0.0):  # the conjugate half
        sz, sy, sx, sign = -sz, -sy, -sx, np.float32(-1.0)
    sz += top
    sy += top
    iz, iy, ix = np.int64(sz), np.int64(sy), np.int64(sx)
    fz, fy, fx = sz - np.float32(iz), sy - np.float32(iy), sx - np.float32(ix)
    gx = np.float32(1.0) - fx
    gz = np.float32(1.0) - fz
    w00 = gz * (np.float32(1.0) - fy)
    w01 = gz * fy
    w10 = fz * (np.float32(1.0) - fy)
    w11 = fz * fy
    re = w00 * (gx * values[iz, iy, ix, 0] + fx * values[iz, iy, ix + 1, 0])
    im = w00 * (gx * values[iz, iy, ix, 1] + fx * values[iz, iy, ix + 1, 1])
    re += w01 * (gx * values[iz, iy + 1, ix, 0] + fx * values[iz, iy + 1, ix + 1, 0])
    im += w01 * (gx * values[iz, iy + 1, ix, 1] + fx * values[iz, iy + 1, ix + 1, 1])
    re += w10 * (gx * values[iz + 1, iy, ix, 0] + fx * values[iz + 1, iy, ix + 1, 0])
    im += w10 * (gx * values[iz + 1, iy, ix, 1] + fx * values[iz + 1, iy, ix + 1, 1])
    re += w11 * (gx * values[iz + 1, iy + 1, ix, 0] + fx * values[iz + 1, iy + 1, ix + 1, 0])
    im += w11 * (gx * values[iz + 1, iy + 1, ix, 1] + fx * values[iz + 1, iy + 1, ix + 1, 1])
    return re, im * sign


@numba.njit(cache=True, fastmath=True, nogil=True)
def sample_pair(values, edge, za, ya, low, high, start, box, turn_a, turn_b, data, grid):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Correlate two turned templates with a tile, in Fourier space.

    Writes ``data · (conj A + i conj B)`` at each frequency and its counterpart at the opposite
    one, so that the inverse transform holds A's correlation as its real part and B's as its
    imaginary part.

    Parameters
    ----------
    values, edge : of `TemplateSpectrum`
    za, ya, low, high, start, box : of `Rows`
    turn_a, turn_b : array of float32, shape (3, 3)
        Orientations, reference → particle, on (z, y, x) vectors.
    data : array of complex64, shape (rows.size,)
        The tile's spectrum at the rows.
    grid : array of complex64, shape (z, y, x)
        Zeros; written in place.

    Returns
    -------
    (float, float)
        Sum of |A|² and of |B|² over all of the measured band.
    """
    nz, ny, nx = grid.shape
    top = np.float32((values.shape[0] - 1) // 2)
    pa = np.float64(0.0)
    pb = np.float64(0.0)
    for row in range(za.size):
        # Frequencies turn back: T_R(k) = T(R⁻¹ k), and R⁻¹ is R transposed.
        kz = np.float32(za[row]) * np.float32(edge / box[0])
        ky = np.float32(ya[row]) * np.float32(edge / box[1])
        step = np.float32(edge / box[2])
        az = turn_a[0, 0] * kz + turn_a[1, 0] * ky
        ay = turn_a[0, 1] * kz + turn_a[1, 1] * ky
        ax = turn_a[0, 2] * kz + turn_a[1, 2] * ky
        bz = turn_b[0, 0] * kz + turn_b[1, 0] * ky
        by = turn_b[0, 1] * kz + turn_b[1, 1] * ky
        bx = turn_b[0, 2] * kz + turn_b[1, 2] * ky
        iz, iy = za[row] % nz, ya[row] % ny
        jz, jy = -za[row] % nz, -ya[row] % ny
        place = start[row]
        qa = np.float32(0.0)
        qb = np.float32(0.0)
        for x in range(low[row], high[row]):
            kx = np.float32(x) * step
            ar, ai = _look_up(
                values, az + turn_a[2, 0] * kx, ay + turn_a[2, 1] * kx, ax + turn_a[2, 2] * kx, top
            )
            br, bi = _look_up(
                values, bz + turn_b[2, 0] * kx, by + turn_b[2, 1] * kx, bx + turn_b[2, 2] * kx, top
            )
            qa += ar * ar + ai * ai
            qb += br * br + bi * bi
            fr, fi = data[place].real, data[place].imag
            place += 1
            # F · (conj A + i conj B) and conj F · (A + i B)
            pr, pi = ar + bi, br - ai
            mr, mi = ar - bi, ai + br
            grid[iz, iy, x] = complex(fr * pr - fi * pi, fr * pi + fi * pr)
            grid[jz, jy, (nx - x) % nx] = complex(fr * mr + fi * mi, fr * mi - fi * mr)
        pa += qa
        pb += qb
    return 2.0 * pa, 2.0 * pb
