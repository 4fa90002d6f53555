"""How a classifier begins: first weights scaled by boxes, the last layer fitted to features."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from tomodask.errors import InputError
from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.boxes.last_layer import fit_logistic
from tomodask.nets.boxes.networks import build_encoder
from tomodask.nets.boxes.trainer import ClassifierTrainer, Learning
from tomodask.nets.training_state import weights_of

torch.set_num_threads(1)


def boxes_of(count, seed=0, edge=24):
    """Noise, and blobs in noise, in turn."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((edge,) * 3) - edge // 2
    blob = 2 * (z**2 + y**2 + x**2 < 36)
    labels = np.arange(count) % 2
    boxes = rng.normal(size=(count, edge, edge, edge)) + labels[:, None, None, None] * blob
    return boxes.astype(np.float32), labels


def trainer(network="rb3d", start=None, classes=2, **changes):
    how = Learning.cosine(2, **{"epochs": 3, "learning_rate": 0.01, "seed": 3, **changes})
    return ClassifierTrainer(Encoder(network, 24, classes), how, start=start, threads=1)


def said_by_layers(network, x):
    """What each layer but the last gives, by name."""
    got = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, out, name=name: got.__setitem__(name, out))
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.Conv3d | torch.nn.Linear) and name != "last"
    ]
    with torch.no_grad():
        network.eval()(x)
    for hook in hooks:
        hook.remove()
    return {name: out.numpy() for name, out in got.items()}


@pytest.mark.parametrize("name", ["rb3d", "dsrf3d", "inception3d"])
def test_every_layer_is_settled(name):
    """By what the layers before it give when they are settled: one more pass finds it so."""
    network = build_encoder(Encoder(name, 24, 3), seed=1).train()
    last = network.last.weight.clone()
    x = torch.from_numpy(boxes_of(6)[0][:, None])
    network.settle(x)
    assert network.training
    assert torch.equal(network.last.weight, last)
    seen = said_by_layers(network, x)
    assert set(seen) == {n.rsplit(".", 1)[0] for n, _ in network.named_parameters()} - {"last"}
    for layer, out in seen.items():
        flat = np.moveaxis(out, 1, 0).reshape(out.shape[1], -1).astype(float)
        assert np.abs(flat.mean(1)).max() < 1e-3, layer
        spread = flat.std(1) if out.ndim > 2 else flat.std()
        np.testing.assert_allclose(spread, 1, atol=2e-3, err_msg=layer)


def test_a_silent_channel_and_a_single_box_are_borne():
    network = build_encoder(Encoder("rb3d", 24, 3), seed=1)
    with torch.no_grad():
        network.first.weight[4] = 0
    boxes, _ = boxes_of(4)
    network.settle(torch.from_numpy(boxes[:, None]))
    assert all(torch.isfinite(p).all() for p in network.parameters())
    assert not network.first.weight[4].any()
    alone = build_encoder(Encoder("rb3d", 24, 3), seed=1)
    alone.settle(torch.from_numpy(boxes[:1, None]))
    assert all(torch.isfinite(p).all() for p in alone.parameters())


def test_settled_rb3d_tells_boxes_apart():
    """As it is drawn, what it says of two boxes hardly differs: it learns slowly then."""
    x = torch.from_numpy(boxes_of(8)[0][:, None])
    alike = []
    for settle in (False, True):
        network = build_encoder(Encoder("rb3d", 24, 2), seed=1).eval()
        if settle:
            network.settle(x)
        with torch.no_grad():
            features = network.features(x).numpy()
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        alike.append((features @ features.T)[np.triu_indices(8, 1)].mean())
    assert alike[0] > 0.85
    assert alike[1] < 0.6


