"""Training without labels as a job: resumable to the bit, probed, and what is refused."""

import logging

import numpy as np
import pytest
from classification.kinds import two_kinds
from helpers import ctrl_c_where_it_is_lost, run_killed

from tomodask.classification.learning.probes import halves, probe_features
from tomodask.errors import InputError

torch = pytest.importorskip("torch")

from tomodask.classification.learning.pretraining import EncoderSettings, pretrain_encoder  # noqa: E402
from tomodask.classification.learning.training import ClassifierSettings, train_classifier  # noqa: E402
from tomodask.nets.boxes.inference import open_predictor  # noqa: E402
from tomodask.nets.boxes.model_file import read_box_model  # noqa: E402
from tomodask.nets.boxes.views import Views  # noqa: E402

QUICK = {"epochs": 3, "batch": 4, "dimension": 8, "queue": 8, "prototypes": 6, "seed": 3}


def quick(**changes):
    return EncoderSettings(**{**QUICK, **changes})


def silent(report):
    pass


def pretrain(boxes, **options):
    asked = {"settings": quick(), "on_epoch": silent, "threads": 1}
    return pretrain_encoder(boxes, **{**asked, **options})


def figures(model):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in model.history]


def same(one, other):
    return one.digest == other.digest and figures(one) == figures(other)


@pytest.fixture(scope="module")
def whole():
    boxes, labels = two_kinds(12)
    seen = []
    return pretrain(boxes, labels=labels, on_epoch=seen.append), seen


def test_views_are_of_any_orientation_and_one_size_unless_asked_for():
    views = EncoderSettings().views
    assert views.turn == 180
    assert not views.crop_probability
    assert views.scaling == (1, 1)


def test_an_encoder_comes_out_and_probes_tell_of_it(whole):
    model, seen = whole
    assert model.classes == ()
    assert model.training["method"] == "moco"
    assert model.training["data"]["boxes"] == 12
    assert [report.epoch for report in seen] == [1, 2, 3]
    assert seen[0].views.shape == (4, 2, 24, 24)
    # Probed after the first epoch, every fifth, and the last.
    assert [np.isfinite(report.linear) for report in seen] == [True, False, True]
    assert model.history[1]["linear"] is None
    assert model.history[2]["linear"] == seen[2].linear
    boxes, _ = two_kinds(3, seed=8)
    assert open_predictor(model).predict_features(boxes.subtomogram.to_numpy()).shape == (3, 1024)


def test_labels_and_chunks_change_nothing_of_the_encoder(whole):
    boxes, _ = two_kinds(12, chunks=(1, 8, 3))
    assert pretrain(boxes).digest == whole[0].digest


@pytest.mark.parametrize("method", ["moco", "simclr", "swav"])
def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path, method, whole):
    boxes, labels = two_kinds(12 if method == "moco" else 8)
    options = {"method": method, "labels": labels}
    wanted = whole[0] if method == "moco" else pretrain(boxes, **options)

    def stop(report):
        if report.epoch == 2:
            raise KeyboardInterrupt

    path = tmp_path / "encoder.safetensors"
    with pytest.raises(KeyboardInterrupt):
        pretrain(boxes, output=path, on_epoch=stop, **options)
    assert len(read_box_model(path).history) == 2
    rest = []
    model = pretrain(boxes, output=path, resume=True, on_epoch=rest.append, **options)
    assert [report.epoch for report in rest] == [3]
    assert same(model, wanted)
    assert same(pretrain(boxes, output=path, resume=True, **options), wanted)


def test_killed_at_any_moment_it_goes_on_to_the_same_bits(tmp_path, whole):
    path = tmp_path / "encoder.safetensors"
    run_killed(
        f"""
        from classification.kinds import two_kinds
        from classification.test_pretraining import pretrain
        boxes, labels = two_kinds(12)
        pretrain(boxes, labels=labels, output={str(path)!r})
        """,
        when=(tmp_path / "encoder.training" / "state.safetensors").exists,
    )
    boxes, labels = two_kinds(12)
    assert same(pretrain(boxes, labels=labels, output=path, resume=True), whole[0])


def test_another_training_is_not_gone_on_with(tmp_path):
    boxes, _ = two_kinds(8)
    path = tmp_path / "encoder.safetensors"
    one = quick(epochs=1)
    pretrain(boxes, output=path, settings=one)
    with pytest.raises(InputError, match=r"exists already.*--resume.*--overwrite"):
        pretrain(boxes, output=path, settings=one)
    with pytest.raises(InputError, match=r"another training .method was 'moco', is 'swav'"):
        pretrain(boxes, output=path, settings=one, method="swav", resume=True)
    with pytest.raises(InputError, match=r"another training .other subtomograms"):
        pretrain(two_kinds(9)[0], output=path, settings=one, resume=True)
    with pytest.raises(InputError, match=r"another training .other subtomograms"):
        pretrain(two_kinds(8, seed=1)[0], output=path, settings=one, resume=True)


