"""The loss of training against the formula in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tomodask.nets.segmentation.architecture import IGNORED
from tomodask.nets.segmentation.losses import dice_loss


def dice_reference(logits, label, together, entropy):
    """Milletari's Dice and the cross-entropy, voxel by voxel."""
    classes = max(1, logits.shape[1] - 1)
    sums = 1 if together else classes
    both, powers, shown = np.zeros(sums), np.zeros(sums), np.zeros(sums, bool)
    cross, counted = np.zeros(2), np.zeros(2)
    for at in np.ndindex(label.shape):
        true = int(label[at])
        if true == IGNORED:
            continue
        scores = logits[at[0], :, at[1], at[2], at[3]].astype(float)
        if len(scores) == 1:
            p = np.array([1 / (1 + np.exp(-scores[0]))])
            cross[int(true > 0)] -= np.log(p[0] if true == 1 else 1 - p[0])
        else:
            share = np.exp(scores) / np.exp(scores).sum()
            p = share[1:]
            cross[int(true > 0)] -= np.log(share[true])
        counted[int(true > 0)] += 1
        t = np.array([float(true == n + 1) for n in range(classes)])
        if together:
            p, t = p.sum(keepdims=True), t.sum(keepdims=True)
        both += p * t
        powers += p**2 + t
        shown |= t > 0
    loss = np.mean((1 - (2 * both + 1e-5) / (powers + 1e-5))[shown]) if shown.any() else 0.0
    return loss + entropy * (cross / np.maximum(counted, 1)).sum()


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    outputs=st.sampled_from([1, 3, 4]),
    together=st.booleans(),
    entropy=st.floats(0, 2),
)
def test_loss_is_that_of_the_formula(seed, outputs, together, entropy):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, outputs, 4, 3, 5)).astype(np.float32)
    label = rng.integers(0, max(outputs, 2), (2, 4, 3, 5)).astype(np.uint8)
    label[rng.random(label.shape) < 0.2] = IGNORED
    got = dice_loss(
        torch.from_numpy(logits), torch.from_numpy(label), together=together, entropy=entropy
    )
    assert float(got) == pytest.approx(dice_reference(logits, label, together, entropy), abs=1e-5)


def test_voxels_without_a_say_have_no_gradient():
    label = torch.zeros((1, 4, 4, 4), dtype=torch.uint8)
    label[0, 0, 0, :2] = 1
    label[0, 2:] = IGNORED
    logits = torch.randn((1, 1, 4, 4, 4), requires_grad=True)
    dice_loss(logits, label, entropy=1.0).backward()
    assert (logits.grad[0, 0, 2:] == 0).all()
    assert (logits.grad[0, 0, :2] != 0).all()


def test_a_batch_of_background_alone_can_be_stepped():
    logits = torch.randn((1, 3, 4, 4, 4), requires_grad=True)
    loss = dice_loss(logits, torch.zeros((1, 4, 4, 4), dtype=torch.uint8))
    loss.backward()
    assert float(loss.detach()) == 0
