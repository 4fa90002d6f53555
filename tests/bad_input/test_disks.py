"""Disks that are full or may not be written: nothing that was finished is lost."""

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bad_input.words import HERE, TILTS, refused, run_words, sentence
from helpers import tomodask


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
