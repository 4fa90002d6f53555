"""The phantom: turned exactly, as noisy as it says, seen through the wedge it says."""

import numpy as np
import pytest
import scipy.ndimage
from scipy.spatial.transform import Rotation

from tomodask.arrays.fourier import wedge
from tomodask.arrays.geometry import matrices_zyx
from tomodask.data.particles import orientations
from tomodask.errors import InputError
from tomodask.simulation.phantom import (
    phantom_map,
    phantom_particle,
    phantom_subtomograms,
    phantom_tomogram,
)


@pytest.mark.parametrize("box", [40, 41])
def test_turning_is_turning_about_the_box_centre(box):
    """Reference: the untilted map, resampled at the turned voxels by splines."""
    rotation = Rotation.random(rng=np.random.default_rng(0))
    phantom = phantom_particle()
    grid = np.stack(np.meshgrid(*[np.arange(box) - box // 2] * 3, indexing="ij"))
    there = np.einsum("ij,jzyx->izyx", matrices_zyx(rotation).T, grid) + box // 2
    plain = phantom.density(box=box, voxel_size=10.0)
    want = scipy.ndimage.map_coordinates(plain, there, order=5)
    got = phantom.density(box=box, voxel_size=10.0, rotation=rotation)
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.999


def test_a_shift_moves_by_angstrom():
    phantom = phantom_particle()
    plain = phantom.density(box=40, voxel_size=10.0)
    moved = phantom.density(box=40, voxel_size=10.0, shift_zyx=(20.0, -10.0, 30.0))
    np.testing.assert_allclose(np.roll(plain, (2, -1, 3), (0, 1, 2)), moved, atol=1e-4)


def test_particle_and_decoy_are_centred_and_of_one_mass():
    masses = []
    for kind in ("particle", "decoy"):
        volume = phantom_map(kind=kind).to_numpy().astype(np.float64)
        assert np.abs(scipy.ndimage.center_of_mass(volume) - np.full(3, 20)).max() < 0.05
        masses.append(volume.sum())
    assert masses[0] == pytest.approx(masses[1], rel=1e-3)
    with pytest.raises(ValueError, match="got 'other'"):
        phantom_particle("other")


def test_particle_has_no_symmetry():
    """No turn of 180° or 120° about any of many axes brings it back."""
    volume = phantom_map().to_numpy().ravel()
    axes = Rotation.random(60, rng=np.random.default_rng(1)).apply([0, 0, 1])
    for axis in axes:
        for angle in (np.pi, 2 * np.pi / 3):
            turned = phantom_particle().density(
                box=40, voxel_size=10.0, rotation=Rotation.from_rotvec(angle * axis)
            )
            assert np.corrcoef(volume, turned.ravel())[0, 1] < 0.85


@pytest.mark.parametrize("snr", [0.1, 0.01])
def test_boxes_have_the_snr_and_the_wedge_that_they_say(snr):
    tilts = (-60.0, 45.0)
    boxes, truth = phantom_subtomograms(4, box=48, voxel_size=8.0, snr=snr, tilt_range=tilts)
    seen = wedge((48,) * 3, tilts)
    for box, turn, (_, row) in zip(boxes, orientations(truth), truth.iterrows(), strict=True):
        shift = row[["shift_z", "shift_y", "shift_x"]].to_numpy(float)
        clean = phantom_particle().density(box=48, voxel_size=8.0, rotation=turn, shift_zyx=shift)
        filtered = np.fft.rfftn(box)
        assert (np.abs(filtered[seen == 0]) ** 2).sum() < 1e-6 * (np.abs(filtered) ** 2).sum()
        left = filtered - np.fft.rfftn(clean - clean.mean()) * seen
        noise = (np.abs(left[..., 1:-1]) ** 2).sum() / (seen[..., 1:-1].sum() * 48**3)
        assert clean.var() / noise == pytest.approx(snr, rel=0.05)


def test_a_particle_is_the_same_in_any_set():
    few, some = phantom_subtomograms(2, box=24), phantom_subtomograms(5, box=24)
    np.testing.assert_array_equal(few[0], some[0][:2])
    assert few[1].equals(some[1].iloc[:2])


def test_tomogram_is_reproducible_and_its_particles_lie_apart_inside():
    shape = (60, 100, 90)
    one, truth = phantom_tomogram(shape, particles=6, decoys=2, seed=3)
    two, again = phantom_tomogram(shape, particles=6, decoys=2, seed=3)
    np.testing.assert_array_equal(one, two)
    assert truth.equals(again)
    assert not np.array_equal(one, phantom_tomogram(shape, particles=6, decoys=2, seed=4)[0])
    assert truth["kind"].value_counts().to_dict() == {"particle": 6, "decoy": 2}
    zyx = truth[["z", "y", "x"]].to_numpy()
    gap = np.linalg.norm(zyx[:, None] - zyx, axis=-1)
    assert gap[np.triu_indices(8, 1)].min() >= 250
    assert (zyx > 120).all()
    assert (zyx < np.array(shape) * 10.0 - 120).all()
    assert one.attrs["tilt_range"] == (-60.0, 60.0)


def test_tomogram_holds_the_particles_at_their_poses():
    tomogram, truth = phantom_tomogram((60, 100, 90), particles=5, decoys=0, snr=1e9, seed=2)
    volume = tomogram.to_numpy()
    for (_, row), turn in zip(truth.iterrows(), orientations(truth), strict=True):
        at = np.rint(row[["z", "y", "x"]].to_numpy(float) / 10).astype(int)
        here = tuple(slice(max(c - 14, 0), c + 15) for c in at)
        rest = row[["z", "y", "x"]].to_numpy(float) - at * 10
        want = phantom_particle().density(box=41, voxel_size=10.0, rotation=turn, shift_zyx=rest)
        cut = tuple(
            slice(s.start - c + 20, min(s.stop, n) - c + 20)
            for s, c, n in zip(here, at, volume.shape, strict=True)
        )
        assert np.corrcoef(volume[here].ravel(), want[cut].ravel())[0, 1] > 0.6  # the wedge


def test_says_what_does_not_fit():
    with pytest.raises(InputError, match=r"of 500 particles fit into \(60, 60, 60\)"):
        phantom_tomogram((60, 60, 60), particles=500, decoys=0)
    with pytest.raises(InputError, match="at least 40 voxels along each axis"):
        phantom_tomogram((30, 60, 60))


def test_the_same_bits_on_any_number_of_threads():
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        one = phantom_particle().density(box=64, voxel_size=5.0)
    with threadpool_limits(2):
        two = phantom_particle().density(box=64, voxel_size=5.0)
    assert np.array_equal(one, two)


@pytest.mark.parametrize("voxel_size", [4.0, 10.0, 20.0, 33.0])
@pytest.mark.parametrize("kind", ["particle", "decoy"])
def test_a_map_holds_all_of_the_phantom(voxel_size, kind):
    volume = phantom_map(voxel_size=voxel_size, kind=kind).to_numpy()
    faces = [np.take(volume, (0, -1), axis=axis).max() for axis in range(3)]
    assert max(faces) < 1e-3 * volume.max()
