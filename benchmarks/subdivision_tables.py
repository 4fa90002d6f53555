"""Tables and figure of `subdivision.py`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from subdivision_boxes import CLASSES, EMPTY, HARDER, KINDS, SNRS, TILTS
from subdivision_evenness import SMALL

NAMES = {
    "inception3d": "Inception3D",
    "dsrf3d": "DSRF3D",
    "rb3d": "RB3D",
    "rif-svm": "RIF-SVM",
}
#: Of the paper, by SNR and tilt range.
PAPER: dict[str, dict[float, tuple[float, float, float]]] = {
    "inception3d": {
        1000.0: (0.993, 0.994, 0.983),
        0.5: (0.975, 0.964, 0.931),
        0.1: (0.851, 0.807, 0.809),
        0.05: (0.757, 0.682, 0.637),
        0.03: (0.608, 0.516, 0.473),
    },
    "dsrf3d": {
        1000.0: (0.990, 0.978, 0.991),
        0.5: (0.972, 0.967, 0.951),
        0.1: (0.891, 0.873, 0.866),
        0.05: (0.767, 0.728, 0.684),
        0.03: (0.658, 0.604, 0.556),
    },
    "rif-svm": {
        1000.0: (0.992, 0.983, 0.967),
        0.5: (0.929, 0.885, 0.857),
        0.1: (0.762, 0.633, 0.649),
        0.05: (0.592, 0.455, 0.468),
        0.03: (0.446, 0.319, 0.341),
    },
}
RECOVERED = 70.0  # Å, the paper's bound


def describe(name: str, setting: Any, results: dict[str, Any]) -> None:
    """All that is known so far."""
    _setting(name, setting, results)
    if "alike" in results:
        _alike(results["alike"]["pairs"])
    if "accuracy" in results:
        _accuracy(results["accuracy"])
        _verdict(results["accuracy"])
        _as_hard(results["accuracy"])
    if "recovery" in results:
        _recovery(results["recovery"])
    if "evenness" in results:
        _evenness(results["evenness"])


def _setting(name: str, setting: Any, results: dict[str, Any]) -> None:
    amount = setting.amount
    how = "one network for all 24 conditions" if setting.mixed else "a network for each condition"
    print(
        f"\nsetting {name}: {len(KINDS)} complexes and nothing, boxes of {amount.box}³; of each "
        f"class and tilt range {amount.train} to train and {amount.test} to test "
        f"({amount.more} more to cluster); {how}"
    )
    passed = 1 if setting.mixed else len(TILTS) * len((*SNRS, *HARDER))
    for recipe in setting.recipes:
        shown = recipe.epochs * len(CLASSES) * amount.train * passed
        print(
            f"{NAMES[recipe.network]}: {recipe.epochs} epochs of {len(CLASSES) * amount.train} "
            f"boxes ({shown} in all), batches of {recipe.batch}, learning rate "
            f"{recipe.learning_rate:g} ({recipe.schedule}), noise "
            f"{'drawn anew in each' if recipe.fresh else 'the same in each'}"
        )
    left = setting.left_out
    print(
        f"{NAMES[left.network]} that is not shown some of the complexes: {left.epochs} epochs at "
        f"{left.learning_rate:g}, {setting.folds} networks, {setting.clusters} clusters"
    )
    print(f"in the paper: 20 epochs of {len(CLASSES) * 500} boxes, {300 * 11500} in all")
    spent = {
        row: (sum(one["seconds"] for one in cells.values()), len(cells))
        for row, cells in results.get("accuracy", {}).items()
    }
    if spent:
        told = [f"{NAMES.get(row, row)} {one:.0f}" for row, (one, _) in spent.items()]
        print(f"CPU seconds of the tests (RIF-SVM: and of its fits): {', '.join(told)}")


def _alike(pairs: list[dict[str, Any]]) -> None:
    told = [f"{' and '.join(one['pair'])} {one['correlation']:.3f}" for one in pairs[:4]]
    near = sum(one["discrepancy"] < RECOVERED for one in pairs)
    print(
        f"complexes laid on each other, correlation to 40 Å: {', '.join(told)}; of {len(pairs)} "
        f"pairs {near} have a discrepancy below {RECOVERED / 10:g} nm"
    )


def _cells(values: Iterable[Any]) -> str:
    return "| " + " | ".join(map(str, values)) + " |"


def _accuracy(found: dict[str, Any]) -> None:
    rows = [name for name in NAMES if name in found]
    print("\n" + _cells(["SNR", *(f"{NAMES[r]} ±{t}°" for r in rows for t in TILTS)]))
    print("|" + "---|" * (1 + len(rows) * len(TILTS)))
    for snr in (*SNRS, *HARDER):
        cells = []
        for row in rows:
            for at, tilt in enumerate(TILTS):
                one = found[row].get(f"±{tilt}° {snr:g}")
                theirs = f" ({PAPER[row][snr][at]:.3f})" if snr in PAPER.get(row, {}) else ""
                cells.append("–" if one is None else f"{one['accuracy']:.3f}{theirs}")
        print(_cells([f"{snr:g}", *cells]))
    print("in brackets: the paper, of other complexes")
    for row in found:
        if row not in NAMES:
            told = ", ".join(f"{at}: {one['accuracy']:.3f}" for at, one in found[row].items())
            print(f"{row}: {told}")
    boxes = {one["boxes"] for cells in found.values() for one in cells.values()}
    if boxes:
        print(
            f"{min(boxes)} test boxes a condition: the standard error of 0.9, 0.7, 0.5 is "
            + ", ".join(f"{(p * (1 - p) / min(boxes)) ** 0.5:.3f}" for p in (0.9, 0.7, 0.5))
        )


def _verdict(found: dict[str, Any]) -> None:
    """Networks beside RIF-SVM, and ours beside the paper's."""
    base = found.get("rif-svm", {})
    for row in (name for name in NAMES if name in found and name != "rif-svm"):
        gains = {
            (tilt, snr): found[row][at]["accuracy"] - base[at]["accuracy"]
            for tilt, snr, at in _conditions(found[row])
            if at in base
        }
        told = []
        for what, snrs in (
            ("SNR 1000, 0.5", SNRS[:2]),
            ("0.1 to 0.03", SNRS[2:]),
            ("below", HARDER),
        ):
            part = [gain for (_, snr), gain in gains.items() if snr in snrs]
            if part:
                theirs = ""
                if row in PAPER and snrs != HARDER:
                    paper = np.subtract(
                        [PAPER[row][snr] for snr in snrs], [PAPER["rif-svm"][snr] for snr in snrs]
                    )
                    theirs = f", paper {paper.mean():+.3f}"
                ahead = f"ahead in {sum(one > 0 for one in part)} of {len(part)}"
                told.append(f"{what} {np.mean(part):+.3f} ({ahead}{theirs})")
        print(f"{NAMES[row]} beside RIF-SVM, means: {'; '.join(told)}")
    for row in (name for name in NAMES if name in found and name in PAPER):
        away = [
            found[row][at]["accuracy"] - PAPER[row][snr][TILTS.index(tilt)]
            for tilt, snr, at in _conditions(found[row])
            if snr in SNRS
        ]
        near = sum(abs(one) <= 0.05 for one in away)
        print(
            f"{NAMES[row]} beside the paper's: within 0.05 in {near} of {len(away)}, "
            f"{min(away):+.3f} to {max(away):+.3f}"
        )


