# %% [markdown]
# # A simulated cell, there and back
#
# A small crowded cell is simulated (lens, dose, motion, noise); its particles are found, cut out,
# aligned and averaged.  As the truth is known, each step is held against it, and so is what the
# record of the tilt series is worth.  No data needed; twenty seconds on two cores.  Run it as a
# script, or cell by cell (`jupytext --to notebook simulated_cell.py`).

# %%
from pathlib import Path

import dask
import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

import tomodask
from tomodask.demo import compare_with_truth

OUTPUT = Path("simulated_cell")
OUTPUT.mkdir(exist_ok=True)
dask.config.set(scheduler="threads")  # for more: `with tomodask.connect() as client:`

# %% [markdown]
# ## Simulate
#
# The same keys as in the TOML file of `tomodask simulate --example`; what is left out has its
# default: 300 kV, 3 µm underfocus, phases flipped.  Four particles come to one decoy, a ring.
# Motion is undone by the transforms that are written with the series, as if its alignment were
# perfect.

# %%
settings = {
    "name": "cell",
    "seed": 1,
    "specimen": {"shape": [72, 176, 192], "voxel_size": 10.0, "occupancy": 0.2},
    "particles": [
        {"structure": "phantom", "name": "particle", "copies": 4},
        {"structure": "phantom-decoy", "name": "decoy", "copies": 1},
    ],
    "tilts": {"range": [-60.0, 60.0], "increment": 3.0, "dose": 120.0},
    "noise": {"snr": 0.03},
    "motion": {"shift": 10.0, "rotation": 0.3},
}
cell = tomodask.simulate(settings, OUTPUT / "cell", scheduler="synchronous")
truth = tomodask.read_particles(cell.particles)
tomogram = tomodask.open_tomogram(cell.tomogram)
print(truth["kind"].value_counts().to_dict(), f"in {cell.bounding_occupancy:.0%} of the slab")
print(f"defocus {tomogram.attrs['tilt_series']['defocus_u'][0]:.0f} Å, as the record says")

# %% [markdown]
# ## Find
#
# How fine to look?  Matching compares no more detail than its step of rotations lets survive: 97 Å
# at 20°, 76 Å at 15° for this particle.  There the lens hands on a quarter and two fifths of the
# contrast; its first maximum lies at 35 Å.  The noise it leaves alone.  So a coarse step, enough
# without a lens, tells particles from background less well with one.
#
# Where finer detail is compared, from a fifth of the diameter on, the template is also weighted by
# what the record says that the series left of it.

# %%
template = tomodask.phantom_map(box=40)
is_particle = truth["kind"] == "particle"
there = cKDTree(truth.loc[is_particle, ["z", "y", "x"]])
anything = cKDTree(truth[["z", "y", "x"]])


def found(picks):
    """Share of the particles that have a pick within 60 Å, and of the picks that are on one."""
    places = picks[["z", "y", "x"]].to_numpy(float)
    distance, nearest = there.query(places)
    true = distance < 60
    return len(set(nearest[true])) / len(there.data), true.mean()


def contrast(scores):
    """Lowest score at a particle, highest at a decoy, highest 100 Å from anything."""
    voxel_size = scores.attrs["voxel_size"]
    score = scores["score"].to_numpy()
    at_peak = np.zeros(len(truth))
    for row, place in enumerate(truth[["z", "y", "x"]].to_numpy(float) / voxel_size):
        corner = np.maximum(np.rint(place).astype(int) - 3, 0)
        at_peak[row] = score[tuple(slice(c, c + 7) for c in corner)].max()
    grid = np.stack(np.indices(score.shape), -1).reshape(-1, 3) * voxel_size
    away = anything.query(grid, distance_upper_bound=100.0)[0] == np.inf
    return at_peak[is_particle].min(), at_peak[~is_particle].max(), score.ravel()[away].max()


for step in (20.0, 15.0):
    scores = tomodask.match_template(tomogram, template, angular_step=step).compute()
    picks = tomodask.pick_particles(scores)
    recall, precision = found(picks)
    particle, decoy, background = contrast(scores)
    print(
        f"step {step:.0f}° ({scores.attrs['resolution']:.0f} Å): picked {recall:.0%} of the "
        f"particles, {precision:.0%} of the picks are true; lowest particle {particle:.2f}, "
        f"highest decoy {decoy:.2f}, highest background {background:.2f}"
    )

