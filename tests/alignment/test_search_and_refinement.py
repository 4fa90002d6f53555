"""The kernels: against sums that define them, finite differences, and exact turns."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tomodask.alignment import refinement, search, steps
from tomodask.alignment.plan import bands, information_radius, plan_alignment, rms_radius
from tomodask.arrays.fourier import measured, wedge
from tomodask.arrays.geometry import angular_distance, matrices_zyx, rotation_grid
from tomodask.arrays.sampling import half_sphere, padded_spectrum, sample, spectrum_at
from tomodask.simulation.phantom import phantom_particle

N, VOXEL, TILTS = 32, 10.0, (-60.0, 50.0)
PHANTOM = phantom_particle()
REFERENCE = PHANTOM.density(box=N, voxel_size=VOXEL)


def turned(rotation, shift_xyz=(0, 0, 0)):
    """The phantom at a pose, exactly; shift in voxels."""
    shift = np.asarray(shift_xyz)[::-1] * VOXEL
    return PHANTOM.density(box=N, voxel_size=VOXEL, rotation=rotation, shift_zyx=shift)


def spectrum_and_frequencies(radius=12.0):
    k = half_sphere(radius)
    k = k[measured(k[:, 0], k[:, 2], TILTS)]
    return padded_spectrum(REFERENCE, radius=radius), k


def draw_pose(rng):
    return Rotation.random(rng=rng), rng.uniform(-2, 2, 3)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=15)
def test_correlation_is_the_constrained_correlation_of_real_space(seed):
    """Reference: filter the exactly turned map by the wedge and the band, correlate voxels."""
    rng = np.random.default_rng(seed)
    (rotation, shift), (other, there) = draw_pose(rng), draw_pose(rng)
    radius = 12.0
    spectrum, k = spectrum_and_frequencies(radius)
    box = turned(other, there) + rng.normal(size=(N,) * 3).astype(np.float32)
    got = refinement.correlation(spectrum, k, spectrum_at(box, k), rotation.as_matrix(), shift)
    axis, half = np.fft.fftfreq(N, 1 / N), np.fft.rfftfreq(N, 1 / N)
    band = axis[:, None, None] ** 2 + axis[:, None] ** 2 + half**2 <= radius**2
    keep = band * wedge((N,) * 3, TILTS)
    keep[0, 0, 0] = 0  # mean-free
    a, b = (
        np.fft.irfftn(np.fft.rfftn(v) * keep, s=(N,) * 3, axes=(0, 1, 2)).ravel()
        for v in (box, turned(rotation, shift))
    )
    assert got == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=0.01)


def test_correlation_of_a_particle_with_itself_is_one():
    rotation, shift = draw_pose(np.random.default_rng(0))
    spectrum, k = spectrum_and_frequencies()
    data = spectrum_at(turned(rotation, shift), k)
    assert refinement.correlation(spectrum, k, data, rotation.as_matrix(), shift) > 0.999


def test_derivatives_against_exactly_turned_boxes():
    """Central differences of the phantom itself, turned about the particle's axes and moved."""
    rotation, shift = draw_pose(np.random.default_rng(5))
    spectrum, k = spectrum_and_frequencies(9.0)
    data = spectrum_at(turned(rotation, shift) + 0.1 * turned(Rotation.identity()), k)
    system = refinement.normal_equations(spectrum, k, data, rotation.as_matrix(), shift)
    columns, h = [], 1e-2
    for axis in np.eye(3):
        up, down = (Rotation.from_rotvec(s * h * axis) * rotation for s in (1, -1))
        columns.append((turned(up, shift) - turned(down, shift)) / (2 * h))
    for axis in np.eye(3):
        up, down = (turned(rotation, shift + s * h * axis) for s in (1, -1))
        columns.append((up - down) / (2 * h))
    columns = [spectrum_at(c, k) for c in (*columns, turned(rotation, shift))] + [data]
    flat = np.array([np.concatenate([c.real, c.imag]) for c in columns], np.float64)
    want = flat @ flat.T
    scale = np.sqrt(np.outer(np.diag(want), np.diag(want)))
    # The slope of a trilinear interpolant is constant within a cell: a few per cent off.
    np.testing.assert_allclose(system / scale, want / scale, atol=0.08)
    np.testing.assert_allclose(
        system[3:, 3:] / scale[3:, 3:], want[3:, 3:] / scale[3:, 3:], atol=0.01
    )


def test_parts_of_the_band_sum_to_the_whole():
    rotation, shift = draw_pose(np.random.default_rng(6))
    spectrum, k = spectrum_and_frequencies(9.0)
    data = spectrum_at(REFERENCE, k)
    args = (spectrum, k, data, rotation.as_matrix(), shift)
    cuts = [0, 1, 127, 130, 700, len(k)]
    parts = [
        refinement.normal_equations(*args, part=slice(a, b)) for a, b in itertools.pairwise(cuts)
    ]
    whole = refinement.normal_equations(*args)
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-4, atol=1e-4 * np.abs(whole).max())


