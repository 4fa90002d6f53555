"""Maps made references, laid on each other, and a start without one."""

import dask
import numpy as np
import pandas as pd
import pytest
from alignment.scenes import VOXEL, boxes
from scipy.spatial.transform import Rotation

from tomodask.alignment.checks import box_fault
from tomodask.arrays.fourier import shell_correlation
from tomodask.arrays.sampling import half_sphere, soft_sphere, spectrum_at
from tomodask.arrays.symmetry import reduced, symmetry_group
from tomodask.averaging.averages import average_subtomograms
from tomodask.averaging.map_filters import (
    centred,
    from_half_sphere,
    half_map_weights,
    low_pass_weights,
    moved,
    shell_weighted,
)
from tomodask.data.subtomogram_table import particle_table
from tomodask.errors import InputError
from tomodask.rounds.axes import find_axes, symmetrised
from tomodask.rounds.start import coarse_boxes, first_map
from tomodask.rounds.superposition import (
    Motion,
    _settings,
    correlation_under,
    superpose,
    turned_map,
    with_motion,
)
from tomodask.simulation.phantom import phantom_particle

TURN = Rotation.from_euler("xyz", [20.0, 50.0, 100.0], degrees=True)
NEAR = Rotation.from_euler("xyz", [4.0, -7.0, 5.0], degrees=True)
SHIFT = np.array([5.0, -8.0, 12.0])  # xyz, Å


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="sync"):
        yield


def phantom(turn=None, shift_xyz=(0.0, 0.0, 0.0), box=32):
    return phantom_particle().density(
        box=box, voxel_size=VOXEL, rotation=turn, shift_zyx=np.asarray(shift_xyz)[::-1]
    )


def compute(collection, label):
    return dask.compute(collection)[0]


def angle(a, b):
    return np.rad2deg((a.inv() * b).magnitude())


