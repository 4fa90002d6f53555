"""Images turned and moved into the reference's frame, by exact trigonometric interpolation.

An image's spectrum, cut to the disc below Nyquist's frequency (what lies in its corners would fold
back when turned), is put onto a grid one and a half times as fine, divided by the transform of a
compact kernel; the value at any place is then a sum over four by four samples with that kernel
[1]_.  What is left of neighbouring copies of the spectrum is about 0.2 % of the image's root mean
square, where cubic splines on the image's own grid lose half of the amplitude at Nyquist's.

.. [1] Barnett, Magland & af Klinteberg, "A parallel nonuniform fast Fourier transform library based
   on an 'exponential of semicircle' kernel", SIAM J. Sci. Comput. 41, C479 (2019),
   doi:10.1137/18M120885X.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numba
import numpy as np
import scipy.fft

__all__ = ["Frame", "disc", "fine_image", "image_frame", "soft_disc", "transform", "transform_into"]

_WIDTH = 4  # samples of the fine grid that the kernel spans
_FINER = 1.5
# The paper's shape, for an oversampling other than 2: π w (1 − 1 / 2σ), a little less.
_BETA = 0.97 * np.pi * _WIDTH * (1 - 0.5 / _FINER)
_STEPS = 1024  # entries of the table per sample


def _kernel(distance: np.ndarray) -> np.ndarray:
    inside = np.clip(1 - (2 * np.asarray(distance, np.float64) / _WIDTH) ** 2, 0, None)
    values = np.exp(_BETA * (np.sqrt(inside) - 1))
    return np.where(np.abs(distance) <= _WIDTH / 2, values, 0.0)


def _kernel_transform(frequency: np.ndarray) -> np.ndarray:
    """Of `_kernel`, at cycles per sample of the fine grid, by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    t = nodes * _WIDTH / 2
    waves = np.cos(2 * np.pi * frequency[..., None] * t)
    return np.asarray((waves * _kernel(t) * weights).sum(-1) * _WIDTH / 2)


_TABLE = _kernel(np.arange(_STEPS * _WIDTH // 2 + 2) / _STEPS).astype(np.float32)


@dataclass(frozen=True)
class Frame:
    """What holds for all images of one size.

    Attributes
    ----------
    size, fine : int
        Edge of the image and of the fine grid.
    filter : array of float32, shape (size, size // 2 + 1)
        Laid out as ``rfft2``: the disc below Nyquist's frequency over the kernel's transform.
    pixels : array of float32, shape (count, 2)
        (y, x) from the centre, of the pixels within the inscribed disc.
    places : array of intp, shape (count,)
        The same in the flat image.
    """

    size: int
    fine: int
    filter: np.ndarray = field(repr=False)
    pixels: np.ndarray = field(repr=False)
    places: np.ndarray = field(repr=False)


@lru_cache(maxsize=8)
def image_frame(size: int) -> Frame:
    """The `Frame` of images of `size` by `size` pixels."""
    fine = scipy.fft.next_fast_len(int(np.ceil(_FINER * size)), real=True)
    ky, kx = scipy.fft.fftfreq(size), scipy.fft.rfftfreq(size)
    inside = np.hypot(ky[:, None], kx) < 0.5 - 1e-9
    undo = [_kernel_transform(k * size / fine) for k in (ky, kx)]
    scale = (fine / size) ** 2 / (undo[0][:, None] * undo[1])
    where = disc(size, size / 2 - 1)
    pixels = np.argwhere(where) - size // 2
    return Frame(
        size,
        fine,
        np.ascontiguousarray(inside * scale, np.float32),
        np.ascontiguousarray(pixels, np.float32),
        np.flatnonzero(where),
    )


def disc(size: int, radius: float) -> np.ndarray:
    """True within `radius` pixels of the centre, pixel ``size // 2``."""
    axis = np.arange(size) - size // 2
    return np.asarray(np.hypot(axis[:, None], axis) <= radius)


def soft_disc(size: int, radius: float, *, edge: float = 3.0) -> np.ndarray:
    """1 within `radius` pixels of the centre, falling to 0 over `edge` pixels as a cosine.

    Returns
    -------
    array of float32, shape (size, size)
    """
    axis = np.arange(size) - size // 2
    beyond = np.clip((np.hypot(axis[:, None], axis) - radius) / edge, 0, 1)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * beyond), np.float32)


def fine_image(image: np.ndarray, frame: Frame, response: np.ndarray | None = None) -> np.ndarray:
    """The fine grid that `transform_into` reads, made ready for its kernel.

    Parameters
    ----------
    image : array of float32, shape (size, size)
    frame : Frame
    response : array of float32, shape (size, size // 2 + 1), optional
        What the spectrum is multiplied by on the way: a contrast transfer function.

    Returns
    -------
    array of float32, shape (fine, fine)
    """
    n, m = frame.size, frame.fine
    spectrum = scipy.fft.rfft2(image)
    spectrum *= frame.filter if response is None else frame.filter * response
    middle = (n + 1) // 2
    padded = np.zeros((m, spectrum.shape[1]), np.complex64)
    padded[:middle], padded[m - n + middle :] = spectrum[:middle], spectrum[middle:]
    columns = scipy.fft.ifft(padded, axis=0, overwrite_x=True)
    return np.asarray(scipy.fft.irfft(columns, m, axis=1, overwrite_x=True))


