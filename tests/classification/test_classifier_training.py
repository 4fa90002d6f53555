"""A classifier's training as a job: resumable to the bit, the best kept, and what is refused."""

import dataclasses
import logging
import threading

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from classification.kinds import KINDS, two_kinds
from helpers import ctrl_c_where_it_is_lost, run_killed

from tomodask.errors import InputError

torch = pytest.importorskip("torch")

from tomodask.classification.learning.training import ClassifierSettings, train_classifier  # noqa: E402
from tomodask.nets.boxes.inference import open_predictor  # noqa: E402
from tomodask.nets.boxes.model_file import read_box_model  # noqa: E402
from tomodask.nets.boxes.views import Views  # noqa: E402

QUICK = {"epochs": 3, "batch": 4, "learning_rate": 0.002, "seed": 5, "validation": 0.25}


def quick(**changes):
    return ClassifierSettings(**{**QUICK, **changes})


def silent(report):
    pass


def train(boxes, labels, **options):
    asked = {"settings": quick(), "network": "inception3d", "on_epoch": silent, "threads": 1}
    return train_classifier(boxes, labels, **{**asked, **options})


def figures(model):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in model.history]


def same(one, other):
    return one.digest == other.digest and figures(one) == figures(other)


@pytest.fixture(scope="module")
def whole():
    """What a training that nothing stopped comes to, and its epochs."""
    seen = []
    return train(*two_kinds(), on_epoch=seen.append), seen


def test_it_learns_and_says_what_it_learned_from(whole):
    model, seen = whole
    assert [report.epoch for report in seen] == [1, 2, 3]
    assert [report.ended for report in seen] == [False, False, True]
    assert model.classes == KINDS
    assert model.history[-1]["accuracy"] == 1
    told = model.training
    assert told["data"]["boxes"] == {"blob": 12, "no particle": 12}
    assert told["boxes"] == {"training": 18, "validation": 6, "test": 0}
    assert told["validation"]["confusion"] == [[3, 0], [0, 3]]
    assert {"tomodask", "torch", "python"} <= set(told["versions"])
    assert told["settings"]["epochs"] == 3
    boxes, labels = two_kinds(8, seed=9)
    said, _ = open_predictor(model).predict_classes(boxes.subtomogram.to_numpy())
    assert [("none", *KINDS)[n + 1] for n in said].count("none") < 5
    chances = open_predictor(model).predict_probabilities(boxes.subtomogram.to_numpy())
    assert [KINDS[n] for n in chances.argmax(1)] == labels["kind"].tolist()


def test_chunks_change_nothing(whole):
    boxes, labels = two_kinds(chunks=(5, 1, 17, 1))
    assert same(train(boxes, labels), whole[0])
    cut = boxes.assign(subtomogram=boxes.subtomogram.copy(data=boxes.subtomogram.data.rechunk(5)))
    assert same(train(cut, labels), whole[0])


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path, whole):
    boxes, labels = two_kinds()

    def stop(report):
        if report.epoch == 2:
            raise KeyboardInterrupt

    path = tmp_path / "model.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(boxes, labels, output=path, on_epoch=stop)
    assert len(read_box_model(path).history) <= 2  # the best one so far
    rest = []
    model = train(boxes, labels, output=path, resume=True, on_epoch=rest.append)
    assert [report.epoch for report in rest] == [3]
    assert same(model, whole[0])
    assert same(read_box_model(path), whole[0])
    assert same(train(boxes, labels, output=path, resume=True), whole[0])  # nothing is left to do


def test_killed_at_any_moment_it_goes_on_to_the_same_bits(tmp_path, whole):
    path = tmp_path / "model.safetensors"
    run_killed(
        f"""
        from classification.kinds import two_kinds
        from classification.test_classifier_training import train
        train(*two_kinds(), output={str(path)!r})
        """,
        when=(tmp_path / "model.training" / "state.safetensors").exists,
    )
    boxes, labels = two_kinds()
    assert same(train(boxes, labels, output=path, resume=True), whole[0])


def test_another_training_is_not_gone_on_with(tmp_path):
    boxes, labels = two_kinds()
    path = tmp_path / "model.safetensors"
    train(boxes, labels, output=path, settings=quick(epochs=1))
    with pytest.raises(InputError, match=r"exists already.*resume.*overwrite"):
        train(boxes, labels, output=path)
    with pytest.raises(InputError, match=r"another training .epochs was 1, is 3"):
        train(boxes, labels, output=path, resume=True)
    with pytest.raises(InputError, match=r"another training .*network was 'inception3d'"):
        train(boxes, labels, output=path, resume=True, settings=quick(epochs=1), network="rb3d")
    swapped = labels.assign(kind=labels["kind"].to_numpy()[::-1])
    with pytest.raises(InputError, match=r"another training .other subtomograms, labels"):
        train(boxes, swapped, output=path, settings=quick(epochs=1), resume=True)
    changed = boxes.copy(deep=True)  # a store that was written anew
    changed["subtomogram"] = boxes.subtomogram + 1e-3
    with pytest.raises(InputError, match=r"another training .other subtomograms, labels"):
        train(changed, labels, output=path, settings=quick(epochs=1), resume=True)
    before = path.read_bytes()
    with pytest.raises(InputError, match="one class only"):
        train(boxes, labels.iloc[::2], output=path, overwrite=True)
    assert path.read_bytes() == before
    assert len(train(boxes, labels, output=path, overwrite=True).history) == 3


