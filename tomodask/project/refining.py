"""A refinement: rounds of alignment and averaging in a folder that can be killed and goes on."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.alignment.class_start import class_maps
from tomodask.alignment.fsc import resolution_at
from tomodask.alignment.iterations import (
    Finished,
    Search,
    best_round,
    next_search,
    start_reference,
)
from tomodask.alignment.sharpening import sharpen
from tomodask.alignment.start import first_map
from tomodask.cluster import compute, connect
from tomodask.data.run_folder import RunFolder
from tomodask.data.tomograms import open_tomogram
from tomodask.data.writing import replacing
from tomodask.picking.template_matching import template_diameter
from tomodask.project.refinement_job import MOST, RefinementJob, checked_refinement
from tomodask.project.refinement_report import write_refinement_report
from tomodask.project.refinement_view import watch_refinement
from tomodask.project.rounds import (
    Round,
    do_round,
    map_file,
    read_round,
    round_outputs,
    start_round,
    write_map,
)

__all__ = ["Refinement", "refine"]

_log = logging.getLogger(__name__)
_STAGES = ("start", "classes", *(f"iteration_{i:02d}" for i in range(1, MOST + 1)), "result")
_OPTIONS = {"resample_reference": "--resample"}


@dataclass(frozen=True)
class Refinement:
    """What a refinement made.

    Attributes
    ----------
    output : Path
        The folder.
    poses, report : Path
    averages, half_1, half_2, fsc : dict of int to Path
        By class; of one class alone, under 1.
    particles : dict of int to int
        In each class.
    resolution_143, resolution_5 : dict of int to float
        Å; infinite if not reached.
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
    particles: dict[int, int]
    resolution_143: dict[int, float]
    resolution_5: dict[int, float]
    history: pd.DataFrame


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
        find a first map by themselves (`tomodask.alignment.start`).
    references : sequence of path or DataArray, optional
        One a class, in place of `reference`.
    classes : int, optional
        Kinds of particles to tell apart; by default as many as `references`, else one.  Without
        references they begin with a division of particles that one class has aligned
        (`tomodask.alignment.class_start`).
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
        output, stages=_STAGES, parameters=job.parameters, command=command, overwrite=overwrite
    ) as folder:
        folder.document["figures"] |= job.figures()
        folder.document["figures"]["iterations"] = job.plan.iterations
        refinement = _Refining(folder, job)
        if not refinement.finished():
            with connect(scheduler, workers=workers, memory=memory, config=config):
                refinement.do_all()
        return _result(folder)


