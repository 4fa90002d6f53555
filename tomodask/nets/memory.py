"""Memory that runs out: libraries say it in many ways, and often less at once helps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from tomodask.errors import InputError

__all__ = ["is_out_of_memory", "run_in_parts"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch or OpenVINO means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        sign in text
        for sign in ("out of memory", "bad_alloc", "bad alloc", "allocat", "not enough mem")
    )


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
