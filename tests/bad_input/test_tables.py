"""Bad picks and poses at the command line, and nothing found."""

import re
import shutil

import pytest
from bad_input.words import COORDINATES, HERE, TILTS, refused, sentence, write_star
from helpers import tomodask

PICKS = {
    "outside": ["1 of 2 particles", "(100, 100, 5000) Å", "check the voxel size"],
    "empty": ["picks.star", "no particles", "pick again"],
    "without coordinates": ["picks.star", "rlnCoordinateX", "found quat_x"],
    "no STAR": ["picks.star", "not a STAR"],
    "empty file": ["picks.star", "empty"],
    "missing": ["picks.star", "no such file"],
}


@pytest.mark.parametrize("kind", list(PICKS))
def test_bad_picks(good, tmp_path, kind):
    picks = tmp_path / "picks.star"
    if kind == "outside":
        write_star(picks, COORDINATES, (10, 10, 10, 10.0), (500, 10, 10, 10.0))
    elif kind == "empty":
        write_star(picks, COORDINATES)
    elif kind == "without coordinates":
        write_star(picks, ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), (10, 20, 30))
    elif kind == "no STAR":
        picks.write_text("hello world\n")
    elif kind == "empty file":
        picks.touch()
    output = tmp_path / "boxes.zarr"
    words = ("extract", good / "tomogram.mrc", picks, "--box", 8, *TILTS, "-o", output, *HERE)
    said = refused(*words)
    told = said.replace(str(tmp_path), "")
    for part in PICKS[kind]:
        assert part in told
    assert not output.exists()


def test_poses_without_orientations_or_of_other_boxes(good, boxes, tmp_path):
    words = ("average", boxes, "--poses", good / "picks.star", "-o", tmp_path / "out", *HERE)
    said = refused(*words)
    assert "picks.star" in said
    assert "rlnAngleRot" in said
    angles = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    other = write_star(tmp_path / "poses.star", angles, *[(1, 2, 3)] * 5)
    said = refused("average", boxes, "--poses", other, "-o", tmp_path / "out", *HERE)
    assert re.search(r"\b5\b", said)
    assert re.search(r"\b2\b", said)
    assert not (tmp_path / "out").exists()


def test_nothing_above_the_threshold(good, tmp_path):
    said = refused(
        *("pick", good / "tomogram.mrc", "--threshold", 99, "--diameter", 80),
        *("-o", tmp_path / "picks.star"),
    )
    assert str(good / "tomogram.mrc") in said
    assert "threshold 99; give a lower --threshold" in said
    assert not (tmp_path / "picks.star").exists()
    said = refused("pick", good / "tomogram.mrc", "-o", tmp_path / "picks.star")
    assert "diameter is needed" in said


def test_no_particles_asked_for(good, tmp_path):
    words = ("pick", good / "tomogram.mrc", "--threshold", 1, "--diameter", 80)
    for number in (0, -1):
        said = refused(*words, "--max-particles", number, "-o", tmp_path / "picks.star")
        assert f"max_particles must be a whole number, at least 1, got {number}" in said
    assert not (tmp_path / "picks.star").exists()


@pytest.mark.parametrize("kind", ["relion5", ".tbl"])
def test_poses_that_could_not_be_written(good, boxes, tmp_path, kind):
    """Told before any pose is searched, not after hours."""
    output, style, which = tmp_path / "poses.star", ("--style", "relion5"), boxes
    if kind == ".tbl":  # boxes of another program, whose places nobody knows
        output, style, which = tmp_path / "poses.tbl", (), tmp_path / "boxes"
        which.mkdir()
        for number in range(2):
            shutil.copy(good / "template.mrc", which / f"{number}.mrc")
    words = ("align", which, "--reference", good / "template.mrc", *TILTS, "-o", output, *style)
    code, out, err = tomodask(*words, *HERE)
    said = sentence(code, out, err)
    assert "align: " not in err  # not even started
    assert (
        "tomogram's middle" if kind == "relion5" else f"{output}: Dynamo needs positions"
    ) in said
    assert "take another --style, or a name with .star or .csv" in said
    assert not list(tmp_path.glob("poses*"))


@pytest.mark.parametrize("command", ["align", "average"])
def test_several_stores_at_once(good, boxes, tmp_path, command):
    other = shutil.copytree(boxes, tmp_path / "other.zarr")
    reference = ("--reference", good / "template.mrc") if command == "align" else ()
    said = refused(command, boxes, other, *reference, "-o", tmp_path / "out.star", *HERE)
    assert "must be one store, one folder, one STAR, one pattern in quotes" in said
    assert f"got 2 names with {boxes} among them" in said
    assert "rlnImageName" in said
    if command == "average":  # what is offered works
        names = [(f"{i}@{store}.zarr", 0, 0, 0) for store in ("boxes", "other") for i in (0, 1)]
        shutil.copytree(boxes, tmp_path / "boxes.zarr")
        columns = ("rlnImageName", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
        star = write_star(tmp_path / "both.star", columns, *names)
        code, _, err = tomodask("average", star, "-o", tmp_path / "average", *HERE)
        assert code == 0, err
