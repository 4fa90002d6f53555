"""Shared data, commands, draws and killed runs that tests of several rooms use."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import hypothesis.strategies as st
import pytest


def shared_data(*parts: str) -> Path:
    """A file of the data beside the project; the test is skipped, aloud, where it is missing."""
    root = os.environ.get("TOMODASK_SHARED") or Path(__file__).parents[2] / "shared" / "data"
    path = Path(root, *parts)
    if not path.exists():
        pytest.skip(
            f"needs the real data {'/'.join(parts)}: not found (set TOMODASK_SHARED to its folder)"
        )
    return path


def tomodask(*words: object) -> tuple[int, str, str]:
    """Run a command in this process; (exit code, standard output, standard error)."""
    from click.testing import CliRunner

    from tomodask.cli import main

    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def works(*words: object) -> str:
    """Standard output of a command that ends well."""
    code, out, err = tomodask(*words)
    assert code == 0, err
    assert all(character == "\n" or character.isprintable() for character in out + err)
    return out


@st.composite
def irregular_chunks(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Chunks of a Dask array, cut anywhere."""
    out = []
    for size in shape:
        cuts = draw(st.sets(st.integers(1, size - 1), max_size=4)) if size > 1 else set()
        edges = [0, *sorted(cuts), size]
        out.append(tuple(b - a for a, b in itertools.pairwise(edges)))
    return tuple(out)


def run_killed(script: str, when: Callable[[], bool], *, timeout: float = 60) -> None:
    """Run Python code in a process of its own and kill -9 it as soon as `when` says so.

    The code imports from the folder of the tests, as they do.
    """
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    process = subprocess.Popen([sys.executable, "-c", path + textwrap.dedent(script)])
    try:
        deadline = time.monotonic() + timeout
        while not when():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, f"nothing to kill for after {timeout:g} s"
            time.sleep(0.002)
    finally:
        process.kill()  # SIGKILL: nothing is tidied up
        process.wait()


def stopped_by_ctrl_c(
    words: Iterable[object], when: Callable[[], bool], *, timeout: float = 240
) -> tuple[int, str]:
    """Run a command in a process of its own, Ctrl-C as soon as `when` says so: exit code, stderr.

    A command that ends before is taken as it ends.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tomodask", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + timeout
    while not when() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


# Dies as a file whose path ends with `KILL` is about to appear, or has just appeared.
_DEADLY = """
    import os, signal, sys
    def deadly(rename):
        def renamed(source, target, **kwargs):
            dies = os.fspath(target).endswith(os.environ["KILL"])
            if dies and os.environ["WHEN"] == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target, **kwargs)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return target
        return renamed
    os.rename, os.replace = deadly(os.rename), deadly(os.replace)  # pathlib calls them, too
"""


def killed_at(script: str, arguments: Iterable[object], moments: Iterable[tuple[str, str]]) -> None:
    """Run Python code again and again, each time killed -9 at another file.

    Parameters
    ----------
    script
        Ends by itself; `arguments` are its ``sys.argv[1:]``.
    moments
        The end of the path of a file, and "before" it appears or "after".
    """
    code = textwrap.dedent(_DEADLY) + textwrap.dedent(script)
    for kill, when in moments:
        ended = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, "KILL": kill, "WHEN": when},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == -signal.SIGKILL, (kill, when, ended.stderr)


def told_by_new_process(script: str, cache: Path) -> bytes:
    """What a script prints in a process that finds compiled kernels in the folder `cache` alone."""
    return subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        timeout=600,
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
    ).stdout


class _Swallows:
    """What is raised while it is dropped is printed, and lost, by the interpreter."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def ctrl_c_where_it_is_lost() -> None:
    """Ctrl-C in a destructor, where Python's own handler raises for nobody."""
    _Swallows()
