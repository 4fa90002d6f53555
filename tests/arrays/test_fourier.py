"""The wedge against projections that really were taken, and the shells against a loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomodask.arrays.fourier import frequency_grid, measured, shell_correlation, wedge


@pytest.mark.parametrize("tilt", [-50.0, -20.0, 0.0, 35.0])
def test_a_tilt_measures_the_plane_that_the_wedge_says(tilt):
    """A volume that varies along one direction only is seen by the tilt whose plane holds it.

    The specimen is turned about y by the tilt (x' = x cos + z sin) and summed along z'.
    """
    n = 48
    theta = np.deg2rad(tilt)
    axis = np.arange(n) - n // 2
    z, x = axis[:, None, None], axis[None, None, :]
    y = axis[None, :, None]
    # Where the voxel (z', x') of the tilted specimen lies in the untilted one.
    there_x, there_z = x * np.cos(theta) - z * np.sin(theta), x * np.sin(theta) + z * np.cos(theta)
    envelope = np.exp(-(x**2 + y**2 + z**2) / (2 * 6.0**2))

    def seen(kx, kz):
        tilted = envelope * np.cos(2 * np.pi * (kx * there_x + kz * there_z))
        return np.abs(tilted.sum(0)).max() / envelope.sum(0).max()

    inside = (0.15 * np.cos(theta), 0.15 * np.sin(theta))  # kz = kx tan(tilt)
    across = (-0.15 * np.sin(theta), 0.15 * np.cos(theta))
    assert seen(*inside) > 0.9
    assert seen(*across) < 0.05
    for (kx, kz), want in ((inside, True), (across, False)):
        got = measured(np.array(kz), np.array(kx), (tilt - 5, tilt + 5))
        assert bool(got) is want


def test_wedge_of_an_asymmetric_range_has_its_sign():
    low_only = wedge((32, 32, 32), (-60, 0))
    assert low_only[-4, 0, 8] == 1  # kz = -4, kx = 8: tilt -27 degrees
    assert low_only[4, 0, 8] == 0


@given(st.tuples(*[st.integers(2, 12)] * 3))
def test_wedge_is_one_for_a_frequency_and_its_opposite(shape):
    """Else the filtered volume would not be real: compare the full grid with its mirror."""
    kz, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[2])
    keep = ~((np.abs(kz) == 0.5) | (np.abs(kx) == 0.5))  # Nyquist has no opposite on the grid
    for tilts in ((-60, 60), (-40, 55), (-10, 70)):
        both = measured(kz, kx, tilts) == measured(-kz, -kx, tilts)
        assert both[np.broadcast_to(keep, both.shape)].all()


def test_all_tilts_leave_nothing_missing():
    assert wedge((8, 9, 10), (-90, 90)).all()


def test_wedge_follows_true_angles_in_a_box_of_unequal_edges():
    kz, _, kx = frequency_grid((20, 4, 80))
    want = np.abs(np.broadcast_to(kz, (20, 4, 41))) <= np.abs(kx) * np.tan(np.deg2rad(45)) + 1e-9
    np.testing.assert_array_equal(wedge((20, 4, 80), (-45, 45)), want)


@given(st.integers(3, 9), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_shells_against_a_loop_over_the_full_spectrum(n, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n, n, n))
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    k = np.rint(np.fft.fftfreq(n) * n)
    sums = np.zeros((n + 1, 3))
    for i in np.ndindex(n, n, n):
        shell = int(np.rint(np.linalg.norm(k[list(i)])))
        if shell <= n // 2:
            sums[shell] += (fa[i] * fb[i].conj()).real, abs(fa[i]) ** 2, abs(fb[i]) ** 2
    sums = sums[: n // 2 + 1]
    want = sums[:, 0] / np.sqrt(sums[:, 1] * sums[:, 2])
    np.testing.assert_allclose(shell_correlation(a, b), want, atol=1e-9)


def test_shells_want_equal_cubes():
    with pytest.raises(ValueError, match="two cubic boxes of one size"):
        shell_correlation(np.zeros((4, 4, 4)), np.zeros((4, 4, 5)))
