"""Memory that runs out: libraries say it in many ways, and often less at once helps."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from typing import TypeVar

from tomodask.errors import InputError

__all__ = ["is_out_of_memory", "keep_freed_memory", "run_in_parts"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of malloc.h; the last is at most 32 MB


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch or OpenVINO means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        sign in text
        for sign in ("out of memory", "bad_alloc", "bad alloc", "allocat", "not enough mem")
    )


def keep_freed_memory() -> None:
    """Let this process keep what a step of training frees for the next one, up to 1 GB.

    The C library would give each large tensor's memory back to the system, which clears every page
    of it before the next tensor gets it, a good part of a step on a CPU.  Does nothing where it is
    not glibc, or where the environment says already how memory is to be kept.
    """
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & set(os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for option, size in (
        (_TRIM_THRESHOLD, 1 << 30),
        (_TOP_PAD, 64 << 20),
        (_MMAP_THRESHOLD, 32 << 20),
    ):
        mallopt(option, size)


def run_in_parts(
    run: Callable[[int], _T],
    count: int,
    part: int | None,
    *,
    what: str,
    too_large: str,
    release: Callable[[], None],
) -> tuple[_T, int | None]:
    """Run a step with as many crops at once as memory holds.

    Parameters
    ----------
    run : callable
        Gets how many may pass at once.
    count : int
        Of the batch.
    part : int or None
        What passed at once so far; None: all.
    what : str
        Of which there are so many, for the log.
    too_large : str
        The message where not even one fits.
    release : callable
        Called after memory ran out, before the next try.

    Returns
    -------
    result of `run`, and `part` for the next step
    """
    while True:
        now = count if part is None else min(part, count)
        try:
            return run(now), part
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if now == 1:
                raise InputError(too_large) from error
            part = now // 2
        # Outside of the handler, which would keep the failed step's tensors alive.
        _log.warning(
            f"out of memory with %d {what} at once: going on with %d, their gradients summed",
            now,
            part,
        )
        release()
