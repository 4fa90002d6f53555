"""Tilt schemes: the orders of the literature, and values that cannot be."""

import numpy as np
import pytest

from tomodask.errors import InputError
from tomodask.simulation.tilt_schemes import tilt_scheme


def taken(**keywords):
    return tilt_scheme(**keywords).sort_values("order")["angle"].tolist()


def test_dose_symmetric_alternates():
    got = taken(tilt_range=(-9, 9), increment=3)
    assert got == [0, 3, -3, 6, -6, 9, -9]


def test_groups_of_two_stay_two_tilts_on_a_side():
    # the order that SerialEM's manual gives for groups of two, up first
    got = taken(tilt_range=(-8, 8), increment=2, group=2)
    assert got == [0, 2, 4, -2, -4, 6, 8, -6, -8]


def test_the_longer_side_goes_on_alone():
    got = taken(tilt_range=(-4, 10), increment=2, start=0)
    assert got == [0, 2, -2, 4, -4, 6, 8, 10]


def test_bidirectional_and_continuous():
    assert taken(tilt_range=(-4, 4), increment=2, order="bidirectional", start=-2) == [
        -2, 0, 2, 4, -4,
    ]  # fmt: skip
    assert taken(tilt_range=(-4, 5), increment=2, order="continuous") == [-4, -2, 0, 2, 4]
    assert taken(tilt_range=(-4, 0), increment=2, order="bidirectional") == [0, -2, -4]


def test_sorted_by_angle_with_the_dose_in_order():
    scheme = tilt_scheme((-60, 60), 2, dose=122.0)
    assert len(scheme) == 61
    assert scheme["angle"].is_monotonic_increasing
    assert sorted(scheme["order"]) == list(range(61))
    np.testing.assert_allclose(scheme["exposure"], 2.0)
    np.testing.assert_allclose(scheme["pre_exposure"], 2.0 * scheme["order"])
    middle = scheme[scheme["angle"] == 0].iloc[0]
    assert middle["pre_exposure"] == 0


def test_increments_that_binary_digits_do_not_hold():
    assert len(tilt_scheme((-60, 60), 0.1)) == 1201
    assert len(tilt_scheme((-0.3, 0.3), 0.1, order="continuous")) == 7


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"tilt_range": (60, -60)}, r"tilt_range must be \(least, largest\).*got \(60, -60\)"),
        ({"tilt_range": (-90, 90)}, r"within ±85 degrees"),
        ({"tilt_range": (float("nan"), 60)}, r"tilt_range"),
        ({"increment": 0.0}, r"increment must be above 0 degrees, got 0"),
        ({"increment": float("inf")}, r"increment"),
        ({"order": "spiral"}, r"order must be one of dose-symmetric, .* got 'spiral'"),
        ({"start": 70.0}, r"start must lie within tilt_range, -60 to 60 degrees, got 70"),
        ({"group": 0}, r"group must be a whole number of tilts, at least 1, got 0"),
        ({"dose": -3.0}, r"dose must be above 0 e/Å² for the whole series, got -3"),
    ],
)
def test_refuses(keywords, message):
    with pytest.raises(InputError, match=message):
        tilt_scheme(**keywords)
