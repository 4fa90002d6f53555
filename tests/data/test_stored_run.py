"""Runs of stored boxes: the boxes that went in come out, in a graph that stays small."""

import dataclasses
import pickle
import zlib

import numpy as np
from dask.base import tokenize

from tomodask.data.stored_run import StoredRun, as_run
from tomodask.data.subtomogram_store import StoredBox


def boxes(count, path="/far/boxes.zarr", written="a", seed=0):
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(10 * count)[:count].tolist()
    times = (1_700_000_000_000_000_000 + rng.integers(0, 10**12, count)).tolist()
    return [
        StoredBox(path, number, (8, 8, 8), written, time)
        for number, time in zip(numbers, times, strict=True)
    ]


def test_the_boxes_come_out_as_they_went_in():
    given = boxes(50)
    run = as_run(given)
    assert isinstance(run, StoredRun)
    assert list(run) == given
    assert list(pickle.loads(pickle.dumps(run))) == given
    assert list(as_run(given[:1])) == given[:1]


def test_what_is_not_of_one_store_stays_a_list():
    for others in ([object()], boxes(2, path="/other.zarr"), boxes(2, written="b")):
        given = [*boxes(3), *others]
        assert as_run(given) == given
    assert as_run([]) == []


def test_a_run_is_small_and_told_apart():
    given = [
        StoredBox("/far/boxes.zarr", i, (8, 8, 8), "a", 1_700_000_000_000_000_000 + 50_000 * i)
        for i in range(1000)
    ]
    assert len(pickle.dumps(as_run(given))) < 0.02 * len(pickle.dumps(given))
    tokens = {tokenize(as_run(one)) for one in (given, given[1:], boxes(1000), given[::-1])}
    assert len(tokens) == 4
    assert tokenize(as_run(given)) == tokenize(as_run(list(given)))


def test_how_it_is_packed_is_no_part_of_what_it_is():
    """Libraries deflate otherwise; a job is told apart by its boxes' token, and must go on."""
    run = as_run(boxes(1000))
    other = zlib.compress(zlib.decompress(run.packed), 9)
    assert other != run.packed
    assert tokenize(dataclasses.replace(run, packed=other)) == tokenize(run)
