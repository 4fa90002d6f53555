"""Alignment against other programs: CPU seconds a particle and errors on the same boxes.

    pip install -e '.[benchmark]'      # acryo, here or in an environment of its own
    python benchmarks/alignment_peers.py [--peer-python OTHER/bin/python] [--engine FILE.py …]

64³ boxes of the phantom, ±60°, shifts within ±4 voxels.  Every engine runs alone, in a process with
one thread.  Start-up (imports, compiling, all that is prepared once) is told apart from the CPU
time of the particles, which holds everything else but reading: the boxes are in memory.

An engine is a file with ``ENGINES = {name: prepare}``::

    def prepare(reference, tilt_range, shift_range):
        # reference: float32 (n, n, n), axes (z, y, x), centre at voxel n // 2, contrast of the
        # boxes; tilt_range: degrees about y, beam along z; shift_range: voxels along each axis.
        def align(boxes, near):
            # boxes: float32 (count, n, n, n); near: SciPy Rotation, within 30° of the truth, for
            # engines that search only locally (their names say so), left aside by all others.
            # rotations: SciPy Rotation, reference → particle, acting on (x, y, z);
            # shifts: (count, 3) voxels (z, y, x), of the particle from voxel n // 2.
            return rotations, shifts
        return align

What it needs beside NumPy and SciPy, its own program, is installed where --peer-python points (by
default where this script runs); see `engines/acryo_alignment.py`.  Those given by --engine are
measured beside those that are here.

SNR: variance of the clean box / variance of the white noise added before the wedge.
"""

from __future__ import annotations

import os
import sys

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[threads] = "1"

import argparse
import importlib.util
import platform
import resource
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

BOX, VOXEL, SHIFT, TILTS = 64, 6.0, 4.0, (-60.0, 60.0)  # voxels, Å, voxels, degrees
NEAR, LOST = 30.0, 10.0  # degrees
HERE = Path(__file__).parent / "engines"
OURS = HERE / "tomodask_alignment.py"
PEERS = [HERE / "acryo_alignment.py"]


# What follows runs in the engine's process, which may know nothing of tomodask.


def engines_of(file: Path) -> dict:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ENGINES


def run_engine(file: Path, name: str, data: Path, count: int, out: Path) -> None:
    """Align the first `count` boxes of `data` and write poses and seconds to `out`."""
    given = np.load(data / "truth.npz")
    boxes = np.array(np.load(data / "boxes.npy", mmap_mode="r")[:count])
    near, reference = Rotation.from_quat(given["near"][:count]), given["reference"]
    read = spent()
    align = engines_of(file)[name](reference, TILTS, SHIFT)
    prepared = spent()
    rotations, shifts = align(boxes, near)
    done = spent()
    np.savez(
        out,
        quat=rotations.as_quat(),
        shift=shifts,
        startup=prepared - read,
        particles=done - prepared,
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def spent() -> float:
    """CPU seconds of this process and those it started, the system's for them included."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


# What follows runs where tomodask is.


def make_boxes(count: int, snr: float, seed: int, folder: Path) -> None:
    from tomodask.data.particles import orientations
    from tomodask.simulation.phantom import phantom_map, phantom_subtomograms

    boxes, truth = phantom_subtomograms(
        count,
        box=BOX,
        voxel_size=VOXEL,
        snr=snr,
        tilt_range=TILTS,
        shift_range=SHIFT * VOXEL,
        seed=seed,
    )
    true = orientations(truth)
    rng = np.random.default_rng([seed, 30])
    axes = rng.standard_normal((count, 3))
    axes *= np.deg2rad(rng.uniform(0, NEAR, (count, 1))) / np.linalg.norm(
        axes, axis=1, keepdims=True
    )
    np.save(folder / "boxes.npy", boxes)
    np.savez(
        folder / "truth.npz",
        reference=phantom_map(voxel_size=VOXEL, box=BOX).to_numpy().astype(np.float32),
        true=true.as_quat(),
        near=(true * Rotation.from_rotvec(axes)).as_quat(),
        shift=truth[["shift_z", "shift_y", "shift_x"]].to_numpy() / VOXEL,
    )


def measure(python: str, file: Path, name: str, data: Path, count: int) -> dict | None:
    """Poses and seconds of an engine; None, with the reason printed, where it does not run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "poses.npz")
        inside = ["--inside", str(file), name, str(data), str(count), str(out)]
        ran = subprocess.run([python, __file__, *inside], capture_output=True, text=True)
        if ran.returncode:
            print(f"  {name}: not measured, {ran.stderr.strip().splitlines()[-1]}", flush=True)
            return None
        return dict(np.load(out))


