"""`describe`: what a file is, for `tomodask info`."""

import gzip
from dataclasses import replace

import dask.array as da
import mrcfile
import numpy as np
import pandas as pd
import pytest
import tifffile
import xarray as xr
import zarr
from helpers import shared_data
from nets.models import random_model

from tomodask.data.describe import describe
from tomodask.data.particles import write_particles
from tomodask.data.subtomograms import extract_subtomograms, open_subtomograms, save_subtomograms
from tomodask.data.tilt_series import write_tilt_series
from tomodask.data.tilt_series_array import as_tilt_series
from tomodask.data.tomograms import save_tomogram
from tomodask.errors import InputError
from tomodask.nets.segmentation.model_file import write_model


def volume(shape=(20, 30, 40), seed=0):
    values = np.random.default_rng(seed).normal(size=shape).astype("f4")
    attrs = {"voxel_size": 5.0, "tilt_range": (-60.0, 50.0)}
    return xr.DataArray(values, dims=("z", "y", "x"), attrs=attrs, name="TS_01")


@pytest.mark.parametrize("suffix", ["mrc", "zarr"])
def test_a_tomogram(tmp_path, suffix):
    save_tomogram(volume(), tmp_path / f"a.{suffix}", chunk=8, shard=16, levels=2)
    told = describe(tmp_path / f"a.{suffix}")
    assert told["kind"] == "tomogram"
    assert (told["shape"], told["voxel_size"], told["dtype"]) == ((20, 30, 40), 5.0, "float32")
    assert told["extent"] == (100.0, 150.0, 200.0)
    assert (told["name"], told["tilt_range"]) == ("TS_01", (-60.0, 50.0))
    values = volume().to_numpy()
    assert told["minimum"] == values.min()
    assert told["maximum"] == values.max()
    assert told["mean"] == pytest.approx(values.mean(dtype=float))
    assert told["std"] == pytest.approx(values.std(dtype=float))
    assert told["nonfinite"] == 0
    if suffix == "zarr":
        assert told["levels"] == [(20, 30, 40), (10, 15, 20)]
        assert (told["zarr_chunks"], told["zarr_shards"]) == ((8, 8, 8), (16, 16, 16))


def test_the_real_tomogram():
    path = shared_data("tomograms", "13pf_MT.tif")
    told = describe(path)
    assert (told["shape"], told["voxel_size"], told["dtype"]) == ((36, 206, 94), 10.52, "uint8")
    expected = tifffile.imread(path)
    assert (told["minimum"], told["maximum"]) == (expected.min(), expected.max())
    assert told["mean"] == pytest.approx(expected.mean())


def test_a_particle_table(tmp_path):
    table = pd.DataFrame(
        {"tomogram": ["b", "a", "b"], "z": [1.0, 2.0, 3.0], "y": 0.0, "x": 0.0,
         "score": [0.5, 0.75, 0.25], "half": [1, 2, 1]}
    )  # fmt: skip
    write_particles(table, tmp_path / "a.star", voxel_size=2.0)
    told = describe(tmp_path / "a.star")
    assert (told["kind"], told["particles"], told["voxel_size"]) == ("particle table", 3, 2.0)
    assert told["tomograms"] == {"b": 2, "a": 1}
    assert told["score_range"] == (0.25, 0.75)
    assert told["z_range"] == (1.0, 3.0)
    assert told["half_counts"] == {1: 2, 2: 1}
    assert set(told["columns"]) == set(table)


def test_a_real_table():
    told = describe(shared_data("metadata", "star", "relion3.1_particles.star"))
    assert told["particles"] == 57
    assert sum(told["tomograms"].values()) == 57


def test_an_empty_table(tmp_path):
    write_particles(pd.DataFrame({"z": [], "y": [], "x": []}), tmp_path / "a.csv")
    assert describe(tmp_path / "a.csv")["particles"] == 0


def test_a_store_of_subtomograms(tmp_path):
    group = zarr.create_group(str(tmp_path / "a.zarr"))
    group.attrs.update({"tomodask": "subtomograms", "voxel_size": 7.5})
    group.create_array("subtomogram", shape=(5, 8, 8, 8), chunks=(1, 8, 8, 8), dtype="f4")
    told = describe(tmp_path / "a.zarr")
    assert (told["kind"], told["particles"], told["shape"]) == ("subtomograms", 5, (8, 8, 8))
    assert told["voxel_size"] == 7.5


