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
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import shrec
import xarray as xr
from scipy import ndimage
from scipy.spatial import cKDTree

from tomodask.nets.architecture import Architecture
from tomodask.nets.model_file import PickingModel, read_model
from tomodask.picking.blobs import find_blobs
from tomodask.picking.scoring import CLASSIFICATION, LOCALISATION, MEAN, Scores, score_picks
from tomodask.picking.segmentation import segment_tomogram
from tomodask.picking.segmentation_picks import pick_segmentation
from tomodask.picking.template_matching import match_template, pick_particles
from tomodask.picking.training import EpochReport, TrainingSettings, train_picker

SNR = 0.1
MAIN, REFERENCE = "segmentation", "segmentation, short training"
MATCHING, BLOBS = "template matching", "DoG"
TUNED, HINDSIGHT = "threshold of a training tomogram", "threshold in hindsight"


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
    from tomodask.nets.trainer import default_precision

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
        from tomodask.nets.trainer import Optimisation, Trainer

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


def scores_of(picks: pd.DataFrame, tests: Iterable[shrec.Tomogram]) -> Scores:
    """Picks of all test tomograms by SHREC's rule."""
    tests = list(tests)
    truth = pd.concat([one.truth for one in tests], ignore_index=True)
    return score_picks(
        picks, truth, occupancy={one.name: one.labels for one in tests}, voxel_size=10.0
    )


def figures(scores: Scores, *, classes: bool = True) -> dict[str, Any]:
    """What is kept of the scores."""
    table = scores.table.astype(float)  # what is not known becomes NaN
    f1 = dict(zip(map(str, table.index), table["f1"].fillna(0.0).tolist(), strict=True))
    located = table.loc[LOCALISATION, ["precision", "recall", "distance", "picks"]]
    out: dict[str, Any] = {"localisation": f1[LOCALISATION], **located.to_dict()}
    if classes:
        out["classification"] = f1[CLASSIFICATION]
        out["mean of classes"] = f1[MEAN]
        out["classes"] = {kind: f1[kind] for kind in shrec.KINDS}
    return out


# Segmentation


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
            level = max(levels, key=lambda t: _classification(at_level(t, at, tomograms)))
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


def _classification(scores: Scores) -> float:
    return float(scores.table["f1"][CLASSIFICATION])


# Rivals


def blobs(bench: Bench) -> dict[str, Any]:
    """DoG at the median kind's diameter; in hindsight at the best of four, and of thresholds."""
    tests = bench.tests(SNR)
    middle = float(np.median(list(bench.diameters.values())))
    own = best = None
    seconds = []
    for width in (middle, 0.6 * middle, 0.8 * middle, 1.3 * middle):
        tables = []
        for level in (None, 2.0):
            begin = time.perf_counter()
            picks = [find_blobs(t.volume, diameter=width, threshold=level) for t in tests]
            seconds.append((time.perf_counter() - begin) / len(tests))
            tables.append(pd.concat(picks, ignore_index=True))
        if own is None:
            own = figures(scores_of(tables[0], tests), classes=False)
        one = at_best(tables[1], tests)
        if best is None or one["localisation"] > best["localisation"]:
            best = one | {"diameter": width}
    bench.keep(f"{BLOBS}, {HINDSIGHT}", {**best, "seconds": seconds[0]})
    return {**own, "seconds": seconds[0], "diameter": middle}


def at_best(picks: pd.DataFrame, tests: list[shrec.Tomogram]) -> dict[str, Any]:
    """Figures at the threshold of the best localisation F1, found on the very same tomograms."""
    curve = scores_of(picks, tests).curve
    rows = curve[curve["class"] == LOCALISATION]
    threshold = float(rows.loc[rows["f1"].idxmax(), "threshold"])
    kept = picks[picks["score"] >= threshold]
    return figures(scores_of(kept, tests), classes=False)


def step(bench: Bench, kind: str) -> float:
    """Of the rotations, degrees: with finer ones matching takes many times as long, for F1 that was
    the same for 1bxn and 0.03 higher for 5mrc at 15°."""
    return 20.0 if bench.diameters[kind] > 130 else 30.0


def peaks(match: xr.Dataset, reach: float, count: int) -> pd.DataFrame:
    """Local maxima, highest first; none closer than `reach` (Å) to a higher one."""
    score, size = match["score"].to_numpy(), float(match.attrs["voxel_size"])
    width = 2 * max(1, round(reach / size / np.sqrt(3))) + 1
    top = (ndimage.maximum_filter(score, width) == score) & (score > 0)
    places = np.argwhere(top)
    order = np.argsort(-score[top], kind="stable")[: 4 * count]
    table = pd.DataFrame(places[order] * size, columns=["z", "y", "x"])
    table["score"] = score[top][order]
    return apart(table, np.full(len(table), reach)).head(count)