def names_in(python: str, file: Path) -> list[str]:
    ran = subprocess.run(
        [python, __file__, "--names", str(file)], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        print(f"  {file.name}: not measured, {ran.stderr.strip().splitlines()[-1]}")
        return []
    return ran.stdout.splitlines()


def errors(poses: dict, truth: dict, count: int) -> str:
    """Median and largest errors of the first `count` boxes, as columns."""
    true = Rotation.from_quat(truth["true"][:count])
    angle = np.rad2deg((Rotation.from_quat(poses["quat"][:count]).inv() * true).magnitude())
    shift = np.linalg.norm(poses["shift"][:count] - truth["shift"][:count], axis=1)
    lost = int((angle > LOST).sum())
    return (
        f"{count:6d} {np.median(angle):8.2f} ({angle.max():6.2f}) "
        f"{np.median(shift):8.3f} ({shift.max():6.3f}) {lost:5d}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, default=400, help="boxes for tomodask")
    parser.add_argument("--peer-particles", type=int, default=4, help="boxes for each other engine")
    parser.add_argument("--snr", type=float, nargs="+", default=[0.1, 0.01])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peer-python", default=sys.executable, help="where peers are installed")
    parser.add_argument("--engine", type=Path, nargs="+", default=[], help="files of other engines")
    parser.add_argument("--inside", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--names", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        file, name, data, count, out = args.inside
        run_engine(Path(file), name, Path(data), int(count), Path(out))
        return
    if args.names:
        print("\n".join(engines_of(args.names)))
        return

    machine = platform.processor() or platform.machine()
    print(
        f"{machine}, {os.cpu_count()} cores, one used; 64³ boxes of the phantom, ±60°, shifts "
        f"within ±4 voxels, seed {args.seed}"
    )
    (ours,) = names_in(sys.executable, OURS)
    peers = [(f, n) for f in [*PEERS, *args.engine] for n in names_in(args.peer_python, f)]
    for snr in args.snr:
        print(f"SNR {snr:g}: CPU seconds; errors: median (largest); lost: more than {LOST:g}° off")
        print(
            f"  {'engine':26s} {'start-up':>9s} {'a particle':>10s} {'ratio':>6s} {'MB':>6s} "
            f"{'boxes':>6s} {'angle °':>17s} {'shift, voxels':>17s} {'lost':>5s}"
        )
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), snr, ours, peers, args)


def compare(
    folder: Path, snr: float, ours: str, peers: list[tuple[Path, str]], args: argparse.Namespace
) -> None:
    count, few = args.particles, min(args.peer_particles, args.particles)
    make_boxes(count, snr, args.seed, folder)
    truth = dict(np.load(folder / "truth.npz"))
    mine = measure(sys.executable, OURS, ours, folder, count)
    if mine is None:
        raise SystemExit(1)
    each = mine["particles"] / count
    row = f"{mine['startup']:9.1f} {each:10.4f} {'1':>6s} {mine['memory']:6.0f}"
    print(f"  {ours:26s} {row} {errors(mine, truth, count)}")
    print(f"  {'  the first of them':26s} {'':34s} {errors(mine, truth, few)}", flush=True)
    for file, name in peers:
        got = measure(args.peer_python, file, name, folder, few)
        if got is None:
            continue
        theirs = got["particles"] / few
        row = f"{got['startup']:9.1f} {theirs:10.2f} {theirs / each:6.0f} {got['memory']:6.0f}"
        print(f"  {name:26s} {row} {errors(got, truth, few)}", flush=True)


if __name__ == "__main__":
    main()
