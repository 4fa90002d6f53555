"""Real-space refinement: kernels against plain sums and differences, descents on the phantom."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tomodask.alignment import refinement, slabs, steps
from tomodask.alignment.levenberg_marquardt import DampedSettings, levenberg_marquardt
from tomodask.alignment.real_space import refine_real_space
from tomodask.alignment.real_space_problem import RealSpaceProblem
from tomodask.alignment.slab_descent import SlabSettings, draw_slabs, slab_descent
from tomodask.arrays.fourier import measured
from tomodask.arrays.geometry import angular_distance
from tomodask.arrays.sampling import half_sphere, padded_spectrum, sample, spectrum_at
from tomodask.arrays.symmetry import symmetry_group
from tomodask.simulation.phantom import phantom_particle

N, VOXEL, TILTS, RADIUS = 32, 10.0, (-60.0, 50.0), 9.0
PHANTOM = phantom_particle()
REFERENCE = PHANTOM.density(box=N, voxel_size=VOXEL)
SPECTRUM = padded_spectrum(REFERENCE, radius=13.0)


def turned(rotation, shift_xyz=(0, 0, 0)):
    """The phantom at a pose, exactly; shift in voxels."""
    shift = np.asarray(shift_xyz)[::-1] * VOXEL
    return PHANTOM.density(box=N, voxel_size=VOXEL, rotation=rotation, shift_zyx=shift)


def draw_pose(rng):
    return Rotation.random(rng=rng), rng.uniform(-2, 2, 3)


def frequencies(radius=RADIUS):
    k = half_sphere(radius)
    return k[measured(k[:, 0], k[:, 2], TILTS)]


def problem(radii=(RADIUS,), *, weights=None, **changes):
    changes = {"particle_radius": 9.0} | changes
    return RealSpaceProblem.of(SPECTRUM, frequencies(radii[-1]), weights, radii=radii, **changes)


def noisy(rng, rotation, shift, *, snr=0.3):
    clean = turned(rotation, shift)
    noise = rng.standard_normal(clean.shape) * clean.std() / np.sqrt(snr)
    return (clean + noise).astype(np.float32)


def plain_volume(level, values):
    """Each Fourier voxel's wave, summed over the grid one by one: axes (x, y, z)."""
    x, y, z = np.meshgrid(level.grid, level.grid, level.grid, indexing="ij")
    out = np.zeros(x.shape)
    for (kz, ky, kx), value in zip(level.frequencies, values, strict=True):
        phase = 2j * np.pi / N * (kx * x + ky * y + kz * z)
        out += 2 * (value * np.exp(phase)).real
    return out


def plain_model(level, rotation, shift, weights=1.0):
    k = level.frequencies
    values = sample(SPECTRUM, k, rotation.as_matrix()[::-1, ::-1].T)
    return plain_volume(level, weights * values * np.exp(-2j * np.pi / N * (k[:, ::-1] @ shift)))


def under_mask(level, radius):
    x, y, z = np.meshgrid(level.grid, level.grid, level.grid, indexing="ij")
    return np.ones(x.shape, bool) if radius is None else x**2 + y**2 + z**2 <= radius**2


