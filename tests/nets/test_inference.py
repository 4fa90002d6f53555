"""Engines: OpenVINO's graph is PyTorch's network; batches, threads and memory change no result."""

import itertools
import logging
import subprocess
import sys
import threading

import numpy as np
import pytest
from nets.models import random_model

from tomodask.errors import InputError
from tomodask.nets import engines
from tomodask.nets.memory import is_out_of_memory
from tomodask.nets.segmentation import inference
from tomodask.nets.segmentation.architecture import receptive_radius
from tomodask.nets.segmentation.inference import forget_engines, open_engine, tile_limit
from tomodask.nets.segmentation.reach import measure_reach

ENGINES = ("openvino", "torch")
ABLATIONS = (
    {},
    {"residual": False},
    {"activation": "relu"},
    {"pooling": "max"},
    {"coordinates": "patch"},
    {"coordinates": "none"},
    {"pyramid": False},
    {"channels": (5,)},
    {"residual": False, "activation": "relu", "coordinates": "none", "pyramid": False},
)


@pytest.fixture(autouse=True)
def _fresh():
    forget_engines()
    inference._told.clear()
    yield
    forget_engines()


def tiles(count=2, shape=(16, 24, 8), seed=0):
    return np.random.default_rng(seed).normal(size=(count, 1, *shape)).astype(np.float32)


def reference(model, batch):
    """The network as it was trained, with its batch normalisations, in plain PyTorch."""
    torch = pytest.importorskip("torch")
    from tomodask.nets.segmentation.resunet import ResUNet3D

    network = ResUNet3D(model.architecture)
    state = {k: torch.from_numpy(v) for k, v in model.weights.items()}
    missing = network.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all("num_batches_tracked" in name for name in missing.missing_keys)
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(batch))
        if model.architecture.classes == 1:
            return torch.sigmoid(logits).numpy()
        return torch.softmax(logits, 1)[:, 1:].numpy()


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_every_network_is_the_same_in_both_engines(ablation, classes):
    model = random_model(**{"channels": (4, 6, 7), **ablation}, classes=classes, seed=classes)
    batch = tiles()
    want = reference(model, batch)
    assert want.std() > 0.01  # or any graph would do
    for engine in ENGINES:
        got = open_engine(model, engine=engine).infer(batch)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_bits_do_not_depend_on_the_batch(engine, precision):
    pytest.importorskip(engine)
    model, batch = random_model(channels=(8, 12)), tiles(5)
    one = open_engine(model, engine=engine, precision=precision).infer(batch)
    for size in (2, 4, 5):
        run = open_engine(model, engine=engine, precision=precision, batch=size)
        np.testing.assert_array_equal(run.infer(batch), one)
    each = np.concatenate(
        [open_engine(model, engine=engine, precision=precision).infer(t[None]) for t in batch]
    )
    np.testing.assert_array_equal(each, one)


def test_bits_do_not_depend_on_threads():
    model, batch = random_model(channels=(8, 12)), tiles(1, (32, 32, 32))
    for engine in ENGINES:
        pytest.importorskip(engine)
        one, two = (open_engine(model, engine=engine, threads=n).infer(batch) for n in (1, 2))
        np.testing.assert_array_equal(one, two)


def test_bfloat16_is_near():
    model, batch = random_model(channels=(8, 12)), tiles(1)
    want = open_engine(model, engine="openvino").infer(batch)
    for engine in ENGINES:
        got = open_engine(model, engine=engine, precision="bfloat16").infer(batch)
        assert 0 < np.abs(got - want).max() < 0.1
        assert np.abs(got - want).mean() < 0.01


def test_threads_at_work_at_the_same_time_do_not_mix(monkeypatch):
    """Each thread has a prepared network of its own, and the next task finds it again."""
    model, batches = random_model(), [tiles(2, seed=n) for n in range(4)]
    want = [open_engine(model).infer(batch) for batch in batches]
    forget_engines()
    prepared = []
    prepare = inference._prepare_openvino
    monkeypatch.setattr(
        inference, "_prepare_openvino", lambda *a: prepared.append(a) or prepare(*a)
    )
    got = [None] * 4

    def work(n):
        for _ in range(5):
            got[n] = open_engine(model).infer(batches[n])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert 1 <= len(prepared) <= 4


def test_torch_leaves_the_threads_of_the_process():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        open_engine(random_model(), engine="torch", threads=1).infer(tiles())
        assert torch.get_num_threads() == 2
        seen = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert seen == [2]
    finally:
        torch.set_num_threads(before)


def scarce(prepare, most):
    """Engines that take no more than so many tiles at once."""

    def wrapped(engine, shape):
        if shape[0] > most:
            raise RuntimeError("[ GENERAL_ERROR ] std::bad_alloc")
        return prepare(engine, shape)

    return wrapped


def test_out_of_memory_halves_the_batch_and_says_so_once(monkeypatch, caplog):
    model, batch = random_model(), tiles(5)
    want = open_engine(model).infer(batch)
    forget_engines()
    scarcely = scarce(inference._prepare_openvino, 1)
    monkeypatch.setattr(inference, "_prepare_openvino", scarcely)
    with caplog.at_level(logging.WARNING, "tomodask.nets.segmentation.inference"):
        for _ in range(2):
            got = open_engine(model, batch=4).infer(batch)
    np.testing.assert_array_equal(got, want)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert "batch of 4 tiles" in texts[0]
    assert "going on with 2 (--batch 2)" in texts[0]
    assert "going on with 1" in texts[1]


