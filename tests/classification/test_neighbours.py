"""Nearest neighbours: those of the slow way, whatever the chunks; and maps of features."""

import importlib.machinery
import sys
import types

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from helpers import irregular_chunks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tomodask.classification.features import neighbours
from tomodask.classification.features.maps import map_features
from tomodask.classification.features.neighbours import find_neighbours
from tomodask.errors import InputError


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(neighbours, "_ROWS", 16)
    monkeypatch.setattr(neighbours, "_QUERIES", 3)


def slow(values, query, count, leave_out=None):
    found = sorted(
        (float(((row - query) ** 2).sum()), number)
        for number, row in enumerate(values.astype(np.float64))
        if number != leave_out and np.isfinite(row).all()
    )[:count]
    return [row for _, row in found], [distance**0.5 for distance, _ in found]


@settings(
    deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), seed=st.integers(0, 99), count=st.integers(1, 12))
def test_neighbours_are_those_of_the_slow_way(small_blocks, data, seed, count):
    rng = np.random.default_rng(seed)
    # Small whole numbers: many distances are equal.
    values = rng.integers(0, 3, size=(50, 4)).astype(np.float32) + 1000
    values[7] = np.nan
    cut = da.from_array(values, chunks=data.draw(irregular_chunks(values.shape)))
    asked = [3, 20, 49, 16]
    table = find_neighbours(cut, particles=asked, count=count).compute()
    for row in asked:
        rows, distances = slow(values, values[row].astype(float), count, leave_out=row)
        mine = table[table["query"] == row]
        assert mine["particle"].tolist() == rows
        assert mine["distance"].tolist() == distances
        assert mine["rank"].tolist() == list(range(1, count + 1))


