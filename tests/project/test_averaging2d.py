"""2D averaging as a job: right, kept by rounds, and killed at any moment it ends with the same."""

import re
import sys
import types
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner
from helpers import killed_at, run_killed

from tomodask.cli import main
from tomodask.data.class_averages import read_class_table
from tomodask.data.image_table import read_image_table
from tomodask.data.images import image_table, open_images
from tomodask.errors import InputError
from tomodask.planar.round2d import Round2D
from tomodask.planar.rounds2d import classify_images
from tomodask.project.averaging2d import averaging as averaging2d
from tomodask.project.averaging2d.averaging import average2d, open_average2d
from tomodask.project.averaging2d.round_files import read_round2d, write_round2d
from tomodask.project.averaging2d.view import _NotebookGallery

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


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    with pytest.MonkeyPatch.context() as context:
        without_pictures(context)
        return averaged(files, tmp_path_factory.mktemp("whole") / "out")


def results(folder: Path) -> dict[str, bytes]:
    """All results; of a STAR all but the line in which it tells when it was written."""
    out = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".mrcs", ".star", ".csv", ".npz"):
            whole = path.read_bytes()
            if whole.startswith(b"# Created"):
                whole = whole.partition(b"\n")[2]
            out[str(path.relative_to(folder))] = whole
    return out


def test_finds_views_and_poses_and_keeps_every_round(files, finished):
    folder, truth = files
    table = finished.table
    assert (table["class"].to_numpy() == truth["class"].to_numpy()).mean() > 0.95
    same = table["mirror"].to_numpy() == truth["mirror"].to_numpy()
    turned = (table["psi"].to_numpy() - truth["psi"].to_numpy() + 180) % 360 - 180
    assert same.mean() > 0.95
    assert np.median(np.abs(turned[same])) < 2
    moved = np.hypot(
        *(table[name].to_numpy() - truth[name].to_numpy() for name in ("shift_y", "shift_x"))
    )
    assert np.median(moved) < 12.0
    assert finished.history["round"].tolist() == list(range(1, len(finished.history) + 1))
    assert {p.name for p in (finished.output / "round_01").iterdir()} == {
        "averages.mrcs", "half1.mrcs", "half2.mrcs", "classes.star", "classes.csv", "frc.csv",
        "state.npz",
    }  # fmt: skip
    again = open_images(finished.output / "averages.mrcs")
    np.testing.assert_array_equal(again, finished.averages)
    np.testing.assert_array_equal(open_images(finished.output / "averages.zarr"), again)
    assert again.attrs["pixel_size"] == 12
    listed = image_table(open_images(finished.particles))
    assert listed["class"].tolist() == table["class"].tolist()
    assert listed["mirror"].tolist() == table["mirror"].tolist()
    np.testing.assert_allclose(listed["psi"], table["psi"], rtol=1e-9)
    np.testing.assert_array_equal(
        open_images(finished.particles), open_images(folder / "stack.mrcs")
    )
    as_csv = read_image_table(finished.output / "particles.csv")
    np.testing.assert_array_equal(as_csv["psi"], table["psi"])
    classes = read_class_table(finished.output / "classes.star")
    assert classes["images"].tolist() == finished.round.counts.tolist()


def test_a_round_in_a_folder_is_the_round(finished, tmp_path):
    state = finished.round
    table = state.table.assign(reason=[None, "constant"] + [""] * 58)
    odd = Round2D(**{**vars(state), "table": table})
    write_round2d(tmp_path / "one", odd)
    again = read_round2d(tmp_path / "one")
    for name in ("references", "averages", "halves"):
        np.testing.assert_array_equal(getattr(again, name), getattr(odd, name))
    for name in ("table", "frc", "history"):
        pd.testing.assert_frame_equal(
            getattr(again, name), getattr(odd, name), check_exact=True, check_index_type=False
        )
    assert (again.number, again.settled, again.pixel_size) == (odd.number, odd.settled, 12.0)


def test_what_is_finished_is_not_done_again_and_more_rounds_may_follow(
    files, finished, tmp_path, monkeypatch
):
    def never(*args, **kwargs):
        raise AssertionError("a cluster was started")

    with monkeypatch.context() as context:
        context.setattr(averaging2d, "connect", never)
        again = averaged(files, finished.output)
        pd.testing.assert_frame_equal(again.history, finished.history, check_exact=True)
    one = averaged(files, tmp_path / "out", rounds=1)
    assert len(one.history) == 1
    assert not one.settled
    seen = []
    more = averaged(files, tmp_path / "out", on_round=seen.append)
    assert [state.number for state in seen] == more.history["round"].tolist()[1:]
    assert results(tmp_path / "out") == results(finished.output)


