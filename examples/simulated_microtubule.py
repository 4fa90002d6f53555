# %% [markdown]
# # A simulated slice beside a real one
#
# The crop of `microtubule.py`, a real tomogram of one microtubule, and the same microtubule
# simulated: its lattice is laid where the real one lies, imaged and reconstructed.  What looks
# alike, and what does not?  We
#
# 1. measure on the crop how it was made: noise, reconstruction, lattice,
# 2. build the specimen in volts, image it and reconstruct it,
# 3. hold the two beside each other, in pictures and in numbers.
#
# The file says nothing of the microscope.  Where a setting was chosen to suit the crop, a comment
# says so.
#
# Data: `tomograms/13pf_MT.tif` and `tomograms/beta-tubulin.mrc` (cylindra, BSD-3), looked for in
# the folder that the environment variable TOMODASK_SHARED names, or in `../shared/data` beside the
# repository.  15 s on two cores.

# %%
import os
import sys
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import scipy.ndimage
from matplotlib.figure import Figure
from scipy.spatial.transform import Rotation

import tomodask
from tomodask.simulation.detector import counting_detector
from tomodask.simulation.imaging import signal_variance, simulate_tilt_series
from tomodask.simulation.microscope import Microscope
from tomodask.simulation.packing import Packing
from tomodask.simulation.shapes import particle_shape
from tomodask.simulation.specimen import specimen_density
from tomodask.simulation.tilt_schemes import tilt_scheme

HERE = Path(__file__).resolve().parent if "__file__" in globals() else Path.cwd()
DATA = Path(os.environ.get("TOMODASK_SHARED") or HERE.parents[1] / "shared" / "data") / "tomograms"
OUTPUT = Path("simulated_microtubule")  # the pictures
if not (DATA / "13pf_MT.tif").exists():
    sys.exit(f"{DATA} has no 13pf_MT.tif: set TOMODASK_SHARED to the folder of the shared data")
OUTPUT.mkdir(exist_ok=True)
dask.config.set(scheduler="threads")

VOXEL = 10.52  # Å
PROTOFILAMENTS, STARTS = 13, 3
TILTS = (-66.0, 58.0)  # from the crop's spectrum, see microtubule.py

real = tomodask.open_tomogram(DATA / "13pf_MT.tif", voxel_size=VOXEL).to_numpy().astype(float)

# %% [markdown]
# ## The tube
#
# Where it lies, as `microtubule.py` finds it: a slightly bent axis (Å, xyz) and a radius.


# %%
class Tube:
    centre = np.array([543.8, 1143.0, 210.9])
    direction = np.array([-0.29964, 0.95405, -0.00034])
    e1 = np.array([0.95405, 0.29964, -0.00011])
    e2 = np.cross(direction, e1)
    length, radius, polarity = 2179.0, 111.7, -1
    bend = np.array([[-19.6, 22.4], [-4.3, -4.1], [2.5, 8.2]])

    def _offset(self, along):
        return np.polynomial.polynomial.polyval(2 * along / self.length, self.bend).T

    def points(self, along, angle, radius):
        along, angle, radius = np.broadcast_arrays(along, angle, radius)
        b = self._offset(along.ravel()).reshape(*along.shape, 2)
        u, w = radius * np.cos(angle) + b[..., 0], radius * np.sin(angle) + b[..., 1]
        parts = ((along, self.direction), (u, self.e1), (w, self.e2))
        return self.centre + sum(value[..., None] * axis for value, axis in parts)

    def distance(self, points):
        """From the axis."""
        q = points - self.centre
        along = q @ self.direction
        b = self._offset(along.ravel()).reshape(*along.shape, 2)
        return np.hypot(q @ self.e1 - b[..., 0], q @ self.e2 - b[..., 1])


tube = Tube()
index = np.stack(np.indices(real.shape)[::-1], axis=-1)  # xyz
distance = tube.distance(index * VOXEL)
# Ice: off the tube, and below the smooth balls where gold beads seem to have been erased.
ice = (distance > 200) & (index[..., 2] > 2) & (index[..., 2] < 24)


def scaled(volume):
    """The ice's mean as 0, its standard deviation as 1: a tomogram's own scale means nothing."""
    return (volume - volume[ice].mean()) / volume[ice].std()


