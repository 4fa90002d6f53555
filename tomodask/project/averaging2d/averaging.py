"""2D averaging of images as a job: rounds in a folder that can be killed and goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.cluster import connect
from tomodask.data.run_folder import RunFolder
from tomodask.errors import InputError
from tomodask.planar.round2d import Round2D
from tomodask.project.as_typed import as_typed
from tomodask.project.averaging2d.job import MOST, checked_job2d
from tomodask.project.averaging2d.round_files import read_round2d, resolutions_of
from tomodask.project.averaging2d.steps import HISTORY, STAGES, Averaging, round_names
from tomodask.project.averaging2d.view import watch_averaging

__all__ = ["Averaging2D", "average2d", "open_average2d"]


@dataclass(frozen=True)
class Averaging2D:
    """What a 2D averaging made, or has made so far.

    Attributes
    ----------
    output : Path
        The folder.
    round : Round2D
        The last one: averages, halves, FRC and the table of the images, in memory.
    averages : DataArray, dims (class, y, x)
        The same averages, with ``attrs["pixel_size"]``; coords ``images`` and ``resolution`` (Å,
        FRC 0.143, infinite where not reached).
    table : DataFrame
        A row an image: ``class`` (0 where set aside, with a ``reason``), ``psi``, ``shift_y``,
        ``shift_x``, ``mirror``, ``score``, ``half``.
    history : DataFrame
        A row a round: ``round``, ``score``, ``resolution``, ``reassigned``, ``turned``, ``moved``,
        ``classes`` (that hold images), ``filled``, ``twins``.
    settled : bool
        Whether the rounds came to rest; else they were stopped, or there were no more.
    particles, report : Path
        Table of the images (STAR; a CSV lies beside it), and the page; there at the end.
    """

    output: Path
    round: Round2D = field(repr=False)
    averages: xr.DataArray = field(repr=False)
    table: pd.DataFrame = field(repr=False)
    history: pd.DataFrame = field(repr=False)
    settled: bool
    particles: Path
    report: Path


def average2d(
    images: str | os.PathLike[str] | xr.DataArray | xr.Dataset,
    *,
    output: str | os.PathLike[str],
    radius: float,
    shift_range: float,
    classes: int | None = None,
    references: str | os.PathLike[str] | xr.DataArray | None = None,
    shift_step: float | None = None,
    mirror: bool = True,
    equal: bool = False,
    center: bool = True,
    ctf: Literal["multiply", "flip"] | None = None,
    resolution: float | None = None,
    start_resolution: float | None = None,
    rounds: int = 30,
    project: Literal["z"] | None = None,
    thickness: float | None = None,
    pixel_size: float | None = None,
    embed: int = 2000,
    seed: int = 0,
    overwrite: bool = False,
    scheduler: str | None = None,
    workers: int | None = None,
    memory: str | None = None,
    config: str | Path | None = None,
    on_round: Callable[[Round2D], None] | None = None,
    command: str | None = None,
) -> Averaging2D:
    """Align and average images in two dimensions, again and again until nothing changes.

    One class is reference-free: the average of the images is their reference.  Several classes are
    multireference: each image goes to the class that it fits best.  Every round is kept in
    `output`: the same call goes on where an earlier one stopped, however it ended, and ends with
    the same result to the last bit.  In a notebook the averages appear as rounds end; stop it,
    look (`open_average2d`), and call again.

    Parameters
    ----------
    images : path, DataArray or Dataset
        What `open_images` takes or gives; with `project`, subtomograms: what `open_subtomograms`
        takes or gives.
    output : path
        The folder; made where it is not there.
    radius : float
        Of the disc that is aligned by, Å: the particle's.
    shift_range : float
        How far a particle may lie from the middle of its image, Å.
    classes : int, optional
        By default as many as `references`, else 1.
    references : path or DataArray, optional
        A stack of maps to begin with, one a class; by default images that the seed draws.
    shift_step : float, optional
        Å; by default one pixel.  The top between steps is found in any case.
    mirror : bool
        Whether an image may show the mirror image of its reference.
    equal : bool
        Classes of equal size (EQK-means, as ISAC has it).
    center : bool
        Whether averages are centred after each round.
    ctf : {"multiply", "flip"}, optional
        Correct for the contrast transfer of images that carry their defocus.
    resolution : float, optional
        Finest detail of the references, Å; by default what the FRC of each class says.
    start_resolution : float, optional
        Of the images that the classes start from, Å; by default 2/9 of the radius.
    rounds : int
        At most; more may be asked for later.
    project : {"z"}, optional
        The input is subtomograms, which are projected along z: so that 2D classes clean a set of
        picks before anything is done in 3D.
    thickness : float, optional
        Of the slab about the middle that is projected, Å; by default the whole box.
    pixel_size : float, optional
        Å; in place of what the files say.
    embed : int
        Images that the embedding (2SDR, t-SNE) shows at most; 0 for none.
    seed : int
    overwrite : bool
        Drop another averaging in the folder.
    scheduler, workers, memory, config
        Where the work runs, see `connect`.
    on_round : callable, optional
        Called with each round that ends.
    command : str, optional
        What the report says was called.

    Returns
    -------
    Averaging2D

    Raises
    ------
    InputError
        If an input is wrong, or the folder holds another job.  What is finished is kept.
    """
    if command is None:
        command = _command(locals())
    job = checked_job2d(
        images,
        classes=classes,
        references=references,
        radius=radius,
        shift_range=shift_range,
        shift_step=shift_step,
        mirror=mirror,
        equal=equal,
        center=center,
        ctf=ctf,
        resolution=resolution,
        start_resolution=start_resolution,
        rounds=rounds,
        project=project,
        thickness=thickness,
        pixel_size=pixel_size,
        embed=embed,
        seed=seed,
    )
    with RunFolder.opened(
        Path(output),
        stages=STAGES,
        parameters=job.parameters,
        command=command,
        overwrite=overwrite,
    ) as folder:
        folder.document["figures"] |= job.figures()
        view = watch_averaging()
        averaging = Averaging(folder, job, _Told(view, on_round))
        if not averaging.finished():
            with connect(scheduler, workers=workers, memory=memory, config=config):
                averaging.do_all()
        view.close()
        return _result(folder, rounds)


def open_average2d(output: str | os.PathLike[str]) -> Averaging2D:
    """What a 2D averaging has made so far: one that is done, was stopped, or is still at work.

    Raises
    ------
    InputError
        If the folder is none of a 2D averaging, or no round of it is finished.
    """
    folder = RunFolder.read(Path(output))
    if not round_names(folder, 1):
        raise InputError(
            f"{output}: no round of a 2D averaging is finished there; wait for the first, or begin "
            "one with tomodask average2d"
        )
    return _result(folder, MOST)


class _Told:
    """A view that also calls who wants to hear of rounds."""

    def __init__(self, view: Any, on_round: Callable[[Round2D], None] | None) -> None:
        self.view, self.on_round = view, on_round

    def show(self, row: dict[str, Any] | None, state: Round2D | None) -> None:
        self.view.show(row, state)
        if self.on_round is not None and row is not None and state is not None:
            self.on_round(state)

    def close(self) -> None:
        """The view is closed by who made it."""


def _result(folder: RunFolder, most: int) -> Averaging2D:
    names = round_names(folder, most)
    told = folder.document["figures"]["rounds"]
    state = read_round2d(folder.path / names[-1])
    history = pd.DataFrame(
        [{k: np.nan if told[n][k] is None else told[n][k] for k in HISTORY} for n in names]
    )
    averages = xr.DataArray(
        state.averages,
        dims=("class", "y", "x"),
        coords={
            "class": np.arange(1, len(state.averages) + 1),
            "images": ("class", state.counts),
            "resolution": ("class", np.array(resolutions_of(state))),
        },
        name="averages",
        attrs={"pixel_size": state.pixel_size},
    )
    return Averaging2D(
        output=folder.path,
        round=state,
        averages=averages,
        table=state.table,
        history=history,
        settled=bool(told[names[-1]]["settled"]),
        particles=folder.path / "particles.star",
        report=folder.path / "report.html",
    )


def _command(given: Mapping[str, Any]) -> str:
    return as_typed(
        "average2d",
        average2d,
        given,
        options={"shift_range": "--shift", "references": "--reference"},
        off={"mirror": "--no-mirror", "center": "--no-center"},
    )
