"""Draws docs/images/matching.svg and picking.svg: python docs/drawings/matching.py"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from tomodask.arrays.spectrum_slices import band_rows
from tomodask.picking.templates.matching import match_template, pick_particles
from tomodask.simulation.phantom import phantom_map, phantom_tomogram

BLUE, ORANGE, GREY = "#1769aa", "#d9541e", "#9aa4ad"
IMAGES = Path(__file__).parents[1] / "images"


def main() -> None:
    tomogram, truth = phantom_tomogram((64, 160, 160), particles=14, decoys=5, seed=4)
    match = match_template(tomogram, phantom_map(), angular_step=18.0).compute()
    picks = pick_particles(match)
    score = match["score"].to_numpy()
    draw_matching(tomogram.to_numpy(), score, match.attrs)
    draw_picking(score, picks, truth)


def draw_matching(tomogram: np.ndarray, score: np.ndarray, attrs: dict) -> None:
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    z = 32
    left.imshow(tomogram[z], cmap="gray", origin="lower")
    left.add_patch(Circle((80, 80), attrs["diameter"] / 20, fill=False, color=ORANGE, lw=2))
    left.set(title="tomogram and the template's ball", xlabel="x, voxels", ylabel="y")

    rows = band_rows((64,) * 3, band=0.3, tilt_range=(-60, 60))
    here = rows.y == 0
    for rz, low, high in zip(rows.z[here], rows.low[here], rows.high[here], strict=True):
        x = np.arange(low, high)
        middle.plot(x, np.full(len(x), rz), ".", color=BLUE, ms=3)
        middle.plot(-x, np.full(len(x), -rz), ".", color=GREY, ms=3)
    middle.plot([], [], "o", color=BLUE, label="looked up")
    middle.plot([], [], "o", color=GREY, label="conjugate")
    middle.set(
        title="measured frequencies, ±60°", xlabel="kx", ylabel="kz (beam)",
        aspect="equal", xlim=(-32, 32), ylim=(-32, 32),
    )  # fmt: skip
    middle.legend(loc="upper center", ncol=2, frameon=False)

    shown = right.imshow(score[z], cmap="magma", vmin=0, vmax=1, origin="lower")
    right.set(title="best score over all rotations", xlabel="x, voxels", ylabel="y")
    figure.colorbar(shown, ax=right, shrink=0.8)
    figure.savefig(IMAGES / "matching.svg", dpi=110)


def draw_picking(score: np.ndarray, picks, truth) -> None:
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    left.imshow(score.max(axis=0), cmap="magma", vmin=0, vmax=1, origin="lower")
    decoys = truth[truth["kind"] == "decoy"]
    left.plot(decoys["x"] / 10, decoys["y"] / 10, "s", mfc="none", mec=GREY, ms=14, label="decoys")
    left.plot(picks["x"] / 10, picks["y"] / 10, "o", mfc="none", mec="white", ms=14, label="picks")
    left.set(title="highest score along z", xlabel="x, voxels", ylabel="y")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower left", ncol=2, facecolor="#bbbbbb"
    )

    edges = np.linspace(-0.1, 1.05, 116)
    right.hist(score.ravel(), bins=edges, color=GREY, log=True, label="all voxels")
    right.hist(picks["score"], bins=edges, color=ORANGE, log=True, label="picks")
    at = tuple(np.rint(decoys[["z", "y", "x"]].to_numpy() / 10).astype(int).T)
    right.hist(score[at], bins=edges, color=BLUE, log=True, label="voxels at the decoys' centres")
    right.axvline(picks.attrs["threshold"], color="black", ls="--", label="automatic threshold")
    right.set(title="scores", xlabel="score", ylabel="count")
    right.legend(framealpha=1.0)
    figure.savefig(IMAGES / "picking.svg", dpi=110)


if __name__ == "__main__":
    main()