def apart(table: pd.DataFrame, reach: np.ndarray) -> pd.DataFrame:
    """Of rows, the best first, those that lie no closer than `reach` to a better one."""
    tree = cKDTree(table[["z", "y", "x"]])
    kept = np.ones(len(table), bool)
    for row, near in enumerate(tree.query_ball_point(table[["z", "y", "x"]], reach)):
        if kept[row]:
            kept[[other for other in near if other > row]] = False
    return table[kept].reset_index(drop=True)


def matched(bench: Bench, role: str, number: int) -> tuple[pd.DataFrame, pd.DataFrame, float]:
    """Peaks of all kinds' scores; what `pick_particles` takes of them by itself; seconds."""
    one = bench.tomogram(role, number, SNR)
    volume = one.volume.load()
    all_peaks, own, seconds = [], [], 0.0
    for kind, density in bench.templates.items():
        begin = time.perf_counter()
        match = match_template(volume, density, angular_step=step(bench, kind)).compute()
        picks = pick_particles(match, diameter=bench.diameters[kind])
        seconds += time.perf_counter() - begin
        own.append(picks.assign(kind=kind))
        found = peaks(match, bench.diameters[kind] / 2, 10 * bench.plan.copies)
        all_peaks.append(found.assign(kind=kind))
    tables = [pd.concat(t, ignore_index=True).assign(tomogram=one.name) for t in (all_peaks, own)]
    return tables[0], tables[1], seconds


def thresholds(found: pd.DataFrame, tests: list[shrec.Tomogram]) -> dict[str, float]:
    """Of each kind, where the F1 of its class is best if it is picked alone."""
    out = {}
    for kind in shrec.KINDS:
        curve = scores_of(found[found["kind"] == kind], tests).curve
        rows = curve[curve["class"] == kind]
        out[kind] = float(rows.loc[rows["f1"].idxmax(), "threshold"])
    return out


def joined(
    found: pd.DataFrame,
    levels: dict[str, float],
    diameters: dict[str, float],
    *,
    ratio: bool,
    least: float,
) -> pd.DataFrame:
    """One table of all kinds: where two lie on each other the higher score has it.

    By the score itself, or by its ratio to the kind's threshold; above `least` times the threshold.
    """
    over = found["score"] / found["kind"].map(levels)
    table = found.assign(over=over, rank=over if ratio else found["score"])
    table = table[over >= least].sort_values("rank", ascending=False, kind="stable")
    parts = []
    for _, part in table.groupby("tomogram", sort=True):
        part = part.reset_index(drop=True)
        parts.append(apart(part, part["kind"].map(diameters).to_numpy() / 2))
    return pd.concat(parts, ignore_index=True) if parts else table


def templates(bench: Bench) -> dict[str, Any]:
    """Template matching with all twelve templates.  Keeps two kinder rows beside its own."""
    count = bench.setting.test
    runs = [matched(bench, "test", n) for n in range(count)]
    training = matched(bench, "train", 0)
    seconds = float(np.mean([run[2] for run in runs]))
    found = pd.concat([run[0] for run in runs], ignore_index=True)
    own = pd.concat([run[1] for run in runs], ignore_index=True)
    tests = bench.tests(SNR)

    def kindest(rank: Callable[[Scores], float], levels: dict[str, float]) -> dict[str, Any]:
        """The best of both orders and of some common factors of the thresholds."""
        tried = [
            scores_of(joined(found, levels, bench.diameters, ratio=ratio, least=least), tests)
            for ratio in (False, True)
            for least in (0.85, 0.9, 0.95, 1.0, 1.05, 1.1)
        ]
        return figures(max(tried, key=rank))

    # Thresholds and order of a tomogram that the network was trained on.
    known = [bench.tomogram("train", 0, SNR)]
    learned = thresholds(training[0], known)
    ratio = max(
        (False, True),
        key=lambda r: _classification(
            scores_of(joined(training[0], learned, bench.diameters, ratio=r, least=1.0), known)
        ),
    )
    tuned = joined(found, learned, bench.diameters, ratio=ratio, least=1.0)
    bench.keep(
        f"{MATCHING}, {TUNED}",
        figures(scores_of(tuned, tests)) | {"seconds": seconds},
    )
    hindsight = thresholds(found, tests)
    result = kindest(_classification, hindsight)
    located = kindest(lambda scores: scores.f1, hindsight)
    bench.keep(
        f"{MATCHING}, {HINDSIGHT}",
        result | {"localisation": located["localisation"], "seconds": seconds},
    )
    one = dict.fromkeys(shrec.KINDS, 1.0)
    plain = joined(own, one, bench.diameters, ratio=False, least=0.0)
    return figures(scores_of(plain, tests)) | {"seconds": seconds}


# Tables


def _cells(values: Iterable[Any]) -> str:
    return "| " + " | ".join(map(str, values)) + " |"


