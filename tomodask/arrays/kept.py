"""Arrays that a process has made and will want again, the last used of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

__all__ = ["KeptArrays"]


class KeptArrays:
    """Arrays by a key that says all they depend on, up to a number of bytes.

    Parameters
    ----------
    most : int
        Bytes; what was not used for longest goes first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._arrays)

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a key, made if it is not there.

        Returns
        -------
        array
            Not to be written to: others hold the same.
        """
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        # Two threads may make the same one side by side: no wrong, and none waits for another's.
        made = make()
        with self._lock:
            self._arrays[key] = made
            self._arrays.move_to_end(key)
            while sum(one.nbytes for one in self._arrays.values()) > self._most:
                self._arrays.popitem(last=False)
        return made
