"""First references of several classes, from particles whose poses are known but not their kinds.

At its pose each particle i is a weighted look at the reference's frame: data ``d_i(k)`` (the sum
of w · F over its equivalent poses) and weights ``W_i(k)`` (the sum of w²).  If it shows the map m,
then ``d_i = W_i m + noise of variance σ²(k) W_i``, so that the misfit

    E_i(m) = Σ_k |d_i − W_i m|² / (σ² W_i) = const − Σ_k (2 Re d_i* m − W_i |m|²) / σ²

is two matrix products for all particles and all maps: wedge and contrast transfer are in it, and
one round of k-means costs milliseconds.  A few hundred particles in a band of some hundred Fourier
voxels (the start's resolution) are divided so, many times from particles drawn as k-means++ does,
and the division of least misfit gives the first references, low-passed, for both half sets alike.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import scipy.ndimage
import xarray as xr
from dask.delayed import delayed

from tomodask.alignment.checks import box_fault
from tomodask.alignment.measurement import FINER, LEAST_WEIGHT, measurements
from tomodask.arrays.fourier import measured
from tomodask.arrays.geometry import matrices_zyx
from tomodask.arrays.sampling import cut_out, half_sphere, padded_spectrum, sample, soft_sphere
from tomodask.arrays.symmetry import symmetry_group
from tomodask.averaging.map_filters import from_half_sphere, low_pass_weights, shell_weighted
from tomodask.data.box_blocks import BoxBlocks, partition_edges
from tomodask.data.columns import QUATERNION, SHIFT
from tomodask.data.particles import orientations
from tomodask.data.subtomogram_table import batch_size, particle_table
from tomodask.data.subtomograms import chosen_boxes
from tomodask.errors import InputError
from tomodask.rounds.start import as_fine, coarse_boxes

__all__ = ["class_maps", "divided", "looks"]

_TRIES = 20
_ROUNDS = 60
_LEAST_WEDGE = 0.2  # less, at a wedge's edge, holds more leakage than particle
_SHARE = 0.1  # of the mean weight of a shell, added to each (Wiener)


def class_maps(
    subtomograms: xr.Dataset,
    poses: pd.DataFrame,
    classes: int,
    *,
    resolution: float,
    symmetry: str = "C1",
    tilt_range: tuple[float, float] | None = None,
    particles: int = 1000,
    seed: int = 0,
    compute: Callable[..., Any],
) -> tuple[np.ndarray, np.ndarray]:
    """First references of classes.  Computes.

    Parameters
    ----------
    subtomograms : Dataset
    poses : DataFrame
        Row by row those of the boxes; rows without a pose are left out.
    classes : int
    resolution : float
        Finest detail looked at and shown, Å.
    symmetry : str
        Of the poses' reference.
    tilt_range : (float, float), optional
        As of `align_subtomograms`.
    particles : int
        Looked at, drawn by the seed; all if there are fewer.
    seed : int
    compute : callable
        ``compute(delayed, label=…)``.

    Returns
    -------
    maps : array of float32, shape (classes, n, n, n)
        The largest class first.
    sizes : array of int, shape (classes,)
        Particles that each was made of.

    Raises
    ------
    InputError
        If there are not two particles a class.
    """
    known = np.flatnonzero(poses[list(QUATERNION)].notna().all(axis=1).to_numpy())
    if len(known) < 2 * classes:
        raise InputError(f"{classes} classes need {2 * classes} particles, got {len(known)}")
    rng = np.random.default_rng([seed, 2])
    rows = np.sort(rng.permutation(known)[: max(particles, 2 * classes)])
    small = coarse_boxes(chosen_boxes(subtomograms, rows), resolution)
    n, edge = int(subtomograms.sizes["x"]), int(small.sizes["x"])
    voxel_size = float(small.attrs["voxel_size"])
    k = half_sphere(min(edge * voxel_size / resolution + 2, edge / 2 - 1))
    data, weight = compute(
        looks(small, poses.iloc[rows], k, symmetry=symmetry, tilt_range=tilt_range),
        label="looks at the classes",
    )
    shell = np.rint(np.linalg.norm(k, axis=1)).astype(np.intp)
    band = shell <= edge * voxel_size / resolution
    which = divided(data[:, band], weight[:, band], shell[band], classes, rng=rng)
    sizes = np.bincount(which, minlength=classes)
    member = np.eye(classes)[which]
    values = _means(data.astype(np.complex128), weight.astype(float), member, shell)
    low = low_pass_weights(edge, voxel_size=voxel_size, resolution=resolution)
    order = np.argsort(-sizes, kind="stable")
    maps = [as_fine(shell_weighted(from_half_sphere(values[c], k, edge), low), n) for c in order]
    return np.stack(maps), sizes[order]


def looks(
    subtomograms: xr.Dataset,
    poses: pd.DataFrame,
    frequencies: np.ndarray,
    *,
    symmetry: str = "C1",
    tilt_range: tuple[float, float] | None = None,
) -> Any:
    """What each particle shows of the reference's frame, without any sum over particles.

    Parameters
    ----------
    subtomograms, symmetry, tilt_range
        As of `class_maps`.
    poses : DataFrame
        Row by row those of the boxes.
    frequencies : array, shape (count, 3)
        Of the reference's frame, (z, y, x) in Fourier voxels.

    Returns
    -------
    Delayed of (array of complex64, array of float32), shape (particles, count)
        d and W.
    """
    boxes = subtomograms["subtomogram"]
    n, voxel_size = int(boxes.shape[-1]), float(subtomograms.attrs["voxel_size"])
    table = particle_table(subtomograms)
    kind, kinds = measurements(table, subtomograms.attrs, tilt_range)
    volumes = [
        None
        if one.record is None
        else delayed(type(one).volume, pure=True)(one, box=n, voxel_size=voxel_size)
        for one in kinds
    ]
    matrices = matrices_zyx(orientations(poses))
    group = matrices_zyx(symmetry_group(symmetry))
    shifts = poses[list(SHIFT)].fillna(0.0).to_numpy(float) / voxel_size
    size = batch_size(len(table), n)
    blocks = BoxBlocks(boxes, size)
    edges = partition_edges(blocks.chunks, size)
    parts = []
    for block, edge in zip(blocks.joined(edges), pairwise(edges.tolist()), strict=True):
        here = slice(*edge)
        mine, place = np.unique(kind[here], return_inverse=True)
        parts.append(
            delayed(_look, pure=True)(
                block, matrices[here], shifts[here], place.ravel(),
                [volumes[one] for one in mine], [kinds[one].tilt_range for one in mine],
                group, frequencies,
            )
        )  # fmt: skip
    return delayed(_joined)(parts)


def _look(
    boxes: np.ndarray,
    matrices: np.ndarray,
    shifts_zyx: np.ndarray,
    kind: np.ndarray,
    volumes: list[np.ndarray | None],
    tilt_ranges: list[tuple[float, float]],
    group: np.ndarray,
    frequencies: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    n, radius = boxes.shape[-1], float(np.linalg.norm(frequencies, axis=1).max())
    sphere = soft_sphere(n, n / 2 - 2, edge=2.0)
    data = np.zeros((len(boxes), len(frequencies)), np.complex64)
    weight = np.zeros((len(boxes), len(frequencies)), np.float32)
    for i, box in enumerate(boxes):
        if box_fault(box):
            continue  # it has no weight, and no say
        spectrum = padded_spectrum(cut_out(np.asarray(box, np.float32), sphere), radius=radius)
        volume, tilts = volumes[kind[i]], tilt_ranges[kind[i]]
        for g in group:
            turn = matrices[i] @ g
            k = frequencies @ turn.T
            w = _weights(k, volume, tilts)
            values = sample(spectrum, frequencies, turn)
            data[i] += w * values * np.exp(2j * np.pi / n * (k @ shifts_zyx[i]))
            weight[i] += w**2
    return data, weight


def _weights(
    k: np.ndarray, volume: np.ndarray | None, tilt_range: tuple[float, float]
) -> np.ndarray:
    """What was measured at frequencies (z, y, x) between a box's own."""
    if volume is None:
        # At a wedge's edge the spectrum of the box falls off between its voxels, and so must this.
        z, x = np.floor(k[:, 0]), np.floor(k[:, 2])
        az, ax = k[:, 0] - z, k[:, 2] - x
        w = np.zeros(len(k), np.float32)
        for dz, pz in ((0, 1 - az), (1, az)):
            for dx, px in ((0, 1 - ax), (1, ax)):
                w += (pz * px * measured(z + dz, x + dx, tilt_range)).astype(np.float32)
        return np.where(w < _LEAST_WEDGE, np.float32(0), w)
    m = volume.shape[2] - 1
    folded = np.where(k[:, 2:] < 0, -k, k) * FINER + [m, m, 0]
    w = scipy.ndimage.map_coordinates(volume, folded.T, order=1)
    return np.where(np.abs(w) < LEAST_WEIGHT, np.float32(0), w)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])


