# %% [markdown]
# # Subunits of a real microtubule
#
# A crop of a real tomogram holds one microtubule of 13 protofilaments.  Its subunits, tubulin
# monomers of 40 × 50 Å, are about four voxels wide: too small to be found one by one in the noise.
# The wall is a lattice, so a *patch* of 3 × 3 monomers is the template here.  We
#
# 1. read the tilt range off the tomogram's own spectrum,
# 2. find the tube with the patch, blindly, in all orientations,
# 3. measure the lattice on the density, without any template,
# 4. find the subunits, and hold them against that lattice,
# 5. extract, align and average them.
#
# What is known of microtubules: 13 protofilaments, about 41 Å from monomer to monomer along each,
# and a left-handed helix that climbs three monomers in a turn.  α and β tubulin alternate; at the
# 21 Å that these voxels can hold they look alike, so a subunit is a monomer here.
#
# Data: `tomograms/13pf_MT.tif` and `tomograms/beta-tubulin.mrc` (cylindra, BSD-3), looked for in
# the folder that the environment variable TOMODASK_SHARED names, or in `../shared/data` beside the
# repository.

# %%
import os
import sys
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import scipy.fft
import scipy.ndimage
import xarray as xr
from matplotlib.figure import Figure
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

import tomodask
from tomodask.arrays.resampling import fitted
from tomodask.data.resample import resample_map

HERE = Path(__file__).resolve().parent if "__file__" in globals() else Path.cwd()
DATA = Path(os.environ.get("TOMODASK_SHARED") or HERE.parents[1] / "shared" / "data") / "tomograms"
OUTPUT = Path("microtubule")  # the pictures
if not (DATA / "13pf_MT.tif").exists():
    sys.exit(f"{DATA} has no 13pf_MT.tif: set TOMODASK_SHARED to the folder of the shared data")
OUTPUT.mkdir(exist_ok=True)
# Threads of this process are enough for a crop; a large tomogram would take `tomodask.connect()`.
dask.config.set(scheduler="threads")

VOXEL = 10.52  # Å; the file agrees
PROTOFILAMENTS, STARTS, REPEAT, RADIUS = 13, 3, 41.0, 111.0  # the textbook: Å
DIAMETER = 150.0  # Å, of the mask around a patch

tomogram = tomodask.open_tomogram(DATA / "13pf_MT.tif", voxel_size=VOXEL)
density = tomogram.to_numpy().astype(np.float32)
density -= density.mean()
tomogram = tomogram.copy(data=density)

# %% [markdown]
# ## The tilt range
#
# It is not in the file, but in the spectrum: outside the wedge nothing was measured.  The tilt axis
# is y (the empty region is a wedge about it), and a tilt θ measures the plane kz = kx·tan θ.


# %%
def power_by_tilt(volume):
    """Mean power of each degree of tilt, frequencies from 0.15 to 0.45 of a voxel⁻¹."""
    power = (np.abs(np.fft.fftn(volume)) ** 2).mean(axis=1)
    kz, kx = np.meshgrid(*(np.fft.fftfreq(n) for n in power.shape), indexing="ij")
    tilt = np.rad2deg(np.arctan2(kz * np.sign(kx), np.abs(kx)))
    length = np.hypot(kz, kx)
    use = (length > 0.15) & (length < 0.45) & (kx != 0)
    degree = np.floor(tilt[use] / 2).astype(int) + 45
    total, count = (np.bincount(degree, w, minlength=90) for w in (power[use], None))
    return np.arange(-89.0, 90.0, 2.0), total / np.maximum(count, 1)


tilts, power = power_by_tilt(density)
seen = tilts[power > 0.4 * np.median(power[np.abs(tilts) < 45])]
tilt_range = (float(seen.min() - 1), float(seen.max() + 1))
print(f"tilt range, from the spectrum: {tilt_range[0]:.0f}° to {tilt_range[1]:.0f}°")
tomogram.attrs["tilt_range"] = tilt_range

# %% [markdown]
# ## A patch of the wall as template
#
# Axes of the patch: y along the tube, z outwards, x along the wall.  The monomer comes in these
# axes (the convention of the program that made it).

