"""The embedded demo: it meets what is expected of it, and its comparison cannot flatter."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from tomodask import demo
from tomodask.data.particles import read_particles, with_orientations
from tomodask.demo import compare_with_truth, demo_model, run_demo
from tomodask.errors import InputError
from tomodask.nets.segmentation.model_file import read_model


def table(zyx, turns, **more):
    out = pd.DataFrame(np.asarray(zyx, float), columns=["z", "y", "x"]).assign(**more)
    return with_orientations(out, turns)


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    zyx = rng.uniform(0, 5000, (6, 3))
    turns = Rotation.random(6, rng=rng)
    truth = table(zyx, turns, kind=["particle"] * 4 + ["decoy"] * 2)
    volume = rng.normal(size=(16, 16, 16))
    return zyx, turns, truth, {"average": volume, "true_map": volume, "voxel_size": 10.0}


def test_perfect_poses(scene):
    zyx, turns, truth, maps = scene
    got = compare_with_truth(table(zyx[:4], turns[:4]), truth, **maps)
    assert (got.recall, got.precision, got.angular_error, got.shift_error) == (1, 1, 0, 0)
    assert got.resolution == 20.0
    assert all(line.met for line in got.lines())


def test_decoys_doubles_and_misses_count_against(scene):
    zyx, turns, truth, maps = scene
    some = [0, 0, 1, 4, 5]  # a particle twice, another, both decoys
    off = zyx[some] + [[0, 0, 0], [20, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    got = compare_with_truth(table(off, turns[some]), truth, **maps)
    assert got.recall == 2 / 4
    assert got.precision == 2 / 5
    assert got.angular_error == pytest.approx(0, abs=1e-6)  # the nearer of the doubles is taken
    assert not got.lines()[0].met


def test_errors_are_measured_at_the_shifted_position(scene):
    zyx, turns, truth, maps = scene
    turned = Rotation.from_euler("x", 5, degrees=True) * turns[:4]
    poses = table(zyx[:4] + 30, turned, shift_z=-30.0, shift_y=-30.0, shift_x=-20.0)
    got = compare_with_truth(poses, truth, **maps)
    assert got.shift_error == pytest.approx(1.0)  # 10 Å along x
    assert got.angular_error == pytest.approx(5)


def test_nothing_found(scene):
    zyx, turns, truth, maps = scene
    got = compare_with_truth(table(zyx[:2] + 900, turns[:2]), truth, **maps)
    assert (got.recall, got.precision) == (0, 0)
    assert not any(line.met for line in got.lines()[:4])


def test_the_model_is_small_and_its_record_is_beside_it():
    model, record = read_model(demo_model()), demo_model().with_suffix(".json")
    assert demo_model().stat().st_size <= 5e6
    told = json.loads(record.read_text())
    assert told["digest"] == model.digest
    assert told["history"] == [dict(row) for row in model.history]
    assert model.classes == ("particle", "decoy")
    # Neither the demo's tomogram nor those of tests took part.
    assert min(map(int, re.findall(r"phantom-(\d+)", json.dumps(told["training"]["data"])))) > 100


def test_demo_meets_what_is_expected(tmp_path):
    result, comparison = run_demo(tmp_path / "demo")
    missed = [line for line in comparison.lines() if not line.met]
    assert not missed
    assert result.probability is not None
    page = result.report.read_text()
    assert "recall" in page
    assert "Segmentation and picks" in page
    again, same = run_demo(tmp_path / "demo")  # idempotent: nothing is done again
    assert again.seconds == result.seconds
    assert same.lines() == comparison.lines()


def test_demo_by_matching_is_another_run_in_the_same_folder(tmp_path, monkeypatch):
    """What a run by matching finds has its own tests; here, that it is one."""
    called = []

    def stopped(tomogram, **options):
        called.append(options)
        raise InputError("stopped")

    monkeypatch.setattr(demo, "run", stopped)
    for method in ("template", "segmentation"):
        with pytest.raises(InputError, match="stopped"):
            run_demo(tmp_path, method=method, scheduler="synchronous")
    assert [one["output"].name for one in called] == ["run_template", "run"]
    assert called[0].get("model") is None
    assert called[1]["model"].read_bytes() == demo_model().read_bytes()
    assert read_particles(tmp_path / "input" / "truth.csv")["kind"].tolist().count("decoy") == 30


def test_demo_says_what_it_needs(tmp_path, monkeypatch):
    def missing(engine):
        raise InputError("no engine is installed")

    monkeypatch.setattr(demo, "require_engine", missing)
    with pytest.raises(InputError, match=r"no engine is installed; .* --method template"):
        run_demo(tmp_path / "demo")
    with pytest.raises(InputError, match="method must be 'segmentation' or 'template', got 'dog'"):
        run_demo(tmp_path / "demo", method="dog")
    assert not (tmp_path / "demo").exists()
