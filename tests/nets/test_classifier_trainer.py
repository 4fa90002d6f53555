"""The classifier's trainer: rates of the papers, state put down and taken up, the best kept."""

import dataclasses
import logging

import numpy as np
import pytest
import torch

from tomodask.errors import InputError
from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.boxes.inference import open_predictor
from tomodask.nets.boxes.networks import build_encoder
from tomodask.nets.boxes.trainer import ClassifierTrainer, Judged, Learning
from tomodask.nets.pretraining.trainer import Pretrainer, Pretraining
from tomodask.nets.training_state import weights_of
from tomodask.nets.training_step import TrainingDivergedError

torch.set_num_threads(1)


def trainer(network="rb3d", start=None, **changes):
    how = Learning.cosine(2, **{"epochs": 3, "learning_rate": 0.02, "seed": 3, **changes})
    return ClassifierTrainer(Encoder(network, 24, 2), how, start=start, threads=1)


def batches(epoch, count=2, size=4):
    """Noise, and blobs in noise."""
    rng = np.random.default_rng(epoch)
    z, y, x = np.indices((24, 24, 24)) - 12
    blob = 2 * (z**2 + y**2 + x**2 < 36)
    for _ in range(count):
        labels = rng.permutation(np.arange(size) % 2)
        boxes = rng.normal(size=(size, 24, 24, 24)) + labels[:, None, None, None] * blob
        yield boxes.astype(np.float32), labels


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_rates_are_those_of_the_papers():
    one = Learning.cosine(10)
    assert (one.epochs, one.weight_decay, one.nesterov) == (50, 1e-4, False)
    assert one.rate(0) == 5e-4
    assert one.rate(250) == pytest.approx(2.5e-4)
    assert one.rate(500) == pytest.approx(0, abs=1e-12)
    other = Learning.nesterov_decay(10)
    assert (other.epochs, other.momentum, other.nesterov) == (20, 0.9, True)
    assert other.rate(0) == 0.01
    assert other.rate(1000) == pytest.approx(0.01 / 1.001)


@pytest.mark.parametrize("network", ["rb3d", "inception3d"])
def test_going_on_gives_the_bits_of_one_go(tmp_path, network):
    """Inception3D draws random numbers in each step, for its dropout."""
    whole = trainer(network, largest_gradient=1.0)
    losses = [whole.train(batches(epoch)) for epoch in range(3)]
    first = trainer(network, largest_gradient=1.0)
    first.train(batches(0))
    assert first.keep_if_better(first.judge(batches(7)))
    first.save(tmp_path / "state.safetensors", {"epoch": 1})
    torch.manual_seed(77)
    second = trainer(network, seed=99)
    second.how = first.how
    assert second.load(tmp_path / "state.safetensors") == {"epoch": 1}
    assert same(second.best, first.weights())
    assert (second.best_epoch, second.best_loss) == (1, first.best_loss)
    assert [second.train(batches(epoch)) for epoch in (1, 2)] == losses[1:]
    assert same(second.weights(), whole.weights())
    assert second.ended


def test_it_learns_and_its_model_says_so():
    one = trainer("inception3d", epochs=4, learning_rate=1e-3)
    while not one.ended:
        one.train(batches(one.epochs, size=8))
        one.keep_if_better(one.judge(batches(100)))
    assert one.best_accuracy == 1
    model = one.model(("noise", "blob"), 10.0, batches(101))
    assert model.weights.keys() == one.best.keys()
    boxes, labels = next(batches(102, size=8))
    told, confidence = open_predictor(model).predict_classes(boxes)
    assert np.array_equal(told, labels)
    assert ((confidence > 0.5) & (confidence <= 1)).all()


def test_the_best_epoch_is_kept_and_patience_ends():
    one = trainer(epochs=10, patience=2)
    figures = [(0.5, 1.0), (0.75, 0.9), (0.75, 0.8), (0.75, 0.8), (0.7, 0.1)]
    kept = []
    for number, (accuracy, loss) in enumerate(figures):
        one.epochs += 1
        one.network.last.bias.data.fill_(number)
        kept.append(one.keep_if_better(Judged(loss, accuracy, np.empty(0), np.empty(0))))
        if number < 4:
            assert not one.ended
    assert kept == [True, True, True, False, False]
    assert one.ended
    assert one.best_epoch == 3
    assert (one.best["last.bias"] == 2).all()


def test_a_pretrained_encoder_gives_all_but_the_last_layer():
    pretrained = Pretrainer(Encoder("rb3d", 24, 8), Pretraining(seed=5), threads=1)
    start = pretrained.encoder_weights()
    weights = trainer(start=start).weights()
    assert all(np.array_equal(weights[k], start[k]) for k in weights if not k.startswith("last"))
    assert np.array_equal(weights["last.weight"], trainer().weights()["last.weight"])
    with pytest.raises(InputError, match=r"start holds an encoder of another network.*dsrf3d"):
        trainer("dsrf3d", start=start)


@pytest.mark.parametrize("network", ["rb3d", "dsrf3d", "inception3d"])
def test_how_long_pretrained_features_are_changes_nothing(network):
    """Else the rate that suits a random start would be too high: pretraining lets them grow."""
    pretrained = build_encoder(Encoder(network, 24, 2), seed=8)
    long = build_encoder(Encoder(network, 24, 2), seed=8)
    long.lengthen(8.0)  # a power of two, so that it is taken back to the bit
    found = []
    for start in (pretrained, long):
        one = trainer(network, start=weights_of(start))
        loss = one.train(batches(0, count=1))
        found.append((loss, one.weights()))
    assert found[0][0] == found[1][0]
    assert same(found[0][1], found[1][1])


