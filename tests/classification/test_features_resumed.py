"""A store of features that was begun: blocks that are there stay, the bits are those of one go."""

import os
import signal
import subprocess
import sys
import time

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from tomodask.classification.features.embedding import embed_subtomograms
from tomodask.classification.features.store import _begin, _token, open_features, save_features
from tomodask.data.writing import put_in_place
from tomodask.errors import InputError

BOX, COUNT, BLOCK = 6, 30, 4


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


class Model:
    """Told apart by its number; `asked` is no part of it."""

    asked = 0
    least = np.inf

    def __init__(self, number=0):
        self.number = number

    def __dask_tokenize__(self):
        return ("Model", self.number)

    def predict_features(self, batch):
        type(self).asked += 1
        if Model.asked > Model.least:
            raise OSError("the worker is gone")
        return batch.reshape(len(batch), -1)[:, :3] * 2 + self.number


@pytest.fixture
def asked():
    Model.asked, Model.least = 0, np.inf
    yield Model
    Model.least = np.inf


def boxes(seed=0, rows=slice(None)):
    values = np.random.default_rng(seed).normal(size=(COUNT, BOX, BOX, BOX)).astype(np.float32)
    data = da.from_array(values, chunks=(7, -1, -1, -1))
    return xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), data)},
        coords={"particle": np.arange(COUNT), "position_z": ("particle", np.arange(COUNT) * 1.5)},
        attrs={"voxel_size": 10.0},
    ).isel(particle=rows)


def features(made=None, number=0):
    model = Model(number)
    return embed_subtomograms(made or boxes(), model=model, batch=BLOCK, together=BLOCK)


def stopped(path, after=4, **options):
    """A run that ends in the middle."""
    Model.asked, Model.least = 0, after
    with pytest.raises(OSError, match="worker is gone"):
        save_features(features(**options), path)
    Model.asked, Model.least = 0, np.inf
    return path.with_name(path.name + ".part")


def test_a_run_goes_on_where_it_stopped(tmp_path, asked):
    path = tmp_path / "f.zarr"
    part = stopped(path)
    there = sorted(one.name for one in (part / "done").iterdir())
    assert len(there) == 3  # one call tells the number of features
    with pytest.raises(InputError, match="not whole yet; call save_features again"):
        open_features(path)
    chunk = part / "features" / "c" / there[0] / "0"
    before = chunk.stat().st_mtime_ns
    save_features(features(), path)
    assert asked.asked == 1 + 5
    assert not part.exists()
    assert not (path / "done").exists()
    assert (path / "features" / "c" / there[0] / "0").stat().st_mtime_ns == before
    save_features(features(), tmp_path / "whole.zarr")
    xr.testing.assert_identical(
        open_features(path).load(), open_features(tmp_path / "whole.zarr").load()
    )


def test_a_block_cut_off_is_made_again(tmp_path, asked):
    path = tmp_path / "f.zarr"
    part = stopped(path)
    one = next((part / "done").iterdir())
    one.unlink()
    (part / "features" / "c" / one.name / "0").write_bytes(b"cut")
    save_features(features(), path)
    np.testing.assert_array_equal(open_features(path).features, features().features)


def test_features_of_something_else_begin_anew(tmp_path, asked):
    path = tmp_path / "f.zarr"
    moved = boxes().assign_coords(position_z=("particle", np.arange(COUNT) * 2.0))
    for other in (
        {"number": 1},
        {"made": boxes(seed=1)},
        {"made": boxes(rows=slice(1, None))},
        {"made": moved},
        {"made": boxes().assign_attrs(voxel_size=11.0)},
    ):
        part = stopped(path, **other)
        assert len(list((part / "done").iterdir())) == 3
        save_features(features(), path)
        np.testing.assert_array_equal(open_features(path).features, features().features)
        save_features(features(), path, overwrite=True)
        assert asked.asked >= 2 * 8
        for one in sorted(path.rglob("*"), reverse=True):
            one.rmdir() if one.is_dir() else one.unlink()
        path.rmdir()