def divided(
    data: np.ndarray,
    weight: np.ndarray,
    shell: np.ndarray,
    classes: int,
    *,
    rng: np.random.Generator,
    tries: int = _TRIES,
) -> np.ndarray:
    """Divide particles so that each class's mean explains its particles best.

    Parameters
    ----------
    data : array of complex, shape (particles, frequencies)
    weight : array, shape (particles, frequencies)
        d and W, see above.
    shell : array of int, shape (frequencies,)
    classes : int
    rng : numpy.random.Generator
    tries : int
        Starts; the division of least misfit is taken.

    Returns
    -------
    array of intp, shape (particles,)
        From 0.  A class may be empty where there are fewer kinds.
    """
    if classes == 1:
        return np.zeros(len(data), np.intp)
    d, w = np.asarray(data, np.complex128), np.asarray(weight, np.float64)
    mean = _means(d, w, np.ones((len(d), 1)), shell)[0]
    rest = d - w * mean
    held = np.divide(np.abs(rest) ** 2, w, out=np.zeros_like(w), where=w > 0)
    count = np.maximum(np.bincount(shell, (w > 0).sum(0)), 1)
    noise = np.bincount(shell, held.sum(0)) / count
    scale = np.sqrt(1 / np.maximum(noise, 1e-12 * noise.max()))[shell]
    # In units of the noise; the mean, which is no help in telling classes apart, is taken out.
    d, best = rest * scale, (np.inf, np.zeros(len(d), np.intp))
    for _ in range(tries):
        m = _first_means(d, w, classes, shell, rng)
        which = np.full(len(d), -1)
        for _ in range(_ROUNDS):
            misfit = _misfit(d, w, m)
            now = misfit.argmin(1)
            if (now == which).all():
                break
            which = now
            m = _means(d, w, np.eye(classes)[which], shell)
        total = float(_misfit(d, w, m)[np.arange(len(d)), which].sum())
        if total < best[0]:
            best = (total, which)
    return np.asarray(best[1], np.intp)