real = scaled(real)

# %% [markdown]
# ## The lattice
#
# As in `microtubule.py`: the wall unrolled; its Fourier coefficients around and along the tube.


# %%
def unrolled(volume):
    along = np.arange(-0.47, 0.47, 1 / 500) * tube.length
    angle = np.arange(208) * 2 * np.pi / 208
    radius = tube.radius + np.array([-15.0, -7.5, 0.0, 7.5, 15.0])[:, None, None]
    points = tube.points(along[:, None], angle, radius) / VOXEL
    wall = scipy.ndimage.map_coordinates(volume, np.moveaxis(points[..., ::-1], -1, 0), order=3)
    return along, wall.mean(axis=0)


FREQUENCIES = np.linspace(1 / 60, 1 / 30, 1001)


def lattice(volume):
    """Strength of the layer line along the tube, its phase, and the equator by order."""
    along, wall = unrolled(volume)
    around = np.fft.fft((wall - wall.mean()) * np.hanning(along.size)[:, None], axis=1)
    line = np.exp(-2j * np.pi * np.outer(FREQUENCIES, along)) @ around[:, STARTS] / wall.size
    return line, around.sum(axis=0) / wall.size


line, equator = lattice(real)
best = np.abs(line).argmax()
repeat, phase = 1 / FREQUENCIES[best], np.angle(line[best])
print(f"the real one: {repeat:.1f} Å along a helix of {STARTS} starts")

# %% [markdown]
# ## How was it reconstructed?
#
# A Fourier voxel holds what the tilts brought there.  k_x is the frequency in an image across the
# tilt axis.  With equal noise at all frequencies of an image, power times k_x is k_x² in a
# weighted back-projection (the ramp), and constant in a mere back-projection.


# %%
def spectra(volume):
    """Power by |k|, and power times k_x by k_x, of what was measured."""
    window = np.ones(1)
    for axis, n in enumerate(volume.shape):
        window = window * np.hanning(n).reshape([-1 if i == axis else 1 for i in range(3)])
    power = np.abs(np.fft.fftn((volume - volume.mean()) * window)) ** 2 / (window**2).sum()
    kz, ky, kx = np.meshgrid(*(np.fft.fftfreq(n) for n in volume.shape), indexing="ij")
    tilt = np.rad2deg(np.arctan2(kz * np.sign(kx), np.abs(kx)))
    measured = (tilt > TILTS[0] + 5) & (tilt < TILTS[1] - 5) & (kx != 0)
    across, length = np.hypot(kz, kx), np.sqrt(kz**2 + ky**2 + kx**2)

    def mean(values, by, use):
        bins = np.floor(by[use] * 50).astype(int)
        total, count = np.bincount(bins, values[use], 25), np.bincount(bins, minlength=25)
        return total[:25] / np.maximum(count[:25], 1)

    # The lattice has little at these lengths: the noise of the images shows.
    noise = measured & (np.abs(length - 0.4) < 0.1)
    return mean(power, length, measured), mean(power * across, across, noise)


middle = (np.arange(25) + 0.5) / 50  # of a voxel⁻¹
_, made = spectra(real)
print(f"power times k_x: {made[1] / made[10:18].mean():.2f} of the plateau at k_x = 0.03,")
print(f"  {made[8] / made[10:18].mean():.2f} at 0.17: a ramp at low frequencies, none beyond")

# %% [markdown]
# So the images' noise is white, and the ramp ends at about a tenth of a voxel⁻¹: SIRT of a few
# iterations, or a filter that mimics it.  With seven iterations ours looks the same.
#
# ## The specimen
#
# Tubulin from its map.  `structure_density` makes the mean of a map's *inside* 2.5 V, which is
# meant for maps that are smooth; this one is sharpened, and its mass would come out five times too
# small.  So it is scaled by its mass: a dalton of protein is 4.0 V·Å³ above ice, as
# `structure_density` gives for the atoms of GroEL and others.

# %%
MASS, POTENTIAL = 50_000, 4.02  # Da; V·Å³ / Da
tubulin = tomodask.structure_density(
    DATA / "beta-tubulin.mrc", voxel_size=VOXEL / 2, resolution=VOXEL
)
tubulin *= MASS * POTENTIAL / (float(tubulin.sum()) * (VOXEL / 2) ** 3)
tubulin.attrs["voxel_size"] = VOXEL / 2

