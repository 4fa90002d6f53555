"""Boxes in batches: all of them once, in an order that no chunk changes, within the memory told."""

import threading
import tracemalloc

import dask
import numpy as np
import pytest
from classification.kinds import EDGE, boxes_of, two_kinds
from helpers import irregular_chunks
from hypothesis import given, settings
from hypothesis import strategies as st

from tomodask.classification.learning import box_stream
from tomodask.classification.learning.box_stream import BoxStream
from tomodask.classification.learning.lenses import lenses_for
from tomodask.data.subtomograms import open_subtomograms, save_subtomograms
from tomodask.errors import InputError
from tomodask.nets.boxes.normalisation import normalised
from tomodask.nets.boxes.views import Views, view
from tomodask.training.ahead import made_ahead

BOX = 4 * EDGE**3  # bytes


@pytest.fixture
def small_lots(monkeypatch):
    """Memory that holds a few small boxes is enough."""
    monkeypatch.setattr(box_stream, "_FEWEST_AT_ONCE", 4)
    monkeypatch.setattr(box_stream, "batch_size", lambda count, box: 3)


def tiny(count, chunks, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, 4, 4, 4)).astype(np.float32)
    return values, boxes_of(values, chunks=chunks)


def taken(batches):
    made = list(batches)
    return [b.places.tolist() for b in made], np.concatenate([b.boxes[0] for b in made])


@given(data=st.data(), count=st.integers(9, 30), memory=st.sampled_from([8, 11, 100]))
@settings(deadline=None, max_examples=25)
def test_chunks_change_neither_order_nor_boxes(data, count, memory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box_stream, "_FEWEST_AT_ONCE", 4)
        patch.setattr(box_stream, "batch_size", lambda count, box: 3)
        rows = np.flatnonzero(np.random.default_rng(count).random(count) < 0.8)
        values, whole = tiny(count, count)
        _, cut = tiny(count, data.draw(irregular_chunks((count,)))[0])
        streams = [BoxStream(one, rows, seed=5, memory=4 * 64 * memory) for one in (whole, cut)]
        for epoch in (0, 1):
            orders = [taken(one.batches(epoch, 2)) for one in streams]
            assert orders[0][0] == orders[1][0]
            np.testing.assert_array_equal(orders[0][1], orders[1][1])
            places = np.concatenate(orders[0][0])
            assert sorted(places) == list(range(len(rows)))
            np.testing.assert_array_equal(orders[0][1], normalised(values[rows[places]]))
        assert taken(streams[0].batches(0, 2))[0] != taken(streams[0].batches(1, 2))[0]


def test_lots_hold_what_memory_does(small_lots):
    _, boxes = tiny(40, 40)
    stream = BoxStream(boxes, np.arange(40), memory=4 * 64 * 20)
    lots = stream.order(0)
    assert not stream.whole
    assert max(map(len, lots)) <= stream.at_once == 10
    assert stream.bytes == 4 * 64 * 20
    sizes = [len(batch.places) for batch in stream.batches(0, 4)]
    assert sizes == [4] * 10  # a batch may hold boxes of two lots
    assert [len(b.places) for b in stream.batches(0, 3)] == [3] * 13 + [1]
    assert [len(b.places) for b in stream.batches(0, 3, whole=True)] == [3] * 13
    assert BoxStream(boxes, np.arange(40), memory=4 * 64 * 40).whole
    with pytest.raises(InputError, match=r"batch must be from 1 to 5 boxes.*got 6.*--memory"):
        next(stream.batches(0, 6))
    with pytest.raises(InputError, match="memory must hold at least 8 boxes"):
        BoxStream(boxes, np.arange(40), memory=4 * 64 * 7)


def test_no_more_is_read_at_once_than_is_told(small_lots, monkeypatch):
    """Two lots and a block, whatever comes after."""
    _, boxes = tiny(60, 1)
    stream = BoxStream(boxes, np.arange(60), memory=4 * 64 * 16)
    held = []
    read = stream._read

    def counted(rows):
        held.append(len(rows))
        return read(rows)

    stream._read = counted
    batches = stream.batches(0, 2)
    next(batches)
    assert sum(held) <= 2 * stream.at_once
    assert max(held) <= 3
    batches.close()


def test_in_order_gives_every_box_once(small_lots):
    values, boxes = tiny(11, 4)
    rows = np.array([0, 1, 2, 4, 5, 8, 9, 10])
    stream = BoxStream(boxes, rows, memory=4 * 64 * 8, invert=True)
    places, found = taken(stream.in_order(2))
    assert places == [[0, 1], [2], [3, 4], [5], [6, 7]]
    np.testing.assert_array_equal(found, normalised(values[rows], invert=True))


