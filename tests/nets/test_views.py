"""Random views of boxes: where things come to lie, what is measured, and seeds."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tomodask.arrays.fourier import frequency_grid, wedge
from tomodask.errors import InputError
from tomodask.nets.boxes.normalisation import normalised
from tomodask.nets.boxes.views import Lens, Views, view

STILL = {"crop_probability": 0.0, "affine_probability": 0.0}
WHICH = {"seed": 1, "epoch": 2, "particle": 3}


def blob(at, n=32, width=2.0):
    z, y, x = np.indices((n, n, n))
    r2 = (z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2
    return np.exp(-r2 / (2 * width**2))


def center(box):
    weight = np.clip(box - box.max() / 2, 0, None)
    return np.array(ndimage.center_of_mass(weight))


def noise(n=24, seed=0):
    return np.random.default_rng(seed).normal(3, 5, size=(n, n, n))


def test_a_view_depends_on_seed_epoch_particle_and_number_alone():
    box = noise()
    one = view(box, Views(), **WHICH)
    assert np.array_equal(one, view(box.copy(), Views(), **WHICH))
    assert one.dtype == np.float32
    assert abs(one.mean()) < 1e-5
    assert one.std() == pytest.approx(1, abs=1e-5)
    views = [view(box, Views(crop_probability=1), **{**WHICH, k: 9}) for k in WHICH]
    views.append(view(box, Views(crop_probability=1), **WHICH, number=1))
    views.append(view(box, Views(crop_probability=1), **WHICH))
    for i, first in enumerate(views):
        assert not any(np.array_equal(first, other) for other in views[i + 1 :])


def test_nothing_asked_for_is_the_box_normalised():
    box = noise()
    np.testing.assert_array_equal(view(box, Views(**STILL), **WHICH), normalised(box[None])[0])


def test_half_of_the_views_are_cropped_and_half_are_moved():
    box = noise(8)
    same = normalised(box[None])[0]
    still = {"affine": 0, "crop": 0, "both": 0}
    for particle in range(200):
        which = {**WHICH, "particle": particle}
        for name, views in (
            ("affine", Views(crop_probability=0)),
            ("crop", Views(affine_probability=0)),
            ("both", Views()),
        ):
            still[name] += np.array_equal(view(box, views, **which), same)
    assert 75 <= still["affine"] <= 125
    assert 75 <= still["crop"] <= 125
    assert 30 <= still["both"] <= 70


def test_turns_about_z_and_shifts_keep_heights():
    """A blob stays at its height and, but for the shift, at its distance from the beam's axis."""
    at = np.array([10.0, 16.0, 24.0])
    views = Views(crop_probability=0, affine_probability=1, scaling=(1, 1), translation=0)
    angles = []
    for particle in range(30):
        found = center(view(blob(at), views, **{**WHICH, "particle": particle}))
        assert found[0] == pytest.approx(10, abs=0.1)
        assert np.hypot(*(found[1:] - 16)) == pytest.approx(8, abs=0.15)
        angles.append(np.rad2deg(np.arctan2(found[1] - 16, found[2] - 16)))
    assert max(angles) <= 46
    assert min(angles) >= -46
    assert max(angles) - min(angles) > 60
    moved = Views(crop_probability=0, affine_probability=1, scaling=(1, 1), rotation=0)
    places = [center(view(blob(at), moved, **{**WHICH, "particle": p})) - at for p in range(30)]
    assert np.abs(places).max(0)[0] < 0.1
    assert 2 < np.abs(places)[:, 1:].max() < 3.4


def test_scaling_and_crops_enlarge():
    views = Views(crop_probability=0, affine_probability=1, rotation=0, translation=0,
                  scaling=(1.1, 1.1))  # fmt: skip
    found = center(view(blob((16, 16, 24)), views, **WHICH))
    np.testing.assert_allclose(found, [16, 16, 16 + 8 * 1.1], atol=0.1)
    views = Views(crop=(0.5, 0.5), crop_probability=1, affine_probability=0)
    edge = 0.5 ** (1 / 3)
    one, other = (center(view(blob((16, 16, x)), views, **WHICH)) for x in (15.0, 17.0))
    np.testing.assert_allclose(other - one, [0, 0, 2 / edge], atol=0.1)


