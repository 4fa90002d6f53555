"""Subtomograms: cut as by hand whatever the chunks, kept whole or not at all, opened from all."""

# ruff: noqa: PD011 (xarray's values, not those of pandas)

import errno
import itertools
import os
import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import hypothesis.strategies as st
import mrcfile
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from dask.base import tokenize
from helpers import irregular_chunks
from hypothesis import HealthCheck, given, settings

from tomodask.data import subtomogram_store
from tomodask.data.particles import read_particles, write_particles
from tomodask.data.subtomograms import (
    extract_subtomograms,
    open_subtomograms,
    particle_table,
    save_subtomograms,
)
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError

VOXEL = 10.0


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


def tomogram(values, chunks=None):
    data = values if chunks is None else da.from_array(values, chunks=chunks)
    return xr.DataArray(
        data,
        dims=("z", "y", "x"),
        name="ts",
        attrs={"voxel_size": VOXEL, "tilt_range": (-60.0, 60.0)},
    )


def tilt_series(**changed):
    """The record of a tilt series, as reconstruction leaves it."""
    return {
        "angle": [-51.0, 0.1, 48.0], "weight": [0.3, 0.4, 0.5], "pixel_size": 5.0,
        "phase_flipped": True, "dose_weighted": False, "method": "wbp",
        "defocus_u": [31000.0, 30000.0, 29000.0], "voltage": 300.0,
        "spherical_aberration": 2.7, "amplitude_contrast": 0.07, **changed,
    }  # fmt: skip


def picks_at(zyx):
    return pd.DataFrame(np.asarray(zyx, float) * VOXEL, columns=["z", "y", "x"])


