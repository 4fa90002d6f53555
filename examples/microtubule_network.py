# %% [markdown]
# # A network learns the wall of a microtubule
#
# Nobody marks a particle by hand here.  A template finds some dozens of places on one end of a real
# microtubule; they are the *weak labels* a small network is trained on; and the network is then
# shown the other end, of which it has seen neither labels nor voxels.  We
#
# 1. pick by template matching, blindly, on the first end, and keep the picks as labels,
# 2. train a small network on that end,
# 3. segment the whole crop, and pick from the probabilities,
# 4. hold what it says of the unseen end against the wall, which is known from `microtubule.py`.
#
# Data: `tomograms/13pf_MT.tif` and `tomograms/beta-tubulin.mrc` (cylindra, BSD-3), looked for in
# the folder that the environment variable TOMODASK_SHARED names, or in `../shared/data` beside the
# repository.  Needs `pip install 'tomodask[segmentation,training]'`.

# %%
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import dask
import numpy as np
import scipy.ndimage
import xarray as xr
from matplotlib.figure import Figure

import tomodask
from tomodask.data.resample import resample_map
from tomodask.nets.segmentation.architecture import Architecture
from tomodask.nets.training_step import default_precision
from tomodask.picking.learning.training import TrainingSettings, train_picker
from tomodask.picking.segmentation.picks import pick_segmentation
from tomodask.picking.segmentation.segmenting import segment_tomogram

HERE = Path(__file__).resolve().parent if "__file__" in globals() else Path.cwd()
DATA = Path(os.environ.get("TOMODASK_SHARED") or HERE.parents[1] / "shared" / "data") / "tomograms"
OUTPUT = Path("microtubule_network")  # the pictures and the model
if not (DATA / "13pf_MT.tif").exists():
    sys.exit(f"{DATA} has no 13pf_MT.tif: set TOMODASK_SHARED to the folder of the shared data")
OUTPUT.mkdir(exist_ok=True)
dask.config.set(scheduler="threads")

VOXEL = 10.52  # Å
SPENT = {}  # CPU seconds


@contextmanager
def timed(name):
    start = time.process_time()
    yield
    SPENT[name] = time.process_time() - start


tomogram = tomodask.open_tomogram(DATA / "13pf_MT.tif", voxel_size=VOXEL).load().astype(np.float32)
tomogram.attrs["tilt_range"] = (-66.0, 58.0)  # from its spectrum, see microtubule.py
MIDDLE = tomogram.sizes["y"] // 2  # the tube runs along y, about
first_end = tomogram.isel(y=slice(0, MIDDLE))

# %% [markdown]
# ## Weak labels
#
# The template is a patch of 3 × 3 tubulin monomers of the textbook's lattice, in all orientations,
# 20° apart, at 35 Å.  Nothing is said about the tube.  Only the first end is matched.

# %%
monomer = tomodask.open_tomogram(DATA / "beta-tubulin.mrc").load()


