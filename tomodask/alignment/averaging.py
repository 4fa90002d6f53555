"""The average of aligned subtomograms and its two halves: one tree of sums.

Each subtomogram's spectrum is turned into the reference's frame and added with the weight ``w`` of
its wedge; beside the sum stands that of ``w²``, and the one over the other is the least-squares
average (the spectrum of a box holds ``w`` times the particle's).  Between a measured and a missing
Fourier voxel of the box the spectrum falls off, and `w` falls with it: a sharp wedge would make the
average too weak at its edges.  A frequency that no particle measured stays empty.

Where the boxes carry the record of their tilt series, `w` is what it says (wedge, contrast
transfer, damage; see `tomodask.arrays.tilt_weights`), and the sum of ``w²`` may come near zero
where the contrast of all particles crosses it.  A tenth of its mean over the shell is added to it
there as everywhere, as Wiener's filter would, and the whole multiplied by 1.1, so that a frequency
of mean weight keeps its height.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from pathlib import PurePath
from typing import Any

import dask.bag as db
import numba
import numpy as np
import pandas as pd
import scipy.fft
import xarray as xr
from dask.delayed import Delayed, delayed

from tomodask.alignment.batches import batches
from tomodask.alignment.checks import check_box
from tomodask.alignment.fsc import fsc
from tomodask.alignment.measurement import FINER, LEAST_WEIGHT, Measurement, measurements
from tomodask.arrays.fourier import measured
from tomodask.arrays.geometry import matrices_zyx
from tomodask.arrays.sampling import cut_out, half_sphere, padded_spectrum, soft_sphere, trilinear
from tomodask.data.particles import orientations
from tomodask.data.subtomogram_table import batch_size, particle_table
from tomodask.errors import InputError

__all__ = ["Average", "HalfSums", "average_subtomograms", "match_poses"]


_LEAST_WEIGHT = 0.2  # below, a Fourier voxel at a wedge's edge holds more leakage than particle
_SHARE = 0.1  # of the mean weight of a shell, added to each weight where records are known


@dataclass(frozen=True)
class Average:
    """The average of subtomograms, in the reference's frame.

    Attributes
    ----------
    average, half_1, half_2 : array of float32, shape (n, n, n)
        Centre at voxel ``n // 2``.
    voxel_size : float
        Å.
    particles : (int, int)
        In each half.
    coverage : float
        Share of the Fourier voxels that at least one particle measured.
    """

    average: np.ndarray
    half_1: np.ndarray
    half_2: np.ndarray
    voxel_size: float
    particles: tuple[int, int]
    coverage: float

    def fsc(self, *, diameter: float | None = None) -> pd.DataFrame:
        """Fourier shell correlation of the halves, see `tomodask.fsc`."""
        return fsc(self.half_1, self.half_2, voxel_size=self.voxel_size, diameter=diameter)


@dataclass(frozen=True)
class HalfSums:
    """Sums over particles, one row for each half; adding two is associative.

    Attributes
    ----------
    data : array of complex128, shape (2, count)
    weight : array of float64, shape (2, count)
    particles : array of int64, shape (2,)
    """

    data: np.ndarray
    weight: np.ndarray
    particles: np.ndarray

    def merge(self, other: HalfSums) -> HalfSums:
        """The sums over both sets of particles."""
        return HalfSums(
            self.data + other.data,
            self.weight + other.weight,
            self.particles + other.particles,
        )


def average_subtomograms(
    subtomograms: xr.Dataset,
    *,
    poses: pd.DataFrame | None = None,
    tilt_range: tuple[float, float] | None = None,
    batch: int | None = None,
    split_every: int = 8,
) -> Delayed:
    """Average subtomograms at their poses, with the missing wedge weighed out.

    Parameters
    ----------
    subtomograms : Dataset
        From `extract_subtomograms` or `open_subtomograms`; cubic boxes.
    poses : DataFrame, optional
        ``quat_*`` and, where known, ``shift_*`` and ``half``: as many rows as there are boxes, in
        their order, or with the boxes' names in ``image``.  By default the poses that the boxes
        carry.
    tilt_range : (float, float), optional
        Degrees, in place of what the boxes carry: the record of the tilt series that each particle
        is of, else its ``tilt_min``, ``tilt_max``.
    batch : int, optional
        Particles that a task sums; by default two of `batch_size`.
    split_every : int
        Sums that one task of the reduction takes.

    Returns
    -------
    Delayed of Average
        Halves by the column ``half``, else particles in turn.  Nothing is computed before
        ``.compute()``.

    Raises
    ------
    InputError
        If poses are missing or do not match the boxes, the tilt range is missing, the record of a
        tilt series is damaged, or a half is empty.
    """
    boxes = subtomograms["subtomogram"]
    n, voxel_size = int(boxes.shape[-1]), float(subtomograms.attrs["voxel_size"])
    table = match_poses(particle_table(subtomograms), poses)
    if len(table) < 2:
        raise InputError(f"two halves need at least 2 particles, got {len(table)}")
    half = table["half"].to_numpy(int) - 1 if "half" in table else np.arange(len(table)) % 2
    if not set(half) == {0, 1}:
        raise InputError(f"half must be 1 or 2 with both present, got {sorted(set(half + 1))}")
    if batch is None:
        batch = 2 * batch_size(len(table), n)
    if batch < 1 or split_every < 2:
        raise InputError(f"need batch ≥ 1 and split_every ≥ 2, got {batch=}, {split_every=}")
    matrices = matrices_zyx(orientations(table))
    columns = ["shift_z", "shift_y", "shift_x"]
    shifts = (
        table[columns].fillna(0.0).to_numpy(float) / voxel_size
        if set(columns) <= set(table)
        else np.zeros((len(table), 3))
    )
    kind, kinds = measurements(table, subtomograms.attrs, tilt_range)
    lookups = [_lookup(one, n, voxel_size) for one in kinds]
    images = table.get("image", table.index)
    names, identities = np.asarray(images.astype(str)), np.asarray(table.index, np.int64)
    parts = []
    for number, block in enumerate(batches(boxes, np.arange(len(table)), batch)):
        rows = slice(number * batch, (number + 1) * batch)
        mine, place = np.unique(kind[rows], return_inverse=True)
        parts.append(
            delayed(average, pure=True)(
                block,
                matrices[rows],
                shifts[rows],
                place,
                [lookups[one] for one in mine],
                half[rows],
                identities[rows],
                names[rows],
            )
        )
    total = db.from_delayed(parts).reduction(_merge, _merge, split_every=split_every)
    share = _SHARE if any(one.record is not None for one in kinds) else 0.0
    return delayed(_finish, pure=True)(total.to_delayed(), n, voxel_size, share)


def match_poses(table: pd.DataFrame, poses: pd.DataFrame | None) -> pd.DataFrame:
    """The particle table of some boxes with the poses of another table.

    Rows are matched by ``image`` where both have it: by the whole name, or by file name and index
    alone where folders differ (``0@a/boxes.zarr`` and ``0@boxes.zarr``) and these are unique.
    Where one of the two has no names, a table whose index is called ``particle``, as
    `align_subtomograms` returns it, is matched by that; any other by its order.

    Raises
    ------
    InputError
        If there are no poses, they do not name all boxes, there are not as many, or the boxes are
        not in the order of the table that they were cut by, so that rows would be mixed up.
    """
    if poses is None:
        poses = table
    elif {"image"} <= set(table) & set(poses):
        poses = _by_image(table["image"].astype(str), poses)
    elif poses.index.name == "particle" and poses.index.is_unique:
        missing_rows = table.index.difference(poses.index)
        if len(missing_rows):
            raise InputError(f"poses have no row for particle {missing_rows[0]}; give them all")
        poses = poses.loc[table.index]
    elif len(poses) != len(table):
        raise InputError(
            f"poses have {len(poses)} rows for {len(table)} boxes and no images to tell which is "
            "which; give the table that belongs to these boxes"
        )
    elif not table.index.is_monotonic_increasing:
        raise InputError(
            "extraction put the boxes in an order of their own (by place), and the poses do not "
            "say which is which; sort them, subtomograms.sortby('particle'), or give the poses "
            "an index called 'particle' (the row of the table that was extracted)"
        )
    need = ["quat_x", "quat_y", "quat_z", "quat_w"]
    missing = [name for name in need if name not in poses]
    if missing or poses[need].isna().to_numpy().any():
        raise InputError(
            f"poses lack orientations ({', '.join(missing) or 'some are empty'}); align the "
            "subtomograms first: tomodask align SUBTOMOGRAMS --reference MAP -o POSES.star"
        )
    taken = [*need, *(c for c in ("shift_z", "shift_y", "shift_x", "half") if c in poses)]
    return table.assign(**{name: poses[name].to_numpy() for name in taken})


def _by_image(images: pd.Series, poses: pd.DataFrame) -> pd.DataFrame:
    """The rows of `poses` that name `images`, in their order."""
    theirs = poses["image"].astype(str)
    for key in (str, _file_and_index):
        wanted, known = images.map(key), theirs.map(key)
        if known.is_unique and wanted.is_unique and set(wanted) <= set(known):
            return poses.set_index(pd.Index(known)).loc[wanted]
    raise InputError(
        f"the poses do not name each box once: the boxes are {images.iloc[0]} …, the poses name "
        f"{theirs.iloc[0] if len(theirs) else 'nothing'} …; give the table that belongs to these "
        "boxes, or drop its column of images to take its rows in order"
    )


def _file_and_index(image: str) -> str:
    """``3@some/where/boxes.zarr`` → ``3@boxes.zarr``."""
    index, at, path = image.rpartition("@")
    return index + at + PurePath(path).name


def average(
    boxes: np.ndarray,
    matrices: np.ndarray,
    shifts_zyx: np.ndarray,
    kind: np.ndarray,
    lookups: list[np.ndarray],
    half: np.ndarray,
    identities: np.ndarray,
    names: np.ndarray,
) -> list[HalfSums]:
    """Sums over a batch of boxes (the task ``average``).

    Parameters
    ----------
    boxes : array, shape (count, n, n, n)
    matrices : array, shape (count, 3, 3)
        Reference → particle, acting on (z, y, x) columns.
    shifts_zyx : array, shape (count, 3)
        Of the particles from the boxes' centres, voxels.
    kind : array of int, shape (count,)
        Which of `lookups` is the particle's.
    lookups : list of array
        What was measured: `_wedge_plane`, or `Measurement.volume`.
    half : array of int, shape (count,)
        0 or 1.
    identities, names : array, shape (count,)
        What a box that cannot be averaged is called by.

    Raises
    ------
    InputError
        If a box is not finite, or nothing but one value.
    """
    n = boxes.shape[-1]
    frequencies = half_sphere(n / 2 - 0.5)
    # What lies outside the inscribed sphere would come back at the opposite face when turned.
    sphere = soft_sphere(n, n / 2 - 2, edge=2.0)
    data = np.zeros((2, len(frequencies)), np.complex128)
    weight = np.zeros((2, len(frequencies)))
    for i, box in enumerate(boxes):
        inside = cut_out(check_box(box, int(identities[i]), str(names[i])), sphere)
        spectrum = padded_spectrum(inside, radius=n / 2 - 0.5)
        lookup = lookups[kind[i]]
        add = _add if lookup.ndim == 2 else _add_weighted
        add(
            spectrum.values,
            np.float32(spectrum.padding),
            frequencies,
            matrices[i].astype(np.float32),
            (2 * np.pi / n * shifts_zyx[i]).astype(np.float32),
            lookup,
            data[half[i]],
            weight[half[i]],
        )
    return [HalfSums(data, weight, np.bincount(half, minlength=2))]


def _lookup(measurement: Measurement, n: int, voxel_size: float) -> Any:
    """What `average` looks weights up in; of a record lazy: it takes a second and is large."""
    if measurement.record is None:
        return _wedge_plane(n, measurement.tilt_range)
    return delayed(Measurement.volume, pure=True)(measurement, box=n, voxel_size=voxel_size)


def _wedge_plane(n: int, tilt_range: tuple[float, float]) -> np.ndarray:
    """1 where a box's Fourier voxels (z, x) were measured; z from -m to m, x from 0, with a rim."""
    m = n // 2 + 2
    z, x = np.arange(-m, m + 1)[:, None], np.arange(m + 1)
    return measured(z, x, tilt_range).astype(np.float32)


