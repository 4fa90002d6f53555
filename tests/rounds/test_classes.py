"""Who belongs to which class, and what becomes of empty and equal ones."""

import dask
import numpy as np
import pytest
from alignment.scenes import boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds.mixtures import VOXEL, mixture
from scipy.spatial.transform import Rotation

from tomodask.arrays.fourier import measured
from tomodask.arrays.sampling import half_sphere, spectrum_at
from tomodask.averaging.map_filters import low_pass_weights, shell_weighted
from tomodask.data.subtomogram_table import particle_table
from tomodask.errors import InputError
from tomodask.rounds.axes import symmetrised
from tomodask.rounds.class_start import class_maps, divided, looks
from tomodask.rounds.classes import (
    check_classes,
    class_shares,
    equal_classes,
    fill_empty,
    measured_values,
    posteriors,
    reassigned,
    short_classes,
)
from tomodask.rounds.superposition import Motion, turned_map
from tomodask.simulation.phantom import phantom_particle


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="sync"):
        yield


def compute(collection, label):
    return dask.compute(collection)[0]


def density(kind="particle", turn=None):
    return phantom_particle(kind).density(box=32, voxel_size=VOXEL, rotation=turn)


def slow_posterior(scores, values, shares):
    likely = [
        share * (1 - score**2) ** (-values / 2) for score, share in zip(scores, shares, strict=True)
    ]
    return np.array(likely) / sum(likely)


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 0.9), min_size=3, max_size=3),
    st.floats(1, 100),
    st.lists(st.floats(0.1, 1), min_size=3, max_size=3),
)
def test_posteriors_are_bayes_rule(scores, values, shares):
    found = posteriors(np.array([scores]), np.array([values]), np.array(shares))[0]
    wanted = slow_posterior(scores, values, shares)
    np.testing.assert_allclose(found, np.where(wanted < 1e-3, 0, wanted), atol=4e-3)
    assert found.sum() == pytest.approx(1)


def test_probabilities_say_no_more_than_is_so():
    """Of two classes, particles are of the likelier one as often as it says, or more so."""
    rng = np.random.default_rng(0)
    models = rng.normal(size=(2, 40))
    kind = np.repeat([0, 1], 1500)
    data = models[kind] * 0.35 + rng.normal(size=(3000, 40))
    unit = models / np.linalg.norm(models, axis=1, keepdims=True)
    scores = data @ unit.T / np.linalg.norm(data, axis=1, keepdims=True)
    p = posteriors(scores, np.full(3000, 40.0), np.ones(2))[:, 0]
    right = np.where(p > 0.5, kind == 0, kind == 1)
    sure = np.maximum(p, 1 - p)
    for low in (0.5, 0.6, 0.7, 0.8, 0.9):
        here = (sure >= low) & (sure < low + 0.1)
        assert right[here].mean() > sure[here].mean() - 0.05
    assert right.mean() > 0.85


def test_measured_values_are_twice_the_voxels_of_the_wedge():
    dataset, _, _ = boxes(3)
    k = half_sphere(32 * VOXEL / 40.0)
    seen = measured(k[:, 0], k[:, 2], (-60.0, 60.0)).sum()
    found = measured_values(
        particle_table(dataset), dataset.attrs, box=32, voxel_size=VOXEL, resolution=40.0
    )
    assert found.tolist() == [2 * seen] * 3


def test_an_empty_class_takes_the_worst_of_the_largest():
    weights = np.eye(3)[[0] * 8 + [1] * 4]
    scores = np.zeros((12, 3))
    scores[:8, 0] = np.arange(8)
    half = np.array([1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 2, 2])
    full, filled = fill_empty(weights, scores, half, least=2)
    assert filled == [2]
    assert np.flatnonzero(full[:, 2]).tolist() == [0, 1, 4, 5]
    np.testing.assert_array_equal(full.sum(1), 1)
    np.testing.assert_array_equal(full[8:], weights[8:])
    assert weights[:8, 0].all()  # what was given is not changed
    same, none = fill_empty(weights[:, :2], scores[:, :2], half, least=2)
    assert none == []
    np.testing.assert_array_equal(same, weights[:, :2])


