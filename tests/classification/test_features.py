"""Features: streamed block by block, the same to the bit whatever the blocks; kept in a store."""

import logging
import shutil

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from helpers import irregular_chunks
from hypothesis import given, settings
from hypothesis import strategies as st

from tomodask.classification.features.embedding import embed_subtomograms, set_aside
from tomodask.classification.features.store import open_features, save_features
from tomodask.data.subtomograms import open_subtomograms, save_subtomograms
from tomodask.errors import InputError

BOX = 6


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


class Matrix:
    """A network of one layer: its product rounds as BLAS does, batch by batch."""

    def __init__(self, features=5):
        self.weights = np.random.default_rng(5).normal(size=(BOX**3, features)).astype(np.float32)
        self.asked = []

    def predict_features(self, batch):
        self.asked.append(len(batch))
        assert batch.dtype == np.float32
        assert np.isfinite(batch).all()
        return batch.reshape(len(batch), -1) @ self.weights


def boxes(count, chunks=7, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, BOX, BOX, BOX)).astype(np.float32)
    data = da.from_array(values, chunks=chunks if isinstance(chunks, tuple) else (chunks, 3, -1, 2))
    return xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), data)},
        coords={
            "particle": np.arange(count) * 3,
            "image": ("particle", np.array([f"{i}@boxes" for i in range(count)], object)),
            "position_z": ("particle", np.arange(count) * 1.5),
        },
        attrs={"voxel_size": 10.0, "source": "made"},
    )


def test_features_are_the_models_beside_the_table():
    model, made = Matrix(), boxes(21)
    found = embed_subtomograms(made, model=model, together=4)
    assert model.asked == [4]  # nothing is computed but the number of features
    wanted = made.subtomogram.to_numpy().reshape(21, -1) @ model.weights
    assert found.features.dtype == np.float32
    np.testing.assert_allclose(found.features.to_numpy(), wanted, rtol=1e-4, atol=1e-4)
    assert found.particle.to_numpy().tolist() == made.particle.to_numpy().tolist()
    assert found.position_z.to_numpy().tolist() == made.position_z.to_numpy().tolist()
    assert found.attrs == {"voxel_size": 10.0, "source": "made", "box": BOX}
    assert not found.fault.to_numpy().any()
    assert set(model.asked) == {4}  # the last batch is filled up
    with pytest.raises(InputError, match="axes"):
        save_features(found.isel(feature=slice(0, 0)), "nowhere.zarr")


@settings(deadline=None, max_examples=8)
@given(data=st.data(), count=st.integers(1, 40))
def test_neither_chunks_nor_batch_change_a_bit(data, count):
    made = boxes(count)
    model = Matrix()
    wanted = embed_subtomograms(made, model=model, together=8).features.to_numpy()
    cut = made.chunk(
        dict(
            zip(
                ("particle", "z", "y", "x"),
                data.draw(irregular_chunks(made.subtomogram.shape)),
                strict=True,
            )
        )
    )
    batch = data.draw(st.integers(1, 50))
    found = embed_subtomograms(cut, model=model, batch=batch, together=8)
    np.testing.assert_array_equal(found.features.to_numpy(), wanted)


def test_boxes_that_hold_nothing_are_set_aside_and_named(tmp_path, caplog):
    made = boxes(9).load()
    made.subtomogram[3, 2, 2, 2] = np.nan
    made.subtomogram[7] = 1.0
    model = Matrix()
    found = embed_subtomograms(made, model=model, together=4)
    values = found.features.to_numpy()
    assert np.isnan(values[[3, 7]]).all()
    assert np.isfinite(np.delete(values, [3, 7], axis=0)).all()
    told = set_aside(found)
    assert told["particle"].tolist() == [9, 21]
    assert told["image"].tolist() == ["3@boxes", "7@boxes"]
    assert told["reason"].str.contains("NaN|one value").all()
    with caplog.at_level(logging.WARNING):
        save_features(found, tmp_path / "f.zarr")
    assert "2 of 9 particles have no features: 3@boxes (the box holds NaN" in caplog.text


def test_a_model_that_edits_its_boxes_changes_no_data():
    made = boxes(8).load()
    before = made.subtomogram.to_numpy().copy()

    def edits(batch):
        batch *= 0
        return batch.reshape(len(batch), -1)[:, :2]

    embed_subtomograms(made, model=edits, batch=8, together=8).features.compute()
    np.testing.assert_array_equal(made.subtomogram, before)


