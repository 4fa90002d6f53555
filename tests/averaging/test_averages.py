"""Averages against exact maps and against a plain sum; halves; shells."""

import dask
import numpy as np
import pandas as pd
import pytest
import scipy.interpolate
from alignment.scenes import VOXEL, boxes, dataset_of
from helpers import told_by_new_process

from tomodask.alignment.pose_matching import match_poses
from tomodask.arrays.fourier import measured
from tomodask.arrays.geometry import matrices_zyx
from tomodask.arrays.sampling import half_sphere
from tomodask.averaging.averages import average_subtomograms
from tomodask.averaging.fsc import fsc, resolution_at
from tomodask.averaging.half_sums import Entries, average, bits_for, wedge_plane
from tomodask.data.particles import orientations
from tomodask.errors import InputError


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="sync"):
        yield


@pytest.mark.parametrize("box", [32, 33])
def test_average_of_clean_boxes_is_the_particle(box):
    dataset, truth, reference = boxes(40, box=box, snr=1e9)
    result = average_subtomograms(dataset, poses=truth).compute()
    assert result.particles == (20, 20)
    assert result.coverage == 1.0
    curve = fsc(result.average, reference.to_numpy(), voxel_size=VOXEL)
    assert curve["correlation"][1 : box // 2].min() > 0.97
    a, b = (
        result.average - result.average.mean(),
        reference.to_numpy() - reference.to_numpy().mean(),
    )
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99
    ratio = np.sqrt(shell_power(a) / shell_power(b))  # 1: the wedge is weighed out
    np.testing.assert_allclose(ratio[3:], 1, atol=0.04)
    np.testing.assert_allclose(ratio[6:], 1, atol=0.015)


def shell_power(volume):
    """Power in the shells of radius 0 to the last but one of Fourier voxels."""
    n = len(volume)
    k = np.fft.fftfreq(n, 1 / n)
    radius = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int)
    return np.bincount(radius.ravel(), (np.abs(np.fft.fftn(volume)) ** 2).ravel())[: n // 2]


def interpolated_wedge(q, tilt_range):
    """Linear between the measured (1) and missing (0) Fourier voxels of the box; 0 below 0.2."""
    edge = np.arange(-12, 13)
    table = measured(edge[:, None], edge, tilt_range).astype(float)
    w = scipy.interpolate.RegularGridInterpolator((edge, edge), table)(q[:, [0, 2]])
    return np.where(w < 0.2, 0, w)


def test_sums_against_a_loop_over_measured_frequencies():
    """Reference: the exact spectrum of each box at each turned frequency, by its Fourier sum."""
    dataset, truth, _ = boxes(3, box=16, shift_range=5.0, snr=1e9, tilt_range=(-50.0, 40.0))
    volumes = dataset["subtomogram"].to_numpy()
    matrices, n = matrices_zyx(orientations(truth)), 16
    shifts = truth[["shift_z", "shift_y", "shift_x"]].to_numpy() / VOXEL
    tilts = truth[["tilt_min", "tilt_max"]].to_numpy()
    entries = Entries(
        np.arange(3),
        matrices,
        shifts,
        np.array([0, 1, 1]),
        np.array([1.0, 1.0, 0.25]),
        np.zeros(3, int),
        np.arange(3),
        np.array(list("abc")),
    )
    lookup = wedge_plane(n, tuple(tilts[0]))
    (sums,) = average(volumes, entries, [lookup], np.eye(3)[None], slots=2, bits=bits_for(3))
    k = half_sphere(n / 2 - 0.5)
    axis = np.arange(n) - n // 2
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    radius = np.linalg.norm(grid, axis=1)
    ramp = 0.5 + 0.5 * np.cos(np.pi * np.clip((radius - (n / 2 - 2)) / 2.0, 0, 1))
    data, weight = np.zeros((2, len(k)), complex), np.zeros((2, len(k)))
    power, spread, count = np.zeros((3, 2, 9))
    shell = np.rint(np.linalg.norm(k, axis=1)).astype(int)
    for i, half, amount in ((0, 0, 1.0), (1, 1, 1.0), (2, 1, 0.25)):
        q = k @ matrices[i].T
        seen = interpolated_wedge(q, tuple(tilts[i]))
        edge = volumes[i].ravel()[(ramp > 0) & (ramp < 1)].mean()
        values = (volumes[i].ravel() - edge) * ramp
        exact = np.exp(-2j * np.pi / n * (q @ grid.T)) @ values
        data[half] += amount * seen * exact * np.exp(2j * np.pi / n * (q @ shifts[i]))
        weight[half] += amount * seen**2
        power[half] += amount * np.bincount(shell, np.abs(exact) ** 2 * (seen > 0), 9)
        spread[half] += np.bincount(shell, (amount * seen) ** 2, 9)
        count[half] += amount * np.bincount(shell, seen > 0, 9)
    totals = sums.totals()
    np.testing.assert_allclose(totals.weight, weight, atol=1e-4)
    np.testing.assert_allclose(totals.spread, spread, rtol=1e-3)
    np.testing.assert_allclose(totals.power[:, 1:], power[:, 1:], rtol=0.1)
    np.testing.assert_allclose(totals.count, count, atol=1)
    np.testing.assert_array_equal(sums.particles, [1, 2])
    assert np.linalg.norm(totals.data - data) < 0.05 * np.linalg.norm(data)


@pytest.mark.parametrize(("chunks", "batch", "split_every"), [(1, 1, 2), (2, 2, 3), (9, 4, 2)])
def test_chunks_batches_tree_and_workers_change_nothing(chunks, batch, split_every):
    """Not one bit, also where boxes are of very unequal scale: sums are of whole numbers."""
    dataset, truth, _ = boxes(9, box=16)
    scale = np.float32([1, 1e-5, 3, 1e4, 1, 30, 0.1, 1, 1]).reshape(-1, 1, 1, 1)
    volumes = dataset["subtomogram"].to_numpy() * scale
    want = average_subtomograms(dataset_of(volumes, truth, chunks=3), poses=truth).compute()
    lazy = average_subtomograms(
        dataset_of(volumes, truth, chunks=chunks), poses=truth, batch=batch, split_every=split_every
    )
    for scheduler in ("sync", "threads"):
        got = lazy.compute(scheduler=scheduler)
        for name in ("average", "half_1", "half_2"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
        pd.testing.assert_frame_equal(got.ssnr, want.ssnr, check_exact=True)


def test_halves_follow_their_column():
    dataset, truth, _ = boxes(6, box=16)
    one = average_subtomograms(dataset, poses=truth.assign(half=[1, 1, 2, 2, 2, 2])).compute()
    assert one.particles == (2, 4)
    alone = dataset.isel(particle=[0, 1, 0, 1]).assign_coords(particle=range(4))
    two = average_subtomograms(
        alone, poses=truth.loc[[0, 1, 0, 1]].assign(half=[1, 1, 2, 2])
    ).compute()
    swapped = average_subtomograms(dataset, poses=truth.assign(half=[2, 2, 1, 1, 1, 1])).compute()
    np.testing.assert_array_equal(swapped.half_1, one.half_2)
    np.testing.assert_array_equal(swapped.half_2, one.half_1)
    np.testing.assert_array_equal(swapped.average, one.average)
    np.testing.assert_array_equal(two.half_1, one.half_1)
    np.testing.assert_array_equal(two.half_1, two.half_2)


def test_unmeasured_frequencies_stay_empty():
    dataset, truth, _ = boxes(4, box=16, tilt_range=(-20.0, 20.0))
    same = truth.assign(quat_x=0.0, quat_y=0.0, quat_z=0.0, quat_w=1.0)
    result = average_subtomograms(dataset, poses=same).compute()
    assert result.coverage == pytest.approx(40 / 180, abs=0.05)
    power = np.abs(np.fft.fftn(result.average)) ** 2
    assert power[1:8, 0, 0].max() < 1e-6 * power.max()  # along the beam


def test_halves_of_noise_do_not_correlate():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 32, 32, 32))
    assert np.abs(fsc(a, b, voxel_size=1.0)["correlation"][5:]).max() < 0.15


