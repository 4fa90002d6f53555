"""Engines that run a trained network on tiles: OpenVINO or PyTorch on CPUs, PyTorch on GPUs.

An engine is compiled for one shape of tiles.  What is compiled stays in the process for the next
task, for each thread that works at the same time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, get_args

import numpy as np

from tomodask.arrays.backend import DEVICE
from tomodask.errors import InputError
from tomodask.nets.memory import is_out_of_memory
from tomodask.nets.openvino_layers import compiled, require_openvino
from tomodask.nets.segmentation.architecture import Architecture
from tomodask.nets.segmentation.model_file import PickingModel
from tomodask.nets.segmentation.openvino_graph import build_graph, check_shape

__all__ = [
    "Engine",
    "EngineName",
    "Precision",
    "check_options",
    "chosen_engine",
    "engine_told",
    "exact_gpu",
    "forget_engines",
    "open_engine",
    "require_engine",
    "tile_limit",
    "torch_threads",
]

EngineName = Literal["auto", "openvino", "torch"]
Precision = Literal["float32", "bfloat16"]

_MEMORY = 1.1e9  # bytes that a tile's features may take in a worker
# Bytes per voxel of a tile and channel of the finest level that OpenVINO took in float32, which
# keeps its features in blocks of 16 channels.
_PER_VOXEL = 14

_log = logging.getLogger(__name__)
_told: set[str] = set()


def tile_limit(architecture: Architecture) -> int:
    """Voxels of a tile with which a worker stays below about 1.5 GB.

    Of the architecture alone: neither engine nor precision shall change where tiles lie.
    """
    finest = -(-architecture.channels[0] // 16) * 16
    return int(_MEMORY / (_PER_VOXEL * finest))


def open_engine(
    model: PickingModel,
    *,
    engine: EngineName = "auto",
    precision: Precision = "float32",
    threads: int = 1,
    batch: int | None = None,
) -> Engine:
    """Choose what runs a network here.  Compiles nothing before the first tiles come.

    Parameters
    ----------
    model : PickingModel
    engine : {"auto", "openvino", "torch"}
        ``"torch"`` uses the GPU of a worker that is told to (``TOMODASK_DEVICE=cuda``), else the
        CPU.  ``"auto"``: PyTorch on such a GPU, else OpenVINO, else PyTorch.
    precision : {"float32", "bfloat16"}
        ``"bfloat16"`` is about twice as fast on CPUs that have it; probabilities then change by
        some 1e-2 at most.
    threads : int
        Threads of one engine; one for each thread of a Dask worker.
    batch : int, optional
        Tiles at once.  None: one; more gain nothing on a CPU, nor on a GPU where tiles are large.
        PyTorch on a CPU always takes one: its bits depend on how many there are.

    Raises
    ------
    InputError
        If the engine is not installed (with what to install), or an option is not known.
    """
    check_options(engine=engine, precision=precision, threads=threads, batch=batch)
    kind, device = chosen_engine(engine)
    require_engine(kind)
    if (kind, device) == ("torch", "cpu"):
        batch = 1
    return Engine(model, _digest(model), kind, device, precision, threads, batch or 1)


def chosen_engine(engine: str, device: str | None = None) -> tuple[str, str]:
    """Which engine, ``"openvino"`` or ``"torch"``, and device are used in this process.

    Parameters
    ----------
    engine : {"auto", "openvino", "torch"}
    device : {"cpu", "cuda"}, optional
        None: a GPU where this process is told to use it.

    Raises
    ------
    InputError
        If there is no such device here, or OpenVINO is to use a GPU.
    """
    if device is None:
        device = "cuda" if _wants_gpu() and engine != "openvino" and _has_gpu() else "cpu"
    elif device not in ("cpu", "cuda") or (device == "cuda" and not _has_gpu()):
        raise InputError(f"device must be cpu, or cuda where there is a GPU, got {device!r}")
    elif device == "cuda" and engine == "openvino":
        raise InputError("engine openvino runs on CPUs here: give engine='torch' for device cuda")
    if engine == "auto":
        engine = "torch" if device == "cuda" or not _installed("openvino") else "openvino"
    return engine, device


def engine_told(engine: str, device: str | None = None) -> str:
    """What a network is run by in this process, as a short text: others have other last bits.

    Parameters as of `chosen_engine`.
    """
    kind, device = chosen_engine(engine, device)
    try:
        return f"{kind} {version(kind)} on {device}"
    except PackageNotFoundError:  # built by hand
        return f"{kind} on {device}"


def require_engine(engine: str) -> None:
    """Raise InputError, with what to install, where an engine is missing; loads none."""
    if engine == "openvino" or (engine == "auto" and not _installed("torch")):
        if not _installed("openvino"):
            require_openvino()
    elif engine == "torch" and not _installed("torch"):
        _require_torch()


_digests: dict[int, tuple[Any, str]] = {}


def _digest(model: PickingModel) -> str:
    """Digest of a model, worked out once: it reads all of the weights."""
    known = _digests.get(id(model))
    if known is None or known[0]() is not model:
        for key in [key for key, (alive, _) in list(_digests.items()) if alive() is None]:
            _digests.pop(key, None)
        known = _digests[id(model)] = weakref.ref(model), model.digest
    return known[1]


def check_options(*, engine: str, precision: str, threads: int, batch: int | None) -> None:
    """Refuse options that `open_engine` does not know; loads no engine."""
    for name, value, known in (
        ("engine", engine, get_args(EngineName)),
        ("precision", precision, get_args(Precision)),
    ):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    for name, number in (("threads", threads), ("batch", 1 if batch is None else batch)):
        if not isinstance(number, int) or number < 1:
            raise InputError(f"{name} must be a whole number of at least 1, got {number!r}")


@dataclass(frozen=True)
class Engine:
    """A network and what runs it; see `open_engine`.  Safe to use from several threads."""

    model: PickingModel
    digest: str
    kind: str
    device: str
    precision: str
    threads: int
    batch: int

    def infer(self, tiles: np.ndarray) -> np.ndarray:
        """Probabilities of normalised tiles.

        Where memory runs out, fewer tiles are taken at once, and the log says so.

        Parameters
        ----------
        tiles : array of float32, shape (tiles, 1, z, y, x)
            Edges are multiples of `Architecture.multiple`.

        Returns
        -------
        array of float32, shape (tiles, classes, z, y, x)
            By a sigmoid; of several classes by a softmax over them and the background.

        Raises
        ------
        InputError
            If the shape does not suit the network, or one tile alone needs too much memory.
        """
        tiles = np.ascontiguousarray(tiles, np.float32)
        if tiles.ndim != 5 or tiles.shape[1] != 1:
            raise InputError(f"tiles must have the shape (tiles, 1, z, y, x), got {tiles.shape}")
        check_shape(self.model.architecture, tiles.shape[2:])
        out = np.empty((len(tiles), len(self.model.classes), *tiles.shape[2:]), np.float32)
        batch = self.batch
        done = 0
        while done < len(tiles):
            part = tiles[done : done + batch]
            short = batch - len(part)
            try:
                # Always full batches: libraries may choose other sums for other sizes.
                full = np.pad(part, [(0, short)] + [(0, 0)] * 4) if short else part
                with self._prepared(full.shape) as run:
                    out[done : done + len(part)] = run(full)[: len(part)]
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                batch = self._halved(batch, tiles.shape[2:], error)
                continue
            done += len(part)
        return out

    def _halved(self, batch: int, shape: tuple[int, ...], error: Exception) -> int:
        forget_engines()
        if batch == 1:
            edges = "×".join(map(str, shape))
            raise InputError(
                f"memory ran out on a tile of {edges} voxels (tile, z×y×x), one at a time: give a "
                "smaller tile (--tile), or a worker more memory"
            ) from error
        _tell_once(
            f"memory ran out with a batch of {batch} tiles of {shape} voxels on {self.device}; "
            f"going on with {batch // 2} (--batch {batch // 2})"
        )
        return batch // 2

    @contextlib.contextmanager
    def _prepared(self, shape: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
        """A compiled network that no other thread uses meanwhile."""
        key = (self.digest, self.kind, self.device, self.precision, self.threads, shape)
        run = _pool.take(key)
        if run is None:
            prepare = _prepare_openvino if self.kind == "openvino" else _prepare_torch
            run = prepare(self, shape)
        yield run
        _pool.put(key, run)  # not after an error, which may have left it in pieces


class _Pool:
    """Prepared networks of one kind and shape that wait for their next tiles."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.key: Any = None
        self.idle: list[Any] = []

    def take(self, key: Any) -> Any:
        with self.lock:
            if key != self.key:  # each holds about a gigabyte: the former go before the next come
                self.key, self.idle = key, []
            return self.idle.pop() if self.idle else None

    def put(self, key: Any, run: Any) -> None:
        with self.lock:
            if key == self.key:
                self.idle.append(run)

    def clear(self) -> None:
        with self.lock:
            self.idle = []