def noise(shape=(40, 44, 48), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_picks(shape, count, seed=1):
    zyx = np.random.default_rng(seed).uniform(0, 1, (count, 3)) * (np.array(shape) - 1)
    return picks_at(zyx)


def one_box(values, zyx, box):
    """Reference: voxel by voxel, None beyond the tomogram, then the mean."""
    out = np.full((box,) * 3, np.nan)
    for place in itertools.product(range(box), repeat=3):
        at = [c - box // 2 + i for c, i in zip(zyx, place, strict=True)]
        if all(0 <= a < n for a, n in zip(at, values.shape, strict=True)):
            out[place] = values[tuple(at)]
    return np.where(np.isnan(out), np.nanmean(out), out)


def never_compute(*args, **kwargs):
    raise AssertionError("the graph was computed while it was being built")


@given(data=st.data(), box=st.integers(2, 11), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_result_does_not_depend_on_chunks(data, box, seed):
    shape = data.draw(st.tuples(*[st.integers(1, 20)] * 3))
    values = noise(shape, seed)
    picks = random_picks(shape, data.draw(st.integers(1, 12)), seed)
    whole = extract_subtomograms(tomogram(values), picks, box=box)
    chunked = extract_subtomograms(
        tomogram(values, data.draw(irregular_chunks(shape))), picks, box=box
    )
    xr.testing.assert_identical(whole.compute(), chunked.compute())  # the order, too
    for _, at in whole.groupby("particle"):
        zyx = np.rint([at[f"position_{a}"].item() / VOXEL for a in "zyx"]).astype(int)
        np.testing.assert_allclose(at.subtomogram.values[0], one_box(values, zyx, box), rtol=1e-6)


def test_order_is_that_of_space_and_particle_tells_the_row():
    values = noise((10, 300, 300))
    picks = random_picks(values.shape, 200)
    boxes = extract_subtomograms(tomogram(values, 50), picks, box=4)
    assert sorted(boxes.particle.values) == list(range(200))
    tiles = (particle_table(boxes)[["z", "y", "x"]].to_numpy() / VOXEL // 128).tolist()
    assert tiles == sorted(tiles)
    centre = boxes.sortby("particle")
    exact = picks[["z", "y", "x"]].to_numpy()
    kept = np.stack([centre[f"position_{a}"] + centre[f"shift_{a}"] for a in "zyx"], 1)
    np.testing.assert_allclose(kept, exact, atol=1e-9)


def test_each_chunk_is_read_once():
    values = noise((60, 300, 300))
    reads: list[tuple] = []

    class Counted:
        shape, dtype, ndim = values.shape, values.dtype, 3

        def __getitem__(self, index):
            reads.append(tuple((s.start, s.stop) for s in index))
            return values[index]

    lazy = da.from_array(Counted(), chunks=(30, 64, 64), name="counted", asarray=False, meta=values)
    lazy = xr.DataArray(lazy, dims=("z", "y", "x"), attrs={"voxel_size": VOXEL})
    picks = random_picks(values.shape, 1500)
    extract_subtomograms(lazy, picks, box=24).compute()
    assert len(reads) == len(set(reads)) == 2 * 5 * 5


def test_builds_a_graph_and_computes_nothing():
    with dask.config.set(scheduler=never_compute):
        lazy = tomogram(noise(), 16)
        boxes = extract_subtomograms(lazy, random_picks(lazy.shape, 9), box=8)
    assert isinstance(boxes.subtomogram.data, da.Array)
    assert boxes.subtomogram.dtype == np.float32
    assert any(str(key[0]).startswith("extract-") for key in boxes.__dask_keys__()[0][0][0][0])


def test_shift_of_the_table_moves_the_box_and_the_rest_stays():
    values = noise()
    picks = picks_at([[20, 20, 20]]).assign(shift_z=0.0, shift_y=0.0, shift_x=26.0)
    boxes = extract_subtomograms(tomogram(values), picks, box=6)
    np.testing.assert_array_equal(
        boxes.subtomogram.values[0], values[17:23, 17:23, 20:26]
    )  # centre 20 + 2.6 → 23, from 23 − 3 on
    assert boxes.position_x.item() == 230.0
    assert boxes.shift_x.item() == pytest.approx(-4.0)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "float16", "float64"])
def test_any_type_of_voxel_becomes_float32(dtype):
    values = (10 * noise()).astype(dtype)
    boxes = extract_subtomograms(tomogram(values, 16), picks_at([[20, 20, 20]]), box=8)
    want = values[16:24, 16:24, 16:24].astype(np.float32)
    np.testing.assert_array_equal(boxes.subtomogram.values[0], want)


def test_dropped_and_padded_are_counted_aloud(caplog):
    values, picks = noise(), picks_at([[20, 20, 20], [1, 20, 20], [20, 20, 47]])
    padded = extract_subtomograms(tomogram(values), picks, box=8)
    assert padded.attrs["padded"] == 2
    assert padded.attrs["dropped"] == 0
    dropped = extract_subtomograms(tomogram(values), picks, box=8, outside="drop")
    assert dropped.attrs["padded"] == 0
    assert dropped.attrs["dropped"] == 2
    assert dropped.particle.values.tolist() == [0]
    assert "2 of 3 boxes leave the tomogram: padded" in caplog.text
    assert "2 of 3 boxes leave the tomogram: dropped" in caplog.text


def test_voxels_taken_for_angstrom_are_told(caplog):
    volume = tomogram(noise())
    size = volume.attrs["voxel_size"]
    inside = np.array([[20.0, 22, 24], [30, 12, 40]])
    extract_subtomograms(volume, picks_at(inside), box=4)
    assert "multiply" not in caplog.text
    extract_subtomograms(volume, picks_at(inside / size), box=4)
    assert f"if these are voxels, multiply them by {size:g}" in caplog.text


def test_tilt_range_is_said_or_the_table_s_or_the_tomogram_s():
    values, picks = noise(), picks_at([[20, 20, 20]])
    own = picks.assign(tilt_min=-50.0, tilt_max=40.0)
    take = [
        extract_subtomograms(tomogram(values), table, box=8, tilt_range=said)
        for table, said in ((picks, None), (own, None), (own, (-30.0, 30.0)))
    ]
    found = [(t.tilt_min.item(), t.tilt_max.item()) for t in take]
    assert found == [(-60, 60), (-50, 40), (-30, 30)]


def recorded(name="ts", **changed):
    """A tomogram that has the record of its tilt series."""
    volume = tomogram(noise()).rename(name)
    del volume.attrs["tilt_range"]
    return volume.assign_attrs(tilt_series=tilt_series(**changed))


def test_the_record_of_the_tilt_series_goes_with_the_boxes():
    picks = picks_at([[20, 20, 20]])
    boxes = extract_subtomograms(recorded(), picks, box=8)
    assert boxes.attrs["tilt_series"] == {"ts": tilt_series()}
    assert (boxes.tilt_min.item(), boxes.tilt_max.item()) == (-51, 48)
    said = extract_subtomograms(recorded(), picks, box=8, tilt_range=(-30, 30))
    assert "tilt_series" not in said.attrs
    assert said.tilt_min.item() == -30
    with pytest.raises(InputError, match="ts: the record of the tilt series is damaged"):
        extract_subtomograms(recorded(angle=[0.0]), picks, box=8)


def test_only_the_rows_of_this_tomogram():
    picks = picks_at([[20, 20, 20], [21, 21, 21], [22, 22, 22]])
    boxes = extract_subtomograms(
        tomogram(noise()), picks.assign(tomogram=["ts", "other", "ts"]), box=8
    )
    assert boxes.particle.values.tolist() == [0, 2]
    with pytest.raises(InputError, match="no row is of tomogram 'ts', the table has a, b"):
        extract_subtomograms(tomogram(noise()), picks.assign(tomogram=["a", "b", "a"]), box=8)


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("TS_01", "TS_01"),
        ("TS_01", "TS_01.mrc"),
        ("TS_01", "tomograms/TS_01.mrc_10.00Apx.mrc"),
        ("TS_01.mrc_10.00Apx", "TS_01.tomostar"),
        ("rec_TS_01", "TS_01"),
        ("TS_01", "7"),  # Dynamo's
        (None, "TS_01"),
        ("TS_01", "tomogram"),
        ("TS_01", "nan"),
    ],
)
def test_names_of_one_tomogram_differ_between_programs(own, name):
    picks = picks_at([[20, 20, 20]]).assign(tomogram=name)
    assert extract_subtomograms(tomogram(noise()).rename(own), picks, box=8).sizes["particle"] == 1