def test_a_turn_moves_points_as_a_rotation_does():
    """Three blobs keep their distances and their handedness."""
    points = np.array([[16.0, 16, 23], [16, 22, 16], [21, 16, 16]])
    views = Views(**STILL, turn=180)
    found = np.array([center(view(blob(p), views, **WHICH)) for p in points]) - 16
    turn, rest = Rotation.align_vectors(found[:, ::-1], (points - 16)[:, ::-1])
    assert rest < 0.3
    assert turn.magnitude() > 0.1


def test_what_a_tilt_series_does_not_measure_is_taken_away():
    box = view(noise(), Views(**STILL, tilts=(50, 50)), **WHICH)
    power = np.abs(np.fft.rfftn(box.astype(float))) ** 2
    power[0, 0, 0] = 0
    inside = wedge(box.shape, (-50, 50)) > 0
    assert power[~inside].sum() < 1e-6 * power.sum()
    assert (power[inside] > 0).mean() > 0.99


def test_a_turn_takes_the_wedge_along():
    """Directions about the beam, which were empty, are not after a turn about another axis."""
    n = 32
    noisy = np.random.default_rng(4).normal(size=(n, n, n))
    box = np.fft.irfftn(np.fft.rfftn(noisy) * wedge((n, n, n), (-45, 45)))
    turned = view(box, Views(**STILL, turn=180), **WHICH)
    kz, ky, kx = frequency_grid((n, n, n))
    low = (kz**2 + ky**2 + kx**2) < 0.25**2
    steep = low & (np.abs(kz) > 1.2 * np.abs(kx))

    def share(values):
        power = np.abs(np.fft.rfftn(values.astype(float))) ** 2
        return power[steep].mean() / power[low].mean()

    assert share(box) < 1e-6
    assert share(turned) > 0.1


def test_another_defocus_changes_contrast_as_another_lens_does():
    lens = Lens(voxel_size=10.0, defocus=30000.0)
    box = noise()
    views = Views(**STILL, defocus=5000.0)
    changed = view(box, views, **WHICH, lens=lens)
    assert not np.allclose(changed, normalised(box[None])[0], atol=0.1)
    same = view(box, Views(**STILL, defocus=1e-6), **WHICH, lens=lens)
    before = np.fft.rfftn(normalised(box[None])[0].astype(float))
    before[0, 0, 0] = 1
    ratio = np.fft.rfftn(same.astype(float)) / before
    # Of the same lens only the zeros are weakened, and no phase is moved.
    assert np.abs(ratio.imag).max() < 1e-3
    assert ratio.real.min() > -1e-3
    assert np.median(ratio.real) > 0.5 * ratio.real.max()
    with pytest.raises(InputError, match=r"defocus: to change it.*lens"):
        view(box, views, **WHICH)


def test_noise_is_added_up_to_its_share():
    box = noise()
    clean = normalised(box[None])[0]
    likeness = [
        np.corrcoef(
            clean.ravel(), view(box, Views(**STILL, noise=1.0), **{**WHICH, "epoch": e}).ravel()
        )[0, 1]
        for e in range(20)
    ]
    assert min(likeness) > 0.68
    assert max(likeness) > 0.95
    assert min(likeness) < 0.85


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"crop": (0.9, 0.5)}, "crop must be two shares"),
        ({"crop_probability": 1.5}, "crop_probability must be from 0 to 1, got 1.5"),
        ({"rotation": 200}, "rotation must be from 0 to 180°, got 200"),
        ({"scaling": (0.1, 1)}, "scaling must be two factors"),
        ({"translation": 0.7}, "translation must be from 0 to 0.5, got 0.7"),
        ({"tilts": (60, 50)}, "tilts must be two angles"),
        ({"noise": -1}, "noise must be at least 0, got -1"),
    ],
)
def test_bad_input(changed, told):
    with pytest.raises(InputError, match=told):
        Views(**changed)
