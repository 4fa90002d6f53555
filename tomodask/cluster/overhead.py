"""Dask's own share of the time, for benchmarks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["DaskTime", "overhead"]


@dataclass
class DaskTime:
    """What `overhead` measured; all in seconds.

    Attributes
    ----------
    wall : float
        Time that passed.
    threads : int
        Threads of all workers.
    work : float
        Time inside tasks, summed over threads.
    transfer : float
        Time that workers moved results to each other or to disk, summed over them.
    tasks : int
        Tasks that ran.
    """

    wall: float = 0.0
    threads: int = 1
    work: float = 0.0
    transfer: float = 0.0
    tasks: int = 0

    @property
    def share(self) -> float:
        """Part of the workers' time that was not spent in tasks: Dask's time and idle time."""
        paid = self.wall * self.threads
        return max(0.0, 1 - self.work / paid) if paid else 0.0

    def __str__(self) -> str:
        return (
            f"{self.wall:.2f} s on {self.threads} threads, {self.tasks} tasks: "
            f"{100 * self.share:.1f} % outside tasks (Dask and idle)"
        )


@contextlib.contextmanager
def overhead(client: Any) -> Iterator[DaskTime]:
    """Measure how much of the time of what runs inside is not the tasks' own.

    Parameters
    ----------
    client : distributed.Client or None
        What `connect` gave; None measures Dask's schedulers in this process.

    Yields
    ------
    DaskTime
        Filled when the block ends.  The share is an upper bound of Dask's own time: waiting for
        the last worker counts too.

    Examples
    --------
    >>> import dask
    >>> with overhead(None) as spent, dask.config.set(scheduler="synchronous"):
    ...     _ = dask.delayed(time.sleep)(0.05).compute()
    >>> spent.tasks
    1
    """
    spent = DaskTime()
    if client is None:
        with _tasks_here(spent):
            yield spent
        return

    def durations(dask_scheduler: Any) -> dict[str, float]:
        """Sum what the scheduler knows of all tasks so far.  Local, so sent by value."""
        sums = {"compute": 0.0, "other": 0.0, "tasks": 0.0}
        for prefix in dask_scheduler.task_prefixes.values():
            for action, seconds in prefix.all_durations.items():
                sums["compute" if action == "compute" else "other"] += seconds
            sums["tasks"] += prefix.state_counts["memory"]
        return sums

    spent.threads = sum(client.nthreads().values())
    before = client.run_on_scheduler(durations)
    began = time.perf_counter()
    yield spent
    spent.wall = time.perf_counter() - began
    after = client.run_on_scheduler(durations)
    spent.work = after["compute"] - before["compute"]
    spent.transfer = after["other"] - before["other"]
    spent.tasks = int(after["tasks"] - before["tasks"])


@contextlib.contextmanager
def _tasks_here(spent: DaskTime) -> Iterator[None]:
    from dask.callbacks import Callback

    begun: dict[Any, float] = {}

    def begin(key: Any, *_: Any) -> None:
        begun[key] = time.perf_counter()

    def end(key: Any, *_: Any) -> None:
        spent.work += time.perf_counter() - begun.pop(key)
        spent.tasks += 1

    began = time.perf_counter()
    with Callback(pretask=begin, posttask=end):
        yield
    spent.wall = time.perf_counter() - began
