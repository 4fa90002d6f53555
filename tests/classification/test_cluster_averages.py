"""A cluster sorted into classes and averaged: right, said where it is not, the same anyhow."""

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster
from rounds.mixtures import VOXEL, mixture
from scipy.spatial.transform import Rotation

from tomodask.classification.clusters.averages import average_cluster
from tomodask.classification.clusters.known import nearest_known
from tomodask.errors import InputError
from tomodask.simulation.phantom import phantom_particle

SETTINGS = {"diameter": 260.0, "angular_step": 30.0}


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


def known_maps():
    still = {"rotation": Rotation.identity(), "shift_zyx": np.zeros(3)}
    return {
        kind: phantom_particle(kind).density(box=32, voxel_size=VOXEL, **still)
        for kind in ("particle", "decoy")
    }


def test_a_cluster_is_averaged_without_a_reference():
    dataset, _, _ = mixture(16, snr=1.0, kinds=("particle",), shift_range=10.0)
    found = average_cluster(dataset, **SETTINGS, iterations=2).compute()
    (one,) = found.classes
    assert one.average.particles == (8, 8)
    assert (one.number, one.share, found.notes) == (1, 1.0, ())
    assert len(found.rounds) == 2
    assert len(one.poses) == len(found.poses) == 16
    assert one.resolution < 40
    table = nearest_known(
        one.average.average, known_maps(), voxel_size=VOXEL, resolution=40.0, diameter=280.0
    )
    assert table["name"][0] == "particle"
    assert table["discrepancy"][0] < 45


def test_kinds_in_a_cluster_are_told_apart_and_equal_classes_become_one():
    dataset, kinds, _ = mixture(24, snr=0.5)
    found = average_cluster(dataset, **SETTINGS, classes=3).compute()
    assert [len(one.poses) for one in found.classes] == [24, 24]
    assert [one.number for one in found.classes] == [1, 2]
    for one in found.classes:
        (kind,) = set(kinds[one.poses.index])
        table = nearest_known(
            one.average.average, known_maps(), voxel_size=VOXEL, resolution=40.0, diameter=280.0
        )
        assert table["name"][0] == kind
        assert one.share == 0.5
        assert sum(one.average.particles) == 24
        mine = found.poses[found.poses["class"] == one.number]
        pd.testing.assert_frame_equal(mine, one.poses)
    (note,) = found.notes
    assert "became one" in note
    assert [len(found.rounds), found.rounds[0].search.iteration] == [5, 1]


def bits(found):
    maps = [
        volume.tobytes()
        for one in found.classes
        for volume in (one.average.average, one.average.half_1, one.average.half_2)
    ]
    return maps, found.poses, found.notes


def test_neither_chunks_nor_threads_nor_workers_change_a_bit():
    dataset, _, _ = mixture(12, snr=0.5)
    options = {**SETTINGS, "classes": 2, "iterations": 3, "consensus": 1}
    wanted = bits(average_cluster(dataset, **options).compute())
    values = dataset["subtomogram"].to_numpy()
    cut = da.from_array(values, chunks=((5, 1, 11, 7), 32, (20, 12), 32))
    again = dataset.assign(subtomogram=(dataset["subtomogram"].dims, cut))
    loaded = dataset.assign(subtomogram=(dataset["subtomogram"].dims, values))
    with dask.config.set(scheduler="threads", num_workers=3):
        graphs = [average_cluster(one, **options) for one in (again, loaded)]
        for one in dask.compute(*graphs):
            maps, poses, notes = bits(one)
            assert (maps, notes) == (wanted[0], wanted[2])
            pd.testing.assert_frame_equal(poses, wanted[1], check_exact=True)


def test_worker_processes_change_no_bit():
    """Clusters of two tilt series, one whose weights the process has made before."""
    dataset, _, _ = mixture(8, snr=0.5)
    angle = np.arange(-60.0, 61.0, 10.0)
    series = {
        "angle": angle.tolist(), "weight": [float(np.deg2rad(10.0))] * len(angle),
        "pixel_size": VOXEL, "method": "wbp",
    }  # fmt: skip
    named = dataset.assign_coords(tomogram=("particle", ["a"] * 10 + ["b"] * 6)).assign_attrs(
        tilt_series={"a": series, "b": series | {"weight": [0.15] * len(angle)}}
    )
    clusters = [named, named.isel(particle=slice(9))]
    graphs = [average_cluster(one, **SETTINGS, iterations=1, particles=8) for one in clusters]
    wanted = [bits(one) for one in dask.compute(*graphs)]
    with (
        dask.config.set(scheduler=None),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local,
        Client(local) as client,
    ):
        found = [bits(one) for one in client.gather(client.compute(graphs))]
    for (maps, poses, notes), (maps_here, poses_here, notes_here) in zip(
        found, wanted, strict=True
    ):
        assert (maps, notes) == (maps_here, notes_here)
        assert len(maps) == 3
        pd.testing.assert_frame_equal(poses, poses_here, check_exact=True)


def test_small_clusters_and_bad_boxes_are_said():
    dataset, _, _ = mixture(6, snr=1.0)
    found = average_cluster(dataset, **SETTINGS, classes=3, iterations=3).compute()
    assert len(found.classes) == 1
    assert found.notes == ("12 particles are too few for 3 classes, 8 each: sorted into 1",)
    values = dataset["subtomogram"].to_numpy().copy()
    values[[2, 7]] = np.nan
    holed = dataset.assign(subtomogram=(dataset["subtomogram"].dims, values))
    found = average_cluster(holed, **SETTINGS, iterations=2).compute()
    assert found.poses.index[found.poses["class"] == 0].tolist() == [2, 7]
    assert len(found.classes[0].poses) == 10
    assert found.notes[-1].startswith("2 of 12 particles are set aside: 2 ")
    values[:-2] = np.nan
    empty = dataset.assign(subtomogram=(dataset["subtomogram"].dims, values))
    found = average_cluster(empty, **SETTINGS).compute()
    assert found.classes == ()
    assert "NaN" in found.notes[-1]
    assert (found.poses["class"] == 0).all()
    assert len(found.poses) == 12


def test_bad_input_is_refused():
    dataset, _, _ = mixture(5, snr=1.0)
    with pytest.raises(InputError, match="at least 8 particles"):
        average_cluster(dataset.isel(particle=slice(7)), **SETTINGS)
    with pytest.raises(InputError, match="iterations must be"):
        average_cluster(dataset, **SETTINGS, iterations=0)
    with pytest.raises(InputError, match="classes must be"):
        average_cluster(dataset, **SETTINGS, classes=0)
    with pytest.raises(InputError, match="more than consensus"):
        average_cluster(dataset, **SETTINGS, iterations=2, classes=2)
    with pytest.raises(InputError, match="merge must be"):
        average_cluster(dataset, **SETTINGS, merge=1.5)
    with pytest.raises(InputError, match="diameter must be"):
        average_cluster(dataset, diameter=600.0)
    with pytest.raises(InputError, match=r"tilt_min|tilt range"):
        average_cluster(dataset.drop_vars(["tilt_min", "tilt_max"]), **SETTINGS)
