"""Labels against the drawing written down voxel by voxel; symmetry; overlaps; bad input."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from tomodask.errors import InputError
from tomodask.picking.learning.labels import draw_labels, paint_near

KINDS = ("truncated_ball", "ball", "cube")


def drawn_slowly(shape, centers, classes, kind, diameters):
    """Every voxel asks every particle."""
    out = np.zeros(shape, np.uint8)
    for voxel in np.ndindex(shape):
        nearest = math.inf
        for center, number, d in zip(centers, classes, diameters, strict=True):
            steps = np.array(voxel) - center
            r2 = steps[0] ** 2 + steps[1] ** 2 + steps[2] ** 2
            sigma = (d - 1) / 2
            in_cube = np.abs(steps).max() < d / 2
            inside = {
                "cube": in_cube,
                "ball": r2 <= sigma**2,  # exp(−r²/2σ²) ≥ exp(−1/2)
                "truncated_ball": in_cube and r2 <= 2 * sigma**2,  # ≥ exp(−1)
            }[kind]
            if inside and r2 < nearest:
                nearest, out[voxel] = r2, number
    return out


COORDINATE = st.one_of(st.integers(-4, 16), st.floats(-4, 16), st.sampled_from([2.5, 5.5, 6.25]))


@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    places=st.lists(st.tuples(COORDINATE, COORDINATE, COORDINATE), max_size=6),
    kind=st.sampled_from(KINDS),
    diameters=st.lists(st.integers(3, 10), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_as_drawn_voxel_by_voxel(shape, places, kind, diameters, seed):
    centers = np.array(places, float).reshape(-1, 3)
    classes = np.random.default_rng(seed).integers(1, 4, len(centers))
    drawn = draw_labels(shape, centers, classes, kind=kind, diameter=diameters)
    each = np.array(diameters)[classes - 1]
    np.testing.assert_array_equal(drawn, drawn_slowly(shape, centers, classes, kind, each))
    assert drawn.dtype == np.uint8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("diameter", [3, 4, 7, 8, 11, 25])
@pytest.mark.parametrize("center", [16.0, 15.5, 16.3])
def test_a_body_is_as_wide_as_its_diameter_and_symmetric(kind, diameter, center):
    label = draw_labels((33,) * 3, np.full((1, 3), center), np.array([1]), kind=kind,
                        diameter=diameter)  # fmt: skip
    width = np.count_nonzero(label.any((1, 2)))
    if kind == "ball":  # its tips may fall between voxels
        assert diameter - 2 <= width <= diameter
        assert width == diameter or diameter % 2 == 0 or center != 16.0
    elif center == 16.3 or (diameter % 2 == 1) == (center == 16.0):
        assert width == diameter
    else:  # both faces go through middles of voxels
        assert width == diameter - 1
    for axes in [(0,), (1,), (2,)]:
        if center != 16.3:
            middle = label if center == 16.0 else label[:32, :32, :32]
            np.testing.assert_array_equal(middle, np.flip(middle, axes))
    for turned in [(1, 0, 2), (2, 1, 0), (0, 2, 1)]:
        np.testing.assert_array_equal(label, label.transpose(turned))


def test_volumes_follow_from_the_paper():
    sizes = {
        kind: int(
            draw_labels((15,) * 3, np.full((1, 3), 7.0), np.array([1]), kind=kind).sum(dtype=int)
        )
        for kind in KINDS
    }
    # 7³ less the voxels farther than 3√2 = 4.24 from the middle; the ball of radius 3; the cube.
    assert sizes == {"truncated_ball": 287, "ball": 123, "cube": 343}


def test_the_nearest_centre_takes_a_voxel_and_of_equals_the_first():
    centers = np.array([[4.0, 4, 4], [4, 4, 8]])
    for order, middle in (([0, 1], 1), ([1, 0], 2)):
        label = draw_labels((9, 9, 13), centers[order], np.array([1, 2])[order], kind="cube")
        assert label[4, 4].tolist() == [0, *[1] * 5, middle, *[2] * 5, 0]


def test_a_label_does_not_depend_on_where_the_crop_starts():
    rng = np.random.default_rng(3)
    centers, classes = rng.uniform(0, 40, (60, 3)), rng.integers(1, 5, 60)
    whole = draw_labels((40,) * 3, centers, classes, diameter=[3, 6, 7, 12])
    start = np.array([7, 11, 2])
    part = draw_labels((20, 20, 20), centers - start, classes, diameter=[3, 6, 7, 12])
    np.testing.assert_array_equal(part, whole[7:27, 11:31, 2:22])


def test_nothing_to_draw():
    assert not draw_labels((4, 5, 6), np.empty((0, 3)), np.empty(0, int)).any()
    assert not draw_labels((4, 5, 6), np.array([[99.0, 2, 2]]), np.array([1])).any()


def test_near_is_within_the_distance():
    centers = np.array([[3.2, 4.0, 5.9], [20.0, 20.0, 20.0]])
    near = paint_near((10, 11, 12), centers, 4.5)
    grid = np.indices((10, 11, 12)).astype(float)
    distance2 = ((grid - centers[0][:, None, None, None]) ** 2).sum(0)
    np.testing.assert_array_equal(near, distance2 <= 4.5**2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "sphere"}, "kind must be one of truncated_ball, ball, cube, got 'sphere'"),
        ({"diameter": 2}, "diameter must be at least 3 voxels, got 2"),
        ({"diameter": 7.5}, "diameter must be whole voxels"),
        ({"diameter": []}, "diameter must be whole voxels"),
        ({"diameter": [7]}, "one for each of the 2 classes, got 1"),
        ({"classes": [0, 1]}, "classes must be from 1 to 254"),
        ({"classes": [1, 255]}, "classes must be from 1 to 254"),
        ({"classes": [1]}, "got 2 and 1"),
        ({"centers": [[1.0, 2, math.nan], [1, 2, 3]]}, "finite"),
    ],
)
def test_bad_input(change, message):
    arguments = {"centers": [[1.0, 2, 3], [4, 5, 6]], "classes": [1, 2], **change}
    centers = np.array(arguments.pop("centers"))
    classes = np.array(arguments.pop("classes"))
    with pytest.raises(InputError, match=message):
        draw_labels((8, 8, 8), centers, classes, **arguments)
