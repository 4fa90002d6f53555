"""Boxes opened from all that there is: stores, folders, patterns, STARs."""

# ruff: noqa: PD011 (xarray's values, not those of pandas)

import os
from pathlib import Path

import dask
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from data.cut_boxes import VOXEL, noise, random_picks, some_boxes, token, tomogram, write_mrc
from hypothesis import HealthCheck, given, settings

from tomodask.data.particles import read_particles, write_particles
from tomodask.data.subtomograms import (
    extract_subtomograms,
    open_subtomograms,
    save_subtomograms,
)
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


def test_tokens_tell_replaced_files(box_folder):
    folder, _ = box_folder
    before, opened = token(folder), open_subtomograms(folder)
    assert token(folder) == before
    write_mrc(folder / "a.mrc", noise((6, 6, 6), 7), overwrite=True)
    os.utime(folder / "a.mrc", ns=(10**18, 10**18))
    assert token(folder) != before
    with pytest.raises(InputError, match=r"a\.mrc: was written to since it was opened"):
        opened.compute()


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
