"""``tomodask classify`` and ``pretrain`` as they are typed, on blobs and noise."""

import dask
import numpy as np
import pytest
from classification.kinds import boxes_of, two_kinds
from helpers import stopped_by_ctrl_c, tomodask

from tomodask.data.particles import read_particles
from tomodask.data.subtomograms import save_subtomograms

pytest.importorskip("torch")

from tomodask.nets.boxes.model_file import read_box_model

QUICK = ("--epochs", 3, "--batch", 8, "--threads", 1, "--precision", "float32")
RATE = ("--network", "inception3d", "--learning-rate", 0.002)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    boxes, labels = two_kinds()
    with dask.config.set(scheduler="synchronous"):
        save_subtomograms(boxes, folder / "boxes.zarr")
    labels.to_csv(folder / "labels.csv", index=False)
    words = ("classify", "train", folder / "boxes.zarr", "--labels", folder / "labels.csv")
    code, out, err = tomodask(*words, *QUICK, *RATE, "-o", folder / "model.safetensors")
    assert code == 0, err
    return folder, words, out, err


def test_training_is_told_and_kept(scene):
    folder, _, out, err = scene
    assert "blob, no particle; accuracy on held-out boxes 1.000, mean of the classes 1.000" in out
    assert "recall: blob 1.00 of 2, no particle 1.00 of 2" in out
    assert err.count("classify: epoch ") == 3
    assert "blob 12, no particle 12; 20 for training, 4 for validation; at most" in err
    kept = {path.name for path in (folder / "model.training").iterdir()}
    assert {"state.safetensors", "history.csv", "progress.png"} <= kept
    code, out, err = tomodask("info", folder / "model.safetensors")
    assert code == 0, err
    for told in ("classifier", "network: inception3d", "classes: blob, no particle", "accuracy: 1"):
        assert told in out


@pytest.mark.parametrize("suffix", [".star", ".csv"])
def test_classes_are_told_and_held_against_labels(scene, tmp_path, suffix):
    folder, *_ = scene
    model, table = folder / "model.safetensors", tmp_path / f"classes{suffix}"
    words = ("classify", "predict", folder / "boxes.zarr", "--model", model, "-o", table)
    code, out, err = tomodask(
        *words, "--labels", folder / "labels.csv", "--least-confidence", 0,
        "--scheduler", "synchronous",
    )  # fmt: skip
    assert code == 0, err
    assert "blob 12, no particle 12" in out
    assert "accuracy 1.000 of 24 labelled boxes" in out
    assert "  1  blob          12    0   1.000\n  2  no particle    0   12   1.000" in out
    found = read_particles(table)
    assert found["kind"].tolist() == ["blob", "no particle"] * 12
    assert found["class"].tolist() == [1, 2] * 12
    code, _, err = tomodask(*words)
    assert code == 2
    assert "exists already; choose another name or add --overwrite" in err


def test_boxes_with_places_are_told_in_a_star(scene, tmp_path):
    """A STAR counts in voxels: the voxel size of the boxes goes with the places."""
    folder, *_ = scene
    boxes, _ = two_kinds()
    places = {axis: ("particle", 20.0 + np.arange(boxes.sizes["particle"])) for axis in "zyx"}
    with dask.config.set(scheduler="synchronous"):
        save_subtomograms(boxes.assign_coords(places), tmp_path / "boxes.zarr")
    code, _, err = tomodask(
        "classify", "predict", tmp_path / "boxes.zarr", "--model", folder / "model.safetensors",
        "-o", tmp_path / "classes.star", "--scheduler", "synchronous",
    )  # fmt: skip
    assert code == 0, err
    found = read_particles(tmp_path / "classes.star")
    for axis in "zyx":
        assert np.allclose(found[axis], places[axis][1])


def test_a_pretrained_encoder_is_begun_with(scene, tmp_path):
    folder, words, *_ = scene
    encoder = tmp_path / "encoder.safetensors"
    code, out, err = tomodask(
        *("pretrain", folder / "boxes.zarr", "--labels", folder / "labels.csv", *QUICK),
        *("--epochs", 1, "--views", "paper", "-o", encoder),
    )
    assert code == 0, err
    assert "rb3d for boxes of 24³, loss" in out
    assert "of labelled boxes a linear probe knows" in out
    views = read_box_model(encoder).training["settings"]["views"]
    assert views["turn"] == 0
    assert views["crop_probability"] == 0.5
    path = tmp_path / "begun.safetensors"
    code, _, err = tomodask(
        *words, *QUICK, "--epochs", 1, "--init", encoder, "--balance", "-o", path
    )
    assert code == 0, err
    assert "learning rate 0.001, lower than from a random start" in err
    assert read_box_model(path).training["settings"]["balance"]
    code, _, err = tomodask(
        "classify", "predict", folder / "boxes.zarr", "--model", encoder, "-o", tmp_path / "c.csv"
    )
    assert code == 2
    assert "knows no classes: train a classifier from it" in err


@pytest.mark.parametrize("what", ["classify", "pretrain"])
def test_ctrl_c_keeps_the_epochs_that_are_done(scene, tmp_path, what):
    folder, words, *_ = scene
    path = tmp_path / "stopped.safetensors"
    command = words if what == "classify" else ("pretrain", folder / "boxes.zarr")
    words = [str(w) for w in (*command, *QUICK, "--epochs", 500, "-o", path)]
    history = tmp_path / "stopped.training" / "history.csv"
    code, err = stopped_by_ctrl_c(words, history.exists)
    assert code == 130, err
    assert "the same command with --resume goes on" in err
    assert "Traceback" not in err
    assert 1 <= len(read_box_model(path).history) < 500
    code, _, err = tomodask(*words)
    assert code == 2
    assert "--resume" in err


