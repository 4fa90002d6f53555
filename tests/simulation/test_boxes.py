"""Boxes with one particle each: their noise, their wedge, their poses."""

from dataclasses import replace

import dask
import numpy as np
import pytest
import scipy.fft

from tomodask.alignment.poses import align_subtomograms
from tomodask.arrays.fourier import frequency_grid, shell_correlation
from tomodask.arrays.geometry import angular_distance
from tomodask.averaging.averages import average_subtomograms
from tomodask.data.particles import orientations
from tomodask.data.subtomogram_table import particle_table
from tomodask.errors import InputError
from tomodask.simulation.boxes import simulate_subtomograms
from tomodask.simulation.detector import Detector, sinc_detector
from tomodask.simulation.microscope import Microscope
from tomodask.simulation.phantom import phantom_map, phantom_particle
from tomodask.simulation.protocols import PROTOCOLS, Protocol

PERFECT = Microscope(ctf=False)
SMALL = Protocol(
    box=40, voxel_size=10.0, resolution=20.0, count=6, snr=np.inf, tilt_increment=3.0,
    shift_range=20.0, microscope=PERFECT,
)  # fmt: skip
PHANTOM = {"phantom": "phantom"}


@pytest.fixture(autouse=True)
def _here():
    with dask.config.set(scheduler="synchronous"):
        yield


def boxes_of(**changes):
    return simulate_subtomograms(PHANTOM, protocol=SMALL, **changes)


LOUD = Detector((0.0, 0.5), (1.0, 1.0), (2.0, 2.0))  # white, but not of height 1


@pytest.mark.parametrize("detector", [sinc_detector(), sinc_detector(shaped_noise=True), LOUD])
@pytest.mark.parametrize("ctf", [True, False])
def test_snr_is_the_one_asked_for(detector, ctf):
    how = {"detector": detector, "microscope": Microscope(ctf=ctf, defocus=30000.0)}
    clean = boxes_of(**how).subtomogram.to_numpy()
    noisy = boxes_of(snr=0.05, **how).subtomogram.to_numpy()
    ratio = clean.var(axis=(1, 2, 3)) / (noisy - clean).var(axis=(1, 2, 3))
    assert abs(ratio.mean() / 0.05 - 1) < 0.05
    assert np.abs(ratio / 0.05 - 1).max() < 0.15


def test_the_same_bytes_whatever_the_batch_and_the_number():
    whole = boxes_of(snr=0.1)
    wanted = whole.subtomogram.to_numpy()
    for batch in (1, 4, 100):
        assert np.array_equal(boxes_of(snr=0.1, batch=batch).subtomogram.to_numpy(), wanted)
    with dask.config.set(scheduler="threads", num_workers=2):
        assert np.array_equal(boxes_of(snr=0.1, batch=2).subtomogram.to_numpy(), wanted)
    fewer = boxes_of(snr=0.1, count=3)
    assert np.array_equal(fewer.subtomogram.to_numpy(), wanted[:3])
    assert particle_table(fewer).equals(particle_table(whole).iloc[:3])
    other = simulate_subtomograms(PHANTOM, protocol=SMALL, snr=0.1, seed=1, count=1)
    assert not np.array_equal(other.subtomogram.to_numpy(), wanted[:1])


def test_hardly_any_energy_lies_outside_the_wedge():
    box = boxes_of(count=1, shift_range=0.0).subtomogram.to_numpy()[0]
    n = len(box)
    # A window that fades towards the faces: what the box cuts off is not of the wedge.
    window = np.hanning(n)
    faded = box * window[:, None, None] * window[:, None] * window
    power = np.abs(scipy.fft.rfftn(faded.astype(np.float64))) ** 2
    kz, _, kx = frequency_grid(box.shape)
    beyond = np.abs(np.abs(kz) - np.abs(kx) * np.tan(np.deg2rad(60)))
    outside = (np.abs(kz) > np.abs(kx) * np.tan(np.deg2rad(60))) & (beyond > 3 / n)
    assert outside.mean() > 0.15
    assert power[np.broadcast_to(outside, power.shape)].sum() < 0.01 * power.sum()


def test_a_dense_series_gives_the_density_back():
    how = {"tilt_range": (-85.0, 85.0), "tilt_increment": 1.0, "shift_range": 15.0}
    dataset = boxes_of(count=2, **how)
    table, turns = particle_table(dataset), orientations(particle_table(dataset))
    for i in range(2):
        shift = table[["shift_z", "shift_y", "shift_x"]].to_numpy()[i]
        wanted = phantom_particle().density(
            box=40, voxel_size=10.0, rotation=turns[i], shift_zyx=shift
        )
        got = dataset.subtomogram.to_numpy()[i]
        assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.98


