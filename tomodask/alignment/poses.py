"""Poses of many subtomograms: what is asked is checked here, the graph in `candidate_bag`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed, delayed
from scipy.spatial.transform import Rotation

from tomodask.alignment.batches import BatchFolder
from tomodask.alignment.candidate_bag import (
    Particles,
    batch_name,
    best_of,
    candidate_bag,
    noise_layer,
    plan_layer,
)
from tomodask.alignment.checks import check_alignment
from tomodask.alignment.measurement import measurements
from tomodask.alignment.noise import known_by_shell
from tomodask.alignment.particle import POSE, best_poses
from tomodask.alignment.pose_matching import match_poses
from tomodask.alignment.pose_table import QUATERNION, SHIFT_XYZ, pose_table
from tomodask.alignment.references import check_mask, check_references, warn_of_references
from tomodask.data.box_blocks import BoxBlocks, partition_edges
from tomodask.data.subtomogram_table import batch_size, particle_table
from tomodask.errors import InputError

__all__ = ["align_subtomograms", "check_alignment"]


def align_subtomograms(
    subtomograms: xr.Dataset,
    reference: xr.DataArray | Sequence[xr.DataArray],
    *,
    poses: pd.DataFrame | None = None,
    tilt_range: tuple[float, float] | None = None,
    angular_step: float = 20.0,
    shift_range: float | None = None,
    resolution: float | None = None,
    coarsest: float | None = None,
    diameter: float | None = None,
    mask: xr.DataArray | None = None,
    symmetry: str = "C1",
    local: float | None = None,
    whiten: bool = False,
    fsc: pd.DataFrame | None = None,
    method: str = "fourier",
    candidates: int = 6,
    keep: str = "best",
    seed: int = 0,
    batch: int | None = None,
    split_every: int = 8,
    checkpoint: str | Path | None = None,
    quiet: bool = False,
) -> Delayed:
    """Find the pose of each subtomogram: global search, then refinement of the best candidates.

    Parameters
    ----------
    subtomograms : Dataset
        From `extract_subtomograms` or `open_subtomograms`; cubic boxes.
    reference : DataArray, shape of a box, or a sequence of them
        Same voxel size and contrast as the boxes; its centre is voxel ``size // 2``.  Each particle
        is aligned to each of several, in one band, so that their scores can be compared.
    poses : DataFrame, optional
        For a local search: ``quat_*`` and, where known, ``shift_*``, matched to the boxes as
        `average_subtomograms` does.  By default the poses that the boxes carry.
    tilt_range : (float, float), optional
        Least and largest tilt, degrees, in place of what the boxes carry: the record of the tilt
        series that each particle is of, else its ``tilt_min``, ``tilt_max``.
    angular_step : float
        Of the search grid, degrees.
    shift_range : float, optional
        How far a particle may lie from the centre of its box along each axis, Å: no pose is
        farther off.  By default a tenth of the box's edge.  In a local search, from the given
        shift; by default a twentieth.
    resolution : float, optional
        The finest detail to align by, Å.  By default where 99.5 % of the reference's
        information on the rotation is within; give it where the reference is noisy.
    coarsest : float, optional
        The coarsest detail to align by, Å; by default all.
    diameter : float, optional
        Of the soft sphere that cuts the reference out, Å; by default it touches the box.
    mask : DataArray, shape of a box, optional
        In place of the sphere: 1 on the particle, 0 off it, soft between.
    symmetry : str
        Point group of the references, ``C1`` … ``I``, main axis along z.  Of the rotations the
        asymmetric unit is searched; of equivalent poses the one of the least turn is given.
    local : float, optional
        Degrees: only rotations within so much of the given ones are searched, on a grid of
        `angular_step`, and shifts within `shift_range`; refinement may end half a step outside.
        0 refines the given poses.
    whiten : bool
        Divide data and references by the amplitude of the noise in each shell, as measured in the
        boxes outside of the particle.
    fsc : DataFrame, optional
        Of `fsc`, between the halves of the reference: shells count by what it is known to, see
        `tomodask.alignment.noise`.
    method : {"fourier", "mbgd", "lm"}
        How candidates are refined: mini-batches of Fourier voxels; the paper's mini-batches of
        slabs; or Levenberg–Marquardt on the whole box (Xu & Alber 2012).
    candidates : int
        Poses that are refined for each particle and reference; a local search takes at most 3.
    keep : {"best", "all"}
        One row a particle, of the reference that fits best, or one for each reference.
    seed : int
        Together with the particle's number it draws the order of the mini-batches.
    batch : int, optional
        Particles in a partition of the bag.  By default whole blocks of the boxes, as many as
        `batch_size` allows: then none is read for two partitions.
    split_every : int
        Partitions that one task of the reduction takes.
    checkpoint : path, optional
        A folder that keeps each finished batch; the same call goes on there.
    quiet : bool
        Do not log which particles are set aside (a worker would, out of the caller's sight), nor
        what looks odd about references.

    Returns
    -------
    Delayed of DataFrame
        The particle table in the order of `subtomograms`, with ``quat_*`` (reference →
        particle), ``shift_*`` (Å, of the particle from the box's centre) and ``score``, the
        constrained correlation over the measured Fourier voxels of the last band.  Of several
        references also ``class`` (from 1) and ``score_1``, ``score_2`` …  A particle whose box
        cannot be aligned has no pose and no score, but a ``reason``, a column that is there only
        then.  Nothing is computed before ``.compute()``.

    Raises
    ------
    InputError
        If box and reference differ in size or voxel size, a reference is empty, the tilt range is
        missing, the record of a tilt series is damaged, a length is out of range, or a local
        search has no poses.

    Notes
    -----
    The chunks, the workers and the batches do not change a pose.  See `tomodask.alignment.search`
    and `tomodask.alignment.refinement` for the method.  With a record, the reference is compared as
    the series would have shown it: times its weights of wedge, contrast transfer and damage
    (`tomodask.arrays.tilt_weights`), at the frequencies where these reach 0.05.
    """
    boxes = subtomograms["subtomogram"]
    n, voxel_size = int(boxes.shape[-1]), float(subtomograms.attrs["voxel_size"])
    table = particle_table(subtomograms)
    maps = [reference] if isinstance(reference, xr.DataArray) else list(reference)
    classes = 0 if isinstance(reference, xr.DataArray) else len(maps)
    volumes = check_references(maps, shape=boxes.shape, voxel_size=voxel_size)
    check_alignment(
        box=n,
        voxel_size=voxel_size,
        angular_step=angular_step,
        shift_range=shift_range,
        resolution=resolution,
        diameter=diameter,
        candidates=candidates,
        seed=seed,
        batch=1 if batch is None else batch,
        split_every=split_every,
        coarsest=coarsest,
        local=local,
        keep=keep,
        method=method,
    )
    if not len(table):
        raise InputError("subtomograms hold no particle; pick and extract some first")
    edge = n * voxel_size
    share = 0.1 if local is None else 0.05
    mask_radius = None if diameter is None else diameter / 2 / voxel_size
    cut = check_mask(mask, volumes, diameter=diameter)
    settings: dict[str, Any] = {
        "angular_step": float(angular_step),
        "shift_range": (share * edge if shift_range is None else shift_range) / voxel_size,
        "radius": None if resolution is None else edge / resolution,
        "coarsest": None if coarsest is None else edge / coarsest,
        "mask_radius": mask_radius,
        "mask": cut,
        "symmetry": symmetry.upper(),
        "local": None if local is None else float(local),
        "method": method,
        "known": None if fsc is None else known_by_shell(fsc, box=n, voxel_size=voxel_size),
    }
    if not quiet:
        warn_of_references(
            volumes,
            voxel_size=voxel_size,
            mask_radius=mask_radius,
            mask=cut,
            symmetry=symmetry,
            angular_step=angular_step,
        )
    kind, kinds = measurements(table, subtomograms.attrs, tilt_range)
    table, given = _given_poses(table, poses, local, voxel_size)

    images = table["image"].astype(str) if "image" in table else table.index.astype(str)
    names = np.asarray(images)
    particles = Particles(np.asarray(table.index, np.int64), kind, kinds, given)
    size = batch_size(len(table), n)
    blocks = BoxBlocks(boxes, batch or size)
    edges = partition_edges(blocks.chunks, size, batch)
    job = _fingerprint(
        volumes, settings, given, whiten, candidates, seed, edges, voxel_size,
        [(one.tilt_range, one.digest) for one in kinds], kind,
        tokenize(boxes.data), particles.identities, names,
    )  # fmt: skip
    folder = BatchFolder.open(checkpoint, job)
    finished = [
        _finished(folder, number, slice(*edge), len(volumes))
        for number, edge in enumerate(pairwise(edges.tolist()))
    ]
    done = [rows for rows in finished if rows is not None]
    left = [number for number, rows in enumerate(finished) if rows is None]
    parts: list[Any] = [np.concatenate(done)] if done else []
    if left:
        token = _fingerprint(job, folder.path, split_every, np.asarray(left))[:32]
        noise = None
        if whiten:
            noise = noise_layer(
                particles,
                blocks,
                partition_edges(blocks.chunks, size),
                box=n,
                voxel_size=voxel_size,
                radius=n / 2 - 4 if mask_radius is None else mask_radius,
                split_every=split_every,
                token=token,
            )
        told = {"references": volumes, "voxel_size": voxel_size, **settings}
        plans = plan_layer(particles, told, noise, token=token)
        bag = candidate_bag(particles, blocks, edges, left, plans, count=candidates, token=token)
        best = best_of(
            bag, particles, edges, left, plans[1],
            seed=seed, folder=folder, split_every=split_every, token=token,
        )  # fmt: skip
        parts.append(best)
    poses_found = parts[0] if len(parts) == 1 else delayed(best_poses)(parts)
    return delayed(pose_table)(table, poses_found, voxel_size, symmetry, classes, keep, quiet)


def _finished(folder: BatchFolder, number: int, rows: slice, references: int) -> np.ndarray | None:
    """The poses of a finished batch, if it holds one of each particle on each reference."""
    found = folder.read(batch_name(number), POSE)
    if found is None or not np.array_equal(
        found["particle"], np.repeat(np.arange(rows.start, rows.stop), references)
    ):
        return None
    return found


def _given_poses(
    table: pd.DataFrame, poses: pd.DataFrame | None, local: float | None, voxel_size: float
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """The table, and for a local search matrices and shifts (voxels), shape (particles, 12)."""
    if local is None:
        if poses is not None:
            raise InputError(
                "poses are where a local search starts: say how far it may turn, local=10 or "
                "--local 10 (degrees; 0 to refine them only)"
            )
        return table, None
    table = match_poses(table, poses).drop(columns=["reason", "score", "weight"], errors="ignore")
    given = np.full((len(table), 12), np.nan)
    quaternions = table[QUATERNION].to_numpy(float)
    length = np.linalg.norm(quaternions, axis=1)
    known = np.isfinite(length) & (length > 0)
    turns = Rotation.from_quat(quaternions[known])
    given[known, :9] = turns.as_matrix().reshape(-1, 9)
    given[known, 9:] = 0.0
    if set(SHIFT_XYZ) <= set(table):
        shifts = table.loc[known, SHIFT_XYZ].fillna(0.0).to_numpy(float)
        given[known, 9:] = shifts / voxel_size
    return table, given


def _fingerprint(*parts: Any) -> str:
    """Names the job: the same references, boxes and settings, whatever the machine."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, dict):
            digest.update(_fingerprint(*(x for item in part.items() for x in item)).encode())
        elif isinstance(part, np.ndarray) and part.dtype != object:
            digest.update(repr((part.shape, part.dtype.str)).encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part.tolist() if isinstance(part, np.ndarray) else part).encode())
        digest.update(b";")
    return digest.hexdigest()
