"""Crops against slices of the whole tomogram, whatever the chunks; who has a say; bad input."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import dask.array as da
import hypothesis.strategies as st
import numpy as np
import pytest
import xarray as xr
from helpers import irregular_chunks
from hypothesis import given, settings

from tomodask.errors import InputError
from tomodask.nets.segmentation.architecture import IGNORED
from tomodask.nets.segmentation.augmentation import Augmentation
from tomodask.picking.learning.crops import CropSampler, TrainingTomogram, split
from tomodask.picking.learning.labels import draw_labels

SHAPE = (40, 56, 72)


def tomogram(values=None, *, chunks=None, particles=12, classes=3, seed=0, mean=2.0, std=3.0,
             region=None, centers=None):  # fmt: skip
    rng = np.random.default_rng(seed)
    if values is None:
        values = rng.normal(2, 3, SHAPE).astype(np.float32)
    if centers is None:
        centers = rng.uniform(0, np.array(values.shape) - 1, (particles, 3))
    numbers = rng.integers(1, classes + 1, len(centers))
    data = values if chunks is None else da.from_array(values, chunks=chunks)
    volume = xr.DataArray(data, dims=("z", "y", "x"), name="tomogram", attrs={"voxel_size": 10.0})
    return TrainingTomogram(volume, mean, std, centers, numbers, region)


def all_of(sampler, epoch=0):
    return [sampler.example(epoch, index) for index in range(len(sampler))]


def assert_equal(a, b):
    for (crop, label), (crop2, label2) in zip(a, b, strict=True):
        np.testing.assert_array_equal(crop, crop2)
        np.testing.assert_array_equal(label, label2)


WARPED = Augmentation(probability=0.7)


@given(chunks=irregular_chunks(SHAPE), augmented=st.booleans(), kept=st.booleans())
@settings(max_examples=12, deadline=None)
def test_chunks_and_memory_change_nothing(chunks, augmented, kept):
    if augmented:
        pytest.importorskip("torch")
    options = {"crop": 24, "jitter": 5, "augmentation": WARPED if augmented else None}
    eager = CropSampler([tomogram(particles=5)], **options)
    lazy = CropSampler(
        [tomogram(particles=5, chunks=chunks)], **options, memory=1 << 30 if kept else 0
    )
    assert_equal(all_of(eager, 3), all_of(lazy, 3))


def test_threads_and_order_change_nothing():
    pytest.importorskip("torch")
    sampler = CropSampler([tomogram(chunks=16)], crop=24, augmentation=WARPED, background=0.3)
    calls = [(epoch, index) for epoch in (0, 1) for index in range(len(sampler))]
    one_by_one = [sampler.example(*call) for call in calls]
    fresh = CropSampler([tomogram(chunks=16)], crop=24, augmentation=WARPED, background=0.3)
    shuffled = [calls[i] for i in np.random.default_rng(0).permutation(len(calls))]
    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(shuffled, pool.map(lambda call: fresh.example(*call), shuffled),
                         strict=True))  # fmt: skip
    assert_equal(one_by_one, [found[call] for call in calls])


def test_validation_is_a_slice_with_the_label_of_all_particles():
    one = tomogram(particles=20)
    sampler = CropSampler([one], crop=24, diameter=[3, 6, 7], label="ball", background=0.0)
    padded = np.pad((one.volume.values - np.float32(2)) * np.float32(1 / 3), 24)
    assert len(sampler) == 20
    wanted = []
    for center in one.centers:
        first = np.rint(center).astype(int) - 12
        place = tuple(slice(f + 24, f + 48) for f in first)
        drawn = draw_labels((24,) * 3, one.centers - first, one.classes, kind="ball",
                            diameter=[3, 6, 7])  # fmt: skip
        inside = np.pad(np.ones(SHAPE, bool), 24)[place]
        wanted.append((padded[place][None], np.where(inside, drawn, IGNORED)))
    found = [sampler.validation(index) for index in range(20)]
    key = lambda example: example[0].tobytes()  # noqa: E731
    assert_equal(sorted(found, key=key), sorted(wanted, key=key))


def test_validation_starts_with_a_particle_and_samples_all_kinds():
    one = tomogram(particles=60)
    for seed in range(5):
        sampler = CropSampler([one], crop=16, background=0.5, seed=seed)
        assert sampler.validation(0)[1][8, 8, 8] in (1, 2, 3)
        middles = [sampler.validation(index)[1][8, 8, 8] for index in range(40)]
        assert {1, 2, 3} < set(middles)
        assert 10 < np.isin(middles, (0, IGNORED)).sum() < 30


def test_a_region_for_the_network_to_look_at_is_inside_the_tomogram():
    one = tomogram(particles=9, chunks=20)
    whole = (one.volume.values - np.float32(2)) * np.float32(1 / 3)
    for seed in range(6):
        region = CropSampler([one], crop=16, seed=seed).region(48)
        assert region.shape == (40, 48, 48)
        windows = np.lib.stride_tricks.sliding_window_view(whole, region.shape)
        assert (windows == region).all((3, 4, 5)).any()


def test_inverted_contrast():
    plain, inverted = tomogram(std=3.0), tomogram(std=-3.0)
    for index in range(3):
        crop, _ = CropSampler([plain], crop=16).validation(index)
        other, _ = CropSampler([inverted], crop=16).validation(index)
        np.testing.assert_array_equal(crop, -other)


def test_an_epoch_has_each_particle_once_and_its_share_of_random_places():
    # The crops of particle n hold n where it was marked, and they are so far apart that no crop
    # holds two; random places lie elsewhere.
    grid = np.stack(np.meshgrid([20.0], [12, 44], [12, 36, 60], indexing="ij"), -1).reshape(-1, 3)
    values = np.zeros(SHAPE, np.float32)
    for number, (z, y, x) in enumerate(grid.astype(int), start=1):
        values[z, y, x] = number
    both = [tomogram(values * sign, centers=grid, classes=1, mean=0.0, std=1.0) for sign in (1, -1)]
    sampler = CropSampler(both, crop=16, jitter=3, background=0.4)
    assert len(sampler) == 20

    def numbers(epoch, count, sampler=sampler):
        out = []
        for index in range(count):
            crop, _ = sampler.example(epoch, index)
            out.append(int(crop[0, 5:12, 5:12, 5:12].min() + crop[0, 5:12, 5:12, 5:12].max()))
        return out

    orders = [numbers(epoch, 20) for epoch in (0, 1)]
    for order in orders:
        for number in (*range(1, 7), *range(-6, 0)):
            assert order.count(number) in (1, 2)  # at random places it may be seen once more
        assert order.count(0) >= 5
    assert orders[0] != orders[1]
    more = numbers(0, 40)
    assert more[:20] == orders[0]
    assert more[20:] != orders[0]
    assert all(more[20:].count(n) >= 1 for n in range(1, 7))
    assert numbers(0, 20, CropSampler(both, crop=16, jitter=3, background=0.4, seed=1)) != orders[0]


@pytest.mark.parametrize("augmentation", [None, Augmentation(probability=1.0)])
def test_a_particle_is_within_the_jitter_and_its_label_inside(augmentation):
    if augmentation:
        pytest.importorskip("torch")
    one = tomogram(centers=[[20.3, 28.1, 36.4]], classes=1)
    sampler = CropSampler([one], crop=24, jitter=50, diameter=7, background=0.0,
                          augmentation=augmentation)  # fmt: skip
    steps = []
    for epoch in range(150):
        _, label = sampler.example(epoch, 0)
        body = np.argwhere(label == 1)
        assert 240 < len(body) < 330  # whole: the truncated ball has 287 voxels
        steps.append(body.mean(0) - 12)
    assert np.abs(steps).max() <= 7 + 1.1  # 24 / 2 less half the label and one voxel
    assert np.abs(steps).max() > 5
    assert np.abs(np.mean(steps, 0)).max() < 1.5


def test_the_label_lies_on_the_particle_after_any_warp():
    pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    centers = rng.uniform(6, np.array(SHAPE) - 7, (60, 3))
    centers = centers[[i for i, c in enumerate(centers)
                       if (np.linalg.norm(centers[:i] - c, axis=1) > 13).all()]]  # fmt: skip
    grid = np.indices(SHAPE)
    values = sum(
        np.exp(-0.5 * ((grid - c[:, None, None, None]) ** 2).sum(0) / 4) for c in centers
    ).astype(np.float32)
    one = tomogram(values, centers=centers, mean=0.0, std=1.0, chunks=(20, 30, 30))
    sampler = CropSampler([one], crop=32, jitter=8, background=0.0,
                          augmentation=Augmentation(probability=1.0))  # fmt: skip
    for crop, label in all_of(sampler):
        body = np.argwhere((label > 0) & (label < IGNORED))
        near = body[(np.abs(body - 16) <= 12).all(1)]
        assert len(near)
        top = np.array(np.unravel_index(np.where(label == 0, 0, crop[0]).argmax(), label.shape))
        same = body[np.linalg.norm(body - top, axis=1) < 7]
        if len(same) > 250:  # not cut by a face
            assert np.abs(same.mean(0) - top).max() < 1
        far = (label == 0) & (crop[0] > np.exp(-0.5 * 9 / 4) + 0.05)
        assert not far.any()  # nothing bright is called background: 3 voxels from a centre, 0.32


@pytest.mark.parametrize("augmentation", [None, Augmentation(probability=1.0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_voxel_outside_the_region_or_the_tomogram_has_no_say(augmentation, axis):
    if augmentation:
        pytest.importorskip("torch")
    ramp = np.indices(SHAPE)[axis].astype(np.float32) + 1
    region = [(0, n) for n in SHAPE]
    region[axis] = (11, SHAPE[axis] - 9)
    one = tomogram(ramp, mean=0.0, std=1.0, region=tuple(region), particles=40, chunks=17)
    sampler = CropSampler([one], crop=24, background=0.3, augmentation=augmentation)
    for call in (sampler.example, lambda _, index: sampler.validation(index)):
        seen = ignored = 0
        for index in range(len(sampler)):
            crop, label = call(0, index)
            told = crop[0] - 1  # a linear ramp is interpolated exactly: where the voxel is from
            has_say = label != IGNORED
            assert (told[has_say] >= 11 - 1e-3).all()
            assert (told[has_say] <= SHAPE[axis] - 10 + 1e-3).all()
            seen += has_say.sum()
            ignored += (~has_say).sum()
        assert seen
        assert ignored


def test_the_body_of_a_held_out_particle_has_no_say_where_it_reaches_over():
    centers = np.array([[20.0, 24, 36], [20, 29, 36]])
    one = tomogram(centers=centers, classes=1, region=((0, 40), (0, 28), (0, 72)))
    sampler = CropSampler([one], crop=16, background=0.0, diameter=7)
    assert len(sampler) == 1
    _, label = sampler.validation(0)  # voxel (8, 8, 8) is the centre, the region ends at y = 12
    # From y = 11 on the other one, 5 from the first, is nearer.
    assert label[8, 4:12, 8].tolist() == [0, 1, 1, 1, 1, 1, 1, IGNORED]
    assert (label[:, 12:] == IGNORED).all()


def test_known_within_ignores_what_is_far_in_crops_about_particles_only():
    one = tomogram(centers=[[20.0, 28, 36]], classes=1)
    plain = CropSampler([one], crop=32, background=0.5)
    partly = CropSampler([one], crop=32, background=0.5, known_within=9.0)
    (_, whole), (_, near) = plain.validation(0), partly.validation(0)
    distance = np.sqrt(((np.indices((32,) * 3) - 16) ** 2).sum(0))
    np.testing.assert_array_equal(near, np.where(distance <= 9, whole, IGNORED))
    np.testing.assert_array_equal(plain.validation(1)[1], partly.validation(1)[1])  # at random
    assert (partly.validation(1)[1] == 0).any()


@given(
    particles=st.integers(2, 60),
    classes=st.integers(1, 4),
    share=st.sampled_from([0.1, 0.2, 0.5]),
    seed=st.integers(0, 20),
)
@settings(max_examples=40, deadline=None)
def test_split_parts_voxels_and_particles(particles, classes, share, seed):
    one = tomogram(particles=particles, classes=classes, seed=seed)
    (training,), (validation,) = split([one], share, seed)
    assert (training.owned ^ validation.owned).all()
    assert training.owned.any()
    assert validation.owned.any()
    mask = np.zeros(SHAPE, int)
    for part in (training, validation):
        mask[tuple(slice(*ends) for ends in part.box)] += 1
    assert (mask == 1).all()
    if particles >= 20:
        assert abs(validation.owned.sum() / particles - share) <= 0.3 * share + 2 / particles
    again = split([one], share, seed)
    assert again[0][0].region == training.region


def test_split_cuts_from_every_tomogram_that_can_be_parted():
    one, alone = tomogram(), tomogram(particles=1)
    training, validation = split([one, alone, one], 0.25)
    assert [t.region is None for t in training] == [False, True, False]
    assert len(validation) == 2
    assert split([one], 0.0) == ([one], [])
    with pytest.raises(InputError, match="held out for validation; mark more particles"):
        split([alone])
    same = tomogram(centers=[[5.0, 5, 5]] * 4)
    with pytest.raises(InputError, match="that a slab can part"):
        split([same])
    with pytest.raises(InputError, match="share must be from 0"):
        split([one], 1.0)
    with pytest.raises(InputError, match="split it once"):
        split(training)


def test_a_class_is_not_lost_to_validation_where_that_can_be_helped():
    rng = np.random.default_rng(0)
    centers = rng.uniform(0, np.array(SHAPE) - 1, (40, 3))
    centers[:5, 1] = rng.uniform(50, 55, 5)  # all of class 2 lie at the end of y
    centers[5:, 1] = rng.uniform(0, 45, 35)
    base = tomogram(centers=centers)
    one = TrainingTomogram(base.volume, 0, 1, centers, np.where(np.arange(40) < 5, 2, 1))
    for seed in range(5):
        (training,), _ = split([one], 0.15, seed)
        assert (one.classes[training.owned] == 2).any()


def test_a_tomogram_without_particles_gives_random_places():
    empty = tomogram(np.full(SHAPE, 7.0, np.float32), particles=0, mean=0.0, std=1.0)
    full = tomogram(np.zeros(SHAPE, np.float32), mean=0.0, std=1.0)
    sampler = CropSampler([full, empty], crop=16, background=0.5)
    of_empty = [label for crop, label in all_of(sampler) if crop.max() == 7]
    assert of_empty
    assert all(np.isin(label, (0, IGNORED)).all() for label in of_empty)
    training, validation = split([empty, full])
    assert training[0].region is None
    assert len(validation) == 1


def test_plain_crops_need_no_pytorch():
    code = (
        "import sys, numpy as np, xarray as xr\n"
        "from tomodask.picking.learning.crops import CropSampler, TrainingTomogram\n"
        "v = xr.DataArray(np.ones((20, 20, 20)), dims=('z', 'y', 'x'))\n"
        "one = TrainingTomogram(v, 0.0, 1.0, np.full((1, 3), 9.0), np.array([1]))\n"
        "CropSampler([one], crop=16).example(0, 0)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_nan_is_told_with_its_tomogram():
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    values[20, 28, 36] = np.nan
    sampler = CropSampler([tomogram(values, centers=[[20.0, 28, 36]])], crop=16, background=0.0)
    with pytest.raises(InputError, match=r"tomogram: NaN or infinite voxels between voxel \[\d+, "):
        sampler.example(0, 0)


def test_integers_are_normalised_like_floats():
    values = np.random.default_rng(0).integers(-100, 100, SHAPE)
    for kind in (np.int8, np.int16, np.float32):
        crop, _ = CropSampler([tomogram(values.astype(kind))], crop=16).validation(3)
        expected, _ = CropSampler([tomogram(values.astype(float))], crop=16).validation(3)
        np.testing.assert_array_equal(crop, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 15}, "crop must be at least 16 voxels, got 15"),
        ({"jitter": -1}, "jitter must be at least 0"),
        ({"background": 1.0}, "background must be a share"),
        ({"known_within": 0.0}, "known_within must be above 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"diameter": 31, "crop": 32}, "diameter must leave room in a crop of 32 voxels, got 31"),
        ({"diameter": 15, "crop": 17}, "diameter must leave room in a crop of 17 voxels, got 15"),
        ({"diameter": [7, 7]}, "one for each of the 3 classes"),
        ({"label": "disk"}, "kind must be one of"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        CropSampler([tomogram()], **options)


def test_bad_tomograms():
    good = tomogram()
    with pytest.raises(InputError, match="no particle in the tomograms"):
        CropSampler([tomogram(particles=0)])
    with pytest.raises(InputError, match="no particle"):
        CropSampler([])
    with pytest.raises(InputError, match="std not 0"):
        tomogram(std=0.0)
    with pytest.raises(InputError, match="1 of 2 particles are outside the volume"):
        tomogram(centers=[[5.0, 5, 5], [5, 5, 99]])
    with pytest.raises(InputError, match="12 centers, but 1 classes"):
        TrainingTomogram(good.volume, 0, 1, good.centers, [1])
    with pytest.raises(InputError, match="classes must be from 1 to 254"):
        TrainingTomogram(good.volume, 0, 1, good.centers, np.zeros(12, int))
    with pytest.raises(InputError, match="not within the volume"):
        tomogram(region=((0, 40), (0, 57), (0, 72)))
    with pytest.raises(InputError, match="dims"):
        TrainingTomogram(good.volume.transpose("x", "y", "z"), 0, 1, good.centers, good.classes)


def test_a_second_turn_of_an_epoch_draws_anew():
    sampler = CropSampler([tomogram(centers=[[20.0, 28, 36]])], crop=16, background=0.0)
    crops = [sampler.example(0, index)[0].tobytes() for index in range(5)]
    assert len(set(crops)) == 5
