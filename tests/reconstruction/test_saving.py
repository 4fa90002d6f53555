"""Reconstruction through the disk: as the graph gives it, gone on with, nobody's file taken."""

import dask
import numpy as np
import pytest
from reconstruction.places import PLACES, TILTS
from reconstruction.scenes import blobs, series_of

from tomodask.data.tilt_series import open_tilt_series, write_tilt_series
from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError
from tomodask.reconstruction import tomogram
from tomodask.reconstruction.row_store import RowStore
from tomodask.reconstruction.tomogram import reconstruct, save_reconstruction


@pytest.mark.parametrize("method", ["wbp", "sirt"])
def test_workers_do_not_change_a_byte(tmp_path, method):
    series = series_of(blobs((24, 21, 40), PLACES), TILTS[::4])
    options = {"thickness": 120.0, "method": method, "iterations": 2, "bin": 1.5}
    told = []
    for name, scheduler in (("one", "synchronous"), ("two", "threads")):
        (tmp_path / name).mkdir()
        with dask.config.set(scheduler=scheduler, num_workers=2):
            told.append(save_reconstruction(series, tmp_path / name / "a.mrc", **options))
    assert told[0] == told[1]
    one, two = ((tmp_path / name / "a.mrc").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("method", ["wbp", "sirt"])
@pytest.mark.parametrize("suffix", [".zarr", ".mrc"])
def test_the_stream_through_the_disk_gives_what_the_graph_gives(tmp_path, method, suffix):
    series = series_of(blobs((24, 21, 40), PLACES), TILTS[::4])
    options = {"thickness": 120.0, "method": method, "iterations": 2}
    path = tmp_path / f"a{suffix}"
    told = save_reconstruction(series, path, **options)
    wanted = reconstruct(series, **options)
    saved = open_tomogram(path)
    np.testing.assert_array_equal(saved, wanted)
    assert told["shape"] == wanted.shape == (24, 21, 40)
    assert saved.attrs["tilt_range"] == wanted.attrs["tilt_range"] == (-60.0, 60.0)
    if suffix == ".zarr":
        assert saved.attrs["tilt_series"] == wanted.attrs["tilt_series"]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_block_reads_the_rows_and_the_window_it_needs(tmp_path, monkeypatch):
    read = []

    def watched(store, rows, samples):
        read.append((rows.start, rows.stop, samples.stop - samples.start))
        return original(store, rows, samples)

    original = RowStore.read
    monkeypatch.setattr(RowStore, "read", watched)
    series = series_of(blobs((8, 130, 512), [(0, 0, 0)]), [-40.0, 0.0, 40.0])
    with dask.config.set(scheduler="synchronous"):
        save_reconstruction(series, tmp_path / "a.mrc", thickness=40.0)
    assert sorted({(start, stop) for start, stop, _ in read}) == [(0, 128), (128, 130)]
    assert len(read) == 2 * 4
    # 128 voxels are imaged onto 128 pixels at most, 98 at 40°, whose middles lie elsewhere.
    assert max(samples for *_, samples in read) < 0.45 * 2 * 512


def test_a_stopped_run_goes_on_with_the_images_that_are_missing(tmp_path):
    volume = blobs((24, 21, 40), PLACES)
    series = series_of(volume, TILTS[::4])
    seen, stop = [], [True]

    def watched(block, block_id=None):
        if block.size:
            seen.append(block_id[0])
            if stop and block_id[0] == 4:
                raise KeyboardInterrupt
        return block

    nothing = np.empty((0, 0, 0), np.float32)
    slow = series.copy(data=series.data.map_blocks(watched, dtype=np.float32, meta=nothing))
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(KeyboardInterrupt):
            save_reconstruction(slow, tmp_path / "a.zarr", thickness=120.0)
        assert not (tmp_path / "a.zarr").exists()
        before = set(seen) - {4}
        seen.clear()
        stop.clear()
        save_reconstruction(slow, tmp_path / "a.zarr", thickness=120.0)
    assert set(seen) == set(range(len(series))) - before
    np.testing.assert_array_equal(
        open_tomogram(tmp_path / "a.zarr"), reconstruct(series, thickness=120.0)
    )
    assert [each.name for each in tmp_path.iterdir()] == ["a.zarr"]


def test_an_output_that_is_there_is_kept(tmp_path):
    series = series_of(np.zeros((8, 16, 16), np.float32), TILTS[::8])
    (tmp_path / "a.mrc").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        save_reconstruction(series, tmp_path / "a.mrc", thickness=40.0)
    assert (tmp_path / "a.mrc").read_text() == "mine"
    (tmp_path / "folder.zarr").mkdir()
    for name, options, told in (
        ("a.png", {}, r"written are \.mrc"),
        ("a.mrc.gz", {}, r"written are \.mrc"),
        ("none/a.mrc", {}, "folder .* does not exist"),
        ("folder.zarr", {"overwrite": True}, "a folder but no Zarr store"),
        ("b.mrc", {"dtype": "int64"}, "dtype must be one of"),
        ("b.zarr", {"chunk": 64, "shard": 65}, "shard must be a multiple"),
    ):
        # Before any image is made ready:
        unread = series.copy(data=series.data.map_blocks(_not_to_be_read, dtype=np.float32))
        with pytest.raises(InputError, match=told):
            save_reconstruction(unread, tmp_path / name, thickness=40.0, **options)


def _not_to_be_read(block):
    assert not block.size, "read"
    return block


def test_images_are_not_overwritten_by_their_tomogram(tmp_path):
    series = series_of(np.ones((8, 16, 16), np.float32), TILTS[::8])
    write_tilt_series(series, tmp_path / "a.mrc")
    before = (tmp_path / "a.mrc").read_bytes()
    opened = open_tilt_series(tmp_path / "a.star")
    with pytest.raises(InputError, match=r"a\.mrc holds images of the tilt series"):
        save_reconstruction(opened, tmp_path / "a.mrc", thickness=40.0, overwrite=True)
    assert (tmp_path / "a.mrc").read_bytes() == before


def test_two_runs_of_one_output_do_not_take_each_others_rows(tmp_path):
    one = RowStore.open_or_create(tmp_path / "rows", (3, 2, 4), fingerprint="one")
    one.write(0, np.ones((3, 4)))
    two = RowStore.open_or_create(tmp_path / "rows", (3, 2, 4), fingerprint="two")
    assert two.missing() == [0, 1]
    with pytest.raises(InputError, match="does another run write the same output"):
        one.read(slice(0, 3), slice(0, 4))
    with pytest.raises(InputError, match="not there any more"):
        one.write(1, np.ones((3, 4)))
    assert two.missing() == [0, 1]
    one.remove()
    two.write(1, np.full((3, 4), 2.0))
    again = RowStore.open_or_create(tmp_path / "rows", (3, 2, 4), fingerprint="two")
    assert again.missing() == [0]
    np.testing.assert_array_equal(again.read(slice(1, 3), slice(1, 2))[1], [[2], [2]])
    again.remove()
    assert not (tmp_path / "rows").exists()


def test_residuals_of_a_stopped_run_are_not_those_of_the_next(tmp_path, monkeypatch):
    """The images are kept, and thickness, iterations and so the slabs may be others."""
    series = series_of(blobs((24, 21, 40), PLACES), TILTS[::4])
    options = {"thickness": 120.0, "method": "sirt", "iterations": 2}
    wanted = save_reconstruction(series, tmp_path / "a.mrc", **options)["residuals"]
    monkeypatch.setattr(tomogram, "save_tomogram", _stopped)
    with pytest.raises(KeyboardInterrupt):
        save_reconstruction(series, tmp_path / "b.mrc", **(options | {"iterations": 3}))
    monkeypatch.undo()
    stale = tmp_path / ".b.mrc.rows"
    np.save(stale / "residuals_000003.npy", np.ones((5, 7)))
    assert save_reconstruction(series, tmp_path / "b.mrc", **options)["residuals"] == wanted


def _stopped(*args, **kwargs):
    raise KeyboardInterrupt
