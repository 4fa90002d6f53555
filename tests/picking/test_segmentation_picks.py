"""Picks of a segmentation: against a plain reference, in space, by class, whatever the chunks."""

from __future__ import annotations

import collections
import re

import dask
import dask.array as da
import hypothesis.strategies as st
import mrcfile
import numpy as np
import pandas as pd
import pytest
import scipy.ndimage as ndi
import xarray as xr
from click.testing import CliRunner
from helpers import irregular_chunks
from hypothesis import given, settings
from scipy.spatial.distance import cdist

from tomodask.data.particles import read_particles
from tomodask.errors import InputError
from tomodask.picking.segmentation.picks import pick_segmentation

SIZE = 10.0  # Å


def probabilities(data, classes=None, **attrs):
    dims = ("z", "y", "x") if data.ndim == 3 else ("class", "z", "y", "x")
    coords = {} if classes is None else {"class": list(classes)}
    told = {"voxel_size": SIZE, "label_diameter": 7, "diameters": (90.0,) * max(1, len(coords))}
    if classes is not None:
        told["diameters"] = (90.0,) * len(classes)
    return xr.DataArray(data, dims=dims, coords=coords, name="t1", attrs={**told, **attrs})


def blobs(shape, centers, radius=4.0, height=1.0):
    """Soft balls in steps of 1/256, as a network paints labels; voxels."""
    zyx = np.stack(np.indices(shape), axis=-1)
    out = np.zeros(shape)
    for center in centers:
        out = np.maximum(out, 1 / (1 + np.exp(np.linalg.norm(zyx - center, axis=-1) - radius)))
    return (np.rint(out * height * 256) / 256).astype(np.float32)


def fields(rng, shape, classes):
    """Smooth noise, softmax over the classes and a background."""
    logits = [3 * ndi.gaussian_filter(rng.normal(size=shape), 1.2) for _ in range(classes + 1)]
    weights = np.exp(np.array(logits) / (np.std(logits) + 1e-9))
    return (np.rint(weights / weights.sum(0) * 256) / 256).astype(np.float32)[1:]


