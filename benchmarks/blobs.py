"""Difference of Gaussians: time and memory against the same filter on the whole volume in SciPy.

    python benchmarks/blobs.py [--shape 200 512 512]

One core.  Balls of contrast 1 in white noise of standard deviation d/6.  `find_blobs` reads blocks
of 128³ from a Zarr store; SciPy (`gaussian_filter` twice at full resolution, cut at 4 widths as
well, then `maximum_filter`) has the volume in memory.  Memory is the peak of a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from scipy import ndimage

from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.picking.blobs.finding import find_blobs
from tomodask.picking.scoring.scores import score_picks

VOXEL = 10.0
RATIO = 1.2


def centers(shape: tuple[int, ...], width: int) -> np.ndarray:
    """On a lattice of two diameters, jittered."""
    step = 2 * width
    axes = [np.arange(step // 2, n - step // 2 + 1, step) for n in shape]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(float)
    return places + np.random.default_rng(0).uniform(-width / 3, width / 3, places.shape)


def scene(shape: tuple[int, ...], width: int, folder: Path) -> tuple[Path, pd.DataFrame]:
    path = folder / f"{width}-{shape[0]}.zarr"
    truth = pd.DataFrame(VOXEL * centers(shape, width), columns=["z", "y", "x"])

    def block(block_info=None):
        place = block_info[None]["array-location"]
        out = np.random.default_rng([1, *(a for a, _ in place)]).standard_normal(
            [b - a for a, b in place], dtype=np.float32
        )
        out *= width / 6
        low, high = np.array(place).T
        places = truth.to_numpy() / VOXEL
        for one in places[((places > low - width) & (places < high + width)).all(axis=1)]:
            first = np.clip(np.floor(one - width / 2).astype(int), low, high)
            last = np.clip(np.ceil(one + width / 2).astype(int) + 1, low, high)
            grid = np.ogrid[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
            far = sum((g - c) ** 2 for g, c in zip(grid, one, strict=True))
            own = tuple(slice(a, b) for a, b in zip(first - low, last - low, strict=True))
            out[own] += far <= (width / 2) ** 2
        return out

    data = da.map_blocks(
        block,
        chunks=da.core.normalize_chunks(128, shape),
        dtype=np.float32,
        meta=np.empty((0,) * 3),
    )
    volume = xr.DataArray(data, dims=("z", "y", "x"), attrs={"voxel_size": VOXEL}, name="balls")
    save_tomogram(volume, path, levels=1)
    return path, truth


def whole(values: np.ndarray, width: int) -> int:
    narrow = width / 2 / RATIO * np.sqrt((RATIO**2 - 1) / (6 * np.log(RATIO)))
    dog = ndimage.gaussian_filter(values, narrow, truncate=4.0)
    dog -= ndimage.gaussian_filter(values, RATIO * narrow, truncate=4.0)
    top = (dog == ndimage.maximum_filter(dog, 3)) & (dog > 2 * dog.std())
    return int(np.count_nonzero(top))


def peak() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def memory(path: Path, width: int) -> str:
    call = [sys.executable, __file__, "--memory", str(path), str(width)]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", type=int, nargs=3, default=[200, 512, 512])
    parser.add_argument("--memory", nargs=2)
    options = parser.parse_args()
    dask.config.set(scheduler="synchronous")
    if options.memory:
        path, width = options.memory
        volume = open_tomogram(path)
        before = peak()
        find_blobs(volume, diameter=VOXEL * int(width), threshold=4.0)
        print(f"{peak():.0f} MB, {before:.0f} before")
        return
    shape = tuple(options.shape)
    print(f"{'×'.join(map(str, shape))} voxels, one core")
    with tempfile.TemporaryDirectory() as name:
        for width in (6, 9, 12, 18):
            path, truth = scene(shape, width, Path(name))
            volume = open_tomogram(path)
            find_blobs(volume[:64, :64, :64], diameter=VOXEL * width)  # imports
            begin, cpu = time.perf_counter(), time.process_time()
            picks = find_blobs(volume, diameter=VOXEL * width)
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            scores = score_picks(picks, truth, radius=VOXEL * width / 2, voxel_size=VOXEL)
            values = np.asarray(zarr.open(path / "0", mode="r")[:])
            begin = time.process_time()
            whole(values, width)
            other = time.process_time() - begin
            distance = scores.table["distance_voxels"].iloc[0]
            print(
                f"diameter {width:2} voxels: {cpu:5.2f} CPU s ({seconds:5.2f} s), SciPy "
                f"{other:5.1f} CPU s: {other / cpu:4.1f}×; {len(truth)} balls: precision "
                f"{scores.precision:.3f}, recall {scores.recall:.3f}, distance {distance:.2f} "
                "voxels",
                flush=True,
            )
            del values
        for width in (9, 12):
            for size in (shape, (2 * shape[0], *shape[1:])):
                path = Path(name) / f"{width}-{size[0]}.zarr"
                if not path.exists():
                    path, _ = scene(size, width, Path(name))
                print(
                    f"peak memory, diameter {width}, {np.prod(size) * 4 / 1e6:.0f} MB of voxels: "
                    f"{memory(path, width)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