def wall_patch():
    """3 × 3 monomers of a wall of 13 protofilaments; y along the tube, z outwards."""
    size, edge, radius = float(monomer.attrs["voxel_size"]), 64, 111.0
    axis = (np.arange(edge) - edge // 2) * size
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    out = np.zeros((edge,) * 3)
    for j in (-1, 0, 1):
        turn = 2 * np.pi * j / 13
        own_z = (z + radius) * np.cos(turn) + x * np.sin(turn) - radius
        own_x = x * np.cos(turn) - (z + radius) * np.sin(turn)
        for k in (-1, 0, 1):
            place = np.stack([own_z, y - (k - 3 * j / 13) * 41.0, own_x]) / size
            place += monomer.shape[0] // 2
            out += scipy.ndimage.map_coordinates(monomer.to_numpy(), place, order=1)
    patch = xr.DataArray(out, dims=("z", "y", "x"), name="patch", attrs={"voxel_size": size})
    return resample_map(patch, voxel_size=VOXEL)


def match_blindly(volume):
    match = tomodask.match_template(
        volume, wall_patch(), angular_step=20.0, diameter=150.0, resolution=35.0
    )
    return match.compute()


labels = tomodask.pick_particles(match_blindly(first_end), diameter=41.0)
print(f"{len(labels)} weak labels, of the first end: scores from {labels['score'].min():.2f}")

# %% [markdown]
# ## Training
#
# The labels are some of the places on the wall, not all: with `some_marked=True`, voxels far from
# every label have no say.  The network is a third as wide as the paper's and has three levels, its
# crops are of 32 voxels, as the tomogram is 36 thick, and it learns in 120 steps at a larger rate:
# enough for one tube, and a minute of CPU.  A particle of 80 Å is two monomers of the wall.
#
# It is one epoch of 960 crops: of several epochs the one of the best validation would be taken, and
# validation counts particles that stand apart, which a wall has not.

# %%
settings = TrainingSettings(
    architecture=Architecture(channels=(8, 16, 24)),
    crop=32,
    jitter=8,
    some_marked=True,
    epochs=1,
    examples=960,
    learning_rate=3e-3,
    precision=default_precision(),
)
with timed("training"):
    model = train_picker(
        first_end,
        labels,
        diameter=80.0,
        settings=settings,
        output=OUTPUT / "wall.safetensors",
        overwrite=True,
    )

# %% [markdown]
# ## Segmentation
#
# Of the whole crop; and what template matching costs on the same voxels.

# %%
with timed("segmentation"):
    probability = segment_tomogram(tomogram, model).compute()
with timed("picking"):
    picks = pick_segmentation(probability)
with timed("matching"):
    match = match_blindly(tomogram)
rival = tomodask.pick_particles(match, diameter=41.0)
print("CPU seconds:", ", ".join(f"{name} {seconds:.1f}" for name, seconds in SPENT.items()))

# %% [markdown]
# ## Where the wall is
#
# The tube as `microtubule.py` finds it with all it knows: a slightly bent axis (Å, xyz) and a
# radius.  Neither the labels nor the network know of it.


# %%
class Tube:
    centre = np.array([543.8, 1143.0, 210.9])
    direction = np.array([-0.29964, 0.95405, -0.00034])
    e1 = np.array([0.95405, 0.29964, -0.00011])
    e2 = np.cross(direction, e1)
    length, radius = 2179.0, 111.7
    bend = np.array([[-19.6, 22.4], [-4.3, -4.1], [2.5, 8.2]])

    def _offset(self, along):
        return np.moveaxis(
            np.polynomial.polynomial.polyval(2 * along / self.length, self.bend), 0, -1
        )

    def points(self, along, angle, radius):
        along, angle, radius = np.broadcast_arrays(along, angle, radius)
        b = self._offset(along)
        u, w = radius * np.cos(angle) + b[..., 0], radius * np.sin(angle) + b[..., 1]
        parts = ((along, self.direction), (u, self.e1), (w, self.e2))
        return self.centre + sum(value[..., None] * axis for value, axis in parts)

    def coordinates(self, points):
        """Along the axis, angle about it, distance from it."""
        q = points - self.centre
        along = q @ self.direction
        b = self._offset(along)
        u, w = q @ self.e1 - b[..., 0], q @ self.e2 - b[..., 1]
        return along, np.arctan2(w, u), np.hypot(u, w)


tube = Tube()
voxels = np.stack(np.indices(tomogram.shape)[::-1], axis=-1) * VOXEL  # xyz
_, angle, radius = tube.coordinates(voxels)
off_wall = np.abs(radius - tube.radius)
NEAR = 3.5 * VOXEL  # half of a label
unseen = np.s_[:, MIDDLE:]
mask = (probability.to_numpy()[0] > 0.5)[unseen]
near = (off_wall < NEAR)[unseen]
print(f"the mask takes {mask.mean():.0%} of the unseen end; {near[mask].mean():.0%} of it lies")
print(f"  within {NEAR:.0f} Å of the wall (by chance: {near.mean():.0%})")

# %% [markdown]
# Is that more than the densities say by themselves?  Of as many voxels, those that are highest in
# the tomogram, in the tomogram smoothed, and in the scores of template matching.

# %%
density = tomogram.to_numpy()
RIVALS = {
    "densities": density,
    "smoothed densities": scipy.ndimage.gaussian_filter(density, 1.5),
    "scores of the template": match["score"].to_numpy(),
}
for name, volume in RIVALS.items():
    values = volume[unseen]
    highest = values >= np.partition(values, -mask.sum(), axis=None)[-mask.sum()]
    print(f"as many of the highest {name}: {near[highest].mean():.0%}")

# %% [markdown]
# How much of the wall is found?  The missing wedge makes the tube look different all around, and
# blind matching finds its best places at the sides, above and below, hardly any between.  What the
# labels do not show, the network does not learn.

# %%
SECTORS = {"sides": (0, 180), "above and below": (90, 270), "diagonals": (45, 135, 225, 315)}


def in_sector(angle, middles):
    """Within 30° of the middles, 15° for the diagonals: a third of the wall each."""
    reach = np.deg2rad(60 / len(middles))
    turns = angle[..., None] - np.deg2rad(middles)
    return (np.abs(np.angle(np.exp(1j * turns))) < reach).any(axis=-1)


def positions(table):
    return table[["x", "y", "z"]].to_numpy(float)


label_angle = tube.coordinates(positions(labels))[1]
on_wall = (off_wall < VOXEL / 2)[unseen]
print(f"of the wall of the unseen end {mask[on_wall].mean():.0%} is in the mask:")
for name, middles in SECTORS.items():
    here = on_wall & in_sector(angle[unseen], middles)
    count = in_sector(label_angle, middles).sum()
    print(f"  {name} {mask[here].mean():.0%} ({count} of {len(labels)} labels were there)")

# %% [markdown]
# ## The picks
#
# A wall has no middle, and neighbours' labels overlap: these picks lie on the wall, but they are
# not its subunits; for those see `microtubule.py`.


# %%
def judged(name, table):
    table = table[table["y"] > MIDDLE * VOXEL]
    off = np.abs(tube.coordinates(positions(table))[2] - tube.radius)
    print(
        f"{name}: {len(table)} picks of the unseen end, {np.mean(off < NEAR):.0%} within", end=" "
    )
    print(f"{NEAR:.0f} Å of the wall, {np.median(off):.0f} Å off in the median")


judged("network", picks)
judged("template", rival)

# %% [markdown]
# ## Pictures

# %%
INK, ORANGE = "#1b1f24", "#ffb000"


def framed(axes, title, x="", y=""):
    axes.set_title(title, loc="left", fontsize=9.5, color=INK)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def circled(axes, table, plane):
    table = table[np.abs(table["z"] / VOXEL - plane) < 2.5]
    axes.scatter(
        table["x"] / 10, table["y"] / 10, s=30, facecolors="none", edgecolors=ORANGE, lw=1.1
    )


size = np.array(density.shape[::-1]) * VOXEL / 10
extent = (0, size[0], 0, size[1])
smooth = scipy.ndimage.gaussian_filter(density, 0.7)
plane = round(tube.centre[2] / VOXEL)
figure = Figure(figsize=(10.5, 6.2), layout="constrained", facecolor="white")
panels = figure.subplots(ncols=4, sharey=True)
for number, axes in enumerate(panels):
    image = smooth[plane - 1 : plane + 2].mean(axis=0)
    if number == 2:
        image = probability.to_numpy()[0, plane]
    axes.imshow(image, cmap="magma" if number == 2 else "gray", origin="lower", extent=extent)
    axes.axhline(MIDDLE * VOXEL / 10, color="#7fd1ff", lw=1.0, ls="--")
circled(panels[1], labels, plane)
circled(panels[3], picks, plane)
framed(panels[0], "tomogram", "x (nm)", "y (nm)")
framed(panels[1], "weak labels, first end only", "x (nm)")
framed(panels[2], "probability", "x (nm)")
framed(panels[3], "picks", "x (nm)")
for height, name in ((3, "unseen"), (-8, "learned from")):
    height += MIDDLE * VOXEL / 10
    panels[0].text(2, height, name, color="#7fd1ff", fontsize=9)
figure.savefig(OUTPUT / "slices.png", dpi=80)
figure

# %% [markdown]
# Across the tube, averaged along the unseen end, and the wall unrolled.

# %%
EDGE = np.arange(-170.0, 171.0, 5.0)
across, up = np.meshgrid(EDGE, EDGE)  # e1 is x, about, and e2 points down
start = (MIDDLE * VOXEL - tube.centre[1]) / tube.direction[1]
ALONG = np.arange(start + 80, start + 1000, 10.0)


def sampled(volume, points):
    places = np.moveaxis(points[..., ::-1], -1, 0) / VOXEL
    return scipy.ndimage.map_coordinates(volume, places, order=1, mode="nearest")


def across_tube(volume):
    turn, distance = np.arctan2(-up, across), np.hypot(across, up)
    rings = [sampled(volume, tube.points(a, turn, distance)) for a in ALONG]
    return np.mean(rings, axis=0)


figure = Figure(figsize=(10.5, 3.9), layout="constrained", facecolor="white")
panels = figure.subplots(ncols=3, width_ratios=[1, 1, 1.35])
extent = (-17.25, 17.25, -17.25, 17.25)
panels[0].imshow(across_tube(density), cmap="gray", origin="lower", extent=extent)
panels[1].imshow(
    across_tube(probability.to_numpy()[0]), cmap="magma", origin="lower", extent=extent, vmin=0
)
for axes in panels[:2]:
    ring = np.linspace(0, 2 * np.pi, 200)
    axes.plot(
        *(tube.radius / 10 * np.array([np.cos(ring), np.sin(ring)])), "--", color="#7fd1ff", lw=0.9
    )
framed(panels[0], "across the tube: tomogram", "x′ (nm)", "z (nm)")
framed(panels[1], "probability", "x′ (nm)")
along = np.arange(-1180.0, 1080.0, 10.0)
turn = np.deg2rad(np.arange(-90.0, 271.0, 3.0))
wall = sampled(probability.to_numpy()[0], tube.points(along[:, None], turn, tube.radius))
extent = (-118, 107, -90, 270)
panels[2].imshow(wall.T, cmap="magma", origin="lower", aspect="auto", extent=extent, vmin=0, vmax=1)
for table, marker in ((labels, "o"), (rival[rival["y"] > MIDDLE * VOXEL], "x")):
    where = tube.coordinates(positions(table))
    shown = {"s": 14, "color": "#7fd1ff", "lw": 0.9, "marker": marker}
    shown |= {"facecolors": "none", "edgecolors": "#7fd1ff"} if marker == "o" else {}
    panels[2].scatter(where[0] / 10, (np.rad2deg(where[1]) + 90) % 360 - 90, **shown)
panels[2].axvline(start / 10, color="#7fd1ff", lw=1.0, ls="--")
title = "wall unrolled; o labels, × the template's picks"
framed(panels[2], title, "along (nm)", "angle (°): 0, 180 sides, 90 below")
figure.savefig(OUTPUT / "wall.png", dpi=110)
figure
