"""The main job: killed at any moment it goes on and ends with the same bytes."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from helpers import killed_at

from tomodask.arrays.geometry import angular_distance
from tomodask.data.particles import orientations, read_particles
from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError
from tomodask.project import run
from tomodask.project.from_tomogram import running, stages

sys.path.insert(0, str(Path(__file__).parent))
from phantom_run import RESULTS, SETTINGS, again, content, save_input


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small tomogram of six particles, its template, and the truth."""
    folder = tmp_path_factory.mktemp("input")
    return folder, save_input(folder)


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    """A run from the first to the last stage without a break."""
    return again(files, tmp_path_factory.mktemp("whole") / "out")


@pytest.fixture
def _no_pictures(finished, monkeypatch):
    """The report has its own tests, and takes longer than all else here."""

    def write(output):
        (output / "report.html").write_text("")

    monkeypatch.setattr(stages, "write_report", write)


pytestmark = pytest.mark.usefixtures("_no_pictures")


def assert_same_results(one: Path, two: Path):
    for name in RESULTS:
        assert content(one / name) == content(two / name), name
    for store, array in (
        ("scores.zarr", "score"),
        ("scores.zarr", "rotation"),
        ("subtomograms.zarr", "subtomogram"),
    ):
        a, b = (zarr.open_array(at / store / array, mode="r")[...] for at in (one, two))
        np.testing.assert_array_equal(a, b)


def test_finds_the_particles_and_their_poses(files, finished):
    _, truth = files
    poses = read_particles(finished.poses)
    found = poses[["z", "y", "x"]].to_numpy() + poses[["shift_z", "shift_y", "shift_x"]].to_numpy()
    away = np.linalg.norm(found[:, None] - truth[["z", "y", "x"]].to_numpy()[None], axis=-1)
    nearest = away.argmin(1)
    assert finished.particles == len(truth) == len(set(nearest))
    assert away.min(1).max() < 10.0  # one voxel
    assert np.median(angular_distance(orientations(poses), orientations(truth)[nearest])) < 5
    assert poses["half"].tolist() == [1, 2] * 3
    assert poses["image"].tolist() == [f"{i}@subtomograms.zarr" for i in range(6)]


def test_leaves_everything_in_the_folder(finished):
    there = {p.name for p in finished.output.iterdir()} - {".lock"}
    assert there == {
        *RESULTS, "run.json", "scores.zarr", "subtomograms.zarr", "align_batches", "report.html"
    }  # fmt: skip
    average = open_tomogram(finished.average)
    assert average.shape == (40, 40, 40)
    assert average.attrs["voxel_size"] == 10.0
    document = json.loads((finished.output / "run.json").read_text())
    assert set(document["stages"]) == {"match", "pick", "extract", "align", "average", "report"}
    assert document["command"].startswith("tomodask run ")
    assert document["versions"]["tomodask"]
    assert all(seconds > 0 for seconds in finished.seconds.values())


