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

__all__ = ["Rows", "TemplateSpectrum", "band_rows", "sample_pair", "spread", "template_spectrum"]


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
    ahead, behind, across : array of int64, shape (rows,)
        The row's frequency x lies in column ``ahead + x``, the opposite frequency in column
        ``behind − x``, and in `across` where x is 0.  A column is a measured pair (z, x).
    runs : array of int64, shape (runs, 4)
        Columns that follow each other along x: z, first x, number, first column.
    """

    z: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    start: np.ndarray
    box: tuple[int, int, int]
    ahead: np.ndarray
    behind: np.ndarray
    across: np.ndarray
    runs: np.ndarray

    @property
    def columns(self) -> int:
        """Number of measured pairs (z, x)."""
        return int(self.runs[:, 2].sum())

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
    rz, ry = zi - radius[0], yi - radius[1]
    ahead, behind, across, runs = _columns(rz, low, high)
    return Rows(
        z=rz.astype(np.int32),
        y=ry.astype(np.int32),
        low=low.astype(np.int32),
        high=high.astype(np.int32),
        start=np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
        box=box,
        ahead=ahead,
        behind=behind,
        across=across,
        runs=runs,
    )


def _columns(
    z: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`ahead`, `behind`, `across` and `runs` of `Rows`."""
    least = {k: int(low[z == k].min()) for k in np.unique(z)}
    most = {k: int(high[z == k].max()) for k in np.unique(z)}
    # The opposite of (z, x = 0) is (−z, x = 0): that column is there even if it has no row itself.
    for k in [k for k, first in least.items() if first == 0]:
        least[-k], most[-k] = 0, max(most.get(-k, 1), 1)
    runs, ahead, behind = [], {}, {}
    column = 0
    for k in sorted(set(least) | {-k for k in least}):
        if k in least:
            runs.append((k, least[k], most[k] - least[k], column))
            ahead[k] = column - least[k]
            column += most[k] - least[k]
        if -k in least:  # the frequencies opposite to those of plane −k
            first = max(least[-k], 1)
            if most[-k] > first:
                runs.append((k, 1 - most[-k], most[-k] - first, column))
                behind[-k] = column + most[-k] - 1
                column += most[-k] - first
    return (
        np.array([ahead[k] for k in z], np.int64),
        np.array([behind.get(k, 0) for k in z], np.int64),
        np.array([ahead.get(-k, 0) for k in z], np.int64),
        np.array(runs, np.int64).reshape(-1, 4),
    )


