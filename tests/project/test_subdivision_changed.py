"""A subdivision that goes on with other boxes than it was begun with, or where a kill cut it."""

import json
import shutil

import dask
import numpy as np
import pytest
from helpers import killed_at
from rounds.mixtures import mixture

from tomodask.data.particles import read_particles
from tomodask.data.subtomograms import save_subtomograms
from tomodask.errors import InputError
from tomodask.project.embedding import save_embedding
from tomodask.project.subdivision import steps as subdivision_steps
from tomodask.project.subdivision.subdividing import subdivide

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


def cut_off_after_features(finished, out):
    """As a kill leaves it when features have their name, and ``run.json`` does not say so yet."""
    document = json.loads((finished.output / "run.json").read_text())
    document |= {"stages": {}, "began": {"features": ["features.zarr"]}, "figures": {}}
    out.mkdir()
    (out / "run.json").write_text(json.dumps(document))
    shutil.copytree(finished.features, out / "features.zarr")


def test_features_that_are_whole_are_taken_though_the_run_does_not_know_them(
    boxes, finished, tmp_path, monkeypatch
):
    cut_off_after_features(finished, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.delattr(subdivision_steps, "save_features")
        made = subdivide(boxes, output=tmp_path / "out", **SETTINGS)
    names = ("clusters.npz", "particles.csv", "clusters.csv")
    for name in names:
        assert (made.output / name).read_bytes() == (finished.output / name).read_bytes()
    cut_off_after_features(finished, tmp_path / "damaged")
    store = tmp_path / "damaged" / "features.zarr"
    shutil.rmtree(store / "features")
    made = subdivide(boxes, output=tmp_path / "damaged", **SETTINGS)  # made anew
    for name in names:
        assert (made.output / name).read_bytes() == (finished.output / name).read_bytes()


EMBEDS = """
    import sys
    import dask
    from tomodask.project.embedding import save_embedding
    with dask.config.set(scheduler="synchronous"):
        save_embedding(sys.argv[1], sys.argv[2], model="rotation-invariant", overwrite=True)
"""


def test_embedding_killed_at_its_very_end_is_whole_at_the_next_call(boxes, tmp_path):
    def content(store):
        files = sorted(path for path in store.rglob("*") if path.is_file())
        return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}

    with dask.config.set(scheduler="synchronous"):
        save_subtomograms(boxes, tmp_path / "boxes.zarr")
        save_embedding(tmp_path / "boxes.zarr", tmp_path / "whole.zarr", model="rotation-invariant")
    # In its place but marked as unfinished; then the former put aside, and nothing in its place.
    killed_at(
        EMBEDS,
        [tmp_path / "boxes.zarr", tmp_path / "features.zarr"],
        [("features.zarr", "after")],
    )
    assert (tmp_path / "features.zarr" / "done").exists()
    again = {"model": "rotation-invariant"}
    with dask.config.set(scheduler="synchronous"):
        save_embedding(tmp_path / "boxes.zarr", tmp_path / "features.zarr", **again)
        wanted = content(tmp_path / "whole.zarr")
        assert content(tmp_path / "features.zarr") == wanted
    killed_at(EMBEDS, [tmp_path / "boxes.zarr", tmp_path / "features.zarr"], [(".old", "after")])
    assert not (tmp_path / "features.zarr").exists()
    with dask.config.set(scheduler="synchronous"):
        save_embedding(tmp_path / "boxes.zarr", tmp_path / "features.zarr", **again)
    assert content(tmp_path / "features.zarr") == wanted
    assert {path.name for path in tmp_path.iterdir()} == {
        "boxes.zarr", "features.zarr", "whole.zarr"
    }  # fmt: skip
