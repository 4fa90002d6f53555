"""Odd tomograms and models: segmented all the same, or refused in a sentence."""

import dask
import numpy as np
import pytest
from nets.models import random_model
from picking.noisy import SHAPE, noise, slow, tomogram

from tomodask.errors import InputError
from tomodask.picking.segmentation.segmenting import segment_tomogram


@pytest.fixture(autouse=True)
def _sync():
    with dask.config.set(scheduler="sync"):
        yield


# Small, and bad


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 5), (8, 100, 8)])
@pytest.mark.parametrize("kwargs", [{}, {"tile": 64}, {"tile": 40, "halo": 16}])
def test_smaller_than_a_tile(shape, kwargs):
    model = random_model(channels=(3, 3, 3))
    values = noise(shape)
    if values.size == 1:
        with pytest.raises(InputError, match="all voxels are"):
            segment_tomogram(tomogram(values), model, **kwargs).compute()
        return
    got = segment_tomogram(tomogram(values), model, **kwargs).values
    assert got.shape == (1, *shape)
    if shape[1] < 40:
        assert np.abs(got - slow(values, model)).max() <= 0.5 / 256 + 1e-5


def test_voxels_that_are_not_finite():
    values = noise()
    values[3, 4, 5] = np.nan
    lazy = segment_tomogram(tomogram(values, 16), random_model())
    with pytest.raises(InputError, match=r"ice: 1 voxels are NaN .* \(z, y, x\) = \(3, 4, 5\)"):
        lazy.compute()
    lazy = segment_tomogram(tomogram(values, 16, voxel_size=6.0), random_model())
    with pytest.raises(InputError, match=r"ice: 1 voxels are NaN .* \(z, y, x\) = \(3, 4, 5\)"):
        lazy.compute()


def test_a_flat_tomogram():
    lazy = segment_tomogram(tomogram(np.full(SHAPE, 3.0)), random_model())
    with pytest.raises(InputError, match="all voxels are 3; there is nothing to segment"):
        lazy.compute()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tile": 0}, "tile must be a whole number of at least 1 voxels, got 0"),
        ({"tile": 2.5}, "tile must be a whole number"),
        ({"tile": 16, "halo": 8}, "tile must be at least 18 voxels with a halo of 8, got 16"),
        ({"halo": -1}, "halo must be a whole number of at least 0 voxels, got -1"),
        ({"batch": 0}, "batch must be a whole number of at least 1, got 0"),
        ({"engine": "magic"}, "engine must be one of auto, openvino, torch, got 'magic'"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, got 'float16'"),
    ],
)
def test_refuses_bad_options(kwargs, message):
    with pytest.raises(InputError, match=message):
        segment_tomogram(tomogram(noise()), random_model(), **kwargs)


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (tomogram(noise(), voxel_size=1.2), r"ice, 1\.2 Å, must be within a factor of 8"),
        (tomogram(noise(), voxel_size=81.0), "within a factor of 8"),
        (tomogram(noise(), voxel_size=None), "no voxel size"),
        (tomogram(noise(), voxel_size=0.0), "no voxel size"),
        (tomogram(noise() > 0), "voxels must be real numbers, got bool"),
        (tomogram(noise() + 1j), "voxels must be real numbers, got complex64"),
        (tomogram(noise((0, 4, 4))), r"axes \(z, y, x\), got shape \(0, 4, 4\)"),
        (tomogram(noise())[0], r"axes \(z, y, x\), got shape \(40, 52\)"),
    ],
)
def test_refuses_bad_tomograms(volume, message):
    with pytest.raises(InputError, match=message):
        segment_tomogram(volume, random_model())


def test_refuses_what_is_no_model():
    with pytest.raises(InputError, match="model must be a PickingModel"):
        segment_tomogram(tomogram(noise()), "model.safetensors")
