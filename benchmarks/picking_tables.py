"""Scores, tables and figure of `picking_accuracy.py`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import shrec

from tomodask.picking.scoring.scores import CLASSIFICATION, LOCALISATION, MEAN, Scores, score_picks

MAIN, REFERENCE = "segmentation", "segmentation, short training"
MATCHING, BLOBS = "template matching", "DoG"
TUNED, HINDSIGHT = "threshold of a training tomogram", "threshold in hindsight"


class Row(Protocol):
    """A row of the table of changes: its name, and that of what it is held against."""

    @property
    def name(self) -> str: ...
    @property
    def base(self) -> str: ...


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


def classification(scores: Scores) -> float:
    return float(scores.table["f1"][CLASSIFICATION])


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


def tables(
    results: dict[str, Any],
    rows: Iterable[Row],
    kilodaltons: dict[str, float],
    diameters: dict[str, float],
) -> None:
    """What is known so far; `rows`: what is changed, one thing at a time."""
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
    for kind in sorted(shrec.KINDS, key=kilodaltons.__getitem__):
        values = [f"{results[name]['classes'][kind]:.2f}" for name in shown]
        print(_cells([kind, f"{kilodaltons[kind]:.0f}", f"{diameters[kind]:.0f}", *values]))
    print("\n| changed | of | localisation F1 | classification F1 | training s | s / tomogram |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        one, base = results.get(row.name), results.get(row.base)
        if one is None:
            continue
        f1 = [_beside(one, base, key) for key in ("localisation", "classification")]
        times = [f"{one['training seconds']:.0f}", f"{one['seconds']:.1f}"]
        print(_cells([row.name, "" if one is base else row.base, *f1, *times]))
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


def figure(results: dict[str, Any], kilodaltons: dict[str, float], path: Path) -> None:
    """F1 of each kind against its molecular weight."""
    import matplotlib.pyplot as plt

    kinds = sorted(shrec.KINDS, key=kilodaltons.__getitem__)
    weights = [kilodaltons[kind] for kind in kinds]
    drawn, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    styles = dict(zip(METHODS[:6], ("o-", "o--", "o:", "s-", "s--", "s:"), strict=True))
    for name, style in styles.items():
        if name in results:
            color = "C0" if name.startswith(MAIN) else "C1"
            values = [results[name]["classes"][kind] for kind in kinds]
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
