"""Refinement: killed at any moment it goes on and ends with the same bytes."""

import json
import shlex
from pathlib import Path

import click
import dask
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from helpers import killed_at
from rounds.mixtures import VOXEL, mixture
from scipy.spatial.transform import Rotation

from tomodask.arrays.geometry import angular_distance
from tomodask.cli import main
from tomodask.data.particles import orientations, read_particles
from tomodask.data.subtomograms import open_subtomograms, save_subtomograms
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError
from tomodask.project.refinement import refining
from tomodask.project.refinement import report as refinement_report
from tomodask.project.refinement import steps as refinement_steps
from tomodask.project.refinement.refining import refine
from tomodask.rounds.axes import symmetrised
from tomodask.rounds.superposition import Motion, superpose, turned_map
from tomodask.simulation.phantom import phantom_map

SETTINGS = {"diameter": 260.0, "angular_step": 30.0, "iterations": 3, "candidates": 3}


@pytest.fixture(autouse=True)
def report_writer(monkeypatch):
    """No pictures but for the one test that looks at them: it is given what writes them."""
    real = refinement_steps.write_refinement_report

    def write(folder):
        (folder.path / "report.html").write_text("")

    monkeypatch.setattr(refinement_steps, "write_refinement_report", write)
    return real


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Sixteen particles in a store, their truth, and a map of them."""
    folder = tmp_path_factory.mktemp("input")
    dataset, _, truth = mixture(16, snr=0.3, kinds=("particle",))
    with dask.config.set(scheduler="synchronous"):
        save_subtomograms(dataset.drop_vars("image"), folder / "boxes.zarr")
        save_tomogram(phantom_map(voxel_size=VOXEL, box=32), folder / "map.mrc")
    return folder, truth


def refined(files, output, **options):
    folder, _ = files
    return refine(
        folder / "boxes.zarr", output=output, scheduler="synchronous",
        **{"reference": folder / "map.mrc", **SETTINGS, **options},
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(
            refinement_steps,
            "write_refinement_report",
            lambda f: (f.path / "report.html").write_text(""),
        )
        return refined(files, tmp_path_factory.mktemp("whole") / "out")


def results(folder: Path) -> dict[str, bytes]:
    """All results; of a STAR all but the line in which it tells when it was written."""
    out = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".mrc", ".star", ".csv"):
            whole = path.read_bytes()
            if whole.startswith(b"# Created"):
                whole = whole.partition(b"\n")[2]
            out[str(path.relative_to(folder))] = whole
    return out


def test_finds_poses_and_map_and_keeps_every_round(files, finished):
    _, truth = files
    poses = read_particles(finished.poses)
    assert np.median(angular_distance(orientations(poses), orientations(truth))) < 3
    assert finished.particles == {1: 16}
    assert finished.resolution_143[1] < 35
    low = finished.history["resolution_143"]
    assert low.iloc[-1] <= low.iloc[0]
    names = {p.name for p in (finished.output / "iteration_02").iterdir()}
    assert names == {
        "poses.star", "average.mrc", "half1.mrc", "half2.mrc", "reference1.mrc", "reference2.mrc",
        "fsc.csv",
    }  # fmt: skip
    there = {p.name for p in finished.output.iterdir()} - {".lock"}
    assert there >= {"start", "average.mrc", "filtered.mrc", "history.csv", "report.html"}
    local = np.asarray(open_tomogram(finished.local_resolution[1]))
    told = json.loads((finished.output / "run.json").read_text())["figures"]["local_resolution"]
    low, high = told["1"]["range"]
    assert 2 * VOXEL <= low < finished.resolution_5[1] < high + 2 * VOXEL
    assert low - 1 <= local[16, 16, 16] <= high
    assert local[0, 0, 0] == local.max()  # outside the particle's sphere
    assert finished.set_aside.empty
    known = phantom_map(voxel_size=VOXEL, box=32).to_numpy()
    average = np.asarray(open_tomogram(finished.averages[1]))
    motion = superpose(known, average, voxel_size=VOXEL, resolution=35.0, diameter=260.0)
    assert motion.score > 0.9
    assert motion.angle < 3


def test_halves_are_drawn_once_and_named_boxes_are_found_again(files, finished):
    tables = [read_particles(f) for f in sorted(finished.output.glob("iteration_*/poses.star"))]
    assert len(tables) == 3
    for table in tables:
        assert table["half"].tolist() == tables[0]["half"].tolist()
        assert sorted(table["half"].value_counts().tolist()) == [8, 8]
    again = open_subtomograms(finished.poses)  # the STAR is a list of boxes, too
    folder, _ = files
    first = open_subtomograms(folder / "boxes.zarr")
    np.testing.assert_array_equal(
        again["subtomogram"].to_numpy()[[0, 9]], first["subtomogram"].to_numpy()[[0, 9]]
    )


def test_a_finished_refinement_is_not_done_again_and_more_rounds_may_follow(
    files, finished, tmp_path, monkeypatch
):
    def never(*args, **kwargs):
        raise AssertionError("a cluster was started")

    with monkeypatch.context() as context:
        context.setattr(refining, "connect", never)
        assert refined(files, finished.output).particles == {1: 16}
    one = refined(files, tmp_path / "out", iterations=1)
    assert len(one.history) == 1
    more = refined(files, tmp_path / "out")
    pd.testing.assert_frame_equal(more.history, finished.history, check_exact=True)
    assert results(tmp_path / "out") == results(finished.output)


REFINES = """
    from tomodask.project.refinement.refining import refine
    boxes, reference, output = sys.argv[1:]
    refine(boxes, reference=reference, output=output, scheduler="synchronous", **{settings!r})
