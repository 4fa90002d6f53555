"""A run whose picker is a network: it ends with the same bytes, and says what it cannot do."""

import json
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from helpers import killed_at

from tomodask.arrays.geometry import angular_distance
from tomodask.cli import main
from tomodask.data.particles import orientations, read_particles
from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError
from tomodask.nets.segmentation.model_file import read_model, write_model
from tomodask.project import run
from tomodask.project.from_tomogram import running, stages
from tomodask.report import write_report

sys.path.insert(0, str(Path(__file__).parent))
from handmade import bright_balls
from phantom_run import RESULTS, content, save_input

SETTINGS = {"search_step": 30.0, "box": 40, "diameter": 260.0}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small tomogram of six particles, its template, two models of voxels twice as large."""
    folder = tmp_path_factory.mktemp("input")
    truth = save_input(folder)
    history = [{"epoch": n, "loss": 1 / n, "f1": 1 - 1 / n} for n in (1, 2)]
    training = {"data": [{"tomogram": "none", "particles": {"ball": 7}}], "versions": {"a": "1"}}
    known = {"voxel_size": 20.0, "diameter": 250.0, "level": 1.0}
    write_model(
        bright_balls(**known, history=tuple(history), training=training),
        folder / "model.safetensors",
    )
    write_model(bright_balls(**known, classes=("ball", "<ring>")), folder / "two.safetensors")
    return folder, truth


def job(files, output, **options):
    folder, _ = files
    given = {"model": folder / "model.safetensors", "template": folder / "template.mrc"}
    return run(
        folder / "tomogram.mrc",
        output=output,
        **{**given, **SETTINGS, "scheduler": "synchronous", **options},
    )


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    return job(files, tmp_path_factory.mktemp("whole") / "out")


@pytest.fixture
def no_pictures(finished, monkeypatch):
    monkeypatch.setattr(
        stages, "write_report", lambda output: (output / "report.html").write_text("")
    )


def assert_same_results(one, two):
    for name in RESULTS:
        assert content(one / name) == content(two / name), name
    arrays = [
        {name: array[...] for name, array in zarr.open_group(at / "probability.zarr").arrays()}
        for at in (one, two)
    ]
    assert arrays[0].keys() == arrays[1].keys() != set()
    for name, values in arrays[0].items():
        np.testing.assert_array_equal(values, arrays[1][name])


def test_finds_the_particles_and_their_poses(files, finished):
    _, truth = files
    poses = read_particles(finished.poses)
    found = poses[["z", "y", "x"]].to_numpy() + poses[["shift_z", "shift_y", "shift_x"]].to_numpy()
    away = np.linalg.norm(found[:, None] - truth[["z", "y", "x"]].to_numpy()[None], axis=-1)
    nearest = away.argmin(1)
    assert finished.particles == len(truth) == len(set(nearest))
    assert away.min(1).max() < 10.0  # one voxel of the tomogram, half of one of the model
    assert np.median(angular_distance(orientations(poses), orientations(truth)[nearest])) < 5
    assert read_particles(finished.picks)["score"].is_monotonic_decreasing


def test_leaves_everything_in_the_folder(finished):
    there = {p.name for p in finished.output.iterdir()} - {".lock"}
    assert there == {
        *RESULTS, "run.json", "probability.zarr", "subtomograms.zarr", "align_batches",
        "report.html",
    }  # fmt: skip
    assert finished.scores is None
    assert finished.probability == finished.output / "probability.zarr"
    assert finished.threshold == 0.5
    document = json.loads((finished.output / "run.json").read_text())
    assert set(document["stages"]) == {"segment", "pick", "extract", "align", "average", "report"}
    assert "--model" in document["command"]


def test_the_report_tells_of_the_network(files, finished):
    folder, _ = files
    text = finished.report.read_text()
    assert read_model(folder / "model.safetensors").digest in text
    assert "Segmentation and picks" in text
    assert "<h2>Scores</h2>" not in text
    assert "none (7)" in text
    assert text.count("<img") == 8
    assert "probability.zarr" in text


def test_a_class_of_several_is_chosen(files, finished, tmp_path, no_pictures):
    folder, _ = files
    two = {"model": folder / "two.safetensors"}
    with pytest.raises(InputError, match=r"two.safetensors knows 2 classes .*'<ring>': say which"):
        job(files, tmp_path / "out", **two)
    with pytest.raises(InputError, match=r"particle_class must be a class .*, got 'x'"):
        job(files, tmp_path / "out", particle_class="x", **two)
    assert not (tmp_path / "out").exists()
    with pytest.raises(
        InputError, match=r"0 particles of '<ring>' have a probability above 0.5, an average needs"
    ):
        job(files, tmp_path / "out", particle_class="<ring>", **two)
    # What the class has no say in is kept.
    result = job(files, tmp_path / "out", particle_class="ball", max_particles=4, **two)
    assert result.particles == 4
    best = read_particles(finished.picks).head(4)
    np.testing.assert_allclose(read_particles(result.picks)[["z", "y", "x"]], best[["z", "y", "x"]])
    page = write_report(result.output).read_text()
    assert "&lt;ring&gt;" in page
    assert "<ring>" not in page
    assert page.count("<img") == 7  # no history, no curves


def test_killed_again_and_again_it_ends_with_the_same_bytes(files, finished, tmp_path, no_pictures):
    folder, _ = files
    script = """
        from tomodask import run
        tomogram, template, model, output = sys.argv[1:]
        run(tomogram, template=template, model=model, output=output, scheduler="synchronous",
            **{settings!r})
    """.replace("{settings!r}", repr(SETTINGS))
    names = ("tomogram.mrc", "template.mrc", "model.safetensors")
    arguments = [*(folder / name for name in names), tmp_path / "out"]
    moments = (
        ("probability.zarr/0/c/0/0/0/0", "before"),
        ("probability.zarr/0/c/0/0/0/0", "after"),
        ("picks.star", "after"),
        ("half1.mrc", "before"),
    )
    killed_at(script, arguments, moments)
    assert job(files, tmp_path / "out").particles == finished.particles
    assert_same_results(tmp_path / "out", finished.output)


def test_a_finished_run_is_not_run_again(files, finished, monkeypatch):
    monkeypatch.setattr(running, "connect", None)
    assert job(files, finished.output).particles == finished.particles
    model = read_model(files[0] / "model.safetensors")
    with pytest.raises(
        InputError, match=r"holds another run: model is model.safetensors: .* there"
    ):
        job(files, finished.output, model=bright_balls(voxel_size=20.0, diameter=250.0, level=2.0))
    with pytest.raises(InputError, match=r"model is model.safetensors: .*template is|model is"):
        job(files, finished.output, model=None)
    assert model.digest in (finished.output / "run.json").read_text()


def test_matching_does_not_go_on_in_a_folder_of_a_segmentation(files, finished, tmp_path):
    """Nor where no stage that both have has begun."""
    import shutil

    output = tmp_path / "out"
    output.mkdir()
    shutil.copytree(finished.output / "probability.zarr", output / "probability.zarr")
    document = json.loads((finished.output / "run.json").read_text())
    for part in ("stages", "began"):
        document[part] = {"segment": document[part]["segment"]}
    (output / "run.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"holds another run: .*model is .* there and not given"):
        job(files, output, model=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": None}, r"template is needed: alignment starts from a map .*--template MAP"),
        ({"angular_step": 15.0}, r"angular_step is of template matching, got 15 together with a"),
        ({"resolution": 40.0}, r"resolution is of template matching, got 40"),
        ({"threshold": 1.5}, r"threshold must be a probability above 0 and below 1, got 1.5"),
        ({"model": None, "particle_class": "ball"}, r"particle_class is one of a model's classes"),
        ({"model": "none.safetensors"}, r"there is no model file none.safetensors"),
        ({"tomogram_size": 200.0}, r"voxel size"),
    ],
)
def test_what_matters_late_is_refused_before_all_work(files, tmp_path, options, message):
    if size := options.pop("tomogram_size", None):
        options = {"voxel_size": size, "resample_template": True, "diameter": 5200.0}
    with pytest.raises(InputError, match=message):
        job(files, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_command_line_does_the_same(files, finished, tmp_path, no_pictures):
    folder, _ = files
    words = ["run", folder / "tomogram.mrc", "--model", folder / "two.safetensors"]
    words += ["--class", "ball", "--template", folder / "template.mrc", "-o", tmp_path / "out"]
    words += ["--search-step", 30, "--box", 40, "--diameter", 260, "--scheduler", "synchronous"]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert "6 particles above a probability of 0.500" in result.output
    assert (tmp_path / "out/average.mrc").read_bytes() == finished.average.read_bytes()


def test_a_model_in_memory_does_the_same(files, finished, tmp_path, no_pictures):
    folder, _ = files
    with dask.config.set(scheduler="synchronous"):
        result = job(
            files,
            tmp_path / "out",
            model=read_model(folder / "model.safetensors"),
            template=open_tomogram(folder / "template.mrc"),
        )
    assert_same_results(result.output, finished.output)
    document = json.loads((result.output / "run.json").read_text())
    assert "--model IN_MEMORY" in document["command"]