def _f1(result: dict[str, Any], name: str) -> str:
    return f"{result[name]:.3f}" if name in result else "–"


def _beside(one: dict[str, Any], base: dict[str, Any] | None, name: str) -> str:
    """F1, and how much more it is than the base's."""
    if base is None or one is base or name not in one:
        return _f1(one, name)
    return f"{one[name]:.3f} ({one[name] - base[name]:+.3f})".replace("-", "−")


METHODS = tuple(
    f"{method}{how}"
    for method in (MAIN, MATCHING, BLOBS)
    for how in ("", f", {TUNED}", f", {HINDSIGHT}")
)


def tables(bench: Bench) -> None:
    """What is known so far."""
    results = bench.results
    print("\n| method | localisation F1 | classification F1 | mean of classes | s / tomogram |")
    print("|---|---|---|---|---|")
    for name in (REFERENCE, *METHODS):
        if name in results:
            one = results[name]
            f1 = [_f1(one, key) for key in ("localisation", "classification", "mean of classes")]
            print(_cells([name, *f1, f"{one['seconds']:.1f}"]))
    shown = [name for name in METHODS if "classes" in results.get(name, {})]
    print("\n" + _cells(["kind", "kDa", "Å across", *shown]))
    print("|" + "---|" * (3 + len(shown)))
    kilodaltons = shrec.weights(bench.structures)
    for kind in sorted(shrec.KINDS, key=kilodaltons.__getitem__):
        values = [f"{results[name]['classes'][kind]:.2f}" for name in shown]
        print(_cells([kind, f"{kilodaltons[kind]:.0f}", f"{bench.diameters[kind]:.0f}", *values]))
    print("\n| changed | of | localisation F1 | classification F1 | training s | s / tomogram |")
    print("|---|---|---|---|---|---|")
    for variant in _variants(bench.setting):
        one, base = results.get(variant.name), results.get(variant.base)
        if one is None:
            continue
        f1 = [_beside(one, base, key) for key in ("localisation", "classification")]
        times = [f"{one['training seconds']:.0f}", f"{one['seconds']:.1f}"]
        print(_cells([variant.name, "" if one is base else variant.base, *f1, *times]))
    if "simulation" in results:
        spent = results["simulation"].values()
        print(f"\nsimulation: {len(spent)} tomograms, {sum(spent):.0f} s")
    verdict(results)


def verdict(results: dict[str, Any]) -> None:
    """Whether the networks are ahead of each rival, in F1 and in time."""
    print()
    for name in METHODS[3:]:
        how = name.partition(",")[2]
        for mine in (f"{MAIN},{how}" if how else MAIN, REFERENCE):
            ours, other = results.get(mine), results.get(name)
            if ours is None or other is None:
                continue
            said = [
                f"{key} F1 {ours[key]:.3f} to {other[key]:.3f}"
                + ("" if ours[key] > other[key] else " (BEHIND)")
                for key in ("localisation", "classification")
                if key in other and key in ours
            ]
            ratio = other["seconds"] / ours["seconds"]
            said.append(f"{ratio:.2g} times as fast" + ("" if ratio > 1 else " (BEHIND)"))
            print(f"{mine} against {name}: {', '.join(said)}")


def figure(bench: Bench, path: Path) -> None:
    """F1 of each kind against its molecular weight."""
    import matplotlib.pyplot as plt

    kilodaltons = shrec.weights(bench.structures)
    kinds = sorted(shrec.KINDS, key=kilodaltons.__getitem__)
    weights = [kilodaltons[kind] for kind in kinds]
    drawn, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    styles = dict(zip(METHODS[:6], ("o-", "o--", "o:", "s-", "s--", "s:"), strict=True))
    for name, style in styles.items():
        if name in bench.results:
            color = "C0" if name.startswith(MAIN) else "C1"
            values = [bench.results[name]["classes"][kind] for kind in kinds]
            axes.plot(weights, values, style, color=color, label=name, ms=4, lw=1.2)
    groups = np.split(np.arange(len(kinds)), np.flatnonzero(np.diff(np.log(weights)) > 0.2) + 1)
    for group in groups:  # names of kinds of nearly the same weight would lie on each other
        where = float(np.exp(np.mean(np.log(np.take(weights, group)))))
        said = "\n".join(kinds[i] for i in group[::-1])
        place = {"ha": "center", "va": "bottom", "annotation_clip": False}
        axes.annotate(said, (where, 1.03), fontsize=7, **place)
    axes.set_xscale("log")
    axes.set_xlabel("molecular weight (kDa)")
    axes.set_ylabel("F1 of the class")
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    drawn.savefig(path, dpi=120)
    plt.close(drawn)


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
    tables(bench)
    if options.figure is not None:
        figure(bench, options.figure)


if __name__ == "__main__":
    main()
