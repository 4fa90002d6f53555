"""Draws docs/images/imaging.svg: python docs/drawings/imaging.py"""

from pathlib import Path

import dask.array as da
import numpy as np
import scipy.ndimage as ndi
import xarray as xr
from matplotlib.figure import Figure

from tomodask.arrays.optics import ctf_radial
from tomodask.simulation.imaging import simulate_tilt_series
from tomodask.simulation.microscope import Microscope
from tomodask.simulation.projections import project_volume
from tomodask.simulation.tilt_schemes import ORDERS, tilt_scheme

BLUE, ORANGE, GREY = "#1769aa", "#d9541e", "#9aa4ad"
IMAGES = Path(__file__).parents[1] / "images"
PIXEL = 4.0


def main() -> None:
    figure = Figure(figsize=(12, 7.6), layout="constrained")
    top, bottom = figure.subplots(2, 3)
    draw_geometry(top[0])
    draw_scheme(top[1])
    draw_gradient(top[2])
    draw_images(bottom)
    figure.savefig(IMAGES / "imaging.svg", dpi=110)


def draw_geometry(axes) -> None:
    turn = np.deg2rad(35)
    corners = np.array([(-5, -1), (5, -1), (5, 1), (-5, 1), (-5, -1)])
    x = corners[:, 0] * np.cos(turn) + corners[:, 1] * np.sin(turn)
    z = -corners[:, 0] * np.sin(turn) + corners[:, 1] * np.cos(turn)
    axes.fill(x, z, color=BLUE, alpha=0.25)
    axes.plot(x, z, color=BLUE)
    for place in np.linspace(-4, 4, 9):
        axes.plot([place, place], [6, -5.4], color=GREY, lw=0.6)
    axes.plot([-5.5, 5.5], [-5.5, -5.5], color="black", lw=3)
    axes.annotate("beam", (4.2, 5.2), color=GREY)
    axes.annotate("detector, x' = x cos θ + z sin θ", (-5.3, -6.5))
    axes.annotate("less defocus\n(handedness −1)", (-5.4, 4.2), color=ORANGE)
    axes.annotate("more defocus", (1.4, -4.8), color=ORANGE)
    axes.set(title="a slab tilted by θ = 35°", xlim=(-6, 6), ylim=(-7, 6.5), aspect="equal")
    axes.axis("off")


def draw_scheme(axes) -> None:
    for order, color in zip(ORDERS, (BLUE, GREY, ORANGE), strict=True):
        scheme = tilt_scheme((-60, 60), 3, order=order, dose=120).sort_values("order")
        axes.plot(scheme["angle"], scheme["pre_exposure"], ".-", color=color, lw=0.5, label=order)
    axes.set(title="exposure before each tilt", xlabel="tilt, degrees", ylabel="e/Å²")
    axes.legend(frameon=False)


def draw_gradient(axes) -> None:
    """Power along y of two strips of one image of white noise, and the formula's curve."""
    ny, nx, angle = 4096, 640, 50.0
    rng = np.random.default_rng(5)
    data = rng.normal(size=(2, ny, nx)).astype(np.float32)
    volume = xr.DataArray(
        da.from_array(data, chunks=(2, 512, nx)), dims=("z", "y", "x"), attrs={"voxel_size": PIXEL}
    )
    scope = Microscope(defocus=15_000.0)
    scheme = tilt_scheme((angle, angle), 1, order="continuous")
    image = simulate_tilt_series(volume, scheme=scheme, microscope=scope)[0].to_numpy()
    for offset, color in ((-160, BLUE), (160, ORANGE)):
        k, power = spectrum(image[:, nx // 2 + offset - 32 : nx // 2 + offset + 32])
        defocus = 15_000 + offset * PIXEL * np.tan(np.deg2rad(angle))
        curve = ctf_radial(
            k, defocus=defocus, voltage=300.0, spherical_aberration=2.7, amplitude_contrast=0.07
        )
        axes.plot(k, power / power[20:200].max(), color=color, lw=0.8)
        axes.plot(k, curve**2, "--", color=color, lw=1, label=f"x' = {offset * PIXEL:+.0f} Å: CTF²")
    axes.set(
        title="power at 50°, left and right of the axis", xlabel="frequency, 1/Å",
        ylabel="power", xlim=(0.02, 0.11), ylim=(0, 1.25),
    )  # fmt: skip
    axes.legend(frameon=False, loc="upper right")


def spectrum(strip: np.ndarray, length: int = 512) -> tuple[np.ndarray, np.ndarray]:
    window = np.hanning(length)[:, None] * np.hanning(strip.shape[1])[None, :]
    starts = range(0, len(strip) - length + 1, length // 2)
    power = sum(np.abs(np.fft.fft2(strip[s : s + length] * window)) ** 2 for s in starts)
    ky, kx = np.fft.fftfreq(length)[:, None], np.fft.fftfreq(strip.shape[1])[None, :]
    ring = np.rint(length * np.hypot(ky, kx)).astype(int)
    along = np.abs(kx) < np.tan(np.deg2rad(15)) * np.abs(ky)
    index = np.arange(1, length // 2)
    return index / length / PIXEL, ndi.mean(power[along], ring[along], index)


def draw_images(row) -> None:
    """One tilt of a box of balls: phase, what the lens makes of it, and with noise."""
    rng = np.random.default_rng(2)
    shape = (40, 160, 160)
    data = np.zeros(shape)
    z, y, x = np.ogrid[:40, :160, :160]
    for cz, cy, cx in rng.uniform((10, 14, 14), (30, 146, 146), size=(40, 3)):
        data += 2.0 * ((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 64)
    data = ndi.gaussian_filter(data, 1.0).astype(np.float32)
    volume = xr.DataArray(
        da.from_array(data), dims=("z", "y", "x"), attrs={"voxel_size": 10.0}, name="balls"
    )
    scheme = tilt_scheme((0, 0), 1, dose=3)
    scope = Microscope(defocus=40_000.0)
    projection = project_volume(volume, scheme["angle"])
    clean = simulate_tilt_series(projection, scheme=scheme, microscope=scope)
    noisy = simulate_tilt_series(projection, scheme=scheme, microscope=scope, shot_noise=True)
    shown = (
        (projection, "projected potential"),
        (clean, "contrast at 4 µm defocus"),
        (noisy, "the same from 3 e/Å²"),
    )
    for axes, (image, title) in zip(row, shown, strict=True):
        axes.imshow(image[0], cmap="gray", origin="lower")
        axes.set(title=title, xlabel="x, pixels", ylabel="y")


if __name__ == "__main__":
    main()
