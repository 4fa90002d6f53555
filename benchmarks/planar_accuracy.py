"""2D alignment and classes of simulated projections of the 70S ribosome, against the truth.

    python benchmarks/planar_accuracy.py [--images 1000] [--seeds 3] [--snr 0.05] [--ctf multiply]

Projections of ``structures/4v5a_70S.cif.gz`` of the data folder (--data, by default that of the
variable TOMODASK_SHARED or ../shared/data beside the project) in 10 random directions: 90 × 90
pixels of 3.77 Å, any angle in the plane, mirrored or not, shifts up to ±3 pixels along each axis,
defocus 1 to 2.5 µm (300 kV, 2.7 mm, amplitude contrast 0.1), white noise.  SNR is the variance of
the noise-free images over that of the noise, over whole images.

Known references: the 10 projections themselves, without CTF; who finds what.  Unknown ones: classes
from images drawn by the seed; purity (share of the images whose class is mostly of their view), and
which images keep their class from seed to seed, beside scikit-learn's K-means (10 starts) on
the same images: low-passed as they are, and aligned to their common average first.  scikit-learn is
asked for by this benchmark alone: ``pip install scikit-learn``; without it that part is left out,
aloud.
"""

from __future__ import annotations

import os

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[threads] = "1"

import argparse
import platform
import sys
import time
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import scipy.fft
import xarray as xr
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import matrices_zyx
from tomodask.arrays.optics import ctf, image_frequencies
from tomodask.arrays.sampling import padded_spectrum, sample
from tomodask.planar.aligned import transform_images
from tomodask.planar.alignment2d import align_images
from tomodask.planar.averages2d import average_images
from tomodask.planar.class_sums import matrices2d
from tomodask.planar.frc import low_pass_rings, ring_weighted
from tomodask.planar.image_optics import corrected_images
from tomodask.planar.poses2d import wrapped
from tomodask.planar.rounds2d import Round2D, classify_images
from tomodask.planar.sharing import class_stability
from tomodask.planar.transforming import soft_disc
from tomodask.simulation.density import structure_density

SIZE, PIXEL, RADIUS, VIEWS, REACH = 90, 3.77, 36, 10, 3.0
FOLDER = Path(os.environ.get("TOMODASK_SHARED") or Path(__file__).parents[2] / "shared" / "data")
OPTICS = {"voltage": 300.0, "spherical_aberration": 2.7, "amplitude_contrast": 0.1}


