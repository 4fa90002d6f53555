import dataclasses
import pickle

import dask
import numpy as np
import pytest
from planar.pictures import PIXEL, picture, stack

from tomodask import InputError
from tomodask.planar.poses2d import Poses2D, composed, wrapped
from tomodask.planar.references2d import center_of_density, make_reference
from tomodask.planar.rounds2d import (
    Settings2D,
    classify_images,
    next_round,
    rounds_of,
    start_round,
)
from tomodask.planar.sharing import class_stability, equal_classes2d, fill_empty2d
from tomodask.planar.splitting import first_component
from tomodask.planar.transforming import disc
from tomodask.planar.twins import pose_changes2d

SIZE, RADIUS, SHIFT = 32, 11 * PIXEL, 2 * PIXEL


@pytest.fixture(autouse=True)
def _here():
    with dask.config.set(scheduler="synchronous"):
        yield


def purity(label, truth):
    return sum(np.bincount(truth[label == c]).max() for c in np.unique(label)) / len(label)


def same(one, two):
    for name in ("references", "averages", "halves"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    for name in ("table", "frc", "history"):
        assert getattr(one, name).equals(getattr(two, name)), name
    assert (one.number, one.settled) == (two.number, two.settled)


def test_reference_free_alignment_finds_the_view():
    images, truth = stack(80, SIZE, noise=1.0)
    last = classify_images(images, classes=1, radius=RADIUS, shift_range=SHIFT)
    assert last.settled
    assert last.number < 15
    # The average is the view but for a turn, and perhaps a mirror, of the whole.
    found, true = Poses2D.of(last.table), Poses2D.of(truth)
    zero = np.zeros(80)
    mirrored = composed(true, Poses2D(zero, zero, zero, np.ones(80, bool)))
    turned, moved = min(
        (pose_changes2d(one, found, np.zeros(80, int)) for one in (true, mirrored)),
        key=lambda both: np.median(both[0]),
    )
    assert np.median(turned) < 3
    assert np.median(moved) < 0.3 * PIXEL
    # centred
    assert np.hypot(*center_of_density(last.references[0], 11)) < 0.1


@pytest.mark.parametrize(("equal", "in_turn"), [(False, False), (True, False), (False, True)])
def test_classes_are_the_views(equal, in_turn):
    images, truth = stack(160, SIZE, views=4, noise=1.0, in_turn=in_turn)
    if in_turn:  # by number all images of a view would be of one half
        images = images.assign_coords(half=("image", 1 + np.arange(160) // 2 % 2))
    last = classify_images(
        images, classes=4, radius=RADIUS, shift_range=SHIFT, seed=1, equal=equal, rounds=20
    )
    assert purity(last.table["class"].to_numpy(), truth["class"].to_numpy()) > 0.95
    assert last.counts.sum() == 160
    if equal:
        assert last.counts.tolist() == [40] * 4
    assert last.frc.groupby("class").size().tolist() == [SIZE // 2 + 1] * 4
    assert last.history["round"].tolist() == list(range(1, last.number + 1))


def test_views_that_are_of_one_half_are_told(caplog):
    images, _ = stack(60, SIZE, views=2, in_turn=True)
    references = images[:2].copy(data=np.stack([picture(v, SIZE) for v in range(2)]))
    settings = Settings2D(2, RADIUS, SHIFT)
    state = start_round(images, settings, references=references.rename(image="class"))
    next_round(images, state, settings)
    assert "class 1 has 30 and 0 images" in caplog.text


def test_given_references_keep_their_order():
    images, truth = stack(60, SIZE, views=3, noise=0.7)
    references = images[:3].copy(data=np.stack([picture(v, SIZE) for v in range(3)]))
    references = references.rename(image="class")
    settings = Settings2D(3, RADIUS, SHIFT)
    state = start_round(images, settings, references=references)
    state = next_round(images, state, settings)
    right = state.table["class"].to_numpy() == truth["class"].to_numpy()
    assert right.mean() > 0.95
    angle = np.abs(wrapped(state.table["psi"].to_numpy() - truth["psi"].to_numpy()))
    assert np.median(angle[right]) < 2


def test_rounds_go_on_from_what_was_kept_bit_by_bit():
    images, _ = stack(40, SIZE, views=2, noise=0.7)
    settings = Settings2D(2, RADIUS, SHIFT, rounds=4, seed=3)
    rounds = list(rounds_of(images, settings))
    kept = pickle.loads(pickle.dumps(rounds[0]))
    for wanted, found in zip(rounds[1:], rounds_of(images, settings, state=kept), strict=True):
        same(wanted, found)


def test_chunks_batches_and_workers_change_no_bit():
    images, _ = stack(45, SIZE, views=3, noise=1.0)
    settings = Settings2D(3, RADIUS, SHIFT, rounds=3, seed=2)
    wanted = list(rounds_of(images, settings))[-1]
    with dask.config.set(scheduler="threads", num_workers=2):
        other = dataclasses.replace(settings, batch=8)
        found = list(rounds_of(images.chunk({"image": 7, "y": 20}), other))[-1]
    same(wanted, found)


def test_a_seed_draws_its_own_start():
    images, _ = stack(30, SIZE, views=2)
    one, two = (start_round(images, Settings2D(2, RADIUS, SHIFT, seed=s)) for s in (0, 1))
    assert not np.array_equal(one.references, two.references)
    assert one.number == 0
    assert not one.settled
    assert one.counts.tolist() == [0, 0]


def test_images_that_hold_nothing_are_set_aside_and_start_no_class():
    images, _ = stack(30, SIZE)
    images[::3] = 0.0
    images[4] = np.nan
    last = classify_images(images, classes=1, radius=RADIUS, shift_range=SHIFT, rounds=2)
    table = last.table
    assert (table["class"] == 0).sum() == 11
    assert table["reason"].iloc[4] == "not finite"
    assert table["psi"].iloc[[0, 4]].isna().all()
    assert np.isfinite(last.averages).all()


def test_each_round_is_told():
    images, _ = stack(20, SIZE)
    seen = []
    last = classify_images(
        images, classes=1, radius=RADIUS, shift_range=SHIFT, rounds=2, on_round=seen.append
    )
    assert [one.number for one in seen] == [1, 2]
    assert seen[-1] is last


def test_classes_are_compared_by_one_band_first():
    images, _ = stack(40, SIZE, views=2, noise=0.3)
    settings = Settings2D(2, RADIUS, SHIFT, coarse=2, start_resolution=30.0)
    power = []
    for one in rounds_of(images, dataclasses.replace(settings, rounds=3)):
        spectrum = np.abs(np.fft.fft2(one.references)) ** 2
        k = np.fft.fftfreq(SIZE, PIXEL)
        fine = np.hypot(k[:, None], k) > 1 / 20
        power.append((spectrum[:, fine].sum(1) / spectrum[:, ~fine].sum(1)).min())
    assert max(power[:2]) < 1e-6
    assert power[2] > 1e-4


def test_equal_classes_deal_the_best_pairs_first():
    rng = np.random.default_rng(0)
    scores = rng.random((25, 4))
    label = equal_classes2d(scores)
    assert sorted(np.bincount(label)) == [6, 6, 6, 7]
    # slowly, as it is written
    room, wanted = [7, 6, 6, 6], np.full(25, -1)
    for pair in np.argsort(-scores.ravel(), kind="stable"):
        image, c = divmod(int(pair), 4)
        if wanted[image] < 0 and room[c]:
            wanted[image], room[c] = c, room[c] - 1
    np.testing.assert_array_equal(label, wanted)
    scores[3] = np.nan
    assert equal_classes2d(scores)[3] == -1


def test_an_empty_class_takes_the_worst_half_of_the_largest():
    label = np.array([0] * 12 + [1] * 6)
    score = np.concatenate([np.arange(12.0), np.full(6, 9.0)])
    half = 1 + np.arange(18) % 2
    found, filled = fill_empty2d(label, score, half, 3)
    assert filled == [(2, 0)]
    assert np.flatnonzero(found == 2).tolist() == [0, 1, 2, 3, 4, 5]
    kept, none = fill_empty2d(label, score, half, 2)
    assert none == []
    np.testing.assert_array_equal(kept, label)


def test_stability_sees_through_the_numbering():
    rng = np.random.default_rng(1)
    one = rng.integers(0, 5, 200)
    two = np.array([3, 0, 4, 1, 2])[one]
    wander = rng.choice(200, 20, replace=False)
    two[wander] = (two[wander] + 1) % 5
    found = class_stability([one, two, one], 5)
    assert np.flatnonzero(~found.stable).tolist() == sorted(wander.tolist())
    np.testing.assert_array_equal(found.label[found.stable], one[found.stable])
    assert found.matches[1].tolist() == [3, 0, 4, 1, 2]
    with pytest.raises(InputError, match="two runs"):
        class_stability([one], 5)


def test_a_turn_of_the_whole_class_is_no_change():
    rng = np.random.default_rng(2)
    before = Poses2D(rng.uniform(-180, 180, 50), *rng.normal(size=(2, 50)), rng.random(50) < 0.5)
    common = Poses2D(np.full(50, 170.0), np.full(50, 1.0), np.full(50, -2.0), np.zeros(50, bool))
    turned, moved = pose_changes2d(before, composed(before, common), np.zeros(50, int))
    assert turned.max() < 1e-6
    assert moved.max() < 1e-6
    other = dataclasses.replace(before, mirror=~before.mirror)
    assert (pose_changes2d(before, other, np.zeros(50, int))[0] == 180).all()


def test_center_is_found_whatever_the_contrast():
    image = picture(1, 48, shift=(2.2, -3.1))
    at_rest = np.array(center_of_density(picture(1, 48), 16))
    for contrast in (image, -image, 5 + image):
        found = np.array(center_of_density(contrast, 16))
        np.testing.assert_allclose(found - at_rest, [2.2, -3.1], atol=0.15)
    assert center_of_density(np.zeros((16, 16)), 6) == (0.0, 0.0)


def test_references_are_centred_views():
    image = picture(1, 48, shift=(2.2, -3.1)).astype(np.float32)
    found = make_reference(
        image, np.stack([image, image]), radius=18, center=True, pixel_size=PIXEL
    )
    assert np.hypot(*center_of_density(found, 16)) < 0.1
    still = make_reference(
        image, np.stack([image, image]), radius=18, center=False, pixel_size=PIXEL
    )
    assert np.corrcoef(still[disc(48, 16)], image[disc(48, 16)])[0, 1] > 0.999


def test_first_component_tells_two_kinds_apart():
    rng = np.random.default_rng(3)
    kind = rng.random(60) < 0.5
    values = rng.normal(size=(60, 12)) + 3 * kind[:, None] * np.eye(12)[4]
    assert np.corrcoef(first_component(values), kind)[0, 1] > 0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 0}, "classes must be a whole number"),
        ({"classes": 9}, "ask for fewer classes"),
        ({"radius": 80.0}, "radius"),
        ({"shift_range": -1.0}, "shift_range"),
        ({"shift_step": 0.0}, "shift_step"),
        ({"rounds": 0}, "rounds"),
        ({"seed": -1}, "seed"),
        ({"resolution": 3.0}, "resolution"),
        ({"ctf": "both"}, "ctf must be"),
        ({"ctf": "multiply"}, "defocus_u"),
        ({"stride": 2}, "stride is no setting"),
    ],
)
def test_bad_settings_are_named(change, message):
    images, _ = stack(20, SIZE)
    settings = {"classes": 2, "radius": RADIUS, "shift_range": SHIFT, **change}
    with pytest.raises(InputError, match=message):
        classify_images(images, **settings)


def test_what_does_not_fit_is_named():
    images, _ = stack(20, SIZE)
    settings = Settings2D(2, RADIUS, SHIFT)
    references = images[:3].rename(image="class")
    with pytest.raises(InputError, match="references must be 2 images"):
        start_round(images, settings, references=references)
    close = images[:2].rename(image="class").assign_attrs(pixel_size=PIXEL * 1.005)
    with pytest.raises(InputError, match="references have pixels of"):
        start_round(images, settings, references=close)
    with pytest.raises(InputError, match="start anew"):
        next_round(images[:18], start_round(images, settings), settings)
    nothing = images.copy(data=np.zeros(images.shape, np.float32))
    with pytest.raises(InputError, match="only 0 of 20 images"):
        start_round(nothing, settings)
