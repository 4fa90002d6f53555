"""2D averaging of what it may be given, and what its report says of it."""

import logging
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest

from tomodask.data.image_table import read_image_table
from tomodask.data.images import images_array, open_images
from tomodask.data.particles import read_particles
from tomodask.data.subtomogram_table import subtomogram_dataset
from tomodask.data.subtomograms import save_subtomograms
from tomodask.planar import aligned
from tomodask.project.averaging2d import steps as averaging2d_steps
from tomodask.project.averaging2d.averaging import average2d
from tomodask.simulation.phantom import phantom_particle

sys.path.insert(0, str(Path(__file__).parent))
from two_views import SETTINGS, averaged, save_input, without_pictures


@pytest.fixture(autouse=True)
def report_writer(monkeypatch):
    """No pictures but for the tests that look at them: they are given what writes them."""
    return without_pictures(monkeypatch)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images of two views in a stack, views to begin with, and the truth."""
    folder = tmp_path_factory.mktemp("input")
    return folder, save_input(folder)


def test_the_report_is_whole_while_it_works(files, tmp_path, monkeypatch, report_writer):
    monkeypatch.setattr(averaging2d_steps, "write_averaging2d_report", report_writer)
    monkeypatch.setattr(averaging2d_steps, "_PATIENCE", 0.0)

    def stop(state):
        if state.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        averaged(files, tmp_path / "out", on_round=stop)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "still at work" in page
    assert "this page shows round 1" in page
    assert "http-equiv" in page  # it loads itself again
    assert page.count("<img") == 4


def test_without_references_one_class_and_several_with_the_report(
    files, tmp_path, monkeypatch, report_writer
):
    monkeypatch.setattr(averaging2d_steps, "write_averaging2d_report", report_writer)
    _, truth = files
    one = averaged(files, tmp_path / "one", references=None, rounds=2)
    assert one.averages.shape == (1, 32, 32)
    assert one.round.counts.tolist() == [60]
    # Of nine starts tried (three sets, seeds 0 to 2) eight part the views; not seed 0 of this set.
    several = averaged(
        files, tmp_path / "several", references=None, classes=2, rounds=6, embed=40, seed=1
    )
    both = pd.crosstab(several.table["class"].to_numpy(), truth["class"].to_numpy()).to_numpy()
    assert both.max(axis=1).sum() >= 50  # purity
    page = several.report.read_text()
    assert page.count("<img") == 5
    assert "http-equiv" not in page  # it does not load itself again
    for word in ("Class averages", "Likeness", "Poses", "tomodask average2d"):
        assert word in page
    points = pd.read_csv(several.output / "embedding.csv")
    assert len(points) == 40
    assert one.report.read_text().count("<img") == 4
    assert not (one.output / "embedding.csv").exists()


def test_images_of_the_embedding_are_laid_into_their_frame_once(files, tmp_path, monkeypatch):
    laid, real = [], aligned._transform
    folder, _ = files
    images, settings = open_images(folder / "stack.mrcs"), {**SETTINGS, "rounds": 1}
    given = {"references": folder / "views.mrcs", "scheduler": "synchronous", **settings}
    average2d(images, output=tmp_path / "out", **given)

    def counted(images, *args, **kwargs):
        laid.append(len(images))
        return real(images, *args, **kwargs)

    monkeypatch.setattr(aligned, "_transform", counted)
    average2d(images, output=tmp_path / "out", **{**given, "embed": 30})
    assert sum(laid) == 30


def test_bad_images_are_named_and_set_aside(tmp_path, caplog, files, monkeypatch, report_writer):
    monkeypatch.setattr(averaging2d_steps, "write_averaging2d_report", report_writer)
    folder, _ = files
    values = open_images(folder / "stack.mrcs").to_numpy()
    values[3, 5, 5], values[8] = np.nan, 2.5
    stack = images_array(values, pd.DataFrame({"image": [f"{i:06d}@a.mrcs" for i in range(1, 61)]}),
                         pixel_size=12.0)  # fmt: skip
    with caplog.at_level(logging.WARNING, "tomodask"):
        result = average2d(stack, output=tmp_path / "out", references=folder / "views.mrcs",
                           scheduler="synchronous", **{**SETTINGS, "rounds": 2})  # fmt: skip
    said = "2 images are set aside, they have class 0: 000004@a.mrcs (not finite), 000009@a.mrcs"
    assert said in caplog.text
    assert result.round.counts.sum() == 58
    table = read_image_table(result.particles)
    assert table["class"].tolist().count(0) == 2
    assert table["reason"].tolist()[3] == "not finite"
    assert np.isnan(table["psi"][3])
    page = result.report.read_text()
    assert "Set aside" in page
    assert "000009@a.mrcs" in page


def test_projections_of_boxes_tell_particles_from_rings(tmp_path):
    particle, ring = phantom_particle(), phantom_particle("decoy")
    rng = np.random.default_rng(3)
    kinds = rng.integers(0, 2, 24)
    from scipy.spatial.transform import Rotation

    boxes = np.stack(
        [
            (ring if kind else particle).density(
                box=28, voxel_size=12.0, shift_zyx=rng.uniform(-12, 12, 3),
                rotation=Rotation.from_euler("z", rng.uniform(0, 360), degrees=True),
            )
            for kind in kinds
        ]
    )  # fmt: skip
    boxes += rng.normal(scale=boxes.std(), size=boxes.shape).astype(np.float32)
    table = pd.DataFrame({"tomogram": "t", "z": 1.0, "y": 2.0, "x": np.arange(24.0)})
    with dask.config.set(scheduler="synchronous"):
        save_subtomograms(
            subtomogram_dataset(
                da.from_array(boxes, chunks=(5, 28, 28, 28)), table, voxel_size=12.0, attrs={}
            ),
            tmp_path / "boxes.zarr",
        )  # fmt: skip
    result = average2d(
        tmp_path / "boxes.zarr", output=tmp_path / "out", project="z", classes=2,
        scheduler="synchronous", **{**SETTINGS, "rounds": 8},
    )  # fmt: skip
    both = pd.crosstab(result.table["class"].to_numpy(), kinds).to_numpy()
    assert both.max(axis=1).sum() >= 22
    cleaned = read_particles(result.particles)
    np.testing.assert_allclose(cleaned["x"], table["x"], rtol=1e-9)
    assert cleaned["class"].tolist() == result.table["class"].tolist()
    np.testing.assert_allclose(cleaned["planar_psi"], result.table["psi"], rtol=1e-9)
    assert cleaned["image"].str.endswith("boxes.zarr").all()
