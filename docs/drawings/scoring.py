"""Draws docs/images/scoring.svg: python docs/drawings/scoring.py"""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from tomodask.picking.blobs.finding import find_blobs
from tomodask.picking.scoring.scores import LOCALISATION, score_picks
from tomodask.simulation.phantom import phantom_tomogram

BLUE, ORANGE, GREY, GREEN = "#1769aa", "#d9541e", "#9aa4ad", "#3a8f3f"
COLOURS = {"true": GREEN, "double": BLUE, "false": ORANGE}
IMAGES = Path(__file__).parents[1] / "images"


def main() -> None:
    matplotlib.rcParams["svg.hashsalt"] = "scoring"
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    draw_verdicts(left)
    draw_filter(middle)
    draw_curve(right)
    figure.savefig(IMAGES / "scoring.svg", metadata={"Date": None})


def draw_verdicts(axes) -> None:
    truth = pd.DataFrame({"z": 0.0, "y": [62.0, 60, 22, 22], "x": [22.0, 66, 26, 92]})
    picks = pd.DataFrame(
        {"z": 0.0, "y": [65.0, 51, 57, 25, 58, 8], "x": [26.0, 16, 63, 21, 100, 62]}
    )
    scores = score_picks(picks, truth, radius=15.0)
    for row in scores.particles.itertuples():
        missed = row.pick < 0
        axes.add_patch(Circle((row.x, row.y), 15, fc="#eceff1", ec=ORANGE if missed else GREY,
                              ls="--" if missed else "-", lw=1.5))  # fmt: skip
        axes.plot(row.x, row.y, "+", color=GREY, ms=9)
    axes.text(92, 24, "FN", color=ORANGE, ha="center", va="bottom")
    places = {"true": (6, 5), "double": (-20, -16), "false": (6, 5)}
    words = {"true": "TP", "double": "double hit", "false": "FP"}
    for row in scores.picks.itertuples():
        colour = COLOURS[row.verdict]
        axes.plot(row.x, row.y, "o", color=colour, ms=7)
        axes.annotate(words[row.verdict], (row.x, row.y), xytext=places[row.verdict],
                      textcoords="offset points", color=colour)  # fmt: skip
        if row.particle >= 0:
            there = truth.loc[row.particle]
            axes.plot([row.x, there["x"]], [row.y, there["y"]], color=colour, lw=1)
    whole = scores.table.loc[LOCALISATION]
    whole = {name: int(whole[name]) for name in ("TP", "FP", "FN", "double", "picks", "particles")}
    axes.set_title(
        f"{whole['TP']} TP, {whole['FP']} FP, {whole['FN']} FN, {whole['double']} double hit\n"
        f"precision {whole['TP']}/{whole['picks']}, recall {whole['TP']}/{whole['particles']}"
    )
    axes.set(xlim=(0, 118), ylim=(0, 84), aspect="equal", xticks=[], yticks=[])


def draw_filter(axes) -> None:
    r = np.linspace(0, 1.5, 400)
    for k, colour in ((1.2, BLUE), (1.6, ORANGE)):
        sigma = 0.5 / k * np.sqrt((k**2 - 1) / (6 * np.log(k)))
        both = [np.exp(-0.5 * (r / s) ** 2) / s**3 for s in (sigma, k * sigma)]
        dog = both[0] - both[1]
        axes.plot(r, dog / dog[0], color=colour, label=f"k = {k}")
    axes.axvspan(0, 0.5, color="#eceff1", zorder=0, label="particle")
    axes.axhline(0, color=GREY, lw=0.8)
    axes.set(title="difference of Gaussians", xlabel="distance / diameter", xlim=(0, 1.5))
    axes.legend(frameon=False)


def draw_curve(axes) -> None:
    for snr, colour in ((0.005, BLUE), (0.001, ORANGE)):
        tomogram, truth = phantom_tomogram((96, 200, 200), particles=40, decoys=0, seed=1, snr=snr)
        picks = find_blobs(tomogram, diameter=250.0)
        found = find_blobs(tomogram, diameter=250.0, threshold=1.5)
        scores = score_picks(found, truth, radius=125.0)
        at = score_picks(picks, truth, radius=125.0)
        area = scores.table["area"].iloc[0]
        curve = scores.curve[scores.curve["class"] == LOCALISATION]
        axes.step(curve["recall"], curve["precision"], where="pre", color=colour,
                  label=f"SNR {snr:g}: area {area:.2f}")  # fmt: skip
        axes.plot(at.recall, at.precision, "o", color=colour)
    axes.plot([], [], "o", color=GREY, label="automatic threshold")
    axes.set(title="blobs in phantoms", xlabel="recall", ylabel="precision", xlim=(0, 1.03),
             ylim=(0, 1.03))  # fmt: skip
    axes.legend(frameon=False, loc="lower left")


if __name__ == "__main__":
    main()