def test_a_folder_of_boxes(tmp_path):
    for number in (2, 1):
        save_tomogram(volume((8, 8, 8)), tmp_path / f"box_{number}.mrc")
    told = describe(tmp_path)
    assert (told["kind"], told["particles"], told["first"]) == ("folder of boxes", 2, "box_1.mrc")
    assert (told["shape"], told["voxel_size"]) == ((8, 8, 8), 5.0)
    save_tomogram(volume((8, 8, 9)), tmp_path / "box_3.mrc")
    assert describe(tmp_path)["shapes"] == {(8, 8, 8): 2, (8, 8, 9): 1}


def test_a_folder_of_packed_boxes_as_align_takes_it(tmp_path):
    save_tomogram(volume((8, 8, 8)), tmp_path / "box_1.mrc")
    packed = gzip.compress((tmp_path / "box_1.mrc").read_bytes())
    (tmp_path / "box_1.mrc").unlink()
    for number in (1, 2):
        (tmp_path / f"box_{number}.mrc.gz").write_bytes(packed)
    (tmp_path / "._box_1.mrc").write_bytes(b"what some systems leave")
    told = describe(tmp_path)
    assert (told["particles"], told["first"]) == (2, "box_1.mrc.gz")
    assert open_subtomograms(tmp_path).sizes["particle"] == 2


def test_a_voxel_size_that_is_not_said_is_unknown(tmp_path, caplog):
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(volume().to_numpy())
    told = describe(path)
    assert (told["shape"], told["voxel_size"]) == ((20, 30, 40), "unknown")
    assert "extent" not in told
    assert told["maximum"] == volume().to_numpy().max()
    assert "voxel size is 0, 0, 0 Å" in caplog.text
    assert "--voxel-size" in caplog.text
    assert describe(path, voxel_size=2.0)["extent"] == (40.0, 60.0, 80.0)
    with pytest.raises(InputError, match="voxel_size must be above 0"):
        describe(path, voxel_size=-1.0)


def test_what_is_not_known(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"a\.png: neither a tomogram"):
        describe(tmp_path / "a.png")
    with pytest.raises(InputError, match="empty: a folder without MRC files"):
        describe(tmp_path / "empty")
    with pytest.raises(InputError, match="none: no such file"):
        describe(tmp_path / "none")


def test_counts_what_is_no_number(tmp_path):
    values = np.zeros((2, 3, 4), "f4")
    values[1, 2, 3] = np.nan
    array = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=values.shape, chunks=(2, 3, 4), dtype="f4"
    )
    array[:] = values
    told = describe(tmp_path / "a.zarr", voxel_size=1.0)
    assert (told["nonfinite"], told["mean"]) == (1, 0.0)


def test_what_a_tilt_series_measured_in_one_line(tmp_path):
    series = {
        "angle": [-51.0, 0.0, 48.0], "weight": [0.3, 0.4, 0.5], "pixel_size": 5.0, "method": "wbp",
    }  # fmt: skip
    lens = {
        "voltage": 300.0, "spherical_aberration": 2.7, "amplitude_contrast": 0.07,
        "defocus_u": [31000.0, 30000.0, 29000.0], "defocus_v": [29000.0, 28000.0, 27000.0],
        "phase_flipped": True,
    }  # fmt: skip
    dose = {"pre_exposure": [3.0, 0.0, 6.0], "exposure": [3.0] * 3, "dose_weighted": True}
    tomogram = volume().assign_attrs(tilt_series=series)
    save_tomogram(tomogram, tmp_path / "a.zarr")
    told = describe(tmp_path / "a.zarr")["tilt_series"]
    assert told == "3 tilts, -51 to 48°, WBP, defocus unknown"
    tomogram.attrs["tilt_series"] = series | lens | dose
    save_tomogram(tomogram, tmp_path / "b.zarr")
    line = "3 tilts, -51 to 48°, WBP, phases flipped, defocus 2.8 to 3 µm, 9 e/Å², weighted"
    assert describe(tmp_path / "b.zarr")["tilt_series"] == line
    picks = pd.DataFrame({"z": [50.0], "y": [50.0], "x": [50.0]})
    save_subtomograms(extract_subtomograms(tomogram, picks, box=8), tmp_path / "s.zarr")
    assert describe(tmp_path / "s.zarr")["tilt_series"] == {"TS_01": line}


