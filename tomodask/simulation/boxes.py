"""Boxes that hold one particle each, at poses that are known, imaged and reconstructed one by one.

Each particle is turned and moved, projected at every tilt, imaged (lens, detector), given noise,
and back-projected into its box: all that a tomogram goes through, but for its neighbours.  The
boxes of a task lie side by side in the projection's rows, so that a batch costs little more than
its sums.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import scipy.fft
import xarray as xr
from dask.delayed import delayed
from scipy.spatial.transform import Rotation

from tomodask.arrays.fourier import half_counts
from tomodask.arrays.geometry import matrices_zyx
from tomodask.arrays.optics import ctf, delocalisation, image_frequencies, interaction_constant
from tomodask.arrays.projection import back_project, fine_rows, project
from tomodask.data.particles import with_orientations
from tomodask.data.subtomogram_table import batch_size, subtomogram_dataset
from tomodask.errors import InputError
from tomodask.reconstruction.weighting import angular_weights, ramp
from tomodask.simulation.crowds import crowded_subtomograms
from tomodask.simulation.density import structure_density
from tomodask.simulation.phantom import PHANTOMS, phantom_map
from tomodask.simulation.protocols import Protocol, protocol_with
from tomodask.simulation.splines import SplineDensity

__all__ = ["simulate_subtomograms"]

_EMPTY = "none"  # the kind of a box without a particle


def simulate_subtomograms(
    structures: Mapping[str, str | os.PathLike[str] | xr.DataArray | None],
    *,
    protocol: str | Protocol = "mbgd",
    seed: int = 0,
    batch: int | None = None,
    **changes: Any,
) -> xr.Dataset:
    """Boxes of single particles at random, known poses.  Lazy: made when they are computed.

    Parameters
    ----------
    structures : mapping
        Name of each kind → an atomic model or a map (see `structure_density`), a density in volts
        at half the voxel size of the boxes, ``"phantom"``, ``"phantom-decoy"``, or None for boxes
        without a particle.
    protocol : {"mbgd", "subdivision", "contrastive"} or Protocol
        The protocol of a paper, or one's own.
    seed : int
        Particle i of a kind draws from ``default_rng([seed, kind, i])``: the same bytes whatever
        the batch, the workers and the number of boxes.
    batch : int, optional
        Boxes that a task makes; by default as many as `extract_subtomograms` would put in a block.
    **changes
        Fields of the protocol to change, e.g. ``snr=0.01, tilt_range=(-40, 40)``.

    Returns
    -------
    Dataset, dims (particle, z, y, x)
        `subtomogram` and, along particle, ``kind``, ``class`` (from 1, in the order of
        `structures`), ``quat_*`` and ``shift_*`` (Å, of the particle from voxel ``box // 2``),
        ``tilt_min``, ``tilt_max``.  ``attrs["tilt_series"]`` holds what was measured, so that
        `align_subtomograms` and `average_subtomograms` know the contrast transfer.  Density is
        positive, as after inverting a tomogram.

    Raises
    ------
    InputError
        If a protocol or field is not known, a value makes no sense, or a particle and its shift
        do not fit into the box.

    Examples
    --------
    >>> boxes = simulate_subtomograms({"phantom": "phantom"}, protocol="mbgd", count=2)
    >>> boxes.subtomogram.shape, boxes.kind.values.tolist()
    ((2, 64, 64, 64), ['phantom', 'phantom'])
    """
    how = protocol_with(protocol, changes)
    if not structures:
        raise InputError("structures is empty; give at least one kind, e.g. {'phantom': 'phantom'}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed must be a whole number, at least 0, got {seed!r}")
    densities = {name: _density(source, how) for name, source in structures.items()}
    if how.crowding is not None:
        bare = [name for name, density in densities.items() if density is None]
        if bare:
            raise InputError(
                f"structures[{bare[0]!r}] is None: a crowded tomogram has no empty boxes; leave it "
                "out, or give crowding=None"
            )
        kinds_there = {name: one for name, one in densities.items() if one is not None}
        title = protocol if isinstance(protocol, str) else "boxes"
        return crowded_subtomograms(kinds_there, how, name=title, seed=int(seed))
    splines = [_spline(name, density, how) for name, density in densities.items()]
    table, turns = _poses(list(structures), splines, how, int(seed))
    plan = _Plan.of(how)
    if batch is None:
        batch = batch_size(len(table), how.box)
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    filled = [spline for spline in splines if spline is not None]
    empty = len(filled) < len(splines)
    typical = delayed(_typical_variance, pure=True)(filled, plan) if empty else 0.0
    kinds, numbers = table["class"].to_numpy() - 1, table["number"].to_numpy()
    matrices = matrices_zyx(turns)
    shifts = table[["shift_z", "shift_y", "shift_x"]].to_numpy()
    handed = [None if spline is None else delayed(spline, pure=True) for spline in splines]
    parts = []
    for start in range(0, len(table), batch):
        rows = slice(start, min(start + batch, len(table)))
        wanted = sorted(set(kinds[rows]))
        made = delayed(_make, pure=True)(
            {int(kind): handed[kind] for kind in wanted},
            kinds[rows],
            matrices[rows],
            shifts[rows],
            [(int(seed), int(kinds[i]), int(numbers[i])) for i in range(start, rows.stop)],
            plan,
            typical,
        )
        shape = (rows.stop - start, how.box, how.box, how.box)
        parts.append(da.from_delayed(made, shape, np.float32))
    name = protocol if isinstance(protocol, str) else "boxes"
    table = table.drop(columns="number").assign(tomogram=name)
    return subtomogram_dataset(
        da.concatenate(parts),
        table,
        voxel_size=how.voxel_size,
        attrs={"tilt_series": {name: plan.record()}, "seed": int(seed)},
    )


def _density(
    source: str | os.PathLike[str] | xr.DataArray | None, how: Protocol
) -> xr.DataArray | None:
    """A kind's density in volts at half the voxel size: fine enough to be turned."""
    if source is None:
        return None
    half = how.voxel_size / 2
    if isinstance(source, str) and source in PHANTOMS:
        return phantom_map(voxel_size=half, kind=PHANTOMS[source])
    if isinstance(source, xr.DataArray):
        size = source.attrs.get("voxel_size")
        if size is None:
            raise InputError(
                f"structures: the map {source.name!r} does not say its voxel size; set its "
                'attrs["voxel_size"], Å'
            )
        if math.isclose(size, half):
            return source
    return structure_density(source, voxel_size=half, resolution=how.resolution)


def _spline(name: str, density: xr.DataArray | None, how: Protocol) -> SplineDensity | None:
    """A kind's density, ready to be turned; refused where it may leave the box."""
    if density is None:
        return None
    spline = SplineDensity.of(density, voxel_size=how.voxel_size)
    # Of a box of n voxels, n // 2 lie before the centre and one less behind it.
    room = (how.box - how.box // 2 - 1) * how.voxel_size - how.shift_range
    reach = _reach(density)
    if reach > room:
        needed = 2 * math.ceil((reach + how.shift_range) / how.voxel_size) + 2
        raise InputError(
            f"{name} reaches {reach:.0f} Å from its centre and may be shifted by "
            f"{how.shift_range:g} Å, a box of {how.box} voxels of {how.voxel_size:g} Å holds "
            f"{(how.box - how.box // 2 - 1) * how.voxel_size:g} Å; take box={needed} or a smaller "
            "shift_range"
        )
    return spline


def _reach(density: xr.DataArray) -> float:
    """How far a density reaches from its centre: what has a twentieth of the highest voxel, Å."""
    values = np.asarray(density.values)
    if not values.max() > 0:
        raise InputError(
            f"{density.name or 'the density'}: no voxel is above 0; turn its contrast over first"
        )
    filled = np.argwhere(values > 0.05 * values.max()) - np.array(values.shape) // 2
    return float(np.linalg.norm(filled, axis=1).max() * density.attrs["voxel_size"])


def _poses(
    names: list[str], splines: list[SplineDensity | None], how: Protocol, seed: int
) -> tuple[pd.DataFrame, Rotation]:
    rows, turns = [], []
    for kind, name in enumerate(names):
        for number in range(how.count):
            rng = np.random.default_rng([seed, kind, number])
            turns.append(Rotation.random(rng=rng))
            shift = rng.uniform(-how.shift_range, how.shift_range, 3)
            rows.append((name if splines[kind] is not None else _EMPTY, kind + 1, number, *shift))
    columns = ["kind", "class", "number", "shift_z", "shift_y", "shift_x"]
    table = pd.DataFrame(rows, columns=columns)
    table["tilt_min"], table["tilt_max"] = how.angles.min(), how.angles.max()
    together = Rotation.concatenate(turns)
    return with_orientations(table, together), together


@dataclass(frozen=True)
class _Plan:
    """What all boxes share: the sizes of the images and their filters."""

    how: Protocol
    width: int
    height: int
    pad: int
    signal: np.ndarray  # (height, width // 2 + 1) of an image: lens and detector
    noise: np.ndarray | None  # of the noise; None where it is white
    weights: np.ndarray
    gain: float  # variance of the reconstructed noise / that of the images' noise before `noise`

    @classmethod
    def of(cls, how: Protocol) -> _Plan:
        scope, size = how.microscope, how.voxel_size
        reach = (
            delocalisation(
                size,
                voltage=scope.voltage,
                spherical_aberration=scope.spherical_aberration,
                defocus=scope.defocus,
            )
            if scope.ctf
            else 0.0
        )
        pad = math.ceil(reach / size) + 4
        # Wide enough for the corners of the box at any tilt, and for what the lens carries off.
        wide = 2 * (math.ceil(how.box / math.sqrt(2)) + 1) + 2 * pad
        width = scipy.fft.next_fast_len(wide + wide % 2, real=True)
        height = scipy.fft.next_fast_len(how.box + 2 * pad, real=True)
        width += width % 2
        ky, kx = image_frequencies((height, width), size)
        k = np.hypot(ky, kx)
        lens = np.ones_like(k)
        if scope.ctf:
            lens = ctf(ky, kx, **scope.lens, **scope.focus) * np.exp(-scope.b_factor * k**2 / 4)
            if how.phase_flip:
                lens = np.abs(lens)
        signal = (
            2 * interaction_constant(scope.voltage) * size * lens * how.detector.signal(k, size)
        )
        # White noise is left as it is drawn: its height is set by the SNR.
        colour = np.ones_like(k) if how.detector.white else how.detector.noise(k, size)
        weights = angular_weights(how.angles)
        # Back-projection reads images between pixels exactly, so a voxel's variance is the mean of
        # the filtered noise's spectrum.
        filtered = half_counts(width) * (ramp(np.fft.rfftfreq(width)) * colour) ** 2
        power = filtered.sum() / (height * width)
        return cls(
            how,
            width,
            height,
            pad,
            signal.astype(np.float32),
            None if how.detector.white else colour.astype(np.float32),
            weights,
            float((weights**2).sum() * power),
        )

    def record(self) -> dict[str, Any]:
        """Of the tilt series, as alignment and averaging read it."""
        how, scope = self.how, self.how.microscope
        record: dict[str, Any] = {
            "angle": how.angles.tolist(),
            "weight": self.weights.tolist(),
            "pixel_size": how.voxel_size,
            "phase_flipped": how.phase_flip,
            "dose_weighted": False,
            "method": "wbp",
        }
        if scope.ctf:
            record |= {key: [one] * len(how.angles) for key, one in scope.focus.items()}
            record |= scope.lens | {"handedness": scope.handedness}
        return record


def _images(densities: np.ndarray, plan: _Plan) -> np.ndarray:
    """Noise-free images (particles, tilts, box rows, width) of densities (particles, z, y, x)."""
    count, n = densities.shape[:2]
    rows = densities.transpose(1, 0, 2, 3).reshape(n, count * n, n)
    images = project(rows, plan.how.angles, width=plan.width)
    out = np.empty((count, len(images), n, plan.width), np.float32)
    for i in range(count):
        padded = np.zeros((len(images), plan.height, plan.width), np.float32)
        padded[:, plan.pad : plan.pad + n] = images[:, i * n : (i + 1) * n]
        spectrum = scipy.fft.rfft2(padded) * plan.signal
        filtered = scipy.fft.irfft2(spectrum, s=padded.shape[1:])
        out[i] = filtered[:, plan.pad : plan.pad + n]
    return out


def _noise(rng: np.random.Generator, plan: _Plan) -> np.ndarray:
    """Images of noise of variance 1 before the detector, (tilts, box rows, width)."""
    n, tilts = plan.how.box, len(plan.how.angles)
    if plan.noise is None:
        return rng.standard_normal((tilts, n, plan.width), dtype=np.float32)
    white = rng.standard_normal((tilts, plan.height, plan.width), dtype=np.float32)
    coloured = scipy.fft.irfft2(scipy.fft.rfft2(white) * plan.noise, s=white.shape[1:])
    return np.asarray(coloured[:, plan.pad : plan.pad + n])


def _reconstruct(images: np.ndarray, plan: _Plan) -> np.ndarray:
    """Boxes (particles, z, y, x) of images (particles, tilts, rows, width)."""
    count, tilts, n, width = images.shape
    rows = images.transpose(1, 0, 2, 3).reshape(tilts, count * n, width)
    along = np.arange(n) - n // 2
    fine = fine_rows(rows, response=ramp)
    volume = back_project(fine, plan.how.angles, along, along, weights=plan.weights)
    return np.ascontiguousarray(volume.reshape(n, count, n, n).transpose(1, 0, 2, 3))


def _typical_variance(splines: list[SplineDensity], plan: _Plan) -> float:
    """Mean variance of the kinds' noise-free boxes as they stand: for boxes without a particle."""
    if not splines:
        return 1.0
    boxes = np.stack(
        [
            one.box(
                plan.how.box,
                voxel_size=plan.how.voxel_size,
                matrix_zyx=np.eye(3),
                shift_zyx=np.zeros(3),
            )
            for one in splines
        ]
    )
    return float(_reconstruct(_images(boxes, plan), plan).var(axis=(1, 2, 3)).mean())


def _make(
    splines: Mapping[int, SplineDensity | None],
    kinds: np.ndarray,
    matrices: np.ndarray,
    shifts_zyx: np.ndarray,
    seeds: list[tuple[int, int, int]],
    plan: _Plan,
    typical: float,
) -> np.ndarray:
    """The boxes of a batch."""
    n = plan.how.box
    densities = np.zeros((len(kinds), n, n, n), np.float32)
    for i, kind in enumerate(kinds):
        spline = splines[int(kind)]
        if spline is not None:
            densities[i] = spline.box(
                n,
                voxel_size=plan.how.voxel_size,
                matrix_zyx=matrices[i],
                shift_zyx=shifts_zyx[i],
            )
    clean = _images(densities, plan)
    if math.isinf(plan.how.snr):
        return _reconstruct(clean, plan)
    # Noise has a generator of its own: the poses are the same with and without it.
    noise = np.stack([_noise(np.random.default_rng([*seed, 1]), plan) for seed in seeds])
    both = _reconstruct(np.concatenate([clean, noise]), plan)
    signal, grain = both[: len(kinds)], both[len(kinds) :]
    for i, kind in enumerate(kinds):
        power = typical if splines[int(kind)] is None else float(signal[i].var(dtype=np.float64))
        signal[i] += grain[i] * np.float32(math.sqrt(power / plan.how.snr / plan.gain))
    return signal
