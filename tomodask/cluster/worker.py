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
    """Tells a worker that kernels which can shall work on its GPU."""

    def setup(self, worker: object) -> None:
        """Set what `tomodask.arrays.backend.on_device` looks at."""
        os.environ[DEVICE] = "cuda"