@pytest.mark.parametrize(
    ("own", "name"),
    [("TS_02", "TS_01"), ("TS_02", "a/TS_01.mrc"), ("TS_1", "TS_10"), ("TS_1", "TS_1_2")],
)
def test_picks_of_another_tomogram_are_refused(own, name):
    picks = picks_at([[20, 20, 20], [21, 21, 21]]).assign(tomogram=[name, name])
    message = f"no row is of tomogram '{own}', the table has {name}; .* drop the column tomogram"
    if name == "TS_1_2":  # may be it, unless the table has a better name
        picks["tomogram"] = ["TS_1_2", "TS_1"]
        boxes = extract_subtomograms(tomogram(noise()).rename(own), picks, box=8)
        assert boxes.particle.values.tolist() == [1]
        return
    with pytest.raises(InputError, match=message):
        extract_subtomograms(tomogram(noise()).rename(own), picks, box=8)
    picks = picks.drop(columns="tomogram")
    assert extract_subtomograms(tomogram(noise()).rename(own), picks, box=8).sizes["particle"] == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [(20, 20, 20), (0, 20, 20)])
def test_a_box_with_no_numbers_is_told(value, place):
    values = noise()
    values[place] = value
    picks = picks_at([[30, 30, 40], place])
    boxes = extract_subtomograms(tomogram(values, 16), picks, box=8)
    message = r"ts: 1 voxels of the box of the particle in row 1 are NaN or infinite; fill them"
    with pytest.raises(InputError, match=message):
        boxes.compute()
    extract_subtomograms(tomogram(values, 16), picks[:1], box=8).compute()


@pytest.mark.parametrize(
    ("picks", "options", "message"),
    [
        (picks_at(np.zeros((0, 3))), {}, "no rows, nothing to extract"),
        (pd.DataFrame({"z": [1.0], "x": [1.0]}), {}, "lacks the columns y"),
        (
            picks_at([[20, 20, 20], [20, 20, 480]]),
            {},
            "1 of 2 particles lie outside .* row 1 .*voxel",
        ),
        (picks_at([[-1, 20, 20]]), {"outside": "drop"}, "1 of 1 particles lie outside"),
        (picks_at([[np.nan, 20, 20]]), {}, "1 of 1 particles lie outside"),
        (picks_at([[0, 0, 0]]), {"outside": "drop"}, "all 1 boxes .* smaller box"),
        (picks_at([[20, 20, 20]]), {"box": 1}, "at least 2, got 1"),
        (picks_at([[20, 20, 20]]), {"box": 8.5}, "whole number of voxels, at least 2, got 8.5"),
        (picks_at([[20, 20, 20]]), {"outside": "x"}, 'must be "pad" or "drop"'),
        (
            picks_at([[20, 20, 20]]),
            {"tilt_range": (60, -60)},
            "lower first, within ±90, got 60 -60",
        ),
    ],
)
def test_extraction_says_what_is_wrong(picks, options, message):
    with pytest.raises(InputError, match=message):
        extract_subtomograms(tomogram(noise()), picks, **{"box": 8, **options})


