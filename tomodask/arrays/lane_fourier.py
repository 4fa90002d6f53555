"""Fourier transforms of sixteen signals at once, one a lane (`tomodask.arrays.lanes`).

In place, radix 4 (and one of radix 2 where the length asks for it), decimation in frequency [1]_:
what comes out stands in digit-reversed order, and who needs it in order looks it up in
`positions`.  Nobody who wants only the largest value has to put it in order first.

.. [1] Gentleman & Sande, "Fast Fourier transforms: for fun and profit", AFIPS 29, 563 (1966).
"""

from __future__ import annotations

import numba
import numpy as np

from tomodask.arrays.lanes import fma, load, splat, store

__all__ = ["positions", "transform_length", "transformed", "wave_table"]


def transform_length(count: int) -> int:
    """The least power of two, and of four at least, that holds `count` samples.

    Examples
    --------
    >>> [transform_length(n) for n in (1, 5, 64, 227)]
    [4, 8, 64, 256]
    """
    return max(4, 1 << (count - 1).bit_length())


def wave_table(length: int) -> np.ndarray:
    """Cosine and sine of ``2 pi k / length``, float32, shape (2, length)."""
    angle = 2 * np.pi * np.arange(length) / length
    return np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32)


def positions(length: int) -> np.ndarray:
    """Where sample k of the transform stands, int32, shape (length,)."""
    where = np.zeros(length, np.int32)
    value = np.arange(length)
    size = length
    while size > 1:
        radix = 4 if size >= 4 else 2
        size //= radix
        where += (value % radix * size).astype(np.int32)
        value = value // radix
    return where


@numba.njit(cache=True, nogil=True, boundscheck=False)
def transformed(signal, start, length, waves):  # type: ignore[no-untyped-def]
    """Replace ``z[k]`` by ``sum_k z[k] exp(+2 pi i k j / length)``, at ``positions[j]``.

    Parameters
    ----------
    signal : flat array of float32
        From `start` on: for each k sixteen real parts, then sixteen imaginary parts.
    start, length : int
        `length` is a power of two, 4 at least.
    waves : array, shape (2, length)
        `wave_table`.
    """
    size = length
    step = 1
    while size >= 4:
        quarter = size // 4
        apart = quarter * 32
        for j in range(quarter):
            c1, s1, n1 = splat(waves[0, j * step]), splat(waves[1, j * step]), -waves[1, j * step]
            k = 2 * j * step
            c2, s2, n2 = splat(waves[0, k]), splat(waves[1, k]), -waves[1, k]
            k = 3 * j * step
            c3, s3, n3 = splat(waves[0, k]), splat(waves[1, k]), -waves[1, k]
            m1, m2, m3 = splat(n1), splat(n2), splat(n3)
            for first in range(j, length, size):
                p0 = start + first * 32
                p1, p2, p3 = p0 + apart, p0 + 2 * apart, p0 + 3 * apart
                ar, ai = load(signal, p0), load(signal, p0 + 16)
                br, bi = load(signal, p1), load(signal, p1 + 16)
                cr, ci = load(signal, p2), load(signal, p2 + 16)
                dr, di = load(signal, p3), load(signal, p3 + 16)
                acr, aci, amr, ami = ar + cr, ai + ci, ar - cr, ai - ci
                bdr, bdi, bmr, bmi = br + dr, bi + di, br - dr, bi - di
                store(signal, p0, acr + bdr)
                store(signal, p0 + 16, aci + bdi)
                ur, ui = amr - bmi, ami + bmr
                vr, vi = acr - bdr, aci - bdi
                wr, wi = amr + bmi, ami - bmr
                store(signal, p1, fma(ui, m1, ur * c1))
                store(signal, p1 + 16, fma(ur, s1, ui * c1))
                store(signal, p2, fma(vi, m2, vr * c2))
                store(signal, p2 + 16, fma(vr, s2, vi * c2))
                store(signal, p3, fma(wi, m3, wr * c3))
                store(signal, p3 + 16, fma(wr, s3, wi * c3))
        size //= 4
        step *= 4
    if size == 2:
        for first in range(0, length, 2):
            p0 = start + first * 32
            ar, ai = load(signal, p0), load(signal, p0 + 16)
            br, bi = load(signal, p0 + 32), load(signal, p0 + 48)
            store(signal, p0, ar + br)
            store(signal, p0 + 16, ai + bi)
            store(signal, p0 + 32, ar - br)
            store(signal, p0 + 48, ai - bi)
