"""k-means: every particle with its nearest centre, every centre the mean; chunks change no bit."""

import dask
import dask.array as da
import numpy as np
import pytest
from helpers import irregular_chunks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tomodask.classification.clusters import kmeans, kmeans_blocks
from tomodask.classification.clusters.kmeans import KMeans, assigned, plus_plus
from tomodask.errors import InputError


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(kmeans, "_ROWS", 32)


def blobs(count=150, kinds=4, features=6, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(kinds, features)) * 4
    kind = rng.integers(kinds, size=count)
    return (centres[kind] + spread * rng.normal(size=(count, features))).astype(np.float32), kind


def slow_assigned(values, centres):
    labels, distances = [], []
    for row in values:
        squared = [
            sum((a - b) ** 2 for a, b in zip(row, centre, strict=True)) for centre in centres
        ]
        labels.append(int(np.argmin(squared)))
        distances.append(min(squared))
    return np.array(labels), np.array(distances)


@pytest.mark.parametrize("method", ["exact", "minibatch"])
def test_the_end_is_a_fixed_point_of_lloyd(small_blocks, method):
    values, _ = blobs(spread=2.0)
    found = KMeans(7, method=method, batch=16, tolerance=0.0, max_iter=100).fit(values)
    assert found.converged_
    labels, distances = slow_assigned(values.astype(float), found.cluster_centers_)
    np.testing.assert_array_equal(found.labels_, labels)
    np.testing.assert_array_equal(found.sizes_, np.bincount(labels, minlength=7))
    assert (np.diff(found.sizes_) <= 0).all()
    assert found.inertia_ == pytest.approx(distances.sum())
    for cluster in range(7):
        mean = values[labels == cluster].astype(float).mean(0)
        np.testing.assert_allclose(found.cluster_centers_[cluster], mean, atol=1e-9)


@pytest.mark.parametrize("method", ["exact", "minibatch"])
def test_clusters_that_lie_apart_are_found(small_blocks, method):
    values, kind = blobs()
    found = KMeans(4, method=method, batch=16).fit(values)
    for one in range(4):
        assert len(set(found.labels_[kind == one])) == 1
    assert len(set(found.labels_)) == 4
    np.testing.assert_array_equal(found.predict(values).compute(), found.labels_)


@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), method=st.sampled_from(["exact", "minibatch"]))
def test_chunks_change_no_bit(small_blocks, data, method):
    values, _ = blobs(spread=1.5)
    wanted = KMeans(6, method=method, batch=20, max_iter=5).fit(values)
    cut = da.from_array(values, chunks=data.draw(irregular_chunks(values.shape)))
    found = KMeans(6, method=method, batch=20, max_iter=5).fit(cut)
    np.testing.assert_array_equal(found.cluster_centers_, wanted.cluster_centers_)
    np.testing.assert_array_equal(found.labels_, wanted.labels_)
    assert found.inertia_ == wanted.inertia_
    np.testing.assert_array_equal(found.predict(cut).compute(), wanted.labels_)


def test_threads_change_no_bit(small_blocks):
    values, _ = blobs(spread=1.5)
    wanted = KMeans(5, seed=3).fit(values)
    with dask.config.set(scheduler="threads", num_workers=3):
        found = KMeans(5, seed=3).fit(values)
    np.testing.assert_array_equal(found.cluster_centers_, wanted.cluster_centers_)
    other = KMeans(5, seed=4, max_iter=1).fit(values)
    assert not np.array_equal(other.cluster_centers_, wanted.cluster_centers_)