def slow_logistic(x, labels, classes, each):
    """The regression's formula, minimised by SciPy with gradients by differences."""
    middle = x.mean(0)
    spread = np.sqrt(((x - middle) ** 2).mean())
    y = (x - middle) / spread

    def loss(flat):
        weight, bias = flat[: classes * x.shape[1]].reshape(classes, -1), flat[-classes:]
        total = 0.0
        for row, label in zip(y, labels, strict=True):
            logits = weight @ row + bias
            total -= each[label] * (logits[label] - np.log(np.exp(logits).sum()))
        return 0.01 * total + 0.5 * (weight**2).sum() + 0.5 * 1e-3 * (bias**2).sum()

    found = minimize(loss, np.zeros(classes * (x.shape[1] + 1)), tol=1e-10).x
    weight = found[: classes * x.shape[1]].reshape(classes, -1) / spread
    return weight, found[-classes:] - weight @ middle


@pytest.mark.parametrize("each", [(1.0, 1.0, 1.0), (3.0, 0.5, 0.5)])
def test_logistic_regression_is_its_formula(each):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    x = 5 + 2 * rng.normal(size=(40, 2)) + 3 * np.eye(3)[labels, :2]
    weight, bias = fit_logistic(
        torch.from_numpy(x), torch.from_numpy(labels), 3, class_weights=torch.tensor(each)
    )
    slow_weight, slow_bias = slow_logistic(x, labels, 3, each)
    np.testing.assert_allclose(weight, slow_weight, atol=1e-4)
    np.testing.assert_allclose(bias, slow_bias, atol=1e-3)


def test_a_class_without_boxes_is_not_said():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 4)))
    weight, bias = fit_logistic(x, torch.arange(30) % 2, 3)
    assert torch.isfinite(weight).all()
    assert ((x.float() @ weight.T + bias).argmax(1) != 2).all()


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("name", ["rb3d", "dsrf3d", "inception3d"])
def test_what_is_fitted(name, pretrained):
    """RB3D's and pretrained last layers, but not Inception3D's, which has too many weights."""
    start = weights_of(build_encoder(Encoder(name, 24, 2), seed=9)) if pretrained else None
    one = trainer(name, start)
    before = one.weights()
    boxes, labels = boxes_of(24)
    one.begin([(boxes[:16], labels[:16]), (boxes[16:], labels[16:])])
    fitted = name == "rb3d" or (name == "dsrf3d" and pretrained)
    assert fitted == (not np.array_equal(before["last.weight"], one.weights()["last.weight"]))
    if fitted:
        assert one.judge([(boxes, labels)]).accuracy == 1
        with torch.no_grad():
            x = one.network.flat(one.network.maps(torch.from_numpy(boxes[:, None])))
        weight, _ = fit_logistic(x, torch.from_numpy(labels), 2)
        np.testing.assert_allclose(one.network.last.weight.detach(), weight, atol=1e-5)
    settled = one.weights()
    one.how = Learning.cosine(2, learning_rate=1e-9, weight_decay=0.0)
    one.train([(boxes[:4] * 3, labels[:4])])  # nothing is scaled twice
    if fitted:
        (outer,) = one.network.outer
        after = one.weights()[f"{outer}.weight"]
        np.testing.assert_allclose(after, settled[f"{outer}.weight"], atol=1e-6)


def test_beginning_learns_of_bad_batches():
    one = trainer()
    boxes, labels = boxes_of(4)
    with pytest.raises(InputError, match="labels must be from 0 to 1, got 2"):
        one.begin([(boxes, labels + 1)])
    one.begin([])
    assert not one.steps


def test_going_on_is_not_begun_again(tmp_path):
    """A state that is taken up is scaled already."""
    boxes, labels = boxes_of(8)
    whole, first = trainer(), trainer()
    for one in (whole, first):
        one.begin([(boxes, labels)])
        one.train([(boxes, labels)])
    first.save(tmp_path / "state.safetensors", {})
    second = trainer()
    second.load(tmp_path / "state.safetensors")
    losses = [one.train([(boxes[::2] * 2, labels[::2])]) for one in (whole, second)]
    assert losses[0] == losses[1]
    assert all(np.array_equal(whole.weights()[k], v) for k, v in second.weights().items())
