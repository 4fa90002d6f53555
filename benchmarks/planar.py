"""2D multireference alignment: seconds of a round, beside a plain polar loop and ASPIRE.

1,000 images of 90×90 pixels, 10 references, 49 shifts, mirrored, radius 36, on two cores: a round
is the alignment of all images to all references and the averages of the classes.  The plain loop
is NumPy's: the same rings and shifts, one image after the other; like ASPIRE, it does a part of the
images and is scaled.

    python benchmarks/planar.py [--aspire PYTHON] [--stream 100000]

PYTHON is an interpreter that has ASPIRE (``pip install aspire`` in an environment of its own).
`--stream` writes so many images to a Zarr store on disk and aligns them from there, in a process of
its own, and before a quarter of them: the rate and the memory are to be the same.
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
import threading
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import psutil
import scipy.ndimage as ndi
import xarray as xr
import zarr

from tomodask.arrays.lanes import LANES
from tomodask.data.images import images_per_block
from tomodask.planar.alignment2d import align_batch, align_images
from tomodask.planar.averages2d import average_images
from tomodask.planar.plan2d import Plan2D, plan_alignment2d
from tomodask.planar.polar import LaneScratch, fill_lanes, polar_lanes, transform_tables
from tomodask.planar.poses2d import Poses2D, rendered, shift_in_image, wrapped
from tomodask.planar.rotational import COLUMNS, search_lanes

SIZE, RADIUS, REFERENCES, REACH = 90, 36, 10, 4.0  # 49 shifts lie within 4 pixels
SNR = 0.1
CORES = 2


def scene(
    count: int, seed: int = 0, snr: float = SNR
) -> tuple[np.ndarray, np.ndarray, Poses2D, np.ndarray]:
    """References, images at random poses in noise, their poses and classes (from 1)."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIZE, SIZE)) - SIZE // 2
    disc = np.clip(RADIUS - 5 - np.hypot(y, x), 0, 4) / 4
    noise = rng.normal(size=(REFERENCES, SIZE, SIZE))
    references = np.stack([ndi.gaussian_filter(one, 2.0) for one in noise]) * disc
    references = (references / references.std(axis=(1, 2), keepdims=True)).astype(np.float32)
    away, angle = 3.5 * np.sqrt(rng.uniform(size=count)), rng.uniform(0, 2 * np.pi, count)
    truth = Poses2D(
        rng.uniform(-180, 180, count),
        away * np.sin(angle),
        away * np.cos(angle),
        rng.random(count) < 0.5,
    )
    classes = rng.integers(REFERENCES, size=count)
    images = rng.normal(size=(count, SIZE, SIZE)).astype(np.float32) / np.sqrt(snr)
    for i, c in enumerate(classes):
        images[i] += rendered(
            references[c], psi=truth.psi[i], shift_y=truth.shift_y[i], shift_x=truth.shift_x[i],
            mirror=bool(truth.mirror[i]),
        ).astype(np.float32)  # fmt: skip
    return references, images, truth, classes + 1


def stacks(references: np.ndarray, images: da.Array) -> tuple[xr.DataArray, xr.DataArray]:
    attrs = {"pixel_size": 1.0}
    return (
        xr.DataArray(images, dims=("image", "y", "x"), attrs=attrs),
        xr.DataArray(references, dims=("class", "y", "x"), attrs=attrs),
    )


def one_round(images: xr.DataArray, references: xr.DataArray) -> tuple[object, float, float]:
    """Poses, seconds of the alignment, and of the averages."""
    start = time.perf_counter()
    poses = align_images(images, references, radius=RADIUS, shift_range=REACH).compute()
    middle = time.perf_counter()
    average_images(images, poses, classes=REFERENCES, radius=RADIUS).compute()
    return poses, middle - start, time.perf_counter() - middle


