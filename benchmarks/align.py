"""Alignment of 64³ subtomograms over the full rotation space: time, memory, accuracy, Dask's share.

    python benchmarks/align.py [--particles 1000] [--accuracy 40] [--structure 4v5a_70S.cif.gz …]
    python benchmarks/align.py --device cupy [--batch 256]

One worker process with one thread.  Prints the time a particle with and without set-up, the share
of the machine's measured matrix-product peak that the products of the search and the sums of the
refinement reach, what a local search costs, the peak memory at two numbers of particles, and the
errors beside those of maximum likelihood: each pose refined from the truth over all Fourier voxels
of the band, so that nothing but the noise moves it, and the floors that the design states.

With `--device` only the code for a GPU is measured: particles a second, the share of the matrix
product's rate, the memory moved, and how far its poses are from the compiled kernels'.
``--device numpy`` runs the same code on the processor, to see that it runs; its times say nothing.

SNR: variance of the clean box / variance of the white noise added before the wedge (±60°).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[threads] = "1"

import dask
import dask.array as da
import numpy as np
import xarray as xr
from scipy.spatial.transform import Rotation

from tomodask.alignment import particle_batches
from tomodask.alignment import plan as planning
from tomodask.alignment import poses as posing
from tomodask.alignment.particle import (
    Candidates,
    best_poses,
    find_candidates,
    refine_candidates,
)
from tomodask.alignment.refinement import Stage, normal_equations, refine_pose
from tomodask.alignment.refinement_device import refine_poses
from tomodask.alignment.search import candidate_poses, real_products
from tomodask.arrays.backend import to_numpy
from tomodask.arrays.geometry import angular_distance
from tomodask.cluster import overhead
from tomodask.data.particles import orientations
from tomodask.data.subtomogram_store import save_subtomograms
from tomodask.data.subtomogram_table import particle_table
from tomodask.data.subtomograms import open_subtomograms
from tomodask.simulation import PROTOCOLS, simulate_subtomograms, structure_density
from tomodask.simulation.phantom import phantom_map, phantom_subtomograms

BOX, VOXEL, SHIFT = 64, 6.0, 24.0  # voxels, Å, Å (4 voxels)
SHIFTS = ["shift_z", "shift_y", "shift_x"]
GOAL = 25.0  # ms a particle on one core, start-up aside
LOCAL_STEPS = (20.0, 5.0)  # degrees
# By SNR: degrees and voxels that maximum likelihood attains, as the design states them.
FLOORS = {0.1: (0.25, 0.05), 0.03: (0.45, 0.08), 0.01: (0.79, 0.14), 0.003: (1.5, 0.25)}
# Floating-point operations for one Fourier voxel of the refinement: place and phase 54,
# interpolation with slopes 66, model and derivatives 85, products of eight columns 144.
OPERATIONS = 349
# Bytes that the code for a GPU moves for one Fourier voxel at each step, array by array: about.
BYTES = 1200


def simulate(count: int, snr: float, path: Path) -> None:
    """`count` boxes in a store, a batch at a time; each is the same in a set of any size."""
    blocks = []
    for start in range(0, count, 32):
        size = min(32, count - start)
        made = dask.delayed(_batch)(start, size, snr)
        blocks.append(da.from_delayed(made, (size, BOX, BOX, BOX), np.float32))
    boxes = da.concatenate(blocks).rechunk({0: 32})
    save_subtomograms(
        xr.Dataset(
            {"subtomogram": (("particle", "z", "y", "x"), boxes)},
            coords={
                "particle": np.arange(count),
                "tilt_min": ("particle", np.full(count, -60.0)),
                "tilt_max": ("particle", np.full(count, 60.0)),
            },
            attrs={"voxel_size": VOXEL},
        ),
        path,
    )


def _batch(start: int, size: int, snr: float) -> np.ndarray:
    return phantom_subtomograms(
        size, box=BOX, voxel_size=VOXEL, snr=snr, shift_range=SHIFT, seed=start
    )[0]


def align_in_this_process(path: str) -> None:
    """One measured run, in a process of its own so that its memory can be told."""
    reference = phantom_map(voxel_size=VOXEL, box=BOX)
    boxes = open_subtomograms(path)
    dask.config.set(scheduler="synchronous")
    posing.align_subtomograms(boxes.isel(particle=slice(0, 2)), reference).compute()  # compiles
    began = time.perf_counter()
    job = posing.align_subtomograms(boxes, reference)
    built = time.perf_counter() - began
    with overhead(None) as spent:
        job.compute()
    total = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps({"total": total, "built": built, "share": 1 - spent.work / total, "peak": peak})
    )


def measure(path: Path, count: int) -> dict[str, float]:
    out = subprocess.run(
        [sys.executable, __file__, "--inside", str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    figures: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    print(
        f"  {count:6d} particles: {1e3 * figures['total'] / count:6.1f} ms a particle with set-up "
        f"and reading, peak memory {figures['peak']:.0f} MB, outside tasks "
        f"{100 * figures['share']:.1f} %"
    )
    return figures


def kernels() -> None:
    """Where the time goes on one core, and how near the search is to the matrix-product peak."""
    boxes, _ = phantom_subtomograms(16, box=BOX, voxel_size=VOXEL, snr=0.1, shift_range=SHIFT)
    reference = phantom_map(voxel_size=VOXEL, box=BOX).to_numpy()
    began = time.perf_counter()
    plan = planning.plan_alignment(
        reference, tilt_range=(-60.0, 60.0), angular_step=20.0, shift_range=0.1 * BOX
    )
    setup = time.perf_counter() - began
    around = [
        planning.plan_alignment(
            reference, tilt_range=(-60.0, 60.0), angular_step=step, shift_range=3.2, local=10.0
        )
        for step in LOCAL_STEPS
    ]
    spent = np.zeros((16, 3 + len(around)))
    data = np.empty(0)
    for i, box in enumerate(boxes):
        t = [time.process_time()]
        data = plan.data(box)
        t.append(time.process_time())
        matrices, shifts, _ = candidate_poses(plan.grid, data, count=6)
        t.append(time.process_time())
        found = refine_candidates(Candidates(i, i, data, ((matrices, shifts),)), plan, seed=0)
        t.append(time.process_time())
        pose = found[np.argmax(found["score"])]
        given = np.concatenate([pose["matrix"].ravel(), pose["shift_xyz"]])
        for local in around:
            near = find_candidates(box, i, i, plan=local, count=6, given=given)
            refine_candidates(near, local, seed=0)
            t.append(time.process_time())
        spent[i] = np.diff(t)
    spectrum, search, refine, *nearby = 1e3 * np.median(spent, 0)
    a, b = np.random.default_rng(0).random((2, 2048, 2048), np.float32)
    peak = 2.0 * 2048**3 / min(_timed(lambda: a @ b) for _ in range(5))
    grid = plan.grid
    left, whole = len(grid.rotations), grid.model.size * len(grid.phases)
    print(f"set-up {1e3 * setup:.0f} ms once; a particle, median of 16:")
    print(f"  spectrum of the box {spectrum:5.1f} ms")
    steps, flops, products = [], 0.0, 0.0
    for phases, passing in (
        *((level.phases, level.passing) for level in grid.levels),
        (grid.phases, 6),
    ):
        moved = phases * data[grid.index[: phases.shape[1]]]
        turned = np.ascontiguousarray(grid.model[:left, : phases.shape[1]])
        flops += 4.0 * turned.size * len(phases)
        larger, other = (turned, moved) if left >= len(phases) else (moved, turned)
        products += min(_timed(lambda a=larger, b=other: real_products(a, b)) for _ in range(9))
        steps.append(f"{left} rotations × {len(phases)} shifts × {phases.shape[1]} Fourier voxels")
        left = passing
    print(
        f"  search              {search:5.1f} ms: {', '.join(steps)}; "
        f"{100 * flops / 4 / whole:.0f} % of a flat search's products, in {1e3 * products:.1f} ms "
        f"at {flops / products / 1e9:.0f} GFLOP/s = {100 * flops / products / peak:.0f} % of this "
        f"core's matrix-product peak ({peak / 1e9:.0f} GFLOP/s)"
    )
    bands = " → ".join(str(len(stage.index)) for stage in plan.stages)
    last = plan.stages[-1]
    of = plan.spectrum, last.frequencies, data[last.index], np.eye(3), np.zeros(3)
    voxel = min(_timed(lambda: normal_equations(*of)) for _ in range(9)) / len(last.index)
    rate = OPERATIONS / voxel
    print(
        f"  refinement          {refine:5.1f} ms: {bands} Fourier voxels, {1e9 * voxel:.1f} ns "
        f"each time, {rate / 1e9:.0f} GFLOP/s = {100 * rate / peak:.0f} % of that peak"
    )
    total = spectrum + search + refine
    print(f"  together            {total:5.1f} ms (goal: {GOAL:.0f}): {_met(total <= GOAL)}")
    for step, local, took in zip(LOCAL_STEPS, around, nearby, strict=True):
        assert local.around is not None
        print(
            f"  local, 10° about a given pose, {len(local.around.turns)} rotations {step:.0f}° "
            f"apart: {took:.1f} ms with the spectrum of the box, {took / total:.2f} of the global"
        )


def _met(good: bool) -> str:
    return "met" if good else "MISSED"


def _timed(work: object) -> float:
    began = time.process_time()
    work()  # type: ignore[operator]
    return time.process_time() - began


def accuracy(count: int) -> None:
    reference = phantom_map(voxel_size=VOXEL, box=BOX)
    plan = planning.plan_alignment(
        reference.to_numpy(), tilt_range=(-60.0, 60.0), angular_step=20.0, shift_range=0.1 * BOX
    )
    last = plan.stages[-1]
    whole = Stage(last.frequencies, last.index, 1, 40)
    print(f"accuracy, {count} particles each, median (largest), seed 1:")
    print(
        "     SNR   angle °        maximum likelihood  shift voxel  maximum likelihood  lost"
        "  the design's floors, + 15 %"
    )
    for snr in (0.1, 0.03, 0.01, 0.003):
        volumes, truth = phantom_subtomograms(
            count, box=BOX, voxel_size=VOXEL, snr=snr, shift_range=SHIFT, seed=1
        )
        boxes = xr.Dataset(
            {"subtomogram": (("particle", "z", "y", "x"), da.from_array(volumes, (1, -1, -1, -1)))},
            coords={"particle": np.arange(count)},
            attrs={"voxel_size": VOXEL},
        )
        with dask.config.set(scheduler="synchronous"):
            table = posing.align_subtomograms(boxes, reference, tilt_range=(-60, 60)).compute()
        true = orientations(truth)
        angle = angular_distance(orientations(table), true)
        shift = np.linalg.norm(table[SHIFTS].to_numpy() - truth[SHIFTS].to_numpy(), axis=1) / VOXEL
        floor = np.empty((count, 2))
        for i in range(count):
            start = truth.loc[i, SHIFTS[::-1]].to_numpy(float) / VOXEL
            matrix, moved = refine_pose(
                plan.spectrum, whole, plan.data(volumes[i])[last.index],
                true[i].as_matrix(), start, rng=np.random.default_rng(0),
                turn_limit=0.1, shift_limit=1.0, tolerance=1e-6,
            )  # fmt: skip
            floor[i] = (
                angular_distance(Rotation.from_matrix(matrix), true[i]),
                np.linalg.norm(moved - start),
            )
        likely = np.median(floor, 0)
        print(
            f"  {snr:6g}   {np.median(angle):.2f} ({angle.max():5.1f})   {likely[0]:.2f}"
            f"                {np.median(shift):.3f}        {likely[1]:.3f}"
            f"              {(angle > 10).sum()}"
            f"     {FLOORS[snr][0]:.2f}° {_met(np.median(angle) <= 1.15 * FLOORS[snr][0])}, "
            f"{FLOORS[snr][1]:.2f} {_met(np.median(shift) <= 1.15 * FLOORS[snr][1])}"
        )


def on_device(library: str, count: int) -> None:
    """The batched code for a GPU, on whatever arrays `library` has."""
    xp = importlib.import_module(library)
    boxes, _ = phantom_subtomograms(count, box=BOX, voxel_size=VOXEL, snr=0.01, shift_range=SHIFT)
    reference = phantom_map(voxel_size=VOXEL, box=BOX).to_numpy()
    plan = planning.plan_alignment(
        reference, tilt_range=(-60.0, 60.0), angular_step=20.0, shift_range=0.1 * BOX
    )
    visits = 0

    def counted(*args: Any) -> Any:
        nonlocal visits
        stage, owner = args[2], args[4]
        visits += len(owner) * (stage.passes + 1) * stage.index.shape[0]
        return refine_poses(*args)

    particle_batches.refine_poses = counted
    numbers, few = np.arange(count), min(count, 32)
    poses = {}
    for way, device, size in (("compiled", None, few), ("first", xp, count), ("then", xp, count)):
        visits = 0
        began = time.perf_counter()
        found = particle_batches.find_candidates_of(
            boxes[:size], 0, numbers[:size], [plan], None, None, count=6, xp=device
        )
        searched = time.perf_counter()
        rows = particle_batches.refine_candidates_of(found, [plan], None, seed=0, xp=device)
        refined = time.perf_counter()
        poses[way] = best_poses(rows)
    a, b = poses["compiled"], poses["then"][:few]
    off = angular_distance(Rotation.from_matrix(a["matrix"]), Rotation.from_matrix(b["matrix"]))
    grid, products, left = plan.grid, 0.0, len(plan.grid.rotations)
    for level in (*grid.levels, grid):
        products += 4.0 * left * level.phases.size
        left = getattr(level, "passing", 0)
    square = xp.asarray(np.random.default_rng(0).random((4096, 4096), np.float32))
    peak = 2.0 * 4096**3 / min(_wall(lambda: to_numpy((square @ square)[:1, :1])) for _ in range(3))
    search, refine = searched - began, refined - searched
    flops, traffic = products * count / search, visits * BYTES / refine
    print(
        f"{library}, {count} particles at once, the second time: {count / (search + refine):.0f} a "
        "second"
    )
    print(
        f"  search {1e3 * search / count:.3f} ms a particle with copies and spectra: products at "
        f"{flops / 1e9:.0f} GFLOP/s = {100 * flops / peak:.0f} % of the matrix product's "
        f"{peak / 1e9:.0f}"
    )
    print(
        f"  refinement {1e3 * refine / count:.3f} ms: {1e9 * refine / visits:.2f} ns a Fourier "
        f"voxel, about {traffic / 1e9:.0f} GB/s"
    )
    print(
        f"  poses of the first {few} against the compiled kernels': {off.max():.1e}°, "
        f"{np.abs(a['shift_xyz'] - b['shift_xyz']).max():.1e} voxel at most"
    )


def _wall(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rounds(structure: Path, snr: float, count: int) -> None:
    """Whether the rounds of the search lose what a flat search finds, with contrast transfer."""
    how = PROTOCOLS["mbgd"]
    made = {"resolution": how.resolution}
    fine = structure_density(structure, voxel_size=how.voxel_size / 2, **made)
    reference = structure_density(structure, voxel_size=how.voxel_size, box=how.box, **made)
    boxes = simulate_subtomograms({"particle": fine}, snr=snr, count=count).compute(
        scheduler="synchronous"
    )
    truth = orientations(particle_table(boxes))
    plan = planning.plan_alignment(
        reference.to_numpy(), tilt_range=(np.nan, np.nan), angular_step=20.0,
        shift_range=how.shift_range / how.voxel_size, voxel_size=how.voxel_size,
        record=next(iter(boxes.attrs["tilt_series"].values())),
    )  # fmt: skip
    spent, off = np.zeros((count, 4)), np.zeros((count, 2))
    for i, box in enumerate(boxes["subtomogram"].to_numpy()):
        began = time.process_time()
        data = plan.data(box)
        spent[i, 3] = time.process_time() - began
        for way, levels in enumerate(((), plan.grid.levels)):
            began = time.process_time()
            found = candidate_poses(replace(plan.grid, levels=levels), data, count=6)[:2]
            spent[i, way] = time.process_time() - began
            began = time.process_time()
            poses = refine_candidates(Candidates(i, i, data, (found,)), plan, seed=0)
            spent[i, 2] = time.process_time() - began
            best = poses["matrix"][np.argmax(poses["score"])]
            off[i, way] = angular_distance(Rotation.from_matrix(best), truth[i])
    flat, levelled, refine, spectrum = 1e3 * np.median(spent, 0)
    total = spectrum + levelled + refine
    print(
        f"{fine.name}, −6 µm, SNR {snr}: search flat {flat:.1f} ms, in rounds {levelled:.1f} ms, "
        f"refinement {refine:.1f} ms ({len(plan.stages[-1].index)} Fourier voxels), with the "
        f"spectrum of the box {total:.1f} ms (goal: {GOAL:.0f}): {_met(total <= GOAL)}; the same "
        f"pose for {(off[:, 0] == off[:, 1]).sum()} of {count}; "
        f"median {np.median(off[:, 1]):.2f}°, largest {off[:, 1].max():.1f}°"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--accuracy", type=int, default=40, help="particles at each SNR")
    parser.add_argument(
        "--structure", type=Path, nargs="*", default=[], help="also these, without symmetry"
    )
    parser.add_argument("--device", help="cupy: measure the code for a GPU, and nothing else")
    parser.add_argument("--batch", type=int, default=256, help="particles at once on the device")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        align_in_this_process(args.inside)
        return
    if args.device:
        on_device(args.device, args.batch)
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one used")
    kernels()
    with tempfile.TemporaryDirectory() as folder:
        print("whole job, one core, from a Zarr store (goal: 35 ms with set-up, below 1500 MB):")
        for count in (args.particles // 10, args.particles):
            simulate(count, 0.1, Path(folder, f"{count}.zarr"))
            measure(Path(folder, f"{count}.zarr"), count)
    accuracy(args.accuracy)
    for structure in args.structure:
        for snr in (0.01, 0.003):
            rounds(structure, snr, args.accuracy)


if __name__ == "__main__":
    main()