def test_classes_that_lie_in_one_half_each_fill_one_another():
    """Of five and five particles each class has one in a half; none may have none in the end."""
    for sizes in ((4, 1, 1, 4), (5, 0, 0, 5), (6, 1, 2, 2), (0, 7, 3, 1)):
        which = np.repeat([0, 1, 0, 1], sizes)
        half = np.repeat([1, 1, 2, 2], sizes)
        weights = np.eye(2)[which]
        scores = np.random.default_rng(0).random(weights.shape)
        full, filled = fill_empty(weights, scores, half, least=2)
        assert filled
        assert short_classes(weights, half, least=2)
        np.testing.assert_array_equal(full.sum(1), 1)
        assert all(full[half == h].sum(0).min() >= 1 for h in (1, 2))
    full, _ = fill_empty(np.eye(2)[np.repeat([0, 1, 0, 1], (5, 0, 0, 5))], np.zeros((10, 2)),
                         np.repeat([1, 2], 5), least=2)  # fmt: skip
    assert short_classes(full, np.repeat([1, 2], 5), least=2) == []


def test_particles_that_are_set_aside_fill_no_class():
    weights = np.zeros((12, 2))
    weights[4:, 0] = 1.0
    scores = np.where(weights.any(1, keepdims=True), 0.5, -1.0) * np.ones((12, 2))
    half = np.array([1, 2] * 6)
    full, filled = fill_empty(weights, scores, half, least=2)
    assert filled == [1]
    assert not full[:4].any()
    assert [full[half == h, 1].sum() for h in (1, 2)] == [2, 2]


def test_shares_and_changes():
    np.testing.assert_allclose(class_shares(np.array([[1, 0], [0.5, 0.5]])), [0.75, 0.25])
    assert np.isnan(reassigned(None, np.array([1])))
    assert reassigned(np.array([1, 2, 1, 1]), np.array([1, 1, 1, 1])) == 0.25


def test_more_classes_than_particles_are_refused():
    half = np.array([1, 2] * 5)
    assert check_classes(2, half) == 2
    with pytest.raises(InputError, match="3 classes need 6 in a half, the smaller half has 5"):
        check_classes(3, half)
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="classes must be a whole number, at least 1"):
            check_classes(wrong, half)


OWN = {"voxel_size": VOXEL, "resolution": 40.0, "diameter": 260.0}
TURN = Rotation.from_euler("xyz", [30.0, 60.0, 10.0], degrees=True)


def noisy_halves(clean, rng, level=1.5):
    """Half maps of each, noise of their own in each."""
    level = level * clean[0].std()
    return [
        tuple((c + level * rng.normal(size=c.shape)).astype(np.float32) for _ in "ab")
        for c in clean
    ]


def test_equal_classes_are_found_wherever_they_lie():
    clean = [density(), density("decoy"), density(turn=TURN)]
    halves = noisy_halves(clean, np.random.default_rng(3))
    ((kept, gone, motions),) = equal_classes(halves, **OWN)
    assert (kept, gone) == (0, 2)
    for motion in motions:
        assert np.rad2deg((motion.rotation.inv() * TURN).magnitude()) < 4
    assert equal_classes(halves[:2], **OWN) == []


def test_each_half_measures_the_motion_between_equal_classes_by_itself():
    """Whatever the maps of one half are, the motion that the other's particles follow is one."""
    clean = [density(), density(turn=TURN)]
    halves = noisy_halves(clean, np.random.default_rng(3))
    other = noisy_halves(clean, np.random.default_rng(4))
    ((_, _, motions),) = equal_classes(halves, **OWN)
    for kept in (0, 1):
        mixed = [
            tuple(one[i] if i == kept else two[i] for i in (0, 1))
            for one, two in zip(halves, other, strict=True)
        ]
        ((_, _, again),) = equal_classes(mixed, **OWN)
        same, changed = again[kept], again[1 - kept]
        assert same.rotation.as_quat().tolist() == motions[kept].rotation.as_quat().tolist()
        assert same.shift_xyz.tolist() == motions[kept].shift_xyz.tolist()
        assert changed.rotation.as_quat().tolist() != motions[1 - kept].rotation.as_quat().tolist()


