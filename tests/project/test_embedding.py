"""``tomodask embed``: what has no features is named, and stores tell what ran the network."""

import dask
import numpy as np
import pytest
import xarray as xr
from helpers import tomodask

from tomodask.data.subtomograms import open_subtomograms, save_subtomograms
from tomodask.project import embedding


def stored(folder, count=9, box=16):
    values = np.random.default_rng(0).normal(size=(count, box, box, box)).astype(np.float32)
    values[2, 3, 3, 3] = values[7, 0, 0, 0] = np.nan
    boxes = xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), values)},
        coords={
            "particle": np.arange(count),
            **{f"position_{axis}": ("particle", np.arange(count) * 100.0) for axis in "zyx"},
        },
        attrs={"voxel_size": 10.0},
    )
    with dask.config.set(scheduler="synchronous"):
        save_subtomograms(boxes, folder / "boxes.zarr")
    return folder / "boxes.zarr"


def test_particles_without_features_are_named_and_unknown_ones_get_a_way_out(tmp_path):
    words = ("embed", stored(tmp_path), "--model", "rotation-invariant",
             "-o", tmp_path / "features.zarr", "--scheduler", "synchronous")  # fmt: skip
    for _ in range(2):  # made, and found there
        code, out, err = tomodask(*words)
        assert code == 0, err
        assert "2 of 9 particles have no features: 2@" in out
        assert "boxes.zarr (the box holds NaN or infinite voxels), 7@" in out
    code, out, err = tomodask(*words, "--neighbours", 4, "--count", 3)
    assert code == 0, err
    assert len(out.splitlines()) == 2 + 1 + 1 + 3
    code, _, err = tomodask(*words, "--neighbours", 99, "--map", tmp_path / "map.png")
    assert code != 0
    assert "give a particle's number, 0 to 8, or more of its image's name" in err
    assert not (tmp_path / "map.png").exists()
    code, _, err = tomodask(*words, "--neighbours", 7)
    assert code != 0
    assert "7 has no features; leave it out" in err


def test_neighbours_are_asked_for_and_told_by_particle_number(tmp_path):
    """Of a part of the boxes, places and numbers differ."""
    some = open_subtomograms(stored(tmp_path)).isel(particle=slice(3, 9))
    with dask.config.set(scheduler="synchronous"):
        save_subtomograms(some, tmp_path / "some.zarr")
    words = ("embed", tmp_path / "some.zarr", "--model", "rotation-invariant",
             "-o", tmp_path / "features.zarr", "--scheduler", "synchronous")  # fmt: skip
    code, out, err = tomodask(*words, "--neighbours", 8, "--count", 4)
    assert code == 0, err
    told, _, *lines = out.splitlines()[-6:]
    assert told == "neighbours; query and particle are particle numbers, not places among the boxes"
    numbers = [line.split() for line in lines]
    assert {row[0] for row in numbers} == {"8"}
    assert {row[2] for row in numbers} == {"3", "4", "5", "6"}
    code, _, err = tomodask(*words, "--neighbours", 1)
    assert code == 2
    assert "particle's number, 3 to 8" in err


def test_features_that_are_there_come_with_the_table_of_these_boxes(tmp_path):
    """Places and kinds may be others by now; what is told and drawn is that of now."""
    boxes = open_subtomograms(stored(tmp_path)).drop_vars("image").compute()
    kinds = np.array(["blob", "ring", "blob"] * 3)
    given = {"model": "rotation-invariant"}
    with dask.config.set(scheduler="synchronous"):
        one = boxes.assign_coords(kind=("particle", kinds))
        made = embedding.save_embedding(one, tmp_path / "features.zarr", **given)
        again = embedding.save_embedding(one, tmp_path / "features.zarr", **given)
        xr.testing.assert_identical(again, made)
        moved = ("particle", one["position_z"].to_numpy() + 5.0)
        other = one.assign_coords(position_z=moved, kind=("particle", np.roll(kinds, 1)))
        found = embedding.save_embedding(other, tmp_path / "features.zarr", **given)
    assert found["kind"].to_numpy().tolist() == np.roll(kinds, 1).tolist()
    np.testing.assert_array_equal(found["position_z"], other["position_z"])
    np.testing.assert_array_equal(found["features"], made["features"])


def test_a_store_of_another_engine_is_not_gone_on_with(tmp_path, monkeypatch, caplog):
    pytest.importorskip("torch")
    from tomodask.classification.features.store import _token
    from tomodask.nets.boxes import inference as box_inference
    from tomodask.nets.boxes.encoder import Encoder
    from tomodask.nets.boxes.model_file import BoxModel, write_box_model
    from tomodask.nets.boxes.networks import build_encoder
    from tomodask.nets.engines import engine_told

    encoder = Encoder("dsrf3d", 24, 3)
    weights = {k: v.numpy() for k, v in build_encoder(encoder, seed=1).state_dict().items()}
    model = BoxModel(encoder, weights, voxel_size=10.0, classes=("a", "b", "c"))
    write_box_model(model, tmp_path / "model.safetensors")
    boxes, path = stored(tmp_path, box=24), tmp_path / "features.zarr"
    given = {"model": tmp_path / "model.safetensors", "batch": 4}
    with dask.config.set(scheduler="synchronous"):
        made = embedding.save_embedding(boxes, path, **given)
        assert made.attrs["engine"] == engine_told("auto")
        assert engine_told("torch", "cpu").startswith("torch ")
        predictor = box_inference.open_predictor(model)
        before = (_token(made), dask.base.tokenize(predictor))
        for module in (embedding, box_inference):
            monkeypatch.setattr(module, "engine_told", lambda *_: "another 1.0 on cpu")
        assert dask.base.tokenize(predictor) != before[1]
        assert _token(made.assign_attrs(engine="another 1.0 on cpu")) != before[0]
        # What is whole is of one engine, and stays.
        with caplog.at_level("INFO", logger="tomodask"):
            there = embedding.save_embedding(boxes, path, **given)
        assert there.attrs["engine"] == made.attrs["engine"]
        assert "where here it were another 1.0 on cpu" in caplog.text
        np.testing.assert_array_equal(there.features, made.features)
