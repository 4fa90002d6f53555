"""Draws docs/images/demo.png from the folder of `make demo`: python docs/drawings/readme.py"""

import sys
from pathlib import Path

import numpy as np
import scipy.ndimage
from matplotlib.colors import LightSource
from matplotlib.figure import Figure

import tomodask


def main(folder: Path) -> None:
    tomogram = tomodask.open_tomogram(folder / "input" / "tomogram.zarr")
    poses = tomodask.read_particles(folder / "run" / "poses.star")
    average = tomodask.open_tomogram(folder / "run" / "average.mrc").to_numpy()
    size = tomogram.attrs["voxel_size"]
    z = tomogram.sizes["z"] // 2
    slab = tomogram[z - 2 : z + 3].mean("z").to_numpy()

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.05, 1.05, 1])
    low, high = np.quantile(slab, [0.01, 0.995])
    for axes in (left, middle):
        axes.imshow(slab, cmap="gray", vmin=low, vmax=high, origin="lower")
    near = poses[(poses["z"] / size - z).abs() < 10]
    turns = tomodask.orientations(near).as_matrix()
    for (_, row), turn in zip(near.iterrows(), turns, strict=True):
        x, y = (row["x"] + row["shift_x"]) / size, (row["y"] + row["shift_y"]) / size
        for axis, color in zip(turn.T, ("#ff5a36", "#4cc38a", "#4aa8ff"), strict=True):
            middle.plot([x, x + 15 * axis[0]], [y, y + 15 * axis[1]], color=color, lw=1.8)
        middle.plot(x, y, "o", color="white", ms=3)
    middle_part = average[(slice(average.shape[0] // 2 - 16, average.shape[0] // 2 + 17),) * 3]
    smooth = scipy.ndimage.zoom(middle_part, 6, order=3)
    level = 0.35 * np.quantile(smooth, 0.999)
    solid = smooth > level
    depth = np.where(solid.any(0), solid.argmax(0), solid.shape[0]).astype(float)
    # The surface between voxels: where the density crosses the level, linearly.
    y, x = np.indices(depth.shape)
    at = np.clip(depth.astype(int), 1, solid.shape[0] - 1)
    above, below = smooth[at, y, x], smooth[at - 1, y, x]
    depth = np.where(solid.any(0), at - (above - level) / np.maximum(above - below, 1e-6), np.nan)
    shade = LightSource(azdeg=315, altdeg=50).hillshade(
        -np.nan_to_num(depth, nan=np.nanmax(depth)), vert_exag=0.6
    )
    right.imshow(
        np.where(np.isfinite(depth), 0.15 + 0.85 * shade, np.nan), cmap="bone", origin="lower",
        vmin=0, vmax=1.1,
    )  # fmt: skip
    left.set_title("tomogram: SNR 0.05, ±60°", fontsize=11, loc="left")
    middle.set_title(f"poses of {len(near)} of {len(poses)} particles", fontsize=11, loc="left")
    right.set_title("their average", fontsize=11, loc="left")
    for axes in (left, middle, right):
        axes.axis("off")
    for axes in (left, middle):
        axes.set(xlim=(0, slab.shape[1] - 1), ylim=(0, slab.shape[0] - 1))
    figure.savefig(Path(__file__).parents[1] / "images" / "demo.png", dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo_output"))
