"""How well particles are found and told apart: segmentation, its ablations, and its rivals.

    python benchmarks/picking_accuracy.py --structures DIR [--setting small] [--data DIR]
        [--only NAME ...] [--minutes M] [--figure FILE]

Tomograms of the twelve kinds of SHREC 2021 (`shrec.py`): a network learns on few of them and is
held, with template matching and a difference of Gaussians, against others that it has not seen, by
SHREC's rule (a pick is right in a voxel of the particle or next to one).  Then one thing at a time
is changed: the labels, the number of tomograms, marks that are off their particles, the noise, and
each part of the network.

``small`` takes under an hour on two cores; ``large`` is for a GPU.  What is done is kept in a JSON
file in `--data`: the same call goes on where it was stopped, in the middle of a training too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import shrec
import xarray as xr
from picking_rivals import blobs, templates
from picking_tables import (
    BLOBS,
    HINDSIGHT,
    MAIN,
    MATCHING,
    REFERENCE,
    TUNED,
    classification,
    figure,
    figures,
    scores_of,
    tables,
)

from tomodask.nets.segmentation.architecture import Architecture
from tomodask.nets.segmentation.model_file import PickingModel, read_model
from tomodask.picking.learning.training import EpochReport, TrainingSettings, train_picker
from tomodask.picking.scoring.scores import Scores
from tomodask.picking.segmentation.picks import pick_segmentation
from tomodask.picking.segmentation.segmenting import segment_tomogram

SNR = 0.1


@dataclass(frozen=True)
class Setting:
    """How large all is.

    Attributes
    ----------
    train, test : int
        Tomograms.
    main, short : TrainingSettings
        Of the network that is held against the rivals; of all others and the one they are held
        against.
    tell_apart : bool
        The others learn the kinds too; else only where particles are, which takes a fraction of
        the steps.
    """

    train: int
    test: int
    main: TrainingSettings
    short: TrainingSettings
    tell_apart: bool = False


def _training(
    channels: tuple[int, ...], crop: int, jitter: int, epochs: int, examples: int, batch: int
) -> TrainingSettings:
    from tomodask.nets.training_step import default_precision

    return TrainingSettings(
        architecture=Architecture(channels=channels),
        crop=crop,
        jitter=jitter,
        epochs=epochs,
        examples=examples,
        batch=batch,
        learning_rate=3e-3,
        dice="particles",
        entropy=1.0,
        precision=default_precision(),
        seed=1,
    )


def _settings() -> dict[str, Setting]:
    thin, paper = (8, 32, 64, 96), (24, 48, 72, 108)
    tiny = _training(thin, 32, 8, 2, 16, 4)
    return {
        "tiny": Setting(2, 1, tiny, tiny),  # to see that all runs
        "small": Setting(
            4, 2, _training(thin, 48, 12, 14, 360, 3), _training(thin, 48, 12, 3, 150, 3)
        ),
        "large": Setting(
            8,
            2,
            _training(paper, 72, 14, 60, 800, 8),
            _training(paper, 72, 14, 30, 400, 8),
            tell_apart=True,
        ),
    }


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes
    ----------
    name, group : str
    network : dict
        What differs in `Architecture`.
    training : dict
        What differs in `TrainingSettings`.
    tomograms : int, optional
        Trained on so many; None for all.
    off : (float, float)
        Marks are moved by so many radii, drawn between the two.
    snr : float
        Of the tomograms trained on.
    test_snr : float
        Of those tested on.
    segment, pick : dict
        Arguments of `segment_tomogram` and `pick_segmentation`.
    base : str
        The row it is held against; a row whose base is the main network is of that network.
    """

    name: str
    group: str
    network: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    tomograms: int | None = None
    off: tuple[float, float] = (0.0, 0.0)
    snr: float = SNR
    test_snr: float = SNR
    segment: dict[str, Any] = field(default_factory=dict)
    pick: dict[str, Any] = field(default_factory=dict)
    base: str = REFERENCE

    @property
    def long(self) -> bool:
        return self.base == MAIN


