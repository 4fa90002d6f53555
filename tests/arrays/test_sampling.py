"""Sampled spectra against the sum that defines them, and against Gaussians turned exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tomodask.arrays import sampling
from tomodask.arrays.geometry import matrices_zyx


def direct(volume, frequencies):
    """Fourier sum about the voxel size // 2, at any frequency (in Fourier voxels)."""
    n = volume.shape[0]
    axis = (np.arange(n) - n // 2) / n
    waves = [np.exp(-2j * np.pi * frequencies[:, [i]] * axis) for i in range(3)]
    return np.einsum("zyx,kz,ky,kx->k", volume, *waves, optimize=True)


def blob(n, rotation=None):
    """Three Gaussians off the centre; exact under any turn."""
    centers = np.array([[3.0, -2.0, 1.0], [-4.0, 1.0, 2.5], [1.0, 4.0, -3.0]]) * n / 24
    if rotation is not None:
        centers = centers @ matrices_zyx(rotation).T
    grid = np.stack(np.meshgrid(*[np.arange(n) - n // 2] * 3, indexing="ij"), -1)
    return sum(
        (i + 1) * np.exp(-((grid - c) ** 2).sum(-1) / (2 * 1.5**2)) for i, c in enumerate(centers)
    )


@pytest.mark.parametrize("n", [7, 8, 15, 16])
def test_whole_frequencies_against_the_sum(n):
    volume = np.random.default_rng(n).normal(size=(n, n, n))
    k = sampling.half_sphere((n - 1) // 2)
    np.testing.assert_allclose(sampling.spectrum_at(volume, k), direct(volume, k), atol=2e-4 * n)


@pytest.mark.parametrize("radius", [1.0, 2.5, 4.0])
def test_half_sphere_has_one_of_each_pair(radius):
    half = {tuple(k) for k in sampling.half_sphere(radius).astype(int)}
    m = int(radius)
    for k in np.ndindex(*[2 * m + 1] * 3):
        k = tuple(np.array(k) - m)
        inside = 0 < np.dot(k, k) <= radius**2
        assert ((k in half) + (tuple(-np.array(k)) in half)) == inside


@pytest.mark.parametrize("n", [24, 25])
def test_between_whole_frequencies_within_a_percent(n):
    rng = np.random.default_rng(0)
    volume = blob(n)
    k = rng.uniform(-6, 6, size=(500, 3)).astype(np.float32)
    spectrum = sampling.padded_spectrum(volume, radius=11)
    got, want = sampling.sample(spectrum, k, np.eye(3)), direct(volume, k)
    assert np.linalg.norm(got - want) < 0.02 * np.linalg.norm(want)


@pytest.mark.parametrize("n", [32, 33])
@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=10)
def test_turning_is_sampling_at_turned_frequencies(n, seed):
    rotation = Rotation.random(rng=np.random.default_rng(seed))
    k = sampling.half_sphere(n / 2 - 1)
    spectrum = sampling.padded_spectrum(blob(n), radius=n / 2 - 1)
    got = sampling.sample(spectrum, k, matrices_zyx(rotation).T)
    want = sampling.spectrum_at(blob(n, rotation), k)
    assert np.linalg.norm(got - want) < 0.02 * np.linalg.norm(want)


def test_gradients_are_those_of_the_interpolant():
    spectrum = sampling.padded_spectrum(blob(16), radius=7)
    rng = np.random.default_rng(3)
    for _ in range(200):
        q = np.floor(rng.uniform(-12, 12, 3)) + rng.uniform(0.2, 0.8, 3)
        value = np.array(sampling.trilinear.py_func(spectrum.values, *q))
        for axis, (re, im) in enumerate(((2, 5), (3, 6), (4, 7))):
            step = np.eye(3)[axis] * 0.1  # linear along each axis within a cell: exact
            up = np.array(sampling.trilinear.py_func(spectrum.values, *(q + step)))
            down = np.array(sampling.trilinear.py_func(spectrum.values, *(q - step)))
            slope = (up - down)[:2] / 0.2
            scale = np.abs(spectrum.values).max()
            np.testing.assert_allclose(value[[re, im]], slope, atol=1e-4 * scale)


def test_soft_sphere_is_round_about_the_centre():
    for n in (16, 17):
        sphere = sampling.soft_sphere(n, 4.0)
        c = n // 2
        assert sphere[c, c, c] == sphere[c, c, c + 4] == sphere[c - 4, c, c] == 1
        assert sphere[c, c, c + 7] == 0
        assert 0 < sphere[c, c + 5, c] < 1
