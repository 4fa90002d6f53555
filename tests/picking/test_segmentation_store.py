"""Stored probabilities: as computed, finished after a crash with the missing tiles only."""

import errno
import os
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from helpers import run_killed
from nets.models import random_model
from picking.test_segmentation import noise, tomogram

from tomodask.data.describe import describe
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError
from tomodask.picking.segmentation import store as segmentation_store
from tomodask.picking.segmentation.picks import pick_segmentation
from tomodask.picking.segmentation.segmenting import (
    open_segmentation,
    save_segmentation,
    segment_tomogram,
)
from tomodask.picking.tile_store import missing_tiles


def small(seed=0, classes=2, **kwargs):
    kwargs = {"tile": 24, "halo": 4, "batch": 1, **kwargs}
    volume = tomogram(noise((36, 56, 28)), 16, tilt_range=(-60.0, 60.0))
    return segment_tomogram(volume, random_model(seed=seed, classes=classes), **kwargs)


def files(path):
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(Path(path).rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("classes", [1, 2])
def test_what_is_stored_is_what_was_computed(tmp_path, classes):
    lazy = small(classes=classes)
    save_segmentation(lazy, tmp_path / "p.zarr")
    stored, computed = open_segmentation(tmp_path / "p.zarr"), lazy.compute()
    assert stored.identical(computed)
    assert stored.data.chunks[1:] == lazy.data.chunks[1:]
    assert stored.data.numblocks[0] == classes  # a class is read without the others
    with pytest.raises(InputError, match=r"threshold is a probability, .* got 50"):
        pick_segmentation(stored, threshold=50)
    told = describe(tmp_path / "p.zarr")
    assert (told["kind"], told["shape"]) == ("probabilities", lazy.shape[1:])
    assert told["classes"] == lazy["class"].values.tolist()
    tiles = int(np.prod(lazy.data.numblocks[1:]))
    assert told["finished"] == f"{tiles} of {tiles} tiles"


def test_each_tile_has_chunks_of_its_own(tmp_path):
    lazy = small()
    save_segmentation(lazy, tmp_path / "p.zarr")
    (chunks,) = {zarr.open_group(tmp_path / "p.zarr")["0"].chunks}
    for axis, sizes in enumerate(lazy.data.chunks[1:], 1):
        assert not np.any(np.cumsum(sizes)[:-1] % chunks[axis])


def test_zeros_cost_little(tmp_path):
    lazy = small()
    save_segmentation(lazy.copy(data=lazy.data * 0), tmp_path / "p.zarr")
    size = sum(len(data) for name, data in files(tmp_path / "p.zarr").items() if "0/c" in name)
    assert size < lazy.nbytes / 100


def test_viewers_open_it(tmp_path):
    ngff = pytest.importorskip("ngff_zarr")
    lazy = small()
    save_segmentation(lazy, tmp_path / "p.zarr")
    image = ngff.from_ngff_zarr(tmp_path / "p.zarr").images[0]
    assert tuple(image.dims) == ("c", "z", "y", "x")
    assert image.scale == {"c": 1.0, "z": 10.0, "y": 10.0, "x": 10.0}
    np.testing.assert_array_equal(np.asarray(image.data), lazy.values)
    channels = zarr.open_group(tmp_path / "p.zarr").attrs["ome"]["omero"]["channels"]
    assert [one["label"] for one in channels] == ["kind 0", "kind 1"]


def test_goes_on_with_the_missing_tiles_only(tmp_path, monkeypatch):
    lazy, write, calls = small(), segmentation_store._write_tile, []
    save_segmentation(lazy, tmp_path / "whole.zarr")

    def crashing(block, path, tile, chunk):
        if len(calls) == 3:
            raise RuntimeError("power cut")
        calls.append(tile)
        write(block, path, tile, chunk)

    monkeypatch.setattr(segmentation_store, "_write_tile", crashing)
    with pytest.raises(RuntimeError, match="power cut"), dask.config.set(scheduler="sync"):
        save_segmentation(lazy, tmp_path / "killed.zarr")
    tiles = int(np.prod(lazy.data.numblocks))
    with pytest.raises(InputError, match=f"holds 3 of {tiles} tiles: its run was interrupted"):
        open_segmentation(tmp_path / "killed.zarr")

    def counting(block, path, tile, chunk):
        calls.append(tile)
        write(block, path, tile, chunk)

    monkeypatch.setattr(segmentation_store, "_write_tile", counting)
    with dask.config.set(scheduler="sync"):
        save_segmentation(lazy, tmp_path / "killed.zarr")
    assert len(calls) == len(set(calls)) == tiles
    assert files(tmp_path / "killed.zarr") == files(tmp_path / "whole.zarr")  # bit-identical


def test_survives_kill_9(tmp_path):
    """A process killed while it writes; the same call, in another process, ends the same."""
    store = tmp_path / "killed.zarr"
    script = f"""
        import time
        import dask
        from picking.test_segmentation_store import small
        from tomodask.picking.segmentation import store as segmentation_store
        write = segmentation_store._write_tile
        def slow(*args):
            time.sleep(0.2)
            write(*args)
        segmentation_store._write_tile = slow
        with dask.config.set(scheduler="sync"):
            segmentation_store.save_segmentation(small(), {str(store)!r})
    """
    done = store / "finished" / "c"
    run_killed(script, lambda: len([p for p in done.rglob("*") if p.is_file()]) >= 2)
    assert len(missing_tiles(zarr.open_group(store))) > 2
    save_segmentation(small(), store)
    save_segmentation(small(), tmp_path / "whole.zarr")
    want, got = files(tmp_path / "whole.zarr"), files(store)
    assert {k: v for k, v in got.items() if k in want} == want


@pytest.mark.parametrize("other", [{"seed": 1}, {"tile": 32}])
@pytest.mark.parametrize("resume", [True, False])
def test_the_store_of_another_run(tmp_path, other, resume):
    save_segmentation(small(), tmp_path / "p.zarr")
    before = files(tmp_path / "p.zarr")
    if resume:
        with pytest.raises(InputError, match=r"p\.zarr holds the probabilities of another run"):
            save_segmentation(small(**other), tmp_path / "p.zarr")
        assert files(tmp_path / "p.zarr") == before
    else:
        save_segmentation(small(**other), tmp_path / "p.zarr", resume=False)
        assert open_segmentation(tmp_path / "p.zarr").identical(small(**other).compute())


def test_another_batch_goes_on(tmp_path):
    """As the message about memory says to."""
    write = segmentation_store._write_tile
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="sync"):

        def crashing(block, path, tile, chunk):
            if tile == (1, 1, 0):
                raise RuntimeError("power cut")
            write(block, path, tile, chunk)

        patch.setattr(segmentation_store, "_write_tile", crashing)
        with pytest.raises(RuntimeError, match="power cut"):
            save_segmentation(small(batch=2), tmp_path / "p.zarr")
    save_segmentation(small(batch=4), tmp_path / "p.zarr")
    assert open_segmentation(tmp_path / "p.zarr").identical(small().compute())


