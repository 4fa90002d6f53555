"""The steps of a 2D averaging: each does its work into the folder, unless it is finished there."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd

from tomodask.data.image_table import write_image_table
from tomodask.data.images import image_table
from tomodask.data.particles import write_particles
from tomodask.data.run_folder import RunFolder
from tomodask.data.writing import replacing
from tomodask.planar.aligned import transform_images
from tomodask.planar.embedding import can_embed, embed_images
from tomodask.planar.projections import boxes_with_classes
from tomodask.planar.round2d import Round2D
from tomodask.planar.rounds2d import next_round, start_round
from tomodask.planar.two_stage import TwoStageReduction
from tomodask.project.averaging2d.job import MOST, Job2D
from tomodask.project.averaging2d.report import write_averaging2d_report
from tomodask.project.averaging2d.round_files import (
    STATE,
    read_round2d,
    resolutions_of,
    write_averages,
    write_round2d,
)
from tomodask.project.averaging2d.view import View2D

__all__ = ["HISTORY", "STAGES", "Averaging", "round_names"]

_log = logging.getLogger(__name__)

STAGES = ("start", *(f"round_{i:02d}" for i in range(1, MOST + 1)), "result")
HISTORY = (
    "round", "score", "resolution", "reassigned", "turned", "moved", "classes", "filled", "twins",
)  # fmt: skip
_COMPONENTS = 20  # of 2SDR
_PATIENCE = 10.0  # seconds between two reports while it works


class Averaging:
    """The way from the start to the result, each step only where its files are not there."""

    def __init__(self, folder: RunFolder, job: Job2D, view: View2D) -> None:
        self.folder, self.job, self.view = folder, job, view
        self.told: dict[str, Any] = folder.document["figures"].setdefault("rounds", {})

    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        names = round_names(self.folder, self.job.settings.rounds)
        figures = self.folder.document["figures"]
        done = self.folder.finished("result") and figures.get("last_round") == (names or [""])[-1]
        return done and self._over(names) and figures.get("embed") == self.job.embed

    def do_all(self) -> None:
        """Do what is missing."""
        state = self._start()
        names = round_names(self.folder, self.job.settings.rounds)
        for name in names:
            shutil.rmtree(self.folder.path / name / "batches", ignore_errors=True)
            self.view.show(self.row(name), None)
        if names:
            state = read_round2d(self.folder.path / names[-1])
            self.view.show(None, state)
        reported = time.monotonic()
        while not self._over(names):
            name = f"round_{len(names) + 1:02d}"
            with self.folder.stage(name, [f"{name}/{STATE}"]):
                at = self.folder.path / name
                state = next_round(
                    self.job.images, state, self.job.settings, checkpoint=at / "batches"
                )
                self.told[name] = self._told(state)
                write_round2d(at, state)
            shutil.rmtree(at / "batches", ignore_errors=True)  # in the state now
            names.append(name)
            self.view.show(self.row(name), state)
            if time.monotonic() - reported > _PATIENCE:
                write_averaging2d_report(self.folder)
                reported = time.monotonic()
        self._finish(names[-1], state)

    def row(self, name: str) -> dict[str, Any]:
        """A finished round as a row of the history, with its seconds."""
        told = {key: _or_nan(value) for key, value in self.told[name].items() if key in HISTORY}
        seconds = self.folder.document["stages"][name]["seconds"]
        return told | {"seconds": float(seconds)}

    def _over(self, names: list[str]) -> bool:
        """Whether no round is to follow these."""
        if not names:
            return False
        return len(names) >= self.job.settings.rounds or bool(self.told[names[-1]]["settled"])

    def _start(self) -> Round2D:
        at = self.folder.path / "start"
        if not self.folder.finished("start"):
            with self.folder.stage("start", [f"start/{STATE}"]):
                state = start_round(
                    self.job.images, self.job.settings, references=self.job.references
                )
                write_round2d(at, state)
        return read_round2d(at)

    def _told(self, state: Round2D) -> dict[str, Any]:
        """A round as JSON knows it: no infinity, no NaN."""
        last = {str(key): value for key, value in state.history.iloc[-1].items()}
        told = {
            **{key: float(last[key]) for key in ("score", "reassigned", "turned", "moved")},
            **{key: int(last[key]) for key in ("round", "filled", "twins")},
            "resolution": float(np.median(_of_filled(state))),
            "classes": int((state.counts > 0).sum()),
            "set_aside": int((state.table["class"] < 1).sum()),
            "settled": bool(state.settled),
        }
        return {
            key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in told.items()
        }

    def _finish(self, name: str, state: Round2D) -> None:
        """The last round's averages and tables where they are looked for; embedding and report."""
        folder, path = self.folder, self.folder.path
        outputs = [
            "averages.mrcs", "averages.zarr", "half1.mrcs", "half2.mrcs", "classes.star",
            "classes.csv", "frc.csv", "particles.star", "particles.csv", "history.csv",
            "report.html",
        ]  # fmt: skip
        embedding = _embedded(state, self.job.embed)
        outputs += ["embedding.csv"] if len(embedding) else []
        with folder.stage("result", outputs) as figures:
            table = self.table(state)
            _tell_aside(table)
            write_averages(path, state, zarr=True)
            for suffix in (".star", ".csv"):
                write = write_image_table if self.job.boxes is None else write_particles
                write(table, path / f"particles{suffix}", overwrite=True)  # type: ignore[operator]
            history = pd.DataFrame([self.row(one) for one in round_names(folder, MOST)])
            history = history[list(HISTORY)].iloc[: int(name.removeprefix("round_"))]
            with replacing(path / "history.csv", overwrite=True) as part:
                history.to_csv(part, index=False)
            if len(embedding):
                self._embed(state, embedding)
            else:
                (path / "embedding.csv").unlink(missing_ok=True)
            figures |= {"last_round": name, "embed": self.job.embed}
            aside = table[table["class"] < 1]
            figures["set_aside"] = {
                "count": len(aside),
                "first": [
                    [str(row.get("image", f"image {place}")), _reason(row)]
                    for place, row in aside.head(20).iterrows()
                ],
            }
            folder.save()
            write_averaging2d_report(folder)

    def table(self, state: Round2D) -> pd.DataFrame:
        """The table of the images, or of the particles that they are projections of."""
        known = image_table(self.job.images)
        found = state.table.set_axis(known.index)
        # What is set aside has no pose, not that of 0.
        without = found["class"] < 1
        for name in ("psi", "shift_y", "shift_x", "score"):
            found[name] = found[name].mask(without)
        if self.job.boxes is not None:
            return boxes_with_classes(self.job.boxes, found)
        table = known.assign(**{str(name): found[name] for name in found})
        table.attrs = known.attrs
        if "image" in table:
            table["image"] = _lasting(table["image"], Path(self.job.source))
        return table

    def _embed(self, state: Round2D, numbers: np.ndarray) -> None:
        """2SDR of the aligned images, and t-SNE where scikit-learn is there, of some of them."""
        images = self.job.images.isel(image=numbers)
        rows = state.table.iloc[numbers]
        laid = transform_images(images, rows, radius=self.job.settings.radius)
        if isinstance(laid.data, da.Array):  # of bounded size, and 2SDR passes over them often
            laid = laid.copy(data=laid.data.persist())
        features = TwoStageReduction(_COMPONENTS).fit_transform(laid)
        values = np.asarray(features.to_numpy())
        columns: dict[str, Any] = {
            "number": numbers + 1,
            "class": rows["class"].to_numpy(),
        }
        if can_embed() and len(numbers) >= 4:
            plane = embed_images(values, seed=self.job.settings.seed)
            columns |= {"tsne_1": plane[:, 0], "tsne_2": plane[:, 1]}
        columns |= {f"component_{i + 1}": one for i, one in enumerate(values.T)}
        with replacing(self.folder.path / "embedding.csv", overwrite=True) as part:
            pd.DataFrame(columns).to_csv(part, index=False)


