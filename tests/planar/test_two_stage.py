"""2SDR: against PCA of pixels, the same to the last bit out of core, an estimator like others."""

import sys

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from helpers import irregular_chunks
from hypothesis import HealthCheck, given, settings

from tomodask.data.images import images_array
from tomodask.errors import InputError
from tomodask.planar.embedding import embed_images
from tomodask.planar.two_stage import TwoStageReduction


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


def mixture(count=200, shape=(16, 12), kinds=3, noise=0.5, seed=0):
    """Smooth patterns, each weighed by its kind, in white noise; and the kinds."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape) / np.array(shape)[:, None, None]
    patterns = np.stack(
        [np.cos(2 * np.pi * (i + 1) * y) * np.sin(np.pi * (i + 1) * x) for i in range(kinds)]
    )
    kind = rng.integers(0, kinds, count)
    images = (
        patterns[kind] * rng.uniform(0.8, 1.2, (count, 1, 1))
        + rng.normal(scale=noise, size=(count, *shape))
        + 3
    )
    return images.astype(np.float32), kind


def pca(images, k):
    """Slow and obvious: of the pixels."""
    flat = images.reshape(len(images), -1).astype(float)
    _, s, v = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    return s[:k] ** 2 / (len(images) - 1), v[:k]


def test_with_all_rows_and_columns_it_is_pca():
    images, _ = mixture(60, (8, 7))
    reduction = TwoStageReduction(5, ranks=(8, 7)).fit(images)
    variance, vectors = pca(images, 5)
    np.testing.assert_allclose(reduction.explained_variance_, variance, rtol=1e-9)
    ours = np.einsum("kpq,yp,xq->kyx", reduction.components_.reshape(5, 8, 7),
                     reduction.row_basis_, reduction.column_basis_).reshape(5, -1)  # fmt: skip
    np.testing.assert_allclose(np.abs((ours * vectors).sum(1)), 1, rtol=1e-9)
    flat = images.reshape(60, -1)
    scores = (flat - flat.mean(0)) @ ours.T
    np.testing.assert_allclose(reduction.transform(images), scores, atol=1e-4)


def test_it_finds_what_stands_out_of_the_noise_and_leaves_the_noise():
    images, kind = mixture()
    clean, _ = mixture(noise=0.0)
    reduction = TwoStageReduction(6).fit(images)
    assert 3 <= reduction.ranks_[0] <= 6
    assert 3 <= reduction.ranks_[1] <= 5
    assert reduction.explained_variance_[1] > 5 * reduction.explained_variance_[2]
    restored = (
        TwoStageReduction(3).fit(images).inverse_transform(reduction.transform(images)[:, :3])
    )
    raw = np.mean((images - clean) ** 2)
    assert np.mean((restored - clean) ** 2) < 0.1 * raw
    features = reduction.transform(images)[:, :3]
    centres = np.stack([features[kind == k].mean(0) for k in range(3)])
    nearest = np.linalg.norm(features[:, None] - centres, axis=2).argmin(1)
    assert (nearest == kind).mean() == 1
    noise = np.random.default_rng(5).normal(size=(300, 20, 20))
    assert TwoStageReduction().fit(noise).ranks_ == (2, 2)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(irregular_chunks((150, 16, 12)))
def test_chunks_change_no_bit(chunks):
    images, _ = mixture(150)
    with dask.config.set(scheduler="synchronous"):
        whole = TwoStageReduction(4).fit(images)
        parts = TwoStageReduction(4).fit(da.from_array(images, chunks=chunks))
        for name in ("mean_", "row_basis_", "column_basis_", "components_", "explained_variance_"):
            np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
        lazy = parts.transform(da.from_array(images, chunks=chunks))
        features = whole.transform(images)
        np.testing.assert_array_equal(lazy.compute(), features)
        np.testing.assert_array_equal(
            whole.inverse_transform(lazy).compute(), whole.inverse_transform(features)
        )


def test_threads_change_no_bit():
    images, _ = mixture(300)
    one = TwoStageReduction(4).fit(images)
    with dask.config.set(scheduler="threads", num_workers=3):
        other = TwoStageReduction(4).fit(da.from_array(images, chunks=(20, 16, 12)))
    np.testing.assert_array_equal(one.components_, other.components_)


def test_a_stack_stays_lazy_and_keeps_its_table():
    images, kind = mixture(70)
    stack = images_array(
        da.from_array(images, chunks=30), pd.DataFrame({"class": kind}), pixel_size=4.0
    )
    reduction = TwoStageReduction(n_components=3)
    features = reduction.fit_transform(stack)
    assert features.dims == ("image", "component")
    assert isinstance(features.data, da.Array)
    assert features["class"].to_numpy().tolist() == kind.tolist()
    assert reduction.inverse_transform(features).shape == images.shape


def test_it_is_an_estimator_as_scikit_learn_knows_them():
    sklearn = pytest.importorskip("sklearn", reason="needs scikit-learn (extra tomodask[planar])")
    from sklearn.cluster import KMeans
    from sklearn.pipeline import make_pipeline

    del sklearn
    images, kind = mixture()
    found = make_pipeline(TwoStageReduction(3), KMeans(3, n_init=5, random_state=0)).fit_predict(
        images
    )
    assert len(set(zip(found, kind, strict=True))) == 3
    reduction = TwoStageReduction(3).set_params(ranks=(4, 4), rounds=1)
    assert reduction.get_params() == {
        "n_components": 3, "ranks": (4, 4), "rounds": 1, "tolerance": 1e-3
    }  # fmt: skip


def test_bad_input_is_named():
    images, _ = mixture(10)
    bad = images.copy()
    bad[7, 3, 3] = np.nan
    for given_, options, said in (
        (images[:1], {}, "images must be two or more"),
        (images[0], {}, r"axes \(image, y, x\)"),
        (bad, {}, "image 7 holds values that are not finite"),
        (np.ones((5, 4, 4)), {}, "images are all equal"),
        (images, {"n_components": 0}, "n_components must be a whole number, at least 1, got 0"),
        (images, {"ranks": (17, 3)}, "at most the edges of the images, 16 and 12, got 17 and 3"),
        (images, {"ranks": 3}, "ranks must be two numbers"),
    ):
        with pytest.raises(InputError, match=said):
            TwoStageReduction(**options).fit(given_)
    with pytest.raises(InputError, match="not fitted yet"):
        TwoStageReduction().transform(images)
    with pytest.raises(InputError, match="has no parameter 'depth'"):
        TwoStageReduction().set_params(depth=3)
    with pytest.raises(InputError, match="must be of shape"):
        TwoStageReduction(2).fit(images).transform(images[:, :5])


def test_images_that_are_alike_lie_beside_each_other():
    pytest.importorskip("sklearn", reason="needs scikit-learn (extra tomodask[planar])")
    images, kind = mixture(90)
    features = TwoStageReduction(5).fit_transform(images)
    lies_beside_its_like(features, kind, "tsne")


def test_umap_lays_alike_images_beside_each_other():
    pytest.importorskip("umap", reason="needs umap-learn (extra tomodask[umap])")
    kind = np.arange(90) % 3
    rng = np.random.default_rng(0)
    features = 5 * rng.normal(size=(3, 6))[kind] + rng.normal(size=(90, 6))
    lies_beside_its_like(features, kind, "umap")
    assert embed_images(features[:4], method="umap").shape == (4, 2)


def lies_beside_its_like(features, kind, method):
    plane = embed_images(features, method=method, seed=3)
    assert plane.shape == (90, 2)
    np.testing.assert_array_equal(plane, embed_images(features, method=method, seed=3))
    distance = np.linalg.norm(plane[:, None] - plane, axis=2) + np.diag(np.full(90, np.inf))
    assert (kind[distance.argmin(1)] == kind).mean() > 0.97


def test_embedding_says_what_it_needs(monkeypatch):
    features = np.random.default_rng(0).normal(size=(9, 3))
    with pytest.raises(InputError, match="four images or more"):
        embed_images(features[:3])
    with pytest.raises(InputError, match="not finite"):
        embed_images(np.full((9, 3), np.nan))
    with pytest.raises(InputError, match="perplexity must be above 0, got -1"):
        embed_images(features, perplexity=-1)
    with pytest.raises(InputError, match="neighbours must be a whole number, at least 2, got 1"):
        embed_images(features, method="umap", neighbours=1)
    with pytest.raises(InputError, match="method must be one of tsne, umap, got 'pca'"):
        embed_images(features, method="pca")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r"umap-learn.*pip install 'tomodask\[umap\]'"):
        embed_images(features, method="umap")
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(InputError, match=r"scikit-learn.*pip install 'tomodask\[planar\]'"):
        embed_images(features)
