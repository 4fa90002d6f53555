"""Stored scores: equal to computed ones, and finished after a crash with the missing tiles only."""

import errno
import os
import shutil
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from helpers import run_killed
from picking.blobs import blobs, template, volume
from scipy.spatial.transform import Rotation

from tomodask.data.describe import describe
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError
from tomodask.picking.templates import store as score_store
from tomodask.picking.templates.matching import match_template, open_scores, save_scores

TURNS = Rotation.random(4, rng=3)


def small_match(seed=0, chunks=None, **kwargs):
    shape = (40, 36, 32)
    tomogram = np.random.default_rng(seed).normal(size=shape) + blobs(shape, (20, 18, 16), TURNS[1])
    kwargs = {"rotations": TURNS, "tile": 16, "tilt_range": (-60.0, 60.0), **kwargs}
    return match_template(volume(tomogram, chunks=chunks), template(16), **kwargs)


def files(path):
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(Path(path).rglob("*"))
        if p.is_file()
    }


def test_what_is_stored_is_what_was_computed(tmp_path):
    match = small_match()
    save_scores(match, tmp_path / "scores.zarr")
    stored, computed = open_scores(tmp_path / "scores.zarr"), match.compute()
    for name in ("score", "rotation", "quaternion"):
        np.testing.assert_array_equal(stored[name].values, computed[name].values)
    assert stored.attrs == match.attrs
    np.testing.assert_array_equal(stored["z"], match["z"])
    assert stored["score"].chunks == match["score"].chunks


def test_tiles_without_any_score_are_stored_too(tmp_path):
    """A reconstruction may be empty beyond the specimen: its scores are all 0 there."""
    match = small_match()
    empty = match.assign(score=match["score"] * 0, rotation=match["rotation"] * 0)
    save_scores(empty, tmp_path / "scores.zarr")
    xr.testing.assert_equal(open_scores(tmp_path / "scores.zarr").compute(), empty.compute())


def test_goes_on_with_the_missing_tiles_only(tmp_path, monkeypatch):
    match = small_match()
    save_scores(match, tmp_path / "whole.zarr")
    calls = []
    write = score_store._write_tile

    def crashing(score, rotation, path, tile, chunk):
        if len(calls) == 5:
            raise RuntimeError("power cut")
        calls.append(tile)
        write(score, rotation, path, tile, chunk)

    monkeypatch.setattr(score_store, "_write_tile", crashing)
    with pytest.raises(RuntimeError, match="power cut"), dask.config.set(scheduler="sync"):
        save_scores(match, tmp_path / "killed.zarr")
    with pytest.raises(InputError, match="holds 5 of 18 tiles: its run was interrupted"):
        open_scores(tmp_path / "killed.zarr")
    told = describe(tmp_path / "killed.zarr")
    assert (told["kind"], told["finished"]) == ("scores", "5 of 18 tiles")

    def counting(score, rotation, path, tile, chunk):
        calls.append(tile)
        write(score, rotation, path, tile, chunk)

    monkeypatch.setattr(score_store, "_write_tile", counting)
    with dask.config.set(scheduler="sync"):
        save_scores(match, tmp_path / "killed.zarr")
    assert len(calls) == 18
    assert len(set(calls)) == 18
    assert files(tmp_path / "killed.zarr") == files(tmp_path / "whole.zarr")  # bit-identical


def test_survives_kill_9(tmp_path):
    """A process killed while it writes; the same call, in another process, ends the same."""
    store = tmp_path / "killed.zarr"
    script = f"""
        import time
        import dask
        from picking.test_score_store import small_match
        from tomodask.picking.templates import store as score_store
        write = score_store._write_tile
        def slow(*args):
            time.sleep(0.15)
            write(*args)
        score_store._write_tile = slow
        with dask.config.set(scheduler="sync"):
            score_store.save_scores(small_match(), {str(store)!r})
    """
    done = store / "finished" / "c"
    run_killed(script, lambda: len([p for p in done.rglob("*") if p.is_file()]) >= 3)
    with pytest.raises(InputError, match="of 18 tiles"):
        open_scores(store)
    save_scores(small_match(), store)
    save_scores(small_match(), tmp_path / "whole.zarr")
    want = files(tmp_path / "whole.zarr")
    got = files(store)
    assert {k: v for k, v in got.items() if k in want} == want


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"angular_step": 20.0}, {"tilt_range": (-50.0, 60.0)}, {"tile": 20}]
)
def test_refuses_the_store_of_another_run(tmp_path, other):
    save_scores(small_match(), tmp_path / "scores.zarr")
    before = files(tmp_path / "scores.zarr")
    with pytest.raises(InputError, match=r"scores.zarr holds the scores of another run"):
        save_scores(small_match(**other), tmp_path / "scores.zarr")
    assert files(tmp_path / "scores.zarr") == before


def saved(path, seed=0):
    values = np.random.default_rng(seed).normal(size=(32,) * 3)
    save_tomogram(volume(values), path, chunk=16, overwrite=True)
    return path