def test_pretrained_features_are_as_long_as_those_of_a_random_start():
    long = build_encoder(Encoder("rb3d", 24, 2), seed=8)
    long.lengthen(50.0)
    (batch,) = batches(0, count=1)
    x = torch.from_numpy(batch[0][:, None])
    begun = trainer(start=weights_of(long), learning_rate=1e-9, weight_decay=0.0)
    random = trainer().network
    random.settle(x)
    wanted = random.length(x)
    assert begun.network.length(x) > 20 * wanted
    begun.train([batch])
    assert begun.network.length(x) == pytest.approx(wanted, rel=1e-3)


def test_halves_of_a_batch_give_the_gradients_of_the_whole(monkeypatch, caplog):
    whole, halved = trainer(), trainer()
    loss = whole.train(batches(0, count=1))
    forward, sizes = halved.step.parallel.forward, []

    def scarce(x):
        if not torch.is_grad_enabled():
            return forward(x)
        sizes.append(len(x))
        if len(x) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to …")
        return forward(x)

    monkeypatch.setattr(halved.step.parallel, "forward", scarce)
    with caplog.at_level(logging.WARNING):
        assert halved.train(batches(0, count=1)) == pytest.approx(loss, rel=1e-5)
    assert sizes == [4, 2, 2]
    assert [record.args for record in caplog.records] == [(4, 2)]
    for name, values in whole.weights().items():
        np.testing.assert_allclose(halved.weights()[name], values, atol=1e-6)


def test_long_gradients_are_cut_to_length():
    """Of the first step: all weights move by the rate times a gradient of that length."""
    moved = []
    for longest in (None, 0.5, 1e6):
        one = trainer("dsrf3d", largest_gradient=longest, weight_decay=0.0, momentum=0.0)
        before = one.weights()
        one.train(batches(0, count=1))
        moved.append({k: v - before[k] for k, v in one.weights().items()})
    whole, cut, uncut = (np.concatenate([v.ravel() for v in m.values()]) for m in moved)
    assert np.linalg.norm(whole) > 0.02 * 0.5
    assert np.linalg.norm(cut) == pytest.approx(0.02 * 0.5, rel=1e-3)
    np.testing.assert_allclose(cut / np.linalg.norm(cut), whole / np.linalg.norm(whole), atol=1e-3)
    np.testing.assert_array_equal(uncut, whole)
    with pytest.raises(InputError, match="largest_gradient must be above 0, got 0"):
        trainer(largest_gradient=0)


def test_bfloat16_learns_the_same_thing():
    how = {"learning_rate": 0.002}
    losses = [[trainer(precision=p, **how).train(batches(0))] for p in ("float32", "bfloat16")]
    assert np.allclose(*losses, atol=0.05)


def test_bad_batches():
    one = trainer()
    boxes, labels = next(batches(0))
    with pytest.raises(InputError, match=r"labels must be from 0 to 1, got 2 for box 0"):
        one.train([(boxes, labels * 0 + 2)])
    with pytest.raises(InputError, match="labels must be one per box, got 3 for 4"):
        one.train([(boxes, labels[:3])])
    with pytest.raises(InputError, match=r"must have the shape \(n, 24, 24, 24\)"):
        one.train([(boxes[:, :20], labels)])
    damaged = boxes.copy()
    damaged[1, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"1 of 4 boxes hold NaN .*\(numbers 1\)"):
        one.train([(damaged, labels)])
    with pytest.raises(InputError, match="no held-out boxes"):
        one.judge([])
    with pytest.raises(TrainingDivergedError, match=r"step 1 .*lower learning_rate.*now 0\.02"):
        one.train([(np.full_like(boxes, 3e38), labels)])
    with pytest.raises(InputError, match="patience must be at least 1 epoch, got 0"):
        dataclasses.replace(one.how, patience=0)


def test_another_trainings_state_is_refused(tmp_path):
    one = trainer()
    one.save(tmp_path / "state.safetensors", {"identity": "a"})
    before = one.weights()

    def check(told):
        if told["identity"] != "b":
            raise InputError("of another training")

    with pytest.raises(InputError, match="of another training"):
        one.load(tmp_path / "state.safetensors", check)
    assert same(one.weights(), before)
    (tmp_path / "state.safetensors").write_bytes(b"no state")
    with pytest.raises(InputError, match=r"state\.safetensors is damaged"):
        one.load(tmp_path / "state.safetensors")


def test_losses_are_weighed_by_class():
    weights = (3.0, 0.5)
    one = trainer("dsrf3d", class_weights=weights)
    boxes, labels = next(batches(0, size=6))
    logits = one.logits(boxes).astype(float)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slow = [-weights[k] * np.log(c[k]) for c, k in zip(chances, labels, strict=True)]
    parts = trainer("dsrf3d", class_weights=weights)
    parts.step.part = 2  # a batch that did not fit
    assert one.train([(boxes, labels)]) == pytest.approx(np.mean(slow), rel=1e-5)
    assert parts.train([(boxes, labels)]) == pytest.approx(np.mean(slow), rel=1e-5)
    for name, value in one.weights().items():
        np.testing.assert_allclose(parts.weights()[name], value, atol=1e-5)
    with pytest.raises(InputError, match="class_weights must be one for each of the 2 classes"):
        trainer(class_weights=(1.0,))
