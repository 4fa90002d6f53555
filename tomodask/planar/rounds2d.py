"""Rounds of 2D alignment and averaging: reference-free (one class) and multireference (several).

A round aligns every image to the references, shares the images out to the classes, averages each
class by halves, and makes of the averages the references of the next round: filtered by the FRC of
each class's own halves, and centred.  What a round came to is a `Round2D`, plain arrays and tables:
it can be kept in a file, and gone on with.

Rounds are done when assignments and poses are still (fewer than one image of a hundred changes its
class, the median pose turns by less than half a pixel at the particle's rim and moves by less than
a tenth of one), or when the mean score has not risen for four rounds; and no two classes are of one
view (`tomodask.planar.twins`).

References
----------
Penczek, Radermacher & Frank, Ultramicroscopy 40, 33 (1992), doi:10.1016/0304-3991(92)90233-A:
reference-free alignment.  Yang, Fang, Chittuluru, Asturias & Penczek, Structure 20, 237 (2012),
doi:10.1016/j.str.2011.12.007: ISAC, equal classes and stability.  Chung, Hung, Siao, Wu, Chang &
Tu (2020): Cryo-RALib.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.cluster import compute
from tomodask.errors import InputError
from tomodask.planar.averages2d import ClassAverages, average_images
from tomodask.planar.numbering import image_numbers
from tomodask.planar.poses2d import POSE2D
from tomodask.planar.references2d import next_references
from tomodask.planar.round2d import (
    HISTORY,
    Round2D,
    Settings2D,
    check_settings,
    start_resolution,
)
from tomodask.planar.round_steps2d import (
    aligned,
    divided,
    pose_halves,
    pose_table2d,
    round_changes,
    settled,
    shared_out,
)
from tomodask.planar.starting2d import given_references, start_images

__all__ = ["Round2D", "Settings2D", "classify_images", "next_round", "rounds_of", "start_round"]

_log = logging.getLogger(__name__)
_MANY, _LEAN = 20, 0.1  # images of a class; the share of them in the smaller half


def start_round(
    images: xr.DataArray, settings: Settings2D, *, references: xr.DataArray | None = None
) -> Round2D:
    """Round 0: references drawn from the images by the seed (computes), or those given.

    Raises
    ------
    InputError
        If settings, images and references do not fit each other.
    """
    check_settings(images, settings)
    k, n, pixel_size = settings.classes, images.sizes["x"], float(images.attrs["pixel_size"])
    if references is not None:
        first = given_references(references, images, k)
    else:
        first = start_images(
            images,
            k,
            radius=settings.radius,
            resolution=start_resolution(settings),
            ctf=settings.ctf,
            seed=settings.seed,
        )
    numbers = image_numbers(images)
    poses = np.zeros(len(numbers), POSE2D)
    poses["score"] = np.nan
    return Round2D(
        number=0,
        references=first,
        averages=np.zeros((k, n, n), np.float32),
        halves=np.zeros((2, k, n, n), np.float32),
        table=pose_table2d(poses, numbers, pose_halves(images)),
        frc=pd.DataFrame(columns=["class", "frequency", "resolution", "correlation"], dtype=float),
        history=pd.DataFrame({name: pd.Series(dtype=float) for name in HISTORY}),
        settled=False,
        pixel_size=pixel_size,
    )


def next_round(
    images: xr.DataArray,
    state: Round2D,
    settings: Settings2D,
    *,
    checkpoint: str | Path | None = None,
) -> Round2D:
    """Align, share out and average once more; computes.

    Parameters
    ----------
    images : DataArray, dims (image, y, x)
        Lazy; the same in every round.
    state : Round2D
        Of the round before, from `start_round`, `next_round` or a file; not changed.
    settings : Settings2D
    checkpoint : path, optional
        A folder for this round that keeps each finished batch of the alignment; see `align_images`.

    Returns
    -------
    Round2D
        The same, bit by bit, on any chunks, batches and workers, and whether `state` comes from a
        file or from memory.

    Raises
    ------
    InputError
        If settings, images and state do not fit each other, or no image is left.
    """
    n, pixel_size = check_settings(images, settings)
    if state.references.shape != (settings.classes, n, n) or len(state.table) != len(images):
        raise InputError(
            f"the round holds {state.references.shape[0]} classes of {len(state.table)} images, "
            f"settings and images are of {settings.classes} and {len(images)}; start anew"
        )
    poses = aligned(images, state.references, settings, checkpoint=checkpoint)
    shared, told, filled = shared_out(images, poses, state, settings)
    shared = divided(images, shared, filled, settings)
    table = pose_table2d(shared, state.table.index.to_numpy(), state.table["half"].to_numpy())
    if not (table["class"] > 0).any():
        raise InputError("no image could be aligned: all are constant or not finite")
    averages: ClassAverages = compute(
        average_images(
            images,
            table,
            classes=settings.classes,
            radius=min(settings.radius, (n // 2 - 1) * pixel_size),
            ctf=settings.ctf,
            batch=settings.batch,
        ),
        label="average",
        passing=True,
    )
    _tell_of_halves(averages.counts)
    references = next_references(
        averages.averages,
        averages.halves,
        radius=settings.radius / pixel_size,
        center=settings.center,
        pixel_size=pixel_size,
        resolution=_band(state.number + 1, settings),
        unknown=start_resolution(settings),
    )
    row = {"round": state.number + 1, **told, **round_changes(state.table, table)}
    row["score"] = float(table["score"].mean())
    history = pd.DataFrame([*state.history.to_dict("records"), row], columns=list(HISTORY))
    return Round2D(
        number=state.number + 1,
        references=references,
        averages=averages.averages,
        halves=averages.halves,
        table=table,
        frc=averages.frc(radius=settings.radius),
        history=history.astype(dict.fromkeys(("round", "filled", "twins"), np.int64)),
        settled=settled(history, settings, pixel_size),
        pixel_size=pixel_size,
    )


def rounds_of(
    images: xr.DataArray, settings: Settings2D, *, state: Round2D | None = None
) -> Iterator[Round2D]:
    """Yield the rounds after `state`, by default the start's, until one has settled.

    At most ``settings.rounds`` in all.  In a notebook, ``for one in rounds_of(…)`` shows averages
    as rounds end.
    """
    state = start_round(images, settings) if state is None else state
    while not state.settled and state.number < settings.rounds:
        state = next_round(images, state, settings)
        yield state


def classify_images(
    images: xr.DataArray,
    *,
    classes: int,
    radius: float,
    shift_range: float,
    references: xr.DataArray | None = None,
    on_round: Callable[[Round2D], None] | None = None,
    **settings: Any,
) -> Round2D:
    """Sort images into classes of one view each, aligned and averaged; computes.

    With one class this is reference-free alignment, with several multireference alignment.

    Parameters
    ----------
    images : DataArray, dims (image, y, x)
        Square, lazy or not; attrs ``pixel_size``, Å.
    classes : int
    radius : float
        Of the disc that is aligned by, Å.
    shift_range : float
        Farthest shift of a particle from the centre of its image, Å.
    references : DataArray, dims (class, y, x), optional
        What the classes start from; by default images drawn by ``seed``.
    on_round : callable, optional
        Is given each round as it ends.
    **settings
        The rest of `Settings2D`: ``shift_step``, ``mirror``, ``equal``, ``center``, ``ctf``,
        ``resolution``, ``start_resolution``, ``coarse`` (0 by default where references are given),
        ``rounds``, ``seed``, ``batch``.

    Returns
    -------
    Round2D
        The last round.  Chunks, batches and workers change no bit of it.

    Raises
    ------
    InputError
        If images, references and settings do not fit each other.
    """
    known = {one.name for one in fields(Settings2D)}
    for name in settings:
        if name not in known:
            raise InputError(f"{name} is no setting; known are {', '.join(sorted(known))}")
    if references is not None:
        settings = {"coarse": 0, **settings}
    plan = Settings2D(classes, radius, shift_range, **settings)
    last = start_round(images, plan, references=references)
    for one in rounds_of(images, plan, state=last):
        last = one
        if on_round is not None:
            on_round(one)
    return last


def _tell_of_halves(counts: np.ndarray) -> None:
    """Warn of classes whose images are all, or nearly all, of one half: no FRC tells of them."""
    for c, (one, two) in enumerate(counts.T.tolist()):
        if one + two >= _MANY and min(one, two) < _LEAN * (one + two):
            _log.warning(
                "class %d has %d and %d images in its halves, its FRC tells nothing; where views "
                "alternate in the stack, give the images a coordinate half of 1 and 2",
                c + 1,
                one,
                two,
            )
            return


def _band(number: int, settings: Settings2D) -> float | None:
    """Finest detail, Å, that the references after a round may hold; None is what the FRC says.

    While classes find their views all are compared by one band, that of the start: a small class's
    own FRC would leave it less than the others have, and it would lose its images to them.
    """
    if settings.classes == 1 or number > settings.coarse:
        return settings.resolution
    return max(start_resolution(settings), settings.resolution or 0.0)
