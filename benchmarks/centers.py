"""MP-NMS: CPU seconds, memory and equality, against the pooling of the whole volume.

A mask of 200×512×512 voxels with 500 balls of radius 9: five poolings of 5³, tops highest in 5³,
height 0.1.  Each way runs in a process of its own, one thread, in the same run.  Then picks of the
same mask as a probability in a Zarr store, how near a pick comes to the truth between voxels, and
which score ranks best.

    python benchmarks/centers.py [--size 200 512 512] [--balls 500] [--seed 0] [--torch]
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import multiprocessing
import platform
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import psutil
import scipy.ndimage as ndi
import xarray as xr
import zarr
from scipy.spatial import cKDTree

from tomodask.picking.nms.centers import find_centers
from tomodask.picking.nms.hills import find_tops, least_count, measure_tops, pooling_weights
from tomodask.picking.segmentation.picks import pick_segmentation

RADIUS, DIAMETER, KERNEL, POOLINGS, REACH, HEIGHT = 9, 18, 5, 5, 2, 0.1


def draw_balls(shape: tuple[int, ...], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A mask, and the centres (voxels), at least 1.1 diameters apart where there is room."""
    rng = np.random.default_rng(seed)
    mask, centers = np.zeros(shape, bool), np.empty((0, 3))
    for _ in range(200 * count):
        if len(centers) == count:
            break
        center = rng.uniform(RADIUS, np.array(shape) - 1 - RADIUS)
        if len(centers) and np.linalg.norm(centers - center, axis=1).min() < 2.2 * RADIUS:
            continue
        centers = np.vstack([centers, center])
        low = np.floor(center - RADIUS).astype(int)
        part = tuple(slice(max(0, a), a + 2 * RADIUS + 2) for a in low)
        grid = np.ogrid[part]
        mask[part] |= sum((g - c) ** 2 for g, c in zip(grid, center, strict=True)) <= RADIUS**2
    return mask, centers


def masks(name: str, shape: tuple[int, ...], count: int, seed: int) -> np.ndarray:
    if name == "dense":
        return np.ones(shape, bool)
    return draw_balls(shape, count, seed)[0] if name == "balls" else np.zeros(shape, bool)


def ours(mask: np.ndarray) -> np.ndarray:
    weights = pooling_weights(DIAMETER, KERNEL)
    return find_tops(mask, weights, level=least_count(weights, HEIGHT), reach=REACH)[0]


def marked(mask: np.ndarray) -> np.ndarray:
    """`find_centers`, whose result is a volume; and looking it through for what is not 0."""
    return np.argwhere(
        find_centers(mask, diameter=DIAMETER, kernel=KERNEL, min_distance=REACH, min_height=HEIGHT)
    )


def _tops(hill: np.ndarray, full: float) -> np.ndarray:
    """Highest within reach, of equals the first; the last step of every naive way."""
    tops = np.argwhere((hill >= HEIGHT * full) & (hill == ndi.maximum_filter(hill, 2 * REACH + 1)))
    kept: list[np.ndarray] = []
    tree = cKDTree(tops) if len(tops) else None
    for n, top in enumerate(tops):
        near = tree.query_ball_point(top, REACH, p=np.inf)  # type: ignore[union-attr]
        if min(near) == n:
            kept.append(top)
    return np.array(kept).reshape(-1, 3)