_pool = _Pool()


def forget_engines() -> None:
    """Drop the prepared networks of this process, and their memory."""
    _pool.clear()


def _prepare_openvino(engine: Engine, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    model = engine.model
    z, y, x = shape[2:]
    graph = build_graph(model.architecture, model.weights, (z, y, x), batch=shape[0])
    return compiled(graph, precision=engine.precision, threads=engine.threads)


def _prepare_torch(engine: Engine, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    torch = _require_torch()
    from tomodask.nets.segmentation.resunet import ResUNet3D

    model, device = engine.model, engine.device
    network = ResUNet3D(model.architecture)
    state = {name: torch.from_numpy(np.array(value)) for name, value in model.weights.items()}
    network.load_state_dict(state, strict=False)
    network.eval().to(device=device, memory_format=torch.channels_last_3d)
    several = model.architecture.outputs > 1
    half = torch.autocast(device, torch.bfloat16, enabled=engine.precision == "bfloat16")

    def run(tiles: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(tiles).to(device).contiguous(memory_format=torch.channels_last_3d)
        with torch_threads(engine.threads), exact_gpu(torch), torch.inference_mode(), half:
            logits = network(x).float()
            out = torch.softmax(logits, 1)[:, 1:] if several else torch.sigmoid(logits)
            return np.asarray(out.cpu().contiguous())

    return run


class _Threads:
    """PyTorch's number of threads, which is the process's: put back when an engine is done."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.before = 1


_threads = _Threads()


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads of PyTorch on the CPU while inside."""
    torch = _require_torch()
    with _threads.lock:
        if _threads.users == 0:
            _threads.before = torch.get_num_threads()
        _threads.users += 1
        torch.set_num_threads(count)
    try:
        yield
    finally:
        with _threads.lock:
            _threads.users -= 1
            torch.set_num_threads(_threads.before)  # this thread's, and what new ones begin with


@contextlib.contextmanager
def exact_gpu(torch: Any) -> Iterator[None]:
    """Convolutions in full float32 and in a fixed order of sums, on GPUs."""
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield


def _tell_once(text: str) -> None:
    if text not in _told:
        _told.add(text)
        _log.warning(text)


def _wants_gpu() -> bool:
    return os.environ.get(DEVICE) == "cuda"


def _has_gpu() -> bool:
    return _installed("torch") and bool(_require_torch().cuda.is_available())


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _require_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            "the engine torch needs PyTorch, which is not installed: pip install "
            "'tomodask[training]' (or use the engine openvino: pip install "
            "'tomodask[segmentation]')"
        ) from error
    return torch
