"""Which rule tells best that a box is none of a classifier's classes?

A classifier is trained on some kinds of simulated boxes; those left out come to it as strangers.
Each rule gives a box a score; its threshold keeps 95 % of the held-out boxes of known kinds.  Told
are the share of strangers that the rule then refuses and the area under the curve (0.5: chance).

* confidence: the largest calibrated probability
* energy: T log Σ exp(logit / T) (Liu et al., NeurIPS 2020)
* centres: the distance to the nearest class's mean feature, each feature in units of its spread
  within the classes (Lee et al., NeurIPS 2018, with a diagonal covariance)
* cosine: the cosine with the nearest class's mean feature
* neighbours: the cosine with the fifth nearest box of the training (Sun et al., ICML 2022)

    python benchmarks/none_of_these.py            # reduced: 24³ boxes, minutes on two cores
    python benchmarks/none_of_these.py --full     # 32³ boxes, more of them, for a GPU
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import dask
import numpy as np

from tomodask import simulate_subtomograms
from tomodask.classification.learning.class_labels import labelled_boxes, split_labels
from tomodask.classification.learning.training import ClassifierSettings, train_classifier
from tomodask.data.subtomogram_table import particle_table
from tomodask.nets.boxes.inference import open_predictor

STRUCTURES = {
    "1bxn": "1bxn.pdb.gz",
    "1mnf": "1mnf.pdb.gz",
    "1qvr": "1qvr.pdb.gz",
    "1u6g": "1u6g.pdb.gz",
    "2cg9": "2cg9.pdb.gz",
    "3cf3": "3cf3.pdb.gz",
    "3j9i": "3j9i.pdb.gz",
    "4v4r": "4v4r_30S.pdb.gz",
}
KNOWN = 0.95
NEIGHBOURS = 5


def rules(features: dict, logits: dict, labels: np.ndarray, temperature: float) -> dict:
    """Scores of each rule: larger is more like a known kind."""
    train = features["train"]
    kinds = np.unique(labels)
    means = np.stack([train[labels == k].mean(0) for k in kinds])
    within = train - means[np.searchsorted(kinds, labels)]
    spread = np.maximum(within.std(0), 1e-3 * within.std())

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    def scored(name: str) -> dict:
        z = logits[name] / temperature
        high = z.max(1, keepdims=True)
        total = np.log(np.exp(z - high).sum(1)) + high[:, 0]
        x = features[name]
        far = (((x[:, None] - means) / spread) ** 2).sum(2)
        near = np.sort(unit(x) @ unit(train).T, axis=1)
        return {
            "confidence": np.exp(high[:, 0] - total),
            "energy": total,
            "centres": -far.min(1),
            "cosine": (unit(x) @ unit(means).T).max(1),
            "neighbours": near[:, -NEIGHBOURS],
        }

    return {name: scored(name) for name in ("validation", "test", "strangers")}


def area(known: np.ndarray, strangers: np.ndarray) -> float:
    """Chance that a known box scores higher than a stranger."""
    more = (known[:, None] > strangers).mean() + 0.5 * (known[:, None] == strangers).mean()
    return float(more)


def main() -> None:
    """Train once for each set of strangers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--data", default=os.environ.get("TOMODASK_SHARED", "../shared/data"))
    parser.add_argument("--count", type=int, help="boxes of each kind")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--snr", type=float, default=0.5)
    parser.add_argument("--network", default="rb3d")
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--sets", type=int, nargs="+", default=[0, 1, 2, 3], help="of strangers")
    given = parser.parse_args()
    box, voxel = (32, 10.0) if given.full else (24, 13.6)
    count = given.count or (500 if given.full else 100)
    epochs = given.epochs or (50 if given.full else 20)
    folder = Path(given.data, "structures")
    kinds = {name: str(folder / file) for name, file in STRUCTURES.items()}
    made = simulate_subtomograms(
        {**kinds, "no particle": None},
        protocol="subdivision", box=box, voxel_size=voxel, resolution=max(40.0, 2 * voxel),
        count=count, snr=given.snr,
    )  # fmt: skip
    with dask.config.set(scheduler="synchronous"):
        boxes = made.compute()
    table = particle_table(boxes).reset_index()[["particle", "kind"]]
    values = boxes["subtomogram"].to_numpy()
    names = list(kinds)
    found: dict[str, list] = {}
    print(f"{box}³ boxes, {count} of a kind, SNR {given.snr:g}, {given.network}, {epochs} epochs")
    for number in given.sets:
        strangers = names[2 * number : 2 * number + 2]
        known = table[~table["kind"].isin(strangers)]
        settings = ClassifierSettings(
            epochs=epochs, learning_rate=given.learning_rate, test=0.2, patience=None, seed=number
        )
        model = train_classifier(
            boxes, known, network=given.network, settings=settings, threads=given.threads,
            on_epoch=lambda report: None,
        )  # fmt: skip
        labelled = labelled_boxes(boxes, known)
        parts = split_labels(labelled, validation=0.2, test=0.2, seed=number)
        predictor = open_predictor(model, threads=given.threads or 1)
        rows = {
            "train": labelled.rows[parts.training],
            "validation": labelled.rows[parts.validation],
            "test": labelled.rows[parts.test],
            "strangers": np.flatnonzero(table["kind"].isin(strangers)),
        }
        features = {k: predictor.predict_features(values[r]).astype(float) for k, r in rows.items()}
        logits = {k: predictor.predict_logits(values[r]).astype(float) for k, r in rows.items()}
        scores = rules(features, logits, labelled.numbers[parts.training], model.temperature)
        accuracy = model.training["test"]["accuracy"]
        print(f"without {', '.join(strangers)}: accuracy {accuracy:.3f}", flush=True)
        for rule in scores["test"]:
            least = np.quantile(scores["validation"][rule], 1 - KNOWN)
            refused = (scores["strangers"][rule] < least).mean()
            kept = (scores["test"][rule] >= least).mean()
            found.setdefault(rule, []).append(
                (kept, refused, area(scores["test"][rule], scores["strangers"][rule]))
            )
            print(f"  {rule:<12} keeps {kept:.2f}, refuses {refused:.2f}", flush=True)
    print("\n| rule | known boxes kept | strangers refused | area |\n|---|---|---|---|")
    for rule, figures in found.items():
        kept, refused, under = np.mean(figures, 0)
        print(f"| {rule} | {kept:.2f} | {refused:.2f} | {under:.2f} |")


if __name__ == "__main__":
    main()
