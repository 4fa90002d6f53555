"""Where work runs: every place gives the same, dead workers and Ctrl-C do not matter."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest

from tomodask.cluster import compute, connect, connecting, overhead
from tomodask.cluster.progress import PlainLines, TerminalBar, show_progress
from tomodask.errors import InputError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def wait_and_return(value, seconds=0.02):
    time.sleep(seconds)
    return value


def refuse(message):
    raise InputError(message)


def environment():
    return {name: os.environ.get(name) for name in THREADS}


def total(count, seconds=0.02):
    """Sum of 0 … count - 1, each from a task of its own."""
    parts = [dask.delayed(wait_and_return)(i, seconds) for i in range(count)]
    return dask.delayed(sum)(parts)


@pytest.fixture(scope="module")
def client():
    # As a cluster of Dask's own leaves it.
    os.environ["MALLOC_TRIM_THRESHOLD_"] = "65536"
    with connect(workers=2, memory="512MiB") as client:
        yield client


def test_local_workers_have_one_thread_each(client):
    assert list(client.nthreads().values()) == [1, 1]
    assert list(client.run(environment).values()) == [dict.fromkeys(THREADS, "1")] * 2


def test_workers_keep_the_pages_of_arrays_that_come_and_go(client):
    """Measured in a process of its own: in a worker other threads come to need pages meanwhile."""
    bounds = {
        name: value for name, value in connecting.ONE_THREAD.items() if name.startswith("MALLOC_")
    }
    assert len(bounds) == 2
    told = client.run(lambda names: {name: os.environ.get(name) for name in names}, list(bounds))
    assert list(told.values()) == [bounds] * 2
    count = (
        "import resource, numpy as np\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "before = faults()\n"
        "for _ in range(50): np.ones(1 << 18)\n"  # 2 MiB, 512 pages
        "print(faults() - before)"
    )
    dask_s = dict.fromkeys(bounds, "65536")
    ours, theirs = (
        int(subprocess.check_output([sys.executable, "-c", count], env={**os.environ, **change}))
        for change in (bounds, dask_s)
    )
    assert ours < 50 * 512 / 2 < theirs


def test_every_place_gives_the_same(client):
    x = da.random.default_rng(0).normal(size=(40, 30), chunks=(7, 11))
    there = compute([x, x.sum(), dask.delayed(len)("four")], label="there")
    with connect(client.scheduler.address) as second:
        assert second.scheduler.address == client.scheduler.address
        again = compute([x, x.sum(), dask.delayed(len)("four")], label="again")
    with connect("synchronous") as nothing:
        assert nothing is None
        here = compute([x, x.sum(), dask.delayed(len)("four")], label="here")
    for results in (there, again):
        np.testing.assert_array_equal(results[0], here[0])
        assert results[1:] == here[1:]
    assert here[2] == 4


def test_a_list_gives_a_list_and_one_gives_one(client):
    assert compute([total(3, 0)], label="one") == [3]
    assert compute(total(3, 0), label="one") == 3
    assert compute([], label="none") == []


def test_progress_counts_tasks_not_futures(client, capsys):
    compute(total(100, 0.03), label="search")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "search: started"
    assert lines[-1].startswith("search: done (101 of 101 tasks, ")
    assert 3 <= len(lines) <= 12  # about 1.5 s on two workers, not more than a line a second
    assert all(" of 101 tasks" in line for line in lines[1:])


@pytest.mark.parametrize("where", ["synchronous", "cluster"])
def test_what_a_task_raises_comes_out_as_it_is(request, capsys, where):
    if where == "cluster":
        request.getfixturevalue("client")
    config = {} if where == "cluster" else {"scheduler": "synchronous"}
    tasks = [dask.delayed(refuse)("file.mrc is empty; get it again"), total(100)]
    began = time.monotonic()
    with dask.config.set(config), pytest.raises(InputError, match=r"^file.mrc is empty; get it"):
        compute(tasks, label="match")
    assert time.monotonic() - began < 1.5 or where == "synchronous"  # the rest is not waited for
    assert "match: stopped" in capsys.readouterr().err


def test_a_killed_worker_costs_nothing_but_time(client):
    victim = next(iter(client.run(os.getpid).values()))
    timer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
    timer.start()
    assert compute(total(60, 0.03), label="refine") == sum(range(60))
    timer.join()
    client.wait_for_workers(2, timeout=20)


def test_a_task_that_kills_every_worker_is_told_of(client):
    kill = dask.delayed(lambda: os.kill(os.getpid(), signal.SIGKILL))()
    with pytest.raises(InputError, match=r"ended 4 workers .* give each worker more with memory"):
        compute(kill, label="refine")
    client.wait_for_workers(2, timeout=20)


def test_a_second_cluster_has_its_own_dashboard_and_folder(client, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with connect(workers=1, memory="256MiB") as second:
        assert second.dashboard_link != client.dashboard_link
        assert f"dashboard: {second.dashboard_link}\n" in capsys.readouterr().err
        (folder,) = tmp_path.glob("tomodask-*")
        assert any(folder.iterdir())
        assert compute(total(2, 0), label="second") == 1
    assert not folder.exists()
    assert compute(total(3, 0), label="first") == 3


def test_overhead_tells_work_from_the_rest(client):
    with overhead(client) as spent:
        compute(total(40, 0.05), label="search")
    assert spent.tasks == 41
    assert spent.threads == 2
    assert spent.work == pytest.approx(2.0, rel=0.1)
    assert spent.share == pytest.approx(1 - spent.work / (2 * spent.wall))
    with overhead(None) as here, connect("synchronous"):
        compute(total(4, 0.05), label="search")
        time.sleep(0.2)
    assert (here.tasks, here.threads) == (5, 1)
    assert here.share == pytest.approx(0.5, abs=0.15)


def test_a_client_that_is_there_yields_to_the_configured_scheduler(client):
    with dask.config.set(scheduler="synchronous"):
        assert compute(dask.delayed(os.getpid)(), label="here") == os.getpid()
    assert compute(dask.delayed(os.getpid)(), label="there") != os.getpid()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheduler": "laptop"}, r"scheduler must be one of cuda, slurm, .* got 'laptop'"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"memory": "much"}, r"memory must be at least 64MiB .* got 'much'; write it as 4GiB"),
        ({"memory": "3kB"}, "memory must be at least 64MiB"),
        ({"scheduler": "tcp://a:1", "workers": 3}, r"workers and memory cannot be set .*workers=3"),
        ({"config": "my.toml"}, "config 'my.toml' is read with scheduler 'slurm' alone"),
        ({"scheduler": "tcp://nowhere"}, "scheduler 'tcp://nowhere' cannot be used"),
        ({"scheduler": "slurm"}, r"needs config, a TOML file with a table \[slurm\], got none"),
        ({"scheduler": "slurm", "config": "no.toml"}, "config 'no.toml' cannot be read"),
    ],
)
def test_wrong_places_are_refused(arguments, message):
    with pytest.raises(InputError, match=message), connect(**arguments):
        pass


def test_a_scheduler_that_does_not_answer_is_told_of_soon(monkeypatch):
    monkeypatch.setattr(connecting, "SECONDS_TO_ANSWER", 1)
    began = time.monotonic()
    with (
        pytest.raises(InputError, match=r"no Dask scheduler answers at 'tcp://127.0.0.1:9' within"),
        connect("tcp://127.0.0.1:9"),
    ):
        pass
    assert time.monotonic() - began < 4


def test_cuda_without_package_or_gpu_is_refused():
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU: that it is missing cannot be tested")
    with (
        pytest.raises(InputError, match=r"tomodask\[cuda\]|needs an NVIDIA GPU"),
        connect("cuda"),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[slurm", r"is not TOML"),
        ("[local]\n", r"has no table \[slurm\], only \['local'\]"),
        ("[slurm]\ncores = 1\n", r"sbatch|tomodask\[slurm\]"),
    ],
)
def test_wrong_slurm_options_are_refused(tmp_path, monkeypatch, text, message):
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=message), connect("slurm", config=file):
        pass


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with an ``sbatch`` that runs its job at once, on this machine."""
    before = signal.getsignal(signal.SIGINT)
    pytest.importorskip("dask_jobqueue", reason="needs the extra tomodask[slurm]")
    signal.signal(signal.SIGINT, before)  # its import changes it, for all tests that follow
    scripts = {
        "sbatch": 'bash job.sh >job.log 2>&1 & echo "Submitted batch job $!"',
        "scancel": 'kill "$@"',
    }
    for name, text in scripts.items():
        file = tmp_path / name
        file.write_text(f'#!/bin/bash\ncp "$1" {tmp_path}/job.sh 2>/dev/null\n{text}\n')
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_slurm_jobs_are_workers(slurm):
    file = slurm / "cluster.toml"
    file.write_text(
        '[slurm]\nqueue = "short"\nmemory = "1GiB"\njob_extra_directives = ["--nice=7"]\n'
    )
    with connect("slurm", config=file, workers=1):
        assert compute(dask.delayed(environment)(), label="there") == dict.fromkeys(THREADS, "1")
        assert compute(total(5, 0), label="there") == 10
    job = (slurm / "job.sh").read_text()
    assert "#SBATCH -p short" in job
    assert "#SBATCH --nice=7" in job


