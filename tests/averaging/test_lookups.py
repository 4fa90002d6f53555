"""Weights of tilt series are made once in a process, and are what they would be if made anew."""

import dask
import numpy as np
import pytest
from alignment.scenes import VOXEL, boxes
from scipy.spatial.transform import Rotation

from tomodask.alignment import measurement
from tomodask.alignment.measurement import Measurement
from tomodask.alignment.plan import plan_alignment
from tomodask.arrays.kept import KeptArrays
from tomodask.averaging import lookups
from tomodask.averaging.averages import average_subtomograms
from tomodask.averaging.half_sums import wedge_plane
from tomodask.averaging.lookups import lookup_of, series_volume
from tomodask.simulation.phantom import phantom_particle

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
    monkeypatch.setattr(lookups, "_kept", KeptArrays(2**28))
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
    monkeypatch.setattr(lookups, "_kept", KeptArrays(2 * size))
    made.clear()
    for weight in (0.1, 0.2, 0.1, 0.3, 0.1, 0.2):
        series_volume(measured(weight), box=16, voxel_size=VOXEL)
    assert [one[0] for one in made] == [0.1, 0.2, 0.3, 0.2]
    assert len(lookups._kept) == 2
    monkeypatch.setattr(
        lookups, "_kept", KeptArrays(0)
    )  # of one that is larger than all that may be kept
    assert series_volume(measured(), box=16, voxel_size=VOXEL).nbytes == size


def test_a_tilt_range_needs_no_task():
    found = lookup_of(Measurement((-60.0, 50.0)), box=16, voxel_size=VOXEL)
    np.testing.assert_array_equal(found, wedge_plane(16, (-60.0, 50.0)))


def test_plans_of_the_same_series_make_its_weights_once(monkeypatch):
    calls = []
    real = measurement.tilt_weights

    def counted(box, voxel_size, record):
        calls.append((box, record["weight"][0]))
        return real(box, voxel_size, record)

    monkeypatch.setattr(measurement, "tilt_weights", counted)
    monkeypatch.setattr(measurement, "_kept", KeptArrays(2**28))
    reference = phantom_particle().density(
        box=16, voxel_size=VOXEL, rotation=Rotation.identity(), shift_zyx=np.zeros(3)
    )
    plans = [
        plan_alignment(
            reference, tilt_range=(np.nan, np.nan), record=series(weight), voxel_size=VOXEL,
            angular_step=40.0, shift_range=1.0, radius=4.0,
        )
        for weight in (0.5, 0.4, 0.5)
    ]  # fmt: skip
    assert calls == [(16, 0.5), (16, 0.4)]
    np.testing.assert_array_equal(plans[0].weights, plans[2].weights)
    z, y, x = plans[1].frequencies.astype(int).T
    np.testing.assert_array_equal(plans[1].weights, real(16, VOXEL, series(0.4))[z, y, x])
