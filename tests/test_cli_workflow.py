"""The commands one after the other, from a tomogram to an average: what each leaves and keeps."""

import json
import os
import subprocess
import sys

import mrcfile
import numpy as np
import pytest
from helpers import tomodask, works

from tomodask.arrays.geometry import angular_distance
from tomodask.data.particles import orientations, read_particles, write_particles
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError
from tomodask.simulation.phantom import phantom_map, phantom_tomogram

HERE = ("--scheduler", "synchronous")
VOXEL, BOX, STEP = 10.0, 40, 30


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A small tomogram of phantoms on disk, its template and truth, in a folder of their own."""
    folder = tmp_path_factory.mktemp("scene")
    tomogram, truth = phantom_tomogram(
        shape=(60, 80, 80), particles=5, decoys=0, snr=0.3, tilt_range=(-60, 60), seed=3
    )
    save_tomogram(tomogram, folder / "tomogram.mrc")
    save_tomogram(phantom_map(voxel_size=VOXEL, box=BOX), folder / "template.mrc")
    return folder, truth


@pytest.fixture(scope="module")
def boxes(scene):
    """The way through all commands, done once: match, pick, extract, align, average."""
    folder, _ = scene
    out = {}
    out["match"] = works(
        *("match", folder / "tomogram.mrc", folder / "template.mrc", "--tilt-range", -60, 60),
        *("--angular-step", STEP, "-o", folder / "scores.zarr", *HERE),
    )
    out["pick"] = works("pick", folder / "scores.zarr", "-o", folder / "picks.star", *HERE)
    out["extract"] = works(
        *("extract", folder / "tomogram.mrc", folder / "picks.star", "--box", BOX),
        *("-o", folder / "boxes.zarr", *HERE),
    )
    out["align"] = works(
        *("align", folder / "boxes.zarr", "--reference", folder / "template.mrc"),
        *("--tilt-range", -60, 60, "-o", folder / "poses.star", *HERE),
    )
    out["average"] = works(
        *("average", folder / "boxes.zarr", "--poses", folder / "poses.star"),
        *("-o", folder / "average", *HERE),
    )
    return folder, out


def test_the_commands_find_the_particles_and_their_poses(scene, boxes):
    (folder, truth), (_, out) = scene, boxes
    assert out["pick"].startswith(f"{folder / 'picks.star'}: {len(truth)} particles above ")
    poses = read_particles(folder / "poses.star", need=("position", "orientation", "shift"))
    found = poses[["z", "y", "x"]].to_numpy() + poses[["shift_z", "shift_y", "shift_x"]].to_numpy()
    true = truth[["z", "y", "x"]].to_numpy()
    distance = np.linalg.norm(found[:, None] - true, axis=-1)
    nearest = distance.argmin(axis=1)
    assert sorted(nearest) == list(range(len(truth)))
    assert distance.min(axis=1).max() < VOXEL
    turned = angular_distance(orientations(poses), orientations(truth.iloc[nearest]))
    assert np.max(turned) < 6
    assert set(poses["tilt_min"]) == {-60}


def test_the_average_is_written_with_its_halves_and_curve(boxes):
    folder, out = boxes
    for name in ("average", "half1", "half2"):
        assert mrcfile.validate(folder / "average" / f"{name}.mrc")
        assert open_tomogram(folder / "average" / f"{name}.mrc").attrs["voxel_size"] == VOXEL
    header = (folder / "average" / "fsc.csv").read_text().splitlines()[0]
    assert header == "frequency,resolution,correlation"
    assert "Å (FSC 0.143)" in out["average"]
    template = open_tomogram(folder / "template.mrc").values.ravel()
    average = open_tomogram(folder / "average" / "average.mrc").values.ravel()
    assert np.corrcoef(template, average)[0, 1] > 0.7


def test_boxes_may_come_as_store_folder_pattern_files_or_star(boxes, tmp_path):
    """All give the poses of the store, in the order of the file names."""
    from tomodask.data.subtomograms import open_subtomograms

    folder, _ = boxes
    dataset = open_subtomograms(folder / "boxes.zarr")
    names = []
    (tmp_path / "boxes").mkdir()
    for number, box in enumerate(dataset["subtomogram"].values[:3]):
        names.append(tmp_path / "boxes" / f"box_{number}.mrc")
        with mrcfile.new(names[-1]) as file:
            file.set_data(box)
            file.voxel_size = VOXEL
    want = read_particles(folder / "poses.star")[:3]
    star = want[["tomogram"]].assign(image=[f"boxes/{name.name}" for name in names])
    write_particles(star, tmp_path / "boxes.star")
    inputs = {
        "folder": [tmp_path / "boxes"],
        "pattern": [tmp_path / "boxes" / "*.mrc"],
        "files": names,
        "star": [tmp_path / "boxes.star"],
    }
    columns = ["quat_x", "quat_y", "quat_z", "quat_w", "shift_z", "shift_y", "shift_x", "score"]
    first = None
    for kind, paths in inputs.items():
        output = tmp_path / f"{kind}.star"
        works(
            *("align", *paths, "--reference", folder / "template.mrc"),
            *("--tilt-range", "-60", "60", "-o", output, *HERE),
        )
        poses = read_particles(output)
        assert [os.path.basename(image) for image in poses["image"]] == [n.name for n in names]
        first = poses if first is None else first
        np.testing.assert_array_equal(poses[columns], first[columns])
        turned = angular_distance(orientations(poses), orientations(want))
        assert np.max(turned) < 3  # the store's boxes bear other numbers, so other mini-batches


def test_a_probability_is_picked_by_threshold_and_diameter(tmp_path):
    zyx = np.stack(np.indices((30, 40, 40)), axis=-1)
    centers = [(10, 12, 14), (18, 30, 9)]
    balls = sum(np.exp(-(np.linalg.norm(zyx - c, axis=-1) ** 2) / 18) for c in centers)
    with mrcfile.new(tmp_path / "probability.mrc") as file:
        file.set_data(balls.astype(np.float32))
        file.voxel_size = 8.0
    works(
        *("pick", tmp_path / "probability.mrc", "--threshold", 0.5, "--diameter", 56),
        *("-o", tmp_path / "picks.csv"),
    )
    picks = read_particles(tmp_path / "picks.csv")
    assert set(picks["tomogram"]) == {"probability"}
    found = {tuple(p) for p in (picks[["z", "y", "x"]].to_numpy() / 8).round().astype(int)}
    assert found == set(centers)


def test_relion5_picks_count_from_the_middle_of_the_tomogram(boxes, tmp_path):
    folder, _ = boxes
    works("pick", folder / "scores.zarr", "--style", "relion5", "-o", tmp_path / "r5.star", *HERE)
    assert "_rlnCenteredCoordinateXAngst" in (tmp_path / "r5.star").read_text()
    works(
        *("extract", folder / "tomogram.mrc", tmp_path / "r5.star", "--box", BOX),
        *("-o", tmp_path / "boxes.zarr", *HERE),
    )
    from tomodask.data.subtomograms import open_subtomograms

    first, again = (open_subtomograms(f / "boxes.zarr") for f in (folder, tmp_path))
    np.testing.assert_array_equal(first["subtomogram"], again["subtomogram"])


def test_convert_and_resample(scene, tmp_path):
    folder, _ = scene
    works("convert", folder / "tomogram.mrc", tmp_path / "t.zarr", "--chunk", 16, "--shard", 32)
    told = json.loads(works("info", "--json", tmp_path / "t.zarr"))
    assert told["zarr_chunks"] == [16, 16, 16]
    assert told["zarr_shards"] == [32, 32, 32]
    np.testing.assert_array_equal(
        open_tomogram(tmp_path / "t.zarr"), open_tomogram(folder / "tomogram.mrc")
    )
    works("convert", folder / "template.mrc", "-o", tmp_path / "c.mrc", "--resample-to", 20)
    coarse = open_tomogram(tmp_path / "c.mrc")
    assert coarse.shape == (20, 20, 20)
    assert coarse.attrs["voxel_size"] == 20
    works("convert", folder / "template.mrc", tmp_path / "v.mrc", "--voxel-size", 3.5)
    stated = open_tomogram(tmp_path / "v.mrc")
    assert stated.attrs["voxel_size"] == 3.5
    np.testing.assert_array_equal(stated, open_tomogram(folder / "template.mrc"))


def test_a_resampled_map_keeps_its_centre_and_detail():
    from tomodask.data.resample import resample_map

    fine = phantom_map(voxel_size=5.0, box=80)
    coarse = resample_map(fine, voxel_size=10.0)
    want = phantom_map(voxel_size=10.0, box=40)
    assert np.corrcoef(coarse.values.ravel(), want.values.ravel())[0, 1] > 0.98
    with pytest.raises(InputError, match=r"voxel size of 400 Å it would have 1×1×1 voxels"):
        resample_map(fine, voxel_size=400.0)


def test_info_tells_of_many_files_and_goes_on_after_a_bad_one(boxes):
    folder, _ = boxes
    out = works("info", folder / "tomogram.mrc", folder / "picks.star", folder / "boxes.zarr")
    assert "  shape: 60 × 80 × 80 voxels (z, y, x)" in out
    assert "  voxel size: 10 Å" in out
    assert out.count("  particles: 5") == 2
    code, out, err = tomodask("info", folder / "none.mrc", folder / "template.mrc")
    assert code == 2
    assert "  shape: 40 × 40 × 40" in out
    assert "none.mrc" in err


def test_a_finished_output_is_not_replaced_unasked(boxes):
    folder, _ = boxes
    outputs = ("boxes.zarr", "average/average.mrc", "template.mrc", "picks.star", "poses.star")
    before = [(folder / name).stat().st_mtime_ns for name in outputs]
    for words, name in (
        (("extract", folder / "tomogram.mrc", folder / "picks.star", "--box", 8), "boxes.zarr"),
        (("average", folder / "boxes.zarr", "--poses", folder / "poses.star"), "average"),
        (("convert", folder / "tomogram.mrc"), "template.mrc"),
    ):
        code, _, err = tomodask(*words, "-o", folder / name)
        assert code == 2
        assert "exists already; choose another" in err
        assert "--overwrite" in err
    assert [(folder / name).stat().st_mtime_ns for name in outputs] == before
    code, _, err = tomodask("pick", folder / "scores.zarr", "-o", folder / "scores.zarr" / "a.txt")
    assert code == 2
    code, _, err = tomodask(
        *("align", folder / "boxes.zarr", "--reference", folder / "template.mrc"),
        *("-o", folder / "none" / "poses.star"),
    )
    assert (code, "does not exist; make it first" in err) == (2, True)


@pytest.mark.parametrize("command", ["pick", "align"])
def test_a_table_that_is_replaced_is_kept(boxes, tmp_path, command):
    folder, _ = boxes
    (tmp_path / "table.star").write_text("old")
    words = {
        "pick": ("pick", folder / "scores.zarr"),
        "align": ("align", folder / "boxes.zarr", "--reference", folder / "template.mrc"),
    }[command]
    works(*words, "-o", tmp_path / "table.star", *HERE)
    assert len(read_particles(tmp_path / "table.star")) == 5
    assert (tmp_path / "table.star~").read_text() == "old"


def test_a_reader_that_leaves_is_no_error(scene):
    folder, _ = scene
    program = [sys.executable, "-m", "tomodask", "info", *[str(folder / "template.mrc")] * 3]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), err) == (0, "")


def test_a_stopped_alignment_goes_on(boxes, tmp_path):
    """A real process, stopped by a real Ctrl-C, then the same command again: the same poses."""
    folder, _ = boxes
    output = tmp_path / "poses.star"
    words = [
        *("align", *[str(folder / "boxes.zarr")], "--reference", str(folder / "template.mrc")),
        *("--angular-step", "15", "-o", str(output), *HERE),  # long enough to be stopped
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "tomodask", *words], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr.readline() == "align: started\n"
    process.send_signal(2)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 130
    assert "Traceback" not in rest
    assert rest.splitlines()[-1].startswith("tomodask: stopped")
    assert not output.exists()
    works(*words)
    stopped = output.read_text()
    works(*words)
    assert output.read_text().split("\n", 1)[1] == stopped.split("\n", 1)[1]
    assert not list(tmp_path.glob("*.part"))


def test_cuda_says_what_does_not_run_on_the_gpu(boxes, tmp_path, monkeypatch):
    """No GPU is needed: the cluster alone is another, what is said and done is the same."""
    from distributed import Client

    from tomodask.cluster import connecting

    def local(stack, workers, memory):
        return stack.enter_context(Client(processes=False, n_workers=1, dashboard_address=None))

    monkeypatch.setattr(connecting, "_cuda", local)
    folder, _ = boxes
    words = ("average", folder / "boxes.zarr", "--poses", folder / "poses.star")
    code, _, err = tomodask(*words, "-o", tmp_path / "average", "--scheduler", "cuda")
    assert code == 0, err
    assert err.count("warning: scheduler 'cuda': projection, back-projection, find_centers") == 1
