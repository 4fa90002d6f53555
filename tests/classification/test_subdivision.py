"""Subdivision: of a mixture that nobody labelled, its structures come back."""

from functools import partial

import dask
import numpy as np
import pytest
from rounds.mixtures import VOXEL, mixture
from scipy.spatial.transform import Rotation

from tomodask.classification.clusters.known import nearest_known
from tomodask.classification.clusters.subdivision import (
    average_members,
    clusters_to_average,
    plan_subdivision,
    subdivide_features,
)
from tomodask.classification.clusters.tables import cluster_table
from tomodask.classification.features.embedding import embed_subtomograms
from tomodask.classification.features.rotation_invariant import RotationInvariant
from tomodask.errors import InputError
from tomodask.simulation.phantom import phantom_particle


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def mixed():
    with dask.config.set(scheduler="synchronous"):
        boxes, kinds, _ = mixture(12, snr=2.0, shift_range=0.0)
        model = RotationInvariant(8, radius=13)
        return boxes, kinds, embed_subtomograms(boxes, model=model).load()


def test_structures_come_back(mixed):
    boxes, kinds, features = mixed
    plan = plan_subdivision(
        boxes, features, diameter=280.0, clusters=2, method="exact", least=8, most=10,
        angular_step=30.0, iterations=2, classes=1,
    )  # fmt: skip
    clusters = subdivide_features(features, plan)
    table = cluster_table(features, clusters, names=kinds)
    assert sorted(table["kind"]) == ["decoy", "particle"]
    assert (table["purity"] > 0.9).all()
    assert clusters_to_average(clusters, plan) == [0, 1]
    still = {"rotation": Rotation.identity(), "shift_zyx": np.zeros(3)}
    known = {
        kind: phantom_particle(kind).density(box=32, voxel_size=VOXEL, **still)
        for kind in ("particle", "decoy")
    }
    for cluster in (0, 1):
        found = average_members(boxes, features, clusters, cluster, plan).compute()
        (one,) = found.classes
        assert sum(one.average.particles) == 10
        assert set(found.poses.index) <= set(np.flatnonzero(clusters.labels_ == cluster))
        like = nearest_known(
            one.average.average, known, voxel_size=VOXEL, resolution=40.0, diameter=280.0
        )
        assert like["name"][0] == table["kind"][cluster]
        assert like["discrepancy"][0] < 70  # Å: what the paper counts as recovered


def test_bad_plans_are_refused(mixed):
    boxes, _, features = mixed
    plan = partial(plan_subdivision, boxes, features, diameter=280.0, clusters=4)
    assert plan().least == 20
    with pytest.raises(InputError, match="other particles"):
        plan_subdivision(boxes, features.isel(particle=slice(3, 9)), diameter=280.0)
    with pytest.raises(InputError, match="clusters must be at most"):
        plan(clusters=25)
    with pytest.raises(InputError, match="least must be"):
        plan(least=7)
    with pytest.raises(InputError, match="most must be"):
        plan(most=19)
    with pytest.raises(InputError, match="method must be"):
        plan(method="fast")
    with pytest.raises(InputError, match="diameter must be"):
        plan(diameter=500.0)
    with pytest.raises(InputError, match="angular_step must be"):
        plan(angular_step=0.0)
