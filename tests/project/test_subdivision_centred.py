"""A subdivision tells where particles have their centres, and they are cut out again there."""

import dask
import numpy as np
import pytest
import xarray as xr
from rounds.mixtures import VOXEL, mixture

from tomodask.data.columns import POSITION, SHIFT
from tomodask.data.particles import orientations, read_particles
from tomodask.data.subtomograms import extract_subtomograms, save_subtomograms
from tomodask.project.subdivision.subdividing import open_subdivision, subdivide

SETTINGS = {
    "model": "rotation-invariant", "clusters": 1, "least": 8, "most": 11, "classes": 1,
    "iterations": 2, "diameter": 280.0, "angular_step": 30.0, "map_particles": 0,
    "scheduler": "synchronous",
}  # fmt: skip
PLACE = np.array([200.0, 300.0, 400.0])  # Å: of all boxes; where they lie changes nothing


@pytest.fixture(scope="module")
def boxes():
    found, _, truth = mixture(12, kinds=("particle",), snr=2.0, shift_range=30.0)
    return found.drop_vars("image"), truth


def divided(boxes, folder, output):
    with dask.config.set(scheduler="synchronous"):
        save_subtomograms(boxes, folder / "boxes.zarr", overwrite=True)
    return subdivide(folder / "boxes.zarr", output=output, **SETTINGS)


def test_centres_are_found_and_kept(boxes, tmp_path):
    subtomograms, truth = boxes
    places = {
        f"position_{axis}": ("particle", np.full(12, PLACE["zyx".index(axis)])) for axis in "zyx"
    }
    result = divided(subtomograms.assign_coords(places), tmp_path, tmp_path / "out")
    assert result.centred == tmp_path / "out" / "centred.star"
    table = read_particles(result.centred, need=("position", "shift"))
    assert "image" not in table
    assert set(table["cluster"]) == {0}
    np.testing.assert_allclose(table[list(POSITION)], np.tile(PLACE, (12, 1)), atol=1e-3)
    poses = read_particles(tmp_path / "out" / "cluster_000" / "poses.star")
    averaged = [int(image.partition("@")[0]) for image in poses["image"]]
    assert len(averaged) == 11  # the one farthest from the cluster's centre stays where it was
    (left,) = set(range(12)) - set(averaged)
    assert (table.loc[left, list(SHIFT)] == 0).all()
    # In the frame of the particle, what is found is one place, that of its density's centre.
    wrong = (table[list(SHIFT)].to_numpy() - truth[list(SHIFT)].to_numpy())[averaged]
    own = orientations(truth.iloc[averaged]).inv().apply(wrong[:, ::-1])
    before = np.linalg.norm(truth[list(SHIFT)].to_numpy()[averaged], axis=1).mean()
    spread = np.linalg.norm(own - np.median(own, 0), axis=1)
    assert np.median(spread) < 5.0 < 20.0 < before
    # Places and shifts are what extraction takes.
    grey = np.random.default_rng(0).normal(size=(60, 70, 80)).astype("f4")
    tomogram = xr.DataArray(grey, dims=("z", "y", "x"), attrs={"voxel_size": VOXEL})
    cut = extract_subtomograms(tomogram, table.drop(columns="tomogram", errors="ignore"), box=8)
    cut = cut.sortby("particle")
    there = np.stack([cut[f"position_{a}"] + cut[f"shift_{a}"] for a in "zyx"], 1)
    np.testing.assert_allclose(there, PLACE + table[list(SHIFT)].to_numpy(), atol=1e-3)
    assert open_subdivision(result.output).centred == result.centred


def test_boxes_without_a_place_have_no_such_table(boxes, tmp_path):
    result = divided(boxes[0], tmp_path, tmp_path / "out")
    assert result.centred is None
    assert not (tmp_path / "out" / "centred.star").exists()
