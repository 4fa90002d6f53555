"""A mixture that nobody labelled: how many of its structures come back, by which features.

GroEL, GroEL with GroES, 20S proteasome, 70S ribosome and 30S subunit, as many of each, fill a
quarter of one simulated slab by their bounding spheres (96×480×480 voxels of 12 Å, 41 tilts of
±60°, 3 µm underfocus, SNR of the tilt images 0.05).  Picks by a difference of Gaussians of one
diameter → boxes → a first, coarse division by rotation-invariant features, which finds the
particles' centres → boxes cut out again there → features → clusters → averages; the truth is looked
at only at the end.  Settings were chosen on the tomogram of seed 1; by default another is taken.
Features of the second division, one kind after the other:

- rotation-invariant: no training;
- pretrained: RB3D by MoCo, without labels, on the very boxes;
- others: DSRF3D taught on a simulated tomogram of eleven other complexes, none with a part of these
  five, and empty places (needs --maps).

All that is finished lies in --work and is not done again; stop it at any moment.

    python benchmarks/mixture.py --structures DIR [--maps DIR] [--features rotation-invariant …]
        [--work FOLDER] [--seed 2] [--epochs 40] [--figure FILE]

DIR holds the atomic models, 1mnf.pdb.gz and so on; that of --maps densities, 1bxn.mrc and so on.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

import tomodask
from tomodask.classification.clusters.tables import evenness
from tomodask.classification.learning.settings import ClassifierSettings, EncoderSettings
from tomodask.data.job_input import job_template
from tomodask.nets.boxes.views import Views
from tomodask.rounds.superposition import superpose, turned_map

FILES = {
    "1mnf": "1mnf.pdb.gz",
    "1gru": "1gru_assembly.pdb.gz",
    "3j9i": "3j9i.pdb.gz",
    "4v5a": "4v5a_70S.cif.gz",
    "4v4r_30S": "4v4r_30S.pdb.gz",
}
OTHERS = [
    "1bxn", "1f4a", "1qvr", "1u6g", "2cg9", "2uv8", "3cf3", "3d2f", "6pxm", "7n4y", "8tux",
]  # fmt: skip
SHAPE, VOXEL, OCCUPANCY, SNR = [96, 480, 480], 12.0, 0.25, 0.05
BOX, PICKED, RADIUS, DIAMETER = 32, 200.0, 80.0, 240.0  # voxels; Å
CLUSTERS = 12
FIRST: dict[str, Any] = {"classes": 1, "iterations": 2, "angular_step": 30.0}
SECOND: dict[str, Any] = {"classes": 1, "iterations": 4}
RECOVERED = 70.0  # Å: a discrepancy below it is a structure recovered (Xu et al.)
EMPTY = 250  # places without a particle, at least so far from one as RADIUS and half a box
# Any orientation alike, and shifts as picks have them; sizes stay: they tell structures apart.
VIEWS = Views(
    crop_probability=0.0, affine_probability=1.0, translation=0.08, scaling=(1.0, 1.0), turn=180.0
)


class Bench:
    """The folder, and what was measured so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "measured.json"
        self.measured: dict[str, Any] = (
            json.loads(self.file.read_text()) if self.file.exists() else {}
        )

    def once(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The figures of a stage, which is done now if it never was to its end."""
        if name not in self.measured:
            begin = time.perf_counter(), time.process_time()
            figures = work()
            figures["seconds"] = time.perf_counter() - begin[0]
            self.measured[name] = figures
            self.file.write_text(json.dumps(self.measured, indent=1))
        return dict(self.measured[name])


def settings(structures: dict[str, str], name: str, seed: int) -> dict[str, Any]:
    """What `tomodask.simulate` takes."""
    return {
        "name": name,
        "seed": seed,
        "specimen": {"shape": SHAPE, "voxel_size": VOXEL, "occupancy": OCCUPANCY},
        "particles": [{"structure": s, "name": n, "copies": 1} for n, s in structures.items()],
        "tilts": {"range": [-60.0, 60.0], "increment": 3.0, "dose": 120.0},
        "microscope": {"defocus": 30000.0},
        "noise": {"snr": SNR},
    }


def simulated(bench: Bench, name: str, structures: dict[str, str], seed: int) -> dict[str, Any]:
    """The stage of a tomogram."""

    def work() -> dict[str, Any]:
        made = tomodask.simulate(settings(structures, name, seed), bench.folder / name)
        truth = tomodask.read_particles(made.particles)
        return {"particles": len(truth)}

    return bench.once(f"simulate {name}", work)


def picked(bench: Bench) -> dict[str, Any]:
    """Picks, held against the truth, and their boxes; labels are kept for the end."""
    folder = bench.folder

    def work() -> dict[str, Any]:
        tomogram = tomodask.open_tomogram(folder / "mixture" / "tomogram.zarr")
        picks = tomodask.find_blobs(tomogram, diameter=PICKED)
        truth = tomodask.read_particles(folder / "mixture" / "particles.star")
        scores = tomodask.score_picks(picks, truth, radius=RADIUS)
        boxes = tomodask.extract_subtomograms(tomogram, picks, box=BOX)
        tomodask.save_subtomograms(boxes, folder / "boxes.zarr", overwrite=True)
        said = scores.picks
        kind = np.where(said["verdict"] == "true", said["true_class"].astype(str), "junk")
        rows = boxes["particle"].to_numpy()
        pd.DataFrame({"particle": rows, "kind": kind[rows]}).to_csv(
            folder / "labels.csv", index=False
        )
        found = scores.particles.assign(found=scores.particles["pick"] >= 0)
        true = said[said["verdict"] == "true"]
        return {
            "picks": len(picks),
            "precision": scores.precision,
            "recall": scores.recall,
            "recall of each": found.groupby("kind")["found"].mean().to_dict(),
            "distance of each": true.groupby("true_class")["distance"].mean().to_dict(),
        }

    return bench.once("picks", work)


def centred(bench: Bench) -> dict[str, Any]:
    """Boxes about the centres that a first division found, and how far off these are."""
    folder = bench.folder

    def work() -> dict[str, Any]:
        table = tomodask.read_particles(folder / "divided-first" / "centred.star")
        tomogram = tomodask.open_tomogram(folder / "mixture" / "tomogram.zarr")
        boxes = tomodask.extract_subtomograms(tomogram, table, box=BOX)
        tomodask.save_subtomograms(boxes, folder / "centred.zarr", overwrite=True)
        # The rows of the table are the boxes of before, in their order.
        before = tomodask.open_subtomograms(folder / "boxes.zarr")["particle"].to_numpy()
        kind = pd.read_csv(folder / "labels.csv").set_index("particle")["kind"].loc[before]
        pd.DataFrame({"particle": np.arange(len(kind)), "kind": kind.to_numpy()}).to_csv(
            folder / "centred.csv", index=False
        )
        truth = tomodask.read_particles(folder / "mixture" / "particles.star")
        places = table[["z", "y", "x"]] + table[["shift_z", "shift_y", "shift_x"]].to_numpy()
        true = (kind != "junk").to_numpy()
        far = cKDTree(truth[["z", "y", "x"]]).query(places[true])[0]
        return {"distance of each": pd.Series(far).groupby(kind[true].to_numpy()).mean().to_dict()}

    return bench.once("centred", work)


def pretrained(bench: Bench, epochs: int) -> Path:
    """An encoder that learned from the very boxes, without labels."""
    path = bench.folder / "pretrained.safetensors"

    def work() -> dict[str, Any]:
        how = EncoderSettings(
            epochs=epochs, batch=32, queue=256, momentum=0.99, learning_rate=5e-4, views=VIEWS,
            precision="bfloat16",
        )  # fmt: skip
        state = path.with_suffix(".training").exists()
        model = tomodask.pretrain_encoder(
            bench.folder / "centred.zarr", method="moco", settings=how, output=path, resume=state,
            labels=bench.folder / "centred.csv", on_epoch=_told,
        )  # fmt: skip
        return {"epochs": epochs, "loss": float(model.history[-1]["loss"])}

    bench.once("pretrain", work)
    return path


def taught_on_others(bench: Bench, maps: Path, epochs: int) -> Path:
    """A classifier of other complexes, cut out of a tomogram of theirs, and of empty places."""
    path = bench.folder / "others.safetensors"
    simulated(bench, "others", {name: str(maps / f"{name}.mrc") for name in OTHERS}, 2)

    def work() -> dict[str, Any]:
        tomogram = tomodask.open_tomogram(bench.folder / "others" / "tomogram.zarr")
        truth = tomodask.read_particles(bench.folder / "others" / "particles.star")
        places = ["z", "y", "x"]
        rng = np.random.default_rng(0)
        inner = np.array(tomogram.shape) * VOXEL - 2 * RADIUS
        drawn = rng.uniform(size=(40_000, 3)) * inner + RADIUS
        far = cKDTree(truth[places]).query(drawn)[0] > RADIUS + BOX * VOXEL / 4
        empty = pd.DataFrame(drawn[far][:EMPTY], columns=places).assign(kind="none")
        table = pd.concat([truth[[*places, "kind"]], empty], ignore_index=True)
        table["tomogram"] = str(tomogram.name)
        boxes = tomodask.extract_subtomograms(tomogram, table, box=BOX)
        tomodask.save_subtomograms(boxes, bench.folder / "others.zarr", overwrite=True)
        how = ClassifierSettings.subdivision(epochs=epochs, augment=VIEWS, precision="bfloat16")
        state = path.with_suffix(".training").exists()
        model = tomodask.train_classifier(
            bench.folder / "others.zarr", table.assign(particle=table.index), network="dsrf3d",
            settings=how, output=path, resume=state, on_epoch=_told,
        )  # fmt: skip
        best = max(row.get("accuracy", np.nan) for row in model.history)
        return {"epochs": epochs, "boxes": len(table), "accuracy": float(best)}

    bench.once("train others", work)
    return path


def _told(epoch: Any) -> None:
    parts = [f"epoch {epoch.epoch} of {epoch.epochs}", f"loss {epoch.loss:.3f}"]
    parts += [
        f"{name} {getattr(epoch, name):.3f}"
        for name in ("linear", "neighbours", "accuracy")
        if hasattr(epoch, name)
    ]
    print("    " + ", ".join(parts) + f", {epoch.seconds:.0f} s", flush=True)


def divided(
    bench: Bench, name: str, model: Any, store: str, labels: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Clusters and averages by a model's features, and which structures they are."""
    output = bench.folder / f"divided-{name}"

    def work() -> dict[str, Any]:
        folder = bench.folder
        known = [folder / "mixture" / "structures" / f"{one}.mrc" for one in FILES]
        result = tomodask.subdivide(
            folder / store, output=output, model=model, clusters=CLUSTERS, diameter=DIAMETER,
            known=known if name != "first" else (), labels=folder / labels, method="exact",
            **settings,
        )  # fmt: skip
        clusters, classes = result.clusters, result.classes
        boxes = tomodask.particle_table(tomodask.open_subtomograms(folder / store))
        kind = pd.read_csv(folder / labels).set_index("particle")["kind"]
        kinds = pd.Series(kind.loc[boxes.index].to_numpy(), boxes["image"].to_numpy())
        back = {}
        for one in FILES:
            mine = classes[classes["nearest"] == one].sort_values("discrepancy", kind="stable")
            if len(mine):
                columns = [
                    "cluster", "class", "particles", "resolution_143", "discrepancy", "average",
                ]  # fmt: skip
                back[one] = {k: _plain(v) for k, v in mine.iloc[0][columns].items()}
                poses = output / Path(back[one]["average"]).parent / "poses.star"
                table = tomodask.read_particles(poses)
                if "class" in table:
                    table = table[table["class"] == back[one]["class"]]
                back[one]["share"] = float((kinds.loc[table["image"]] == one).mean())
        purity = (clusters["purity"] * clusters["particles"]).sum() / clusters["particles"].sum()
        return {
            "purity": float(purity),
            "evenness": evenness(clusters["particles"]),
            "clusters": [
                f"{row.particles} {row.kind} {row.purity:.2f}"
                for row in clusters.itertuples(index=False)
            ],
            "junk": int((kind == "junk").sum()),
            "back": back,
        }

    return bench.once(f"divide {name}", work)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def told(name: str, figures: dict[str, Any]) -> None:
    """One kind of features."""
    print(
        f"{name}: purity {figures['purity']:.2f}, evenness {figures['evenness']:.2f}, "
        f"{figures['seconds']:.0f} s"
    )
    print("  clusters: " + "; ".join(figures["clusters"]))
    if name == "first":
        return
    recovered = 0
    for one in FILES:
        best = figures["back"].get(one)
        if best is None:
            print(f"  {one:9s} no average is likest to it")
            continue
        recovered += best["discrepancy"] < RECOVERED
        print(
            f"  {one:9s} {best['discrepancy']:5.1f} Å to the truth (FSC 0.5), own "
            f"{best['resolution_143']:5.1f} Å (0.143): cluster {best['cluster']}, class "
            f"{best['class']}, {best['particles']} particles, {best['share']:.0%} of them it"
        )
    print(f"  recovered below {RECOVERED:.0f} Å: {recovered} of {len(FILES)}", flush=True)


def draw(bench: Bench, name: str, path: Path) -> None:
    """Slices of the best averages over those of the truth, which is laid on them."""
    import matplotlib.pyplot as plt

    result = tomodask.open_subdivision(bench.folder / f"divided-{name}")
    back = bench.measured[f"divide {name}"]["back"]
    figure, axes = plt.subplots(2, len(FILES), figsize=(2 * len(FILES), 4.3), layout="constrained")
    for column, one in zip(axes.T, FILES, strict=True):
        true = tomodask.open_tomogram(bench.folder / "mixture" / "structures" / f"{one}.mrc")
        true = job_template(true, VOXEL, True, edge=BOX, role="truth").to_numpy()
        shown = [np.zeros_like(true), true]
        title = f"{one}\nnot recovered"
        if one in back:
            average = np.asarray(tomodask.open_tomogram(result.output / back[one]["average"]))
            how: dict[str, Any] = {"voxel_size": VOXEL}
            motion = superpose(
                true, average, resolution=40.0, diameter=DIAMETER, everywhere=True, **how
            )
            shown[0] = turned_map(average, motion, **how)
            title = f"{one}\n{back[one]['discrepancy']:.0f} Å"
        for axis, volume in zip(column, shown, strict=True):
            inner = volume[BOX // 2, 2:-2, 2:-2]
            axis.imshow(inner, cmap="gray", vmin=np.quantile(inner, 0.02), vmax=inner.max())
            axis.set(xticks=[], yticks=[])
        column[0].set_title(title, fontsize=10)
    axes[0, 0].set_ylabel("average")
    axes[1, 0].set_ylabel("truth")
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--structures", type=Path, required=True)
    parser.add_argument("--maps", type=Path)
    parser.add_argument("--work", type=Path, default=Path("mixture_work"))
    parser.add_argument(
        "--features",
        nargs="+",
        choices=["rotation-invariant", "pretrained", "others"],
        default=["rotation-invariant", "pretrained"],
    )
    parser.add_argument(
        "--epochs", type=int, default=40, help="of pretraining; half as many on others"
    )
    parser.add_argument("--seed", type=int, default=2, help="of the tomogram")
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    if "others" in given.features and given.maps is None:
        parser.error("--features others needs --maps")
    bench = Bench(given.work.absolute())
    structures = {name: str((given.structures / file).absolute()) for name, file in FILES.items()}
    figures = simulated(bench, "mixture", structures, given.seed)
    print(f"{figures['particles']} particles of five kinds, {figures['seconds']:.0f} s")
    figures = picked(bench)
    print(
        f"{figures['picks']} picks: precision {figures['precision']:.3f}, recall "
        f"{figures['recall']:.3f}, {figures['seconds']:.0f} s"
    )
    for one in FILES:
        print(
            f"  {one:9s} recall {figures['recall of each'][one]:.2f}, "
            f"{figures['distance of each'][one]:.0f} Å off the centre"
        )
    figures = divided(bench, "first", "rotation-invariant", "boxes.zarr", "labels.csv", FIRST)
    told("first", figures)
    figures = centred(bench)
    print(
        "  then off the centre: "
        + ", ".join(f"{one} {figures['distance of each'][one]:.0f} Å" for one in FILES)
    )
    for name in given.features:
        model: Any = name
        if name == "pretrained":
            model = pretrained(bench, given.epochs)
        elif name == "others":
            model = taught_on_others(bench, given.maps.absolute(), max(1, given.epochs // 2))
        told(name, divided(bench, name, model, "centred.zarr", "centred.csv", SECOND))
    if given.figure is not None:
        draw(bench, given.features[0], given.figure)


if __name__ == "__main__":
    main()