def test_slurm_leaves_ctrl_c_as_it_was(slurm):
    """dask-jobqueue's import makes it end the process, and with it a notebook's kernel."""
    for name in [one for one in sys.modules if one.partition(".")[0] == "dask_jobqueue"]:
        del sys.modules[name]
    before = signal.getsignal(signal.SIGINT)
    file = slurm / "cluster.toml"
    file.write_text('[slurm]\nmemory = "1GiB"\nsharks = 3\n')
    with pytest.raises(InputError, match="sharks"), connect("slurm", config=file):
        pass
    assert signal.getsignal(signal.SIGINT) is before


def test_slurm_refuses_options_that_there_are_not(slurm):
    file = slurm / "cluster.toml"
    file.write_text('[slurm]\nmemory = "1GiB"\nsharks = 3\n')
    with (
        pytest.raises(InputError, match=r"dask-jobqueue refuses the options .*sharks"),
        connect("slurm", config=file),
    ):
        pass


def test_ctrl_c_stops_cleanly(tmp_path):
    """As a terminal does it: the signal goes to every process of the group, workers too."""
    script = tmp_path / "long.py"
    script.write_text(
        textwrap.dedent(
            """
            import time, dask
            from tomodask.cluster import compute, connect

            def wait(i):
                time.sleep(1)
                return i

            if __name__ == "__main__":
                try:
                    with connect(workers=2, memory="256MiB") as client:
                        parts = [dask.delayed(wait)(i) for i in range(20)]
                        compute(dask.delayed(sum)(parts), label="search")
                except KeyboardInterrupt:
                    print("stopped")
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    err = []
    for line in process.stderr:
        err.append(line)
        if "%" in line or len(err) > 20:
            break
    os.killpg(process.pid, signal.SIGINT)
    out, rest = process.communicate(timeout=20)
    assert out == "stopped\n"
    assert process.returncode == 0
    assert "Traceback" not in rest
    assert rest.splitlines()[-1].startswith("search: stopped (")
    assert not list(tmp_path.glob("tomodask-*"))
    time.sleep(0.2)
    assert not running_in_group(process.pid), "workers outlive the command"


def running_in_group(group):
    """Processes of a group that are not dead, on Linux."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = file.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(its_group) == group and state != "Z":
            found.append(file.parent.name)
    return found


def test_plain_lines_have_no_control_characters(capsys, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: 2.0 * next(clock))
    with show_progress("search") as progress:
        assert isinstance(progress, PlainLines)
        for finished in range(201):
            progress.update(finished, 200)
    out, err = capsys.readouterr()
    assert out == ""
    assert all(character == "\n" or character.isprintable() for character in err)
    lines = err.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "search: started",
        *(f"search: {percent} %" for percent in range(10, 100, 10)),
        "search: done",
    ]


def test_a_log_hears_of_passing_steps_only_where_they_are_long(capsys, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: 2.0 * next(clock))
    with show_progress("short", passing=True) as progress:
        progress.update(1, 200)
        progress.update(199, 200)
    assert capsys.readouterr().err == ""
    with show_progress("long", passing=True) as progress:
        for finished in range(101):
            progress.update(finished, 200)
    lines = [line.split(" (")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines[0].endswith(" %")
    assert lines[1:] == [*(f"long: {percent} %" for percent in range(10, 60, 10)), "long: done"]


def test_a_terminal_keeps_no_bar_of_a_passing_step(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert show_progress("step", passing=True).bar.live.transient
    assert not show_progress("search").bar.live.transient


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = show_progress("search")
    assert isinstance(progress, TerminalBar)
    with progress:
        progress.update(3, 4)
        assert progress.bar.tasks[0].percentage == 75


@pytest.mark.parametrize("there", [True, False])
def test_a_worker_is_told_to_use_its_gpu(monkeypatch, there):
    import types

    from distributed import Client

    from tomodask.arrays.backend import DEVICE
    from tomodask.cluster.worker import OnGpu

    card = types.SimpleNamespace(is_available=lambda: there)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=card))
    monkeypatch.delenv(DEVICE, raising=False)
    with Client(processes=False, n_workers=1, dashboard_address=None) as client:
        client.register_plugin(OnGpu())
        assert os.environ.get(DEVICE) == ("cuda" if there else None)
    assert DEVICE not in os.environ
