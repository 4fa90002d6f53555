"""The three networks: shapes, numbers of weights, seeds, and slow NumPy versions."""

import numpy as np
import pytest
import torch

from tomodask.errors import InputError
from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.boxes.networks import build_encoder, network

torch.set_num_threads(1)
NAMES = ("rb3d", "inception3d", "dsrf3d")


@pytest.mark.parametrize(
    ("name", "box"),
    [(name, box) for name in NAMES for box in (24, 25, 27)] + [("rb3d", 48), ("inception3d", 48)],
)
def test_any_box_is_taken(name, box):
    encoder = Encoder(name, box, 5)
    built = build_encoder(encoder).eval()
    assert {k: tuple(v.shape) for k, v in built.state_dict().items()} == encoder.shapes
    assert sum(v.numel() for v in built.parameters()) == encoder.parameters
    with torch.inference_mode():
        x = torch.randn(2, 1, box, box, box)
        assert built(x).shape == (2, 5)
        assert built.features(x).shape == (2, encoder.features)


def test_first_weights_are_those_of_the_seed_and_leave_other_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, other, third = (network("rb3d", 24, 3, seed=n).state_dict() for n in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert not torch.equal(one["last.weight"], third["last.weight"])


def convolution(x, weight, bias):
    """Sums of products, voxel by voxel of the kernel, zeros outside; (channel, z, y, x)."""
    edge = weight.shape[2]
    padded = np.pad(x, [(0, 0)] + [(edge // 2,) * 2] * 3)
    out = np.zeros((len(weight), *x.shape[1:]))
    for z, y, w in np.ndindex(edge, edge, edge):
        part = padded[:, z : z + x.shape[1], y : y + x.shape[2], w : w + x.shape[3]]
        out += np.tensordot(weight[:, :, z, y, w], part, 1)
    return out + bias[:, None, None, None]


def blocks(x, parts, reduce):
    edge = x.shape[1] // parts
    cut = x.reshape(len(x), parts, edge, parts, edge, parts, edge)
    return reduce(cut, axis=(2, 4, 6))


def relu(x):
    return np.maximum(x, 0)


def prepared(name):
    """A network with biases, its weights by name, a box, and a layer by name."""
    built = network(name, 24, 4, seed=3).eval()
    rng = np.random.default_rng(0)
    for values in built.parameters():
        values.data += torch.from_numpy(0.05 * rng.normal(size=values.shape).astype(np.float32))
    box = rng.normal(size=(1, 24, 24, 24)).astype(np.float32)
    w = {k: v.detach().numpy().astype(float) for k, v in built.named_parameters()}

    def layer(x, name):
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        return weight @ x + bias if weight.ndim == 2 else convolution(x, weight, bias)

    return built, box, layer


def assert_gives(built, box, features, logits):
    with torch.inference_mode():
        given = torch.from_numpy(box[None])
        for got, expected in ((built.features(given), features), (built(given), logits)):
            scale = np.abs(expected).max()
            np.testing.assert_allclose(got[0].numpy(), expected, atol=1e-5 * scale)


def test_rb3d_is_what_the_paper_draws():
    built, box, layer = prepared("rb3d")
    x = blocks(relu(layer(box, "first")), 12, np.max)
    for n in range(4):
        short = layer(x, f"blocks.{n}.short")
        long = relu(layer(x, f"blocks.{n}.narrow"))
        long = layer(relu(layer(long, f"blocks.{n}.wide")), f"blocks.{n}.close")
        x = relu(np.concatenate([short, long]))
    features = relu(layer(blocks(x, 4, np.mean).ravel(), "hidden"))
    assert_gives(built, box, features, layer(features, "last"))


@pytest.mark.parametrize(
    ("box", "windows"), [(24, (3, 3)), (32, (4, 4)), (30, (6, 3)), (28, (5, 3))]
)
def test_windows_reach_from_face_to_face(box, windows):
    size, step = Encoder("rb3d", box, 5).windows
    assert (size, step) == windows
    assert 3 * step + size == box // 2


def test_boxes_differ_in_what_a_new_network_says():
    """With Glorot's weights RB3D says nearly the same of all, and does not begin to learn."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices((24, 24, 24)) - 12
    boxes = [rng.normal(size=(24, 24, 24)) + 2 * (z**2 + y**2 + x**2 < r * r) for r in range(8)]
    built = network("rb3d", 24, 10, seed=1).eval()
    with torch.inference_mode():
        given = built.features(torch.from_numpy(np.array(boxes, np.float32)[:, None]))
    assert given.std(0).mean() > 0.03


def test_dsrf3d_is_what_the_paper_draws():
    built, box, layer = prepared("dsrf3d")
    x = relu(layer(relu(layer(box, "convolutions.0")), "convolutions.1"))
    x = blocks(x, 12, np.max)
    x = relu(layer(relu(layer(x, "convolutions.2")), "convolutions.3"))
    features = blocks(x, 6, np.max).ravel()
    for name in ("hidden.0", "hidden.1"):
        features = relu(layer(features, name))
    assert_gives(built, box, features, layer(features, "last"))


def neighbours(x):
    """Each voxel with the seven beyond it, where there are all."""
    n = x.shape[1] - 1
    parts = [x[:, i : i + n, j : j + n, k : k + n] for i, j, k in np.ndindex(2, 2, 2)]
    return np.array(parts)


def test_inception3d_is_what_the_paper_draws():
    built, box, layer = prepared("inception3d")
    x = relu(layer(box, "first")[:, 2:-2, 2:-2, 2:-2])
    x = blocks(x, 10, np.max)
    beyond = np.pad(x, [(0, 0)] + [(0, 1)] * 3, constant_values=-np.inf)
    x = np.concatenate(
        [
            layer(x, "single"),
            layer(relu(layer(x, "to_three")), "three"),
            layer(relu(layer(x, "to_five")), "five"),
            layer(neighbours(beyond).max(0), "after_pool"),
        ]
    )
    logits = layer(neighbours(relu(x)).mean(0).ravel(), "last")
    assert_gives(built, box, logits, logits)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_runs(name):
    built = network(name, 24, 3).eval()
    x = torch.randn(1, 1, 24, 24, 24)
    with torch.inference_mode():
        exact = built(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = built(x).float()
    np.testing.assert_allclose(rough.numpy(), exact.numpy(), atol=0.1 * float(exact.abs().max()))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"network": "resnet"}, "network must be one of rb3d, inception3d, dsrf3d, got 'resnet'"),
        ({"box": 23}, "box must be .* from 24 to 48, got 23"),
        ({"box": 49}, "got 49"),
        ({"box": 32.0}, "got 32.0"),
        ({"outputs": 0}, "outputs must be from 1 to 4096, got 0"),
    ],
)
def test_bad_input(changed, told):
    with pytest.raises(InputError, match=told):
        Encoder(**{"network": "rb3d", "box": 32, "outputs": 3, **changed})


@pytest.mark.parametrize("name", ["rb3d", "dsrf3d", "inception3d"])
def test_what_the_last_layer_gets_can_be_made_longer(name):
    built = network(name, 24, 3).eval()
    for values in built.parameters():
        if values.ndim == 1:
            torch.nn.init.normal_(values)  # biases, too
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 1, 24, 24, 24))).float()
    with torch.no_grad():
        before = built.flat(built.maps(x))
        length = built.length(x)
        built.lengthen(4.0)
        assert torch.equal(built.flat(built.maps(x)), 4 * before)
    assert built.length(x) == 4 * length == pytest.approx(4 * before.square().mean().sqrt())
