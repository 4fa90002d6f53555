"""What the record of a tilt series is worth in matching: particles against the highest false score.

    python benchmarks/match_weights.py [--workers 2] [--folder DIR]

Simulated slabs of 80 × 160 × 160 voxels of 10 Å, 16 phantoms and 6 decoys, 41 tilts.  Each is
matched by the tilt range alone and by the record, at coarse and fine steps and at the true
orientations (and 20 others) up to 25 Å.  The record is forced on everywhere here; `match_template`
itself uses it from a fifth of the diameter on.  Printed: median score at the particles over the
highest score elsewhere, and how many of the particles lie above that.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import dask
import numpy as np
from scipy.spatial.transform import Rotation

from tomodask import match_template, open_tomogram, orientations, phantom_map, read_particles
from tomodask.picking.templates import matching as template_matching
from tomodask.simulation import simulate

VOXEL, SEED = 10.0, 5


def scene(folder: Path, snr: float, ctf: str, defocus: float):
    made = simulate(
        {
            "seed": SEED,
            "specimen": {"shape": [80, 160, 160], "voxel_size": VOXEL},
            "particles": [
                {"structure": "phantom", "copies": 16},
                {"structure": "phantom-decoy", "name": "decoy", "copies": 6},
            ],
            "tilts": {"increment": 3.0},
            "microscope": {"defocus": defocus},
            "noise": {"snr": snr},
            "reconstruction": {"ctf": ctf},
        },
        folder,
        scheduler="synchronous",
    )
    truth = read_particles(made.particles)
    return open_tomogram(made.tomogram), truth[truth["kind"] == "phantom"]


def contrast(tomogram, truth, **options) -> str:
    found = match_template(tomogram, phantom_map(voxel_size=VOXEL, box=40), **options).compute()
    score = found["score"].to_numpy()
    at = np.rint(truth[["z", "y", "x"]].to_numpy(float) / VOXEL).astype(int)
    near = np.array([score[around(place, 2)].max() for place in at])
    away = np.ones(score.shape, bool)
    for place in at:
        away[around(place, 9)] = False
    highest = score[away].max()
    return f"{np.median(near) / highest:.2f} ({(near > highest).sum()} of {len(near)})"


def around(place: np.ndarray, reach: int) -> tuple[slice, ...]:
    return tuple(slice(max(0, c - reach), c + reach + 1) for c in place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    template_matching._WEIGHTED = 1e-9  # the record at every band
    for snr in (0.03, 0.01):
        for ctf, defocus in (("flip", 30_000.0), ("none", 60_000.0)):
            with tempfile.TemporaryDirectory(dir=given.folder) as folder:
                tomogram, truth = scene(Path(folder, "out"), snr, ctf, defocus)
                others = Rotation.random(20, rng=np.random.default_rng(0))
                true = Rotation.concatenate([orientations(truth), others])
                flipped = "flipped" if ctf == "flip" else "not flipped"
                print(f"SNR {snr}, {defocus / 1e4:.0f} µm, phases {flipped}")
                with dask.config.set(scheduler="threads", num_workers=given.workers):
                    for label, how in (
                        ("20° (87 Å)", {"angular_step": 20.0}),
                        ("12° (52 Å)", {"angular_step": 12.0}),
                        ("true orientations, 25 Å", {"rotations": true, "resolution": 25.0}),
                    ):
                        blind = contrast(tomogram, truth, tilt_range=(-60, 60), **how)
                        known = contrast(tomogram, truth, **how)
                        print(f"  {label:24} tilt range {blind}, record {known}", flush=True)


if __name__ == "__main__":
    main()