def test_the_inverse_transform_is_a_sum_of_waves():
    (level,) = problem(radii=(4.0,)).levels
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(len(level.index), 2)) @ [1, 1j]).astype(np.complex64)
    want = plain_volume(level, values)
    np.testing.assert_allclose(slabs.volume_of(level, values), want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("mask_radius", [None, 11.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_products_against_plain_sums_over_a_slab(mask_radius, weighted):
    """Reference: the model by plain sums, its slopes by differences, products by NumPy."""
    rng = np.random.default_rng(1)
    radius = 5.0
    weights = rng.uniform(-1, 1, len(frequencies(radius))).astype(np.float32) if weighted else None
    task = problem(radii=(radius,), weights=weights, mask_radius=mask_radius)
    (level,) = task.levels
    rotation, shift = draw_pose(rng)
    data = slabs.volume_of(level, spectrum_at(noisy(rng, rotation, shift), level.frequencies))
    pose = rotation.as_matrix(), shift
    got = slabs.products(SPECTRUM, level, data, *pose, particle_radius=9.0, slices=slice(2, 6))
    w, h = 1.0 if weights is None else weights, 1e-3
    columns = []
    for axis in np.eye(3):
        up, down = (Rotation.from_rotvec(s * h * axis) * rotation for s in (1, -1))
        change = plain_model(level, up, shift, w) - plain_model(level, down, shift, w)
        columns.append(change / (2 * h))
    for axis in np.eye(3):
        up, down = (plain_model(level, rotation, shift + s * h * axis, w) for s in (1, -1))
        columns.append(9.0 * (up - down) / (2 * h))
    columns += [plain_model(level, rotation, shift, w), data]
    keep = under_mask(level, mask_radius)[2:6]
    flat = np.array([column[2:6][keep] for column in columns], np.float64)
    flat -= flat.mean(1, keepdims=True)
    want = flat @ flat.T
    scale = np.sqrt(np.outer(np.diag(want), np.diag(want)))
    # Slopes of a trilinear interpolant jump between cells, where a difference may straddle two.
    np.testing.assert_allclose(got / scale, want / scale, atol=0.01)
    np.testing.assert_allclose(got[3:, 3:] / scale[3:, 3:], want[3:, 3:] / scale[3:, 3:], atol=1e-4)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=10)
def test_over_the_whole_box_real_space_is_fourier_space(seed):
    """Parseval: all products are those of `refinement.normal_equations`, for any weights."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(-1, 1, len(frequencies())).astype(np.float32)
    (level,) = problem(weights=weights).levels
    rotation, shift = draw_pose(rng)
    values = spectrum_at(noisy(rng, rotation, shift), level.frequencies)
    pose = (rotation * Rotation.from_rotvec([0.05, 0, 0])).as_matrix(), shift + 0.3
    got = slabs.products(SPECTRUM, level, slabs.volume_of(level, values), *pose)
    want = refinement.normal_equations(
        SPECTRUM, level.frequencies, values, *pose, weights=level.weights
    )
    want = want * (got[7, 7] / want[7, 7])
    scale = np.sqrt(np.outer(np.diag(want), np.diag(want)))
    np.testing.assert_allclose(got / scale, want / scale, atol=1e-4)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=10)
def test_the_gradient_of_a_slab_is_that_of_its_loss(seed):
    """Central differences of the loss itself, the model turned and moved anew, wedge in place."""
    rng = np.random.default_rng(seed)
    task = problem(mask_radius=13.0)
    (level,) = task.levels
    rotation, shift = draw_pose(rng)
    values = spectrum_at(noisy(rng, rotation, shift), level.frequencies)
    data = slabs.volume_of(level, values)
    rotation, shift = Rotation.from_rotvec(rng.normal(0, 0.05, 3)) * rotation, shift + 0.3
    first = int(rng.integers(2, 10))
    slices = slice(first, first + int(rng.integers(3, 7)))

    def system(matrix, moved):
        return slabs.products(
            SPECTRUM, level, data, matrix, moved, particle_radius=9.0, slices=slices
        )

    def loss(step):
        matrix = (Rotation.from_rotvec(step[:3]) * rotation).as_matrix()
        return slabs.slab_loss(system(matrix, shift + 9.0 * step[3:]))

    h = 1e-3
    want = [(loss(h * axis) - loss(-h * axis)) / (2 * h) for axis in np.eye(6)]
    got = slabs.slab_gradient(system(rotation.as_matrix(), shift))
    np.testing.assert_allclose(got, want, atol=0.02 * np.abs(want).max())


def test_loss_is_two_minus_twice_the_correlation():
    rng = np.random.default_rng(2)
    (level,) = problem().levels
    rotation, shift = draw_pose(rng)
    values = spectrum_at(noisy(rng, rotation, shift), level.frequencies)
    pose = rotation.as_matrix(), shift
    found = slabs.products(SPECTRUM, level, slabs.volume_of(level, values), *pose)
    want = refinement.correlation(SPECTRUM, level.frequencies, values, *pose)
    assert slabs.slab_loss(found) == pytest.approx(2 - 2 * want, abs=1e-5)


@given(st.integers(3, 60), st.integers(1, 12), st.integers(1, 3), st.integers(0, 99))
@settings(deadline=None)
def test_a_pass_of_slabs_sees_every_slice_once(side, count, passes, seed):
    drawn = draw_slabs(np.random.default_rng(seed), side, count, passes)
    seen = np.concatenate([np.arange(first, last) for first, last in drawn])
    np.testing.assert_array_equal(np.bincount(seen, minlength=side), passes)
    assert (drawn[:, 1] > drawn[:, 0]).all()


def test_small_systems_are_solved():
    rng = np.random.default_rng(3)
    half = rng.normal(size=(9, 7))
    right, x = rng.normal(size=7), np.empty(7)
    assert steps.cholesky_solve(half.T @ half, right, x)
    np.testing.assert_allclose(x, np.linalg.solve(half.T @ half, right), rtol=1e-6)
    assert not steps.cholesky_solve(-np.eye(7), right, x)


def test_steps_are_short_and_stay_near_the_given_pose():
    step = np.array([0.3, 0, 0, 0, 1.0, 0])
    turned_to, moved = np.empty((3, 3)), np.empty(3)
    bounds = np.eye(3), 9.0, np.zeros(3), 9.0
    length = steps.step_from(
        np.eye(3), np.zeros(3), step, 10.0, (0.1, 2.0), bounds, turned_to, moved
    )
    # The move of 10 voxels is five times too long, the turn three times: both are cut to a fifth.
    np.testing.assert_allclose(step, [0.06, 0, 0, 0, 0.2, 0])
    np.testing.assert_allclose(moved, [0, 2.0, 0])
    assert length == pytest.approx(0.2)
    near = np.eye(3), 0.02, np.zeros(3), 0.5
    steps.step_from(np.eye(3), np.zeros(3), step, 10.0, (0.1, 2.0), near, turned_to, moved)
    assert Rotation.from_matrix(turned_to).magnitude() == pytest.approx(0.02)
    np.testing.assert_allclose(moved, [0, 0.5, 0])


def off(rng, rotation, shift):
    """A start 8° and 2 voxels from a pose."""
    axis, way = rng.normal(size=(2, 3))
    turn = Rotation.from_rotvec(np.deg2rad(8) * axis / np.linalg.norm(axis))
    return (turn * rotation).as_matrix(), shift + 2 * way / np.linalg.norm(way)


@pytest.mark.parametrize("method", ["mbgd", "lm"])
@pytest.mark.parametrize("mask_radius", [None, 14.0])
def test_both_methods_come_home_from_8_degrees_and_2_voxels(method, mask_radius):
    rng = np.random.default_rng(4)
    task = problem(radii=(5.0, 12.0), mask_radius=mask_radius)
    for i in range(5):
        rotation, shift = draw_pose(rng)
        data = spectrum_at(turned(rotation, shift), frequencies(12.0))
        start, there = off(rng, rotation, shift)
        matrices, shifts, scores = refine_real_space(
            task, data, start[None], there[None], method=method, rng=np.random.default_rng([0, i])
        )
        assert angular_distance(Rotation.from_matrix(matrices[0]), rotation) < 0.3
        np.testing.assert_allclose(shifts[0], shift, atol=0.04)
        assert scores[0] > 0.999


def test_both_methods_end_at_the_same_optimum_of_noisy_boxes():
    rng = np.random.default_rng(5)
    k = frequencies(12.0)
    weights = rng.uniform(0.2, 1, len(k)).astype(np.float32)
    task = problem(radii=(5.0, 12.0), weights=weights)
    for i in range(3):
        rotation, shift = draw_pose(rng)
        data = spectrum_at(noisy(rng, rotation, shift), k) * weights
        starts = [off(rng, rotation, shift) for _ in range(4)]
        given_ = np.stack([m for m, _ in starts]), np.stack([s for _, s in starts])
        ends = {
            method: refine_real_space(
                task, data, *given_, method=method, rng=np.random.default_rng(i)
            )
            for method in ("mbgd", "lm")
        }
        for matrices, shifts, scores in ends.values():
            assert (np.diff(scores) <= 0).all()
            for matrix, moved, score in zip(matrices, shifts, scores, strict=True):
                assert score == refinement.correlation(SPECTRUM, k, data, matrix, moved, weights)
        (a, s, c), (b, t, d) = ends.values()
        assert angular_distance(Rotation.from_matrix(a[0]), Rotation.from_matrix(b[0])) < 0.3
        np.testing.assert_allclose(s[0], t[0], atol=0.03)
        assert c[0] == pytest.approx(d[0], abs=2e-4)


@pytest.mark.parametrize("symmetric", [False, True])
def test_candidates_that_met_are_one(symmetric):
    """Or are equivalent, where the reference has symmetry: the mean of four turned phantoms."""
    rng = np.random.default_rng(6)
    rotation, shift = draw_pose(rng)
    group = symmetry_group("C4") if symmetric else Rotation.identity(1)
    copies = sum(turned(one) for one in group)
    task = RealSpaceProblem.of(
        padded_spectrum(copies, radius=13.0), frequencies(12.0), radii=(5.0, 12.0),
        particle_radius=9.0, group=group.as_matrix(),
    )  # fmt: skip
    data = spectrum_at(sum(turned(rotation * one, shift) for one in group), frequencies(12.0))
    starts = [off(rng, rotation * group[i % len(group)], shift) for i in range(4)]
    matrices, _, _ = refine_real_space(
        task, data, np.stack([m for m, _ in starts]), np.stack([s for _, s in starts]),
        method="lm", rng=rng,
    )  # fmt: skip
    assert len(matrices) == 1


@pytest.mark.parametrize("method", ["mbgd", "lm"])
def test_poses_are_held_near_the_one_given(method):
    rng = np.random.default_rng(7)
    rotation, shift = draw_pose(rng)
    data = spectrum_at(turned(rotation, shift), frequencies())
    start, there = off(rng, rotation, shift)
    matrices, shifts, _ = refine_real_space(
        problem(reach=0.25, turn_reach=0.05), data, start[None], there[None],
        method=method, rng=rng, about=(start, there),
    )  # fmt: skip
    turn = Rotation.from_matrix(matrices[0]) * Rotation.from_matrix(start).inv()
    assert turn.magnitude() <= 0.05 + 1e-9
    assert np.abs(shifts[0] - there).max() <= 0.25 + 1e-12


def slab_scene(seed=8):
    rng = np.random.default_rng(seed)
    task = problem(mask_radius=14.0)
    (level,) = task.levels
    rotation, shift = draw_pose(rng)
    values = spectrum_at(noisy(rng, rotation, shift), level.frequencies)
    return task, level, slabs.volume_of(level, values), *off(rng, rotation, shift)


def test_the_seed_alone_decides():
    scene = slab_scene()
    a, b, c = (slab_descent(*scene, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    for one, same in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, same)
    assert not np.array_equal(a[2], c[2])


@pytest.mark.parametrize("seed", range(5))
def test_the_literal_rule_leaves_at_the_first_step_that_gains_nothing(seed):
    how = SlabSettings(slabs=6, passes=8, stopping="literal", tolerance=1e-3)
    losses = slab_descent(*slab_scene(), rng=np.random.default_rng(seed), settings=how)[2]
    least = np.minimum.accumulate(losses)
    gains = least[:-1] - least[1:]
    assert (gains[:-1] > 1e-3).all()
    assert gains[-1] <= 1e-3
    assert len(losses) < 48


def test_patience_ends_a_descent_that_gains_nothing_more():
    task, level, data, start, there = slab_scene()
    best = levenberg_marquardt(task, level, data, start, there)[:2]
    how = SlabSettings(slabs=6, passes=30, patience=6, finish=2)
    losses = slab_descent(task, level, data, *best, rng=np.random.default_rng(0), settings=how)[2]
    assert len(losses) < 100
    whole = slabs.slab_loss(slabs.products(SPECTRUM, level, data, *best))
    assert losses[-1] == pytest.approx(whole, abs=1e-3)  # the last steps look at all slices


def one_step():
    """A pose after a step on all slices, and after an undamped one of Levenberg-Marquardt."""
    task, level, data, start, there = slab_scene()
    once = SlabSettings(passes=0, finish=1)
    a = slab_descent(task, level, data, start, there, rng=np.random.default_rng(0), settings=once)
    free = DampedSettings(iterations=2, damping=0.0)
    return a, levenberg_marquardt(task, level, data, start, there, settings=free)


def test_a_slab_of_all_slices_is_one_whole_gauss_newton_step(tmp_path):
    """Which Levenberg-Marquardt takes as well, when it is not damped.

    With kernels compiled for it alone: which methods ran first in a cache changes the last bits of
    single precision, and so 1e-7 of a pose (seen with caches that several processes had filled).
    """
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        import numpy as np
        from alignment.test_real_space import one_step
        a, b = one_step()
        np.testing.assert_allclose(a[0], b[0], atol=1e-9)
        np.testing.assert_allclose(a[1], b[1], atol=1e-9)
    """
    kernels = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    words = [sys.executable, "-c", textwrap.dedent(code)]
    subprocess.run(words, check=True, timeout=600, env=kernels)


def test_levenberg_marquardt_never_goes_down():
    task, level, data, start, there = slab_scene()
    matrix, shift, losses = levenberg_marquardt(task, level, data, start, there)
    end = slabs.slab_loss(slabs.products(SPECTRUM, level, data, matrix, shift))
    assert end <= losses.min() + 1e-6
    assert losses.min() < losses[0]


def test_nothing_in_a_box_moves_nothing():
    task = problem(radii=(5.0, 12.0))
    data = np.zeros(len(frequencies(12.0)), np.complex64)
    for method in ("mbgd", "lm"):
        matrices, shifts, scores = refine_real_space(
            task, data, np.eye(3)[None], np.ones((1, 3)), method=method,
            rng=np.random.default_rng(0),
        )  # fmt: skip
        np.testing.assert_array_equal(matrices[0], np.eye(3))
        np.testing.assert_array_equal(shifts[0], 1)
        assert scores[0] == 0


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="mbgd"):
        refine_real_space(
            problem(), np.empty(0), np.eye(3)[None], np.zeros((1, 3)), method="sgd",
            rng=np.random.default_rng(0),
        )  # fmt: skip
