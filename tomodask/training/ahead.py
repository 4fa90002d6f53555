"""Batches made ahead: a thread reads and prepares the next ones while the network steps."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

__all__ = ["made_ahead"]

_T = TypeVar("_T")
_END = object()


def made_ahead(source: Iterable[_T], *, depth: int = 2) -> Generator[_T, None, None]:
    """The same values, in order, `depth` of them made in advance by a thread.

    What the source raises comes out where its value would have.  Left early, the thread ends after
    the value it is at, and the source is closed.

    Examples
    --------
    >>> list(made_ahead(range(4)))
    [0, 1, 2, 3]
    """
    made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(value: Any, error: BaseException | None = None) -> None:
        while not stopped.is_set():
            try:
                made.put((value, error), timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        values = iter(source)
        try:
            for value in values:
                put(value)
                if stopped.is_set():
                    break
            put(_END)
        except BaseException as error:  # also KeyboardInterrupt: the main thread shall hear of it
            put(_END, error)
        finally:
            close = getattr(values, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, name="made-ahead", daemon=True)
    try:
        thread.start()
        while True:
            value, error = made.get()
            if error is not None:
                raise error
            if value is _END:
                return
            yield value
    finally:
        stopped.set()
        if thread.ident is not None:  # not where Ctrl-C came before it began
            thread.join()
