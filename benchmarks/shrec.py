"""Simulated tomograms of the twelve kinds of SHREC 2021, for the benchmarks of picking.

    python benchmarks/shrec.py --structures DIR [--setting small] [--data DIR]

The tilts are those of SHREC 2021 (±60° by 2°, 300 kV, a defocus between 2 and 5 µm drawn for each
tomogram, a K2-like detector, 120 e/Å²), voxels of 10 Å, gold beads and vesicles between the
particles; the noise is set by the SNR of the tilt images, so that its influence can be measured.
Ten kinds come from atoms, as the assembly that has the mass SHREC tells; 4CR2 and 5MRC are beyond
the PDB format, and come from the 10 Å maps of polnet.  `DIR` holds ``structures/*.pdb.gz`` and
``maps/10A/*.mrc``.

A tomogram lies in a folder that is named by what it was made of: a second run takes it as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import tomodask
from tomodask.simulation import simulate, structure_density
from tomodask.simulation.structures import molecular_weight, read_structure

VOXEL_SIZE = 10.0  # Å

#: Kinds, lightest first, and the assembly that SHREC shows; None: a map.
KINDS: dict[str, str | None] = {
    "1s3x": "1",
    "3qm1": "1",
    "3gl1": "deposited",
    "3h84": "1",
    "2cg9": "1",
    "1u6g": "1",
    "3d2f": "deposited",
    "3cf3": "1",
    "1bxn": "1",
    "1qvr": "1",
    "4cr2": None,
    "5mrc": None,
}
#: Dalton for a unit of the maps' sums: of 1s3x, 2cg9 and 1u6g, whose atoms are all in the maps.
_DALTON = 2.97


@dataclass(frozen=True)
class Plan:
    """What is simulated: shape (voxels, z y x), copies of each kind, beads, vesicles."""

    shape: tuple[int, int, int]
    copies: int
    beads: int
    vesicles: int


PLANS = {
    "tiny": Plan((64, 128, 128), 3, 0, 0),
    "small": Plan((96, 256, 256), 28, 2, 1),
    "large": Plan((180, 512, 512), 200, 10, 4),
}


@dataclass(frozen=True)
class Tomogram:
    """A simulated tomogram with its truth.

    Attributes
    ----------
    name : str
    volume : DataArray
        Lazy.
    truth : DataFrame
        `tomogram`, `z`, `y`, `x` (Å), `class`.
    labels : DataArray
        Which particle fills a voxel: a number from 1 in the truth's order.  Lazy.
    seconds : float
        Of its simulation; 0 where it was there.
    """

    name: str
    volume: xr.DataArray
    truth: pd.DataFrame
    labels: xr.DataArray
    seconds: float


def structure_file(kind: str, structures: Path) -> Path:
    """Atoms of a kind, or its map."""
    if KINDS[kind] is None:
        return structures / "maps" / "10A" / f"{kind}.mrc"
    return structures / "structures" / f"{kind}.pdb.gz"


def template(kind: str, structures: Path) -> xr.DataArray:
    """Density of a kind at the voxels of the tomograms, as the simulator makes it."""
    assembly = KINDS[kind]
    return structure_density(
        structure_file(kind, structures),
        voxel_size=VOXEL_SIZE,
        resolution=2 * VOXEL_SIZE,
        assembly=assembly,
    )


def diameter(density: xr.DataArray) -> float:
    """Diameter of the ball with the radius of gyration of a density, Å."""
    values = np.clip(density.to_numpy().astype(float), 0, None)
    away = np.stack(np.indices(values.shape)) - np.array(values.shape).reshape(3, 1, 1, 1) // 2
    gyration2 = (values * (away**2).sum(0)).sum() / values.sum() * VOXEL_SIZE**2
    blur2 = 3 * (2 * VOXEL_SIZE) ** 2 / (2 * np.pi**2)  # of the low-pass that leaves 1/e
    return float(2 * np.sqrt(5 / 3 * (gyration2 - blur2)))


def weights(structures: Path) -> dict[str, float]:
    """Molecular weight of each kind, kDa: of its atoms, or from the sum of its map."""
    out = {}
    for kind, assembly in KINDS.items():
        path = structure_file(kind, structures)
        if assembly is None:
            total = float(tomodask.open_tomogram(path).sum()) * _DALTON
        else:
            total = molecular_weight(read_structure(path, assembly=assembly))
        out[kind] = total / 1e3
    return out


def settings(plan: Plan, structures: Path, *, name: str, seed: int, snr: float) -> dict[str, Any]:
    """Settings of one tomogram; its defocus and all else are drawn by the seed."""
    defocus = float(np.random.default_rng([seed, 21]).uniform(20_000, 50_000))
    kinds = []
    for kind, assembly in KINDS.items():
        one = {"structure": str(structure_file(kind, structures)), "name": kind}
        kinds.append(one | {"copies": plan.copies} | ({"assembly": assembly} if assembly else {}))
    return {
        "name": name,
        "seed": seed,
        "specimen": {"shape": list(plan.shape), "voxel_size": VOXEL_SIZE},
        "particles": kinds,
        "beads": {"number": plan.beads, "diameter": 100.0},
        "vesicles": {"number": plan.vesicles, "radius": [250.0, 350.0]},
        "tilts": {"range": [-60.0, 60.0], "increment": 2.0, "dose": 120.0},
        "microscope": {"defocus": round(defocus), "amplitude_contrast": 0.08},
        "detector": {"model": "counting"},
        "noise": {"snr": snr},
    }


def tomogram(
    plan: Plan, structures: Path, data: Path, *, name: str, seed: int, snr: float
) -> Tomogram:
    """A tomogram, simulated where it is not in the folder `data` yet."""
    one = settings(plan, structures, name=name, seed=seed, snr=snr)
    plain = json.dumps(one, sort_keys=True).replace(str(structures), "")
    folder = data / f"{name}-{hashlib.sha256(plain.encode()).hexdigest()[:10]}"
    there = (folder / "tomogram.zarr").exists()
    begin = time.perf_counter()
    made = simulate(one, folder, scheduler="synchronous")
    seconds = 0.0 if there else time.perf_counter() - begin
    particles = tomodask.read_particles(made.particles)
    truth = particles[["tomogram", "z", "y", "x"]].assign(**{"class": particles["kind"]})
    volume = tomodask.open_tomogram(made.tomogram).rename(name)
    return Tomogram(name, volume, truth, tomodask.open_tomogram(made.labels), seconds)


def picture(one: Tomogram, path: Path) -> None:
    """Three slices, with the truth's centres on the right."""
    import matplotlib.pyplot as plt

    depth = one.volume.shape[0]
    figure, axes = plt.subplots(2, 3, figsize=(15, 10), layout="constrained")
    for column, z in enumerate(np.linspace(0, depth - 1, 5)[1:4].astype(int)):
        image = one.volume[z - 1 : z + 2].mean("z").to_numpy()
        low, high = np.quantile(image, [0.005, 0.995])
        near = one.truth[(one.truth["z"] / VOXEL_SIZE - z).abs() < 2]
        for row in range(2):
            axes[row, column].imshow(image, cmap="gray", vmin=low, vmax=high)
            axes[row, column].set_title(f"{one.name}, z = {z}")
            axes[row, column].axis("off")
        for _, place in near.iterrows():
            x, y = place["x"] / VOXEL_SIZE, place["y"] / VOXEL_SIZE
            axes[1, column].plot(x, y, "o", mfc="none", color="orange", ms=10)
            axes[1, column].text(x + 4, y, place["class"], color="orange", fontsize=7)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--structures", type=Path, required=True)
    parser.add_argument("--setting", choices=PLANS, default="small")
    parser.add_argument("--data", type=Path, default=Path("shrec-data"))
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for kind, weight in weights(options.structures).items():
        wide = diameter(template(kind, options.structures))
        print(f"{kind} {weight:.0f} kDa, {wide:.0f} Å across")
    one = tomogram(
        PLANS[options.setting],
        options.structures,
        options.data,
        name=f"{options.setting}-{options.seed}",
        seed=options.seed,
        snr=options.snr,
    )
    print(f"{one.name}: {len(one.truth)} particles, {one.seconds:.1f} s")
    picture(one, options.data / f"{one.name}.png")


if __name__ == "__main__":
    main()
