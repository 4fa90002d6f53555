"""What a worker process of a cluster that tomodask starts does before its first task."""

from __future__ import annotations

import os
import signal
import threading

from distributed import WorkerPlugin

from tomodask.arrays.backend import DEVICE

__all__ = ["OnGpu", "dask_setup"]


def dask_setup(worker: object) -> None:
    """Leave Ctrl-C to the process that gave the work; it stops the workers."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class OnGpu(WorkerPlugin):  # type: ignore[misc]
    """Tells a worker that has a GPU that kernels which can shall work on it."""

    def setup(self, worker: object) -> None:
        """Set what `tomodask.arrays.backend.on_device` looks at."""
        try:
            import cupy
        except ImportError:
            return
        if cupy.cuda.is_available():  # CuPy is imported without a GPU, too
            os.environ[DEVICE] = "cuda"

    def teardown(self, worker: object) -> None:
        """Take it back: the process may live on."""
        os.environ.pop(DEVICE, None)