def test_a_run_that_was_killed_at_the_very_end(tmp_path, asked):
    """The name is there, the mark not yet off: the same call is done at once."""
    path, made = tmp_path / "f.zarr", features()
    save_features(made, path)
    group = zarr.open_group(path, mode="r+")
    group.attrs["unfinished"] = _token(made)
    assert "unfinished" not in open_features(path).attrs
    asked.asked = 0
    save_features(made, path)
    assert asked.asked == 0
    assert "unfinished" not in zarr.open_group(path, mode="r").attrs
    with pytest.raises(InputError, match="exists already"):
        save_features(made, path)
    # Killed between the last block and the name.
    other = tmp_path / "g.zarr"
    part = tmp_path / "g.zarr.part"
    put_in_place(path, part)
    (part / "done").mkdir()
    for number in range(8):
        (part / "done" / str(number)).touch()
    zarr.open_group(part, mode="r+").attrs["unfinished"] = _token(made)
    save_features(made, other)
    assert asked.asked == 0
    assert open_features(other).sizes["particle"] == COUNT
    _begin(made, tmp_path / "h.zarr.part", BLOCK, "another")
    save_features(made, tmp_path / "h.zarr")
    np.testing.assert_array_equal(open_features(tmp_path / "h.zarr").features, made.features)


def test_a_full_disk_is_told_and_what_is_there_stays(tmp_path, asked, monkeypatch):
    path, write, left = tmp_path / "f.zarr", "_write_block", [3]
    from tomodask.classification.features import store as feature_store

    real = feature_store._write_block

    def fills(*given):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(*given)

    monkeypatch.setattr(feature_store, write, fills)
    with pytest.raises(InputError, match=r"disk is full.*goes on with the blocks"):
        save_features(features(), path)
    monkeypatch.setattr(feature_store, write, real)
    asked.asked = 0
    save_features(features(), path)
    assert asked.asked == 1 + 5


SCRIPT = """
import sys, time
import dask
import numpy as np
from tomodask.classification.features.store import save_features
from tomodask.classification.features.embedding import embed_subtomograms
from tomodask.data.subtomograms import open_subtomograms

class Slow:
    def predict_features(self, batch):
        time.sleep(float(sys.argv[3]))
        return batch.reshape(len(batch), -1)[:, :3] * 2
    def __dask_tokenize__(self):
        return "slow"

if __name__ == "__main__":
    with dask.config.set(scheduler="threads", num_workers=2):
        made = embed_subtomograms(open_subtomograms(sys.argv[1]), model=Slow(), batch=4, together=4)
        save_features(made, sys.argv[2])
"""


def test_a_killed_process_loses_no_block(tmp_path):
    from tomodask.data.subtomograms import save_subtomograms

    save_subtomograms(boxes(), tmp_path / "boxes.zarr")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def command(name, pause):
        return [sys.executable, script, tmp_path / "boxes.zarr", tmp_path / name, str(pause)]

    with subprocess.Popen(command("f.zarr", 0.4), stderr=subprocess.DEVNULL) as running:
        done = tmp_path / "f.zarr.part" / "done"
        end = time.monotonic() + 60
        while not done.exists() or len(os.listdir(done)) < 2:
            assert time.monotonic() < end
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
    there = {one: (done.parent / "features" / "c" / one / "0").stat() for one in os.listdir(done)}
    assert 2 <= len(there) < 8
    for name in ("f.zarr", "whole.zarr"):
        subprocess.run(command(name, 0), check=True, stderr=subprocess.DEVNULL)
    for one, state in there.items():
        again = (tmp_path / "f.zarr" / "features" / "c" / one / "0").stat()
        assert again.st_mtime_ns == state.st_mtime_ns
    xr.testing.assert_identical(
        open_features(tmp_path / "f.zarr").load(), open_features(tmp_path / "whole.zarr").load()
    )
