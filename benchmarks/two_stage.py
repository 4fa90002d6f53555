"""2SDR out of core: seconds and peak memory on images in a Zarr store, beside PCA of the pixels.

10⁴ images of 90×90 pixels, ten patterns in white noise, are written to a store and reduced to 20
components from there, on one thread in a process of its own; `--large` does 10⁵, too, where the
memory is to be the same.  PCA is scikit-learn's (randomised) on a sample of the same images in
memory: all of them are more than it should be given.  Both are told by the share of the power of
the patterns, known here without the noise, that their components hold.

    python benchmarks/two_stage.py [--images 10000] [--large] [--sample 2000]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask
import numpy as np
import psutil
import scipy.ndimage as ndi
import zarr

from tomodask.data.images import images_per_block, open_images
from tomodask.planar.two_stage import TwoStageReduction

SIZE, KINDS, COMPONENTS, SNR = 90, 10, 20, 0.1


def patterns() -> np.ndarray:
    """Smooth patterns within a disc, of variance 1, shape (kinds, n, n)."""
    y, x = np.indices((SIZE, SIZE)) - SIZE // 2
    disc = np.clip(36 - np.hypot(y, x), 0, 4) / 4
    noise = np.random.default_rng(0).normal(size=(KINDS, SIZE, SIZE))
    found = np.stack([ndi.gaussian_filter(one, 3.0) for one in noise]) * disc
    return found / found.std(axis=(1, 2), keepdims=True)


def write(path: Path, count: int) -> None:
    """A store of images, block by block."""
    kinds, most = patterns(), images_per_block(count, SIZE * SIZE)
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.attrs["pixel_size"] = 4.0
    target = group.create_array(
        "images", shape=(count, SIZE, SIZE), chunks=(most, SIZE, SIZE), dtype="float32",
        compressors=None,
    )  # fmt: skip
    for start in range(0, count, most):
        rng = np.random.default_rng([1, start])
        size = min(most, count - start)
        block = rng.normal(scale=SNR**-0.5, size=(size, SIZE, SIZE))
        target[start : start + size] = (block + kinds[rng.integers(KINDS, size=size)]).astype("f4")


def held(basis: np.ndarray) -> float:
    """Share of the patterns' power about their mean within orthonormal rows."""
    flat = patterns().reshape(KINDS, -1)
    flat = flat - flat.mean(0)
    return float(((flat @ basis.T) ** 2).sum() / (flat**2).sum())


def peak() -> float:
    """Most memory that this process has held, MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(kind: str, path: Path, sample: int) -> dict[str, float]:
    """One reduction in this process."""
    images = open_images(path)
    before = psutil.Process().memory_info().rss / 2**20
    if kind == "2sdr":
        begin, cpu = time.perf_counter(), time.process_time()
        with dask.config.set(scheduler="synchronous"):
            fitted = TwoStageReduction(COMPONENTS).fit(images)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        rows, columns = fitted.row_basis_, fitted.column_basis_
        cores = fitted.components_.reshape(-1, *fitted.ranks_)
        basis = np.einsum("kpq,yp,xq->kyx", cores, rows, columns).reshape(len(cores), -1)
    else:
        from sklearn.decomposition import PCA

        with dask.config.set(scheduler="synchronous"):
            flat = images[:sample].to_numpy().reshape(sample, -1)
        begin, cpu = time.perf_counter(), time.process_time()
        basis = PCA(COMPONENTS, random_state=0).fit(flat).components_
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "seconds": seconds, "cpu": cpu, "more": peak() - before, "peak": peak(), "held": held(basis)
    }  # fmt: skip


def main() -> None:
    """Write the stores, reduce them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--large", action="store_true", help="ten times as many, too")
    parser.add_argument("--sample", type=int, default=2000, help="images that PCA is given")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "STORE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(timed(given.one[0], Path(given.one[1]), given.sample)))
        return
    print("| | images | s | s, one thread's CPU | peak MiB | of the patterns' power |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for count in [given.images, 10 * given.images] if given.large else [given.images]:
            store = Path(folder) / f"{count}.zarr"
            write(store, count)
            for kind in ("2sdr", "pca"):
                if kind == "pca" and count != given.images:
                    continue
                used = min(given.sample, count)
                done = subprocess.run(
                    [sys.executable, __file__, "--sample", str(used), "--one", kind, str(store)],
                    check=True, capture_output=True, text=True,
                )  # fmt: skip
                told = json.loads(done.stdout.splitlines()[-1])
                name = "2SDR, from Zarr" if kind == "2sdr" else "PCA, scikit-learn, in memory"
                print(
                    f"| {name} | {count if kind == '2sdr' else used:,} | {told['seconds']:.1f} | "
                    f"{told['cpu']:.1f} | {told['peak']:.0f} | {100 * told['held']:.1f} % |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
