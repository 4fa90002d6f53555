"""Draws docs/images/density.svg: python docs/drawings/density.py FOLDER_WITH_STRUCTURES"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tomodask.arrays.gridding import WIDTH, kernel
from tomodask.simulation.density import structure_density
from tomodask.simulation.structures import Structure

BLUE, ORANGE, GREY = "#1769aa", "#d9541e", "#9aa4ad"
IMAGES = Path(__file__).parents[1] / "images"


def main() -> None:
    figure = Figure(figsize=(12, 3.9), layout="constrained")
    left, middle, right, last = figure.subplots(1, 4, width_ratios=(1.1, 1.1, 1, 1))
    draw_spectra(left)
    draw_spreading(middle)
    folder = Path(sys.argv[1])
    for axes, name, title in (
        (right, "1mnf.pdb.gz", "GroEL (1MNF), 8 Å"),
        (last, "4v5a_70S.cif.gz", "70S (4V5A), 8 Å"),
    ):
        volume = structure_density(folder / name, voxel_size=2.5, resolution=8.0, box=128)
        size = len(volume) * 2.5 / 2
        shown = axes.imshow(
            volume[56:72].mean("z"),
            cmap="gray_r",
            vmin=-1,
            vmax=5,
            origin="lower",
            extent=(-size, size) * 2,
        )
        axes.set(title=title, xlabel="x, Å", xlim=(-140, 140), ylim=(-140, 140))
    figure.colorbar(shown, ax=last, shrink=0.8, label="V above ice, mean over 40 Å")
    figure.savefig(IMAGES / "density.svg", dpi=110)


def draw_spectra(axes) -> None:
    """The spectrum of one atom at the middle of its box is that of its element."""
    for symbol, color in (("C", "black"), ("O", ORANGE), ("N", BLUE), ("H", GREY)):
        atom = Structure(symbol, np.array([symbol]), np.zeros((1, 3)), np.zeros(1))
        for solvent, style in ((False, "--"), (True, "-")):
            volume = structure_density(
                atom, voxel_size=0.5, resolution=1.0, box=96, solvent=solvent
            ).to_numpy()
            k = np.fft.rfftfreq(96, 0.5)
            spectrum = np.fft.rfft(np.fft.ifftshift(volume.sum((0, 1)))).real * 0.5**3
            keep = k < 0.4
            axes.plot(
                k[keep], (spectrum * np.exp(k**2))[keep], style, color=color,
                label=symbol if solvent else None,
            )  # fmt: skip
    axes.axhline(0, color="black", lw=0.5)
    axes.set(title="an atom in ice (- - vacuum)", xlabel="k, 1/Å", ylabel="potential, V·Å³")
    axes.legend(frameon=False)


def draw_spreading(axes) -> None:
    """Two atoms on one row of the fine grid."""
    grid, fine = np.arange(13), np.linspace(0, 12, 400)
    total = np.zeros(13)
    for place, weight in ((4.3, 1.0), (7.1, 0.7)):
        axes.plot(fine, weight * kernel(fine - place), color=GREY)
        axes.plot([place, place], [0, weight], color=ORANGE)
        axes.plot(place, weight, "o", color=ORANGE)
        total += weight * kernel(grid - place)
    axes.vlines(grid, 0, total, color=BLUE)
    axes.plot(grid, total, "o", color=BLUE, ms=4)
    axes.plot(grid[::2], np.full(7, -0.06), "^", color="black", ms=5, label="voxels")
    axes.plot([], [], "o", color=ORANGE, label="atoms")
    axes.plot([], [], "o", color=BLUE, label="fine grid")
    axes.set(title=f"spread over {WIDTH} samples", xlabel="samples of the fine grid", yticks=[])
    axes.legend(frameon=False, loc="upper right")


if __name__ == "__main__":
    main()
