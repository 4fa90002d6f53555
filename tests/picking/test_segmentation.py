"""Segmentation: equal for any chunks, tiles that do not show, resampling on the fly."""

import itertools

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from helpers import irregular_chunks
from hypothesis import given, settings
from hypothesis import strategies as st
from nets.models import random_model
from picking.noisy import SHAPE, noise, one_tile_a_task, slow, tomogram, unrounded

from tomodask.arrays.lanczos import new_size, resample_part, source_range
from tomodask.data.tomograms import open_tomogram, save_tomogram
from tomodask.nets.segmentation.architecture import receptive_radius
from tomodask.nets.segmentation.reach import measure_reach
from tomodask.picking.segmentation.segmenting import segment_tomogram


@pytest.fixture(autouse=True)
def _sync():
    with dask.config.set(scheduler="sync"):
        yield


# What comes out


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("invert", [False, True])
def test_is_the_network_on_the_normalised_tomogram(classes, invert):
    model = random_model(classes=classes, invert=invert)
    values = noise((27, 33, 41))
    result = segment_tomogram(tomogram(values), model)
    got, expected = result.values, slow(values, model)
    assert got.shape == (classes, 27, 33, 41)
    assert expected.std() > 0.01
    assert np.abs(got - expected).max() <= 0.5 / 256 + 1e-5
    np.testing.assert_array_equal(got * 256, np.rint(got * 256))
    other = random_model(classes=classes, invert=not invert)
    assert np.abs(segment_tomogram(tomogram(values), other).values - got).max() > 0.1


def test_says_where_and_what_it_is():
    model = random_model(classes=2)
    volume = tomogram(noise(), tilt_range=(-60.0, 60.0), source="/somewhere/ice.mrc")
    result = segment_tomogram(volume, model)
    assert result.dims == ("class", "z", "y", "x")
    assert result["class"].values.tolist() == ["kind 0", "kind 1"]
    assert result.dtype == np.float32
    for axis in "zyx":
        np.testing.assert_array_equal(result[axis], np.arange(volume.sizes[axis]) * 10.0)
    told = {k: v for k, v in result.attrs.items() if k != "fingerprint"}
    assert told == {
        "voxel_size": 10.0,
        "diameters": (100.0, 100.0),
        "label_diameter": 7,
        "threshold": model.threshold,
        "model": model.digest,
        "tomogram": "ice",
        "source": "/somewhere/ice.mrc",
        "tomogram_voxel_size": 10.0,
        "tomogram_shape": volume.shape,
        "tilt_range": (-60.0, 60.0),
    }


@settings(max_examples=8, deadline=None)
@given(chunks=irregular_chunks(SHAPE), tile=st.sampled_from([None, 24, 32]))
def test_chunks_of_the_input_change_no_bit(chunks, tile):
    model, values = random_model(), noise()
    with dask.config.set(scheduler="sync"), pytest.MonkeyPatch.context() as patch:
        one_tile_a_task(patch)
        whole = segment_tomogram(tomogram(values), model, tile=tile, halo=4).values
        got = segment_tomogram(tomogram(values, chunks), model, tile=tile, halo=4).values
    np.testing.assert_array_equal(got, whole)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_batches_and_tasks_change_no_bit(monkeypatch, scheduler):
    model, volume = random_model(classes=2), tomogram(noise(), 16)
    kwargs = {"tile": 24, "halo": 4}
    several = segment_tomogram(volume, model, **kwargs)
    assert several.data.numblocks == (1, 2, 2, 1)  # small tiles are worked off in rows
    one_tile_a_task(monkeypatch)
    single = segment_tomogram(volume, model, **kwargs)
    assert single.data.numblocks == (1, 2, 2, 3)
    pairs = segment_tomogram(volume, model, batch=2, **kwargs)
    monkeypatch.undo()
    rows = segment_tomogram(volume, model, batch=2, **kwargs)
    assert pairs.data.numblocks == single.data.numblocks  # a store goes on with another batch
    with dask.config.set(scheduler=scheduler):
        values = [one.values for one in (several, single, pairs, rows)]
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])
    np.testing.assert_array_equal(values[0], values[3])


def test_types_of_voxels_and_large_offsets():
    model = random_model()
    values = np.rint(noise(std=20.0)).astype(np.int16)
    a = segment_tomogram(tomogram(values), model).values
    b = segment_tomogram(tomogram(values.astype(np.float64) + 1000), model).values
    assert np.abs(a - b).max() <= 1 / 256


def test_mirrors_are_a_mean():
    model = random_model()
    values = noise((16, 16, 16))
    got = segment_tomogram(tomogram(values), model, mirror=True).values
    total = np.zeros((1, 16, 16, 16))
    for flips in itertools.product((1, -1), repeat=3):
        turn = tuple(slice(None, None, step) for step in flips)
        total += slow(values[turn], model)[(slice(None), *turn)]
    assert np.abs(got - total / 8).max() <= 0.5 / 256 + 1e-5
    assert np.abs(got - slow(values, model)).max() > 0.05


# How the placement of tiles enters


