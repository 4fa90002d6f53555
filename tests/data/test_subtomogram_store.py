"""The store of boxes: kept whole or not at all, gone on with, damage told."""

# ruff: noqa: PD011 (xarray's values, not those of pandas)

import errno
import itertools
import os
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from data.cut_boxes import (
    VOXEL,
    noise,
    picks_at,
    random_picks,
    recorded,
    some_boxes,
    tilt_series,
    token,
    tomogram,
)

from tomodask.data import subtomogram_store
from tomodask.data.particles import write_particles
from tomodask.data.subtomograms import (
    extract_subtomograms,
    open_subtomograms,
    particle_table,
    save_subtomograms,
)
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


def test_store_reads_back_equal(tmp_path):
    boxes = some_boxes()
    save_subtomograms(boxes, tmp_path / "s.zarr")
    back = open_subtomograms(tmp_path / "s.zarr")
    np.testing.assert_array_equal(back.subtomogram.values, boxes.subtomogram.values)
    table = particle_table(back)
    assert table.pop("image").tolist() == [f"{i}@{tmp_path / 's.zarr'}" for i in range(30)]
    pd.testing.assert_frame_equal(table, particle_table(boxes))
    assert back.attrs["voxel_size"] == VOXEL
    assert back.attrs["padded"] == boxes.attrs["padded"]
    assert not (tmp_path / "s.zarr.part").exists()


def test_the_store_keeps_records_of_tilt_series(tmp_path):
    boxes = extract_subtomograms(recorded(), picks_at([[20, 20, 20]]), box=8)
    both = {"ts": tilt_series(), "other": tilt_series(method="sirt", pre_exposure=[1.0, 2.0, 3.0])}
    boxes.attrs["tilt_series"] = both
    path = tmp_path / "s.zarr"
    save_subtomograms(boxes, path)
    back = open_subtomograms(path)
    assert back.attrs["tilt_series"] == both
    save_subtomograms(back, tmp_path / "again.zarr")
    assert open_subtomograms(tmp_path / "again.zarr").attrs["tilt_series"] == both
    said = open_subtomograms(path, tilt_range=(-20, 30))
    assert "tilt_series" not in said.attrs
    assert said.tilt_min.item() == -20
    boxes.attrs["tilt_series"] = {"ts": {"angle": [0.0]}}
    with pytest.raises(InputError, match=r"b\.zarr, tomogram ts: the record"):
        save_subtomograms(boxes, tmp_path / "b.zarr")
    (path / "zarr.json").write_text((path / "zarr.json").read_text().replace('"sirt"', '"s"'))
    with pytest.raises(InputError, match=r"s\.zarr, tomogram other: the record"):
        open_subtomograms(path)


def test_an_unfinished_store_of_another_record_is_begun_anew(tmp_path, monkeypatch):
    one, two = (
        extract_subtomograms(recorded(**how), picks_at([[20, 20, 20]]), box=8)
        for how in ({}, {"phase_flipped": False})
    )
    with monkeypatch.context() as patch:
        patch.setattr(subtomogram_store, "_publish", lambda *_: None)
        save_subtomograms(one, tmp_path / "s.zarr")
    save_subtomograms(two, tmp_path / "s.zarr")
    series = open_subtomograms(tmp_path / "s.zarr").attrs["tilt_series"]
    assert series["ts"]["phase_flipped"] is False


def test_a_star_of_several_stores_keeps_each_record(tmp_path):
    for name, flipped in (("a", True), ("b", False)):
        volume = recorded(name, phase_flipped=flipped)
        boxes = extract_subtomograms(volume, random_picks(volume.shape, 3), box=8)
        save_subtomograms(boxes, tmp_path / f"{name}.zarr")
    images = ["1@b.zarr", "0@a.zarr", "2@b.zarr"]
    write_particles(pd.DataFrame({"image": images}), tmp_path / "all.star")
    back = open_subtomograms(tmp_path / "all.star")
    assert back.tomogram.values.tolist() == ["b", "a", "b"]
    assert back.attrs["tilt_series"] == {
        "a": tilt_series(), "b": tilt_series(phase_flipped=False)
    }  # fmt: skip
    own = pd.DataFrame({"image": images, "tomogram": ["B", "A", "B"]})  # names of its own
    write_particles(own, tmp_path / "own.star")
    series = open_subtomograms(tmp_path / "own.star").attrs["tilt_series"]
    assert series == {"A": tilt_series(), "B": tilt_series(phase_flipped=False)}
    write_particles(own.assign(tomogram="C"), tmp_path / "mixed.star")
    with pytest.raises(InputError, match="two stores have tomogram C, but not the same record"):
        open_subtomograms(tmp_path / "mixed.star")


