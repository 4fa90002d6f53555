"""Draws docs/images/segmentation.svg: python docs/drawings/segmentation.py"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tomodask.arrays.overlap import plan_overlap
from tomodask.nets.segmentation.architecture import Architecture, coordinate_line, weight_shapes
from tomodask.nets.segmentation.model_file import PickingModel
from tomodask.nets.segmentation.reach import measure_reach

BLUE, ORANGE, GREY = "#1769aa", "#d9541e", "#9aa4ad"
IMAGES = Path(__file__).parents[1] / "images"
HALO, EDGE = 16, 128


def main() -> None:
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.1, 1.1))
    draw_tiles(left)
    draw_coordinates(middle)
    draw_reach(right)
    figure.savefig(IMAGES / "segmentation.svg", dpi=110)


def draw_tiles(axes) -> None:
    plan = plan_overlap((64, 270, 300), halo=HALO, multiple=8, limit=10**7, tile=EDGE)
    axes.add_patch(Rectangle((0, 0), 300, 270, facecolor="#eef1f4", edgecolor="black"))
    for i, j in np.ndindex(*plan.counts[1:]):
        one = plan.at((0, i, j))
        (y, x), (low, left), (high, right) = (
            part[1:] for part in (one.start, one.core_start, one.core_stop)
        )
        core = Rectangle((left, low), right - left, high - low, fill=False, edgecolor=GREY, lw=1)
        axes.add_patch(core)
        if (i, j) in ((0, 0), (1, 1)):
            name = {(0, 0): BLUE, (1, 1): ORANGE}[i, j]
            fill = Rectangle((left, low), right - left, high - low, color=name, alpha=0.35, lw=0)
            axes.add_patch(fill)
            tile = Rectangle((x, y), plan.tile[2], plan.tile[1], fill=False, edgecolor=name, lw=2)
            axes.add_patch(tile)
    axes.annotate(
        "halo",
        (184, 196),
        (215, 222),
        color=ORANGE,
        arrowprops={"arrowstyle": "->", "color": ORANGE},
    )
    axes.text(48, 48, "core", ha="center", va="center", color=BLUE)
    axes.text(132, 132, "core", ha="center", va="center", color=ORANGE)
    axes.set(
        title="two of the tiles, and all cores", xlabel="x, voxels", ylabel="y",
        xlim=(-8, 308), ylim=(-8, 278), aspect="equal",
    )  # fmt: skip


def draw_coordinates(axes) -> None:
    for start, colour in ((0, BLUE), (EDGE - 2 * HALO, ORANGE)):
        place = start + np.arange(EDGE)
        axes.plot(place, coordinate_line(EDGE, "patch", 12), "--", color=colour)
        axes.plot(place, coordinate_line(EDGE, "border", 12), "-", color=colour, lw=2)
    boundary = EDGE - HALO
    axes.axvline(boundary, color=GREY, lw=1)
    axes.text(boundary + 3, -0.93, "here one core ends", color="#5d666e")
    axes.plot([], [], "--", color="black", label="over the tile (the paper's)")
    axes.plot([], [], "-", color="black", label="at faces only (default)")
    axes.legend(loc="upper center", frameon=False)
    axes.set(
        title="what a network is told about place", xlabel="x, voxels", ylabel="coordinate",
        ylim=(-1.1, 1.7),
    )  # fmt: skip


def draw_reach(axes) -> None:
    halos = tuple(range(0, 29, 2))  # the shell is 4 voxels thick
    for coordinates, colour, name in (
        ("border", BLUE, "coordinates at faces only"),
        ("patch", ORANGE, "coordinates over the tile"),
    ):
        reach = measure_reach(network(coordinates), ice(), halos)
        axes.semilogy(*zip(*reach, strict=True), "o-", ms=4, color=colour, label=name)
    axes.legend(loc=(0.38, 0.5), frameon=False)
    axes.set(
        title="change by a tile's faces (random weights)", xlabel="distance from the face, voxels",
        ylabel="99.9 % quantile of the change", ylim=(1e-8, 0.5),
    )  # fmt: skip


def ice() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(128, 128, 128)).astype(np.float32)


def network(coordinates) -> PickingModel:
    """A small one, of two levels, that nobody trained."""
    architecture = Architecture(channels=(6, 8), coordinates=coordinates, border=4)
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in weight_shapes(architecture).items():
        if len(shape) > 1:
            values = rng.normal(size=shape) * np.sqrt(1 / np.prod(shape[1:]))
        else:
            values = np.full(shape, float(name.endswith(("weight", "running_var"))))
        weights[name] = values.astype(np.float32)
    return PickingModel(architecture, weights, ("particle",), (100.0,), 10.0, HALO)


if __name__ == "__main__":
    main()
