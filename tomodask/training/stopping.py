"""Ctrl-C in a training: noted at once, and heeded between two batches.

Python raises KeyboardInterrupt wherever the main thread is.  Where that is a destructor or the
callback of a weak reference (PyTorch and WeakKeyDictionary have both), the interpreter prints the
exception and drops it: the training would go on as if nothing had been pressed.  A handler that
only notes it cannot lose it, and leaves no epoch's files half told.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

__all__ = ["Stopping"]

_T = TypeVar("_T")


class Stopping:
    """Whether Ctrl-C was pressed while `heard` was open."""

    def __init__(self) -> None:
        self._asked = False

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Note Ctrl-C in this block; the former handler is back after it.

        A second Ctrl-C ends at once.  In another thread than the main one, and where somebody
        else's handler is there or Ctrl-C is ignored (``nohup``), nothing is changed.

        Raises
        ------
        KeyboardInterrupt
            At the end of the block, if Ctrl-C was pressed and nobody looked after it.
        """
        self._asked = False
        if (
            threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        ):
            yield
            return
        signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.look()

    def look(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self._asked:
            raise KeyboardInterrupt

    def seen(self, batches: Iterable[_T]) -> Iterator[_T]:
        """The same batches; before each of them is looked whether to stop."""
        for batch in batches:
            self.look()
            yield batch
        self.look()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            signal.default_int_handler(number, frame)
        self._asked = True
