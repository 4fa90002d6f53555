"""`align_images`: any chunks, batches and workers; what is set aside or kept; bad input."""

import dask
import dask.array as da
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import irregular_chunks
from hypothesis import given, settings
from planar.stacks import PIXEL, as_references, shown, stack, views

from tomodask.errors import InputError
from tomodask.planar.alignment2d import align_batch, align_images, plan_alignment2d


@given(data=st.data(), count=st.integers(1, 40))
@settings(deadline=None, max_examples=25)
def test_chunks_batches_and_neighbours_change_nothing(data, count):
    references = views((24, 25), 2, radius=7)
    rng = np.random.default_rng(count)
    images = rng.normal(size=(count, 24, 25)).astype(np.float32)
    options = {"radius": 9 * PIXEL, "shift_range": 1.5 * PIXEL}
    whole = align_images(stack(images), as_references(references), **options)
    chunks = data.draw(irregular_chunks(images.shape))
    lazy = align_images(
        stack(da.from_array(images, chunks=chunks)),
        as_references(references),
        batch=data.draw(st.none() | st.integers(1, 50)),
        **options,
    )
    order = rng.permutation(count)
    mixed = align_images(stack(images[order]), as_references(references), **options)
    with dask.config.set(scheduler=data.draw(st.sampled_from(["sync", "threads"]))):
        want = whole.compute()
        pd.testing.assert_frame_equal(lazy.compute(), want, check_exact=True)
        there = mixed.compute().reset_index(drop=True)
        pd.testing.assert_frame_equal(
            there, want.iloc[order].reset_index(drop=True), check_exact=True
        )


def test_workers_change_nothing():
    references = views((24, 24), 2, radius=7)
    images = np.random.default_rng(0).normal(size=(60, 24, 24)).astype(np.float32)
    graph = align_images(
        stack(da.from_array(images, chunks=(17, 24, 24))), as_references(references),
        radius=9 * PIXEL, shift_range=PIXEL, batch=16,
    )  # fmt: skip
    one = graph.compute(scheduler="sync")
    pd.testing.assert_frame_equal(
        graph.compute(scheduler="processes", num_workers=2), one, check_exact=True
    )


def test_builds_a_graph_and_computes_nothing():
    def never(*args, **kwargs):
        raise AssertionError("the graph was computed while it was being built")

    images = stack(da.zeros((100, 24, 24), chunks=(10, 24, 24)))
    with dask.config.set(scheduler=never):
        align_images(
            images, as_references(da.from_array(views((24, 24), 2))),
            radius=9 * PIXEL, shift_range=PIXEL,
        )  # fmt: skip


def test_images_set_aside(caplog):
    references = views((24, 24), 2, radius=7)
    images, _, _ = shown(references, 5)
    images[1, 3, 3] = np.nan
    images[3] = 7.5
    numbered = stack(images).assign_coords(image=[4, 5, 6, 9, 11])
    table = align_images(
        numbered, as_references(references), radius=9 * PIXEL, shift_range=PIXEL
    ).compute()
    assert table.index.tolist() == [4, 5, 6, 9, 11]
    assert table.index.name == "image"
    assert table["reason"].tolist() == ["", "not finite", "", "constant", ""]
    aside = table["reason"] != ""
    assert (table.loc[aside, "class"] == 0).all()
    assert table.loc[aside, ["psi", "shift_y", "shift_x", "score"]].isna().all(axis=None)
    assert "2 of 5 images are set aside, without a pose: 5 (not finite), 9 (constant)" in (
        caplog.text
    )
    # Those beside them are what they are without them.
    good = align_images(
        numbered[[0, 2, 4]], as_references(references), radius=9 * PIXEL, shift_range=PIXEL
    ).compute()
    assert "reason" not in good
    pd.testing.assert_frame_equal(table.loc[~aside, list(good)], good, check_exact=True)


def test_all_rows_of_an_image():
    references = views((24, 24), 3, radius=7)
    images, _, _ = shown(references, 4)
    images[2] = 0
    table = align_images(
        stack(images), as_references(references), radius=9 * PIXEL, shift_range=PIXEL, keep="all"
    ).compute()
    assert table.index.tolist() == np.repeat(np.arange(4), 3).tolist()
    assert table["class"].tolist() == [1, 2, 3, 1, 2, 3, 0, 0, 0, 1, 2, 3]


def test_one_reference_without_a_class():
    references = views((24, 24), 1, radius=7)
    one = xr.DataArray(references[0], dims=("y", "x"))
    table = align_images(
        stack(references), one, radius=9 * PIXEL, shift_range=PIXEL, mirror=False
    ).compute()
    assert table["score"][0] == pytest.approx(1, abs=1e-5)
    assert abs(table["psi"][0]) < 0.02


