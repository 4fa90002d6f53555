"""Classes of boxes: lazy, the same whatever the chunks, beside the table, held against labels."""

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from classification.kinds import EDGE, KINDS, boxes_of, two_kinds

from tomodask.classification.learning.class_labels import labelled_boxes
from tomodask.classification.learning.predicting import (
    NONE,
    classify_subtomograms,
    collect_classes,
    column_of,
    compare_labels,
)
from tomodask.classification.learning.verdicts import assessed, confusion, judged_at
from tomodask.data.particles import read_particles, write_particles
from tomodask.errors import InputError
from tomodask.nets.boxes.calibration import probabilities
from tomodask.nets.boxes.model_file import BoxModel

torch = pytest.importorskip("torch")

from tomodask.nets.boxes.encoder import Encoder  # noqa: E402
from tomodask.nets.boxes.inference import open_predictor  # noqa: E402
from tomodask.nets.boxes.networks import build_encoder  # noqa: E402


@pytest.fixture(autouse=True)
def _in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


def model_of(classes=KINDS, *, least=0.0, temperature=0.5, outputs=2):
    """Untrained: its answers differ from box to box all the same."""
    encoder = Encoder("rb3d", EDGE, outputs)
    network = build_encoder(encoder, seed=1)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    return BoxModel(
        encoder, weights, voxel_size=10.0, classes=classes, temperature=temperature,
        least_confidence=least,
    )  # fmt: skip


def test_it_is_lazy_and_says_what_the_predictor_says():
    boxes, _ = two_kinds(11)

    def never(*args, **kwargs):
        raise AssertionError("computed")

    with dask.config.set(scheduler=never):
        found = classify_subtomograms(boxes, model=model_of())
    assert found["class"].to_numpy().tolist() == list(KINDS)
    wanted = open_predictor(model_of()).predict_probabilities(boxes.subtomogram.to_numpy())
    np.testing.assert_array_equal(found.probability.to_numpy(), wanted.astype(np.float32))
    np.testing.assert_array_equal(found.number.to_numpy(), wanted.argmax(1) + 1)
    np.testing.assert_allclose(found.confidence.to_numpy(), wanted.max(1), rtol=1e-6)
    assert found.tomogram.to_numpy().tolist() == ["TS_01"] * 11


