"""``tomodask simulate`` as it is typed: its example, its results, its stops, and what is wrong."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
from click.testing import CliRunner

from tomodask.cli.simulation import simulate as command
from tomodask.data.particles import read_particles
from tomodask.data.tomograms import open_tomogram
from tomodask.errors import InputError
from tomodask.simulation.settings import SimulationSettings

HERE = ("--scheduler", "synchronous")
SMALL = """
seed = 2
[specimen]
shape = [40, 64, 64]
voxel_size = 12.0
[[particles]]
structure = "phantom"
copies = 2
[tilts]
increment = 10.0
"""


def run(*words):
    result = CliRunner().invoke(command, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def tomodask(*words, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "tomodask", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
    )  # fmt: skip


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "cell.toml"
    path.write_text(SMALL)
    return path


def test_the_example_is_valid_and_runs_at_a_small_size(tmp_path):
    example = run("--example")
    small = example.replace("shape = [128, 256, 256]", "shape = [40, 96, 96]")
    small = small.replace("increment = 3.0", "increment = 10.0")
    assert small.count("[40, 96, 96]") == small.count("increment = 10.0") == 1
    (tmp_path / "cell.toml").write_text(small)
    told = run(tmp_path / "cell.toml", "-o", tmp_path / "out", *HERE)
    table = read_particles(tmp_path / "out" / "particles.star")
    assert told.startswith(f"{len(table)} particles fill ")
    assert set(table["kind"]) == {"phantom", "decoy"}
    tomogram = open_tomogram(tmp_path / "out" / "tomogram.zarr")
    assert tomogram.shape == (40, 96, 96)
    assert np.isfinite(tomogram).all()
    for line in told.splitlines()[1:-1]:  # each path that is told is there
        name, _, path = line.partition(": ")
        assert (tmp_path / "out" / path.rpartition("/")[2]).exists(), name


def test_the_example_shows_every_key_and_the_defaults():
    example = run("--example")
    uncommented = re.sub(r"^# (\w+ = )", r"\1", example, flags=re.MULTILINE)
    shown = tomllib.loads(uncommented)
    assert SimulationSettings.from_mapping(tomllib.loads(example))
    defaults = SimulationSettings.from_mapping({"particles": [{"structure": "a", "copies": 1}]})
    for part in dataclasses.fields(defaults):
        section = getattr(defaults, part.name)
        if part.name == "particles":
            keys = {key for kind in shown["particles"] for key in kind}
            assert keys == {one.name for one in dataclasses.fields(section[0])}
        elif dataclasses.is_dataclass(section):
            missing = {one.name for one in dataclasses.fields(section)} - set(shown[part.name])
            assert missing <= {"mtf"}, f"[{part.name}]"  # told in a comment
            for key, value in shown[part.name].items():
                default = getattr(section, key)
                told_otherwise = key in ("shape", "occupancy", "increment", "snr")
                if default is not None and not told_otherwise:
                    assert value == (list(default) if isinstance(default, tuple) else default), key


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("increment", "incremnt"), r"unknown key tilts\.incremnt; did you mean tilts\.increment"),
        (("[tilts]", "[tilt]"), "unknown key tilt; did you mean tilts"),
        (("increment = 10.0", "defocus = 3e4"), r"did you mean microscope\.defocus"),
        (("increment = 10.0", "order = 'dose'"), "order must be one of dose-symmetric"),
        (('"phantom"', '"none.pdb"'), r"none\.pdb cannot be read"),
        (("copies = 2", "copies = 200"), "200"),
        (("seed = 2", "seed = = 2"), r"cell\.toml is no TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_told(config, change, told):
    assert change[0] in SMALL
    config.write_text(SMALL.replace(*change))
    with pytest.raises(InputError, match=told):
        run(config, "-o", config.with_name("out"), *HERE)


def test_a_file_that_is_no_config(config):
    with pytest.raises(InputError, match=r"none\.toml cannot be read"):
        run(config.with_name("none.toml"), "-o", config.with_name("out"))
    binary = config.with_name("map.mrc")
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match=r"map\.mrc cannot be read \(no UTF-8 text\)"):
        run(binary, "-o", config.with_name("out"))
    assert not config.with_name("out").exists()


def test_an_output_that_is_a_file_is_left_alone(config):
    before = config.read_bytes()
    with pytest.raises(InputError, match=r"cell\.toml"):
        run(config, "-o", config, *HERE)
    assert config.read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(config):
    folder = config.with_name("mine")
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="mine"):
        run(config, "-o", folder, *HERE)
    assert [path.name for path in folder.iterdir() if path.name != ".lock"] == ["notes.txt"]


def test_order_of_words_and_missing_ones(config):
    process = tomodask("simulate", "-o", config.with_name("out"))
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "CONFIG.toml" in error
    process = tomodask("simulate", config)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--output" in error
    # Options may come first, and of two words in the wrong order the folder is named.
    run("-o", config.with_name("out"), *HERE, config)
    with pytest.raises(InputError, match="out cannot be read"):
        run(config.with_name("out"), "-o", config)


def test_again_with_other_settings_is_refused_and_overwritten_when_asked(config):
    out = config.with_name("out")
    first = run(config, "-o", out, *HERE)
    assert run(config, "-o", out, *HERE) == first
    before = open_tomogram(out / "tomogram.zarr").to_numpy()
    config.write_text(SMALL.replace("seed = 2", "seed = 3"))
    with pytest.raises(InputError, match=r"seed is 2 there and 3 here.*--overwrite"):
        run(config, "-o", out, *HERE)
    run(config, "-o", out, "--overwrite", *HERE)
    assert not np.array_equal(open_tomogram(out / "tomogram.zarr"), before)


def test_ctrl_c_leaves_a_folder_that_goes_on(config):
    config.write_text(SMALL.replace("[40, 64, 64]", "[40, 160, 160]"))
    out, other = config.with_name("out"), config.with_name("other")
    process = tomodask("simulate", config, "-o", out, *HERE)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if "pack" in json.loads((out / "run.json").read_text())["stages"]:
                    break
            except (OSError, ValueError, KeyError):
                pass
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert not (out / "tomogram.zarr").exists()
    run(config, "-o", out, *HERE)
    run(config, "-o", other, *HERE)
    np.testing.assert_array_equal(
        open_tomogram(out / "tomogram.zarr"), open_tomogram(other / "tomogram.zarr")
    )
    assert json.loads((out / "run.json").read_text())["sessions"] == 2