def test_a_loss_that_is_no_number_keeps_the_last_state(tmp_path, monkeypatch, whole):
    import tomodask.nets.boxes.trainer as module

    boxes, labels = two_kinds()
    path = tmp_path / "model.safetensors"
    right, calls = module.ClassifierTrainer._step, []

    def breaks(self, *batch):
        calls.append(1)
        return float("nan") if len(calls) == 7 else right(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(module.ClassifierTrainer, "_step", breaks)
        with pytest.raises(
            InputError, match=r"epoch 2 of 3: the loss became nan in step 2"
        ) as told:
            train(boxes, labels, output=path)
    assert "keeps the state after epoch 1" in str(told.value)
    assert same(train(boxes, labels, output=path, resume=True), whole[0])
    lower = quick(learning_rate=1e-4)  # what the message advises
    train(boxes, labels, output=path, overwrite=True, settings=quick(), on_epoch=silent)
    assert len(train(boxes, labels, output=path, resume=True, settings=lower).history) == 3


def test_boxes_that_hold_nothing_are_set_aside_and_named(caplog, whole):
    boxes, labels = two_kinds(26)
    values = boxes.subtomogram.to_numpy().copy()
    values[24, 3, 3, 3], values[25] = np.nan, 4.0
    boxes = boxes.assign(
        subtomogram=boxes.subtomogram.copy(data=da.from_array(values, (7, 24, 24, 24)))
    )
    with caplog.at_level(logging.WARNING, "tomodask"):
        model = train(boxes, labels)
    assert (
        "2 of 26 boxes are set aside: 24 (the box holds NaN or infinite voxels), 25 ("
        in caplog.text
    )
    assert model.training["data"]["set_aside"] == 2
    assert model.training["data"]["boxes"] == {"blob": 12, "no particle": 12}


def test_patience_ends_it_and_a_test_is_told(monkeypatch):
    from tomodask.nets.boxes.trainer import ClassifierTrainer, Judged

    boxes, labels = two_kinds(32)
    seen = []
    right = ClassifierTrainer.judge

    def alike(self, batches):
        judged = right(self, batches)
        return Judged(0.5, 0.5, judged.logits, judged.labels)

    monkeypatch.setattr(ClassifierTrainer, "judge", alike)
    settings = quick(epochs=9, patience=2, test=0.2, augment=Views(crop_probability=0))
    model = train(boxes, labels, settings=settings, on_epoch=seen.append)
    assert [report.ended for report in seen] == [False, False, True]
    assert model.training["kept_epoch"] == 1
    assert model.training["boxes"]["test"] == 6
    assert sum(map(sum, model.training["test"]["confusion"])) == 6


def test_a_pretrained_network_is_begun_with(caplog):
    boxes, labels = two_kinds()
    first = train(boxes, labels, settings=quick(epochs=1))
    begun = train(boxes, labels, settings=quick(epochs=1, learning_rate=1e-8), init=first)
    assert np.allclose(begun.weights["first.weight"], first.weights["first.weight"], atol=1e-6)
    # What the last layer gets is made as long as of a random start, by one factor.
    outer = [f"{name}.weight" for name in ("single", "three", "five", "after_pool")]
    (factor,) = {round(float((begun.weights[n] / first.weights[n]).mean()), 3) for n in outer}
    for name in outer:
        assert np.allclose(begun.weights[name], factor * first.weights[name], atol=1e-4)
    assert not np.allclose(begun.weights["last.weight"], first.weights["last.weight"], atol=1e-3)
    caplog.set_level(logging.INFO, logger="tomodask")
    told = train(boxes, labels, settings=ClassifierSettings(epochs=1, batch=8), init=first)
    assert told.training["settings"]["learning_rate"] == 0.001
    assert "learning rate 0.001, lower than from a random start" in caplog.text
    assert begun.training["settings"]["learning_rate"] == 1e-8
    with pytest.raises(InputError, match=r"init is inception3d for boxes of 24³.*--network"):
        train(boxes, labels, network="rb3d", init=first)
    with pytest.raises(InputError, match="init was trained on voxels of 10 Å, these are of 20 Å"):
        train(boxes.assign_attrs(voxel_size=20.0), labels, init=first)


@pytest.mark.parametrize("chunk", [24, 5])
def test_rb3d_begins_with_its_last_layer_fitted(chunk):
    """With a rate that changes nothing, a network as it was drawn would guess."""
    boxes, labels = two_kinds()
    settings = quick(epochs=1, learning_rate=1e-9, weight_decay=0.0)
    model = train(boxes.chunk(particle=chunk), labels, network="rb3d", settings=settings)
    assert model.history[-1]["accuracy"] == 1
    whole = train(boxes, labels, network="rb3d", settings=settings)
    assert all(np.array_equal(whole.weights[k], v) for k, v in model.weights.items())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.iloc[::2], r"one class only \(blob\): a classifier needs two"),
        (lambda t: t.iloc[[*range(0, 24, 2), 1, 3]], "but no particle has 2: label more, join it"),
        (lambda t: t.assign(particle=t["particle"] + 500), "no row is of these boxes, by particle"),
    ],
)
def test_labels_that_cannot_be_learned(change, told):
    boxes, labels = two_kinds()
    with pytest.raises(InputError, match=told):
        train(boxes, change(labels))


