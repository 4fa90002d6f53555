"""A refinement: rounds of alignment and averaging in a folder that can be killed and goes on."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from tomodask.averaging.fsc import resolution_at
from tomodask.cluster import connect
from tomodask.data.job_boxes import LATER
from tomodask.data.run_folder import RunFolder
from tomodask.project.as_typed import as_typed
from tomodask.project.map_files import map_file
from tomodask.project.refinement.job import checked_refinement
from tomodask.project.refinement.round_files import SET_ASIDE
from tomodask.project.refinement.steps import STAGES, Refining

__all__ = ["Refinement", "refine"]


@dataclass(frozen=True)
class Refinement:
    """What a refinement made.

    Attributes
    ----------
    output : Path
        The folder.
    poses, report : Path
    averages, half_1, half_2, fsc, local_resolution : dict of int to Path
        By class; of one class alone, under 1.
    particles : dict of int to int
        In each class.
    resolution_143, resolution_5 : dict of int to float
        Å; infinite if not reached.
    set_aside : DataFrame
        ``particle``, ``image`` and ``reason`` of each particle without a pose.
    history : DataFrame
        A row a round: ``iteration``, ``phase``, ``resolution_143``, ``resolution_5``, ``band``,
        ``angular_step``, ``local``, ``turned``, ``moved``, ``reassigned``, ``score``, ``seconds``.
    """

    output: Path
    poses: Path
    report: Path
    averages: dict[int, Path]
    half_1: dict[int, Path]
    half_2: dict[int, Path]
    fsc: dict[int, Path]
    local_resolution: dict[int, Path]
    particles: dict[int, int]
    resolution_143: dict[int, float]
    resolution_5: dict[int, float]
    set_aside: pd.DataFrame
    history: pd.DataFrame

    def _repr_html_(self) -> str:
        """What a notebook shows of it: figures of each class, and the resolution by round."""
        from tomodask.project.refinement.pictures import plot_rounds
        from tomodask.report_page import angstrom, inline, page_style

        rows = "".join(
            f"<tr><th>{c}</th><td>{count}</td><td>{angstrom(self.resolution_143[c])}</td>"
            f"<td>{angstrom(self.resolution_5[c])}</td>"
            f"<td><code>{html.escape(str(self.averages[c]))}</code></td></tr>"
            for c, count in self.particles.items()
        )
        with page_style():
            figure = inline(
                plot_rounds(self.history),
                "Resolution by iteration, and how far poses changed in each.",
            )
        return (
            "<table><thead><tr><th>class</th><th>particles</th><th>FSC 0.143</th><th>FSC 0.5</th>"
            f"<th>average</th></tr></thead><tbody>{rows}</tbody></table>{figure}"
            f"<p>Report: <code>{html.escape(str(self.report))}</code></p>"
        )


def refine(
    subtomograms: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | xr.Dataset,
    *,
    output: str | os.PathLike[str],
    reference: str | os.PathLike[str] | xr.DataArray | None = None,
    references: Sequence[str | os.PathLike[str] | xr.DataArray] | None = None,
    classes: int | None = None,
    symmetry: str = "C1",
    halves: str = "particle",
    tilt_range: tuple[float, float] | None = None,
    voxel_size: float | None = None,
    diameter: float | None = None,
    start_resolution: float = 60.0,
    resolution: float | None = None,
    angular_step: float = 20.0,
    shift_range: float | None = None,
    method: str = "fourier",
    candidates: int = 6,
    whiten: bool = False,
    iterations: int = 15,
    assignment: str = "hard",
    consensus: int = 2,
    reseeds: int = 2,
    merge: float | None = 0.97,
    resample_reference: bool = False,
    invert: bool = False,
    attempts: int = 3,
    first_particles: int = 100,
    seed: int = 0,
    overwrite: bool = False,
    scheduler: str | None = None,
    workers: int | None = None,
    memory: str | None = None,
    config: str | Path | None = None,
    command: str | None = None,
) -> Refinement:
    """Align and average subtomograms again and again until the resolution stops improving.

    Two halves of the particles are kept apart from the first round on (gold standard).  All rounds,
    and within a round each finished batch of the alignment, are kept in `output`: the same call
    goes on where an earlier one stopped, however it ended, and ends with the same result to the
    last bit.

    Parameters
    ----------
    subtomograms : path, list of paths or Dataset
        What `open_subtomograms` takes or gives.
    output : path
        The folder; made where it is not there.
    reference : path or DataArray, optional
        A map of the particle, low-passed to `start_resolution` first.  Without one the particles
        find a first map by themselves (`tomodask.rounds.start`).
    references : sequence of path or DataArray, optional
        One a class, in place of `reference`.
    classes : int, optional
        Kinds of particles to tell apart; by default as many as `references`, else one.  Without
        references they begin with a division of particles that one class has aligned
        (`tomodask.rounds.class_start`).
    symmetry : str
        Point group, ``C1`` … ``I``; main axis along z, where a first map's is laid.
    halves : {"particle", "tomogram"}
        What is dealt to the halves; a column ``half`` of the boxes comes before.
    tilt_range : (float, float), optional
        Degrees, in place of what the boxes carry.
    voxel_size : float, optional
        Å; in place of what the boxes' files say.
    diameter : float, optional
        Of the particle, Å, for masks of alignment and FSC; by default measured on the first map.
    start_resolution : float
        Of the first maps, Å: all that the halves share.
    resolution : float, optional
        No round aligns by finer detail, Å; by default what the voxels hold.
    angular_step : float
        Of searches over all rotations, degrees.
    shift_range : float, optional
        How far particles may lie from the middle of their boxes along each axis, Å; by default a
        tenth of the box.
    method, candidates, whiten
        As of `align_subtomograms`.
    iterations : int
        Rounds at most; more may be asked for later.
    assignment : {"hard", "soft"}
        Of particles to classes.
    consensus : int
        Rounds with one class before there are several; none if there are references.
    reseeds : int
        How often classes that fall empty are filled again; after that they are given up.
    merge : float, optional
        Classes whose averages correlate so well, noise aside, become one; None keeps them.
    resample_reference : bool
        Bring references to voxel size and edge of the boxes; without it, others are refused.
    invert : bool
        Take the references' negative.
    attempts, first_particles : int
        Of a start without a reference.
    seed : int
    overwrite : bool
        Drop another refinement in the folder.
    scheduler, workers, memory, config
        Where the work runs, see `connect`.
    command : str, optional
        What the report says was called.

    Returns
    -------
    Refinement

    Raises
    ------
    InputError
        If an input is wrong, a half or a class has too few particles, or the folder holds another
        job.  What is finished is kept.
    """
    if command is None:
        command = _command(locals())
    output = Path(output)
    job = checked_refinement(
        subtomograms,
        output=output,
        reference=reference,
        references=references,
        classes=classes,
        symmetry=symmetry,
        halves=halves,
        tilt_range=tilt_range,
        voxel_size=voxel_size,
        diameter=diameter,
        start_resolution=start_resolution,
        resolution=resolution,
        angular_step=angular_step,
        shift_range=shift_range,
        method=method,
        candidates=candidates,
        whiten=whiten,
        iterations=iterations,
        assignment=assignment,
        consensus=consensus,
        reseeds=reseeds,
        merge=merge,
        resample_reference=resample_reference,
        invert=invert,
        attempts=attempts,
        first_particles=first_particles,
        seed=seed,
    )
    with RunFolder.opened(
        output,
        stages=STAGES,
        parameters=job.parameters,
        command=command,
        overwrite=overwrite,
        later=LATER,
    ) as folder:
        folder.document["figures"] |= job.figures()
        folder.document["figures"]["iterations"] = job.plan.iterations
        refinement = Refining(folder, job)
        if not refinement.finished():
            with connect(scheduler, workers=workers, memory=memory, config=config):
                refinement.do_all()
        return _result(folder)


def _result(folder: RunFolder) -> Refinement:
    figures, at = folder.document["figures"], folder.path
    several, labels = figures["several"], figures["labels"]
    told = figures["rounds"][figures["chosen"]]["classes"]

    def paths(name: str) -> dict[int, Path]:
        return {c: at / map_file(several, c, name) for c in labels}

    curves = {c: pd.read_csv(path) for c, path in paths("fsc.csv").items()}
    return Refinement(
        output=at,
        poses=at / "poses.star",
        report=at / "report.html",
        averages=paths("average.mrc"),
        half_1=paths("half1.mrc"),
        half_2=paths("half2.mrc"),
        fsc=paths("fsc.csv"),
        local_resolution=paths("local_resolution.mrc"),
        particles={c: int(sum(told[str(c)]["particles"])) for c in labels},
        resolution_143={c: resolution_at(curve, 0.143) for c, curve in curves.items()},
        resolution_5={c: resolution_at(curve, 0.5) for c, curve in curves.items()},
        set_aside=_set_aside(at),
        history=pd.read_csv(at / "history.csv"),
    )


def _set_aside(at: Path) -> pd.DataFrame:
    if (at / SET_ASIDE).exists():
        return pd.read_csv(at / SET_ASIDE)
    return pd.DataFrame(columns=["particle", "image", "reason"])


def _command(given: Mapping[str, Any]) -> str:
    return as_typed(
        "refine",
        refine,
        given,
        options={"resample_reference": "--resample", "references": "--reference"},
        without={"merge": "0"},
        repeated=["references"],
    )
