"""Stacks of images from every kind of file, and their table: lazily, and round trip."""

import gzip
import shutil

import dask.array as da
import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import xarray as xr

from tomodask.data.image_table import read_image_table, write_image_table
from tomodask.data.images import (
    image_table,
    images_array,
    images_per_block,
    open_images,
    save_images,
)
from tomodask.errors import InputError

SIZE = 3.5  # Å


def stack(count=7, shape=(10, 12), seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def write_stack(path, values, size=SIZE):
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(values)
        file.set_image_stack()
        file.voxel_size = size


def poses(count=7):
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "psi": rng.uniform(-180, 180, count),
            "shift_y": rng.normal(size=count),
            "shift_x": rng.normal(size=count),
            "mirror": rng.random(count) < 0.5,
            "class": rng.integers(1, 4, count),
            "score": rng.random(count),
            "half": np.arange(count) % 2 + 1,
        }
    )


@pytest.mark.parametrize("name", ["a.mrcs", "a.mrc", "a.st", "a.mrcs.gz"])
def test_a_stack_of_mrc_is_opened_lazily_with_names(tmp_path, name):
    values = stack()
    write_stack(tmp_path / name.removesuffix(".gz"), values)
    if name.endswith(".gz"):
        with open(tmp_path / "a.mrcs", "rb") as plain, gzip.open(tmp_path / name, "wb") as packed:
            shutil.copyfileobj(plain, packed)
    images = open_images(tmp_path / name)
    assert isinstance(images.data, da.Array)
    assert images.dims == ("image", "y", "x")
    assert images.dtype == np.float32
    assert images.attrs["pixel_size"] == pytest.approx(SIZE)
    np.testing.assert_array_equal(images.to_numpy(), values)
    assert image_table(images)["image"][2] == f"000003@{tmp_path / name}"


def test_whole_numbers_and_half_floats_become_float32(tmp_path):
    values = np.arange(2 * 4 * 6, dtype=np.int16).reshape(2, 4, 6)
    write_stack(tmp_path / "a.mrcs", values)
    np.testing.assert_array_equal(open_images(tmp_path / "a.mrcs"), values.astype(np.float32))
    write_stack(tmp_path / "b.mrcs", values.astype(np.float16))
    assert open_images(tmp_path / "b.mrcs").dtype == np.float32


def test_blocks_depend_on_number_and_size_alone(tmp_path):
    write_stack(tmp_path / "a.mrcs", stack(150, (8, 8)))
    assert open_images(tmp_path / "a.mrcs").data.chunks == ((64, 64, 22), (8,), (8,))
    assert images_per_block(100_000, 90 * 90) == 517
    assert images_per_block(10**6, 4096**2) == 1


def test_a_star_lists_images_of_several_stacks_in_its_own_order(tmp_path):
    (tmp_path / "stacks").mkdir()
    a, b = stack(5), stack(4, seed=1)
    write_stack(tmp_path / "stacks" / "a.mrcs", a)
    write_stack(tmp_path / "stacks" / "b.mrcs", b)
    names = ["000002@stacks/b.mrcs", "000005@stacks/a.mrcs", "1@stacks/b.mrcs", "2@stacks/b.mrcs"]
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7],
            "rlnAmplitudeContrast": [0.1], "rlnImagePixelSize": [4.25],
            "rlnMicrographOriginalPixelSize": [1.0], "rlnOpticsGroupName": ["one"],
        }
    )  # fmt: skip
    particles = pd.DataFrame(
        {
            "rlnImageName": names, "rlnMicrographName": ["m1", "m1", "m2", "m2"],
            "rlnCoordinateX": [1.0, 2, 3, 4], "rlnOpticsGroup": [1] * 4,
            "rlnDefocusU": [1e4, 2e4, 3e4, 4e4], "rlnDefocusV": [1e4] * 4,
            "rlnDefocusAngle": [10.0] * 4, "rlnAngleRot": [0.0] * 4,
            "rlnAngleTilt": [0.0, 180, 0, 180], "rlnAnglePsi": [5.0, -10, 0, 90],
            "rlnOriginXAngst": [1.5, -2, 0, 0], "rlnOriginYAngst": [0, 0, 3.0, 0],
            "rlnClassNumber": [1, 2, 1, 3], "rlnMaxValueProbDistribution": [0.5] * 4,
        }
    )  # fmt: skip
    starfile.write({"optics": optics, "particles": particles}, tmp_path / "in.star")
    images = open_images(tmp_path / "in.star")
    np.testing.assert_array_equal(images, np.stack([b[1], a[4], b[0], b[1]]))
    assert images.attrs["pixel_size"] == 4.25  # of the images: not of headers or micrographs
    assert images.attrs["voltage"] == 300
    assert images.attrs["spherical_aberration"] == 2.7
    table = image_table(images)
    assert table["image"].tolist() == names
    assert table["psi"].tolist() == [5, -10, 0, 90]
    assert table["mirror"].tolist() == [False, True, False, True]
    assert table["shift_x"].tolist() == [-1.5, 2, 0, 0]
    assert table["shift_y"].tolist() == [0, 0, -3, 0]
    assert table["class"].tolist() == [1, 2, 1, 3]
    assert table["defocus_u"].tolist() == [1e4, 2e4, 3e4, 4e4]
    assert table["rlnMicrographName"].tolist() == ["m1", "m1", "m2", "m2"]
    write_image_table(table, tmp_path / "out.star")
    blocks = starfile.read(tmp_path / "out.star")
    for name in particles.columns.drop(["rlnMaxValueProbDistribution"]):
        assert blocks["particles"][name].tolist() == particles[name].tolist(), name
    assert blocks["optics"]["rlnVoltage"].tolist() == [300]