def test_step_solves_the_normal_equations():
    rng = np.random.default_rng(7)
    columns = rng.normal(size=(50, 8))
    columns[:, 7] = columns[:, :7] @ np.array([0.1, -0.2, 0.1, 0.3, 0.1, -0.1, 2.0])
    step = np.zeros(6)
    assert refinement._solve(columns.T @ columns, 9.0, 9.0, step)
    np.testing.assert_allclose(step, np.array([0.1, -0.2, 0.1, 0.3, 0.1, -0.1]) / 2.0)
    assert refinement._solve(columns.T @ columns, 0.06, 0.1, step)  # limits
    assert np.linalg.norm(step[:3]) <= 0.06 + 1e-12
    assert np.linalg.norm(step[3:]) <= 0.1 + 1e-12
    against = columns.copy()
    against[:, 7] = -columns[:, 6]
    assert not refinement._solve(against.T @ against, 9.0, 9.0, step)


def test_a_turn_is_the_exponential():
    rng = np.random.default_rng(8)
    rotation, step = Rotation.random(rng=rng), rng.normal(size=6) * 0.3
    out = np.empty((3, 3))
    steps.turned_by(step, rotation.as_matrix(), out)
    np.testing.assert_allclose(out, (Rotation.from_rotvec(step[:3]) * rotation).as_matrix())


@pytest.mark.parametrize("batches", [1, 3])
def test_descent_ends_at_the_pose_without_noise(batches):
    rng = np.random.default_rng(9)
    plan = plan_alignment(REFERENCE, tilt_range=TILTS, angular_step=20.0, shift_range=3.0)
    stage = plan.stages[-1]
    stage = refinement.Stage(stage.frequencies, stage.index, batches, 12)
    for _ in range(10):
        rotation, shift = draw_pose(rng)
        data = spectrum_at(turned(rotation, shift), stage.frequencies)
        start = Rotation.from_rotvec(np.deg2rad(3) * rng.choice([-1, 1], 3)) * rotation
        matrix, moved = refinement.refine_pose(
            plan.spectrum,
            stage,
            data,
            start.as_matrix(),
            shift + rng.uniform(-0.4, 0.4, 3),
            rng=rng,
            turn_limit=0.2,
            shift_limit=1.0,
        )
        assert angular_distance(Rotation.from_matrix(matrix), rotation) < 0.3
        np.testing.assert_allclose(moved, shift, atol=0.03)


def test_candidates_against_a_loop_over_the_grid():
    spectrum, k = spectrum_and_frequencies(5.0)
    rotations = rotation_grid(count=60)
    grid = search.search_grid(
        spectrum, k, np.arange(len(k)), rotations, 3.0, separation=np.deg2rad(10)
    )
    shifts = grid.shifts_xyz
    assert len(shifts) == 27
    assert not grid.levels  # too few rotations to sort out
    rng = np.random.default_rng(10)
    data = spectrum_at(turned(*draw_pose(rng)) + rng.normal(size=(N,) * 3), k)
    want = np.empty((len(shifts), len(rotations)))
    for j, matrix in enumerate(matrices_zyx(rotations)):
        model = sample(spectrum, k, matrix.T)
        for i, shift in enumerate(shifts):
            moved = model * np.exp(-2j * np.pi / N * (k[:, ::-1] @ shift))
            want[i, j] = np.vdot(moved, data).real / np.linalg.norm(moved) / np.linalg.norm(data)
    matrices, moves, scores = search.candidate_poses(grid, data, count=5)
    i, j = np.unravel_index(want.argmax(), want.shape)
    assert scores[0] == pytest.approx(want.max(), abs=1e-4)
    np.testing.assert_allclose(matrices[0], rotations[j].as_matrix())
    np.testing.assert_allclose(moves[0], shifts[i])
    assert (np.diff(scores) <= 1e-6).all()
    poses = Rotation.from_matrix(matrices)
    for a in range(5):
        for b in range(a):
            assert angular_distance(poses[a], poses[b]) >= 10


@pytest.mark.parametrize(("reach", "step"), [(0.0, 1.0), (3.2, 2.5), (6.4, 2.0), (1.0, 5.0)])
def test_shifts_cover_the_range(reach, step):
    shifts = search.shift_grid(reach, step)
    some = np.random.default_rng(0).uniform(-reach, reach, (200, 3))
    off = np.abs(some[:, None] - shifts).max(-1).min(1).max()
    assert off <= max(step, 1e-9) / 2 + 1e-9


def test_bands_grow_to_the_last():
    assert bands(8.0, 16.0) == [8.0, 12.0, 16.0]
    assert bands(8.0, 8.0) == [8.0]
    assert bands(5.0, 30.0)[0] == 5.0
    assert bands(5.0, 30.0)[-1] == 30.0
    assert (np.diff(bands(5.0, 30.0)) > 0).all()


def test_radii_of_a_gaussian():
    axis = np.arange(32) - 16
    r2 = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    gauss = np.exp(-r2 / (2 * 3.0**2))
    assert rms_radius(gauss) == pytest.approx(3.0 * np.sqrt(1.5), rel=1e-3)
    # |r(k)|² k² of k² dk: a chi distribution with 5 degrees of freedom, its 99.5 % point at 4.09.
    width = 32 / (2 * np.pi * 3.0 * np.sqrt(2))
    assert information_radius(gauss) == pytest.approx(4.09 * width, abs=1.0)