MARGIN = np.array([6, 12, 40])  # voxels of ice and tube beyond the crop, so that no edge shows
shape = tuple(int(n) for n in np.array(real.shape) + 2 * MARGIN)
site_angle = (2 * np.pi * np.arange(PROTOFILAMENTS) - np.angle(equator[PROTOFILAMENTS])) / (
    PROTOFILAMENTS
)
site_angle = np.repeat(site_angle, 180)
step = np.tile(np.arange(-90, 90), PROTOFILAMENTS)
along = repeat * (step - (STARTS * site_angle + phase) / (2 * np.pi))
sites = tube.points(along, site_angle, tube.radius)
outwards = sites - tube.points(along, site_angle, 0.0)
outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
up = np.broadcast_to(tube.polarity * tube.direction, sites.shape)
frames = np.stack([np.cross(up, outwards), up, outwards], axis=-1)  # columns x, y, z
sites += MARGIN[::-1] * VOXEL
near = np.all((sites > -40) & (sites < np.array(shape[::-1]) * VOXEL + 40), axis=1)

# %% [markdown]
# `pack` lays particles at random; here we know better, so the table is ours.

# %%
table = pd.DataFrame(sites[near], columns=["x", "y", "z"])
table = tomodask.with_orientations(table, Rotation.from_matrix(frames[near]))
table = table.assign(tomogram="microtubule", kind="tubulin", **{"class": 1})
packing = Packing(
    shape=shape,
    voxel_size=VOXEL,
    shapes={"tubulin": particle_shape(tubulin, voxel_size=VOXEL)},
    particles=table,
)
specimen = specimen_density(packing, {"tubulin": tubulin}).compute()
print(f"the specimen: {len(table)} monomers in {'×'.join(map(str, shape))} voxels")

# %% [markdown]
# ## The microscope
#
# 300 kV; defocus 4 µm, phases flipped; a counting detector, images binned four times.  Two settings
# were chosen so that tube and noise look as in the crop: the **exposure**, and a **B factor** for
# all that blurs.  9000 Å² is as if each monomer were off its place by 11 Å (rms, along each axis).

# %%
EXPOSURE, BLUR = 30.0, 9000.0  # e/Å² in all; Å²
settings = {
    "scheme": tilt_scheme(TILTS, 2.0, dose=EXPOSURE),
    "microscope": Microscope(defocus=40_000.0, b_factor=BLUR),
    "detector": counting_detector(
        dqe_zero=0.85, dqe_nyquist=0.3, mtf_nyquist=0.5, pixel_size=VOXEL / 4
    ),
    "seed": 1,
}
series = simulate_tilt_series(specimen, shot_noise=True, **settings).compute()
signal = float(signal_variance(specimen, **settings).compute())
print(f"signal to noise of the images: {signal / (float(series.var()) - signal):.3f}")
tomogram = tomodask.reconstruct(
    series, thickness=shape[0] * VOXEL, method="sirt", iterations=7, ctf="flip", invert=True
)
inner = tuple(slice(int(m), -int(m)) for m in MARGIN)
simulated = scaled(tomogram.to_numpy()[inner].astype(float))

# %% [markdown]
# ## In numbers
#
# All in units of the noise: the standard deviation of the ice.

# %%
both = {"real": real, "simulated": simulated}
curves, lines, phases = {}, {}, {}
for name, volume in both.items():
    line, equator = lattice(volume)
    strength = lines[name] = np.abs(line)
    peak = strength.argmax()
    background = np.sqrt((strength[np.abs(FREQUENCIES - FREQUENCIES[peak]) > 0.002] ** 2).mean())
    number = 8 + np.abs(equator[8:19]).argmax()
    phases[name] = np.angle([line[peak], equator[PROTOFILAMENTS]], deg=True)
    curves[name] = spectra(volume)
    wall = volume[np.abs(distance - tube.radius) < 2 * VOXEL].mean()
    lumen = volume[distance < 55].mean()
    smooth = scipy.ndimage.gaussian_filter(volume, 3)[ice].std()
    print(f"{name}: wall {wall:.2f}, lumen {lumen:.2f}, ice smoothed over 3 voxels {smooth:.3f};")
    print(f"  layer line at {1 / FREQUENCIES[peak]:.1f} Å, height {strength[peak]:.3f},", end=" ")
    print(f"{strength[peak] / background:.0f} times what is beside it;")
    print(f"  equator of order {number}, height {np.abs(equator[number]):.3f}")