def test_goes_on_where_it_stopped(tmp_path):
    references = views((24, 24), 2, radius=7)
    images = np.random.default_rng(0).normal(size=(40, 24, 24)).astype(np.float32)
    options = {"radius": 9 * PIXEL, "shift_range": PIXEL, "batch": 10}
    first = align_images(
        stack(images), as_references(references), checkpoint=tmp_path / "kept", **options
    ).compute()
    (tmp_path / "kept" / "batch000002.npy").unlink()
    again = align_images(
        stack(images), as_references(references), checkpoint=tmp_path / "kept", **options
    )
    assert sum("_align_block" in str(key) for key in again.dask) == 1
    pd.testing.assert_frame_equal(again.compute(), first, check_exact=True)
    with pytest.raises(InputError, match="another job"):
        align_images(
            stack(images + 1), as_references(references), checkpoint=tmp_path / "kept", **options
        )


BAD = {
    "radius": ({"radius": 40 * PIXEL}, r"radius 100 Å is 40.0 pixels and reaches beyond images"),
    "small radius": ({"radius": 1.0}, r"radius must be 2 pixels"),
    "no radius": ({"radius": float("nan")}, r"radius must be 2 pixels"),
    "range": ({"shift_range": -1.0}, r"shift_range must be 0 to half the image"),
    "far": ({"shift_range": 1e3}, r"shift_range must be .* got 1000 Å"),
    "step": ({"shift_step": 0.0}, r"shift_step must be above 0 Å, got 0"),
    "keep": ({"keep": "some"}, r"keep must be 'best' or 'all', got 'some'"),
    "ctf": ({"ctf": "divide"}, r"ctf must be 'multiply', 'flip' or None, got 'divide'"),
    "batch": ({"batch": 0}, r"batch must be 1 image at least, got 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_parameters(case):
    options, message = BAD[case]
    arguments = {"radius": 9 * PIXEL, "shift_range": PIXEL, **options}
    images = stack(np.zeros((3, 24, 24), np.float32))
    with pytest.raises(InputError, match=message):
        align_images(images, as_references(views((24, 24), 2)), **arguments)


def test_bad_images_and_references():
    options = {"radius": 9 * PIXEL, "shift_range": PIXEL}
    images, good = stack(np.zeros((3, 24, 24), np.float32)), as_references(views((24, 24), 2))
    with pytest.raises(InputError, match=r"dims \(image, y, x\), got \('a', 'y', 'x'\)"):
        align_images(images.rename(image="a"), good, **options)
    with pytest.raises(InputError, match="hold no image"):
        align_images(images[:0], good, **options)
    with pytest.raises(InputError, match="carry no pixel_size"):
        align_images(images.drop_attrs(), good, **options)
    with pytest.raises(InputError, match="pixel_size must be above 0"):
        align_images(images.assign_attrs(pixel_size=0.0), good, **options)
    with pytest.raises(InputError, match="references are of 25 × 24 pixels, images of 24 × 24"):
        align_images(images, as_references(np.ones((1, 25, 24))), **options)
    with pytest.raises(InputError, match="one image at least"):
        align_images(images, good[:0], **options)
    with pytest.raises(InputError, match=r"pixel size of 3 Å, images of 2\.5 Å"):
        align_images(images, good.assign_attrs(pixel_size=3.0), **options)
    with pytest.raises(InputError, match="reference 2 is constant"):
        align_images(images, good * xr.DataArray([1.0, 0.0], dims="class"), **options)
    broken = good.copy(deep=True)
    broken[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="reference 1 is not finite"):
        align_images(images, broken, **options)
    # Only beyond the disc is there anything: told when the plan is made.
    rim = np.zeros((1, 24, 24), np.float32)
    rim[0, 0, 0] = 1
    with pytest.raises(InputError, match="reference 1 is constant within the radius of 20 Å"):
        plan_alignment2d(rim, radius=20.0, shift_range=0.0, pixel_size=PIXEL)
    plan = plan_alignment2d(good.to_numpy(), radius=9, shift_range=1)
    with pytest.raises(InputError, match="shape of the references, 24 × 24 pixels"):
        align_batch(np.zeros((2, 24, 23), np.float32), plan)


def test_no_images_at_all():
    plan = plan_alignment2d(views((24, 24), 2), radius=9, shift_range=1)
    assert align_batch(np.zeros((0, 24, 24), np.float32), plan).shape == (0,)
    assert align_batch(np.zeros((0, 24, 24)), plan, every_class=True).shape == (0, 2)
