"""The paper's Figure 8: GroEL and GroEL/ES, refined without a reference, then told apart.

    python benchmarks/groel_refine.py --structures ../shared/data/structures --data groel

786 boxes of a mixture of 1mnf (GroEL, D7) and the assembly of 1gru (GroEL/ES, C7), half of each,
made by the paper's protocol as far as it is known: 64³ voxels of 6 Å, ±65° in steps of 1°, six
series with a defocus of −4 to −7 µm, SNR 0.06 (variances over the whole box, as reconstructed),
shifts within ±24 Å.  Then

1. `refine` for each method (fourier, mbgd, lm): reference-free, halves apart, sevenfold symmetry;
   resolution by iteration, where the halves agree to 0.143;
2. `refine(classes=10)`: how many classes are left, and how pure they are;
3. each average against the density of the known structure: where they correlate to 0.5.

Boxes and every result are kept in the folder of --data, and what is there is not done again.
``--particles 120`` tries it.  No pose, kind or map of the simulation goes into a refinement.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import xarray as xr

from tomodask import (
    fsc,
    open_subtomograms,
    open_tomogram,
    particle_table,
    read_particles,
    resolution_at,
    save_subtomograms,
    simulate_subtomograms,
    structure_density,
)
from tomodask.project.refinement.refining import refine
from tomodask.rounds.superposition import superpose, turned_map
from tomodask.simulation.microscope import Microscope

KINDS = {"groel": "1mnf.pdb.gz", "groel-es": "1gru_assembly.pdb.gz"}
DEFOCUS = (40e3, 46e3, 52e3, 58e3, 64e3, 70e3)
VOXEL, BOX, DIAMETER = 6.0, 64, 240.0
SEED = 100


def simulate(structures: Path, path: Path, count: int, snr: float) -> None:
    """The boxes: series by series, its kinds one after the other."""
    densities = {
        name: structure_density(structures / file, voxel_size=VOXEL / 2, resolution=12.0)
        for name, file in KINDS.items()
    }
    parts, records = [], {}
    sizes = [len(part) for part in np.array_split(np.arange(count), len(DEFOCUS))]
    for number, (defocus, size) in enumerate(zip(DEFOCUS, sizes, strict=True), 1):
        made = simulate_subtomograms(
            densities,
            protocol="mbgd",
            seed=SEED + number,
            count=(size + 1) // 2,
            snr=snr,
            tilt_range=(-65.0, 65.0),
            microscope=Microscope(defocus=defocus, spherical_aberration=2.0),
        )
        name = f"series-{number}"
        (records[name],) = made.attrs["tilt_series"].values()
        made = made.isel(particle=slice(0, size))
        names = np.array([name] * size, dtype=object)
        parts.append(made.assign_coords(tomogram=("particle", names)))
    boxes = xr.concat(parts, dim="particle", combine_attrs="drop")
    boxes = boxes.assign_coords(particle=np.arange(count))
    boxes.attrs = {"voxel_size": VOXEL, "tilt_series": records}
    save_subtomograms(boxes, path)


def true_resolution(average: Path, structures: Path) -> dict[str, float]:
    """Where an average and each known structure, laid on it, correlate to 0.5, Å."""
    volume = np.asarray(open_tomogram(average), np.float32)
    out = {}
    for name, file in KINDS.items():
        known = structure_density(
            structures / file, voxel_size=VOXEL, resolution=12.0, box=BOX
        ).to_numpy()
        motion = superpose(
            volume, known, voxel_size=VOXEL, resolution=25.0, diameter=DIAMETER, everywhere=True,
            shift_range=60.0,
        )  # fmt: skip
        there = turned_map(known, motion, voxel_size=VOXEL)
        curve = fsc(volume, there, voxel_size=VOXEL, diameter=DIAMETER)
        out[name] = resolution_at(curve, 0.5)
    return out


def told(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="keeps boxes and results")
    parser.add_argument("--particles", type=int, default=786)
    parser.add_argument("--snr", type=float, default=0.06)
    parser.add_argument("--methods", default="fourier,mbgd,lm")
    parser.add_argument("--iterations", type=int, default=6, help="of each method, at most")
    parser.add_argument("--classes", type=int, default=10, help="first; 0 leaves them out")
    parser.add_argument("--class-iterations", type=int, default=8)
    parser.add_argument(
        "--resolution", type=float, default=20.0, help="no finer detail is aligned by, Å"
    )
    parser.add_argument("--class-resolution", type=float, default=30.0, help="of the classes, Å")
    parser.add_argument("--workers", type=int, default=2, help="1: this process alone")
    given = parser.parse_args()
    given.data.mkdir(parents=True, exist_ok=True)
    where = {"scheduler": "synchronous"} if given.workers == 1 else {"workers": given.workers}
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {given.workers} "
        f"used; {given.particles} boxes, SNR {given.snr:g}, seed {SEED}"
    )
    store = given.data / f"boxes-{given.particles}-{given.snr:g}.zarr"
    if not store.exists():
        began = time.perf_counter()
        with dask.config.set(scheduler="threads", num_workers=given.workers):
            simulate(given.structures, store, given.particles, given.snr)
        print(f"boxes: {time.perf_counter() - began:.0f} s (not part of the run)")
    kinds = particle_table(open_subtomograms(store))["kind"].astype(str).to_numpy()
    common = {
        "symmetry": "C7",
        "diameter": DIAMETER,
        "shift_range": 30.0,
        "resolution": given.resolution,
        "seed": 0,
        **where,
    }
    results_file = given.data / f"results-{given.particles}-{given.snr:g}.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {}
    whole = time.perf_counter()

    print("\nresolution of the halves (FSC 0.143, Å) by iteration, reference-free:\n")
    print("| method | " + " | ".join(map(str, range(1, given.iterations + 1))) + " | s | known |")
    print("|---" * (given.iterations + 3) + "|")
    for method in given.methods.split(","):
        name = f"{store.stem}-{method}"
        began = time.perf_counter()
        done = refine(
            store, output=given.data / name, method=method, iterations=given.iterations, **common
        )
        took = results.setdefault(name, {}).setdefault("seconds", time.perf_counter() - began)
        known = true_resolution(done.averages[1], given.structures)
        results[name] |= {
            "resolution_143": done.history["resolution_143"].tolist(),
            "resolution_5": done.history["resolution_5"].tolist(),
            "known": known,
        }
        cells = [told(one) for one in done.history["resolution_143"]]
        cells += [""] * (given.iterations - len(cells))
        best = min(known.values())
        print(f"| {method} | " + " | ".join(cells) + f" | {took:.0f} | {told(best)} |", flush=True)
        results_file.write_text(json.dumps(results, indent=1))

    if given.classes:
        name = f"{store.stem}-classes"
        began = time.perf_counter()
        done = refine(
            store,
            output=given.data / name,
            classes=given.classes,
            consensus=1,
            iterations=given.class_iterations,
            **common | {"resolution": given.class_resolution},
        )
        took = results.setdefault(name, {}).setdefault("seconds", time.perf_counter() - began)
        table = read_particles(done.poses)
        mine = kinds[table["tomodaskBox"].to_numpy(int)]
        counts = pd.crosstab(table["class"], mine)
        purity = float(counts.max(axis=1).sum() / counts.to_numpy().sum())
        results[name] |= {"purity": purity, "classes": counts.to_dict("index")}
        print(
            f"\n{given.classes} classes at first, {len(counts)} in the end after "
            f"{len(done.history)} iterations, {took:.0f} s; purity {100 * purity:.1f} %\n"
        )
        print("| class | " + " | ".join(counts.columns) + " | FSC 0.143 | known structure, 0.5 |")
        print("|---" * (len(counts.columns) + 3) + "|")
        for label, row in counts.iterrows():
            known = true_resolution(done.averages[int(label)], given.structures)
            print(
                f"| {label} | " + " | ".join(map(str, row)) + " | "
                f"{told(done.resolution_143[int(label)])} | "
                + ", ".join(f"{kind} {told(one)}" for kind, one in known.items())
                + " |"
            )
        results_file.write_text(json.dumps(results, indent=1))
    print(f"\nwhole run, without the boxes: {time.perf_counter() - whole:.0f} s")


if __name__ == "__main__":
    main()
