"""Draws docs/images/extraction.svg: python docs/drawings/extraction.py"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tomodask.data.extraction import extract_subtomograms
from tomodask.data.subtomograms import particle_table

BLUE, ORANGE, GREY = "#1769aa", "#d9541e", "#9aa4ad"
SHAPE, CHUNK, BOX = (64, 512, 512), 96, 64


def reads(low: np.ndarray) -> np.ndarray:
    """Chunks that each box touches, as flat numbers, concatenated."""
    counts = [-(-n // CHUNK) for n in SHAPE]
    out = []
    for corner in low:
        first = np.clip(corner, 0, None) // CHUNK
        last = (np.minimum(corner + BOX, SHAPE) - 1) // CHUNK
        grid = np.stack(
            np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(first, last, strict=True)))
        )
        out.append(np.ravel_multi_index(grid.reshape(3, -1), counts))
    return np.concatenate(out)


def main() -> None:
    rng = np.random.default_rng(5)
    zyx = np.floor(rng.uniform(0, 1, (60, 3)) * (np.array(SHAPE) - 1))
    tomogram = xr.DataArray(
        np.zeros((1, 1, 1)), dims=("z", "y", "x"), attrs={"voxel_size": 1.0}
    ).pad(z=(0, SHAPE[0] - 1), y=(0, SHAPE[1] - 1), x=(0, SHAPE[2] - 1))
    tomogram.attrs["voxel_size"] = 1.0
    boxes = extract_subtomograms(tomogram, pd.DataFrame(zyx, columns=["z", "y", "x"]), box=BOX)
    table = particle_table(boxes)
    blocks = np.repeat(np.arange(len(boxes.chunks["particle"])), boxes.chunks["particle"])

    figure = Figure(figsize=(11, 4.9), layout="constrained")
    plan, curve = figure.subplots(1, 2, width_ratios=[1, 1.15])
    for edge in range(0, SHAPE[1] + 1, CHUNK):
        plan.axhline(edge, color=GREY, lw=0.8)
        plan.axvline(edge, color=GREY, lw=0.8)
    for edge in range(0, SHAPE[1] + 1, 128):
        plan.axhline(edge, color="k", lw=0.9, ls=(0, (5, 4)))
        plan.axvline(edge, color="k", lw=0.9, ls=(0, (5, 4)))
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.92, blocks.max() + 1))
    for (_, row), block in zip(table.iterrows(), blocks, strict=True):
        corner = (row["x"] - BOX // 2, row["y"] - BOX // 2)
        plan.add_patch(Rectangle(corner, BOX, BOX, fc="none", ec=colours[block], lw=1.3))
        plan.plot(row["x"], row["y"], ".", color=colours[block], ms=5)
    plan.set(
        xlim=(-34, 546), ylim=(-34, 546), aspect="equal", xlabel="x (voxels)", ylabel="y (voxels)"
    )
    plan.set_title("Chunks (grey), tiles (dashed), one colour a block", loc="left", fontsize=11)

    counts = np.unique(np.geomspace(3, 10_000, 30).astype(int))
    low = (rng.uniform(0, 1, (10_000, 3)) * (np.array(SHAPE) - 1)).astype(int) - BOX // 2
    single = [len(reads(low[:n])) for n in counts]
    shared = [len(np.unique(reads(low[:n]))) for n in counts]
    curve.loglog(counts, single, color=ORANGE, lw=2)
    curve.loglog(counts, shared, color=BLUE, lw=2)
    curve.annotate("box by box", (counts[-9], single[-9]), xytext=(-8, 6), ha="right",
                   textcoords="offset points", color=ORANGE)  # fmt: skip
    curve.annotate("shared by all boxes", (counts[-9], shared[-9]), xytext=(0, -16), ha="center",
                   textcoords="offset points", color=BLUE)  # fmt: skip
    curve.set(xlabel="particles", ylabel="chunks read and unpacked")
    curve.set_title(
        f"{'×'.join(map(str, SHAPE))} voxels, chunks of {CHUNK}³, boxes of {BOX}³",
        loc="left", fontsize=11,
    )  # fmt: skip
    for axes in (plan, curve):
        axes.spines[["top", "right"]].set_visible(False)
    path = Path(__file__).parents[1] / "images" / "extraction.svg"
    with mpl.rc_context({"svg.hashsalt": "tomodask"}):
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
