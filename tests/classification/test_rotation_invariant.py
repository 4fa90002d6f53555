"""Rotation-invariant features: those of the slow way, and the same however a particle lies."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
from scipy.spatial.transform import Rotation

from tomodask.classification.features.rotation_invariant import (
    RifSvm,
    RotationInvariant,
    real_harmonics,
)
from tomodask.errors import InputError
from tomodask.simulation.phantom import phantom_particle


def slow_powers(box, degree, radius):
    """One integral after the other, over an even grid of angles."""
    box = (box - box.mean()) / box.std()
    c = box.shape[0] // 2
    cosine, weight = np.polynomial.legendre.leggauss(2 * radius)
    theta, phi = np.arccos(cosine), np.arange(4 * radius) * np.pi / (2 * radius)
    out = np.zeros((radius, degree + 1))
    for r in range(1, radius + 1):
        z = c + r * np.cos(theta)[:, None] + 0 * phi
        y = c + r * np.sin(theta)[:, None] * np.sin(phi)
        x = c + r * np.sin(theta)[:, None] * np.cos(phi)
        values = scipy.ndimage.map_coordinates(box, [z, y, x], order=1)
        for n in range(degree + 1):
            for m in range(-n, n + 1):
                harmonic = harmonic_of(n, m, theta[:, None], phi)
                a = (values * harmonic.conj() * weight[:, None]).sum() * np.pi / (2 * radius)
                out[r - 1, n] += abs(a) ** 2
    return np.arange(1, radius + 1)[:, None] * np.sqrt(out)


def harmonic_of(n, m, theta, phi):
    if hasattr(scipy.special, "sph_harm_y"):
        return scipy.special.sph_harm_y(n, m, theta, phi)
    return scipy.special.sph_harm(m, n, phi, theta)


def test_features_are_those_of_the_slow_way():
    boxes = np.random.default_rng(0).normal(size=(2, 14, 14, 14))
    found = RotationInvariant(3, radius=5).predict_features(boxes)
    wanted = [slow_powers(box, 3, 5).ravel() for box in boxes]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_boxes_are_smoothed_first():
    boxes = np.random.default_rng(0).normal(size=(2, 14, 14, 14))
    smoothed = np.stack([scipy.ndimage.gaussian_filter(box, 1.0) for box in boxes])
    found = RotationInvariant(3, radius=5, smooth=1.0).predict_features(boxes)
    wanted = RotationInvariant(3, radius=5).predict_features(smoothed)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_noise_weighs_alike_at_all_radii():
    boxes = np.random.default_rng(1).normal(size=(60, 24, 24, 24))
    spread = RotationInvariant(3).predict_features(boxes).std(0).reshape(11, 4)
    assert spread[3:].max() < 2 * spread[3:].min()


def test_harmonics_are_orthonormal_and_those_of_scipy():
    cosine, weight = np.polynomial.legendre.leggauss(9)
    phi = np.arange(18) * np.pi / 9
    sine = np.sqrt(1 - cosine**2)[:, None]
    points = np.stack(
        [cosine[:, None] + 0 * phi, sine * np.sin(phi), sine * np.cos(phi)], axis=-1
    ).reshape(-1, 3)
    found = real_harmonics(8, points)
    area = np.repeat(weight * np.pi / 9, 18)
    np.testing.assert_allclose(found * area @ found.T, np.eye(81), atol=1e-12)
    theta = np.arccos(cosine)[:, None]
    for n, m in [(0, 0), (3, 0), (5, 2), (8, 8), (8, 7)]:
        wanted = harmonic_of(n, m, theta, phi).ravel()
        scale = 1 if m == 0 else np.sqrt(2)
        np.testing.assert_allclose(found[n * n + n + m], scale * wanted.real, atol=1e-12)
        if m:
            np.testing.assert_allclose(found[n * n + n - m], scale * wanted.imag, atol=1e-12)


def volumes(kind, count, seed):
    turns = Rotation.random(count, rng=np.random.default_rng(seed))
    phantom = phantom_particle(kind)
    return np.stack(
        [
            phantom.density(box=32, voxel_size=10.0, rotation=turn, shift_zyx=np.zeros(3))
            for turn in turns
        ]
    )


@pytest.mark.parametrize("of", ["density", "amplitude"])
def test_a_turned_particle_has_the_same_features_and_another_has_not(of):
    model = RotationInvariant(8, of=of)
    one, other = (model.predict_features(volumes(k, 5, 1)) for k in ("particle", "decoy"))
    within = max(np.linalg.norm(one - one.mean(0), axis=1))
    between = np.linalg.norm(one.mean(0) - other.mean(0))
    assert within < 0.05 * np.linalg.norm(one.mean(0))
    assert between > 3 * within


def test_amplitudes_do_not_know_shifts():
    box = volumes("particle", 1, 0)
    moved = np.roll(box, (3, -2, 4), axis=(1, 2, 3))
    model = RotationInvariant(6, of="amplitude")
    np.testing.assert_allclose(
        model.predict_features(moved), model.predict_features(box), rtol=1e-4, atol=1e-6
    )
    model = RotationInvariant(6)
    assert not np.allclose(model.predict_features(moved), model.predict_features(box), rtol=0.1)


def test_the_batch_changes_no_bit():
    boxes = np.random.default_rng(0).normal(size=(7, 12, 12, 12)).astype(np.float32)
    model = RotationInvariant(5)
    whole = model.predict_features(boxes)
    parts = [model.predict_features(boxes[i : i + 3]) for i in range(0, 7, 3)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert not model.predict_features(np.ones((1, 12, 12, 12))).any()


def test_the_baseline_tells_kinds_apart_in_noise():
    rng = np.random.default_rng(0)
    kinds = np.repeat(["particle", "decoy"], 20)
    boxes = np.concatenate([volumes("particle", 20, 1), volumes("decoy", 20, 2)])
    boxes = boxes + rng.normal(size=boxes.shape) * boxes.std() * 2
    features = RotationInvariant(6, radius=14).predict_features(boxes)
    train = np.arange(40) % 2 == 0
    machine = RifSvm().fit(features[train], kinds[train])
    assert machine.classes_.tolist() == ["decoy", "particle"]
    assert (machine.predict(features[~train]) == kinds[~train]).mean() >= 0.9


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="degree must be"):
        RotationInvariant(-1)
    with pytest.raises(InputError, match="smooth must be"):
        RotationInvariant(smooth=-1.0)
    with pytest.raises(InputError, match="of must be"):
        RotationInvariant(of="phase")
    with pytest.raises(InputError, match="radius must be within 1 to 5"):
        RotationInvariant(2, radius=8).predict_features(np.zeros((1, 12, 12, 12)))
    with pytest.raises(InputError, match="cubic"):
        RotationInvariant(2).predict_features(np.zeros((1, 12, 12, 10)))
    with pytest.raises(InputError, match="two classes"):
        RifSvm().fit(np.zeros((4, 2)), np.zeros(4))
    with pytest.raises(InputError, match="one a particle"):
        RifSvm().fit(np.zeros((4, 2)), np.zeros(3))
    with pytest.raises(InputError, match="not finite"):
        RifSvm().fit(np.full((4, 2), np.nan), np.arange(4))
    with pytest.raises(InputError, match="not fitted"):
        RifSvm().predict(np.zeros((4, 2)))