def simulated(
    density: np.ndarray, count: int, *, snr: float, seed: int
) -> tuple[xr.DataArray, pd.DataFrame, xr.DataArray]:
    """Images, the truth, and the projections that they are of: slices of one spectrum."""
    rng = np.random.default_rng([seed, 1])
    spectrum = padded_spectrum(density, radius=SIZE / 2 - 0.5)
    directions = matrices_zyx(Rotation.random(VIEWS, rng=rng))
    ky, kx = np.broadcast_arrays(
        np.fft.fftfreq(SIZE, 1 / SIZE)[:, None], np.fft.rfftfreq(SIZE, 1 / SIZE)
    )
    keep = np.hypot(ky, kx) < SIZE / 2 - 0.6
    k = np.stack([ky[keep], kx[keep]], 1)
    frequencies = image_frequencies((SIZE, SIZE), PIXEL)

    def image(view: int, matrix: np.ndarray, shift: np.ndarray, transfer: np.ndarray) -> np.ndarray:
        at = np.column_stack([np.zeros(len(k)), k @ matrix])
        out = np.zeros(keep.shape, np.complex64)
        waves = np.exp(-2j * np.pi / SIZE * (k @ (shift + SIZE // 2)))
        out[keep] = sample(spectrum, at, directions[view]) * waves
        return scipy.fft.irfft2(out * transfer, s=(SIZE, SIZE))

    label = rng.integers(0, VIEWS, count)
    psi, mirror = rng.uniform(-180, 180, count), rng.random(count) < 0.5
    shift = rng.uniform(-REACH, REACH, (count, 2))
    defocus = rng.uniform(10_000, 25_000, count)
    matrices = matrices2d(psi, mirror)
    images = np.empty((count, SIZE, SIZE), np.float32)
    for i in range(count):
        transfer = ctf(*frequencies, defocus_u=defocus[i], **OPTICS)
        images[i] = image(label[i], matrices[i], shift[i], transfer)
    noise = np.sqrt(images.var(axis=(1, 2)).mean() / snr)
    images += rng.normal(scale=noise, size=images.shape).astype(np.float32)
    truth = pd.DataFrame(
        {
            "class": label + 1,
            "psi": psi,
            "shift_y": shift[:, 0] * PIXEL,
            "shift_x": shift[:, 1] * PIXEL,
            "mirror": mirror,
        },
        index=pd.Index(np.arange(count), name="image"),
    )
    stack = xr.DataArray(
        images,
        dims=("image", "y", "x"),
        coords={"defocus_u": ("image", defocus)},
        attrs={"pixel_size": PIXEL, **OPTICS},
    ).chunk({"image": 250})
    one = np.ones((1, 1))
    views = [image(v, np.eye(2), np.zeros(2), one) for v in range(VIEWS)]
    references = xr.DataArray(
        np.asarray(views, np.float32), dims=("class", "y", "x"), attrs={"pixel_size": PIXEL}
    )
    return stack, truth, references


def purity(label: np.ndarray, truth: np.ndarray) -> float:
    """Share of the images whose class is mostly of their view."""
    return sum(np.bincount(truth[label == c]).max() for c in np.unique(label)) / len(label)


def known(images: xr.DataArray, truth: pd.DataFrame, references: xr.DataArray, how: str) -> None:
    start = time.perf_counter()
    found = align_images(
        images, references, radius=RADIUS * PIXEL, shift_range=1.5 * REACH * PIXEL, ctf=how
    ).compute()
    took = time.perf_counter() - start
    right = (found["class"] == truth["class"]) & (found["mirror"] == truth["mirror"])
    angle = np.abs(wrapped(found["psi"] - truth["psi"]))[right]
    away = np.hypot(found["shift_y"] - truth["shift_y"], found["shift_x"] - truth["shift_x"])
    print(
        f"known references, ctf={how}: label and mirror {right.mean():.2%}, angle "
        f"{np.median(angle):.2f}° (90 %: {np.quantile(angle, 0.9):.2f}°), shift "
        f"{np.median(away[right]) / PIXEL:.2f} pixel (90 %: "
        f"{np.quantile(away[right], 0.9) / PIXEL:.2f}), {took:.1f} s with compilation"
    )
    for name, poses in (("found", found), ("true", truth)):
        averages = average_images(images, poses, classes=VIEWS, ctf=how).compute()
        window = soft_disc(SIZE, RADIUS) > 0.5
        like = [
            np.corrcoef(one[window], two[window])[0, 1]
            for one, two in zip(averages.averages, references.to_numpy(), strict=True)
        ]
        told = np.median(averages.resolutions(radius=RADIUS * PIXEL))
        print(
            f"  averages at {name} poses: correlation with the projection {np.mean(like):.3f}, "
            f"FRC of halves 0.143 at {told:.1f} Å (median)"
        )


def unknown(images: xr.DataArray, truth: np.ndarray, how: str, seeds: int, equal: bool) -> None:
    labels = []
    for seed in range(seeds):
        start = time.process_time()
        last: Round2D = classify_images(
            images,
            classes=VIEWS,
            radius=RADIUS * PIXEL,
            shift_range=1.5 * REACH * PIXEL,
            ctf=how,
            seed=seed,
            equal=equal,
        )
        took = time.process_time() - start
        label = last.table["class"].to_numpy() - 1
        labels.append(label)
        print(
            f"unknown references{', equal sizes' if equal else ''}, seed {seed}: purity "
            f"{purity(label, truth):.3f}, mean score {last.history['score'].iloc[-1]:.4f}, "
            f"{last.number} rounds, {took:.0f} s of CPU; sizes {sorted(last.counts.tolist())}"
        )
    report_stability("  ", labels, truth)


def report_stability(indent: str, labels: list[np.ndarray], truth: np.ndarray) -> None:
    if len(labels) < 2:
        return
    stable = class_stability(labels, VIEWS)
    share = stable.stable.mean()
    pure = purity(stable.label[stable.stable], truth[stable.stable]) if share else float("nan")
    print(f"{indent}{len(labels)} seeds: {share:.1%} keep their class, purity of these {pure:.3f}")


def k_means(images: xr.DataArray, truth: np.ndarray, how: str, seeds: int) -> None:
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        print("K-means is left out: it needs scikit-learn (pip install scikit-learn)")
        return
    ready = corrected_images(images, how)
    weights = low_pass_rings(SIZE, pixel_size=PIXEL, resolution=30.0)
    window = soft_disc(SIZE, RADIUS)
    free = classify_images(
        images, classes=1, radius=RADIUS * PIXEL, shift_range=1.5 * REACH * PIXEL, ctf=how
    )
    aligned = transform_images(ready, free.table, radius=RADIUS * PIXEL)
    for name, stack in (("as they are", ready), ("aligned to one average", aligned)):
        # 30 Å are some 11 rings: every third pixel holds all of it.
        values = np.stack([ring_weighted(i, weights) * window for i in stack.to_numpy()])
        values = values[:, ::3, ::3].reshape(len(values), -1)
        labels = [
            KMeans(VIEWS, n_init=10, random_state=seed).fit_predict(values) for seed in range(seeds)
        ]
        told = ", ".join(f"{purity(label, truth):.3f}" for label in labels)
        print(f"K-means, images {name}: purity {told}")
        report_stability("  ", labels, truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--ctf", choices=("multiply", "flip"), default="multiply")
    parser.add_argument("--data-seed", type=int, default=0, help="of views, poses and noise")
    parser.add_argument("--skip-equal", action="store_true")
    parser.add_argument("--data", type=Path, default=FOLDER)
    given = parser.parse_args()
    file = given.data / "structures" / "4v5a_70S.cif.gz"
    if not file.exists():
        sys.exit(f"{file} is missing; set TOMODASK_SHARED to the folder that holds structures/")
    print(f"{platform.processor() or platform.machine()}, {given.images} images, SNR {given.snr}")
    density = structure_density(file, voxel_size=PIXEL, resolution=2.2 * PIXEL, box=SIZE)
    images, truth, references = simulated(
        density.to_numpy(), given.images, snr=given.snr, seed=given.data_seed
    )
    view = truth["class"].to_numpy() - 1
    known(images, truth, references, given.ctf)
    unknown(images, view, given.ctf, given.seeds, equal=False)
    if not given.skip_equal:
        unknown(images, view, given.ctf, given.seeds, equal=True)
    k_means(images, view, given.ctf, given.seeds)


if __name__ == "__main__":
    with dask.config.set(scheduler="synchronous"):
        main()
