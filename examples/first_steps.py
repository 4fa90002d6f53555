# %% [markdown]
# # First steps: from a tomogram to an average
#
# A small tomogram is simulated, particles are found, cut out, aligned and averaged, and the result
# is held against the truth.  No data needed; about ten seconds on two cores.  Run it as a script,
# or cell by cell in an editor or Jupyter (`jupytext --to notebook first_steps.py`).
#
# The same in one call is `tomodask.run(...)`, or `tomodask run` in a shell.

# %%
from pathlib import Path

import dask

import tomodask
from tomodask.demo import compare_with_truth
from tomodask.plot import plot_average, plot_fsc, plot_scores, plot_tomogram

OUTPUT = Path("first_steps")
OUTPUT.mkdir(exist_ok=True)
# Threads of this process.  For more: `with tomodask.connect() as client:` makes a cluster of this
# machine's cores, and prints the address of its dashboard.
dask.config.set(scheduler="threads")

# %% [markdown]
# ## A tomogram
#
# 24 particles of 250 Å at random poses and 6 rings as decoys; tilts of ±60°; white noise.

# %%
made, truth = tomodask.phantom_tomogram((80, 144, 176), particles=24, decoys=6, snr=0.1, seed=1)
tomodask.save_tomogram(made, OUTPUT / "tomogram.zarr", overwrite=True)
truth.head()

# %% [markdown]
# Opening reads the header only; voxels are read when something is computed.  Your own file may be
# MRC, TIFF, EM or OME-Zarr.  An MRC file does not know its tilt range: set
# `tomogram.attrs["tilt_range"] = (-60, 60)`.

# %%
tomogram = tomodask.open_tomogram(OUTPUT / "tomogram.zarr")
template = tomodask.phantom_map(box=40)
tomogram

# %% [markdown]
# ## Find
#
# The template is compared at every voxel in 1,857 orientations.  `match_template` only builds the
# graph; `save_scores` would compute and keep it, and go on where it was killed.

# %%
match = tomodask.match_template(tomogram, template, angular_step=20.0)
match = match.compute()
picks = tomodask.pick_particles(match)
print(f"{len(picks)} picks above a score of {picks.attrs['threshold']:.2f}")
picks.head()

# %%
figure = plot_scores(picks["score"].to_numpy(), threshold=picks.attrs["threshold"])
figure.savefig(OUTPUT / "scores.png", dpi=80)
figure

# %%
figure = plot_tomogram(tomogram, picks, diameter=250.0)
figure.savefig(OUTPUT / "tomogram.png", dpi=80)
figure

# %% [markdown]
# ## Extract and align
#
# A box around each pick, with its pose and wedge.  Alignment searches all rotations and shifts, and
# refines the best candidates.

# %%
subtomograms = tomodask.extract_subtomograms(tomogram, picks, box=40)
tomodask.save_subtomograms(subtomograms, OUTPUT / "subtomograms.zarr", overwrite=True)
subtomograms = tomodask.open_subtomograms(OUTPUT / "subtomograms.zarr")
poses = tomodask.align_subtomograms(subtomograms, template).compute()
tomodask.write_particles(poses, OUTPUT / "poses.star", voxel_size=10.0)
poses.head()

# %% [markdown]
# ## Average

# %%
average = tomodask.average_subtomograms(subtomograms, poses=poses).compute()
curve = average.fsc(diameter=300.0)
print(f"resolution of {sum(average.particles)} particles: {tomodask.resolution_at(curve):.1f} Å")

# %%
maps = {"average": average.average, "phantom": template.to_numpy()}
figure = plot_average(maps, voxel_size=average.voxel_size)
figure.savefig(OUTPUT / "average.png", dpi=80)
figure

# %% [markdown]
# ## Against the truth

# %%
comparison = compare_with_truth(
    poses,
    truth,
    average=average.average,
    true_map=template.to_numpy(),
    voxel_size=average.voxel_size,
)
for line in comparison.lines():
    print(f"{line.name}: {line.found} (expected {line.expected})")
figure = plot_fsc(curve, truth=comparison.curve)
figure.savefig(OUTPUT / "fsc.png", dpi=80)
figure