# %% [markdown]
# ## Extract
#
# The boxes carry the record of the tilt series: angles, defocus, doses, what was corrected.

# %%
boxes = tomodask.extract_subtomograms(tomogram, picks, box=40).load()
record = boxes.attrs["tilt_series"]["cell"]
print(f"{len(record['angle'])} tilts, phases flipped: {record['phase_flipped']}")

# %% [markdown]
# ## Align and average, with the record and without
#
# Without it the boxes know their tilt range, as those cut from an MRC file do, and nothing of lens
# and dose.
#
# Some picks are decoys.  Alignment compares finer detail than matching did, so its scores fall into
# two groups; what lies below the widest gap between two of them is left out.

# %%
range_only = boxes.copy()
range_only.attrs = {name: value for name, value in boxes.attrs.items() if name != "tilt_series"}
averages, curves = {}, {}
for label, subtomograms in {"record": boxes, "range only": range_only}.items():
    subtomograms = subtomograms.chunk(particle=8)
    poses = tomodask.align_subtomograms(subtomograms, template).compute()
    ranked = np.sort(poses["score"].to_numpy())
    gap = int(np.diff(ranked).argmax())
    keep = (poses["score"] > ranked[gap]).to_numpy()
    print(f"{label}: scores of alignment up to {ranked[gap]:.3f} and from {ranked[gap + 1]:.3f} on")
    subtomograms, poses = subtomograms.isel(particle=keep).chunk(particle=8), poses[keep]
    average = tomodask.average_subtomograms(subtomograms, poses=poses).compute()
    halves = average.fsc(diameter=300.0)
    compared = compare_with_truth(
        poses, truth, average=average.average, true_map=template.to_numpy(), voxel_size=10.0
    )
    averages[label], curves[label] = average.average, compared.curve
    print(
        f"{label}: recall {compared.recall:.2f}, precision {compared.precision:.2f}, errors "
        f"{compared.angular_error:.2f}°, {compared.shift_error:.2f} voxel; FSC of halves 0.143 at "
        f"{tomodask.resolution_at(halves):.1f} Å, FSC with the truth 0.5 at "
        f"{compared.resolution:.1f} Å"
    )

# %% [markdown]
# ## Look
#
# All but the truth is smoothed for the eye, by a Gaussian of 20 Å, averages and phantom of 10 Å; of
# the tomogram five planes are added.

# %%
middle = int(np.rint(truth.loc[is_particle, "z"].median() / 10.0))
tilts = tomodask.open_tilt_series(cell.tilt_series.with_suffix(".star"))
untilted = tilts.isel(tilt=int(np.abs(tilts["angle"].to_numpy()).argmin())).to_numpy()
slab = tomogram[middle - 2 : middle + 3].mean("z").to_numpy()
labels = tomodask.open_tomogram(cell.labels)[middle].to_numpy()
maps = {f"average, {label}": average for label, average in averages.items()}
maps["phantom"] = template.to_numpy()

figure, axes = plt.subplots(2, 4, figsize=(11, 5.2), layout="constrained")
panels = {
    "density (truth)": tomodask.open_tomogram(cell.density)[middle].to_numpy(),
    "labels (truth)": np.where(labels, labels % 9 + 1, 0),
    "tilt image at 0°": gaussian_filter(untilted, 2.0),
    "tomogram": gaussian_filter(slab, 2.0),
} | {title: gaussian_filter(one, 1.0)[20] for title, one in maps.items()}
for one, (title, image) in zip(axes.flat, panels.items(), strict=False):
    low, high = np.quantile(image, [0.003, 0.997])
    shown = {"cmap": "gray", "vmin": low, "vmax": high}
    if title.startswith("labels"):
        image, shown = np.ma.masked_equal(image, 0), {"cmap": "tab10", "interpolation": "nearest"}
    one.imshow(image, origin="lower", **shown)
    one.set_title(title, loc="left", fontsize=10)
    one.axis("off")
last = axes.flat[-1]
for label, curve in curves.items():
    last.plot(curve["frequency"][1:], curve["correlation"][1:], label=label)
last.axhline(0.5, color="gray", lw=0.8, ls="--")
last.set_xlabel("frequency (1/Å)")
last.set_title("FSC with the truth", loc="left", fontsize=10)
last.legend(frameon=False, fontsize=9)
figure.savefig(OUTPUT / "cell.png", dpi=90)
figure
