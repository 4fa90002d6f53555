"""What nothing is wrong with: files, boxes, and a scene for whole runs."""

import numpy as np
import pytest
from bad_input.words import COORDINATES, HERE, SHAPE, TILTS, write_mrc, write_star
from helpers import tomodask

from tomodask.data.tomograms import save_tomogram
from tomodask.simulation.phantom import phantom_map, phantom_tomogram


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A tomogram of noise, a template, picks: nothing is wrong with them."""
    folder = tmp_path_factory.mktemp("good")
    rng = np.random.default_rng(0)
    write_mrc(folder / "tomogram.mrc", rng.normal(size=SHAPE))
    write_mrc(folder / "template.mrc", rng.normal(size=(16, 16, 16)))
    write_star(folder / "picks.star", COORDINATES, (20, 20, 20, 10.0), (25, 24, 18, 10.0))
    return folder


@pytest.fixture(scope="module")
def boxes(good, tmp_path_factory):
    store = tmp_path_factory.mktemp("boxes") / "boxes.zarr"
    code, _, err = tomodask(
        *("extract", good / "tomogram.mrc", good / "picks.star", "--box", 16, *TILTS),
        *("-o", store, *HERE),
    )
    assert code == 0, err
    return store


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A small tomogram of phantoms for whole runs."""
    folder = tmp_path_factory.mktemp("scene")
    tomogram, _ = phantom_tomogram(
        shape=(60, 80, 80), particles=5, decoys=0, snr=0.3, tilt_range=(-60, 60), seed=3
    )
    save_tomogram(tomogram, folder / "tomogram.mrc")
    save_tomogram(phantom_map(voxel_size=10.0, box=40), folder / "template.mrc")
    return folder