def test_out_of_memory_on_one_tile_names_the_tile(monkeypatch):
    monkeypatch.setattr(inference, "_prepare_openvino", scarce(None, 0))
    with pytest.raises(InputError, match=r"tile of 16×24×8 voxels .* give a smaller tile"):
        open_engine(random_model(), batch=2).infer(tiles())


def test_other_errors_are_not_taken_for_memory(monkeypatch):
    def broken(engine, shape):
        raise RuntimeError("unsupported primitive")

    monkeypatch.setattr(inference, "_prepare_openvino", broken)
    with pytest.raises(RuntimeError, match="unsupported primitive"):
        open_engine(random_model()).infer(tiles())


def test_what_running_out_of_memory_looks_like():
    torch = pytest.importorskip("torch")
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to …"))
    assert not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)


def test_prepared_networks_of_one_shape_are_kept():
    """Each may hold a gigabyte."""
    for n in range(1, 6):
        open_engine(random_model()).infer(tiles(1, (8 * n, 8, 8)))
        assert len(inference._pool.idle) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "onnx"}, "engine must be one of auto, openvino, torch, got 'onnx'"),
        ({"precision": "half"}, "precision must be one of float32, bfloat16, got 'half'"),
        ({"threads": 0}, "threads must be a whole number of at least 1, got 0"),
        ({"batch": 0}, "batch must be a whole number of at least 1, got 0"),
        ({"batch": 1.5}, "batch must be a whole number of at least 1, got 1.5"),
    ],
)
def test_refuses_unknown_options(options, message):
    with pytest.raises(InputError, match=message):
        open_engine(random_model(), **options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 15, 16, 16), r"multiples of 2 voxels .* got \(15, 16, 16\)"),
        ((1, 1, 0, 16, 16), r"multiples of 2 voxels"),
        ((1, 2, 16, 16, 16), r"shape \(tiles, 1, z, y, x\), got \(1, 2, 16, 16, 16\)"),
        ((16, 16, 16), r"shape \(tiles, 1, z, y, x\), got"),
    ],
)
def test_refuses_shapes_that_do_not_suit(shape, message):
    with pytest.raises(InputError, match=message):
        open_engine(random_model()).infer(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("hidden", "engine", "message"),
    [
        ("openvino", "openvino", r"pip install 'tomodask\[segmentation\]'"),
        ("torch", "torch", r"pip install 'tomodask\[training\]'"),
    ],
)
def test_missing_engines_are_named_with_the_way_out(monkeypatch, hidden, engine, message):
    monkeypatch.setitem(sys.modules, hidden, None)  # what `import` then does: ImportError
    monkeypatch.setattr(engines, "_installed", lambda name: name != hidden)
    with pytest.raises(InputError, match=message):
        open_engine(random_model(), engine=engine)


def test_auto_takes_what_is_installed(monkeypatch):
    assert open_engine(random_model()).kind == "openvino"
    monkeypatch.setattr(engines, "_installed", lambda name: name != "openvino")
    assert open_engine(random_model()).kind == "torch"


def test_segmentation_needs_no_torch():
    script = """if True:
        import sys
        sys.modules["torch"] = None
        sys.path.insert(0, "tests")
        import numpy as np
        from nets.models import random_model
        from tomodask.picking.segmentation.segmenting import segment_tomogram
        from tomodask.nets.segmentation.inference import open_engine
        open_engine(random_model()).infer(np.zeros((1, 1, 8, 8, 8), np.float32))
        print("probabilities")
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "probabilities\n", done.stderr


def test_limit_of_a_tile_is_of_the_architecture():
    paper = random_model(channels=(24, 48, 72, 108)).architecture
    assert 120**3 < tile_limit(paper) < 160**3
    assert tile_limit(random_model(channels=(4, 6)).architecture) > tile_limit(paper)


def test_reach_ends_where_the_receptive_field_does():
    model = random_model(channels=(3, 4), coordinates="none")
    radius = receptive_radius(model.architecture)
    volume = np.random.default_rng(0).normal(size=(96, 96, 96)).astype(np.float32)
    reach = measure_reach(model, volume, (0, 2, radius, radius + 2, 40))
    halos, changes = zip(*reach, strict=True)
    assert halos == (0, 2, radius, radius + 2)  # 40 leaves nothing of 48
    assert changes[0] > changes[1] > 0.01
    assert max(changes[2:]) < 1e-6
    assert all(low <= high + 1e-6 for high, low in itertools.pairwise(changes))


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.zeros((7, 64, 64)), r"at least 8 voxels along z, y and x, got \(7, 64, 64\)"),
        (np.full((16, 16, 16), np.nan), "NaN or infinite"),
    ],
)
def test_reach_refuses_bad_volumes(volume, message):
    with pytest.raises(InputError, match=message):
        measure_reach(random_model(), volume)