# %%
monomer = tomodask.open_tomogram(DATA / "beta-tubulin.mrc").load()


def wall_patch(across, along, *, voxel_size, repeat=REPEAT):
    """Monomers of `across` protofilaments, `along` of each, as a map of `voxel_size`."""
    size, edge = float(monomer.attrs["voxel_size"]), 64
    axis = (np.arange(edge) - edge // 2) * size
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    out = np.zeros((edge,) * 3)
    for j in np.arange(across) - across // 2:
        turn = 2 * np.pi * j / PROTOFILAMENTS
        own_z = (z + RADIUS) * np.cos(turn) + x * np.sin(turn) - RADIUS
        own_x = x * np.cos(turn) - (z + RADIUS) * np.sin(turn)
        for k in np.arange(along) - along // 2:
            own_y = y - (k - STARTS * j / PROTOFILAMENTS) * repeat  # left-handed
            place = np.stack([own_z, own_y, own_x]) / size + monomer.shape[0] // 2
            out += scipy.ndimage.map_coordinates(monomer.to_numpy(), place, order=1)
    volume = xr.DataArray(
        out, dims=("z", "y", "x"), name="patch", attrs={"voxel_size": size, "source": "patch"}
    )
    return resample_map(volume, voxel_size=voxel_size)


# %% [markdown]
# ## Where is the tube?
#
# The patch in all orientations, 20° apart, at 35 Å: nothing said about the tube.  Beside it the
# single monomer in the same way.


# %%
def positions(table):
    return table[["x", "y", "z"]].to_numpy(float)


def blind_picks(template, diameter):
    match = tomodask.match_template(
        tomogram, template, angular_step=20.0, diameter=diameter, resolution=35.0
    )
    return tomodask.pick_particles(match.compute(), diameter=60.0)


found = blind_picks(wall_patch(3, 3, voxel_size=VOXEL), DIAMETER)

# %% [markdown]
# The tube's axis: the principal direction of the picks, then a bent cylinder through them.


# %%
class Tube:
    """A cylinder with a slightly bent axis, Å, xyz."""

    def __init__(self, points):
        self.centre = points.mean(axis=0)
        self.direction = np.linalg.svd(points - self.centre, full_matrices=False)[2][0]
        self.direction *= np.sign(self.direction[1])
        across = np.array([1.0, 0.0, 0.0])
        across -= self.direction * (across @ self.direction)
        self.e1 = across / np.linalg.norm(across)
        self.e2 = np.cross(self.direction, self.e1)
        self.length = np.ptp(points @ self.direction)
        self.bend, self.radius = np.zeros((3, 2)), RADIUS

    def axis_offset(self, along):
        return np.polynomial.polynomial.polyval(2 * along / self.length, self.bend).T

    def coordinates(self, points):
        """Along the axis, angle about it, distance from it."""
        q = points - self.centre
        along = q @ self.direction
        u, w = (np.stack([q @ self.e1, q @ self.e2], -1) - self.axis_offset(along)).T
        return along, np.arctan2(w, u), np.hypot(u, w)

    def points(self, along, angle, radius):
        along, angle, radius = np.broadcast_arrays(along, angle, radius)
        b = self.axis_offset(along.ravel()).reshape(*along.shape, 2)
        u, w = radius * np.cos(angle) + b[..., 0], radius * np.sin(angle) + b[..., 1]
        parts = ((along, self.direction), (u, self.e1), (w, self.e2))
        return self.centre + sum(value[..., None] * axis for value, axis in parts)

    def fit(self, points):
        def misfit(parameters):
            self.bend, self.radius = parameters[:-1].reshape(3, 2), parameters[-1]
            return self.coordinates(points)[2] - self.radius

        start = np.append(self.bend.ravel(), self.radius)
        misfit(least_squares(misfit, start, loss="soft_l1", f_scale=VOXEL).x)
        return self


tube = Tube(positions(found)).fit(positions(found))
off = np.abs(tube.coordinates(positions(found))[2] - tube.radius)
tilt = np.rad2deg(np.arctan2(tube.direction[0], tube.direction[1]))
agree = np.abs(tomodask.orientations(found).apply([0.0, 1.0, 0.0]) @ tube.direction)
print(f"blind search with the patch: {len(found)} picks, {np.mean(off < 20):.0%} within 20 Å of")
print(
    f"  one cylinder of radius {tube.radius / 10:.1f} nm, {abs(tilt):.1f}° from y; the patch's own"
)
print(
    f"  axis is {np.rad2deg(np.median(np.arccos(agree.clip(0, 1)))):.0f}° from the tube's (median)"
)
alone = blind_picks(wall_patch(1, 1, voxel_size=VOXEL), 70.0)
print(f"blind search with one monomer: {len(alone)} picks clear of the noise")

# %% [markdown]
# ## The subunits
#
# Now the patch is turned about the tube's axis only (10° apart, ±5° off the axis), in both
# polarities.  The tomogram is resampled to half its voxel size: neighbours are four voxels apart,
# and MP-NMS needs more than that to part their peaks.

# %%
FINE = VOXEL / 2
fine = resample_map(tomogram, voxel_size=FINE).assign_attrs(tilt_range=tilt_range)


def rotations_along(direction):
    """Orientations whose y axis lies within ±5° of `direction`."""
    z = np.array([0.0, 0.0, 1.0]) - direction * direction[2]
    z /= np.linalg.norm(z)
    frame = Rotation.from_matrix(np.stack([np.cross(direction, z), direction, z], axis=1))
    own = [Rotation.from_euler("xz", [a, b], degrees=True) for a in (-4, 4) for b in (-4, 4)]
    turns = Rotation.from_euler("y", np.arange(0.0, 360.0, 10.0)[:, None], degrees=True)
    return Rotation.concatenate([frame * turns * one for one in own])


def fine_match(direction, template):
    match = tomodask.match_template(
        fine,
        template,
        rotations=rotations_along(direction),
        diameter=DIAMETER,
        resolution=2 * VOXEL + 0.1,
    )
    return match.compute()


# %% [markdown]
# Which way does the tube point?  Both polarities are matched.  At 21 Å a monomer looks much the
# same from either end, so the scores decide by little; alignment will be clearer.

# %%
patch = wall_patch(3, 3, voxel_size=FINE)
THRESHOLD = 0.4
matches, picks_of = {}, {}
for sign in (1, -1):
    matches[sign] = fine_match(sign * tube.direction, patch)
    picks_of[sign] = tomodask.pick_particles(matches[sign], diameter=36.0, threshold=THRESHOLD)
total = {sign: float((table["score"] - THRESHOLD).sum()) for sign, table in picks_of.items()}
polarity = max(total, key=total.get)
picks, match = picks_of[polarity], matches[polarity]
for _ in range(3):  # the axis again, from the better picks
    near = np.abs(tube.coordinates(positions(picks))[2] - tube.radius) < 25
    tube.fit(positions(picks)[near])
print(
    f"both polarities: {len(picks_of[1])} and {len(picks_of[-1])} picks above {THRESHOLD}, summed"
)
print(f"  scores above it {total[1]:.2f} and {total[-1]:.2f}; taken: {polarity:+d}")
print(f"radius of the wall at the picks: {tube.radius / 10:.2f} nm")


# %% [markdown]
# ## The lattice, measured without a template
#
# The wall is unrolled from the density and Fourier transformed.  The equator shows the number of
# protofilaments, the layer line their repeat, and its order the starts and the hand of the helix.


# %%
def unrolled(tube):
    along = np.arange(-0.5, 0.5, 1 / 500) * tube.length
    angle = np.arange(208) * 2 * np.pi / 208
    wall = np.zeros((along.size, angle.size))
    for radius in tube.radius + np.array([-15.0, -7.5, 0.0, 7.5, 15.0]):
        points = tube.points(along[:, None], angle[None, :], radius)[..., ::-1] / VOXEL
        wall += scipy.ndimage.map_coordinates(density, points.transpose(2, 0, 1), order=3)
    return along, angle, wall / 5


def strength(weights, along, angle, *, frequency, order):
    """Fourier coefficient of points or densities on the cylinder."""
    wave = 2 * np.pi * np.multiply.outer(frequency, along) + order * angle
    return np.exp(-1j * wave) @ weights


along, angle, wall = unrolled(tube)
window = (wall - wall.mean()) * np.hanning(along.size)[:, None]
around = scipy.fft.fft(window, axis=1)  # order n of each ring
orders = np.arange(8, 19)
equator = np.abs(around[:, orders].sum(axis=0))
number = int(orders[equator.argmax()])
frequencies = np.linspace(1 / 60, 1 / 30, 2001)
waves = np.exp(-2j * np.pi * np.outer(frequencies, along))
helices = {n: waves @ around[:, n] for n in range(-6, 7)}
starts = max(helices, key=lambda n: np.abs(helices[n]).max())
best = np.abs(helices[starts]).argmax()
repeat, phase = 1 / frequencies[best], float(np.angle(helices[starts][best]))
phase_around = float(np.angle(around[:, number].sum()))
print(f"the density itself: {number} protofilaments, {repeat:.1f} Å along each, and a helix of")
print(f"  {abs(starts)} starts, {'left' if starts > 0 else 'right'}-handed as the file is stored")

# %% [markdown]
# These are the sites of the lattice, Å along the axis and angle; a pick can now be held against
# them.  The tube's axis is that of the picks; number, repeat, hand and the place of the sites on
# the wall come from the density alone.

# %%
site_angle = (2 * np.pi * np.arange(number) - phase_around) / number
step = np.arange(-80, 80)
site_along = repeat * (step - (starts * site_angle[:, None] + phase) / (2 * np.pi))
site_along, site_filament = site_along.ravel(), np.repeat(np.arange(number), len(step))
sites = tube.points(site_along, site_angle[site_filament], tube.radius)
extent = np.array(density.shape[::-1]) * VOXEL
inside = np.all((sites > 15) & (sites < extent - 15), axis=1)
sites, site_filament = sites[inside], site_filament[inside]

# %% [markdown]
# ## How near do the picks come?
#
# Points strewn over the wall at random would lie within 15 Å of a site in a third of the cases: a
# monomer's share of the wall is 41 × 54 Å.


# %%
def judged(table):
    """Distance of each pick from the wall and from the nearest site, Å, and that site."""
    points = positions(table)
    distance = np.linalg.norm(points[:, None] - sites[None], axis=-1)
    off_wall = np.abs(tube.coordinates(points)[2] - tube.radius)
    return off_wall, distance.min(axis=1), distance.argmin(axis=1)


def in_phase(points, orders):
    """How well picks keep to n straight protofilaments, for each n: 0 to 1."""
    along, angle, _ = tube.coordinates(points)
    twist = np.linspace(-2, 2, 81)[:, None] * 2 * np.pi / tube.length  # a slow one is allowed
    return np.array(
        [np.abs(np.exp(1j * (n * angle + twist * along)).mean(1)).max() for n in orders]
    )


REPEATS = np.linspace(36, 50, 1401)


def in_phase_along(points):
    """How well picks keep to a three-start helix of each of `REPEATS`: 0 to 1."""
    along, angle, _ = tube.coordinates(points)
    wave = 2 * np.pi * along / REPEATS[:, None] + starts * angle
    return np.abs(np.exp(1j * wave).mean(axis=1))


off_wall, off_site, site = judged(picks)
hit = off_site < 15
print(f"{len(picks)} picks: {np.mean(off_wall < 20):.1%} within 20 Å of the wall, {hit.mean():.0%}")
print(f"  within 15 Å of a site (by chance: 32 %), {np.median(off_site):.1f} Å off in the median;")
print(f"  they cover {len(set(site[hit]))} of the {len(sites)} sites inside the crop")
orderly, along_phase = in_phase(positions(picks), orders), in_phase_along(positions(picks))
print(
    f"the picks: {orders[orderly.argmax()]} protofilaments, {REPEATS[along_phase.argmax()]:.1f} Å"
)
covered = np.bincount(site_filament[np.unique(site[hit])], minlength=number)
share = covered / np.bincount(site_filament, minlength=number)
print("share of the sites found, protofilament by protofilament:", *(f"{v:.2f}" for v in share))

# %% [markdown]
# The threshold of 0.4 is a choice, made by looking at this table; the last row is what
# `pick_particles` takes by itself.  What is measured of the lattice does not hang on it.

# %%
for threshold in (0.3, 0.35, 0.4, 0.45, None):
    some = tomodask.pick_particles(match, diameter=36.0, threshold=threshold)
    wall_distance, distance, which = judged(some)
    points = positions(some[wall_distance < 20])
    print(
        f"threshold {some.attrs['threshold']:.2f}{'' if threshold else ' (by itself)'}:"
        f" {len(some)} picks, {np.mean(wall_distance < 20):.0%} on the wall,"
        f" {np.mean(distance < 15):.0%} near a site, {len(set(which[distance < 15]))} sites,"
        f" {orders[in_phase(points, orders).argmax()]} protofilaments,"
        f" {REPEATS[in_phase_along(points).argmax()]:.1f} Å"
    )

# %% [markdown]
# The patch was made with 41 Å: do its picks say anything of the repeat?  With 45 Å it fits
# worse, but what it finds must again be 41 Å apart.

# %%
wrong = wall_patch(3, 3, voxel_size=FINE, repeat=45.0)
wrong = fine_match(polarity * tube.direction, wrong)
wrong = tomodask.pick_particles(wrong, diameter=36.0, threshold=0.9 * THRESHOLD)
wrong = wrong[judged(wrong)[0] < 20]
best = REPEATS[in_phase_along(positions(wrong)).argmax()]
print(f"a patch of 45 Å: {len(wrong)} picks on the wall, and a repeat of {best:.1f} Å")

# %% [markdown]
# ## The average
#
# Boxes are cut around the picks, aligned to a patch of 5 × 5 over *all* rotations (only the shift
# is kept small), and averaged.  The two halves are the two ends of the tube:
# they share voxels only where the ends meet, in the middle.
#
# Both halves are aligned to one reference, and noise aligned to a reference begins to look like it.
# Two more averages say how far that goes:
#
# - as many peaks of the score *off* the tube, aligned in the same way: whatever they show is bias;
# - the sites of the lattice with the orientations that the tube gives them: no template at all.

# %%
BOX, REFERENCE = 20, 190.0  # voxels; Å, the diameter of the mask


def boxes_at(table):
    """Boxes in the order of the table, with the end of the tube as half set."""
    ends = tube.coordinates(positions(table))[0]
    table = table.assign(half=np.where(ends < np.median(ends), 1, 2)).reset_index(drop=True)
    # Extraction orders the boxes by their place in the tomogram.
    return tomodask.extract_subtomograms(tomogram, table, box=BOX).sortby("particle")


def aligned_average(table):
    boxes = boxes_at(table)
    poses = tomodask.align_subtomograms(boxes, reference, shift_range=12.0, diameter=REFERENCE)
    poses = poses.compute()
    return poses, tomodask.average_subtomograms(boxes, poses=poses).compute()


reference = wall_patch(5, 5, voxel_size=VOXEL)
reference = xr.DataArray(
    fitted(reference.to_numpy(), BOX), dims=("z", "y", "x"), attrs={"voxel_size": VOXEL}
)
subunits = picks[hit].assign(site=site[hit]).drop_duplicates("site")  # the best pick of each site
poses, average = aligned_average(subunits)
noise = tomodask.pick_particles(match, diameter=36.0, threshold=0.2)
within = np.all(positions(noise) < extent - 2 * VOXEL, axis=1)
noise = noise[(judged(noise)[0] > 60) & within].head(len(subunits))
_, control = aligned_average(noise)

outwards = sites - tube.points(tube.coordinates(sites)[0], 0.0, 0.0)
outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
up = np.broadcast_to(polarity * tube.direction, sites.shape)
frame = np.stack([np.cross(up, outwards), up, outwards], axis=-1)  # columns x, y, z
lattice = pd.DataFrame(sites, columns=["x", "y", "z"]).assign(tomogram=tomogram.name)
lattice = tomodask.with_orientations(lattice, Rotation.from_matrix(frame))
free = tomodask.average_subtomograms(boxes_at(lattice)).compute()

matched, aligned = tomodask.orientations(subunits), tomodask.orientations(poses)
turned = tomodask.angular_distance(matched, aligned)
half_turn = Rotation.from_euler("z", 180, degrees=True)
flipped = tomodask.angular_distance(matched * half_turn, aligned)
near, far = turned < 25, flipped < 25
print(f"{len(subunits)} subunits aligned: {near.mean():.0%} as they were matched, {far.mean():.0%}")
print(f"  with the other polarity; median turn of the former {np.median(turned[near]):.1f}°")
# Were they picked for their polarity?  Those that were picked with the other one must vote alike.
others = picks_of[-polarity]
others = others[judged(others)[1] < 15]
other_poses, _ = aligned_average(others)
vote = tomodask.orientations(other_poses).apply([0.0, 1.0, 0.0]) @ tube.direction
print(f"of {len(others)} picked with polarity {-polarity:+d},", end=" ")
print(f"{np.mean(np.sign(vote) == polarity):.0%} are aligned with {polarity:+d}")


def likeness(volume):
    """Correlation with the reference inside a ball of 75 Å radius: the patch that was matched."""
    axis = (np.arange(BOX) - BOX // 2) * VOXEL
    ball = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) < DIAMETER / 2
    return np.corrcoef(volume[ball], reference.to_numpy()[ball])[0, 1]


averages = {
    "subunits, aligned": average,
    "sites, no template": free,
    "off the tube, aligned": control,
}
curves = {}
for name, one in averages.items():
    curves[name] = one.fsc(diameter=REFERENCE)
    where = [tomodask.resolution_at(curves[name], level) for level in (0.5, 0.143)]
    print(
        f"{name} ({sum(one.particles)}): FSC of the ends 0.5 at {where[0]:.0f} Å, 0.143 at", end=" "
    )
    print(f"{where[1]:.0f} Å; correlation with the reference {likeness(one.average):.2f}")
both_ways = tomodask.fsc(average.half_1, free.half_2, voxel_size=VOXEL, diameter=REFERENCE)
print(f"(voxels of {VOXEL} Å hold no detail finer than {2 * VOXEL:.0f} Å)")
print("aligned average of one end against the sites of the other: FSC 0.5 at", end=" ")
print(f"{tomodask.resolution_at(both_ways, 0.5):.0f} Å")

# %% [markdown]
# ## Pictures

# %%
INK, BLUE, ORANGE, GREY = "#1b1f24", "#0b6e99", "#c8553d", "#c3cad1"


def figure_of(width, height, **grid):
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    return figure, figure.subplots(**grid)


def framed(axes, title, x="", y=""):
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


# The tomogram, and the wall unrolled.
figure, (left, middle, right) = figure_of(10.5, 5.4, ncols=3, width_ratios=[1.15, 1.15, 1.5])
smooth = scipy.ndimage.gaussian_filter(density, 0.7)
level = positions(picks).mean(axis=0)[2] / VOXEL
for axes, height, name in ((left, level, "middle of the tube"), (middle, level + 9, "upper wall")):
    plane = round(height)
    size = np.array(density.shape[::-1]) * VOXEL / 10
    image = smooth[plane - 1 : plane + 2].mean(axis=0)
    axes.imshow(image, cmap="gray", origin="lower", extent=(0, size[0], 0, size[1]))
    near_plane = positions(picks)[np.abs(positions(picks)[:, 2] / VOXEL - plane) < 2] / 10
    axes.scatter(*near_plane[:, :2].T, s=26, facecolors="none", edgecolors="#ffb000", lw=1.0)
    title = f"{name}, z = {plane * VOXEL / 10:.0f} nm"
    framed(axes, title, "x (nm)", "y (nm)" if axes is left else "")
shown = scipy.ndimage.gaussian_filter(wall, (2, 3), mode=("nearest", "wrap"))
extent_nm = (-180, 180, along[0] / 10, along[-1] / 10)
image = np.roll(shown, angle.size // 2, axis=1)
right.imshow(image, cmap="gray", origin="lower", aspect="auto", extent=extent_nm)
on_tube = tube.coordinates(positions(picks))
right.scatter(
    np.rad2deg(on_tube[1]), on_tube[0] / 10, s=22, facecolors="none", edgecolors="#ffb000", lw=1.0
)
on_tube = tube.coordinates(sites)
right.scatter(np.rad2deg(on_tube[1]), on_tube[0] / 10, s=7, color="#18a4ff", lw=0)
right.set_ylim(-50, 50)
framed(right, "the wall unrolled, picks and lattice", "angle about the tube (°)", "along (nm)")
figure.savefig(OUTPUT / "picks.png", dpi=110)
figure

# %%
figure, panels = figure_of(10.5, 3.0, ncols=3)
on_tube = tube.coordinates(positions(picks))
panels[0].hist(np.rad2deg(on_tube[1]), bins=np.arange(-180, 181, 4), color=BLUE)
for one in np.rad2deg(np.angle(np.exp(1j * site_angle))):
    panels[0].axvline(one, color=ORANGE, lw=0.8, alpha=0.7)
framed(panels[0], "angle of the picks; lines: protofilaments", "angle about the tube (°)", "picks")
panels[1].plot(REPEATS, along_phase, color=BLUE)
panels[1].axvline(repeat, color=ORANGE, lw=0.8)
title = "repeat along the tube; line: of the density"
framed(panels[1], title, "repeat (Å)", "picks in phase (0 to 1)")
filament = site_filament[site]
gaps = [np.subtract.outer(a, a).ravel() for a in (on_tube[0][filament == f] for f in range(number))]
gaps = np.concatenate(gaps)
panels[2].hist(gaps[gaps > 0], bins=np.arange(0, 215, 5), color=BLUE)
for k in range(1, 6):
    panels[2].axvline(k * repeat, color=ORANGE, lw=0.8, alpha=0.7)
framed(panels[2], "from pick to pick of a protofilament", "distance along (Å)", "pairs")
figure.savefig(OUTPUT / "lattice.png", dpi=110)
figure

# %%
figure, panels = figure_of(10.5, 8.2, nrows=4, ncols=4, width_ratios=[1, 1, 1, 1.7])
rows = [("reference", reference.to_numpy())]
rows += [(name.replace(", ", "\n"), one.average) for name, one in averages.items()]
half = BOX * VOXEL / 20
for row, (name, volume) in zip(panels, rows, strict=True):
    spread = volume[4:-4, 4:-4, 4:-4]
    for axis, axes in enumerate(row[:3]):
        axes.imshow(
            volume.take(BOX // 2, axis), cmap="gray", origin="lower", interpolation="bicubic",
            vmin=spread.min(), vmax=spread.max(), extent=(-half, half, -half, half),
        )  # fmt: skip
        title = ("the wall, from outside", "across the tube", "along the tube")[axis]
        sides = (("x", "y"), ("x", "z"), ("y", "z"))[axis]
        framed(axes, title if name == "reference" else "", *(f"{side} (nm)" for side in sides))
        if axis == 2:  # the cut at x = 0 comes as (z, y)
            axes.set_xlabel("y (nm)", fontsize=9)
    row[0].set_ylabel(f"{name}\ny (nm)", fontsize=9)
grid = panels[0, 3].get_gridspec()
for axes in panels[:, 3]:
    axes.remove()
axes = figure.add_subplot(grid[:, 3])
for (name, curve), color in zip(curves.items(), (BLUE, "#3f7d4e", ORANGE), strict=True):
    axes.plot(1000 * curve["frequency"], curve["correlation"], color=color, label=name)
axes.axhline(0.143, color=GREY, lw=0.8)
axes.axhline(0.5, color=GREY, lw=0.8)
axes.set_ylim(-0.1, 1.02)
axes.legend(frameon=False, fontsize=8)
framed(axes, "FSC of the two ends of the tube", "frequency ", "correlation")
axes.set_xlabel("frequency (1/100 nm)", fontsize=9)
figure.savefig(OUTPUT / "average.png", dpi=110)
figure
