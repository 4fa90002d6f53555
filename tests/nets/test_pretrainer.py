"""Pretraining: queue, slow encoder and prototypes; put down and taken up to the same bits."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tomodask.errors import InputError
from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.pretraining.moco import KeyQueue, MomentumEncoder
from tomodask.nets.pretraining.trainer import Pretrainer, Pretraining
from tomodask.nets.training_state import weights_of
from tomodask.nets.training_step import TrainingDivergedError

torch.set_num_threads(1)
ENCODER = Encoder("rb3d", 24, 8)


def pretrainer(method, **changes):
    how = {"dimension": 6, "queue": 8, "prototypes": 5, "learning_rate": 1e-3, **changes}
    return Pretrainer(ENCODER, Pretraining(method, **how), threads=1)


def views(epoch, size=3):
    """Two noisy views of the same boxes, which are smooth enough to be told apart."""
    rng = np.random.default_rng(epoch)
    box = np.array([gaussian_filter(one, 3) for one in rng.normal(size=(size, 24, 24, 24))])
    box /= box.std()
    noise = rng.normal(scale=0.3, size=(2, *box.shape))
    return [tuple((box + noise).astype(np.float32))]


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("method", ["moco", "simclr", "swav"])
def test_going_on_gives_the_bits_of_one_go(tmp_path, method):
    whole = pretrainer(method)
    losses = [whole.train(views(epoch)) for epoch in range(3)]
    first = pretrainer(method)
    first.train(views(0))
    first.save(tmp_path / "state.safetensors", {"epoch": 1})
    second = pretrainer(method, seed=9)
    second.how = first.how
    assert second.load(tmp_path / "state.safetensors") == {"epoch": 1}
    assert [second.train(views(epoch)) for epoch in (1, 2)] == losses[1:]
    assert same(weights_of(second.network), weights_of(whole.network))
    if method == "moco":
        assert same(second.queue.state(), whole.queue.state())
        assert same(second.slow.state(), whole.slow.state())
    if method == "swav":
        assert same(weights_of(second.prototypes), weights_of(whole.prototypes))
        lengths = np.linalg.norm(weights_of(second.prototypes)["weight"], axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-5)


@pytest.mark.parametrize("method", ["swav", "simclr"])
def test_the_loss_falls(method):
    """MoCo's need not: its queue fills with keys that are harder to tell from the right one."""
    one = pretrainer(method)
    losses = [one.train(views(0)) for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]


def test_a_step_of_moco_is_that_of_the_paper():
    """Algorithm 1: loss, queue and slow encoder of one step, by its parts."""
    one, untouched = pretrainer("moco", momentum=0.5), pretrainer("moco")
    ((first, second),) = views(0)
    with torch.no_grad():
        query, key = (
            untouched.network(torch.from_numpy(v)[:, None]).numpy().astype(float)
            for v in (first, second)
        )
    query, key = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (query, key))
    queue = untouched.queue.keys.numpy()
    right = np.exp((query * key).sum(1) / 0.2)
    expected = -np.log(right / (right + np.exp(query @ queue.T / 0.2).sum(1))).mean()
    assert one.train([(first, second)]) == pytest.approx(expected, rel=1e-4)
    kept = one.queue.keys.numpy()
    np.testing.assert_allclose(kept[:3], key, atol=1e-5)
    assert np.array_equal(kept[3:], queue[3:])
    before, after = weights_of(untouched.network), weights_of(one.network)
    for name, slow in one.slow.state().items():
        np.testing.assert_allclose(slow, (before[name] + after[name]) / 2, atol=1e-6)
    assert not np.array_equal(before["head.0.weight"], after["head.0.weight"])


def test_a_queue_forgets_the_oldest_first():
    queue = KeyQueue(5, 3)
    given = [np.random.default_rng(n).normal(size=(2, 3)) for n in range(4)]
    kept = list(queue.keys.numpy().astype(float))
    for keys in given:
        queue.push(torch.from_numpy(keys))
        kept = kept[2:] + [row / np.linalg.norm(row) for row in keys]
    expected = sorted(map(tuple, np.round(kept, 5)))
    assert sorted(map(tuple, np.round(queue.keys.numpy().astype(float), 5))) == expected
    with pytest.raises(InputError, match=r"queue must hold at least a batch \(6 keys\), got 5"):
        queue.push(torch.ones(6, 3))


def test_a_slow_encoder_follows_as_the_paper_says():
    fast = torch.nn.Linear(3, 2)
    slow = MomentumEncoder(fast, momentum=0.9)
    before = fast.weight.detach().numpy().astype(float)
    expected = before.copy()
    for step in range(3):
        with torch.no_grad():
            fast.weight += 1
        expected = 0.9 * expected + 0.1 * (before + step + 1)
        slow.follow(fast)
    np.testing.assert_allclose(slow.state()["weight"], expected, rtol=1e-5)
    assert not any(p.requires_grad for p in slow.network.parameters())
    with pytest.raises(InputError, match="momentum must be from 0 to below 1, got 1"):
        MomentumEncoder(fast, momentum=1)


def test_a_batch_larger_than_the_queue_changes_nothing():
    one = pretrainer("moco", queue=2)
    before = weights_of(one.network)
    with pytest.raises(InputError, match=r"queue must hold at least a batch \(3 keys\), got 2"):
        one.train(views(0))
    assert same(before, weights_of(one.network))


def test_nan_stops_with_the_way_out():
    one = pretrainer("moco")
    ((a, b),) = views(0)
    a[0, 0, 0, 0] = np.nan
    before = weights_of(one.network)
    with pytest.raises(TrainingDivergedError, match=r"step 1 .*lower learning_rate.*0\.001"):
        one.train([(a, b)])
    assert same(before, weights_of(one.network))


def test_memory_that_runs_out_is_told(monkeypatch):
    one = pretrainer("simclr")

    def none(x):
        raise MemoryError

    monkeypatch.setattr(one.step.parallel, "forward", none)
    with pytest.raises(InputError, match=r"a batch of 3 boxes of 24³ .*lower batch"):
        one.train(views(0))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"method": "byol"}, "method must be one of moco, simclr, swav, got 'byol'"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0"),
        ({"queue": 1}, "queue must be at least 2, got 1"),
    ],
)
def test_bad_input(changed, told):
    with pytest.raises(InputError, match=told):
        Pretraining(**changed)
