"""Which engine runs a trained network in this process, and with what options: any network.

OpenVINO or PyTorch on CPUs, PyTorch on GPUs.  What an engine makes of a network is with that
network (`tomodask.nets.segmentation.inference`, `tomodask.nets.boxes.inference`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Literal, get_args

from tomodask.arrays.backend import DEVICE
from tomodask.errors import InputError
from tomodask.nets.openvino_layers import require_openvino
from tomodask.nets.precision import Precision

__all__ = [
    "EngineName",
    "check_options",
    "chosen_engine",
    "engine_told",
    "exact_gpu",
    "require_engine",
    "require_torch",
    "torch_threads",
]

EngineName = Literal["auto", "openvino", "torch"]


def check_options(*, engine: str, precision: str, threads: int, batch: int | None) -> None:
    """Refuse options that no engine knows; loads no engine."""
    for name, value, known in (
        ("engine", engine, get_args(EngineName)),
        ("precision", precision, get_args(Precision)),
    ):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    for name, number in (("threads", threads), ("batch", 1 if batch is None else batch)):
        if not isinstance(number, int) or number < 1:
            raise InputError(f"{name} must be a whole number of at least 1, got {number!r}")


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
        require_torch()


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
    torch = require_torch()
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


def _wants_gpu() -> bool:
    return os.environ.get(DEVICE) == "cuda"


def _has_gpu() -> bool:
    return _installed("torch") and bool(require_torch().cuda.is_available())


def _installed(name: str) -> bool:
    return find_spec(name) is not None


def require_torch() -> Any:
    """PyTorch, or an InputError that says what to install."""
    try:
        import torch
    except ImportError as error:
        raise InputError(
            "the engine torch needs PyTorch, which is not installed: pip install "
            "'tomodask[training]' (or use the engine openvino: pip install "
            "'tomodask[segmentation]')"
        ) from error
    return torch