def test_groups_of_several_microscopes_tell_each_image_its_own(tmp_path):
    write_stack(tmp_path / "a.mrcs", stack(3))
    optics = pd.DataFrame(
        {"rlnOpticsGroup": [1, 2], "rlnOpticsGroupName": ["a", "b"], "rlnVoltage": [300.0, 200.0],
         "rlnSphericalAberration": [2.7, 2.7], "rlnImagePixelSize": [4.0, 4.0]}
    )  # fmt: skip
    particles = pd.DataFrame(
        {"rlnImageName": [f"{i}@a.mrcs" for i in (1, 2, 3)], "rlnOpticsGroup": [2, 1, 2]}
    )
    starfile.write({"optics": optics, "particles": particles}, tmp_path / "in.star")
    images = open_images(tmp_path / "in.star")
    assert images["voltage"].to_numpy().tolist() == [200, 300, 200]
    assert images.attrs["spherical_aberration"] == 2.7
    write_image_table(image_table(images), tmp_path / "out.star")
    again = open_images(tmp_path / "out.star")
    assert again["voltage"].to_numpy().tolist() == [200, 300, 200]
    blocks = starfile.read(tmp_path / "out.star")
    assert "voltage" not in blocks["particles"]
    assert blocks["optics"]["rlnVoltage"].tolist() == [300, 200]
    assert blocks["particles"]["rlnOpticsGroup"].tolist() == [2, 1, 2]


def test_old_stars_count_shifts_in_pixels(tmp_path):
    write_stack(tmp_path / "a.mrcs", stack(2))
    block = pd.DataFrame(
        {
            "rlnImageName": ["1@a.mrcs", "2@a.mrcs"], "rlnOriginX": [1.0, -2.0],
            "rlnOriginY": [0.0, 1.0], "rlnDetectorPixelSize": [5.0] * 2,
            "rlnMagnification": [20_000.0] * 2,
        }
    )  # fmt: skip
    starfile.write(block, tmp_path / "in.star")
    table = image_table(open_images(tmp_path / "in.star"))
    assert table.attrs["pixel_size"] == 2.5
    assert table["shift_x"].tolist() == [-2.5, 5]
    assert table["shift_y"].tolist() == [0, -2.5]


def test_views_of_a_map_keep_their_angles(tmp_path):
    write_stack(tmp_path / "a.mrcs", stack(2))
    angles = {"rlnAngleRot": [10.0, 20], "rlnAngleTilt": [30.0, 180], "rlnAnglePsi": [1.0, 2]}
    block = pd.DataFrame({"rlnImageName": ["1@a.mrcs", "2@a.mrcs"], **angles})
    starfile.write(block, tmp_path / "in.star")
    table = image_table(open_images(tmp_path / "in.star"))
    assert table["psi"].tolist() == [1, 2]
    assert "mirror" not in table
    write_image_table(table, tmp_path / "out.star")
    again = starfile.read(tmp_path / "out.star", always_dict=True)["particles"]
    for name, values in angles.items():
        assert again[name].tolist() == values