def reference(volumes, names, *, threshold, min_height, width, apart, exclusive, jointly):
    """MP-NMS over the whole volume, one pick after the other."""
    weights = np.ones(1)
    for _ in range(max(2, width // 4 + 1)):
        weights = np.convolve(weights, np.ones(5))
    full = weights.sum() ** 3

    def pooled(values):
        for axis in range(3):
            values = ndi.correlate1d(values, weights, axis=axis, mode="constant")
        return values

    rows = []
    jointly = jointly and len(volumes) > 1
    for number, volume in enumerate([volumes.sum(0)] if jointly else volumes):
        mask = volume > threshold
        of_class = [pooled(np.where(mask, one, 0).astype(np.float64)) for one in volumes]
        hill = np.pad(pooled(np.pad(mask, 10).astype(np.float64)), 1)
        score = pooled(np.where(mask, np.minimum(volume, 1), 0).astype(np.float64)) / full
        inner = hill[11:-11, 11:-11, 11:-11]
        top = (inner / full >= min_height) & (
            inner == ndi.maximum_filter(inner, 5, mode="constant")
        )
        tops = np.argwhere(top)
        for n, place in enumerate(tops):
            if (np.abs(tops[:n] - place).max(1, initial=0) <= 2).any():
                continue
            shift = []
            for axis in range(3):
                step = np.eye(3, dtype=int)[axis]
                at = place + 11
                left, here, right = (hill[tuple(at + k * step)] for k in (-1, 0, 1))
                bend = left - 2 * here + right
                shift.append(np.clip((left - right) / bend / 2, -0.5, 0.5) if bend < 0 else 0.0)
            where = np.clip(place + shift, 0, np.subtract(volume.shape, 1))
            if jointly:
                number = int(np.argmax([one[tuple(place)] for one in of_class]))
            rows.append((-score[tuple(place)], number, *where))
    kept = []
    for row in sorted(rows):
        for other in kept:
            close = np.linalg.norm(np.subtract(row[2:], other[2:])) < apart
            if close and (exclusive or row[1] == other[1]):
                break
        else:
            kept.append(row)
    table = pd.DataFrame({"tomogram": ["t1"] * len(kept)})
    for n, dim in enumerate("zyx"):
        table[dim] = [row[2 + n] * SIZE for row in kept]
    table["kind"] = np.array([names[row[1]] for row in kept], dtype=object)
    table["class"] = np.array([row[1] + 1 for row in kept], np.int64)
    table["score"] = [-row[0] for row in kept]
    return table


@st.composite
def segmentations(draw):
    shape = draw(st.tuples(*[st.integers(1, 26)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return fields(rng, shape, draw(st.integers(1, 3)))


@given(data=st.data(), volumes=segmentations())
@settings(deadline=None, max_examples=60)
def test_equals_the_reference_for_any_chunks(data, volumes):
    names = [f"kind {n}" for n in range(len(volumes))]
    threshold = data.draw(st.sampled_from([0.2, 0.4, 0.5]))
    exclusive = data.draw(st.booleans())
    options = {"threshold": threshold, "min_height": 0.02, "exclusive": exclusive}
    options["jointly"] = data.draw(st.booleans())
    with dask.config.set(scheduler="sync"):
        eager = pick_segmentation(probabilities(volumes, names), **options)
        chunks = data.draw(irregular_chunks(volumes.shape))
        lazy = pick_segmentation(
            probabilities(da.from_array(volumes, chunks=chunks), names), **options
        )
    pd.testing.assert_frame_equal(lazy, eager, check_exact=True)
    want = reference(volumes, names, width=7, apart=4.5, **options)
    columns = ["tomogram", "z", "y", "x", "kind", "class"]
    pd.testing.assert_frame_equal(eager[columns], want[columns], check_exact=False, rtol=1e-9)
    np.testing.assert_allclose(eager["score"], want["score"], rtol=1e-12)


def test_finds_places_between_voxels():
    rng = np.random.default_rng(5)
    centers = np.array([[a, b, c] for a in (12, 30) for b in (12, 33, 50) for c in (10, 35)])
    centers = centers + rng.uniform(-0.5, 0.5, centers.shape)
    table = pick_segmentation(probabilities(blobs((42, 64, 48), centers)))
    assert len(table) == len(centers)
    gaps = cdist(table[["z", "y", "x"]], centers * SIZE).min(0)
    assert gaps.max() < 0.1 * SIZE
    assert set(table["kind"]) == {"particle"}
    assert table["score"].is_monotonic_decreasing
    assert table["score"].between(0, 1).all()


def test_coordinates_say_where_a_part_lies():
    part = probabilities(blobs((24, 24, 24), [(12, 11, 10)]))
    part = part.assign_coords(z=np.arange(24) * SIZE + 500)
    table = pick_segmentation(part)
    np.testing.assert_allclose(table[["z", "y", "x"]], [[620, 110, 100]], atol=1e-6)


def test_each_class_has_its_distance_and_a_place_has_one_particle():
    """Of two classes at one place the surer is kept, unless both are asked for."""
    sure = blobs((24, 24, 48), [(12, 12, 12)])
    less = blobs((24, 24, 48), [(12, 12, 14), (12, 12, 34)], height=0.8)
    both = probabilities(np.stack([less, sure]), ["less", "sure"])
    table = pick_segmentation(both, jointly=False)
    assert table["kind"].tolist() == ["sure", "less"]
    assert (table["x"] / SIZE).round().tolist() == [12, 34]
    assert len(pick_segmentation(both, jointly=False, exclusive=False)) == 3
    # For a pair of classes the smaller of their distances counts.
    assert len(pick_segmentation(both, jointly=False, diameters={"less": 300.0, "sure": 20.0})) == 3
    assert len(pick_segmentation(both, jointly=False, min_distance=15.0)) == 3
    assert len(pick_segmentation(both, jointly=False, min_distance=300.0)) == 1


def test_a_particle_that_cannot_be_told_is_found_all_the_same():
    """Half of the probability here and half there: in no mask of one class alone."""
    certain = blobs((24, 24, 60), [(12, 12, 12)])
    torn = blobs((24, 24, 60), [(12, 12, 40)], height=0.45)
    both = probabilities(np.stack([certain + torn, torn * 1.0625]), ["a", "b"])
    assert pick_segmentation(both, jointly=False)["kind"].tolist() == ["a"]
    table = pick_segmentation(both)
    assert table["kind"].tolist() == ["a", "b"]
    assert (table["x"] / SIZE).round().tolist() == [12, 40]
    assert table["class"].tolist() == [1, 2]


def test_of_equal_ones_the_first_is_kept():
    pair = blobs((24, 24, 48), [(12, 12, 12), (12, 12, 24)], radius=3.0)
    table = pick_segmentation(probabilities(pair), min_distance=130.0)
    assert (table["x"] / SIZE).round().tolist() == [12]
    assert len(pick_segmentation(probabilities(pair), min_distance=110.0)) == 2
    twice = probabilities(np.stack([pair, pair]), ["b", "a"])
    assert pick_segmentation(twice)["kind"].tolist() == ["b", "b"]


def test_score_ranks_the_sure_above_the_unsure_and_the_whole_above_the_piece():
    whole = blobs((24, 24, 80), [(12, 12, 12)])
    unsure = blobs((24, 24, 80), [(12, 12, 36)], height=0.7)
    piece = blobs((24, 24, 80), [(12, 12, 60)], radius=2.5)
    table = pick_segmentation(probabilities(np.maximum(np.maximum(whole, unsure), piece)))
    assert (table["x"] / SIZE).round().tolist()[0] == 12
    assert len(table) == 3
    best = pick_segmentation(probabilities(whole + unsure + piece), max_particles=1)
    assert (best["x"] / SIZE).round().tolist() == [12]


def test_each_block_is_computed_once_and_only_what_is_above_is_kept():
    counts = collections.Counter()
    volume = blobs((60, 60, 60), [(30, 30, 30), (10, 50, 20)])

    def block(block_info=None):
        place = block_info[None]["array-location"]
        counts[tuple(place)] += 1
        return volume[tuple(slice(*side) for side in place)]

    lazy = da.map_blocks(block, chunks=((20,) * 3,) * 3, dtype=np.float32, meta=np.empty((0,) * 3))
    with dask.config.set(scheduler="sync"):
        counts.clear()
        table = pick_segmentation(probabilities(lazy.astype(np.float32)))
    assert len(table) == 2
    assert len(counts) == 27
    assert set(counts.values()) == {1}


def test_nothing_to_pick():
    table = pick_segmentation(probabilities(np.zeros((9, 9, 9), np.float32)))
    assert list(table) == ["tomogram", "z", "y", "x", "kind", "class", "score"]
    assert table.empty
    nan = np.full((9, 9, 9), np.nan, np.float32)
    assert pick_segmentation(probabilities(nan)).empty


def test_everything_is_above_the_threshold():
    table = pick_segmentation(probabilities(np.ones((40, 40, 40), np.float32)))
    assert len(table) == 1  # one hill without end, however flat
    assert table["score"].item() == 1


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"threshold": np.nan}, "threshold must be a number, got nan"),
        ({}, {"min_height": 0}, "min_height must be above 0 and at most 1, got 0"),
        ({}, {"min_distance": -1.0}, "min_distance must be 0 Å or more, got -1.0"),
        ({}, {"max_particles": 0}, "max_particles must be at least 1, got 0"),
        ({}, {"diameters": (1.0, 2.0)}, "one or one for each of the 1 classes"),
        ({}, {"diameters": {"other": 2.0}}, "none is given for particle"),
        ({"diameters": None}, {}, "min_distance is not known"),
        ({"diameters": None, "label_diameter": None}, {"min_distance": 9}, "give diameters"),
        ({"label_diameter": None}, {"diameters": 2.0}, "at least a voxel"),
        ({"voxel_size": 0}, {}, "voxel_size must be above 0 Å, got 0"),
    ],
)
def test_says_what_is_wrong(change, options, message):
    volume = probabilities(np.zeros((9, 9, 9), np.float32), **change)
    with pytest.raises(InputError, match=message):
        pick_segmentation(volume, **options)


def test_wants_a_labelled_array():
    with pytest.raises(InputError, match=r"attrs\['voxel_size'\].*got ndarray"):
        pick_segmentation(np.zeros((9, 9, 9)))
    turned = probabilities(np.zeros((9, 9, 9), np.float32)).transpose("x", "y", "z")
    with pytest.raises(InputError, match="transpose it"):
        pick_segmentation(turned)


# ---- the command ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    from tomodask.picking.segmentation.store import save_segmentation

    path = tmp_path_factory.mktemp("pick") / "probability.zarr"
    small = blobs((32, 48, 64), [(12, 20, 15), (20, 30, 50)])
    large = blobs((32, 48, 64), [(16, 35, 30)])
    data = da.from_array(np.stack([small, large]), chunks=(2, 16, 24, 32))
    volume = probabilities(data, ["4cr2", "1e10"], diameters=(90.0, 120.0))
    volume = volume.assign_coords({d: np.arange(volume.sizes[d]) * SIZE for d in "zyx"})
    volume.attrs |= {"model": "m", "tomogram": "t1", "source": "t1.mrc", "fingerprint": "f"}
    save_segmentation(volume, path)
    return path


def pick(*words):
    from tomodask.cli.picking import pick as command

    result = CliRunner().invoke(command, list(map(str, words)))
    if isinstance(result.exception, InputError):
        return str(result.exception)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("suffix", [".star", ".csv"])
def test_the_command_picks_a_segmentation(store, tmp_path, suffix):
    said = pick(store, "-o", tmp_path / f"picks{suffix}", "--scheduler", "synchronous")
    assert "3 particles above 0.5: 2 4cr2, 1 1e10" in said
    table = read_particles(tmp_path / f"picks{suffix}")
    assert table["class"].tolist() == [{"4cr2": 1, "1e10": 2}[k] for k in table["kind"]]
    assert sorted(table["kind"]) == ["1e10", "4cr2", "4cr2"]
    assert set(table["tomogram"]) == {"t1"}
    one = table[table["kind"] == "1e10"][["z", "y", "x"]].to_numpy()
    np.testing.assert_allclose(one, [[160, 350, 300]], atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "m.safetensors"], "--model needs a tomogram, and .* leave --model out"),
        (["--method", "dog"], "--method dog needs a tomogram"),
        (["--method", "template"], "needs a store of `tomodask match`"),
        (["--diameter", "90"], "the network says the diameters; .* leave --diameter out"),
        (["--voxel-size", "9"], "cannot be changed for .* leave --voxel-size out"),
        (["--invert"], "invert has no part here: .* leave --invert out"),
        (["--min-height", "2"], "min_height must be above 0 and at most 1, got 2"),
        (["--threshold", "0.99"], "no particle lies above threshold 0.99; give a lower"),
    ],
)
def test_the_command_refuses(store, tmp_path, words, message):
    said = pick(store, "-o", tmp_path / "picks.star", *words)
    assert re.search(message, said), said
    assert not (tmp_path / "picks.star").exists()


def test_the_command_tells_how_to_pick_a_tomogram(tmp_path):
    with mrcfile.new(tmp_path / "t.mrc") as file:
        file.set_data(blobs((24, 24, 24), [(12, 12, 12)]))
        file.voxel_size = SIZE
    words = (tmp_path / "t.mrc", "-o", tmp_path / "picks.star")
    assert "or --method dog" in pick(*words)
    assert "make one with `tomodask match`" in pick(*words, "--method", "template")
    assert "diameter is needed for --method dog" in pick(*words, "--method", "dog")
    both = pick(*words, "--method", "dog", "--model", "m.safetensors")
    assert "leave one of the two out" in both
    for name in ("--min-height", "--invert"):
        value = [0.2] if name == "--min-height" else []
        method = ["--method", "dog"] if value else []
        said = pick(*words, *method, "--diameter", 90, "--threshold", 0.5, name, *value)
        assert f"leave {name} out" in said
    said = pick(*words, "--method", "dog", "--diameter", 90)
    assert "1 particles above" in said
