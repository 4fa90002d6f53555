"""Rivals of the network in `picking_accuracy.py`: template matching, difference of Gaussians.

Each is given its own way (default thresholds), a threshold that a tomogram of the training tells,
and the best in hindsight, found on the very tomograms it is tested on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pandas as pd
import shrec
import xarray as xr
from picking_tables import (
    BLOBS,
    HINDSIGHT,
    MATCHING,
    TUNED,
    classification,
    figures,
    scores_of,
)
from scipy import ndimage
from scipy.spatial import cKDTree

from tomodask.picking.blobs.finding import find_blobs
from tomodask.picking.scoring.scores import LOCALISATION, Scores
from tomodask.picking.templates.matching import match_template, pick_particles


class Bench(Protocol):
    """What a rival needs to know."""

    templates: dict[str, xr.DataArray]
    diameters: dict[str, float]
    copies: int
    snr: float

    def tomogram(self, role: str, number: int, snr: float) -> shrec.Tomogram: ...
    def tests(self, snr: float) -> list[shrec.Tomogram]: ...
    def keep(self, name: str, result: dict[str, Any]) -> None: ...


def blobs(bench: Bench) -> dict[str, Any]:
    """DoG at the median kind's diameter; in hindsight at the best of four, and of thresholds."""
    tests = bench.tests(bench.snr)
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
    one = bench.tomogram(role, number, bench.snr)
    volume = one.volume.load()
    all_peaks, own, seconds = [], [], 0.0
    for kind, density in bench.templates.items():
        begin = time.perf_counter()
        match = match_template(volume, density, angular_step=step(bench, kind)).compute()
        picks = pick_particles(match, diameter=bench.diameters[kind])
        seconds += time.perf_counter() - begin
        own.append(picks.assign(kind=kind))
        found = peaks(match, bench.diameters[kind] / 2, 10 * bench.copies)
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
    count = len(bench.tests(bench.snr))
    runs = [matched(bench, "test", n) for n in range(count)]
    training = matched(bench, "train", 0)
    seconds = float(np.mean([run[2] for run in runs]))
    found = pd.concat([run[0] for run in runs], ignore_index=True)
    own = pd.concat([run[1] for run in runs], ignore_index=True)
    tests = bench.tests(bench.snr)

    def kindest(rank: Callable[[Scores], float], levels: dict[str, float]) -> dict[str, Any]:
        """The best of both orders and of some common factors of the thresholds."""
        tried = [
            scores_of(joined(found, levels, bench.diameters, ratio=ratio, least=least), tests)
            for ratio in (False, True)
            for least in (0.85, 0.9, 0.95, 1.0, 1.05, 1.1)
        ]
        return figures(max(tried, key=rank))

    # Thresholds and order of a tomogram that the network was trained on.
    known = [bench.tomogram("train", 0, bench.snr)]
    learned = thresholds(training[0], known)
    ratio = max(
        (False, True),
        key=lambda r: classification(
            scores_of(joined(training[0], learned, bench.diameters, ratio=r, least=1.0), known)
        ),
    )
    tuned = joined(found, learned, bench.diameters, ratio=ratio, least=1.0)
    bench.keep(
        f"{MATCHING}, {TUNED}",
        figures(scores_of(tuned, tests)) | {"seconds": seconds},
    )
    hindsight = thresholds(found, tests)
    result = kindest(classification, hindsight)
    located = kindest(lambda scores: scores.f1, hindsight)
    bench.keep(
        f"{MATCHING}, {HINDSIGHT}",
        result | {"localisation": located["localisation"], "seconds": seconds},
    )
    one = dict.fromkeys(shrec.KINDS, 1.0)
    plain = joined(own, one, bench.diameters, ratio=False, least=0.0)
    return figures(scores_of(plain, tests)) | {"seconds": seconds}
