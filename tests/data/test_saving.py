"""A tomogram is written whole or not at all, and takes nobody's place."""

import errno
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import pytest
import zarr
from data.volumes import listing, noise, tomogram

from tomodask.data import mrc_writer
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError


@pytest.mark.parametrize("suffix", ["mrc", "zarr"])
def test_nothing_is_left_of_a_failure(tmp_path, suffix):
    """One block fails while the others are being written by other threads."""

    def fails(block, block_info=None):
        if block_info and block_info[0]["chunk-location"] == (2, 1, 0):
            raise RuntimeError("in the middle")
        return block

    volume = tomogram(noise((128, 128, 128)), chunks=32)
    volume.data = volume.data.map_blocks(fails, meta=np.empty((0, 0, 0), np.float32))
    with pytest.raises(RuntimeError, match="in the middle"):
        save_tomogram(volume, tmp_path / f"a.{suffix}", chunk=16, shard=32)
    time.sleep(0.2)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("suffix", ["mrc", "zarr"])
def test_nothing_bears_the_name_after_a_kill(tmp_path, suffix):
    program = textwrap.dedent(f"""
        import sys, time, numpy as np, dask.array as da, xarray as xr
        from tomodask.data.tomograms import save_tomogram
        def slow(block, block_info=None):
            if block_info[0]["chunk-location"][0] > 0:
                print("half", flush=True); time.sleep(60)
            return block
        data = da.ones((64, 8, 8), chunks=(32, 8, 8), dtype="f4").map_blocks(slow, dtype="f4")
        volume = xr.DataArray(data, dims=("z", "y", "x"), attrs={{"voxel_size": 1.0}})
        save_tomogram(volume, {str(tmp_path / ("a." + suffix))!r}, chunk=32, shard=32)
    """)
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "half\n"
    time.sleep(0.2)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (tmp_path / f"a.{suffix}").exists()
    assert all(name.startswith(".") for name in listing(tmp_path))
    save_tomogram(tomogram(noise((8, 8, 8))), tmp_path / f"a.{suffix}")  # and the way is free


@pytest.mark.parametrize("suffix", ["mrc", "zarr"])
def test_overwrites_only_when_told(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    save_tomogram(tomogram(noise((8, 8, 8))), path)
    with pytest.raises(InputError, match=r"a\.\w+ exists already; choose another name or allow"):
        save_tomogram(tomogram(noise((8, 8, 8), seed=1)), path)
    np.testing.assert_array_equal(open_tomogram(path).values, noise((8, 8, 8)))
    # onto its own source, too
    doubled = open_tomogram(path)
    doubled.data = doubled.data * 2
    save_tomogram(doubled, path, overwrite=True)
    np.testing.assert_array_equal(open_tomogram(path).values, 2 * noise((8, 8, 8)))
    assert listing(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", ["mrc", "zarr"])
def test_what_was_there_stays_where_the_new_cannot_take_its_name(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a.{suffix}"
    save_tomogram(tomogram(noise((8, 8, 8))), path)

    def fails(*args):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("tomodask.data.writing.os.replace", fails)
        with pytest.raises(OSError, match="Input/output error"):
            save_tomogram(tomogram(noise((8, 8, 8), seed=1)), path, overwrite=True)
    assert listing(tmp_path) == [path.name]
    np.testing.assert_array_equal(open_tomogram(path).values, noise((8, 8, 8)))


def test_overwrites_no_folder_that_is_no_store(tmp_path):
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"mine\.zarr is a folder but no Zarr store"):
        save_tomogram(tomogram(noise((4, 4, 4))), tmp_path / "mine.zarr", overwrite=True)
    assert (tmp_path / "mine.zarr" / "thesis.txt").exists()


def test_a_full_disk_is_seen_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(mrc_writer.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(
        InputError, match=r"a\.mrc: the disk is full \(up to 0 MB needed, 0 MB free"
    ):
        save_tomogram(tomogram(noise((8, 8, 8))), tmp_path / "a.mrc")
    assert listing(tmp_path) == []


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mrc_writer.os, "pwrite", full)
    with pytest.raises(InputError, match=r"a\.mrc: the disk is full"):
        save_tomogram(tomogram(noise((8, 8, 8))), tmp_path / "a.mrc")
    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(InputError, match=r"a\.zarr: the disk is full .*free some space"):
        save_tomogram(tomogram(noise((8, 8, 8))), tmp_path / "a.zarr")
    assert listing(tmp_path) == []
