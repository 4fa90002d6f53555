"""Predictors of boxes: engines agree, no box knows of another, nothing needs PyTorch."""

import pickle
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from tomodask.errors import InputError
from tomodask.nets import engines
from tomodask.nets.boxes.encoder import Encoder
from tomodask.nets.boxes.inference import open_predictor
from tomodask.nets.boxes.model_file import BoxModel, read_box_model, write_box_model
from tomodask.nets.boxes.normalisation import normalised

NETWORKS = ("rb3d", "inception3d", "dsrf3d")


def random_model(name="rb3d", box=24, classes=("a", "b", "c"), seed=1, **changes):
    """Weights about as large as trained ones, biases too, so that each layer counts."""
    encoder = Encoder(name, box, len(classes) or 8)
    rng = np.random.default_rng(seed)
    weights = {
        part: (
            rng.normal(size=shape) * (np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1)
        ).astype(np.float32)
        for part, shape in encoder.shapes.items()
    }
    return BoxModel(encoder, weights, 10.0, classes, **changes)


def boxes(count=7, seed=0, box=24):
    made = np.random.default_rng(seed).normal(5, 3, size=(count, box, box, box))
    return made.astype(np.float32)


def by_pytorch(model, given, what):
    torch = pytest.importorskip("torch")
    from tomodask.nets.boxes.networks import build_encoder
    from tomodask.nets.training_state import restore_weights

    built = build_encoder(model.encoder).eval()
    restore_weights(built, model.weights)
    with torch.inference_mode():
        return getattr(built, what)(torch.from_numpy(normalised(given))[:, None]).numpy()


