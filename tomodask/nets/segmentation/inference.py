"""Engines that run a trained network on tiles: OpenVINO or PyTorch on CPUs, PyTorch on GPUs.

An engine is compiled for one shape of tiles.  What is compiled stays in the process for the next
task, for each thread that works at the same time.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomodask.errors import InputError
from tomodask.nets.engines import (
    EngineName,
    check_options,
    chosen_engine,
    exact_gpu,
    require_engine,
    require_torch,
    torch_threads,
)
from tomodask.nets.memory import is_out_of_memory
from tomodask.nets.openvino_layers import compiled
from tomodask.nets.precision import Precision
from tomodask.nets.segmentation.architecture import Architecture
from tomodask.nets.segmentation.model_file import PickingModel
from tomodask.nets.segmentation.openvino_graph import build_graph, check_shape

__all__ = ["Engine", "forget_engines", "open_engine", "tile_limit"]

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


_digests: dict[int, tuple[Any, str]] = {}


def _digest(model: PickingModel) -> str:
    """Digest of a model, worked out once: it reads all of the weights."""
    known = _digests.get(id(model))
    if known is None or known[0]() is not model:
        for key in [key for key, (alive, _) in list(_digests.items()) if alive() is None]:
            _digests.pop(key, None)
        known = _digests[id(model)] = weakref.ref(model), model.digest
    return known[1]


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
    torch = require_torch()
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


def _tell_once(text: str) -> None:
    if text not in _told:
        _told.add(text)
        _log.warning(text)