@numba.njit(cache=True, fastmath=True, nogil=True)
def _add(values, padding, frequencies, matrix, phase, wedge, data, weight):  # type: ignore[no-untyped-def]
    """Add one particle where it was measured, turned back and moved back."""
    rim = wedge.shape[1] - 1
    for j in range(frequencies.shape[0]):
        kz, ky, kx = frequencies[j, 0], frequencies[j, 1], frequencies[j, 2]
        z = matrix[0, 0] * kz + matrix[0, 1] * ky + matrix[0, 2] * kx
        y = matrix[1, 0] * kz + matrix[1, 1] * ky + matrix[1, 2] * kx
        x = matrix[2, 0] * kz + matrix[2, 1] * ky + matrix[2, 2] * kx
        beam, across = (z, x) if x >= 0 else (-z, -x)
        floor = np.floor(beam)
        iz, ix = int(floor) + rim, int(across)
        az, ax = beam - floor, across - ix
        w = (1 - az) * ((1 - ax) * wedge[iz, ix] + ax * wedge[iz, ix + 1]) + az * (
            (1 - ax) * wedge[iz + 1, ix] + ax * wedge[iz + 1, ix + 1]
        )
        if w < _LEAST_WEIGHT:
            continue
        re, im, _, _, _, _, _, _ = trilinear(values, padding * z, padding * y, padding * x)
        angle = phase[0] * z + phase[1] * y + phase[2] * x
        data[j] += w * complex(re, im) * complex(np.cos(angle), np.sin(angle))
        weight[j] += w * w