def test_poses_are_found_with_the_contrast_transfer():
    scope = Microscope(defocus=60_000.0)
    dataset = boxes_of(snr=0.3, microscope=scope, resolution=20.0)
    truth = particle_table(dataset)
    reference = phantom_map(voxel_size=10.0, box=40)
    found = align_subtomograms(dataset, reference, shift_range=25.0).compute()
    assert np.median(angular_distance(orientations(found), orientations(truth))) < 2.5
    columns = ["shift_z", "shift_y", "shift_x"]
    off = np.linalg.norm(found[columns].to_numpy() - truth[columns].to_numpy(), axis=1)
    assert np.median(off) < 3.0


def test_the_average_at_the_true_poses_is_the_particle():
    dataset = boxes_of(count=12, snr=1.0, microscope=Microscope(defocus=40_000.0), shift_range=10.0)
    made = average_subtomograms(dataset).compute()
    curve = shell_correlation(made.average, phantom_map(voxel_size=10.0, box=40).to_numpy())
    assert curve[4:14].min() > 0.8  # 100 to 29 Å


def test_no_tilt_lies_beyond_the_range():
    assert boxes_of(tilt_increment=32.0)["tilt_max"].max() == 36.0
    angles = replace(SMALL, tilt_range=(-85.0, 85.0), tilt_increment=9.0).angles
    assert (angles[0], angles[-1], len(angles)) == (-85.0, 77.0, 19)


def test_kinds_and_empty_boxes():
    dataset = simulate_subtomograms(
        {"phantom": "phantom", "nothing": None}, protocol=SMALL, count=3, snr=0.2
    )
    assert dataset["kind"].values.tolist() == ["phantom"] * 3 + ["none"] * 3
    assert dataset["class"].values.tolist() == [1, 1, 1, 2, 2, 2]
    deviation = dataset.subtomogram.to_numpy().std(axis=(1, 2, 3))
    assert 0.7 < deviation[3:].mean() / deviation[:3].mean() < 1.1
    clean = simulate_subtomograms({"nothing": None}, protocol=SMALL, count=1)
    assert not clean.subtomogram.to_numpy().any()


def test_protocols_are_those_of_the_papers():
    mbgd, subdivision = PROTOCOLS["mbgd"], PROTOCOLS["subdivision"]
    assert (mbgd.box, mbgd.voxel_size, mbgd.count) == (64, 6.0, 20)
    assert mbgd.microscope.defocus == 60_000
    assert len(mbgd.angles) == 121
    assert (subdivision.box, subdivision.voxel_size, subdivision.count) == (40, 9.2, 1000)
    assert (subdivision.microscope.defocus, subdivision.microscope.voltage) == (50_000, 300)
    narrow = simulate_subtomograms(
        PHANTOM, protocol="mbgd", tilt_range=(-40, 40), snr=0.003, shift_range=12.0
    )
    assert narrow.sizes["particle"] == 20
    assert narrow.attrs["tilt_series"]["mbgd"]["angle"][0] == -40
    assert set(narrow["tilt_max"].values) == {40.0}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"protocol": "mbdg"}, "did you mean 'mbgd'"),
        ({"snrr": 1.0}, "no snrr; did you mean snr"),
        ({"snr": 0.0}, "snr must be above 0"),
        ({"count": 0}, "count must be a whole number"),
        ({"resolution": 19.0}, "at least two voxels, 20 Å"),
        ({"tilt_range": (60, -60)}, r"tilt_range must be \(least, largest\)"),
        ({"tilt_increment": 200.0}, "give one image, a reconstruction needs two"),
        ({"box": 24}, "phantom reaches .* take box="),
        ({"shift_range": 150.0}, "phantom reaches .* may be shifted by 150 Å"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"batch": 0}, "batch must be at least 1"),
    ],
)
def test_bad_input(changes, told):
    given = {"protocol": SMALL} | changes
    with pytest.raises(InputError, match=told):
        simulate_subtomograms(PHANTOM, **given)


def test_maps_that_are_no_densities():
    density = phantom_map(voxel_size=5.0, box=64)
    with pytest.raises(InputError, match=r"does not say its voxel size; set its attrs"):
        simulate_subtomograms({"a": density.drop_attrs()}, protocol=SMALL)
    for wrong in (density.copy(data=-density.to_numpy()), density.copy(data=0 * density)):
        with pytest.raises(InputError, match="no voxel is above 0; turn its contrast over"):
            simulate_subtomograms({"a": wrong}, protocol=SMALL)


def test_the_decoy_by_its_name():
    decoy = phantom_map(voxel_size=5.0, kind="decoy")
    named = simulate_subtomograms({"a": "phantom-decoy"}, protocol=SMALL, count=1)
    given = simulate_subtomograms({"a": decoy}, protocol=SMALL, count=1)
    assert np.array_equal(named.subtomogram.to_numpy(), given.subtomogram.to_numpy())


def test_no_structure_at_all():
    with pytest.raises(InputError, match="structures is empty"):
        simulate_subtomograms({})