def _means(d: np.ndarray, w: np.ndarray, member: np.ndarray, shell: np.ndarray) -> np.ndarray:
    """Σ d / (Σ W + a tenth of the mean weight of a particle in the shell), a row a class."""
    data, weight = member.T @ d, member.T @ w
    typical = np.bincount(shell, w.mean(0)) / np.maximum(np.bincount(shell), 1)
    return np.asarray(data / (weight + _SHARE * typical[shell] + 1e-30))


def _misfit(d: np.ndarray, w: np.ndarray, m: np.ndarray) -> np.ndarray:
    """E of each particle with each map, without what does not depend on the map."""
    return np.asarray(w @ (np.abs(m) ** 2).T - 2 * (d @ m.conj().T).real)


def _first_means(
    d: np.ndarray, w: np.ndarray, classes: int, shell: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Single particles, Wiener-filtered: each drawn by how badly those before it explain it."""
    typical = np.bincount(shell, w.mean(0)) / np.maximum(np.bincount(shell), 1)
    own = d / (w + typical[shell] + 1e-30)
    chosen = [int(rng.integers(len(d)))]
    for _ in range(classes - 1):
        gain = -np.minimum(_misfit(d, w, own[chosen]).min(1), 0.0)
        worst = gain.max() - gain + 1e-12
        chosen.append(int(rng.choice(len(d), p=worst / worst.sum())))
    return np.asarray(own[chosen])