def test_a_changed_tomogram_is_another_run(tmp_path):
    for seed in (0, 1):
        volume = tomogram(noise((20, 20, 20), seed=seed))
        save_tomogram(volume, tmp_path / "ice.zarr", chunk=16, overwrite=True)
        lazy = segment_tomogram(open_tomogram(tmp_path / "ice.zarr"), random_model())
        if seed == 0:
            save_segmentation(lazy, tmp_path / "p.zarr")
        else:
            with pytest.raises(InputError, match="another run"):
                save_segmentation(lazy, tmp_path / "p.zarr")


def test_leaves_what_is_no_store_of_probabilities_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    for resume in (True, False):
        with pytest.raises(InputError, match="is no store of probabilities"):
            save_segmentation(small(), tmp_path, resume=resume)
    assert (tmp_path / "thesis.tex").read_text() == "years"
    with pytest.raises(InputError, match=r"thesis\.tex is a file, no store of probabilities"):
        save_segmentation(small(), tmp_path / "thesis.tex", resume=False)
    save_tomogram(tomogram(noise((20, 20, 20))), tmp_path / "ice.zarr", chunk=16)
    with pytest.raises(InputError, match="not one of probabilities: give another path"):
        save_segmentation(small(), tmp_path / "ice.zarr", resume=False)
    with pytest.raises(InputError, match="is no store of probabilities"):
        open_segmentation(tmp_path / "missing.zarr")


def test_damage_is_seen(tmp_path):
    save_segmentation(small(), tmp_path / "p.zarr")
    chunks = sorted(p for p in (tmp_path / "p.zarr" / "0" / "c").rglob("*") if p.is_file())
    data = bytearray(chunks[0].read_bytes())
    data[len(data) // 2] ^= 255
    chunks[0].write_bytes(data)
    with pytest.raises(InputError, match=r"probability of voxels .* is damaged"):
        open_segmentation(tmp_path / "p.zarr").compute()
    chunks[0].unlink()
    with pytest.raises(InputError, match=r"1 of .* chunks of its probability are missing"):
        open_segmentation(tmp_path / "p.zarr")


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_said_in_a_sentence(tmp_path, monkeypatch, reason):
    def full(*args):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(segmentation_store, "_write_tile", full)
    with pytest.raises(InputError, match=r"no space left on the disk of .*p\.zarr"):
        save_segmentation(small(), tmp_path / "p.zarr")


def test_refuses_what_would_lose_voxels(tmp_path):
    """Blocks that share a chunk of the store would be written over one another."""
    lazy = small()
    for wrong in (
        lazy.chunk({"y": (10, 15, 31)}),
        lazy.chunk({"class": 1}),
        lazy.compute(),
        lazy.drop_attrs(),
    ):
        with pytest.raises(InputError, match="as segment_tomogram gives it, in the same blocks"):
            save_segmentation(wrong, tmp_path / "p.zarr")
    assert not (tmp_path / "p.zarr").exists()
