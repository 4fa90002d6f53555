"""The graph of a segmentation: what it holds, and workers and threads that change nothing."""

import itertools
import os
import signal
import threading
import time

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster, wait
from nets.models import random_model
from picking.noisy import SHAPE, noise, one_tile_a_task, tomogram

from tomodask.picking.segmentation.segmenting import segment_tomogram


@pytest.fixture(autouse=True)
def _sync():
    with dask.config.set(scheduler="sync"):
        yield


# How it runs


def test_building_computes_nothing():
    def never(block):
        if block.size:
            raise AssertionError("computed")
        return block

    data = da.zeros(SHAPE, chunks=10, dtype=np.float32).map_blocks(never, dtype=np.float32)
    volume = xr.DataArray(data, dims=("z", "y", "x"), attrs={"voxel_size": 5.0})
    lazy = segment_tomogram(volume, random_model())
    with pytest.raises(AssertionError, match="computed"):
        lazy.compute()


def test_weights_are_in_the_graph_once(monkeypatch):
    from distributed.protocol import dumps  # as a scheduler is sent it

    one_tile_a_task(monkeypatch)
    model = random_model(channels=(32, 32))
    size = sum(values.nbytes for values in model.weights.values())
    volume = xr.DataArray(
        da.zeros((32, 128, 128), chunks=64, dtype=np.float32),
        dims=("z", "y", "x"),
        attrs={"voxel_size": 10.0},
    )
    result = segment_tomogram(volume, model, tile=32, halo=4)
    assert np.prod(result.data.numblocks) > 20
    graph = dict(result.__dask_graph__())
    assert sum("segment-model" in str(key) for key in graph) == 1
    sent = sum(len(frame) for frame in dumps({str(k): v for k, v in graph.items()}))
    assert size > 500_000
    assert sent < 1.5 * size


def test_chunks_that_were_read_for_the_statistics_are_not_kept():
    """Each chunk has other names for statistics than for tiles, else all would stay in memory."""
    data = da.zeros((64, 64, 64), chunks=32, dtype=np.float32).map_blocks(np.sin)
    volume = xr.DataArray(data, dims=("z", "y", "x"), attrs={"voxel_size": 10.0})
    result = segment_tomogram(volume, random_model(), tile=32, halo=4)
    graph = dict(result.__dask_graph__())
    measured = {k for k in graph if str(k).startswith("statistics")}
    tiles = {k for k in graph if str(k).startswith("segment-") and "scale" not in str(k)}

    def below(keys):
        """All that these need, but for what the statistics come to."""
        found, left = set(), list(keys)
        while left:
            key = left.pop()
            if key in found or key not in graph:
                continue
            found.add(key)
            task = graph[key]
            left += [k for k in getattr(task, "dependencies", ()) if "segment-scale" not in str(k)]
        return found

    assert len(below(measured)) > len(measured)
    assert len(below(tiles)) > len(tiles)
    assert not below(measured) & below(tiles)


def test_a_killed_worker_changes_nothing(monkeypatch):
    one_tile_a_task(monkeypatch)
    model = random_model(channels=(8, 12))
    result = segment_tomogram(tomogram(noise((48, 96, 96)), 48), model, tile=32, halo=8)
    expected = result.values
    with (
        dask.config.set(scheduler=None),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            memory_limit=0,
        ) as cluster,
        Client(cluster) as client,
    ):
        blocks = client.compute(list(result.data.to_delayed().flat))
        assert len(blocks) > 8
        wait(blocks, return_when="FIRST_COMPLETED", timeout=60)
        assert not all(block.done() for block in blocks)
        victim = next(iter(cluster.workers.values()))
        os.kill(victim.process.process.pid, signal.SIGKILL)
        parts = client.gather(blocks)
    got = np.empty_like(expected)
    corners = itertools.product(
        *(np.cumsum((0, *sizes[:-1])).tolist() for sizes in result.data.chunks)
    )
    for corner, part in zip(corners, parts, strict=True):
        got[tuple(slice(a, a + n) for a, n in zip(corner, part.shape, strict=True))] = part
    np.testing.assert_array_equal(got, expected)


def test_threads_of_a_process_change_nothing(monkeypatch):
    one_tile_a_task(monkeypatch)
    lazy = segment_tomogram(tomogram(noise(), 16), random_model(), tile=24, halo=4)
    expected = lazy.values
    with dask.config.set(scheduler="threads", num_workers=4):
        np.testing.assert_array_equal(lazy.values, expected)
    assert threading.active_count() < 50


def test_adds_little_to_the_engine(monkeypatch):
    """The graph of a whole segmentation is built quickly: a few milliseconds a tile."""
    volume = xr.DataArray(
        da.zeros((200, 512, 512), chunks=128, dtype=np.float32),
        dims=("z", "y", "x"),
        attrs={"voxel_size": 10.0},
    )
    model = random_model(channels=(24, 24), halo=8)
    start = time.perf_counter()
    result = segment_tomogram(volume, model)
    assert time.perf_counter() - start < 0.1 * np.prod(result.data.numblocks) + 2