def _variants(setting: Setting) -> list[Variant]:
    crop = setting.short.crop
    ablation = "ablation"
    tiles: dict[str, Any] = {"tile": crop, "halo": 8}
    bare = {"tile": crop, "halo": 0}
    return [
        Variant(MAIN, "methods", base=MAIN),
        Variant("test SNR 0.3", "noise", test_snr=0.3, base=MAIN),
        Variant("test SNR 0.03", "noise", test_snr=0.03, base=MAIN),
        Variant("no double-drop", ablation, pick={"min_distance": 0.0}, base=MAIN),
        Variant("kinds in masks of their own", ablation, pick={"jointly": False}, base=MAIN),
        Variant(f"tiles of {crop}, halo 8", ablation, segment=tiles, base=MAIN),
        Variant(f"tiles of {crop}, no overlap", ablation, segment=bare, base=MAIN),
        Variant(REFERENCE, REFERENCE),
        Variant("another seed", REFERENCE, training={"seed": 2}),
        Variant("label: cube", "label", training={"label": "cube"}),
        Variant("label: ball", "label", training={"label": "ball"}),
        *(
            Variant(f"trained on {n} of {setting.train} tomograms", "tomograms", tomograms=n)
            for n in (1, 2)
            if n < setting.train
        ),
        Variant("marks off by 0.5–0.7 r", "marks", off=(0.5, 0.7)),
        Variant("SNR 0.03 in the tests", "noise", test_snr=0.03),
        Variant("SNR 0.03 in training and tests", "noise", snr=0.03, test_snr=0.03),
        Variant("no residual blocks", ablation, network={"residual": False}),
        Variant("ReLU", ablation, network={"activation": "relu"}),
        Variant("max pooling", ablation, network={"pooling": "max"}),
        Variant("no coordinates", ablation, network={"coordinates": "none"}),
        Variant(
            f"coordinates of the patch, tiles of {crop}, halo 8",
            ablation,
            network={"coordinates": "patch"},
            segment=tiles,
        ),
        Variant("no pyramid", ablation, network={"pyramid": False}),
        *(
            [Variant("Dice of each kind", ablation, training={"dice": "classes"})]
            if setting.tell_apart
            else []
        ),
    ]


