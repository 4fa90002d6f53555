"""Images on rings: polar samples about the centre, and their Fourier series around each ring.

An image is turned into polar samples once, about its own centre, by the spline of degree 5 through
its pixels [1]_, and each ring into its Fourier series.  A ring of radius r (pixels) holds no finer
detail than the pixels: of its angular frequencies those up to about ``pi r`` are kept, the others
are neither stored nor multiplied.

What comes out is a vector per image, "packed": angular frequency by frequency, and of each the
rings that have it.  It is made so that the plain product of two of them is the sum over the disc of
the product of the images: a ring counts by its radius, frequencies above 0 twice; the mean over the
disc is taken off, and the length of the vector is 1.  A product is then a correlation coefficient.

.. [1] Unser, Aldroubi & Eden, "B-spline signal processing", IEEE Trans. Signal Process. 41, 821
   (1993).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numba
import numpy as np

from tomodask.arrays.lane_fourier import positions, transform_length, transformed, wave_table
from tomodask.arrays.lanes import LANES, fma, load, splat, store

__all__ = [
    "FLAT",
    "MARGIN",
    "LaneScratch",
    "PolarGrid",
    "SampleTable",
    "fill_lanes",
    "polar_grid",
    "polar_lanes",
    "sample_table",
    "transform_tables",
]

#: Samples on either side that the spline of degree 5 needs.
MARGIN = 3
_TAPS = 6
#: Poles of its prefilter, [1]_.
_POLES = (-0.430575347099973791851434783493520110, -0.0430962882032646553822712376822550182)
#: Samples after which a pole's power is below float32.
_HORIZON = 24
#: An image whose deviation within the disc is below this share of its mean is constant.
FLAT = 1e-6


@dataclass(frozen=True)
class PolarGrid:
    """Rings, their angular frequencies, and how these are packed.

    Attributes
    ----------
    rings : array of float64, shape (ring,)
        Radii in pixels: 1, 2, … up to the radius.
    angles : int
        Samples around each ring, a power of two.
    bands : array of int64, shape (ring,)
        Angular frequencies 0 … band - 1 are kept of a ring.
    first : array of int64, shape (frequency,)
        The innermost ring that has a frequency.
    starts : array of int64, shape (frequency + 1,)
        Packed numbers of a frequency: ``starts[m]`` … ``starts[m + 1]``, rings from inside out.
    """

    rings: np.ndarray
    angles: int
    bands: np.ndarray
    first: np.ndarray
    starts: np.ndarray

    @property
    def size(self) -> int:
        """Complex numbers of a packed image."""
        return int(self.starts[-1])

    @property
    def frequencies(self) -> int:
        """Angular frequencies, 0 included."""
        return len(self.first)


@functools.lru_cache(maxsize=32)
def polar_grid(radius: int) -> PolarGrid:
    """The rings of a disc of `radius` pixels."""
    rings = np.arange(1, radius + 1, dtype=np.float64)
    # A wave of Nyquist's frequency has Bessel amplitudes up to about pi r, and a little beyond.
    bands = np.floor(np.pi * rings).astype(np.int64) + 3
    count = int(bands.max())
    first = np.searchsorted(bands, np.arange(count), side="right")
    starts = np.concatenate([[0], np.cumsum(radius - first)])
    return PolarGrid(rings, transform_length(2 * count - 1), bands, first, starts)


@dataclass(frozen=True)
class SampleTable:
    """Where polar samples lie in an image, and the weights of the spline there.

    Attributes
    ----------
    index : array of int64, shape (sample,)
        First of the 6 × 6 taps in the image with its margin of 3 pixels, flat.
    weights : array of float32, shape (sample, 12)
        Along y, then along x.
    """

    index: np.ndarray
    weights: np.ndarray


def sample_table(
    grid: PolarGrid, shape: tuple[int, int], *, shift_y: float = 0.0, shift_x: float = 0.0
) -> SampleTable:
    """Polar samples of an image that is moved by (shift_y, shift_x) pixels; rings, then angles.

    The angle runs from x to y: sample a of a ring of radius r is at x = r cos(2 pi a / angles).
    Beyond its border the image goes on as it is there: with 0, its mean within the disc, a particle
    that is moved would get a rim.
    """
    count = len(grid.rings) * grid.angles
    table = SampleTable(np.empty(count, np.int64), np.empty((count, 2 * _TAPS), np.float32))
    _fill_table(
        grid.rings, grid.angles, *shape, float(shift_y), float(shift_x), table.index, table.weights
    )
    return table


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _spline_weight(distance):  # type: ignore[no-untyped-def]
    """The B-spline of degree 5."""
    d = abs(distance)
    if d <= 1:
        return (66 - 60 * d**2 + 30 * d**4 - 10 * d**5) / 120
    if d <= 2:
        return (51 + 75 * d - 210 * d**2 + 150 * d**3 - 45 * d**4 + 5 * d**5) / 120
    return max(3 - d, 0.0) ** 5 / 120


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _fill_table(rings, angles, ny, nx, shift_y, shift_x, index, weights):  # type: ignore[no-untyped-def]
    for a in range(angles):
        angle = 2 * np.pi * a / angles
        sin, cos = np.sin(angle), np.cos(angle)
        for ring in range(len(rings)):
            y, x = rings[ring] * sin + ny // 2 - shift_y, rings[ring] * cos + nx // 2 - shift_x
            y, x = min(max(y, 0.0), ny - 1.0), min(max(x, 0.0), nx - 1.0)
            low_y, low_x = int(y), int(x)
            sample = ring * angles + a
            for tap in range(_TAPS):  # at -2 ... 3 from the pixel below
                weights[sample, tap] = _spline_weight(y - low_y - (tap - 2))
                weights[sample, _TAPS + tap] = _spline_weight(x - low_x - (tap - 2))
            first = MARGIN - 2
            index[sample] = (low_y + first) * (nx + 2 * MARGIN) + low_x + first


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _prefilter(image, start, count, stride):  # type: ignore[no-untyped-def]
    """Spline coefficients of a line of vectors, in place; mirrored at both ends."""
    gain = 1.0
    for which in range(2):
        pole = _POLES[which]
        gain *= (1 - pole) * (1 - 1 / pole)
    factor = splat(np.float32(gain))
    for i in range(count):
        store(image, start + i * stride, load(image, start + i * stride) * factor)
    if count < 2:
        return
    last = start + (count - 1) * stride
    for which in range(2):
        z = splat(np.float32(_POLES[which]))
        # The sum over the mirrored signal before the line's start.
        power = np.float32(1.0)  # of the pole
        total = splat(np.float32(0.0))
        for i in range(min(_HORIZON, 4 * count)):
            k = i % (2 * count - 2)
            k = k if k < count else 2 * count - 2 - k
            total = fma(load(image, start + k * stride), splat(power), total)
            power *= np.float32(_POLES[which])
        store(image, start, total)
        before = total
        for i in range(1, count):
            before = fma(before, z, load(image, start + i * stride))
            store(image, start + i * stride, before)
        end = np.float32(_POLES[which] / (_POLES[which] ** 2 - 1.0))
        before = (load(image, last - stride) * z + load(image, last)) * splat(end)
        store(image, last, before)
        for i in range(count - 2, -1, -1):
            before = (before - load(image, start + i * stride)) * z
            store(image, start + i * stride, before)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _fill(images, begin, stop, radius, padded, faults):  # type: ignore[no-untyped-def]
    """Sixteen images side by side with a margin, their mean within the disc taken off.

    An image that is not finite (fault 1) or constant (fault 2) becomes all 0.
    """
    ny, nx = images.shape[1:]
    wide = nx + 2 * MARGIN
    for lane in range(LANES):
        shift = 0.0
        use = begin + lane < stop
        if use:
            image = images[begin + lane]
            finite = True
            total, count = 0.0, 0
            for y in range(ny):
                for x in range(nx):
                    finite &= np.isfinite(image[y, x])
                    if (y - ny // 2) ** 2 + (x - nx // 2) ** 2 <= radius * radius:
                        total += image[y, x]
                        count += 1
            faults[begin + lane] = 0
            if not finite:
                faults[begin + lane] = 1
                use = False
            else:
                shift = total / count
                square = 0.0
                for y in range(ny):
                    for x in range(nx):
                        if (y - ny // 2) ** 2 + (x - nx // 2) ** 2 <= radius * radius:
                            square += (image[y, x] - shift) ** 2
                if square <= count * (FLAT * shift) ** 2:
                    faults[begin + lane] = 2
                    use = False
        for y in range(ny):
            for x in range(nx):
                at = ((y + MARGIN) * wide + x + MARGIN) * LANES + lane
                padded[at] = images[begin + lane, y, x] - shift if use else np.float32(0.0)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _mirror_margin(padded, ny, nx):  # type: ignore[no-untyped-def]
    """The coefficients beyond the border: those of the mirrored image."""
    wide = nx + 2 * MARGIN
    for y in range(-MARGIN, ny + MARGIN):
        # An image of one pixel is mirrored into itself.
        from_y = abs(y) if y < ny else 2 * ny - 2 - y
        from_y = min(max(from_y, 0), ny - 1)
        for x in range(-MARGIN, nx + MARGIN):
            if 0 <= y < ny and 0 <= x < nx:
                continue
            from_x = abs(x) if x < nx else 2 * nx - 2 - x
            from_x = min(max(from_x, 0), nx - 1)
            source = ((from_y + MARGIN) * wide + from_x + MARGIN) * LANES
            store(padded, ((y + MARGIN) * wide + x + MARGIN) * LANES, load(padded, source))


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _coefficients(padded, ny, nx):  # type: ignore[no-untyped-def]
    wide = nx + 2 * MARGIN
    for y in range(ny):
        _prefilter(padded, ((y + MARGIN) * wide + MARGIN) * LANES, nx, LANES)
    for x in range(nx):
        _prefilter(padded, (MARGIN * wide + x + MARGIN) * LANES, ny, wide * LANES)
    _mirror_margin(padded, ny, nx)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _sampled(padded, at, weights, sample, wide):  # type: ignore[no-untyped-def]
    total = splat(np.float32(0.0))
    for i in range(6):
        place = (at + i * wide) * LANES
        line = load(padded, place) * splat(weights[sample, 6])
        for j in range(1, 6):
            line = fma(load(padded, place + j * LANES), splat(weights[sample, 6 + j]), line)
        total = fma(line, splat(weights[sample, i]), total)
    return total


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _packed(padded, wide, index, weights, angles, bands, first, starts, where, waves, ring, out):  # type: ignore[no-untyped-def]
    """Sample all rings, two to a transform, and pack their series; see `polar_lanes`."""
    rings = len(bands)
    half = splat(np.float32(0.5))
    for inner in range(0, rings, 2):
        both = inner + 1 < rings
        for a in range(angles):
            sample = inner * angles + a
            store(ring, a * 32, _sampled(padded, index[sample], weights, sample, wide))
            if both:
                sample += angles
                store(ring, a * 32 + 16, _sampled(padded, index[sample], weights, sample, wide))
            else:
                store(ring, a * 32 + 16, splat(np.float32(0.0)))
        transformed(ring, 0, angles, waves)
        for which in range(2 if both else 1):
            r = inner + which
            for m in range(bands[r]):
                up, down = where[m] * 32, where[(angles - m) % angles] * 32
                pr, pi = load(ring, up), load(ring, up + 16)
                qr, qi = load(ring, down), load(ring, down + 16)
                to = (starts[m] + r - first[m]) * 32
                # The transform's sign is +: its conjugate is the series.
                if which == 0:
                    store(out, to, (pr + qr) * half)
                    store(out, to + 16, (qi - pi) * half)
                else:
                    store(out, to, (pi + qi) * half)
                    store(out, to + 16, (pr - qr) * half)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _normalised(out, rings, first, starts, norms):  # type: ignore[no-untyped-def]
    """Weigh the rings, take the mean off, and give each lane the length 1; its length before."""
    count = len(first)
    for lane in range(LANES):
        total, weight = 0.0, 0.0
        for r in range(len(rings)):
            total += rings[r] * out[r * 32 + lane]
            weight += rings[r]
        mean = total / weight
        square = 0.0
        for m in range(count):
            for k in range(starts[m], starts[m + 1]):
                radius = rings[first[m] + k - starts[m]]
                real, imaginary = (
                    np.float64(out[k * 32 + lane]),
                    np.float64(out[k * 32 + 16 + lane]),
                )
                if m == 0:
                    real, imaginary = np.float64(real - mean), np.float64(0.0)
                square += (1.0 if m == 0 else 2.0) * radius * (real * real + imaginary * imaginary)
        norms[lane] = np.sqrt(square)
        scale = 1.0 / norms[lane] if norms[lane] > 0 else 0.0
        for m in range(count):
            for k in range(starts[m], starts[m + 1]):
                by = np.sqrt(rings[first[m] + k - starts[m]]) * scale
                if m == 0:
                    out[k * 32 + lane] = (out[k * 32 + lane] - mean) * by
                    out[k * 32 + 16 + lane] = 0.0
                else:
                    out[k * 32 + lane] *= by
                    out[k * 32 + 16 + lane] *= by


@dataclass(frozen=True)
class LaneScratch:
    """Memory that the kernels of one task write to, again and again."""

    padded: np.ndarray
    ring: np.ndarray
    packed: np.ndarray
    norms: np.ndarray

    @classmethod
    def of(cls, grid: PolarGrid, shape: tuple[int, int]) -> LaneScratch:
        """For images of this shape."""
        ny, nx = shape
        return cls(
            np.zeros((ny + 2 * MARGIN) * (nx + 2 * MARGIN) * LANES, np.float32),
            np.zeros(grid.angles * 32, np.float32),
            np.zeros(grid.size * 32, np.float32),
            np.zeros(LANES),
        )


@functools.lru_cache(maxsize=32)
def transform_tables(angles: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and waves of a transform around a ring."""
    return positions(angles), wave_table(angles)


def fill_lanes(
    images: np.ndarray, begin: int, grid: PolarGrid, faults: np.ndarray, scratch: LaneScratch
) -> None:
    """Spline coefficients of sixteen images from `begin` on, into the scratch."""
    ny, nx = images.shape[1:]
    _fill(images, begin, len(images), len(grid.rings), scratch.padded, faults)
    _coefficients(scratch.padded, ny, nx)


def polar_lanes(
    grid: PolarGrid, shape: tuple[int, int], table: SampleTable, scratch: LaneScratch
) -> np.ndarray:
    """Packed series of the sixteen images whose coefficients are in the scratch.

    Returns
    -------
    array of float32, flat, of the scratch
        For each packed number sixteen real, then sixteen imaginary parts; see the module.
    """
    where, waves = transform_tables(grid.angles)
    wide = shape[1] + 2 * MARGIN
    _packed(
        scratch.padded, wide, table.index, table.weights, grid.angles, grid.bands, grid.first,
        grid.starts, where, waves, scratch.ring, scratch.packed,
    )  # fmt: skip
    _normalised(scratch.packed, grid.rings, grid.first, grid.starts, scratch.norms)
    return scratch.packed