def stack_of(folder, *, defocus=True):
    columns = {"exposure": np.full(3, 2.5), "pre_exposure": [0.0, 2.5, 5.0]}
    series = as_tilt_series(
        da.from_array(np.random.default_rng(0).normal(size=(3, 5, 6)).astype("f4")),
        angle=[-51.0, 0.0, 48.0],
        pixel_size=4.0,
        name="TS_01",
        columns=columns | ({"defocus_u": [30000.0, 30500.0, 31000.0]} if defocus else {}),
        attrs={"voltage": 300.0, "spherical_aberration": 2.7, "amplitude_contrast": 0.1},
    )
    write_tilt_series(series, folder / "TS_01.mrc")
    return series.to_numpy()


def test_a_tilt_series_by_its_star_its_angles_or_its_header(tmp_path):
    values = stack_of(tmp_path)
    told = describe(tmp_path / "TS_01.star")
    assert (told["kind"], told["images"], told["image_size"]) == ("tilt series", 3, (5, 6))
    assert (told["tilt_range"], told["tilt_increment"]) == ((-51.0, 48.0), 49.5)
    assert (told["pixel_size"], told["exposure"], told["voltage"]) == (4.0, 7.5, 300.0)
    assert told["defocus_range"] == (30000.0, 31000.0)
    assert told["maximum"] == values.max()
    told = describe(tmp_path / "TS_01.mrc")
    assert (told["kind"], told["tilt_range"]) == ("tilt series", (-51.0, 48.0))
    assert told["told_by"] == ["TS_01.rawtlt"]
    assert "exposure" not in told
    (tmp_path / "TS_01.rawtlt").unlink()
    told = describe(tmp_path / "TS_01.mrc")
    assert (told["kind"], told["angles"], told["pixel_size"]) == ("tilt series", "unknown", 4.0)


def test_a_stack_of_imod_without_a_pixel_size(caplog):
    told = describe(shared_data("metadata", "imod", "TS_001", "TS_001.st"))
    assert (told["kind"], told["images"], told["pixel_size"]) == ("tilt series", 40, "unknown")
    assert told["tilt_range"] == (-57.12, 59.84)
    assert told["aligned"] == "by its transforms"
    assert "does not say its pixel size" in caplog.text


def test_a_tomogram_beside_the_angles_of_its_series_is_one(tmp_path):
    stack_of(tmp_path)
    (tmp_path / "TS_01.mrc").unlink()
    save_tomogram(volume((3, 5, 6)), tmp_path / "TS_01.mrc")
    assert describe(tmp_path / "TS_01.mrc")["kind"] == "tomogram"
    with mrcfile.new(tmp_path / "TS_01.mrc", overwrite=True) as file:  # of another program
        file.set_data(np.ones((8, 5, 6), "f4"))
        file.voxel_size = 4.0
    assert describe(tmp_path / "TS_01.mrc")["kind"] == "tomogram"


def test_a_picking_model(tmp_path):
    model = random_model(classes=2, channels=(4, 6))
    write_model(model, tmp_path / "model.safetensors")
    told = describe(tmp_path / "model.safetensors")
    assert told["kind"] == "picking model"
    assert told["classes"] == ["kind 0", "kind 1"]
    assert told["weights"] == sum(values.size for values in model.weights.values())
    (tmp_path / "other.safetensors").write_bytes(b"no model")
    with pytest.raises(InputError, match="tomodask train"):
        describe(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    "told", [{"training": {"data": 3}}, {"training": {"data": [{}]}}, {"history": ({"f1": "a"},)}]
)
def test_a_picking_model_whose_record_is_odd(tmp_path, told):
    write_model(replace(random_model(channels=(2,)), **told), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: its record of training"):
        describe(tmp_path / "model.safetensors")


def test_a_picking_model_without_scores(tmp_path):
    path = tmp_path / "model.safetensors"
    write_model(replace(random_model(channels=(2,)), history=({"epoch": 1},)), path)
    told = describe(path)
    assert told["epochs"] == 1
    assert "best_f1" not in told