def test_a_finished_run_is_not_run_again(files, finished, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a cluster was started")

    monkeypatch.setattr(running, "connect", never)
    before = {p: p.stat().st_mtime_ns for p in finished.output.iterdir() if p.name in RESULTS}
    result = again(files, finished.output)
    assert result.particles == finished.particles
    assert before == {p: p.stat().st_mtime_ns for p in before}


RUNS = """
    from tomodask import run
    tomogram, template, output = sys.argv[1:]
    run(tomogram, template=template, output=output, scheduler="synchronous", **{settings!r})
"""


def test_killed_again_and_again_it_ends_with_the_same_bytes(files, finished, tmp_path):
    folder, _ = files
    script = RUNS.replace("{settings!r}", repr(SETTINGS))
    arguments = [folder / "tomogram.mrc", folder / "template.mrc", tmp_path / "out"]
    moments = (
        ("score/c/0/0/0", "after"),
        ("c.3.0.0.0", "before"),
        (".npy", "after"),
        ("half1.mrc", "before"),
    )
    killed_at(script, arguments, moments)
    result = again(files, tmp_path / "out")
    assert result.particles == finished.particles
    assert_same_results(tmp_path / "out", finished.output)
    hidden = [p.name for p in (tmp_path / "out").rglob(".*") if p.name != ".lock"]
    assert hidden == []


def test_the_command_killed_with_its_workers(files, finished, tmp_path):
    """The whole process group goes at once, as when a machine or a batch job is stopped."""
    folder, _ = files
    output = tmp_path / "out"
    words = [
        "run", str(folder / "tomogram.mrc"), "--template", str(folder / "template.mrc"),
        "-o", str(output), "--angular-step", "20", "--search-step", "30", "--box", "40",
        "--diameter", "260", "--max-particles", "6", "--workers", "2",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "tomodask", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (output / "picks.star").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "report.html").exists()
    again(files, output)
    assert_same_results(output, finished.output)


def test_other_parameters_are_refused_and_named(files, finished):
    with pytest.raises(
        InputError, match=r"another run: threshold is not given there and 0.4 here;"
    ):
        again(files, finished.output, threshold=0.4)
    with pytest.raises(InputError, match=r"box is 40 there and 44 here.*--overwrite"):
        again(files, finished.output, box=44)
    with pytest.raises(InputError, match=r"tilt_range is -60 60 there and -50 50 here"):
        again(files, finished.output, tilt_range=(-50, 50))


def test_another_input_is_refused(files, finished, tmp_path):
    folder, _ = files
    changed = open_tomogram(folder / "tomogram.mrc")
    other = (changed * 2).assign_attrs(changed.attrs)
    with pytest.raises(InputError, match=r"tomogram is tomogram.mrc.* there and in memory.* here"):
        run(
            other,
            template=folder / "template.mrc",
            output=finished.output,
            scheduler="synchronous",
            **SETTINGS,
        )


def test_a_stage_that_left_nothing_may_be_tried_with_other_parameters(files, tmp_path):
    """Too high a threshold costs no second matching, and the outcome is that of a fresh run."""
    output = tmp_path / "out"
    with pytest.raises(InputError, match=r"0 particles score above 2, .*lower the threshold"):
        again(files, output, threshold=2.0)
    matched = json.loads((output / "run.json").read_text())["stages"]["match"]
    assert again(files, output, threshold=0.3, max_particles=4).particles == 4
    assert json.loads((output / "run.json").read_text())["stages"]["match"] == matched


def test_overwrite_drops_the_other_run_and_nothing_else(files, finished, tmp_path):
    import shutil

    output = tmp_path / "out"
    shutil.copytree(finished.output, output)
    (output / "mine.txt").write_text("keep me")
    result = again(files, output, overwrite=True, max_particles=5)
    assert result.particles == 5
    assert (output / "mine.txt").read_text() == "keep me"


def test_folders_of_others_are_left_alone(files, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds files that are not of a run"):
            again(files, tmp_path, overwrite=overwrite)
    with pytest.raises(InputError, match=r"mine.txt is a file; name a folder"):
        again(files, tmp_path / "mine.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_two_runs_at_once_are_refused(files, finished):
    import fcntl

    with (finished.output / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run works in this folder"):
            again(files, finished.output)


def test_a_full_disk_leaves_what_is_finished(files, finished, tmp_path, monkeypatch):
    from tomodask.data import subtomogram_store

    output, write = tmp_path / "out", Path.write_bytes

    def full(self, data):
        if self.name.startswith("c.4"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(subtomogram_store.Path, "write_bytes", full)
        with pytest.raises(InputError, match="the disk is full"):
            again(files, output)
    stages = json.loads((output / "run.json").read_text())["stages"]
    assert set(stages) == {"match", "pick"}
    again(files, output)
    assert json.loads((output / "run.json").read_text())["stages"]["match"] == stages["match"]
    assert_same_results(output, finished.output)


def test_a_stage_whose_files_are_gone_is_done_again(files, finished, tmp_path):
    import shutil

    output = tmp_path / "out"
    shutil.copytree(finished.output, output)
    shutil.rmtree(output / "subtomograms.zarr")
    (output / "average.mrc").unlink()
    again(files, output)
    assert_same_results(output, finished.output)


@pytest.mark.parametrize("entered", [False, True])
def test_a_stage_done_again_and_killed_is_not_finished(files, finished, tmp_path, entered):
    """Neither as `run.json` tells it, nor where that (of an earlier version) still says so."""
    import shutil

    output = tmp_path / "out"
    shutil.copytree(finished.output, output)
    shutil.rmtree(output / "scores.zarr")
    (output / "picks.star").unlink()
    before = json.loads((output / "run.json").read_text())["stages"]
    folder, _ = files
    script = RUNS.replace("{settings!r}", repr(SETTINGS))
    arguments = [folder / "tomogram.mrc", folder / "template.mrc", output]
    killed_at(script, arguments, [("score/c/0/0/0", "after")])
    document = json.loads((output / "run.json").read_text())
    assert set(before) - set(document["stages"]) == {"match"}
    if entered:
        document["stages"]["match"] = before["match"]
        (output / "run.json").write_text(json.dumps(document))
    again(files, output)
    assert_same_results(output, finished.output)


def test_a_tomogram_in_memory_gives_the_same(files, finished, tmp_path):
    folder, _ = files
    volume, template = (
        open_tomogram(folder / "tomogram.mrc"),
        open_tomogram(folder / "template.mrc"),
    )
    in_memory = volume.compute()
    with dask.config.set(scheduler="synchronous"):
        result = run(
            in_memory,
            template=template,
            output=tmp_path / "out",
            scheduler="synchronous",
            **SETTINGS,
        )
    assert (result.output / "tomogram.zarr").exists()
    for name in ("average.mrc", "fsc.csv"):
        assert (result.output / name).read_bytes() == (finished.output / name).read_bytes()


def test_numbers_of_numpy_are_numbers(files, finished, monkeypatch):
    """The run is the one of Python's own numbers, and goes on in its folder."""
    monkeypatch.setattr(running, "connect", None)
    own = {"angular_step": np.float32, "search_step": np.int64, "diameter": np.float64}
    own |= {"box": np.int64, "max_particles": np.int32}
    settings = {name: kind(SETTINGS[name]) for name, kind in own.items()}
    result = again(files, finished.output, **settings, seed=np.int64(0), invert=np.bool_(False))
    assert result.box == finished.box


def test_a_resolution_that_is_not_reached(files, finished, tmp_path, monkeypatch):
    """Infinite for Python; `run.json` stays JSON, and the report says so."""
    import shutil

    from tomodask import report

    output = tmp_path / "out"
    shutil.copytree(finished.output, output)
    (output / "average.mrc").unlink()
    monkeypatch.setattr(stages, "resolution_at", lambda *_: np.float64("inf"))
    monkeypatch.setattr(stages, "write_report", report.write_report)
    result = again(files, output)
    assert result.resolution_143 == result.resolution_5 == float("inf")

    def not_json(constant):
        raise AssertionError(constant)

    document = json.loads((output / "run.json").read_text(), parse_constant=not_json)
    assert document["figures"]["resolution_143"] is None
    assert "not reached" in (output / "report.html").read_text()
    text = (output / "run.json").read_text()  # as earlier versions wrote it
    (output / "run.json").write_text(text.replace('_143": null', '_143": Infinity'))
    assert again(files, output).resolution_143 == float("inf")
