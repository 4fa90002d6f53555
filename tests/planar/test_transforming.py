import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planar.pictures import picture

from tomodask.planar.class_sums import matrices2d
from tomodask.planar.frc import frc, frc_weights, ring_correlation, ring_mean, ring_weighted
from tomodask.planar.poses2d import looked_up, shift_in_image
from tomodask.planar.transforming import disc, image_frame, soft_disc, transform


def slow_transform(image, psi, shift, mirror):
    """The image's trigonometric polynomial, cut to the disc below Nyquist, place by place."""
    n = len(image)
    k = np.fft.fftfreq(n)
    spectrum = np.fft.fft2(image) * (np.hypot(k[:, None], k) < 0.5 - 1e-9)
    low = np.fft.ifft2(spectrum).real
    axis = np.arange(n) - n // 2
    y, x = shift_in_image(psi, mirror, *np.meshgrid(axis, axis, indexing="ij"))
    out = looked_up(low, y + shift[0], x + shift[1])
    return np.where(disc(n, n / 2 - 1), out, 0.0)


@settings(max_examples=15, deadline=None)
@given(
    size=st.integers(12, 33),
    psi=st.floats(-180, 180),
    y=st.floats(-3, 3),
    x=st.floats(-3, 3),
    mirror=st.booleans(),
    seed=st.integers(0, 9),
)
def test_white_noise_is_turned_as_its_fourier_sum_says(size, psi, y, x, mirror, seed):
    image = np.random.default_rng(seed).normal(size=(size, size))
    found = transform(image, matrices2d(psi, mirror), np.array([y, x]))
    wanted = slow_transform(image, psi, (y, x), mirror)
    # Exactly on the border rounding decides whether a place is outside of the image.
    both = (found != 0) == (wanted != 0)
    assert both.mean() > 0.95
    assert np.abs(found - wanted)[both].max() < 0.02
    assert np.sqrt(np.mean((found - wanted)[both] ** 2)) < 0.004


@pytest.mark.parametrize("size", [40, 41])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_picture_comes_back_into_the_frame_of_its_view(size, mirror):
    image = picture(1, size, psi=-130.0, shift=(2.3, -1.6), mirror=mirror)
    back = transform(image, matrices2d(-130.0, mirror), np.array([2.3, -1.6]))
    inside = disc(size, 13)
    assert np.abs(back - picture(1, size))[inside].max() < 0.005


def test_an_image_left_as_it_is_keeps_its_low_frequencies():
    image = picture(0, 32)
    found = transform(image, np.eye(2), np.zeros(2))
    assert np.abs(found - image)[disc(32, 14)].max() < 0.004


def test_scale_is_kept_and_zero_stays_zero():
    image = picture(0, 32)
    one, two = (transform(i, matrices2d(30.0, False), np.zeros(2)) for i in (image, 1e6 * image))
    np.testing.assert_allclose(two, 1e6 * one, rtol=2e-4, atol=200)
    assert not transform(np.zeros((32, 32)), np.eye(2), np.zeros(2)).any()


def test_frames_are_made_once():
    assert image_frame(32) is image_frame(32)


def slow_ring_correlation(a, b):
    n = len(a)
    k = np.fft.fftfreq(n, 1 / n)
    ring = np.rint(np.hypot(k[:, None], k))
    fa, fb = np.fft.fft2(a), np.fft.fft2(b)
    out = []
    for r in range(n // 2 + 1):
        x, y = fa[ring == r], fb[ring == r]
        out.append((x * y.conj()).sum().real / np.sqrt((abs(x) ** 2).sum() * (abs(y) ** 2).sum()))
    return np.array(out)


@pytest.mark.parametrize("n", [8, 15, 20])
def test_ring_correlation_is_that_of_the_definition(n):
    a, b = np.random.default_rng(n).normal(size=(2, n, n))
    np.testing.assert_allclose(ring_correlation(a, a + b), slow_ring_correlation(a, a + b))


def test_frc_of_noise_with_a_common_signal_is_its_share_of_power():
    rng = np.random.default_rng(0)
    signal, one, two = rng.normal(size=(3, 128, 128))
    curve = frc(signal + one, signal + two, pixel_size=2.0)["correlation"].to_numpy()
    assert abs(curve[10:].mean() - 0.5) < 0.02


def test_rings_without_power_correlate_by_zero():
    assert not ring_correlation(np.zeros((16, 16)), np.ones((16, 16)))[1:].any()


def test_weights_fall_where_halves_first_disagree_and_stay_down():
    correlation = np.array([1, 1, 0.9, 0.8, 0.6, 0.4, 0.0, -0.1, 0.0, 0.0, 0.9, 0.9, 0.9])
    weights = frc_weights(correlation)
    assert (np.diff(weights) <= 1e-12).all()
    assert weights[0] == 1
    assert not weights[10:].any()
    # Rosenthal and Henderson, on the smoothed curve
    assert weights[3] == pytest.approx(np.sqrt(2 * (2.3 / 3) / (1 + 2.3 / 3)))


def test_a_class_that_agrees_in_nothing_keeps_its_outline():
    weights = frc_weights(np.full(20, -0.5))
    assert (weights[:4] > 0.4).all()
    assert not weights[8:].any()


def test_ring_weights_cut_rings_and_move():
    image = np.random.default_rng(1).normal(size=(21, 21))
    np.testing.assert_allclose(
        ring_weighted(image, np.ones(30), move=(3, -2)), np.roll(image, (3, -2), (0, 1)), atol=1e-5
    )
    assert abs(ring_weighted(image, np.array([1.0])) - image.mean()).max() < 1e-6


def test_ring_mean_counts_conjugates():
    values = np.random.default_rng(2).random((9, 5))
    k = np.fft.fftfreq(9, 1 / 9)
    ring = np.rint(np.hypot(k[:, None], k))
    full = np.fft.fft2(np.fft.irfft2(values, s=(9, 9))).real
    assert ring_mean(full[:, :5])[2, 0] == pytest.approx(full[ring == 2].mean())


def test_soft_disc_is_round_and_falls():
    window = soft_disc(20, 6, edge=3)
    assert window[10, 10] == window[10, 16] == 1
    assert 0 < window[10, 18] < 1
    assert window[10, 0] == 0