off = np.abs((phases["real"] - phases["simulated"] + 180) % 360 - 180)
print(f"phases differ by {off[0]:.0f}° (layer line) and {off[1]:.0f}° (equator)")

# %% [markdown]
# ## Pictures
#
# One grey scale for both.

# %%
INK, BLUE, ORANGE = "#1b1f24", "#0b6e99", "#c8553d"
COLOURS = {"real": BLUE, "simulated": ORANGE}
size = np.array(real.shape) * VOXEL / 10  # nm, zyx


def framed(axes, title, x="", y=""):
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def across(volume, half=20):
    """The cross-section, the mean of 400 Å along the tube about its middle."""
    along = np.linspace(-200, 200, 81)[:, None, None]
    grid = np.arange(-half, half + 1) * VOXEL
    w, u = np.meshgrid(grid[abs(grid) < 19 * VOXEL], grid, indexing="ij")
    points = tube.points(along, np.arctan2(w, u), np.hypot(u, w)) / VOXEL
    values = scipy.ndimage.map_coordinates(
        volume, np.moveaxis(points[..., ::-1], -1, 0), order=1, cval=np.nan
    )
    return values.mean(axis=0)[::-1]  # e2 points down: turned over, so that z rises


planes = (("middle of the tube", 20), ("upper wall", 29))
figure = Figure(figsize=(10.5, 8.6), layout="constrained", facecolor="white")
grid = figure.add_gridspec(2, 4, height_ratios=[2.3, 1])
for i, (what, z) in enumerate(planes):
    for j, (name, volume) in enumerate(both.items()):
        axes = figure.add_subplot(grid[0, 2 * i + j])
        axes.imshow(
            volume[z - 1 : z + 2].mean(axis=0), cmap="gray", origin="lower", vmin=-1.8, vmax=2.6,
            extent=(0, size[2], 0, size[1]),
        )  # fmt: skip
        title = f"{name}, z = {z * VOXEL / 10:.0f} nm"
        framed(axes, f"{title}\n{what}", "x (nm)", "y (nm)" if i + j == 0 else "")
for j, (name, volume) in enumerate(both.items()):
    axes = figure.add_subplot(grid[1, 2 * j : 2 * j + 2])
    image = across(volume)
    half = np.array(image.shape) * VOXEL / 20
    axes.imshow(
        image, cmap="gray", origin="lower", vmin=-1.0, vmax=1.8,
        extent=(-half[1], half[1], -half[0], half[0]),
    )  # fmt: skip
    framed(axes, f"{name}, across the tube, mean of 40 nm", "across (nm)", "along the beam (nm)")
figure.savefig(OUTPUT / "slices.png", dpi=110)
figure

# %%
figure = Figure(figsize=(10.5, 3.3), layout="constrained", facecolor="white")
left, centre, right = figure.subplots(1, 3)
for name, color in COLOURS.items():
    power, weight = curves[name]
    left.semilogy(middle[1:] / VOXEL, power[1:], color=color, label=name)
    centre.loglog(middle[:22], weight[:22] / weight[10:18].mean(), color=color, label=name)
    right.plot(FREQUENCIES, lines[name], color=color, label=name)
framed(left, "power, rotational average", "frequency (1/Å)", "power (noise of the ice = 1)")
ramp = middle[:5] ** 2 / middle[1] ** 2 * 0.1
centre.loglog(middle[:5], ramp, color="#9aa4ad", ls="--", label="weighted back-projection")
framed(centre, "the filter: power times k_x", "k_x (1/voxel)", "of the plateau")
framed(right, "layer line, order 3", "frequency along the tube (1/Å)", "strength (noise = 1)")
right.set_xticks([1 / 60, 1 / 50, 1 / 41, 1 / 35], ["1/60", "1/50", "1/41", "1/35"])
for axes in (left, centre, right):
    axes.legend(frameon=False, fontsize=8)
figure.savefig(OUTPUT / "spectra.png", dpi=110)
figure
