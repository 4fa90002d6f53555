"""Resampling of parts: the slow sum, the same bits wherever a part lies, and what physics asks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomodask.arrays.lanczos import new_size, resample_part, source_range


def whole(volume, factor):
    size = volume.shape
    stop = tuple(new_size(n, factor) for n in size)
    return part(volume, (0, 0, 0), stop, factor)


def part(volume, start, stop, factor):
    ranges = [
        source_range(a, b, factor, n) for a, b, n in zip(start, stop, volume.shape, strict=True)
    ]
    source = volume[tuple(slice(a, b) for a, b in ranges)]
    return resample_part(source, start=start, stop=stop, factor=factor, size=volume.shape)


def slow(volume, index, factor):
    """One new voxel: the sum over all old ones, in double precision."""
    wide = max(1.0, factor)
    weights = []
    for i, n in zip(index, volume.shape, strict=True):
        t = (np.arange(n) - i * factor) / wide
        line = np.where(np.abs(t) < 3, np.sinc(t) * np.sinc(t / 3), 0.0)
        weights.append(line / line.sum())
    return np.einsum("zyx,z,y,x->", volume.astype(np.float64), *weights)


@pytest.mark.parametrize("factor", [0.125, 0.37, 0.9, 1.5, 2.0, 3.3, 8.0])
def test_is_the_slow_sum(factor):
    volume = np.random.default_rng(0).normal(size=(17, 20, 23)).astype(np.float32)
    new = whole(volume, factor)
    assert new.dtype == np.float32
    rng = np.random.default_rng(1)
    corners = [(0, 0, 0), tuple(n - 1 for n in new.shape)]
    for index in corners + [tuple(rng.integers(new.shape)) for _ in range(30)]:
        assert new[index] == pytest.approx(slow(volume, index, factor), abs=2e-6)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), factor=st.floats(0.125, 8.0))
def test_bits_do_not_depend_on_where_a_part_lies(data, factor):
    volume = np.random.default_rng(0).normal(size=(14, 11, 9)).astype(np.float32)
    full = whole(volume, factor)
    start, stop = [], []
    for n in full.shape:
        a = data.draw(st.integers(0, n - 1))
        start.append(a)
        stop.append(data.draw(st.integers(a + 1, min(n, a + 12))))
    got = part(volume, start, stop, factor)
    expected = full[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("factor", [0.3, 0.8, 1.0, 1.7, 3.0])
def test_a_constant_stays_and_so_does_the_place_of_a_ball(factor):
    np.testing.assert_allclose(whole(np.full((20, 20, 20), 7.0), factor), 7.0, rtol=1e-6)
    centre, radius = np.array([18.0, 15.0, 20.0]), 6.0
    grid = np.indices((36, 36, 36)).reshape(3, -1).T
    ball = np.exp(-((grid - centre) ** 2).sum(1) / (2 * radius**2)).reshape(36, 36, 36)
    new = whole(ball.astype(np.float32), factor)
    place = np.indices(new.shape).reshape(3, -1).T * factor  # the middle of voxel 0 is the origin
    expected = np.exp(-((place - centre) ** 2).sum(1) / (2 * radius**2)).reshape(new.shape)
    inner = tuple(slice(n // 5, -(n // 5)) for n in new.shape)
    np.testing.assert_allclose(new[inner], expected[inner], atol=0.01)


def test_detail_that_larger_voxels_cannot_hold_is_faded_out():
    """Noise of variance 1 keeps about the part of it that is below the new Nyquist's frequency."""
    noise = np.random.default_rng(2).normal(size=(64, 64, 64)).astype(np.float32)
    kept = whole(noise, 2.0).var() * 8
    assert 0.6 < kept < 1.1  # plain picking of every second voxel would give 8
    z = np.arange(64)[:, None, None] * np.ones((1, 4, 4))
    wave = np.cos(2 * np.pi * z / 2.6).astype(np.float32)
    assert np.abs(whole(wave, 2.0)[8:-8]).max() < 0.1


def test_refuses_a_source_of_another_extent():
    with pytest.raises(ValueError, match="source must have 8 voxels on axis 0"):
        resample_part(np.zeros((3, 8, 8)), start=(0,) * 3, stop=(8,) * 3, factor=1.0, size=(8,) * 3)
