"""Tables 1 and 2 of the paper: GroEL by mini-batches, Levenberg-Marquardt and in Fourier space.

    python benchmarks/mbgd_tables.py --structure 1mnf.pdb.gz [--resolution 20] [--count 20]

64³ boxes of 6 Å, defocus -6 µm, projections every 1° over ±60° (Table 1) or ±40° (Table 2), shaped
noise; 20 boxes a condition, all methods from the same candidates of the global search.  The
reference is the noise-free structure; `--resolution` is the finest detail that any method sees.

CCC is the constrained correlation over all measured Fourier voxels of that band, one definition for
all.  It rewards fitting noise: it is higher at a pose that has been fitted than at the true one.
So the errors stand beside it, modulo D7; as the file's axes lie a degree off z, the map's own
turns are found first.  Times are those of one thread's processor,
of the refinement alone, from candidates to the pose; "one band" is the method as published, which
looks at the whole band from its first iteration on.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[threads] = "1"

import dask
import numpy as np
from scipy.spatial.transform import Rotation
from scipy.stats import ttest_rel

from tomodask.alignment.levenberg_marquardt import levenberg_marquardt
from tomodask.alignment.particle import (
    Candidates,
    best_poses,
    find_candidates,
    refine_candidates,
)
from tomodask.alignment.plan import Plan, plan_alignment, rms_radius
from tomodask.alignment.real_space import refine_real_space
from tomodask.alignment.real_space_problem import RealSpaceProblem
from tomodask.alignment.refinement import correlation
from tomodask.alignment.slabs import volume_of
from tomodask.arrays.sampling import cut_out, half_sphere, padded_spectrum, sample, soft_sphere
from tomodask.arrays.symmetry import symmetry_group
from tomodask.data.particles import orientations
from tomodask.data.subtomogram_table import particle_table
from tomodask.simulation import PROTOCOLS, simulate_subtomograms, structure_density

SHIFTS = ["shift_x", "shift_y", "shift_z"]
Pose = tuple[np.ndarray, np.ndarray]


def symmetry_of(volume: np.ndarray) -> tuple[Rotation, float, float]:
    """The map's own D7, wherever its axes lie; how far from z and x, at most, and how well.

    Turns of the group about z, with the twofold axis where it fits best, each refined on the map.
    """
    masked = cut_out(volume, soft_sphere(len(volume), 28.0))
    k = half_sphere(20.0)
    spectrum = padded_spectrum(masked, radius=20)
    problem = RealSpaceProblem.of(spectrum, k, radii=[20.0], particle_radius=rms_radius(masked))
    (level,) = problem.levels
    still = sample(spectrum, k, np.eye(3))
    itself = volume_of(level, still)

    def likeness(turn: Rotation) -> float:
        return correlation(spectrum, k, still, turn.as_matrix(), np.zeros(3))

    def across(angle: float) -> Rotation:
        return Rotation.from_rotvec(np.pi * np.array([np.cos(angle), np.sin(angle), 0.0]))

    best = max(np.deg2rad(np.arange(0.0, 360 / 14, 0.25)), key=lambda one: likeness(across(one)))
    turn = Rotation.from_euler("z", best)
    about_z = turn * symmetry_group("D7") * turn.inv()
    refined = [
        Rotation.from_matrix(levenberg_marquardt(problem, level, itself, one, np.zeros(3))[0])
        for one in about_z.as_matrix()
    ]
    group = Rotation.concatenate(refined)
    off = np.rad2deg((group * about_z.inv()).magnitude().max())
    return group, float(off), min(map(likeness, refined))


def error(found: Rotation, true: Rotation, group: Rotation) -> float:
    """Degrees, modulo the group."""
    return float(np.rad2deg((true.inv() * found * group).magnitude().min()))


def ways(plan: Plan) -> dict[str, Callable[[Candidates], Pose]]:
    radii = [float(np.linalg.norm(stage.frequencies, axis=1).max()) for stage in plan.stages]
    of = {
        "turn_limit": plan.turn_limit,
        "shift_limit": plan.shift_limit,
        "reach": plan.reach,
        "particle_radius": PARTICLE,
    }
    banded = RealSpaceProblem.of(plan.spectrum, plan.frequencies, plan.weights, radii=radii, **of)
    whole = RealSpaceProblem.of(
        plan.spectrum, plan.frequencies, plan.weights, radii=radii[-1:], **of
    )

    def fourier(one: Candidates) -> Pose:
        pose = best_poses([refine_candidates(one, plan, seed=0)])[0]
        return pose["matrix"], pose["shift_xyz"]

    def real(problem: RealSpaceProblem, method: str) -> Callable[[Candidates], Pose]:
        def refine(one: Candidates) -> Pose:
            rng = np.random.default_rng([0, one.identity])
            matrices, shifts, _ = refine_real_space(
                problem, one.data, *one.starts[0], method=method, rng=rng
            )
            return matrices[0], shifts[0]

        return refine

    return {
        "MBGD": real(banded, "mbgd"),
        "LM, one band": real(whole, "lm"),
        "LM": real(banded, "lm"),
        "MBGD, one band": real(whole, "mbgd"),
        "Fourier": fourier,
    }


PARTICLE = 0.0  # voxels: the rms radius of the reference, set in main


def main() -> None:
    global PARTICLE
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structure", type=Path, required=True, help="1mnf.pdb.gz of the PDB")
    parser.add_argument("--resolution", type=float, default=20.0, help="finest detail, Å")
    parser.add_argument("--count", type=int, default=20, help="boxes a condition")
    parser.add_argument("--seed", type=int, default=1, help="of the boxes; 0 was tuned on")
    parser.add_argument("--candidates", type=int, default=6)
    parser.add_argument("--snr", type=float, nargs="+", default=[0.03, 0.01, 0.003])
    parser.add_argument("--tilt", type=float, nargs="+", default=[60.0, 40.0])
    given = parser.parse_args()
    dask.config.set(scheduler="synchronous")
    how = PROTOCOLS["mbgd"]
    fine = structure_density(
        given.structure, voxel_size=how.voxel_size / 2, resolution=how.resolution
    )
    reference = structure_density(
        given.structure, voxel_size=how.voxel_size, resolution=how.resolution, box=how.box
    ).to_numpy()
    group, off, likeness = symmetry_of(reference)
    PARTICLE = rms_radius(reference)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, one used; {fine.name}, {given.count} boxes "
        f"a condition, seed {given.seed}; detail to {given.resolution:g} Å, "
        f"{given.candidates} candidates"
    )
    print(
        f"D7 of the map: its turns differ by up to {off:.2f}° from those about z; its correlation "
        f"with itself turned is at least {likeness:.4f}"
    )
    for number, tilt in enumerate(given.tilt, 1):
        for snr in given.snr:
            condition(number, tilt, snr, fine, reference, group, given)


def condition(number, tilt, snr, fine, reference, group, given) -> None:  # type: ignore[no-untyped-def]
    how = PROTOCOLS["mbgd"]
    boxes = simulate_subtomograms(
        {"groel": fine}, snr=snr, tilt_range=(-tilt, tilt), count=given.count, seed=given.seed
    ).compute()
    plan = plan_alignment(
        reference,
        tilt_range=(np.nan, np.nan),
        record=next(iter(boxes.attrs["tilt_series"].values())),
        voxel_size=how.voxel_size,
        angular_step=20.0,
        shift_range=how.shift_range / how.voxel_size + 1,
        radius=how.box * how.voxel_size / given.resolution,
        symmetry="D7",
    )
    volumes = boxes.subtomogram.to_numpy()
    begin = time.process_time()
    found = [
        find_candidates(volumes[i], i, i, plan=plan, count=given.candidates)
        for i in range(len(volumes))
    ]
    searched = 1e3 * (time.process_time() - begin) / len(found)
    truth = particle_table(boxes)
    turns = orientations(truth)
    moves = truth[SHIFTS].to_numpy() / how.voxel_size

    def ccc(one: Candidates, pose: Pose) -> float:
        return correlation(plan.spectrum, plan.frequencies, one.data, *pose, plan.weights)

    at_truth = np.array([ccc(one, (turns[i].as_matrix(), moves[i])) for i, one in enumerate(found)])
    bands = " → ".join(str(len(stage.index)) for stage in plan.stages)
    print(
        f"Table {number}: ±{tilt:.0f}°, SNR {snr:g}; search {searched:.0f} ms; Fourier voxels "
        f"{bands}; CCC at the true pose {at_truth.mean():.5f}"
    )
    print(
        "                      CCC      MBGD - it        P   angle °: median, mean, largest"
        "  shift voxel: median, mean    ms    MBGD / it"
    )
    results = {}
    for name, refine in ways(plan).items():
        refine(found[0])  # compiles
        begin = time.process_time()
        poses = [refine(one) for one in found]
        took = 1e3 * (time.process_time() - begin) / len(found)
        scores = np.array([ccc(one, pose) for one, pose in zip(found, poses, strict=True)])
        off = np.array(
            [error(Rotation.from_matrix(m), turns[i], group) for i, (m, _) in enumerate(poses)]
        )
        away = np.array([np.linalg.norm(s - moves[i]) for i, (_, s) in enumerate(poses)])
        results[name] = scores, took
        mine, time_mine = results["MBGD"]
        against = mine - scores
        p = "-" if name == "MBGD" else f"{ttest_rel(mine, scores).pvalue:.2g}"
        print(
            f"  {name:15s} {scores.mean():.6f}   {against.mean():+.2e} {p:>8}   "
            f"{np.median(off):5.2f} {off.mean():6.2f} {off.max():6.1f}"
            f"                {np.median(away):.3f} {away.mean():.3f}           "
            f"{took:6.1f}   {time_mine / took:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
