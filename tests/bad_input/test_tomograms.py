"""Damaged and ill-fitting tomograms, templates and references at the command line."""

import re
import struct

import mrcfile
import numpy as np
import pytest
import zarr
from bad_input.words import (
    COORDINATES,
    HERE,
    SHAPE,
    TILTS,
    refused,
    sentence,
    write_mrc,
    write_star,
)
from helpers import tomodask


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
