"""Model files: read as they were written; what is damaged, foreign or malicious is refused."""

import json
import math
import os
import pickle
import struct
from dataclasses import fields, replace

import numpy as np
import pytest
from nets.models import random_model

from tomodask.errors import InputError
from tomodask.nets.segmentation.architecture import Architecture
from tomodask.nets.segmentation.model_file import PickingModel, read_model, write_model


def told(model):
    return replace(
        model,
        reach=((4, 0.25), (8, 0.01)),
        history=({"epoch": 1, "loss": 0.5, "f1": 0.75},),
        training={"seed": 3, "sources": ["a.mrc"]},
        diameters=tuple(90.0 + i for i in range(len(model.classes))),
        invert=True,
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    write_model(told(random_model(classes=2)), path)
    return path


def parts(path):
    """The header, as JSON knows it, and the bytes of the arrays."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def rebuilt(path, header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def retold(path, change):
    """The same file with something else in its description."""
    header, body = parts(path)
    description = json.loads(header["__metadata__"]["model"])
    change(description)
    header["__metadata__"]["model"] = json.dumps(description)
    rebuilt(path, header, body)


@pytest.mark.parametrize("classes", [1, 3])
def test_reads_what_was_written(tmp_path, classes):
    model = told(random_model(classes=classes))
    write_model(model, tmp_path / "model.safetensors")
    back = read_model(tmp_path / "model.safetensors")
    for field in fields(PickingModel):
        if field.name != "weights":
            assert getattr(back, field.name) == getattr(model, field.name), field.name
    assert set(back.weights) == set(model.weights)
    for name, values in model.weights.items():
        np.testing.assert_array_equal(back.weights[name], values)
    assert back.digest == model.digest
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_digest_tells_what_changes_a_result():
    model = random_model()
    name = "head.bias"
    other = {**model.weights, name: model.weights[name] + np.float32(1e-6)}
    changed = [
        replace(model, weights=other),
        replace(model, voxel_size=11.0),
        replace(model, invert=True),
        replace(model, classes=("other",)),
        random_model(coordinates="patch"),
    ]
    digests = {one.digest for one in [model, *changed]}
    assert len(digests) == len(changed) + 1
    assert replace(model, history=({"epoch": 1},)).digest == model.digest


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"there is no model file .*tomodask train"):
        read_model(tmp_path / "model.safetensors")


def test_a_folder(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_model(tmp_path)


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_a_pickle_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(InputError, match=r"is a pickle .* could run any code"):
        read_model(path)
    assert not (tmp_path / "pwned").exists()


def test_a_checkpoint_of_pytorch_is_not_opened(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    torch.save({"model": _Evil()}, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match="is a pickle"):
        read_model(tmp_path / "model.ckpt")
    assert not (tmp_path / "pwned").exists()


def test_a_header_of_any_length_is_no_pickle(tmp_path):
    """The first byte of the header's length may be that of a pickle (128), one time in 32."""
    model, path, lengths = random_model(channels=(2,)), tmp_path / "model.safetensors", []
    for more in range(32):
        write_model(replace(model, training={"told": "a" * 8 * more}), path)
        read_model(path)
        lengths.append(path.read_bytes()[0])
    assert 0x80 in lengths


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, -1000, -1])
def test_truncated(file, kept):
    data = file.read_bytes()
    file.write_bytes(data[:kept])
    with pytest.raises(InputError, match=r"damaged|not a model"):
        read_model(file)