def test_arguments_are_not_edited():
    picks = picks_at([[20, 20, 20.3]]).assign(tomogram="ts.mrc")
    before = picks.copy()
    extract_subtomograms(tomogram(noise()), picks, box=8)
    pd.testing.assert_frame_equal(picks, before)


# The store


def some_boxes(count=30, box=8):
    values = noise()
    picks = random_picks(values.shape, count).assign(note=[f"n {i % 3}" for i in range(count)])
    return extract_subtomograms(tomogram(values, 16), picks, box=box)


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


def token(path, **options):
    return tokenize(open_subtomograms(path, **options).subtomogram.data)


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


def test_tokens_tell_replaced_files(box_folder):
    folder, _ = box_folder
    before, opened = token(folder), open_subtomograms(folder)
    assert token(folder) == before
    write_mrc(folder / "a.mrc", noise((6, 6, 6), 7), overwrite=True)
    os.utime(folder / "a.mrc", ns=(10**18, 10**18))
    assert token(folder) != before
    with pytest.raises(InputError, match=r"a\.mrc: was written to since it was opened"):
        opened.compute()


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


@pytest.mark.usefixtures("box_folder")
def test_relative_paths_are_read_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_subtomograms(some_boxes(3, box=6), "s.zarr")
    opened = [open_subtomograms(p) for p in ("s.zarr", "boxes", ["boxes/a.mrc"])]
    images = [list(boxes.image.values) for boxes in opened]
    assert images[0] == ["0@s.zarr", "1@s.zarr", "2@s.zarr"]
    assert images[1][0] == images[2][0] == "boxes/a.mrc"
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    for boxes in opened:
        boxes.compute()


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


# The files of others


def write_mrc(path, values, voxel_size=VOXEL, **options):
    with mrcfile.new(path, **options) as mrc:
        mrc.set_data(values)
        mrc.voxel_size = voxel_size


@pytest.fixture
def box_folder(tmp_path):
    """Boxes of other programs, named so that the order of names is not that of creation."""
    folder = tmp_path / "boxes"
    folder.mkdir()
    values = {}
    for seed, name in enumerate(["b_10.mrc", "b_02.mrc", "a.mrc"]):
        values[name] = noise((6, 6, 6), seed)
        write_mrc(folder / name, values[name])
    (folder / "notes.txt").write_text("not a box")
    (folder / "._a.mrc").write_bytes(b"what some systems leave")
    return folder, values


def test_folder_glob_and_list(box_folder):
    folder, values = box_folder
    names = sorted(values)
    for path in (folder, folder / "*.mrc", [folder / name for name in names]):
        boxes = open_subtomograms(path, tilt_range=(-50, 60))
        assert [Path(image).name for image in boxes.image.values] == names
        want = np.stack([values[name] for name in names])
        np.testing.assert_array_equal(boxes.subtomogram.values, want)
        assert boxes.attrs["voxel_size"] == VOXEL
        assert (boxes.tilt_min.values == -50).all()
    turned = open_subtomograms([folder / name for name in names[::-1]])
    np.testing.assert_array_equal(turned.subtomogram.values, want[::-1])
    assert open_subtomograms(folder, voxel_size=4.0).attrs["voxel_size"] == 4.0


def test_tilt_range_of_boxes_that_tomodask_saved(tmp_path):
    for name in ("a.mrc", "b.mrc"):
        save_tomogram(tomogram(noise((6, 6, 6))), tmp_path / name)
    boxes = open_subtomograms(tmp_path)
    assert boxes.tilt_min.values.tolist() == [-60, -60]
    assert boxes.tilt_max.values.tolist() == [60, 60]
    said = open_subtomograms(tmp_path, tilt_range=(-50, 40))
    assert said.tilt_min.values.tolist() == [-50, -50]
    write_mrc(tmp_path / "c.mrc", noise((6, 6, 6)))
    assert "tilt_min" not in open_subtomograms(tmp_path).coords  # not known of all


