"""What is wrong with a box, whichever voxel it is."""

import numpy as np
import pytest

from tomodask.alignment.checks import FAULTS, box_fault


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_one_voxel_that_is_not_finite_is_found_wherever_it_lies(value, kind):
    rng = np.random.default_rng(0)
    for at in [(0, 0, 0), (6, 6, 6), *rng.integers(0, 7, (20, 3)).tolist()]:
        box = rng.normal(size=(7, 7, 7)).astype(kind)
        assert box_fault(box) == 0
        box[tuple(at)] = value
        assert "NaN" in FAULTS[box_fault(box)]


def test_both_infinities_are_no_even_box():
    box = np.zeros((4, 4, 4), np.float32)
    box[0], box[1] = np.inf, -np.inf
    assert "NaN" in FAULTS[box_fault(box)]


@pytest.mark.parametrize("value", [0.0, -3.5, 3e38])
def test_a_box_of_one_value_is_told_from_one_that_differs_by_a_bit(value):
    box = np.full((5, 5, 5), value, np.float32)
    assert box_fault(box) == 2
    box[2, 3, 4] = np.nextafter(box[2, 3, 4], np.float32(-np.inf))
    assert box_fault(box) == 0