"""


def test_killed_again_and_again_it_ends_with_the_same_bytes(files, finished, tmp_path):
    folder, _ = files
    script = REFINES.replace("{settings!r}", repr(SETTINGS))
    arguments = [folder / "boxes.zarr", folder / "map.mrc", tmp_path / "out"]
    moments = (
        ("half2/batch000000.npy", "after"),
        ("iteration_02/reference1.mrc", "before"),
        ("out/half1.mrc", "after"),
    )
    killed_at(script, arguments, moments)
    refined(files, tmp_path / "out")
    assert results(tmp_path / "out") == results(finished.output)
    hidden = [p.name for p in (tmp_path / "out").rglob(".*") if p.name != ".lock"]
    assert hidden == []
    assert not list((tmp_path / "out").rglob("batches"))


def test_batches_that_a_kill_left_are_removed(files, finished, tmp_path, monkeypatch):
    """A round is entered as finished first, and its batches removed after."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(refinement_steps.Refining, "_forget_batches", killed)
        with pytest.raises(KeyboardInterrupt):
            refined(files, tmp_path / "out")
    assert (tmp_path / "out/iteration_01/batches").is_dir()
    assert not (tmp_path / "out/iteration_02").exists()
    refined(files, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("batches"))
    assert results(tmp_path / "out") == results(finished.output)


def test_chunks_change_no_bit(files, finished, tmp_path):
    folder, _ = files
    other = open_subtomograms(folder / "boxes.zarr").chunk(particle=5, y=9)
    result = refine(
        other, output=tmp_path / "out", reference=folder / "map.mrc", scheduler="synchronous",
        **SETTINGS,
    )  # fmt: skip
    assert results(result.output) == results(finished.output)


def test_boxes_with_another_table_are_another_run(files, finished):
    """In memory nothing but the table tells: other tilts went on with the poses of the former."""
    folder, _ = files
    boxes = open_subtomograms(folder / "boxes.zarr")
    given = {"reference": folder / "map.mrc", "output": finished.output, **SETTINGS}
    refine(boxes, scheduler="synchronous", **given)
    shifted = boxes.assign_coords(shift_z=("particle", np.ones(16)))
    tilted = boxes.assign_coords(tilt_max=("particle", boxes["tilt_max"].to_numpy() - 20.0))
    for other, told in ((shifted, "particle_table is"), (tilted, "tilts is -60 to 60 ")):
        with pytest.raises(InputError, match=f"holds another run: {told}"):
            refine(other, scheduler="synchronous", **given)


def test_kinds_are_told_apart_without_a_reference(tmp_path, report_writer, monkeypatch):
    """From 3 classes to the 2 that there are; with the report."""
    monkeypatch.setattr(refinement_steps, "write_refinement_report", report_writer)
    dataset, kinds, _ = mixture(16, snr=0.2)
    result = refine(
        dataset, output=tmp_path / "out", classes=3, scheduler="synchronous", attempts=1,
        first_particles=16, consensus=1, **{**SETTINGS, "iterations": 3},
    )  # fmt: skip
    table = read_particles(result.poses)
    assert sorted(result.particles.values()) == [16, 16]
    assert len(set(zip(table["class"], kinds, strict=True))) == 2
    told = json.loads((result.output / "run.json").read_text())["figures"]
    assert any(one["merged"] for one in told["rounds"].values())
    page = result.report.read_text()
    assert page.count("<img") >= 6
    assert "Classes" in page


