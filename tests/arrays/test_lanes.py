"""Sixteen numbers side by side, and their transforms, against NumPy."""

import numba
import numpy as np
import pytest

from tomodask.arrays.lane_fourier import positions, transform_length, transformed, wave_table
from tomodask.arrays.lanes import fma, largest, load, splat, store


@numba.njit
def _arithmetic(a, b, out):
    x, y = load(a, 3), load(b, 0)
    store(out, 0, x + y)
    store(out, 16, x - y)
    store(out, 32, x * y)
    store(out, 48, fma(x, y, splat(np.float32(2.5))))
    store(out, 64, largest(x, y))


def test_arithmetic():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=19).astype("f4"), rng.normal(size=16).astype("f4")
    out = np.zeros(80, np.float32)
    _arithmetic(a, b, out)
    x = a[3:]
    want = [x + b, x - b, x * b, x * b + np.float32(2.5), np.maximum(x, b)]
    np.testing.assert_allclose(out.reshape(5, 16), want, rtol=1e-6, atol=1e-6)


def test_only_flat_arrays_of_float32():
    @numba.njit
    def of_doubles(a):
        store(a, 0, load(a, 0))

    with pytest.raises(numba.TypingError):
        of_doubles(np.zeros(16))


@pytest.mark.parametrize("length", [4, 8, 16, 32, 64, 128, 256, 512])
def test_transform(length):
    rng = np.random.default_rng(length)
    z = rng.normal(size=(length, 16)) + 1j * rng.normal(size=(length, 16))
    # Something before and after, which is to stay as it is.
    signal = np.full((length + 2, 2, 16), 7.0, np.float32)
    signal[1:-1, 0], signal[1:-1, 1] = z.real, z.imag
    flat = signal.ravel()
    transformed(flat, 32, length, wave_table(length))
    out = flat.reshape(signal.shape)
    got = (out[1:-1, 0] + 1j * out[1:-1, 1])[positions(length)]
    np.testing.assert_allclose(got, np.fft.ifft(z, axis=0) * length, atol=2e-6 * length)
    assert (out[[0, -1]] == 7).all()


def test_lanes_do_not_see_each_other():
    """One signal gives the same bits in any lane, beside any others."""
    rng = np.random.default_rng(1)
    one = rng.normal(size=(64, 2)).astype("f4")
    waves = wave_table(64)
    seen = []
    for lane in (0, 5, 15):
        signal = rng.normal(size=(64, 2, 16)).astype("f4")
        signal[..., lane] = one
        flat = signal.ravel()
        transformed(flat, 0, 64, waves)
        seen.append(flat.reshape(64, 2, 16)[..., lane].tobytes())
    assert len(set(seen)) == 1


def test_lengths():
    assert [transform_length(n) for n in (1, 4, 5, 128, 129)] == [4, 4, 8, 128, 256]
    for length in (4, 8, 128):
        assert sorted(positions(length)) == list(range(length))