@numba.njit(cache=True, nogil=True, fastmath={"contract"}, inline="always")
def _tap(table, distance):  # type: ignore[no-untyped-def]
    at = abs(distance) * np.float32(_STEPS)
    k = int(at)
    return table[k] + (at - np.float32(k)) * (table[k + 1] - table[k])


@numba.njit(cache=True, nogil=True, fastmath={"contract"}, inline="always")
def _value(fine, table, y, x):  # type: ignore[no-untyped-def]
    """The image at a place of the fine grid, periodic."""
    m = fine.shape[0]
    first_y, first_x = int(np.ceil(y)) - 2, int(np.ceil(x)) - 2
    dy, dx = y - np.float32(first_y), x - np.float32(first_x)
    one, two, three = np.float32(1), np.float32(2), np.float32(3)
    a, b = _tap(table, dx), _tap(table, dx - one)
    c, d = _tap(table, dx - two), _tap(table, dx - three)
    total = np.float32(0)
    if first_x >= 0 and first_x + 3 < m and first_y >= 0 and first_y + 3 < m:
        for j in range(4):
            row = fine[first_y + j]
            part = a * row[first_x] + b * row[first_x + 1] + (
                c * row[first_x + 2] + d * row[first_x + 3]
            )  # fmt: skip
            total += _tap(table, dy - np.float32(j)) * part
        return total
    for j in range(4):
        row = fine[(first_y + j) % m]
        part = a * row[first_x % m] + b * row[(first_x + 1) % m] + (
            c * row[(first_x + 2) % m] + d * row[(first_x + 3) % m]
        )  # fmt: skip
        total += _tap(table, dy - np.float32(j)) * part
    return total


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _gather(fine, table, size, pixels, matrix, shift, scale, places, out):  # type: ignore[no-untyped-def]
    """Add whole multiples of 1 / scale to `out` (flat) at the places of the pixels."""
    finer = np.float32(fine.shape[0] / size)
    low, center = np.float32(-(size // 2)), np.float32(size // 2)
    high = low + np.float32(size - 1)
    for i in range(len(pixels)):
        y = matrix[0, 0] * pixels[i, 0] + matrix[0, 1] * pixels[i, 1] + shift[0]
        x = matrix[1, 0] * pixels[i, 0] + matrix[1, 1] * pixels[i, 1] + shift[1]
        if y < low or y > high or x < low or x > high:
            continue
        value = _value(fine, table, (y + center) * finer, (x + center) * finer)
        out[places[i]] += np.int64(np.rint(np.float64(value) * scale))


def transform_into(
    out: np.ndarray,
    fine: np.ndarray,
    frame: Frame,
    matrix: np.ndarray,
    shift: np.ndarray,
    *,
    scale: float,
) -> None:
    """Add an image, turned and moved into the reference's frame, to a sum of whole numbers.

    Pixels outside of the inscribed disc, and those that fall outside of the image, get nothing.

    Parameters
    ----------
    out : array of int64, shape (size, size)
        Changed: each value times `scale`, rounded, is added.
    fine : array of float32
        From `fine_image`.
    frame : Frame
    matrix : array, shape (2, 2)
        Reference → image on (y, x) columns: a turn, or a turn of a mirror image.
    shift : array, shape (2,)
        Of the particle from the image's centre, (y, x), pixels.
    scale : float
        Units of the sum per unit of the image.
    """
    _gather(
        fine,
        _TABLE,
        frame.size,
        frame.pixels,
        np.ascontiguousarray(matrix, np.float32),
        np.ascontiguousarray(shift, np.float32),
        float(scale),
        frame.places,
        out.reshape(-1),
    )


def transform(image: np.ndarray, matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """An image turned and moved into the reference's frame: ``image(matrix @ p + shift)``.

    Parameters
    ----------
    image : array, shape (n, n)
    matrix : array, shape (2, 2)
        Reference → image, on (y, x) columns.
    shift : array, shape (2,)
        (y, x), pixels.

    Returns
    -------
    array of float32, shape (n, n)
        0 outside of the inscribed disc and where the place lies outside of the image.

    Examples
    --------
    >>> image = np.zeros((16, 16), np.float32)
    >>> image[8, 11] = 1
    >>> quarter = transform(image, np.array([[0, 1], [-1, 0]]), np.zeros(2))  # x of the image is −y
    >>> [int(i) for i in np.unravel_index(quarter.argmax(), quarter.shape)]
    [5, 8]
    """
    image = np.ascontiguousarray(image, np.float32)
    frame = image_frame(len(image))
    most = float(np.sqrt((image.astype(np.float64) ** 2).sum())) or 1.0
    scale = 2.0**40 / most
    out = np.zeros(image.shape, np.int64)
    fine = fine_image(image, frame)
    transform_into(out, fine, frame, matrix, shift, scale=scale)
    return np.asarray(out / scale, np.float32)