@pytest.mark.parametrize("what", ["classify", "pretrain"])
def test_ctrl_c_before_the_first_epoch_says_that_nothing_is_there(
    scene, tmp_path, monkeypatch, what
):
    from tomodask.nets.boxes.trainer import ClassifierTrainer
    from tomodask.nets.pretraining.trainer import Pretrainer

    def stop(*_):
        raise KeyboardInterrupt

    folder, words, *_ = scene
    path = tmp_path / "stopped.safetensors"
    command = words if what == "classify" else ("pretrain", folder / "boxes.zarr")
    again = ("--batch", 8, "--threads", 1, "--precision", "float32", "--epochs", 1, "-o", path)
    with monkeypatch.context() as patch:
        for kind in (ClassifierTrainer, Pretrainer):
            patch.setattr(kind, "_step", stop)
        code, _, err = tomodask(*command, *again)
    assert code == 130
    assert "nothing to go on from yet, the same command begins again" in err
    assert not path.exists()
    code, _, err = tomodask(*command, *again, "--resume")
    assert code == 0, err
    assert "stopped.training: no epoch is there to go on from; training begins" in err
    for kind in (ClassifierTrainer, Pretrainer):
        monkeypatch.setattr(kind, "_step", stop)
    code, _, err = tomodask(*command, *again, "--overwrite")  # the former is dropped by then
    assert code == 130
    assert "nothing to go on from yet" in err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("--class", "ribosome"), "no box is of 'ribosome'; it has 'blob', 'no particle'"),
        (("--class", "Blobs", "--class", "no particle"), "'no particle'; did you mean 'blob'?"),
        (("--class", "blob"), "labels are of one class only (blob)"),
        (("--resume", "--overwrite"), "exclude each other"),
        (("--epochs", 0), "epochs must be at least 1"),
        (("--batch", 500, "--memory", 0.000001), "memory must hold at least"),
        (("--labels", "nowhere.csv"), "nowhere.csv: no such file"),
        (("--init", "nowhere.safetensors"), "there is no model file nowhere.safetensors"),
        (("--network", "resnet"), "Invalid value for '--network'"),
    ],
)
def test_what_is_typed_wrongly(scene, tmp_path, change, told):
    _, words, *_ = scene
    code, _, err = tomodask(*words, *change, "-o", tmp_path / "model.safetensors")
    assert code == 2
    assert told in err
    assert "Traceback" not in err
    assert not (tmp_path / "model.safetensors").exists()


def test_boxes_of_another_size(scene, tmp_path):
    folder, *_ = scene
    values = two_kinds(2)[0].subtomogram.to_numpy()
    with dask.config.set(scheduler="synchronous"):
        save_subtomograms(boxes_of(values[:, 1:-1, 1:-1, 1:-1]), tmp_path / "small.zarr")
        other = boxes_of(values).assign_attrs(voxel_size=20.0)
        save_subtomograms(other, tmp_path / "coarse.zarr")
    words = ("--model", folder / "model.safetensors", "-o", tmp_path / "c.csv")
    code, _, err = tomodask("classify", "predict", tmp_path / "small.zarr", *words)
    assert code == 2
    assert "boxes of 22×22×22 voxels, the model takes 24³; extract them anew with" in err
    code, _, err = tomodask("classify", "predict", tmp_path / "coarse.zarr", *words)
    assert code == 2
    assert "voxels of 20 Å, the model was trained on 10 Å; resample" in err


def damaged(kind, data):
    """A model file that is no sound one."""
    if kind == "pickle":
        return b"PK\x03\x04" + data[4:]
    if kind == "cut off":
        return data[: len(data) // 2]
    if kind == "huge header":
        return (2**60).to_bytes(8, "little") + data[8:]
    if kind == "other weights":
        return data.replace(b'"five.bias"', b'"evil.bias"', 1)
    return data.replace(b'\\"temperature\\": ', b'\\"temperature\\": -', 1)


@pytest.mark.parametrize(
    "kind", ["pickle", "cut off", "huge header", "other weights", "temperature", "text"]
)
def test_model_files_that_are_none(scene, tmp_path, kind):
    folder, words, *_ = scene
    data = (folder / "model.safetensors").read_bytes()
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"hello" if kind == "text" else damaged(kind, data))
    assert bad.read_bytes() != data
    for command in (
        ("classify", "predict", folder / "boxes.zarr", "--model", bad, "-o", tmp_path / "c.csv"),
        (*words, "--init", bad, "-o", tmp_path / "new.safetensors"),
    ):
        code, _, err = tomodask(*command)
        assert code == 2, (kind, err)
        assert "bad.safetensors" in err
        assert err.count("tomodask: ") == 1


def test_a_state_that_is_damaged(scene, tmp_path):
    _, words, *_ = scene
    path = tmp_path / "model.safetensors"
    (tmp_path / "model.training").mkdir()
    (tmp_path / "model.training" / "state.safetensors").write_bytes(b"hello")
    code, _, err = tomodask(*words, *QUICK, "--resume", "-o", path)
    assert code == 2
    assert "is damaged" in err