AVERAGES = """
    from tomodask.project.averaging2d.averaging import average2d
    images, references, output = sys.argv[1:]
    average2d(images, references=references, output=output, scheduler="synchronous", **SETTINGS)
"""


def test_killed_again_and_again_it_ends_with_the_same_bytes(files, finished, tmp_path):
    folder, _ = files
    arguments = [folder / "stack.mrcs", folder / "views.mrcs", tmp_path / "out"]
    moments = (
        ("round_01/batches/batch000000.npy", "after"),
        ("round_02/state.npz", "after"),
        ("out/particles.star", "before"),
    )
    killed_at(AVERAGES.replace("SETTINGS", repr(SETTINGS)), arguments, moments)
    so_far = open_average2d(tmp_path / "out")
    assert so_far.history["round"].tolist() == finished.history["round"].tolist()
    averaged(files, tmp_path / "out")
    assert results(tmp_path / "out") == results(finished.output)
    hidden = [p.name for p in (tmp_path / "out").rglob(".*") if p.name != ".lock"]
    assert hidden == []
    assert not list((tmp_path / "out").rglob("batches"))


def test_killed_wherever_it_was_it_goes_on(files, finished, tmp_path):
    folder, _ = files
    out = tmp_path / "out"
    script = f"""
        from tomodask.project.averaging2d.averaging import average2d
        average2d({str(folder / "stack.mrcs")!r}, references={str(folder / "views.mrcs")!r},
                  output={str(out)!r}, scheduler="synchronous", **{SETTINGS!r})
    """
    run_killed(script, (out / "round_01" / "state.npz").exists)
    averaged(files, out)
    assert results(out) == results(finished.output)


def test_a_run_that_was_stopped_is_looked_at_and_goes_on(files, finished, tmp_path):
    def stop(state):
        if state.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        averaged(files, tmp_path / "out", on_round=stop)
    so_far = open_average2d(tmp_path / "out")
    assert so_far.history["round"].tolist() == [1, 2]
    assert so_far.averages.dims == ("class", "y", "x")
    assert not so_far.report.exists()
    averaged(files, tmp_path / "out")
    assert results(tmp_path / "out") == results(finished.output)
    with pytest.raises(InputError, match="no folder of a run"):
        open_average2d(tmp_path)


def test_chunks_and_where_images_lie_change_no_bit(files, finished, tmp_path):
    folder, _ = files
    stack = open_images(folder / "stack.mrcs")
    result = average2d(
        stack.copy(data=da.from_array(stack.to_numpy(), chunks=(7, 20, 9))),
        output=tmp_path / "out", references=folder / "views.mrcs", scheduler="synchronous",
        **SETTINGS,
    )  # fmt: skip
    for name in ("averages", "halves", "references"):
        np.testing.assert_array_equal(getattr(result.round, name), getattr(finished.round, name))
    pd.testing.assert_frame_equal(result.table, finished.table, check_exact=True)


def test_known_references_are_not_held_to_the_band_of_unknown_ones(files, finished):
    folder, _ = files
    stack, views = open_images(folder / "stack.mrcs"), open_images(folder / "views.mrcs")
    known = {"radius": 140.0, "shift_range": 20.0, "rounds": 4}
    with dask.config.set(scheduler="synchronous"):
        result = classify_images(stack, classes=2, references=views, **known)
    np.testing.assert_array_equal(result.averages, finished.round.averages)
    pd.testing.assert_frame_equal(result.table, finished.table, check_exact=True)


