"""Two tomograms, or two states of one file, are never taken for one another."""

import os
import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from tomodask.data.sources import source_state
from tomodask.data.tomograms import open_tomogram, save_tomogram


def saved(path, seed=0, **options):
    values = np.random.default_rng(seed).normal(size=(40, 40, 40)).astype(np.float32)
    tomogram = xr.DataArray(values, dims=("z", "y", "x"), attrs={"voxel_size": 10.0})
    save_tomogram(tomogram, path, **options)
    return path


@pytest.fixture(params=["a.mrc", "a.zarr"])
def path(request, tmp_path):
    options = {} if request.param == "a.mrc" else {"chunk": 20, "shard": 20, "levels": 2}
    return saved(tmp_path / request.param, **options)


def test_state_is_that_of_the_file_whatever_the_chunks(path):
    states = {
        source_state(open_tomogram(path, chunks=chunks)) for chunks in (None, 20, (20, 40, 20))
    }
    assert len(states) == 1
    assert states.pop().startswith(path.name)


def test_state_is_the_same_in_another_process(path):
    code = (
        "import sys; from tomodask.data.sources import source_state\n"
        "from tomodask.data.tomograms import open_tomogram\n"
        "t = open_tomogram(sys.argv[1]); print(source_state(t)); print(source_state(-t))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    tomogram = open_tomogram(path)
    assert told == [source_state(tomogram), source_state(-tomogram)]


def test_state_tells_what_was_done_to_the_tomogram(path):
    tomogram = open_tomogram(path)
    memory = tomogram.compute()
    states = [source_state(t) for t in (tomogram, -tomogram, 2 * tomogram, memory, -memory)]
    assert len(set(states)) == 5


def test_state_tells_a_changed_file(path):
    def states():
        tomogram = open_tomogram(path)
        return source_state(tomogram), source_state(-tomogram)

    before = states()
    if path.is_dir():  # one chunk, of another time but the same size, older than all others
        path = next(p for p in (path / "0").rglob("*") if p.is_file() and p.name != "zarr.json")
    os.utime(path, ns=(10**18, 10**18))
    path = path if path.suffix == ".mrc" else next(p for p in path.parents if p.suffix == ".zarr")
    after = states()
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_state_tells_volumes_in_memory():
    one = xr.DataArray(np.zeros((3, 3, 3)), dims=("z", "y", "x"))
    assert source_state(one) == source_state(one.copy())
    assert source_state(one) != source_state(one + 1)
    lazy = [one.copy(data=da.from_array(one.values + i)) for i in range(2)]
    assert source_state(lazy[0]) != source_state(lazy[1])
