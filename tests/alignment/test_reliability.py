"""Whatever is killed, and whoever works on it in which portions: the same table, bit by bit."""

import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
from alignment.scenes import boxes
from distributed import Client, LocalCluster
from helpers import run_killed

from tomodask.alignment.poses import align_subtomograms

COUNT = 16
JOB = {"angular_step": 30.0, "shift_range": 20.0, "batch": 1}


@functools.cache
def scene():
    """Three wedges in turn, so that a portion takes several plans."""
    dataset, _, reference = boxes(COUNT, seed=5)
    tilts = np.array([-50.0, -60.0, -55.0])[np.arange(COUNT) % 3]
    return dataset.assign_coords(tilt_min=("particle", tilts)), reference


def job(**changes):
    """A small alignment."""
    dataset, reference = scene()
    if changes.pop("mirrored", False):  # a second reference
        reference = [reference, reference.copy(data=reference.to_numpy()[::-1].copy())]
    return align_subtomograms(dataset, reference, **{**JOB, **changes})


def assert_same(got, want):
    """Equal to the last bit, which assert_frame_equal by itself does not ask for."""
    pd.testing.assert_frame_equal(got, want, check_exact=True)
    for name in want.select_dtypes("number"):
        assert got[name].to_numpy().tobytes() == want[name].to_numpy().tobytes(), name


@pytest.fixture(scope="module")
def undisturbed():
    return job().compute(scheduler="sync")


@pytest.fixture(scope="module")
def cluster():
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
        # What is killed is one of two that work: their kernels are compiled by then.
        client.submit(job().compute, scheduler="sync", pure=False).result()
        yield cluster, client


def finished(folder):
    return len(list(folder.glob("*.npy")))


EVERYTHING = {"whiten": True, "symmetry": "C2", "mirrored": True, "keep": "all"}


@pytest.mark.parametrize("variant", [{}, EVERYTHING], ids=["plain", "everything"])
def test_workers_and_portions_change_nothing(cluster, variant):
    _, client = cluster
    first = next(iter(client.scheduler_info()["workers"]))
    want = job(**variant).compute(scheduler="sync")
    on_two = client.compute(job(**variant, batch=2, split_every=2))
    assert_same(on_two.result(), want)
    on_one = client.compute(job(**variant, batch=5, split_every=3), workers=[first])
    assert_same(on_one.result(), want)
    got = job(**variant, batch=COUNT).compute(scheduler="threads", num_workers=3)
    assert_same(got, want)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_killed_worker_changes_nothing(cluster, undisturbed, tmp_path, checkpoint):
    """kill -9 while both work: the other does it all, or the one that comes in its place."""
    local, client = cluster
    folder = tmp_path / "watched"
    victim = next(iter(local.workers.values())).process.process.pid
    left = []

    def kill():
        while finished(folder) < 4:
            time.sleep(0.001)
        os.kill(victim, signal.SIGKILL)
        left.append(COUNT - finished(folder))

    if checkpoint:
        killer = threading.Thread(target=kill)
        killer.start()
        assert_same(client.compute(job(checkpoint=folder)).result(), undisturbed)
        killer.join()
        assert left[0] > 0
        assert finished(folder) == COUNT
        assert_same(job(checkpoint=folder).compute(scheduler="sync"), undisturbed)
    else:
        timer = threading.Timer(0.05, os.kill, (victim, signal.SIGKILL))
        future = client.compute(job())
        timer.start()
        assert_same(future.result(), undisturbed)
        timer.join()
    client.wait_for_workers(2, timeout=30)


_RUNS = """
    import os, random, signal, sys, time
    from pathlib import Path
    import dask; dask.config.set(scheduler="sync")
    from alignment.test_reliability import job

    def child(folder):
        pid = os.fork()
        if not pid:
            job(checkpoint=folder).compute()
            os._exit(0)
        return pid

    folder = Path({folder!r})
    job().compute()  # compiles, for all that follow
    random.seed({seed})
    for number in range({count}):
        killed = folder / f"killed{{number}}"
        batches, moment = random.randrange({most}), random.uniform(0, 0.02)
        pid = child(killed)
        while len(list(killed.glob("*.npy"))) < batches:
            time.sleep(0.001)
        time.sleep(moment)  # and a part of a batch, or of the writing of its file
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
"""


def test_a_run_killed_at_ten_moments_goes_on_to_the_same_end(undisturbed, tmp_path):
    """Ten runs, each killed (-9) at a moment of its own, then called again."""
    # They are forked from one process, which has imported and compiled: a second instead of 20.
    script = _RUNS.format(folder=str(tmp_path), seed=20, count=10, most=COUNT)
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    subprocess.run([sys.executable, "-c", path + textwrap.dedent(script)], check=True, timeout=300)
    ends = [finished(tmp_path / f"killed{number}") for number in range(10)]
    assert len(set(ends) - {0, COUNT}) >= 4  # midway, and not all at one place
    for number in range(10):
        folder = tmp_path / f"killed{number}"
        assert_same(job(checkpoint=folder).compute(scheduler="sync"), undisturbed)
        assert finished(folder) == COUNT


def test_a_run_killed_with_its_workers_at_work_ends_the_same(undisturbed, tmp_path):
    folder = tmp_path / "batches"
    script = f"""
        import dask
        from distributed import Client, LocalCluster
        from alignment.test_reliability import job
        if __name__ == "__main__":
            with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local:
                with Client(local) as client:
                    client.compute(job(checkpoint={str(folder)!r})).result()
    """
    run_killed(script, lambda: finished(folder) >= 3)
    # Workers may outlive the run by a moment and finish what they are at: that is the same, too.
    assert_same(job(checkpoint=folder).compute(scheduler="sync"), undisturbed)


_COMPILED = """
    import sys
    from alignment.test_reliability import job
    for method in ("fourier", "mbgd"):
        changes = {"candidates": 1} if method == "mbgd" else {}
        job(method=method, **changes).compute(scheduler="sync").to_pickle(sys.argv[1] + method)
"""


def test_kernels_compiled_or_found_in_the_cache_tell_the_same(tmp_path):
    """The first process on a machine compiles, those after it load: with the same bits."""
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    kernels = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    for number in ("first", "second"):
        words = [sys.executable, "-c", path + textwrap.dedent(_COMPILED), str(tmp_path / number)]
        subprocess.run(words, check=True, timeout=600, env=kernels)
    for method in ("fourier", "mbgd"):
        tables = [pd.read_pickle(tmp_path / f"{n}{method}") for n in ("first", "second")]
        assert_same(*tables)
