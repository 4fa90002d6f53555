"""Density of atomic structures: its speed, and how it agrees with maps that others computed.

Prints, for each structure of the data beside the project, the time to read it and to compute its
density at 5 Å voxels on one thread (asked: 3 s in all for the ribosome of 145,243 atoms), then the
correlation with the map of the same entry in maps/10A, up to 20 Å, after alignment by
`align_subtomograms` (asked: 0.9): the map is the one box, our density the reference, nothing is
missing.  The pose found turns the atoms, not the density, so that nothing is interpolated.  The map
in a mirror tells whether the hands agree.

    python benchmarks/density.py [--data FOLDER] [--only 3j9i …] [--no-maps]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
    os.environ.setdefault(f"{name}_NUM_THREADS", "1")

import dask
import dask.array as da
import numpy as np
import pandas as pd
import scipy.fft
import scipy.ndimage

from tomodask.alignment.poses import align_subtomograms
from tomodask.arrays.resampling import fitted
from tomodask.data.particles import orientations
from tomodask.data.resample import resample_map
from tomodask.data.subtomogram_table import subtomogram_dataset
from tomodask.data.tomograms import open_tomogram
from tomodask.simulation.density import inner_contrast, structure_density
from tomodask.simulation.structures import (
    Structure,
    center_of_mass,
    molecular_weight,
    read_structure,
)

VOXEL, RESOLUTION, BAND = 5.0, 10.0, 20.0
RIBOSOME = "4v5a_70S"
# The maps are of the coordinates as deposited, by their mass.  A name of another entry: the same
# molecule, in another state or of another species.
PAIRS = [
    ("1bxn", "1bxn"), ("1qvr", "1qvr"), ("1s3x", "1s3x"), ("1u6g", "1u6g"), ("2cg9", "2cg9"),
    ("3cf3", "3cf3"), ("3d2f", "3d2f"), ("3gl1", "3gl1"), ("3h84", "3h84"), ("3j9i", "3j9i"),
    ("3qm1", "3qm1"), ("4v4r_30S", "4v4r_30S"), ("4v5a_70S", "4v4r"), ("1mnf", "4v94"),
]  # fmt: skip


def measure(path: Path) -> None:
    start = time.perf_counter(), time.process_time()
    structure = read_structure(path)
    read = time.perf_counter() - start[0], time.process_time() - start[1]
    start = time.perf_counter(), time.process_time()
    volume = structure_density(structure, voxel_size=VOXEL, resolution=RESOLUTION)
    computed = time.perf_counter() - start[0], time.process_time() - start[1]
    print(
        f"{structure.name:<15}{len(structure):>9,} atoms {molecular_weight(structure) / 1e3:>6.0f}"
        f" kDa  read {read[0]:.2f} s  density {computed[0]:.3f} s ({computed[1]:.3f} s of CPU, "
        f"{len(structure) / computed[0] / 1e6:.2f} million atoms/s, {len(volume)}³)  "
        f"inner contrast {inner_contrast(volume.to_numpy()):.2f} V",
        flush=True,
    )


def prepared(path: Path) -> np.ndarray:
    """The map at 5 Å, its centre of mass on the middle voxel."""
    volume = open_tomogram(path)
    values = volume.to_numpy()
    parts, count = scipy.ndimage.label(values > 0.3 * values.max())
    sizes = np.bincount(parts.ravel())[1:]
    if count > 1 and np.sort(sizes)[-2] > 0.8 * sizes.max():
        # Two molecules side by side, as in 4v94: the second is cut away.
        far = scipy.ndimage.distance_transform_edt(parts != 1)
        other = scipy.ndimage.distance_transform_edt(~np.isin(parts, np.flatnonzero(
            sizes > 0.8 * sizes.max())[1:] + 1))  # fmt: skip
        values = np.where(far < other, values, 0)
        volume = volume.copy(data=values)
        print(f"    {path.name} holds two molecules side by side; one is taken")
    fine = resample_map(volume, voxel_size=VOXEL).to_numpy()
    inside = np.where(fine > 0.5 * np.percentile(fine, 99.9), fine, 0)
    center = scipy.ndimage.center_of_mass(inside)
    return moved(fine, [n // 2 - c for n, c in zip(fine.shape, center, strict=True)])


def moved(volume: np.ndarray, shift: list[float]) -> np.ndarray:
    """Shifted by some voxels, exactly."""
    spectrum = scipy.fft.fftn(volume)
    for axis, (n, by) in enumerate(zip(volume.shape, shift, strict=True)):
        turn = np.exp(-2j * np.pi * np.fft.fftfreq(n) * by)
        spectrum *= turn.reshape([-1 if i == axis else 1 for i in range(3)])
    return scipy.fft.ifftn(spectrum).real.astype(np.float32)


def correlations(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Correlation of all frequencies up to `BAND`, and in the last shell."""
    n = len(a)
    k = np.fft.fftfreq(n, VOXEL)
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    fa, fb = scipy.fft.fftn(a.astype(np.float64)), scipy.fft.fftn(b.astype(np.float64))

    def within(mask: np.ndarray) -> float:
        power = (np.abs(fa[mask]) ** 2).sum() * (np.abs(fb[mask]) ** 2).sum()
        return float((fa[mask] * fb[mask].conj()).real.sum() / np.sqrt(power))

    shell = np.abs(radius - 1 / BAND) < 1 / (n * VOXEL)
    return within((radius > 0) & (radius <= 1 / BAND)), within(shell)


