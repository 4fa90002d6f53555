"""Rotation-invariant features of boxes: power of spherical harmonics by radius and degree (RIF).

On the sphere of radius r about the box's centre a density is a sum of spherical harmonics,
``f(r, Ω) = Σ_lm a_lm(r) Y_lm(Ω)``; turning it mixes the orders m of a degree l alone, so that

    p_l(r) = ( Σ_m |a_lm(r)|² )^½

does not change (Kazhdan et al. 2003 [1]_; of density maps Xu, Zhang & Alber 2009 [2]_).  The
baseline of the subdivision paper puts a support-vector machine on such features.  Here they are
r · p_l(r): a voxel counts alike at every radius, so that the squared distance of two boxes is an
integral over their volume, and the noise of all features is about the same.

They are not invariant to a shift (``of="amplitude"`` takes the amplitudes of the spectrum instead,
which are), nor to the missing wedge, which does not turn with the particle.

Values on the spheres are trilinear between voxels, a sparse matrix; the integrals are sums over
Gauss-Legendre points in cos θ and even ones in φ, exact up to twice the degree.  Box by box, so
that a batch changes no bit.

.. [1] Kazhdan, Funkhouser & Rusinkiewicz, "Rotation invariant spherical harmonic representation of
   3D shape descriptors", SGP 2003, 156.
.. [2] Xu, Zhang & Alber, "3D rotation invariant features for the characterization of molecular
   density maps", IEEE BIBM 2009, 74.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.sparse

from tomodask.arrays.threads import one_thread_each
from tomodask.errors import InputError

__all__ = ["RifSvm", "RotationInvariant", "real_harmonics"]


class RotationInvariant:
    """A model for `embed_subtomograms` that needs no training.

    Parameters
    ----------
    degree : int
        Of the harmonics, at most; 0 to `degree` are used.
    radius : int, optional
        Of the largest sphere, voxels; by default the largest within the box.  Spheres are a voxel
        apart, from 1.
    of : {"density", "amplitude"}
        The density itself, or the amplitudes of its spectrum.
    smooth : float
        Standard deviation of a Gaussian that boxes are smoothed by first, voxels; 0: none.  Noise
        adds its own power to every p_l, most of it from fine detail.

    Examples
    --------
    >>> box = np.random.default_rng(0).normal(size=(1, 15, 15, 15))
    >>> turned = np.rot90(box, axes=(2, 3))
    >>> a, b = (RotationInvariant(4).predict_features(x) for x in (box, turned))
    >>> a.shape, bool(np.allclose(a, b, rtol=1e-4))
    ((1, 35), True)
    """

    def __init__(
        self,
        degree: int = 10,
        *,
        radius: int | None = None,
        of: str = "density",
        smooth: float = 0.0,
    ) -> None:
        if isinstance(degree, bool) or not isinstance(degree, int | np.integer) or degree < 0:
            raise InputError(f"degree must be a whole number, at least 0, got {degree!r}")
        if radius is not None and not radius >= 1:
            raise InputError(f"radius must be at least 1 voxel, got {radius!r}")
        if of not in ("density", "amplitude"):
            raise InputError(f"of must be 'density' or 'amplitude', got {of!r}")
        if not 0 <= smooth <= 10:
            raise InputError(f"smooth must be from 0 to 10 voxels, got {smooth!r}")
        self.degree, self.radius, self.of, self.smooth = int(degree), radius, of, float(smooth)

    def predict_features(self, batch: np.ndarray) -> np.ndarray:
        """``r · p_l(r)`` of each box, its mean taken out, at unit spread: (n, radii · degrees).

        Parameters
        ----------
        batch : array, shape (n, z, y, x)
            Cubic boxes; one that is the same everywhere gives 0.

        Returns
        -------
        array of float32
            By radius, then by degree.

        Raises
        ------
        InputError
            If boxes are not cubic, or have no room for the spheres.
        """
        shape = batch.shape
        if len(shape) != 4 or len(set(shape[1:])) != 1:
            raise InputError(f"boxes must have the shape (n, z, y, x), cubic, got {shape}")
        n = int(shape[-1])
        most = (n - 1) // 2
        radius = most if self.radius is None else int(self.radius)
        if not 1 <= radius <= most:
            raise InputError(f"radius must be within 1 to {most} voxels of a box of {n}")
        grid = _grid(n, radius, self.degree)
        out = np.empty((len(batch), radius * (self.degree + 1)), np.float32)
        with one_thread_each():
            for i, box in enumerate(batch):
                out[i] = grid.powers(_prepared(box, self.of, self.smooth)).ravel()
        return out


def _prepared(box: np.ndarray, of: str, smooth: float) -> np.ndarray:
    values = np.asarray(box, np.float64)
    values = values - values.mean()
    if smooth:
        values = scipy.ndimage.gaussian_filter(values, smooth)
        values -= values.mean()
    values = values / (values.std() or 1.0)
    if of == "amplitude":
        amplitude = np.abs(scipy.fft.fftn(values)) / values.size**0.5
        values = np.fft.fftshift(amplitude)
    return values


class _Grid:
    """Points on spheres, and the harmonics there."""

    def __init__(self, n: int, radius: int, degree: int) -> None:
        # As many points as the largest sphere has voxels: no voxel is passed over.
        rings = max(degree + 1, 2 * radius)
        cosine, weight = np.polynomial.legendre.leggauss(rings)
        phi = np.arange(2 * rings) * (np.pi / rings)
        sine = np.sqrt(1 - cosine**2)
        direction_zyx = np.stack(
            [
                np.repeat(cosine[:, None], 2 * rings, 1),
                sine[:, None] * np.sin(phi),
                sine[:, None] * np.cos(phi),
            ],
            axis=-1,
        ).reshape(-1, 3)
        area = np.repeat(weight * (np.pi / rings), 2 * rings)
        self.harmonics = real_harmonics(degree, direction_zyx) * area
        self.radii = np.arange(1, radius + 1)
        points = (n // 2 + self.radii[:, None, None] * direction_zyx).reshape(-1, 3)
        self.sampling = _trilinear(points, n)
        self.starts = np.arange(degree + 1) ** 2

    def powers(self, box: np.ndarray) -> np.ndarray:
        """Shape (radius, degree + 1)."""
        values = (self.sampling @ box.ravel()).reshape(len(self.radii), -1)
        coefficients = values @ self.harmonics.T
        powers = np.sqrt(np.add.reduceat(coefficients**2, self.starts, axis=1))
        return np.asarray(self.radii[:, None] * powers)


@lru_cache(maxsize=4)
def _grid(n: int, radius: int, degree: int) -> _Grid:
    return _Grid(n, radius, degree)


def _trilinear(points: np.ndarray, n: int) -> Any:
    """Sparse matrix that interpolates a flat box of edge n at points, shape (points, 3)."""
    low = np.clip(np.floor(points).astype(np.intp), 0, n - 2)
    part = points - low
    rows, columns, values = [], [], []
    for corner in np.ndindex(2, 2, 2):
        at = low + corner
        weight = np.where(np.array(corner) == 1, part, 1 - part).prod(1)
        rows.append(np.arange(len(points)))
        columns.append((at[:, 0] * n + at[:, 1]) * n + at[:, 2])
        values.append(weight)
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return scipy.sparse.csr_array(scipy.sparse.coo_array(entries, shape=(len(points), n**3)))


def real_harmonics(degree: int, direction_zyx: np.ndarray) -> np.ndarray:
    """Real spherical harmonics, orthonormal on the sphere.

    Parameters
    ----------
    degree : int
        The largest.
    direction_zyx : array, shape (points, 3)
        Unit vectors; θ is measured from z, φ from x to y.

    Returns
    -------
    array of float64, shape ((degree + 1)², points)
        Row ``l² + l + m``: √2 N P_l^|m| times cos mφ for m > 0, sin |m|φ for m < 0.

    Examples
    --------
    >>> np.abs(real_harmonics(1, np.array([[1.0, 0, 0]]))).round(4).ravel().tolist()
    [0.2821, 0.0, 0.4886, 0.0]
    """
    z, y, x = direction_zyx.T
    sine = np.sqrt(np.maximum(1 - z**2, 0.0))
    phi = np.arctan2(y, x)
    out = np.empty(((degree + 1) ** 2, len(z)))
    # Normalised Legendre functions by the stable recurrence upwards in l (Press et al., 6.7).
    diagonal = np.full(len(z), np.sqrt(1 / (4 * np.pi)))
    for m in range(degree + 1):
        if m > 0:
            diagonal = diagonal * sine * -np.sqrt((2 * m + 1) / (2 * m))
        before, here = np.zeros(len(z)), diagonal
        for order in range(m, degree + 1):
            if order > m:
                a = np.sqrt((4 * order**2 - 1) / (order**2 - m**2))
                b = np.sqrt(((order - 1) ** 2 - m**2) / (4 * (order - 1) ** 2 - 1))
                before, here = here, a * (z * here - b * before)
            middle = order * order + order
            if m == 0:
                out[middle] = here
            else:
                out[middle + m] = np.sqrt(2) * here * np.cos(m * phi)
                out[middle - m] = np.sqrt(2) * here * np.sin(m * phi)
    return out


class RifSvm:
    """The baseline: features, each at unit spread, and a support-vector machine with RBF kernel.

    Parameters
    ----------
    penalty : float
        C of the machine.
    gamma : float or "scale"
        Of the kernel ``exp(−γ |a − b|²)``; "scale" is 1 / (features · variance).
    seed : int

    Attributes
    ----------
    classes_ : array
        Names or numbers of the classes, sorted.
    """

    classes_: np.ndarray

    def __init__(self, *, penalty: float = 1.0, gamma: float | str = "scale", seed: int = 0):
        self.penalty, self.gamma, self.seed = penalty, gamma, seed

    def fit(self, features: np.ndarray, labels: np.ndarray) -> RifSvm:
        """Learn from features, shape (particle, feature), and a label each.

        Raises
        ------
        InputError
            If scikit-learn is not installed, there are fewer than two classes, labels and features
            differ in number, or features are not finite.
        """
        values, names = np.asarray(features, np.float64), np.asarray(labels)
        if values.ndim != 2 or len(values) != len(names):
            raise InputError(
                f"labels must be one a particle, got {len(names)} for features of shape "
                f"{values.shape}"
            )
        if not np.isfinite(values).all():
            raise InputError("features hold values that are not finite; leave these particles out")
        self.classes_ = np.unique(names)
        if len(self.classes_) < 2:
            raise InputError(
                f"labels must be of two classes or more, got {len(self.classes_)}: there is "
                "nothing to tell apart"
            )
        try:
            from sklearn.pipeline import make_pipeline
            from sklearn.preprocessing import StandardScaler
            from sklearn.svm import SVC
        except ImportError:
            raise InputError(
                "RifSvm needs scikit-learn, which is not installed: pip install "
                "'tomodask[classification]'"
            ) from None
        machine = SVC(C=self.penalty, gamma=self.gamma, random_state=self.seed)
        self._machine = make_pipeline(StandardScaler(), machine).fit(values, names)
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """The class of each particle, shape (particle,)."""
        if not hasattr(self, "_machine"):
            raise InputError("RifSvm is not fitted yet: call fit first")
        return np.asarray(self._machine.predict(np.asarray(features, np.float64)))
