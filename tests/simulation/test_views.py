"""Images of the phantom's views are those views, turned, mirrored and moved as the truth says."""

import numpy as np
import pytest

from tomodask.planar.poses2d import rendered
from tomodask.simulation.phantom import phantom_map
from tomodask.simulation.views import phantom_images, phantom_views


def test_the_truth_renders_the_images():
    views = phantom_views(3, box=40, pixel_size=9.0, seed=2)
    images, truth = phantom_images(8, views=3, box=40, pixel_size=9.0, snr=1e12, seed=2)
    assert truth["mirror"].any()
    assert not truth["mirror"].all()
    for image, row in zip(images.to_numpy(), truth.to_dict("records"), strict=True):
        made = rendered(
            views.to_numpy()[row["class"] - 1], psi=row["psi"], mirror=row["mirror"],
            shift_y=row["shift_y"] / 9, shift_x=row["shift_x"] / 9,
        )  # fmt: skip
        assert np.corrcoef(made.ravel(), image.ravel())[0, 1] > 0.999


def test_views_are_projections_of_the_phantom():
    view = phantom_views(1, box=40, seed=0).to_numpy()[0]
    # The mass of a projection is that of the map, but for what one step of z is of a Gaussian.
    total = phantom_map(voxel_size=10.0, box=40).to_numpy().sum() * 10.0
    assert view.sum() * np.sqrt(2 * np.pi) * 9.0 == pytest.approx(total, rel=1e-3)


def test_noise_is_of_the_power_that_was_asked_for_and_seeded():
    clean, _ = phantom_images(30, snr=1e12, seed=5)
    noisy, truth = phantom_images(30, snr=0.2, seed=5)
    noise = noisy.to_numpy() - clean.to_numpy()
    assert clean.to_numpy().var(axis=(1, 2)).mean() / noise.var() == pytest.approx(0.2, rel=0.02)
    fewer, some = phantom_images(10, snr=0.2, seed=5)
    assert some.equals(truth.iloc[:10])
    assert not np.array_equal(fewer, noisy[:10])  # the power is that of all images
    assert (np.hypot(truth["shift_y"], truth["shift_x"]) <= 20).all()