def plain_loop(images: np.ndarray, plan: Plan2D, references: np.ndarray) -> tuple[np.ndarray, ...]:
    """What one writes first: rings by `map_coordinates`, NumPy's FFT, one image after another."""
    angles = plan.grid.angles
    theta = 2 * np.pi * np.arange(angles) / angles
    rings = np.arange(1, RADIUS + 1)[:, None]
    y, x = rings * np.sin(theta), rings * np.cos(theta)
    weight = np.sqrt(rings)

    def series(image: np.ndarray, sy: float, sx: float) -> np.ndarray:
        at = (y - sy + SIZE // 2, x - sx + SIZE // 2)
        polar = ndi.map_coordinates(image, at, order=1)
        polar = (polar - (polar * rings).sum() / rings.sum() / angles) * weight
        return np.fft.rfft(polar / np.linalg.norm(polar), axis=1).astype(np.complex64)

    moved = np.stack([[series(one, *s) for s in plan.shifts] for one in references])
    moved = moved.reshape(-1, RADIUS, angles // 2 + 1)
    sign = np.where(np.arange(angles // 2 + 1) % 2, -1, 1).astype(np.float32)
    out = []
    for image in images:
        x_series = series(image, 0.0, 0.0)
        straight = np.fft.irfft((x_series * moved.conj()).sum(axis=1), n=angles)
        mirrored = np.fft.irfft((x_series * moved).sum(axis=1) * sign, n=angles)
        both = np.stack([straight, mirrored])
        mirror, column, sample = np.unravel_index(both.argmax(), both.shape)
        psi = -360.0 * sample / angles
        sy, sx = shift_in_image(psi, mirror, *plan.shifts[column % len(plan.shifts)])
        out.append((column // len(plan.shifts) + 1, psi, sy, sx, mirror))
    return tuple(np.array(out).T)


def errors(found: object, truth: Poses2D, classes: np.ndarray) -> str:
    label, psi, sy, sx, mirror = found
    part = slice(0, len(label))
    right = (label == classes[part]) & (mirror == truth.mirror[part])
    turn = np.abs(wrapped(psi - truth.psi[part]))[right]
    move = np.hypot(sy - truth.shift_y[part], sx - truth.shift_x[part])[right]
    return (
        f"class and mirror right {100 * right.mean():.1f} %, median error {np.median(turn):.2f}°, "
        f"{np.median(move):.2f} pixels"
    )


def aspire(
    python: str, images: np.ndarray, references: np.ndarray
) -> tuple[float, int, np.ndarray]:
    """Seconds of ASPIRE on these, how many shifts it looks at, and the classes that it finds."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(given, images=images, references=references, reach=int(REACH))
        script = Path(__file__).resolve().parent / "engines" / "aspire_planar.py"
        environment = {
            **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            **{f"{name}_NUM_THREADS": str(CORES) for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")},
        }
        subprocess.run(
            [python, str(script), str(given), str(found)],
            check=True, cwd=folder, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with np.load(found) as out:
            return float(out["seconds"]), int(out["shifts"]), out["score"].argmax(axis=0) + 1


def fastest(call: object, times: int = 5) -> float:
    """CPU seconds of this thread."""
    taken = []
    for _ in range(times):
        start = time.thread_time()
        call()
        taken.append(time.thread_time() - start)
    return min(taken)


def roofline(images: np.ndarray, plan: Plan2D) -> None:
    """Where one core's time goes, as shares of what the machine can do."""
    grid, shifts = plan.grid, len(plan.shifts)
    columns = plan.references * shifts
    few = images[:LANES]
    scratch, faults = LaneScratch.of(grid, plan.shape), np.zeros(LANES, np.uint8)
    fill_lanes(few, 0, grid, faults, scratch)
    packed = polar_lanes(grid, plan.shape, plan.table, scratch)
    _, waves = transform_tables(grid.angles)
    score = np.zeros((plan.references, LANES), np.float32)
    index, place = (np.zeros((plan.references, LANES), np.int32) for _ in range(2))
    work, tops = np.zeros(COLUMNS * grid.angles * 32, np.float32), np.zeros(32, np.float32)

    def search() -> None:
        search_lanes(
            packed, plan.tiled, columns, shifts, grid.starts, grid.angles, waves, True, work,
            tops, score, index, place,
        )  # fmt: skip

    a = np.random.default_rng(0).normal(size=(1536, 1536)).astype(np.float32)
    peak = 2 * len(a) ** 3 / fastest(lambda: a @ a)
    source = np.ones(1 << 26, np.uint8)
    target = np.empty_like(source)
    copy = 2 * source.size / fastest(lambda: np.copyto(target, source))
    taken = fastest(search, 20)
    products = 8.0 * grid.size * columns * LANES  # four products and sums
    transforms = 5.0 * grid.angles * np.log2(grid.angles) * columns * LANES
    touched = plan.tiled.nbytes  # the references once per sixteen images; the rest is in cache
    batch = fastest(lambda: align_batch(images[: 16 * LANES], plan), 3) / 16
    print(
        f"one core, {LANES} images: search {1e3 * taken:.2f} ms of {1e3 * batch:.2f} ms "
        f"(samples, search, sub-grid); products {products / 1e9:.2f} + transforms "
        f"{transforms / 1e9:.2f} GFLOP in it = {(products + transforms) / taken / 1e9:.0f} "
        f"GFLOP/s, {100 * (products + transforms) / taken / peak:.0f} % of this core's matrix "
        f"product ({peak / 1e9:.0f}); references read at {touched / taken / 1e9:.1f} GB/s, "
        f"{100 * touched / taken / copy:.0f} % of its copy ({copy / 1e9:.0f})"
    )


def between_grid_points(images: tuple[np.ndarray, Poses2D], references: np.ndarray) -> None:
    """What is lost between the grid's points: errors without noise, by the step of the shifts."""
    clean, truth = images
    for step in (2.0, 1.0, 0.5):
        plan = plan_alignment2d(references, radius=RADIUS, shift_range=REACH, shift_step=step)
        found = align_batch(clean, plan)
        turn = np.abs(wrapped(found["psi"] - truth.psi))
        move = np.hypot(found["shift_y"] - truth.shift_y, found["shift_x"] - truth.shift_x)
        print(
            f"without noise, shifts every {step} pixels ({len(plan.shifts)} shifts): median error "
            f"{np.median(turn):.4f}°, {np.median(move):.4f} pixels"
        )


def stream(count: int, folder: Path) -> dict[str, float]:
    """Align images from a store on disk; the rate, and the most memory, MB."""
    references = scene(1)[0]
    images = da.from_zarr(str(folder / "images.zarr"))[:count]
    given = stacks(references, images)
    align_images(given[0][:64], given[1], radius=RADIUS, shift_range=REACH).compute()
    process, most, done = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, align, average = one_round(*given)
    done.set()
    watcher.join()
    return {"align": align, "average": average, "memory": most[0] / 1e6}


def write_store(folder: Path, count: int) -> None:
    """Noise with a particle in it, a thousand different images over and over."""
    images = scene(1000)[1]
    block = images_per_block(count, SIZE**2)
    store = zarr.create_array(
        str(folder / "images.zarr"), shape=(count, SIZE, SIZE), chunks=(block, SIZE, SIZE),
        dtype="f4", compressors=None,
    )  # fmt: skip
    for start in range(0, count, block):
        stop = min(start + block, count)
        store[start:stop] = images[np.arange(start, stop) % 1000]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--aspire", help="an interpreter that has ASPIRE")
    parser.add_argument("--stream", type=int, default=0, help="images to stream from disk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--one-stream", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    dask.config.set(scheduler="threads", num_workers=CORES)
    if options.one_stream:
        print(json.dumps(stream(int(options.one_stream[0]), Path(options.one_stream[1]))))
        return
    references, images, truth, classes = scene(options.images)
    chunk = max(1, options.images // 8)  # both cores to the end
    given = stacks(references, da.from_array(images, chunks=(chunk, -1, -1)))
    one_round(*given)  # compiled
    times, cpu = [], time.process_time()
    for _ in range(options.rounds):
        poses, align, average = one_round(*given)
        times.append((align + average, align, average))
    cpu = (time.process_time() - cpu) / options.rounds
    whole, align, average = sorted(times)[len(times) // 2]
    found = tuple(poses[n].to_numpy() for n in ("class", "psi", "shift_y", "shift_x", "mirror"))
    print(
        f"{len(images):,} images {SIZE}×{SIZE}, {REFERENCES} references, 49 shifts, mirrored, "
        f"radius {RADIUS}, SNR {SNR}, {CORES} cores"
    )
    print(
        f"a round, median of {options.rounds}: {whole:.2f} s (align {align:.2f}, averages "
        f"{average:.2f}; fastest {min(times)[0]:.2f}; {cpu:.2f} CPU seconds); "
        f"{errors(found, truth, classes)}"
    )
    plan = plan_alignment2d(references, radius=RADIUS, shift_range=REACH)
    start = time.thread_time()
    plan_alignment2d(references, radius=RADIUS, shift_range=REACH)
    made = time.thread_time() - start
    print(f"of it, references moved and put on rings: {made:.2f} s, once a round, one core")
    roofline(images, plan)
    _, clean, true, _ = scene(200, snr=1e8)
    between_grid_points((clean, true), references)

    part = min(100, len(images))
    plain_loop(images[:1], plan, references[:1])
    start = time.perf_counter()
    plain_loop(images[:1], plan, references)
    first = time.perf_counter() - start
    start = time.perf_counter()
    plain = plain_loop(images[:part], plan, references)
    # References once, images by their number; both cores, as if it ran on each.
    each = (time.perf_counter() - start - first) / (part - 1)
    scaled = (first + each * len(images)) / CORES
    print(
        f"plain NumPy loop, {part} images, scaled, on {CORES} cores: {scaled:.1f} s "
        f"({scaled / align:.0f}× ours); {errors(plain, truth, classes)}"
    )
    if options.aspire:
        those = np.flatnonzero(classes <= 2)[:50]
        seconds, shifts, label = aspire(options.aspire, images[those], references[:2])
        scaled = seconds * len(images) / len(those) * REFERENCES / 2
        print(
            f"ASPIRE BFTAverager2D, {len(those)} images and 2 references, {shifts} shifts, scaled, "
            f"with its own threads on {CORES} cores: {scaled:.0f} s ({scaled / align:.0f}× ours); "
            f"class right {100 * (label == classes[those]).mean():.1f} %"
        )
    else:
        print("ASPIRE: no ratio without --aspire PYTHON")
    if options.stream:
        with tempfile.TemporaryDirectory() as name:
            write_store(Path(name), options.stream)
            for count in (options.stream // 4, options.stream):
                out = subprocess.run(
                    [sys.executable, __file__, "--one-stream", str(count), name],
                    check=True, capture_output=True, text=True,
                )  # fmt: skip
                got = json.loads(out.stdout)
                both = got["align"] + got["average"]
                print(
                    f"{count:,} images from disk: {count / got['align']:,.0f} a second aligned, "
                    f"{count / both:,.0f} with averages, most memory {got['memory']:,.0f} MB"
                )


if __name__ == "__main__":
    main()