def test_queries_and_names(small_blocks):
    values = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    named = xr.Dataset(
        {"features": (("particle", "feature"), values)}, {"particle": np.arange(40) * 10}
    )
    query = np.random.default_rng(1).normal(size=(7, 5))
    table = find_neighbours(named, queries=query, count=3).compute()
    for number in range(7):
        rows, _ = slow(values, query[number], 3)
        assert table[table["query"] == number]["particle"].tolist() == [10 * row for row in rows]
    table = find_neighbours(named, particles=[120], count=100).compute()
    assert len(table) == 39
    assert 120 not in table["particle"].tolist()
    scaled = values * np.random.default_rng(2).uniform(0.1, 9, size=(40, 1))
    found = find_neighbours(scaled, particles=[0, 5], count=4, metric="cosine").compute()
    unit = values.astype(float) / np.linalg.norm(values.astype(float), axis=1, keepdims=True)
    for row in (0, 5):
        rows, distances = slow(unit, unit[row], 4, leave_out=row)
        assert found[found["query"] == row]["particle"].tolist() == rows
        np.testing.assert_allclose(found[found["query"] == row]["distance"], distances, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_what_single_precision_cannot_tell_is_told(scale, monkeypatch):
    """Kinds far apart, whose own particles lie closer together than its rounding; any scale."""
    monkeypatch.setattr(neighbours, "_MANY", 3)
    asked = {"single": 0, "none": 0}
    real = neighbours._Single.near

    def counted(*given):
        found = real(*given)
        asked["single" if found is not None else "none"] += 1
        return found

    monkeypatch.setattr(neighbours._Single, "near", counted)
    rng = np.random.default_rng(0)
    kinds = np.repeat(rng.normal(size=(3, 6)) * 1e4, 20, axis=0)
    close = (kinds + 1e-3 * rng.normal(size=(60, 6))) * scale
    apart = rng.normal(size=(60, 6)) * scale
    for values in (close, apart):
        table = find_neighbours(values, particles=[0, 31], count=5).compute()
        for row in (0, 31):
            rows, distances = slow(values, values[row], 5, leave_out=row)
            mine = table[table["query"] == row]
            assert mine["particle"].tolist() == rows
            np.testing.assert_allclose(mine["distance"], distances, rtol=1e-12)
    assert asked == ({"single": 1, "none": 1} if scale == 1.0 else {"single": 0, "none": 2})


@pytest.mark.parametrize("width", [3, 200, 2000])
def test_single_precision_leaves_none_out_that_is_near(width):
    """Against double precision alone, where many lie almost equally far."""
    rng = np.random.default_rng(width)
    values = np.abs(rng.normal(size=(300, width))) + 3.0
    values[::3] = values[0] + 1e-6 * rng.normal(size=(100, width))
    leave = np.r_[np.arange(40), np.full(10, -1)]
    queries = np.r_[values[:40], rng.normal(size=(10, width))]
    single = neighbours._Single.of(values).near(queries, leave, 7)
    double = neighbours._Double.of(values).near(queries, leave, 7)
    for query, found, wanted, away in zip(queries, single, double, leave, strict=True):
        distance = ((values - query) ** 2).sum(1)
        distance[away if away >= 0 else []] = np.inf
        assert set(np.argsort(distance, kind="stable")[:7]) <= set(found.tolist())
        assert set(np.argsort(distance, kind="stable")[:7]) <= set(wanted.tolist())
        assert away not in found


def test_bad_input_is_refused():
    values = np.zeros((5, 2))
    values[2] = np.nan
    with pytest.raises(InputError, match="count must be"):
        find_neighbours(values, particles=[0], count=0)
    with pytest.raises(InputError, match="metric must be"):
        find_neighbours(values, particles=[0], metric="manhattan")
    with pytest.raises(InputError, match="one of the two"):
        find_neighbours(values)
    with pytest.raises(InputError, match="particle 9 is not among"):
        find_neighbours(values, particles=[0, 9])
    with pytest.raises(InputError, match="queries must have the shape"):
        find_neighbours(values, queries=np.zeros((3, 4)))
    with pytest.raises(InputError, match="2 has no features"):
        find_neighbours(values, particles=[2]).compute()


def test_a_map_lays_kinds_apart():
    rng = np.random.default_rng(0)
    kind = np.repeat([0, 1, 2], 20)
    values = (rng.normal(size=(3, 30)) * 5)[kind] + rng.normal(size=(60, 30))
    values[11] = np.nan
    named = xr.Dataset(
        {"features": (("particle", "feature"), values)}, {"particle": np.arange(60) + 100}
    )
    table = map_features(named, perplexity=10, components=8)
    assert 111 not in table.index
    assert len(table) == 59
    again = map_features(named.chunk(particle=7), perplexity=10, components=8)
    np.testing.assert_array_equal(table.to_numpy(), again.to_numpy())
    own = kind[table.index - 100]
    plane = table[["map_1", "map_2"]].to_numpy()
    middles = np.array([plane[own == one].mean(0) for one in range(3)])
    nearest = np.linalg.norm(plane[:, None] - middles, axis=2).argmin(1)
    np.testing.assert_array_equal(nearest, own)
    few = map_features(named, perplexity=5, most=30, components=8)
    assert 29 <= len(few) <= 30
    assert few.index.is_monotonic_increasing
    with pytest.raises(InputError, match="four"):
        map_features(named.isel(particle=slice(0, 3)))
    with pytest.raises(InputError, match="components must be"):
        map_features(named, components=1)


def test_umap_is_given_the_same_components_and_all_that_was_asked_for(monkeypatch):
    """A stand-in for umap-learn, which need not be installed."""
    given = {}

    class Plane:
        def __init__(self, **options):
            given.update(options)

        def fit_transform(self, values):
            given["values"] = values
            return values[:, :2].astype(np.float32)

    stand_in = types.ModuleType("umap")
    stand_in.UMAP = Plane
    stand_in.__spec__ = importlib.machinery.ModuleSpec("umap", None)
    monkeypatch.setitem(sys.modules, "umap", stand_in)
    values = np.random.default_rng(0).normal(size=(40, 12)) * np.arange(12, 0, -1)
    table = map_features(values, method="umap", neighbours=7, components=5, seed=3)
    seen, start = given.pop("values"), given.pop("init")
    assert given == {"n_components": 2, "n_neighbors": 7, "random_state": 3, "n_jobs": 1}
    assert seen.shape == (40, 5)
    lengths = np.linalg.svd(values - values.mean(0), compute_uv=False)[:5]
    np.testing.assert_allclose(np.linalg.norm(seen, axis=0), lengths)
    np.testing.assert_allclose(start, seen[:, :2] / seen[:, 0].std(), rtol=1e-6)
    np.testing.assert_allclose(table.to_numpy(), seen[:, :2], rtol=1e-6)
    map_features(values[:6], method="umap")
    assert given["n_neighbors"] == 5
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match="UMAP needs umap-learn"):
        map_features(values, method="umap")
