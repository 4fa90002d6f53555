"""Training of a picking network on marked particles, epoch by epoch, resumable.

The data are in `training_data` and `crops`, the arithmetic in `tomodask.nets.trainer`, the pictures
in `training_view`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from tomodask.data.statistics import volume_statistics
from tomodask.errors import InputError
from tomodask.nets.architecture import Architecture
from tomodask.nets.model_file import PickingModel, read_model, write_model
from tomodask.picking.crops import CropSampler, TrainingTomogram, split
from tomodask.picking.labels import LabelKind
from tomodask.picking.training_data import Marked, read_marked

__all__ = ["EpochReport", "TrainingSettings", "train_picker"]

_log = logging.getLogger(__name__)

_RECALL_WEIGHT = 0.7  # of recall against precision, where the best epoch is chosen
_HALO = 16  # voxels, until the network's reach is measured
_TOLERATED = 0.02  # change of a probability by cutting a tile, in 99.9 % of the voxels
_SHOWN = 24  # crops of validation at most


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained; all that the result depends on beside the data.

    Attributes
    ----------
    architecture : Architecture
        `classes` is set from the picks.
    label : {"truncated_ball", "ball", "cube"}
    label_diameter : int
        Of the label about each centre, voxels, at least 3.
    crop : int
        Edge of the training crops, voxels.
    jitter : int
        How far a crop's centre may be from its particle, voxels along each axis.
    background : float
        Share of crops at random places.
    augment : bool
        Mirror, turn, scale and bend the crops.
    epochs : int
    examples : int
        Crops of an epoch; 0 for as many as there are particles, 64 to 400.
    batch : int
        Crops of a step.
    learning_rate : float
        The highest of the one-cycle schedule.
    entropy : float
        Weight of the cross-entropy beside the Dice loss; 0 is the paper's.
    validation : float
        Share of the particles that is held out, in a place of their own.
    invert : bool
        Multiply tomograms by −1.
    precision : {"float32", "bfloat16"}
    seed : int
    """

    architecture: Architecture = field(default_factory=Architecture)
    label: LabelKind = "truncated_ball"
    label_diameter: int = 7
    crop: int = 64
    jitter: int = 14
    background: float = 0.1
    augment: bool = True
    epochs: int = 60
    examples: int = 0
    batch: int = 8
    learning_rate: float = 1e-3
    entropy: float = 0.0
    validation: float = 0.15
    invert: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        multiple = self.architecture.multiple
        rules = (
            ("label_diameter", 3 <= self.label_diameter <= 64, "3 to 64 voxels"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("examples", self.examples >= 0, "at least 0"),
            ("batch", self.batch >= 1, "at least 1"),
            ("jitter", 0 <= self.jitter < self.crop / 2, "0 to half of crop"),
            ("background", 0 <= self.background < 1, "at least 0 and below 1"),
            ("validation", 0 < self.validation <= 0.5, "above 0 and at most 0.5"),
            ("learning_rate", 0 < self.learning_rate < 10, "above 0 and below 10"),
            ("entropy", 0 <= self.entropy < 1e3, "at least 0"),
            ("seed", self.seed >= 0, "at least 0"),
            (
                "crop",
                16 <= self.crop <= 512 and self.crop % multiple == 0,
                f"16 to 512 voxels, a multiple of {multiple}",
            ),
            ("precision", self.precision in ("float32", "bfloat16"), "float32 or bfloat16"),
        )
        for name, kept, rule in rules:
            if not kept:
                raise InputError(f"{name} must be {rule}, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "architecture": self.architecture.to_dict()}


@dataclass(frozen=True)
class EpochReport:
    """What an epoch of training came to.

    Attributes
    ----------
    epoch, epochs : int
        This one, from 1, and all.
    loss, learning_rate : float
        Mean over the epoch; at its end.
    precision, recall, f1 : float
        On the held-out part: particles found and claimed, all classes together.
    seconds : float
        That the epoch took, validation included.
    image, label, prediction : array, shapes (y, x), (y, x), (classes, y, x)
        A slice of a held-out crop: voxels (z-score), label (0, or class from 1; 255 has no say),
        probabilities.
    classes : tuple of str
    """

    epoch: int
    epochs: int
    loss: float
    learning_rate: float
    precision: float
    recall: float
    f1: float
    seconds: float
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    classes: tuple[str, ...]


def train_picker(
    tomograms: Any,
    picks: pd.DataFrame | str | os.PathLike[str],
    *,
    diameter: float | Mapping[str, float],
    settings: TrainingSettings | None = None,
    output: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    voxel_size: float | None = None,
    any_size: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> PickingModel:
    """Train a segmentation network on marked particle centres (DeepETPicker [1]_).

    Parameters
    ----------
    tomograms : path, DataArray, or a sequence of them
        Of one voxel size.
    picks : DataFrame or path
        Centres of some particles, any table that `read_particles` reads; with several tomograms,
        ``tomogram`` has their names.  Classes are column ``kind`` (names), else ``class``.
        Particles that are not marked count as background: in the marked region mark all.
    diameter : float or mapping of str to float
        Of the particles, Å; a mapping has each class's.
    settings : TrainingSettings, optional
    output : path, optional
        The model file, ``.safetensors``; beside it a folder of the same stem, ``.training``, with
        the state that `resume` goes on from, ``history.csv``, curves and slices.  The file is there
        from the first epoch on and is the best one so far.  None keeps nothing.
    classes : sequence of str, optional
        Only these, in this order.
    voxel_size : float, optional
        Å; in place of what the tomograms say.
    any_size : bool
        Train also where particles are not 7 to 25 voxels across.
    resume : bool
        Go on where a training of the same data and settings stopped; the result is the same to the
        last bit as without the stop, on the same machine.
    overwrite : bool
        Drop a training that is there.
    threads : int, optional
        Of PyTorch on the CPU.
    on_epoch : callable, optional
        Gets an `EpochReport` after each epoch; by default the live view of `watch_training`.

    Returns
    -------
    PickingModel
        The epoch of the best validation score: F1 that weights recall by 0.7.

    Raises
    ------
    InputError
        If particles, classes, sizes or settings do not go together; if the loss is no number any
        more (the state of the last whole epoch is kept); if memory does not hold one crop.

    References
    ----------
    .. [1] Liu et al., Nat. Commun. 15, 2090 (2024), doi:10.1038/s41467-024-46041-0.
    """
    settings = settings or TrainingSettings()
    marked = read_marked(
        tomograms,
        picks,
        diameter=diameter,
        classes=classes,
        voxel_size=voxel_size,
        any_size=any_size,
    )
    settings = replace(
        settings, architecture=replace(settings.architecture, classes=len(marked.classes))
    )
    target = _target(output, resume=resume, overwrite=overwrite)
    folder = None if target is None else target.with_suffix(".training")
    if on_epoch is None:
        from tomodask.picking.training_view import watch_training

        on_epoch = watch_training(folder)
    sources = _normalised(marked, settings)
    training, held_out = split(sources, settings.validation, settings.seed)
    run = _Run(marked, settings, training, held_out, threads=threads)
    if folder is not None:
        folder.mkdir(exist_ok=True)
        state = folder / "state.safetensors"
        if resume and state.exists():
            run.take_up(state)
    return run.to_the_end(target, folder, on_epoch)


def _target(output: str | os.PathLike[str] | None, *, resume: bool, overwrite: bool) -> Path | None:
    if output is None:
        return None
    target = Path(output)
    if target.suffix.lower() != ".safetensors":
        raise InputError(f"output {str(output)!r} must end with .safetensors, a model file")
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target}: the folder {target.parent} does not exist; make it first")
    folder = target.with_suffix(".training")
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
        target.unlink(missing_ok=True)
    elif not resume and (target.exists() or (folder / "state.safetensors").exists()):
        there = target if target.exists() else folder
        raise InputError(
            f"{there} exists already: go on with it (resume=True, --resume), or drop it "
            "(overwrite=True, --overwrite), or choose another name"
        )
    return target


def _normalised(marked: Marked, settings: TrainingSettings) -> list[TrainingTomogram]:
    """The tomograms with their mean and spread; computes."""
    sources = []
    for volume, centers, numbers in zip(
        marked.volumes, marked.centers, marked.numbers, strict=True
    ):
        statistics = volume_statistics(volume)
        statistics.require_finite(str(volume.attrs.get("source") or volume.name))
        if not statistics.std > 0:
            raise InputError(f"{volume.name}: all voxels are {statistics.mean:g}; nothing to learn")
        sign = -1.0 if settings.invert else 1.0  # (x − mean) / −std is the inverted z-score
        sources.append(
            TrainingTomogram(
                volume=volume,
                mean=statistics.mean,
                std=sign * statistics.std,
                centers=centers,
                classes=numbers,
            )
        )
    return sources


class _Run:
    """A training between two epochs."""

    def __init__(
        self,
        marked: Marked,
        settings: TrainingSettings,
        training: CropSampler,
        held_out: CropSampler,
        *,
        threads: int | None,
    ) -> None:
        from tomodask.nets.trainer import Optimisation, Trainer

        self.marked, self.settings = marked, settings
        self.training, self.held_out = training, held_out
        count = settings.examples or int(np.clip(len(training), 64, 400))
        self.steps = max(1, count // settings.batch)
        self.trainer = Trainer(
            settings.architecture,
            Optimisation(
                epochs=settings.epochs,
                steps=self.steps,
                learning_rate=settings.learning_rate,
                entropy=settings.entropy,
                precision=settings.precision,
                seed=settings.seed,
            ),
            threads=threads,
        )
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, np.ndarray] | None = None
        self.best_score = -1.0
        # What must be the same where a training goes on.
        told = [settings.to_dict(), marked.told(), marked.classes, marked.diameters]
        places = [c.tobytes() for c in marked.centers]
        text = json.dumps(told, sort_keys=True).encode() + b"".join(places)
        self.identity = hashlib.sha256(text).hexdigest()[:32]

    def take_up(self, state: Path) -> None:
        """Go on from a state that `put_down` left."""
        told, best = self.trainer.load(state)
        if told.get("identity") != self.identity:
            changed = _changed(told.get("settings", {}), self.settings.to_dict())
            raise InputError(
                f"{state.parent} is of another training ({changed}); give the same tomograms, "
                "picks and settings, or start anew (overwrite=True, --overwrite)"
            )
        self.history, self.best_score, self.best = told["history"], told["best_score"], best

    def put_down(self, state: Path) -> None:
        """Keep all that going on needs."""
        told = {
            "identity": self.identity,
            "settings": self.settings.to_dict(),
            "history": self.history,
            "best_score": self.best_score,
        }
        self.trainer.save(state, told, self.best)

    def to_the_end(
        self,
        target: Path | None,
        folder: Path | None,
        on_epoch: Callable[[EpochReport], None],
    ) -> PickingModel:
        """All epochs that are left, then the network's reach."""
        from tomodask.nets.trainer import TrainingDivergedError

        epochs = self.settings.epochs
        for epoch in range(len(self.history), epochs):
            try:
                report, better = self._epoch(epoch)
            except TrainingDivergedError as error:
                kept = f"; {folder} keeps the state after epoch {epoch}" if folder else ""
                best = f", {target} the best network" if target and self.best else ""
                raise TrainingDivergedError(
                    f"epoch {epoch + 1} of {epochs}: {error}{kept}{best}"
                ) from error
            if folder is not None and target is not None:
                self.put_down(folder / "state.safetensors")
                if better:
                    write_model(self._model(()), target)
            on_epoch(report)
        model = self._model(self._reach())
        if target is not None:
            write_model(model, target)
            return read_model(target)
        return model

    def _epoch(self, epoch: int) -> tuple[EpochReport, bool]:
        start = time.perf_counter()
        batch, count = self.settings.batch, self.steps * self.settings.batch
        with ThreadPoolExecutor(2) as pool:
            examples = _ahead(
                pool, lambda i: self.training.example(epoch, i), range(count), depth=2 * batch
            )
            loss = self.trainer.train(_batches(examples, batch))
            shown = min(len(self.held_out), _SHOWN)
            held_out = list(_ahead(pool, self.held_out.validation, range(shown), depth=2 * batch))
        counts, first = self.trainer.evaluate(_batches(iter(held_out), batch))
        score = counts.f_score(_RECALL_WEIGHT)
        # A later epoch of the same score has learned more: the schedule ends with small steps.
        better = score >= self.best_score
        if better:
            self.best_score, self.best = score, self.trainer.weights()
        row = {
            "epoch": epoch + 1,
            "loss": loss,
            "learning_rate": self.trainer.learning_rate,
            "precision": counts.precision,
            "recall": counts.recall,
            "f1": counts.f_score(),
            "seconds": time.perf_counter() - start,
        }
        self.history.append(row)
        crop, label = held_out[0]
        middle = crop.shape[1] // 2
        assert first is not None
        return EpochReport(
            **row,
            epochs=self.settings.epochs,
            image=crop[0, middle],
            label=label[middle],
            prediction=first[:, middle],
            classes=self.marked.classes,
        ), better

    def _model(self, reach: tuple[tuple[int, float], ...]) -> PickingModel:
        assert self.best is not None
        kept = [halo for halo, change in reach if change <= _TOLERATED]
        halo = min(kept, default=max((h for h, _ in reach), default=_HALO))
        return PickingModel(
            architecture=self.settings.architecture,
            weights=self.best,
            classes=self.marked.classes,
            diameters=self.marked.diameters,
            voxel_size=self.marked.voxel_size,
            halo=halo,
            label_diameter=self.settings.label_diameter,
            invert=self.settings.invert,
            reach=reach,
            history=tuple(self.history),
            training={
                "settings": self.settings.to_dict(),
                "data": self.marked.told(),
                "versions": _versions(),
            },
        )

    def _reach(self) -> tuple[tuple[int, float], ...]:
        """How far the trained network looks, on a held-out place."""
        from tomodask.picking.segmentation import measure_reach

        return measure_reach(self._model(()), self.held_out.region(96))


def _changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    names = [name for name in new if old.get(name) != new[name]]
    told = ", ".join(f"{name} was {old.get(name)!r}, is {new[name]!r}" for name in names)
    return told or "other tomograms, picks or diameters"


def _ahead(
    pool: ThreadPoolExecutor, make: Callable[[int], Any], numbers: range, *, depth: int
) -> Iterator[Any]:
    """Results in order, `depth` of them made in advance."""
    rest = iter(numbers)
    waiting: list[Future[Any]] = [pool.submit(make, n) for n in islice(rest, depth)]
    try:
        while waiting:
            done = waiting.pop(0).result()
            waiting.extend(pool.submit(make, n) for n in islice(rest, 1))
            yield done
    finally:
        for one in waiting:
            one.cancel()


def _batches(
    examples: Iterator[tuple[np.ndarray, np.ndarray]], size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while part := list(islice(examples, size)):
        crops, labels = zip(*part, strict=True)
        yield np.stack(crops), np.stack(labels)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("tomodask", "torch", "numpy", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
