"""One word says where work runs: this machine, its GPUs, SLURM, or a scheduler that is there."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tomodask.errors import InputError

__all__ = ["connect"]

_log = logging.getLogger(__name__)

_TRIM, _DASKS_TRIM = "MALLOC_TRIM_THRESHOLD_", "65536"
#: A worker works on one particle or block at a time: threads inside a kernel would only fight.
ONE_THREAD = {
    # glibc's own upper bounds.  Under Dask's 64 KiB, which also keeps mapping every array anew, a
    # worker that aligns small boxes spends two fifths of its time on pages it has just returned.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    _TRIM: str(64 << 20),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",  # Dask sets the others, not this one
}
DASHBOARD = "127.0.0.1:8787"
#: Share of the machine's memory that workers may fill; the rest is for this process.
MEMORY_SHARE = 0.9
SECONDS_TO_ANSWER = 5


@contextlib.contextmanager
def connect(
    scheduler: str | None = None,
    *,
    workers: int | None = None,
    memory: str | None = None,
    config: str | Path | None = None,
) -> Iterator[Any]:
    """Open the place where work runs, as a context manager.

    Parameters
    ----------
    scheduler : str, optional
        Nothing for a local cluster of this machine's cores and memory; ``tcp://host:port`` or
        ``tls://host:port`` for a Dask scheduler that runs already; ``cuda`` for one worker per GPU
        of this machine (extra ``tomodask[cuda]``), of which a part of the work makes use;
        ``slurm`` for jobs of a SLURM cluster (extra
        ``tomodask[slurm]``); ``synchronous`` for this very process, which needs no cluster.
    workers : int, optional
        Number of workers, each one process with one thread.  Default: one per core (local), per
        GPU (cuda), 1 job (slurm).  A running scheduler has its own.
    memory : str, optional
        Memory of *each* worker, e.g. ``4GiB``.  Default: 90 % of this machine's memory (of its
        control group, where one is set), shared evenly.
    config : path, optional
        TOML file; its table ``[slurm]`` holds the options of ``dask_jobqueue.SLURMCluster``.

    Yields
    ------
    distributed.Client or None
        The client, which `compute` finds by itself; None with ``synchronous``.

    Raises
    ------
    InputError
        If `scheduler` is not one of the above, does not answer, or lacks its package, GPU or
        options.

    Examples
    --------
    >>> with connect("synchronous") as client:
    ...     print(client)
    None
    """
    _check(scheduler, workers, memory, config)
    with contextlib.ExitStack() as stack:
        if scheduler == "synchronous":
            import dask

            stack.enter_context(dask.config.set(scheduler="synchronous"))
            yield None
            return
        stack.enter_context(_quiet())
        if scheduler is None:
            client = _local(stack, workers, memory)
        elif scheduler == "cuda":
            client = _cuda(stack, workers, memory)
            from tomodask.cluster.worker import OnGpu

            client.register_plugin(OnGpu())
            _log.warning(
                "scheduler 'cuda': projection, back-projection, find_centers and the search and "
                "Fourier refinement of align compute on the GPU; matching, averages and the "
                "methods mbgd and lm run on the processor, on one worker for each GPU: leave "
                "scheduler out to use all cores for those"
            )
        elif scheduler == "slurm":
            client = _slurm(stack, workers, memory, _slurm_options(config))
        else:
            client = _running(stack, scheduler)
        print(f"dashboard: {client.dashboard_link}", file=sys.stderr, flush=True)
        yield client


def _check(
    scheduler: str | None, workers: int | None, memory: str | None, config: str | Path | None
) -> None:
    from dask.utils import parse_bytes

    words = ("cuda", "slurm", "synchronous")
    running = scheduler is not None and scheduler.startswith(("tcp://", "tls://"))
    if scheduler is not None and not running and scheduler not in words:
        raise InputError(
            f"scheduler must be one of {', '.join(words)}, tcp://HOST:PORT or tls://HOST:PORT, got "
            f"{scheduler!r}; leave it out for this machine's cores"
        )
    if workers is not None and workers < 1:
        raise InputError(
            f"workers must be at least 1, got {workers}; leave it out for one per core"
        )
    if (running or scheduler == "synchronous") and (workers is not None or memory is not None):
        raise InputError(
            f"workers and memory cannot be set with scheduler {scheduler!r}, got {workers=}, "
            f"{memory=}; leave them out"
        )
    if memory is not None:
        try:
            enough = parse_bytes(memory) >= 64 * 2**20
        except ValueError:
            enough = False
        if not enough:
            raise InputError(
                f"memory must be at least 64MiB for each worker, got {memory!r}; write it as 4GiB"
            )
    if config is not None and scheduler != "slurm":
        raise InputError(
            f"config {str(config)!r} is read with scheduler 'slurm' alone, got "
            f"{scheduler!r}; leave it out"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let Dask speak of failures alone; a worker that dies and comes back is none."""
    import distributed  # its import sets the level

    logger = logging.getLogger(distributed.__name__)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        # The printed address tells which port the dashboard has.
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        # The few boxes of a first map go with their graph on purpose.
        warnings.filterwarnings("ignore", message="Sending large graph")
        try:
            yield
        finally:
            logger.setLevel(before)


def _local(stack: contextlib.ExitStack, workers: int | None, memory: str | None) -> Any:
    from dask.system import CPU_COUNT
    from dask.utils import parse_bytes
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT  # knows control groups and rlimits

    workers = workers or CPU_COUNT
    each = parse_bytes(memory) if memory else int(MEMORY_SHARE * MEMORY_LIMIT / workers)
    stack.enter_context(_settings())
    cluster = stack.enter_context(
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=each,
            dashboard_address=DASHBOARD,
            local_directory=_scratch(stack),
            silence_logs=logging.CRITICAL,
        )
    )
    return stack.enter_context(Client(cluster))


