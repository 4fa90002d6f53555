# %% [markdown]
# # Classes in two dimensions
#
# Images of five views of a particle, turned, mirrored, moved and noisy, are sorted into classes;
# the run is stopped, looked at, and gone on with; the result is looked at in every way, and held
# against the truth.  Then 2D classes tell picks that are particles from those that are empty.
# No data needed; about half a minute on two cores.  Run it as a script, or cell by cell in an
# editor or Jupyter (`jupytext --to notebook classes_2d.py`): there the averages appear as rounds
# end.

# %%
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pandas as pd
from scipy.cluster.vq import kmeans2

import tomodask
from tomodask.data.subtomogram_table import subtomogram_dataset
from tomodask.planar.embedding import can_embed
from tomodask.plot import plot_class_gallery, plot_embedding, plot_frc, plot_poses2d

OUTPUT = Path("classes_2d")
OUTPUT.mkdir(exist_ok=True)
dask.config.set(scheduler="threads")


def purity(found, true):
    """Share of the images that are of the most frequent kind of their class."""
    return pd.crosstab(np.asarray(found), np.asarray(true)).max(axis=1).sum() / len(found)


# %% [markdown]
# ## Images
#
# 600 images of 48×48 pixels, SNR 0.3; each is of one of five views of the phantom, in any turn,
# half of them mirrored, up to 20 Å off the centre.  A stack is opened lazily; a STAR of RELION,
# HDF5 or Zarr opens in the same way.

# %%
made, truth = tomodask.phantom_images(600, views=5, snr=0.3, shift_range=20.0, seed=2)
tomodask.save_images(made, OUTPUT / "stack.mrcs", overwrite=True)
images = tomodask.open_images(OUTPUT / "stack.mrcs")
images

# %% [markdown]
# ## Rounds, stopped and gone on with
#
# Two rounds first.  The same call with more rounds goes on from there, as it does after Ctrl-C, a
# kernel that was interrupted, or a machine that was switched off.

# %%
settings = {
    "radius": 150.0, "shift_range": 30.0, "classes": 5, "embed": 0, "scheduler": "synchronous"
}  # fmt: skip
tomodask.average2d(images, output=OUTPUT / "run", rounds=2, overwrite=True, **settings)
so_far = tomodask.open_average2d(OUTPUT / "run")
share = purity(so_far.table["class"], truth["class"])
print(f"after {len(so_far.history)} rounds: purity {share:.3f}")
so_far.history

# %%
result = tomodask.average2d(images, output=OUTPUT / "run", **settings)
share = purity(result.table["class"], truth["class"])
print(f"after {len(result.history)} rounds: purity {share:.3f}")
result.history

# %% [markdown]
# ## What came of it
#
# The averages, an `xarray.DataArray`; the table of the images, a `pandas.DataFrame`.

# %%
figure = plot_class_gallery(
    result.averages, result.averages["images"].to_numpy(),
    resolutions=result.averages["resolution"].to_numpy(),
)  # fmt: skip
figure.savefig(OUTPUT / "averages.png", dpi=80)
figure

# %%
figure = plot_poses2d(result.table)
figure.savefig(OUTPUT / "poses.png", dpi=80)
figure

# %%
figure = plot_frc(result.round.frc)
figure.savefig(OUTPUT / "frc.png", dpi=80)
figure

# %% [markdown]
# ## All images at a glance
#
# Two-stage dimension reduction (2SDR) of the aligned images, then t-SNE (which needs scikit-learn:
# `pip install 'tomodask[planar]'`).  The estimator is one of scikit-learn's kind, and works block
# by block on images that do not fit into memory.

# %%
aligned = tomodask.transform_images(images, result.table, radius=150.0)
reduction = tomodask.TwoStageReduction(n_components=10)
features = np.asarray(reduction.fit_transform(aligned))
print(
    f"2SDR keeps {reduction.ranks_[0]}×{reduction.ranks_[1]} of 48×48, then "
    f"{reduction.n_components_} components"
)
plane = tomodask.embed_images(features) if can_embed() else features[:, :2]
figure = plot_embedding(
    plane, result.table["class"], averages=result.averages,
    name="t-SNE" if can_embed() else "2SDR component",
)  # fmt: skip
figure.savefig(OUTPUT / "embedding.png", dpi=80)
figure