@pytest.mark.parametrize("box", [24, 25, 26, 27])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_the_same_in_both_engines(name, box):
    model, given = random_model(name, box), boxes(2, box=box)
    for engine in ("openvino", "torch"):
        predictor = open_predictor(model, engine=engine, batch=2)
        for got, what in (
            (predictor.predict_features(given), "features"),
            (predictor.predict_logits(given), "forward"),
        ):
            want = by_pytorch(model, given, what)
            assert want.std(0).max() > 0.01  # or any graph would do
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize("engine", ["openvino", "torch"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_features_know_nothing_of_other_boxes(name, precision, engine):
    model, given = random_model(name), boxes(5)
    predictor = open_predictor(model, engine=engine, batch=4, precision=precision)
    whole = predictor.predict_features(given)
    assert whole.shape == (5, model.encoder.features)
    assert whole.dtype == np.float32
    assert np.array_equal(predictor.predict_features(given[::-1])[::-1], whole)
    alone = [predictor.predict_features(given[i : i + 1])[0] for i in (0, 3)]
    assert np.array_equal(alone, whole[[0, 3]])
    assert predictor.predict_features(given[:0]).shape == (0, model.encoder.features)
    again = pickle.loads(pickle.dumps(predictor))
    assert np.array_equal(again.predict_features(given), whole)
    expected = by_pytorch(model, given, "features")
    rough = 2e-5 if precision == "float32" else 0.05
    np.testing.assert_allclose(whole, expected, atol=rough * np.abs(expected).max())


def test_threads_may_share_a_predictor():
    predictor, given = open_predictor(random_model(), batch=2), boxes(6)
    want, got = predictor.predict_features(given), {}

    def ask(number):
        got[number] = predictor.predict_features(np.roll(given, number, axis=0))

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    for number in range(4):
        assert np.array_equal(got[number], np.roll(want, number, axis=0))


def test_boxes_given_are_left_as_they_were():
    """OpenVINO once got a copy into memory that it had shared before."""
    predictor, given = open_predictor(random_model(), engine="openvino", batch=2), boxes(4)
    before = given.copy()
    predictor.predict_features(given)
    predictor.predict_features(given[::-1])
    assert np.array_equal(given, before)


def test_what_a_predictor_tells_of_its_model():
    model = random_model("dsrf3d", 26)
    predictor = open_predictor(model)
    assert (predictor.box, predictor.voxel_size) == (26, 10.0)
    assert predictor.classes == ("a", "b", "c")
    assert predictor.digest == model.digest
    assert pickle.loads(pickle.dumps(predictor)).digest == model.digest


def test_a_large_model_is_sent_as_the_name_of_its_file(tmp_path):
    given, path = boxes(2), tmp_path / "model.safetensors"
    write_box_model(random_model("dsrf3d"), path)
    predictor = open_predictor(read_box_model(path), batch=2)
    sent = pickle.dumps(predictor.for_workers())
    assert len(sent) < 1000 < 20e6 < len(pickle.dumps(predictor))
    there = pickle.loads(sent)
    assert there.digest == predictor.digest
    assert np.array_equal(there.predict_features(given), predictor.predict_features(given))
    assert there.classes == predictor.classes
    assert len(pickle.dumps(there)) < 1000  # what it has read goes nowhere
    changed = open_predictor(replace(read_box_model(path), temperature=2.0))
    assert changed.for_workers() is changed  # the file holds another model
    write_box_model(random_model("dsrf3d", seed=2), path)
    with pytest.raises(InputError, match="written anew"):
        pickle.loads(sent).predict_features(given)
    write_box_model(random_model("inception3d"), path)
    small = open_predictor(read_box_model(path))
    assert small.for_workers() is small


def test_scale_and_offset_of_a_box_do_not_matter_and_its_sign_can_be_turned():
    given = boxes(2)
    predictor = open_predictor(random_model())
    one = predictor.predict_logits(given)
    np.testing.assert_allclose(predictor.predict_logits(given * 40 - 7), one, atol=1e-4)
    turned = open_predictor(random_model(invert=True)).predict_logits(-given)
    np.testing.assert_allclose(turned, one, atol=1e-5)


@pytest.mark.parametrize("edge", [5, 24])
def test_a_box_is_normalised_as_numpy_would(edge):
    given = np.random.default_rng(0).normal(1e4, 2.0, size=(3, edge, edge, edge))
    given[1] = 7.3
    want = given - given.mean(axis=(1, 2, 3), keepdims=True)
    want[[0, 2]] /= given[[0, 2]].std(axis=(1, 2, 3), keepdims=True)
    want[1] = 0
    for one in (given, given.astype(">f8"), np.asfortranarray(given)):
        np.testing.assert_allclose(normalised(one), want, atol=1e-6)
    rounded = normalised(given.astype(np.float32))
    np.testing.assert_allclose(rounded, want, atol=1e-3)
    assert not rounded[1].any()
    assert np.array_equal(normalised(given, invert=True), -normalised(given))
    assert normalised(given[:0]).shape == (0, edge, edge, edge)


def test_boxes_that_do_not_suit():
    predictor = open_predictor(random_model())
    with pytest.raises(InputError, match=r"shape \(n, 24, 24, 24\).*resample or crop"):
        predictor.predict_features(np.zeros((2, 32, 32, 32), np.float32))
    damaged = boxes(3)
    damaged[1:, 0, 0, 0] = np.inf
    with pytest.raises(InputError, match=r"2 of 3 boxes hold NaN.*\(numbers 1, 2\)"):
        predictor.predict_features(damaged)
    with pytest.raises(InputError, match="boxes must be float, got int64"):
        predictor.predict_features(np.zeros((1, 24, 24, 24), np.int64))
    with pytest.raises(InputError, match="knows no classes"):
        open_predictor(random_model(classes=())).predict_probabilities(boxes(1))
    for changed in (
        {"batch": 0},
        {"threads": 0},
        {"precision": "int8"},
        {"device": "tpu"},
        {"engine": "onnx"},
    ):
        with pytest.raises(InputError, match=next(iter(changed))):
            open_predictor(random_model(), **changed)


def test_an_engine_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(engines, "_installed", lambda name: name != "openvino")
    assert engines.chosen_engine("auto") == ("torch", "cpu")
    monkeypatch.setattr(engines, "_has_gpu", lambda: True)
    assert engines.chosen_engine("auto", "cuda") == ("torch", "cuda")
    with pytest.raises(InputError, match="engine openvino runs on CPUs"):
        open_predictor(random_model(), engine="openvino", device="cuda")
    monkeypatch.setenv("TOMODASK_DEVICE", "cuda")
    assert engines.chosen_engine("auto") == ("torch", "cuda")
    assert engines.chosen_engine("openvino") == ("openvino", "cpu")


def test_where_memory_runs_out_it_is_told(monkeypatch):
    predictor = open_predictor(random_model(), engine="openvino", batch=3)

    def full(*_):
        raise RuntimeError("could not allocate memory: std::bad_alloc")

    monkeypatch.setattr("tomodask.nets.boxes.inference.compiled", lambda *_, **__: full)
    with pytest.raises(InputError, match="with 3 boxes of 24³ voxels at once: lower batch"):
        predictor.predict_features(boxes(4))


def test_none_of_the_classes():
    given = boxes(3)
    sure = open_predictor(random_model(temperature=1.0))
    told, confidence = sure.predict_classes(given)
    assert np.array_equal(told, sure.predict_logits(given).argmax(1))
    unsure = open_predictor(random_model(temperature=1000.0, least_confidence=0.5))
    assert unsure.predict_classes(given)[0].tolist() == [-1, -1, -1]
    np.testing.assert_allclose(sure.predict_probabilities(given).max(1), confidence)


def test_features_and_classes_need_no_pytorch():
    script = """if True:
        import sys
        sys.modules["torch"] = None
        import numpy as np
        from tomodask.nets.boxes.inference import open_predictor
        from tomodask.nets.boxes.model_file import BoxModel, read_box_model, write_box_model
        from tomodask.nets.boxes.encoder import Encoder
        encoder = Encoder("rb3d", 24, 2)
        weights = {k: np.zeros(v, np.float32) for k, v in encoder.shapes.items()}
        predictor = open_predictor(BoxModel(encoder, weights, 10.0, ("a", "b")), batch=1)
        given = np.random.default_rng(0).normal(size=(1, 24, 24, 24))
        print(predictor.predict_probabilities(given).tolist())
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[[0.5, 0.5]]\n", done.stderr
