"""Poses as they leave an alignment: a particle table."""

from __future__ import annotations

import logging
import re

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from tomodask.alignment.checks import FAULTS
from tomodask.arrays.symmetry import reduced, symmetry_group
from tomodask.data.particles import with_orientations

__all__ = ["QUATERNION", "SHIFT_XYZ", "pose_table"]

_log = logging.getLogger(__name__)

QUATERNION = ["quat_x", "quat_y", "quat_z", "quat_w"]
SHIFT_XYZ = ["shift_x", "shift_y", "shift_z"]
_NAMED_AT_MOST = 5
#: Scores of an earlier alignment, of other references.
_OF_REFERENCE = re.compile(r"score_\d+")


def pose_table(
    table: pd.DataFrame,
    poses: np.ndarray,
    voxel_size: float,
    symmetry: str,
    classes: int,
    keep: str,
    quiet: bool = False,
) -> pd.DataFrame:
    """The particle table with the best pose of each particle, or of each on every reference.

    Parameters
    ----------
    table : DataFrame
        Of the boxes.
    poses : array of `POSE`
        By particle, then reference; one each.
    voxel_size : float
        Å.
    symmetry : str
        Poses are given as the least turn among their equivalents.
    classes : int
        References; 0 where there is one alone, which is no class.
    keep : {"best", "all"}
    quiet : bool
        Do not log which particles are set aside.

    Returns
    -------
    DataFrame
        Of particles that are set aside, pose and scores are NaN, ``class`` is 0 and ``reason``
        says why.
    """
    count = max(classes, 1)
    every = np.repeat(np.arange(len(table)), count)
    if not np.array_equal(poses["particle"], every):
        raise RuntimeError(f"{len(table)} particles went in, {len(poses)} poses came out")
    poses = poses.reshape(len(table), count)
    aside = poses["fault"][:, 0] > 0
    out = table.drop(columns=["reason"], errors="ignore")
    out = out.drop(columns=[name for name in map(str, out) if _OF_REFERENCE.fullmatch(name)])
    if classes:
        scores = poses["score"]
        best = np.argmax(np.where(np.isnan(scores), -np.inf, scores), axis=1)
        out["class"] = np.where(aside, 0, 1 + best)
        out = out.assign(**{f"score_{i + 1}": scores[:, i] for i in range(classes)})
    if keep == "all":
        out, poses = out.iloc[every].copy(), poses.reshape(-1, 1)
        if classes:
            out["class"] = np.where(
                np.repeat(aside, count), 0, np.tile(1 + np.arange(classes), len(table))
            )
        best, aside = np.zeros(len(out), np.intp), np.repeat(aside, count)
    elif not classes:
        best = np.zeros(len(out), np.intp)
    poses = poses[np.arange(len(out)), best]
    matrices = np.where(aside[:, None, None], np.eye(3), poses["matrix"])
    out = with_orientations(out, reduced(Rotation.from_matrix(matrices), symmetry_group(symmetry)))
    out[SHIFT_XYZ] = poses["shift_xyz"] * voxel_size
    out["score"] = poses["score"]
    if aside.any():
        out.loc[aside, QUATERNION] = np.nan
        out["reason"] = np.asarray(FAULTS)[poses["fault"]]
        if not quiet:
            _warn_of_those_aside(poses[aside], table)
    return out


def _warn_of_those_aside(poses: np.ndarray, table: pd.DataFrame) -> None:
    particles, first = np.unique(poses["particle"], return_index=True)
    names = np.asarray(table.get("image", table.index))
    told = [
        f"{names[particle]} ({FAULTS[poses['fault'][row]]})"
        for particle, row in zip(particles[:_NAMED_AT_MOST], first, strict=False)
    ]
    more = len(particles) - len(told)
    _log.warning(
        "%d of %d particles are set aside, without a pose: %s%s",
        len(particles),
        len(table),
        ", ".join(told),
        f" and {more} more" if more else "",
    )
