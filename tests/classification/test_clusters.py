"""Clusters: sizes, radii, kinds, members."""

import dask
import numpy as np
import pytest

from tomodask.classification.clusters.kmeans import KMeans
from tomodask.classification.clusters.tables import (
    centre_distances,
    cluster_table,
    evenness,
    members,
)
from tomodask.errors import InputError


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


def test_the_table_tells_sizes_radii_and_kinds():
    values = np.array([[0.0, 0], [2, 0], [np.nan, 1], [9, 9], [9, 9], [9, 12]])
    found = KMeans(2).fit(values)
    table = cluster_table(values, found, names=["a", "b", "a", "c", "c", "a"])
    assert table["particles"].tolist() == [3, 2]
    np.testing.assert_allclose(table["radius"], [2**0.5, 1.0])
    assert table["kind"].tolist() == ["c", "a"]
    np.testing.assert_allclose(table["purity"], [2 / 3, 1 / 2])
    assert members(values, found, 0).tolist() == [3, 4, 5]
    assert members(values, found, 0, most=2).tolist() == [3, 4]
    known = centre_distances(values, found)  # one pass for all clusters
    assert members(None, found, 0, most=2, distances=known).tolist() == [3, 4]
    again = cluster_table(None, found, names=["a", "b", "a", "c", "c", "a"], distances=known)
    assert again.equals(table)
    assert evenness([3, 2]) == pytest.approx(-(0.6 * np.log2(0.6) + 0.4 * np.log2(0.4)))
    with pytest.raises(InputError, match="cluster must be within"):
        members(values, found, 2)
    with pytest.raises(InputError, match="one a particle"):
        cluster_table(values, found, names=["a"])
    with pytest.raises(InputError, match="those that the clusters were found in"):
        cluster_table(values[:3], found)
    with pytest.raises(InputError, match="not fitted"):
        cluster_table(values, KMeans(2))
    with pytest.raises(InputError, match="two clusters"):
        evenness([4])


def test_the_table_is_that_of_the_slow_way():
    """In one pass over the particles: of 10⁶ in 10⁴ clusters a look at each took minutes."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 3))
    values[::17] = np.nan
    found = KMeans(9).fit(values)
    found.sizes_ = np.append(found.sizes_, 0)  # an empty one
    found.cluster_centers_ = np.vstack([found.cluster_centers_, np.zeros(3)])
    kinds = rng.choice(["b", "a", "cc"], size=200)
    distances = centre_distances(values, found)
    table = cluster_table(None, found, names=kinds, distances=distances)
    for row in table.to_dict("records"):
        mine = found.labels_ == row["cluster"]
        assert row["particles"] == mine.sum()
        if not mine.any():
            assert np.isnan([row["radius"], row["purity"]]).all()
            assert row["kind"] == ""
            continue
        assert row["radius"] == pytest.approx(distances[mine].mean() ** 0.5)
        counts = {kind: (kinds[mine] == kind).sum() for kind in ("a", "b", "cc")}
        assert row["kind"] == max(counts, key=counts.get)
        assert row["purity"] == max(counts.values()) / mine.sum()