def test_resolution_is_read_between_shells():
    curve = pd.DataFrame({"frequency": [0.0, 0.01, 0.02, 0.03], "correlation": [1, 0.9, 0.4, 0.1]})
    assert resolution_at(curve, 0.5) == pytest.approx(1 / 0.018)
    assert resolution_at(curve, 0.05) == pytest.approx(1 / 0.03)
    assert resolution_at(curve, 0.95) == float("inf")


def test_mask_of_the_fsc_takes_the_corners_away():
    rng = np.random.default_rng(1)
    axis = np.arange(32) - 16
    r2 = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    particle = rng.normal(size=(32, 32, 32)) * np.exp(-r2 / 50)
    a, b = (particle + 0.5 * rng.normal(size=particle.shape) for _ in range(2))
    loose, tight = (fsc(a, b, voxel_size=1.0, diameter=d)["correlation"] for d in (None, 16.0))
    assert tight[2:14].mean() > loose[2:14].mean() + 0.1


def test_poses_are_matched_by_image_or_by_order():
    dataset, truth, _ = boxes(4, box=16)
    table = truth.assign(image=[f"{i}@boxes" for i in range(4)])
    names = dataset["image"].to_numpy()
    bare = pd.DataFrame({"image": names})
    turned = table.iloc[::-1].reset_index(drop=True)
    by_name = match_poses(bare, turned)
    np.testing.assert_array_equal(by_name["quat_x"], truth["quat_x"])
    by_order = match_poses(bare, turned.drop(columns="image"))
    np.testing.assert_array_equal(by_order["quat_x"], truth["quat_x"][::-1])
    moved = turned.assign(image=turned["image"].str.replace("@", "@some/where/"))
    by_file = match_poses(bare, moved)
    np.testing.assert_array_equal(by_file["quat_x"], truth["quat_x"])
    more = match_poses(bare.iloc[1:3], table)  # a table of more particles than boxes
    np.testing.assert_array_equal(more["quat_x"], truth["quat_x"][1:3])


