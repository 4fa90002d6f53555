"""Features of a network of this project, as `embed_subtomograms` streams them."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from tomodask.classification.features.embedding import embed_subtomograms
from tomodask.errors import InputError

torch = pytest.importorskip("torch")

from tomodask.nets.boxes.encoder import Encoder  # noqa: E402
from tomodask.nets.boxes.inference import open_predictor  # noqa: E402
from tomodask.nets.boxes.model_file import BoxModel  # noqa: E402
from tomodask.nets.boxes.networks import build_encoder  # noqa: E402


def boxes(count, chunks, box=24):
    values = np.random.default_rng(0).normal(size=(count, box, box, box)).astype(np.float32)
    return xr.Dataset(
        {"subtomogram": (("particle", "z", "y", "x"), da.from_array(values, (chunks, -1, 8, -1)))},
        coords={"particle": np.arange(count)},
        attrs={"voxel_size": 10.0},
    )


def test_neither_chunks_nor_tasks_change_a_bit_of_a_networks_features():
    encoder = Encoder("dsrf3d", 24, 3)
    network = build_encoder(encoder, seed=1)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    model = BoxModel(encoder, weights, voxel_size=10.0, classes=("a", "b", "c"))
    predictor = open_predictor(model, batch=4, device="cpu")
    with dask.config.set(scheduler="synchronous"):
        wanted = embed_subtomograms(boxes(11, 3), model=predictor, together=4)
        found = embed_subtomograms(boxes(11, 11), model=predictor, together=4, batch=4)
        values = wanted.features.to_numpy()
        assert values.shape == (11, encoder.features)
        np.testing.assert_array_equal(found.features.to_numpy(), values)
        found = embed_subtomograms(boxes(11, 4), model=predictor)  # as many as the predictor takes
        np.testing.assert_array_equal(found.features.to_numpy(), values)
        np.testing.assert_array_equal(
            predictor.predict_features(boxes(11, 3).subtomogram.to_numpy()), values
        )
    with dask.config.set(scheduler="threads", num_workers=2):
        np.testing.assert_array_equal(found.features.to_numpy(), values)
    with pytest.raises(InputError, match="voxels of 20 Å, the model was trained on 10 Å"):
        embed_subtomograms(boxes(3, 3).assign_attrs(voxel_size=20.0), model=predictor)
    with pytest.raises(InputError, match=r"boxes of 26×26×26 voxels, the model takes 24³"):
        embed_subtomograms(boxes(3, 3, box=26), model=predictor)