def test_a_box_that_holds_nothing_is_set_aside(files, tmp_path, report_writer, monkeypatch, caplog):
    monkeypatch.setattr(refinement_steps, "write_refinement_report", report_writer)
    monkeypatch.setattr(refinement_report, "inline", lambda figure, text: text)
    folder, _ = files
    boxes = open_subtomograms(folder / "boxes.zarr").compute()
    boxes["subtomogram"].data[4, 3, 3, 3] = np.nan
    result = refine(
        boxes, output=tmp_path / "out", reference=folder / "map.mrc", scheduler="synchronous",
        **{**SETTINGS, "iterations": 2},
    )  # fmt: skip
    table = read_particles(result.poses)
    assert len(table) == 15
    assert 4 not in table["tomodaskBox"].tolist()
    assert result.particles == {1: 15}
    (aside,) = result.set_aside.to_dict("records")
    assert aside["particle"] == 4
    assert aside["image"].startswith("4@")
    assert aside["reason"] == "the box holds NaN or infinite voxels"
    # Named once, and not by each half of each round again.
    assert caplog.text.count("are set aside") == 1
    assert "1 of 16 particles are set aside, the rest goes on: 4@" in caplog.text
    assert "left out" not in caplog.text
    page = result.report.read_text()
    assert "the box holds NaN or infinite voxels" in page
    assert "Local resolution" in page


def test_classes_go_on_without_a_box_that_holds_nothing(tmp_path):
    dataset, _, _ = mixture(8, snr=0.3)
    boxes = dataset.drop_vars("image").compute()
    boxes["subtomogram"].data[[0, 5]] = np.nan
    references = [phantom_map(voxel_size=VOXEL, box=32, kind=k) for k in ("particle", "decoy")]
    for assignment in ("hard", "soft"):
        result = refine(
            boxes, output=tmp_path / assignment, references=references, assignment=assignment,
            scheduler="synchronous", **{**SETTINGS, "iterations": 2},
        )  # fmt: skip
        assert result.set_aside["particle"].tolist() == [0, 5]
        assert len(read_particles(result.poses)) == 14
        if assignment == "hard":
            assert sum(result.particles.values()) == 14


def test_too_few_sound_boxes_are_told_with_what_is_wrong(files, tmp_path):
    folder, _ = files
    boxes = open_subtomograms(folder / "boxes.zarr").compute()
    boxes["subtomogram"].data[2:] = np.nan
    with pytest.raises(
        InputError,
        match=r"half \d has [01] particles? with a pose, it needs at least 2; set aside: "
        r"of \d the box holds NaN or infinite voxels; mend these boxes",
    ):
        refine(
            boxes, output=tmp_path / "out", reference=folder / "map.mrc", scheduler="synchronous",
            **SETTINGS,
        )  # fmt: skip


def test_a_reference_that_looks_wrong_is_warned_of_once(files, tmp_path, caplog):
    folder, _ = files
    known = open_tomogram(folder / "map.mrc")
    off = known.copy(data=np.roll(known.to_numpy(), 6, 0))
    refined(files, tmp_path / "off", reference=off, iterations=1)
    assert caplog.text.count("the middle of its density is") == 1
    caplog.clear()
    axis = symmetrised(known.to_numpy(), "C4", voxel_size=VOXEL, resolution=25.0)
    over = Motion(Rotation.from_euler("x", 90, degrees=True), np.zeros(3), 1.0)
    lying = known.copy(data=turned_map(axis, over, voxel_size=VOXEL))
    refined(files, tmp_path / "turned", reference=lying, symmetry="C4", iterations=1)
    assert caplog.text.count("turned by C4 about z it correlates with itself to 0.") == 1
    assert "turn the map so that its main axis lies along z" in caplog.text


def test_the_report_of_more_rounds_says_that_they_are_not_finished(
    files, tmp_path, report_writer, monkeypatch
):
    """After an end more rounds may follow: the page is of the latest of them, till the end."""
    pages = []
    monkeypatch.setattr(refinement_report, "inline", lambda figure, text: text)

    def write(folder):
        report_writer(folder)
        pages.append((folder.path / "report.html").read_text())

    monkeypatch.setattr(refinement_steps, "write_refinement_report", write)
    refined(files, tmp_path / "out", iterations=1)
    refined(files, tmp_path / "out", iterations=2)
    working = ["not finished yet" in page for page in pages]
    assert working == [True, False, True, False]
    assert ["Local resolution" in page for page in pages] == [not one for one in working]
    assert "this page shows iteration 2" in pages[2]
    refined(files, tmp_path / "out", iterations=1)
    assert "not finished yet" not in pages[-1]
    assert "Average of iteration 1" in pages[-1]


