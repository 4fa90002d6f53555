# %% [markdown]
# # A mixture that nobody labelled
#
# Three kinds of particles lie in one simulated tomogram.  Nobody says how many kinds there are or
# where they lie: particles are picked by their size, cut out, told apart by features that do not
# know how a particle is turned, and each cluster is averaged without a reference.  Then the truth
# is looked at.  No data needed; half a minute.  Run it as a script, or cell by cell
# (`jupytext --to notebook unlabelled_mixture.py`).

# %%
from pathlib import Path

import dask
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

import tomodask
from tomodask.data.job_input import job_template
from tomodask.rounds.superposition import superpose, turned_map

OUTPUT = Path("unlabelled_mixture")
OUTPUT.mkdir(exist_ok=True)
dask.config.set(scheduler="synchronous")  # for more: `with tomodask.connect() as client:`

# %% [markdown]
# ## Simulate
#
# The phantom, a ring, and one half of the phantom, thirty or so of each in a crowded slab.

# %%
phantom = tomodask.phantom_map(box=40, voxel_size=8.0)
half = phantom * (phantom["z"] > float(phantom["z"].mean()))
tomodask.save_tomogram(half.assign_attrs(phantom.attrs), OUTPUT / "half.mrc", overwrite=True)

# %%
settings = {
    "name": "mixture",
    "seed": 1,
    "specimen": {"shape": [56, 200, 200], "voxel_size": 15.0, "occupancy": 0.2},
    "particles": [
        {"structure": "phantom", "name": "particle", "copies": 1},
        {"structure": "phantom-decoy", "name": "ring", "copies": 1},
        {"structure": str(OUTPUT / "half.mrc"), "name": "half", "copies": 1},
    ],
    "tilts": {"range": [-60.0, 60.0], "increment": 3.0, "dose": 120.0},
    "noise": {"snr": 0.1},
}
cell = tomodask.simulate(settings, OUTPUT / "cell", scheduler="synchronous")
truth = tomodask.read_particles(cell.particles)
tomogram = tomodask.open_tomogram(cell.tomogram)
print(truth["kind"].value_counts().to_dict())

# %% [markdown]
# ## Find and cut out
#
# A difference of Gaussians of one diameter.

# %%
picks = tomodask.find_blobs(tomogram, diameter=240.0)
scores = tomodask.score_picks(picks, truth, radius=100.0)
print(f"{len(picks)} picks: precision {scores.precision:.2f}, recall {scores.recall:.2f}")
boxes = tomodask.extract_subtomograms(tomogram, picks, box=24).load()

# %% [markdown]
# ## Tell apart
#
# Features: strengths of spherical harmonics by radius, of smoothed boxes.  Any encoder of
# `tomodask pretrain` or `tomodask classify train` goes in their place.  The clusters are more than
# the kinds, and named by size.

# %%
features = tomodask.embed_subtomograms(
    boxes, model=tomodask.RotationInvariant(smooth=1.0, radius=9)
).compute()
clusters = tomodask.KMeans(4).fit(features)
print("cluster sizes:", *clusters.sizes_)

# %% [markdown]
# ## Average each
#
# No reference: a first map is made of a cluster's own particles.

# %%
averages = {}
for cluster in np.flatnonzero(clusters.sizes_ >= 10):
    members = boxes.isel(particle=clusters.labels_ == cluster)
    averages[cluster] = tomodask.average_cluster(
        members, diameter=300.0, iterations=3, start_resolution=70.0
    ).compute()

# %% [markdown]
# ## The truth
#
# What clusters are made of, and which structure their averages are like.

# %%
kind = np.where(scores.picks["verdict"] == "true", scores.picks["true_class"], "junk")
kind = kind[boxes["particle"].to_numpy()]  # boxes lie in the order of the tomogram's blocks
print(pd.crosstab(clusters.labels_, kind, rownames=["cluster"], colnames=["kind"]))
known = {}
for name in ("particle", "ring", "half"):
    volume = tomodask.open_tomogram(OUTPUT / "cell" / "structures" / f"{name}.mrc")
    known[name] = job_template(volume, 15.0, True, edge=24)
best = {}
for cluster, found in averages.items():
    one = found.classes[0]
    table = tomodask.nearest_known(
        one.average.average, known, voxel_size=15.0, resolution=50.0, diameter=260.0
    )
    name, discrepancy = table.loc[0, ["name", "discrepancy"]]
    print(
        f"cluster {cluster}: {len(one.poses)} particles, FSC of halves 0.143 at "
        f"{one.resolution:.0f} Å; likest to {name}, FSC with it 0.5 at {discrepancy:.0f} Å"
    )
    if discrepancy < best.get(name, (np.inf,))[0]:
        best[name] = discrepancy, one.average.average
print(f"structures that came back: {sum(found[0] < 70 for found in best.values())} of 3")

# %% [markdown]
# ## Look
#
# Middle slices; averages come turned by chance, so they are laid on the truth.  The tomogram is
# smoothed by a Gaussian of 15 Å.

# %%
middle = round(float(truth["z"].median()) / 15.0)
figure, axes = plt.subplots(2, 4, figsize=(9, 4.8), layout="constrained")
panels = {"tomogram": tomogram[middle - 1 : middle + 2].mean("z").to_numpy()}
panels = {title: gaussian_filter(image, 1.0) for title, image in panels.items()}
for name, (_, average) in sorted(best.items(), key=lambda item: list(known).index(item[0])):
    motion = superpose(
        known[name].to_numpy(), average,
        voxel_size=15.0, resolution=40.0, diameter=260.0, everywhere=True,
    )  # fmt: skip
    panels[f"average, {name}"] = turned_map(average, motion, voxel_size=15.0)[12]
low = {"density (truth)": tomodask.open_tomogram(cell.density)[middle].to_numpy()}
low |= {f"truth, {name}": volume.to_numpy()[12] for name, volume in known.items()}
for row, images in zip(axes, (panels, low), strict=True):
    for axis in row:
        axis.axis("off")
    for axis, (title, image) in zip(row, images.items(), strict=False):
        low_end, high_end = np.quantile(image, [0.003, 0.997])
        axis.imshow(image, cmap="gray", origin="lower", vmin=low_end, vmax=high_end)
        axis.set_title(title, loc="left", fontsize=9)
figure.savefig(OUTPUT / "mixture.png", dpi=90)
figure
