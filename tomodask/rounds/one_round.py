"""One round: the halves aligned, averaged, brought into one frame, and measured.

No file is read or written here; the caller says how a graph is computed.  A round of one class and
one of several are the same, but that several are told apart, filled again where they fall empty,
given up or made one (`tomodask.rounds.classes`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tomodask.averaging.average import Average
from tomodask.averaging.averages import average_classes, average_subtomograms
from tomodask.averaging.corrected_fsc import corrected_fsc
from tomodask.averaging.fsc import resolution_at
from tomodask.data.columns import QUATERNION, SHIFT
from tomodask.errors import InputError
from tomodask.rounds.classes import (
    class_shares,
    equal_classes,
    fill_empty,
    measured_values,
    posteriors,
    reassigned,
    short_classes,
)
from tomodask.rounds.iterations import Finished, Search, align_halves, pose_changes
from tomodask.rounds.round_state import Round, RoundClass, RoundPlan, RoundResult
from tomodask.rounds.superposition import Motion, superpose, with_motion

__all__ = ["compute_round"]

_DRIFT = 0.05  # of the band: halves that have moved apart by less lie on each other
_LEAST = 2  # particles of a class in each half

Compute = Callable[..., Any]


def compute_round(
    job: RoundPlan,
    before: Round,
    search: Search,
    *,
    several: bool,
    compute: Compute,
    checkpoint: Path | None = None,
) -> RoundResult:
    """Align, average and measure.  Computes.

    Parameters
    ----------
    job : RoundPlan
    before : Round
    search : Search
        From `next_search`.
    several : bool
        Whether classes are told apart.
    compute : callable
        ``compute(delayed, label=…)``.
    checkpoint : path, optional
        Keeps finished batches of the alignment.

    Raises
    ------
    InputError
        If a half has hardly a particle with a pose.
    """
    labels = list(before.references)
    aligned = align_halves(
        job.boxes,
        job.half,
        [
            [before.references[label][h] for label in labels]
            if several
            else before.references[labels[0]][h]
            for h in (0, 1)
        ],
        search,
        job.plan,
        poses=before.poses,
        keep="all",
        checkpoint=checkpoint,
    )
    label = f"iteration {search.iteration}"
    found = compute(aligned, label=f"{label}, align")
    _check_found(found, job)
    if several:
        poses, weights, events = _assigned(job, found, before, search, labels)
    else:
        poses, weights, events = found, None, {"filled": before.filled}

    def averaging(graph: Any) -> Any:
        return compute(graph, label=f"{label}, average")

    table, classes, more = _averaged(job, poses, weights, search, labels, averaging)
    finished = _measured(job, table, classes, before, search)
    return RoundResult(finished, table, classes, several, events | more)


def _check_found(found: pd.DataFrame, job: RoundPlan) -> None:
    """Refuse to go on where a half has hardly a particle with a pose."""
    lost = found[QUATERNION[0]].isna().to_numpy()
    aside = found[lost]
    aside = aside[~aside.index.duplicated()]  # with several classes a particle has several rows
    for number in (1, 2):
        here = aside["half"] == number
        count = int((job.half == number).sum() - here.sum())
        if count >= _LEAST:
            continue
        why = ", ".join(
            f"of {few} {reason}" for reason, few in aside["reason"][here].value_counts().items()
        )
        raise InputError(
            f"half {number} has {count} particle{'' if count == 1 else 's'} with a pose, it needs "
            f"at least {_LEAST}; set aside: {why}; mend these boxes or give more"
        )


def _assigned(
    job: RoundPlan, found: pd.DataFrame, before: Round, search: Search, labels: list[int]
) -> tuple[pd.DataFrame, np.ndarray, dict[str, Any]]:
    """Every particle's rows, one a class, with what part of it is of that class."""
    count = len(labels)
    scores = found["score"].to_numpy(float).reshape(-1, count)
    known = ~np.isnan(scores).any(1)
    scores = np.where(known[:, None], scores, -1.0)
    if job.assignment == "soft":
        plan = job.plan
        values = measured_values(
            job.table, job.boxes.attrs, box=plan.box, voxel_size=plan.voxel_size,
            resolution=search.resolution, tilt_range=job.tilt_range,
        )  # fmt: skip
        weights = posteriors(scores, values, np.array([before.shares[one] for one in labels]))
    else:
        weights = np.eye(count)[scores.argmax(1)]
    weights[~known] = 0.0
    filled = before.filled
    told: dict[str, Any] = {"refilled": [], "given_up": []}
    empty = short_classes(weights, job.half, least=_LEAST)
    if empty and filled < job.reseeds:
        weights, refilled = fill_empty(weights, scores, job.half, least=_LEAST)
        filled += 1
        empty = short_classes(weights, job.half, least=_LEAST)  # there was not enough to fill
        told["refilled"] = [labels[one] for one in refilled if one not in empty]
    if len(empty) == count:  # each half fills another: one class of all goes on
        empty.remove(int(weights.sum(0).argmax()))
    if empty:
        told["given_up"] = [labels[one] for one in empty]
        weights[:, empty] = 0.0
        lost = known & (weights.sum(1) == 0)
        rest = np.delete(np.arange(count), empty)
        weights[np.flatnonzero(lost), rest[scores[lost][:, rest].argmax(1)]] = 1.0
        total = weights.sum(1, keepdims=True)
        weights = np.divide(weights, total, out=weights, where=total > 0)
    told["filled"] = filled
    rows = found.assign(**{"class": np.tile(labels, len(scores))})
    rows = rows.drop(columns=[f"score_{i + 1}" for i in range(count)])
    return rows, weights, told