def round_names(folder: RunFolder, most: int) -> list[str]:
    """Finished rounds, in their order."""
    told, names = folder.document["figures"].get("rounds", {}), []
    for number in range(1, most + 1):
        name = f"round_{number:02d}"
        if not (folder.finished(name) and name in told):
            break
        names.append(name)
    return names


def _embedded(state: Round2D, most: int) -> np.ndarray:
    """Places of the images of the embedding: all, or some that the number of images draws."""
    known = np.flatnonzero(state.table["class"].to_numpy(int) > 0)
    if most < 2 or len(known) < 3:
        return np.empty(0, np.int64)
    if len(known) > most:
        known = np.sort(np.random.default_rng([len(known), most]).choice(known, most, False))
    return known


def _of_filled(state: Round2D) -> np.ndarray:
    """Resolutions of the classes that hold images."""
    found = np.array(resolutions_of(state))[state.counts > 0]
    return found if len(found) else np.array([np.inf])


def _lasting(names: pd.Series, source: Path) -> list[str]:
    """Names of images that hold wherever the table is put: what lies beside the source, in full."""
    known: dict[str, str] = {}
    out = []
    for name in names.astype(str):
        number, at, file = name.rpartition("@")
        if file not in known:
            beside = source.parent / file
            known[file] = str(beside.absolute()) if beside.exists() else file
        out.append(f"{number}{at}{known[file]}")
    return out


def _tell_aside(table: pd.DataFrame) -> None:
    """Name the images that have no pose."""
    aside = table[table["class"] < 1]
    if not len(aside):
        return
    names = aside["image"] if "image" in aside else [f"image {one}" for one in aside.index]
    reasons = [_reason(row) for _, row in aside.iterrows()]
    told = [f"{name} ({reason})" for name, reason in zip(names, reasons, strict=True)]
    more = f" and {len(told) - 5} more" if len(told) > 5 else ""
    _log.warning(
        "%d images are set aside, they have class 0: %s%s", len(told), ", ".join(told[:5]), more
    )


def _reason(row: pd.Series) -> str:
    return str(row.get("reason") or "without a pose")


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
