"""Contrastive losses against the papers' formulas, written out in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tomodask.nets.pretraining.contrastive import info_nce, nt_xent, sinkhorn, swav_loss
from tomodask.nets.pretraining.swav import Prototypes

torch.set_num_threads(1)
SIZES = {"seed": st.integers(0, 10_000), "n": st.integers(1, 7), "d": st.integers(2, 9)}


def rows(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def cosine(a, b):
    a, b = a.astype(float), b.astype(float)
    return a @ b / np.sqrt((a @ a) * (b @ b))


def nt_xent_reference(first, second, temperature):
    """SimCLR, equation 1 and algorithm 1."""
    views = [v for pair in zip(first, second, strict=True) for v in pair]  # 2k − 1 and 2k are one
    total = 0.0
    for i, one in enumerate(views):
        fellow = i + 1 if i % 2 == 0 else i - 1
        below = sum(
            np.exp(cosine(one, other) / temperature) for k, other in enumerate(views) if k != i
        )
        total -= np.log(np.exp(cosine(one, views[fellow]) / temperature) / below)
    return total / len(views)


def info_nce_reference(query, key, queue, temperature):
    """MoCo, equation 1."""
    total = 0.0
    for q, k in zip(query, key, strict=True):
        right = np.exp(cosine(q, k) / temperature)
        total -= np.log(right / (right + sum(np.exp(cosine(q, o) / temperature) for o in queue)))
    return total / len(query)


def sinkhorn_reference(scores, epsilon, iterations):
    """SwAV, listing A.1."""
    q = np.exp(scores.astype(float) / epsilon).T
    q /= q.sum()
    prototypes, n = q.shape
    for _ in range(iterations):
        for k in range(prototypes):
            q[k] *= 1 / prototypes / q[k].sum()
        for i in range(n):
            q[:, i] *= 1 / n / q[:, i].sum()
    return (q / q.sum(0)).T


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@settings(max_examples=15, deadline=None)
@given(**SIZES, temperature=st.floats(0.1, 2))
def test_nt_xent_is_that_of_the_paper(seed, n, d, temperature):
    a, b = rows(seed, n, d), rows(seed + 1, n, d)
    got = nt_xent(torch.from_numpy(a), torch.from_numpy(b), temperature=temperature)
    assert float(got) == pytest.approx(nt_xent_reference(a, b, temperature), rel=1e-4, abs=1e-4)


@settings(max_examples=15, deadline=None)
@given(**SIZES, length=st.integers(0, 12), temperature=st.floats(0.1, 2))
def test_info_nce_is_that_of_the_paper(seed, n, d, length, temperature):
    q, k, queue = rows(seed, n, d), rows(seed + 1, n, d), rows(seed + 2, length, d)
    got = info_nce(*map(torch.from_numpy, (q, k, queue)), temperature=temperature)
    expected = info_nce_reference(q, k, queue, temperature)
    assert float(got) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@settings(max_examples=15, deadline=None)
@given(**SIZES, epsilon=st.floats(0.05, 1), iterations=st.integers(1, 5))
def test_codes_and_loss_of_swav_are_those_of_the_paper(seed, n, d, epsilon, iterations):
    a, b = np.tanh(rows(seed, n, d)), np.tanh(rows(seed + 1, n, d))
    codes = {}
    for name, scores in (("a", a), ("b", b)):
        codes[name] = sinkhorn_reference(scores, epsilon, iterations)
        got = sinkhorn(torch.from_numpy(scores), epsilon=epsilon, iterations=iterations).numpy()
        np.testing.assert_allclose(got, codes[name], atol=2e-4)
    expected = 0.0
    for i in range(n):
        expected -= codes["b"][i] @ np.log(softmax(a[i] / 0.1)) / (2 * n)
        expected -= codes["a"][i] @ np.log(softmax(b[i] / 0.1)) / (2 * n)
    got = swav_loss(
        torch.from_numpy(a), torch.from_numpy(b), epsilon=epsilon, iterations=iterations
    )
    assert float(got) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_codes_use_all_prototypes_alike():
    scores = np.tanh(rows(3, 40, 8))
    scores[:, 0] = 1  # all particles like one prototype best
    code = sinkhorn(torch.from_numpy(scores), epsilon=0.5, iterations=50).numpy()
    np.testing.assert_allclose(code.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(code.sum(0), 5, atol=1e-3)


def test_prototypes_compare_embeddings_that_are_scaled_over_the_batch():
    prototypes = Prototypes(7, 5, seed=1)
    z = rows(4, 9, 5) * 3 + 20
    scaled = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
    expected = [[cosine(row, one) for one in prototypes.weight.detach().numpy()] for row in scaled]
    np.testing.assert_allclose(
        prototypes(torch.from_numpy(z)).detach(), expected, rtol=1e-3, atol=1e-4
    )


def test_codes_of_embeddings_that_lie_close_together_are_not_even():
    """Else learning makes all prototypes one: embeddings of a network that knows nothing are so."""
    prototypes = Prototypes(20, 32, seed=1)
    z = rows(5, 1, 32) + 0.02 * rows(6, 32, 32)
    code = sinkhorn(prototypes(torch.from_numpy(z))).detach().numpy()
    assert np.median(code.max(1)) > 0.5  # even: 1 / 20


def test_far_scores_overflow_nothing():
    scores = torch.tensor([[500.0, -500.0], [500.0, -500.0]])
    assert torch.isfinite(sinkhorn(scores, epsilon=0.01)).all()
    assert torch.isfinite(nt_xent(scores, scores, temperature=0.001))


def test_no_gradient_goes_through_keys_queue_and_codes():
    q, k, queue = (torch.from_numpy(rows(n, 4, 3)).requires_grad_() for n in range(3))
    info_nce(q, k, queue).backward()
    assert q.grad is not None
    assert k.grad is None
    assert queue.grad is None
    assert not sinkhorn(q).requires_grad