def test_every_byte_of_the_header_may_be_damaged(file):
    """Whatever a flipped bit does, it is either noticed as the input's fault, or harmless."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    rng = np.random.default_rng(0)
    noticed = 0
    for place in rng.choice(8 + length, 150, replace=False):
        wrong = bytearray(data)
        wrong[place] ^= 1 << rng.integers(8)
        file.write_bytes(wrong)
        try:
            read_model(file)
        except InputError:
            noticed += 1
    assert noticed > 75


def test_random_bytes(tmp_path):
    rng = np.random.default_rng(1)
    for size in (3, 8, 64, 4096):
        path = tmp_path / "model.safetensors"
        path.write_bytes(rng.bytes(size))
        with pytest.raises(InputError, match=str(path)):
            read_model(path)


@pytest.mark.parametrize("length", [0, 1, 1 << 40, (1 << 64) - 1])
def test_a_header_of_a_wrong_or_huge_length(file, length):
    data = file.read_bytes()
    file.write_bytes(struct.pack("<Q", length) + data[8:])
    with pytest.raises(InputError, match=r"not a model .* or it is damaged"):
        read_model(file)


def test_a_file_that_claims_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as holes:
        holes.write(struct.pack("<Q", 5 << 30))
        holes.truncate(6 << 30)
    with pytest.raises(InputError, match="no model of this kind is so large"):
        read_model(path)


@pytest.mark.parametrize("inside", [False, True])
def test_deeply_nested_json(file, inside):
    deep = "[" * 100_000 + "]" * 100_000
    header, body = parts(file)
    if inside:
        header["__metadata__"]["model"] = deep
        rebuilt(file, header, body)
    else:
        rebuilt(file, deep.encode(), body)
    with pytest.raises(InputError, match=str(file)):
        read_model(file)


def test_other_kinds_of_safetensors(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}, {"format": "pt", "model": "{}"}):
        save_file({"weight": np.zeros(3, np.float32)}, path, metadata)
        with pytest.raises(InputError, match="is not a model that `tomodask train` wrote"):
            read_model(path)


def edited(name):
    """A change of one value of the description."""

    def wrap(value):
        def change(description):
            if value is KeyError:
                del description[name]
            else:
                description[name] = value

        change.__name__ = f"{name}={value}"
        return change

    return wrap


@pytest.mark.parametrize(
    "change",
    [
        edited("classes")(KeyError),
        edited("classes")(["one"]),
        edited("classes")(["same", "same"]),
        edited("classes")([1, 2]),
        edited("diameters")([10.0]),
        edited("diameters")([10.0, -1.0]),
        edited("diameters")(["a", "b"]),
        edited("voxel_size")(0),
        edited("voxel_size")("NaN"),
        edited("voxel_size")([10]),
        edited("voxel_size")(10**400),
        edited("halo")(-1),
        edited("halo")(1e9),
        edited("halo")("8"),
        edited("label_diameter")(2),
        edited("reach")(5),
        edited("reach")([[1]]),
        edited("reach")([[math.inf, 0.1]]),
        edited("history")(7),
        edited("history")([7]),
        edited("training")(7),
        edited("architecture")(KeyError),
        edited("architecture")(None),
        edited("architecture")([]),
        edited("architecture")({"channels": [4, 6]}),
        edited("architecture")({"channels": [4, 6], "surprise": 1}),
        edited("architecture")({"channels": 4}),
        edited("architecture")({"channels": ["4"]}),
        edited("architecture")({"channels": [1 << 60]}),
        edited("architecture")({"channels": [4] * 100}),
        edited("architecture")({"channels": [4, 6], "classes": "2"}),
        edited("architecture")({"channels": [4, 6], "classes": 10**12}),
        edited("architecture")({"channels": [4, 6], "classes": 2, "border": "wide"}),
        edited("architecture")({"channels": [4, 6], "classes": 2, "border": math.nan}),
        edited("architecture")({"channels": [4, 6], "classes": 2, "pooling": ["average"]}),
    ],
    ids=lambda change: change.__name__[:60],
)
def test_descriptions_that_do_not_hold(file, change):
    retold(file, change)
    with pytest.raises(InputError, match=str(file)) as caught:
        read_model(file)
    assert "InputError" not in str(caught.value)  # what is wrong, not the error's own text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_numbers(file, value):
    model = read_model(file)
    name = "encoder.0.first.0.weight"
    bad = model.weights[name].copy()
    bad.flat[3] = value
    with pytest.raises(InputError, match=f"weight {name!r} holds NaN or infinite values"):
        replace(model, weights={**model.weights, name: bad})
    # … and in a file, which nothing of ours wrote:
    header, body = parts(file)
    begin = header[name]["data_offsets"][0]
    body = body[:begin] + np.float32(value).tobytes() + body[begin + 4 :]
    del header["__metadata__"]["digest"]  # with it, the file would be told to be damaged
    rebuilt(file, header, body)
    with pytest.raises(InputError, match="holds NaN or infinite values"):
        read_model(file)


def test_weights_of_another_network(file):
    model = read_model(file)
    name = "head.bias"
    for bad in (np.zeros(7, np.float32), model.weights[name].astype(np.float64)):
        with pytest.raises(InputError, match=r"weight 'head.bias' must be float32 of shape \(3,\)"):
            replace(model, weights={**model.weights, name: bad})
    fewer = {k: v for k, v in model.weights.items() if k != name}
    with pytest.raises(InputError, match=r"1 names differ, the first is 'head\.bias'"):
        replace(model, weights=fewer)
    with pytest.raises(InputError, match="not those of the network described"):
        replace(model, architecture=Architecture(classes=2, channels=(4, 6, 8)))


def test_a_variance_below_zero_is_refused(file):
    """Its square root would be no number, and neither would any probability."""
    model = read_model(file)
    name = "encoder.0.first.1.running_var"
    bad = model.weights[name].copy()
    bad[0] = -1.0
    with pytest.raises(InputError, match=name):
        replace(model, weights={**model.weights, name: bad})


def test_writing_where_it_cannot(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_model(random_model(), tmp_path / "missing" / "model.safetensors")


def test_writing(tmp_path):
    model = random_model()
    with pytest.raises(InputError, match=r"must end with \.safetensors"):
        write_model(model, tmp_path / "model.pt")
    path = tmp_path / "model.safetensors"
    write_model(model, path)
    write_model(replace(model, halo=16), path)  # replaced in one step
    assert read_model(path).halo == 16


def test_others_may_read_a_model_as_the_umask_says(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_model(random_model(), tmp_path / "model.safetensors")
    modes = [(tmp_path / name).stat().st_mode for name in ("plain", "model.safetensors")]
    assert modes[0] == modes[1]
