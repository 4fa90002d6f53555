"""What an alignment needs of the reference and one tilt series, prepared once for all particles.

The bands follow from the reference and the grid, in Fourier voxels of the box:

* a turn by the grid's step δ moves the reference's density, at its rms radius ρ, through a phase of
  ``2π k ρ δ / n``; the search uses frequencies up to ``k = 4.1 n / (2π ρ δ)``, where neighbours on
  the grid still correlate at the frequencies that carry most of the signal;
* the refinement's last band ends where 99.5 % of the Fisher information on the rotation, the sum of
  ``|r(k)|² k²``, is within (white noise): more adds time and no accuracy, less loses accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomodask.alignment.measurement import Measurement
from tomodask.alignment.refinement import Stage
from tomodask.alignment.search import SearchGrid, search_grid, shift_grid
from tomodask.arrays.geometry import rotation_grid
from tomodask.arrays.sampling import (
    Spectrum,
    cut_out,
    half_sphere,
    padded_spectrum,
    soft_sphere,
    spectrum_at,
)
from tomodask.errors import InputError

__all__ = ["Plan", "bands", "information_radius", "plan_alignment", "rms_radius"]


@dataclass(frozen=True)
class Plan:
    """Prepared reference, search grid and stages of refinement, for one measurement.

    Attributes
    ----------
    spectrum : Spectrum
        Of the masked reference.
    frequencies : array of float32, shape (count, 3)
        All measured frequencies that are used.
    weights : array of float32, shape (count,), or None
        What the boxes hold of a particle there, by the record of the tilt series; None is all.
    grid : SearchGrid
    stages : tuple of Stage
    turn_limit, shift_limit : float
        Longest step of the refinement; radians, voxels.
    reach : float
        No pose is shifted farther along an axis, voxels.
    """

    spectrum: Spectrum
    frequencies: np.ndarray
    weights: np.ndarray | None
    grid: SearchGrid
    stages: tuple[Stage, ...]
    turn_limit: float
    shift_limit: float
    reach: float


def rms_radius(volume: np.ndarray) -> float:
    """Root mean square distance of the squared density from the box's centre, voxels."""
    n = volume.shape[0]
    axis = (np.arange(n) - n // 2) ** 2
    power = np.asarray(volume, np.float64) ** 2
    r2 = axis[:, None, None] + axis[:, None] + axis
    return float(np.sqrt((power * r2).sum() / power.sum()))


def information_radius(volume: np.ndarray, *, share: float = 0.995) -> float:
    """Radius in Fourier voxels that holds `share` of the information on the rotation."""
    n = volume.shape[0]
    k = half_sphere(n // 2)
    radius = np.linalg.norm(k, axis=1)
    information = np.abs(spectrum_at(volume, k)) ** 2 * radius**2
    total = np.bincount(np.rint(radius).astype(np.intp), information)
    return float(np.searchsorted(np.cumsum(total), share * total.sum()))


def bands(search_radius: float, last_radius: float) -> list[float]:
    """Radii of the refinement's bands, growing by a half each time."""
    out = [search_radius]
    while out[-1] * 1.6 < last_radius:
        out.append(out[-1] * 1.5)
    if last_radius > out[-1]:
        out.append(last_radius)
    return out


def plan_alignment(
    reference: np.ndarray,
    *,
    tilt_range: tuple[float, float],
    angular_step: float,
    shift_range: float,
    radius: float | None = None,
    mask_radius: float | None = None,
    record: Mapping[str, Any] | None = None,
    voxel_size: float = 1.0,
) -> Plan:
    """Prepare everything that does not depend on the particle.

    Parameters
    ----------
    reference : array, shape (n, n, n)
    tilt_range : (float, float)
        Degrees.
    angular_step : float
        Of the search grid, degrees.
    shift_range : float
        Voxels along each axis.
    radius : float, optional
        Of the last band, Fourier voxels; by default `information_radius`.
    mask_radius : float, optional
        Of the soft sphere around the reference, voxels; by default it touches the box.
    record : mapping, optional
        Of the tilt series, in place of the tilt range; see
        `tomodask.arrays.tilt_weights.check_record`.
    voxel_size : float
        Å; only the record asks for it.

    Raises
    ------
    InputError
        If the tilt series measured nothing in the band of the search.
    """
    n = reference.shape[0]
    edge = 3.0
    sphere = soft_sphere(n, n / 2 - edge - 1 if mask_radius is None else mask_radius, edge=edge)
    masked = cut_out(np.asarray(reference, np.float32), sphere)
    largest = n / 2 - 1.0
    step = np.deg2rad(angular_step)
    search_radius = 4.1 * n / (2 * np.pi * rms_radius(masked) * step)
    last = min(radius or information_radius(masked), largest)
    search_radius = float(np.clip(search_radius, min(4.0, last), last))

    k = half_sphere(last)
    held = Measurement(tilt_range, record).weights(k, box=n, voxel_size=voxel_size)
    k = k[held != 0]
    weights = None if record is None else held[held != 0]
    spectrum = padded_spectrum(masked, radius=last)
    length = np.linalg.norm(k, axis=1)
    low = np.flatnonzero(length <= search_radius)
    if not len(low):
        raise InputError(
            f"the tilt series holds nothing of detail coarser than "
            f"{n * voxel_size / search_radius:.0f} Å, which the search needs; take a smaller "
            "angular_step, or say the tilt range alone (tilt_range=…, --tilt-range)"
        )
    # A shift lattice as fine as the search's band resolves: a phase of 0.5 rad off per axis.
    lattice = shift_grid(shift_range, 0.32 * n / search_radius)
    grid = search_grid(
        spectrum,
        k[low],
        low,
        rotation_grid(angular_step),
        lattice,
        weights=None if weights is None else weights[low],
        separation=step,
    )
    radii = bands(search_radius, last)
    stages = [
        _stage(k, weights, length, r, batches=1 if i in (0, len(radii) - 1) else 2, passes=4)
        for i, r in enumerate(radii)
    ]
    return Plan(spectrum, k, weights, grid, tuple(stages), 0.6 * step, 0.03 * n, shift_range)


def _stage(
    frequencies: np.ndarray,
    weights: np.ndarray | None,
    length: np.ndarray,
    radius: float,
    *,
    batches: int,
    passes: int,
) -> Stage:
    """One band, dealt out to mini-batches at random, each batch in the order of memory."""
    dealt = np.random.default_rng(0).permutation(np.flatnonzero(length <= radius))
    index = np.concatenate([np.sort(part) for part in np.array_split(dealt, batches)])
    held = None if weights is None else weights[index]
    return Stage(np.ascontiguousarray(frequencies[index]), index, batches, passes, held)
