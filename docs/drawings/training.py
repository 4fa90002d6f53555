"""Draws docs/images/training.svg: python docs/drawings/training.py"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from tomodask.nets.segmentation.augmentation import Augmentation
from tomodask.picking.learning.crops import CropSampler, TrainingTomogram
from tomodask.picking.learning.labels import draw_labels
from tomodask.simulation.phantom import phantom_tomogram

BLUE, ORANGE, GREY = "#1769aa", "#d9541e", "#9aa4ad"
IMAGES = Path(__file__).parents[1] / "images"
CHANNELS = (24, 48, 72, 108)


def main() -> None:
    figure = Figure(figsize=(12, 7.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.15))
    tomogram, truth = phantom_tomogram((96, 96, 160), particles=20, decoys=0, seed=4, snr=0.3)
    left, middle, right = top.subplots(1, 3, width_ratios=(1.25, 1, 1))
    draw_marks(left, tomogram.to_numpy(), truth)
    draw_crops(middle, right, tomogram, truth)
    one, two = bottom.subplots(1, 2, width_ratios=(1, 2.2))
    draw_kinds(one)
    draw_network(two)
    figure.savefig(IMAGES / "training.svg", dpi=110)


def draw_marks(axes: Axes, values: np.ndarray, truth) -> None:
    z = 48
    axes.imshow(values[z], cmap="gray", origin="lower")
    near = truth[abs(truth["z"] / 10 - z) < 6]
    axes.plot(near["x"] / 10, near["y"] / 10, "x", color=ORANGE, ms=9, mew=2.5)
    axes.add_patch(Rectangle((117.5, -0.5), 42, 128, color=BLUE, alpha=0.22, lw=0))
    axes.text(138, 90, "held out", color="white", ha="center", fontsize=10)
    axes.set(
        title="centres are marked", xticks=[], yticks=[], xlim=(-0.5, 159.5), ylim=(-0.5, 95.5)
    )


def draw_crops(first: Axes, second: Axes, tomogram, truth) -> None:
    values = tomogram.to_numpy()
    source = TrainingTomogram(
        volume=tomogram,
        mean=float(values.mean()),
        std=float(values.std()),
        centers=truth[["z", "y", "x"]].to_numpy() / 10,
        classes=np.ones(len(truth), int),
    )
    sampler = CropSampler(
        [source],
        crop=64,
        jitter=14,
        background=0.0,
        augmentation=Augmentation(probability=1.0),
        seed=2,
    )
    for axes, index in ((first, 0), (second, 3)):
        crop, label = sampler.example(0, index)
        z = int(np.argmax((label == 1).sum((1, 2))))
        axes.imshow(crop[0, z], cmap="gray", origin="lower")
        axes.contour(label[z] == 1, [0.5], colors=[ORANGE], linewidths=2)
        axes.set(title="a crop: turned, bent, labelled", xticks=[], yticks=[])


def draw_kinds(axes: Axes) -> None:
    size = 11
    picture = np.full((size + 2, 3 * (size + 2)), 0.0)
    for number, (kind, name) in enumerate(
        (("truncated_ball", "truncated ball"), ("ball", "ball"), ("cube", "cube"))
    ):
        label = draw_labels(
            (size,) * 3, np.full((1, 3), size / 2 - 0.5), np.ones(1, int), kind=kind, diameter=7
        )
        start = number * (size + 2) + 1
        picture[1 : size + 1, start : start + size] = label.sum(0)
        axes.text(start + size / 2 - 0.5, size + 2.2, name, ha="center", fontsize=10)
    axes.imshow(picture, cmap="Blues", vmin=0, vmax=8)
    axes.set(title="labels of diameter 7, summed along z", xticks=[], yticks=[], ylim=(14.5, -1))
    for side in axes.spines.values():
        side.set_visible(False)


def draw_network(axes: Axes) -> None:
    """Levels from top to bottom, down on the left, up on the right."""
    width, height = 1.5, 0.62

    def box(x: float, y: float, text: str, color: str) -> None:
        axes.add_patch(Rectangle((x, y), width, height, fc=color, ec="none"))
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color="white")

    def arrow(start, stop, color: str = "#444444", **style) -> None:
        axes.add_patch(
            FancyArrowPatch(start, stop, arrowstyle="-|>", mutation_scale=12, color=color, **style)
        )

    for level, channels in enumerate(CHANNELS):
        y = -level
        x = 1.6 + 0.35 * level
        box(x, y, f"{channels}", BLUE)
        if level:
            arrow((x - 0.35 + width / 2, y + 1), (x + width / 2, y + height))
            axes.text(0.75, y + height / 2, "input ÷ " + str(2**level), ha="center", va="center")
            arrow((1.25, y + height / 2), (x, y + height / 2), GREY)
        if level < len(CHANNELS) - 1:
            up = 8.4 - 0.35 * level
            box(up, y, f"{channels}", ORANGE)
            arrow((x + width, y + height / 2), (up, y + height / 2), GREY, linestyle="--")
            axes.text((x + width + up) / 2, y + height / 2 + 0.1, "added", ha="center", color=GREY)
            if level == len(CHANNELS) - 2:
                arrow((x + 0.35 + width, y - 1 + height / 2), (up + width / 2, y),
                      connectionstyle="arc3,rad=0.25")  # fmt: skip
            else:
                arrow((up - 0.35 + width / 2, y - 1 + height), (up + width / 2, y))
    axes.text(0.75, height / 2, "input", ha="center", va="center")
    arrow((1.25, height / 2), (1.6, height / 2), GREY)
    arrow((8.4 + width, height / 2), (8.4 + width + 0.5, height / 2))
    axes.text(8.4 + width + 0.6, height / 2, "probability\nof each class", va="center")
    axes.text(4.6, -3.5, "each block: convolution, whose result is the skip, two more, sum, ELU; "
              "with three channels of coordinates", ha="center", fontsize=9)  # fmt: skip
    axes.set(xlim=(0, 12), ylim=(-3.8, 1.1), title="3D-ResUNet: channels of its levels")
    axes.axis("off")


if __name__ == "__main__":
    main()
