"""Fourier ring correlation of two images, and the filter that it makes for their average."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.fft

from tomodask.arrays.fourier import half_counts
from tomodask.averaging.fsc import shell_table
from tomodask.errors import InputError
from tomodask.planar.transforming import soft_disc

__all__ = [
    "frc",
    "frc_weights",
    "low_pass_rings",
    "ring_correlation",
    "ring_mean",
    "ring_weighted",
]

_LEAST = 0.143  # correlation of halves at which the whole agrees with the truth by one half
_FALL = 3  # rings over which a filter falls to 0


def _rings(n: int) -> np.ndarray:
    """Ring, in Fourier pixels, of each frequency of ``rfft2``; shape (n, n // 2 + 1)."""
    ky, kx = scipy.fft.fftfreq(n, 1 / n), scipy.fft.rfftfreq(n, 1 / n)
    return np.asarray(np.rint(np.hypot(ky[:, None], kx)), np.intp)


def ring_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of two images in the rings 0, 1, 2, … of Fourier space, a pixel thick each.

    Parameters
    ----------
    a, b : array, shape (n, n)

    Returns
    -------
    array of float64, shape (n // 2 + 1,)
        Up to Nyquist; a ring without power gives 0.
    """
    n = a.shape[-1]
    fa, fb = (scipy.fft.rfft2(np.asarray(one, np.float64)) for one in (a, b))
    ring, each = _rings(n).ravel(), np.broadcast_to(half_counts(n), fa.shape)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(ring, (each * values).ravel(), n)[: n // 2 + 1]

    cross, pa, pb = total((fa * fb.conj()).real), total(np.abs(fa) ** 2), total(np.abs(fb) ** 2)
    power = np.sqrt(pa * pb)
    return np.asarray(np.divide(cross, power, out=np.zeros_like(cross), where=power > 0))


def ring_mean(values: np.ndarray) -> np.ndarray:
    """At each frequency of ``rfft2``, shape (n, n // 2 + 1), the mean of `values` over its ring."""
    n = values.shape[0]
    ring = _rings(n).ravel()
    each = np.broadcast_to(half_counts(n), values.shape).ravel()
    mean = np.bincount(ring, each * values.ravel()) / np.bincount(ring, each)
    return np.asarray(mean[ring].reshape(values.shape))


def frc(
    a: np.ndarray, b: np.ndarray, *, pixel_size: float, radius: float | None = None
) -> pd.DataFrame:
    """Fourier ring correlation of two images: of the halves of a class, or of one and the truth.

    Parameters
    ----------
    a, b : array, shape (n, n)
    pixel_size : float
        Å.
    radius : float, optional
        Of a soft disc about the centre that both are cut to, Å.

    Returns
    -------
    DataFrame
        One row a ring: ``frequency`` (1/Å), ``resolution`` (Å), ``correlation``; for
        `tomodask.resolution_at`.

    Raises
    ------
    InputError
        If the images are not square and of one size.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(size=(16, 16))
    >>> frc(image, image, pixel_size=5.0)["correlation"].round(6).eq(1).all().item()
    True
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or a.shape != b.shape or a.shape[0] != a.shape[1]:
        raise InputError(f"frc needs two square images of one size, got {a.shape} and {b.shape}")
    n = len(a)
    if radius is not None:
        window = soft_disc(n, min(radius / pixel_size, n / 2 - 1))
        a, b = a * window, b * window
    return shell_table(n, pixel_size).assign(correlation=ring_correlation(a, b))


def frc_weights(correlation: np.ndarray, *, least: int = 3) -> np.ndarray:
    """What each ring of an average is multiplied by, by the FRC of its halves.

    Up to where the correlation, smoothed over three rings, first falls below 0.143, each ring is
    weighted by its expected correlation with the truth, ``√(2 f / (1 + f))`` (Rosenthal & Henderson
    2003); beyond, the weight falls to 0 over three rings, so that noise that two rings share by
    chance is not let in again.

    Parameters
    ----------
    correlation : array, shape (rings,)
        From ring 0.
    least : int
        Rings that are kept at 0.143 at least: a class that agrees in nothing keeps its outline.

    Returns
    -------
    array of float64, shape (rings,)
        0 to 1; ring 0, the mean, keeps 1.

    References
    ----------
    Rosenthal and Henderson, J. Mol. Biol. 333, 721 (2003), doi:10.1016/j.jmb.2003.07.013.
    """
    f = np.array(correlation, np.float64)
    f[: least + 1] = np.maximum(f[: least + 1], _LEAST)
    smooth = np.convolve(np.pad(f, 1, mode="edge"), np.full(3, 1 / 3), mode="valid")
    smooth[: least + 1] = np.maximum(smooth[: least + 1], _LEAST)
    below = np.flatnonzero(smooth < _LEAST)
    end = int(below[0]) if len(below) else len(f)
    # The last ring that counts goes on, falling.
    known = np.clip(smooth, _LEAST, 1.0)
    known[end:] = known[end - 1]
    beyond = np.clip((np.arange(len(f)) - (end - 1)) / _FALL, 0, 1)
    weights = np.sqrt(2 * known / (1 + known)) * (0.5 + 0.5 * np.cos(np.pi * beyond))
    weights[0] = 1.0
    return np.asarray(weights)


def low_pass_rings(n: int, *, pixel_size: float, resolution: float) -> np.ndarray:
    """Weights of rings 0 … n // 2 that end at a resolution, Å, softly over three rings."""
    beyond = (np.arange(n // 2 + 1) - n * pixel_size / resolution) / _FALL
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.clip(beyond + 0.5, 0, 1)))


def ring_weighted(
    image: np.ndarray, weights: np.ndarray, *, move: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """An image with each ring of its spectrum multiplied, and moved.

    Parameters
    ----------
    image : array, shape (n, n)
    weights : array, shape (n // 2 + 1,)
        Frequencies beyond the last ring are cut.
    move : (float, float)
        (y, x), pixels, that the content moves by; through the border on the other side.

    Returns
    -------
    array of float32, shape (n, n)
    """
    n = image.shape[-1]
    rings = _rings(n)
    table = np.append(weights, np.zeros(max(int(rings.max()) + 1 - len(weights), 0)))
    spectrum = scipy.fft.rfft2(np.asarray(image, np.float64)) * table[rings]
    if any(move):
        ky, kx = scipy.fft.fftfreq(n)[:, None], scipy.fft.rfftfreq(n)[None]
        spectrum *= np.exp(-2j * np.pi * (ky * move[0] + kx * move[1]))
    return np.asarray(scipy.fft.irfft2(spectrum, s=(n, n)), np.float32)
