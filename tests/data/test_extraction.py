"""Boxes cut out of a tomogram: as by hand, whatever the chunks."""

# ruff: noqa: PD011 (xarray's values, not those of pandas)

import dask
import dask.array as da
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from data.cut_boxes import (
    VOXEL,
    never_compute,
    noise,
    one_box,
    picks_at,
    random_picks,
    recorded,
    tilt_series,
    tomogram,
)
from helpers import irregular_chunks
from hypothesis import given, settings

from tomodask.data.subtomograms import (
    extract_subtomograms,
    particle_table,
)
from tomodask.errors import InputError


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


@given(data=st.data(), box=st.integers(2, 11), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_result_does_not_depend_on_chunks(data, box, seed):
    shape = data.draw(st.tuples(*[st.integers(1, 20)] * 3))
    values = noise(shape, seed)
    picks = random_picks(shape, data.draw(st.integers(1, 12)), seed)
    whole = extract_subtomograms(tomogram(values), picks, box=box)
    chunked = extract_subtomograms(
        tomogram(values, data.draw(irregular_chunks(shape))), picks, box=box
    )
    xr.testing.assert_identical(whole.compute(), chunked.compute())  # the order, too
    for _, at in whole.groupby("particle"):
        zyx = np.rint([at[f"position_{a}"].item() / VOXEL for a in "zyx"]).astype(int)
        np.testing.assert_allclose(at.subtomogram.values[0], one_box(values, zyx, box), rtol=1e-6)


def test_order_is_that_of_space_and_particle_tells_the_row():
    values = noise((10, 300, 300))
    picks = random_picks(values.shape, 200)
    boxes = extract_subtomograms(tomogram(values, 50), picks, box=4)
    assert sorted(boxes.particle.values) == list(range(200))
    tiles = (particle_table(boxes)[["z", "y", "x"]].to_numpy() / VOXEL // 128).tolist()
    assert tiles == sorted(tiles)
    centre = boxes.sortby("particle")
    exact = picks[["z", "y", "x"]].to_numpy()
    kept = np.stack([centre[f"position_{a}"] + centre[f"shift_{a}"] for a in "zyx"], 1)
    np.testing.assert_allclose(kept, exact, atol=1e-9)


def test_each_chunk_is_read_once():
    values = noise((60, 300, 300))
    reads: list[tuple] = []

    class Counted:
        shape, dtype, ndim = values.shape, values.dtype, 3

        def __getitem__(self, index):
            reads.append(tuple((s.start, s.stop) for s in index))
            return values[index]

    lazy = da.from_array(Counted(), chunks=(30, 64, 64), name="counted", asarray=False, meta=values)
    lazy = xr.DataArray(lazy, dims=("z", "y", "x"), attrs={"voxel_size": VOXEL})
    picks = random_picks(values.shape, 1500)
    extract_subtomograms(lazy, picks, box=24).compute()
    assert len(reads) == len(set(reads)) == 2 * 5 * 5


def test_builds_a_graph_and_computes_nothing():
    with dask.config.set(scheduler=never_compute):
        lazy = tomogram(noise(), 16)
        boxes = extract_subtomograms(lazy, random_picks(lazy.shape, 9), box=8)
    assert isinstance(boxes.subtomogram.data, da.Array)
    assert boxes.subtomogram.dtype == np.float32
    assert any(str(key[0]).startswith("extract-") for key in boxes.__dask_keys__()[0][0][0][0])


def test_shift_of_the_table_moves_the_box_and_the_rest_stays():
    values = noise()
    picks = picks_at([[20, 20, 20]]).assign(shift_z=0.0, shift_y=0.0, shift_x=26.0)
    boxes = extract_subtomograms(tomogram(values), picks, box=6)
    np.testing.assert_array_equal(
        boxes.subtomogram.values[0], values[17:23, 17:23, 20:26]
    )  # centre 20 + 2.6 → 23, from 23 − 3 on
    assert boxes.position_x.item() == 230.0
    assert boxes.shift_x.item() == pytest.approx(-4.0)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "float16", "float64"])
def test_any_type_of_voxel_becomes_float32(dtype):
    values = (10 * noise()).astype(dtype)
    boxes = extract_subtomograms(tomogram(values, 16), picks_at([[20, 20, 20]]), box=8)
    want = values[16:24, 16:24, 16:24].astype(np.float32)
    np.testing.assert_array_equal(boxes.subtomogram.values[0], want)


def test_dropped_and_padded_are_counted_aloud(caplog):
    values, picks = noise(), picks_at([[20, 20, 20], [1, 20, 20], [20, 20, 47]])
    padded = extract_subtomograms(tomogram(values), picks, box=8)
    assert padded.attrs["padded"] == 2
    assert padded.attrs["dropped"] == 0
    dropped = extract_subtomograms(tomogram(values), picks, box=8, outside="drop")
    assert dropped.attrs["padded"] == 0
    assert dropped.attrs["dropped"] == 2
    assert dropped.particle.values.tolist() == [0]
    assert "2 of 3 boxes leave the tomogram: padded" in caplog.text
    assert "2 of 3 boxes leave the tomogram: dropped" in caplog.text


def test_voxels_taken_for_angstrom_are_told(caplog):
    volume = tomogram(noise())
    size = volume.attrs["voxel_size"]
    inside = np.array([[20.0, 22, 24], [30, 12, 40]])
    extract_subtomograms(volume, picks_at(inside), box=4)
    assert "multiply" not in caplog.text
    extract_subtomograms(volume, picks_at(inside / size), box=4)
    assert f"if these are voxels, multiply them by {size:g}" in caplog.text


