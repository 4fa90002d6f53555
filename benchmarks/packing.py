"""Packing and drawing of a crowded specimen: seconds, places tried, memory, error of turning.

    python benchmarks/packing.py [--shape 200 512 512] [--data FOLDER]

Five structures (70S ribosome, 20S proteasome, GroEL, p97, RuBisCO) from `structures/` of the data
folder, by default that of the variable TOMODASK_SHARED or ../shared/data beside the project; on
voxels of 10 Å.  Where they are missing, the embedded phantom and its decoy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import dask
import numpy as np

from tomodask.data.particles import orientations
from tomodask.errors import InputError
from tomodask.simulation.packing import Packing, pack
from tomodask.simulation.phantom import phantom_map, phantom_particle
from tomodask.simulation.shapes import particle_shape
from tomodask.simulation.specimen import specimen_density, specimen_labels, specimen_occupancy

VOXEL = 10.0
STRUCTURES = ("4v5a_70S.cif.gz", "3j9i.pdb.gz", "1mnf.pdb.gz", "3cf3.pdb.gz", "1bxn.pdb.gz")
FOLDER = Path(os.environ.get("TOMODASK_SHARED") or Path(__file__).parents[2] / "shared" / "data")


def densities_of(folder: Path) -> dict:
    if not (folder / "structures" / STRUCTURES[0]).exists():
        print(f"no structures in {folder}: the phantom and its decoy instead")
        return {
            kind: phantom_map(voxel_size=VOXEL / 2, box=80, kind=kind)
            for kind in ("particle", "decoy")
        }
    from tomodask.simulation.density import structure_density

    return {
        name.split(".")[0]: structure_density(
            folder / "structures" / name, voxel_size=VOXEL / 2, resolution=2 * VOXEL
        )
        for name in STRUCTURES
    }


def peak() -> float:
    """The most memory that this process ever held, MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def timed(make):
    begin = time.perf_counter()
    out = make()
    return out, time.perf_counter() - begin


def draw(densities: dict, shapes: dict, shape: tuple[int, int, int]) -> None:
    """Pack and draw one slab, block by block, and print seconds and memory."""
    before = peak()
    packing, seconds = timed(lambda: pack(shapes, shape=shape, voxel_size=VOXEL, occupancy=0.25))
    print(
        f"{'×'.join(map(str, shape))}: {len(packing.particles)} particles, packed {seconds:.2f} s"
    )
    voxels = float(np.prod(shape))
    for volume in (
        specimen_density(packing, densities),
        specimen_labels(packing),
        specimen_occupancy(packing),
    ):
        with dask.config.set(scheduler="threads", num_workers=2):
            _, seconds = timed(lambda v=volume: v.data.sum(dtype=np.float64).compute())
        print(f"  {volume.name:<10} {seconds:6.2f} s   {voxels / seconds / 1e6:6.0f} Mvoxel/s")
    print(f"  peak memory {peak() - before:6.0f} MB above {before:.0f} MB; "
          f"one volume has {voxels * 4 / 1e6:.0f} MB")  # fmt: skip


def error() -> None:
    """Of a turned and shifted particle against its exact density, in rms of it."""
    for own, box in ((VOXEL / 2, 80), (VOXEL, 40)):
        density = phantom_map(voxel_size=own, box=box)
        shapes = {"particle": particle_shape(density, voxel_size=VOXEL)}
        worst = 0.0
        for seed in range(8):
            packing = pack(
                shapes, shape=(48, 48, 48), voxel_size=VOXEL, copies={"particle": 1}, seed=seed
            )
            drawn = specimen_density(packing, {"particle": density}).to_numpy()
            row = packing.particles.iloc[0]
            exact = phantom_particle().density(
                box=48,
                voxel_size=VOXEL,
                rotation=orientations(packing.particles)[0],
                shift_zyx=row[["z", "y", "x"]].to_numpy(float) - 24 * VOXEL,
            )
            worst = max(worst, float(np.sqrt(((drawn - exact) ** 2).mean() / (exact**2).mean())))
        print(f"error of turning, map of {own:g} Å in voxels of {VOXEL:g} Å: {worst:.2%} rms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(200, 512, 512), metavar="N")
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--draw", action="store_true", help="only pack and draw this one shape")
    options = parser.parse_args()
    shape = tuple(options.shape)

    densities, seconds = timed(lambda: densities_of(options.data))
    shapes, shaping = timed(
        lambda: {name: particle_shape(one, voxel_size=VOXEL) for name, one in densities.items()}
    )
    pack(shapes, shape=(100, 100, 100), voxel_size=VOXEL, occupancy=0.05)  # compiles
    warm: Packing = pack(shapes, shape=(100, 100, 100), voxel_size=VOXEL, occupancy=0.05)
    for volume in (specimen_density(warm, densities), specimen_labels(warm),
                   specimen_occupancy(warm)):  # fmt: skip
        volume.compute()
    if options.draw:
        draw(densities, shapes, shape)
        return
    print(f"densities {seconds:.1f} s, shapes {shaping:.2f} s for {len(shapes)} kinds, radii "
          + ", ".join(f"{name} {one.radius:.0f} Å" for name, one in shapes.items()))  # fmt: skip
    error()
    print("\noccupancy  by bodies  particles  seconds   places   places/s")
    for occupancy in (0.25, 0.3, 0.4, 0.5, 0.6, 0.7):
        try:
            packing, seconds = timed(
                lambda o=occupancy: pack(shapes, shape=shape, voxel_size=VOXEL, occupancy=o)
            )
        except InputError as stop:
            print(stop)
            break
        print(f"{packing.occupancy:9.2f}  {packing.molecular_occupancy:9.3f}  "
              f"{len(packing.particles):9d}  {seconds:7.2f}  {packing.trials:7d}  "
              f"{packing.trials / seconds:9.0f}")  # fmt: skip
    print()
    for times in (1, 2):  # each in a process of its own, for its own peak of memory
        larger = [str(n) for n in (shape[0], shape[1] * times, shape[2] * times)]
        subprocess.run(
            [sys.executable, __file__, "--draw", "--shape", *larger, "--data", options.data],
            check=True,
        )


if __name__ == "__main__":
    main()
