"""The tables of the subdivision paper: accuracy, structures left out, cluster sizes.

    python benchmarks/subdivision.py --structures DIR [--full] [--data DIR] [--only NAME ...]
        [--figure FILE]

Boxes of 22 complexes and of nothing (`subdivision_boxes.py`) at three tilt ranges, the paper's five
SNRs and three lower ones.

1. Accuracy of Inception3D, DSRF3D and RIF-SVM (`accuracy`, `baseline`, `own`).
2. Structures that a network was never shown: are they clusters of its features, and what does
   their average look like (`recovery`, `subdivision_recovery.py`)?
3. Sizes of the clusters, beside those of k-means on boxes at normalised poses (`evenness`,
   `subdivision_evenness.py`).

The reduced setting is for two cores: boxes of 24³ voxels over the paper's field, one network for
all 24 conditions in place of 24, fewer boxes, several complexes left out at a time.  RIF-SVM is
fitted to each condition, its two parameters by a fifth of the training boxes.  ``--full`` is the
paper's: 40³, 500 boxes of a class to train and 500 to test, 20 epochs, a network a condition, one
complex left out at a time; for a GPU.

What is done is kept in `--data`: the same call goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import dask
import numpy as np
import subdivision_tables as tables
from subdivision_boxes import CLASSES, HARDER, KINDS, SNRS, TILTS, Amount, Boxes, Drawn
from subdivision_evenness import evenness_rows
from subdivision_networks import Condition, Recipe, predictor, train
from subdivision_recovery import alike, recover

from tomodask.classification.features.maps import map_features
from tomodask.classification.features.rotation_invariant import RifSvm, RotationInvariant
from tomodask.nets.boxes.model_file import BoxModel

CONDITIONS: tuple[Condition, ...] = tuple(product(TILTS, (*SNRS, *HARDER)))
AT: Condition = (60, 0.1)  # the condition of clusters and of structures left out
RIF = "rif-svm"
OWN = "inception3d, 40³, ±60° and SNR 0.1 alone"
RIF_OWN = "rif-svm, 40³"


@dataclass(frozen=True)
class Setting:
    """How large all is.

    Attributes
    ----------
    amount : Amount
    recipes : tuple of Recipe
        Of the networks of the table.
    mixed : bool
        One network for all conditions, or one for each.
    own : Recipe, optional
        Of a network that sees boxes of 40³ of one condition, where the others do not.
    left_out : Recipe
        Of the networks that are not shown some of the complexes.
    folds : int
        The complexes are left out in so many groups, a network each.
    clusters : int
    """

    amount: Amount
    recipes: tuple[Recipe, ...]
    mixed: bool
    own: Recipe | None
    left_out: Recipe
    folds: int
    clusters: int = 100


def paper(network: str) -> Recipe:
    """Learning as the paper has it."""
    return Recipe(network, 20, 0.01, schedule="inverse", batch=64, fresh=False)


SETTINGS = {
    "tiny": Setting(  # to see that all runs
        Amount(16, 8, 8, 80, 24),
        (Recipe("inception3d", 2, 0.01),),
        True,
        None,
        Recipe("inception3d", 1, 0.01),
        2,
        10,
    ),
    "reduced": Setting(
        Amount(150, 50, 100, 800, 24),
        (Recipe("inception3d", 36, 0.003), Recipe("dsrf3d", 20, 0.01)),
        True,
        replace(paper("inception3d"), epochs=5),
        Recipe("inception3d", 8, 0.003),
        4,
    ),
    "full": Setting(
        Amount(500, 500, 0, 6000, 40),
        (paper("inception3d"), paper("dsrf3d")),
        False,
        None,
        paper("inception3d"),
        len(KINDS),
    ),
}


class Bench:
    """What the parts have in common: boxes, models, and the file of results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.name = options.setting
        self.setting = SETTINGS[self.name]
        self.folder: Path = options.data / self.name
        self.boxes = Boxes(self.setting.amount, options.structures, self.folder)
        self.file = self.folder / "results.json"
        self.results: dict[str, Any] = {}
        if self.file.exists():
            self.results = json.loads(self.file.read_text())

    def keep(self, part: str, row: str, result: Any) -> None:
        self.results.setdefault(part, {})[row] = result
        unfinished = self.file.with_suffix(".part")
        unfinished.write_text(json.dumps(self.results, indent=1))
        os.replace(unfinished, self.file)

    def model(
        self, recipe: Recipe, condition: Condition, *, without: tuple[str, ...] = ()
    ) -> BoxModel:
        """The network that is asked about a condition."""
        mixed = self.setting.mixed
        name = recipe.network + ("" if mixed else _name(condition))
        name += f" without {' '.join(without)}" if without else ""
        conditions = CONDITIONS if mixed else (condition,)
        return train(name, recipe, self.boxes, conditions, self.folder / "models", without=without)


def _name(condition: Condition) -> str:
    return f"±{condition[0]}° {condition[1]:g}"


def accuracy(bench: Bench) -> None:
    """A row a method: the share of test boxes whose class is found, of each condition."""
    for recipe in bench.setting.recipes:
        row = bench.results.get("accuracy", {}).get(recipe.network, {})
        for condition in CONDITIONS:
            if _name(condition) in row:
                continue
            model = bench.model(recipe, condition)
            test = bench.boxes.condition(*condition, test=True)
            begin = time.process_time()
            found = predictor(model).predict_logits(test.boxes).argmax(1)
            row[_name(condition)] = _judged(found, test, time.process_time() - begin)
            bench.keep("accuracy", recipe.network, row)
            print(f"  {recipe.network}, {_name(condition)}: {row[_name(condition)]}", flush=True)