class _Refining:
    """The way from the start to the result, each step only where its files are not there."""

    def __init__(self, folder: RunFolder, job: RefinementJob) -> None:
        self.folder = folder
        self.job = job
        self.told: dict[str, Any] = folder.document["figures"].setdefault("rounds", {})
        if "diameter" in folder.document["figures"]:
            self.job = job.with_diameter(folder.document["figures"]["diameter"])

    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        if not (self.folder.finished("start") and self.folder.finished("result")):
            return False
        last = self.folder.document["figures"].get("last_round")
        return last is not None and self._last() == last and self._next()[0] is None

    def do_all(self) -> None:
        """Do what is missing."""
        view = watch_refinement()
        with _quiet_about_references(True):
            self._start()
        for name in self._names():
            view.show(self._history_row(name))
        while True:
            search, phase = self._next()
            if search is None:
                break
            name = f"iteration_{search.iteration:02d}"
            before = self._before(phase)
            # What is odd about a given map is said once; its halves would say it in each round.
            with _quiet_about_references(search.iteration > 1 or not self.job.references):
                self._round(name, search, phase, before)
            view.show(self._history_row(name))
            write_refinement_report(self.folder)
        view.close()
        self._finish()

    def _names(self) -> list[str]:
        """Finished rounds, in their order."""
        names = []
        for number in range(1, MOST + 1):
            name = f"iteration_{number:02d}"
            if not (self.folder.finished(name) and name in self.told):
                break
            names.append(name)
        return names[: self.job.plan.iterations]

    def _last(self) -> str | None:
        names = self._names()
        return names[-1] if names else None

    def _of_phase(self, phase: str) -> list[Finished]:
        return [
            _as_finished(self.told[name])
            for name in self._names()
            if self.told[name]["phase"] == phase
        ]

    def _next(self) -> tuple[Search | None, str]:
        """What comes next, and whether it is of one class or of several."""
        several = self.job.classes > 1
        alone = self._of_phase("one")
        if not several:
            return next_search(alone, self.job.plan), "one"
        if len(self.job.references) < self.job.classes and len(alone) < self.job.consensus:
            search = next_search(alone, self.job.plan)
            if search is not None:
                return search, "one"
        history = self._of_phase("classes")
        return next_search(history, self.job.plan, before=len(alone)), "classes"

    def _start(self) -> None:
        """First references, low-passed: of the maps that are given, or of the particles."""
        folder, job = self.folder, self.job
        if not folder.finished("start"):
            files = [f"start/reference{i + 1}.mrc" for i in range(max(len(job.references), 1))]
            with folder.stage("start", ["start", *files]) as figures:
                (folder.path / "start").mkdir(exist_ok=True)
                if job.references:
                    maps = [one.to_numpy() for one in job.references]
                else:
                    maps = [self._first_map(figures)]
                if job.plan.diameter == 0:
                    figures["diameter"] = _diameter(maps, job)
                else:
                    figures["diameter"] = job.plan.diameter
                for file, volume in zip(files, maps, strict=True):
                    write_map(
                        folder.path / file, start_reference(volume, job.plan), job.plan.voxel_size
                    )
            told = folder.document["figures"].get("attempts")
            if told:
                last = max(name for name in told[0] if name.startswith("score_"))
                scores = " ".join(f"{one[last]:.3f}" for one in told)
                seconds = folder.document["stages"]["start"]["seconds"]
                _log.info("first map: best of %d attempts, scores %s; %.0f s",
                          len(told), scores, seconds)  # fmt: skip
        self.job = job.with_diameter(float(folder.document["figures"]["diameter"]))

    def _first_map(self, figures: dict[str, Any]) -> np.ndarray:
        job = self.job
        options = dict(job.plan.alignment)
        start = first_map(
            job.boxes,
            resolution=job.plan.start_resolution,
            symmetry=job.plan.symmetry,
            diameter=job.plan.diameter or None,
            shift_range=options["shift_range"],
            tilt_range=job.tilt_range,
            particles=job.first_particles,
            attempts=job.attempts,
            seed=job.seed,
            compute=partial(compute, passing=True),
        )
        figures["attempts"] = start.attempts.astype(object).to_dict("records")
        figures["symmetry_share"] = start.share
        return start.volume

    def _before(self, phase: str) -> Round:
        """What the next round begins with."""
        names = [name for name in self._names() if self.told[name]["phase"] == phase]
        if names:
            return read_round(self.folder.path / names[-1], self.job, self.told[names[-1]])
        poses = None
        last = self._last()
        if phase == "classes" and last is not None:
            alone = read_round(self.folder.path / last, self.job, self.told[last])
            maps, poses = self._classes(alone), alone.poses
            if poses is not None:
                poses = poses.drop(columns="class", errors="ignore")
        else:
            files = sorted((self.folder.path / "start").glob("reference*.mrc"), key=_number)
            maps = [np.asarray(open_tomogram(file).values, np.float32) for file in files]
        return start_round(maps, poses)

    def _classes(self, alone: Round) -> list[np.ndarray]:
        """First references of the classes."""
        job, files = self.job, [f"classes/reference{c + 1}.mrc" for c in range(self.job.classes)]
        if not self.folder.finished("classes"):
            assert alone.poses is not None
            with self.folder.stage("classes", ["classes", *files]) as figures:
                (self.folder.path / "classes").mkdir(exist_ok=True)
                maps, sizes = class_maps(
                    job.boxes,
                    alone.poses,
                    job.classes,
                    resolution=job.plan.start_resolution,
                    symmetry=job.plan.symmetry,
                    tilt_range=job.tilt_range,
                    seed=job.seed,
                    compute=partial(compute, passing=True),
                )
                figures["first_classes"] = [int(size) for size in sizes]
                for file, volume in zip(files, maps, strict=True):
                    write_map(self.folder.path / file, volume, job.plan.voxel_size)
        return [
            np.asarray(open_tomogram(self.folder.path / file).values, np.float32) for file in files
        ]

    def _round(self, name: str, search: Search, phase: str, before: Round) -> None:
        labels = list(before.references)
        with self.folder.stage(name, [name]):
            at = self.folder.path / name
            for leftover in at.glob(".*.part"):  # of one that was killed
                leftover.unlink()
            finished, told = do_round(at, self.job, before, search, phase)
            self.told[name] = _as_told(finished) | told
            labels = [int(c) for c in told["shares"]]
        # Which classes are left is known at the end only.
        entry = self.folder.document["stages"][name]
        entry["outputs"] = round_outputs(name, labels, phase == "classes")
        self.folder.save()
        # In the poses now.
        shutil.rmtree(self.folder.path / name / "batches", ignore_errors=True)

    def _history_row(self, name: str) -> dict[str, Any]:
        told = self.told[name]
        return {
            "iteration": told["iteration"],
            "phase": told["phase"],
            "resolution_143": _or_infinity(told["resolution_143"]),
            "resolution_5": _or_infinity(told["resolution_5"]),
            "band": told["band"],
            "angular_step": told["angular_step"],
            "local": told["local"],
            "turned": _or_nan(told["turned"]),
            "moved": _or_nan(told["moved"]),
            "reassigned": _or_nan(told["reassigned"]),
            "score": told["score"],
            "classes": len(told["shares"]),
            "seconds": float(self.folder.document["stages"][name]["seconds"]),
        }

    def _finish(self) -> None:
        """The best round's maps and poses, where they are looked for; history and report."""
        names = self._names()
        several = self.told[names[-1]]["phase"] == "classes"
        if several:  # classes are what the last round made of them
            chosen = names[-1]
        else:
            chosen = names[best_round([_as_finished(self.told[name]) for name in names])]
        told = self.told[chosen]
        labels = [int(c) for c in told["shares"]]
        files = ["poses.star"] + [
            map_file(several, c, name)
            for c in labels
            for name in ("average.mrc", "half1.mrc", "half2.mrc", "fsc.csv")
        ]
        made = [map_file(several, c, "filtered.mrc") for c in labels]
        outputs = [*files, *made, "history.csv", "report.html"]
        with self.folder.stage("result", outputs) as figures:
            for file in files:
                with replacing(self.folder.path / file, overwrite=True) as part:
                    part.write_bytes((self.folder.path / chosen / file).read_bytes())
            for c in labels:
                _filtered(self.folder.path, several, c, self.job.plan.voxel_size)
            history = pd.DataFrame([self._history_row(name) for name in names])
            with replacing(self.folder.path / "history.csv", overwrite=True) as part:
                history.drop(columns="seconds").to_csv(part, index=False)
            figures["chosen"], figures["last_round"] = chosen, names[-1]
            figures["several"], figures["labels"] = several, labels
            self.folder.save()
            write_refinement_report(self.folder)