def _running(stack: contextlib.ExitStack, scheduler: str) -> Any:
    from distributed import Client

    advice = "see that `dask scheduler` runs there, or leave scheduler out for this machine's cores"
    try:
        client = stack.enter_context(Client(scheduler, timeout=SECONDS_TO_ANSWER))
    except (OSError, TimeoutError) as error:
        raise InputError(
            f"no Dask scheduler answers at {scheduler!r} within {SECONDS_TO_ANSWER} s; {advice}"
        ) from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"scheduler {scheduler!r} cannot be used ({error}); {advice}") from error

    def knows_tomodask() -> bool:  # local, so sent by value: the worker need not look it up
        return importlib.util.find_spec("tomodask") is not None

    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        print(
            f"the scheduler at {scheduler} has no workers yet: work waits for one, start it with "
            f"`dask worker {scheduler} --nthreads 1`",
            file=sys.stderr,
        )
    elif not all(client.run(knows_tomodask).values()):
        raise InputError(
            f"workers of scheduler {scheduler!r} cannot import tomodask; install it in their "
            "environment, in the same version as here"
        )
    return client


def _cuda(stack: contextlib.ExitStack, workers: int | None, memory: str | None) -> Any:
    from distributed import Client

    _need("dask_cuda", "cuda")
    from dask_cuda import LocalCUDACluster

    options: dict[str, Any] = {"dashboard_address": DASHBOARD, "silence_logs": logging.CRITICAL}
    if workers is not None:
        options["n_workers"] = workers
    if memory is not None:
        options["memory_limit"] = memory
    stack.enter_context(_settings())
    try:
        cluster = LocalCUDACluster(local_directory=_scratch(stack), **options)
    except Exception as error:  # NVML raises its own kinds, and ValueError where there is no GPU
        raise InputError(
            "scheduler 'cuda' needs an NVIDIA GPU and its driver on this machine, got "
            f"{type(error).__name__} ({error}); leave scheduler out to work on its cores"
        ) from error
    return stack.enter_context(Client(stack.enter_context(cluster)))


def _slurm(
    stack: contextlib.ExitStack, workers: int | None, memory: str | None, options: dict[str, Any]
) -> Any:
    from distributed import Client

    _need("dask_jobqueue", "slurm")
    # At its import it makes Ctrl-C end the whole process, a notebook's kernel too.
    before = signal.getsignal(signal.SIGINT)
    from dask_jobqueue import SLURMCluster

    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGINT, before)
    if shutil.which("sbatch") is None:
        raise InputError(
            "scheduler 'slurm' needs the command sbatch, which is not found on PATH; start "
            "tomodask on a login node, or leave scheduler out for this machine's cores"
        )
    # One job is one worker with one thread, unless the file says otherwise.
    options = {"cores": 1, "processes": 1, "log_directory": "slurm-logs", **options}
    if memory is not None:
        options["memory"] = memory
    exports = [f"export {name}={value}" for name, value in ONE_THREAD.items()]
    options["job_script_prologue"] = exports + list(options.get("job_script_prologue", []))
    jobs = workers or options.pop("jobs", 1)
    options.pop("jobs", None)
    stack.enter_context(_settings())
    try:
        cluster = SLURMCluster(**options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"dask-jobqueue refuses the options [slurm] of the config file ({error}); mend them"
        ) from error
    cluster = stack.enter_context(cluster)
    cluster.scale(jobs=jobs)
    print(f"{jobs} SLURM jobs asked for; work begins when the first one runs", file=sys.stderr)
    return stack.enter_context(Client(cluster))


def _slurm_options(config: str | Path | None) -> dict[str, Any]:
    if config is None:
        raise InputError(
            "scheduler 'slurm' needs config, a TOML file with a table [slurm], got none; give one "
            'with at least memory = "4GiB" and walltime = "02:00:00" in it'
        )
    path = Path(config)
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(
            f"config {str(path)!r} cannot be read ({error.strerror}); give a TOML file with a "
            "table [slurm]"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"config {str(path)!r} is not TOML ({error}); mend it") from error
    options = tables.get("slurm")
    if not isinstance(options, dict):
        raise InputError(
            f"config {str(path)!r} has no table [slurm], only {sorted(tables)}; add one with the "
            "options of dask_jobqueue.SLURMCluster"
        )
    return options


def _settings() -> Any:
    """Dask's settings for clusters that tomodask itself starts."""
    import dask

    # Dask leaves what it tells its workers in this process's environment, where it would come
    # before what is told here: its own bound, of an earlier cluster, is nobody's wish.
    if os.environ.get(_TRIM) == _DASKS_TRIM:
        del os.environ[_TRIM]
    preload = [*dask.config.get("distributed.worker.preload", []), "tomodask.cluster.worker"]
    return dask.config.set(
        {
            "distributed.nanny.pre-spawn-environ": ONE_THREAD,
            # Dask looks at what each process does a hundred times a second, for the dashboard,
            # and at its event loop fifty times, which costs each core some of its time.
            "distributed.worker.profile.interval": "100ms",
            "distributed.admin.tick.interval": "200ms",
            "distributed.admin.system-monitor.interval": "2s",
            # Ctrl-C reaches every process of a terminal; this process alone answers it.
            "distributed.worker.preload": preload,
        }
    )


def _scratch(stack: contextlib.ExitStack) -> str:
    """Make a folder for what workers spill, gone when the work ends."""
    folder = tempfile.mkdtemp(prefix="tomodask-")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _need(module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise InputError(
            f"scheduler {extra!r} needs the package {module.replace('_', '-')}, which is not "
            f"installed; install it with `pip install 'tomodask[{extra}]'`"
        )
