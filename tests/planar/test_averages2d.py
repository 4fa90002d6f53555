import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import irregular_chunks
from hypothesis import given, settings
from hypothesis import strategies as st
from planar.pictures import PIXEL, picture, stack

from tomodask import InputError
from tomodask.arrays.optics import ctf, image_frequencies
from tomodask.planar.averages2d import average_images
from tomodask.planar.class_sums import matrices2d, normalised
from tomodask.planar.image_optics import corrected_images, image_optics
from tomodask.planar.transforming import disc, soft_disc, transform

OPTICS = {"voltage": 300.0, "spherical_aberration": 2.7, "amplitude_contrast": 0.1}


@pytest.fixture(autouse=True)
def _here():
    with dask.config.set(scheduler="synchronous"):
        yield


def slow_average(images, poses, radius):
    """A loop: each image brought to scale, turned, and added in double precision."""
    n = images.shape[-1]
    outside = ~disc(n, radius)
    total = np.zeros((n, n))
    for image, pose in zip(images, poses.itertuples(), strict=True):
        image = image - image[outside].mean(dtype=float)
        image = image / np.sqrt((image.astype(float) ** 2).mean())
        shift = np.array([pose.shift_y, pose.shift_x]) / PIXEL
        total += transform(image, matrices2d(pose.psi, pose.mirror), shift)
    return total / len(images) * soft_disc(n, n / 2 - 3, edge=2.0)


def test_average_is_that_of_a_loop():
    images, truth = stack(20, 32)
    found = average_images(images, truth, radius=12 * PIXEL).compute()
    wanted = slow_average(images.to_numpy(), truth, 12)
    np.testing.assert_allclose(found.averages[0], wanted, atol=2e-5)
    even = slow_average(images.to_numpy()[::2], truth.iloc[::2], 12)
    np.testing.assert_allclose(found.halves[0, 0], even, atol=2e-5)


@pytest.mark.parametrize("size", [32, 33])
def test_average_of_noisy_pictures_is_their_view(size):
    images, truth = stack(120, size, views=2, noise=1.0, in_turn=True)
    found = average_images(images, truth, radius=12 * PIXEL).compute()
    inside = disc(size, 11)
    for view in (0, 1):
        like = np.corrcoef(found.averages[view][inside], picture(view, size)[inside])[0, 1]
        assert like > 0.98
        other = np.corrcoef(found.averages[view][inside], picture(1 - view, size)[inside])[0, 1]
        assert other < 0.8
    assert found.counts.tolist() == [[60, 0], [0, 60]]  # view and half by the number's parity


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_chunks_batches_and_tree_change_no_bit(data):
    images, truth = stack(23, 16, views=3)
    images = images * np.geomspace(1e-6, 1e6, 23).astype(np.float32)[:, None, None]
    wanted = average_images(images, truth).compute()
    chunked = images.chunk(
        dict(zip(images.dims, data.draw(irregular_chunks(images.shape)), strict=True))
    )
    found = average_images(
        chunked,
        truth,
        batch=data.draw(st.integers(1, 30)),
        split_every=data.draw(st.integers(2, 5)),
    ).compute()
    np.testing.assert_array_equal(found.averages, wanted.averages)
    np.testing.assert_array_equal(found.halves, wanted.halves)


def test_order_and_workers_change_no_bit():
    images, truth = stack(30, 16, views=2)
    images = images.assign_coords(image=np.arange(30))
    truth.index = pd.Index(np.arange(30), name="image")
    wanted = average_images(images, truth, batch=7).compute()
    order = np.random.default_rng(0).permutation(30)
    shuffled = average_images(images.isel(image=order), truth, batch=4)
    with dask.config.set(scheduler="threads", num_workers=3):
        found = shuffled.compute()
    np.testing.assert_array_equal(found.averages, wanted.averages)
    np.testing.assert_array_equal(found.halves, wanted.halves)


def test_halves_go_by_number_not_by_place():
    images, truth = stack(12, 16)
    numbered = images.assign_coords(image=np.arange(12) * 2)  # all even
    assert average_images(numbered, truth).compute().counts.tolist() == [[12], [0]]
    halves = truth.assign(half=[1] * 5 + [2] * 7)
    assert average_images(images, halves).compute().counts.tolist() == [[5], [7]]


def test_rows_without_class_pose_or_with_a_reason_are_left_out():
    images, truth = stack(8, 16)
    poses = truth.assign(reason=["", "x"] + [None] * 6)
    poses.loc[2, "class"] = 0
    poses.loc[3, "psi"] = np.nan
    assert average_images(images, poses).compute().counts.sum() == 5
    some = truth.iloc[[1, 6]].set_axis(pd.Index([1, 6], name="image"))
    assert average_images(images, some).compute().counts.tolist() == [[1], [1]]