def compare(structure: Structure, theirs: np.ndarray) -> tuple[float, float]:
    how = {"voxel_size": VOXEL, "resolution": RESOLUTION}
    # Beyond it the map is empty, and a small box is quick to align.
    n = min(len(theirs), len(structure_density(structure, **how)) + 8)
    theirs, how["box"] = fitted(theirs, n), n
    box = subtomogram_dataset(
        da.from_array(theirs[None]),
        pd.DataFrame({"tomogram": ["map"]}),
        voxel_size=VOXEL,
        attrs={},
    )
    with dask.config.set(scheduler="sync"):
        pose = align_subtomograms(
            box,
            structure_density(structure, **how),
            tilt_range=(-90, 90),
            angular_step=15.0,
            shift_range=30.0,
            resolution=BAND,
        ).compute()
    places = (structure.positions_zyx - center_of_mass(structure))[:, ::-1]
    turned = replace(structure, positions_zyx=orientations(pose)[0].apply(places)[:, ::-1])
    shift = pose[["shift_z", "shift_y", "shift_x"]].to_numpy()[0] / VOXEL
    return correlations(moved(structure_density(turned, **how).to_numpy(), list(shift)), theirs)


def command(path: Path) -> None:
    """`tomodask density` as it is typed, imports and all, on one core where the system can pin."""
    pin = ["taskset", "-c", "0"] if shutil.which("taskset") else []
    with tempfile.TemporaryDirectory() as folder:
        words = [*pin, sys.executable, "-m", "tomodask", "density", str(path)]
        words += ["--voxel-size", f"{VOXEL:g}", "--resolution", f"{RESOLUTION:g}"]
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*words, "-o", f"{folder}/map.mrc"], check=True, capture_output=True)
        wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    print(f"tomodask density {path.name}: {wall:.1f} s, {spent:.1f} s of CPU, with all imports")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("TOMODASK_SHARED") or default)
    )
    parser.add_argument("--only", nargs="*", help="entries to look at")
    parser.add_argument("--no-maps", action="store_true", help="speed alone")
    options = parser.parse_args()
    structures = {
        path.name.partition(".")[0]: path for path in (options.data / "structures").glob("*.gz")
    }
    wanted = options.only or sorted(structures)
    alone = Structure("carbon", np.array(["C"]), np.zeros((1, 3)), np.ones(1))
    structure_density(alone, voxel_size=VOXEL, resolution=RESOLUTION)  # the kernel is compiled
    for name in wanted:
        measure(structures[name])
    if RIBOSOME in wanted:
        command(structures[RIBOSOME])
    if options.no_maps:
        return
    print(f"\ncorrelation up to {BAND:g} Å, in the shell at {BAND:g} Å; with the map in a mirror")
    for name, other in PAIRS:
        if name not in wanted:
            continue
        structure = read_structure(structures[name], assembly="deposited")
        theirs = prepared(options.data / "maps" / "10A" / f"{other}.mrc")
        straight = compare(structure, theirs)
        mirrored = compare(structure, np.ascontiguousarray(theirs[:, :, ::-1]))
        print(
            f"{name:<10} with {other:<9} {straight[0]:.3f} {straight[1]:.3f}   mirror "
            f"{mirrored[0]:.3f} {mirrored[1]:.3f}   {'yes' if straight[0] >= 0.9 else 'NO'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