def test_bad_input_is_refused_before_any_work(files, finished, tmp_path, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a cluster was started")

    monkeypatch.setattr(averaging2d, "connect", never)
    folder, _ = files
    stack = open_images(folder / "stack.mrcs")
    constant = xr.DataArray(np.ones((2, 32, 32)), dims=("class", "y", "x"))
    for options, said in (
        ({"classes": 61, "references": None}, "at most the number of images, 60, got 61"),
        ({"classes": 3}, "classes is 3 and there are 2 references"),
        ({"classes": 0, "references": None}, "classes must be a whole number, at least 1, got 0"),
        ({"radius": 400.0}, "radius 400 Å is 33.3 pixels and reaches beyond images of 32 × 32"),
        ({"radius": "wide"}, "radius must be a number, got 'wide'"),
        ({"shift_range": -1.0}, "shift_range"),
        ({"rounds": 0}, "rounds must be a whole number, at least 1, got 0"),
        ({"rounds": 100}, "rounds must be at most 99, got 100"),
        ({"embed": -1}, "embed must be a whole number, at least 0, got -1"),
        ({"ctf": "multiply"}, "images carry no defocus_u"),
        ({"ctf": "best"}, "ctf must be 'multiply', 'flip' or None, got 'best'"),
        ({"resolution": 3.0}, "resolution must be at least two pixels, 24 Å, got 3"),
        ({"project": "x"}, "project must be 'z'"),
        ({"thickness": 30.0}, "thickness is of projections"),
        ({"references": constant}, "reference 1 is constant or not finite"),
        ({"references": np.ones((2, 32, 32))}, "must be a path or a DataArray .* got ndarray"),
        ({"references": constant[:, :30]}, "references must have 32×32 pixels"),
        ({"references": constant.assign_attrs(pixel_size=6.0)}, "references' pixels are 6 Å"),
        ({"seed": -1}, "seed must be a whole number, at least 0, got -1"),
    ):
        with pytest.raises(InputError, match=said):
            averaged(files, tmp_path / "none", **options)
    with pytest.raises(InputError, match=r"must be square, got 32 rows of 30 pixels"):
        average2d(stack[:, :, :30], output=tmp_path / "none", **SETTINGS)
    with pytest.raises(InputError, match=r"dims \(image, y, x\)"):
        average2d(stack[0], output=tmp_path / "none", **SETTINGS)
    with pytest.raises(InputError, match=r"another run: radius is 140.0 there and 130.0 here"):
        averaged(files, finished.output, radius=130.0)
    assert not (tmp_path / "none").exists()


def test_the_command_tells_what_it_found_and_refuses_in_a_sentence(files, finished):
    folder, _ = files
    words = [
        "average2d", folder / "stack.mrcs", "-o", finished.output, "--reference",
        folder / "views.mrcs", "--radius", 140, "--shift", 20, "--embed", 0, "--rounds", 4,
        "--scheduler", "synchronous",
    ]  # fmt: skip
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert re.search(
        r"60 images in 2 classes, 0 set aside, \d rounds.* best resolution", done.output
    )
    assert f"report: {finished.report}" in done.output
    done = CliRunner().invoke(main, [str(word) for word in [*words, "--ctf", "flip"]])
    assert done.exit_code == 2
    assert "images carry no defocus_u" in done.output
    assert done.output.count("\n") == 1


def test_the_command_of_a_call_is_the_one_to_type(files):
    command = averaging2d._command(
        {"images": "a.star", "output": "out", "radius": 90.0, "shift_range": 10.0, "mirror": False,
         "equal": True, "classes": 5, "references": None, "overwrite": True}
    )  # fmt: skip
    assert command == (
        "tomodask average2d a.star -o out --radius 90 --shift 10 --no-mirror --equal --classes 5"
    )


def test_in_a_notebook_the_averages_are_drawn_again_in_place(finished, monkeypatch):
    shown = []

    class Handle:
        def update(self, one):
            shown.append(("update", type(one).__name__))

    def display(one, display_id=None):
        shown.append(("display", type(one).__name__))
        return Handle()

    class Image:
        def __init__(self, data):
            assert data.startswith(b"\x89PNG")

    class Pretty:
        def __init__(self, data):
            assert data.startswith("round 1")

    module = types.ModuleType("IPython.display")
    module.Image, module.Pretty, module.display = Image, Pretty, display
    package = types.ModuleType("IPython")
    package.version_info = (9, 0)  # Matplotlib asks for it at the first figure of a process
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    view = _NotebookGallery()
    row = {**finished.history.iloc[0].to_dict(), "seconds": 1.0}
    row["round"] = 1
    for _ in range(2):
        view.show(row, finished.round)
    view.close()
    assert shown == [
        ("display", "Image"), ("display", "Pretty"), ("update", "Image"), ("update", "Pretty")
    ]  # fmt: skip