def test_boxes_that_are_no_boxes():
    boxes, labels = two_kinds()
    with pytest.raises(InputError, match="box must be a whole number of voxels from 24 to 48"):
        train(boxes.isel(z=slice(20), y=slice(20), x=slice(20)), labels)
    with pytest.raises(InputError, match="must be cubes, got 20×24×24"):
        train(boxes.isel(z=slice(20)), labels)
    with pytest.raises(InputError, match="must be a Dataset"):
        train(pd.DataFrame(), labels)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"validation": 0.0}, "validation must be above 0"),
        ({"known": 0.2}, "known must be from 0.5 to 1"),
        ({"patience": 0}, "patience must be at least 1 epoch"),
        ({"largest_gradient": 0.0}, "largest_gradient must be above 0, or None, got 0"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov must be off without momentum"),
        ({"memory": 0.0}, "memory must be above 0 GB"),
    ],
)
def test_settings_that_do_not_fit(changes, told):
    with pytest.raises(InputError, match=told):
        quick(**changes)


def test_the_papers_settings():
    one = ClassifierSettings.finetuning()
    assert ClassifierSettings().settled("dsrf3d", pretrained=False).learning_rate == 0.01
    assert one.settled("inception3d", pretrained=True) == one
    assert one.settled("rb3d", pretrained=True) == dataclasses.replace(one, largest_gradient=1.0)
    assert (one.learning_rate, one.batch, one.epochs, one.schedule) == (5e-4, 16, 50, "cosine")
    assert one.validation == one.test == 0.2
    other = ClassifierSettings.subdivision(seed=3)
    assert (other.learning_rate, other.batch, other.epochs, other.decay) == (0.01, 64, 20, 1e-6)
    assert other.nesterov
    assert other.seed == 3


def test_an_error_leaves_no_thread(monkeypatch):
    """Also while the error is kept, as a notebook keeps the last one."""
    import tomodask.nets.boxes.trainer as module

    def breaks(self, *batch):
        raise RuntimeError("out of order")

    monkeypatch.setattr(module.ClassifierTrainer, "_step", breaks)
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="out of order") as kept:
        train(*two_kinds(), settings=quick(augment=Views(), batch=2))
    left = {one.name for one in set(threading.enumerate()) - before}
    assert not [n for n in left if n.startswith(("made-ahead", "boxes", "views"))]
    assert kept.value.__traceback__ is not None


def test_ctrl_c_is_not_lost_where_python_drops_it(monkeypatch, tmp_path):
    import tomodask.nets.boxes.trainer as module

    step, steps = module.ClassifierTrainer._step, []

    def presses(self, *batch):
        steps.append(batch)
        if len(steps) == 6:  # five an epoch
            ctrl_c_where_it_is_lost()
        return step(self, *batch)

    monkeypatch.setattr(module.ClassifierTrainer, "_step", presses)
    path = tmp_path / "model.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(*two_kinds(), output=path)
    assert len(steps) == 6
    assert len(read_box_model(path).history) == 1


def test_two_trainings_do_not_share_a_folder(tmp_path):
    boxes, labels = two_kinds()
    path = tmp_path / "model.safetensors"
    refused = []

    def meanwhile(report):
        for how in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(InputError, match="another run works in this folder"):
                train(boxes, labels, output=path, settings=quick(epochs=1), **how)
            refused.append(how)

    train(boxes, labels, output=path, settings=quick(epochs=1), on_epoch=meanwhile)
    assert len(refused) == 2
    assert len(read_box_model(path).history) == 1


def test_classes_of_one_size_need_no_balance(whole):
    assert same(train(*two_kinds(), settings=quick(balance=True)), whole[0])


def test_the_smaller_class_weighs_more(caplog):
    """And the epoch is chosen by the mean of the classes."""
    caplog.set_level(logging.INFO, logger="tomodask")
    boxes, labels = two_kinds(32)
    few = labels[(labels["kind"] == "blob") | (labels["particle"] < 6)]
    seen = {}
    for balance in (True, False):
        seen[balance] = train(boxes, few, settings=quick(epochs=1, balance=balance))
    assert "the largest class has 5 times as many boxes as the smallest" in caplog.text
    assert caplog.text.count("--balance") == 1
    assert seen[True].digest != seen[False].digest
    assert seen[True].training["settings"]["balance"]