@pytest.mark.parametrize(
    ("coordinates", "channels"), [("none", (4, 6)), ("border", (4, 6)), ("border", (3, 3, 3))]
)
def test_with_the_full_halo_tiles_do_not_show(monkeypatch, coordinates, channels):
    """The same result wherever tiles begin, on shifted lattices of tiles of other sizes."""
    unrounded(monkeypatch)
    model = random_model(channels=channels, coordinates=coordinates, border=4, gain=0.7)
    halo = receptive_radius(model.architecture) + (4 if coordinates == "border" else 0)
    edge = 2 * halo + 20
    values = noise((8, edge, 40))
    expected = segment_tomogram(tomogram(values), model, tile=1000).values
    assert np.abs(expected - slow(values, model)).max() < 1e-5
    starts = set()
    for tile in (2 * halo + 8, 2 * halo + 12, 2 * halo + 16):
        result = segment_tomogram(tomogram(values), model, tile=tile, halo=halo)
        starts.add(result.data.chunks)
        assert np.abs(result.values - expected).max() < 1e-6
    assert len(starts) == 3


@pytest.mark.parametrize("coordinates", ["patch", "border"])
def test_what_coordinates_over_the_patch_do(monkeypatch, coordinates):
    """The paper's coordinates tell a voxel where its tile begins; no halo mends that."""
    unrounded(monkeypatch)
    model = random_model(coordinates=coordinates, border=4)
    halo = receptive_radius(model.architecture) + 4
    values = noise((24, 24, 4 * halo))
    a, b = (
        segment_tomogram(tomogram(values), model, tile=tile, halo=halo).values
        for tile in (2 * halo + 8, 2 * halo + 20)
    )
    if coordinates == "patch":
        assert np.abs(a - b).max() > 0.01
    else:
        assert np.abs(a - b).max() < 1e-6


def test_with_a_smaller_halo_the_reach_bounds_the_difference(monkeypatch):
    unrounded(monkeypatch)
    model = random_model(channels=(4, 6), border=4, gain=0.5)
    normal = noise((64, 64, 64), seed=1, mean=0.0, std=1.0)
    reach = dict(measure_reach(model, normal, (2, 6, 12)))
    assert reach[2] > reach[6] > reach[12]
    values = noise((32, 48, 96), seed=2)
    expected = slow(values, model)
    for halo, change in reach.items():
        got = segment_tomogram(tomogram(values), model, tile=40, halo=halo).values
        assert np.quantile(np.abs(got - expected), 0.999) < 1.5 * change + 1e-6


# Other voxel sizes


@pytest.mark.parametrize("voxel_size", [4.0, 7.3, 17.0])
def test_resamples_on_the_fly(voxel_size):
    """As if the whole tomogram had been resampled first, to the bit, and for any chunks."""
    model = random_model()
    factor = 10.0 / voxel_size
    values = noise((40, 36, 44))
    stop = tuple(new_size(n, factor) for n in values.shape)
    for a, n in zip(stop, values.shape, strict=True):
        assert source_range(0, a, factor, n) == (0, n)
    whole = resample_part(values, start=(0,) * 3, stop=stop, factor=factor, size=values.shape)
    kwargs = {"tile": 32, "halo": 4}
    expected = segment_tomogram(tomogram(whole), model, **kwargs)
    for chunks in (None, ((7, 33), 20, (1, 30, 13))):
        volume = tomogram(values, chunks, voxel_size=voxel_size)
        got = segment_tomogram(volume, model, **kwargs)
        np.testing.assert_array_equal(got.values, expected.values)
        assert got.attrs["voxel_size"] == 10.0
        np.testing.assert_array_equal(got["x"], expected["x"])


def test_says_where_resampling_goes_far(caplog):
    model = random_model()
    for voxel_size, said in ((6.0, False), (20.0, False), (4.0, True), (25.0, True)):
        caplog.clear()
        segment_tomogram(tomogram(noise((40, 36, 44)), voxel_size=voxel_size), model, tile=32)
        assert ("check a slice of the probabilities" in caplog.text) == said


def test_resampling_reads_no_more_than_it_needs():
    read = []

    class Source:
        shape, dtype, ndim = (64, 64, 64), np.dtype(np.float32), 3

        def __getitem__(self, index):
            sizes = [len(range(*one.indices(64))) for one in index]
            read.append(max(sizes))
            return np.random.default_rng(0).normal(size=sizes).astype(np.float32)

    data = da.from_array(Source(), chunks=8, meta=np.empty((0, 0, 0), np.float32), name="source")
    volume = xr.DataArray(data, dims=("z", "y", "x"), attrs={"voxel_size": 5.0})
    segment_tomogram(volume, random_model(), tile=16, halo=2)[:, :4, :4, :4].compute()
    assert read
    assert max(read) <= 8


def test_nearly_equal_voxel_sizes_are_equal():
    model, values = random_model(), noise()
    near = segment_tomogram(tomogram(values, voxel_size=10.05), model)
    np.testing.assert_array_equal(near.values, segment_tomogram(tomogram(values), model).values)
    assert near.attrs["voxel_size"] == 10.05
    assert float(near["x"][1]) == 10.05


# Which run it is


def test_fingerprint_tells_runs_apart(tmp_path):
    save_tomogram(tomogram(noise()), tmp_path / "ice.zarr", chunk=16)
    model, volume = random_model(), open_tomogram(tmp_path / "ice.zarr")

    def mark(tomogram=volume, model=model, **kwargs):
        return segment_tomogram(tomogram, model, **kwargs).attrs["fingerprint"]

    same = {mark(), mark(batch=4), mark(open_tomogram(tmp_path / "ice.zarr", chunks=7))}
    assert len(same) == 1
    others = {
        mark(model=random_model(seed=1)),
        mark(-volume),
        mark(halo=2, tile=24),
        mark(mirror=True),
        mark(precision="bfloat16"),
        mark(engine="torch"),
        mark(open_tomogram(tmp_path / "ice.zarr", voxel_size=12.0)),
    }
    assert len(others - same) == 7
