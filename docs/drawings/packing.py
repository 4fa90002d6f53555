"""Draws docs/images/packing.svg: python docs/drawings/packing.py"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from tomodask.simulation.membranes import place_beads, place_vesicles
from tomodask.simulation.packing import pack
from tomodask.simulation.phantom import phantom_map
from tomodask.simulation.shapes import particle_shape
from tomodask.simulation.specimen import specimen_density, specimen_labels

BLUE, ORANGE, GREY, GOLD = "#1769aa", "#d9541e", "#9aa4ad", "#c9a227"
VOXEL, SHAPE = 10.0, (72, 200, 200)


def main() -> None:
    densities = {
        kind: phantom_map(voxel_size=VOXEL / 2, box=80, kind=kind) for kind in ("particle", "decoy")
    }
    shapes = {kind: particle_shape(one, voxel_size=VOXEL) for kind, one in densities.items()}
    slab = {"shape": SHAPE, "voxel_size": VOXEL}
    vesicles = place_vesicles(**slab, count=2, radius=(260, 300), elongation=1.1, seed=3)
    beads = place_beads(**slab, count=8, vesicles=vesicles, seed=3)
    packing = pack(shapes, **slab, occupancy=0.4, vesicles=vesicles, beads=beads, seed=3)
    plane = SHAPE[0] // 2
    density = specimen_density(packing, densities)[plane].to_numpy()
    classes = specimen_labels(packing, classes=True)[plane].to_numpy()

    figure = Figure(figsize=(11, 3.9), layout="constrained")
    field, grey, coloured = figure.subplots(1, 3)
    shape = shapes["particle"]
    at = int(-shape.first_zyx[0] / VOXEL)
    low, high = shape.first_zyx / VOXEL, shape.first_zyx / VOXEL + np.array(shape.distance.shape)
    extent = (low[2] - 0.5, high[2] - 0.5, low[1] - 0.5, high[1] - 0.5)
    field.imshow(
        shape.distance[at] / VOXEL, origin="lower", extent=extent, cmap="RdBu_r", vmin=-8, vmax=8
    )
    x, y = np.arange(low[2], high[2]), np.arange(low[1], high[1])
    field.contour(x, y, shape.distance[at], levels=[0], colors="k", linewidths=1.4)
    field.contour(
        x, y, shape.distance[at], levels=[VOXEL], colors="k", linewidths=0.9, linestyles="dashed"
    )
    near = np.abs(shape.points_zyx[:, 0]) < VOXEL
    field.plot(*(shape.points_zyx[near][:, [2, 1]].T / VOXEL), ".", color=ORANGE, ms=4)
    field.set_title("Distance field, points, and the gap of one voxel", loc="left", fontsize=10)
    field.set(xlabel="x (voxels)", ylabel="y (voxels)")
    grey.imshow(density, origin="lower", cmap="gray_r", vmin=0, vmax=2.5)
    grey.set_title(f"Density, occupancy {packing.occupancy:.0%}", loc="left", fontsize=10)
    colours = ListedColormap(["white", BLUE, ORANGE, GOLD, GREY])
    coloured.imshow(classes, origin="lower", cmap=colours, vmin=0, vmax=4, interpolation="none")
    coloured.set_title("Classes: particle, decoy, bead, membrane", loc="left", fontsize=10)
    path = Path(__file__).parents[1] / "images" / "packing.svg"
    with mpl.rc_context({"svg.hashsalt": "tomodask"}):
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
