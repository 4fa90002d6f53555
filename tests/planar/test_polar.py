"""Images on rings: against exact trigonometric sums."""

import numpy as np
import pytest

from tomodask.planar.polar import (
    LaneScratch,
    fill_lanes,
    polar_grid,
    polar_lanes,
    sample_table,
)
from tomodask.planar.poses2d import looked_up


def series(images, radius, shift_y=0.0, shift_x=0.0):
    """Packed series, complex, (image, packed), and the faults."""
    grid, shape = polar_grid(radius), images.shape[1:]
    scratch, faults = LaneScratch.of(grid, shape), np.zeros(len(images), np.uint8)
    table = sample_table(grid, shape, shift_y=shift_y, shift_x=shift_x)
    out = []
    for begin in range(0, len(images), 16):
        fill_lanes(images, begin, grid, faults, scratch)
        lanes = polar_lanes(grid, shape, table, scratch).reshape(grid.size, 2, 16)
        out.append((lanes[:, 0] + 1j * lanes[:, 1]).T.copy())
    return np.concatenate(out)[: len(images)], faults


def exact(image, radius, shift_y=0.0, shift_x=0.0):
    """The same by definition: samples of the trigonometric polynomial, then plain sums."""
    grid = polar_grid(radius)
    angle = 2 * np.pi * np.arange(grid.angles) / grid.angles
    y, x = grid.rings[:, None] * np.sin(angle), grid.rings[:, None] * np.cos(angle)
    low, high = -(np.array(image.shape) // 2), (np.array(image.shape) - 1) // 2
    y, x = np.clip(y - shift_y, low[0], high[0]), np.clip(x - shift_x, low[1], high[1])
    spectrum = np.fft.fft(looked_up(image, y, x), axis=1)
    spectrum[:, 0] -= (grid.rings * spectrum[:, 0].real).sum() / grid.rings.sum()
    packed = [
        np.sqrt(grid.rings[ring]) * spectrum[ring, m]
        for m in range(grid.frequencies)
        for ring in range(grid.first[m], len(grid.rings))
    ]
    return np.array(packed) / np.sqrt((weights(grid) * np.abs(packed) ** 2).sum())


def weights(grid):
    """A frequency above 0 stands for its negative, too."""
    return np.where(np.arange(grid.size) < grid.starts[1], 1.0, 2.0)


def smooth(shape, count, seed=0, finest=6.0):
    """Images of random waves no finer than `finest` pixels, fading at the border."""
    rng = np.random.default_rng(seed)
    ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])
    noise = np.fft.fft2(rng.normal(size=(count, *shape)))
    image = np.fft.ifft2(noise * np.exp(-((ky**2 + kx**2) * finest**2))).real
    return (image / image.std()).astype(np.float32)


@pytest.mark.parametrize(("shape", "radius"), [((40, 40), 17), ((33, 33), 12), ((32, 41), 15)])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.3, -0.4)])
def test_against_exact_sums(shape, radius, shift):
    images = smooth(shape, 3) + 5.0
    got, faults = series(images, radius, *shift)
    grid = polar_grid(radius)
    assert not faults.any()
    for image, mine in zip(images, got, strict=True):
        want = exact(image - 5.0, radius, *shift)
        alike = (weights(grid) * (mine * want.conj()).real).sum()
        assert (weights(grid) * np.abs(mine) ** 2).sum() == pytest.approx(1, abs=1e-6)
        assert alike > 0.999


def test_error_of_the_spline():
    """Fine detail, 4 pixels a wave, away from the border: still within 1 %."""
    size, radius = 64, 20
    y, x = np.indices((size, size)) - size // 2
    image = np.cos(2 * np.pi * 16 / 64 * (0.6 * x + 0.8 * y))  # not periodic in the box
    grid = polar_grid(radius)
    angle = 2 * np.pi * np.arange(grid.angles) / grid.angles
    at = grid.rings[:, None] * (0.6 * np.cos(angle) + 0.8 * np.sin(angle))
    spectrum = np.fft.fft(np.cos(2 * np.pi * 16 / 64 * at), axis=1)
    spectrum[:, 0] -= (grid.rings * spectrum[:, 0].real).sum() / grid.rings.sum()
    want = np.concatenate(
        [(np.sqrt(grid.rings) * spectrum[:, m])[grid.first[m] :] for m in range(grid.frequencies)]
    )
    want /= np.sqrt((weights(grid) * np.abs(want) ** 2).sum())
    got, _ = series(image[None].astype("f4"), radius)
    error = np.sqrt((weights(grid) * np.abs(got[0] - want) ** 2).sum())
    assert error < 0.01


def test_a_ring_keeps_what_its_pixels_hold():
    """What is cut off the series of white noise is a small share of its power."""
    grid = polar_grid(12)
    assert grid.bands[0] == 6
    assert grid.bands[-1] == 40
    assert grid.angles >= 2 * grid.frequencies - 1
    assert grid.size == grid.bands.sum()


def test_lanes_do_not_see_each_other():
    images = smooth((24, 24), 20, finest=1.0)
    whole, _ = series(images, 9)
    for number in (0, 3, 15, 16, 19):
        alone, _ = series(images[[number]], 9)
        assert alone[0].tobytes() == whole[number].tobytes()


def test_beyond_the_border_an_image_goes_on_as_it_is_there():
    """So that a background other than the mean makes no rim where a reference is moved."""
    bright = np.full((1, 20, 20), 3.0, np.float32)
    bright[0, 8:13, 6:10] = 9.0
    wide = np.pad(bright, ((0, 0), (10, 10), (10, 10)), mode="edge")
    assert np.allclose(
        series(bright, 9, shift_x=8.0)[0], series(wide, 9, shift_x=8.0)[0], atol=1e-3
    )
    images = smooth((20, 20), 1) + 3.0
    grid = polar_grid(9)
    table = sample_table(grid, (20, 20), shift_x=8.0)
    angle = 2 * np.pi * np.arange(grid.angles) / grid.angles
    x = (grid.rings[:, None] * np.cos(angle)).ravel() - 8.0
    beyond = (x < -10) | (x > 9)
    assert beyond.any()
    assert np.allclose(table.weights[:, :6].sum(axis=1), 1, atol=1e-6)
    assert np.allclose(table.weights[:, 6:].sum(axis=1), 1, atol=1e-6)
    assert np.isfinite(series(images, 9, shift_x=8.0)[0]).all()


def test_faults():
    images = smooth((20, 20), 5)
    images[1, 0, 0] = np.nan
    images[2] = 1000.25
    images[3, 19, 19] = np.inf
    images[4] = 0
    got, faults = series(images, 8)
    assert faults.tolist() == [0, 1, 2, 1, 2]
    assert (got[1:] == 0).all()
    assert np.abs(got[0]).max() > 0


def test_an_offset_and_a_scale_change_nothing():
    images = smooth((30, 30), 2, finest=2.0)
    first, _ = series(images, 12)
    second, _ = series(300 * images + 20000, 12)
    np.testing.assert_allclose(first, second, atol=2e-5)