def test_tilt_range_is_said_or_the_table_s_or_the_tomogram_s():
    values, picks = noise(), picks_at([[20, 20, 20]])
    own = picks.assign(tilt_min=-50.0, tilt_max=40.0)
    take = [
        extract_subtomograms(tomogram(values), table, box=8, tilt_range=said)
        for table, said in ((picks, None), (own, None), (own, (-30.0, 30.0)))
    ]
    found = [(t.tilt_min.item(), t.tilt_max.item()) for t in take]
    assert found == [(-60, 60), (-50, 40), (-30, 30)]


def test_the_record_of_the_tilt_series_goes_with_the_boxes():
    picks = picks_at([[20, 20, 20]])
    boxes = extract_subtomograms(recorded(), picks, box=8)
    assert boxes.attrs["tilt_series"] == {"ts": tilt_series()}
    assert (boxes.tilt_min.item(), boxes.tilt_max.item()) == (-51, 48)
    said = extract_subtomograms(recorded(), picks, box=8, tilt_range=(-30, 30))
    assert "tilt_series" not in said.attrs
    assert said.tilt_min.item() == -30
    with pytest.raises(InputError, match="ts: the record of the tilt series is damaged"):
        extract_subtomograms(recorded(angle=[0.0]), picks, box=8)


def test_only_the_rows_of_this_tomogram():
    picks = picks_at([[20, 20, 20], [21, 21, 21], [22, 22, 22]])
    boxes = extract_subtomograms(
        tomogram(noise()), picks.assign(tomogram=["ts", "other", "ts"]), box=8
    )
    assert boxes.particle.values.tolist() == [0, 2]
    with pytest.raises(InputError, match="no row is of tomogram 'ts', the table has a, b"):
        extract_subtomograms(tomogram(noise()), picks.assign(tomogram=["a", "b", "a"]), box=8)


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("TS_01", "TS_01"),
        ("TS_01", "TS_01.mrc"),
        ("TS_01", "tomograms/TS_01.mrc_10.00Apx.mrc"),
        ("TS_01.mrc_10.00Apx", "TS_01.tomostar"),
        ("rec_TS_01", "TS_01"),
        ("TS_01", "7"),  # Dynamo's
        (None, "TS_01"),
        ("TS_01", "tomogram"),
        ("TS_01", "nan"),
    ],
)
def test_names_of_one_tomogram_differ_between_programs(own, name):
    picks = picks_at([[20, 20, 20]]).assign(tomogram=name)
    assert extract_subtomograms(tomogram(noise()).rename(own), picks, box=8).sizes["particle"] == 1


@pytest.mark.parametrize(
    ("own", "name"),
    [("TS_02", "TS_01"), ("TS_02", "a/TS_01.mrc"), ("TS_1", "TS_10"), ("TS_1", "TS_1_2")],
)
def test_picks_of_another_tomogram_are_refused(own, name):
    picks = picks_at([[20, 20, 20], [21, 21, 21]]).assign(tomogram=[name, name])
    message = f"no row is of tomogram '{own}', the table has {name}; .* drop the column tomogram"
    if name == "TS_1_2":  # may be it, unless the table has a better name
        picks["tomogram"] = ["TS_1_2", "TS_1"]
        boxes = extract_subtomograms(tomogram(noise()).rename(own), picks, box=8)
        assert boxes.particle.values.tolist() == [1]
        return
    with pytest.raises(InputError, match=message):
        extract_subtomograms(tomogram(noise()).rename(own), picks, box=8)
    picks = picks.drop(columns="tomogram")
    assert extract_subtomograms(tomogram(noise()).rename(own), picks, box=8).sizes["particle"] == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [(20, 20, 20), (0, 20, 20)])
def test_a_box_with_no_numbers_is_told(value, place):
    values = noise()
    values[place] = value
    picks = picks_at([[30, 30, 40], place])
    boxes = extract_subtomograms(tomogram(values, 16), picks, box=8)
    message = r"ts: 1 voxels of the box of the particle in row 1 are NaN or infinite; fill them"
    with pytest.raises(InputError, match=message):
        boxes.compute()
    extract_subtomograms(tomogram(values, 16), picks[:1], box=8).compute()


@pytest.mark.parametrize(
    ("picks", "options", "message"),
    [
        (picks_at(np.zeros((0, 3))), {}, "no rows, nothing to extract"),
        (pd.DataFrame({"z": [1.0], "x": [1.0]}), {}, "lacks the columns y"),
        (
            picks_at([[20, 20, 20], [20, 20, 480]]),
            {},
            "1 of 2 particles lie outside .* row 1 .*voxel",
        ),
        (picks_at([[-1, 20, 20]]), {"outside": "drop"}, "1 of 1 particles lie outside"),
        (picks_at([[np.nan, 20, 20]]), {}, "1 of 1 particles lie outside"),
        (picks_at([[0, 0, 0]]), {"outside": "drop"}, "all 1 boxes .* smaller box"),
        (picks_at([[20, 20, 20]]), {"box": 1}, "at least 2, got 1"),
        (picks_at([[20, 20, 20]]), {"box": 8.5}, "whole number of voxels, at least 2, got 8.5"),
        (picks_at([[20, 20, 20]]), {"outside": "x"}, 'must be "pad" or "drop"'),
        (
            picks_at([[20, 20, 20]]),
            {"tilt_range": (60, -60)},
            "lower first, within ±90, got 60 -60",
        ),
    ],
)
def test_extraction_says_what_is_wrong(picks, options, message):
    with pytest.raises(InputError, match=message):
        extract_subtomograms(tomogram(noise()), picks, **{"box": 8, **options})


def test_arguments_are_not_edited():
    picks = picks_at([[20, 20, 20.3]]).assign(tomogram="ts.mrc")
    before = picks.copy()
    extract_subtomograms(tomogram(noise()), picks, box=8)
    pd.testing.assert_frame_equal(picks, before)