def test_chunks_change_no_bit():
    model = model_of()
    tables = [
        collect_classes(classify_subtomograms(two_kinds(11, chunks=chunks)[0], model=model))
        for chunks in (3, (1, 6, 4), 11)
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    pd.testing.assert_frame_equal(tables[0], tables[2])


@pytest.mark.parametrize("suffix", [".csv", ".star"])
def test_faults_and_doubts_are_told_in_the_table(tmp_path, suffix):
    values = two_kinds(6)[0].subtomogram.to_numpy().copy()
    values[1, 0, 0, 0], values[4] = np.nan, 1.0
    boxes = boxes_of(values, chunks=4, z=1.0, y=2.0, x=np.arange(6.0), kind="old", **{"class": 9})
    sure = collect_classes(classify_subtomograms(boxes, model=model_of()))
    middle = float(np.nanmedian(sure["confidence"]))
    found = classify_subtomograms(boxes, model=model_of(), least_confidence=middle)
    table = collect_classes(found)
    none = sure["confidence"].to_numpy() < middle
    assert none.sum() == 2
    assert (table["class"][none] == 0).all()
    assert (table["kind"][none] == NONE).all()
    for row in (1, 4):
        assert table["class"][row] == 0
        assert table["kind"][row] == ""
        assert np.isnan(table["confidence"][row])
    assert table["reason"][1] == "the box holds NaN or infinite voxels"
    assert table["reason"][0] == ""
    write_particles(table, tmp_path / f"t{suffix}", voxel_size=10.0)
    back = read_particles(tmp_path / f"t{suffix}")
    assert back["class"].tolist() == table["class"].tolist()
    names = back["kind"].fillna("").astype(str).tolist()
    assert names == table["kind"].tolist()
    assert np.allclose(
        back["probability_no_particle"], table["probability_no_particle"], equal_nan=True
    )


def test_labels_are_held_against_it():
    boxes, labels = two_kinds(10)
    labels.loc[[2, 3], "kind"] = "ribosome"  # which the model does not know
    table = collect_classes(classify_subtomograms(boxes, model=model_of(least=0.55)))
    said = table["class"].to_numpy()
    told = compare_labels(table, KINDS, labelled_boxes(boxes, labels))
    known = np.delete(np.arange(10), [2, 3])
    right = table[[column_of(n) for n in KINDS]].to_numpy().argmax(1) == np.arange(10) % 2
    assert told["boxes"] == 8
    assert told["others"] == 2
    assert told["others_none"] == (said[[2, 3]] == 0).mean()
    assert told["accuracy"] == pytest.approx(right[known].mean())
    assert told["none"] == pytest.approx((said[known] == 0).mean())
    assert np.sum(told["confusion"]) == 8
    others = compare_labels(table, KINDS, labelled_boxes(boxes, labels, classes=["ribosome"]))
    assert "accuracy" not in others


def test_what_cannot_be_classified():
    boxes, _ = two_kinds(4)
    with pytest.raises(InputError, match=r"trained without labels.*--init"):
        classify_subtomograms(boxes, model=model_of(()))
    with pytest.raises(InputError, match=r"boxes of 26×26×26 voxels, the model takes 24³"):
        classify_subtomograms(boxes_of(np.zeros((3, 26, 26, 26), np.float32)), model=model_of())
    with pytest.raises(InputError, match="voxels of 20 Å, the model was trained on 10 Å"):
        classify_subtomograms(boxes.assign_attrs(voxel_size=20.0), model=model_of())
    with pytest.raises(InputError, match="least_confidence must be from 0 to below 1, got 1"):
        classify_subtomograms(boxes, model=model_of(), least_confidence=1)


def test_numpy_boxes_are_boxes_too():
    boxes, _ = two_kinds(5)
    one = collect_classes(classify_subtomograms(boxes, model=model_of()))
    held = boxes.assign(subtomogram=boxes.subtomogram.copy(data=boxes.subtomogram.to_numpy()))
    pd.testing.assert_frame_equal(
        collect_classes(classify_subtomograms(held, model=model_of())), one
    )
    assert isinstance(boxes.subtomogram.data, da.Array)


def slow_assessment(chances, labels, none):
    """One box after the other."""
    right = [int(np.argmax(c)) == k for c, k in zip(chances, labels, strict=True)]
    of_class = {
        k: np.mean([r for r, m in zip(right, labels, strict=True) if m == k]) for k in set(labels)
    }
    said = [r for r, no in zip(right, none, strict=True) if not no]
    return np.mean(right), np.mean(list(of_class.values())), np.mean(none), np.mean(said)


def test_figures_are_those_of_the_slow_way():
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(200, 4)), rng.integers(0, 3, 200)
    chances = probabilities(logits)
    none = chances.max(1) < 0.5
    told = assessed(chances, labels, none)
    names = ("accuracy", "class_accuracy", "none", "accuracy_of_said")
    assert [told[n] for n in names] == pytest.approx(
        slow_assessment(chances, labels.tolist(), none)
    )
    table = confusion(chances.argmax(1), labels, 4)
    assert table.sum() == 200
    assert all(
        table[i, j] == ((labels == i) & (chances.argmax(1) == j)).sum()
        for i in range(4) for j in range(4)
    )  # fmt: skip


@pytest.mark.parametrize("known", [0.9, 0.95, 1.0])
def test_the_share_that_is_asked_for_keeps_its_class(known):
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 200)
    logits = rng.normal(size=(200, 3)) + 2 * np.eye(3)[labels]
    verdict = judged_at(logits, labels, epoch=1, known=known)
    chances = probabilities(logits, verdict.temperature).max(1)
    assert (chances >= verdict.least_confidence).mean() == pytest.approx(known)
    assert judged_at(logits[:3] * 100, labels[:3], epoch=1, known=known).least_confidence < 1


def test_classes_and_features_of_one_model_are_not_mixed_up():
    from tomodask.classification.features.embedding import embed_subtomograms

    boxes, _ = two_kinds(3)
    predictor = open_predictor(model_of(), device="cpu")
    features = embed_subtomograms(boxes, model=predictor)["features"]
    chances = classify_subtomograms(boxes, model=predictor)["probability"]
    both = dask.compute(features.data, chances.data)
    assert [one.shape for one in both] == [(3, 1024), (3, 2)]
    assert chances.data.name == classify_subtomograms(boxes, model=predictor).probability.data.name


def test_a_task_a_block():
    """The network's; what it gives is handed on by one more for probabilities and for faults."""
    boxes = boxes_of(np.random.default_rng(0).normal(size=(32, EDGE, EDGE, EDGE)), chunks=16)
    found = classify_subtomograms(boxes, model=model_of(), batch=16)
    wanted = [found[name].data for name in ("probability", "fault")]
    own = {key for one in wanted for key in one.__dask_graph__() if "array-" not in str(key)}
    assert len(own) == 3 * 2 + 1  # and the model
    middle = float(np.median(collect_classes(found)["confidence"]))
    found = classify_subtomograms(boxes, model=model_of(least=middle), batch=16)
    table = collect_classes(found)
    np.testing.assert_array_equal(table["class"], found.number.to_numpy())
    np.testing.assert_array_equal(table["confidence"], found.confidence.to_numpy().astype(float))
    assert (table["class"] == 0).sum() == 16