def test_views_belong_to_the_particle_and_the_epoch():
    boxes, _ = two_kinds(6)
    views = Views()
    stream = BoxStream(boxes, np.arange(1, 6), seed=3)
    seen = {}
    for size in (2, 5):
        for batch in stream.batches(1, size, views=views, each=2):
            for place, one, other in zip(batch.places, *batch.boxes, strict=True):
                pair = np.stack([one, other])
                if place in seen:
                    np.testing.assert_array_equal(pair, seen[place])
                seen[int(place)] = pair
    box = normalised(boxes.subtomogram.to_numpy()[3:4])[0]
    for number in (0, 1):
        wanted = view(box, views, seed=3, epoch=1, particle=3, number=number)
        np.testing.assert_array_equal(seen[2][number], wanted)


def test_a_store_is_read_box_by_box(tmp_path):
    boxes, _ = two_kinds(9)
    with dask.config.set(scheduler="synchronous"):
        save_subtomograms(boxes, tmp_path / "boxes.zarr")
    rows = np.array([1, 2, 7])
    opened = open_subtomograms(tmp_path / "boxes.zarr")
    found = [taken(BoxStream(one, rows).batches(0, 2)) for one in (opened, boxes)]
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_array_equal(
        taken(BoxStream(boxes.compute(), rows).batches(0, 2))[1], found[0][1]
    )


def test_the_lens_of_a_box_is_that_of_its_tomogram():
    record = {
        "angle": [0.0], "weight": [1.0], "pixel_size": 5.0, "phase_flipped": False,
        "dose_weighted": False, "method": "wbp", "voltage": 300.0, "spherical_aberration": 2.7,
        "amplitude_contrast": 0.1, "defocus_u": [30000.0], "defocus_v": [20000.0],
        "defocus_angle": [0.0],
    }  # fmt: skip
    boxes, _ = two_kinds(4)
    views = Views(defocus=1000.0)
    rows = np.arange(4)
    assert lenses_for(boxes, rows, Views()) is None
    with pytest.raises(InputError, match="defocus: that of the boxes of tomogram 'TS_01'"):
        lenses_for(boxes, rows, views)
    known = boxes.assign_attrs(tilt_series={"TS_01": record})
    lens = lenses_for(known, rows, views)
    assert (lens(2).defocus, lens(2).voxel_size, lens(2).amplitude_contrast) == (25000.0, 10.0, 0.1)
    stream = BoxStream(known, rows)
    (batch,) = stream.batches(0, 4, views=views, lens=lens)
    assert np.isfinite(batch.boxes[0]).all()


def test_what_is_made_ahead_raises_where_it_would_have():
    def broken():
        yield 1
        raise InputError("no more")

    values = made_ahead(broken())
    assert next(values) == 1
    with pytest.raises(InputError, match="no more"):
        next(values)


def test_what_is_left_early_leaves_no_thread():
    closed = threading.Event()

    def endless():
        try:
            n = 0
            while True:
                yield n
                n += 1
        finally:
            closed.set()

    values = made_ahead(endless(), depth=1)
    assert [next(values), next(values)] == [0, 1]
    values.close()
    assert closed.is_set()
    assert not [t for t in threading.enumerate() if t.name == "made-ahead"]


def test_boxes_that_are_kept_are_in_memory_once():
    values, _ = tiny(4000, 4000)
    held = boxes_of(values)
    stream = BoxStream(held.assign(subtomogram=held.subtomogram.copy(data=values)), np.arange(4000))
    tracemalloc.start()
    for _ in stream.batches(0, 8):
        pass
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stream.whole
    assert most < 1.5 * stream.bytes


def test_reading_leaves_dasks_settings_alone():
    """They are those of all threads: changed by one that reads, another's work would go astray."""
    _, boxes = tiny(12, 3)
    seen = []

    def noted(block):
        seen.append(dask.config.get("scheduler", None))
        return block

    lazy = boxes.subtomogram.data.map_blocks(noted, dtype=np.float32, meta=np.zeros((0, 0, 0, 0)))
    with dask.config.set(scheduler="sync"):
        taken(
            BoxStream(
                boxes.assign(subtomogram=boxes.subtomogram.copy(data=lazy)), np.arange(12)
            ).batches(0, 4)
        )
    assert set(seen) == {"sync"}
