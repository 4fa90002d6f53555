"""A procedural particle and a tomogram full of it, with the truth: no file is needed.

The particle is a sum of Gaussians, so that it is turned and shifted exactly, without interpolation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import dask.array as da
import numpy as np
import pandas as pd
import scipy.fft
import xarray as xr
from scipy.spatial.transform import Rotation

from tomodask.arrays.fourier import wedge
from tomodask.arrays.geometry import matrices_zyx
from tomodask.arrays.threads import one_thread_each
from tomodask.data.particles import with_orientations
from tomodask.errors import InputError

__all__ = [
    "PHANTOMS",
    "Phantom",
    "phantom_map",
    "phantom_particle",
    "phantom_subtomograms",
    "phantom_tomogram",
]

#: Names of the embedded particles among structures, and which `kind` they are.
PHANTOMS = {"phantom": "particle", "phantom-decoy": "decoy"}
_RADIUS = 120.0  # Å, of the centres of the Gaussians; with their width about 250 Å across


@dataclass(frozen=True)
class Phantom:
    """A particle made of equal round Gaussians.

    Attributes
    ----------
    centers_zyx : array, shape (n, 3)
        Å, from the particle's centre.
    weights : array, shape (n,)
        Mass of each Gaussian.
    sigma : float
        Å, their width.
    """

    centers_zyx: np.ndarray
    weights: np.ndarray
    sigma: float

    def density(
        self,
        *,
        box: int,
        voxel_size: float,
        rotation: Rotation | None = None,
        shift_zyx: tuple[float, float, float] | np.ndarray = (0.0, 0.0, 0.0),
    ) -> np.ndarray:
        """The particle in a cubic box, turned about voxel ``box // 2`` and moved by `shift_zyx` Å.

        Returns
        -------
        array of float32, shape (box, box, box)
        """
        centers = self.centers_zyx
        if rotation is not None:
            centers = centers @ matrices_zyx(rotation).T
        grid = (np.arange(box) - box // 2) * voxel_size
        offsets = grid - (centers + np.asarray(shift_zyx))[..., None]  # (n, 3, box)
        axes = np.exp(-0.5 * (offsets / self.sigma) ** 2).astype(np.float32)
        z, y, x = axes[:, 0] * self.weights[:, None].astype(np.float32), axes[:, 1], axes[:, 2]
        zy = (z[:, :, None] * y[:, None, :]).reshape(len(z), -1)
        with one_thread_each():  # several threads share a sum out otherwise: other last bits
            return np.ascontiguousarray((zy.T @ x).reshape(box, box, box))


def phantom_particle(kind: str = "particle", *, seed: int = 7) -> Phantom:
    """The embedded particle, about 250 Å across, or the decoy beside it.

    Parameters
    ----------
    kind : {"particle", "decoy"}
        The particle is a ball with two bites taken out and a knob, without any symmetry; the
        decoy is a ring of the same mass.
    seed : int
        Draws the places of the Gaussians.
    """
    rng = np.random.default_rng(seed)
    if kind == "particle":
        drawn = rng.normal(size=(4000, 3))
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        drawn *= _RADIUS * rng.random(4000)[:, None] ** (1 / 3)
        z, y, x = drawn.T
        flat = 0.6 * z + 0.3 * y > 0.45 * _RADIUS
        quarter = (x > 0.2 * _RADIUS) & (y < -0.15 * _RADIUS)
        tunnel = ((z + 25) ** 2 + (y - 40) ** 2 < 28.0**2) & (x < 30)
        centers = drawn[~(flat | quarter | tunnel)][:500]
    elif kind == "decoy":
        turn = rng.uniform(0, 2 * np.pi, 500)
        ring = np.stack([np.zeros(500), np.sin(turn), np.cos(turn)], 1) * 0.75 * _RADIUS
        centers = ring + rng.normal(size=(500, 3)) * 18.0
    else:
        raise ValueError(f'kind must be "particle" or "decoy", got {kind!r}')
    weights = rng.uniform(0.5, 1.5, len(centers))
    centers = centers - np.average(centers, axis=0, weights=weights)
    return Phantom(centers, weights / weights.sum() * 500, sigma=9.0)


def phantom_map(
    *, voxel_size: float = 10.0, box: int | None = None, kind: str = "particle"
) -> xr.DataArray:
    """The phantom as a map, e.g. a template: dims (z, y, x), attrs ``voxel_size``.

    By default the box is 400 Å wide, which holds all of it.
    """
    box = 2 * math.ceil(200 / voxel_size) if box is None else box
    volume = phantom_particle(kind).density(box=box, voxel_size=voxel_size)
    return _volume(volume, voxel_size, f"phantom_{kind}")


def _volume(volume: np.ndarray, voxel_size: float, name: str) -> xr.DataArray:
    coords = {
        axis: np.arange(size) * voxel_size for axis, size in zip("zyx", volume.shape, strict=True)
    }
    return xr.DataArray(
        da.from_array(volume, chunks=64),
        dims=("z", "y", "x"),
        coords=coords,
        name=name,
        attrs={"voxel_size": voxel_size, "source": name},
    )


def phantom_tomogram(
    shape: tuple[int, int, int] = (160, 256, 256),
    *,
    particles: int = 120,
    decoys: int = 30,
    snr: float = 0.05,
    tilt_range: tuple[float, float] = (-60.0, 60.0),
    voxel_size: float = 10.0,
    seed: int = 0,
) -> tuple[xr.DataArray, pd.DataFrame]:
    """A tomogram of phantoms at random poses, with decoys, white noise and a missing wedge.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels, (z, y, x).
    particles, decoys : int
        How many of each; none overlap, all lie inside.
    snr : float
        Variance of a noise-free 40³ box of the particle / variance of the white noise, which is
        added before the wedge is applied.
    tilt_range : (float, float)
        Degrees.
    voxel_size : float
        Å.
    seed : int
        The same seed gives the same bytes.

    Returns
    -------
    tomogram : DataArray of float32, dims (z, y, x)
        attrs ``voxel_size`` and ``tilt_range``.
    truth : DataFrame
        One row a particle or decoy: ``z, y, x`` (Å), ``quat_*``, ``kind``.

    Raises
    ------
    InputError
        If so many do not fit.
    """
    rng = np.random.default_rng(seed)
    box, reach = 40, 14.5
    if min(shape) < box:
        raise InputError(f"shape must be at least {box} voxels along each axis, got {shape}")
    centers = _apart(rng, shape, particles + decoys, margin=reach, distance=2 * reach)
    turns = Rotation.random(len(centers), rng=rng)
    kinds = np.array(["particle"] * particles + ["decoy"] * decoys)

    padded = np.zeros([size + 2 * box for size in shape], np.float32)  # no box leaves it
    for center, turn, kind in zip(centers, turns, kinds, strict=True):
        at = np.rint(center).astype(int)
        corner = at + box - box // 2
        here = tuple(slice(c, c + box) for c in corner)
        padded[here] += phantom_particle(kind).density(
            box=box, voxel_size=voxel_size, rotation=turn, shift_zyx=(center - at) * voxel_size
        )
    clean = padded[box:-box, box:-box, box:-box]
    deviation = float(phantom_particle().density(box=box, voxel_size=voxel_size).std())
    noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation / np.sqrt(snr))
    spectrum = scipy.fft.rfftn(clean + noise, workers=-1)
    spectrum *= wedge(shape, tilt_range)
    volume = scipy.fft.irfftn(spectrum, s=shape, workers=-1).astype(np.float32)

    tomogram = _volume(volume, voxel_size, "phantom")
    tomogram.attrs["tilt_range"] = tuple(map(float, tilt_range))
    table = pd.DataFrame({"tomogram": "phantom"}, index=range(len(centers)))
    table[["z", "y", "x"]] = centers * voxel_size
    return tomogram, with_orientations(table, turns).assign(kind=kinds)


def phantom_subtomograms(
    count: int,
    *,
    box: int = 64,
    voxel_size: float = 6.0,
    snr: float = 0.1,
    tilt_range: tuple[float, float] = (-60.0, 60.0),
    shift_range: float = 24.0,
    seed: int = 0,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Single-particle boxes of the phantom at random poses, for tests and benchmarks.

    Parameters
    ----------
    count : int
    box : int
        Voxels.
    voxel_size, shift_range : float
        Å; shifts are uniform within ± `shift_range` along each axis.
    snr, tilt_range, seed
        As in `phantom_tomogram`; the variance is that of the whole noise-free box.

    Returns
    -------
    boxes : array of float32, shape (count, box, box, box)
    truth : DataFrame
        ``shift_z, shift_y, shift_x`` (Å), ``quat_*``, ``tilt_min``, ``tilt_max``.
    """
    phantom = phantom_particle()
    seen = wedge((box,) * 3, tilt_range)
    boxes = np.empty((count, box, box, box), np.float32)
    turns, shifts = [], np.empty((count, 3))
    for i in range(count):
        rng = np.random.default_rng([seed, i])  # a particle is the same in any set
        turn, shifts[i] = Rotation.random(rng=rng), rng.uniform(-shift_range, shift_range, 3)
        clean = phantom.density(box=box, voxel_size=voxel_size, rotation=turn, shift_zyx=shifts[i])
        noise = rng.standard_normal(clean.shape, dtype=np.float32)
        noisy = clean - clean.mean() + noise * (clean.std() / np.sqrt(snr))
        boxes[i] = scipy.fft.irfftn(scipy.fft.rfftn(noisy) * seen, s=clean.shape)
        turns.append(turn)
    table = pd.DataFrame(shifts, columns=["shift_z", "shift_y", "shift_x"])
    table["tilt_min"], table["tilt_max"] = map(float, tilt_range)
    return boxes, with_orientations(table, Rotation.concatenate(turns))


def _apart(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    count: int,
    *,
    margin: float,
    distance: float,
) -> np.ndarray:
    """`count` random places (z, y, x), voxels, at least `distance` from each other."""
    low, high = np.full(3, margin), np.asarray(shape) - 1 - margin
    placed = np.empty((0, 3))
    for _ in range(4000):
        for candidate in rng.uniform(low, high, size=(64, 3)):
            if len(placed) == count:
                return placed
            if not len(placed) or ((placed - candidate) ** 2).sum(1).min() >= distance**2:
                placed = np.vstack([placed, candidate])
    raise InputError(
        f"only {len(placed)} of {count} particles fit into {shape} voxels without overlap; "
        "ask for fewer or for a larger shape"
    )
