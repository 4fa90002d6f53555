"""Independent tasks, each told as it ends: long ones whose results are kept one by one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import dask

from tomodask.cluster.computing import LAST_LOOK, active_client, taking_back
from tomodask.cluster.progress import show_progress

__all__ = ["completed", "workers_at_hand"]


def workers_at_hand() -> int:
    """Threads of the cluster that Dask would use; 1 where work runs in this process."""
    client = active_client()
    return 1 if client is None else max(1, sum(client.ncores().values()))


def completed(
    tasks: Iterable[tuple[Any, Any]], *, count: int, label: str
) -> Iterator[tuple[Any, Any]]:
    """Compute tasks side by side and yield each result as soon as it is there.

    Runs where `tomodask.compute` does; a task that is begun first is begun first on the workers
    too.  What is yielded may be kept before the next: a job that is killed loses the tasks at work,
    no more.

    Parameters
    ----------
    tasks : iterable of (key, Delayed)
        Taken from as workers get free.
    count : int
        How many there are, for the bar.
    label : str
        Of the bar.

    Yields
    ------
    key, result
        In the order in which they end.

    Raises
    ------
    InputError
        As `tomodask.compute`.  What a task raises comes out as it is, and ends the others.

    Examples
    --------
    >>> with dask.config.set(scheduler="synchronous"):
    ...     dict(completed([("a", dask.delayed(abs)(-1))], count=1, label="absolute"))
    {'a': 1}
    """
    client = active_client()
    with show_progress(label, passing=True) as progress:
        progress.update(0, count)
        if client is None:
            for done, (key, task) in enumerate(tasks, 1):
                (result,) = dask.compute(task)
                yield key, result
                progress.update(done, count)
            return
        futures: list[Any] = []
        keys: dict[Any, Any] = {}
        # None lies ready: it could get to lie behind a long one while another worker is idle.
        most = workers_at_hand()
        left, more, done = iter(tasks), True, 0
        with taking_back(client, futures):
            while more or futures:
                while more and len(futures) < most:
                    given = next(left, None)
                    if given is None:
                        more = False
                        break
                    future = client.compute(given[1])
                    futures.append(future)
                    keys[future] = given[0]
                ended = [future for future in futures if future.status != "pending"]
                for future in ended:
                    result = future.result()  # raises what happened
                    futures.remove(future)
                    done += 1
                    yield keys.pop(future), result
                    progress.update(done, count)
                if not ended:
                    time.sleep(LAST_LOOK)  # not futures' own wait: open to Ctrl-C
