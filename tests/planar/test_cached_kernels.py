"""Kernels compiled in this process, and those found in the cache, tell the same to the bit."""

from helpers import told_by_new_process

_INNER = """
import numpy as np
from tomodask.planar.plan2d import plan_alignment2d

rng = np.random.default_rng(0)
references = rng.normal(size=(2, 21, 21)).astype(np.float32)
plan = plan_alignment2d(references, radius=8, shift_range=1)
"""

_HASHED = """
import hashlib
from tomodask.planar.alignment2d import align_batch
from tomodask.planar.class_sums import sum_images
from tomodask.planar.poses2d import Poses2D

images = references[[0, 1, 0, 1]] + 0.5 * rng.normal(size=(4, 21, 21)).astype(np.float32)
found = align_batch(images, plan, every_class=True)
best, number = Poses2D.of(found[:, 0]), np.arange(4)
sums = sum_images(images, best, number, number, radius=8, bits=40)
told = plan.tiled.tobytes() + found.tobytes() + sums.data.tobytes()
print(hashlib.sha256(told).hexdigest())
"""


def test_kernels_compiled_or_found_in_the_cache_tell_the_same(tmp_path):
    """All compiled here; all from the cache; those that a plan needs from it, the others not."""
    first = told_by_new_process(_INNER + _HASHED, tmp_path / "all")
    assert len(first) > 60
    assert told_by_new_process(_INNER + _HASHED, tmp_path / "all") == first
    told_by_new_process(_INNER, tmp_path / "some")
    assert told_by_new_process(_INNER + _HASHED, tmp_path / "some") == first
