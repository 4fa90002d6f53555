"""The nearest known structure: however maps lie, of whatever voxels, and their mirror images."""

import logging

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import shared_data
from scipy.spatial.transform import Rotation

from tomodask.averaging.map_filters import low_pass_weights, shell_weighted
from tomodask.classification.clusters.known import known_maps, nearest_known
from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError
from tomodask.rounds.superposition import Motion, turned_map
from tomodask.simulation.phantom import phantom_particle

VOXEL = 10.0
SETTINGS = {"voxel_size": VOXEL, "resolution": 40.0, "diameter": 280.0}
STILL = {"rotation": Rotation.identity(), "shift_zyx": np.zeros(3)}


def phantoms(box=32, voxel_size=VOXEL, **pose):
    return {
        kind: phantom_particle(kind).density(box=box, voxel_size=voxel_size, **(pose or STILL))
        for kind in ("particle", "decoy")
    }


def lying_anyhow(kind="particle"):
    turn = Rotation.from_euler("ZYZ", [40, 70, -120], degrees=True)
    return phantoms(rotation=turn, shift_zyx=np.array([8.0, -5.0, 3.0]))[kind]


def test_the_nearest_known_structure_is_found_however_it_lies():
    table = nearest_known(lying_anyhow(), phantoms(), **SETTINGS)
    assert table["name"].tolist() == ["particle", "decoy"]
    assert table["correlation"][0] > 0.98 > 0.9 > table["correlation"][1]
    assert table["discrepancy"][0] < 30 < table["discrepancy"][1]
    assert not table["mirrored"].any()


def test_maps_of_other_voxels_and_boxes_are_made_to_fit_and_said(caplog):
    plain = nearest_known(lying_anyhow(), phantoms(), **SETTINGS)
    finer = {
        kind: xr.DataArray(values, dims=("z", "y", "x"), attrs={"voxel_size": 7.0})
        for kind, values in phantoms(box=51, voxel_size=7.0).items()
    }
    with caplog.at_level(logging.INFO, logger="tomodask"):
        table = nearest_known(lying_anyhow(), finer, **SETTINGS)
    assert "known map particle: 51×51×51 voxels of 7 Å made 32³ of 10 Å" in caplog.text
    assert table["name"].tolist() == plain["name"].tolist()
    np.testing.assert_allclose(table["correlation"], plain["correlation"], atol=0.01)
    padded = {kind: np.pad(values, 4) for kind, values in phantoms().items()}
    padded["particle"] = np.roll(padded["particle"], 3, axis=1)  # beside the middle
    table = nearest_known(lying_anyhow(), padded, **SETTINGS)
    np.testing.assert_allclose(table["correlation"], plain["correlation"], atol=0.005)


def test_maps_that_are_ready_are_not_made_ready_again(monkeypatch):
    """Centred twice they were interpolated twice, and blurred."""
    from tomodask.classification.clusters import known as module

    volume, ready = lying_anyhow(), known_maps(phantoms(), voxel_size=VOXEL, box=32)
    table = nearest_known(volume, phantoms(), **SETTINGS)
    with monkeypatch.context() as patch:
        patch.delattr(module, "centred")
        again = nearest_known(volume, ready, **SETTINGS)
        assert known_maps(ready, voxel_size=VOXEL, box=32) is ready
    pd.testing.assert_frame_equal(again, table, check_exact=True)
    other = known_maps(ready, voxel_size=2 * VOXEL, box=16)  # of others they are made
    assert {one.shape for one in other.values()} == {(16, 16, 16)}
    assert other.voxel_size == 2 * VOXEL
    wide = known_maps(ready, voxel_size=VOXEL, box=40)
    assert wide["decoy"].shape == (40, 40, 40)


def test_mirror_images_are_told_from_the_structure():
    mirrored = np.roll(lying_anyhow()[:, ::-1], 1, axis=1)
    table = nearest_known(mirrored, phantoms(), **SETTINGS, mirrored=True)
    assert len(table) == 2
    assert table["name"][0] == "particle"
    assert table["mirrored"][0]
    assert table["correlation"][0] > 0.98
    as_it_is = nearest_known(mirrored, phantoms(), **SETTINGS)
    own = as_it_is[as_it_is["name"] == "particle"]
    assert own["correlation"].iloc[0] < 0.95
    assert not nearest_known(lying_anyhow(), phantoms(), **SETTINGS, mirrored=True)["mirrored"][0]


def test_real_maps_are_told_apart_in_noise():
    files = {
        name: shared_data("maps", "10A", f"{name}.mrc")
        for name in ("1bxn", "1qvr", "3cf3", "2cg9", "1f4a", "6utj")
    }
    maps = {name: open_tomogram(file) for name, file in files.items()}
    known = known_maps(maps, voxel_size=10.0, box=32)
    rng = np.random.default_rng(0)
    low = low_pass_weights(32, voxel_size=10.0, resolution=25.0)
    for name in ("1qvr", "3cf3", "6utj"):
        motion = Motion(Rotation.random(rng=rng), rng.uniform(-10, 10, 3), 1.0)
        volume = turned_map(known[name], motion, voxel_size=10.0)
        noisy = shell_weighted(volume + volume.std() * rng.normal(size=volume.shape), low)
        table = nearest_known(noisy, known, voxel_size=10.0, resolution=40.0, diameter=260.0)
        assert table["name"][0] == name
        assert table["discrepancy"][0] == table["discrepancy"].min()


def test_bad_input_is_refused():
    volume = lying_anyhow()
    with pytest.raises(InputError, match="empty"):
        nearest_known(volume, {}, **SETTINGS)
    with pytest.raises(InputError, match="cubic"):
        nearest_known(volume[:-1], phantoms(), **SETTINGS)
    with pytest.raises(InputError, match="must be a map"):
        nearest_known(volume, {"flat": volume[0]}, **SETTINGS)
    with pytest.raises(InputError, match="one value only"):
        nearest_known(volume, {"nothing": np.zeros((20, 20, 20))}, **SETTINGS)
    with pytest.raises(InputError, match="NaN"):
        nearest_known(volume, {"holed": np.full((20, 20, 20), np.nan)}, **SETTINGS)
    with pytest.raises(InputError, match="diameter must be"):
        nearest_known(volume, phantoms(), voxel_size=VOXEL, resolution=40.0, diameter=900.0)