def test_bad_input_is_refused_before_any_work(files, finished, tmp_path, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a cluster was started")

    monkeypatch.setattr(refining, "connect", never)
    folder, _ = files
    boxes = open_subtomograms(folder / "boxes.zarr")
    small, finer = phantom_map(voxel_size=VOXEL, box=24), phantom_map(voxel_size=8.0, box=32)
    empty = phantom_map(voxel_size=VOXEL, box=32)
    empty = empty.copy(data=np.zeros_like(empty.to_numpy()))
    for options, said in (
        ({"symmetry": "H3"}, r"symmetry must be C1 … C99, D2 … D99, T, O or I, got 'H3'"),
        ({"reference": small}, r"reference has 24×24×24 voxels, the subtomograms have 32×32×32"),
        ({"reference": None, "references": [small]}, r"24×24×24 voxels"),
        ({"classes": 5}, r"5 classes need 10 in a half, the smaller half has 8"),
        ({"halves": "tomogram"}, r"halves by tomogram need two tomograms"),
        ({"halves": "box"}, r"halves must be 'particle' or 'tomogram', got 'box'"),
        ({"start_resolution": 20.0}, r"start_resolution must be within 4 voxels and half the box"),
        ({"resolution": 70.0}, r"resolution must be finer than start_resolution"),
        ({"diameter": 900.0}, r"diameter must be within"),
        ({"method": "best"}, r"method must be one of fourier, mbgd, lm, got 'best'"),
        ({"assignment": "wild"}, r"assignment must be 'hard' or 'soft', got 'wild'"),
        ({"merge": 1.5}, r"merge must be a correlation above 0, at most 1, got 1.5"),
        ({"iterations": 0}, r"iterations must be a whole number, at least 1, got 0"),
        ({"references": [small]}, r"give reference or references, one of them"),
        ({"reference": small}, r"have it cut or padded \(resample_reference=True, --resample\)"),
        ({"reference": empty}, r"reference must hold finite, unequal values, got zeros only"),
        ({"reference": finer}, r"reference's voxels are 8 Å, those of the subtomograms 10 Å; have"),
    ):
        with pytest.raises(InputError, match=said):
            refined(files, tmp_path / "none", **options)
    with pytest.raises(
        InputError, match="each half needs at least two particles, got 2 and 1 of 3"
    ):
        refine(boxes.isel(particle=slice(0, 3)), output=tmp_path / "none", **SETTINGS)
    bare = boxes.drop_vars(["tilt_min", "tilt_max"])
    with pytest.raises(InputError, match=r"carry no tilt range; give it: .*--tilt-range -60 60"):
        refine(bare, output=tmp_path / "none", **SETTINGS)
    with pytest.raises(InputError, match=r"another run: symmetry is C1 there and C2 here"):
        refined(files, finished.output, symmetry="C2")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files that are not of a run"):
        refined(files, other)
    assert not (tmp_path / "none").exists()


def test_the_command_tells_the_resolution_and_refuses_in_a_sentence(files, finished, tmp_path):
    folder, _ = files
    words = [
        "refine", folder / "boxes.zarr", "-o", finished.output, "--reference", folder / "map.mrc",
        "--diameter", 260, "--angular-step", 30, "--iterations", 3, "--candidates", 3,
        "--scheduler", "synchronous",
    ]  # fmt: skip
    told = CliRunner().invoke(main, list(map(str, words)))
    assert told.exit_code == 0, told.stderr
    assert told.stdout.startswith("16 particles, 3 iterations; resolution ")
    words[words.index("--iterations") : words.index("--iterations")] = ["--symmetry", "C0"]
    told = CliRunner().invoke(main, list(map(str, words)))
    assert told.exit_code == 2
    assert told.stderr.startswith("tomodask: symmetry must be C1")
    assert told.stderr.count("\n") == 1


def test_the_call_that_the_report_tells_is_one_that_the_command_takes():
    given = dict.fromkeys(["subtomograms", "output"], "x") | refine.__kwdefaults__
    for name, value in refine.__kwdefaults__.items():
        if name in ("output", "command", "overwrite", "reference"):
            continue
        other = {"scheduler": "cuda", "workers": 2, "memory": "1GiB", "config": "a.toml",
                 "tilt_range": (-50.0, 50.0), "references": ["a.mrc", "b.mrc"], "merge": None,
                 "symmetry": "C2", "halves": "tomogram", "method": "lm", "assignment": "soft",
                 "classes": 2, "seed": 1}.get(name, True if value is False else 5)  # fmt: skip
        words = shlex.split(refining._command({**given, name: other}))
        assert words[:2] == ["tomodask", "refine"]
        assert len(words) > 5
        command = main.get_command(click.Context(main), "refine")
        with command.make_context("refine", words[2:]) as context:
            parameters = context.params
        if name == "merge":
            assert parameters["merge"] == 0