def baseline(bench: Bench) -> None:
    """RIF-SVM, fitted to each condition; of ±60° also with the features of boxes of 40³."""
    for name, whole in ((RIF, False), (RIF_OWN, True)):
        row = bench.results.get("accuracy", {}).get(name, {})
        for tilt, snr in CONDITIONS:
            if _name((tilt, snr)) in row or (whole and (tilt != 60 or bench.name == "full")):
                continue
            known, test = (
                bench.boxes.condition(tilt, snr, test=part, whole=whole) for part in (False, True)
            )
            features = RotationInvariant()
            begin = time.process_time()
            machine, how = tuned(features.predict_features(known.boxes), known.labels)
            found = machine.predict(features.predict_features(test.boxes))
            row[_name((tilt, snr))] = _judged(found, test, time.process_time() - begin) | how
            bench.keep("accuracy", name, row)
            print(f"  {name}, {_name((tilt, snr))}: {row[_name((tilt, snr))]}", flush=True)


def tuned(features: np.ndarray, labels: np.ndarray) -> tuple[RifSvm, dict[str, float]]:
    """RIF-SVM with the parameters that are right most often on a fifth of its training boxes."""
    held = np.random.default_rng(14).permutation(len(labels)) < len(labels) // 5
    scale = 1 / features.shape[1]  # each feature has unit spread
    tried = {}
    for penalty, gamma in product((1.0, 10.0, 100.0), (scale / 3, scale)):
        machine = RifSvm(penalty=penalty, gamma=gamma).fit(features[~held], labels[~held])
        right = float((machine.predict(features[held]) == labels[held]).mean())
        tried[penalty, gamma] = right
    penalty, gamma = max(tried, key=tried.__getitem__)
    machine = RifSvm(penalty=penalty, gamma=gamma).fit(features, labels)
    return machine, {"penalty": penalty, "gamma": gamma}


def own(bench: Bench) -> None:
    """One condition as the paper has it: a network for it alone, of boxes of 40³."""
    recipe = bench.setting.own
    if recipe is None or OWN in bench.results.get("accuracy", {}):
        return
    models = bench.folder / "models"
    model = train("own", recipe, bench.boxes, (AT,), models, whole=True)
    test = bench.boxes.condition(*AT, test=True, whole=True)
    begin = time.process_time()
    found = predictor(model).predict_logits(test.boxes).argmax(1)
    judged = _judged(found, test, time.process_time() - begin)
    bench.keep("accuracy", OWN, {_name(AT): judged})
    print(f"  {OWN}: {judged}", flush=True)


def _judged(found: np.ndarray, test: Drawn, seconds: float) -> dict[str, float]:
    right = float((found == test.labels).mean())
    return {"accuracy": right, "boxes": len(found), "seconds": seconds}


def sizes(bench: Bench) -> None:
    """Clusters of features, and of boxes at normalised poses; the map of the features."""
    if "evenness" in bench.results and (bench.folder / "map.csv").exists():
        return
    amount = bench.setting.amount
    test = bench.boxes.condition(*AT, test=True, count=amount.test + amount.more)
    names = np.array(CLASSES)[test.labels]
    features = {}
    for recipe in bench.setting.recipes:
        features[recipe.network] = predictor(bench.model(recipe, AT)).predict_logits(test.boxes)
    for name, row in evenness_rows(features, test.boxes, names, bench.setting.clusters):
        bench.keep("evenness", name, row)
        print(f"  {name}: {row}", flush=True)
    laid = map_features(features[bench.setting.recipes[0].network], seed=1)
    laid.assign(kind=names[laid.index]).to_csv(bench.folder / "map.csv")


def recovery(bench: Bench) -> None:
    """Structures that were left out of the training, found again."""
    recipe = bench.setting.left_out
    kinds = list(KINDS)
    for fold in range(bench.setting.folds):
        group = tuple(kinds[fold :: bench.setting.folds])
        wanted = [one for one in group if one not in bench.results.get("recovery", {})]
        if not wanted:
            continue
        model = bench.model(recipe, AT, without=group)
        for name, row in recover(bench.boxes, model, AT, wanted, clusters=bench.setting.clusters):
            bench.keep("recovery", name, row)
            print(f"  {name}: {row}", flush=True)


def likeness(bench: Bench) -> None:
    """How like the complexes are, the likest pairs."""
    if "alike" not in bench.results:
        bench.keep("alike", "pairs", alike(bench.boxes.structures))


PARTS: dict[str, Callable[[Bench], None]] = {
    "alike": likeness,
    "recovery": recovery,
    "baseline": baseline,
    "accuracy": accuracy,
    "evenness": sizes,
    "own": own,
}


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--structures", type=Path, required=True, help="see subdivision_boxes.py")
    parser.add_argument("--setting", choices=SETTINGS, default="reduced")
    parser.add_argument(
        "--full", dest="setting", action="store_const", const="full", help="--setting full"
    )
    parser.add_argument("--data", type=Path, default=Path("subdivision"))
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--figure", type=Path, help="accuracy and the map of features, drawn here")
    options = parser.parse_args()
    dask.config.set(scheduler="synchronous")
    # Averages that begin without a reference lie off the middle now and then, each with a warning.
    logging.getLogger("tomodask").setLevel(logging.ERROR)
    bench = Bench(options)
    begin = time.process_time()
    for name, part in PARTS.items():
        if options.only is None or name in options.only:
            print(name, flush=True)
            part(bench)
    print(f"\nthis call: {time.process_time() - begin:.0f} CPU seconds")
    tables.describe(bench.name, bench.setting, bench.results)
    if options.figure:
        tables.figure(bench.results, bench.folder / "map.csv", options.figure)


if __name__ == "__main__":
    main()