@pytest.mark.parametrize("suffix", [".star", ".csv"])
def test_a_table_comes_back(tmp_path, suffix):
    table = poses().assign(image=[f"{i:06d}@a.mrcs" for i in range(1, 8)])
    table["reason"] = ["not finite"] + [""] * 6
    table.loc[0, ["psi", "shift_y", "shift_x", "score"]] = np.nan
    table.loc[0, "class"] = 0
    table.attrs["pixel_size"] = SIZE
    write_image_table(table, tmp_path / f"t{suffix}")
    again = read_image_table(tmp_path / f"t{suffix}")
    for name in table.columns.drop("reason"):
        if table[name].dtype.kind == "f":
            np.testing.assert_allclose(again[name], table[name], rtol=1e-9)
        elif name != "mirror":
            assert again[name].tolist() == table[name].tolist(), name
    # Without a pose there is no mirror either.
    assert again["mirror"][1:].tolist() == table["mirror"][1:].tolist()
    if suffix == ".star":
        assert again.attrs["pixel_size"] == SIZE


def test_zarr_comes_back_with_its_table_whatever_the_chunks(tmp_path):
    values = stack(70)
    table = poses(70).assign(reason=[None] * 69 + ["constant"])
    lazy = da.from_array(values, chunks=((3, 60, 7), (4, 6), 5))
    images = images_array(lazy, table, pixel_size=SIZE, attrs={"voltage": 300.0})
    save_images(images, tmp_path / "a.zarr")
    again = open_images(tmp_path / "a.zarr")
    np.testing.assert_array_equal(again, values)
    assert again.attrs["pixel_size"] == SIZE
    assert again.attrs["voltage"] == 300
    back = image_table(again)
    for name in table:
        assert back[name].dtype == table[name].dtype
        assert back[name].tolist() == table[name].tolist()
    assert xr.open_zarr(tmp_path / "a.zarr", consolidated=False)["images"].shape == (70, 10, 12)
    with pytest.raises(InputError, match="exists already"):
        save_images(images, tmp_path / "a.zarr")


def test_damage_of_a_store_is_seen(tmp_path):
    values = stack(70)
    values[:64] = 0  # a chunk of nothing is there all the same
    table = pd.DataFrame(index=range(70))
    save_images(images_array(values, table, pixel_size=SIZE), tmp_path / "a.zarr")
    np.testing.assert_array_equal(open_images(tmp_path / "a.zarr"), values)
    chunk = tmp_path / "a.zarr" / "images" / "c" / "1" / "0" / "0"
    whole = bytearray(chunk.read_bytes())
    whole[100] ^= 1
    chunk.write_bytes(whole)
    with pytest.raises(InputError, match="damaged"):
        open_images(tmp_path / "a.zarr").compute()
    chunk.unlink()
    with pytest.raises(InputError, match=r"1 of 2 chunks are missing, the first is images/c/1/0/0"):
        open_images(tmp_path / "a.zarr")


def test_a_plain_zarr_array_is_a_stack_too(tmp_path):
    import zarr

    values = stack()
    zarr.create_array(tmp_path / "a.zarr", data=values)
    np.testing.assert_array_equal(open_images(tmp_path / "a.zarr", pixel_size=2.0), values)
    with pytest.raises(InputError, match="does not say the size of its pixels"):
        open_images(tmp_path / "a.zarr")


def test_an_mrc_stack_is_written_as_one(tmp_path):
    values = stack(9)
    images = images_array(
        da.from_array(values, chunks=(2, 3, 4)), pd.DataFrame(index=range(9)), pixel_size=SIZE
    )
    save_images(images, tmp_path / "a.mrcs")
    with mrcfile.open(tmp_path / "a.mrcs") as file:
        assert file.is_image_stack()
        np.testing.assert_array_equal(file.data, values)
        assert float(file.voxel_size.x) == pytest.approx(SIZE)
    assert mrcfile.validate(tmp_path / "a.mrcs")
    np.testing.assert_array_equal(open_images(tmp_path / "a.mrcs"), values)


def test_arrays_in_memory_are_not_copied():
    values = stack()
    images = images_array(values, poses(), pixel_size=SIZE)
    assert np.shares_memory(images.data, values)