def test_others_read_the_store(tmp_path):
    boxes = some_boxes()
    save_subtomograms(boxes, tmp_path / "s.zarr")
    by_xarray = xr.open_zarr(tmp_path / "s.zarr", consolidated=False)
    np.testing.assert_array_equal(by_xarray.subtomogram.values, boxes.subtomogram.values)
    np.testing.assert_array_equal(by_xarray.position_z.values, boxes.position_z.values)
    by_zarr = zarr.open_group(tmp_path / "s.zarr", mode="r")
    assert by_zarr["subtomogram"].chunks == (1, 8, 8, 8)
    assert by_zarr.attrs["tomodask"] == "subtomograms"
    assert by_zarr["note"].attrs["categories"][by_zarr["note"][3]] == boxes.note.values[3]


def test_a_box_of_zeros_is_stored(tmp_path):
    boxes = extract_subtomograms(
        tomogram(np.zeros((20, 20, 20), np.float32)), picks_at([[9, 9, 9]]), box=4
    )
    save_subtomograms(boxes, tmp_path / "s.zarr")
    assert not open_subtomograms(tmp_path / "s.zarr").subtomogram.values.any()


def test_store_is_not_overwritten_unless_asked(tmp_path):
    path = tmp_path / "s.zarr"
    save_subtomograms(some_boxes(5), path)
    with pytest.raises(InputError, match="exists already; choose another name or allow"):
        save_subtomograms(some_boxes(6), path)
    save_subtomograms(some_boxes(6), path, overwrite=True)
    assert open_subtomograms(path).sizes["particle"] == 6
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="is no store of subtomograms"):
        save_subtomograms(some_boxes(5), tmp_path / "mine", overwrite=True)
    with pytest.raises(InputError, match=r"folder .* does not exist; make it first"):
        save_subtomograms(some_boxes(5), tmp_path / "no" / "s.zarr")


def fail_after(count, monkeypatch, error):
    """Let the disk fail at the write of box number `count`."""
    written = itertools.count()
    write = Path.write_bytes

    def failing(self, data):
        if self.suffix == ".partial" and next(written) >= count:
            raise error
        return write(self, data)

    monkeypatch.setattr(subtomogram_store.Path, "write_bytes", failing)


@pytest.mark.parametrize("same", [True, False])
def test_goes_on_after_a_full_disk(tmp_path, monkeypatch, same):
    monkeypatch.setattr("tomodask.data.extraction._BLOCK_BYTES", 4 * 8**3 * 4)
    path = tmp_path / "s.zarr"
    with monkeypatch.context() as patch:
        fail_after(13, patch, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(InputError, match=r"disk is full.*goes on with the boxes"):
            save_subtomograms(some_boxes(), path)
    assert not path.exists()
    with pytest.raises(InputError, match=r"s.zarr: the extraction into it was not finished"):
        open_subtomograms(path)
    part = tmp_path / "s.zarr.part" / "subtomogram"
    kept = {p.name: p.stat().st_mtime_ns for p in part.glob("c.*")}
    assert len(kept) == 13
    boxes = some_boxes() if same else some_boxes(29)
    save_subtomograms(boxes, path)
    unchanged = [
        name for name, time in kept.items()
        if (path / "subtomogram" / name).stat().st_mtime_ns == time
    ]  # fmt: skip
    # Boxes of blocks that were not whole are written again.
    assert 9 <= len(unchanged) <= 13 if same else not unchanged
    back = open_subtomograms(path)
    np.testing.assert_array_equal(back.subtomogram.values, boxes.subtomogram.values)


def test_missing_and_damaged_boxes_are_named(tmp_path):
    path = tmp_path / "s.zarr"
    save_subtomograms(some_boxes(), path)
    opened = open_subtomograms(path)
    victim = path / "subtomogram" / "c.7.0.0.0"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-3])
    with pytest.raises(InputError, match=r"1 of 30 boxes .* first is subtomogram/c.7.0.0.0"):
        open_subtomograms(path)
    with pytest.raises(InputError, match=r"c.7.0.0.0: the box is missing or cut off"):
        opened.compute()
    victim.unlink()
    with pytest.raises(InputError, match=r"1 of 30 boxes are missing"):
        open_subtomograms(path)
    with pytest.raises(InputError, match=r"c.7.0.0.0: the box is missing or cut off"):
        opened.compute()
    victim.write_bytes(whole)
    (path / "position_z" / "c" / "0").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="store is damaged"):
        open_subtomograms(path)


