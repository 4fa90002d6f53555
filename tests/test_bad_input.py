"""Bad input at the command line: exit code 2, one sentence, nothing that was finished is lost."""

import contextlib
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from tomodask.cli import main
from tomodask.data.tomograms import save_tomogram
from tomodask.simulation.phantom import phantom_map, phantom_tomogram

HERE = ("--scheduler", "synchronous")
TILTS = ("--tilt-range", "-60", "60")
COORDINATES = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ", "rlnPixelSize")
SHAPE = (40, 48, 56)


def tomodask(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def refused(*words):
    """What a command says when it refuses its input; progress lines and warnings left out."""
    code, out, err = tomodask(*words)
    return sentence(code, out, err)


def sentence(code, out, err):
    assert code == 2, (out, err)
    assert out == ""
    assert "Traceback" not in err
    said = [line for line in err.splitlines() if line.startswith("tomodask: ")]
    assert len(said) == 1
    assert err.endswith(said[0] + "\n")
    before = [line for line in err.splitlines() if line != said[0]]
    assert all(
        re.match(r"(\w+: (started|stopped|done|\d+ %)|warning: |dashboard: )", b) for b in before
    )
    return said[0].removeprefix("tomodask: ")


def write_mrc(path, data, voxel_size=10.0):
    with mrcfile.new(path) as file:
        file.set_data(data.astype(np.float32))
        file.voxel_size = voxel_size
    return path


def write_star(path, columns, *rows):
    lines = ["data_particles", "", "loop_", *(f"_{c} #{i}" for i, c in enumerate(columns, 1))]
    path.write_text("\n".join([*lines, *(" ".join(map(str, row)) for row in rows), ""]))
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A tomogram of noise, a template, picks: nothing is wrong with them."""
    folder = tmp_path_factory.mktemp("good")
    rng = np.random.default_rng(0)
    write_mrc(folder / "tomogram.mrc", rng.normal(size=SHAPE))
    write_mrc(folder / "template.mrc", rng.normal(size=(16, 16, 16)))
    write_star(folder / "picks.star", COORDINATES, (20, 20, 20, 10.0), (25, 24, 18, 10.0))
    return folder


def damaged_mrc(path, good, kind):
    """A copy of the tomogram with one thing wrong, and what is said of it."""
    raw = bytearray((good / "tomogram.mrc").read_bytes())
    if kind == "empty":
        raw = b""
    elif kind == "shorter than a header":
        raw = raw[:500]
    elif kind == "truncated":
        raw = raw[:50_000]
    elif kind == "contradicting size":
        raw[0:4] = struct.pack("<i", 999)
    elif kind == "longer than the header says":
        raw += bytes(40_000)
    elif kind == "negative size":
        raw[0:4] = struct.pack("<i", -5)
    elif kind == "voxel size 0":
        raw[40:52] = bytes(12)
    elif kind == "anisotropic":
        raw[48:52] = struct.pack("<f", 480.0)
    path.write_bytes(raw)
    return path


MRC_FAULTS = {
    "empty": ["is empty", "copy or make it again"],
    "shorter than a header": ["500 of 1024 bytes", "copy or make it again"],
    "truncated": ["need 431104 bytes, the file has 50000", "copy or make it again"],
    "contradicting size": ["999×48×40", "the file has 431104", "copy or make it again"],
    "longer than the header says": ["the file has 471104", "copy or make it again"],
    "negative size": ["not an MRC file", "[-5, 48, 40]"],
    "voxel size 0": ["voxel size is 0, 0, 0 Å", "--voxel-size"],
    "anisotropic": ["not cubic", "z 12, y 10, x 10 Å", "--voxel-size"],
}


@pytest.mark.parametrize("command", ["info", "convert", "match", "extract", "run"])
@pytest.mark.parametrize("kind", list(MRC_FAULTS))
def test_a_damaged_mrc(good, tmp_path, kind, command):
    bad = damaged_mrc(tmp_path / "bad.mrc", good, kind)
    words = {
        "info": ["info", bad],
        "convert": ["convert", bad, tmp_path / "out.zarr"],
        "match": ["match", bad, good / "template.mrc", "-o", tmp_path / "out.zarr", *HERE],
        "extract": [
            *("extract", bad, good / "picks.star", "--box", 8, *TILTS),
            *("-o", tmp_path / "out.zarr", *HERE),
        ],
        "run": [
            *("run", bad, "--template", good / "template.mrc", *TILTS),
            *("-o", tmp_path / "out.zarr", *HERE),
        ],
    }
    if (command, kind) == ("info", "voxel size 0"):  # all else of the file can be told
        code, out, said = tomodask(*words[command])
        assert code == 0
        assert "shape: 40 × 48 × 56" in out
        assert "voxel size: unknown\n" in out
    else:
        said = refused(*words[command])
    for part in (str(bad), *MRC_FAULTS[kind]):
        assert part in said
    assert [file.name for file in tmp_path.iterdir()] == ["bad.mrc"]


@pytest.mark.parametrize("kind", ["voxel size 0", "anisotropic"])
def test_a_wrong_voxel_size_can_be_overruled(good, tmp_path, kind):
    bad = damaged_mrc(tmp_path / "bad.mrc", good, kind)
    code, _, err = tomodask("convert", bad, tmp_path / "out.mrc", "--voxel-size", 7.5)
    assert code == 0, err
    with mrcfile.open(tmp_path / "out.mrc") as file:
        assert file.voxel_size.tolist() == (7.5, 7.5, 7.5)


@pytest.fixture
def holed(tmp_path):
    """A tomogram with a NaN and an infinite voxel."""
    data = np.random.default_rng(1).normal(size=SHAPE)
    data[3, 4, 5], data[9, 9, 9] = np.nan, np.inf
    return write_mrc(tmp_path / "holed.mrc", data)


def test_voxels_that_are_no_numbers(good, holed, tmp_path):
    template = good / "template.mrc"
    step = ("--angular-step", "90")
    for words in (
        ("convert", holed, tmp_path / "out.zarr"),
        ("match", holed, template, *step, *TILTS, "-o", tmp_path / "scores.zarr", *HERE),
        ("run", holed, "--template", template, *step, *TILTS, "-o", tmp_path / "run", *HERE),
    ):
        said = refused(*words)
        assert str(holed) in said
        assert "(3, 4, 5)" in said
        assert "replace them" in said
    assert not (tmp_path / "out.zarr").exists()
    code, _, err = tomodask("convert", holed, tmp_path / "out.zarr", "--fill", 0)
    assert code == 0, err
    code, out, _ = tomodask("info", holed)
    assert (code, "nonfinite: 2" in out) == (0, True)
    said = refused("match", good / "tomogram.mrc", holed, "-o", tmp_path / "s.zarr", *HERE)
    assert "template" in said
    assert "NaN or infinite voxels; replace them" in said


def test_boxes_that_hold_no_numbers(good, holed, tmp_path):
    write_star(tmp_path / "picks.star", COORDINATES, (6, 6, 6, 10.0), (25, 24, 18, 10.0))
    code, _, err = tomodask(
        *("extract", holed, tmp_path / "picks.star", "--box", 16, *TILTS),
        *("-o", tmp_path / "boxes.zarr", *HERE),
    )
    if code == 0:  # taken as they are, then refused where they would spoil a pose
        said = refused(
            *("align", tmp_path / "boxes.zarr", "--reference", good / "template.mrc"),
            *("-o", tmp_path / "poses.star", *HERE),
        )
        assert "0@" in said
    else:
        said = sentence(code, "", err)
    assert re.search(r"NaN|not finite|infinite", said)
    assert not (tmp_path / "poses.star").exists()


@pytest.mark.parametrize("command", ["match", "run"])
def test_a_template_larger_than_the_tomogram(good, tmp_path, command):
    big = write_mrc(tmp_path / "big.mrc", np.random.default_rng(2).normal(size=(64, 64, 64)))
    said = refused(*with_template(command, good, big, tmp_path / "out.zarr"))
    assert "(64, 64, 64)" in said
    assert "larger than the tomogram of (40, 48, 56)" in said
    assert "cut its box" in said
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("command", ["match", "run"])
def test_voxel_sizes_that_differ(good, tmp_path, command):
    fine = write_mrc(tmp_path / "fine.mrc", np.random.default_rng(3).normal(size=(24, 24, 24)), 5.0)
    said = refused(*with_template(command, good, fine, tmp_path / "out.zarr"))
    assert "5 Å" in said
    assert "10 Å" in said
    assert "--resample" in said
    assert "--voxel-size" not in said  # that would relabel the template, not resample it
    assert not (tmp_path / "out.zarr").exists()
    if command == "match":  # what is offered works
        words = with_template(command, good, fine, tmp_path / "out.zarr")
        code, _, err = tomodask(*words, "--resample", "--angular-step", 90, "--diameter", 100)
        assert code == 0, err


def with_template(command, good, template, output):
    if command == "match":
        return ("match", good / "tomogram.mrc", template, *TILTS, "-o", output, *HERE)
    return ("run", good / "tomogram.mrc", "--template", template, *TILTS, "-o", output, *HERE)


@pytest.mark.parametrize("command", ["match", "run", "align"])
@pytest.mark.parametrize("kind", ["voxel size 0", "anisotropic"])
def test_a_template_that_does_not_say_its_voxel_size(good, boxes, tmp_path, command, kind):
    """--voxel-size would be that of the tomogram."""
    bad = damaged_mrc(tmp_path / "bad.mrc", good, kind)
    output = tmp_path / ("poses.star" if command == "align" else "out.zarr")
    if command == "align":
        words = ("align", boxes, "--reference", bad, "--resample", "-o", output, *HERE)
    else:
        words = with_template(command, good, bad, output)
    said = refused(*words)
    assert ("reference" if command == "align" else "template") in said
    assert f"`tomodask convert {bad} OUT.mrc --voxel-size V`" in said
    assert not output.exists()
    code, _, err = tomodask("convert", bad, tmp_path / "OUT.mrc", "--voxel-size", 10)
    assert code == 0, err


@pytest.mark.parametrize("command", ["match", "align"])
def test_voxel_sizes_that_differ_by_less_than_a_hundredth(good, boxes, tmp_path, command):
    """They count as one: nothing is resampled, wherever the template comes in."""
    with mrcfile.open(good / "template.mrc") as file:
        near = write_mrc(tmp_path / "near.mrc", file.data, 10.06)
    found = {}
    for path in (good / "template.mrc", near):
        output = tmp_path / f"{path.stem}-out"
        if command == "match":
            output = output.with_suffix(".zarr")
            words = with_template("match", good, path, output)
            words += ("--angular-step", 90, "--diameter", 100)
        else:
            output = output.with_suffix(".csv")
            words = ("align", boxes, "--reference", path, "-o", output, *HERE)
        code, _, err = tomodask(*words, "--resample")
        assert code == 0, err
        found[path.stem] = output
    if command == "align":
        assert found["near"].read_text() == found["template"].read_text()
    else:
        one, two = (zarr.open_array(f / "score", mode="r")[...] for f in found.values())
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("size", ["voxels", "box"])
def test_a_reference_that_does_not_fit_the_boxes(good, boxes, tmp_path, size):
    shape, voxel_size = ((16,) * 3, 5.0) if size == "voxels" else ((12,) * 3, 10.0)
    other = write_mrc(tmp_path / "ref.mrc", np.random.default_rng(4).normal(size=shape), voxel_size)
    said = refused("align", boxes, "--reference", other, "-o", tmp_path / "poses.star", *HERE)
    assert str(other) in said
    assert ("5 Å" if size == "voxels" else "12×12×12") in said
    assert "--resample" in said
    assert [file.name for file in tmp_path.iterdir()] == ["ref.mrc"]


@pytest.fixture(scope="module")
def boxes(good, tmp_path_factory):
    store = tmp_path_factory.mktemp("boxes") / "boxes.zarr"
    code, _, err = tomodask(
        *("extract", good / "tomogram.mrc", good / "picks.star", "--box", 16, *TILTS),
        *("-o", store, *HERE),
    )
    assert code == 0, err
    return store


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


@pytest.fixture(scope="module")
def store(good, tmp_path_factory):
    """The tomogram in shards of 32³ voxels."""
    path = tmp_path_factory.mktemp("store") / "tomogram.zarr"
    code, _, err = tomodask("convert", good / "tomogram.mrc", path, "--chunk", 16, "--shard", 32)
    assert code == 0, err
    return path


def spoil(source, target, kind):
    """A copy of a store with its last chunk or shard gone, altered or cut; the file's name."""
    shutil.copytree(source, target)
    files = (f for f in target.rglob("*") if f.is_file() and re.fullmatch(r"c[./].*|\d+", key(f)))
    last = sorted(
        f for f in files if f.relative_to(target).parts[0] in ("0", "subtomogram", "score")
    )[-1]
    if kind == "missing":
        last.unlink()
    elif kind == "altered":
        raw = bytearray(last.read_bytes())
        raw[len(raw) // 3] ^= 0xFF
        last.write_bytes(raw)
    else:
        last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    return last


def key(file):
    """The chunk's key: what follows the array's own name."""
    parts = file.parts
    at = max(i for i, part in enumerate(parts) if part.endswith(".zarr"))
    return "/".join(parts[at + 2 :])


@pytest.mark.parametrize("kind", ["missing", "altered", "cut"])
def test_a_damaged_store(good, store, tmp_path, kind):
    bad = tmp_path / "bad.zarr"
    chunk = key(spoil(store, bad, kind))
    for words in (
        ("info", bad),
        ("convert", bad, tmp_path / "out.mrc"),
        (
            "match",
            bad,
            good / "template.mrc",
            "--angular-step",
            90,
            *TILTS,
            "-o",
            tmp_path / "s.zarr",
            *HERE,
        ),
        ("pick", bad, "--threshold", 1, "--diameter", 80, "-o", tmp_path / "picks.star"),
    ):
        said = refused(*words)
        assert str(bad) in said
        assert chunk in said
        assert "make the store again" in said
    assert not (tmp_path / "out.mrc").exists()
    assert not (tmp_path / "picks.star").exists()


@pytest.mark.parametrize("kind", ["missing", "cut"])
def test_damaged_boxes(good, boxes, tmp_path, kind):
    bad = tmp_path / "bad.zarr"
    chunk = key(spoil(boxes, bad, kind))
    words = ("align", bad, "--reference", good / "template.mrc", "-o", tmp_path / "p.star", *HERE)
    said = refused(*words)
    assert str(bad) in said
    assert chunk in said
    assert "extract again" in said
    assert not (tmp_path / "p.star").exists()


@pytest.mark.parametrize("kind", ["missing", "altered", "cut"])
def test_damaged_scores(good, tmp_path, kind):
    scores, bad = tmp_path / "scores.zarr", tmp_path / "bad.zarr"
    code, _, err = tomodask(
        *("match", good / "tomogram.mrc", good / "template.mrc", "--angular-step", 90, *TILTS),
        *("-o", scores, *HERE),
    )
    assert code == 0, err
    spoil(scores, bad, kind)
    said = refused("pick", bad, "--threshold", 0.1, "-o", tmp_path / "picks.star")
    assert str(bad) in said
    assert re.search(r"missing|damaged", said.replace(str(bad), ""))
    assert "--overwrite" in said
    assert not (tmp_path / "picks.star").exists()


def test_an_output_of_another_job(good, tmp_path):
    scores = tmp_path / "scores.zarr"
    words = ("match", good / "tomogram.mrc", good / "template.mrc", *TILTS, "-o", scores, *HERE)
    code, _, err = tomodask(*words, "--angular-step", 90)
    assert code == 0, err
    before = contents(scores)
    said = refused(*words, "--angular-step", 60)
    assert str(scores) in said
    assert "another run" in said
    assert "another path" in said
    assert contents(scores) == before


def test_an_output_folder_of_another_run(good, tmp_path, scene):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    said = refused(*run_words(scene, folder))
    assert str(folder) in said
    assert "not of a run; choose" in said
    assert contents(folder) == {"thesis.tex": b"precious"}

    (folder / "thesis.tex").unlink()
    code, _, err = tomodask(*run_words(scene, folder))
    assert code == 0, err
    before = contents(folder)
    said = refused(*run_words(scene, folder), "--invert")
    assert str(folder) in said
    assert "invert" in said
    assert re.search(r"another folder|overwrite", said)
    assert contents(folder) == before


def contents(folder):
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A small tomogram of phantoms for whole runs."""
    folder = tmp_path_factory.mktemp("scene")
    tomogram, _ = phantom_tomogram(
        shape=(60, 80, 80), particles=5, decoys=0, snr=0.3, tilt_range=(-60, 60), seed=3
    )
    save_tomogram(tomogram, folder / "tomogram.mrc")
    save_tomogram(phantom_map(voxel_size=10.0, box=40), folder / "template.mrc")
    return folder


def run_words(scene, output):
    return (
        *("run", scene / "tomogram.mrc", "--template", scene / "template.mrc"),
        *("--angular-step", 30, *TILTS, "-o", output, *HERE),
    )


@contextlib.contextmanager
def small_disk(folder, kilobytes):
    """A file system of its own, that small; gives a function that makes it larger."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a small disk needs root on Linux: a full disk is not tested here")
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(options, capture_output=True).returncode:
        pytest.skip("mounting is not permitted: a full disk is not tested here")

    def grow(size):
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(folder)], check=True)

    try:
        yield grow
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(good, boxes, tmp_path):
    """Each output is refused in one sentence, and no half file bears its name."""
    disk = tmp_path / "disk"
    tomogram, template = good / "tomogram.mrc", good / "template.mrc"
    with small_disk(disk, 40):
        for words, name in (
            (("convert", tomogram), "out.zarr"),
            (("convert", tomogram), "out.mrc"),
            (("match", tomogram, template, "--angular-step", 90, *TILTS, *HERE), "scores.zarr"),
            (("extract", tomogram, good / "picks.star", "--box", 24, *TILTS, *HERE), "boxes.zarr"),
        ):
            said = refused(*words, "-o", disk / name)
            assert str(disk / name) in said
            assert re.search(r"disk is full|no space left on the disk|[Nn]o space left", said)
            assert re.search(r"free some", said)
            assert name == "scores.zarr" or not (disk / name).exists()
            for leftover in disk.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def test_a_run_on_a_full_disk_goes_on_when_there_is_room(scene, tmp_path):
    disk, whole = tmp_path / "disk", tmp_path / "whole"
    code, _, err = tomodask(*run_words(scene, whole))
    assert code == 0, err
    scores = sum(file.stat().st_size for file in (whole / "scores.zarr").rglob("*"))
    with small_disk(disk, scores // 1024 + 400) as grow:
        output = disk / "out"
        said = refused(*run_words(scene, output))
        assert re.search(r"disk is full|no space left on the disk", said)
        kept = {
            file: file.stat().st_mtime_ns
            for file in (output / "scores.zarr" / "score").rglob("*")
            if file.is_file()
        }
        assert kept
        grow(64 * 1024)
        code, _, err = tomodask(*run_words(scene, output))
        assert code == 0, err
        assert {file: file.stat().st_mtime_ns for file in kept} == kept  # not made again
        for name in ("poses.star", "average.mrc", "fsc.csv"):
            assert body(output / name) == body(whole / name)


def body(path):
    """What a file says, less the time at which it was written."""
    raw = path.read_bytes()
    if path.suffix == ".mrc":
        return raw[1024:]
    return raw.split(b"\n", 1)[1]


def test_a_file_that_may_not_grow(good, tmp_path):
    """The limit of a user or a batch system, where nobody can mount: a process of its own."""
    words = ["convert", good / "tomogram.mrc", "-o", tmp_path / "out.mrc"]
    result = subprocess.run(
        [sys.executable, "-m", "tomodask", *map(str, words)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    said = sentence(result.returncode, result.stdout, result.stderr)
    assert "file grows beyond what is allowed" in said
    assert not list(Path(tmp_path).iterdir())


def test_a_folder_that_may_not_be_written(good, tmp_path):
    target = tmp_path / "file"
    target.write_text("not a folder")
    said = refused("convert", good / "tomogram.mrc", "-o", target / "out.mrc")
    assert str(target) in said
    said = refused(*run_words(good, target))
    assert str(target) in said
    assert "folder" in said
    assert target.read_text() == "not a folder"