def test_hdf5_as_one_dataset_and_as_eman_writes_it(tmp_path):
    h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py (extra tomodask[planar])")
    values = stack()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/particles"] = values
        file["deep/particles"].attrs["pixel_size"] = SIZE
        file["classes"] = np.arange(7)
    images = open_images(tmp_path / "a.h5")
    np.testing.assert_array_equal(images, values)
    assert images.attrs["pixel_size"] == SIZE
    names = image_table(images)["image"].iloc[[6, 0, 3]]
    pd.DataFrame({"image": names}).to_csv(tmp_path / "some.csv", index=False)
    some = open_images(tmp_path / "some.csv")
    np.testing.assert_array_equal(some, values[[6, 0, 3]])
    with h5py.File(tmp_path / "b.hdf", "w") as file:
        for number, image in enumerate(stack(12)):
            file[f"MDF/images/{number}/image"] = image
            file[f"MDF/images/{number}"].attrs["EMAN.apix_x"] = 2.25
    images = open_images(tmp_path / "b.hdf")
    np.testing.assert_array_equal(images, stack(12))
    assert images.attrs["pixel_size"] == 2.25
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["one"], file["two"] = values, values + 1
    with pytest.raises(InputError, match=r"several stacks .*: one, two; say which \(dataset=…\)"):
        open_images(tmp_path / "c.h5", pixel_size=1.0)
    np.testing.assert_array_equal(
        open_images(tmp_path / "c.h5", pixel_size=1.0, dataset="two"), values + 1
    )
    with h5py.File(tmp_path / "d.hdf", "w") as file:
        file["MDF/images/0/image"], file["MDF/images/1/image"] = values[0], values[0, :5]
    with pytest.raises(InputError, match="images of unequal size"):
        open_images(tmp_path / "d.hdf", pixel_size=1.0)


def test_hdf5_without_h5py_says_what_to_install(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.h5").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"needs h5py.*pip install 'tomodask\[planar\]'"):
        open_images(tmp_path / "a.h5", pixel_size=1.0)


def test_bad_input_is_named_with_the_way_out(tmp_path):
    write_stack(tmp_path / "a.mrcs", stack(3))
    write_stack(tmp_path / "b.mrcs", stack(3, (10, 10)))
    (tmp_path / "text.txt").write_text("no")

    def listed(*names):
        path = tmp_path / f"t{len(list(tmp_path.iterdir()))}.csv"
        pd.DataFrame({"image": names}).to_csv(path, index=False)
        return path

    for path, said in (
        (tmp_path / "none.mrcs", "no such file"),
        (tmp_path / "text.txt", "images come as an MRC stack"),
        (listed("1@a.mrcs", "1@b.mrcs"), r"unequal size: b.mrcs has 10×10 pixels, a.mrcs 10×12"),
        (listed("1@a.mrcs", "4@a.mrcs"), r"4@a.mrcs of row 2: the stack has 3 images only"),
        (listed("0@a.mrcs"), r"0@a.mrcs in row 1 is not NUMBER@STACK, with the number from 1"),
        (listed("a.mrcs"), r"holds 3 images; say which \(000001@a.mrcs\)"),
        (listed("1@gone.mrcs"), r"1@gone.mrcs of row 1 is neither in"),
        (listed(), "lists no images"),
    ):
        with pytest.raises(InputError, match=said):
            open_images(path)
    for size in (0.0, -1.0, np.nan):
        with pytest.raises(InputError, match="pixel_size must be above 0"):
            open_images(tmp_path / "a.mrcs", pixel_size=size)
    images = open_images(tmp_path / "a.mrcs")
    with pytest.raises(InputError, match="choose one"):
        save_images(images, tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"dims \(image, y, x\)"):
        image_table(images.rename(image="z"))
    write_stack(tmp_path / "a.mrcs", stack(4))
    with pytest.raises(InputError, match="opened"):
        images.compute()


def test_pixels_that_are_not_square_are_refused(tmp_path):
    write_stack(tmp_path / "a.mrcs", stack(3), size=(2.0, 3.0, 1.0))
    with pytest.raises(InputError, match=r"2 × 3 Å \(x, y\) are not square"):
        open_images(tmp_path / "a.mrcs")
    assert open_images(tmp_path / "a.mrcs", pixel_size=2.5).attrs["pixel_size"] == 2.5
