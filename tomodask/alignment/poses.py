"""Poses of many subtomograms: candidates in a Dask bag, refined where they lie, the best kept.

``search`` turns a batch of boxes into candidate poses, ``refine`` descends from each of them, and
a tree of ``best_poses`` keeps the optimum of each particle.  What a partition passes on is small:
of a box only the few thousand Fourier voxels that the refinement looks at.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.bag as db
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed, delayed
from scipy.spatial.transform import Rotation

from tomodask.alignment.batches import BatchFolder, batches
from tomodask.alignment.checks import check_alignment, check_box
from tomodask.alignment.measurement import measurements
from tomodask.alignment.plan import Plan, plan_alignment
from tomodask.alignment.refinement import correlation, refine_pose
from tomodask.alignment.search import candidate_poses
from tomodask.arrays.sampling import spectrum_at
from tomodask.arrays.threads import one_thread_each
from tomodask.data.particles import with_orientations
from tomodask.data.subtomogram_table import batch_size, particle_table
from tomodask.errors import InputError

__all__ = ["align_subtomograms", "check_alignment"]

# One row a refined candidate.
_POSE = np.dtype(
    [
        ("particle", np.int64),
        ("start", np.int64),
        ("score", np.float64),
        ("matrix", np.float64, (3, 3)),
        ("shift_xyz", np.float64, (3,)),
    ]
)


@dataclass(frozen=True)
class _Candidates:
    """A particle on its way from search to refinement.

    `particle` is its row among the boxes; `identity` its number wherever it goes, which seeds it.
    """

    particle: int
    identity: int
    data: np.ndarray
    matrices: np.ndarray
    shifts_xyz: np.ndarray


@dataclass(frozen=True)
class _Batch:
    """The one element of a partition of the bag."""

    name: str
    particles: tuple[_Candidates, ...]


def align_subtomograms(
    subtomograms: xr.Dataset,
    reference: xr.DataArray,
    *,
    tilt_range: tuple[float, float] | None = None,
    angular_step: float = 20.0,
    shift_range: float | None = None,
    resolution: float | None = None,
    diameter: float | None = None,
    candidates: int = 6,
    seed: int = 0,
    batch: int | None = None,
    split_every: int = 8,
    checkpoint: str | Path | None = None,
) -> Delayed:
    """Find the pose of each subtomogram: global search, then refinement of the best candidates.

    Parameters
    ----------
    subtomograms : Dataset
        From `extract_subtomograms` or `open_subtomograms`; cubic boxes.
    reference : DataArray, shape of a box
        Same voxel size and contrast as the boxes; its centre is voxel ``size // 2``.
    tilt_range : (float, float), optional
        Least and largest tilt, degrees, in place of what the boxes carry: the record of the tilt
        series that each particle is of, else its ``tilt_min``, ``tilt_max``.
    angular_step : float
        Of the search grid, degrees.
    shift_range : float, optional
        How far a particle may lie from the centre of its box along each axis, Å: no pose is
        farther off.  By default a tenth of the box's edge.
    resolution : float, optional
        The finest detail to align by, Å.  By default where 99.5 % of the reference's
        information on the rotation is within; give it where the reference is noisy.
    diameter : float, optional
        Of the soft sphere that cuts the reference out, Å; by default it touches the box.
    candidates : int
        Poses that are refined for each particle.
    seed : int
        Together with the particle's number it draws the order of the mini-batches.
    batch : int, optional
        Particles in a partition of the bag; by default `batch_size`: 8 to 32.
    split_every : int
        Partitions that one task of the reduction takes.
    checkpoint : path, optional
        A folder that keeps each finished batch; the same call goes on there.

    Returns
    -------
    Delayed of DataFrame
        The particle table in the order of `subtomograms`, with ``quat_*`` (reference →
        particle), ``shift_*`` (Å, of the particle from the box's centre) and ``score``, the
        constrained correlation over the measured Fourier voxels of the last band.  Nothing is
        computed before ``.compute()``.

    Raises
    ------
    InputError
        If box and reference differ in size or voxel size, the tilt range is missing, the record of
        a tilt series is damaged or a length is out of range; from a task, if a box holds NaN or
        nothing but one value.

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
    _check_reference(boxes.shape, voxel_size, reference)
    if batch is None:
        batch = batch_size(len(table), n)
    check_alignment(
        box=n,
        voxel_size=voxel_size,
        angular_step=angular_step,
        shift_range=shift_range,
        resolution=resolution,
        diameter=diameter,
        candidates=candidates,
        seed=seed,
        batch=batch,
        split_every=split_every,
    )
    reach = 0.1 * n if shift_range is None else shift_range / voxel_size
    radius = None if resolution is None else n * voxel_size / resolution
    mask_radius = None if diameter is None else diameter / 2 / voxel_size
    kind, kinds = measurements(table, subtomograms.attrs, tilt_range)

    volume = np.asarray(reference.values, np.float32)
    if not np.isfinite(volume).all() or np.ptp(volume) == 0:
        raise InputError("reference must hold finite, unequal values, got a constant or NaN map")
    settings = {
        "angular_step": float(angular_step),
        "shift_range": float(reach),
        "radius": radius,
        "mask_radius": mask_radius,
    }
    if not len(table):
        raise InputError("subtomograms hold no particle; pick and extract some first")

    images = table["image"].astype(str) if "image" in table else table.index.astype(str)
    names = np.asarray(images)
    identities = np.asarray(table.index, np.int64)
    tilts = np.array([one.tilt_range for one in kinds])[kind]
    content: tuple[Any, ...] = (tilts, tokenize(boxes.data), identities, names)
    if any(one.record is not None for one in kinds):
        content += kind, [one.digest for one in kinds]
    folder = BatchFolder.open(
        checkpoint,
        _fingerprint(volume, settings, *content, candidates, seed, batch, voxel_size),
    )
    bags, done = [], []
    for group, measurement in enumerate(kinds):
        rows = np.flatnonzero(kind == group)
        plan = delayed(plan_alignment, pure=True)(
            volume,
            tilt_range=measurement.tilt_range,
            record=measurement.record,
            voxel_size=voxel_size,
            **settings,
        )
        parts = []
        for number, block in enumerate(batches(boxes, rows, batch)):
            these = rows[number * batch : (number + 1) * batch]
            name = f"wedge{group:04d}-batch{number:06d}"
            finished = folder.read(name, _POSE)
            if finished is not None:
                done.append(finished)
                continue
            searched = delayed(search, pure=True)(
                block,
                these,
                identities[these],
                names[these],
                plan=plan,
                count=candidates,
                name=name,
            )
            parts.append(searched)
        if parts:
            found = db.from_delayed(parts)
            bags.append(found.map_partitions(refine, plan, seed=seed, folder=folder))
    if not bags:
        best = delayed(best_poses)(done)
    else:
        bag = db.concat(bags) if len(bags) > 1 else bags[0]
        best = bag.reduction(_rows, best_poses, split_every=split_every).to_delayed()
        best = delayed(best_poses)([best, *done])
    return delayed(_pose_table)(table, best, voxel_size)


def _check_reference(shape: tuple[int, ...], voxel_size: float, reference: xr.DataArray) -> None:
    box = tuple(shape[1:])
    if len(set(box)) != 1:
        raise InputError(f"subtomograms must be cubic boxes, got {box} voxels")
    if tuple(reference.shape) != box:
        raise InputError(
            f"reference has {tuple(reference.shape)} voxels, the boxes have {box}; cut or pad it "
            "about its centre to the size of the boxes"
        )
    theirs = reference.attrs.get("voxel_size")
    if theirs is not None and abs(float(theirs) - voxel_size) > 0.01 * voxel_size:
        raise InputError(
            f"reference has voxels of {float(theirs):g} Å, the boxes {voxel_size:g} Å; resample "
            f"it: tomodask convert REFERENCE OUT.mrc --resample-to {voxel_size:g}"
        )


def _fingerprint(volume: np.ndarray, *rest: Any) -> str:
    """Names the job: the same reference, boxes and settings, whatever the machine."""
    digest = hashlib.sha256(np.ascontiguousarray(volume).tobytes())
    for part in rest:
        digest.update(repr(part.tolist() if isinstance(part, np.ndarray) else part).encode())
    return digest.hexdigest()


def search(
    boxes: np.ndarray,
    rows: np.ndarray,
    identities: np.ndarray,
    names: np.ndarray,
    *,
    plan: Plan,
    count: int,
    name: str,
) -> list[_Batch]:
    """Candidate poses of a batch of boxes (the task ``search``)."""
    out = []
    with one_thread_each():
        for box, row, identity, image in zip(boxes, rows, identities, names, strict=True):
            box = check_box(box, int(identity), str(image))
            data = spectrum_at(box, plan.frequencies)
            matrices, shifts, _ = candidate_poses(plan.grid, data, count=count)
            out.append(_Candidates(int(row), int(identity), data, matrices, shifts))
    return [_Batch(name, tuple(out))]


def refine(
    found: list[_Batch],
    plan: Plan,
    *,
    seed: int,
    folder: BatchFolder,
) -> list[np.ndarray]:
    """Refined poses of a batch of particles (the task ``refine``), kept in `folder`."""
    (batch,) = found
    poses = [_refine_particle(one, plan, seed=seed) for one in batch.particles]
    best = best_poses(poses)
    folder.write(batch.name, best)
    return [best]


def _refine_particle(one: _Candidates, plan: Plan, *, seed: int) -> np.ndarray:
    """Stage by stage, the better two thirds of the candidates go on; two reach the end."""
    rng = np.random.default_rng([seed, one.identity])
    poses = np.zeros(len(one.matrices), _POSE)
    poses["particle"], poses["start"] = one.particle, np.arange(len(poses))
    poses["matrix"], poses["shift_xyz"] = one.matrices, one.shifts_xyz
    for stage in plan.stages:
        data = one.data[stage.index]
        for pose in poses:
            pose["matrix"], pose["shift_xyz"] = refine_pose(
                plan.spectrum,
                stage,
                data,
                pose["matrix"],
                pose["shift_xyz"],
                rng=rng,
                turn_limit=plan.turn_limit,
                shift_limit=plan.shift_limit,
                reach=plan.reach,
            )
            pose["score"] = correlation(
                plan.spectrum,
                stage.frequencies,
                data,
                pose["matrix"],
                pose["shift_xyz"],
                stage.weights,
            )
        order = np.lexsort((poses["start"], -poses["score"]))
        poses = poses[order[: max(2, (2 * len(poses) + 2) // 3)]]
    return poses


def _rows(partition: Any) -> np.ndarray:
    return best_poses(list(partition))


def best_poses(parts: Any) -> np.ndarray:
    """The best pose of each particle: the associative step of the tree."""
    poses = np.concatenate([np.asarray(part, _POSE) for part in parts])
    poses = poses[np.lexsort((poses["start"], -poses["score"], poses["particle"]))]
    return poses[np.unique(poses["particle"], return_index=True)[1]]


def _pose_table(table: pd.DataFrame, poses: np.ndarray, voxel_size: float) -> pd.DataFrame:
    if not np.array_equal(poses["particle"], np.arange(len(table))):
        raise RuntimeError(f"{len(table)} particles went in, {len(poses)} poses came out")
    out = with_orientations(table, Rotation.from_matrix(poses["matrix"]))
    out[["shift_x", "shift_y", "shift_z"]] = poses["shift_xyz"] * voxel_size
    out["score"] = poses["score"]
    return out