@numba.njit(cache=True, fastmath=True, nogil=True)
def _add_weighted(values, padding, frequencies, matrix, phase, volume, data, weight):  # type: ignore[no-untyped-def]
    """`_add` with the weights of a tilt series, looked up trilinearly."""
    rim = volume.shape[2] - 1
    for j in range(frequencies.shape[0]):
        kz, ky, kx = frequencies[j, 0], frequencies[j, 1], frequencies[j, 2]
        z = matrix[0, 0] * kz + matrix[0, 1] * ky + matrix[0, 2] * kx
        y = matrix[1, 0] * kz + matrix[1, 1] * ky + matrix[1, 2] * kx
        x = matrix[2, 0] * kz + matrix[2, 1] * ky + matrix[2, 2] * kx
        sign = FINER if x >= 0 else -FINER
        beam, axis, across = sign * z, sign * y, sign * x
        floor, level = np.floor(beam), np.floor(axis)
        iz, iy, ix = int(floor) + rim, int(level) + rim, int(across)
        az, ay, ax = beam - floor, axis - level, across - ix
        near = (1 - ay) * ((1 - ax) * volume[iz, iy, ix] + ax * volume[iz, iy, ix + 1]) + ay * (
            (1 - ax) * volume[iz, iy + 1, ix] + ax * volume[iz, iy + 1, ix + 1]
        )
        far = (1 - ay) * (
            (1 - ax) * volume[iz + 1, iy, ix] + ax * volume[iz + 1, iy, ix + 1]
        ) + ay * ((1 - ax) * volume[iz + 1, iy + 1, ix] + ax * volume[iz + 1, iy + 1, ix + 1])
        w = (1 - az) * near + az * far
        if abs(w) < LEAST_WEIGHT:
            continue
        re, im, _, _, _, _, _, _ = trilinear(values, padding * z, padding * y, padding * x)
        angle = phase[0] * z + phase[1] * y + phase[2] * x
        data[j] += w * complex(re, im) * complex(np.cos(angle), np.sin(angle))
        weight[j] += w * w