# %% [markdown]
# Without alignment the same features tell little: K-means of them, five classes, the best of ten.

# %%
raw = np.asarray(tomodask.TwoStageReduction(n_components=10).fit_transform(images))
starts = [kmeans2(raw, 5, seed=seed, minit="++") for seed in range(10)]
spread = [float(((raw - centres[label]) ** 2).sum()) for centres, label in starts]
label = starts[int(np.argmin(spread))][1]
print(f"K-means without alignment: purity {purity(label, truth['class']):.3f}")

# %% [markdown]
# ## Known views
#
# With references there is a truth to hold poses against, too.  One round is enough.

# %%
views = tomodask.phantom_views(5, seed=2)
known = tomodask.average2d(
    images, output=OUTPUT / "known", references=views, rounds=1, overwrite=True,
    **{**settings, "classes": None},
).table  # fmt: skip
right = (known["class"].to_numpy() == truth["class"]) & (
    known["mirror"].to_numpy() == truth["mirror"]
)
turned = np.abs((known["psi"].to_numpy() - truth["psi"] + 180) % 360 - 180)[right]
moved = np.hypot(
    known["shift_y"].to_numpy() - truth["shift_y"], known["shift_x"].to_numpy() - truth["shift_x"]
)[right]
print(
    f"known views: view and mirror right {right.mean():.3f}; median errors "
    f"{np.median(turned):.2f}°, {np.median(moved) / 10:.3f} pixel"
)

# %% [markdown]
# ## Picks that are no particles
#
# Sixty picks, of which some hold nothing but noise.  Their projections along z go into three
# classes; a glance at the averages tells which to keep, and the table that comes out is one of
# particles, ready for alignment in 3D.

# %%
boxes, _ = tomodask.phantom_subtomograms(60, box=40, voxel_size=10.0, snr=0.1, seed=1)
empty, _ = tomodask.phantom_subtomograms(60, box=40, voxel_size=10.0, snr=1e-9, seed=101)
full = np.random.default_rng(1).random(60) < 0.6
boxes = np.where(full[:, None, None, None], boxes, empty * (boxes.std() / empty.std()))
picks = pd.DataFrame({"tomogram": "cell", "z": 500.0, "y": 400.0, "x": 300.0 * np.arange(60)})
subtomograms = subtomogram_dataset(
    da.from_array(boxes.astype(np.float32), chunks=(16, 40, 40, 40)),
    picks, voxel_size=10.0, attrs={},
)  # fmt: skip
tomodask.save_subtomograms(subtomograms, OUTPUT / "boxes.zarr", overwrite=True)

# %%
cleaning = tomodask.average2d(
    OUTPUT / "boxes.zarr", output=OUTPUT / "cleaning", project="z", overwrite=True,
    **{**settings, "classes": 3},
)  # fmt: skip
figure = plot_class_gallery(
    cleaning.averages, cleaning.averages["images"].to_numpy(), by_size=False
)
figure.savefig(OUTPUT / "cleaning.png", dpi=80)
figure

# %% [markdown]
# By eye one would name the classes; here, those whose images correlate with their average.

# %%
table = tomodask.read_particles(cleaning.particles)
scores = table.groupby("class")["score"].mean()
kept = table[table["class"].isin(scores.index[scores > 0.5])]
tomodask.write_particles(kept, OUTPUT / "kept.star", voxel_size=10.0)
true = full[kept.index]
print(
    f"kept {len(kept)} of 60 picks: {true.sum()} particles of {full.sum()}, {(~true).sum()} empty"
)

# %% [markdown]
# `tomodask refine classes_2d/kept.star` goes on from here.  The same in a shell:
#
#     tomodask average2d classes_2d/stack.mrcs --classes 5 --radius 150 --shift 30 -o run
#     tomodask average2d boxes.zarr --project z --classes 3 --radius 150 --shift 30 -o cleaning