def test_sums_do_not_know_the_order():
    """Features of unlike size: sums of floats would differ, those of integers cannot."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(60, 2)) * 10.0 ** rng.integers(-6, 6, size=(60, 1))
    unit = 2.0 ** (20 - 40)
    centre = np.zeros((1, 2))
    whole = kmeans_blocks.assigned_block(values, centre, unit).sums
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(60)
        parts = [
            kmeans_blocks.assigned_block(values[order[i : i + 7]], centre, unit)
            for i in range(0, 60, 7)
        ]
        np.testing.assert_array_equal(sum(one.sums for one in parts), whole)
    np.testing.assert_allclose(whole[0] * unit, values.sum(0), atol=60 * unit)


def test_sums_of_blocks_are_added_where_they_are(small_blocks, monkeypatch):
    """Of a thousand clusters they are megabytes a block: one value comes back, not one a block."""
    values, _ = blobs(count=32 * 20)
    came, plain = [], kmeans.compute

    def counted(graph, **options):
        found = plain(graph, **options)
        came.extend([found] if isinstance(found, kmeans_blocks.Assigned) else [])
        return found

    monkeypatch.setattr(kmeans, "compute", counted)
    found = KMeans(4).fit(values)
    assert len(came) == found.n_iter_ + 1
    last = came[-1]
    assert last.sizes.sum() == len(last.labels) == len(values)
    assert len(last.inertia) == 20
    far = last.far[last.distance.argmax()]
    nearest = ((values[:, None] - found.cluster_centers_) ** 2).sum(2).min(1)
    assert far == nearest.argmax()


def test_particles_without_features_are_of_no_cluster(small_blocks):
    values, _ = blobs()
    values[[3, 40, 41]] = np.nan
    values[64:96] = np.nan  # a whole block
    found = KMeans(4, method="minibatch", batch=8).fit(values)
    bad = np.isnan(values).any(1)
    np.testing.assert_array_equal(found.labels_ < 0, bad)
    assert found.sizes_.sum() == (~bad).sum()
    same = KMeans(4).fit(values[~bad])
    labels, _ = slow_assigned(values[~bad].astype(float), same.cluster_centers_)
    np.testing.assert_array_equal(same.labels_, labels)


def test_an_empty_cluster_begins_anew_where_the_misfit_is_largest(small_blocks, monkeypatch):
    values, kind = blobs()
    far = np.full((4, 6), 1e3)
    far[0] = values.mean(0)
    monkeypatch.setattr(KMeans, "_start", lambda self, values, rows: far.copy())
    found = KMeans(4).fit(values)
    assert (found.sizes_ > 0).all()
    assert found.converged_
    assert found.sizes_.sum() == len(kind)


def test_plus_plus_draws_different_particles_by_their_distance():
    values = np.repeat([[0.0], [1.0], [50.0]], 20, axis=0)
    for seed in range(20):
        chosen = plus_plus(values, 3, rng=np.random.default_rng(seed))
        assert sorted(chosen[:, 0].tolist()) == [0.0, 1.0, 50.0]
    seconds = [plus_plus(values, 2, rng=np.random.default_rng(seed))[1, 0] for seed in range(50)]
    assert seconds.count(50.0) > 25
    with pytest.raises(InputError, match="different particles, here 3"):
        plus_plus(values, 4, rng=np.random.default_rng(0))


def test_assignment_is_that_of_the_slow_way():
    rng = np.random.default_rng(0)
    values, centres = rng.normal(size=(40, 5)), rng.normal(size=(6, 5))
    labels, distances = slow_assigned(values, centres)
    found = assigned(values, centres)
    np.testing.assert_array_equal(found[0], labels)
    np.testing.assert_allclose(found[1], distances)
    assert assigned(np.zeros((1, 5)), np.zeros((3, 5)))[0].tolist() == [0]


def test_bad_input_is_refused():
    values, _ = blobs(20)
    with pytest.raises(InputError, match="n_clusters must be at most"):
        KMeans(21).fit(values)
    with pytest.raises(InputError, match="different particles"):
        KMeans(2).fit(np.ones((9, 3)))
    with pytest.raises(InputError, match="infinite"):
        KMeans(2).fit(np.array([[1.0], [np.inf], [2.0]]))
    with pytest.raises(InputError, match="n_clusters must be a whole number"):
        KMeans(0).fit(values)
    with pytest.raises(InputError, match="method must be"):
        KMeans(2, method="lloyd").fit(values)
    with pytest.raises(InputError, match="no parameter"):
        KMeans(2).set_params(clusters=3)
    with pytest.raises(InputError, match="not fitted"):
        KMeans(2).predict(values)
    with pytest.raises(InputError, match="axes"):
        KMeans(2).fit(values[0])
    with pytest.raises(InputError, match="must be 6 a particle"):
        KMeans(2).fit(values).predict(values[:, :3])


def test_first_centres_are_those_of_the_slow_way():
    """Squared distances to the nearest centre so far, written out."""
    values = np.random.default_rng(3).normal(size=(60, 5))
    values[7] = values[30]  # two that are one
    rng, other = np.random.default_rng(8), np.random.default_rng(8)
    chosen = [int(other.integers(60))]
    for _ in range(1, 9):
        distance = [min(sum((v - values[c]) ** 2) for c in chosen) for v in values]
        total = np.cumsum(distance)
        chosen.append(int(np.searchsorted(total, other.random() * total[-1], side="right")))
    assert np.array_equal(kmeans.plus_plus(values, 9, rng=rng), values[chosen])


def test_a_row_that_is_a_centre_is_at_no_distance():
    values = np.random.default_rng(4).normal(size=(9, 37)) * 1e3
    distance = np.full(9, np.inf)
    for at in range(9):
        kmeans_blocks.come_nearer(values, values[at], distance)
    assert not distance.any()
