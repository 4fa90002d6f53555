"""Warps: blobs stay under their moved centres, bounds are kept, mirrors are exact, bad input."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.ndimage import map_coordinates

from tomodask.errors import InputError
from tomodask.nets.segmentation.augmentation import Augmentation, Warp, augment, draw_warp

pytest.importorskip("torch", reason="crops are turned with PyTorch")

ALWAYS = Augmentation(probability=1.0)
SHAPE = (40, 48, 56)
EDGE = np.array([1, 4, 1]) / 6


def warps(count, augmentation=ALWAYS, shape=SHAPE):
    return [draw_warp(augmentation, shape, np.random.default_rng([7, i])) for i in range(count)]


def blob(warp, centers, sigma=2.0):
    """Gaussians in the voxels that the warp needs."""
    low, high = warp.source_box()
    z, y, x = (np.arange(a, b) for a, b in zip(low, high, strict=True))
    out = np.zeros([len(z), len(y), len(x)])
    for c in centers:
        parts = (np.exp(-0.5 * ((axis - p) / sigma) ** 2) for axis, p in zip((z, y, x), c,
                                                                          strict=True))  # fmt: skip
        out += np.einsum("i,j,k->ijk", *parts)
    return out.astype(np.float32)


def centroid(volume, near, radius=7):
    grid = np.indices(volume.shape)
    weights = volume * (((grid - near[:, None, None, None]) ** 2).sum(0) <= radius**2)
    return (grid * weights).sum((1, 2, 3)) / weights.sum()


@pytest.mark.parametrize(
    "augmentation",
    [
        ALWAYS,
        Augmentation(axis="z", probability=1.0),
        Augmentation(probability=0.0),
        Augmentation(mirror=False, rotation=180.0, scaling=(0.7, 1.4), elastic=0.15,
                     probability=1.0),
    ],
)  # fmt: skip
def test_a_blob_stays_under_its_moved_centre(augmentation):
    seen = 0
    for warp in warps(12, augmentation):
        centers = np.array([[18.4, 25.7, 27.2], [28.0, 14.1, 40.3]])
        crop, moved = augment(blob(warp, centers), centers, warp)
        assert crop.shape == SHAPE
        assert crop.dtype == np.float32
        for place in moved:
            if ((place > 8) & (place < np.array(SHAPE) - 9)).all():
                assert np.abs(centroid(crop, place) - place).max() < 0.1
                seen += 1
    assert seen >= 8


def test_one_interpolation_through_the_stated_map():
    rng = np.random.default_rng(0)
    for warp in warps(6):
        low, high = warp.source_box()
        source = rng.normal(size=np.subtract(high, low)).astype(np.float32)
        at = warp.sources - np.array(low)[:, None, None, None]
        slow = np.flip(map_coordinates(source.astype(float), at, order=1), warp.flips)
        np.testing.assert_allclose(warp.resample(source), slow, atol=2e-4)


def test_the_box_holds_all_that_is_taken():
    for warp in warps(40):
        low, high = warp.source_box()
        flat = warp.sources.reshape(3, -1)
        assert (flat.min(1) >= low).all()
        assert (flat.max(1) <= np.array(high) - 1).all()


def test_moving_inverts_the_map_of_any_voxel():
    for warp in warps(12):
        voxels = np.random.default_rng(1).integers(0, SHAPE, (20, 3))
        mirrored = warp.sources
        for axis in warp.flips:
            mirrored = np.flip(mirrored, axis + 1)
        taken = np.array([mirrored[:, *voxel] for voxel in voxels], float)
        np.testing.assert_allclose(warp.move(taken), voxels, atol=2e-4)
        np.testing.assert_allclose([warp.origin(v) for v in voxels], taken, atol=2e-5)


def test_points_beyond_the_crop_move_and_come_back():
    points = np.array([[-9.0, 20, 20], [20, 60, -3], [50.0, 50, 70]])
    for warp in warps(12):
        back = np.array([warp.origin(point) for point in warp.move(points)])
        np.testing.assert_allclose(back, points, atol=1e-6)


def test_no_centres_stay_none():
    for warp in warps(3):
        assert warp.move(np.empty((0, 3))).shape == (0, 3)


def test_the_bend_is_a_cubic_spline():
    for warp in warps(3):
        bend = warp.sources - Warp(SHAPE, (), warp.matrix).sources
        for axis, size in enumerate(SHAPE):
            count = warp.controls.shape[1 + axis] - 3
            spline = BSpline(np.arange(-3.0, count + 4), np.eye(count + 3), 3)
            weights = spline(np.arange(size) * count / (size - 1))
            rest = [i for i in range(3) if i != axis]
            corner = np.take(np.take(bend, 0, 1 + rest[1]), 0, 1 + rest[0])
            # At the first voxel the weights along the other axes are 1/6, 4/6, 1/6.
            lines = np.moveaxis(warp.controls, 1 + axis, 1)[:, :, :3, :3]
            expected = np.einsum("icab,a,b,nc->in", lines, EDGE, EDGE, weights)
            np.testing.assert_allclose(corner, expected, atol=1e-5)


def test_mirrors_are_exact_and_move_centres_to_the_same_voxels():
    rng = np.random.default_rng(0)
    source = rng.normal(size=SHAPE).astype(np.float32)
    seen = set()
    for warp in warps(40, Augmentation(probability=0.0)):
        assert warp.source_box() == ((0, 0, 0), SHAPE)
        crop, moved = augment(source, np.array([[3.0, 4, 5]]), warp)
        np.testing.assert_array_equal(crop, np.flip(source, warp.flips))
        assert crop[tuple(moved[0].astype(int))] == source[3, 4, 5]
        seen.add(warp.flips)
    assert len(seen) == 8


def test_turns_scales_and_bends_are_within_their_bounds():
    angles, factors, slopes = [], [], []
    for warp in warps(80):
        factor = np.cbrt(1 / np.linalg.det(warp.matrix))
        turn = warp.matrix * factor
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        factors.append(factor)
        angles.append(np.rad2deg(np.arccos((np.trace(turn) - 1) / 2)))
        bend = warp.sources - Warp(SHAPE, (), warp.matrix).sources
        slopes.append(max(np.abs(np.diff(bend, axis=axis)).max() for axis in (1, 2, 3)))
    assert 13 < max(angles) <= 15
    assert 0.95 <= min(factors) < 0.96
    assert 1.04 < max(factors) <= 1.05
    assert 0.035 < max(slopes) < 0.05


def test_about_z_keeps_what_lies_along_the_beam():
    for warp in warps(10, Augmentation(axis="z", scaling=(1, 1), probability=1.0)):
        np.testing.assert_allclose(warp.matrix @ [1, 0, 0], [1, 0, 0], atol=1e-12)


def test_most_crops_are_not_interpolated():
    share = np.mean([warp.resamples for warp in warps(600, Augmentation())])
    assert abs(share - (1 - 0.9**3)) < 0.06


def test_interpolation_takes_the_stated_share_of_white_noise():
    rng = np.random.default_rng(0)
    left = []
    for warp in warps(4):
        low, high = warp.source_box()
        left.append(warp.resample(rng.normal(size=np.subtract(high, low)).astype("f4")).var())
    assert abs(np.mean(left) - 8 / 27) < 0.02


def test_the_same_draw_gives_the_same_bits():
    for a, b in zip(warps(5), warps(5), strict=True):
        source = np.random.default_rng(0).normal(size=np.subtract(*a.source_box()[::-1]))
        np.testing.assert_array_equal(a.resample(source), b.resample(source))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rotation": -1}, "rotation must be from 0 to 180°, got -1"),
        ({"axis": "y"}, "axis must be any or z, got 'y'"),
        ({"scaling": (1.1, 0.9)}, "smaller first"),
        ({"scaling": (0.1, 1.0)}, "from 0.5 to 2"),
        ({"elastic": 0.3}, "elastic must be from 0 to 0.238 with scaling up to 1.05"),
        ({"probability": 1.5}, "probability must be from 0 to 1"),
    ],
)
def test_bad_input(values, message):
    with pytest.raises(InputError, match=message):
        Augmentation(**values)


def test_a_crop_too_small():
    with pytest.raises(InputError, match="must have 8 voxels along each axis"):
        draw_warp(ALWAYS, (16, 4, 16), np.random.default_rng(0))


def test_without_pytorch_only_mirrors(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    source = np.ones(SHAPE, np.float32)
    assert Warp(SHAPE, (0, 2)).resample(source).shape == SHAPE
    warp = warps(1)[0]
    low, high = warp.source_box()
    with pytest.raises(InputError, match=r"pip install 'tomodask\[training\]'"):
        warp.resample(np.ones(np.subtract(high, low), np.float32))