@numba.njit(fastmath=True, nogil=True, inline="always")
def _look_up(values, plane, line, top, z, y, x):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Trilinear value (real, imaginary) at a frequency in steps of `values`, which is flat."""
    sign = np.float32(1.0) if x >= np.float32(0.0) else np.float32(-1.0)  # the conjugate half
    z = z * sign + top
    y = y * sign + top
    x = x * sign
    iz, iy, ix = np.int32(z), np.int32(y), np.int32(x)
    fz, fy, fx = z - np.float32(iz), y - np.float32(iy), x - np.float32(ix)
    gz, gy, gx = np.float32(1.0) - fz, np.float32(1.0) - fy, np.float32(1.0) - fx
    # Unsigned: an index that may be negative costs a comparison at each of the 16 loads.
    a = np.uint32(iz * plane + iy * line + 2 * ix)
    b = np.uint32(a + line)
    c = np.uint32(a + plane)
    d = np.uint32(b + plane)
    wa, wb, wc, wd = gz * gy, gz * fy, fz * gy, fz * fy
    real = gx * (wa * values[a] + wb * values[b] + wc * values[c] + wd * values[d]) + fx * (
        wa * values[a + 2] + wb * values[b + 2] + wc * values[c + 2] + wd * values[d + 2]
    )
    imaginary = gx * (
        wa * values[a + 1] + wb * values[b + 1] + wc * values[c + 1] + wd * values[d + 1]
    ) + fx * (wa * values[a + 3] + wb * values[b + 3] + wc * values[c + 3] + wd * values[d + 3])
    return real, imaginary * sign


def sample_pair(
    template: TemplateSpectrum,
    rows: Rows,
    turn_a: np.ndarray,
    turn_b: np.ndarray,
    data: np.ndarray,
    power: np.ndarray,
    columns: np.ndarray,
) -> tuple[float, float]:
    """Correlate two turned templates with a tile, in Fourier space.

    Writes ``data · (conj A + i conj B)`` at each frequency and its counterpart at the opposite
    one, so that the inverse transform holds A's correlation as its real part and B's as its
    imaginary part.

    Parameters
    ----------
    turn_a, turn_b : array of float32, shape (3, 3)
        Orientations, reference → particle, on (z, y, x) vectors.
    data : array of complex64, shape (rows.size,)
        The tile's spectrum at the rows, times the weight w of each frequency.
    power : array of float32, shape (rows.size,)
        w²: the templates are what is left of them by w.
    columns : array of complex64, shape (y, rows.columns)
        Written in place, for each frequency along y a line of all measured (z, x); else left.

    Returns
    -------
    (float, float)
        Sum of |wA|² and of |wB|² over all of the measured band.
    """
    shape = template.values.shape
    a, b = _sample_rows(
        template.values.ravel(),
        np.int32(shape[1] * shape[2] * 2),
        np.int32(shape[2] * 2),
        np.float32((shape[0] - 1) // 2),
        np.array([template.edge / n for n in rows.box], np.float32),
        rows.z, rows.y, rows.low, rows.high, rows.start, rows.ahead, rows.behind, rows.across,
        turn_a, turn_b, data, power, columns,
    )  # fmt: skip
    return float(a), float(b)


@numba.njit(cache=True, fastmath=True, nogil=True)
def _sample_rows(  # type: ignore[no-untyped-def]  # pragma: no cover
    values,
    plane,
    line,
    top,
    steps,
    rz,
    ry,
    low,
    high,
    start,
    ahead,
    behind,
    across,
    ta,
    tb,
    data,
    power,
    columns,
):
    ny = columns.shape[0]
    pa = np.float64(0.0)
    pb = np.float64(0.0)
    for row in range(rz.size):
        # Frequencies turn back: T_R(k) = T(R⁻¹ k), and R⁻¹ is R transposed.
        kz, ky = np.float32(rz[row]) * steps[0], np.float32(ry[row]) * steps[1]
        az, bz = ta[0, 0] * kz + ta[1, 0] * ky, tb[0, 0] * kz + tb[1, 0] * ky
        ay, by = ta[0, 1] * kz + ta[1, 1] * ky, tb[0, 1] * kz + tb[1, 1] * ky
        ax, bx = ta[0, 2] * kz + ta[1, 2] * ky, tb[0, 2] * kz + tb[1, 2] * ky
        here, opposite = columns[ry[row] % ny], columns[-ry[row] % ny]
        place, forth, back = start[row] - low[row], ahead[row], behind[row]
        qa = np.float32(0.0)
        qb = np.float32(0.0)
        for x in range(low[row], high[row]):
            kx = np.float32(x) * steps[2]
            ar, ai = _look_up(
                values, plane, line, top, az + ta[2, 0] * kx, ay + ta[2, 1] * kx, ax + ta[2, 2] * kx
            )
            br, bi = _look_up(
                values, plane, line, top, bz + tb[2, 0] * kx, by + tb[2, 1] * kx, bx + tb[2, 2] * kx
            )
            w2 = power[place + x]
            qa += w2 * (ar * ar + ai * ai)
            qb += w2 * (br * br + bi * bi)
            f = data[place + x]
            # F · (conj A + i conj B) and conj F · (A + i B)
            pr, pi = ar + bi, br - ai
            mr, mi = ar - bi, ai + br
            here[np.uint32(forth + x)] = complex(
                f.real * pr - f.imag * pi, f.real * pi + f.imag * pr
            )
            target = np.uint32(back - x) if x else np.uint32(across[row])
            opposite[target] = complex(f.real * mr + f.imag * mi, f.real * mi - f.imag * mr)
        pa += qa
        pb += qb
    return 2.0 * pa, 2.0 * pb


@numba.njit(cache=True, nogil=True)
def spread(columns, runs, planes):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Put lines of measured (z, x) in their places in planes (y, z, x), zeros elsewhere.

    Parameters
    ----------
    columns : array of complex64, shape (y, rows.columns)
    runs : array of int64, shape (runs, 4)
        `Rows.runs`.
    planes : array of complex64, shape (y, z, x)
        Written in place.
    """
    nz, nx = planes.shape[1:]
    planes[...] = 0
    for y in range(planes.shape[0]):
        for r in range(runs.shape[0]):
            line = planes[y, runs[r, 0] % nz]
            first = runs[r, 1] % nx
            for i in range(runs[r, 2]):
                line[first + i] = columns[y, runs[r, 3] + i]
