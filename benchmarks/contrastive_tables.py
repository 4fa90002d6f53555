"""What benchmarks/contrastive.py prints and draws of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from contrastive_jobs import LARGEST_GRADIENT, SEEDS
from scipy.stats import ttest_rel

Rows = list[dict[str, Any]]
LABELS = {
    "random": "random start",
    "random, any turn": "random, any turn",
    "moco": "MoCo",
    "simclr": "SimCLR",
    "swav": "SwAV",
    "moco, any turn": "MoCo, any turn",
    "simclr, any turn": "SimCLR, any turn",
    "swav, any turn": "SwAV, any turn",
}
COLOURS = {"random": "#9aa4ad", "moco": "#1769aa", "simclr": "#d9541e", "swav": "#3a8f5c"}


def snr_text(snr: float) -> str:
    return "∞" if math.isinf(snr) else f"{snr:g}"


def values(rows: Rows, snr: float, start: str, share: float, what: str) -> dict[int, float]:
    """By seed, in per cent."""
    return {
        row["seed"]: 100 * row[what]
        for row in rows
        if row["what"] == "accuracy"
        and (row["snr"], row["start"], row["share"]) == (snr, start, share)
    }


def report(scale: Any, full: Any, rows: Rows, kinds: list[str]) -> None:
    """Settings, accuracies, differences from the random start, probes, times."""
    print(f"{len(kinds)} kinds: {', '.join(kinds)}")
    print(
        f"RB3D, boxes of {scale.box}³; of each kind {scale.train} to learn from, "
        f"{scale.validation} to choose the epoch by, {scale.test} to test"
    )
    seen = len(kinds) * (scale.train + scale.validation)
    print(
        f"without labels: {scale.pretraining_epochs} epochs of the {seen} boxes that are not "
        f"tested, Adam {scale.pretraining_rate:g}, MoCo in batches of {scale.batch} with momentum "
        f"{scale.momentum:g}, SimCLR and SwAV of {scale.large_batch}"
    )
    long = (
        f"{scale.epochs} epochs" if scale.steps is None else f"{scale.steps} steps at every share"
    )
    rates = " or ".join(f"{rate:g}" for rate in scale.rates)
    print(
        f"with labels: {long}, batches of {scale.batch}, SGD {rates} down by a cosine, gradients "
        f"cut to {LARGEST_GRADIENT:g}; the last layer begins at logistic regression"
    )
    if scale != full:
        print(
            f"REDUCED from {full.box}³, {full.count} boxes of each kind in 60:20:20, "
            f"{full.pretraining_epochs} epochs at {full.pretraining_rate:g} with momentum "
            f"{full.momentum:g}, {full.epochs} epochs at {full.rates[0]:g}"
        )
    snrs = sorted({row["snr"] for row in rows}, reverse=True)
    for snr in snrs:
        here = [row for row in rows if row["snr"] == snr and row["what"] == "accuracy"]
        starts = [name for name in LABELS if any(row["start"] == name for row in here)]
        shares = sorted({row["share"] for row in here})
        head = "".join(f"{f'{100 * share:.0f} % labels':>22}" for share in shares)
        print(f"\nSNR {snr_text(snr)}: accuracy, %, mean ± standard deviation over splits")
        print(f"{'':26}{head}")
        for start in starts:
            table(rows, snr, start, shares, "accuracy", plain)
        print("  difference from the random start, p of the paired t-test, two-sided")
        for start in starts[1:]:
            table(rows, snr, start, shares, "accuracy", against(rows, snr))
        few = [share for share in shares if share in (shares[0], shares[-1])]
        for what, name in (("linear", "logistic regression"), ("nearest", "five nearest boxes")):
            print(f"  features as pretrained, {name}")
            for start in starts:
                table(rows, snr, start, few, what, plain)
    for row in rows:
        if row["what"] == "encoder":
            print(
                f"SNR {snr_text(row['snr'])}, {row['start']}: loss {row['losses'][0]:.3f} → "
                f"{row['losses'][-1]:.3f}, {row['seconds']:.0f} s of one core"
            )
        if row["what"] == "rate":
            found = ", ".join(f"{rate:g} {100 * share:.1f} %" for rate, share in row["found"])
            print(f"SNR {snr_text(row['snr'])}, {row['start']}: learning rate {found}")
    tuned = sum(row["seconds"] for row in rows if row["what"] == "accuracy")
    print(f"with labels: {tuned:.0f} s of one core, {sum('seed' in row for row in rows)} trainings")


Cell = Callable[[dict[int, float], float], str]


def plain(found: dict[int, float], share: float) -> str:
    some = list(found.values())
    if not some:
        return "–"
    spread = f"± {np.std(some, ddof=1):4.1f}" if len(some) > 1 else ""
    fewer = "" if len(some) == SEEDS else f" (of {len(some)})"
    return f"{np.mean(some):5.1f} {spread}{fewer}"


def against(rows: Rows, snr: float) -> Cell:
    def cell(found: dict[int, float], share: float) -> str:
        base = values(rows, snr, "random", share, "accuracy")
        both = sorted(set(found) & set(base))
        if len(both) < 3:
            return "–"
        one, other = (np.array([side[seed] for seed in both]) for side in (found, base))
        return f"{(one - other).mean():+5.1f} (p {ttest_rel(one, other).pvalue:.2g})"

    return cell


def table(rows: Rows, snr: float, start: str, shares: list[float], what: str, cell: Cell) -> None:
    cells = (cell(values(rows, snr, start, share, what), share) for share in shares)
    print(f"    {LABELS[start]:22}" + "".join(f"{text:>22}" for text in cells))


def draw(rows: Rows, file: Path) -> None:
    """Accuracy over the share of labels, a panel for each SNR."""
    from matplotlib.figure import Figure

    snrs = sorted({row["snr"] for row in rows}, reverse=True)
    figure = Figure(figsize=(4.6 * len(snrs) + 1.8, 3.8), layout="constrained")
    for axes, snr in zip(
        figure.subplots(1, len(snrs), squeeze=False, sharey=True)[0], snrs, strict=True
    ):
        for number, (start, label) in enumerate(LABELS.items()):
            shares = sorted(
                {
                    r["share"]
                    for r in rows
                    if r["what"] == "accuracy" and (r["snr"], r["start"]) == (snr, start)
                }
            )
            some = [list(values(rows, snr, start, share, "accuracy").values()) for share in shares]
            if not some or not all(some):
                continue
            axes.errorbar(
                [100 * share + (number - 3.5) / 2 for share in shares],
                [np.mean(one) for one in some],
                [np.std(one, ddof=1) if len(one) > 1 else 0 for one in some],
                color=COLOURS[start.split(",")[0]],
                linestyle="-" if start.endswith("turn") else "--",
                marker="o",
                markersize=4,
                capsize=2,
                label=label,
            )
        axes.axhline(10, color="black", lw=0.7, ls=":")
        axes.set(title=f"SNR {snr_text(snr)}", xlabel="share of the labels, %", ylim=(0, 100))
        axes.set_xticks([25, 50, 75, 100])
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("accuracy, %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside right center", fontsize=8)
    figure.savefig(file, dpi=110)
