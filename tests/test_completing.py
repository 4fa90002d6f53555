"""Tasks told as they end, on a cluster and in this process."""

import time

import dask
import pytest
from distributed import Client, LocalCluster

from tomodask.cluster.completing import completed, workers_at_hand
from tomodask.errors import InputError


def slow(seconds):
    time.sleep(seconds)
    return seconds


def failing():
    raise InputError("a bad box")


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_each_is_told_as_soon_as_it_ends(client):
    assert workers_at_hand() == 2
    taken = []

    def tasks():
        for key, seconds in (("long", 0.6), ("a", 0.01), ("b", 0.01), ("c", 0.01), ("d", 0.01)):
            taken.append(key)
            yield key, dask.delayed(slow)(seconds)

    found, before = [], None
    for key, result in completed(tasks(), count=5, label="tasks"):
        before = list(taken) if before is None else before
        found.append((key, result))
    assert [key for key, _ in found][-1] == "long"
    assert dict(found) == {"long": 0.6, "a": 0.01, "b": 0.01, "c": 0.01, "d": 0.01}
    assert before == ["long", "a"]  # one a thread, no more


def test_what_a_task_raises_comes_out_and_ends_the_others(client):
    tasks = [("long", dask.delayed(slow)(30)), ("bad", dask.delayed(failing)())]
    with pytest.raises(InputError, match="a bad box"):
        list(completed(tasks, count=2, label="tasks"))
    told = completed([("a", dask.delayed(slow)(0)), *tasks], count=3, label="tasks")
    assert next(told) == ("a", 0)
    told.close()  # whoever listens may leave


def test_without_a_cluster_they_run_here():
    with dask.config.set(scheduler="synchronous"):
        assert workers_at_hand() == 1
        tasks = ((n, dask.delayed(abs)(-n)) for n in range(3))
        assert list(completed(tasks, count=3, label="tasks")) == [(0, 0), (1, 1), (2, 2)]