def test_a_loss_that_is_no_number_keeps_the_last_state(tmp_path, monkeypatch):
    import tomodask.nets.pretraining.trainer as module

    boxes, _ = two_kinds(8)
    path = tmp_path / "encoder.safetensors"
    right, calls = module.Pretrainer._step, []

    def breaks(self, *batch):
        calls.append(1)
        return float("nan") if len(calls) == 4 else right(self, *batch)

    monkeypatch.setattr(module.Pretrainer, "_step", breaks)
    with pytest.raises(InputError, match=r"epoch 2 of 3: the loss became nan in step 2") as told:
        pretrain(boxes, output=path)
    assert "keeps the state after epoch 1" in str(told.value)
    model = pretrain(boxes, output=path, resume=True, settings=quick(learning_rate=1e-5))
    assert [row["learning_rate"] for row in model.history] == [1e-4, 1e-5, 1e-5]


def test_ctrl_c_is_not_lost_where_python_drops_it(monkeypatch):
    import tomodask.nets.pretraining.trainer as module

    step, steps = module.Pretrainer._step, []

    def presses(self, *batch):
        steps.append(batch)
        ctrl_c_where_it_is_lost()
        return step(self, *batch)

    monkeypatch.setattr(module.Pretrainer, "_step", presses)
    with pytest.raises(KeyboardInterrupt):
        pretrain(two_kinds()[0])
    assert len(steps) == 1


def test_a_classifier_begins_with_it(whole):
    boxes, labels = two_kinds(16)
    settings = ClassifierSettings(epochs=1, learning_rate=1e-9, batch=8)
    begun = train_classifier(boxes, labels, init=whole[0], settings=settings, on_epoch=silent)
    name = "blocks.3.wide.weight"
    assert np.allclose(begun.weights[name], whole[0].weights[name], atol=1e-6)


def test_physical_views_are_drawn_when_asked_for():
    boxes, _ = two_kinds(8)
    views = Views(turn=180.0, tilts=(40.0, 60.0), noise=0.5)
    one = pretrain(boxes, settings=quick(epochs=1, views=views))
    assert one.training["settings"]["views"]["turn"] == 180.0
    assert one.digest != pretrain(boxes, settings=quick(epochs=1)).digest
    with pytest.raises(InputError, match="defocus: that of the boxes"):
        pretrain(boxes, settings=quick(views=Views(defocus=500.0)))


def test_what_cannot_be_pretrained(caplog):
    boxes, labels = two_kinds(9)
    with pytest.raises(InputError, match="queue must hold at least a batch, 4 keys, got 2"):
        pretrain(boxes, settings=quick(queue=2))
    with pytest.raises(InputError, match="method must be one of moco, simclr, swav, got 'byol'"):
        pretrain(boxes, method="byol")
    with pytest.raises(InputError, match="two classes of at least 2 boxes each"):
        pretrain(boxes, labels=labels.iloc[::2])
    values = boxes.subtomogram.to_numpy().copy()
    values[:2] = np.nan
    holes = boxes.assign(subtomogram=boxes.subtomogram.copy(data=values))
    with (
        caplog.at_level(logging.WARNING, "tomodask"),
        pytest.raises(InputError, match="has 7 sound boxes: without labels at least 8"),
    ):
        pretrain(holes)
    assert "2 of 9 boxes are set aside: 0 (" in caplog.text
    with pytest.raises(InputError, match="batch must be at least 2"):
        quick(batch=1)


def slow_probe(features, numbers, seed):
    """Normal equations with an explicit inverse, and neighbours one by one."""
    learned, judged = halves(numbers, seed=seed)
    mean, spread = features[learned].mean(0), features[learned].std(0)
    x = (features - mean) / spread
    kinds = np.unique(numbers)
    y = (numbers[learned][:, None] == kinds).astype(float)
    ridge = 0.1 * len(learned) * np.eye(x.shape[1])
    weights = np.linalg.inv(x[learned].T @ x[learned] + ridge) @ x[learned].T @ (y - y.mean(0))
    linear = kinds[(x[judged] @ weights + y.mean(0)).argmax(1)]
    said = []
    for one in x[judged]:
        cosines = [one @ o / np.linalg.norm(one) / np.linalg.norm(o) for o in x[learned]]
        near = [numbers[learned][i] for i in np.argsort(cosines)[::-1][:5]]
        said.append(max(near, key=lambda k: (near.count(k), -near.index(k))))
    right = numbers[judged]
    return (linear == right).mean(), (np.array(said) == right).mean()


@pytest.mark.parametrize("width", [4, 60])
def test_probes_are_those_of_the_slow_way(width):
    rng = np.random.default_rng(width)
    numbers = rng.integers(0, 3, 50)
    features = rng.normal(size=(50, width)) + 0.8 * np.eye(3, width)[numbers]
    probe = probe_features(features, numbers, seed=2)
    assert (probe.linear, probe.neighbours) == pytest.approx(slow_probe(features, numbers, 2))


def test_halves_are_of_each_class():
    numbers = np.array([0] * 9 + [1] * 4 + [2])
    learned, judged = halves(numbers, seed=1)
    assert np.bincount(numbers[learned]).tolist() == [4, 2]
    assert np.bincount(numbers[judged]).tolist() == [5, 2]
    assert not set(learned) & set(judged)
