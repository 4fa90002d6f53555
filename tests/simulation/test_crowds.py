"""Boxes cut from crowded tomograms."""

import dask
import numpy as np
import pytest

from tomodask.arrays.fourier import shell_correlation
from tomodask.averaging.averages import average_subtomograms
from tomodask.data.subtomogram_table import particle_table
from tomodask.errors import InputError
from tomodask.simulation.boxes import simulate_subtomograms
from tomodask.simulation.microscope import Microscope
from tomodask.simulation.phantom import phantom_map
from tomodask.simulation.protocols import PROTOCOLS, Protocol

KINDS = {kind: phantom_map(voxel_size=5.0, box=64, kind=kind) for kind in ("particle", "decoy")}
CROWDED = Protocol(
    box=32, voxel_size=10.0, resolution=20.0, count=8, snr=2.0, tilt_increment=4.0,
    microscope=Microscope(defocus=30_000.0), phase_flip=True, crowding=0.15,
)  # fmt: skip


def crowd(**changes):
    return simulate_subtomograms(KINDS, protocol=CROWDED, **changes)


@pytest.fixture(scope="module")
def boxes():
    with dask.config.set(scheduler="synchronous"):
        return crowd().compute()


def test_as_many_of_each_kind_as_asked_for(boxes):
    assert boxes.subtomogram.shape == (16, 32, 32, 32)
    assert boxes["kind"].to_series().value_counts().to_dict() == {"particle": 8, "decoy": 8}
    assert set(boxes.attrs["tilt_series"]) == set(boxes["tomogram"].values)
    assert np.isfinite(boxes.subtomogram.values).all()
    columns = [f"shift_{axis}" for axis in "zyx"]
    assert np.abs(particle_table(boxes)[columns].to_numpy()).max() <= 5.0  # half a voxel


def test_the_particle_is_in_its_box(boxes):
    only = boxes.isel(particle=np.flatnonzero(boxes["kind"].values == "particle")).chunk()
    average = average_subtomograms(only).compute().average
    curve = shell_correlation(average, phantom_map(voxel_size=10.0, box=32).to_numpy())
    assert curve[3:10].min() > 0.7  # 107 to 32 Å


def test_the_same_bytes_on_any_scheduler(boxes):
    with dask.config.set(scheduler="threads", num_workers=2):
        again = crowd().compute()
    assert np.array_equal(again.subtomogram.values, boxes.subtomogram.values)
    assert particle_table(again).equals(particle_table(boxes))


def test_the_protocol_of_the_paper():
    how = PROTOCOLS["contrastive"]
    assert (how.box, how.count, how.snr) == (32, 500, 0.05)
    assert how.crowding


def test_what_cannot_be(boxes):
    with pytest.raises(InputError, match="a crowded tomogram has no empty boxes"):
        simulate_subtomograms({**KINDS, "nothing": None}, protocol=CROWDED)
    with pytest.raises(InputError, match=r"crowding must be from 0\.005 to below 0\.6"):
        crowd(crowding=0.9)
    with pytest.raises(InputError, match=r"crowding must be from 0\.005"):
        crowd(crowding=1e-6)  # 56,000 voxels wide
    with pytest.raises(InputError, match="out of reach"):
        crowd(crowding=0.5)