def _averaged(
    job: RoundPlan,
    poses: pd.DataFrame,
    weights: np.ndarray | None,
    search: Search,
    labels: list[int],
    compute: Compute,
) -> tuple[pd.DataFrame, dict[int, RoundClass], dict[str, Any]]:
    """Averages in one frame, equal classes made one; and the poses that belong to them.

    Returns the table of the particles' best classes, the classes, and what was done.
    """
    told: dict[str, Any] = {"drift": {}, "merged": []}
    several = weights is not None
    averages = _sums(job, poses, weights, compute)
    again = False
    for c, one in averages.items():
        motion = _drift(job, one, search)
        way = motion.length + np.deg2rad(motion.angle) * job.plan.diameter / 2
        told["drift"][str(c)] = [round(motion.angle, 4), round(motion.length, 4)]
        if way > _DRIFT * search.resolution:
            mine = (poses["half"] == 2).to_numpy()
            if several:
                mine = mine & (poses["class"] == c).to_numpy()
            poses = _moved(poses, mine, motion)
            again = True
    if several and job.merge is not None and len(averages) > 1:
        if again:
            averages, again = _sums(job, poses, weights, compute), False
        order = sorted(averages, key=lambda c: (-sum(averages[c].weights), c))
        pairs = equal_classes(
            [(averages[c].half_1, averages[c].half_2) for c in order],
            voxel_size=job.plan.voxel_size,
            resolution=search.resolution,
            diameter=job.plan.diameter,
            symmetry=job.plan.symmetry,
            threshold=job.merge,
            shared=job.assignment == "soft",
            method=job.method,
        )
        assert weights is not None
        weights, place = weights.copy(), {c: i for i, c in enumerate(labels)}
        for a, b, motions in pairs:
            poses, weights = _merged(poses, weights, place, order[a], order[b], motions)
            told["merged"].append([order[a], order[b]])
            again = True
    if again:
        averages = _sums(job, poses, weights, compute)
    if weights is not None:
        best = np.arange(0, len(poses), len(labels)) + weights.argmax(1)
        table = poses.iloc[best].assign(share=weights.max(1))
        amounts = class_shares(weights)
        shares = {c: float(amounts[labels.index(c)]) for c in averages}
    else:
        table, shares = poses, dict.fromkeys(averages, 1.0)
    plan = job.plan
    out = {
        c: RoundClass(
            one,
            corrected_fsc(
                one.half_1, one.half_2, voxel_size=plan.voxel_size, diameter=plan.diameter
            ),
            shares[c],
        )
        for c, one in averages.items()
    }
    return table, out, told