def test_noise_that_two_classes_share_does_not_make_them_one():
    """Of particles that are of two classes in part both averages hold the same noise."""
    clean = [density(), density("decoy")]
    rng = np.random.default_rng(5)
    noise = [12.0 * clean[0].std() * rng.normal(size=(32,) * 3).astype(np.float32) for _ in "ab"]
    halves = [tuple(c + one for one in noise) for c in clean]
    assert equal_classes(halves, shared=True, **OWN) == []
    assert len(equal_classes(halves, **OWN)) == 1  # taken for noise of their own


def test_equal_classes_in_other_settings_of_their_axes_are_one():
    flat = symmetrised(density(), "D3", voxel_size=VOXEL, resolution=25.0)
    turn = Rotation.from_euler("z", 60.0, degrees=True)
    over = turned_map(flat, Motion(turn.inv(), np.zeros(3), 1.0), voxel_size=VOXEL)
    halves = noisy_halves([flat, over], np.random.default_rng(6))
    ((kept, gone, motions),) = equal_classes(halves, symmetry="D3", **OWN)
    assert (kept, gone) == (0, 1)
    for motion in motions:
        assert np.rad2deg((motion.rotation.inv() * turn).magnitude()) < 1e-3


@pytest.mark.parametrize("symmetry", ["C1", "C2"])
def test_looks_are_what_the_wedge_left(symmetry):
    """Data over weights is the particle wherever it was looked at, at the given pose."""
    dataset, truth, _ = boxes(3, snr=1e6)
    k = half_sphere(6)
    data, weight = looks(dataset, truth, k, symmetry=symmetry).compute()
    assert data.shape == weight.shape == (3, len(k))
    assert weight.min() >= 0
    assert weight.max() == pytest.approx(1 if symmetry == "C1" else 2)
    wanted = spectrum_at(density(), k)
    there = np.ones_like(weight, bool)
    if symmetry == "C2":
        over = Rotation.from_euler("z", 180, degrees=True)
        there = weight > 1.9  # both of the pair were seen
        wanted = (wanted + spectrum_at(density(turn=over), k)) / 2
    found, expected = data[there], (weight * wanted)[there]
    correlation = np.vdot(found, expected).real / np.sqrt(
        np.vdot(found, found).real * np.vdot(expected, expected).real
    )
    assert correlation > 0.97  # the rest is leakage at the edge of the wedge


def test_divides_looks_that_hold_unequal_parts():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(2, 60, 2)) @ [1, 1j]
    kind = rng.integers(0, 2, 80)
    weight = (rng.random((80, 60)) < 0.6).astype(float)
    noise = rng.normal(size=(80, 60, 2)) @ [1, 1j]
    data = weight * means[kind] + np.sqrt(weight) * 1.5 * noise
    shell = np.repeat(np.arange(6), 10)
    which = divided(data, weight, shell, 2, rng=np.random.default_rng(1))
    agree = (which == kind).mean()
    assert max(agree, 1 - agree) == 1.0
    assert set(divided(data, weight, shell, 1, rng=rng)) == {0}


def test_first_references_of_classes_are_the_kinds():
    dataset, kinds, truth = mixture(16, snr=0.1)
    maps, sizes = class_maps(dataset, truth, 2, resolution=60.0, compute=compute)
    assert sizes.tolist() == [16, 16]
    low = low_pass_weights(32, voxel_size=VOXEL, resolution=60.0)
    known = {kind: shell_weighted(density(kind), low).ravel() for kind in ("particle", "decoy")}
    like = np.array([[np.corrcoef(m.ravel(), v)[0, 1] for v in known.values()] for m in maps])
    assert like.max(1).min() > 0.9
    assert like.min(1).max() < 0.7
    again, _ = class_maps(dataset.chunk(particle=5), truth, 2, resolution=60.0, compute=compute)
    np.testing.assert_array_equal(again, maps)
    with pytest.raises(InputError, match="17 classes need 34 particles, got 32"):
        class_maps(dataset, truth, 17, resolution=60.0, compute=compute)
    del kinds