def test_tokens_tell_what_a_store_holds(tmp_path):
    path = tmp_path / "s.zarr"
    save_subtomograms(some_boxes(5), path)
    before = token(path)
    code = (
        "import sys; from dask.base import tokenize\n"
        "from tomodask.data.subtomograms import open_subtomograms\n"
        "print(tokenize(open_subtomograms(sys.argv[1]).subtomogram.data))"
    )
    command = [sys.executable, "-c", code, path.name]  # relative, from elsewhere
    told = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert told.stdout.strip() == before == token(path)
    opened = open_subtomograms(path)
    other = some_boxes(5)
    other["subtomogram"] = 2 * other["subtomogram"]
    save_subtomograms(other, path, overwrite=True)
    after = token(path)
    assert after != before
    with pytest.raises(InputError, match=r"s\.zarr: the store was written anew while"):
        opened.compute()
    # With the same times, too: the store says which writer it is of.
    same = {file: file.stat().st_mtime_ns for file in (path / "subtomogram").iterdir()}
    save_subtomograms(some_boxes(5), path, overwrite=True)
    for file, time in same.items():
        os.utime(file, ns=(time, time))
    assert token(path) not in (before, after)
    assert {"written", "unfinished"}.isdisjoint(open_subtomograms(path).attrs)


@pytest.mark.parametrize("where", ["before", "after, to be replaced", "after"])
def test_a_kill_at_the_very_end_costs_nothing(tmp_path, monkeypatch, where):
    path = tmp_path / "s.zarr"
    boxes = some_boxes()

    def killed(*args):
        raise KeyboardInterrupt

    put, finish = subtomogram_store.put_in_place, subtomogram_store._finish
    with monkeypatch.context() as patch:
        if where == "before":
            patch.setattr(subtomogram_store, "put_in_place", killed)
        else:
            patch.setattr(subtomogram_store, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            save_subtomograms(boxes, path)
    assert (subtomogram_store.put_in_place, subtomogram_store._finish) == (put, finish)
    there = path if path.exists() else tmp_path / "s.zarr.part"
    if where == "after":
        np.testing.assert_array_equal(open_subtomograms(path).subtomogram, boxes.subtomogram)
    times = {f.name: f.stat().st_mtime_ns for f in (there / "subtomogram").glob("c.*")}
    assert len(times) == 30
    save_subtomograms(boxes, path, overwrite=where == "after, to be replaced")
    assert times == {f.name: f.stat().st_mtime_ns for f in (path / "subtomogram").glob("c.*")}
    np.testing.assert_array_equal(open_subtomograms(path).subtomogram, boxes.subtomogram)
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]
    with pytest.raises(InputError, match="exists already"):
        save_subtomograms(boxes, path)


def test_a_changed_tomogram_is_not_gone_on_with(tmp_path, monkeypatch):
    """The name of a Zarr store, and the graph over it, are the same after a chunk was changed."""
    source = tmp_path / "t.zarr"
    save_tomogram(tomogram(noise()), source, chunk=16, shard=16, levels=1)
    picks = picks_at([[20, 20, 20]])
    states = []
    for _ in range(2):
        boxes = extract_subtomograms(open_tomogram(source), picks, box=8)
        states.append(subtomogram_store._token(boxes))
        chunk = next(f for f in (source / "0" / "c").rglob("*") if f.is_file())
        os.utime(chunk, ns=(10**18, 10**18))
    assert states[0] != states[1]


def test_other_stores_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none.zarr does not exist; make one by extract"):
        open_subtomograms(tmp_path / "none.zarr")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(InputError, match="is not a store of subtomograms"):
        open_subtomograms(tmp_path / "other.zarr")
    save_subtomograms(some_boxes(3), tmp_path / "new.zarr")
    zarr.open_group(tmp_path / "new.zarr").attrs["version"] = 7
    with pytest.raises(InputError, match="version 7 of the store is not known"):
        open_subtomograms(tmp_path / "new.zarr")


def test_table_wants_subtomograms():
    with pytest.raises(InputError, match="must be a Dataset from extract_subtomograms"):
        particle_table(pd.DataFrame())
