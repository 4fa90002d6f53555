"""Judging a network in training: the particles that are picked in a crop."""

import numpy as np
import pytest

from tomodask.nets.segmentation.architecture import IGNORED
from tomodask.picking.learning.labels import draw_labels
from tomodask.picking.learning.validation import Counts, judge

SHAPE = (48, 48, 48)


def labels(centers, classes=None):
    numbers = np.ones(len(centers), int) if classes is None else np.array(classes)
    return draw_labels(SHAPE, np.array(centers, float), numbers)


def painted(label, classes=1):
    return np.stack([(label == n + 1).astype(np.float32) for n in range(classes)])


def test_a_perfect_network():
    label = labels([(12, 12, 12), (30.4, 20.2, 24.9), (24, 40, 24)])
    assert judge(painted(label), label, widths=(7,)) == Counts(3, 0, 0)


@pytest.mark.parametrize("gap", [7, 7.5, 8, 10])
def test_labels_that_touch_are_two(gap):
    label = labels([(24, 24, 16), (24, 24, 16 + gap)])
    assert judge(painted(label), label, widths=(7,)) == Counts(2, 0, 0)


def test_found_wrong_and_missed():
    label = labels([(12, 12, 12), (12, 12, 36), (36, 36, 12)], [1, 1, 2])
    p = painted(label, 2)
    p[0, label == 2] = 0.6  # taken for class 1: wrong there, a miss here
    p[1, label == 2] = 0.4
    p[0, 9:16, 9:16, 33:40] = 0.3  # too unsure: missed
    other = labels([(36, 12, 36)])
    p[0, other == 1] = 0.9  # nothing is there
    assert judge(p, label, widths=(7,) * len(p)) == Counts(1, 2, 2)


@pytest.mark.parametrize("p", [0.51, 1.0])
def test_who_says_particle_everywhere_is_not_right(p):
    """As a network may in its first epoch."""
    label = labels([(15, 20, 30), (33, 15, 18)])
    counts = judge(np.full((1, *SHAPE), p, np.float32), label, widths=(7,))
    assert counts.recall == 0
    assert counts.f_score() == 0


def test_labels_of_two_widths():
    label = draw_labels(SHAPE, np.array([[20.0, 20, 14], [28, 24, 34]]), np.array([1, 2]),
                        diameter=(5, 11))  # fmt: skip
    assert judge(painted(label, 2), label, widths=(5, 11)) == Counts(2, 0, 0)
    assert judge(painted(label, 2)[::-1], label, widths=(5, 11)) == Counts(0, 2, 2)


def test_what_is_cut_has_no_say():
    label = labels([(1, 24, 24), (24, 24, 24), (24, 24, 40)])
    label[:, :, 42:] = IGNORED
    p = painted(label)
    p[0, 22:27, 22:27, 44:48] = 1.0  # among voxels that have no say
    assert judge(p, label, widths=(7,) * len(p)) == Counts(1, 0, 0)
    assert judge(np.zeros_like(p), label, widths=(7,)) == Counts(0, 0, 1)


def test_recall_weighs_as_it_is_told():
    counts = Counts(true_positive=6, false_positive=2, false_negative=6)
    assert counts.f_score(1.0) == pytest.approx(counts.recall)
    assert counts.f_score(0.0) == pytest.approx(counts.precision)
    assert counts.f_score() == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert Counts().f_score() == 0
