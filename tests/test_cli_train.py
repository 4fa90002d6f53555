"""``tomodask train``, ``segment``, ``pick``, ``score`` as they are typed, on balls of two sizes."""

import pytest
from helpers import stopped_by_ctrl_c, tomodask
from picking.balls import marked_balls

from tomodask.data.particles import read_particles, write_particles
from tomodask.data.tomograms import save_tomogram
from tomodask.nets.segmentation.model_file import read_model

HERE = ("--scheduler", "synchronous")
QUICK = (
    *("--channels", 4, 6, 8, 8, "--crop", 24, "--epochs", 3, "--examples", 32, "--batch", 4),
    *("--learning-rate", 0.01, "--threads", 1, "--precision", "float32"),
)
BOTH = ("--diameter", "large=100", "--diameter", "small=70")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    volume, table = marked_balls("TS_01", shape=(32, 72, 72), count=20, seed=3)
    save_tomogram(volume, folder / "TS_01.zarr")
    write_particles(table, folder / "marked.csv")
    words = ("train", folder / "TS_01.zarr", "--picks", folder / "marked.csv", *BOTH, *QUICK)
    code, out, err = tomodask(*words, "-o", folder / "model.safetensors")
    assert code == 0, err
    return folder, words, out, err


def test_training_is_told_and_kept(scene):
    folder, _, out, err = scene
    assert "large, small; F1 on held-out particles" in out
    assert err.count("epoch ") == 3
    kept = {path.name for path in (folder / "model.training").iterdir()}
    assert {"state.safetensors", "history.csv", "progress.png", "slices"} <= kept
    assert len(list((folder / "model.training" / "slices").iterdir())) == 3
    assert read_model(folder / "model.safetensors").diameters == (100.0, 70.0)
    code, out, _ = tomodask("info", folder / "model.safetensors")
    assert code == 0
    assert "classes: large, small" in out


def test_the_whole_way(scene):
    folder, *_ = scene
    model, tomogram = folder / "model.safetensors", folder / "TS_01.zarr"
    code, _, err = tomodask("segment", tomogram, "--model", model, "-o", folder / "p.zarr", *HERE)
    assert code == 0, err
    for words, out in (((folder / "p.zarr",), "a.csv"), ((tomogram, "--model", model), "b.csv")):
        code, _, err = tomodask("pick", *words, "--threshold", 0.02, "-o", folder / out, *HERE)
        assert code == 0, err
    assert read_particles(folder / "a.csv").equals(read_particles(folder / "b.csv"))
    code, out, err = tomodask("score", folder / "a.csv", folder / "marked.csv", "--radius", 50)
    assert code == 0, err
    assert "localisation" in out


def test_ctrl_c_keeps_the_epochs_that_are_done(scene, tmp_path):
    _, words, *_ = scene
    path = tmp_path / "stopped.safetensors"
    words = [str(w) for w in (*words, "-o", path)]
    words[words.index("--epochs") + 1] = "60"
    state = tmp_path / "stopped.training" / "history.csv"
    code, err = stopped_by_ctrl_c(words, state.exists)
    assert code == 130, err
    assert "the same command with --resume goes on" in err
    assert 1 <= len(read_model(path).history) < 60
    code, _, err = tomodask(*words)
    assert code == 2
    assert "--resume" in err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("--diameter", "x"), "CLASS=length, got 'x'"),
        (("--diameter", "100", "--diameter", "70"), "name the class of each"),
        (("--diameter", "large=100"), "none given for 'small'"),
        (("--diameter", "1000"), "bin the tomograms by 6"),
        ((*BOTH, "--class", "ribosome"), "'ribosome'; it has 'large', 'small'"),
        ((*BOTH, "--crop", "20"), "crop must be 16 to 512 voxels, a multiple of 8"),
        ((*BOTH, "--voxel-size", "5"), "lie outside"),
        ((*BOTH, "--resume", "--overwrite"), "exclude each other"),
    ],
)
def test_what_is_typed_wrongly(scene, tmp_path, change, told):
    folder, *_ = scene
    code, _, err = tomodask(
        *("train", folder / "TS_01.zarr", "--picks", folder / "marked.csv", *change),
        *("-o", tmp_path / "model.safetensors"),
    )
    assert code == 2
    assert told in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_none(scene, tmp_path):
    folder, *_ = scene
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04rest")
    for name, told in (("model.pt", "pickle"), ("absent.safetensors", "there is no model file")):
        code, _, err = tomodask(
            *("segment", folder / "TS_01.zarr", "--model", tmp_path / name),
            *("-o", tmp_path / "p.zarr", *HERE),
        )
        assert code == 2
        assert told in err
