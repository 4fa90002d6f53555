"""The trainer: state put down and taken up, memory, numbers that are none."""

import logging

import numpy as np
import pytest
import torch

from tomodask.errors import InputError
from tomodask.nets.segmentation.architecture import Architecture
from tomodask.nets.segmentation.trainer import Optimisation, Trainer
from tomodask.nets.training_step import TrainingDivergedError

SMALL = Architecture(classes=2, channels=(3, 4))


def trainer(**changes):
    how = {"epochs": 3, "steps": 2, "learning_rate": 1e-2, "seed": 3, **changes}
    return Trainer(SMALL, Optimisation(**how), threads=1)


def batches(epoch, count=2, size=4):
    rng = np.random.default_rng(epoch)
    for _ in range(count):
        label = (rng.random((size, 8, 8, 8)) < 0.1).astype(np.uint8)
        label[:, :4] *= 2
        crop = rng.normal(size=label.shape) - 2.0 * (label > 0)
        yield crop[:, None].astype(np.float32), label


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_going_on_gives_the_bits_of_one_go(tmp_path):
    whole = trainer()
    for epoch in range(3):
        whole.train(batches(epoch))
    first = trainer()
    first.train(batches(0))
    best = first.weights()
    first.save(tmp_path / "state.safetensors", {"epoch": 1}, best)
    second = trainer(seed=99)
    told, kept = second.load(tmp_path / "state.safetensors")
    assert told == {"epoch": 1}
    assert same(kept, best)
    assert second.learning_rate == first.learning_rate
    for epoch in (1, 2):
        second.train(batches(epoch))
    assert same(second.weights(), whole.weights())


def test_first_weights_are_those_of_the_seed_and_leave_other_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = trainer()
    assert torch.equal(torch.rand(3), expected)
    assert same(one.weights(), trainer().weights())
    assert not same(one.weights(), trainer(seed=4).weights())


def test_loss_falls():
    one = trainer(epochs=24)
    losses = [one.train(batches(0)) for _ in range(24)]
    assert losses[-1] < 0.6 * losses[0]


def test_a_loss_that_is_no_number_stops_with_the_way_out():
    one = trainer()
    crop, label = next(batches(0))
    before = one.weights()
    crop[0, 0, 0, 0, 0] = np.nan
    with pytest.raises(TrainingDivergedError, match=r"step 1 .*lower learning_rate.*now 0\.01"):
        one.train([(crop, label)])
    after = one.weights()
    learned = [k for k in before if "running" not in k]
    assert all(np.array_equal(before[k], after[k]) for k in learned)


def test_out_of_memory_halves_what_passes_at_once(monkeypatch, caplog):
    one = trainer()
    forward, sizes = one.step.parallel.forward, []

    def scarce(x):
        sizes.append(len(x))
        if len(x) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to …")
        return forward(x)

    monkeypatch.setattr(one.step.parallel, "forward", scarce)
    with caplog.at_level(logging.WARNING):
        one.train(batches(0, count=2))
    assert sizes == [4, 2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert [record.args for record in caplog.records] == [(4, 2), (2, 1)]


def test_not_one_crop_fits(monkeypatch):
    one = trainer()

    def none(x):
        raise MemoryError

    monkeypatch.setattr(one.step.parallel, "forward", none)
    with pytest.raises(InputError, match=r"not even one crop of 8³ voxels.*lower crop"):
        one.train(batches(0))


def test_other_errors_come_out_as_they_are(monkeypatch):
    one = trainer()

    def wrong(x):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(one.step.parallel, "forward", wrong)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        one.train(batches(0))


@pytest.mark.parametrize("damage", ["cut", "other", "text"])
def test_a_damaged_state_is_named(tmp_path, damage):
    path = tmp_path / "state.safetensors"
    one = trainer()
    one.train(batches(0))
    one.save(path, {}, None)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("not a state")
    else:
        from safetensors.numpy import save_file

        save_file({"a": np.zeros(2, np.float32)}, path)
    with pytest.raises(InputError, match=r"state\.safetensors"):
        trainer().load(path)


def test_bfloat16_learns_the_same_thing():
    """Not the same bits: half the digits."""
    losses = []
    for precision in ("float32", "bfloat16"):
        one = trainer(precision=precision)
        losses.append([one.train(batches(0)) for _ in range(3)])
    assert np.allclose(*losses, atol=0.05)