def _sums(
    job: RoundPlan,
    poses: pd.DataFrame,
    weights: np.ndarray | None,
    compute: Compute,
) -> dict[int, Average]:
    rows = poses.drop(columns="image", errors="ignore")
    # What is set aside is told once, by the caller: each average would say it.
    options: dict[str, Any] = {
        "tilt_range": job.tilt_range, "symmetry": job.plan.symmetry, "quiet": True,
    }  # fmt: skip
    boxes = job.boxes.drop_vars(["image", "half"], errors="ignore")  # matched by number
    if weights is None:
        return {1: compute(average_subtomograms(boxes, poses=rows, **options))}
    amount, used = weights.ravel(), weights > 0
    # Those of no class, which alignment set aside, keep a row: an average wants one of each box.
    used[~used.any(1), weights.sum(0).argmax()] = True
    used = used.ravel()
    graph = average_classes(boxes, poses=rows[used], weights=amount[used], **options)
    averages: dict[int, Average] = compute(graph)
    return averages


def _drift(job: RoundPlan, one: Average, search: Search) -> Motion:
    """From half 1 to half 2, by what both show of the band."""
    plan = job.plan
    return superpose(
        one.half_1,
        one.half_2,
        voxel_size=plan.voxel_size,
        resolution=search.resolution,
        diameter=plan.diameter,
        symmetry=plan.symmetry,
        method=job.method,
    )


def _moved(poses: pd.DataFrame, mine: np.ndarray, motion: Motion) -> pd.DataFrame:
    out, names = poses.copy(), [*QUATERNION, *SHIFT]
    values = out[names].to_numpy(float).copy()
    values[mine] = with_motion(poses[mine], motion)[names].to_numpy(float)
    out[names] = values
    return out


def _merged(
    poses: pd.DataFrame,
    weights: np.ndarray,
    place: dict[int, int],
    kept: int,
    gone: int,
    motions: tuple[Motion, Motion],
) -> tuple[pd.DataFrame, np.ndarray]:
    """Particles of a class that is another's equal become of that, at their poses on it.

    The motion between the two is each half's own.
    """
    a, b = place[kept], place[gone]
    rows = np.arange(len(poses)).reshape(weights.shape)
    moving = weights[:, b] > weights[:, a]
    # The row of class `kept` takes the pose that the particle has on `gone`, in its own frame.
    names, out = [*QUATERNION, *SHIFT, "score"], poses.copy()
    values = out[names].to_numpy(float).copy()
    half = poses["half"].to_numpy()[rows[:, b]]
    for number, motion in enumerate(motions, 1):
        mine = moving & (half == number)
        source = with_motion(poses.iloc[rows[mine, b]], motion)
        values[rows[mine, a]] = source[names].to_numpy(float)
    out[names] = values
    # Probabilities whose sum was rounded may come to a little more than 1.
    weights[:, a] = np.minimum(weights[:, a] + weights[:, b], 1.0)
    weights[:, b] = 0.0
    return out, weights


def _measured(
    job: RoundPlan,
    table: pd.DataFrame,
    averages: dict[int, RoundClass],
    before: Round,
    search: Search,
) -> Finished:
    total = sum(one.weights_share for one in averages.values())
    fine = [
        sum(one.weights_share / resolution_at(one.curve, level) for one in averages.values())
        / total
        for level in (0.143, 0.5)
    ]
    turned = moved = settled = changed = float("nan")
    if before.poses is not None:
        angle, way = pose_changes(before.poses, table, job.plan.symmetry)
        known = ~np.isnan(angle)
        if "class" in table and "class" in before.poses:
            changed = reassigned(
                before.poses["class"].to_numpy()[known], table["class"].to_numpy()[known]
            )
        turned, moved = float(np.median(angle[known])), float(np.median(way[known]))
        settled = float(np.mean(angle[known] < search.angular_step / 2))
    return Finished(
        search=search,
        resolution_143=1 / fine[0] if fine[0] > 0 else float("inf"),
        resolution_5=1 / fine[1] if fine[1] > 0 else float("inf"),
        turned=turned,
        moved=moved,
        settled=settled,
        reassigned=changed,
        score=float(table["score"].mean()),
    )
