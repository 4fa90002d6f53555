"""Shares of the turn, and the ramp."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomodask.errors import InputError
from tomodask.reconstruction.weighting import angular_weights, ramp, ramp_response


def test_even_tilts_share_evenly_and_a_half_turn_is_pi():
    np.testing.assert_allclose(angular_weights(np.arange(-60.0, 61, 3)), np.deg2rad(3))
    assert angular_weights(np.arange(-90.0, 90, 2)).sum() == pytest.approx(np.pi)
    # Both ends at the same plane: it counts once.
    ends = angular_weights(np.arange(-90.0, 91, 2))
    assert ends.sum() == pytest.approx(np.pi)
    assert ends[0] == pytest.approx(np.deg2rad(1))


@given(st.lists(st.floats(-80, 80), min_size=2, max_size=20, unique=True), st.randoms())
def test_the_order_of_tilts_does_not_matter_and_doubles_share(angles, random):
    angles = np.array(angles)
    order = np.array(random.sample(range(len(angles)), len(angles)))
    if np.diff(np.sort(angles)).min() < 1e-6:
        return
    weights = angular_weights(angles)
    np.testing.assert_allclose(angular_weights(angles[order]), weights[order])
    twice = angular_weights(np.concatenate([angles, angles[:1]]))
    assert twice[0] == twice[-1] == pytest.approx(weights[0] / 2)
    assert (weights > 0).all()


def test_one_angle_is_no_series():
    with pytest.raises(InputError, match="two different angles"):
        angular_weights(np.array([3.0, 3.0]))


def test_the_ramp_is_that_of_its_samples():
    length = 128
    response = ramp_response(length)
    k = np.fft.rfftfreq(length)
    np.testing.assert_allclose(response[1:], k[1:], atol=2.5e-3)
    # The mean is kept as far as rows of this length know it: 1 / (2 N) · 4 / π².
    assert 0 < response[0] < 1 / length
    np.testing.assert_allclose(np.fft.irfft(response, length)[:4], [0.25, -1 / np.pi**2, 0,
                               -1 / (3 * np.pi) ** 2], atol=1e-12)  # fmt: skip
    np.testing.assert_array_equal(ramp(k), response)
    assert ramp(k, filter="hamming")[-1] == pytest.approx(0.08 * response[-1])
