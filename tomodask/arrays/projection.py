"""Projection along the beam and back, for a tilt series about y: exact Fourier slices.

A tilt by θ puts a voxel at (x, z) from the centre onto the detector at ``x cos θ + z sin θ``.  Each
voxel is spread there onto samples of half a pixel with the kernel of `tomodask.arrays.gridding`,
whose transform is divided out: the projection's spectrum is the plane ``kz = kx tan θ`` of the
voxels' own, to 1e-5, up to Nyquist and at any tilt.  Back-projection is the transpose: rows brought
to half pixels, and read at each voxel with the same six taps.

Rows (y) do not know of each other: a slab of rows gives the same bits as the whole.  Both kernels
are one product of a sparse matrix, which is never stored, with all rows of a slab; rows lie side by
side in memory, so that a tap is a fused multiply-add over whole vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import scipy.fft

from tomodask.arrays.backend import Array, fft, is_cupy, namespace
from tomodask.arrays.gridding import TABLE, WIDTH, kernel_transform, tap

__all__ = ["back_project", "fine_rows", "project", "window"]

_GROUP = 8  # taps of one pass over a row: loads then outweigh the row's own load and store
_ROWS = 64
_EDGE = WIDTH // 2 + 1


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _combine(source, rows, taps, count, target, into):  # type: ignore[no-untyped-def]
    """target[into : into + _ROWS] += Σ taps · source[rows : rows + _ROWS], eight at a time.

    Both are flat; indices without a sign, else each is tested for one and nothing becomes a vector.
    """
    o = np.uint64(into)
    for g in range(0, count, _GROUP):
        a, b, c, d = rows[g], rows[g + 1], rows[g + 2], rows[g + 3]
        e, f, h, i = rows[g + 4], rows[g + 5], rows[g + 6], rows[g + 7]
        wa, wb, wc, wd = taps[g], taps[g + 1], taps[g + 2], taps[g + 3]
        we, wf, wh, wi = taps[g + 4], taps[g + 5], taps[g + 6], taps[g + 7]
        for y in range(np.uint64(_ROWS)):
            low = (wa * source[a + y] + wb * source[b + y]) + (
                wc * source[c + y] + wd * source[d + y]
            )
            high = (we * source[e + y] + wf * source[f + y]) + (
                wh * source[h + y] + wi * source[i + y]
            )
            target[o + y] += low + high


@numba.njit(cache=True, nogil=True)
def _combine_blocks(source, rows, taps, count, target, into):  # type: ignore[no-untyped-def]
    """`_combine` in each block of rows; `rows` and `taps` have room for one more group."""
    full = (count + _GROUP - 1) // _GROUP * _GROUP
    for g in range(count, full):
        rows[g], taps[g] = rows[count - 1], np.float32(0.0)
    for block in range(source.shape[0]):
        _combine(source[block], rows, taps, full, target[block], into * _ROWS)


@numba.njit(cache=True, nogil=True)
def _project(volume, nz, nx, cosines, sines, center_z, center_x, middle, table, out):  # type: ignore[no-untyped-def]
    """A volume (block, z · x · row) onto out (block, tilts · fine samples · row)."""
    samples = out.shape[1] // (len(cosines) * _ROWS)
    half = WIDTH / 2
    rows = np.empty(nz * nx + _GROUP, np.uint64)
    taps = np.empty(nz * nx + _GROUP, np.float32)
    for t in range(len(cosines)):
        step = 2 * cosines[t]
        for i in range(samples):
            count = 0
            for z in range(nz):
                # Where voxel x = 0 of this plane falls, from sample i on.
                base = middle + 2 * (z - center_z) * sines[t] - center_x * step - i
                if abs(step) * nx < 1e-9:
                    low, high = 0, nx - 1
                else:
                    first, last = (-half - base) / step, (half - base) / step
                    if first > last:
                        first, last = last, first
                    low = int(np.ceil(max(first, 0.0)))
                    high = int(np.floor(min(last, nx - 1.0)))
                for x in range(low, high + 1):
                    d = base + x * step
                    if abs(d) < half:
                        rows[count], taps[count] = (z * nx + x) * _ROWS, tap(table, d)
                        count += 1
            if count:
                _combine_blocks(volume, rows, taps, count, out, t * samples + i)


@numba.njit(cache=True, nogil=True)
def _back_project(fine, width, first, cosines, sines, weights, zs, xs, middle, table, out):  # type: ignore[no-untyped-def]
    """Fine rows (block, tilts · samples from `first` on · row) onto out (block, z · x · row)."""
    half = WIDTH / 2
    rows = np.empty(len(cosines) * WIDTH + _GROUP, np.uint64)
    taps = np.empty(len(cosines) * WIDTH + _GROUP, np.float32)
    for z in range(len(zs)):
        for x in range(len(xs)):
            count = 0
            for t in range(len(cosines)):
                at = middle + 2 * (xs[x] * cosines[t] + zs[z] * sines[t]) - first
                start = int(np.ceil(at - half))
                for j in range(start, start + WIDTH):
                    if 0 <= j < width:
                        rows[count] = (t * width + j) * _ROWS
                        taps[count] = weights[t] * tap(table, min(abs(j - at), half))
                        count += 1
            if count:
                _combine_blocks(fine, rows, taps, count, out, z * len(xs) + x)


def _turns(angles: Any) -> tuple[np.ndarray, np.ndarray]:
    radians = np.deg2rad(np.atleast_1d(np.asarray(angles, np.float64)))
    return np.cos(radians), np.sin(radians)


def project(
    volume: Array,
    angles: Any,
    *,
    width: int | None = None,
    center_z: float | None = None,
    center_x: float | None = None,
) -> Array:
    """Project a volume, or a slab of its rows or planes, along the beam at each tilt.

    Parameters
    ----------
    volume : array, shape (nz, ny, nx)
        NumPy or CuPy; taken as float32.
    angles : array, shape (tilts,)
        Degrees about y.
    width : int, optional
        Pixels of the images along x; by default nx.
    center_z, center_x : float, optional
        The plane and column, in voxels of `volume`, that the tilt axis passes; by default
        ``n // 2``.  For planes z0 … of a volume of nz planes, ``nz // 2 - z0``.

    Returns
    -------
    array of float32, shape (tilts, ny, width)
        Sums along the beam, in voxels; the tilt axis at pixel ``width // 2``.

    Notes
    -----
    Each image's spectrum equals the voxels' Fourier sum on the plane ``kz = kx tan θ`` to 1e-5 of
    its root mean square below Nyquist (whose own frequency an even width cannot tell).
    """
    xp = namespace(volume)
    nz, ny, nx = volume.shape
    cosines, sines = _turns(angles)
    width = nx if width is None else width
    cz = float(nz // 2 if center_z is None else center_z)
    cx = float(nx // 2 if center_x is None else center_x)
    # The line is as long as all that falls on it, so that nothing is cut off before the division.
    reach = np.abs(np.outer([-cz, nz - 1 - cz], sines)).max(0) + np.abs(
        np.outer([-cx, nx - 1 - cx], cosines)
    ).max(0)
    margin = max(int(np.ceil(reach.max() - width // 2)), 0) + _EDGE
    length = scipy.fft.next_fast_len(width + 2 * margin, real=True)
    middle = 2 * (width // 2 + margin)
    if is_cupy(volume):
        from tomodask.arrays.projection_cuda import project_cuda

        lines = project_cuda(volume, cosines, sines, cz, cx, middle, 2 * length)
    else:
        out = np.zeros((-(-ny // _ROWS), len(cosines) * 2 * length * _ROWS), np.float32)
        _project(_blocks(volume), nz, nx, cosines, sines, cz, cx, middle, TABLE, out)
        lines = _unblocked(out, len(cosines), ny, 2 * length)
    images = xp.empty((len(cosines), ny, width), xp.float32)
    factor = xp.asarray(1 / _transform(length), xp.float32)
    for line, image in zip(lines, images, strict=True):  # one by one: they stay in the cache
        spectrum = fft(line).rfft(line, axis=-1)[..., : length // 2 + 1] * factor
        if length % 2 == 0:
            spectrum[..., -1] = spectrum[..., -1].real  # half of each of its two, which coincide
        image[:] = fft(line).irfft(spectrum, length, axis=-1)[..., margin : margin + width]
    return images


def _transform(length: int) -> np.ndarray:
    """Of the kernel, at the frequencies of a row of `length` pixels."""
    return kernel_transform(np.fft.rfftfreq(length) / 2)


def fine_rows(
    images: Array, *, response: Callable[[np.ndarray], np.ndarray] | None = None
) -> Array:
    """Bring rows to half pixels, ready for `back_project`.

    Parameters
    ----------
    images : array, shape (…, width)
        NumPy or CuPy; zero, or nearly so, on average: beyond their ends rows are taken as zero.
    response : callable, optional
        Of frequencies in cycles per pixel, 0 to 0.5: a filter such as a ramp.

    Returns
    -------
    array of float32, shape (…, 2 × width)
        Sample j lies at pixel j / 2; divided by the transform of the kernel that reads it.
    """
    xp = namespace(images)
    width = images.shape[-1]
    length = scipy.fft.next_fast_len(2 * width, real=True)
    factor = 1 / _transform(length)
    if response is not None:
        factor = factor * response(np.fft.rfftfreq(length))
    if length % 2 == 0:
        factor[-1] /= 2  # of a pair of frequencies, each gets half
    rows = xp.asarray(images, xp.float32)
    rows = rows.reshape(-1, rows.shape[-2] if rows.ndim > 1 else 1, width)
    out = xp.empty((*rows.shape[:-1], 2 * width), xp.float32)
    padded = xp.zeros((rows.shape[1], length), xp.float32)
    factor = xp.asarray(2 * factor, xp.float32)
    for image, fine in zip(rows, out, strict=True):  # one by one: they stay in the cache
        padded[:, :width] = image
        spectrum = fft(padded).rfft(padded, axis=-1) * factor
        fine[:] = fft(padded).irfft(spectrum, 2 * length, axis=-1)[:, : 2 * width]
    return out.reshape(*images.shape[:-1], 2 * width)


def window(angles: Any, zs: np.ndarray, xs: np.ndarray, width: int) -> tuple[int, int]:
    """The samples (start, stop) of `fine_rows` that `back_project` reads for these voxels.

    Parameters
    ----------
    angles : array
        Degrees.
    zs, xs : array
        Voxels from the centre.
    width : int
        Pixels of the images.
    """
    cosines, sines = _turns(angles)
    corners = np.array([(x, z) for x in (np.min(xs), np.max(xs)) for z in (np.min(zs), np.max(zs))])
    at = 2 * (width // 2 + corners @ np.stack([cosines, sines]))
    start, stop = int(np.floor(at.min())) - _EDGE, int(np.ceil(at.max())) + _EDGE + 1
    start = min(max(start, 0), 2 * width)
    return start, min(max(stop, start), 2 * width)


def back_project(
    fine: Array,
    angles: Any,
    zs: Any,
    xs: Any,
    *,
    width: int | None = None,
    weights: Any = None,
    first: int = 0,
) -> Array:
    """Sum, at each voxel, what the tilts' rows hold where the voxel is projected.

    Parameters
    ----------
    fine : array, shape (tilts, ny, samples)
        From `fine_rows`, or a window of it that starts at sample `first`.
    angles : array, shape (tilts,)
        Degrees about y.
    zs, xs : array
        The voxels, from the tilt axis; any fractions.
    width : int, optional
        Pixels of the images, where `fine` is a window of them; the axis is at ``width // 2``.
    weights : array, shape (tilts,), optional
        Of each tilt in the sum; by default 1.
    first : int
        The sample of `fine_rows` with which `fine` starts.

    Returns
    -------
    array of float32, shape (len(zs), ny, len(xs))
        A tilt whose image does not reach a voxel adds nothing there.
    """
    tilts, ny, samples = fine.shape
    cosines, sines = _turns(angles)
    if width is None:
        if first or samples % 2:
            raise ValueError("width must be given with a window of the rows")
        width = samples // 2
    each = np.ones(tilts) if weights is None else np.asarray(weights, np.float64)
    each = each.astype(np.float32)
    zs, xs = np.asarray(zs, np.float64), np.asarray(xs, np.float64)
    middle = 2.0 * (width // 2)
    if is_cupy(fine):
        from tomodask.arrays.projection_cuda import back_project_cuda

        return back_project_cuda(fine, first, cosines, sines, each, zs, xs, middle)
    out = np.zeros((-(-ny // _ROWS), len(zs) * len(xs) * _ROWS), np.float32)
    _back_project(_blocks(fine), samples, first, cosines, sines, each, zs, xs, middle, TABLE, out)
    return _unblocked(out, len(zs), ny, len(xs))


def _blocks(slab: np.ndarray) -> np.ndarray:
    """(a, rows, b) as (block, a · b · row): `_ROWS` rows side by side, filled up with zeros."""
    a, ny, b = slab.shape
    count = -(-ny // _ROWS)
    out = np.zeros((count, a, b, _ROWS), np.float32)
    for block in range(count):
        part = slab[:, block * _ROWS : (block + 1) * _ROWS]
        out[block, :, :, : part.shape[1]] = part.transpose(0, 2, 1)
    return out.reshape(count, -1)


def _unblocked(blocks: np.ndarray, a: int, ny: int, b: int) -> np.ndarray:
    """The opposite of `_blocks`: (a, ny, b)."""
    out = np.empty((a, ny, b), np.float32)
    for block, part in enumerate(blocks.reshape(-1, a, b, _ROWS)):
        rows = out[:, block * _ROWS : (block + 1) * _ROWS]
        rows[:] = part[..., : rows.shape[1]].transpose(0, 2, 1)
    return out