def test_images_that_hold_nothing_are_set_aside(caplog):
    images, truth = stack(6, 16)
    images[1] = np.nan
    images[4] = 3.0
    found = average_images(images, truth).compute()
    assert found.set_aside.to_dict("list") == {
        "image": [1, 4],
        "reason": ["not finite", "constant"],
    }
    assert found.counts.sum() == 4
    assert np.isfinite(found.averages).all()
    assert "image 1: not finite" in caplog.text


def test_a_class_without_images_is_empty():
    images, truth = stack(6, 16)
    found = average_images(images, truth, classes=3).compute()
    assert not found.averages[1:].any()
    assert found.frc().query("`class` == 2")["correlation"].isna().all()
    assert np.isinf(found.resolutions()[1:]).all() or np.isnan(found.resolutions()[1:]).all()


def test_images_of_any_scale_weigh_the_same():
    image = picture(0, 16)
    outside = ~disc(16, 6)
    one, two = (normalised(i, outside)[0] for i in (image, 1e30 * image + 5e30))
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert np.mean(one.astype(float) ** 2) == pytest.approx(1)


def with_ctf(images, seed=3):
    """The images as a microscope at many defoci shows them."""
    n, count = images.shape[-1], len(images)
    rng = np.random.default_rng(seed)
    u = rng.uniform(6000, 16000, count)
    v, angle = u - rng.uniform(0, 3000, count), rng.uniform(0, 180, count)
    out = np.empty(images.shape, np.float32)
    for i in range(count):
        transfer = ctf(
            *image_frequencies((n, n), PIXEL), defocus_u=u[i], defocus_v=v[i],
            defocus_angle=angle[i], **OPTICS,
        )  # fmt: skip
        out[i] = np.fft.irfft2(np.fft.rfft2(images.to_numpy()[i]) * transfer, s=(n, n))
    return xr.DataArray(
        out,
        dims=images.dims,
        coords={
            "defocus_u": ("image", u),
            "defocus_v": ("image", v),
            "defocus_angle": ("image", angle),
        },
        attrs={**images.attrs, **OPTICS},
    )


def test_correction_brings_back_what_the_ctf_took():
    images, truth = stack(150, 48, noise=0.0)
    shown = with_ctf(images)
    inside = disc(48, 12)
    like = {}
    for how in (None, "flip", "multiply"):
        found = average_images(shown, truth, radius=20 * PIXEL, ctf=how).compute()
        like[how] = np.corrcoef(found.averages[0][inside], picture(0, 48)[inside])[0, 1]
    assert like["multiply"] > 0.99
    assert like[None] < like["flip"] < like["multiply"]


def test_correction_in_chunks_is_that_of_the_whole():
    images, _ = stack(9, 16)
    shown = with_ctf(images)
    whole = corrected_images(shown, "multiply")
    parts = corrected_images(shown.chunk({"image": 4, "x": 5}), "multiply").compute()
    np.testing.assert_array_equal(parts, whole)
    transfer = image_optics(shown).response(3, 16, "multiply")
    wanted = np.fft.irfft2(np.fft.rfft2(shown.to_numpy()[3]) * transfer, s=(16, 16))
    np.testing.assert_allclose(whole[3], wanted, atol=1e-5)
    assert corrected_images(shown, None) is shown


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"radius": 100.0}, "radius"),
        ({}, {"batch": 0}, "batch"),
        ({}, {"ctf": "phase"}, "ctf must be"),
        ({}, {"ctf": "flip"}, "defocus_u"),
        ({}, {"classes": 0}, "classes"),
        ({"class": 1.5}, {}, "whole numbers"),
        ({"half": 3}, {}, "half must be 1 or 2"),
        ({"psi": np.nan}, {}, "no image is left"),
    ],
)
def test_bad_input_is_named(change, settings, message):
    images, truth = stack(4, 16)
    with pytest.raises(InputError, match=message):
        average_images(images, truth.assign(**change), **settings)


def test_stacks_that_do_not_fit_are_named():
    images, truth = stack(4, 16)
    with pytest.raises(InputError, match="square"):
        average_images(images[:, :12], truth)
    with pytest.raises(InputError, match="3 rows for 4 images"):
        average_images(images, truth.iloc[:3])
    with pytest.raises(InputError, match="image 9"):
        average_images(images, truth.set_axis(pd.Index([0, 1, 2, 9], name="image")))
    with pytest.raises(InputError, match="no column psi"):
        average_images(images, truth.drop(columns="psi"))
    with pytest.raises(InputError, match="number of its own"):
        average_images(images.assign_coords(image=[0, 0, 1, 2]), truth)
    bare = images.copy()
    bare.attrs = {}
    with pytest.raises(InputError, match="pixel_size"):
        average_images(bare, truth)
