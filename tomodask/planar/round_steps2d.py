"""The steps of a round in 2D: align, share out, tell what changed, and whether it is done."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.cluster import compute
from tomodask.planar.alignment2d import align_images
from tomodask.planar.image_optics import corrected_images
from tomodask.planar.numbering import half_numbers, image_numbers
from tomodask.planar.plan2d import plan_alignment2d
from tomodask.planar.poses2d import FAULTS, POSE2D, Poses2D, composed
from tomodask.planar.round2d import (
    LEAST,
    Round2D,
    Settings2D,
    search_settings,
    start_resolution,
)
from tomodask.planar.sharing import equal_classes2d, fill_empty2d
from tomodask.planar.splitting import split_class
from tomodask.planar.twins import find_twins, half_reliability, pose_changes2d

__all__ = [
    "aligned",
    "divided",
    "pose_halves",
    "pose_table2d",
    "round_changes",
    "settled",
    "shared_out",
]

_CALM = 0.05  # share of the images that change their class: below, twins are looked for
_REST = 4  # rounds from the start, or the last twins, until twins are looked for
_TRIES = 3  # rounds that bring twins together: where there are fewer views than classes, no more
_FEW = 0.1  # of the mean size: a class with fewer is taken for empty
_RESTLESS = 0.01  # share of the images
_RIM, _WAY = 0.5, 0.1  # pixels: the turn at the particle's rim and the way that are still
_PATIENCE, _GAIN = 4, 1e-3  # rounds in which the mean score must rise by so much of itself
_POSE = ("psi", "shift_y", "shift_x", "mirror")


def aligned(
    images: xr.DataArray,
    references: np.ndarray,
    settings: Settings2D,
    *,
    checkpoint: str | Path | None = None,
) -> np.ndarray:
    """Best poses of all images; computes.

    Returns
    -------
    array of POSE2D, shape (images,)
        Or, for classes of equal size, (images, classes): each image may have to go to any class.
    """
    pixel_size = float(images.attrs["pixel_size"])
    maps = xr.DataArray(references, dims=("class", "y", "x"), attrs={"pixel_size": pixel_size})
    every = settings.equal and settings.classes > 1
    table = compute(
        align_images(
            images,
            maps,
            ctf=settings.ctf,
            keep="all" if every else "best",
            batch=settings.batch,
            checkpoint=checkpoint,
            **{k: v for k, v in search_settings(settings, images).items() if k != "pixel_size"},
        ),
        label="align",
        passing=True,
    )
    poses = np.zeros(len(table), POSE2D)
    for name in (*_POSE, "class", "score"):
        poses[name] = table[name].to_numpy()
    if "reason" in table:
        poses["fault"] = [FAULTS.index(reason) for reason in table["reason"]]
    return poses.reshape(-1, settings.classes) if every else poses


def shared_out(
    images: xr.DataArray, poses: np.ndarray, state: Round2D, settings: Settings2D
) -> tuple[np.ndarray, dict[str, int], list[tuple[int, int]]]:
    """Which class each image goes to, with its pose there.

    Parameters
    ----------
    images : DataArray
        Looked at for the size of a pixel.
    poses : array of POSE2D
        Of `aligned`.
    state : Round2D
        Of the round before.
    settings : Settings2D

    Returns
    -------
    poses : array of POSE2D, shape (images,)
    told : dict
        ``filled``, ``twins``: how many classes took over images since they were empty, or were of
        one view with another.
    filled : list of (int, int)
        Those classes, from 0, and what other gave them its worst half.
    """
    classes, half = settings.classes, state.table["half"].to_numpy(int)
    if poses.ndim == 2:
        label = equal_classes2d(poses["score"])
        poses = poses[np.arange(len(poses)), np.maximum(label, 0)]
    poses = poses.copy()
    label = poses["class"].astype(np.int64) - 1  # -1 where set aside
    before = state.table["class"].to_numpy(int) - 1
    twins = 0
    tries = state.history["round"][state.history["twins"] > 0]
    tried, last = len(tries), tries.max() if len(tries) else 0
    # A class that has just been split off resembles that it comes of, until it finds a view.
    wait = max(last + _REST, settings.coarse + 1)
    calm = state.number >= wait and np.mean(before != label) < _CALM
    if classes > 1 and calm and tried < _TRIES:
        reliability = half_reliability(state.halves, settings.radius / state.pixel_size)
        sizes = np.bincount(label[label >= 0], minlength=classes)
        plan = plan_alignment2d(state.references, **search_settings(settings, images))
        for pair in find_twins(state.references, plan, reliability, sizes):
            mine = label == pair.given_up
            moved = composed(Poses2D.of(poses[mine]), pair.pose)
            for name in _POSE:
                poses[name][mine] = getattr(moved, name)
            label[mine] = pair.kept
            twins += 1
    few = max(LEAST, math.floor(_FEW * np.count_nonzero(label >= 0) / classes / 2))
    label, filled = fill_empty2d(
        label, poses["score"], half, classes, least=few, by_score=tried % 2 == 1
    )
    poses["class"] = label + 1
    return poses, {"filled": len(filled) - twins, "twins": twins}, filled


def divided(
    images: xr.DataArray, poses: np.ndarray, filled: list[tuple[int, int]], settings: Settings2D
) -> np.ndarray:
    """Each class that gave its worst half away is divided anew, by what its images differ in.

    Computes, where `filled` holds something.
    """
    poses = poses.copy()
    ready = corrected_images(images, settings.ctf) if filled else images
    for taker, giver in filled:
        rows = np.flatnonzero(np.isin(poses["class"] - 1, (taker, giver)))
        mine = split_class(
            ready,
            rows,
            pd.DataFrame({name: poses[name][rows] for name in _POSE}),
            radius=min(settings.radius, (images.shape[1] // 2 - 1) * images.attrs["pixel_size"]),
            resolution=start_resolution(settings),
        )
        poses["class"][rows] = np.where(mine, taker, giver) + 1
    return poses


def pose_table2d(poses: np.ndarray, numbers: np.ndarray, half: np.ndarray) -> pd.DataFrame:
    """The table of `Round2D` of poses (POSE2D), numbers and halves of the images."""
    names = [name for name in POSE2D.names or () if name != "fault"]
    table = pd.DataFrame({name: poses[name] for name in names})
    table["half"] = half
    aside = poses["fault"] > 0
    if aside.any():
        table.loc[aside, ["psi", "shift_y", "shift_x", "score"]] = np.nan
        table["reason"] = np.array(FAULTS, object)[poses["fault"]]
    return table.set_axis(pd.Index(numbers, name="image"))


def pose_halves(images: xr.DataArray) -> np.ndarray:
    """1 or 2 for each image: by the coordinate ``half``, else even and odd numbers."""
    numbers = image_numbers(images)
    table = pd.DataFrame(index=numbers)
    if "half" in images.coords:
        table["half"] = images.coords["half"].to_numpy()
    return half_numbers(table, numbers)


def round_changes(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, float]:
    """``reassigned``, ``turned`` and ``moved`` of `Round2D.history`; NaN in the first round."""
    one, two = before["class"].to_numpy(int), after["class"].to_numpy(int)
    both = (one > 0) & (two > 0)
    if not both.any():
        return dict.fromkeys(("reassigned", "turned", "moved"), math.nan)
    same = both & (one == two)
    out = {"reassigned": 1 - same.sum() / both.sum(), "turned": math.inf, "moved": math.inf}
    if same.any():
        first, second = Poses2D.of(before[same]), Poses2D.of(after[same])
        turned, moved = pose_changes2d(first, second, two[same])
        out |= {"turned": float(np.median(turned)), "moved": float(np.median(moved))}
    return out


def settled(history: pd.DataFrame, settings: Settings2D, pixel_size: float) -> bool:
    """Whether the last round of a history was the last one needed."""
    last = history.iloc[-1]
    # Scores of the first rounds are of another band, or with single images, which fit themselves.
    first = 2 if settings.classes == 1 else max(2, settings.coarse + 1)
    if last["twins"] or len(history) <= (1 if settings.classes == 1 else first):
        return False
    rim = math.degrees(_RIM * pixel_size / settings.radius)
    still = last["turned"] <= rim and last["moved"] <= _WAY * pixel_size
    if still and last["reassigned"] < _RESTLESS and not last["filled"]:
        # So calm a round has looked for twins, as long as that is tried, and found none.
        return True
    since = history["round"][history["twins"] > 0].max()
    score = history["score"].to_numpy(float)[first if np.isnan(since) else max(int(since), first) :]
    if len(score) <= _PATIENCE:
        return False
    return bool(score[-_PATIENCE:].max() <= score[:-_PATIENCE].max() * (1 + _GAIN))
