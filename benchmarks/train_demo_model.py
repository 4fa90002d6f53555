"""Train the network that the demo segments with, and write it into the package.

Phantom tomograms of other seeds than the demo's and the tests', brought to 20 Å; two classes, the
particle and the decoy beside it.  Prints the history, and how the network does on a tomogram that
it has not seen.

    python benchmarks/train_demo_model.py            # about 10 minutes on two cores
    python benchmarks/train_demo_model.py --output /tmp/phantom.safetensors --epochs 2
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import xarray as xr

import tomodask
from tomodask.data.parts import TomogramParts
from tomodask.nets.segmentation.architecture import Architecture
from tomodask.nets.segmentation.model_file import PickingModel, write_model
from tomodask.nets.training_step import default_precision
from tomodask.picking.learning.training import TrainingSettings, train_picker
from tomodask.picking.scoring.pairing import matched_pairs
from tomodask.picking.segmentation.picks import pick_segmentation
from tomodask.picking.segmentation.segmenting import segment_tomogram
from tomodask.simulation.phantom import phantom_tomogram

PACKAGE = Path(tomodask.__file__).parent / "models" / "phantom.safetensors"
SEEDS = (9001, 9002, 9003, 9004)  # the demo's is 0; tests draw theirs below 100
UNSEEN = 9100
VOXEL_SIZE = 20.0  # Å: 12 to 13 voxels across a particle, an eighth of the work of 10 Å
DIAMETER = 250.0  # Å, of the particle and of the decoy


def tomogram(seed: int) -> tuple[xr.DataArray, pd.DataFrame]:
    """A phantom as a segmentation sees it, at the model's voxel size, in memory."""
    volume, truth = phantom_tomogram(seed=seed)
    parts = TomogramParts(volume, VOXEL_SIZE)
    name = f"phantom-{seed}"
    values = np.asarray(parts.part((0, 0, 0), parts.shape).compute(), np.float32)
    coarse = xr.DataArray(
        values, dims=("z", "y", "x"), name=name, attrs={**volume.attrs, "voxel_size": VOXEL_SIZE}
    )
    coarse.attrs.pop("source", None)  # there is no file of that name
    return coarse, truth.assign(tomogram=name)


def settings(epochs: int) -> TrainingSettings:
    """Small enough for minutes on a laptop."""
    return TrainingSettings(
        architecture=Architecture(channels=(8, 16, 24, 36)),
        crop=40,
        jitter=10,
        epochs=epochs,
        examples=80,
        batch=4,
        learning_rate=3e-3,  # few steps: larger ones, and cross-entropy to begin with
        entropy=1.0,
        precision=default_precision(),
        seed=1,
    )


def on_unseen(model: PickingModel) -> dict[str, dict[str, float]]:
    """How each class of a tomogram that took no part is found."""
    volume, truth = phantom_tomogram(seed=UNSEEN)
    picks = pick_segmentation(segment_tomogram(volume, model).compute(scheduler="synchronous"))
    found = {}
    for name in model.classes:
        mine, true = picks[picks["kind"] == name], truth[truth["kind"] == name]
        hits, _, far = matched_pairs(
            mine[["z", "y", "x"]].to_numpy(), true[["z", "y", "x"]].to_numpy(), DIAMETER / 2
        )
        found[name] = {
            "precision": round(len(hits) / max(1, len(mine)), 4),
            "recall": round(len(hits) / len(true), 4),
            "distance": round(float(far.mean()), 2) if len(far) else None,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=PACKAGE)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    began = time.perf_counter()
    pairs = [tomogram(seed) for seed in SEEDS]
    made = time.perf_counter()
    model = train_picker(
        [volume for volume, _ in pairs],
        pd.concat([truth for _, truth in pairs], ignore_index=True),
        diameter=DIAMETER,
        classes=("particle", "decoy"),
        settings=settings(options.epochs),
        threads=options.threads,
    )
    trained = time.perf_counter()
    record = {
        "made by": "benchmarks/train_demo_model.py",
        "tomograms": f"phantom_tomogram, seeds {', '.join(map(str, SEEDS))}, brought to "
        f"{VOXEL_SIZE:g} Å",
        "voxel_size": VOXEL_SIZE,
        "diameter": DIAMETER,
        "classes": list(model.classes),
        "seconds": {"simulation": round(made - began, 1), "training": round(trained - made, 1)},
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
        },
        "unseen": {"seed": UNSEEN, **on_unseen(model)},
        "reach": [list(pair) for pair in model.reach],
        "halo": model.halo,
        "digest": model.digest,
        "training": dict(model.training),
        "history": [dict(row) for row in model.history],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_model(
        replace(model, training={**model.training, "made by": record["made by"]}), options.output
    )
    beside = options.output.with_suffix(".json")
    beside.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(
        f"{options.output}: {options.output.stat().st_size / 1e6:.2f} MB, halo {model.halo} voxels"
    )
    print(f"training {record['seconds']['training']:.0f} s, {len(model.history)} epochs")
    print(f"unseen tomogram: {json.dumps(record['unseen'])}")


if __name__ == "__main__":
    main()