@contextlib.contextmanager
def _quiet_about_references(quiet: bool) -> Iterator[None]:
    logger = logging.getLogger("tomodask.alignment.references")
    before = logger.level
    if quiet:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _filtered(at: Path, several: bool, label: int, voxel_size: float) -> None:
    """The average, its shells weighted by C_ref, up to its resolution: the map to look at."""
    average = open_tomogram(at / map_file(several, label, "average.mrc")).to_numpy()
    curve = pd.read_csv(at / map_file(several, label, "fsc.csv"))
    if math.isfinite(resolution_at(curve, 0.143)):
        average = sharpen(average, voxel_size=voxel_size, b_factor=0.0, fsc=curve).to_numpy()
    write_map(at / map_file(several, label, "filtered.mrc"), average, voxel_size)


def _diameter(maps: Sequence[np.ndarray], job: RefinementJob) -> float:
    """The largest particle of the first maps, Å, with a soft edge's room inside the box."""
    plan = job.plan
    attrs = {"voxel_size": plan.voxel_size}
    most = (plan.box - 8) * plan.voxel_size
    told = [template_diameter(xr.DataArray(one, dims=("z", "y", "x"), attrs=attrs)) for one in maps]
    return float(min(max(*told, 4 * plan.voxel_size), most))


def _number(file: Path) -> int:
    return int(file.stem.removeprefix("reference"))


def _as_told(one: Finished) -> dict[str, Any]:
    """A round as JSON knows it: no infinity, no NaN."""
    told = {
        "iteration": one.search.iteration,
        "band": one.search.resolution,
        "angular_step": one.search.angular_step,
        "local": one.search.local,
        "resolution_143": one.resolution_143,
        "resolution_5": one.resolution_5,
        "turned": one.turned,
        "moved": one.moved,
        "settled": one.settled,
        "reassigned": one.reassigned,
        "score": one.score,
    }
    return {
        name: value if value is None or math.isfinite(value) else None
        for name, value in told.items()
    }


def _as_finished(told: Mapping[str, Any]) -> Finished:
    search = Search(told["iteration"], told["band"], told["angular_step"], told["local"])
    return Finished(
        search=search,
        resolution_143=_or_infinity(told["resolution_143"]),
        resolution_5=_or_infinity(told["resolution_5"]),
        turned=_or_nan(told["turned"]),
        moved=_or_nan(told["moved"]),
        settled=_or_nan(told["settled"]),
        reassigned=_or_nan(told["reassigned"]),
        score=_or_nan(told["score"]),
    )


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else float(value)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


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
        particles={c: int(sum(told[str(c)]["particles"])) for c in labels},
        resolution_143={c: resolution_at(curve, 0.143) for c, curve in curves.items()},
        resolution_5={c: resolution_at(curve, 0.5) for c, curve in curves.items()},
        history=pd.read_csv(at / "history.csv"),
    )


def _command(given: Mapping[str, Any]) -> str:
    """The call of the command line that does the same."""

    def word(value: Any) -> str:
        if isinstance(value, xr.DataArray | xr.Dataset):
            return str(value.attrs.get("source") or value.attrs.get("store") or "IN_MEMORY")
        return f"{value:g}" if isinstance(value, float) else str(value)

    def words_of(value: Any) -> list[str]:
        several = isinstance(value, Sequence) and not isinstance(value, str)
        return [word(one) for one in (value if several else [value])]

    words = ["tomodask", "refine", *words_of(given["subtomograms"]), "-o", str(given["output"])]
    for name, default in (refine.__kwdefaults__ or {}).items():
        value = given[name]
        if name in ("output", "command", "overwrite") or _same(value, default):
            continue
        option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
        if name == "references":
            for one in words_of(value):
                words += ["--reference", one]
        elif isinstance(value, bool):
            words.append(option)
        else:
            words += [option, *words_of(value)]
    return shlex.join(words)


def _same(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, str | int | float) and value == default)
