"""Rotational correlation of images with all references, shifts and mirrors, and its maximum.

The correlation of an image x with a reference y over the angle is, per angular frequency, a product
summed over the rings, and one inverse Fourier transform.  With x = a + ib and y = c + id the four
real products ac, bd, bc, ad give it for the reference as it is, (ac + bd) + i (bc - ad), and for
its mirror image, (-1)^m ((ac - bd) + i (bc + ad)): two real profiles, which one complex transform
turns back together, one as its real and one as its imaginary part.

Sixteen images lie side by side, one a lane; a column is one reference at one shift.  Four columns
at a time are multiplied in registers (a matrix product: one instruction a packed number, column and
product), turned back within the nearest cache, and only their maxima are kept.  No profile ever
reaches memory.  Lanes never mix: what an image gets does not depend on those beside it, nor on how
many there are.
"""

from __future__ import annotations

import numba
import numpy as np

from tomodask.arrays.lane_fourier import transformed
from tomodask.arrays.lanes import LANES, fma, largest, load, splat, store

__all__ = ["COLUMNS", "empty_tiles", "search_lanes"]

#: Columns that are multiplied together.
COLUMNS = 4


def empty_tiles(columns: int, size: int) -> np.ndarray:
    """Room for packed references in the order in which the product reads them.

    Parameters
    ----------
    columns : int
        References times shifts.
    size : int
        Packed numbers of a column.

    Returns
    -------
    array of float32, shape (tile, size, COLUMNS, 2), of zeros
        Tile, packed number, column of the tile, real and imaginary part.  What is not filled of
        the last tile stays zero.
    """
    return np.zeros((-(-columns // COLUMNS), size, COLUMNS, 2), np.float32)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _put(work, up, down, sign, ac, bd, bc, ad):  # type: ignore[no-untyped-def]
    """Frequency m of both profiles, and -m, into one spectrum: straight + i mirrored."""
    sr, si = ac + bd, bc - ad
    tr, ti = sign * (ac - bd), sign * (bc + ad)
    store(work, up, sr - ti)
    store(work, up + 16, si + tr)
    store(work, down, sr + ti)
    store(work, down + 16, tr - si)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _multiply(packed, tiled, part, starts, angles, work):  # type: ignore[no-untyped-def]
    """The spectra of the profiles of the four columns from ``tiled[part]`` on, into `work`."""
    count = len(starts) - 1
    apart = angles * 32
    zero = splat(np.float32(0.0))
    for m in range(count):
        ac0, bd0, bc0, ad0 = zero, zero, zero, zero
        ac1, bd1, bc1, ad1 = zero, zero, zero, zero
        ac2, bd2, bc2, ad2 = zero, zero, zero, zero
        ac3, bd3, bc3, ad3 = zero, zero, zero, zero
        for k in range(starts[m], starts[m + 1]):
            a, b = load(packed, k * 32), load(packed, k * 32 + 16)
            y = part + k * 8
            c, d = splat(tiled[y]), splat(tiled[y + 1])
            ac0, bd0, bc0, ad0 = fma(a, c, ac0), fma(b, d, bd0), fma(b, c, bc0), fma(a, d, ad0)
            c, d = splat(tiled[y + 2]), splat(tiled[y + 3])
            ac1, bd1, bc1, ad1 = fma(a, c, ac1), fma(b, d, bd1), fma(b, c, bc1), fma(a, d, ad1)
            c, d = splat(tiled[y + 4]), splat(tiled[y + 5])
            ac2, bd2, bc2, ad2 = fma(a, c, ac2), fma(b, d, bd2), fma(b, c, bc2), fma(a, d, ad2)
            c, d = splat(tiled[y + 6]), splat(tiled[y + 7])
            ac3, bd3, bc3, ad3 = fma(a, c, ac3), fma(b, d, bd3), fma(b, c, bc3), fma(a, d, ad3)
        sign = splat(np.float32(-1.0) if m % 2 else np.float32(1.0))
        # At frequency 0 the imaginary parts are 0 and both places are one.
        up, down = m * 32, (angles - m) % angles * 32
        _put(work, up, down, sign, ac0, bd0, bc0, ad0)
        _put(work, up + apart, down + apart, sign, ac1, bd1, bc1, ad1)
        _put(work, up + 2 * apart, down + 2 * apart, sign, ac2, bd2, bc2, ad2)
        _put(work, up + 3 * apart, down + 3 * apart, sign, ac3, bd3, bc3, ad3)
    for column in range(4):
        for m in range(count, angles - count + 1):
            store(work, column * apart + m * 32, zero)
            store(work, column * apart + m * 32 + 16, zero)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _top(work, start, angles, tops):  # type: ignore[no-untyped-def]
    """The largest number of each profile and lane: straight, then mirrored."""
    straight, mirrored = load(work, start), load(work, start + 16)
    for j in range(1, angles):
        straight = largest(straight, load(work, start + j * 32))
        mirrored = largest(mirrored, load(work, start + j * 32 + 16))
    store(tops, 0, straight)
    store(tops, 16, mirrored)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def search_lanes(  # type: ignore[no-untyped-def]
    packed, tiled, columns, shifts, starts, angles, waves, mirror, work, tops, score, shift, place
):
    """The best shift, angle and mirror of each of sixteen images for each reference.

    Parameters
    ----------
    packed : array of float32, flat
        Of `polar_lanes`.
    tiled : array of float32, flat
        Of `empty_tiles`, filled; columns are references, and of each its shifts.
    columns, shifts : int
        Of all references; of one.
    starts, angles
        Of the `PolarGrid`.
    waves : array of float32
        `wave_table` of the angles.
    mirror : bool
        Look at mirrored references, too.
    work, tops : arrays of float32, flat
        To write to: 4 × angles × 32 and 32 numbers.
    score : array of float32, shape (reference, 16)
        Result: the largest correlation.
    shift, place : arrays of int32, shape (reference, 16)
        Result: which shift; where in the transform, plus `angles` where mirrored.  Of equals the
        first is taken.
    """
    apart = angles * 32
    score[:] = -2.0
    for tile in range((columns + 3) // 4):
        part = tile * starts[-1] * 8
        _multiply(packed, tiled, part, starts, angles, work)
        for column in range(tile * 4, min(tile * 4 + 4, columns)):
            start = (column - tile * 4) * apart
            transformed(work, start, angles, waves)
            _top(work, start, angles, tops)
            reference = column // shifts
            for lane in range(LANES):
                flip = mirror and tops[16 + lane] > tops[lane]
                top = tops[16 + lane] if flip else tops[lane]
                if top > score[reference, lane]:
                    score[reference, lane] = top
                    shift[reference, lane] = column % shifts
                    at = start + lane + (16 if flip else 0)
                    j = 0
                    while j < angles - 1 and work[at + j * 32] != top:
                        j += 1
                    place[reference, lane] = j + (angles if flip else 0)