@pytest.mark.parametrize("n", [16, 17])
def test_shells_are_weighted_one_by_one(n):
    volume = np.random.default_rng(0).normal(size=(n, n, n))
    weights = np.random.default_rng(1).random(n // 2 + 1)
    out = np.fft.fftn(shell_weighted(volume, weights))
    before = np.fft.fftn(volume)
    k = np.fft.fftfreq(n) * n
    for z, y, x in [(0, 0, 0), (1, 2, -3), (0, 5, 1), (7, 0, 0), (3, 3, 3), (7, 7, 7)]:
        r = np.sqrt(k[z] ** 2 + k[y] ** 2 + k[x] ** 2)
        low = int(r)
        if r > n // 2:
            w = 0.0
        else:
            high = min(low + 1, n // 2)
            w = weights[low] + (r - low) * (weights[high] - weights[low])
        assert out[z, y, x] == pytest.approx(w * before[z, y, x], abs=1e-3)


def test_the_filter_of_a_half_map_is_wieners():
    """It brings a noisy map as near to the truth as any weight of shells can."""
    rng = np.random.default_rng(2)
    signal = phantom()
    noisy = [signal + 2.0 * signal.std() * rng.normal(size=signal.shape) for _ in range(2)]
    curve = pd.DataFrame({"correlation": shell_correlation(*noisy)})
    weights = half_map_weights(curve)
    assert weights.min() >= 0
    assert (np.diff(np.flatnonzero(weights)) == 1).all()

    def misfit(w):
        return ((shell_weighted(noisy[0], w) - signal) ** 2).sum()

    best = misfit(weights)
    assert best < 0.5 * misfit(np.ones(17))
    for other in (np.sqrt(weights), weights**2, 0.8 * weights, 1.2 * weights):
        assert best < 1.05 * misfit(other)


def test_low_pass_leaves_coarse_and_takes_fine():
    weights = low_pass_weights(32, voxel_size=VOXEL, resolution=40.0)
    assert (weights[:9] == 1).all()
    assert (weights[10:] == 0).all()


def test_whole_moves_are_rolls_and_half_spheres_hold_everything():
    volume = np.random.default_rng(0).normal(size=(8, 8, 8))
    np.testing.assert_allclose(
        moved(volume, [1, -2, 3]), np.roll(volume, (1, -2, 3), (0, 1, 2)), atol=1e-5
    )
    k = half_sphere(3.9)
    values = np.random.default_rng(1).normal(size=(len(k), 2)) @ [1, 1j]
    back = spectrum_at(from_half_sphere(values, k, 9), k)
    np.testing.assert_allclose(back, values, atol=1e-4)


def test_a_map_is_centred():
    volume = centred(moved(phantom(), [2.0, -1.5, 1.0]))
    power = (volume * soft_sphere(32, 13, edge=2.0)).astype(float) ** 2
    axis = np.arange(32) - 16
    for others in ((1, 2), (0, 2), (0, 1)):
        assert abs(power.sum(others) @ axis / power.sum()) < 0.15


@pytest.mark.parametrize(("turn", "everywhere"), [(NEAR, False), (TURN, True)])
def test_finds_the_motion_between_two_maps(turn, everywhere):
    a, b = phantom(), phantom(turn, SHIFT)
    motion = superpose(
        a, b, voxel_size=VOXEL, resolution=30.0, everywhere=everywhere, shift_range=20.0
    )
    assert angle(motion.rotation, turn) < 0.2
    np.testing.assert_allclose(motion.shift_xyz, SHIFT, atol=0.5)
    assert motion.score > 0.99
    back = turned_map(b, motion, voxel_size=VOXEL)
    assert np.corrcoef(back.ravel(), a.ravel())[0, 1] > 0.99


def test_noise_does_not_turn_maps_that_lie_on_each_other():
    """Sampled at whole frequencies of one map, noise made them seem a degree apart, for ever."""
    rng = np.random.default_rng(0)
    noise = [2.0 * rng.normal(size=(32,) * 3).astype(np.float32) * phantom().std() for _ in "ab"]
    a, b = phantom() + noise[0], phantom() + noise[1]
    own = {"voxel_size": VOXEL, "resolution": 30.0, "diameter": 260.0}
    motion, other = superpose(a, b, **own), superpose(b, a, **own)
    assert angle(motion.rotation, other.rotation.inv()) < 0.05
    again = superpose(a, turned_map(b, motion, voxel_size=VOXEL), **own)
    assert again.angle < 0.2
    assert again.length < 0.5


def test_a_symmetric_map_turns_about_its_axis_only():
    flat = symmetrised(phantom(), "C4", voxel_size=VOXEL, resolution=25.0)
    about = Rotation.from_euler("z", 12.0, degrees=True)
    there = Motion(about.inv(), np.array([0.0, 0.0, -6.0]), 1.0)
    other = turned_map(flat, there, voxel_size=VOXEL)
    motion = superpose(flat, other, voxel_size=VOXEL, resolution=30.0, symmetry="C4")
    assert angle(motion.rotation, about) < 0.2
    np.testing.assert_allclose(motion.shift_xyz, [0, 0, 6.0], atol=0.4)
    over = Rotation.from_quat([1, 0, 0, 0])
    upside = turned_map(flat, Motion(over.inv(), np.zeros(3), 1.0), voxel_size=VOXEL)
    flipped = superpose(
        flat, upside, voxel_size=VOXEL, resolution=30.0, symmetry="C4", everywhere=True
    )
    assert flipped.score > 0.98
    assert abs(flipped.rotation.as_matrix()[2, 2] + 1) < 1e-6


@pytest.mark.parametrize(
    ("group", "count"), [("D2", 6), ("D3", 2), ("D7", 2), ("T", 2), ("O", 1), ("I", 1)]
)
def test_settings_lay_the_axes_of_a_group_on_its_own(group, count):
    turns, settings = symmetry_group(group), _settings(group)
    assert len(settings) == count
    assert settings[0].magnitude() == 0
    for one in settings:
        laid = one * turns * one.inv()
        assert reduced(laid, turns).magnitude().max() < 1e-6
        apart = [reduced(other.inv() * one, turns).magnitude() for other in settings]
        assert sum(angle < 1e-6 for angle in apart) == 1


@pytest.mark.parametrize(
    ("group", "turn"),
    [("D2", [120.0, 1, 1, 1]), ("D3", [60.0, 0, 0, 1]), ("D3", [180.0, 0, 1, 0])],
)
def test_a_map_with_twofold_axes_is_found_in_its_other_setting(group, turn):
    """Turned by 180°/n a Dn particle has its axes in the same places, and is another sight."""
    flat = symmetrised(phantom(), group, voxel_size=VOXEL, resolution=25.0)
    rotation = Rotation.from_rotvec(
        turn[0] * np.array(turn[1:]) / np.linalg.norm(turn[1:]), degrees=True
    )
    other = turned_map(flat, Motion(rotation.inv(), np.zeros(3), 1.0), voxel_size=VOXEL)
    own = {"voxel_size": VOXEL, "resolution": 30.0}
    motion = superpose(flat, other, symmetry=group, everywhere=True, **own)
    assert motion.score > 0.99
    turns = symmetry_group(group)
    assert np.rad2deg(reduced(motion.rotation.inv() * rotation, turns).magnitude()) < 1e-3
    assert motion.length == 0
    assert superpose(flat, other, symmetry=group, **own).angle == 0
    assert superpose(flat, other, symmetry=group, **own).score < 0.95
    assert superpose(flat, flat, symmetry=group, everywhere=True, **own).angle == 0


def test_correlation_under_a_motion_is_that_of_the_maps_turned_back():
    a, b = phantom(), phantom(NEAR, SHIFT)
    own = {"voxel_size": VOXEL, "resolution": 30.0}
    found = superpose(a, b, **own)
    assert correlation_under(found, a, b, **own) == pytest.approx(found.score)
    still = Motion(Rotation.identity(), np.zeros(3), 1.0)
    assert correlation_under(still, a, a, **own) == pytest.approx(1.0)
    assert correlation_under(still, a, b, **own) < 0.9


def test_poses_follow_a_motion():
    """Averaged at the poses that follow, boxes show the map in the other frame."""
    dataset, truth, _ = boxes(12, snr=5.0)
    table = truth.assign(half=[1, 2] * 6)
    motion = Motion(NEAR, SHIFT, 1.0)
    table.index.name = "particle"
    dataset = dataset.drop_vars("image")
    # The boxes show `phantom` at the truth: as `moving`, it is the phantom moved back.
    fixed = average_subtomograms(dataset, poses=with_motion(table, motion)).compute().average
    wanted = turned_map(phantom(), motion, voxel_size=VOXEL)
    inside = soft_sphere(32, 13, edge=2.0)
    correlation = np.corrcoef((fixed * inside).ravel(), (wanted * inside).ravel())[0, 1]
    assert correlation > 0.97


@pytest.mark.parametrize("group", ["C4", "D3"])
def test_finds_the_axes_of_a_symmetric_map(group):
    flat = symmetrised(phantom(), group, voxel_size=VOXEL, resolution=25.0)
    lying = turned_map(flat, Motion(TURN.inv(), -TURN.inv().apply(SHIFT), 1.0), voxel_size=VOXEL)
    motion = find_axes(lying, group, voxel_size=VOXEL, resolution=40.0)
    assert motion.score > 0.97
    upright = turned_map(lying, motion, voxel_size=VOXEL)
    alike = symmetrised(upright, group, voxel_size=VOXEL, resolution=25.0)
    assert np.corrcoef(alike.ravel(), upright.ravel())[0, 1] > 0.97
    assert find_axes(phantom(), group, voxel_size=VOXEL, resolution=40.0).score < 0.9


def test_coarse_boxes_show_the_same_and_know_no_chunks():
    dataset, _, _ = boxes(5, box=64)
    small = coarse_boxes(dataset, 160.0)
    assert small["subtomogram"].shape == (5, 24, 24, 24)
    assert small.attrs["voxel_size"] == pytest.approx(64 * VOXEL / 24)
    assert particle_table(small).equals(particle_table(dataset))
    other = coarse_boxes(dataset.chunk(particle=3, z=20), 160.0)
    np.testing.assert_array_equal(other["subtomogram"].to_numpy(), small["subtomogram"].to_numpy())
    k = half_sphere(8)
    a = spectrum_at(dataset["subtomogram"][1].to_numpy(), k)
    b = spectrum_at(small["subtomogram"][1].to_numpy(), k) * (64 / 24) ** 3
    np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(a).max())
    assert coarse_boxes(dataset, 20.0) is dataset


def test_particles_find_their_own_first_map():
    dataset, _, reference = boxes(24, snr=0.1)
    start = first_map(dataset, attempts=2, rounds=3, shift_range=30.0, compute=compute)
    assert start.volume.shape == (32, 32, 32)
    assert start.attempts["chosen"].sum() == 1
    assert start.attempts["particle"].is_unique
    low = low_pass_weights(32, voxel_size=VOXEL, resolution=60.0)
    motion = superpose(
        shell_weighted(np.asarray(reference), low), start.volume, voxel_size=VOXEL,
        resolution=60.0, everywhere=True, shift_range=60.0,
    )  # fmt: skip
    assert motion.score > 0.93
    again = first_map(
        dataset.chunk(particle=7), attempts=2, rounds=3, shift_range=30.0, compute=compute
    )
    np.testing.assert_array_equal(again.volume, start.volume)


def test_a_start_leaves_out_boxes_that_hold_nothing():
    dataset, _, _ = boxes(8, snr=1.0)
    values = dataset["subtomogram"].to_numpy().copy()
    values[[1, 5]] = 3.0
    values[2, 4, 4, 4] = np.nan
    damaged = dataset.assign(subtomogram=(dataset["subtomogram"].dims, values))
    sound = [0, 3, 4, 6, 7]
    found = first_map(damaged, attempts=9, rounds=1, compute=compute)
    assert sorted(found.attempts["particle"]) == sound
    alone = first_map(dataset.isel(particle=sound), attempts=9, rounds=1, compute=compute)
    np.testing.assert_allclose(
        found.attempts.set_index("particle")["score_1"].sort_index().to_numpy(),
        alone.attempts.set_index("particle")["score_1"].sort_index().to_numpy(),
        atol=0.02,
    )
    with pytest.raises(InputError, match="of 4 drawn the boxes of 2 hold NaN or one value"):
        first_map(damaged.isel(particle=[0, 1, 2, 3]), compute=compute)


def test_boxes_that_hold_nothing_hold_nothing_in_larger_voxels():
    dataset, _, _ = boxes(3, box=64)
    values = dataset["subtomogram"].to_numpy().copy()
    values[0], values[1, 0, 0, 0] = 0.1, np.inf
    small = coarse_boxes(dataset.assign(subtomogram=(dataset["subtomogram"].dims, values)), 160.0)
    faults = [box_fault(box) > 0 for box in small["subtomogram"].to_numpy()]
    assert faults == [True, True, False]


def test_a_start_needs_particles():
    dataset, _, _ = boxes(3)
    with pytest.raises(InputError, match="needs at least 4 particles, got 3; give a reference"):
        first_map(dataset, compute=compute)