def _merge(parts: Any) -> HalfSums:
    total: HalfSums = reduce(HalfSums.merge, parts)
    return total


def _finish(sums: HalfSums, n: int, voxel_size: float, share: float) -> Average:
    both = sums.data.sum(0), sums.weight.sum(0)
    return Average(
        _volume(*both, n, share),
        _volume(sums.data[0], sums.weight[0], n, share),
        _volume(sums.data[1], sums.weight[1], n, share),
        voxel_size,
        (int(sums.particles[0]), int(sums.particles[1])),
        float((both[1] > 0).mean()),
    )


def _volume(data: np.ndarray, weight: np.ndarray, n: int, share: float) -> np.ndarray:
    """The box of a weighted sum over half a sphere of frequencies."""
    k = half_sphere(n / 2 - 0.5).astype(np.intp)
    if share:
        shell = np.rint(np.linalg.norm(k, axis=1)).astype(np.intp)
        seen = np.maximum(np.bincount(shell, weight > 0), 1)
        mean = (np.bincount(shell, weight) / seen)[shell]
        data, weight = data * (1 + share), np.where(weight > 0, weight + share * mean, 0)
    values = np.divide(data, weight, out=np.zeros_like(data), where=weight > 0)
    values *= np.exp(-2j * np.pi * (n // 2) / n * k.sum(1))  # from the centre to the corner
    spectrum = np.zeros((n, n, n // 2 + 1), np.complex128)
    spectrum[k[:, 0], k[:, 1], k[:, 2]] = values
    plane = k[:, 2] == 0  # the other half of the plane that rfftn keeps whole
    spectrum[-k[plane, 0], -k[plane, 1], 0] = values[plane].conj()
    return np.asarray(scipy.fft.irfftn(spectrum, s=(n, n, n)), np.float32)
