"""Models of boxes: files, calibration, Grad-CAM."""

import json
import pickle
import struct
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from tomodask.errors import InputError
from tomodask.nets.boxes.calibration import calibration_error, fit_temperature, probabilities
from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.boxes.gradcam import grad_cam
from tomodask.nets.boxes.model_file import BoxModel, read_box_model, write_box_model
from tomodask.nets.boxes.networks import build_encoder, network
from tomodask.nets.boxes.normalisation import normalised
from tomodask.nets.training_state import weights_of

torch.set_num_threads(1)


def random_model(name="rb3d", classes=("a", "b", "c"), seed=1, **changes):
    encoder = Encoder(name, 24, len(classes) or 8)
    weights = weights_of(build_encoder(encoder, seed=seed))
    return BoxModel(encoder, weights, 10.0, classes, **changes)


def boxes(count=7, seed=0):
    return np.random.default_rng(seed).normal(5, 3, size=(count, 24, 24, 24)).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    told = {"temperature": 1.5, "invert": True, "history": ({"epoch": 1, "loss": 0.5},)}
    write_box_model(random_model(**told, training={"seed": 3}, least_confidence=0.25), path)
    return path


def retold(path, **changes):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    description = {**json.loads(header["__metadata__"]["model"]), **changes}
    header["__metadata__"]["model"] = json.dumps(description)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def test_reads_what_was_written(file):
    model = read_box_model(file)
    expected = random_model(temperature=1.5, invert=True, least_confidence=0.25)
    assert model.digest == expected.digest
    assert model.history == ({"epoch": 1, "loss": 0.5},)
    assert model.training == {"seed": 3}
    assert model.source == file
    for one in fields(BoxModel):
        if one.name not in ("weights", "history", "training", "source"):
            assert getattr(model, one.name) == getattr(expected, one.name)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"encoder": {"network": "rb3d", "box": 32, "outputs": 4}}, "weight|classes"),
        ({"encoder": {"network": "dsrf3d", "box": 24, "outputs": 3}}, "names differ"),
        ({"encoder": {"network": "rb3d", "box": 10**9, "outputs": 3}}, "box must be"),
        ({"encoder": {"network": "rb3d", "box": 24, "outputs": 10**9}}, "outputs must be"),
        ({"encoder": 3}, "not complete"),
        ({"classes": ["a", "b"]}, "classes must be 3 different names"),
        ({"classes": ["a", "b", "b"]}, "classes must be 3 different names"),
        ({"classes": ["a", "b", 3]}, "classes must be names"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"temperature": "hot"}, "temperature must be above 0"),
        ({"voxel_size": float("nan")}, "voxel_size must be above 0"),
        ({"least_confidence": 1}, "least_confidence must be from 0"),
        ({"normalisation": "none"}, "normalised by 'none'"),
        ({"history": [3]}, "not complete"),
    ],
)
def test_descriptions_that_do_not_hold(file, changed, told):
    retold(file, **changed)
    with pytest.raises(InputError, match=told) as caught:
        read_box_model(file)
    assert str(file) in str(caught.value)
    assert "InputError" not in str(caught.value)


def test_files_that_are_none(file, tmp_path):
    with pytest.raises(InputError, match="there is no model file"):
        read_box_model(tmp_path / "none.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(InputError, match="damaged"):
        read_box_model(file)
    file.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match="is a pickle"):
        read_box_model(file)
    with pytest.raises(InputError, match=r"must end with \.safetensors"):
        write_box_model(random_model(), tmp_path / "model.pt")
    bad = random_model()
    bad.weights["last.bias"][0] = np.nan
    with pytest.raises(InputError, match=r"'last\.bias' holds NaN"):
        replace(bad)


def test_a_changed_byte_is_noticed(file):
    data = bytearray(file.read_bytes())
    data[-1000] ^= 1  # of a weight: it stays a number
    file.write_bytes(data)
    with pytest.raises(InputError, match="not those that were written; copy or train it again"):
        read_box_model(file)


def test_a_temperature_makes_confidence_true():
    """Labels drawn by softmax(logits / 2.5): so 2.5 is the truth."""
    rng = np.random.default_rng(2)
    logits = rng.normal(scale=4, size=(20_000, 5))
    chances = probabilities(logits, 2.5)
    labels = (rng.random((len(logits), 1)) > chances.cumsum(1)).sum(1)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(2.5, rel=0.05)
    assert calibration_error(probabilities(logits), labels) > 0.1
    assert calibration_error(probabilities(logits, found), labels) < 0.02
    with pytest.raises(InputError, match="at least 2 boxes"):
        fit_temperature(logits[:1], labels[:1])


def test_calibration_error_is_that_of_the_paper():
    rng = np.random.default_rng(3)
    chances = rng.dirichlet(np.ones(4), size=200)
    labels = rng.integers(0, 4, 200)
    expected = 0.0
    for low in np.arange(10) / 10:
        at = (chances.max(1) >= low) & (chances.max(1) < low + 0.1)
        if at.any():
            right = (chances.argmax(1) == labels)[at].mean()
            expected += at.mean() * abs(right - chances.max(1)[at].mean())
    assert calibration_error(chances, labels, bins=10) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["rb3d", "inception3d"])
def test_grad_cam_is_that_of_the_paper(name):
    """Derivatives by differences: one voxel of a map at a time, for a few maps."""
    built = network(name, 24, 3, seed=2).eval().double()
    box = normalised(boxes(1))
    x = torch.from_numpy(box).double()[:, None]
    with torch.no_grad():
        maps = built.maps(x)
        share = torch.zeros(maps.shape[1], dtype=torch.double)
        for channel in range(maps.shape[1]):
            # Moving all voxels of a map alike is the sum of their derivatives.
            moved = maps.clone()
            moved[:, channel] += 1e-6
            change = (built.last(built.flat(moved)) - built.last(built.flat(maps)))[0, 1]
            share[channel] = change / 1e-6 / maps[0, channel].numel()
        seen = torch.relu((share[None, :, None, None, None] * maps).sum(1, keepdim=True))
        seen = torch.nn.functional.interpolate(seen, size=(24, 24, 24), mode="trilinear")[0, 0]
    got = grad_cam(network(name, 24, 3, seed=2), box, np.array([1]))[0]
    np.testing.assert_allclose(got, (seen / seen.max()).numpy(), atol=1e-3)


def test_grad_cam_leaves_the_network_as_it_was():
    built = network("rb3d", 24, 3).train()
    before = weights_of(built)
    seen = grad_cam(built, normalised(boxes(2)))
    assert built.training
    assert all(np.array_equal(v, before[k]) for k, v in weights_of(built).items())
    assert all(p.grad is None for p in built.parameters())
    assert seen.shape == (2, 24, 24, 24)
    assert (seen >= 0).all()
    with pytest.raises(InputError, match="classes must be from 0 to 2"):
        grad_cam(built, normalised(boxes(1)), np.array([3]))
