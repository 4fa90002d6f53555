"""Damaged stores, and outputs of other jobs, at the command line."""

import re
import shutil

import pytest
from bad_input.words import HERE, TILTS, refused, run_words
from helpers import tomodask


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
