"""A particle a thread: the matrix product of one particle does not start threads of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController

__all__ = ["one_thread_each"]


class _Keeper:
    """Holds the limit, which is the process's, from the first task that comes to the last to go.

    A thread of its own sets it and puts it back: most builds of OpenBLAS obey the thread that came
    first, and were each task to do it, the first to end would take the limit from those still at
    work, whose products then have other bits, and the last would leave it for good.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tasks = 0
        self.thread: threading.Thread | None = None
        self.set, self.done = threading.Event(), threading.Event()
        self.libraries: ThreadpoolController

    def hold(self, set_: threading.Event, done: threading.Event) -> None:
        # Looking for libraries calls back from C, where a Ctrl-C would be lost: not in a task.
        self.libraries = ThreadpoolController()
        with self.libraries.limit(limits=1):
            set_.set()
            done.wait()

    def come(self) -> None:
        with self.lock:
            if self.tasks == 0:
                self.set, self.done = threading.Event(), threading.Event()
                self.thread = threading.Thread(
                    target=self.hold, args=(self.set, self.done), daemon=True
                )
                self.thread.start()
                self.set.wait()
            self.tasks += 1

    def go(self) -> None:
        with self.lock:
            self.tasks -= 1
            if self.tasks == 0 and self.thread is not None:
                self.done.set()
                self.thread.join()


_keeper = _Keeper()


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Hold BLAS to one thread while any task of this process is within."""
    _keeper.come()
    try:
        with _keeper.libraries.limit(
            limits=1
        ):  # where each thread has a limit of its own, as under OpenMP
            yield
    finally:
        _keeper.go()
