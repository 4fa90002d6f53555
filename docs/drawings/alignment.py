"""Draws docs/images/alignment.svg: python docs/drawings/alignment.py"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.spatial.transform import Rotation

from tomodask.alignment.plan import plan_alignment
from tomodask.alignment.refinement import Stage, correlation, refine_pose
from tomodask.alignment.search import candidate_poses, real_products
from tomodask.arrays.geometry import angular_distance
from tomodask.arrays.sampling import spectrum_at
from tomodask.data.particles import orientations
from tomodask.simulation.phantom import phantom_map, phantom_subtomograms

BLUE, ORANGE, GREY = "#1769aa", "#d9541e", "#9aa4ad"


def main() -> None:
    boxes, truth = phantom_subtomograms(1, box=64, voxel_size=6.0, snr=0.01, seed=4)
    reference = phantom_map(voxel_size=6.0, box=64).to_numpy()
    plan = plan_alignment(reference, tilt_range=(-60, 60), angular_step=20.0, shift_range=6.4)
    data = spectrum_at(boxes[0], plan.frequencies)
    true = orientations(truth)[0]

    figure = Figure(figsize=(12, 3.9), layout="constrained")
    search, bands, descent = figure.subplots(1, 3)

    moved = plan.grid.phases * data[plan.grid.index]
    scores = real_products(moved, plan.grid.model)  # all of them, at full length
    norm = np.linalg.norm(data[plan.grid.index])
    best = scores.max(0) / norm
    off = angular_distance(Rotation.from_matrix(plan.grid.rotations), true)
    search.scatter(
        off, best, s=5, color=GREY, lw=0, rasterized=True, label=f"{len(best)} grid rotations"
    )
    matrices, shifts, found = candidate_poses(plan.grid, data, count=6)
    start = angular_distance(Rotation.from_matrix(matrices), true)
    search.scatter(start, found, s=34, color=ORANGE, zorder=3, label="6 candidates")
    search.set(xlabel="angle from the true orientation (°)", ylabel="correlation, best shift")
    search.set_title("1. Search: one matrix product", loc="left", fontsize=11)
    search.legend(frameon=False, fontsize=8)

    k = plan.frequencies
    flat = k[np.abs(k[:, 1]) < 0.5]
    for sign in (1, -1):
        bands.scatter(
            sign * flat[:, 2], sign * flat[:, 0], s=6, color="#dfe4e8", lw=0, rasterized=True
        )
    stage = plan.stages[1]
    part = stage.frequencies[: len(stage.frequencies) // stage.batches]
    part = part[np.abs(part[:, 1]) < 0.5]
    for sign in (1, -1):
        bands.scatter(sign * part[:, 2], sign * part[:, 0], s=7, color=BLUE, lw=0, rasterized=True)
    turn = np.linspace(0, 2 * np.pi, 300)
    for one in plan.stages:
        radius = np.linalg.norm(one.frequencies, axis=1).max()
        bands.plot(radius * np.cos(turn), radius * np.sin(turn), color=ORANGE, lw=1.2)
    bands.set_aspect("equal")
    bands.set(xlabel="$k_x$ (Fourier voxels)", ylabel="$k_z$")
    bands.set_title("2. Bands grow; a mini-batch (blue)", loc="left", fontsize=11)

    for i, (matrix, shift) in enumerate(zip(matrices, shifts, strict=True)):
        rng = np.random.default_rng(0)
        angles, edges = [start[i]], [0]
        for one in plan.stages:
            each = Stage(one.frequencies, one.index, one.batches, 1)
            for _ in range(one.passes):
                matrix, shift = refine_pose(
                    plan.spectrum, each, data[one.index], matrix, shift, rng=rng,
                    turn_limit=plan.turn_limit, shift_limit=plan.shift_limit,
                )  # fmt: skip
                angles.append(angular_distance(Rotation.from_matrix(matrix), true))
            edges.append(len(angles) - 1)
        last = plan.stages[-1]
        score = correlation(plan.spectrum, last.frequencies, data[last.index], matrix, shift)
        good = angles[-1] < 5
        descent.semilogy(
            np.maximum(angles, 0.1), color=BLUE if good else GREY, lw=1.8 if good else 1.0,
            label=f"ends at correlation {score:.3f}",
        )  # fmt: skip
    for edge in edges[1:-1]:
        descent.axvline(edge, color=ORANGE, lw=0.8, ls=":")
    descent.set(xlabel="passes (dotted: the band grows)", ylabel="angle from the truth (°)")
    descent.set_title("3. Descent of every candidate", loc="left", fontsize=11)
    descent.legend(frameon=False, fontsize=7, loc="upper right")
    for axes in (search, bands, descent):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).parents[1] / "images" / "alignment.svg", dpi=150)


if __name__ == "__main__":
    main()