class Bench:
    """What the rows have in common: tomograms, models, and the file of results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.setting = _settings()[options.setting]
        self.plan = shrec.PLANS[options.setting]
        self.structures: Path = options.structures
        self.data: Path = options.data
        self.minutes: float | None = options.minutes
        self.data.mkdir(parents=True, exist_ok=True)
        self.file = self.data / f"results-{options.setting}.json"
        self.results: dict[str, Any] = {}
        if self.file.exists():
            self.results = json.loads(self.file.read_text())
        self.templates = {kind: shrec.template(kind, self.structures) for kind in shrec.KINDS}
        self.diameters = {kind: shrec.diameter(one) for kind, one in self.templates.items()}
        self.copies, self.snr = self.plan.copies, SNR

    @cache  # noqa: B019  one bench a run
    def tomogram(self, role: str, number: int, snr: float) -> shrec.Tomogram:
        """The same specimen at any SNR."""
        seed = (
            number + {"train": 100, "test": 300}[role]
        )  # from 200 on: looked at while this was made
        one = shrec.tomogram(
            self.plan,
            self.structures,
            self.data,
            name=f"{role}{number}-snr{snr:g}",
            seed=seed,
            snr=snr,
        )
        if one.seconds:
            self.keep("simulation", {**self.results.get("simulation", {}), one.name: one.seconds})
            print(f"  simulated {one.name}: {len(one.truth)} particles, {one.seconds:.0f} s")
        return one

    def tests(self, snr: float) -> list[shrec.Tomogram]:
        return [self.tomogram("test", n, snr) for n in range(self.setting.test)]

    def keep(self, name: str, result: dict[str, Any]) -> None:
        self.results[name] = result
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.results, indent=1))
        os.replace(part, self.file)

    def apart(self, variant: Variant) -> bool:
        """Whether a variant tells kinds apart."""
        return variant.long or self.setting.tell_apart

    def training_settings(self, variant: Variant) -> TrainingSettings:
        one = self.setting.main if variant.long else self.setting.short
        network = replace(one.architecture, **variant.network)
        one = replace(one, architecture=network, **variant.training)
        return one if self.minutes is None else self._within(one, self.minutes)

    def _within(self, one: TrainingSettings, minutes: float) -> TrainingSettings:
        """As many crops as the minutes hold, by the speed of a few steps."""
        from tomodask.nets.segmentation.trainer import Optimisation, Trainer

        network = replace(one.architecture, classes=len(shrec.KINDS))
        trainer = Trainer(network, Optimisation(1, 6, precision=one.precision))
        shape = (one.batch, *(one.crop,) * 3)
        crops, label = np.zeros(shape, np.float32)[:, None], np.zeros(shape, np.uint8)
        trainer.train([(crops, label)] * 2)
        begin = time.perf_counter()
        trainer.train([(crops, label)] * 2)
        seconds = (time.perf_counter() - begin) / 2
        steps = max(1, int(0.9 * 60 * minutes / seconds / one.epochs))  # a tenth for validation
        return replace(one, examples=steps * one.batch)

    def model(self, variant: Variant) -> tuple[PickingModel, float, str]:
        """The trained network, the seconds of its epochs, its name."""
        of_tests = ("name", "group", "segment", "pick", "test_snr")
        told: list[Any] = [asdict(variant) | dict.fromkeys(of_tests), self.apart(variant)]
        told += [0 if self.minutes else self.training_settings(variant).to_dict()]
        told += [self.minutes, asdict(self.plan)]
        name = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:10]
        path = self.data / "models" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        done = path.with_suffix(".done")
        if not done.exists():
            self._train(variant, path)
            done.touch()
        model = read_model(path)
        return model, float(sum(row["seconds"] for row in model.history)), name

    def _train(self, variant: Variant, path: Path) -> None:
        count = variant.tomograms or self.setting.train
        sources = [self.tomogram("train", n, variant.snr) for n in range(count)]
        marks = pd.concat([one.truth for one in sources], ignore_index=True)
        marks = moved(marks, self.diameters, variant.off, self.plan)
        kinds, diameters = list(shrec.KINDS), self.diameters
        if self.apart(variant):
            marks = marks.rename(columns={"class": "kind"})
        else:
            kinds, marks = ["particle"], marks.assign(kind="particle").drop(columns="class")
            diameters = {"particle": float(np.median(list(self.diameters.values())))}
        settings = self.training_settings(variant)
        print(
            f"  training on {len(marks)} particles, {settings.epochs} × {settings.examples} crops"
        )

        def tell(report: EpochReport) -> None:
            print(
                f"    epoch {report.epoch}/{report.epochs}: loss {report.loss:.3f}, held out "
                f"F1 {report.f1:.2f}, {report.seconds:.0f} s",
                flush=True,
            )

        train_picker(
            [one.volume for one in sources],
            marks,
            diameter=diameters,
            classes=kinds,
            any_size=True,  # SHREC's smallest kinds are 5 voxels across
            settings=settings,
            output=path,
            resume=True,
            on_epoch=tell,
        )


def moved(
    marks: pd.DataFrame,
    diameters: dict[str, float],
    off: tuple[float, float],
    plan: shrec.Plan,
) -> pd.DataFrame:
    """Marks moved in a random direction by a share of their particle's radius."""
    if off == (0.0, 0.0):
        return marks
    rng = np.random.default_rng(7)
    way = rng.standard_normal((len(marks), 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    radius = marks["class"].map(diameters).to_numpy() / 2
    way *= (rng.uniform(*off, len(marks)) * radius)[:, None]
    last = (np.array(plan.shape) - 1) * shrec.VOXEL_SIZE
    places = np.clip(marks[["z", "y", "x"]].to_numpy(float) + way, 0, last)
    return marks.assign(**dict(zip("zyx", places.T, strict=True)))


def segmented(bench: Bench, variant: Variant) -> dict[str, Any]:
    """Train, unless it is trained; segment and pick the test tomograms; score."""
    model, seconds, name = bench.model(variant)
    tests = bench.tests(variant.test_snr)
    how = {"precision": bench.setting.short.precision, **variant.segment}
    probabilities, tables, spent = [], [], []
    for one in tests:
        begin = time.perf_counter()
        probabilities.append(segment_tomogram(one.volume, model, **how).compute())
        middle = time.perf_counter()
        tables.append(picked(probabilities[-1], one, **variant.pick))
        spent.append((middle - begin, time.perf_counter() - middle))
    timed = {
        "training seconds": seconds,
        "seconds": float(np.mean([sum(both) for both in spent])),
        "picking seconds": float(np.mean([both[1] for both in spent])),
        "halo": variant.segment.get("halo", model.halo),
        "model": name,
    }
    if variant.name == MAIN:
        # As for the rivals: a threshold from a tomogram of the training, or from the tests.
        known = [bench.tomogram("train", 0, SNR)]
        seen = [segment_tomogram(known[0].volume, model, **how).compute()]
        levels = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
        for row, at, tomograms in ((TUNED, seen, known), (HINDSIGHT, probabilities, tests)):
            level = max(levels, key=lambda t: classification(at_level(t, at, tomograms)))
            result = figures(at_level(level, probabilities, tests))
            bench.keep(f"{MAIN}, {row}", {**result, **timed, "threshold": level})
    table = pd.concat(tables, ignore_index=True)
    if bench.apart(variant):
        return figures(scores_of(table, tests)) | timed
    return figures(scores_of(table.drop(columns=["kind", "class"]), tests), classes=False) | timed


def picked(probability: xr.DataArray, one: shrec.Tomogram, **how: Any) -> pd.DataFrame:
    return pick_segmentation(probability, **how).assign(tomogram=one.name)


def at_level(
    threshold: float, probabilities: list[xr.DataArray], tomograms: list[shrec.Tomogram]
) -> Scores:
    both = zip(probabilities, tomograms, strict=True)
    tables = [picked(probability, one, threshold=threshold) for probability, one in both]
    return scores_of(pd.concat(tables, ignore_index=True), tomograms)


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--structures", type=Path, required=True, help="see shrec.py")
    parser.add_argument("--setting", choices=_settings(), default="small")
    parser.add_argument("--data", type=Path, default=Path("picking-accuracy"))
    parser.add_argument("--only", nargs="+", help="rows, by name or the beginning of it")
    parser.add_argument("--minutes", type=float, help="of each training, in place of its steps")
    parser.add_argument("--figure", type=Path, help="F1 against molecular weight, drawn here")
    options = parser.parse_args()
    dask.config.set(scheduler="threads")
    bench = Bench(options)
    rows: dict[str, Callable[[], dict[str, Any]]] = {
        MATCHING: lambda: templates(bench),
        BLOBS: lambda: blobs(bench),
    }
    for variant in _variants(bench.setting):
        rows[variant.name] = lambda variant=variant: segmented(bench, variant)
    begin = time.perf_counter()
    for name, work in rows.items():
        wanted = options.only is None or any(name.startswith(part) for part in options.only)
        if name in bench.results or not wanted:
            continue
        print(name, flush=True)
        start = time.perf_counter()
        result = work()
        bench.keep(name, result)
        f1 = f"localisation {result['localisation']:.3f}, " + (
            f"classification {result['classification']:.3f}" if "classification" in result else ""
        )
        print(f"  F1: {f1}; {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{(time.perf_counter() - begin) / 60:.1f} min in this call")
    kilodaltons = shrec.weights(bench.structures)
    tables(bench.results, _variants(bench.setting), kilodaltons, bench.diameters)
    if options.figure is not None:
        figure(bench.results, kilodaltons, options.figure)


if __name__ == "__main__":
    main()