def test_boxes_in_an_order_of_their_own_do_not_mix_the_poses_up():
    """Extraction orders boxes by place; the table that they were cut by is in another order."""
    dataset, truth, _ = boxes(4, box=16)
    mixed = dataset.drop_vars("image").isel(particle=[2, 0, 3, 1])
    ordered = mixed.assign_coords(particle=range(4))
    want = average_subtomograms(ordered, poses=truth.iloc[[2, 0, 3, 1]])
    got = average_subtomograms(mixed, poses=truth.rename_axis("particle")).compute()
    np.testing.assert_array_equal(got.average, want.compute().average)
    with pytest.raises(InputError, match="in an order of their own"):
        average_subtomograms(mixed, poses=truth)
    average_subtomograms(mixed.sortby("particle"), poses=truth)
    with pytest.raises(InputError, match="no row for particle 3"):
        average_subtomograms(mixed, poses=truth.iloc[:3].rename_axis("particle"))


def test_says_what_is_wrong():
    dataset, truth, _ = boxes(4, box=16)
    with pytest.raises(InputError, match="poses lack orientations"):
        average_subtomograms(dataset)
    with pytest.raises(InputError, match="poses have 3 rows for 4 boxes and no images"):
        average_subtomograms(dataset, poses=truth.iloc[:3])
    named = truth.assign(image=[f"{i}@others" for i in range(4)])
    with pytest.raises(InputError, match=r"do not name each box once: the boxes are 0@boxes"):
        average_subtomograms(dataset, poses=named)
    for tilts in ((60, -60), (10, 10)):
        with pytest.raises(InputError, match="tilt_range must rise"):
            average_subtomograms(dataset, poses=truth, tilt_range=tilts)
    unknown = dataset.assign_coords(tilt_min=("particle", [-60.0, np.nan, -60.0, -60.0]))
    with pytest.raises(InputError, match=r"1 of 4 particles does not rise .*particle 1: nan to 60"):
        average_subtomograms(unknown, poses=truth)
    with pytest.raises(InputError, match="half 2 has 1 particle, it needs at least 2"):
        average_subtomograms(dataset.isel(particle=[0, 1, 2]), poses=truth.iloc[:3])
    with pytest.raises(InputError, match="half 2 has 0 particles"):
        average_subtomograms(dataset, poses=truth.assign(half=1))
    for half in (0, np.nan):
        with pytest.raises(InputError, match="half must be 1 or 2, got"):
            average_subtomograms(dataset, poses=truth.assign(half=[1, 2, half, 1]))
    with pytest.raises(InputError, match="symmetry must be"):
        average_subtomograms(dataset, poses=truth, symmetry="Q3")
    with pytest.raises(InputError, match="no tilt range"):
        average_subtomograms(dataset.drop_vars(["tilt_min", "tilt_max"]), poses=truth)
    with pytest.raises(InputError, match="two cubic maps of one size"):
        fsc(np.zeros((4, 4, 4)), np.zeros((5, 5, 5)), voxel_size=1.0)


