"""Boxes seen along z, and the way back from their classes to the particles."""

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.ndimage

from tomodask.data.images import image_table, images_array
from tomodask.data.particles import read_particles, write_particles
from tomodask.data.subtomogram_table import particle_table, subtomogram_dataset
from tomodask.errors import InputError
from tomodask.planar.aligned import transform_images
from tomodask.planar.poses2d import rendered
from tomodask.planar.projections import boxes_with_classes, project_subtomograms


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


def boxes(count=5, n=12, chunks=2):
    values = np.random.default_rng(0).normal(size=(count, n, n, n)).astype(np.float32)
    table = pd.DataFrame(
        {
            "tomogram": ["a"] * count, "z": np.arange(count) * 10.0, "y": 1.0, "x": 2.0,
            "shift_z": 0.5, "shift_y": 0.25, "shift_x": 0.125,
            "image": [f"{i}@boxes.zarr" for i in range(count)],
        },
        index=np.arange(count) + 3,
    )  # fmt: skip
    lazy = da.from_array(values, chunks=(chunks, 5, 5, 7))
    return values, subtomogram_dataset(lazy, table, voxel_size=10.0, attrs={"store": "boxes.zarr"})


@pytest.mark.parametrize(
    ("thickness", "planes"), [(None, slice(0, 12)), (40.0, slice(4, 8)), (50.0, slice(4, 9))]
)
def test_a_projection_is_the_mean_along_z(thickness, planes):
    values, dataset = boxes()
    images = project_subtomograms(dataset, thickness=thickness)
    assert isinstance(images.data, da.Array)
    np.testing.assert_array_equal(
        images, values[:, planes].mean(1, dtype=np.float64).astype(np.float32)
    )
    assert images.attrs["pixel_size"] == 10
    table = image_table(images)
    assert table["particle"].tolist() == [3, 4, 5, 6, 7]
    assert table["image"].tolist() == [f"{i}@boxes.zarr" for i in range(5)]
    # Nothing of the particle's own pose is taken for the image's.
    assert set(table) == {"image", "particle"}


def test_chunks_change_no_bit():
    whole = project_subtomograms(boxes(chunks=5)[1]).to_numpy()
    np.testing.assert_array_equal(project_subtomograms(boxes(chunks=1)[1]).to_numpy(), whole)
    np.testing.assert_array_equal(project_subtomograms(boxes()[1].compute()).to_numpy(), whole)


def test_classes_go_back_to_the_particles_and_their_own_shift_stays(tmp_path):
    _, dataset = boxes()
    result = pd.DataFrame(
        {
            "class": [1, 2, 2, 0, 1], "psi": 5.0, "shift_y": 7.0, "shift_x": 8.0,
            "mirror": False, "score": 0.5, "half": [1, 2, 1, 2, 1],
            "reason": [None, None, None, "constant", None],
        }
    )  # fmt: skip
    table = boxes_with_classes(dataset, result)
    assert table["class"].tolist() == [1, 2, 2, 0, 1]
    assert table["shift_y"].tolist() == [0.25] * 5
    assert table["planar_shift_y"].tolist() == [7.0] * 5
    write_particles(table[table["class"].isin([1])], tmp_path / "kept.star")
    kept = read_particles(tmp_path / "kept.star")
    assert kept["z"].tolist() == [0.0, 40.0]
    assert kept["image"].tolist() == ["0@boxes.zarr", "4@boxes.zarr"]
    assert len(particle_table(dataset)) == 5
    with pytest.raises(InputError, match="one row a particle, got 4 for 5"):
        boxes_with_classes(dataset, result.iloc[:4])


def test_bad_slabs_are_refused():
    _, dataset = boxes()
    for thickness in (0.0, 130.0, -5.0):
        with pytest.raises(
            InputError, match="thickness must be within one voxel and the box, 10 to 120 Å"
        ):
            project_subtomograms(dataset, thickness=thickness)
    with pytest.raises(InputError, match="hold no box"):
        project_subtomograms(dataset.isel(particle=slice(0, 0)))


def test_images_are_laid_into_their_references_frame():
    n, size = 32, 4.0
    reference = scipy.ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(n, n)), 2)
    disc = np.hypot(*(np.indices((n, n)) - n // 2)) < 9
    reference = reference * disc
    table = pd.DataFrame(
        {
            "psi": [0.0, 40.0, -110.0, np.nan, 10.0], "shift_y": [0, 6.0, -4.0, 0, 0],
            "shift_x": [0, -2.0, 3.0, 0, 0], "mirror": [False, True, False, False, False],
        }
    )  # fmt: skip
    values = [
        rendered(
            reference,
            psi=row.psi,
            shift_y=row.shift_y / size,
            shift_x=row.shift_x / size,
            mirror=row.mirror,
        )
        for row in table.iloc[:3].itertuples()
    ]
    values += [reference, np.full((n, n), np.nan)]
    stack = images_array(
        da.from_array(np.float32(values), chunks=(2, 9, 9)), table, pixel_size=size
    )
    laid = transform_images(stack, table, radius=13 * size)
    assert isinstance(laid.data, da.Array)
    found = laid.to_numpy()
    for one in found[:3]:
        assert np.corrcoef(one[disc], reference[disc])[0, 1] > 0.998
    assert not found[3].any()
    assert not found[4].any()
    np.testing.assert_array_equal(transform_images(stack.compute(), table, radius=13 * size), found)
    with pytest.raises(InputError, match="4 rows for 5 images"):
        transform_images(stack, table.iloc[:4])
