"""The steps of a refinement: each does its work into the folder, unless it is finished there."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from tomodask.alignment.references import warn_of_references
from tomodask.cluster import compute
from tomodask.data.run_folder import RunFolder
from tomodask.data.tomograms import open_tomogram
from tomodask.data.writing import replacing
from tomodask.picking.templates.matching import template_diameter
from tomodask.project.map_files import map_file, write_map
from tomodask.project.refinement.job import MOST, RefinementJob
from tomodask.project.refinement.maps import write_filtered, write_local_resolution
from tomodask.project.refinement.report import write_refinement_report
from tomodask.project.refinement.round_files import SET_ASIDE, read_round, round_outputs
from tomodask.project.refinement.rounds import do_round
from tomodask.project.refinement.view import watch_refinement
from tomodask.rounds.class_start import class_maps
from tomodask.rounds.iterations import (
    Finished,
    Search,
    best_round,
    next_search_of_classes,
    start_reference,
)
from tomodask.rounds.round_state import Round, start_round
from tomodask.rounds.start import first_map

__all__ = ["STAGES", "Refining"]

_log = logging.getLogger(__name__)
_NAMED_AT_MOST = 5

STAGES = ("start", "classes", *(f"iteration_{i:02d}" for i in range(1, MOST + 1)), "result")


class Refining:
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
        view, told_aside = watch_refinement(), False
        for name in self._names():  # of rounds whose end a kill left without its last touch
            self._forget_batches(name)
        self._start()
        self._warn_of_references()
        for name in self._names():
            view.show(self._history_row(name))
        while True:
            search, phase = self._next()
            if search is None:
                break
            name = f"iteration_{search.iteration:02d}"
            before = self._before(phase)
            self._round(name, search, phase, before)
            view.show(self._history_row(name))
            if not told_aside:
                told_aside = self._warn_of_those_aside(name)
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
        job, consensus = self.job, None
        if job.classes > 1:
            consensus = 0 if len(job.references) == job.classes else job.consensus
        search, several = next_search_of_classes(
            self._of_phase("one"), self._of_phase("classes"), job.plan, consensus=consensus
        )
        return search, "classes" if several else "one"

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

    def _warn_of_references(self) -> None:
        """Say what looks like a mistake in the maps that were given, before the first round."""
        job = self.job
        if not job.references or self._names():
            return
        files = sorted((self.folder.path / "start").glob("reference*.mrc"), key=_number)
        warn_of_references(
            np.stack([np.asarray(open_tomogram(file).values, np.float32) for file in files]),
            voxel_size=job.plan.voxel_size,
            mask_radius=job.plan.diameter / 2 / job.plan.voxel_size,
            mask=None,
            symmetry=job.plan.symmetry,
            angular_step=job.plan.angular_step,
        )

    def _warn_of_those_aside(self, name: str) -> bool:
        """Name the particles that a round found no pose for; whether there are any."""
        if not self.told[name]["set_aside"]:
            return False
        aside = pd.read_csv(self.folder.path / name / SET_ASIDE, dtype=str, keep_default_na=False)
        named = [
            f"{image or particle} ({reason})"
            for particle, image, reason in aside.head(_NAMED_AT_MOST).to_numpy().tolist()
        ]
        more = len(aside) - len(named)
        _log.warning(
            "%d of %d particles are set aside, the rest goes on: %s%s; %s lists them",
            len(aside),
            len(self.job.table),
            ", ".join(named),
            f" and {more} more" if more else "",
            SET_ASIDE,
        )
        return True

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
        aside = bool(told["set_aside"])
        entry["outputs"] = round_outputs(name, labels, phase == "classes", aside=aside)
        self.folder.save()
        self._forget_batches(name)

    def _forget_batches(self, name: str) -> None:
        """Remove the alignment's finished batches: a finished round has them in its poses."""
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
        made = [
            map_file(several, c, name)
            for c in labels
            for name in ("filtered.mrc", "local_resolution.mrc")
        ]
        outputs = [*files, *made, "history.csv", "report.html"]
        if told["set_aside"]:
            files.append(SET_ASIDE)
            outputs.append(SET_ASIDE)
        with self.folder.stage("result", outputs) as figures:
            if not told["set_aside"]:  # of an end before this one
                (self.folder.path / SET_ASIDE).unlink(missing_ok=True)
            for file in files:
                with replacing(self.folder.path / file, overwrite=True) as part:
                    part.write_bytes((self.folder.path / chosen / file).read_bytes())
            for c in labels:
                write_filtered(self.folder.path, several, c, self.job.plan.voxel_size)
            figures["local_resolution"] = write_local_resolution(
                self.folder.path, several, labels, self.job.plan
            )
            history = pd.DataFrame([self._history_row(name) for name in names])
            with replacing(self.folder.path / "history.csv", overwrite=True) as part:
                history.drop(columns="seconds").to_csv(part, index=False)
            figures["chosen"], figures["last_round"] = chosen, names[-1]
            figures["several"], figures["labels"] = several, labels
            self.folder.save()
            write_refinement_report(self.folder)


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
