"""Symmetry axes found in a map that knows nothing of them, and a map made symmetric."""

from __future__ import annotations

import numpy as np
import scipy.optimize
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import matrices_zyx, rotation_grid
from tomodask.arrays.sampling import (
    Spectrum,
    cut_out,
    half_sphere,
    padded_spectrum,
    sample,
    soft_sphere,
)
from tomodask.arrays.symmetry import in_asymmetric_unit, symmetry_group
from tomodask.averaging.map_filters import low_pass_weights, shell_weighted
from tomodask.rounds.superposition import Motion, turned_map

__all__ = ["find_axes", "symmetrised"]

_STEP = 12.0  # degrees, of the frames that are tried
_REFINED = 4  # of them


def find_axes(
    volume: np.ndarray,
    symmetry: str,
    *,
    voxel_size: float,
    resolution: float,
    diameter: float | None = None,
) -> Motion:
    """How a symmetric particle lies in a map: the motion from its group's own frame.

    Of all frames (R, t) on a grid of 12°, the best refined, that one is taken in which the most of
    the map's power remains when it is averaged over the group:

        share = Σ_k |mean_g F(R g k) exp(2πi (R g k)·t / n)|² / Σ_k |F(k)|².

    Parameters
    ----------
    volume : array, shape (n, n, n)
        Roughly centred.
    symmetry : str
        As of `tomodask.arrays.symmetry.symmetry_group`.
    voxel_size, resolution, diameter : float
        Å, as of `superpose`.

    Returns
    -------
    Motion
        Its `score` is the share: 1 for a map of that symmetry (or higher), 1 over the group's order
        for one of which each frequency is by itself.
    """
    group = matrices_zyx(symmetry_group(symmetry))
    n = volume.shape[0]
    radius = float(np.clip(n * voxel_size / resolution, 2.0, n / 2 - 1))
    reach = n / 2 - 4 if diameter is None else min(diameter / 2 / voxel_size, n / 2 - 4)
    masked = cut_out(np.asarray(volume, np.float32), soft_sphere(n, reach))
    spectrum = padded_spectrum(masked, radius=radius)
    k = half_sphere(radius)
    turns = _frames(symmetry)
    coarse = k[np.linalg.norm(k, axis=1) <= max(0.7 * radius, 2.0)]
    shares = np.array(
        [_share(spectrum, coarse, group, matrix, np.zeros(3)) for matrix in matrices_zyx(turns)]
    )
    best: tuple[float, np.ndarray] = (-1.0, np.zeros(6))
    for start in np.argsort(-shares, kind="stable")[:_REFINED]:

        def loss(x: np.ndarray, start: int = int(start)) -> float:
            turned = matrices_zyx(Rotation.from_rotvec(x[:3]) * turns[start])
            return -_share(spectrum, k, group, turned, x[3:] * n / 10)

        simplex = np.vstack([np.zeros(6), 0.1 * np.eye(6)])
        found = scipy.optimize.minimize(
            loss,
            np.zeros(6),
            method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-6, "maxiter": 400},
        )
        if -found.fun > best[0]:
            turn = Rotation.from_rotvec(found.x[:3]) * turns[start]
            best = (-float(found.fun), np.concatenate([turn.as_quat(), found.x[3:] * n / 10]))
    share, pose = best
    return Motion(Rotation.from_quat(pose[:4]), pose[:3:-1] * voxel_size, share)


def _frames(symmetry: str) -> Rotation:
    """Frames that a group may lie in, no two alike: of Cn, axes over half a sphere."""
    group = symmetry_group(symmetry)
    if not symmetry.strip().upper().startswith("C"):
        grid = rotation_grid(_STEP)
        return grid[in_asymmetric_unit(grid, group)]
    count = int(np.ceil(2 * np.pi / np.deg2rad(_STEP) ** 2))
    z = (np.arange(count) + 0.5) / count
    longitude = np.pi * (3 - np.sqrt(5)) * np.arange(count)  # Fibonacci's spiral
    return Rotation.from_euler("yz", np.stack([np.arccos(z), longitude], 1))


def _share(
    spectrum: Spectrum, k: np.ndarray, group: np.ndarray, matrix: np.ndarray, shift_zyx: np.ndarray
) -> float:
    """Of the power at k, what is left by the average over the group (matrices act on zyx)."""
    total, power = np.zeros(len(k), np.complex128), 0.0
    for g in group:
        turn = matrix @ g
        angle = 2 * np.pi / spectrum.box * (k @ (turn.T @ shift_zyx))
        values = sample(spectrum, k, turn) * np.exp(1j * angle)
        total += values
        power += float(np.vdot(values, values).real)
    return float(np.vdot(total, total).real / (len(group) * power)) if power > 0 else 0.0


def symmetrised(
    volume: np.ndarray, symmetry: str, *, voxel_size: float, resolution: float
) -> np.ndarray:
    """A map averaged over a point group about its box's centre, low-passed."""
    group = symmetry_group(symmetry)
    n = volume.shape[0]
    total = sum(
        turned_map(volume, Motion(g, np.zeros(3), 1.0), voxel_size=voxel_size).astype(np.float64)
        for g in group
    ) / len(group)
    weights = low_pass_weights(n, voxel_size=voxel_size, resolution=resolution)
    return shell_weighted(np.asarray(total), weights)
