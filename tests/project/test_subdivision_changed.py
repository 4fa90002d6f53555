"""A subdivision that goes on with other boxes than it was begun with, or where a kill cut it."""

import json
import shutil

import dask
import numpy as np
import pytest
from rounds.mixtures import mixture

from tomodask.data.particles import read_particles
from tomodask.errors import InputError
from tomodask.project import subdivision_steps
from tomodask.project.subdividing import subdivide

SETTINGS = {
    "model": "rotation-invariant", "clusters": 2, "least": 8, "most": 8, "classes": 1,
    "iterations": 1, "diameter": 280.0, "angular_step": 40.0, "map_particles": 0,
    "scheduler": "synchronous",
}  # fmt: skip


@pytest.fixture(scope="module")
def boxes():
    """In memory, and in a tomogram."""
    made = mixture(8, snr=2.0, shift_range=0.0)[0].drop_vars("image").compute()
    places = {f"position_{a}": ("particle", 100.0 * np.arange(16) + k) for k, a in enumerate("zyx")}
    return made.assign_coords({**places, "tomogram": ("particle", np.full(16, "TS_01"))})


@pytest.fixture(scope="module")
def finished(boxes, tmp_path_factory):
    with dask.config.set(scheduler="synchronous"):
        return subdivide(boxes, output=tmp_path_factory.mktemp("run") / "out", **SETTINGS)


def test_boxes_without_names_are_not_led_to_their_middle(finished):
    """How particles of an average are found again in the table of all."""
    assert finished.centred is None
    assert (finished.clusters["classes"] > 0).any()


def moved(boxes):
    return boxes.assign_coords(position_z=("particle", boxes["position_z"].to_numpy() + 1.0))


def tilted(boxes):
    return boxes.assign_coords(tilt_min=("particle", boxes["tilt_min"].to_numpy() + 10.0))


def test_boxes_in_memory_whose_table_changed_are_refused(boxes, finished):
    out = finished.output
    # Other types of the same values, kinds and names are the same boxes.
    same = boxes.assign_coords(
        position_z=boxes["position_z"].astype("f4"), score=("particle", np.arange(16.0))
    )
    subdivide(same, output=out, **SETTINGS)
    elsewhere = boxes.assign_coords(tomogram=("particle", np.full(16, "TS_02")))
    for other, told in (
        (moved(boxes), "particle_table is"),
        (elsewhere, "particle_table is"),
        (tilted(boxes), r"tilts is -60 to 60 .* there and -50 to 60 .* here"),
    ):
        with pytest.raises(InputError, match=f"holds another run: {told}"):
            subdivide(other, output=out, **SETTINGS)
    assert subdivide(boxes, output=out, **SETTINGS).particles == finished.particles


def test_overwritten_the_tables_are_those_of_now(boxes, finished, tmp_path, monkeypatch):
    out = shutil.copytree(finished.output, tmp_path / "out")
    anew = subdivide(moved(boxes), output=out, overwrite=True, **SETTINGS)
    table, before = (read_particles(one.particles) for one in (anew, finished))
    np.testing.assert_allclose(table["z"] - before["z"], 1.0)

    def never(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(subdivision_steps, "save_features", never)  # of no tilt
    other = tilted(moved(boxes))
    table = read_particles(subdivide(other, output=out, overwrite=True, **SETTINGS).particles)
    assert set(table["tilt_min"]) == {-50.0}


def test_a_folder_of_a_version_that_did_not_note_them_goes_on(boxes, finished, tmp_path):
    out = shutil.copytree(finished.output, tmp_path / "out")
    document = json.loads((out / "run.json").read_text())
    for name in ("particle_table", "tilts"):
        del document["parameters"][name]
    (out / "run.json").write_text(json.dumps(document))
    subdivide(boxes, output=out, **SETTINGS)
    with pytest.raises(InputError, match="particle_table is"):  # noted by now
        subdivide(moved(boxes), output=out, **SETTINGS)
