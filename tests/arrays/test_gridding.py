import numpy as np
import pytest

from tomodask.arrays.gridding import STEPS, TABLE, kernel, kernel_transform, spread


def test_transform_is_that_of_the_kernel():
    t = np.linspace(-3, 3, 20001)
    for frequency in (0.0, 0.13, 0.25, 0.5):
        wanted = np.trapezoid(kernel(t) * np.cos(2 * np.pi * frequency * t), t)
        assert abs(kernel_transform(np.array(frequency)) - wanted) < 1e-7


def test_table_is_the_kernel():
    distance = np.random.default_rng(0).uniform(0, 3, 1000)
    at = distance * STEPS
    k = at.astype(int)
    read = TABLE[k] + (at - k) * (TABLE[k + 1] - TABLE[k])
    assert np.abs(read - kernel(distance)).max() < 5e-7


@pytest.mark.parametrize("shape", [(16, 18, 20), (15, 16, 17)])
def test_spread_points_have_the_exact_fourier_sum(shape):
    rng = np.random.default_rng(1)
    points, weights = rng.uniform(-20, 40, (50, 3)), rng.normal(size=50)
    spectrum = np.fft.fftn(spread(points, weights, shape).astype(np.float64))
    worst, rms = 0.0, np.sqrt((weights**2).sum())
    for z in range(-shape[0] // 4 + 1, shape[0] // 4):
        for y in range(-shape[1] // 4 + 1, shape[1] // 4):
            for x in range(shape[2] // 4):
                k = np.array([z, y, x]) / shape
                wanted = (weights * np.exp(-2j * np.pi * points @ k)).sum()
                got = spectrum[z, y, x] / np.prod(kernel_transform(k))
                worst = max(worst, abs(got - wanted) / rms)
    assert worst < 1e-4  # 1e-5 an axis, larger towards the corner of the band


def test_too_small_a_grid_is_refused():
    with pytest.raises(ValueError, match="at least 6 samples"):
        spread(np.zeros((1, 3)), np.ones(1), (5, 8, 8))
