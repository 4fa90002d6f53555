"""Draws docs/images/reconstruction.svg: python docs/drawings/reconstruction.py"""

from pathlib import Path

import dask.array as da
import numpy as np
from matplotlib.figure import Figure

from tomodask.arrays.projection import project, window
from tomodask.data.tilt_series_array import as_tilt_series
from tomodask.reconstruction.tomogram import reconstruct
from tomodask.reconstruction.wbp import centered

BLUE, ORANGE, GREY = "#1769aa", "#d9541e", "#9aa4ad"
IMAGES = Path(__file__).parents[1] / "images"
DEPTH, WIDTH = 64, 128


def specimen() -> np.ndarray:
    """Discs and rings in a slab, the same in all of four rows."""
    rng = np.random.default_rng(5)
    z, x = centered(DEPTH)[:, None], centered(WIDTH)
    out = np.zeros((DEPTH, WIDTH))
    for place in np.linspace(-48, 48, 7):
        r = np.hypot(z - rng.uniform(-12, 12), x - place)
        out += 1 / (1 + np.exp((r - 6) / 0.6)) - 0.8 / (1 + np.exp((r - 3) / 0.6))
    return np.repeat(out[:, None], 4, axis=1).astype(np.float32)


def main() -> None:
    truth = specimen()
    angles = np.arange(-60.0, 61.0, 6.0)
    series = as_tilt_series(
        da.from_array(project(truth, angles)), angle=angles, pixel_size=10.0, name="discs"
    )
    results = {
        method: reconstruct(
            series, thickness=10.0 * DEPTH, method=method, iterations=30
        ).to_numpy()[:, 2]
        for method in ("wbp", "sirt")
    }
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    draw_geometry(axes[0, 0], truth[:, 2])
    draw_planes(axes[0, 1], angles)
    draw_profile(axes[0, 2], truth[:, 2], results)
    for axis, image, title in (
        (axes[1, 0], truth[:, 2], "specimen"),
        (axes[1, 1], results["wbp"], "weighted back-projection"),
        (axes[1, 2], results["sirt"], "SIRT, 30 iterations"),
    ):
        axis.imshow(image, cmap="gray", origin="lower", vmin=-0.3, vmax=1)
        axis.set(title=f"{title}, 21 tilts", xlabel="x, voxels", ylabel="z")
    axes[1, 0].set_title("specimen")
    figure.savefig(IMAGES / "reconstruction.svg", dpi=110)


def draw_geometry(axis, truth: np.ndarray) -> None:
    """One chunk, and the window of one image that it needs."""
    axis.imshow(
        truth, cmap="Greys", origin="lower", alpha=0.5, extent=(-64, 64, -32, 32), vmin=0, vmax=2
    )
    zs, xs = np.arange(0, 24), np.arange(10, 42)
    axis.plot([10, 42, 42, 10, 10], [0, 0, 24, 24, 0], color=ORANGE)
    theta = np.deg2rad(35.0)
    c, s = np.cos(theta), np.sin(theta)
    far = -58.0
    ends = np.array([-60.0, 60.0])
    axis.plot(ends * c - far * s, ends * s + far * c, color=GREY, lw=2)
    start, stop = window(np.array([35.0]), zs, xs, WIDTH)
    cut = np.array([start, stop]) / 2 - WIDTH // 2
    axis.plot(cut * c - far * s, cut * s + far * c, color=ORANGE, lw=5)
    for at in cut:
        axis.plot(
            [at * c - far * s, at * c - 20 * s],
            [at * s + far * c, at * s + 20 * c],
            color=ORANGE,
            lw=0.8,
            ls="--",
        )
    axis.text(-30, -58, "image at 35°", color=GREY)
    axis.text(12, 27, "chunk", color=ORANGE)
    axis.set(
        title="a chunk needs a window of each row", xlabel="x", ylabel="z (beam)", aspect="equal",
        xlim=(-70, 110), ylim=(-90, 45),
    )  # fmt: skip


def draw_planes(axis, angles: np.ndarray) -> None:
    for angle in np.deg2rad(angles):
        k = np.linspace(-0.5, 0.5, 41)
        axis.scatter(
            k * np.cos(angle),
            k * np.sin(angle),
            s=22 * np.abs(k) + 0.3,
            color=BLUE,
            rasterized=True,
        )
    axis.set(
        title="planes measured; dots: the ramp's weight", xlabel="kx, cycles per voxel",
        ylabel="kz", aspect="equal",
    )  # fmt: skip


def draw_profile(axis, truth: np.ndarray, results: dict[str, np.ndarray]) -> None:
    row = DEPTH // 2
    x = centered(WIDTH)
    axis.plot(x, truth[row], color=GREY, lw=3, label="specimen")
    axis.plot(x, results["wbp"][row], color=BLUE, lw=1, label="back-projection")
    axis.plot(x, results["sirt"][row], color=ORANGE, lw=1, label="SIRT")
    axis.set(title="along x through the middle", xlabel="x, voxels", ylim=(-0.5, 1.3))
    axis.legend(frameon=False, loc="upper center", ncol=3)


if __name__ == "__main__":
    main()