def test_a_store_gives_back_what_was_written(tmp_path):
    save_subtomograms(boxes(30), tmp_path / "boxes.zarr")
    opened = open_subtomograms(tmp_path / "boxes.zarr")
    model = Matrix()
    made = embed_subtomograms(opened, model=model, batch=8, together=4)
    save_features(made, tmp_path / "f.zarr")
    assert model.asked == [4] * 9  # once for the number of features, then each box once
    found = open_features(tmp_path / "f.zarr")
    assert found.features.chunks[0] == (8, 8, 8, 6)
    xr.testing.assert_identical(found.load(), made.load().assign_attrs(found.attrs))
    assert list(found.coords) == list(made.coords)
    assert set(model.asked) == {4}
    with pytest.raises(InputError, match="exists already"):
        save_features(made, tmp_path / "f.zarr")
    save_features(made.isel(particle=slice(3, 20)), tmp_path / "f.zarr", overwrite=True)
    again = open_features(tmp_path / "f.zarr").features.to_numpy()
    np.testing.assert_array_equal(again, made.features.to_numpy()[3:20])


def test_text_of_fixed_width_is_kept_as_text(tmp_path, recwarn):
    """It went to Zarr as a type that Zarr does not promise to read again."""
    made = embed_subtomograms(boxes(5), model=Matrix()).assign_coords(
        kind=("particle", np.array(["a", "bb", "a", "c", "bb"]))
    )
    save_features(made, tmp_path / "f.zarr")
    found = open_features(tmp_path / "f.zarr")
    assert found.kind.dtype == object
    assert found.kind.to_numpy().tolist() == ["a", "bb", "a", "c", "bb"]
    assert not [one for one in recwarn if "Zarr V3 specification" in str(one.message)]


def test_a_damaged_store_is_told(tmp_path):
    made = embed_subtomograms(boxes(9), model=Matrix(), batch=4, together=4)
    path = tmp_path / "f.zarr"
    with pytest.raises(InputError, match="does not exist"):
        open_features(path)
    path.mkdir()
    with pytest.raises(InputError, match="not a store of features"):
        open_features(path)
    path.rmdir()
    save_features(made, path)
    (path / "features" / "c" / "1" / "0").unlink()
    with pytest.raises(InputError, match=r"damaged.*missing"):
        open_features(path)
    save_features(made, path, overwrite=True)
    shutil.rmtree(path / "position_z")
    with pytest.raises(InputError, match="damaged"):
        open_features(path)
    save_subtomograms(boxes(3), tmp_path / "boxes.zarr")
    with pytest.raises(InputError, match="not a store of features"):
        open_features(tmp_path / "boxes.zarr")


class Told(Matrix):
    def __init__(self, box, voxel_size):
        super().__init__()
        self.box, self.voxel_size = box, voxel_size


def test_bad_input_is_refused():
    made = boxes(5)
    embed_subtomograms(made, model=Told(BOX, 10.0))
    with pytest.raises(InputError, match=r"boxes of 6×6×6 voxels, the model takes 8³"):
        embed_subtomograms(made, model=Told(8, 10.0))
    with pytest.raises(InputError, match=r"voxels of 10 Å, the model was trained on 20 Å"):
        embed_subtomograms(made, model=Told(BOX, 20.0))
    within = Matrix()
    within.model = Told(8, 20.0)  # as a predictor holds what its file says
    with pytest.raises(InputError, match=r"the model takes 8³"):
        embed_subtomograms(made, model=within)
    with pytest.raises(InputError, match="predict_features"):
        embed_subtomograms(made, model=3)
    with pytest.raises(InputError, match="together must be"):
        embed_subtomograms(made, model=Matrix(), together=0)
    with pytest.raises(InputError, match="batch must be"):
        embed_subtomograms(made, model=Matrix(), batch=0)
    with pytest.raises(InputError, match="empty"):
        embed_subtomograms(made.isel(particle=slice(0, 0)), model=Matrix())
    with pytest.raises(InputError, match=r"shape \(n, feature\)"):
        embed_subtomograms(made, model=lambda batch: batch.sum(axis=(1, 2, 3)))
    found = embed_subtomograms(made, model=lambda b: np.where(b[:, 0, 0, :2] == 0, 0, np.nan))
    with pytest.raises(InputError, match="not finite for box 0"):
        found.features.compute()
