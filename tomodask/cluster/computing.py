"""Compute a graph where the user asked for it, showing how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from tomodask.cluster.progress import Progress, show_progress
from tomodask.errors import InputError

__all__ = ["active_client", "compute", "taking_back"]

#: Seconds between two looks at the futures: short work does not wait, long work is not disturbed.
FIRST_LOOK, LAST_LOOK = 0.002, 0.1
#: Seconds after which the scheduler is asked how many tasks there are.
WORTH_COUNTING = 0.2


def compute(collection: Any, *, label: str, passing: bool = False) -> Any:
    """Compute a Dask collection with a progress bar.

    Runs under the active ``distributed.Client`` (which `connect` opens), else with the scheduler
    that Dask is configured for.  Ctrl-C takes back what has not run and raises KeyboardInterrupt.
    A worker that dies costs its tasks a second run, no more.

    Parameters
    ----------
    collection : Dask collection, or a list of them
        Array, bag, delayed value or xarray object.
    label : str
        What the bar says is being done.
    passing : bool
        For a step of longer work that tells of itself: the bar goes when the step is done, and a
        log hears of it only where it takes long.

    Returns
    -------
    The computed value, or a list of them for a list.

    Raises
    ------
    InputError
        If a task ends its worker again and again, as one that runs out of memory does, or if the
        scheduler is gone.  What a task raises comes out as it is.

    Examples
    --------
    >>> import dask
    >>> with dask.config.set(scheduler="synchronous"):
    ...     compute([dask.delayed(abs)(-1), dask.delayed(abs)(2)], label="absolute")
    [1, 2]
    """
    several = isinstance(collection, (list, tuple))
    collections = list(collection) if several else [collection]
    client = active_client()
    with show_progress(label, passing=passing) as progress:
        if client is None:
            results = _compute_here(collections, progress)
        else:
            results = _compute_there(client, collections, progress)
    return results if several else results[0]


def active_client() -> Any:
    """Return the client that Dask would use, or None where work runs in this process."""
    import dask

    configured = dask.config.get("scheduler", None)
    if "distributed" not in sys.modules or configured not in (
        None,
        "distributed",
        "dask.distributed",
    ):
        return None
    from distributed import default_client

    try:
        return default_client()
    except ValueError:  # there is none
        return None


def _compute_here(collections: list[Any], progress: Progress) -> list[Any]:
    import dask
    from dask.callbacks import Callback

    def count(_key: object, _result: object, _graph: object, state: Any, _worker: object) -> None:
        finished = len(state["finished"])
        waits = len(state["waiting"]) + len(state["ready"]) + len(state["running"])
        progress.update(finished, finished + waits)

    with Callback(posttask=count):
        return list(dask.compute(*collections))


def _compute_there(client: Any, collections: list[Any], progress: Progress) -> list[Any]:
    from distributed import Future

    futures = client.compute(collections)
    pending = [future for future in futures if isinstance(future, Future)]
    with taking_back(client, pending):
        with _TaskCounter(client, pending) as counter:
            _wait(pending, counter, progress)
        return list(client.gather(futures))


@contextlib.contextmanager
def taking_back(client: Any, futures: list[Any]) -> Iterator[None]:
    """Cancel futures where their block ends by an error, and tell what the user can mend as such.

    Raises
    ------
    InputError
        If a task ends worker after worker, or the scheduler is gone.
    """
    from distributed import KilledWorker

    try:
        yield
    except KilledWorker as error:
        client.cancel(futures, force=True)
        raise InputError(
            f"the task {error.task!r} ended {error.allowed_failures + 1} workers one after the "
            "other, as running out of memory does; give each worker more with memory, or take fewer"
        ) from error
    except BaseException as error:
        with contextlib.suppress(Exception):
            client.cancel(futures, force=True)
        if client.status != "running" and isinstance(error, Exception):
            raise InputError(
                f"the scheduler at {client.scheduler.address!r} is gone; start it again and repeat "
                "the same command"
            ) from error
        raise


def _wait(pending: list[Any], counter: _TaskCounter, progress: Progress) -> None:
    """Look at the futures until all are done or one failed."""
    look = FIRST_LOOK
    began = time.monotonic()
    while pending:
        if any(future.status in ("error", "cancelled", "lost") for future in pending):
            return  # gather raises what happened
        pending = [future for future in pending if not future.done()]
        if time.monotonic() - began > WORTH_COUNTING:
            counter.start()
        counter.show(progress)
        if pending:
            # Not futures' own wait(): the main thread must stay open to Ctrl-C.
            time.sleep(look)
            look = min(1.5 * look, LAST_LOOK)
    counter.show(progress, finished=True)


class _TaskCounter:
    """Follows the tasks that some futures depend on.

    Counts the tasks of the graph on the scheduler, as Dask's own bars do, since one future may
    stand for thousands of them.  The scheduler needs nothing of tomodask for it.
    """

    def __init__(self, client: Any, futures: list[Any]) -> None:
        self.client = client
        self.futures = futures
        self.counts: dict[str, int] = {}
        self.listening: Any = None

    def __enter__(self) -> _TaskCounter:
        return self

    def start(self) -> None:
        """Begin to listen to the scheduler, the first time that this is called."""
        if self.listening is not None:
            return
        from distributed.diagnostics.progressbar import ProgressBar

        counts = self.counts

        class Counter(ProgressBar):  # type: ignore[misc]
            def _draw_bar(self, remaining: int, all: int, **_: Any) -> None:
                counts.update({"finished": all - remaining, "all": all})

        self.bar = Counter(self.futures, scheduler=self.client.scheduler.address, complete=True)
        loop = self.client.loop.asyncio_loop
        self.listening = asyncio.run_coroutine_threadsafe(self.bar.listen(), loop)

    def show(self, progress: Progress, *, finished: bool = False) -> None:
        """Pass the counts on, where there are some."""
        if self.counts:
            total = self.counts["all"]
            progress.update(total if finished else self.counts["finished"], total)

    def __exit__(self, *_: object) -> None:
        if self.listening is None:
            return
        # A count of futures that are gone would wait for them on the scheduler for ever.
        asked = time.monotonic()
        while not (self.counts or self.listening.done()) and time.monotonic() - asked < 2:
            time.sleep(FIRST_LOOK)
        self.listening.cancel()
        with contextlib.suppress(Exception):  # the bar is no reason to fail
            self.client.loop.add_callback(self.bar.comm.abort)
