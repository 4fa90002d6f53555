"""What an alignment needs of the references and one tilt series, prepared once for all particles.

The bands follow from the reference and the grid, in Fourier voxels of the box:

* a turn by the grid's step δ moves the reference's density, at its rms radius ρ, through a phase of
  ``2π k ρ δ / n``; the search uses frequencies up to ``k = 4.1 n / (2π ρ δ)``, where neighbours on
  the grid still correlate at the frequencies that carry most of the signal;
* the refinement's last band ends where 99.5 % of the Fisher information on the rotation, the sum of
  ``|r(k)|² k²``, is within (white noise): more adds time and no accuracy, less loses accuracy.

Several references share one band, the search's of the widest and the last of the finest of them, so
that their scores can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomodask.alignment.checks import at_scale
from tomodask.alignment.local import LOCAL_BAND, Neighbourhood, neighbourhood
from tomodask.alignment.measurement import LEAST_WEIGHT, Measurement
from tomodask.alignment.noise import ShellPower, shell_weights, weighted
from tomodask.alignment.real_space_problem import RealSpaceProblem
from tomodask.alignment.refinement import Stage
from tomodask.alignment.search import SHIFTS, SearchGrid, search_grid
from tomodask.arrays.geometry import rotation_grid
from tomodask.arrays.sampling import (
    Spectrum,
    cut_out,
    half_sphere,
    padded_spectrum,
    soft_sphere,
    spectrum_at,
)
from tomodask.arrays.symmetry import in_asymmetric_unit, symmetry_group
from tomodask.errors import InputError

__all__ = [
    "Plan",
    "bands",
    "information_radius",
    "masked_reference",
    "plan_alignment",
    "rms_radius",
]


@dataclass(frozen=True)
class Plan:
    """Prepared references, search grids and stages of refinement, for one measurement.

    Attributes
    ----------
    spectra : tuple of Spectrum
        Of the masked references, times the weights of shells.
    frequencies : array of float32, shape (count, 3)
        All measured frequencies that are used.
    weights : array of float32, shape (count,), or None
        What the boxes hold of a particle there, by the record of the tilt series; None is all.
    shells : array of float32, shape (count,), or None
        What the boxes' spectra are multiplied by (`tomodask.alignment.noise`); None is 1.
    grids : tuple of SearchGrid
        One a reference; none for a local search.
    around : Neighbourhood or None
        For a local search.
    stages : tuple of Stage
    method : {"fourier", "mbgd", "lm"}
        Of the refinement.
    problems : tuple of RealSpaceProblem
        One a reference for a refinement in real space, none for one in Fourier space.
    group : array of float64, shape (order, 3, 3)
        The references' symmetry.
    turn_limit, shift_limit : float
        Longest step of the refinement; radians, voxels.
    reach, turn_reach : float
        No pose is farther off along an axis, voxels, nor turned more, radians: from the box's
        centre and without a bound, or from the given pose of a local search.
    """

    spectra: tuple[Spectrum, ...]
    frequencies: np.ndarray
    weights: np.ndarray | None
    shells: np.ndarray | None
    grids: tuple[SearchGrid, ...]
    around: Neighbourhood | None
    stages: tuple[Stage, ...]
    method: str
    problems: tuple[RealSpaceProblem, ...]
    group: np.ndarray
    turn_limit: float
    shift_limit: float
    reach: float
    turn_reach: float

    @property
    def spectrum(self) -> Spectrum:
        """Of the first reference."""
        return self.spectra[0]

    @property
    def grid(self) -> SearchGrid:
        """Of the first reference."""
        return self.grids[0]

    def data(self, box: np.ndarray) -> np.ndarray:
        """A box's spectrum at the plan's frequencies, complex64, shape (count,)."""
        values = spectrum_at(box, self.frequencies)
        return values if self.shells is None else values * self.shells


def rms_radius(volume: np.ndarray) -> float:
    """Root mean square distance of the squared density from the box's centre, voxels."""
    n = volume.shape[0]
    axis = (np.arange(n) - n // 2) ** 2
    power = np.asarray(volume, np.float64) ** 2
    r2 = axis[:, None, None] + axis[:, None] + axis
    return float(np.sqrt((power * r2).sum() / power.sum()))


def information_radius(
    volume: np.ndarray, *, share: float = 0.995, shells: np.ndarray | None = None
) -> float:
    """Radius in Fourier voxels that holds `share` of the information on the rotation.

    With weights of `shells`, shape (n // 2 + 1,), of what these leave of it.
    """
    n = volume.shape[0]
    k = half_sphere(n // 2)
    radius = np.linalg.norm(k, axis=1)
    information = np.abs(spectrum_at(volume, k)) ** 2 * radius**2
    shell = np.rint(radius).astype(np.intp)
    total = np.bincount(shell, information, minlength=n // 2 + 1)
    if shells is not None:
        total = total[: len(shells)] * shells**2
    return float(np.searchsorted(np.cumsum(total), share * total.sum()))


def bands(search_radius: float, last_radius: float) -> list[float]:
    """Radii of the refinement's bands, growing by a half each time."""
    out = [search_radius]
    while out[-1] * 1.6 < last_radius:
        out.append(out[-1] * 1.5)
    if last_radius > out[-1]:
        out.append(last_radius)
    return out


def masked_reference(
    reference: np.ndarray, *, mask_radius: float | None = None, mask: np.ndarray | None = None
) -> np.ndarray:
    """A reference under its mask, or a soft sphere (voxels; by default it touches the box).

    Brought near to 1 by a power of two where its values are very large or small.
    """
    n = reference.shape[0]
    edge = 3.0
    if mask is None:
        mask = soft_sphere(n, n / 2 - edge - 1 if mask_radius is None else mask_radius, edge=edge)
    scaled = at_scale(np.asarray(reference, np.float32))
    return at_scale(cut_out(scaled, np.asarray(mask, np.float32)))


def plan_alignment(
    references: np.ndarray,
    *,
    tilt_range: tuple[float, float],
    angular_step: float,
    shift_range: float,
    radius: float | None = None,
    coarsest: float | None = None,
    mask_radius: float | None = None,
    mask: np.ndarray | None = None,
    symmetry: str = "C1",
    local: float | None = None,
    method: str = "fourier",
    known: np.ndarray | None = None,
    noise: ShellPower | None = None,
    record: Mapping[str, Any] | None = None,
    voxel_size: float = 1.0,
) -> Plan:
    """Prepare everything that does not depend on the particle.

    Parameters
    ----------
    references : array, shape (n, n, n) or (K, n, n, n)
    tilt_range : (float, float)
        Degrees.
    angular_step : float
        Of the search grid, degrees.
    shift_range : float
        Voxels along each axis.
    radius : float, optional
        Of the last band, Fourier voxels; by default `information_radius`.
    coarsest : float, optional
        Frequencies below this, Fourier voxels, are left out.
    mask_radius : float, optional
        Of the soft sphere around the reference, voxels; by default it touches the box.
    mask : array, shape (n, n, n), optional
        In place of the sphere, 0 to 1.
    symmetry : str
        Point group of the references; of rotations its asymmetric unit is searched.
    local : float, optional
        Degrees: a search of the neighbourhood of given poses.
    method : {"fourier", "mbgd", "lm"}
        Of the refinement, see `align_subtomograms`.
    known : array, shape (n // 2 + 1,), optional
        What the reference is known to, see `tomodask.alignment.noise`.
    noise : ShellPower, optional
        Data and model are divided by its amplitude.
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
    volumes = [
        masked_reference(one, mask_radius=mask_radius, mask=mask)
        for one in np.reshape(references, (-1, *references.shape[-3:]))
    ]
    n = volumes[0].shape[0]
    shells = shell_weights(n, noise=noise, known=known)
    step = np.deg2rad(angular_step)
    largest = n / 2 - 1.0
    if known is not None:
        largest = min(largest, float(np.flatnonzero(known)[-1]))
    measurement = Measurement(tilt_range, record)
    seen = shells
    if record is not None:  # what damage and contrast transfer leave is less than there is
        passed = _amplitude_by_shell(measurement, n, voxel_size)
        if passed.max() >= LEAST_WEIGHT:  # else nothing was measured, which is told below
            seen = passed if shells is None else passed * shells
    told = max(information_radius(one, shells=seen) for one in volumes)
    last = min(radius or told, largest)
    apart = step if local is None else max(step, LOCAL_BAND)
    search_radius = 4.1 * n / (2 * np.pi * max(map(rms_radius, volumes)) * apart)
    search_radius = float(np.clip(search_radius, min(4.0, last), last))

    k = half_sphere(last)
    k = k if coarsest is None else k[np.linalg.norm(k, axis=1) >= coarsest]
    if not len(k):
        raise InputError(
            f"coarsest leaves nothing: the reference tells of detail down to "
            f"{n * voxel_size / last:.0f} Å; leave coarsest out or give a finer resolution"
        )
    held = measurement.weights(k, box=n, voxel_size=voxel_size)
    k = k[held != 0]
    weights = None if record is None else held[held != 0]
    length = np.linalg.norm(k, axis=1)
    if coarsest is not None:  # the search needs a band of its own width
        search_radius = min(math.hypot(search_radius, coarsest), last)
    low = np.flatnonzero(length <= search_radius)
    if not len(low):
        raise InputError(
            f"the tilt series holds nothing of detail coarser than "
            f"{n * voxel_size / search_radius:.0f} Å, which the search needs; take a smaller "
            "angular_step, or say the tilt range alone (tilt_range=…, --tilt-range)"
        )
    spectra = tuple(padded_spectrum(one, radius=last) for one in volumes)
    if shells is not None:
        spectra = tuple(weighted(one, shells) for one in spectra)
        at_data = np.interp(length, np.arange(len(shells)), shells).astype(np.float32)

    group = symmetry_group(symmetry)
    of_search: dict[str, Any] = {
        "weights": None if weights is None else weights[low],
        "group": group.as_matrix(),
    }
    grids: tuple[SearchGrid, ...] = ()
    around = None
    if local is None:
        rotations = rotation_grid(angular_step)
        # Of a small grid and a large group nothing may be left: then the first is the unit.
        unit = np.flatnonzero(in_asymmetric_unit(rotations, group))
        rotations = rotations[unit if len(unit) else [0]]
        grids = tuple(
            search_grid(one, k[low], low, rotations, shift_range, separation=step, **of_search)
            for one in spectra
        )
    else:
        around = neighbourhood(
            k[low], low, box=n, local=np.deg2rad(local), step=step,
            shift_range=shift_range, shift_step=SHIFTS * n / search_radius, **of_search,
        )  # fmt: skip
    radii = bands(search_radius, last)
    stages = tuple(
        _stage(k, weights, length, r, batches=1 if i in (0, len(radii) - 1) else 2, passes=4)
        for i, r in enumerate(radii)
    )
    limits = {
        "turn_limit": 0.6 * step,
        "shift_limit": 0.03 * n,
        "reach": shift_range,
        "turn_reach": math.inf if local is None else float(np.deg2rad(local) + step / 2),
    }
    problems: tuple[RealSpaceProblem, ...] = ()
    if method != "fourier":
        # The mask does not move: it must hold the particle at the farthest shift, which of a local
        # search may be anywhere.
        inside = n / 2
        if mask_radius is not None and local is None:
            inside = mask_radius + 3.0 + math.sqrt(3) * shift_range
        problems = tuple(
            RealSpaceProblem.of(
                spectrum, k, weights, radii=radii,
                mask_radius=None if inside >= n / 2 else inside,
                particle_radius=rms_radius(volume), group=group.as_matrix(), **limits,
            )
            for spectrum, volume in zip(spectra, volumes, strict=True)
        )  # fmt: skip
    return Plan(
        spectra=spectra,
        frequencies=k,
        weights=weights,
        shells=None if shells is None else at_data,
        grids=grids,
        around=around,
        stages=stages,
        method=method,
        problems=problems,
        group=group.as_matrix(),
        **limits,
    )


def _amplitude_by_shell(measurement: Measurement, n: int, voxel_size: float) -> np.ndarray:
    """Root mean square weight of the boxes' Fourier voxels, shape (n // 2 + 1,)."""
    k = half_sphere(n // 2)
    shell = np.rint(np.linalg.norm(k, axis=1)).astype(np.intp)
    power = measurement.weights(k, box=n, voxel_size=voxel_size).astype(np.float64) ** 2
    mean = np.bincount(shell, power) / np.maximum(np.bincount(shell), 1)
    return np.asarray(np.sqrt(mean))


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