def _conditions(row: dict[str, Any]) -> list[tuple[int, float, str]]:
    return [(int(at[1:3]), float(at.split()[1]), at) for at in row]


def _as_hard(found: dict[str, Any]) -> None:
    """Networks where RIF-SVM is right as often as in the paper, whatever SNR that is here."""
    base = found.get("rif-svm", {})
    rows = [name for name in NAMES if name in found and name in PAPER and name != "rif-svm"]
    snrs = [*SNRS, *HARDER][::-1]
    if not rows or len(base) < len(TILTS) * len(snrs):
        return
    told = [f"| paper's condition | RIF-SVM | our SNR | {' | '.join(NAMES[r] for r in rows)} |"]
    told.append("|---|---|---|" + "---|" * len(rows))
    away: dict[str, list[float]] = {row: [] for row in rows}
    for snr in SNRS[1:]:
        for at, tilt in enumerate(TILTS):
            right = PAPER["rif-svm"][snr][at]
            ours = [base[f"±{tilt}° {one:g}"]["accuracy"] for one in snrs]
            if not ours[0] < right < ours[-1] or np.any(np.diff(ours) <= 0):
                continue
            place = np.interp(right, ours, np.log(np.minimum(snrs, 3.0)))
            cells = [f"±{tilt}° {snr:g}", f"{right:.3f}", f"{np.exp(place):.2g}"]
            for row in rows:
                if len(found[row]) < len(base):
                    cells.append("–")
                    continue
                values = [found[row][f"±{tilt}° {one:g}"]["accuracy"] for one in snrs]
                mine = float(np.interp(place, np.log(np.minimum(snrs, 3.0)), values))
                away[row].append(mine - PAPER[row][snr][at])
                cells.append(f"{mine:.3f} ({PAPER[row][snr][at]:.3f})")
            told.append(_cells(cells))
    print(
        "\nwhere RIF-SVM is as often right as in the paper, between our SNRs by their logarithm:\n"
    )
    print("\n".join(told))
    for row, values in away.items():
        if values:
            print(
                f"{NAMES[row]}: {np.mean(values):+.3f} on average to the paper's, "
                f"{min(values):+.3f} to {max(values):+.3f}"
            )


