"""``tomodask segment``: what it writes and says, goes on with, and refuses."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from nets.models import random_model
from picking.test_segmentation import noise, tomogram

from tomodask.cli.picking import pick
from tomodask.cli.segmentation import segment as command
from tomodask.data.particles import read_particles
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.errors import InputError
from tomodask.nets.segmentation.model_file import write_model
from tomodask.picking.segmentation.segmenting import open_segmentation, segment_tomogram

MODEL = random_model(classes=2)


@pytest.fixture
def ice(tmp_path):
    save_tomogram(tomogram(noise((20, 24, 40))), tmp_path / "ice.zarr", chunk=16)
    write_model(MODEL, tmp_path / "model.safetensors")
    return tmp_path / "ice.zarr"


def run(ice, *words, model=None):
    model = model or ice.with_name("model.safetensors")
    given = (ice, "--model", model, *words, "--scheduler", "synchronous")
    result = CliRunner().invoke(command, [str(word) for word in given])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_writes_what_the_function_gives(ice, tmp_path):
    out = tmp_path / "p.zarr"
    result = run(ice, "-o", out, "--tile", 24, "--halo", 4, "--mirror", "--batch", 2)
    assert result.exit_code == 0, result.output
    told = f"{out}: 20×24×40 voxels of 10 Å; classes: kind 0, kind 1\n"
    assert result.stdout.endswith(told)
    want = segment_tomogram(open_tomogram(ice), MODEL, tile=24, halo=4, mirror=True).compute()
    assert open_segmentation(out).identical(want)


def test_another_voxel_size_is_brought_to_the_models(ice, tmp_path):
    out = tmp_path / "p.zarr"
    result = run(ice, "-o", out, "--voxel-size", 5.0)
    assert "10×12×20 voxels of 10 Å" in result.output
    assert open_segmentation(out).shape == (2, 10, 12, 20)


@pytest.mark.parametrize(("name", "style"), [("a.tbl", "relion3.1"), ("a.star", "relion5")])
def test_picks_of_a_store_count_in_the_tomograms_voxels(tmp_path, name, style):
    """Also where the network saw others, as picks of the tomogram itself do."""
    save_tomogram(tomogram(noise((21, 33, 44)), voxel_size=6.0), tmp_path / "ice.zarr")
    write_model(random_model(channels=(3,)), tmp_path / "model.safetensors")
    run(tmp_path / "ice.zarr", "-o", tmp_path / "p.zarr")
    words = ("--threshold", "0.3", "--style", style, "--scheduler", "synchronous")
    tables = []
    for source, more in (
        ("p.zarr", ()),
        ("ice.zarr", ("--model", tmp_path / "model.safetensors")),
    ):
        out = tmp_path / f"of_{source}_{name}"
        given = (tmp_path / source, *more, "-o", out, *words)
        result = CliRunner().invoke(pick, [str(word) for word in given])
        assert result.exit_code == 0, result.output
        tables.append(read_particles(out, voxel_size=6.0, tomogram_shape=(21, 33, 44)))
    pd.testing.assert_frame_equal(*tables)
    places = tables[0][["z", "y", "x"]].to_numpy()
    assert len(places) > 1
    assert (places >= 0).all()
    assert (places <= np.array([20, 32, 43]) * 6.0).all()


def test_same_command_again_and_another_model(ice, tmp_path):
    out = tmp_path / "p.zarr"
    run(ice, "-o", out)
    before = open_segmentation(out).to_numpy()
    run(ice, "-o", out)
    other = tmp_path / "other.safetensors"
    write_model(random_model(classes=2, seed=7), other)
    with pytest.raises(InputError, match="another run"):
        run(ice, "-o", out, model=other)
    np.testing.assert_array_equal(open_segmentation(out).to_numpy(), before)
    run(ice, "-o", out, "--overwrite", model=other)
    assert np.abs(open_segmentation(out).to_numpy() - before).max() > 0.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "p.mrc"), r"must end with \.zarr"),
        (("-o", "missing/p.zarr"), "the folder missing does not exist"),
        (("-o", "ice.zarr"), "is an input too"),
        (("-o", "p.zarr", "--tile", "-3"), "tile must be a whole number of at least 1"),
        (("-o", "p.zarr", "--halo", "-3"), "halo must be a whole number of at least 0"),
        (("-o", "p.zarr", "--batch", "0"), "batch must be a whole number of at least 1"),
        (("-o", "p.zarr", "--voxel-size", "0.5"), "must be within a factor of 8"),
    ],
)
def test_refuses(ice, monkeypatch, words, message):
    monkeypatch.chdir(ice.parent)
    with pytest.raises(InputError, match=message):
        run(ice, *words)
    assert not ice.with_name("p.zarr").exists()


def test_refuses_a_model_of_another_kind(ice, tmp_path):
    wrong = tmp_path / "model.pt"
    wrong.write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="is a pickle"):
        run(ice, "-o", tmp_path / "p.zarr", model=wrong)
    with pytest.raises(InputError, match="there is no model file"):
        run(ice, "-o", tmp_path / "p.zarr", model=tmp_path / "none.safetensors")


@pytest.mark.parametrize("words", [("--engine", "magic"), ("--precision", "int8"), ()])
def test_wrong_words_are_told_by_click(ice, words):
    result = run(ice, *words)  # the last one: no output
    assert result.exit_code == 2