def fingerprint(tomogram):
    return match_template(tomogram, template(16), rotations=TURNS).attrs["fingerprint"]


@pytest.mark.parametrize("suffix", ["mrc", "zarr"])
def test_a_changed_file_is_another_run(tmp_path, suffix):
    source = tmp_path / f"tomogram.{suffix}"
    kwargs = {"rotations": TURNS}
    tomogram = open_tomogram(saved(source))
    save_scores(match_template(tomogram, template(16), **kwargs), tmp_path / "scores.zarr")
    tomogram = open_tomogram(saved(source, seed=1))
    with pytest.raises(InputError, match="another run"):
        save_scores(match_template(tomogram, template(16), **kwargs), tmp_path / "scores.zarr")


def test_a_zarr_changed_in_place_is_another_run(tmp_path):
    source = saved(tmp_path / "tomogram.zarr")
    before = fingerprint(open_tomogram(source))
    assert fingerprint(open_tomogram(source)) == before
    (level,) = (array for _, array in zarr.open_group(source, mode="r+").arrays())
    level[3, 4, 5] = 17.0
    assert fingerprint(open_tomogram(source)) != before


@pytest.mark.parametrize("suffix", ["mrc", "zarr"])
def test_what_was_done_to_a_tomogram_makes_another_run(tmp_path, suffix):
    tomogram = open_tomogram(saved(tmp_path / f"tomogram.{suffix}"))
    with xr.set_options(keep_attrs=True):
        others = [tomogram, -tomogram, tomogram + 1, tomogram.copy(data=tomogram.data[::-1])]
    assert {one.attrs["source"] for one in others} == {tomogram.attrs["source"]}
    assert len({fingerprint(one) for one in others}) == 4
    assert fingerprint(tomogram.copy()) == fingerprint(tomogram)


@pytest.mark.parametrize("suffix", ["mrc", "zarr"])
def test_chunks_of_the_input_are_no_other_run(tmp_path, suffix):
    source = saved(tmp_path / f"tomogram.{suffix}")
    marks = {fingerprint(open_tomogram(source, chunks=chunks)) for chunks in (None, 16, 32)}
    assert len(marks) == 1


def test_begins_anew_when_told_to(tmp_path):
    save_scores(small_match(seed=1), tmp_path / "scores.zarr")
    save_scores(small_match(), tmp_path / "scores.zarr", resume=False)
    np.testing.assert_array_equal(
        open_scores(tmp_path / "scores.zarr")["score"].values, small_match()["score"].values
    )


@pytest.mark.parametrize("resume", [True, False])
def test_killed_while_it_drops_the_old_store(tmp_path, monkeypatch, resume):
    store = tmp_path / "scores.zarr"
    save_scores(small_match(seed=1), store)

    def killed(path):
        (Path(path) / "zarr.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            save_scores(small_match(), store, resume=False)
    save_scores(small_match(), store, resume=resume)
    save_scores(small_match(), tmp_path / "whole.zarr")
    assert files(store) == files(tmp_path / "whole.zarr")
    assert {p.name for p in tmp_path.iterdir()} == {"scores.zarr", "whole.zarr"}


@pytest.mark.parametrize("resume", [True, False])
def test_killed_while_the_store_was_laid_out(tmp_path, monkeypatch, resume):
    store = tmp_path / "scores.zarr"

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Group, "create_array", killed)
        with pytest.raises(KeyboardInterrupt):
            save_scores(small_match(), store)
    assert any(store.iterdir())
    save_scores(small_match(), store, resume=resume)
    assert open_scores(store)["score"].shape == (40, 36, 32)


def test_begins_anew_behind_a_link(tmp_path):
    save_scores(small_match(seed=1), tmp_path / "disk.zarr")
    (tmp_path / "scores.zarr").symlink_to(tmp_path / "disk.zarr")
    save_scores(small_match(), tmp_path / "scores.zarr", resume=False)
    assert (tmp_path / "scores.zarr").is_symlink()
    assert open_scores(tmp_path / "disk.zarr").attrs == small_match().attrs


def test_leaves_what_is_no_store_of_scores_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    for resume in (True, False):
        with pytest.raises(InputError, match="is no store of scores"):
            save_scores(small_match(), tmp_path, resume=resume)
    assert (tmp_path / "thesis.tex").read_text() == "years"
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(InputError, match="not one of scores"):
        save_scores(small_match(), tmp_path / "other.zarr", resume=False)
    with pytest.raises(InputError, match="is no store of scores: make one with `tomodask match`"):
        open_scores(tmp_path / "missing.zarr")


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_said_in_a_sentence(tmp_path, monkeypatch, reason):
    def full(*args):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(score_store, "_write_tile", full)
    with pytest.raises(InputError, match=r"no space left on the disk of .*scores.zarr"):
        save_scores(small_match(), tmp_path / "scores.zarr")