def naive_exact(mask: np.ndarray) -> np.ndarray:
    """Pooling step by step over the whole volume in whole numbers, zeros beyond it."""
    margin = POOLINGS * (KERNEL // 2)
    hill = np.pad(mask, margin).astype(np.int64)
    for _ in range(POOLINGS):
        for axis in range(3):
            total = np.cumsum(hill, axis=axis)
            hill[:] = 0
            inner = [slice(None)] * 3
            inner[axis] = slice(KERNEL // 2, -(KERNEL // 2))
            ahead = [slice(None)] * 3
            ahead[axis] = slice(KERNEL - 1, None)
            hill[tuple(inner)] = total[tuple(ahead)]
            inner[axis] = slice(KERNEL // 2 + 1, -(KERNEL // 2))
            ahead[axis] = slice(None, -KERNEL)
            hill[tuple(inner)] -= total[tuple(ahead)]
    hill = hill[(slice(margin, -margin),) * 3]
    return _tops(hill, KERNEL ** (3 * POOLINGS))


def naive_scipy(mask: np.ndarray) -> np.ndarray:
    """Five uniform filters over the whole volume, float32."""
    hill = mask.astype(np.float32)
    for _ in range(POOLINGS):
        hill = ndi.uniform_filter(hill, KERNEL, mode="constant")
    return _tops(hill, 1.0)


def naive_torch(mask: np.ndarray) -> np.ndarray:
    """Five mean poolings and a largest pooling over the whole volume in PyTorch."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    with torch.inference_mode():
        hill = torch.from_numpy(mask)[None, None].float()
        for _ in range(POOLINGS):
            hill = functional.avg_pool3d(hill, KERNEL, stride=1, padding=KERNEL // 2)
        high = functional.max_pool3d(hill, 2 * REACH + 1, stride=1, padding=REACH)
        return ((hill == high) & (hill >= HEIGHT))[0, 0].nonzero().numpy()


WAYS = {
    "ours": ours,
    "find_centers": marked,
    "naive, whole numbers": naive_exact,
    "naive, SciPy uniform_filter": naive_scipy,
    "naive, PyTorch avg_pool3d": naive_torch,
}


class Watch:
    """Largest memory of this process, MB, while it is open: above what it held before, and in all.

    Sampled each millisecond, since the kernel's own mark cannot be set back.
    """

    def __enter__(self) -> Watch:
        self.process, self.stop = psutil.Process(), threading.Event()
        self.before = self.most = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def _look(self) -> None:
        while not self.stop.wait(0.001):
            self.most = max(self.most, self.process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self.megabytes = (self.most / 1e6, (self.most - self.before) / 1e6)


def _measured(way: str, mask_name: str, shape: tuple[int, ...], count: int, seed: int) -> Any:
    """(tops, CPU seconds, MB of the process at most, MB beyond mask and libraries)."""
    mask = masks(mask_name, shape, count, seed)
    small = np.zeros((32, 32, 32), bool)
    WAYS[way](small)  # kernels are compiled or loaded, libraries started
    best = np.inf
    for _ in range(3 if way == "ours" else 1):
        start = time.process_time()
        found = WAYS[way](mask)
        best = min(best, time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    with Watch() as watch:  # again, as the watching thread takes time itself
        if way == "ours":
            WAYS[way](mask)
    return found, best, peak, watch.megabytes[1]


def _stored(path: str, chunk: int) -> Any:
    """Of a stored probability: (picks, CPU seconds, MB at most, MB of libraries, s reading)."""
    level = zarr.open_array(path, mode="r")
    lazy = da.from_array(level, chunks=chunk)
    volume = xr.DataArray(
        lazy,
        dims=("z", "y", "x"),
        name="balls",
        attrs={"voxel_size": 10.0, "label_diameter": DIAMETER, "diameters": (10.0 * DIAMETER,)},
    )
    pick_segmentation(volume.isel(z=slice(64), y=slice(64), x=slice(64)))  # kernels are loaded
    before = psutil.Process().memory_info().rss / 1e6
    with dask.config.set(scheduler="threads", num_workers=2):
        start = time.process_time()
        table = pick_segmentation(volume)
        seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    start = time.process_time()
    for index in np.ndindex(lazy.numblocks):
        np.asarray(level.get_block_selection(index))
    reading = time.process_time() - start
    return table, seconds, peak, before, reading


def apart(function: Any, *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def copy_bandwidth() -> float:
    source = np.ones(1 << 26, np.uint8)
    target = np.empty_like(source)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        target[:] = source
        times.append(time.perf_counter() - start)
    return 2 * source.size / min(times)


def places_between_voxels(seed: int) -> None:
    """Distance of pick and truth for balls and soft labels at random places."""
    rng = np.random.default_rng(seed)
    zyx = np.stack(np.indices((41, 41, 41)), axis=-1)
    print("distance of pick and truth, voxels, root mean square over 100 particles:")
    for name, radius, soft, width in (
        ("balls of radius 9", 9.0, 0.0, 18),
        ("labels of 7, soft", 4.0, 0.6, 7),
    ):
        weights = pooling_weights(width, KERNEL)
        voxel, parabola, centroid = [], [], []
        for center in rng.uniform(19.5, 20.5, (100, 3)):
            gap = np.linalg.norm(zyx - center, axis=-1)
            probability = 1 / (1 + np.exp((gap - radius) / soft)) if soft else gap <= radius
            mask = probability > 0.5
            places, _ = find_tops(mask, weights, level=least_count(weights, HEIGHT), reach=REACH)
            shifts, _ = measure_tops(mask.astype(np.uint8), weights, places)
            near = mask & (np.abs(zyx - places[0]).max(-1) <= len(weights) // 2)
            voxel.append(np.linalg.norm(places[0] - center))
            parabola.append(np.linalg.norm(places[0] + shifts[0] - center))
            centroid.append(np.linalg.norm(zyx[near].mean(0) - center))
        told = (np.sqrt(np.mean(np.square(e))) for e in (voxel, parabola, centroid))
        print(
            "  {}: highest voxel {:.3f}, parabola {:.3f}, centroid of the mask within the "
            "pooling's reach {:.3f}".format(name, *told)
        )


def ranking(seed: int) -> None:
    """Share of true above false picks for three scores: weak and strong labels in noise."""
    rng = np.random.default_rng(seed)
    shape = (64, 192, 192)
    weights = pooling_weights(7, KERNEL)
    truth = np.array(
        [[z, y, x] for z in (16, 48) for y in range(16, 192, 32) for x in range(16, 192, 32)]
    )
    field = ndi.gaussian_filter(rng.normal(size=shape), 1.5)
    logit = -3 + 2.2 * field / field.std()
    zyx = np.stack(np.indices((17, 17, 17)), axis=-1) - 8
    ball = np.clip((5 - np.linalg.norm(zyx, axis=-1)) / 2, 0, 1)
    for center, height in zip(truth, rng.normal(5.0, 2.0, len(truth)), strict=True):
        part = tuple(slice(c - 8, c + 9) for c in center)
        logit[part] += height * ball
    probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
    mask = probability > 0.5
    places, counts = find_tops(mask, weights, level=least_count(weights, HEIGHT), reach=REACH)
    _, pooled = measure_tops(np.where(mask, probability, 0), weights, places)
    labels, _ = ndi.label(mask)
    means = np.asarray(ndi.mean(probability, labels, labels[tuple(places.T)]))
    true = cKDTree(truth).query(places)[0] <= 3.5
    print(f"{true.sum()} true and {(~true).sum()} false picks; a true one scores above a false by")
    for name, score in (
        ("the hill's height", counts), ("the pooled probability", pooled),
        ("the mean probability of the blob", means),
    ):  # fmt: skip
        above = (score[true][:, None] > score[~true]).mean()
        print(f"  {name}: {100 * above:.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, nargs=3, default=[200, 512, 512])
    parser.add_argument("--balls", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--torch", action="store_true", help="PyTorch's pooling too (20 CPU s)")
    options = parser.parse_args()
    shape = tuple(options.size)
    drawn = (shape, options.balls, options.seed)
    mask, truth = draw_balls(*drawn)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; mask "
        f"{'×'.join(map(str, shape))}, {len(truth)} balls of radius {RADIUS} "
        f"({100 * mask.mean():.1f} % of the voxels), {POOLINGS} poolings of {KERNEL}³; seed "
        f"{options.seed}; one thread, CPU seconds"
    )
    found, seconds, peak, beyond = apart(_measured, "ours", "balls", *drawn)
    print(
        f"ours: {seconds:.2f} s (goal 2), {peak:.0f} MB at most (goal 400), {beyond:.0f} MB beyond "
        f"the mask and the libraries; {len(found)} centres"
    )
    least = mask.size / copy_bandwidth() * 2  # a copy moves each byte twice
    print(
        f"  its {mask.size / 1e6:.0f} MB are read in {1e3 * least:.0f} ms at this machine's copy "
        f"bandwidth: {100 * least / seconds:.0f} % of the time"
    )
    for way in list(WAYS)[1:]:
        if way.endswith("avg_pool3d") and not options.torch:
            continue
        try:
            other, time_, peak, _ = apart(_measured, way, "balls", *drawn)
        except ImportError as error:
            print(f"{way}: skipped ({error})")
            continue
        same = "equal" if np.array_equal(other, found) else f"{len(other)} centres, other ones too"
        print(f"{way}: {time_:.2f} s, {peak:.0f} MB, {time_ / seconds:.1f}× ours (goal 10); {same}")
    for name in ("empty", "dense"):
        found, time_, peak, _ = apart(_measured, "ours", name, *drawn)
        print(f"ours, {name} mask: {time_:.3f} s, {peak:.0f} MB; {len(found)} centres")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "probability.zarr")
        chunk = 100
        array = zarr.create_array(path, shape=shape, chunks=(chunk,) * 3, dtype="float32")
        array[:] = mask.astype(np.float32)
        table, time_, peak, before, reading = apart(_stored, path, chunk)
        gap = cKDTree(table[["z", "y", "x"]] / 10).query(truth)[0]
        print(
            f"pick_segmentation from Zarr, chunks of {chunk}³: {time_:.2f} s, {reading:.2f} to "
            f"read it, {peak:.0f} MB at most, {before:.0f} before; {len(table)} picks, "
            f"{(gap < 1).sum()} of {len(truth)} balls within a voxel, median {np.median(gap):.3f}"
        )
    places_between_voxels(options.seed)
    ranking(options.seed)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
