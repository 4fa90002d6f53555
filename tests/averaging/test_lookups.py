"""Weights of tilt series are made once in a process, and are what they would be if made anew."""

import dask
import numpy as np
import pytest
from alignment.scenes import VOXEL, boxes

from tomodask.alignment.measurement import Measurement
from tomodask.averaging import lookups
from tomodask.averaging.averages import average_subtomograms
from tomodask.averaging.half_sums import wedge_plane
from tomodask.averaging.lookups import lookup_of, series_volume

TILTS = [-60.0, -30.0, 0.0, 30.0, 60.0]


def series(weight=0.5):
    return {"angle": TILTS, "weight": [weight] * 5, "pixel_size": VOXEL, "method": "wbp"}


def measured(weight=0.5):
    return Measurement((np.nan, np.nan), series(weight))


@pytest.fixture
def made(monkeypatch):
    """What was made, from nothing kept on."""
    calls = []
    real = Measurement.volume

    def volume(self, *, box, voxel_size):
        calls.append((self.record["weight"][0], box, voxel_size))
        return real(self, box=box, voxel_size=voxel_size)

    monkeypatch.setattr(Measurement, "volume", volume)
    monkeypatch.setattr(lookups, "_kept", type(lookups._kept)())
    return calls


def test_averages_of_the_same_series_make_its_weights_once(made):
    dataset, truth, _ = boxes(4, box=16)
    dataset = dataset.assign_coords(tomogram=("particle", ["a", "b", "a", "b"])).assign_attrs(
        tilt_series={"a": series(), "b": series(0.4)}
    )
    with dask.config.set(scheduler="sync"):
        first = average_subtomograms(dataset, poses=truth).compute()
        again = average_subtomograms(dataset, poses=truth, batch=1).compute()
    assert sorted(made) == [(0.4, 16, VOXEL), (0.5, 16, VOXEL)]
    np.testing.assert_array_equal(again.average, first.average)


def test_another_box_voxel_size_or_series_is_another(made):
    one = series_volume(measured(), box=16, voxel_size=VOXEL)
    assert series_volume(measured(), box=16, voxel_size=VOXEL) is one
    for weight, box, voxel_size in ((0.4, 16, VOXEL), (0.5, 18, VOXEL), (0.5, 16, 8.0)):
        other = measured(weight)
        found = series_volume(other, box=box, voxel_size=voxel_size)
        np.testing.assert_array_equal(found, other.volume(box=box, voxel_size=voxel_size))
    assert series_volume(measured(), box=16, voxel_size=VOXEL) is one


def test_what_was_not_used_for_long_is_let_go(made, monkeypatch):
    size = measured().volume(box=16, voxel_size=VOXEL).nbytes
    monkeypatch.setattr(lookups, "_BYTES", 2 * size)
    made.clear()
    for weight in (0.1, 0.2, 0.1, 0.3, 0.1, 0.2):
        series_volume(measured(weight), box=16, voxel_size=VOXEL)
    assert [one[0] for one in made] == [0.1, 0.2, 0.3, 0.2]
    assert len(lookups._kept) == 2
    monkeypatch.setattr(lookups, "_BYTES", 0)  # of one that is larger than all that may be kept
    assert series_volume(measured(), box=16, voxel_size=VOXEL).nbytes == size


def test_a_tilt_range_needs_no_task():
    found = lookup_of(Measurement((-60.0, 50.0)), box=16, voxel_size=VOXEL)
    np.testing.assert_array_equal(found, wedge_plane(16, (-60.0, 50.0)))
