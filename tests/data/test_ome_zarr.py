"""OME-Zarr: of others and our own, damage is told wherever it is read."""

import os
import shutil

import cloudpickle
import dask.array as da
import google_crc32c
import numpy as np
import pytest
import xarray as xr
import zarr
from data.volume_files import stack
from distributed import Client

from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError

# OME-Zarr


def write_ome(path, values, *, version, axes, units, scale, global_scale=None, chunks=None):
    group = zarr.create_group(str(path), zarr_format=2 if version == "0.4" else 3)
    array = group.create_array(
        "s0", shape=values.shape, dtype=values.dtype, chunks=chunks or values.shape
    )
    array[...] = values
    image = {
        "axes": [
            {"name": axis, **({"unit": unit} if unit else {})}
            for axis, unit in zip(axes, units, strict=True)
        ],
        "datasets": [
            {"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        ],
    }
    if global_scale:
        image["coordinateTransformations"] = [{"type": "scale", "scale": global_scale}]
    if version == "0.4":
        group.attrs["multiscales"] = [image | {"version": version}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("axes", "units", "scale", "voxel_size"),
    [
        ("zyx", ["angstrom"] * 3, [7.5] * 3, 7.5),
        ("zyx", ["nanometer"] * 3, [1.348] * 3, 13.48),
        ("zyx", ["micrometer"] * 3, [0.001] * 3, 10.0),
        ("czyx", [None, *["nanometer"] * 3], [1.0, 2.0, 2.0, 2.0], 20.0),
        ("tczyx", ["second", None, *["angstrom"] * 3], [1.0, 1.0, 4.0, 4.0, 4.0], 4.0),
    ],
)
def test_ome_zarr_of_others(tmp_path, version, axes, units, scale, voxel_size):
    values = stack("i2")
    path = write_ome(
        tmp_path / "a.ome.zarr", values.reshape((1,) * (len(axes) - 3) + values.shape),
        version=version, axes=axes, units=units, scale=scale,
    )  # fmt: skip
    volume = open_tomogram(path, chunks=5)
    np.testing.assert_array_equal(volume.values, values)
    assert volume.attrs["voxel_size"] == voxel_size
    assert volume.name == "a"


def test_the_transform_of_the_image_counts_too(tmp_path):
    path = write_ome(
        tmp_path / "a.zarr", stack(), version="0.4", axes="zyx", units=["nanometer"] * 3,
        scale=[2.0] * 3, global_scale=[0.5] * 3,
    )  # fmt: skip
    assert open_tomogram(path).attrs["voxel_size"] == 10.0


def test_written_by_ngff_zarr(tmp_path):
    """What a third party writes is read, with its units."""
    ngff_zarr = pytest.importorskip("ngff_zarr")
    image = ngff_zarr.to_ngff_image(
        stack("f4"), dims=["z", "y", "x"], scale=dict.fromkeys("zyx", 1.5),
        axes_units=dict.fromkeys("zyx", "nanometer"),
    )  # fmt: skip
    ngff_zarr.to_ngff_zarr(
        str(tmp_path / "a.zarr"), ngff_zarr.to_multiscales(image, scale_factors=[])
    )
    volume = open_tomogram(tmp_path / "a.zarr")
    np.testing.assert_array_equal(volume.values, stack("f4"))
    assert volume.attrs["voxel_size"] == 15.0


@pytest.mark.parametrize(
    ("axes", "units", "scale", "shape", "message"),
    [
        ("xyz", ["angstrom"] * 3, [1] * 3, (7, 12, 10), r"the axes are \['x', 'y', 'z'\]"),
        (
            "czyx",
            [None, *["angstrom"] * 3],
            [1] * 4,
            (2, 7, 6, 10),
            "one channel and one time point",
        ),
        ("zyx", [None] * 3, [1] * 3, (7, 12, 10), "does not say its voxel size"),
        ("zyx", ["angstrom"] * 3, [0] * 3, (7, 12, 10), "voxel size is 0"),
        ("zyx", ["nanometer"] * 3, [2, 1, 1], (7, 12, 10), r"not cubic \(z 20, y 10, x 10 Å\)"),
    ],
)
def test_ome_zarr_that_is_no_tomogram(tmp_path, axes, units, scale, shape, message):
    path = write_ome(
        tmp_path / "a.zarr", np.resize(stack(), shape), version="0.5", axes=axes, units=units,
        scale=scale,
    )  # fmt: skip
    with pytest.raises(InputError, match=message):
        open_tomogram(path)


def test_a_group_without_an_image(tmp_path):
    zarr.create_group(str(tmp_path / "a.zarr"))
    with pytest.raises(InputError, match="no multiscales in its attributes"):
        open_tomogram(tmp_path / "a.zarr")


def test_a_bare_array_opens_with_a_voxel_size(tmp_path):
    array = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(7, 12, 10), chunks=(4, 4, 4), dtype="u1"
    )
    array[:] = stack()
    with pytest.raises(InputError, match="does not say its voxel size"):
        open_tomogram(tmp_path / "a.zarr")
    np.testing.assert_array_equal(
        open_tomogram(tmp_path / "a.zarr", voxel_size=1.0).values, stack()
    )


@pytest.fixture
def store(tmp_path):
    """A store of 2×2×2 shards of 2×2×2 chunks."""
    values = np.random.default_rng(0).normal(size=(16, 16, 16)).astype("f4")
    volume = xr.DataArray(da.from_array(values), dims=("z", "y", "x"), attrs={"voxel_size": 1.0})
    save_tomogram(volume, tmp_path / "TS_01.zarr", chunk=4, shard=8)
    return tmp_path / "TS_01.zarr"


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0xFF
    path.write_bytes(raw)


def forget(path, number, chunks=8):
    """Take a chunk out of the index of a shard, as a writer would that left it out."""
    raw = bytearray(path.read_bytes())
    at = len(raw) - 16 * chunks - 4
    raw[at + 16 * number : at + 16 * number + 16] = b"\xff" * 16
    raw[-4:] = np.array(google_crc32c.value(bytes(raw[at:-4])), "<u4").tobytes()
    path.write_bytes(raw)


SHARD = r"the shard c/1/0/1 .*is damaged|the shard c/1/0/1 is damaged"
DAMAGES = {
    "missing": (lambda shard: shard.unlink(), "the chunk c/1/0/1 is missing"),
    "cut": (lambda shard: shard.write_bytes(shard.read_bytes()[:-40]), SHARD),
    "empty": (lambda shard: shard.write_bytes(b""), SHARD),
    "voxels": (lambda shard: flip(shard, 100), SHARD),
    "index": (lambda shard: flip(shard, -20), SHARD),
    "chunk": (lambda shard: forget(shard, 3), "a chunk of the shard c/1/0/1 is missing"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_told(store, damage):
    break_it, message = DAMAGES[damage]
    break_it(store / "0" / "c" / "1" / "0" / "1")
    volume = open_tomogram(store)
    said = rf"TS_01\.zarr, level 0: (?:{message}).*make the store again"
    with pytest.raises(InputError, match=said) as caught:
        volume.compute(scheduler="sync")
    assert str(cloudpickle.loads(cloudpickle.dumps(caught.value))) == str(caught.value)
    open_tomogram(store, chunks=8).data[:8].compute()  # the rest is readable


def test_damage_is_told_from_other_workers(store):
    (store / "0" / "c" / "0" / "0" / "0").unlink()
    with (
        Client(n_workers=1, threads_per_worker=1, dashboard_address=None) as client,
        pytest.raises(InputError, match="the chunk c/0/0/0 is missing"),
    ):
        client.compute(open_tomogram(store).data.sum()).result()


def test_a_missing_level_is_told(store):
    shutil.rmtree(store / "0")
    with pytest.raises(InputError, match=r"TS_01\.zarr: the level 0 is missing"):
        open_tomogram(store)


def test_chunks_of_zeros_are_written_too(tmp_path):
    """Else a missing one could not be told from an empty one."""
    volume = xr.DataArray(
        np.zeros((8, 8, 8), "f4"), dims=("z", "y", "x"), attrs={"voxel_size": 1.0}
    )
    save_tomogram(volume, tmp_path / "a.zarr", chunk=4, shard=4)
    assert len([p for p in (tmp_path / "a.zarr" / "0" / "c").rglob("*") if p.is_file()]) == 8
    assert not open_tomogram(tmp_path / "a.zarr").values.any()


def test_stores_of_others_may_leave_out_empty_chunks(tmp_path):
    path = write_ome(
        tmp_path / "a.zarr", np.zeros((8, 8, 8), "f4"), version="0.5", axes="zyx",
        units=["angstrom"] * 3, scale=[1.0] * 3, chunks=(4, 4, 4),
    )  # fmt: skip
    assert not list((path / "s0").glob("c"))
    assert not open_tomogram(path).values.any()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_chunks_that_others_left_out_or_lost_are_counted_once(tmp_path, version, caplog):
    path = write_ome(
        tmp_path / "a.zarr", np.ones((1, 8, 8, 12), "f4"), version=version, axes="czyx",
        units=[None, *["angstrom"] * 3], scale=[1.0] * 4, chunks=(1, 4, 4, 4),
    )  # fmt: skip
    open_tomogram(path)
    assert not caplog.text
    for key in ("0.0.0.1", "0.1.1.2") if version == "0.4" else ("c/0/0/0/1", "c/0/1/1/2"):
        (path / "s0" / key).unlink()
    os.utime(next(f for f in (path / "s0").iterdir() if f.name in ("zarr.json", ".zarray")))
    for _ in range(2):
        assert open_tomogram(path).values.sum() == 8 * 8 * 12 - 2 * 4**3
    assert caplog.text.count("a.zarr, level s0: 2 of 12 chunks are absent and are read as 0") == 1


def test_chunks_of_a_store_are_its_shards(store):
    assert open_tomogram(store).data.chunksize == (16, 16, 16)  # 8 shards, about 128 voxels at most
    assert open_tomogram(store, chunks=8).data.chunksize == (8, 8, 8)
    with pytest.raises(InputError, match=r"chunks=.* do not fit"):
        open_tomogram(store, chunks=(3, 3))