def test_star_lists_files_and_boxes_of_stores(box_folder, tmp_path):
    folder, values = box_folder
    stored = some_boxes(5, box=6)
    save_subtomograms(stored, folder / "s.zarr")
    images = ["b_02.mrc", "3@s.zarr", "a.mrc", "0@s.zarr"]
    table = pd.DataFrame({"image": images, "z": 10.0, "y": 20.0, "x": [1.0, 2.0, 3.0, 4.0]})
    write_particles(table, folder / "list.star", voxel_size=VOXEL)
    boxes = open_subtomograms(folder / "list.star")
    own = stored.subtomogram.values
    want = np.stack([values["b_02.mrc"], own[3], values["a.mrc"], own[0]])
    np.testing.assert_array_equal(boxes.subtomogram.values, want)
    assert boxes.position_x.values.tolist() == [1, 2, 3, 4]
    assert boxes.image.values.tolist() == images


def test_star_finds_boxes_from_the_working_directory(box_folder, tmp_path, monkeypatch):
    folder, _ = box_folder
    write_particles(pd.DataFrame({"image": ["boxes/a.mrc"]}), folder / "list.star")
    monkeypatch.chdir(tmp_path)
    assert open_subtomograms(folder / "list.star").sizes["particle"] == 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("none.mrc", "the box none.mrc of row 0 is neither in"),
        ("x@s.zarr", "x@s.zarr in row 0 is not index@store, with index from 0"),
        ("5@s.zarr", "5@s.zarr: the store has boxes 0 to 4 only"),
        ("1@a.mrc", "stacks of other programs are not read"),
    ],
)
def test_star_names_what_is_not_there(box_folder, image, message):
    folder, _ = box_folder
    save_subtomograms(some_boxes(5, box=6), folder / "s.zarr")
    write_particles(pd.DataFrame({"image": [image]}), folder / "list.star")
    with pytest.raises(InputError, match=message):
        open_subtomograms(folder / "list.star")


def test_boxes_must_agree(box_folder, tmp_path):
    folder, _ = box_folder
    odd = folder / "z.mrc"
    write_mrc(odd, noise((6, 6, 6)), voxel_size=11.0)
    with pytest.raises(InputError, match=r"z.mrc: voxel size 11 Å, that of .*a.mrc is 10 Å"):
        open_subtomograms(folder)
    assert open_subtomograms(folder, voxel_size=10.0).sizes["particle"] == 4
    odd.unlink()
    write_mrc(odd, noise((8, 8, 8)))
    with pytest.raises(InputError, match=r"z.mrc: its edge is 8 voxels, that of .*a.mrc is 6"):
        open_subtomograms(folder)
    odd.unlink()
    write_mrc(odd, noise((6, 8, 6)))
    with pytest.raises(InputError, match=r"z.mrc: the box is not cubic \(6×8×6 voxels\)"):
        open_subtomograms(folder)
    odd.write_bytes(b"")
    with pytest.raises(InputError, match=r"z.mrc is empty"):
        open_subtomograms(folder)


def test_empty_places_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="the folder holds no MRC or EM file"):
        open_subtomograms(tmp_path / "empty")
    with pytest.raises(InputError, match=r"no file matches; check the pattern"):
        open_subtomograms(tmp_path / "*.mrc")
    with pytest.raises(InputError, match="the list of boxes is empty"):
        open_subtomograms([])
    with pytest.raises(InputError, match="lower first, within ±90, got 60 -60"):
        open_subtomograms(tmp_path / "empty", tilt_range=(60, -60))


@given(chunk=st.sampled_from([8, 16]), box=st.integers(3, 12))
@settings(
    deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_from_a_file_to_a_store_to_a_table(tmp_path_factory, chunk, box):
    """A saved tomogram, its picks as STAR, boxes in a store: the same numbers all the way."""
    folder = tmp_path_factory.mktemp("way")
    values = noise()
    save_tomogram(tomogram(values), folder / "t.zarr", chunk=chunk)
    write_particles(random_picks(values.shape, 20), folder / "p.star", voxel_size=VOXEL)
    opened, picks = open_tomogram(folder / "t.zarr"), read_particles(folder / "p.star")
    save_subtomograms(extract_subtomograms(opened, picks, box=box), folder / "s.zarr")
    direct = extract_subtomograms(tomogram(values), picks, box=box)
    np.testing.assert_array_equal(
        open_subtomograms(folder / "s.zarr").subtomogram.values, direct.subtomogram.values
    )