def test_boxes_that_hold_nothing_are_set_aside_and_named(caplog):
    dataset, truth, _ = boxes(7, box=16)
    volumes = dataset["subtomogram"].to_numpy().copy()
    volumes[2, 3, 3, 3] = np.nan
    volumes[5] = 1.0
    half = [1, 2, 1, 2, 1, 2, 2]
    broken = average_subtomograms(dataset_of(volumes, truth), poses=truth.assign(half=half))
    got = broken.compute()
    assert got.set_aside["particle"].tolist() == [2, 5]
    assert "particle 2 (2@boxes): its box holds NaN" in caplog.text
    assert "particle 5 (5@boxes): its box holds one value only" in caplog.text
    keep = [0, 1, 3, 4, 6]
    rest = dataset_of(volumes[keep], truth.iloc[keep])
    want = average_subtomograms(rest, poses=truth.iloc[keep].assign(half=[1, 2, 2, 1, 2]))
    np.testing.assert_array_equal(got.average, want.compute().average)
    volumes[0, 0, 0, 0] = np.inf
    few = average_subtomograms(dataset_of(volumes, truth), poses=truth.assign(half=half))
    with pytest.raises(InputError, match=r"half 1 has 1 particle, .* \(particle 0 \(0@boxes\)"):
        few.compute()


def test_a_box_that_is_level_within_its_sphere_is_set_aside():
    dataset, truth, _ = boxes(5, box=16)
    volumes = dataset["subtomogram"].to_numpy().copy()
    volumes[3] = 0.0
    volumes[3, 0, 0, 0] = 1.0
    half = [1, 2, 1, 2, 2]
    got = average_subtomograms(dataset_of(volumes, truth), poses=truth.assign(half=half)).compute()
    assert got.set_aside["particle"].tolist() == [3]
    assert "one value only within its sphere" in got.set_aside["reason"][0]


def test_rows_that_alignment_set_aside_are_left_out(caplog):
    dataset, truth, _ = boxes(8, box=16)
    keep = [0, 1, 3, 4, 7]
    half = np.array([1, 2, 1, 2, 1, 2, 1, 2])
    want = average_subtomograms(
        dataset.isel(particle=keep), poses=truth.iloc[keep].assign(half=half[keep])
    ).compute()
    poses = truth.assign(half=half, score=0.5, reason="")
    poses.loc[2, "quat_x"] = np.nan
    poses.loc[5, "score"] = np.nan
    poses.loc[6, "reason"] = "NaN in the box"
    got = average_subtomograms(dataset, poses=poses).compute()
    np.testing.assert_array_equal(got.average, want.average)
    assert got.particles == (2, 3)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "3 of 8 poses are left out of the average, as alignment set them aside: "
        "2@boxes, 5@boxes, 6@boxes"
    ]
    with pytest.raises(InputError, match="all are empty"):
        average_subtomograms(dataset, poses=truth.assign(quat_x=np.nan))


def test_boxes_in_memory_will_do():
    dataset, truth, _ = boxes(4, box=16)
    want = average_subtomograms(dataset, poses=truth).compute()
    got = average_subtomograms(dataset.load(), poses=truth).compute()
    np.testing.assert_array_equal(got.average, want.average)


def test_dataset_helper_keeps_its_promise():
    dataset, truth, _ = boxes(2, box=16)
    again = dataset_of(dataset["subtomogram"].to_numpy(), truth)
    np.testing.assert_array_equal(again["subtomogram"], dataset["subtomogram"])


_HASHED = """
import hashlib
import numpy as np
from scipy.spatial.transform import Rotation
from tomodask.averaging.half_sums import Entries, average, bits_for, wedge_plane

rng = np.random.default_rng(0)
boxes = rng.normal(size=(3, 16, 16, 16)).astype(np.float32)
volume = rng.uniform(0.1, 1, (37, 37, 19)).astype(np.float32)
entries = Entries(
    box=np.arange(3), matrices=Rotation.random(3, random_state=1).as_matrix(),
    shifts_zyx=rng.normal(size=(3, 3)), slot=np.array([0, 1, 0]), amount=np.ones(3),
    kind=np.array([0, 1, 1]), identities=np.arange(3), names=np.array(["a", "b", "c"]),
)
lookups = [wedge_plane(16, (-60, 60)), volume]
sums = average(boxes, entries, lookups, np.eye(3)[None], slots=2, bits=bits_for(3))[0]
told = [one.data.tobytes() + one.weight.tobytes() for _, one in sorted(sums.bins.items())]
print(hashlib.sha256(b"".join(told)).hexdigest())
"""


def test_kernels_compiled_or_found_in_the_cache_tell_the_same(tmp_path):
    first, second = (told_by_new_process(_HASHED, tmp_path) for _ in range(2))
    assert len(first) > 60
    assert first == second
