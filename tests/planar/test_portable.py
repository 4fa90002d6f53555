"""The search in array operations: what the kernels find, on arrays that are not NumPy's."""

import importlib

import numpy as np
import pytest
import scipy.ndimage as ndi

from tomodask.planar.alignment2d import align_batch, plan_alignment2d
from tomodask.planar.portable import align_portable


@pytest.fixture(scope="module")
def scene():
    """References, and images that are turned parts of them in noise, some of them faulty."""
    rng = np.random.default_rng(3)
    references = np.stack([ndi.gaussian_filter(rng.normal(size=(30, 31)), 1.8) for _ in range(3)])
    references /= references.std()
    images = np.stack(
        [
            ndi.rotate(np.roll(references[i % 3], (i % 4 - 1, 1), (0, 1)), 25.0 * i, reshape=False)
            for i in range(20)
        ]
    )
    images[10:] = images[10:, :, ::-1]
    images = (images + 0.5 * rng.normal(size=images.shape) + 3).astype(np.float32)
    images[4, 2, 2], images[6] = np.nan, 4.0
    return references, images


def assert_same(found, want):
    for name in ("class", "mirror", "fault"):
        assert (found[name] == want[name]).all()
    for name in ("psi", "shift_y", "shift_x"):
        np.testing.assert_allclose(found[name], want[name], atol=2e-3)
    np.testing.assert_allclose(found["score"], want["score"], atol=1e-5)


@pytest.mark.parametrize("mirror", [True, False])
def test_same_as_the_kernels_on_numpy(scene, mirror):
    references, images = scene
    plan = plan_alignment2d(references, radius=12, shift_range=2, mirror=mirror)
    assert_same(align_portable(images, plan), align_batch(images, plan))
    assert_same(
        align_portable(images, plan, every_class=True), align_batch(images, plan, every_class=True)
    )


def test_the_class_is_the_best_on_the_grid(scene):
    """Noise, in which references lie close together: here and there the same is chosen."""
    references, _ = scene
    noise = np.random.default_rng(9).normal(size=(60, 30, 31)).astype(np.float32)
    plan = plan_alignment2d(references, radius=12, shift_range=2)
    every = align_batch(noise, plan, every_class=True)["score"].argmax(axis=1) + 1
    found = align_batch(noise, plan)
    assert (every != found["class"]).any()  # between the grid's points another may be best
    assert (align_portable(noise, plan)["class"] == found["class"]).all()


@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1"])
def test_on_arrays_of_the_standard(scene, device):
    """array-api-strict has the standard's functions and no more; its second device stands in for a
    card, from which nothing comes back unasked.
    """
    strict = pytest.importorskip("array_api_strict")
    references, images = scene
    plan = plan_alignment2d(references, radius=12, shift_range=2)
    there = strict.asarray(images, device=strict.Device(device))
    assert_same(align_batch(there, plan), align_batch(images, plan))


def test_on_a_card(scene):
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("needs CuPy")
    import cupy

    if not cupy.cuda.is_available():
        pytest.skip("needs a GPU")
    references, images = scene
    plan = plan_alignment2d(references, radius=12, shift_range=2)
    assert_same(align_batch(cupy.asarray(images), plan), align_batch(images, plan))


def test_many_images_are_cut_into_parts(scene, monkeypatch):
    references, images = scene
    plan = plan_alignment2d(references, radius=12, shift_range=1)
    whole = align_portable(images, plan)
    monkeypatch.setattr("tomodask.planar.portable._IMAGES", 7)
    assert_same(align_portable(images, plan), whole)
    assert align_portable(images[:0], plan).shape == (0,)