def _recovery(found: dict[str, Any]) -> None:
    print(
        "\n| left out | its cluster | of it | share of all its boxes | averaged | discrepancy "
        "(Å) | its other averages | nearest of all |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, one in found.items():
        told = one.get("all", [])
        print(
            _cells(
                [
                    name,
                    one["particles"],
                    f"{one['share']:.2f}",
                    f"{one['found']:.2f}",
                    one.get("averaged", "–"),
                    f"{told[0]:.0f}" if told else "–",
                    ", ".join(f"{value:.0f}" for value in told[1:]) or "–",
                    one.get("nearest", "–"),
                ]
            )
        )
    # A structure is not recovered if there is no average of it.
    values = [one["discrepancy"] for one in found.values()]
    there = [value for value in values if value is not None and value < RECOVERED]
    best = [min(one["all"]) for one in found.values() if one.get("all")]
    print(
        f"below {RECOVERED / 10:g} nm: {len(there)} of {len(values)} "
        f"({len(there) / len(values):.0%}; paper: 16 of 22 by Inception3D, 18 by DSRF3D); by the "
        f"best of each cluster's averages {sum(one < RECOVERED for one in best)}"
    )
    right = sum(one.get("nearest") == name for name, one in found.items())
    others = [away < RECOVERED for one in found.values() for away in one.get("others", [])]
    print(
        f"the average is nearest to the structure left out in {right} of {len(values)}; for scale: "
        f"it is within {RECOVERED / 10:g} nm of another one in {np.mean(others):.0%}"
    )


def _evenness(found: dict[str, Any]) -> None:
    print(f"\n| k-means of | boxes | evenness | clusters of ≤ {SMALL} | largest | purity |")
    print("|---|---|---|---|---|---|")
    for name, one in found.items():
        small = f"{one['small']} of {len(one['sizes'])}"
        told = [name, one["boxes"], f"{one['evenness']:.3f}", small, one["sizes"][0]]
        print(_cells([*told, f"{one['purity']:.2f}"]))
    print("the paper, pose normalisation: 84 of 100 clusters of ≤ 10")


def figure(results: dict[str, Any], laid: Path, path: Path) -> None:
    """Accuracy over SNR for each tilt range, the paper's dashed; the map of the features."""
    import matplotlib

    from tomodask.plot_style import SOFT, dressed, new_figure

    drawn = new_figure(11.0, 7.4)
    above, below = drawn.subfigures(2, 1, height_ratios=(1, 1.25))
    panels = above.subplots(1, len(TILTS), sharey=True)
    colours = dict(zip(NAMES, ("#0b6e99", "#c8553d", "#3f7d4e", "#5b6570"), strict=True))
    for at, tilt in enumerate(TILTS):
        axes = dressed(panels[at], x="SNR", y="" if at else "accuracy", title=f"±{tilt}°")
        for row, colour in colours.items():
            cells = results.get("accuracy", {}).get(row, {})
            known = [snr for snr in (*SNRS, *HARDER) if f"±{tilt}° {snr:g}" in cells]
            if known:
                values = [cells[f"±{tilt}° {snr:g}"]["accuracy"] for snr in known]
                places = [_place(snr) for snr in known]
                axes.plot(places, values, "o-", color=colour, ms=4, lw=1.4, label=NAMES[row])
            if row in PAPER:
                theirs = [PAPER[row][snr][at] for snr in SNRS]
                axes.plot([_place(s) for s in SNRS], theirs, ":", color=colour, lw=1.2)
        every = (*SNRS, *HARDER)
        axes.set_xticks([_place(snr) for snr in every], [f"{snr:g}" for snr in every])
        axes.tick_params("x", rotation=90, labelsize=8)
        axes.set_ylim(0, 1.02)
        if at == 0:
            axes.plot([], [], ":", color=SOFT, label="the paper")
            axes.legend(frameon=False, fontsize=8, loc="lower right")
    if laid.exists():
        axes = below.subplots()
        table = pd.read_csv(laid)
        wheel = matplotlib.colormaps["gist_ncar"](np.linspace(0.02, 0.95, len(KINDS)))
        for name, colour in [*zip(KINDS, wheel, strict=True), (EMPTY, "#c9ced4")]:
            mine = table[table["kind"] == name]
            axes.scatter(mine["map_1"], mine["map_2"], s=3, color=colour, label=name, lw=0)
        dressed(axes, title="Features of Inception3D, ±60°, SNR 0.1, t-SNE")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.legend(
            frameon=False, fontsize=7, ncols=2, markerscale=3, loc="center left",
            bbox_to_anchor=(1.0, 0.5),
        )  # fmt: skip
    drawn.savefig(path, dpi=110)


def _place(snr: float) -> float:
    """On the axis: logarithmic, 1000 drawn near."""
    return float(np.log10(min(snr, 3.0)))
